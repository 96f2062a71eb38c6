"""Every limit ends in a clear status or a closed connection, in time, and in bounded memory."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tailrace.core.exchange import Sink
from tailrace.errors import TransportError
from tests.transports.http.rig import PLAIN, Peer, request, serving

CHUNKED = "Transfer-Encoding: chunked"


# --- time --------------------------------------------------------------------------------------------


async def test_a_head_that_trickles_is_timed_from_its_first_byte() -> None:
    async with serving(header_time=0.2) as served, served.peer() as peer:
        await peer.send(request(body=b"the time counts for each request"))
        assert (await peer.reply()).status == 200
        head = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000
        for at in range(len(head)):
            await peer.send(head[at : at + 1])
            if not peer.reader._buffer:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            else:
                break
        reply = await peer.reply()
        assert (reply.status, reply["connection"]) == (408, "close")
        assert await peer.closed()
        assert served.listener.statistics()["expired"] == 1


async def test_empty_lines_do_not_buy_time_and_are_not_answered() -> None:
    async with serving(header_time=0.1) as served, served.peer() as peer:
        await peer.send(b"\r\n")
        assert await peer.closed()
        assert served.rig.exchanges == []


@pytest.mark.parametrize(
    "begin",
    [
        request("POST", "/echo", None, "Content-Length: 9"),
        request("POST", "/echo", None, "Content-Length: 9") + b"12345678",
        request("POST", "/echo", b"7\r\na", CHUNKED),
        request("POST", "/echo", b"1\r\na\r\n0\r\nX: y\r\n", CHUNKED),
    ],
)
async def test_a_body_that_does_not_come_is_not_waited_for(begin: bytes) -> None:
    async with serving(body_time=0.1) as served, served.peer() as peer:
        await peer.send(begin)
        assert (await peer.reply()).status == 408
        assert await peer.closed()
        assert served.rig.exchanges == []


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with serving(idle_time=0.5) as served:
        async with served.peer() as peer:
            assert await peer.closed()
        async with served.peer() as peer:
            await peer.send(request(body=b"a"))
            assert (await peer.reply()).body == b"a"
            assert await peer.closed()
        assert served.listener.statistics()["expired"] == 0


async def test_a_reply_may_take_longer_than_all_limits_for_the_client() -> None:
    async with serving(idle_time=0.3, header_time=0.3, body_time=0.3, stall=0.3) as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b"a"))
        await served.until(lambda: served.rig.exchanges)
        clock = served.listener.clock
        await served.until(lambda: served.listener.clock > clock + 0.7)
        served.rig.exchanges[0].respond(200, PLAIN, b"late")
        assert (await peer.reply()).body == b"late"


async def test_a_client_is_not_blamed_for_the_time_in_which_the_loop_was_blocked() -> None:
    async with serving(header_time=0.3, sweep=0.05) as served, served.peer() as peer:
        await peer.send(b"GET /echo HTTP/1.1\r\n")
        await served.until(lambda: served.listener.statistics()["connections"] == 1)
        clock = served.listener.clock
        served.listener.sweep(asyncio.get_running_loop().time() + 60)  # the next look comes a minute late
        assert served.listener.clock <= clock + 0.1
        await peer.send(b"Host: localhost\r\n\r\n")
        assert (await peer.reply()).status == 200


# --- size --------------------------------------------------------------------------------------------


async def test_a_head_over_its_limit_is_refused_before_it_is_complete() -> None:
    async with serving(max_headers=1000) as served:
        head = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: "
        assert (await served.ask(head + b"y" * (996 - len(head)) + b"\r\n\r\n")).status == 200
        for data in (head + b"y" * (997 - len(head)) + b"\r\n\r\n", head + b"y" * 1000, b"G" * 70_000):
            async with served.peer() as peer:
                await peer.send(data)
                assert (await peer.reply()).status == 431
                assert await peer.closed()


async def test_a_head_of_the_size_that_is_allowed_is_served() -> None:
    async with serving() as served:
        fields = [f"X-{number}: {'y' * 600}" for number in range(100)]
        assert (await served.ask(request("POST", "/echo", b"a", *fields))).body == b"a"
        assert (await served.ask(request("POST", "/echo", b"a", *fields, *fields[:10]))).status == 431


@pytest.mark.parametrize(
    "data",
    [
        request("POST", "/echo", b"x" * 11),
        request("POST", "/echo", None, "Content-Length: 11"),
        request("POST", "/echo", b"b\r\n", CHUNKED),
        request("POST", "/echo", b"5\r\n12345\r\n6\r\n", CHUNKED),
        request("POST", "/echo", b"fffffffffffffff\r\n", CHUNKED),
    ],
)
async def test_a_body_over_its_limit_is_refused_as_soon_as_that_is_known(data: bytes) -> None:
    async with serving(max_body=10) as served:
        assert (await served.ask(request(body=b"x" * 10))).status == 200
        async with served.peer() as peer:
            await peer.send(data)
            reply = await peer.reply()
            assert (reply.status, reply["connection"]) == (413, "close")
            assert await peer.closed()
        assert len(served.rig.exchanges) == 1


async def test_all_bodies_that_are_on_their_way_are_bounded_and_short_ones_are_served() -> None:
    async with serving(arriving=100_000, look_ahead=10_000) as served:
        async with served.peer() as first, served.peer() as second, served.peer() as third:
            await first.send(request("POST", "/echo", None, "Content-Length: 90000") + b"x" * 80_000)
            await served.until(lambda: served.listener.arriving == 80_000)
            await second.send(request("POST", "/echo", b"7530\r\n" + b"x" * 30_000, CHUNKED))
            reply = await second.reply()
            assert (reply.status, reply["connection"]) == (503, "close")
            assert await second.closed()
            await served.until(lambda: served.listener.arriving == 80_000)
            await third.send(request("POST", "/echo", None, "Content-Length: 9000") + b"x" * 8_000)
            await served.until(lambda: served.listener.arriving == 88_000)
            await third.send(b"x" * 1_000)
            assert (await third.reply()).status == 200
            await first.send(b"x" * 10_000)
            assert (await first.reply()).body == b"x" * 90_000
        assert served.listener.arriving == 0


async def test_a_body_whose_client_leaves_is_not_counted_any_more() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", None, "Content-Length: 90000") + b"x" * 80_000)
        await served.until(lambda: served.listener.arriving == 80_000)
        peer.abort()
        await served.until(lambda: served.listener.arriving == 0)


async def test_a_client_in_the_middle_of_a_refused_body_can_read_why() -> None:
    """To close with unread bytes would make the kernel send a RST, which can overtake the answer."""
    async with serving(max_body=1000) as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", None, "Content-Length: 3000000"))
        for _ in range(30):
            await peer.send(b"x" * 100_000)
        assert (await peer.reply()).status == 413
        assert await peer.closed()


async def test_a_refused_client_that_sends_on_for_ever_is_cut() -> None:
    async with serving(max_body=10) as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", b"x" * 11))
        assert (await peer.reply()).status == 413

        async def send_on() -> None:
            while True:
                await peer.send(b"x")
                await asyncio.sleep(0.005)

        with pytest.raises(ConnectionError):
            await send_on()


# --- pipelining --------------------------------------------------------------------------------------


async def test_what_is_sent_ahead_is_bounded() -> None:
    sent, enough = 0, False

    async def flood(peer: Peer) -> None:
        nonlocal sent
        while not enough:
            await peer.send(request(body=b"x" * 1000))
            sent += 1

    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        flooding = asyncio.ensure_future(flood(peer))
        (connection,) = served.listener._connections  # type: ignore[attr-defined]
        await served.until(lambda: not connection._reading)  # type: ignore[attr-defined]
        await stands_still(lambda: sent)
        assert len(connection._input) <= 65_536 + 262_144  # type: ignore[attr-defined]  # and one read
        assert len(served.rig.exchanges) == 1
        enough = True  # not cancelled: `wait_for` of Python 3.11 may forget that, and the flood would go on
        served.rig.exchanges[0].respond(200, PLAIN, b"")
        for _ in range(sent):
            assert (await peer.reply()).status == 200
        await asyncio.wait_for(flooding, 60)


async def test_a_client_that_never_reads_holds_no_more_than_its_share() -> None:
    """A flood of requests with large replies: the next one is not begun while the last one is not taken."""
    async with serving(stall=0.3) as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, b"x" * 1_000_000)
        stop_reading(peer)
        await peer.send(request("GET", "/other") * 500)
        (connection,) = served.listener._connections  # type: ignore[attr-defined]
        await served.until(lambda: connection._paused)  # type: ignore[attr-defined]
        await stands_still(lambda: len(served.rig.exchanges))
        assert connection._transport.get_write_buffer_size() <= 1_100_000  # type: ignore[attr-defined]
        assert len(served.rig.exchanges) < 100
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert served.listener.statistics()["expired"] == 1


async def test_a_client_that_reads_after_all_gets_every_reply() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, b"x" * 8_000_000)
        peer.writer.transport.pause_reading()
        await peer.send(request("GET", "/other") * 3)
        await served.until(lambda: served.rig.exchanges)
        await stands_still(lambda: len(served.rig.exchanges))
        assert len(served.rig.exchanges) == 1
        peer.writer.transport.resume_reading()
        for _ in range(3):
            assert len((await peer.reply()).body) == 8_000_000


# --- stalled readers -----------------------------------------------------------------------------------


async def test_a_stream_waits_for_its_reader_and_is_cut_at_the_stall_limit() -> None:
    written = 0
    failed: asyncio.Queue[Exception] = asyncio.Queue()

    async def endless(sink: Sink) -> None:
        nonlocal written
        try:
            while True:
                await sink.write(b"x" * 10_000)
                written += 1
        except TransportError as error:
            failed.put_nowait(error)
            raise

    async with serving(stall=0.3) as served, served.peer() as peer:
        served.rig.writer = endless
        before = psutil.Process().memory_info().rss
        stop_reading(peer)
        await peer.send(request("GET", "/stream"))
        await served.until(lambda: served.rig.exchanges)
        (connection,) = served.listener._connections  # type: ignore[attr-defined]
        await served.until(lambda: connection._paused)  # type: ignore[attr-defined]
        at = written
        await stands_still(lambda: written)
        assert written <= at + 1
        assert connection._transport.get_write_buffer_size() <= 65_536 + 20_000  # type: ignore[attr-defined]
        assert psutil.Process().memory_info().rss - before < 30_000_000
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert served.rig.gone == served.rig.exchanges
        assert served.listener.statistics()["expired"] == 1


async def test_a_slow_reader_is_not_a_stalled_one() -> None:
    """It takes less than what makes the kernel ask us for more."""

    async def endless(sink: Sink) -> None:
        while True:
            await sink.write(b"x" * 20_000)

    async with serving(stall=0.6) as served:
        served.rig.writer = endless
        loop = asyncio.get_running_loop()
        with socket.socket() as slow:
            slow.setblocking(False)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            await loop.sock_connect(slow, served.address)
            await loop.sock_sendall(slow, request("GET", "/stream"))
            await served.until(lambda: served.rig.exchanges)
            (connection,) = served.listener._connections  # type: ignore[attr-defined]
            await served.until(lambda: connection._paused)  # type: ignore[attr-defined]
            started = served.listener.clock
            while served.listener.clock < started + 2.0:  # three stall limits, and more
                assert await asyncio.wait_for(loop.sock_recv(slow, 16_384), 60)
                await asyncio.sleep(0.01)
            assert served.listener.statistics()["connections"] == 1
            await served.until(lambda: served.listener.statistics()["connections"] == 0)


async def test_a_slow_reader_costs_its_own_connection_only() -> None:
    async def endless(sink: Sink) -> None:
        while True:
            await sink.write(b"x" * 10_000)

    async with serving() as served, served.peer() as slow, served.peer() as quick:
        served.rig.writer = endless
        stop_reading(slow)
        await slow.send(request("GET", "/stream"))
        for number in range(200):
            await quick.send(request(body=b"%d" % number))
            assert (await quick.reply()).body == b"%d" % number


async def test_a_peer_that_takes_nothing_of_the_last_reply_is_cut() -> None:
    async with serving(stall=0.2) as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, b"x" * 8_000_000)
        stop_reading(peer)
        await peer.send(request("GET", "/other", None, "Connection: close"))
        await served.until(lambda: served.listener.statistics()["accepted"] == 1)
        await served.until(lambda: served.listener.statistics()["connections"] == 0)


async def test_replies_that_nobody_reads_are_held_up_to_a_cap_over_all_connections() -> None:
    async with serving(unread=30_000_000) as served, served.peer() as first, served.peer() as second:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, b"x" * 20_000_000)
        stop_reading(first)
        await first.send(request("GET", "/other"))
        await served.until(lambda: served.listener.unread > 10_000_000)
        stop_reading(second)
        await second.send(request("GET", "/other"))
        await served.until(lambda: served.listener.statistics()["connections"] == 1)
        assert served.listener.statistics()["refused"] == 1
        first.writer.transport.abort()
        await served.until(lambda: served.listener.unread == 0)
        async with served.peer() as reading:
            await reading.send(request("GET", "/other"))
            assert len((await reading.reply()).body) == 20_000_000
            await served.until(lambda: served.listener.unread == 0)
            await reading.send(request(body=b"again"))
            assert (await reading.reply()).body == b"again"


# --- connections -----------------------------------------------------------------------------------------


async def test_one_connection_too_many_is_told_so_and_the_others_go_on() -> None:
    async with serving(max_connections=3) as served:
        async with served.peer() as one, served.peer() as two, served.peer() as three:
            for peer in (one, two, three):
                await peer.send(request(body=b"in"))
                assert (await peer.reply()).body == b"in"
            async with served.peer() as fourth:
                await fourth.send(request(body=b"out"))
                reply = await fourth.reply()
                assert (reply.status, reply["retry-after"], reply["connection"]) == (503, "1", "close")
                assert await fourth.closed()
            await one.send(request(body=b"still in"))
            assert (await one.reply()).body == b"still in"
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert (await served.ask(request(body=b"again"))).body == b"again"
        assert served.listener.statistics()["turned_away"] == 1


async def test_a_flood_of_connections_over_the_limit_is_cut_without_a_word() -> None:
    async with serving(max_connections=2) as served:
        address = served.address
        sockets = [await connect(address) for _ in range(320)]
        await served.until(lambda: served.listener.statistics()["accepted"] == 320)
        assert served.listener.statistics()["connections"] <= 2 + 256
        for sock in sockets:
            sock.close()
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert (await served.ask(request(body=b"a"))).body == b"a"


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 5000, reason="needs file descriptors: 5,000 of them"
)
async def test_two_thousand_idle_connections_cost_little_and_are_all_served() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5000), hard))
    sockets: list[socket.socket] = []
    try:
        async with serving() as served:
            before = psutil.Process().memory_info().rss
            sockets += [await connect(served.address) for _ in range(2000)]
            await served.until(lambda: served.listener.statistics()["connections"] == 2000)
            assert (psutil.Process().memory_info().rss - before) / 2000 < 8_000
            loop = asyncio.get_running_loop()
            for number in range(0, 2000, 100):
                await loop.sock_sendall(sockets[number], request(body=b"%d" % number))
                assert (await loop.sock_recv(sockets[number], 4096)).endswith(b"\r\n\r\n%d" % number)
            for sock in sockets:
                sock.close()
            await served.until(lambda: served.listener.statistics()["connections"] == 0)
    finally:
        for sock in sockets:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_heads_that_are_kept_are_bounded() -> None:
    async with serving() as served, served.peer() as peer:
        for number in range(3000):
            await peer.send(request("POST", "/echo", b"", f"X-Number: {number}"))
            assert (await peer.reply()).status == 200
        assert 0 < len(served.listener.heads.known) <= 1024
        served.listener.heads.known.clear()
        for field in ("X: " + "y" * 2000, "traceparent: 00-1-1-01"):
            await peer.send(request("POST", "/echo", b"", field))
            assert (await peer.reply()).status == 200
        await peer.send(request("POST", "/echo", b"", *["x:"] * 100))
        assert (await peer.reply()).status == 200
        assert served.listener.heads.known == {}


# --- helpers -----------------------------------------------------------------------------------------------


def stop_reading(peer: Peer) -> None:
    """Be a client that never reads: the kernel's buffers fill, then the server's."""
    sock: Any = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.writer.transport.pause_reading()


async def stands_still(number: Callable[[], int]) -> None:
    """Wait until a number has not changed for 50 ms."""
    before = -1
    while before != number():
        before = number()
        await asyncio.sleep(0.05)


async def connect(address: Any) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
    return sock
