"""Every task is counted, can be waited for within a limit, and is named if it has to be dropped (G1, G4, G5)."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.core.context import Context, current
from tailrace.core.tasks import Detached, Tasks
from tailrace.core.threads import Threads
from tailrace.errors import CallCancelled, DeadlineExceeded, LimitError
from tests.core.support import InlineThreads, Work, make_tasks, never, turns, virtual

request_value: contextvars.ContextVar[str] = contextvars.ContextVar("request_value", default="none")


def correlated(id: str = "c1") -> Context:
    context = Context()
    context.set_values({"correlation_id": id})
    return context


def messages(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


class Stubborn:
    """Work that does not end when it is cancelled, until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, *_: Any) -> bytes:
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        return b"late"


# --- calls


async def test_calls_are_counted_in_and_out_and_one_too_many_is_refused() -> None:
    tasks = make_tasks(max_calls=2)
    first, second = Work(tasks, never).accepted(), Work(tasks, never).accepted()
    with pytest.raises(LimitError, match="2 calls are running") as refused:
        Work(tasks).accepted()
    assert refused.value.limit == "calls"
    assert (tasks.started, tasks.ended, len(tasks.calls)) == (2, 0, 2)
    first.cancel(CallCancelled())
    tasks.release(first)  # a second time changes nothing
    assert (tasks.started, tasks.ended) == (2, 1)
    Work(tasks).accepted().cancel(CallCancelled())
    second.cancel(CallCancelled())
    assert (tasks.started, tasks.ended, len(tasks.calls)) == (3, 3, 0)


# --- detached work


async def test_detached_work_runs_under_its_own_context_with_the_callers_variables() -> None:
    tasks, seen = make_tasks(), []
    context = correlated().detach()

    async def work(a: int, b: int) -> None:
        seen.append((a + b, current(), current().correlation_id, request_value.get()))

    request_value.set("mine")
    tasks.spawn(context, work, (1, 2))
    assert [entry.name for entry in tasks.detached.values()] == ["work"]
    assert seen == [], "none of its code runs within `spawn`"
    await turns()
    assert seen == [(3, context, "c1", "mine")]
    assert not tasks.detached


async def test_detached_work_outlives_the_cancellation_of_its_call() -> None:
    tasks, done = make_tasks(), []
    go = asyncio.Event()

    async def mail() -> None:
        await go.wait()
        done.append(current().error)

    async def work(call: Work) -> bytes:
        call.context.spawn(mail)
        return await never(call) or b""

    call = Work(tasks, work).accepted()
    call.start()
    await turns()
    call.cancel(CallCancelled())
    await turns()
    go.set()
    await turns()
    assert done == [None]


async def test_plain_functions_run_in_a_thread_and_what_they_return_is_awaited() -> None:
    tasks, seen = Tasks(Threads(size=2)), []

    async def second_part() -> None:
        seen.append("on the loop")

    def plain(name: str) -> Any:
        seen.append((name, threading.get_ident() == tasks.thread, current().correlation_id))
        return second_part()

    tasks.spawn(correlated(), plain, ("a",))
    tasks.spawn(correlated(), functools.partial(second_part), ())
    tasks.spawn(correlated(), seen.append, ("returned nothing",), name="append")
    assert sorted(entry.name for entry in tasks.detached.values()) == ["append", "detached", "plain"]
    assert await tasks.drain(30.0)
    assert sorted(map(str, seen)) == sorted(["on the loop", "on the loop", "returned nothing", str(("a", False, "c1"))])
    await tasks.close()


async def test_one_piece_of_detached_work_too_many_is_refused() -> None:
    tasks = make_tasks(max_detached=1)
    tasks.spawn(correlated(), forever, ())
    with pytest.raises(LimitError) as refused:
        tasks.spawn(correlated(), forever, ())
    assert refused.value.limit == "detached"
    await tasks.close()


async def test_a_plain_tool_may_spawn_from_its_thread() -> None:
    tasks = Tasks(Threads(size=1))
    ran: list[int] = []
    go = asyncio.Event()

    async def detached() -> None:
        await go.wait()
        ran.append(threading.get_ident())
        assert (current().correlation_id, request_value.get()) == ("c1", "in the thread")

    async def work(call: Work) -> bytes:
        def plain() -> None:
            request_value.set("in the thread")
            call.context.spawn(detached)

        await tasks.in_thread(plain)
        assert len(tasks.detached) == 1, "it is tracked before its call can end"
        go.set()
        return b"done"

    call = Work(tasks, work)
    call.context.set_values({"correlation_id": "c1"})
    call.accepted().start()
    assert await tasks.drain(30.0)
    assert ran == [tasks.thread]
    assert call.answers == [b"done"]
    await tasks.close()


