"""The same targets under atheris: coverage of the Python code leads to the next input. Linux, where it is installed."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.engine import LONGEST, Target

__all__ = ["guide"]

_MEASURED = ("tailrace.wire", "tailrace.transports.http", "tailrace.protocols.mcp", "tailrace.schema")


def guide(make: Callable[[], Target], seconds: float, found: Path) -> int:
    """Run one target; libFuzzer prints time, executions and findings, and ends the process."""
    import atheris  # pyright: ignore[reportMissingImports]

    for name, module in list(sys.modules.items()):
        if name.startswith(_MEASURED) and module is not None:
            _instrument(atheris, module)
    target = make()
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        flags = [f"-max_total_time={int(seconds)}", f"-max_len={LONGEST}", f"-artifact_prefix={found}/", "-verbosity=1"]
        atheris.Setup([sys.argv[0], *flags, corpus], target.run)
        atheris.Fuzz()
    return 0


def _instrument(atheris: Any, module: Any) -> None:
    """Its functions and methods, where they stand: other modules may have imported them already."""
    for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
        if owner is not module and owner.__module__ != module.__name__:
            continue
        for value in list(vars(owner).values()):
            function = getattr(value, "__func__", value)
            code = getattr(function, "__code__", None)
            if code is not None and getattr(function, "__module__", "") == module.__name__:
                atheris.instrument_func(function)
    importlib.invalidate_caches()
