"""Requests and replies on a connection: framing, order, what is kept open and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest

from tailrace.core.exchange import Exchange, Sink
from tests.transports.http.rig import PLAIN, converse, request, serving


async def test_a_connection_serves_one_request_after_another() -> None:
    async with serving() as served, served.peer() as peer:
        for number in range(20):
            body = b"x" * number
            await peer.send(request(body=body))
            reply = await peer.reply()
            assert (reply.status, reply.body, reply["content-length"]) == (200, body, str(number))
            assert reply["connection"] is None
        assert served.listener.statistics()["accepted"] == 1
        assert served.listener.statistics()["requests"] == 20


async def test_an_exchange_has_what_the_request_says() -> None:
    async with serving() as served, served.peer() as peer:
        fields = ("X-One: first", "x-one:second ", "Accept:\t a, b \t", "X-Latin: caf\xe9", "X-Empty:")
        await peer.send(request("PUT", "/a%20b/%C3%A9?q=%20&r", b"body", *fields))
        await peer.reply()
        (exchange,) = served.rig.exchanges
        assert (exchange.method, exchange.path, exchange.query) == ("PUT", "/a b/é", b"q=%20&r")
        assert (exchange.body, exchange.prefix, exchange.principal) == (b"body", "", "")
        assert exchange.header(b"x-one") == "first"
        assert exchange.header_values(b"x-one") == ["first", "second"]
        assert exchange.header(b"accept") == "a, b"
        assert exchange.header(b"x-latin") == "caf\xe9"
        assert exchange.header(b"x-empty") == ""
        assert exchange.header(b"absent") is None
        assert exchange.header_values(b"absent") == []
        assert [field for field in exchange.fields() if field[0] == b"x-one"] == [
            (b"x-one", "first"),
            (b"x-one", "second"),
        ]
        assert (b"x-latin", "caf\xe9") in exchange.fields()
        assert exchange.loopback


async def test_requests_with_the_same_head_share_what_was_found_out_from_it_and_no_others() -> None:
    async with serving() as served, served.peer() as peer:
        for fields in (("X: 1",), ("X: 1",), ("X: 2",)):
            await peer.send(request("POST", "/echo", b"body", *fields))
            await peer.reply()
        first, again, other = (exchange.verdicts for exchange in served.rig.exchanges)
        assert first is again
        assert first is not other


async def test_a_request_may_come_in_any_pieces() -> None:
    whole = request(body=b"sized") + request("POST", "/echo", b"5\r\nchunk\r\n1\r\ns\r\n0\r\n\r\n", CHUNKED)
    async with serving() as served:
        for size in (1, 2, 3, 7, 50):
            async with served.peer() as peer:
                for at in range(0, len(whole), size):
                    await peer.send(whole[at : at + size])
                    await asyncio.sleep(0)
                assert (await peer.reply()).body == b"sized"
                assert (await peer.reply()).body == b"chunks"


async def test_a_short_head_may_follow_a_long_one_in_pieces() -> None:
    long = request("POST", "/echo", b"long", "X: " + "y" * 500)
    short = request("POST", "/echo", b"short")
    pieces = [long[:400], long[400:], short[:-2], short[-2:]]
    rig, sent = await converse(pieces)
    assert [exchange.body for exchange in rig.exchanges] == [b"long", b"short"]
    assert sent.count(b"200 OK") == 2


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"a\r\n0123456789\r\n000\r\n\r\n", b"0123456789"),
        (b'3;name=value;other="a;\\"b"\r\nabc\r\n0;last\r\n\r\n', b"abc"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"1\r\na\r\n0\r\nX-Sum: 1\r\nX-Other:\r\n\r\n", b"a"),
    ],
)
async def test_a_chunked_body_is_joined(wire: bytes, body: bytes) -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", wire, "Transfer-Encoding: Chunked"))
        assert (await peer.reply()).body == body
        await peer.send(request(body=b"the next one"))
        assert (await peer.reply()).body == b"the next one"


async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 8000
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:1], body[1:70_000], body[70_000:]))
    async with serving() as served, served.peer() as peer:
        await peer.send(request(body=body))
        assert (await peer.reply()).body == body
        await peer.send(request("POST", "/echo", chunks + b"0\r\n\r\n", CHUNKED))
        assert (await peer.reply()).body == body


# --- order -------------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(b"".join(request(body=b"%d" % number) for number in range(500)))
        assert [(await peer.reply()).body for _ in range(500)] == [b"%d" % number for number in range(500)]


async def test_a_pipelined_request_waits_for_the_reply_before_it() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b"") + request(body=b"second"))
        await served.until(lambda: served.rig.exchanges)
        await asyncio.sleep(0.02)
        assert len(served.rig.exchanges) == 1
        served.rig.exchanges[0].respond(200, PLAIN, b"first")
        assert len(served.rig.exchanges) == 1  # not begun inside the stack of the reply
        assert [(await peer.reply()).body, (await peer.reply()).body] == [b"first", b"second"]


async def test_a_pipelined_request_never_begins_inside_the_stack_of_another() -> None:
    depth = deepest = 0

    def nested(exchange: Exchange) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        exchange.respond(200, PLAIN, b"")
        depth -= 1

    async with serving() as served, served.peer() as peer:
        served.rig.other = nested
        await peer.send(request(target="/other", body=b"") * 1500)
        for _ in range(1500):
            assert (await peer.reply()).status == 200
        assert deepest == 1


async def test_a_reply_can_be_given_later() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        served.rig.exchanges[0].respond(201, [(b"x-a", b"1")], b"late")
        reply = await peer.reply()
        assert (reply.status, reply.body, reply["x-a"]) == (201, b"late", "1")


async def test_a_second_reply_is_a_bug_of_ours() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(body=b"a"))
        await peer.reply()
        with pytest.raises(RuntimeError, match="reply already"):
            served.rig.exchanges[0].respond(200, (), b"")
        with pytest.raises(RuntimeError, match="reply already"):
            served.rig.exchanges[0].stream(200, (), served.rig.writer)


@pytest.mark.parametrize("value", [b"a\r\nx-injected: 1", b"a\nb", b"a\rb"])
async def test_a_reply_cannot_be_split_by_a_header_value(value: bytes) -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        with pytest.raises(ValueError, match="line break"):
            served.rig.exchanges[0].respond(200, [(b"x-a", value)], b"")


async def test_a_handler_that_fails_is_answered_500_and_logged_once(errors_logged: Callable[[], int]) -> None:
    def fail(exchange: Exchange) -> None:
        raise RuntimeError("broken")

    async with serving() as served, served.peer() as peer:
        served.rig.other = fail
        await peer.send(request(target="/other", body=b""))
        assert (await peer.reply()).status == 500
        await peer.send(request(body=b"goes on"))
        assert (await peer.reply()).body == b"goes on"
        assert errors_logged() == 1


# --- methods, statuses, forms ------------------------------------------------------------------------


async def test_head_is_answered_with_the_length_and_without_the_body() -> None:
    def found(exchange: Exchange) -> None:
        exchange.respond(200, PLAIN, b"12345")

    async with serving() as served, served.peer() as peer:
        served.rig.other = found
        await peer.send(request("HEAD", "/other"))
        reply = await peer.reply(method="HEAD")
        assert (reply.status, reply["content-length"]) == (200, "5")
        await peer.send(request(body=b"next"))
        assert (await peer.reply()).body == b"next"


async def test_the_stream_of_a_head_request_ends_at_once() -> None:
    ended = asyncio.Event()

    async def endless(sink: Sink) -> None:
        try:
            while True:
                await sink.write(b"data")
        finally:
            ended.set()

    async with serving() as served, served.peer() as peer:
        served.rig.writer = endless
        await peer.send(request("HEAD", "/stream"))
        assert (await peer.reply(method="HEAD")).status == 200
        await asyncio.wait_for(ended.wait(), 60)
        await peer.send(request(body=b"next"))
        assert (await peer.reply()).body == b"next"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_no_length_either(status: int) -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(status, (), b"dropped")
        await peer.send(request("GET", "/other"))
        reply = await peer.reply()
        assert (reply.status, reply["content-length"], reply["transfer-encoding"]) == (status, None, None)
        await peer.send(request(body=b"next"))
        assert (await peer.reply()).body == b"next"


async def test_a_status_that_has_no_name_is_sent_all_the_same() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.other = lambda exchange: exchange.respond(299, (), b"")
        await peer.send(request("GET", "/other"))
        assert (await peer.reply()).status == 299


async def test_every_reply_has_the_date() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(body=b""))
        date = (await peer.reply())["date"]
        assert date is not None
        assert parsedate_to_datetime(date).tzinfo is not None
        assert date.endswith(" GMT")


async def test_the_date_is_made_anew_with_each_look_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = iter(["one", "two", "three"])
    monkeypatch.setattr("tailrace.transports.http.listener.formatdate", lambda usegmt: next(dates))
    async with serving(sweep=3600) as served, served.peer() as peer:
        seen: list[str | None] = []
        for number in range(4):
            if number == 2:
                served.listener.sweep(0)
            await peer.send(request(body=b""))
            seen.append((await peer.reply())["date"])
        assert seen == ["one", "one", "two", "two"]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://localhost/a?b", "/a", b"b"),
        ("HTTP://LocalHost/a", "/a", b""),
        ("https://localhost", "/", b""),
        ("http://localhost?b=c", "/", b"b=c"),
        ("//a//b/../c", "//a//b/../c", b""),
        ("/a?b?c", "/a", b"b?c"),
        ("/%2F%00", "//\x00", b""),
        ("/a:b@c;d=e,f!$&'()*+~", "/a:b@c;d=e,f!$&'()*+~", b""),
    ],
)
async def test_a_target_has_a_path_and_a_query(target: str, path: str, query: bytes) -> None:
    async with serving() as served:
        assert (await served.ask(request("GET", target))).status == 404
        assert (served.rig.exchanges[0].path, served.rig.exchanges[0].query) == (path, query)


async def test_options_of_the_server_as_a_whole_is_an_exchange_of_its_own_path() -> None:
    async with serving() as served:
        assert (await served.ask(request("OPTIONS", "*"))).status == 404
        assert served.rig.exchanges[0].path == "*"


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:80", "[::1]", "a.b-c_d", ""])
async def test_a_host_is_handed_on_as_it_is(host: str) -> None:
    async with serving() as served:
        reply = await served.ask(b"GET /echo HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
        assert reply.status == 200
        assert served.rig.exchanges[0].header(b"host") == host


async def test_one_empty_line_before_a_request_is_ignored() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(body=b"a") + b"\r\n" + request(body=b"b") + b"\r\n")
        assert [(await peer.reply()).body, (await peer.reply()).body] == [b"a", b"b"]
        await peer.send(request(body=b"c"))
        assert (await peer.reply()).body == b"c"


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.2, HTTP/1.1"])
async def test_an_upgrade_is_not_taken_up(upgrade: str) -> None:
    """RFC 9110, 7.8. Java's HTTP client asks for h2c with the first request of every connection, a POST as well."""
    fields = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    async with serving() as served, served.peer() as peer:
        for _ in range(2):
            await peer.send(request("POST", "/echo", b"as if it had not asked", *fields))
            reply = await peer.reply()
            assert (reply.status, reply["upgrade"], reply.body) == (200, None, b"as if it had not asked")


