"""`Listener.close`: accepts nothing, lets replies be finished, cuts the rest in time. Twice is as good as once."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tailrace.core.exchange import Sink
from tailrace.core.settings import Settings
from tailrace.transports.http import Listener
from tests.transports.http.rig import PLAIN, Rig, listen, request, serving


async def test_idle_connections_are_closed_at_once_and_none_is_accepted() -> None:
    async with serving() as served, served.peer() as fresh, served.peer() as used:
        await used.send(request(body=b"a"))
        await used.reply()
        await served.until(lambda: served.listener.statistics()["connections"] == 2)
        await asyncio.wait_for(served.listener.close(60), 60)
        assert await fresh.closed()
        assert await used.closed()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*served.address)


async def test_a_reply_that_is_pending_is_finished_and_says_close() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        closing = asyncio.ensure_future(served.listener.close(60))
        await asyncio.sleep(0.02)
        assert not closing.done()
        served.rig.exchanges[0].respond(200, PLAIN, b"finished")
        reply = await peer.reply()
        assert (reply.body, reply["connection"]) == (b"finished", "close")
        await asyncio.wait_for(closing, 60)


async def test_a_stream_may_end_in_order() -> None:
    stop = asyncio.Event()

    async def until_told(sink: Sink) -> None:
        await sink.write(b"a")
        await stop.wait()
        await sink.write(b"farewell")
        await sink.end()

    async with serving() as served, served.peer() as peer:
        served.rig.writer = until_told
        await peer.send(request("GET", "/stream"))
        await peer.head()
        assert await peer.chunk() == b"a"
        closing = asyncio.ensure_future(served.listener.close(60))
        await asyncio.sleep(0)
        stop.set()
        assert [chunk async for chunk in peer.chunks()] == [b"farewell"]
        assert await peer.closed()
        await asyncio.wait_for(closing, 60)


async def test_a_request_that_is_half_sent_may_be_finished() -> None:
    async with serving() as served, served.peer() as in_head, served.peer() as in_body:
        await in_head.send(b"POST /echo HT")
        await in_body.send(request("POST", "/echo", None, "Content-Length: 4") + b"ab")
        await served.until(lambda: served.listener.statistics()["connections"] == 2)
        await asyncio.sleep(0.02)
        closing = asyncio.ensure_future(served.listener.close(60))
        await asyncio.sleep(0)
        await in_head.send(b"TP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nc" + request(body=b"not begun"))
        await in_body.send(b"cd")
        for peer, body in ((in_head, b"c"), (in_body, b"abcd")):
            reply = await peer.reply()
            assert (reply.body, reply["connection"]) == (body, "close")
            assert await peer.closed()
        await asyncio.wait_for(closing, 60)


async def test_what_does_not_end_is_cut_when_the_time_is_over() -> None:
    async def endless(sink: Sink) -> None:
        while True:
            await sink.write(b"x" * 10_000)

    async with serving() as served, served.peer() as held, served.peer() as stalled, served.peer() as half:
        served.rig.writer = endless
        await held.send(request(target="/held", body=b""))
        stalled.writer.transport.pause_reading()
        await stalled.send(request("GET", "/stream"))
        await half.send(b"GET /")
        await served.until(lambda: len(served.rig.exchanges) == 2)
        await asyncio.wait_for(served.listener.close(0.1), 60)
        assert served.listener.statistics()["connections"] == 0
        await served.until(lambda: len(served.rig.gone) == 2)


async def test_closing_twice_and_at_the_same_time_is_as_good_as_once() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        closings = [asyncio.ensure_future(served.listener.close(0.05)) for _ in range(3)]
        await asyncio.wait_for(asyncio.gather(*closings), 60)
        await asyncio.wait_for(served.listener.close(60), 60)
        assert served.listener.statistics()["connections"] == 0


async def test_a_listener_that_never_started_can_be_closed() -> None:
    listening = listen()
    await Listener(Rig(Settings()), [listening]).close(1)
    listening.close()


async def test_a_cancelled_close_leaves_nothing_that_hinders_the_next_one() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        closing = asyncio.ensure_future(served.listener.close(60))
        await asyncio.sleep(0.02)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.wait_for(served.listener.close(0), 60)
        assert served.listener.statistics()["connections"] == 0


def test_sockets_of_a_listener_notice_peers_that_vanished() -> None:
    """The kernel drops a peer that acknowledges nothing; nothing of ours has to be written for it to ask."""

    async def main() -> dict[str, int]:
        async with serving(stall=30) as served, served.peer():
            await served.until(lambda: served.listener.statistics()["connections"])
            (connection,) = served.listener._connections  # type: ignore[attr-defined]
            sock = connection._transport.get_extra_info("socket")
            return {
                "keepalive": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                "user_timeout": sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 18)),
            }

    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert asyncio.run(main()) == {"keepalive": 1, "user_timeout": 30_000}
