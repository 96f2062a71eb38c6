"""A call is owned before its code runs, runs in its own task, and ends exactly once, however it ends (G1)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref

import pytest

from tailrace.core.asked import ElicitResult, SampleResult
from tailrace.core.call import CallState
from tailrace.core.context import Context, current
from tailrace.errors import CallCancelled, CapabilityError, DeadlineExceeded
from tests.core.support import Heard, Notes, Work, make_session, make_tasks, never, turns, virtual


async def ended(call: Work) -> Work:
    if call.task is not None:
        await asyncio.wait([call.task])
    assert call.state is CallState.ENDED
    assert call.task is None, "what has ended holds no task"
    return call


async def test_a_call_runs_in_a_task_of_its_own_and_answers_once() -> None:
    tasks = make_tasks()
    ran_in: list[asyncio.Task[None] | None] = []

    async def work(call: Work) -> bytes:
        ran_in.append(asyncio.current_task())
        assert call.state is CallState.RUNNING
        assert list(tasks.calls) == [call]
        return b"result"

    call = Work(tasks, work).accepted()
    assert call.state is CallState.ACCEPTED
    call.start()
    assert not call.began, "no code of the call runs within `start`"
    task = call.task
    await ended(call)
    assert ran_in == [task]
    assert task is not asyncio.current_task()
    assert call.answers == [b"result"]
    assert call.state is CallState.ENDED
    assert not tasks.calls


async def test_starting_twice_runs_once() -> None:
    call = Work(make_tasks()).accepted()
    call.start()
    call.start()
    await ended(call)
    call.start()
    await turns()
    assert call.answers == [b"done"]


async def test_a_call_has_left_all_tables_when_its_answer_is_given() -> None:
    tasks, sizes = make_tasks(), []
    session = make_session(tasks, Notes())

    class Looking(Heard):
        def answer(self, call: object, payload: bytes | None) -> None:
            sizes.append((len(session.calls), len(tasks.calls)))
            super().answer(call, payload)  # type: ignore[arg-type]

    call = Work(tasks, session=session, reply=Looking()).accepted()
    call.start()
    await ended(call)
    assert sizes == [(0, 0)], "a client that has the answer may use the same key again at once"


# --- cancelled: before it started, before its first step, while it runs, at its end, after it


async def test_a_call_that_is_cancelled_before_it_started_is_answered_and_never_runs() -> None:
    tasks = make_tasks()
    call = Work(tasks).accepted()
    call.cancel(CallCancelled("too late"))
    assert call.answers == [b"aborted: too late"]
    call.start()
    await turns()
    assert not call.began
    assert call.task is None
    assert not tasks.calls


async def test_a_call_that_is_cancelled_before_its_first_step_is_answered_and_never_runs() -> None:
    tasks = make_tasks()
    call = Work(tasks).accepted()
    call.start()
    call.cancel(CallCancelled("at once"))
    await ended(call)
    assert not call.began
    assert call.answers == [b"aborted: at once"]
    assert not tasks.calls


async def test_a_call_that_is_cancelled_while_it_runs_is_answered_once_its_handler_has_cleaned_up() -> None:
    seen: list[str] = []

    async def work(call: Work) -> bytes:
        try:
            return await never(call) or b""
        finally:
            seen.append(str(call.context.error))
            await asyncio.sleep(0)
            seen.append(f"answers {len(call.answers)}")

    call = Work(make_tasks(), work).accepted()
    call.start()
    await turns()
    call.cancel(CallCancelled("enough"))
    assert call.answers == []
    task = call.task
    await ended(call)
    assert seen == ["enough", "answers 0"]
    assert call.answers == [b"aborted: enough"]
    assert task is not None
    assert task.cancelled(), "the cancellation is not swallowed"


async def test_only_the_first_cancellation_counts() -> None:
    interruptions = []

    async def work(call: Work) -> bytes:
        try:
            return await never(call) or b""
        except asyncio.CancelledError:
            interruptions.append("first")
            try:
                await turns()
            except asyncio.CancelledError:
                interruptions.append("second")
            raise

    call = Work(make_tasks(), work).accepted()
    call.start()
    await turns()
    call.cancel(CallCancelled("first"))
    await turns(2)
    call.cancel(CallCancelled("second"))
    await ended(call)
    assert interruptions == ["first"], "its clean-up is not disturbed"
    assert call.answers == [b"aborted: first"]


async def test_a_handler_that_catches_its_cancellation_changes_nothing_about_the_answer() -> None:
    async def work(call: Work) -> bytes:
        with contextlib.suppress(asyncio.CancelledError):
            await never(call)
        return b"as if nothing had happened"

    call = Work(make_tasks(), work).accepted()
    call.start()
    await turns()
    call.cancel(CallCancelled("enough"))
    await ended(call)
    assert call.answers == [b"aborted: enough"]


async def test_cancelled_in_its_very_last_step_a_call_still_answers_once() -> None:
    async def work(call: Work) -> bytes:
        call.cancel(CallCancelled("by itself"))
        return b"done"

    call = Work(make_tasks(), work).accepted()
    call.start()
    await ended(call)
    assert call.answers == [b"aborted: by itself"]


async def test_cancelling_what_has_ended_changes_nothing() -> None:
    call = Work(make_tasks()).accepted()
    call.start()
    await ended(call)
    call.cancel(CallCancelled("late"))
    assert call.answers == [b"done"]
    assert call.context.error is None


async def test_a_context_that_was_ended_by_its_own_handler_does_not_make_the_call_uncancellable() -> None:
    async def work(call: Work) -> bytes:
        call.context.cancel(CallCancelled("by the handler"))
        return await never(call) or b""

    call = Work(make_tasks(), work).accepted()
    call.start()
    await turns()
    call.cancel(CallCancelled("by its session"))
    await asyncio.wait_for(ended(call), 5)
    assert call.answers == [b"aborted: by its session"]


async def test_a_task_that_somebody_else_cancels_is_answered_too() -> None:
    call = Work(make_tasks(), never).accepted()
    call.start()
    await turns()
    assert call.task is not None
    call.task.cancel()
    await ended(call)
    assert call.answers == [b"aborted: the call's task was cancelled"]


async def test_a_call_without_an_answer_says_so() -> None:
    async def work(call: Work) -> None:
        return None

    call = Work(make_tasks(), work).accepted()
    call.start()
    await ended(call)
    assert call.answers == [None]


async def test_a_call_whose_answer_cannot_be_made_is_answered_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    async def work(call: Work) -> bytes:
        raise ValueError("secret detail")

    tasks = make_tasks()
    call = Work(tasks, work, key="r1").accepted()
    call.start()
    task = call.task
    await ended(call)
    assert call.answers == [b"aborted: internal error"]
    assert not tasks.calls
    assert task is not None
    assert task.exception() is None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "r1" in record.getMessage()
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])


# --- time


@virtual
async def test_a_call_that_takes_too_long_is_ended_with_the_error_that_was_given() -> None:
    async def work(call: Work) -> bytes:
        call.set_timeout(5.0, DeadlineExceeded("five seconds"))
        assert call.context.deadline == asyncio.get_running_loop().time() + 5.0
        return await never(call) or b""

    call = Work(make_tasks(), work).accepted()
    call.start()
    await asyncio.sleep(4.9)
    assert call.state is CallState.RUNNING
    await ended(call)
    assert call.answers == [b"aborted: five seconds"]
    assert isinstance(call.context.error, DeadlineExceeded)


@virtual
async def test_a_call_that_is_in_time_hears_nothing_of_its_deadline() -> None:
    async def work(call: Work) -> bytes:
        call.set_timeout(5.0, DeadlineExceeded("five seconds"))
        return b"done"

    call = Work(make_tasks(), work).accepted()
    call.start()
    await asyncio.sleep(60.0)
    assert call.answers == [b"done"]
    assert call.context.error is None


# --- what it holds, and what holds it


@pytest.mark.parametrize("end", ["answers", "is cancelled", "breaks"])
async def test_nothing_keeps_a_finished_call_alive(end: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest keeps the records, and they what was raised
    tasks = make_tasks()
    session = make_session(tasks, Notes())

    async def work(call: Work) -> bytes:
        current().with_timeout(3600.0)
        call.set_timeout(3600.0, DeadlineExceeded())
        call.context.spawn(wait)
        if end == "breaks":
            raise ValueError
        return b"done" if end == "answers" else await never(call) or b""

    forever = asyncio.Event()

    async def wait() -> None:
        await forever.wait()

    call = Work(tasks, work, session=session).accepted()
    call.start()
    await turns()
    if end == "is cancelled":
        call.cancel(CallCancelled())
    await ended(call)
    gone = weakref.ref(call)
    del call
    await turns()
    gc.collect()
    assert len(tasks.detached) == 1, "its detached work goes on without it"
    assert gone() is None
    forever.set()
    await turns()


async def test_room_is_the_replys_as_long_as_the_call_runs() -> None:
    reply = Heard()
    reply.behind = asyncio.Event()
    call = Work(make_tasks(), reply=reply).accepted()
    waiting = asyncio.ensure_future(call.room())
    await turns()
    assert not waiting.done()
    reply.behind.set()
    await waiting
    reply.behind.clear()
    call.cancel(CallCancelled())
    await asyncio.wait_for(call.room(), 5)  # it has ended: nothing to wait for


@virtual
async def test_a_handler_that_reports_without_end_gives_way_at_every_64th_report() -> None:
    loop = asyncio.get_running_loop()
    call = Work(make_tasks()).accepted()
    begun, gave_way = loop.time(), []
    for report in range(1, 193):
        others: list[int] = []
        loop.call_soon(others.append, report)
        await call.room()
        gave_way += others
        await turns(2)
    assert gave_way == [64, 128, 192]
    assert loop.time() == begun, "it lets others run, and does not wait"
    call.cancel(CallCancelled())


def test_a_call_is_named_to_people_by_its_request_in_bounded_length() -> None:
    async def main() -> str:
        return Work(make_tasks(), key="x" * 5000).label

    label = asyncio.run(main())
    assert label.startswith("request 'xxx")
    assert len(label) < 100


async def test_a_call_belongs_to_the_server_where_there_is_no_session() -> None:
    tasks = make_tasks()
    call = Work(tasks)
    assert call.public_session is None
    call.accepted().start()
    await ended(call)
    assert (tasks.started, tasks.ended) == (1, 1)


@virtual
async def test_a_call_that_outlives_its_session_is_the_servers_and_its_id_is_free() -> None:
    tasks = make_tasks()
    session = make_session(tasks, Notes())
    call = Work(tasks, never, session=session).accepted()
    call.start()
    call.outlive()
    call.outlive()
    Work(tasks, never, session=session).accepted().start()
    await session.close(grace=0.1)
    assert (call.answers, list(tasks.calls)) == ([], [call])
    call.cancel(CallCancelled("enough"))
    await ended(call)
    assert call.answers == [b"aborted: enough"]


async def test_a_handler_that_only_reports_gives_way_and_can_be_cancelled() -> None:
    async def work(call: Work) -> bytes:
        while True:
            await call.context.progress(1)

    call = Work(make_tasks(), work).accepted()
    call.start()
    asyncio.get_running_loop().call_later(0.01, call.cancel, CallCancelled("enough"))
    await asyncio.wait_for(ended(call), 10)
    assert call.state is CallState.ENDED


@virtual
async def test_a_call_that_does_not_end_is_answered_in_its_stead_and_counted_until_it_does() -> None:
    tasks, let_go = make_tasks(), asyncio.Event()

    async def stay(call: Work) -> bytes:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return b"late"

    session = make_session(tasks, Notes())
    call = Work(tasks, stay, session=session).accepted()
    call.start()
    await turns()
    await session.close("enough", grace=1.0)
    assert call.answers == [b"aborted: enough"]
    assert list(tasks.calls) == [call]
    call.abandon(CallCancelled("again"))
    task = call.task
    assert task is not None, "who closes the server can name it"
    let_go.set()
    await asyncio.wait([task])
    assert call.answers == [b"aborted: enough"]
    assert not tasks.calls


async def test_a_call_of_a_kind_that_cannot_ask_says_so() -> None:
    call = Work(make_tasks()).accepted()
    own = call.context
    for ask in (own.elicit("?"), own.elicit_url("?", ""), own.sample("?"), own.list_roots()):
        with pytest.raises(CapabilityError, match="cannot ask its client"):
            await ask
    for ask in (Context().elicit("?"), Context().sample("?"), Context().list_roots()):
        with pytest.raises(RuntimeError, match="needs a running call"):
            await ask
    call.start()
    await ended(call)


def test_what_a_client_answered() -> None:
    assert ElicitResult("accept", 1).accepted
    assert not ElicitResult("decline").accepted
    blocks = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert SampleResult("assistant", blocks, "m").text == "ab"
    assert SampleResult("assistant", blocks[0], "m").text == "a"
