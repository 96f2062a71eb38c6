"""Imports point down and siblings never meet; each contract of pyproject.toml is seen to bite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package below `root`, as `make check` does."""
    program = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """This package and its contracts, to plant a wrong import in."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("core/tasks.py", "from tailrace.service import Service", "Layers point down"),
        ("core/tasks.py", "import tailrace.wire.sse", "Layers point down"),
        ("wire/sse.py", "import tailrace.core.ports", "Layers point down"),
        ("stores/memory.py", "import tailrace.transports.asgi", "Layers point down"),
        ("service/__init__.py", "import tailrace.protocols.mcp", "Layers point down"),
        ("newcomer.py", "", "Layers point down"),
        ("wire/mcp.py", "import time", "The wire knows no clock"),
        ("wire/jsonrpc.py", "import asyncio", "The wire knows no clock"),
        ("core/session.py", "import sqlite3", "The core knows no transport"),
        ("protocols/connect/__init__.py", "import tailrace.protocols.mcp", "MCP and Connect never meet"),
    ],
)
def test_a_wrong_import_breaks_its_contract(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / "src/tailrace" / file
    if line and "connect" not in file:
        assert path.is_file()
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as source:
        source.write(f"\n{line}\n")
    result = lint_imports(copy)
    assert result.returncode != 0, result.stdout
    broken = [text for text in result.stdout.splitlines() if contract in text and "BROKEN" in text]
    if file == "newcomer.py":  # a room without a layer: the contract cannot be judged at all
        assert "newcomer" in result.stdout + result.stderr
    else:
        assert broken, result.stdout + result.stderr
