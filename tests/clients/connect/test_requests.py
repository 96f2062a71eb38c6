"""What goes out: GET, compression, limits, deadlines, and what ties a call to the one around it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace import Context, DefinitionError, Service
from tailrace.connect import Client, Code, RpcDeadlineExceeded, RpcError
from tailrace.wire.compression import CODECS, compress, decompress
from tailrace.wire.connect import parse_get
from tailrace.wire.envelopes import COMPRESSED, EnvelopeReader, envelope
from tests.clients.connect.support import PATH, Spoken, StringValue, at_its_deadline, each_way, served, text
from tests.clients.connect.test_calls import answer_unary
from tests.rigs.hosted import hosted
from tests.rigs.peers import Request

pytestmark = pytest.mark.timeout(60)
LONG = "x" * 5000
PLAIN = StringValue(value=LONG).SerializeToString()
each_compression = pytest.mark.parametrize("compression", list(CODECS))


# --- messages that are dicts ----------------------------------------------------------------------------

shop = Service("shop")


@dataclass
class Order:
    item: str
    qty: int = 0


@shop.tool
async def place(item: str, qty: int = 1) -> Order:
    return Order(item, qty)


@shop.tool
async def facts() -> dict[str, Any]:
    return {"open": True}


@shop.rpc
async def each(items: list[str]) -> AsyncIterator[Order]:
    for item in items:
        yield Order(item)


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpc-web"])
async def test_as_json_a_message_may_be_a_dict_both_ways(protocol: Any) -> None:
    with hosted("listener", shop) as server:
        url = "http://{}:{}".format(*server.address)
        await _with_dicts(Client(url, protocol=protocol, codec="json"))


async def _with_dicts(client: Client) -> None:
    async with client:
        given = await client.unary("Shop/Place", {"item": "tea", "qty": 2}, response=dict)
        assert given == {"item": "tea", "qty": "2"}, "as JSON writes a message: its integers of 64 bits are strings"
        assert await client.unary("Shop/Place", {"item": "tea"}, response=Order) == Order("tea", 1)
        assert await client.unary("Shop/Facts", {}, response=dict) == {"open": True}
        async with client.server_stream("Shop/Each", {"items": ["a", "b"]}, response=dict) as stream:
            assert [one async for one in stream] == [{"item": "a", "qty": "0"}, {"item": "b", "qty": "0"}]


async def test_in_the_binary_form_a_dict_is_refused_and_nothing_is_sent() -> None:
    async with Client("http://127.0.0.1:9") as client:
        with pytest.raises(DefinitionError, match="codec='json'"):
            await client.unary("Shop/Place", {"item": "tea"}, response=Order)


# --- GET ------------------------------------------------------------------------------------------------


async def answer_get(request: Request) -> None:
    await request.whole()
    await request.head(200, [("content-type", "application/proto")])
    await request.data(StringValue(value="got").SerializeToString())
    await request.end()


@pytest.mark.parametrize("compression", ["identity", *CODECS])
async def test_a_call_without_side_effects_goes_by_get(compression: str) -> None:
    spoken = Spoken("connect", False)
    options = {"send_compression": compression, "compress_min_bytes": 0}
    async with served(spoken, answer_get, **options) as (client, peer):
        reply = await client.unary(PATH, text("x"), response=StringValue, get=True, timeout=60.0)
        request = await peer.request()
    assert reply.value == "got"
    path, _, query = request.path.partition("?")
    asked = parse_get(query.encode())
    assert (path, asked.codec, asked.compression, asked.version) == (f"/{PATH}", "proto", compression, "1")
    assert decompress(compression, asked.message, 100) == text("x").SerializeToString()
    assert request.body == b""
    assert "content-type" not in request.headers
    assert int(request.headers["connect-timeout-ms"]) in range(30_000, 60_001)


async def test_a_url_that_would_be_too_long_goes_by_post() -> None:
    spoken = Spoken("connect", False)

    async def answer(request: Request) -> None:
        await (answer_get(request) if "?" in request.path else answer_unary(spoken, request, "posted"))

    async with served(spoken, answer, get_max_url_bytes=300) as (client, _):
        assert (await client.unary(PATH, text("x"), response=StringValue, get=True)).value == "got"
        long = await client.unary(PATH, text("x" * 300), response=StringValue, get=True)
        assert long.value.startswith("posted")


@pytest.mark.parametrize("spoken", [Spoken("grpc", True), Spoken("grpc-web", False)], ids=repr)
async def test_only_connect_has_get(spoken: Spoken) -> None:
    async with served(spoken, lambda request: answer_unary(spoken, request, "posted")) as (client, _):
        assert (await client.unary(PATH, text("x"), response=StringValue, get=True)).value == "posted x"


# --- compression and limits -----------------------------------------------------------------------------


@each_way
@each_compression
async def test_what_is_sent_and_received_may_be_compressed(spoken: Spoken, compression: str) -> None:
    async def echo(request: Request) -> None:
        data = await request.whole()
        headers = [(name, value) for name, value in request.headers.items() if name.endswith("content-encoding")]
        if spoken.protocol != "connect":
            headers = [("grpc-encoding", request.headers["grpc-encoding"])]
        await request.head(200, [("content-type", request.headers["content-type"]), *headers])
        await request.data(data)
        await (spoken.end(request) if "+" in request.headers["content-type"] else request.end())

    async with served(spoken, echo, send_compression=compression) as (client, peer):
        assert (await client.unary(PATH, text(LONG), response=StringValue)).value == LONG
        assert len((await peer.request()).body) < 1000
        async with client.bidi(PATH, request=StringValue, response=StringValue) as stream:
            for value in ("short", LONG):
                await stream.send(text(value))
            await stream.close_send()
            assert [one.value async for one in stream] == ["short", LONG]
        reader = EnvelopeReader(10_000)
        reader.feed(bytes(peer.requests[1].body))
        short, long = reader.next(), reader.next()
        assert short is not None
        assert long is not None
        assert (short.flags, short.data) == (0, text("short").SerializeToString())  # too short to be worth it
        assert long.flags == COMPRESSED


@each_way
async def test_what_is_accepted_is_said(spoken: Spoken) -> None:
    names = {"connect": "accept-encoding", "grpc": "grpc-accept-encoding", "grpc-web": "grpc-accept-encoding"}
    async with served(spoken, lambda request: answer_unary(spoken, request, "hello")) as (client, peer):
        await client.unary(PATH, text("x"), response=StringValue)
        assert (await peer.request()).headers[names[spoken.protocol]] == ", ".join(CODECS)
    async with served(spoken, lambda request: answer_unary(spoken, request, "hello"), accept_compression=["gzip"]) as (
        client,
        peer,
    ):
        await client.unary(PATH, text("x"), response=StringValue)
        assert (await peer.request()).headers[names[spoken.protocol]] == "gzip"


@each_way
@each_compression
async def test_a_message_that_grows_beyond_the_limit_is_never_made(spoken: Spoken, compression: str) -> None:
    bomb = compress(compression, bytes(50_000_000))

    async def answer(request: Request) -> None:
        await request.whole()
        if request.headers["content-type"] == "application/proto":
            await spoken.begin(request, ("content-encoding", compression), unary=True)
            await request.data(bomb)
            return await request.end()
        name = "connect-content-encoding" if spoken.protocol == "connect" else "grpc-encoding"
        await spoken.begin(request, (name, compression))
        await request.data(envelope(COMPRESSED, bomb))
        return await spoken.end(request)

    async with served(spoken, answer) as (client, _):
        with pytest.raises(RpcError, match="more than 4194304 bytes") as error:
            await client.unary(PATH, text("x"), response=StringValue)
        assert error.value.code is Code.RESOURCE_EXHAUSTED
        async with client.server_stream(PATH, text("x"), response=StringValue, read_max_bytes=1000) as stream:
            with pytest.raises(RpcError, match=r"more than 1000 bytes; allow more by read_max_bytes="):
                await stream.receive()


@each_way
async def test_a_message_that_is_announced_as_too_long_is_not_waited_for(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await request.data(envelope(0, bytes(2000))[:5])
        await asyncio.Event().wait()

    async with (
        served(spoken, answer, read_max_bytes=1000) as (client, _),
        client.server_stream(PATH, text("x"), response=StringValue) as stream,
    ):
        with pytest.raises(RpcError, match="more than 1000 bytes"):
            await stream.receive()


@each_way
async def test_a_message_that_is_too_long_to_be_sent_is_not(spoken: Spoken) -> None:
    async with served(spoken, spoken.echo, send_max_bytes=100) as (client, peer):
        with pytest.raises(RpcError, match="at most 100 are sent") as error:
            await client.unary(PATH, text(LONG), response=StringValue)
        assert error.value.code is Code.RESOURCE_EXHAUSTED
        assert peer.requests == []
        async with client.bidi(PATH, request=StringValue, response=StringValue, send_max_bytes=None) as stream:
            await stream.send(text(LONG))
            await stream.close_send()
            assert [one.value async for one in stream] == [LONG]


# --- the call around it ---------------------------------------------------------------------------------


async def in_context(context: Context, work: Any) -> Any:
    async def run() -> Any:
        context.enter_here()
        return await work()

    return await asyncio.create_task(run())


@each_way
async def test_the_deadline_of_the_call_around_it_holds_and_is_told(spoken: Spoken) -> None:
    async with served(spoken, spoken.silent) as (client, peer):

        def ask(seconds: float) -> Any:
            return in_context(
                Context.background().with_timeout(seconds),
                lambda: client.unary(PATH, text("x"), response=StringValue),
            )

        await at_its_deadline(peer, ask, 0.2)
        headers = peer.requests[0].headers
        told = headers.get("connect-timeout-ms") or headers["grpc-timeout"]
        assert told[:-1].isdigit()
        if spoken.protocol == "connect":
            assert int(told) <= (200 if len(peer.requests) == 1 else 30_000)

        async def stream() -> None:
            async with client.server_stream(PATH, text("x"), response=StringValue) as watching:
                await watching.receive()

        with pytest.raises(RpcDeadlineExceeded):
            await in_context(Context.background().with_timeout(0.1), stream)


async def test_a_call_without_any_deadline_tells_none() -> None:
    spoken = Spoken("connect", False)
    async with served(spoken, lambda request: answer_unary(spoken, request, "hello")) as (client, peer):
        await client.unary(PATH, text("x"), response=StringValue, timeout=math.inf)
        assert "connect-timeout-ms" not in (await peer.request()).headers


async def test_the_trace_and_the_correlation_id_go_along() -> None:
    spoken = Spoken("connect", False)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with served(spoken, lambda request: answer_unary(spoken, request, "hello")) as (client, peer):

        async def call(**options: Any) -> None:
            await client.unary(PATH, text("x"), response=StringValue, **options)

        await in_context(Context.background().with_value("traceparent", trace).with_value("tracestate", "a=b"), call)
        await in_context(Context.background().with_value("correlation_id", "order-7"), call)
        await in_context(
            Context.background().with_value("correlation_id", "order-7"),
            lambda: call(headers={"X-Correlation-Id": "mine"}),
        )
        await call()
        found = [
            (
                request.headers.get("traceparent"),
                request.headers.get("tracestate"),
                request.headers.get("x-correlation-id"),
            )
            for request in peer.requests
        ]
    assert found == [(trace, "a=b", None), (None, None, "order-7"), (None, None, "mine"), (None, None, None)]


async def test_the_clients_headers_go_with_every_call_and_a_calls_own_replace_them() -> None:
    spoken = Spoken("connect", False)
    options = {"headers": {"authorization": "one", "x-many": ["a", "b"], "user-agent": "mine/1"}}
    async with served(spoken, lambda request: answer_unary(spoken, request, "hello"), **options) as (client, peer):
        await client.unary(PATH, text("x"), response=StringValue)
        await client.unary("/" + PATH, text("x"), response=StringValue, headers={"Authorization": "two"})
        first, second = [request.headers for request in peer.requests]
    assert (first["authorization"], second["authorization"]) == ("one", "two")
    assert first["user-agent"] == "mine/1"
    assert first["x-many"] == "b"  # the rig keeps the last of several


async def test_a_base_url_may_have_a_path() -> None:
    spoken = Spoken("connect", False)
    async with served(spoken, lambda request: answer_unary(spoken, request, "hello")) as (_, peer):
        async with Client(f"{peer.url}/api/") as client:
            await client.unary(PATH, text("x"), response=StringValue)
        assert (await peer.request()).path == f"/api/{PATH}"
