"""A stream is left in bounded time, whatever its peer does (G5): in virtual time, with a pipe that a test plays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.core.stream import State, Stream
from tailrace.errors import CallCancelled, DeadlineExceeded
from tests.core.support import turns, virtual


class Script:
    """A pipe; the test says what comes, and when."""

    def __init__(self, *pieces: bytes, began: bool = True, ready: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        self.head: asyncio.Future[Any] = self.loop.create_future()
        self.pieces = list(pieces)
        self.ready = ready  # what comes is there before it is asked for
        self.waiting: asyncio.Future[bytes] | None = None
        self.dropped = 0
        self.fails_dropped = False
        if began:
            self.head.set_result(None)

    def open(self) -> asyncio.Future[Any]:
        return self.head

    def read(self) -> asyncio.Future[bytes]:
        assert self.waiting is None or self.waiting.done(), "two reads of one pipe"
        self.waiting = self.loop.create_future()
        if self.pieces and self.ready:
            self.waiting.set_result(self.pieces.pop(0))
        elif self.pieces:
            self.loop.call_later(0.1, self.come, self.pieces.pop(0))
        return self.waiting

    def come(self, piece: bytes) -> None:
        assert self.waiting is not None
        if not self.waiting.done():
            self.waiting.set_result(piece)

    def drop(self) -> None:
        self.dropped += 1
        if self.fails_dropped and self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(ConnectionError("dropped"))
        if not self.head.done():
            self.head.cancel()


class Endless(Script):
    """It never ends: `size` bytes every `pause` seconds."""

    def __init__(self, size: int, pause: float) -> None:
        super().__init__()
        self.size = size
        self.pause = pause
        self.sent = 0

    def read(self) -> asyncio.Future[bytes]:
        self.waiting = self.loop.create_future()
        self.sent += self.size
        self.loop.call_later(self.pause, self.come, bytes(self.size))
        return self.waiting


def now() -> float:
    return asyncio.get_running_loop().time()


# --- reading ------------------------------------------------------------------------------------


@virtual
async def test_a_stream_gives_what_comes_to_its_end_and_is_closed_then() -> None:
    closed: list[Stream] = []
    pipe = Script(b"one", b"two", b"")
    stream = Stream(pipe, on_closed=closed.append)
    await stream.open()
    assert stream.state is State.OPEN
    assert [await stream.read() for _ in range(4)] == [b"one", b"two", b"", b""]
    assert (stream.state, stream.complete, stream.reason, pipe.dropped) == (State.CLOSED, True, None, 1)
    assert closed == [stream]
    await stream.open()  # it was


@virtual
async def test_reading_opens() -> None:
    stream = Stream(Script(b"one"))
    assert await stream.read() == b"one"


@virtual
async def test_opening_waits_for_the_peer_and_raises_what_it_raised() -> None:
    pipe = Script(began=False)
    stream = Stream(pipe)
    opening = asyncio.create_task(stream.open())
    await turns()
    assert not opening.done()
    pipe.head.set_exception(ConnectionError("refused"))
    with pytest.raises(ConnectionError, match="refused"):
        await opening
    with pytest.raises(ConnectionError, match="refused"):
        await stream.read()
    assert (stream.state, pipe.dropped) == (State.CLOSED, 1)


@virtual
async def test_a_broken_stream_stays_broken() -> None:
    pipe = Script()
    stream = Stream(pipe)
    reading = asyncio.create_task(stream.read())
    await turns()
    assert pipe.waiting is not None
    pipe.waiting.set_exception(ConnectionError("broke"))
    for attempt in (reading, stream.read()):
        with pytest.raises(ConnectionError, match="broke"):
            await attempt
    await stream.aclose()
    assert (pipe.dropped, stream.complete) == (1, False)


@virtual
async def test_one_task_reads_at_a_time() -> None:
    stream = Stream(Script())
    reading = asyncio.create_task(stream.read())
    await turns()
    with pytest.raises(RuntimeError, match="one task at a time"):
        await stream.read()
    stream.close_nowait()
    with pytest.raises(CallCancelled):
        await reading


@virtual
async def test_a_cancelled_read_gives_up_nothing() -> None:
    pipe = Script(b"one", b"two")
    stream = Stream(pipe)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stream.read()
    assert await stream.read() == b"one"
    assert (await stream.read(), pipe.dropped) == (b"two", 0)


@virtual
async def test_a_cancelled_opening_drops_it() -> None:
    pipe = Script(began=False)
    stream = Stream(pipe)
    opening = asyncio.create_task(stream.open())
    await turns()
    opening.cancel()
    await turns()
    assert (opening.cancelled(), pipe.dropped, stream.state) == (True, 1, State.CLOSED)


@virtual
async def test_a_peer_that_is_always_faster_keeps_neither_the_loop_nor_the_deadline() -> None:
    pipe = Script(*[b"x"] * 1000, ready=True)
    stream = Stream(pipe, deadline=now())

    async def read_on() -> None:
        while True:
            await stream.read()

    with pytest.raises(DeadlineExceeded):
        await read_on()
    assert len(pipe.pieces) > 900


# --- the deadline -------------------------------------------------------------------------------


@virtual
async def test_a_deadline_ends_an_opening_that_never_does() -> None:
    pipe = Script(began=False)
    stream = Stream(pipe, deadline=now() + 5)
    with pytest.raises(DeadlineExceeded):
        await stream.open()
    assert (now(), pipe.dropped) == (5.0, 1)


@virtual
async def test_a_deadline_ends_a_read_that_never_does() -> None:
    pipe = Script(b"one")
    stream = Stream(pipe, deadline=now() + 5)
    assert await stream.read() == b"one"
    with pytest.raises(DeadlineExceeded):
        await stream.read()
    assert (now(), pipe.dropped, stream.state) == (5.0, 1, State.CLOSED)


@virtual
async def test_a_stream_that_has_ended_has_no_deadline_any_more() -> None:
    stream = Stream(Script(b""), deadline=now() + 5)
    assert await stream.read() == b""
    await asyncio.sleep(10)
    assert (stream.reason, await stream.read()) == (None, b"")


@virtual
async def test_a_deadline_that_passes_while_it_is_closed_ends_the_closing() -> None:
    stream = Stream(Endless(1, 0.5), deadline=now() + 5)
    await stream.aclose()
    assert now() == 5.0


# --- closing ------------------------------------------------------------------------------------


@virtual
async def test_closing_reads_to_the_end_so_that_the_connection_can_be_used_again() -> None:
    pipe = Script(b"one", b"two", b"")
    stream = Stream(pipe)
    await stream.aclose()
    assert (stream.complete, stream.state, pipe.pieces) == (True, State.CLOSED, [])
    with pytest.raises(CallCancelled, match="closed"):
        await stream.read()
    with pytest.raises(CallCancelled, match="closed"):
        await stream.open()


@virtual
async def test_closing_a_never_ending_stream_takes_thirty_seconds_by_default() -> None:
    pipe = Endless(10, 1.0)
    stream = Stream(pipe)
    await stream.aclose()
    assert (now(), pipe.dropped, stream.complete) == (30.0, 1, False)


@virtual
async def test_closing_a_silent_stream_takes_thirty_seconds_by_default() -> None:
    pipe = Script()
    stream = Stream(pipe)
    await stream.aclose()
    assert (now(), pipe.dropped) == (30.0, 1)


@virtual
async def test_closing_a_stream_that_never_opens_takes_thirty_seconds_by_default() -> None:
    pipe = Script(began=False)
    await Stream(pipe).aclose()
    assert (now(), pipe.dropped) == (30.0, 1)


@virtual
async def test_closing_a_huge_stream_reads_a_mebibyte_by_default() -> None:
    pipe = Endless(65_536, 0.01)
    stream = Stream(pipe)
    await stream.aclose()
    assert (pipe.sent, pipe.dropped) == (1_048_576 + 65_536, 1)  # the one that went over


@virtual
async def test_both_limits_can_be_said_for_a_stream_and_for_one_closing() -> None:
    await Stream(Script(), close_timeout=2).aclose()
    assert now() == 2.0
    await Stream(Script(), close_timeout=2).aclose(timeout=3)
    assert now() == 5.0
    small, smaller = Endless(10, 0.001), Endless(10, 0.001)
    await Stream(small, close_max_bytes=30).aclose()
    await Stream(smaller, close_max_bytes=30).aclose(max_bytes=0)
    assert (small.sent, smaller.sent) == (40, 10)


@virtual
async def test_closing_within_no_time_does_not_wait() -> None:
    pipe = Endless(1, 1.0)
    await Stream(pipe).aclose(timeout=0)
    assert (now(), pipe.dropped, pipe.sent) == (0.0, 1, 0)


@virtual
async def test_closing_what_breaks_meanwhile_is_no_error() -> None:
    pipe = Script()
    stream = Stream(pipe)
    closing = asyncio.create_task(stream.aclose())
    await turns()
    assert pipe.waiting is not None
    pipe.waiting.set_exception(ConnectionError("broke"))
    await closing
    assert (stream.state, pipe.dropped, now()) == (State.CLOSED, 1, 0.0)


@virtual
async def test_closing_what_cannot_be_opened_is_no_error() -> None:
    pipe = Script(began=False)
    stream = Stream(pipe)
    closing = asyncio.create_task(stream.aclose())
    await turns()
    pipe.head.set_exception(ConnectionError("refused"))
    await closing
    assert (stream.state, pipe.dropped) == (State.CLOSED, 1)


@virtual
async def test_closing_never_waits_when_asked_not_to_and_wakes_whoever_does() -> None:
    pipe = Script()
    pipe.fails_dropped = True
    stream = Stream(pipe)
    reading = asyncio.create_task(stream.read())
    await turns()
    stream.close_nowait()
    stream.close_nowait(ConnectionError("a second reason changes nothing"))
    assert (stream.state, pipe.dropped) == (State.CLOSED, 1)
    with pytest.raises(CallCancelled, match="the stream was closed"):
        await reading


@virtual
async def test_whoever_reads_what_is_closed_leaves_at_once() -> None:
    pipe = Endless(1, 1.0)
    stream = Stream(pipe)
    reading = asyncio.create_task(stream.read())
    await turns()
    closing = asyncio.create_task(stream.aclose(timeout=9))
    await turns()
    assert reading.done()
    assert isinstance(reading.exception(), CallCancelled)
    await closing
    assert now() == 9.0


@virtual
async def test_each_of_two_closers_returns_within_its_own_time() -> None:
    pipe = Endless(1, 1.0)
    stream = Stream(pipe)
    first = asyncio.create_task(stream.aclose(timeout=20))
    await turns()
    await stream.aclose(timeout=3)
    assert now() == 3.0
    await first
    assert (now(), pipe.dropped) == (3.0, 1)


@virtual
async def test_a_second_closer_that_is_cancelled_leaves_the_first_alone() -> None:
    stream = Stream(Endless(1, 1.0))
    first = asyncio.create_task(stream.aclose(timeout=20))
    second = asyncio.create_task(stream.aclose())
    await turns()
    second.cancel()
    await first
    assert (now(), second.cancelled()) == (20.0, True)


@virtual
async def test_a_cancelled_closing_drops_at_once_and_stays_a_cancellation() -> None:
    pipe = Endless(1, 1.0)
    stream = Stream(pipe)
    closing = asyncio.create_task(stream.aclose())
    await asyncio.sleep(5)
    closing.cancel()
    await turns()
    assert (closing.cancelled(), pipe.dropped, stream.state) == (True, 1, State.CLOSED)


@virtual
async def test_a_closing_can_be_cut_short() -> None:
    pipe = Script(began=False)
    stream = Stream(pipe)
    closing = asyncio.create_task(stream.aclose())
    await asyncio.sleep(5)
    stream.close_nowait()
    await closing
    assert (now(), pipe.dropped) == (5.0, 1)


# --- others that wait with it -------------------------------------------------------------------


@virtual
async def test_what_waits_for_something_else_ends_with_the_stream() -> None:
    stream = Stream(Script(b""))
    sent = False
    waiting = asyncio.create_task(stream.until(lambda: sent))
    await turns()
    sent = True
    await turns()
    assert not waiting.done()
    stream.wake()
    await waiting
    waiting = asyncio.create_task(stream.until(lambda: False))
    assert await stream.read() == b""
    await waiting  # nobody takes anything any more


def test_a_stream_only_moves_forward() -> None:
    async def back() -> None:
        stream = Stream(Script(b""))
        await stream.read()
        stream._move(State.OPEN)

    with pytest.raises(RuntimeError, match="closed cannot become open"):
        asyncio.run(back())
