"""Files that were written for FastMCP or the official SDK, with nothing changed but their imports."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

FILES = Path(__file__).parents[1] / "fastmcp" / "files"
_IMPORT = re.compile(r"^from (?:fastmcp|mcp\.server\.(?:fastmcp|mcpserver))(?:\.[\w.]+)? import ", re.MULTILINE)


def moved(name: str, folder: Path) -> Path:
    """The file, its imports changed, in `folder`."""
    text, count = _IMPORT.subn("from tailrace.fastmcp import ", (FILES / f"{name}.py").read_text())
    assert count
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def imported(name: str, folder: Path) -> ModuleType:
    """The file as a module, as `moved` has it."""
    path = moved(name, folder)
    module = ModuleType(f"moved_{name}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where type hints are looked up
    exec(compile(path.read_text(), str(path), "exec", dont_inherit=True), module.__dict__)
    return module
