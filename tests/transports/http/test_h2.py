"""HTTP/2: requests side by side on one connection, each with its own reply, trailers, and end."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable

import pytest
import trustme

from tailrace.core.exchange import Exchange, Sink
from tailrace.errors import StreamReset, TransportError
from tests.rigs.rawh2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTINGS,
    Stream,
    connected,
    frame,
)
from tests.transports.http.rig import PLAIN, Served, request, serving

TRAILERS = [(b"grpc-status", b"0"), (b"grpc-message", b"all well")]


def echoing(exchange: Exchange) -> None:
    """What is read is written at once: full duplex."""
    source = exchange.source
    assert source is not None

    async def echo(sink: Sink) -> None:
        while data := await source.read():
            await sink.write(data)
        await sink.end(TRAILERS)

    exchange.stream(200, PLAIN, echo)


async def handed_over(served: Served, count: int = 1) -> Exchange:
    await served.until(lambda: len(served.rig.exchanges) >= count)
    return served.rig.exchanges[-1]


# --- requests and replies ---------------------------------------------------------------------------


async def test_a_request_and_its_reply() -> None:
    async with serving() as served, connected(served.address) as client:
        stream = await client.ask("/echo?a=b%20c", b"hello", fields=[("x-one", "1"), ("x-two", "2"), ("x-two", "3")])
        assert (stream.status, stream.data) == (200, b"hello")
        assert (stream.head["content-type"], stream.head["content-length"]) == ("text/plain", "5")
        assert "date" in stream.head
        assert stream.fields == [stream.fields[0]]
        (exchange,) = served.rig.exchanges
        assert (exchange.method, exchange.path, exchange.query) == ("POST", "/echo", b"a=b%20c")
        assert (exchange.version, exchange.trailers, exchange.loopback) == ("2", True, True)
        assert (exchange.header(b"x-one"), exchange.header(b"host"), exchange.header(b"none")) == (
            "1",
            "localhost",
            None,
        )
        assert exchange.header_values(b"x-two") == ["2", "3"]
        assert exchange.doubled(frozenset({b"x-two"})) == b"x-two"
        assert exchange.doubled(frozenset({b"x-one"})) is None


async def test_many_requests_are_served_side_by_side_and_answered_in_any_order() -> None:
    async with serving() as served, connected(served.address) as client:
        held = [client.request("/held", b"%d" % number) for number in range(50)]
        assert (await client.ask("/echo", b"first")).data == b"first"
        await handed_over(served, 51)
        waiting = [exchange for exchange in served.rig.exchanges if exchange.path == "/held"]
        for exchange in reversed(waiting):
            exchange.respond(200, PLAIN, exchange.body)
        assert [(await client.reply(stream)).data for stream in held] == [b"%d" % number for number in range(50)]


async def test_the_same_request_again_is_known_and_another_is_not_taken_for_it() -> None:
    async with serving() as served, connected(served.address) as client:
        for number in range(6):
            fields = [("x-number", str(number // 2)), ("x-same", "same")]
            assert (await client.ask("/echo", b"%d" % number, fields=fields)).data == b"%d" % number
        assert [exchange.header(b"x-number") for exchange in served.rig.exchanges] == list("001122")


async def test_heads_are_kept_within_a_bound() -> None:
    """A byte of a block names a field of kilobytes; what is kept of heads that are known is small all the same."""
    async with serving() as served, connected(served.address) as client:
        large = [("x-large", "y" * 3000), ("x-again", "y" * 900)]
        for number in range(60):
            many = [("x-large", "y" * 3000)] * (number % 3)
            assert (await client.ask(f"/echo?{number % 40}", b"a", fields=[*large, *many])).data == b"a"
        for number in range(40):
            assert (await client.ask("/echo", b"a", fields=[(f"x-{number % 20}", "z")])).data == b"a"
        (connection,) = served.listener._connections
        known = connection._requests._heads._known  # type: ignore[attr-defined]
        assert len(known) <= 16
        assert all(sum(map(len, head.headers.values())) <= 4096 for head in known.values())


async def test_a_body_in_many_frames_padded_and_with_trailers_is_handed_over_whole() -> None:
    async with serving() as served, connected(served.address) as client:
        stream = client.request("/echo", b"ab", end=False)
        client.send(frame(DATA, PADDED, stream.number, b"\x03cd\0\0\0"))
        client.send(frame(DATA, 0, stream.number))
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream.number, client.block([("x-sum", "1")])))
        assert (await client.reply(stream)).data == b"abcd"


async def test_bodies_larger_than_all_windows_come_and_go() -> None:
    body = bytes(range(256)) * 12_000
    async with serving() as served, connected(served.address) as client:
        stream = client.request("/echo", None, end=False)
        await client.upload(stream, body)
        assert (await client.reply(stream)).data == body


async def test_replies_without_a_body() -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: exchange.respond(204, PLAIN)
        stream = await client.ask("/", b"")
        assert (stream.status, stream.frames, "content-length" in stream.head) == (204, 0, False)
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, b"not sent", TRAILERS)
        stream = await client.ask("/", b"", method="HEAD")
        assert (stream.status, stream.frames, stream.trailers) == (200, 0, {})
        served.rig.other = lambda exchange: exchange.respond(200, [(b"Grpc-Status", b"3")], b"", ())
        stream = await client.ask("/", b"")
        assert (stream.frames, stream.head["grpc-status"]) == (0, "3")
        wrote: list[str] = []

        async def write(sink: Sink) -> None:
            with pytest.raises(TransportError):
                await sink.write(b"not sent")
            wrote.append("refused")

        served.rig.writer = write
        assert (await client.ask("/stream", b"", method="HEAD")).received == 0
        assert wrote == ["refused"]


async def test_whole_replies_and_streams_end_with_trailers() -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, b"all", TRAILERS)
        stream = await client.ask("/")
        assert (stream.data, stream.trailers) == (b"all", {"grpc-status": "0", "grpc-message": "all well"})
        assert "content-length" not in stream.head
        served.rig.other = echoing
        stream = await client.ask("/open", b"abc")
        assert (stream.data, stream.trailers["grpc-status"]) == (b"abc", "0")
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, b"", TRAILERS)
        stream = await client.ask("/")
        assert (stream.frames, stream.trailers["grpc-status"]) == (0, "0")


async def test_a_field_with_a_line_break_is_not_sent(errors_logged: Callable[[], int]) -> None:
    async with serving() as served, connected(served.address) as client:
        for reply in (
            lambda exchange: exchange.respond(200, [(b"a", b"1\r\nb: 2")], b""),
            lambda exchange: exchange.respond(200, PLAIN, b"", [(b"a", b"1\n")]),
            lambda exchange: exchange.stream(200, [(b"a", b"\0")], served.rig.writer),
        ):
            served.rig.other = reply
            assert (await client.ask("/")).status == 500
        assert errors_logged() == 3


async def test_a_second_reply_is_a_bug_of_ours() -> None:
    async with serving() as served, connected(served.address) as client:
        await client.ask()
        with pytest.raises(RuntimeError):
            served.rig.exchanges[0].respond(200, PLAIN)
        with pytest.raises(RuntimeError):
            served.rig.exchanges[0].stream(200, PLAIN, served.rig.writer)


async def test_a_handler_that_fails_is_a_500(errors_logged: Callable[[], int]) -> None:
    def fail(exchange: Exchange) -> None:
        raise ValueError("a bug")

    async with serving() as served, connected(served.address) as client:
        served.rig.other = fail
        assert (await client.ask("/")).status == 500
        assert (await client.ask("/echo", b"goes on")).data == b"goes on"
        assert errors_logged() == 1


# --- streams ----------------------------------------------------------------------------------------


async def test_the_reply_is_written_while_the_body_is_still_read() -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = echoing
        streams = [client.request("/open", None, end=False) for _ in range(3)]
        for number in range(5):
            for stream in streams:
                client.data(stream, b"%d" % number)
            await client.until(lambda: {stream.received for stream in streams} == {number + 1})  # noqa: B023  (awaited)
        for stream in streams:
            client.data(stream, end=True)
            assert (await client.reply(stream)).data == b"01234"
            assert stream.trailers == {"grpc-status": "0", "grpc-message": "all well"}


async def test_padding_is_no_end_of_a_stream() -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = echoing
        stream = client.request("/open", None, end=False)
        client.send(frame(DATA, PADDED, stream.number, b"\x02\0\0"))
        client.data(stream, b"a")
        await client.until(lambda: stream.received)
        client.data(stream, end=True)
        assert (await client.reply(stream)).data == b"a"


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = echoing
        for path in ("/echo", "/open"):
            stream = client.request(path, None, [("expect", "100-continue")], end=False)
            await client.until(lambda: stream.fields)  # noqa: B023  (awaited)
            assert dict(stream.fields[0])[":status"] == "100"
            client.data(stream, b"abc", end=True)
            assert (await client.reply(stream)).data == b"abc"


@pytest.mark.parametrize("waits", [False, True])
async def test_a_reply_that_comes_before_the_body_is_whole_is_read_and_then_the_client_is_told_to_stop(
    waits: bool,
) -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: exchange.respond(403, PLAIN, b"no")
        stream = client.request("/open", b"abc", end=False)
        assert (await client.reply(stream)).data == b"no"
        client.data(stream, b"more")
        if waits:
            await client.until(lambda: stream.reset is not None)
            assert stream.reset == 0
            client.data(stream, b"was on its way", end=True)
        else:
            client.data(stream, b"and the end", end=True)
        assert (await client.ask("/echo", b"next")).data == b"next"
        assert (stream.reset is not None) is waits


async def test_a_writer_that_ends_without_its_streams_end_resets_it() -> None:
    async def half(sink: Sink) -> None:
        await sink.write(b"half")

    async with serving() as served, connected(served.address) as client:
        served.rig.writer = half
        stream = client.request("/stream")
        assert await client.was_reset(stream) == 2
        assert (stream.data, len(served.rig.gone)) == (b"half", 1)
        assert (await client.ask("/echo", b"next")).data == b"next"


# --- the client leaves ------------------------------------------------------------------------------


async def test_a_reset_is_told_to_the_call_and_to_nobody_else() -> None:
    async with serving() as served, connected(served.address) as client:
        stays, leaves = client.request("/held"), client.request("/held")
        await handed_over(served, 2)
        client.reset(leaves)
        await served.until(lambda: served.rig.gone)
        kept, gone = served.rig.exchanges
        assert served.rig.gone == [gone]
        assert isinstance(gone.gone_by, StreamReset)
        gone.respond(200, PLAIN, b"nobody hears it")
        gone.stream(200, PLAIN, served.rig.writer)
        kept.respond(200, PLAIN, b"kept")
        assert (await client.reply(stays)).data == b"kept"
        assert not leaves.fields


async def test_a_reset_ends_the_source_and_the_writer() -> None:
    seen: list[str] = []

    def both(exchange: Exchange) -> None:
        async def write(sink: Sink) -> None:
            assert exchange.source is not None
            try:
                while await exchange.source.read():
                    await sink.write(b"taken")
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        exchange.stream(200, PLAIN, write)

    async with serving() as served, connected(served.address) as client:
        served.rig.other = both
        stream = client.request("/open", b"abc", end=False)
        await client.until(lambda: stream.received)
        client.reset(stream)
        await served.until(lambda: seen)
        source = served.rig.exchanges[0].source
        assert source is not None
        with pytest.raises(TransportError, match="reset"):
            await source.read()
        client.window(stream.number, 5)  # these crossed the reset
        await client.ponged()


async def test_a_connection_that_ends_takes_all_its_calls_with_it() -> None:
    async with serving() as served:
        async with connected(served.address) as client:
            for _ in range(3):
                client.request("/held")
            client.request("/open", b"a", end=False)
            served.rig.other = lambda exchange: None
            await handed_over(served, 4)
        await served.until(lambda: len(served.rig.gone) == 4)
        assert [exchange.gone_by for exchange in served.rig.gone] == [None] * 4
        await served.until(lambda: served.listener.statistics()["connections"] == 0)


async def test_a_client_that_says_goodbye_gets_what_it_waits_for() -> None:
    async with serving() as served, connected(served.address) as client:
        stream = client.request("/held")
        exchange = await handed_over(served)
        client.send(frame(7, 0, 0, bytes(8)))
        await client.ponged()
        exchange.respond(200, PLAIN, b"last")
        assert (await client.reply(stream)).data == b"last"
        assert (await client.end())[:2] == (1, 0)
    async with serving() as served, connected(served.address) as client:
        client.send(frame(7, 0, 0, bytes(8)))
        assert (await client.end())[:2] == (0, 0)


# --- the end ----------------------------------------------------------------------------------------


async def test_a_drain_is_announced_what_is_on_its_way_is_served_and_the_last_is_named() -> None:
    async with serving() as served, connected(served.address) as client:
        held = client.request("/held")
        exchange = await handed_over(served)
        closing = asyncio.ensure_future(served.listener.close(60))
        await client.until(lambda: client.goaways)
        assert client.goaways[0][:2] == (2**31 - 1, 0)
        late = client.request("/echo", b"was on its way")
        assert (await client.reply(late)).data == b"was on its way"
        client.send(frame(6, ACK, 0, client.pings[0]))
        await client.until(lambda: len(client.goaways) == 2)
        assert client.goaways[1][:2] == (late.number, 0)
        too_late = client.request("/echo", b"not looked at")
        client.data(too_late, b"nor this", end=True)
        await client.ponged()
        exchange.respond(200, PLAIN, b"finished")
        assert (await client.reply(held)).data == b"finished"
        await client.end()
        assert not too_late.fields
        await client.abort()
        await asyncio.wait_for(closing, 60)
        assert len(served.rig.exchanges) == 2


async def test_a_client_that_does_not_answer_is_told_the_last_in_time() -> None:
    async with serving() as served, connected(served.address) as client:
        client.request("/held")
        await handed_over(served)
        closing = asyncio.ensure_future(served.listener.close(60))
        await client.until(lambda: len(client.goaways) == 2)
        assert client.goaways[1][:2] == (1, 0)
        served.rig.exchanges[0].respond(200, PLAIN, b"")
        await client.end()
        await client.abort()
        await asyncio.wait_for(closing, 60)


async def test_idle_connections_are_closed_when_the_listener_is_and_in_time() -> None:
    async with serving() as served, connected(served.address) as client:
        await client.ask()
        closing = asyncio.ensure_future(served.listener.close(60))
        assert (await client.end())[:2] == (1, 0)
        await client.abort()
        await asyncio.wait_for(closing, 60)
    async with serving(idle_time=0.5) as served, connected(served.address) as client:
        await client.ask()
        assert (await client.end())[:2] == (1, 0)
        assert served.listener.statistics()["expired"] == 0


async def test_a_client_that_has_vanished_is_asked_and_cut() -> None:
    async with serving(ping_time=0.1) as served, connected(served.address) as client:
        client.request("/held")
        await client.until(lambda: client.pings)
        await served.until(lambda: served.rig.gone)
        assert served.listener.statistics()["expired"] == 1


async def test_a_client_that_answers_is_left_alone() -> None:
    async with serving(ping_time=0.4) as served, connected(served.address) as client:
        stream = client.request("/held")
        for count in range(1, 6):
            await client.until(lambda: len(client.pings) >= count)  # noqa: B023  (awaited)
            client.send(frame(6, ACK, 0, client.pings[count - 1]))
        served.rig.exchanges[0].respond(200, PLAIN, b"still here")
        assert (await client.reply(stream)).data == b"still here"


# --- how it begins ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 5, 17, 18, 19, 24, 30, 40])
async def test_both_versions_are_spoken_on_one_port_however_the_first_bytes_arrive(cut: int) -> None:
    async with serving() as served, connected(served.address, greet=False) as client, served.peer() as peer:
        first = PREFACE + frame(SETTINGS, 0, 0)
        client.send(first[:cut])
        await peer.send(request(body=b"one"))
        assert (await peer.reply()).body == b"one"
        client.send(first[cut:])
        assert (await client.ask("/echo", b"two")).data == b"two"
        await peer.send(request(body=b"three"))
        assert (await peer.reply()).body == b"three"
        assert served.listener.statistics()["connections"] == 2


async def test_a_connection_that_began_with_http_1_goes_on_with_it() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(body=b"one"))
        await peer.reply()
        await peer.send(PREFACE)
        assert (await peer.reply()).status == 505


async def test_alpn_chooses() -> None:
    authority = trustme.CA()
    server, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(trusting)
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    where = {"ssl": trusting, "server_hostname": "localhost"}
    async with serving(tls=(server, trusting)) as served:
        async with connected(served.address, **where) as client:
            assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            assert (await client.ask("/echo", b"x" * 100_000)).received == 100_000
            closing = asyncio.ensure_future(served.listener.close(60))
            await client.end()
        await asyncio.wait_for(closing, 60)


async def test_a_client_that_never_sends_its_settings_is_let_go() -> None:
    async with serving(header_time=0.05) as served, connected(served.address, greet=False) as client:
        client.send(PREFACE)
        assert (await client.end())[1] == 1
        assert served.listener.statistics()["expired"] == 1


async def test_head_and_body_have_their_time() -> None:
    async with serving(header_time=0.05) as served, connected(served.address) as client:
        client.send(frame(HEADERS, 0, 1, client.block([(":method", "GET")])))
        assert (await client.end())[1] == 1
    async with serving(body_time=0.05) as served, connected(served.address) as client:
        stream = client.request("/echo", b"half", end=False)
        assert (await client.reply(stream)).status == 408
        assert (await client.ask("/echo", b"next")).data == b"next"


async def test_over_the_limit_of_connections_the_next_is_told_so() -> None:
    async with serving(max_connections=1) as served, connected(served.address):
        reader, writer = await asyncio.open_connection(*served.address)
        assert b"503" in await asyncio.wait_for(reader.read(), 60)
        writer.close()


# --- what is not HTTP/2 -----------------------------------------------------------------------------

GET = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/echo")]


def without(name: str) -> list[tuple[str, str]]:
    return [pair for pair in GET if pair[0] != name]


MALFORMED = {
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "no path": without(":path"),
    "an empty path": [*without(":path"), (":path", "")],
    "a relative path": [*without(":path"), (":path", "echo")],
    "two paths": [*GET, (":path", "/echo")],
    "an unknown pseudo-header": [*GET, (":protocol", "x")],
    "a reply's pseudo-header": [*GET, (":status", "200")],
    "a pseudo-header behind others": [*GET[:3], ("a", "b"), GET[3]],
    "upper case": [*GET, ("X-Upper", "a")],
    "an empty name": [*GET, ("", "a")],
    "a blank in a name": [*GET, ("a b", "a")],
    "a line break": [*GET, ("a", "b\r\nc: d")],
    "a zero byte": [*GET, ("a", "b\0c")],
    "a blank in front": [*GET, ("a", " b")],
    "connection": [*GET, ("connection", "close")],
    "keep-alive": [*GET, ("keep-alive", "1")],
    "proxy-connection": [*GET, ("proxy-connection", "close")],
    "transfer-encoding": [*GET, ("transfer-encoding", "chunked")],
    "upgrade": [*GET, ("upgrade", "h2c")],
    "te": [*GET, ("te", "gzip")],
    "another host": [*GET, ("host", "elsewhere")],
    "two hosts": [*GET, ("host", "localhost"), ("host", "localhost")],
    "two lengths": [*GET, ("content-length", "0"), ("content-length", "0")],
    "a length without a body": [*GET, ("content-length", "5")],
    "a method that is none": [(":method", "G T"), *GET[1:]],
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_head_ends_its_stream_only(what: str) -> None:
    async with serving() as served, connected(served.address) as client:
        stream = client.streams[1] = Stream(1)
        block = client.block(MALFORMED[what], plain=True)
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
        assert await client.was_reset(stream) == 1
        assert (await client.ask("/echo", b"next", number=3)).data == b"next"
        assert [exchange.path for exchange in served.rig.exchanges] == ["/echo"]
        assert served.listener.statistics()["refused"] == 1


ANSWERED = {
    "no authority": (without(":authority"), 400),
    "a host that is none": ([*without(":authority"), (":authority", "a b")], 400),
    "an unknown method": ([(":method", "BREW"), *GET[1:]], 501),
    "CONNECT": ([(":method", "CONNECT"), (":authority", "localhost:80")], 501),
    "a path that must be escaped": ([*without(":path"), (":path", "/é")], 400),
    "a long path": ([*without(":path"), (":path", "/" + "a" * 16_384)], 414),
    "many fields": ([*GET, *((f"x-{number}", "") for number in range(257))], 431),
    "an expectation": ([*GET, ("expect", "wonders")], 417),
    "a length that is none": ([*GET, ("content-length", "-1")], 400),
    "a length beyond all": ([*GET, ("content-length", "9" * 19)], 413),
    "fields over their limit": ([*GET, *((f"x-{number}", "y" * 900) for number in range(80))], 431),
}


@pytest.mark.parametrize("what", ANSWERED)
async def test_what_cannot_be_served_is_answered(what: str) -> None:
    fields, status = ANSWERED[what]
    async with serving(max_headers=65536) as served, connected(served.address) as client:
        stream = client.streams[1] = Stream(1)
        block = client.block(fields)
        parts = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        client.send(frame(HEADERS, END_STREAM | (END_HEADERS if len(parts) == 1 else 0), 1, parts[0]))
        for part in parts[1:]:
            client.send(frame(CONTINUATION, END_HEADERS if part is parts[-1] else 0, 1, part))
        assert (await client.reply(stream)).status == status
        assert (await client.ask("/echo", b"next", number=3)).data == b"next"


async def test_the_host_may_stand_in_either_place_and_a_star_is_a_target() -> None:
    async with serving() as served, connected(served.address) as client:
        for fields in (
            [*without(":authority"), ("host", "localhost:80")],
            [*GET, ("host", "LOCALHOST")],
            [(":method", "OPTIONS"), *without(":path")[1:], (":path", "*")],
        ):
            stream = Stream(client._next)
            client.streams[stream.number] = stream
            client._next += 2
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream.number, client.block(fields)))
            await client.reply(stream)
        assert [exchange.path for exchange in served.rig.exchanges] == ["/echo", "/echo", "*"]
        assert [exchange.header(b"host") for exchange in served.rig.exchanges] == ["localhost:80"] + ["localhost"] * 2


@pytest.mark.parametrize(
    ("length", "body", "code"),
    [("3", b"four", 1), ("5", b"four", 1)],
)
@pytest.mark.parametrize("path", ["/echo", "/open"])
async def test_a_body_is_as_long_as_it_says(path: str, length: str, body: bytes, code: int) -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: None
        stream = client.request(path, body, [("content-length", length)])
        assert await client.was_reset(stream) == code
        assert (await client.ask("/echo", b"four", fields=[("content-length", "4")])).data == b"four"
        assert len(served.rig.gone) == (path == "/open")


async def test_a_body_over_its_limit_is_refused_as_soon_as_that_is_known() -> None:
    async with serving(max_body=10) as served, connected(served.address) as client:
        stream = client.request("/echo", None, [("content-length", "11")], end=False)
        assert (await client.reply(stream)).status == 413
        stream = client.request("/echo", b"x" * 11, end=False)
        assert (await client.reply(stream)).status == 413
        assert (await client.ask("/echo", b"x" * 10)).status == 200


async def test_all_bodies_that_are_on_their_way_are_bounded_over_all_connections() -> None:
    async with (
        serving(arriving=60_000, look_ahead=10_000) as served,
        connected(served.address) as client,
        connected(served.address) as other,
    ):
        stream = client.request("/echo", None, end=False)
        await client.upload(stream, b"x" * 50_000, end=False)
        await served.until(lambda: served.listener.arriving == 50_000)
        large = other.request("/echo", None, end=False)
        await other.upload(large, b"x" * 40_000, end=False)
        assert (await other.reply(large)).status == 503
        await served.until(lambda: served.listener.arriving == 50_000)
        assert (await other.ask("/echo", b"x" * 9_000)).status == 200
        client.data(stream, b"x" * 1_000, end=True)
        assert (await client.reply(stream)).data == b"x" * 51_000
        assert served.listener.arriving == 0


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(HEADERS, END_HEADERS, 2, b""), 1),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), 9),
        (frame(HEADERS, END_HEADERS, 1, b"\x40\x0a"), 9),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05abc"), 1),
        (frame(HEADERS, END_HEADERS | 0x20, 1, b"abc"), 6),
        (frame(DATA, 0, 0, b"a"), 1),
        (frame(DATA, 0, 1, b"a"), 1),
        (frame(DATA, PADDED, 1, b""), 1),
        (frame(DATA, 0, 1, b"x" * 16385), 6),
        (frame(3, 0, 1, bytes(4)), 1),
        (frame(3, 0, 0, bytes(4)), 1),
        (frame(3, 0, 1, bytes(3)), 6),
        (frame(SETTINGS, 0, 1), 1),
        (frame(SETTINGS, 0, 0, bytes(5)), 6),
        (frame(SETTINGS, ACK, 0, bytes(6)), 6),
        (frame(SETTINGS, 0, 0, struct.pack(">HI", 2, 2)), 1),
        (frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)), 3),
        (frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 16383)), 1),
        (frame(5, 0, 1, bytes(4)), 1),
        (frame(6, 0, 1, bytes(8)), 1),
        (frame(6, 0, 0, bytes(7)), 6),
        (frame(7, 0, 1, bytes(8)), 1),
        (frame(7, 0, 0, bytes(7)), 6),
        (frame(8, 0, 0, bytes(4)), 1),
        (frame(8, 0, 0, bytes(3)), 6),
        (frame(8, 0, 1, struct.pack(">I", 1)), 1),
        (frame(8, 0, 0, struct.pack(">I", 2**31 - 1)), 3),
        (frame(CONTINUATION, END_HEADERS, 1, b""), 1),
        (frame(HEADERS, 0, 1, b"\x82") + frame(6, 0, 0, bytes(8)), 1),
        (frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, END_HEADERS, 3, b""), 1),
        (frame(PRIORITY, 0, 0, bytes(5)), 1),
    ],
)
async def test_what_breaks_the_connection_is_told_with_its_code(sent: bytes, code: int) -> None:
    async with serving() as served, connected(served.address) as client:
        client.send(sent)
        last, found, message = await client.end()
        assert (last, found) == (0, code), message
        assert message
        assert served.rig.exchanges == []


async def test_what_breaks_a_stream_ends_that_only() -> None:
    async with serving() as served, connected(served.address) as client:
        number = client.request("/held", b"").number
        cases = [
            (frame(DATA, 0, number, b"behind the end"), 5),
            (frame(HEADERS, END_HEADERS | END_STREAM, number + 2, client.block([("a", "b")], plain=True)), 5),
            (frame(8, 0, number + 4, struct.pack(">I", 2**31 - 1)), 3),
            (frame(8, 0, number + 6, bytes(4)), 1),
            (frame(PRIORITY, 0, number + 8, struct.pack(">IB", number + 8, 0)), 1),
            (frame(PRIORITY, 0, number + 10, bytes(4)), 6),
        ]
        for at, (sent, code) in enumerate(cases):
            stream = client.streams.get(number + 2 * at) or client.request("/held", b"")
            client.send(sent)
            assert await client.was_reset(stream) == code
        for sent, code in (
            (frame(HEADERS, END_HEADERS, 0, client.block([("a", "b")], plain=True)), 1),
            (frame(HEADERS, END_HEADERS | END_STREAM, 0, client.block([(":path", "/")], plain=True)), 1),
        ):
            stream = client.request("/echo", b"a", end=False)
            client.send(sent[:5] + struct.pack(">I", stream.number) + sent[9:])
            assert await client.was_reset(stream) == code
        assert (await client.ask("/echo", b"next")).data == b"next"
        await served.until(lambda: len(served.rig.gone) == len(cases))


async def test_a_stream_cannot_be_opened_again() -> None:
    async with serving() as served, connected(served.address) as client:
        await client.ask("/echo", b"a", number=5)
        client.request("/echo", b"a", number=3)
        assert (await client.end())[1] == 5


async def test_unknown_frames_and_settings_are_passed_over() -> None:
    async with serving() as served, connected(served.address, settings={99: 1, 1: 0, 3: 5, 6: 100}) as client:
        client.send(frame(99, 255, 7, b"whatever") + frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 100)))
        assert (await client.ask("/echo", b"a")).data == b"a"
        assert (await client.ask("/echo", b"b")).data == b"b"


async def test_only_so_many_requests_at_once() -> None:
    async with serving(max_streams=3) as served, connected(served.address) as client:
        assert client.settings[3] == 3
        held = [client.request("/held") for _ in range(3)]
        await handed_over(served, 3)
        assert await client.was_reset(client.request("/held")) == 7
        served.rig.exchanges[0].respond(200, PLAIN)
        await client.reply(held[0])
        assert (await client.ask("/echo", b"a")).data == b"a"
