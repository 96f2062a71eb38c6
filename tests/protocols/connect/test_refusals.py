"""What is refused, and how: in HTTP's words where it has some, else in the protocol's own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tailrace import CapabilityError, Code, Context, RpcError, ToolError
from tailrace.wire.compression import compress
from tailrace.wire.envelopes import COMPRESSED, END_STREAM, envelope
from tests.protocols.connect.support import PROTOCOLS, Order, Request, Shop, call, send
from tests.rigs.exchange import FakeExchange, serving
from tests.rigs.workshop import errors

PLACE, LOOK, WATCH = "/shop.v1.Shop/Place", "/shop.v1.Shop/Look", "/shop.v1.Shop/Watch"


def ask(server: Any, method: str, path: str, *headers: tuple[str, str], **more: Any) -> FakeExchange:
    exchange = FakeExchange(method, path, b"{}", headers, **more)
    server.handle(exchange)
    return exchange


# --- HTTP ---------------------------------------------------------------------------------------


async def test_a_wrong_method_is_told_the_right_one() -> None:
    async with serving(Shop().service) as server:
        json = ("content-type", "application/json")
        assert [(one.status, one.headers["allow"]) for one in (
            ask(server, "GET", PLACE), ask(server, "PUT", PLACE, json), ask(server, "DELETE", LOOK),
            ask(server, "GET", WATCH),
        )] == [(405, "POST"), (405, "POST"), (405, "GET, POST"), (405, "POST")]  # fmt: skip


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json; charset=latin-1", "application/connect+json"])
async def test_a_wrong_content_type_is_told_the_right_ones(kind: str | None) -> None:
    async with serving(Shop().service) as server:
        refused = ask(server, "POST", PLACE, *([("content-type", kind)] if kind else []))
        assert refused.status == 415
        accepted = refused.headers["accept-post"].split(", ")
        assert "application/json" in accepted
        assert "application/grpc-web+proto" in accepted
        assert "application/connect+json" not in accepted
        refused = ask(server, "POST", WATCH, ("content-type", "application/json"))
        assert refused.status == 415
        assert "application/connect+json" in refused.headers["accept-post"]


@PROTOCOLS
async def test_a_method_that_is_not_there_is_unimplemented(protocol: str) -> None:
    async with serving(Shop().service) as server:
        for path in ("/shop.v1.Shop/Nothing", "/other.v1.Other/Place"):
            answer = await call(server, path, {}, protocol=protocol)
            assert (answer.code, answer.status) == (Code.UNIMPLEMENTED, 404 if protocol == "connect" else 200)


async def test_what_is_nothing_of_an_rpc_is_not_found() -> None:
    async with serving(Shop().service) as server:
        for refused in (
            ask(server, "POST", "/a/b/c", ("content-type", "application/proto")),
            ask(server, "POST", "/api/orders", ("content-type", "application/json")),
            ask(server, "GET", "/shop.v1.Shop/Nothing"),
            ask(server, "POST", "/shop.v1.Shop/Nothing", ("content-type", "text/plain")),
        ):
            assert refused.status == 404
            assert b"jsonrpc" in refused.reply_body


async def test_grpc_where_it_cannot_work_says_what_it_needs() -> None:
    async with serving(Shop().service) as server:
        request = Request(PLACE, {}, protocol="grpc", version="1.1")
        answer = await send(server, request).done()
        assert answer.code is Code.UNIMPLEMENTED
        assert answer.error is not None
        assert "HTTP/1.1" in answer.error.message
        assert "tailrace run" in answer.error.message
        request = Request(PLACE, {}, protocol="grpc")
        request.trailers = False
        answer = await send(server, request).done()
        assert answer.error is not None
        assert "no trailers" in answer.error.message


async def test_a_body_that_the_transport_refuses_is_refused_in_the_form_of_its_request() -> None:
    async with serving(Shop().service) as server:
        for protocol, status in (("connect", 413), ("grpc", 200), ("grpc-web", 200)):
            request = Request(PLACE, {}, protocol=protocol)
            server.refuse(request, 413, "the body is too long")
            assert (request.answer.code, request.status) == (Code.RESOURCE_EXHAUSTED, status)
        other = FakeExchange("POST", "/mcp", b"")
        server.refuse(other, 413, "the body is too long")
        assert b"jsonrpc" in other.reply_body


# --- messages -----------------------------------------------------------------------------------


@PROTOCOLS
async def test_a_message_that_does_not_fit_is_an_invalid_argument(protocol: str) -> None:
    async with serving(Shop().service) as server:
        for raw in (b"tea", b'{"qty": "many"}', b"[]"):
            answer = await call(server, PLACE, raw, protocol=protocol)
            assert answer.code is Code.INVALID_ARGUMENT, raw
            answer = await call(server, "/shop.v1.Shop/Total", raw, protocol=protocol, stream=True)
            assert answer.code is Code.INVALID_ARGUMENT, raw


@PROTOCOLS
async def test_a_message_over_the_limit_is_refused_compressed_or_not(protocol: str) -> None:
    async with serving(Shop().service, max_message=1000) as server:
        long = b'{"item": "%b"}' % (b"x" * 1000)
        answer = await call(server, PLACE, long, protocol=protocol)
        assert answer.code is Code.RESOURCE_EXHAUSTED
        answer = await call(server, "/shop.v1.Shop/Total", long, protocol=protocol, stream=True)
        assert answer.code is Code.RESOURCE_EXHAUSTED
        packed = compress("gzip", bytes(10**7))
        headers = [("content-encoding" if protocol == "connect" else "grpc-encoding", "gzip")]
        raw = packed if protocol == "connect" else envelope(COMPRESSED, packed)
        assert len(raw) < 10_000
        answer = await call(server, PLACE, raw=raw[:], protocol=protocol, headers=headers)
        assert answer.code is Code.RESOURCE_EXHAUSTED


@PROTOCOLS
async def test_an_answer_over_the_limit_is_not_sent(protocol: str) -> None:
    async with serving(Shop().service, max_result=100) as server:
        long = {"item": "x" * 200, "qty": 1}
        assert (await call(server, PLACE, long, protocol=protocol)).code is Code.RESOURCE_EXHAUSTED
        answer = await call(server, WATCH, long, protocol=protocol, stream=True)
        assert (answer.code, answer.messages) == (Code.RESOURCE_EXHAUSTED, [])


@PROTOCOLS
async def test_a_compression_that_is_not_known_is_unimplemented(protocol: str) -> None:
    async with serving(Shop().service) as server:
        name = "content-encoding" if protocol == "connect" else "grpc-encoding"
        answer = await call(server, PLACE, {}, protocol=protocol, headers=[(name, "snappy")])
        assert answer.code is Code.UNIMPLEMENTED
        accept = "accept-encoding" if protocol == "connect" else "grpc-accept-encoding"
        assert answer.headers[accept] == "gzip, br, zstd"


@pytest.mark.parametrize("protocol", ["grpc", "grpc-web"])
async def test_one_message_means_one(protocol: str) -> None:
    async with serving(Shop().service) as server:
        assert (await call(server, PLACE, protocol=protocol)).code is Code.UNIMPLEMENTED
        assert (await call(server, PLACE, {}, {}, protocol=protocol)).code is Code.UNIMPLEMENTED
        assert (await call(server, PLACE, raw=b"\0\0", protocol=protocol)).code is Code.INVALID_ARGUMENT


async def test_envelopes_that_make_no_sense_are_refused() -> None:
    async with serving(Shop().service) as server:
        total = "/shop.v1.Shop/Total"
        answer = await call(server, total, raw=envelope(END_STREAM, b"{}"), stream=True)
        assert answer.code is Code.INVALID_ARGUMENT
        answer = await call(server, total, raw=envelope(COMPRESSED, b"{}"), stream=True)
        assert answer.code is Code.INTERNAL
        answer = await call(server, total, raw=envelope(0, b"{}")[:-1], stream=True)
        assert answer.code is Code.INVALID_ARGUMENT
        kind = ("content-type", "application/grpc-web-text+json")
        for raw in (b"!!!!", b"AAAAA"):
            assert (await call(server, PLACE, raw=raw, protocol="grpc-web", headers=[kind])).code in (
                Code.INVALID_ARGUMENT,
            )


async def test_versions_and_timeouts_that_are_none_are_refused() -> None:
    async with serving(Shop().service) as server:
        for header in (("connect-protocol-version", "2"), ("connect-timeout-ms", "soon")):
            assert (await call(server, PLACE, {}, headers=[header])).code is Code.INVALID_ARGUMENT
        assert (await call(server, PLACE, {}, protocol="grpc", headers=[("grpc-timeout", "1")])).code is (
            Code.INVALID_ARGUMENT
        )
        for query in ("connect=v2&encoding=json&message=%7B%7D", "encoding=xml&message=x", "encoding=json"):
            exchange = ask(server, "GET", f"{LOOK}?{query}")
            assert await exchange.status_code() == 400, query


async def test_the_header_of_the_version_can_be_demanded() -> None:
    async with serving(Shop().service, require_connect_header=True) as server:
        assert (await call(server, PLACE, {})).code is Code.INVALID_ARGUMENT
        assert (await call(server, PLACE, {}, headers=[("connect-protocol-version", "1")])).error is None
        assert await ask(server, "GET", f"{LOOK}?encoding=json&message=%7B%7D").status_code() == 400
        assert await ask(server, "GET", f"{LOOK}?encoding=json&message=%7B%7D&connect=v1").status_code() == 200


async def test_one_call_more_than_there_may_be_is_refused() -> None:
    shop = Shop()
    async with serving(shop.service, max_calls=1) as server:
        send(server, Request("/shop.v1.Shop/Wait", {}))
        for protocol in ("connect", "grpc", "grpc-web"):
            assert (await call(server, PLACE, {}, protocol=protocol)).code is Code.RESOURCE_EXHAUSTED
        shop.gate.set()


async def test_what_is_kept_of_heads_is_bounded_whatever_clients_send() -> None:
    async with serving(Shop().service) as server:
        for number in range(300):
            await call(server, PLACE, {}, headers=[("accept-encoding", f"x{number}")])
            await call(server, PLACE, {}, headers=[("accept-encoding", f"x{number}" * 1000)])
        known = server.rpc._forms._known
        assert 0 < len(known) <= 256
        assert all(len(str(key)) < 1000 for key in known)


# --- what handlers raise --------------------------------------------------------------------------


@PROTOCOLS
@pytest.mark.parametrize("streams", [False, True])
async def test_what_a_handler_raises_is_the_calls_end(
    protocol: str, streams: bool, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()
    raised: list[BaseException] = []

    @shop.service.rpc
    async def fail(request: Order) -> Order:
        raise raised[0]

    @shop.service.rpc
    async def fail_late(request: Order) -> AsyncIterator[Order]:
        yield request
        raise raised[0]

    async with serving(shop.service) as server:
        for error, code, text in (
            (RpcError(Code.NOT_FOUND, "no tea", [StringValue(value="x")]), Code.NOT_FOUND, "no tea"),
            (ToolError("no tea today"), Code.UNKNOWN, "no tea today"),
            (CapabilityError("cannot"), Code.FAILED_PRECONDITION, "cannot"),
            (ValueError("secret"), Code.INTERNAL, "error id"),
            (SystemExit(3), Code.INTERNAL, "error id"),
            (KeyboardInterrupt(), Code.INTERNAL, "error id"),
            (GeneratorExit(), Code.INTERNAL, "error id"),
            (ToolError("no caf\udce9"), Code.UNKNOWN, "no caf\\udce9"),
            (BaseException("of a test framework"), Code.INTERNAL, "error id"),
            (RpcError(Code.ABORTED, "x", ["no message"]), Code.INTERNAL, "error id"),
        ):
            raised[:] = [error]
            path = "/shop.v1.Shop/FailLate" if streams else "/shop.v1.Shop/Fail"
            answer = await call(server, path, {"item": "tea"}, protocol=protocol, stream=streams)
            assert (answer.code, answer.ended, len(answer.messages)) == (code, True, int(streams))
            assert answer.error is not None
            assert text in answer.error.message
            assert "secret" not in answer.error.message
            assert len(answer.error.details) == (code is Code.NOT_FOUND)
            assert len(errors(caplog)) == (code is Code.INTERNAL)
            caplog.clear()


@PROTOCOLS
async def test_a_value_that_does_not_fit_the_answer_is_our_fault(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()

    @shop.service.rpc
    async def wrong(request: Order) -> Order:
        return "tea"  # type: ignore[return-value]

    async with serving(shop.service) as server:
        answer = await call(server, "/shop.v1.Shop/Wrong", {}, protocol=protocol)
        assert answer.code is Code.INTERNAL
        assert len(errors(caplog)) == 1


async def test_rpc_has_no_progress_and_nobody_to_ask() -> None:
    shop = Shop()

    @shop.service.rpc
    async def report(request: Order, ctx: Context) -> Order:
        await ctx.progress(1, 2, "half")
        await ctx.info("half")
        assert ctx.session is None
        await ctx.elicit("how many?")
        return request

    async with serving(shop.service) as server:
        assert (await call(server, "/shop.v1.Shop/Report", {})).code is Code.FAILED_PRECONDITION


def test_the_logger_is_there() -> None:
    assert logging.getLogger("tailrace.rpc")
