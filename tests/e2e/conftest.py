"""What the end-to-end tests stand on: a witness file, a folder to serve, and the TypeScript clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.e2e.witness import Witness
from tests.rigs.kafka import Broker, Missing, running_broker
from tests.rigs.npm import NODE, npm_problem
from tests.rigs.rawhttp import leave_all

NODE_FOLDER = Path(__file__).parent / "node"
FIXTURES = Path(__file__).parent / "fixtures"


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
    if problem := npm_problem(NODE_FOLDER):
        needs("node", problem)
    return NODE


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka; a test that stops it starts it again."""
    try:
        with running_broker(tmp_path_factory.mktemp("kafka")) as broker:
            yield broker
    except Missing as missing:
        reason = f"needs {missing.args[0]}: {missing.args[1]}"
        pytest.skip(reason)
