"""HTTP/1.1 bodies that are read as they come: handed over with their head, held up by who does not read, and
a reply that may come at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.core.exchange import Exchange, Sink
from tailrace.errors import TransportError
from tests.transports.http.rig import LIMIT, PLAIN, Peer, Served, request, serving

CHUNKED = "Transfer-Encoding: chunked"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def echoing(exchange: Exchange) -> None:
    """What is read is written at once: full duplex."""
    source = exchange.source
    assert source is not None

    async def echo(sink: Sink) -> None:
        while data := await source.read():
            await sink.write(data)
        await sink.end([(b"grpc-status", b"0")])

    exchange.stream(200, PLAIN, echo)


async def send_nothing(sink: Sink) -> None:
    await sink.end()


async def send_for_ever(peer: Peer) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            await peer.send(chunk(b"b" * 65536))


async def opened(served: Served) -> Exchange:
    await served.until(lambda: served.rig.exchanges)
    return served.rig.exchanges[-1]


async def test_the_reply_is_written_while_the_body_is_still_read() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = echoing
        await peer.send(request("POST", "/open", None, CHUNKED))
        assert (await peer.head()).status == 200
        for data in (b"a", b"b" * 1000):
            await peer.send(chunk(data))
            assert await peer.chunk() == data
        await peer.send(b"0\r\n\r\n")
        assert await peer.chunk() == b""
        assert await peer.reader.readuntil(b"\r\n") == b"\r\n"  # this client does not take trailers
        await peer.send(request(body=b"next"))
        assert (await peer.reply()).body == b"next"


async def test_the_first_of_a_stream_goes_with_its_head() -> None:
    """Not a turn of the loop later: a process that is killed in between has sent a stream without an id."""

    def kill_before_its_writer(exchange: Exchange) -> None:
        exchange.stream(200, PLAIN, send_nothing, b"first")
        exchange.task.cancel()  # type: ignore[attr-defined]

    async with serving() as served, served.peer() as peer:
        served.rig.other = kill_before_its_writer
        await peer.send(request("POST", "/", b""))
        assert (await peer.head()).status == 200
        assert await peer.chunk() == b"first"
    async with serving() as served, served.peer() as old:
        served.rig.other = lambda exchange: exchange.stream(200, PLAIN, send_nothing, b"first")
        await old.send(b"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await old.head()
        assert await old.reader.readexactly(5) == b"first"
    async with serving() as served, served.peer() as bare:
        served.rig.other = lambda exchange: exchange.stream(200, PLAIN, send_nothing, b"first")
        await bare.send(request("HEAD", "/", None))
        await bare.head()
        await bare.send(request(body=b"next"))
        assert (await bare.reply()).body == b"next"


async def test_trailers_go_to_a_client_that_takes_them() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = echoing
        await peer.send(request("POST", "/open", b"", "TE: gzip, trailers", "Connection: TE"))
        await peer.head()
        assert await peer.chunk() == b""
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"grpc-status: 0\r\n\r\n"
        assert served.rig.exchanges[0].trailers

        def whole(exchange: Exchange) -> None:
            exchange.respond(200, PLAIN, b"all", [(b"a", b"1"), (b"b", b"2")])

        served.rig.other = whole
        await peer.send(request("POST", "/", b"", "TE: trailers"))
        assert (await peer.head())["content-length"] is None
        assert await peer.chunk() == b"all"
        assert await peer.reader.readuntil(b"0\r\na: 1\r\nb: 2\r\n\r\n")
        await peer.send(request("POST", "/", b""))
        assert (await peer.reply())["content-length"] == "3"


async def test_a_trailer_with_a_line_break_is_not_sent(errors_logged: Callable[[], int]) -> None:
    def split(exchange: Exchange) -> None:
        exchange.respond(200, PLAIN, b"", [(b"a", b"1\r\nx: y")])

    async with serving() as served, served.peer() as peer:
        served.rig.other = split
        await peer.send(request("POST", "/", b"", "TE: trailers"))
        assert (await peer.reply()).status == 500
        assert errors_logged() == 1


async def test_a_short_body_that_is_here_comes_through_the_source_as_well() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = echoing
        for body in (b"whole", b"", b"whole"):
            await peer.send(request("POST", "/open", body))
            assert (await peer.reply()).body == body
        assert [exchange.body for exchange in served.rig.exchanges] == [b""] * 3


async def test_a_stream_may_be_longer_than_max_body() -> None:
    async with serving(max_body=10) as served, served.peer() as peer:
        served.rig.other = echoing
        await peer.send(request("POST", "/open", b"a" * 1000))
        assert (await peer.reply()).body == b"a" * 1000
        await peer.send(request("POST", "/open", None, CHUNKED) + chunk(b"b" * 8) * 1000 + b"0\r\n\r\n")
        assert (await peer.reply()).body == b"b" * 8000


@pytest.mark.parametrize("sized", [True, False])
async def test_a_body_that_nobody_reads_holds_its_client_up(sized: bool) -> None:
    size = 64 * 1024 * 1024
    async with serving(look_ahead=64 * 1024) as served, served.peer() as peer:
        head = request("POST", "/open/held", None, f"Content-Length: {size}" if sized else CHUNKED)
        served.rig.other = lambda exchange: None
        part = b"x" * 65536 if sized else chunk(b"x" * 65536)

        async def send_all() -> None:
            await peer.send(head)
            for _ in range(size // 65536):
                peer.writer.write(part)
                await peer.writer.drain()
            if not sized:
                await peer.send(b"0\r\n\r\n")

        sending = asyncio.ensure_future(send_all())
        exchange = await opened(served)
        source: Any = exchange.source
        await served.until(lambda: source.held > 64 * 1024)
        for _ in range(50):
            await asyncio.sleep(0)
        assert source.held < 2 * 1024 * 1024  # what is allowed, and one read
        assert not sending.done()
        taken = 0
        while data := await asyncio.wait_for(source.read(), LIMIT):
            taken += len(data)
        assert taken == size
        await sending
        exchange.respond(200, PLAIN, b"done")
        assert (await peer.reply()).body == b"done"


async def test_a_client_that_leaves_breaks_the_body_off() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: None
        await peer.send(request("POST", "/open", None, CHUNKED) + chunk(b"a"))
        exchange = await opened(served)
        assert exchange.source is not None
        assert await exchange.source.read() == b"a"
        reading = asyncio.ensure_future(exchange.source.read())
        await asyncio.sleep(0)
        peer.writer.close()
        with pytest.raises(TransportError):
            await asyncio.wait_for(reading, 60)
        assert exchange.gone
        assert exchange.gone_by is None


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_that_is_malformed_is_told_to_its_reader_and_is_the_last_on_its_connection(at_once: bool) -> None:
    def answering(exchange: Exchange) -> None:
        async def run() -> None:
            try:
                while await exchange.source.read():  # type: ignore[union-attr]
                    pass
            except TransportError as error:
                exchange.respond(400, PLAIN, str(error).encode())

        tasks.append(asyncio.ensure_future(run()))

    tasks: list[Any] = []
    async with serving() as served, served.peer() as peer:
        served.rig.other = answering
        head = request("POST", "/open", None, CHUNKED)
        if at_once:
            await peer.send(head + b"zz\r\nGET / HTTP/1.1\r\n\r\n")
        else:
            await peer.send(head + chunk(b"a"))
            await opened(served)
            await peer.send(b"zz\r\nGET / HTTP/1.1\r\n\r\n")
        reply = await peer.reply()
        assert (reply.status, reply["connection"]) == (400, "close")
        assert b"hexadecimal" in reply.body
        assert await peer.closed()
        assert served.listener.statistics()["refused"] == 1


async def test_a_reply_before_the_bodys_end_keeps_the_connection_if_that_is_near() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(403, PLAIN, b"no")
        await peer.send(request("POST", "/open", None, "Content-Length: 1001") + b"a")
        reply = await peer.reply()
        assert (reply.status, reply["connection"]) == (403, None)
        await peer.send(b"b" * 1000 + request(body=b"next"))
        assert (await peer.reply()).body == b"next"


@pytest.mark.parametrize("length", [CHUNKED, "Content-Length: 300000"])
async def test_a_reply_before_a_bodys_end_that_is_far_or_unknown_says_that_the_connection_ends(length: str) -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(403, PLAIN, b"no")
        await peer.send(request("POST", "/open", None, length))
        reply = await peer.reply()
        assert (reply.status, reply["connection"]) == (403, "close")


async def test_a_body_that_goes_on_for_long_behind_its_reply_ends_the_connection() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(403, PLAIN, b"no")
        await peer.send(request("POST", "/open", None, CHUNKED) + chunk(b"a"))
        assert (await peer.reply()).status == 403
        with pytest.raises(ConnectionError):
            await send_for_ever(peer)
        await served.until(lambda: served.listener.statistics()["connections"] == 0)


async def test_a_body_that_never_ends_behind_its_reply_ends_the_connection_in_time() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(403, PLAIN, b"no")
        await peer.send(request("POST", "/open", None, CHUNKED) + chunk(b"a"))
        assert (await peer.reply()).status == 403
        assert await peer.closed()
        await served.until(lambda: served.listener.statistics()["connections"] == 0)


@pytest.mark.parametrize("malformed", [b"zz\r\n", b"1\r\nabc"])
async def test_what_is_malformed_behind_the_reply_ends_the_connection(malformed: bytes) -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(403, PLAIN, b"no")
        await peer.send(request("POST", "/open", None, CHUNKED) + chunk(b"a"))
        assert (await peer.reply()).status == 403
        await peer.send(malformed)
        assert await peer.closed()


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked_once_it_is_wanted() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = echoing
        await peer.send(request("POST", "/open", None, "Content-Length: 3", "Expect: 100-continue"))
        assert [(await peer.head()).status, (await peer.head()).status] == [100, 200]
        await peer.send(b"abc")
        assert [data async for data in peer.chunks()] == [b"abc"]
        served.rig.other = lambda exchange: exchange.respond(403, PLAIN, b"no")
        await peer.send(request("POST", "/open", None, "Content-Length: 3", "Expect: 100-continue") + b"abc")
        assert (await peer.reply()).status == 403  # it did not wait


async def test_a_stream_is_read_to_its_end_while_the_server_drains() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = echoing
        await peer.send(request("POST", "/open", None, CHUNKED))
        await peer.head()
        closing = asyncio.ensure_future(served.listener.close(60))
        await asyncio.sleep(0)
        await peer.send(chunk(b"last") + b"0\r\n\r\n")
        assert [data async for data in peer.chunks()] == [b"last"]
        assert await peer.closed()
        await asyncio.wait_for(closing, 60)


async def test_a_bidirectional_stream_may_be_quiet_for_longer_than_any_bodys_time() -> None:
    async with serving(body_time=0.05, header_time=0.05) as served, served.peer() as peer:
        served.rig.other = echoing
        await peer.send(request("POST", "/open", None, CHUNKED))
        await peer.head()
        clock = served.listener.clock
        await served.until(lambda: served.listener.clock > clock + 0.3)
        await peer.send(chunk(b"a"))
        assert await peer.chunk() == b"a"
