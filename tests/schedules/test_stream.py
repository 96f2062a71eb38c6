"""Whatever meets at the end of a client's stream (G5): it is closed once, its pipe dropped once, and nobody waits on.

Every pair and every triple of: it is closed gracefully, twice; it is closed without waiting; the client ends it; its
reader is cancelled; a closer is cancelled; its deadline passes; its peer ends it, breaks it, begins to answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import pytest

from tailrace.core.stream import State, Stream
from tailrace.errors import CallCancelled, DeadlineExceeded
from tests.schedules.exploring import MORE, exhaust, in_order, racing

DELAYS = 3 if MORE else 2
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
Record = Callable[[str, object], None]


class Pipe:
    """What a peer does to it is done by the scenario; a drop fails or cancels what waits, as pyqwest does."""

    def __init__(self, began: bool) -> None:
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[Any] = loop.create_future()
        self.waiting: list[asyncio.Future[bytes]] = []
        self.queue: list[bytes | Exception] = [b"piece"]
        self.dropped = 0
        if began:
            self.head.set_result(None)

    def open(self) -> asyncio.Future[Any]:
        return self.head

    def read(self) -> asyncio.Future[bytes]:
        assert not any(not one.done() for one in self.waiting), "two reads of one pipe"
        assert not self.dropped, "a pipe that was dropped is read"
        assert self.head.done(), "a pipe is read before its head"
        self.waiting.append(asyncio.get_running_loop().create_future())
        self.pump()
        return self.waiting[-1]

    def pump(self) -> None:
        if self.queue and self.waiting and not self.waiting[-1].done():
            piece = self.queue.pop(0)
            if isinstance(piece, Exception):
                self.waiting[-1].set_exception(piece)
            else:
                self.waiting[-1].set_result(piece)

    def come(self, piece: bytes | Exception) -> None:
        self.queue.append(piece)
        self.pump()

    def drop(self) -> None:
        self.dropped += 1
        if not self.head.done():
            self.head.cancel()
        if self.waiting and not self.waiting[-1].done():
            self.waiting[-1].set_exception(ConnectionError("read after the drop"))


class Meeting:
    """One stream, its reader, and those who end it."""

    def __init__(self, *, began: bool) -> None:
        self.closed = 0
        self.pipe = Pipe(began)
        deadline = asyncio.get_running_loop().time() + 50
        self.stream = Stream(self.pipe, deadline=deadline, close_timeout=5.0, on_closed=self.note)
        self.outcome: object = None
        self.reader = asyncio.create_task(self.read())
        self.closers: list[asyncio.Task[None]] = []

    def note(self, stream: Stream) -> None:
        self.closed += 1

    async def read(self) -> None:
        try:
            while await self.stream.read():
                pass
            self.outcome = "end"
        except (CallCancelled, DeadlineExceeded, ConnectionError) as error:
            self.outcome = error

    def aclose(self) -> None:
        self.closers.append(asyncio.create_task(self.stream.aclose()))

    def aclose_again(self) -> None:
        self.closers.append(asyncio.create_task(self.stream.aclose(timeout=1.0)))

    def close_nowait(self) -> None:
        self.stream.close_nowait()

    def client(self) -> None:
        self.stream.close_nowait(CallCancelled("the client was closed"))

    def cancel(self) -> None:
        self.reader.cancel()

    def cancel_closing(self) -> None:
        for closer in self.closers[:1]:
            closer.cancel()

    def deadline(self) -> None:
        self.stream._expire()

    def peer_begins(self) -> None:
        if not self.pipe.head.done():
            self.pipe.head.set_result(None)

    def peer_ends(self) -> None:
        self.pipe.come(b"")

    def peer_breaks(self) -> None:
        if self.pipe.head.done():
            self.pipe.come(ConnectionError("the peer broke"))
        else:
            self.pipe.head.set_exception(ConnectionError("the peer refused"))


ENDS = (
    "aclose",
    "aclose_again",
    "close_nowait",
    "client",
    "cancel",
    "cancel_closing",
    "deadline",
    "peer_begins",
    "peer_ends",
    "peer_breaks",
)


async def meet(names: tuple[str, ...], *, began: bool) -> None:
    in_order()
    meeting = Meeting(began=began)
    stream, pipe = meeting.stream, meeting.pipe

    async def end(name: str) -> None:
        await asyncio.sleep(0)
        getattr(meeting, name)()

    async with racing():
        await asyncio.gather(*(end(name) for name in names))
        await asyncio.sleep(0.01)
    if meeting.closers:
        await asyncio.wait(meeting.closers, timeout=5.0)
        assert all(closer.done() for closer in meeting.closers), "a closing took longer than its limit"
    if stream.state is not State.CLOSED:  # a reader that is cancelled gives up nothing, nor a closer that never ran
        assert {"cancel", "cancel_closing"} & set(names), "nothing ended it"
        stream.close_nowait()
    await asyncio.wait([meeting.reader], timeout=0.1)
    assert meeting.reader.done(), "the reader still waits"
    assert stream.state is State.CLOSED
    assert (pipe.dropped, meeting.closed) == (1, 1)
    assert len(stream._waiters) == 0
    if meeting.reader.cancelled():
        assert "cancel" in names
    else:
        assert meeting.outcome is not None
        assert "read after the drop" not in str(meeting.outcome), "what a drop does to a pipe is no news for a reader"
        if isinstance(meeting.outcome, DeadlineExceeded):
            assert "deadline" in names
    for closer in meeting.closers:
        assert closer.cancelled() or closer.exception() is None
    assert not any(task is not asyncio.current_task() for task in asyncio.all_tasks())


@pytest.mark.parametrize("began", [True, False], ids=["open", "opening"])
@pytest.mark.parametrize("names", list(combinations(ENDS, 2)), ids="-".join)
def test_two_ends_meet(names: tuple[str, ...], began: bool, record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, names, began=began), delays=DELAYS))


@pytest.mark.parametrize("began", [True, False], ids=["open", "opening"])
@pytest.mark.parametrize("names", list(combinations(ENDS, 3)), ids="-".join)
def test_three_ends_meet(names: tuple[str, ...], began: bool, record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, names, began=began), delays=2 if MORE else 1))