# --- Expect ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [("Content-Length: 5",), (CHUNKED,)])
async def test_a_client_that_waits_for_100_gets_it(fields: tuple[str, ...]) -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", None, "Expect: 100-Continue", *fields))
        assert (await peer.head()).status == 100
        await peer.send(b"12345" if "5" in fields[0] else b"5\r\n12345\r\n0\r\n\r\n")
        assert (await peer.reply()).body == b"12345"


async def test_no_100_is_sent_where_the_body_is_there_or_there_is_none() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", b"12345", "Expect: 100-continue"))
        assert (await peer.reply()).body == b"12345"
        await peer.send(request("POST", "/echo", b"", "Expect: 100-continue"))
        assert (await peer.reply()).status == 200


async def test_no_100_is_sent_to_a_client_that_has_begun_with_the_body() -> None:
    head = request("POST", "/echo", None, "Expect: 100-continue", "Content-Length: 5")
    _, sent = await converse([head + b"12", b"345"])
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_http_1_0_gets_no_100() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", None, "Expect: 100-continue", "Content-Length: 1", version="1.0"))
        await asyncio.sleep(0.02)
        await peer.send(b"a")
        assert (await peer.reply()).body == b"a"


async def test_a_body_that_is_too_large_is_refused_instead_of_asked_for() -> None:
    async with serving(max_body=10) as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", None, "Expect: 100-continue", "Content-Length: 11"))
        assert (await peer.reply()).status == 413
        assert await peer.closed()


