"""Plain functions run in a bounded number of threads, which hold up nobody: no caller, no exit."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

import tailrace
from tailrace.core.threads import Threads
from tailrace.errors import CallCancelled, LimitError

value: contextvars.ContextVar[str] = contextvars.ContextVar("value", default="unset")


class Gate:
    """A function that runs until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.opened.wait(60)
        return threading.current_thread().name


@pytest.fixture
def gates() -> Iterator[Callable[[], Gate]]:
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate())
        return made[-1]

    yield make
    for gate in made:
        gate.opened.set()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def begin(call: Awaitable[str], gate: Gate) -> asyncio.Future[str]:
    task = asyncio.ensure_future(call)
    await until(gate.entered.is_set)
    return task


async def queue(threads: Threads, fn: Callable[[], object]) -> asyncio.Task[object]:
    before = threads.statistics()["waiting"]
    task = asyncio.create_task(threads.run(fn))
    await until(lambda: threads.statistics()["waiting"] > before)
    return task


async def test_a_function_runs_in_a_named_daemon_thread_and_its_result_comes_back() -> None:
    threads = Threads(name="pool")
    thread = await threads.run(threading.current_thread)
    assert (thread.name, thread.daemon) == ("pool-1", True)
    threads.close()


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), SystemExit(3)])
async def test_what_a_function_raises_comes_back(error: BaseException) -> None:
    def fail() -> None:
        raise error

    threads = Threads()
    with pytest.raises(type(error)) as caught:
        await threads.run(fail)
    assert caught.value is error
    assert await threads.run(lambda: "still there") == "still there"
    assert threads.statistics()["threads"] == 1
    threads.close()


async def test_a_stop_iteration_does_not_hang_the_caller() -> None:
    threads = Threads()
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(lambda: next(iter(())))
    threads.close()


async def test_a_function_sees_the_values_of_its_caller_and_changes_none() -> None:
    def see() -> str:
        seen = value.get()
        value.set("changed")
        return seen

    threads = Threads(size=1)
    value.set("one")
    assert await threads.run(see) == "one"
    assert value.get() == "one"
    value.set("two")
    assert await threads.run(see) == "two"
    threads.close()


async def test_no_thread_is_started_before_it_is_needed_nor_where_one_is_idle(gates: Callable[[], Gate]) -> None:
    threads = Threads()
    assert threads.statistics() == {"threads": 0, "busy": 0, "waiting": 0}
    for _ in range(10):
        await threads.run(lambda: None)
        assert threads.statistics() == {"threads": 1, "busy": 0, "waiting": 0}
    gate, other = gates(), gates()
    tasks = [await begin(threads.run(gate), gate), await begin(threads.run(other), other)]
    assert threads.statistics() == {"threads": 2, "busy": 2, "waiting": 0}
    gate.opened.set()
    other.opened.set()
    await asyncio.gather(*tasks)
    threads.close()


async def test_more_than_may_run_wait_and_more_than_may_wait_are_refused(gates: Callable[[], Gate]) -> None:
    threads = Threads(size=2, waiting=1)
    first, second = gates(), gates()
    running = [await begin(threads.run(first), first), await begin(threads.run(second), second)]
    queued = await queue(threads, lambda: "third")
    with pytest.raises(LimitError) as caught:
        await threads.run(lambda: "fourth")
    assert caught.value.limit == "threads"
    assert threads.statistics() == {"threads": 2, "busy": 2, "waiting": 1}
    first.opened.set()
    assert await queued == "third"
    assert await threads.run(lambda: "fifth") == "fifth"
    second.opened.set()
    await asyncio.gather(*running)
    threads.close()


async def test_those_that_wait_run_in_their_order(gates: Callable[[], Gate]) -> None:
    threads = Threads(size=1)
    gate = gates()
    running = await begin(threads.run(gate), gate)
    order: list[int] = []
    queued = [await queue(threads, lambda number=number: order.append(number)) for number in range(5)]
    gate.opened.set()
    await asyncio.gather(running, *queued)
    assert order == [0, 1, 2, 3, 4]
    threads.close()


async def test_a_place_is_free_again_when_the_result_is_there() -> None:
    threads = Threads(size=1, waiting=0)
    for number in range(200):
        assert await threads.run(lambda number=number: number) == number
    threads.close()


async def test_a_cancelled_caller_returns_at_once_and_the_place_is_free_when_the_function_returns(
    gates: Callable[[], Gate],
) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    threads = Threads(size=1, waiting=0)
    gate = gates()
    running = await begin(threads.run(gate), gate)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert threads.statistics()["busy"] == 1
    with pytest.raises(LimitError):
        await threads.run(lambda: None)
    gate.opened.set()
    await until(lambda: threads.statistics()["busy"] == 0)
    assert await threads.run(lambda: "again") == "again"
    assert faults == []  # the dropped result surprised nobody
    threads.close()


