"""A session owns its calls, and ends exactly once, whoever ends it and however often (G1, G2, G5)."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import detangle
import pytest

from tailrace.core.budget import EVENT_BYTES
from tailrace.core.log import Log
from tailrace.core.ports import Kind
from tailrace.core.session import STREAM_BYTES, Lifecycle, Session
from tailrace.core.timers import Sweeper
from tailrace.core.writer import Writer
from tailrace.errors import CallCancelled, LimitError
from tests.core.support import Heard, Notes, Pipe, Work, make_session, make_tasks, never, turns, virtual


class Room:
    """A session with its tasks and its home."""

    def __init__(self, **options: Any) -> None:
        self.tasks = make_tasks()
        self.home = Notes()
        self.session = make_session(self.tasks, self.home, **options)

    def call(self, work: Any = None, key: Any = 1) -> Work:
        call = Work(self.tasks, work, key=key, session=self.session).accepted()
        call.start()
        return call


# --- its calls


async def test_an_accepted_call_belongs_to_the_session_and_the_server_before_any_of_its_code_runs() -> None:
    room = Room()
    call = Work(room.tasks, key="a", session=room.session)
    room.session.accept(call)
    assert room.session.calls == {"a": call}
    assert list(room.tasks.calls) == [call]
    assert not call.began
    call.cancel(CallCancelled())
    assert room.session.calls == {}


async def test_a_key_in_flight_is_not_used_twice_and_is_free_once_its_call_has_ended() -> None:
    room = Room()
    first = room.call(never, "a")
    with pytest.raises(KeyError):
        room.call(key="a")
    assert list(room.tasks.calls) == [first], "the refused one is counted nowhere"
    first.cancel(CallCancelled())
    await turns()
    room.call(key="a")


async def test_a_session_has_its_share_of_calls_and_the_server_its_own() -> None:
    room = Room(max_calls=1)
    room.call(never, 1)
    with pytest.raises(LimitError) as refused:
        room.call(key=2)
    assert refused.value.limit == "session_calls"

    tasks = make_tasks(max_calls=1)
    session = make_session(tasks, Notes())
    Work(tasks, never, key=1, session=session).accepted()
    with pytest.raises(LimitError) as refused:
        Work(tasks, key=2, session=session).accepted()
    assert refused.value.limit == "calls"
    assert list(session.calls) == [1], "what the server refused, the session does not hold"


async def test_releasing_a_call_never_touches_another_under_the_same_key() -> None:
    room = Room()
    living = room.call(never, "a")
    room.session.release(Work(room.tasks, key="a", session=room.session))
    assert room.session.calls == {"a": living}


@virtual
async def test_a_session_is_used_when_a_call_begins_and_when_it_ends() -> None:
    room = Room()
    await asyncio.sleep(10.0)
    call = room.call(lambda call: asyncio.sleep(5.0, b"done"))
    assert room.session.touched == 10.0
    assert room.session.busy
    await asyncio.sleep(20.0)
    assert room.session.touched == 15.0
    assert call.answers == [b"done"]
    assert not room.session.busy
    assert room.session.created == 0.0


async def test_a_session_with_a_connected_reader_is_busy() -> None:
    session = Room().session
    own = session.log.attach(0)
    assert session.busy
    own.stop()
    assert not session.busy
    session.streams[7] = Log(7)
    assert not session.busy
    session.streams[7].attach(0)
    assert session.busy


@virtual
async def test_a_stream_that_has_ended_is_listed_with_its_time_and_what_it_takes() -> None:
    session = Room().session
    for number, events, payload in ((7, 1, b"123"), (8, 2, b"4567")):
        session.streams[number] = Log(number)
        for _ in range(events):
            session.streams[number].append(payload, Kind.ANSWER)
        await asyncio.sleep(2.0)
        session.retire(session.streams[number])
    sizes = [STREAM_BYTES + EVENT_BYTES + 3, STREAM_BYTES + 2 * (EVENT_BYTES + 4)]
    assert [(entry.log.stream, entry.ended) for entry in session.finished] == [(7, 2.0), (8, 4.0)]
    assert [entry.size for entry in session.finished] == sizes, "a stream takes more than its events"
    assert session.finished_bytes == sum(sizes)


async def test_a_notification_goes_to_the_sessions_own_stream() -> None:
    session = Room().session
    session.notify("changed", {"a": 1})
    assert session.log.attach(0).take() == [(1, b"changed {'a': 1}")]
    assert list(session.log.ring_seqs) == [1], "it goes when there is no room, as an answer does not"


@virtual
async def test_a_notification_may_be_awaited_and_waits_only_for_a_connected_reader_that_is_behind() -> None:
    session = Room().session
    await session.notify("changed")  # nobody reads: nobody is waited for
    cursor = session.log.attach(0)
    session.notify("large", "x" * session.log.high_water)
    waiting = asyncio.ensure_future(asyncio.wait_for(session.notify("small"), 30))
    await asyncio.sleep(1.0)
    assert not waiting.done()
    cursor.take()
    cursor.taken()
    await waiting


async def test_a_plain_hook_in_a_thread_may_notify_and_close() -> None:
    room = Room()
    cursor = room.session.log.attach(0)
    waiting = asyncio.ensure_future(cursor.wait())

    def hook() -> None:
        room.session.notify("hello")
        room.session.close("from a thread")

    thread = threading.Thread(target=hook)
    thread.start()
    thread.join()
    assert room.session.lifecycle is Lifecycle.OPEN, "nothing of it was done in the thread"
    assert room.session.log.last == 0
    async with asyncio.timeout(30):
        await waiting
        assert cursor.take() == [(1, b"hello None")]
        await room.session.wait_closed()
    assert room.session.reason == "from a thread"


# --- opening


async def test_the_hooks_that_greet_run_once_however_often_it_is_opened() -> None:
    room = Room()
    room.home.greeting = asyncio.Event()
    opening = [asyncio.ensure_future(room.session.open()) for _ in range(3)]
    await turns()
    assert room.home.said == ["opened"]
    assert not any(task.done() for task in opening)
    room.home.greeting.set()
    await asyncio.gather(*opening)
    await room.session.open()
    assert room.home.said == ["opened", "greeted"]


async def test_a_cancelled_opener_interrupts_neither_the_hooks_nor_the_other_openers() -> None:
    room = Room()
    room.home.greeting = asyncio.Event()
    given_up, other = asyncio.ensure_future(room.session.open()), asyncio.ensure_future(room.session.open())
    await turns()
    given_up.cancel()
    await turns()
    assert given_up.cancelled()
    room.home.greeting.set()
    await other
    assert room.home.said == ["opened", "greeted"]
    await room.session.close("bye")
    assert room.home.said == ["opened", "greeted", "ended bye", "forgotten"]


async def test_closed_while_it_opens_the_farewell_waits_for_the_greeting() -> None:
    room = Room()
    room.home.greeting = asyncio.Event()
    opening = asyncio.ensure_future(room.session.open())
    await turns()
    closing = asyncio.ensure_future(_wait(room.session.close("early")))
    await turns()
    assert room.home.said == ["opened"]
    room.home.greeting.set()
    await asyncio.gather(opening, closing)
    assert room.home.said == ["opened", "greeted", "ended early", "forgotten"]


async def test_closed_while_its_only_opener_was_cancelled_the_farewell_still_waits() -> None:
    room = Room()
    room.home.greeting = asyncio.Event()
    opening = asyncio.ensure_future(room.session.open())
    await turns()
    opening.cancel()
    room.session.close("early")
    await turns()
    assert room.home.said == ["opened"]
    room.home.greeting.set()
    await room.session.wait_closed()
    assert room.home.said == ["opened", "greeted", "ended early", "forgotten"]


async def test_a_session_that_was_never_greeted_is_not_bid_farewell() -> None:
    room = Room()
    await room.session.close("x")
    assert room.home.said == ["forgotten"]


async def test_a_session_that_closes_is_not_greeted_any_more() -> None:
    room = Room()
    room.session.close("x")
    await room.session.open()
    await room.session.wait_closed()
    await room.session.open()
    assert room.home.said == ["forgotten"]


async def test_a_fault_of_the_hooks_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Notes):
        async def opened(self, session: Session) -> None:
            raise ValueError("opened")

        async def ended(self, session: Session, reason: str) -> None:
            raise ValueError("ended")

    tasks, home = make_tasks(), Faulty()
    session = make_session(tasks, home)
    await session.open()
    async with asyncio.timeout(30):
        await session.close("x")
    await turns()
    assert session.lifecycle is Lifecycle.CLOSED
    assert home.said == ["forgotten"]
    assert len(caplog.records) == 2


# --- closing


async def test_every_closer_gets_the_same_end_and_the_first_ones_reason() -> None:
    room = Room()
    await room.session.open()
    room.home.farewell = asyncio.Event()
    first, second, third = room.session.close("first"), room.session.close("second"), room.session.abort()
    closers = [asyncio.ensure_future(_wait(completion)) for completion in (first, second, third)]
    await turns()
    assert room.session.lifecycle is Lifecycle.CLOSING
    assert not any(closer.done() for closer in closers)
    room.home.farewell.set()
    await asyncio.gather(*closers)
    assert room.session.lifecycle is Lifecycle.CLOSED
    assert room.session.reason == "first"
    assert room.home.said == ["opened", "ended first", "forgotten"]
    await room.session.close("once more")
    await room.session.wait_closed()
    assert room.home.said == ["opened", "ended first", "forgotten"]


async def _wait(completion: Any) -> None:
    await completion


async def test_a_closer_that_is_cancelled_disturbs_neither_the_end_nor_another_closer() -> None:
    room = Room()
    await room.session.open()
    room.home.farewell = asyncio.Event()
    given_up, other = (asyncio.ensure_future(_wait(room.session.close("x"))) for _ in range(2))
    await turns()
    given_up.cancel()
    await turns()
    assert given_up.cancelled()
    room.home.farewell.set()
    await other
    assert len(room.session._waiters) == 0


async def test_a_closing_session_accepts_nothing() -> None:
    room = Room()
    room.session.close("x")
    for _ in range(2):
        with pytest.raises(LimitError) as refused:
            room.call()
        assert refused.value.limit == "session"
        await room.session.wait_closed()
    assert not room.tasks.calls


async def test_closing_answers_every_call_in_whatever_state_and_then_ends_the_streams() -> None:
    room = Room()
    running = room.call(never, 1)
    await turns()
    begun = room.call(never, 2)
    accepted = Work(room.tasks, key=3, session=room.session).accepted()
    room.session.streams[7] = Log(7)
    ended_at_answer: list[bool] = []

    class Looking(Heard):
        def answer(self, call: Any, payload: bytes | None) -> None:
            ended_at_answer.append(room.session.log.ended)
            super().answer(call, payload)

    looking = Work(room.tasks, never, key=4, session=room.session, reply=Looking()).accepted()
    looking.start()
    await room.session.close("the reason")
    for call in (running, begun, accepted, looking):
        assert call.answers == [b"aborted: the reason"]
    assert ended_at_answer == [False], "the answer still goes into the stream"
    assert room.session.log.ended
    assert room.session.streams[7].ended
    assert not room.session.calls
    assert not room.tasks.calls


async def test_kept_for_the_next_life_no_answer_of_this_one_is_heard() -> None:
    room = Room()
    order: list[str] = []

    class Looking(Heard):
        def answer(self, call: Any, payload: bytes | None) -> None:
            order.append(f"answer, log ended {room.session.log.ended}, {room.home.said}")

    Work(room.tasks, never, key=1, session=room.session, reply=Looking()).accepted().start()
    await turns()
    await room.session.close("restart", keep=True)
    assert order == ["answer, log ended True, ['suspended']"]
    assert room.home.said == ["suspended", "kept"]


@virtual
async def test_a_call_that_ignores_its_cancellation_is_waited_for_only_as_long_as_was_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    room = Room()
    go = asyncio.Event()

    async def stubborn(call: Work) -> bytes:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
        return b"late"

    call = room.call(stubborn)
    await turns()
    await room.session.close("x", grace=5.0)
    assert asyncio.get_running_loop().time() == 5.0
    assert "calls did not end within 5.0s" in caplog.text
    assert room.session.log.ended
    go.set()
    await turns()
    assert call.answers == [b"aborted: x"]
    assert not room.session.calls
    assert not room.tasks.calls


@virtual
async def test_abort_does_not_wait_for_calls() -> None:
    room = Room()

    async def slow(call: Work) -> bytes:
        try:
            return await never(call) or b""
        finally:
            await asyncio.sleep(3.0)

    room.call(slow)
    await turns()
    await room.session.abort()
    assert room.session.reason == "aborted by the server"
    assert asyncio.get_running_loop().time() == 0.0
    await asyncio.sleep(4.0)
    assert not room.tasks.calls


async def test_a_handler_may_close_its_own_session_and_wait_for_the_end() -> None:
    room = Room()

    async def work(call: Work) -> bytes:
        await room.session.close("by its own handler")
        return b"unreachable"

    call = room.call(work)
    async with asyncio.timeout(30):
        await room.session.wait_closed()
    assert call.answers == [b"aborted: by its own handler"]


async def test_closing_wakes_a_reader_a_producer_and_a_listener() -> None:
    room = Room()
    log = room.session.log
    log.high_water = 1
    context = room.call(never).context
    cursor = log.attach(0)
    log.append(b"xx", Kind.NOTIFICATION)
    reading = asyncio.ensure_future(log.attach(1).wait())
    producing = asyncio.ensure_future(_behind(log))
    listening = asyncio.ensure_future(context.wait_cancelled())
    await turns()
    room.session.close("x")
    async with asyncio.timeout(30):
        await asyncio.gather(reading, producing, listening, room.session.wait_closed())
    assert cursor.stopped


async def _behind(log: Log) -> None:
    assert log.reader is not None
    log.reader.unread = 100
    await log.room()


async def test_interrupted_at_shutdown_the_end_still_ends_everything() -> None:
    room = Room()
    await room.session.open()
    room.home.farewell = asyncio.Event()
    closing = asyncio.ensure_future(_wait(room.session.close("x")))
    await turns()
    await room.tasks.close(1.0)
    await closing
    assert room.session.lifecycle is Lifecycle.CLOSED
    assert room.session.log.ended
    assert room.home.said == ["opened", "ended x", "forgotten"]


async def test_whoever_waits_for_the_end_is_told_even_if_the_home_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Notes):
        def forget(self, session: Session, *, keep: bool) -> None:
            raise ValueError("forget")

    session = make_session(make_tasks(), Faulty())
    async with asyncio.timeout(30):
        await session.close("x")
    await turns()
    assert "internal task failed" in caplog.text


async def test_nothing_keeps_an_ended_session_alive() -> None:
    tasks, home = make_tasks(), Notes()

    class Weak(Session):  # no __slots__, so it can be referred to weakly
        pass

    session = Weak("s", b"s", "", tasks=tasks, home=home, log=Log(), record=None)
    await session.open()
    Work(tasks, never, key=1, session=session).accepted().start()
    await turns()
    await session.close("x")
    await turns()
    assert not tasks._own, "the tasks that opened and closed it are over"
    gone = weakref.ref(session)
    del session
    await turns()
    gc.collect()
    assert gone() is None


# --- in any order


def test_in_any_order_hooks_come_in_pairs_calls_are_answered_once_and_all_streams_end() -> None:
    """Explored: open, accept and start, cancel, close by two closers, and the readers, in any order."""

    async def main() -> None:
        room = Room()
        session = room.session
        refused: list[str] = []
        calls: list[Work] = []

        async def opener() -> None:
            await session.open()

        async def client() -> None:
            for key in range(2):
                await asyncio.sleep(0)
                try:
                    calls.append(Work(room.tasks, key=key, session=session).accepted())
                except LimitError as error:
                    refused.append(error.limit)
                    continue
                await asyncio.sleep(0)
                calls[-1].start()

        async def closer(reason: str) -> None:
            await asyncio.sleep(0)
            await session.close(reason)
            assert session.lifecycle is Lifecycle.CLOSED

        async def canceller() -> None:
            await asyncio.sleep(0)
            for call in list(session.calls.values()):
                call.cancel(CallCancelled("by its client"))

        async def reader() -> None:
            cursor = session.log.attach(0)
            while not session.log.finished and not cursor.stopped:
                await cursor.wait()
                cursor.take()

        await asyncio.gather(opener(), client(), closer("a"), closer("b"), canceller(), reader(), reader())
        await turns(3)
        assert len(calls) + len(refused) == 2
        assert all(len(call.answers) == 1 for call in calls)
        assert not room.tasks.calls
        assert not session.calls
        assert session.log.finished
        assert room.home.said.count("opened") == sum(1 for said in room.home.said if said.startswith("ended"))
        assert room.home.said.count("forgotten") == 1
        assert room.home.said[-1] == "forgotten"

    detangle.explore(main, runs=200, seed=1, database=False)


def test_a_stream_that_is_taken_over_at_any_moment_delivers_every_answer() -> None:
    """Explored: two connections follow each other on one stream while a handler writes and waits for room."""

    class Plain:
        def frames(self, events: list[tuple[int, bytes]]) -> bytes:
            return b"".join(b"%d;" % seq for seq, _ in events)

        def gap(self, lost: int) -> bytes:
            raise AssertionError(f"{lost} events lost in front of a connected reader")

    async def main() -> None:
        log, sweeper = Log(high_water=2), Sweeper()
        pipes = [Pipe(), Pipe()]

        async def produce() -> None:
            for _ in range(4):
                log.append(b"nn", Kind.NOTIFICATION)
                await log.room()
            log.append(b"answer", Kind.ANSWER)
            log.end()

        async def connect(pipe: Pipe, after: int) -> None:
            for _ in range(after):
                await asyncio.sleep(0)
            await Writer(log.attach(0), Plain(), sweeper).run(pipe)

        async with asyncio.timeout(60.0):
            await asyncio.gather(produce(), connect(pipes[0], 0), connect(pipes[1], 3))
        assert any(b"".join(pipe.writes) == b"1;2;3;4;5;" for pipe in pipes)
        assert log.reader is None
        sweeper.close()

    detangle.explore(main, runs=200, seed=1, database=False)
