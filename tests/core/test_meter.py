"""Who measures is told how each call ended and how long it took; what is only counted is counted where it happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tailrace.core.meter import ANSWERED, Ending, Meters, Operation
from tailrace.core.tasks import Tasks
from tailrace.errors import CallCancelled, DeadlineExceeded, LimitError
from tests.core.support import Work, answer_at_once, make_tasks, never, turns, virtual

OPERATION = Operation("mcp", "tools/call", "order")


class Measured(Work):
    """A call that is measured."""

    @property
    def operation(self) -> Operation | None:
        return OPERATION


class Notes:
    """A meter that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Operation, Ending]] = []
        self.seconds: list[float] = []
        self.others: list[tuple[object, ...]] = []

    def call_ended(self, operation: Operation, ending: Ending, seconds: float) -> None:
        self.calls.append((operation, ending))
        self.seconds.append(seconds)

    def session_ended(self, transport: str, seconds: float) -> None:
        self.others.append((transport, seconds))

    def delivered(self, system: str, topic: str, seconds: float, error: BaseException | None) -> None:
        self.others.append((system, topic, seconds, error))


def measured(
    work: Callable[[Work], Awaitable[bytes | None]], kind: type[Work] = Measured, tasks: Tasks | None = None
) -> tuple[Work, Notes]:
    tasks, notes = tasks or make_tasks(), Notes()
    tasks.meter = notes
    call = kind(tasks, work).accepted()
    call.start()
    return call, notes


async def run(call: Work) -> None:
    assert call.task is not None
    await asyncio.wait([call.task])


@virtual
async def test_a_call_is_told_once_with_its_time() -> None:
    call, notes = measured(answer_at_once)
    await run(call)
    assert notes.calls == [(OPERATION, ANSWERED)]
    assert 0 <= notes.seconds[0] < 60, "since its acceptance, not since the clock began"


@virtual
async def test_an_answer_that_is_an_error_is_told_with_its_code() -> None:
    async def work(call: Work) -> bytes:
        call.failure, call.failure_code = "sold out", "tool_error"
        return b"error"

    call, notes = measured(work)
    await run(call)
    assert notes.calls == [(OPERATION, Ending("error", "tool_error"))]


@pytest.mark.parametrize(
    ("error", "outcome"), [(CallCancelled("enough"), "cancelled"), (DeadlineExceeded("too long"), "timeout")]
)
@virtual
async def test_a_call_that_was_ended_is_told_as_such(error: Exception, outcome: str) -> None:
    call, notes = measured(never)
    await turns()
    call.cancel(error)
    await turns()
    assert notes.calls == [(OPERATION, Ending(outcome, ""))]


class Pausing(Measured):
    """It comes back after its cancellation."""

    @property
    def paused(self) -> bool:
        return self.cancelled_by is not None


@virtual
async def test_a_call_that_asks_its_client_has_not_failed() -> None:
    call, notes = measured(never, Pausing)
    await turns()
    call.cancel(CallCancelled("asked first"))
    await turns()
    assert notes.calls == [(OPERATION, Ending("paused", ""))]


@virtual
async def test_a_call_for_which_another_one_stands_is_not_told() -> None:
    call, notes = measured(answer_at_once, Work)
    await run(call)
    assert notes.calls == []


def test_several_meters_hear_the_same() -> None:
    one, other = Notes(), Notes()
    both = Meters([one, other])
    both.call_ended(OPERATION, ANSWERED, 0.5)
    both.session_ended("sse", 2.0)
    both.delivered("kafka", "orders", 0.1, None)
    for notes in (one, other):
        assert (notes.calls, notes.seconds) == ([(OPERATION, ANSWERED)], [0.5])
        assert notes.others == [("sse", 2.0), ("kafka", "orders", 0.1, None)]


# --- what is counted ------------------------------------------------------------------------------


@virtual
async def test_refusals_are_counted_by_their_limit() -> None:
    tasks = make_tasks()
    for limit in ("calls", "log", "calls"):
        tasks.refuse(limit)
    assert tasks.refused == {"calls": 2, "log": 1}


@virtual
async def test_detached_work_is_counted_as_it_begins_fails_and_is_dropped() -> None:
    async def fail() -> None:
        raise ValueError("no mail")

    async def wait() -> None:
        await asyncio.Event().wait()

    tasks = make_tasks()
    call = Work(tasks).accepted()
    for fn in (fail, wait, wait):
        call.context.spawn(fn)
    await turns()
    assert (tasks.spawned, tasks.failed, tasks.dropped) == (3, 1, 0)
    await tasks.close(1.0)
    assert (tasks.spawned, tasks.failed, tasks.dropped) == (3, 1, 2)
    with pytest.raises(LimitError):
        call.context.spawn(wait)
    assert tasks.spawned == 3