async def test_a_function_that_is_cancelled_while_it_waits_never_starts(gates: Callable[[], Gate]) -> None:
    threads = Threads(size=1, waiting=1)
    gate = gates()
    running = await begin(threads.run(gate), gate)
    started: list[str] = []
    for _ in range(3):
        cancelled = await queue(threads, lambda: started.append("cancelled"))
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert threads.statistics()["waiting"] == 0  # its place in the queue is free at once
    last = await queue(threads, lambda: started.append("last"))
    gate.opened.set()
    await asyncio.gather(running, last)
    assert started == ["last"]
    threads.close()


async def test_close_drops_what_waits_and_takes_nothing_new_and_lets_the_rest_finish(
    gates: Callable[[], Gate],
) -> None:
    threads = Threads(size=1)
    gate = gates()
    running = await begin(threads.run(gate), gate)
    started: list[str] = []
    queued = await queue(threads, lambda: started.append("queued"))
    threads.close()
    threads.close()
    with pytest.raises(CallCancelled):
        await queued
    with pytest.raises(CallCancelled):
        await threads.run(lambda: started.append("new"))
    gate.opened.set()
    assert await running == "tailrace-tool-1"
    await until(lambda: threads.statistics()["threads"] == 0)
    assert started == []


async def test_close_ends_idle_threads() -> None:
    threads = Threads(name="idle", idle_seconds=3600.0)  # else it would end by itself, and the test could not fail
    thread = await threads.run(threading.current_thread)
    threads.close()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert threads.statistics()["threads"] == 0


async def test_a_thread_without_work_ends_and_another_is_started_when_there_is_some() -> None:
    threads = Threads(idle_seconds=0.0)
    for _ in range(3):
        await threads.run(lambda: None)
        await until(lambda: threads.statistics()["threads"] == 0)
    threads.close()


async def test_no_wake_up_is_lost_between_threads_that_end_and_work_that_arrives() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = Threads(size=3, waiting=1000, idle_seconds=0.0)
        for _ in range(20):
            calls = [threads.run(lambda number=number: number) for number in range(50)]
            assert await asyncio.gather(*calls) == list(range(50))
            assert threads.statistics()["threads"] <= 3
        threads.close()
    finally:
        sys.setswitchinterval(interval)


async def test_two_loops_share_a_pool() -> None:
    threads = Threads(size=1)

    async def many() -> list[int]:
        return [await threads.run(lambda number=number: number) for number in range(100)]

    other = asyncio.to_thread(asyncio.run, many())
    assert await asyncio.gather(many(), other) == [list(range(100))] * 2
    threads.close()


def test_a_loop_that_is_closed_harms_neither_the_thread_nor_the_next_caller(gates: Callable[[], Gate]) -> None:
    threads = Threads(size=1)
    gate = gates()

    async def leave() -> None:
        running = await begin(threads.run(gate), gate)
        running.cancel()

    asyncio.run(leave())
    gate.opened.set()

    async def again() -> str:
        return await threads.run(lambda: threading.current_thread().name)

    assert asyncio.run(again()) == "tailrace-tool-1"
    threads.close()


class Large(Exception):
    """Something that can be seen to go."""


async def test_an_idle_thread_holds_neither_the_function_nor_its_result_nor_its_error() -> None:
    threads = Threads()

    def fail(error: Large) -> None:
        raise error

    large, error = Large(), Large()
    seen = weakref.ref(large), weakref.ref(error)
    await threads.run(lambda large=large: large)
    with contextlib.suppress(Large):
        await threads.run(lambda error=error: fail(error))
    del large, error
    await until(lambda: gc.collect() >= 0 and all(ref() is None for ref in seen))
    assert threads.statistics()["threads"] == 1
    threads.close()


def no_more(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_work_is_refused_where_the_system_gives_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(LimitError, match="can't start new thread") as caught:
            await threads.run(lambda: None)
    assert caught.value.limit == "threads"
    assert threads.statistics() == {"threads": 0, "busy": 0, "waiting": 0}
    assert await threads.run(lambda: "later") == "later"
    threads.close()


async def test_work_waits_for_the_threads_there_are_where_the_system_gives_no_more(
    gates: Callable[[], Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads()
    gate = gates()
    running = await begin(threads.run(gate), gate)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        queued = await queue(threads, lambda: threading.current_thread().name)
    assert threads.statistics() == {"threads": 1, "busy": 1, "waiting": 1}
    gate.opened.set()
    assert await asyncio.gather(running, queued) == ["tailrace-tool-1"] * 2
    threads.close()


def test_a_function_that_never_returns_does_not_hold_the_exit_of_the_process() -> None:
    script = """
import asyncio, threading
from tailrace.core.threads import Threads

async def main():
    threads, entered = Threads(), threading.Event()
    def never():
        entered.set()
        threading.Event().wait()
    task = asyncio.create_task(threads.run(never))
    while not entered.is_set():
        await asyncio.sleep(0)
    task.cancel()
    threads.close()

asyncio.run(main())
print("ended")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(tailrace.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ended\n", b"")
