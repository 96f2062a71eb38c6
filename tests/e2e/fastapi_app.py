"""The service in the file `TAILRACE_E2E_TARGET`, mounted in a FastAPI application under `/ai`, as users do it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from fastapi import FastAPI

_path = Path(os.environ["TAILRACE_E2E_TARGET"])
sys.path.insert(0, str(_path.parent))
_spec = importlib.util.spec_from_file_location(_path.stem, _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[_path.stem] = _module
_spec.loader.exec_module(_module)

agents = _module.svc.asgi()
app = FastAPI(lifespan=agents.lifespan)


@app.get("/")
def home() -> dict[str, str]:
    return {"hello": "from the application around it"}


app.mount("/ai", agents)
