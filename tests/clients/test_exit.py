"""A process that used a client ends with its own exit code, whatever pyqwest's threads are doing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tailrace.clients import exit as exits
from tests.rigs.server import ServerProcess, running, tailrace_command

EXAMPLES = Path(__file__).parents[2] / "examples"

LEAVES_AT_ONCE = """
import asyncio, sys
from tailrace.mcp import Client

async def main():
    async with Client(sys.argv[1]) as client:
        await client.list_tools()

asyncio.run(main())
sys.exit(7)
"""


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tailrace_command(EXAMPLES / "kitchen.py"), tmp_path_factory.mktemp("kitchen") / "stderr") as server:
        yield server


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_program_that_leaves_right_after_its_last_answer_keeps_its_exit_code(kitchen: ServerProcess) -> None:
    command = [sys.executable, "-c", LEAVES_AT_ONCE, kitchen.url + "/mcp"]
    for _ in range(10):  # six exits of a hundred are aborted where nothing waits for pyqwest's threads
        crowd = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(6)]  # they race for the cores
        ended = [(process.communicate(timeout=120)[1], process.returncode) for process in crowd]
        assert ended == [(b"", 7)] * len(crowd)


def thread(tasks: Path, number: int, name: str, state: str) -> Path:
    (tasks / str(number)).mkdir(parents=True, exist_ok=True)
    stat = tasks / str(number) / "stat"
    stat.write_text(f"{number} ({name}) {state} 1 2 3\n")
    return stat


# The module's own name is replaced, never `time.sleep` itself: a thread of another test may sleep at the same time.


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(exits, "time", SimpleNamespace(sleep=taken.append, monotonic=time.monotonic))
    return taken


def test_the_exit_waits_while_a_thread_of_the_runtime_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    stat = thread(tmp_path, 11, "tokio-rt-worker", "R")
    thread(tmp_path, 10, "python", "R")
    monkeypatch.setattr(exits, "_TASKS", tmp_path)

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 30:
            stat.write_text("11 (tokio-rt-worker) S 1 2 3\n")

    monkeypatch.setattr(exits, "time", SimpleNamespace(sleep=nap, monotonic=time.monotonic))
    exits._settle()
    assert len(naps) == 30 + exits._CHECKS - 1


def test_it_does_not_wait_for_other_threads_or_for_those_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    thread(tmp_path, 10, "python", "R")
    thread(tmp_path, 11, "tokio-rt-worker", "S")
    (tmp_path / "12").mkdir()  # its stat is gone
    monkeypatch.setattr(exits, "_TASKS", tmp_path)
    exits._settle()
    assert len(naps) == exits._CHECKS


def test_it_never_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thread(tmp_path, 11, "tokio-rt-worker", "R")
    monkeypatch.setattr(exits, "_TASKS", tmp_path)
    clock = iter(range(100))
    known = SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: float(next(clock)))
    monkeypatch.setattr(exits, "time", known)
    exits._settle()
    assert next(clock) <= exits._LIMIT + 3


def test_where_threads_cannot_be_watched_it_waits_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    monkeypatch.setattr(exits, "_TASKS", tmp_path / "nowhere")
    exits._settle()
    assert naps == [exits._BLIND]