# --- keeping and closing -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["close", "Close", "x, close", "close, keep-alive"])
async def test_a_client_that_says_close_is_closed_behind_the_reply(value: str) -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request("POST", "/echo", b"a", f"Connection: {value}") + request(body=b"dropped"))
        reply = await peer.reply()
        assert (reply.body, reply["connection"]) == (b"a", "close")
        assert await peer.closed()
        assert len(served.rig.exchanges) == 1


async def test_http_1_0_is_closed_unless_it_asks_to_be_kept() -> None:
    async with serving() as served:
        async with served.peer() as peer:
            await peer.send(request(body=b"a", version="1.0"))
            reply = await peer.reply()
            assert (reply.body, reply["connection"]) == (b"a", "close")
            assert await peer.closed()
        async with served.peer() as peer:
            for _ in range(3):
                await peer.send(request("POST", "/echo", b"a", "Connection: Keep-Alive", version="1.0"))
                reply = await peer.reply()
                assert (reply.body, reply["connection"]) == (b"a", "keep-alive")


async def test_http_1_0_needs_no_host() -> None:
    async with serving() as served:
        assert (await served.ask(b"GET /echo HTTP/1.0\r\n\r\n")).status == 200
        assert served.rig.exchanges[0].header(b"host") is None


# --- streams -----------------------------------------------------------------------------------------


