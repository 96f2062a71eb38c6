"""A body that is still coming: read as it arrives, counted as it is taken, and never complete when it is not."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.errors import TransportError
from tailrace.transports.incoming import Incoming


class Flow:
    """The connection's end: how many bytes were taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.body = Incoming(self.take)

    def take(self, size: int) -> None:
        self.taken += size


async def test_a_read_gives_all_that_has_arrived_and_the_end_again_and_again() -> None:
    flow = Flow()
    flow.body.put(b"ab")
    flow.body.put(b"c")
    assert (flow.body.held, flow.taken) == (3, 0)
    assert await flow.body.read() == b"abc"
    assert (flow.body.held, flow.taken) == (0, 3)
    flow.body.put(b"d")
    flow.body.finish()
    assert [await flow.body.read() for _ in range(3)] == [b"d", b"", b""]


async def test_a_read_waits_and_may_be_given_up() -> None:
    flow = Flow()
    waiting = asyncio.ensure_future(flow.body.read())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    again = asyncio.ensure_future(flow.body.read())
    await asyncio.sleep(0)
    flow.body.put(b"a")
    flow.body.put(b"b")
    assert await again == b"ab"


async def test_what_breaks_it_off_is_raised_at_once_and_nothing_after_its_end_can() -> None:
    flow = Flow()
    flow.body.put(b"half a message")
    flow.body.fail(TransportError("the peer is gone"))
    flow.body.fail(TransportError("twice"))
    for _ in range(2):
        with pytest.raises(TransportError, match="the peer is gone"):
            await flow.body.read()
    assert flow.taken == 14
    whole = Flow()
    whole.body.put(b"a")
    whole.body.finish()
    whole.body.fail(TransportError("the peer is gone"))
    assert [await whole.body.read() for _ in range(2)] == [b"a", b""]


async def test_a_reader_that_waits_hears_of_the_break() -> None:
    flow = Flow()
    waiting = asyncio.ensure_future(flow.body.read())
    await asyncio.sleep(0)
    flow.body.fail(TransportError("the peer is gone"))
    with pytest.raises(TransportError):
        await waiting


async def test_what_is_stopped_drops_and_counts_what_still_comes() -> None:
    flow = Flow()
    flow.body.put(b"ab")
    flow.body.stop()
    flow.body.stop()
    flow.body.put(b"cde")
    assert (flow.body.held, flow.taken) == (0, 5)
    with pytest.raises(TransportError):
        await flow.body.read()
