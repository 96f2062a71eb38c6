"""Plants a fault in a copy of the sources, and runs named tests against the copy in a process of their own.

The text to replace has to be there exactly once: when the code moves on, the mutant fails loudly
rather than plant nothing.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 600.0  # seconds for one run of named tests; they take a few, and all of them together a minute
PATIENCE = 120.0  # seconds for one test that does not say so itself
AT_ONCE = 3  # first attempts
_ARGUMENTS = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "--no-header", "--tb=short",
              "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # fmt: skip

# One process imports what tests need and is not ours; each run is forked from it, and begins there.
_NOT_OURS = """
pytest _pytest.pytester pytest_asyncio.plugin pytest_timeout anyio.pytest_plugin blockbuster hypothesis.stateful
hypothesis.extra.pytestplugin detangle uvloop uvicorn starlette.testclient msgspec jsonschema_rs httptools jh2
rich.console click pydantic prometheus_client google.protobuf.json_format pyqwest h11 redis.asyncio
opentelemetry.sdk.trace jwt aiokafka brotli trustme psutil sqlite3 unittest.mock mcp
"""
_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(_NOT_OURS.split())


@dataclass(frozen=True)
class Done:
    """How a run ended: pytest's exit code, and all that it printed."""

    returncode: int
    stdout: str


@dataclass(frozen=True)
class Mutant:
    """One fault, and the tests that catch it.

    Args:
        name: What is wrong.
        file: Below ``src/tailrace``.
        changes: What is replaced by what.
        caught_by: Test ids.
        saying: A pattern of what the failing test says, so that it fails for the fault and not for anything else.
    """

    name: str
    file: str
    changes: Sequence[tuple[str, str]] = field(repr=False)
    caught_by: Sequence[str]
    saying: str


def copy_sources(place: Path) -> Path:
    """A copy of ``src`` in `place`, with what is compiled of it: only what is changed needs compiling again."""
    sources = place / "src"
    shutil.copytree(ROOT / "src", sources, ignore=shutil.ignore_patterns("*.pyc.*"))  # those are being written
    return sources


def plant(sources: Path, file: str, changes: Sequence[tuple[str, str]]) -> None:
    """Replace text in `file` of a copy.

    Raises:
        AssertionError: A text to replace is not there exactly once, or the result is no Python.
    """
    path = sources / "tailrace" / file
    text = path.read_text()
    for old, new in changes:
        count = text.count(old)
        assert count == 1, f"the text to replace is in {file} {count} times: {old!r}; the mutant has to be written anew"
        text = text.replace(old, new)
    compile(text, str(path), "exec")
    path.write_text(text)


class Run:
    """Named tests at work, with `tailrace` imported from `sources`, in a process that has imported nothing of it yet.

    Args:
        sources: A copy.
        tests: Their ids.
        patience: Seconds that a test may take which does not say so itself.

    Attributes:
        sentinel: What `multiprocessing.connection.wait` waits for.
    """

    def __init__(self, sources: Path, tests: Sequence[str], patience: float = PATIENCE) -> None:
        self._output = sources.parent / "output.txt"
        self._process = _WARM.Process(target=_run, args=(sources, tuple(tests), patience, self._output), daemon=False)
        self._process.start()
        self._until = time.monotonic() + LIMIT
        self.sentinel = self._process.sentinel

    def end(self) -> Done:
        """How it ended, for which this waits; one that is not done in time is killed."""
        self._process.join(max(0.0, self._until - time.monotonic()))
        if self._process.exitcode is None:
            self.kill()
            return Done(-1, f"not done after {LIMIT:g} s:\n{self._output.read_text(errors='replace')}")
        done = Done(self._process.exitcode, self._output.read_text(errors="replace"))
        self._process.close()
        return done

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()
        self._process.close()


class Ahead:
    """First attempts, begun before anybody asks for them, some at a time: many faults are that something never comes.

    Args:
        mutants: In the order in which they will be asked for.
        folder: Takes a copy for each.
        patience: As of `Run`.
    """

    def __init__(self, mutants: Sequence[Mutant], folder: Path, patience: float) -> None:
        self._left = deque(mutants)
        self._folder = folder
        self._patience = patience
        self._running: dict[str, Run] = {}
        self._done: dict[str, Done] = {}

    def of(self, mutant: Mutant) -> Done:
        """How the tests that are to catch it ended."""
        while mutant.name not in self._done:
            while self._left and len(self._running) < AT_ONCE:
                self._begin(self._left.popleft())
            ready = wait([run.sentinel for run in self._running.values()], LIMIT)
            for name in [name for name, run in self._running.items() if run.sentinel in ready or not ready]:
                self._done[name] = self._running.pop(name).end()
        return self._done.pop(mutant.name)

    def close(self) -> None:
        """Nobody asks any more."""
        for run in self._running.values():
            run.kill()

    def _begin(self, mutant: Mutant) -> None:
        try:
            self._running[mutant.name] = begun(mutant, self._folder / f"{len(self._left)}", self._patience)
        except AssertionError as error:  # it is for the next attempt to fail by it
            self._done[mutant.name] = Done(-1, str(error))


def begun(mutant: Mutant, folder: Path, patience: float) -> Run:
    """The tests that are to catch it, at work on a copy in `folder`.

    Raises:
        AssertionError: As `plant`.
    """
    sources = copy_sources(folder)
    plant(sources, mutant.file, mutant.changes)
    return Run(sources, mutant.caught_by, patience)


def _run(sources: Path, tests: Sequence[str], patience: float, output: Path) -> None:
    """What the forked process does."""
    gc.freeze()  # what was imported stays: no collection need look at it
    with output.open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith(("COV_", "PYTEST_", "TAILRACE_"))]:
        del os.environ[name]
    os.environ.update(PYTHONPATH=str(sources), PYTHONDONTWRITEBYTECODE="1")  # for processes that the tests start
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(sources))
    assert "tailrace" not in sys.modules, "imported before the copy can be"
    code = pytest.main([*_ARGUMENTS, "-o", f"timeout={patience:g}", *tests])
    sys.stdout.flush()
    os._exit(code)  # not by way of what was imported but belongs to no test
