"""Calls that end well: every kind of method in all three protocols, and what goes with the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from tailrace import Code, Context, RpcError
from tailrace.wire.compression import compress
from tailrace.wire.connect import encode_get
from tailrace.wire.envelopes import COMPRESSED, envelope
from tailrace.wire.grpc import encode_base64
from tests.protocols.connect.support import PROTOCOLS, Order, Request, Shop, call, send
from tests.rigs.exchange import FakeExchange, serving

TEA, MILK = {"item": "tea", "qty": 2}, {"item": "milk"}


@PROTOCOLS
async def test_a_message_is_answered_with_a_message(protocol: str) -> None:
    async with serving(Shop().service) as server:
        answer = await call(server, "/shop.v1.Shop/Place", TEA, protocol=protocol)
        assert (answer.error, answer.ended, answer.status) == (None, True, 200)
        assert answer.messages == [{"item": "TEA", "qty": "3"}]
        assert answer.headers["content-type"].startswith("application/" + protocol.replace("connect", "json"))
        assert server.tasks.calls == {}


async def test_a_plain_function_runs_in_a_thread() -> None:
    async with serving(Shop().service) as server:
        assert (await call(server, "/shop.v1.Shop/Plain", TEA)).messages == [{"item": "tea", "qty": "2"}]


@PROTOCOLS
async def test_a_stream_of_messages_is_answered_with_one(protocol: str) -> None:
    async with serving(Shop().service) as server:
        request = Request("/shop.v1.Shop/Total", TEA, protocol=protocol, stream=True, fed=True)
        assert server.streams(request)
        send(server, request)
        request.say(MILK)
        request.feed_end()
        assert (await request.done()).messages == [{"item": "tea,milk", "qty": "2"}]


@PROTOCOLS
async def test_a_message_is_answered_with_a_stream(protocol: str) -> None:
    async with serving(Shop().service) as server:
        answer = await call(server, "/shop.v1.Shop/Watch", {"item": "tea", "qty": 3}, protocol=protocol, stream=True)
        assert [message.get("qty", "0") for message in answer.messages] == ["0", "1", "2"]
        assert (answer.error, answer.ended) == (None, True)


@PROTOCOLS
async def test_a_stream_without_messages_ends_well(protocol: str) -> None:
    async with serving(Shop().service) as server:
        answer = await call(server, "/shop.v1.Shop/Watch", {"qty": 0}, protocol=protocol, stream=True)
        assert (answer.messages, answer.error, answer.ended) == ([], None, True)


@PROTOCOLS
async def test_each_message_is_answered_while_the_client_goes_on(protocol: str) -> None:
    async with serving(Shop().service) as server:
        request = send(server, Request("/shop.v1.Shop/Talk", protocol=protocol, stream=True, fed=True))
        for count, item in enumerate(["tea", "milk", "rum"], 1):
            request.say({"item": item})
            while len(request.answer.messages) < count:
                await asyncio.sleep(0)
            assert request.answer.messages[-1]["item"] == item.upper()
            assert not request.answer.ended or protocol == "grpc"
        request.feed_end()
        assert (await request.done()).error is None


@PROTOCOLS
async def test_a_request_that_came_whole_is_read_as_a_stream(protocol: str) -> None:
    async with serving(Shop().service) as server:
        answer = await call(server, "/shop.v1.Shop/Talk", TEA, MILK, protocol=protocol, stream=True)
        assert [message["item"] for message in answer.messages] == ["TEA", "MILK"]


async def test_a_body_in_base64_is_read_and_answered_in_base64() -> None:
    async with serving(Shop().service) as server:
        kind = ("content-type", "application/grpc-web-text+json")
        for path, stream in (("Place", False), ("Watch", True), ("Total", True)):
            raw = encode_base64(envelope(0, b'{"item": "tea", "qty": 1}'))
            request = Request(f"/shop.v1.Shop/{path}", protocol="grpc-web", stream=stream, raw=raw, headers=[kind])
            answer = await send(server, request).done()
            assert (answer.error, len(answer.messages), answer.ended) == (None, 1, True), path


# --- GET ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["identity", "gzip"])
async def test_what_changes_nothing_may_be_got(compression: str) -> None:
    async with serving(Shop().service) as server:
        query = encode_get("json", compress(compression, b'{"item": "tea"}'), compression)
        exchange = FakeExchange("GET", f"/shop.v1.Shop/Look?{query}")
        server.handle(exchange)
        assert (await exchange.json())["item"] == "tea"
        message = quote('{"item": "rum"}')
        exchange = FakeExchange("GET", f"/shop.v1.Shop/Look?encoding=json&message={message}")  # as a person writes it
        server.handle(exchange)
        assert (await exchange.json())["item"] == "rum"
        exchange = FakeExchange("GET", "/shop.v1.Shop/Look?encoding=proto&base64=1&message=CgN0ZWE")
        server.handle(exchange)
        assert await exchange.status_code() == 200
        assert exchange.headers["content-type"] == "application/proto"
        assert exchange.reply_body.startswith(b"\n\x03tea")


# --- compression --------------------------------------------------------------------------------


@PROTOCOLS
@pytest.mark.parametrize("name", ["gzip", "br", "zstd"])
async def test_messages_are_compressed_both_ways(protocol: str, name: str) -> None:
    async with serving(Shop().service, min_compress=10) as server:
        unary = protocol == "connect"
        names = ("content-encoding", "accept-encoding") if unary else ("grpc-encoding", "grpc-accept-encoding")
        data = compress(name, b'{"item": "%b"}' % (b"tea" * 10))
        request = Request(
            "/shop.v1.Shop/Place",
            protocol=protocol,
            raw=data if unary else envelope(COMPRESSED, data),
            headers=[(names[0], name), (names[1], f"snappy, {name}")],
        )
        answer = await send(server, request).done()
        assert [message["item"] for message in answer.messages] == ["TEA" * 10]
        assert answer.headers[names[0]] == name
        assert b"TEA" * 10 not in request.reply_body


async def test_small_messages_are_not_compressed() -> None:
    async with serving(Shop().service) as server:
        answer = await call(server, "/shop.v1.Shop/Place", TEA, headers=[("accept-encoding", "gzip")])
        assert "content-encoding" not in answer.headers
        stream = [("connect-accept-encoding", "gzip")]
        request = Request("/shop.v1.Shop/Watch", {"item": "tea" * 999, "qty": 2}, stream=True, headers=stream)
        answer = await send(server, request).done()
        assert answer.headers["connect-content-encoding"] == "gzip"
        assert len(answer.messages) == 2
        assert len(request.sink.written) < 1000


# --- headers ------------------------------------------------------------------------------------


@PROTOCOLS
@pytest.mark.parametrize("fails", [False, True])
async def test_a_handler_sees_headers_and_gives_its_own(protocol: str, fails: bool) -> None:
    shop = Shop()

    @shop.service.rpc
    async def meta(request: Order, ctx: Context) -> Order:
        rpc = ctx.rpc
        assert rpc is not None
        assert (rpc.path, rpc.protocol, rpc.codec, rpc.http_method) == ("shop.v1.Shop/Meta", protocol, "json", "POST")
        assert (rpc.query, rpc.principal, rpc.timeout) == (b"", "me", None)
        assert (ctx.headers["X-Ask"], ctx.headers["x-ask-bin"]) == ("1", "AAE")  # as over MCP: text as it came
        rpc.response_headers["X-Echo"] = rpc.headers["X-Ask"]
        rpc.response_trailers["x-raw-bin"] = rpc.headers["x-ask-bin"]
        await rpc.send_headers()  # of one message: nothing to be sent before it
        if fails:
            raise RpcError(Code.ABORTED, "no", metadata={"x-why": ["a", "b"], "content-type": "not mine"})
        return request

    async with serving(shop.service) as server:
        headers = [("x-ask", "1"), ("x-ask-bin", "AAE")]
        answer = await call(server, "/shop.v1.Shop/Meta", TEA, protocol=protocol, headers=headers, principal="me")
        assert answer.headers["x-echo"] == "1"
        assert answer.trailers["x-raw-bin"] == b"\0\1"
        assert answer.code == (Code.ABORTED if fails else None)
        if fails:
            why = answer.headers["x-why"] if protocol == "connect" else answer.trailers.all("x-why")
            assert why in (["a", "b"], "b")  # the rig has the last of several headers


@PROTOCOLS
async def test_a_stream_can_send_its_headers_before_its_first_message(protocol: str) -> None:
    shop = Shop()

    @shop.service.rpc
    async def early(request: Order, ctx: Context) -> AsyncIterator[Order]:
        assert ctx.rpc is not None
        ctx.rpc.response_headers["x-early"] = "yes"
        await ctx.rpc.send_headers()
        await ctx.rpc.send_headers()
        await shop.gate.wait()
        yield request
        ctx.rpc.response_trailers["x-late"] = "yes"

    async with serving(shop.service) as server:
        request = send(server, Request("/shop.v1.Shop/Early", TEA, protocol=protocol, stream=True))
        assert await request.status_code() == 200
        assert request.headers["x-early"] == "yes"
        assert request.answer.messages == []
        shop.gate.set()
        answer = await request.done()
        assert (len(answer.messages), answer.trailers["x-late"]) == (1, "yes")


async def test_a_tool_is_a_method_as_well() -> None:
    shop = Shop()

    @shop.service.tool
    async def add(a: int, b: int = 1) -> int:
        return a + b

    async with serving(shop.service) as server:
        answer = await call(server, "/shop.v1.Shop/Add", {"a": 2})
        assert answer.error is None
        assert list(answer.messages[0].values()) == ["3"]