async def three_parts(sink: Sink) -> None:
    for part in (b"one", b"", b"two", b"x" * 70_000):
        await sink.write(part)
    await sink.end()


async def test_a_stream_is_chunked_and_the_connection_goes_on() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.writer = three_parts
        for _ in range(3):
            await peer.send(request("GET", "/stream"))
            reply = await peer.reply()
            assert (reply["transfer-encoding"], reply["content-length"], reply["connection"]) == ("chunked", None, None)
            assert reply.body == b"onetwo" + b"x" * 70_000
        await peer.send(request(body=b"plain"))
        assert (await peer.reply()).body == b"plain"


async def test_the_head_of_a_stream_and_each_part_are_sent_at_once() -> None:
    go_on: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_demand(sink: Sink) -> None:
        while part := await go_on.get():
            await sink.write(part)
        await sink.end()

    async with serving() as served, served.peer() as peer:
        served.rig.writer = on_demand
        await peer.send(request("GET", "/stream"))
        assert (await peer.head()).status == 200
        for part in (b"a", b"bc"):
            go_on.put_nowait(part)
            assert await peer.chunk() == part
        go_on.put_nowait(b"")
        assert [chunk async for chunk in peer.chunks()] == []


async def test_http_1_0_gets_a_stream_up_to_the_end_of_the_connection() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.writer = three_parts
        await peer.send(request("GET", "/stream", None, "Connection: keep-alive", version="1.0"))
        reply = await peer.reply()
        assert (reply["transfer-encoding"], reply["connection"]) == (None, "close")
        assert reply.body == b"onetwo" + b"x" * 70_000


async def test_trailers_go_to_those_who_take_them() -> None:
    async def with_trailer(sink: Sink) -> None:
        await sink.write(b"a")
        await sink.end([(b"x-sum", b"1")])

    async with serving() as served:
        served.rig.writer = with_trailer
        for fields, tail in ((("TE: trailers",), b"0\r\nx-sum: 1\r\n\r\n"), ((), b"0\r\n\r\n")):
            async with served.peer() as peer:
                await peer.send(request("GET", "/stream", None, "Connection: close", *fields))
                await peer.head()
                assert await peer.rest() == b"1\r\na\r\n" + tail


async def test_a_writer_that_returns_without_an_end_breaks_the_connection_off() -> None:
    async def unfinished(sink: Sink) -> None:
        await sink.write(b"a")

    async with serving() as served, served.peer() as peer:
        served.rig.writer = unfinished
        await peer.send(request("GET", "/stream"))
        await peer.head()
        assert await peer.rest() == b"1\r\na\r\n"  # and no last chunk


async def test_a_writer_that_fails_breaks_the_connection_off_and_is_logged(errors_logged: Callable[[], int]) -> None:
    async def failing(sink: Sink) -> None:
        await sink.write(b"a")
        raise RuntimeError("broken")

    async with serving() as served, served.peer() as peer:
        served.rig.writer = failing
        await peer.send(request("GET", "/stream"))
        await peer.head()
        assert await peer.rest() == b"1\r\na\r\n"
        assert errors_logged() == 1


async def test_a_stream_that_has_ended_cannot_write_into_the_next_reply() -> None:
    late: asyncio.Queue[str] = asyncio.Queue()

    async def writes_on(sink: Sink) -> None:
        await sink.write(b"a")
        await sink.end()
        try:
            await sink.write(b"overdue")
        except Exception as error:
            late.put_nowait(type(error).__name__)

    async with serving() as served, served.peer() as peer:
        served.rig.writer = writes_on
        await peer.send(request("GET", "/stream") + request(body=b"next"))
        assert (await peer.reply()).body == b"a"
        assert (await peer.reply()).body == b"next"
        assert await late.get() == "TransportError"


async def test_a_request_behind_a_stream_waits_for_its_end() -> None:
    async with serving() as served, served.peer() as peer:
        served.rig.writer = three_parts
        await peer.send(request("GET", "/stream") + request(body=b"next"))
        assert (await peer.reply()).body.startswith(b"onetwo")
        assert (await peer.reply()).body == b"next"
