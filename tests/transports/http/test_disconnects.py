"""A client that goes away is noticed at once, wherever its request stands. A peer that ends its half is gone."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.core.exchange import Sink
from tailrace.errors import TransportError
from tests.transports.http.rig import PLAIN, Peer, request, serving


def reset(peer: Peer) -> None:
    sock: Any = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


def close(peer: Peer) -> None:
    peer.writer.close()


def end_its_half(peer: Peer) -> None:
    peer.writer.write_eof()


Leave = Callable[[Peer], None]
leaves = pytest.mark.parametrize("leave", [reset, close, end_its_half])


@leaves
async def test_while_the_reply_is_pending(leave: Leave) -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        leave(peer)
        await served.until(lambda: served.rig.gone)
        (exchange,) = served.rig.exchanges
        assert exchange.gone
        exchange.respond(200, PLAIN, b"nobody hears it")  # does nothing, quietly
        exchange.stream(200, PLAIN, served.rig.writer)
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert len(served.rig.gone) == 1


@leaves
async def test_while_a_stream_is_idle(leave: Leave) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def waits(sink: Sink) -> None:
        await sink.write(b"a")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("cancelled")
            raise

    async with serving() as served, served.peer() as peer:
        served.rig.writer = waits
        await peer.send(request("GET", "/stream"))
        await peer.head()
        assert await peer.chunk() == b"a"
        leave(peer)
        await served.until(lambda: served.rig.gone)
        assert await asyncio.wait_for(ended.get(), 60) == "cancelled"


@leaves
async def test_while_a_stream_waits_for_room(leave: Leave) -> None:
    async def endless(sink: Sink) -> None:
        while True:
            await sink.write(b"x" * 50_000)

    async with serving() as served, served.peer() as peer:
        served.rig.writer = endless
        peer.writer.transport.pause_reading()
        await peer.send(request("GET", "/stream"))
        (connection,) = served.listener._connections  # type: ignore[attr-defined]
        await served.until(lambda: connection._paused)  # type: ignore[attr-defined]
        leave(peer)
        await served.until(lambda: served.rig.gone)


@leaves
async def test_while_the_body_is_being_read(leave: Leave) -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", None, "Content-Length: 10") + b"12345")
        leave(peer)
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert served.rig.exchanges == []


@leaves
@pytest.mark.parametrize("sent", [b"", b"GET /ec", request(body=b"whole")])
async def test_while_idle_or_in_a_head(leave: Leave, sent: bytes) -> None:
    async with serving() as served, served.peer() as peer:
        if sent:
            await peer.send(sent)
        await served.until(lambda: served.listener.statistics()["accepted"])
        leave(peer)
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert served.rig.gone == []


async def test_a_reply_that_was_given_before_the_half_was_ended_arrives_whole() -> None:
    body = bytes(3_000_000)
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, body)
        await peer.send(request("GET", "/other"))
        await served.until(lambda: served.rig.exchanges)
        peer.writer.write_eof()
        assert (await peer.reply()).body == body
        assert await peer.closed()


async def test_requests_behind_the_end_of_the_half_are_not_begun() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b"") + request(body=b"never") * 3)
        await served.until(lambda: served.rig.exchanges)
        peer.writer.write_eof()
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert len(served.rig.exchanges) == 1


async def test_a_request_whose_client_leaves_with_its_last_byte_is_still_handed_over() -> None:
    """It was sent whole: what it asks for is accepted, though nobody waits for the reply."""
    async with serving() as served:
        for _ in range(20):
            async with served.peer() as peer:
                await peer.send(request(target="/held", body=b"a"))
                peer.writer.close()
        await served.until(lambda: len(served.rig.gone) == 20)


async def test_a_client_that_leaves_after_its_reply_is_nobodys_loss() -> None:
    async with serving() as served:
        assert (await served.ask(request(body=b"a"))).body == b"a"
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert served.rig.gone == []


async def test_writing_to_a_peer_that_is_gone_says_so() -> None:
    outcome: asyncio.Queue[str] = asyncio.Queue()
    gone = asyncio.Event()

    async def stubborn(sink: Sink) -> None:
        try:
            await gone.wait()
        except asyncio.CancelledError:
            try:
                await sink.write(b"a")
            except TransportError as error:
                outcome.put_nowait(str(error))
            raise

    async with serving() as served, served.peer() as peer:
        served.rig.writer = stubborn
        await peer.send(request("GET", "/stream"))
        await peer.head()
        reset(peer)
        assert "gone" in await asyncio.wait_for(outcome.get(), 60)