async def test_spawned_from_a_thread_after_the_end_it_is_named_as_dropped(caplog: pytest.LogCaptureFixture) -> None:
    tasks = make_tasks()
    spawned = threading.Event()

    def late() -> None:
        tasks.spawn(correlated("c9"), forever, (), name="late")
        spawned.set()

    thread = threading.Thread(target=late)
    thread.start()
    spawned.wait(30)  # the loop is held meanwhile, so that what the thread handed over waits
    await tasks.close()
    await turns()
    thread.join()
    assert len(messages(caplog, "detached work dropped name=late")) == 1
    assert not tasks.detached


async def test_failed_detached_work_is_logged_once_with_its_correlation_id(caplog: pytest.LogCaptureFixture) -> None:
    tasks = make_tasks()

    async def work() -> None:
        raise ValueError("no")

    tasks.spawn(correlated("c2"), work, (), name="mail")
    await turns()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "detached work failed name=mail correlation_id=c2"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert not tasks.detached


@pytest.mark.parametrize("plain", [True, False])
async def test_whoever_wants_the_error_gets_it_and_it_is_not_logged(
    plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, got = make_tasks(), []

    async def work() -> None:
        raise ValueError("no")

    async def tell(error: Exception) -> None:
        await asyncio.sleep(0)
        got.append(str(error))

    tasks.spawn(correlated(), work, (), on_error=(lambda error: got.append(str(error))) if plain else tell)
    await turns()
    assert got == ["no"]
    assert not caplog.records


async def test_an_error_of_the_error_handler_is_logged_together_with_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = make_tasks()

    async def work() -> None:
        raise ValueError("first")

    def broken(error: Exception) -> None:
        raise KeyError("second")

    tasks.spawn(correlated(), work, (), on_error=broken)
    await turns()
    (record,) = caplog.records
    assert "first" in caplog.text
    assert "second" in caplog.text
    assert not tasks.detached
    assert record.levelno == logging.ERROR


@virtual
async def test_detached_work_is_cancelled_at_its_timeout() -> None:
    tasks, got = make_tasks(), []
    tasks.spawn(correlated(), forever, (), name="slow", timeout=5.0, on_error=got.append)
    await asyncio.sleep(4.9)
    assert got == []
    await asyncio.sleep(0.2)
    (error,) = got
    assert isinstance(error, DeadlineExceeded)
    assert "slow did not end within 5 s" in str(error)


async def test_a_timeout_error_of_the_work_itself_stays_what_it_is() -> None:
    tasks, got = make_tasks(), []

    async def work() -> None:
        raise TimeoutError("the mail server took too long")

    tasks.spawn(correlated(), work, (), timeout=60.0, on_error=got.append)
    await turns()
    assert [type(error) for error in got] == [TimeoutError]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (SystemExit(3), "it called sys.exit(3)"),
        (BaseException("x"), "it raised BaseException('x')"),
        (KeyboardInterrupt(), "it raised KeyboardInterrupt()"),
        (GeneratorExit(), "it raised GeneratorExit()"),
        (asyncio.CancelledError(), "it was cancelled from inside"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
async def test_detached_work_that_calls_sys_exit_and_the_like_ends_itself_and_not_the_server(
    raised: BaseException, said: str
) -> None:
    tasks, got = make_tasks(), []

    async def work() -> None:
        raise raised

    tasks.spawn(correlated(), work, (), on_error=got.append)
    await turns()
    (error,) = got
    assert isinstance(error, RuntimeError)
    assert str(error) == said


def test_detached_work_that_is_dropped_with_its_loop_is_no_failure_of_its_own() -> None:
    got: list[Exception] = []

    async def start() -> Any:
        work = Detached("waiting", correlated(), 0.0, never, (None,), None, got.append)
        running = make_tasks()._run_detached(work)
        running.send(None)  # as far as its wait
        return running

    asyncio.run(start()).close()
    assert got == []


# --- work of the house


async def test_an_error_of_the_houses_own_work_is_logged_and_retrieved(caplog: pytest.LogCaptureFixture) -> None:
    tasks = make_tasks()

    async def broken() -> None:
        raise ValueError("ours")

    await asyncio.wait([tasks.start(broken(), name="tailrace-x")])
    await turns()
    (message,) = messages(caplog, "internal task failed")
    assert message.endswith("name=tailrace-x")


async def test_the_houses_own_work_may_be_cancelled_quietly(caplog: pytest.LogCaptureFixture) -> None:
    tasks = make_tasks()
    task = tasks.start(forever(), name="tailrace-x")
    task.cancel()
    await turns()
    assert task.cancelled()
    assert not caplog.records


# --- from other threads


async def test_on_the_loops_own_thread_it_is_done_at_once_and_from_another_soon() -> None:
    tasks, seen = make_tasks(), []
    tasks.on_loop(seen.append, 1)
    assert seen == [1]
    await asyncio.to_thread(tasks.on_loop, lambda: seen.append(threading.get_ident()))
    await turns()
    assert seen == [1, tasks.thread]


# --- drain


@virtual
async def test_drain_returns_as_soon_as_the_last_work_has_ended() -> None:
    tasks, loop = make_tasks(), asyncio.get_running_loop()
    assert await tasks.drain(25.0), "with nothing to wait for, at once"
    assert loop.time() == 0.0

    async def work(call: Work) -> bytes:
        tasks.spawn(correlated(), asyncio.sleep, (3.0,))
        await asyncio.sleep(2.0)
        return b"done"

    call = Work(tasks, work).accepted()
    call.start()
    assert await tasks.drain(25.0)
    assert loop.time() == 3.0
    assert call.answers == [b"done"]


@virtual
async def test_drain_also_waits_for_what_begins_meanwhile() -> None:
    tasks, loop = make_tasks(), asyncio.get_running_loop()

    async def second() -> None:
        await asyncio.sleep(4.0)

    async def first() -> None:
        await asyncio.sleep(1.0)
        tasks.spawn(correlated(), second, ())

    tasks.spawn(correlated(), first, ())
    draining = asyncio.ensure_future(tasks.drain(25.0))
    await asyncio.sleep(2.0)
    late = Work(tasks, lambda call: asyncio.sleep(9.0, b"x")).accepted()
    late.start()
    assert await draining
    assert loop.time() == 11.0


@virtual
async def test_drain_gives_up_at_its_limit_and_leaves_the_work_running() -> None:
    tasks, loop = make_tasks(), asyncio.get_running_loop()
    tasks.spawn(correlated(), asyncio.sleep, (60.0,))
    assert not await tasks.drain(25.0)
    assert loop.time() == 25.0
    assert len(tasks.detached) == 1
    assert await tasks.drain(60.0)


@virtual
async def test_a_cancelled_drain_disturbs_neither_the_work_nor_another_drain() -> None:
    tasks = make_tasks()
    tasks.spawn(correlated(), asyncio.sleep, (5.0,))
    given_up, other = asyncio.ensure_future(tasks.drain(25.0)), asyncio.ensure_future(tasks.drain(25.0))
    await asyncio.sleep(1.0)
    given_up.cancel()
    assert await other
    assert given_up.cancelled()
    assert len(tasks._idle) == 0


# --- settle


@virtual
async def test_settle_names_those_that_did_not_end_in_time() -> None:
    tasks = make_tasks()
    quick = asyncio.ensure_future(asyncio.sleep(1.0))
    slow = asyncio.ensure_future(asyncio.sleep(9.0))
    done = asyncio.ensure_future(asyncio.sleep(0.0))
    await done
    assert await tasks.settle([quick, slow, done, None], 2.0) == [slow]
    assert await tasks.settle([quick, done], 0.0) == []
    assert await tasks.settle([], 2.0) == []
    await slow


async def test_settle_never_waits_for_the_one_that_asks() -> None:
    tasks = make_tasks()
    async with asyncio.timeout(30.0):
        assert await tasks.settle([asyncio.current_task()], 60.0) == []


# --- close


@virtual
async def test_close_drops_detached_work_and_names_each_once(caplog: pytest.LogCaptureFixture) -> None:
    tasks = make_tasks()
    tasks.spawn(correlated("c1"), forever, (), name="a")
    tasks.spawn(correlated("c2"), forever, (), name="b")
    await asyncio.sleep(2.0)
    await tasks.close()
    await tasks.close()
    assert messages(caplog, "detached") == [
        "detached work dropped name=a age=2.0s correlation_id=c1",
        "detached work dropped name=b age=2.0s correlation_id=c2",
    ]
    await turns()
    assert not tasks.detached
    assert isinstance(tasks.threads, InlineThreads)
    assert tasks.threads.closed == 2


async def test_work_that_has_just_ended_is_not_named_as_dropped(caplog: pytest.LogCaptureFixture) -> None:
    tasks = make_tasks()

    async def work() -> None:
        asyncio.get_running_loop().call_soon(ended.set)

    ended = asyncio.Event()
    tasks.spawn(correlated(), work, ())
    (task,) = tasks.detached
    while not task.done():
        await asyncio.sleep(0)
    await tasks.close()
    assert not caplog.records


@virtual
async def test_close_names_what_does_not_end_and_waits_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    tasks, loop = make_tasks(), asyncio.get_running_loop()
    detached, house, call_work = Stubborn(), Stubborn(), Stubborn()
    tasks.spawn(correlated(), detached.__call__, (), name="detached")
    tasks.start(house(), name="tailrace-house")
    call = Work(tasks, call_work).accepted()
    call.start()
    await asyncio.sleep(1.0)
    await tasks.close(2.0)
    assert loop.time() == 3.0
    assert sorted(messages(caplog, "did not end")) == [
        f"task did not end within 2.0s of its cancellation name=tailrace-{name}"
        for name in ("call", "detached", "house")
    ]
    assert (detached.cancelled, house.cancelled, call_work.cancelled) == (1, 1, 1)
    for work in (detached, house, call_work):
        work.let_go.set()
    await turns()
    assert call.answers == [b"aborted: the server is shutting down"]
    assert not tasks.calls
    assert not tasks.detached


async def test_close_answers_the_calls_that_are_left_in_whatever_state() -> None:
    tasks = make_tasks()
    running, begun, accepted = (Work(tasks, never).accepted() for _ in range(3))
    running.start()
    await turns()
    begun.start()
    await tasks.close()
    for call in (running, begun, accepted):
        assert call.answers == [b"aborted: the server is shutting down"]
    assert not begun.began
    assert not tasks.calls


async def test_after_close_nothing_new_begins() -> None:
    tasks = make_tasks()
    refusals: list[str] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            for begin in (lambda: tasks.spawn(correlated(), forever, ()), lambda: Work(tasks).accepted()):
                with pytest.raises(LimitError) as refused:
                    begin()
                refusals.append(refused.value.limit)

    tasks.spawn(correlated(), work, ())
    await turns()
    await tasks.close()
    assert refusals == ["draining", "draining"]


async def test_close_may_be_asked_for_by_a_task_that_it_would_end() -> None:
    tasks, after = make_tasks(), []

    async def work() -> None:
        await tasks.close(5.0)
        after.append("alive")

    await tasks.start(work(), name="tailrace-x")
    assert after == ["alive"]


@virtual
async def test_a_close_that_is_cancelled_closes_the_threads_all_the_same() -> None:
    tasks = make_tasks()
    stubborn = Stubborn()
    tasks.spawn(correlated(), stubborn.__call__, ())
    await turns()
    closing = asyncio.ensure_future(tasks.close(60.0))
    await asyncio.sleep(1.0)
    closing.cancel()
    await turns()
    assert closing.cancelled()
    assert isinstance(tasks.threads, InlineThreads)
    assert tasks.threads.closed == 1
    stubborn.let_go.set()
    await turns()


def test_the_order_in_which_things_end_together_leaves_nothing_in_the_tables() -> None:
    """Explored: a call answers, is cancelled, spawns, and the server drains and closes, in any order."""
    import detangle

    async def main() -> None:
        tasks = make_tasks()
        finished: list[str] = []

        async def mail() -> None:
            await asyncio.sleep(0)
            finished.append("mail")

        async def work(call: Work) -> bytes:
            await asyncio.sleep(0)
            call.context.spawn(mail)
            await asyncio.sleep(0)
            return b"done"

        call = Work(tasks, work).accepted()

        async def soon(act: Callable[[], Any]) -> None:
            await asyncio.sleep(0)
            act()

        async def end() -> None:
            await tasks.drain(1.0)
            await tasks.close(1.0)

        await asyncio.gather(soon(call.start), soon(lambda: call.cancel(CallCancelled("x"))), end())
        await tasks.close(1.0)
        await turns()
        assert len(call.answers) == 1
        assert (tasks.started, tasks.ended) == (1, 1)
        assert not tasks.calls
        assert not tasks.detached

    detangle.explore(main, runs=150, seed=1, database=False)
