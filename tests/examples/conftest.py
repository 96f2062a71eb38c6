"""What the tests of the examples share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tailrace import Context

EXAMPLES = Path(__file__).parents[2] / "examples"


class Heard(Context):
    """A context that belongs to no call, and keeps what a caller would have been told."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[float, float | None, str | None]] = []
        self.records: list[tuple[str, Any, str | None]] = []

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self.steps.append((done, total, message))

    async def log(self, level: str, data: Any, logger: str | None = None) -> None:
        self.records.append((level, data, logger))


@pytest.fixture
def ctx() -> Heard:
    return Heard()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import an example afresh, as `tailrace run` would: it reads its settings from the environment then."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    names: list[str] = []

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        names.append(spec.name)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        sys.modules.pop(name, None)
