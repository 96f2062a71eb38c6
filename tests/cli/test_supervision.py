"""How long the supervisor of `--workers` waits for whom: by a clock of the test's, over processes that are none."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tailrace.cli import workers as supervision
from tailrace.cli.workers import Slot, Workers
from tailrace.server.worker import VARIABLE

SILENCE, ABSENCE, LOAD, WAITS, LIMIT = 30.0, 10.0, 60.0, 5.0, 20.0


class Child:
    """A process, as the supervisor sees it; it does what the test says."""

    def __init__(self, town: Town, env: dict[str, str]) -> None:
        index, *_, report, _ = env[VARIABLE].split(":")
        self.worker = int(index)
        self.pid = len(town.children) + 1
        self.returncode: int | None = None
        self.told: list[int] = []
        self.report = os.dup(int(report))
        town.children.append(self)

    def say(self, line: str = "") -> None:
        os.write(self.report, f"{line}\n".encode())

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.returncode = -signal.SIGKILL

    def send_signal(self, number: int) -> None:
        self.told.append(number)


class Town:
    """Two workers and their supervisor.

    Attributes:
        now: The time.
        said: What the supervisor told.
        children: The processes, in the order of their starts.
    """

    def __init__(self, slots: list[Slot]) -> None:
        self.now = 1000.0
        self.said: list[str] = []
        self.children: list[Child] = []
        self.workers = Workers(
            ["serve"],
            slots,
            limit=LIMIT,
            waits=WAITS,
            exclusive=False,
            keeps=True,
            say=self.said.append,
            ready=self.said.append,
            silence=SILENCE,
            absence=ABSENCE,
            load=LOAD,
        )
        self.workers._turned = self.now

    def start(self, seconds: float = 1.0) -> None:
        """Both, one after the other; each takes so long."""
        self.workers._start(self.workers._unborn.pop(0))
        for number in range(2):
            self.passes(seconds, *range(number))
            self.children[number].say("ready url=somewhere")
            self.passes(0.1)
        assert self.said == ["url=somewhere workers=2"]
        self.said.clear()

    def passes(self, seconds: float, *awake: int) -> None:
        """Time, in turns of half a second; those who are awake give their signs of life."""
        while seconds > 0:
            step = min(seconds, 0.5)
            self.now += step
            seconds -= step
            for number in awake:
                self.children[number].say()
            self.workers._turn()

    def sleeps(self, seconds: float) -> None:
        """The supervisor itself: it has no turn."""
        self.now += seconds
        self.workers._turn()


@pytest.fixture
def town(monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    sockets = [socket.socket() for _ in range(2)]
    town = Town([Slot(index, one) for index, one in enumerate(sockets)])

    def start(_: object, *, env: dict[str, str], **__: Any) -> Child:
        return Child(town, env)

    monkeypatch.setattr(supervision, "_TICK", 0.0)
    monkeypatch.setattr(supervision, "time", SimpleNamespace(monotonic=lambda: town.now))
    monkeypatch.setattr(supervision, "subprocess", SimpleNamespace(Popen=start))
    yield town
    monkeypatch.undo()
    left = [process.pipe for slot in town.workers._slots for process in slot.processes]
    for descriptor in (*left, *town.workers._ends, *(child.report for child in town.children)):
        os.close(descriptor)
    town.workers._selector.close()
    for one in sockets:
        one.close()


def test_the_place_of_a_worker_is_taken_when_its_time_is_over_and_it_is_killed_later(town: Town) -> None:
    town.start()
    town.passes(ABSENCE - 1, 0)
    assert (len(town.children), town.said) == (2, [])
    town.passes(2, 0)
    assert [child.worker for child in town.children] == [0, 1, 1]
    assert town.said == ["worker 1 gives no sign of life; another takes its place pid=2"]
    assert town.children[1].told == []
    town.children[2].say("ready url=somewhere")
    town.passes(1, 0, 2)
    assert town.children[1].told == [signal.SIGTERM], "when the other one serves"
    assert town.children[1].returncode is None
    town.passes(SILENCE - ABSENCE, 0, 2)
    assert town.children[1].returncode == -signal.SIGKILL
    town.passes(1, 0, 2)
    assert town.said[-1].startswith("worker 1 was replaced pid=3")
    assert (len(town.children), town.workers._code) == (3, 0)


def test_a_worker_whose_place_cannot_be_taken_is_not_replaced_again_and_again(town: Town) -> None:
    town.start()
    town.passes(ABSENCE + 1, 0)
    town.children[2].returncode = 3
    town.passes(5, 0)
    assert len(town.children) == 3
    assert town.said[-1].startswith("there is no successor for worker 1: the new one ended before it was ready")
    town.children[1].say()
    town.passes(ABSENCE + 1, 0)
    assert len(town.children) == 4, "it woke, and sleeps once more"


def test_where_all_workers_sleep_nobody_takes_a_place(town: Town) -> None:
    town.start()
    town.passes(SILENCE - 3)
    assert (len(town.children), town.said) == (2, [])


def test_the_time_that_the_supervisor_slept_itself_is_not_counted(town: Town) -> None:
    town.start()
    town.passes(2, 0, 1)
    town.sleeps(100 * SILENCE)
    town.passes(ABSENCE - 2, 0)
    assert (len(town.children), town.said) == (2, [])


@pytest.mark.parametrize(("took", "granted"), [(1.0, LOAD + WAITS), (40.0, 3 * 40.0 + WAITS)])
def test_a_worker_gets_ready_within_three_times_what_the_first_ones_took(
    town: Town, took: float, granted: float
) -> None:
    town.start(took)
    town.children[1].returncode = 1
    town.passes(1, 0)
    assert len(town.children) == 3
    town.passes(granted - 2, 0)
    assert town.children[2].returncode is None
    town.passes(4, 0)
    assert town.children[2].returncode == -signal.SIGKILL
    assert any("for its code, and was killed pid=3" in text for text in town.said)
    assert len(town.children) == 4, "another follows"


def test_the_first_workers_may_take_as_long_as_they_need(town: Town) -> None:
    town.start(20 * LOAD)
    assert len(town.children) == 2


def test_workers_that_do_not_get_ready_are_started_later_and_later(town: Town) -> None:
    town.start()
    town.children[1].returncode = 1
    for _ in range(4):
        town.passes(LOAD + WAITS + 20, 0)
    pauses = [float(text.split("follows in ")[1].split()[0]) for text in town.said if "another follows in" in text]
    assert len(pauses) >= 4
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]
