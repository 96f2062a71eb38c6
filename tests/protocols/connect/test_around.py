"""What stands around calls: interceptors, and what browsers ask before and after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import Code, Context, RpcError
from tests.protocols.connect.support import PROTOCOLS, Shop, call
from tests.rigs.exchange import FakeExchange, serving

# --- interceptors -------------------------------------------------------------------------------


@PROTOCOLS
async def test_interceptors_stand_around_every_call_the_first_outermost(protocol: str) -> None:
    seen: list[str] = []

    def named(name: str) -> Any:
        async def interceptor(ctx: Context, request: Any, next: Any) -> Any:
            assert ctx.rpc is not None
            seen.append(f"{name} {ctx.rpc.path.rpartition('/')[2]}")
            try:
                return await next(request)
            finally:
                seen.append(f"{name} end")

        return interceptor

    shop = Shop(interceptors=[named("a"), named("b")])
    async with serving(shop.service) as server:
        assert (await call(server, "/shop.v1.Shop/Place", {}, protocol=protocol)).error is None
        assert seen == ["a Place", "b Place", "b end", "a end"]


async def test_an_interceptor_may_change_the_request_and_the_response_or_refuse() -> None:
    async def change(ctx: Context, request: Any, next: Any) -> Any:
        if request.item == "rum":
            raise RpcError(Code.PERMISSION_DENIED, "no rum")
        request.item += "!"
        response = await next(request)
        response.qty = 7
        return response

    shop = Shop(interceptors=[change])
    async with serving(shop.service) as server:
        assert (await call(server, "/shop.v1.Shop/Place", {"item": "tea"})).messages == [{"item": "TEA!", "qty": "7"}]
        assert (await call(server, "/shop.v1.Shop/Place", {"item": "rum"})).code is Code.PERMISSION_DENIED
        assert shop.made == 1


@PROTOCOLS
async def test_of_a_stream_it_has_the_iterators(protocol: str) -> None:
    closed: list[str] = []

    async def double(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for message in messages:
                yield message
                yield message
        finally:
            closed.append("double")

    async def twice(ctx: Context, request: Any, next: Any) -> Any:
        requests = double(request) if hasattr(request, "__anext__") else request
        return double(await next(requests))

    shop = Shop(interceptors=[twice])
    async with serving(shop.service) as server:
        path = "/shop.v1.Shop/Talk"
        answer = await call(server, path, {"item": "tea"}, {"item": "rum"}, protocol=protocol, stream=True)
        assert [message["item"] for message in answer.messages] == ["TEA"] * 4 + ["RUM"] * 4
        assert closed == ["double", "double"]


# --- browsers -----------------------------------------------------------------------------------


def preflight(path: str, origin: str = "https://app.example", **more: str) -> FakeExchange:
    given = {"origin": origin, "access-control-request-method": "POST", **more}
    return FakeExchange("OPTIONS", path, None, list(given.items()))


async def test_a_page_of_an_allowed_origin_may_call() -> None:
    shop = Shop()
    async with serving(shop.service, allow_origins=("https://app.example",)) as server:
        asked = preflight("/shop.v1.Shop/Place", **{"access-control-request-headers": "content-type,x-mine"})
        server.handle(asked)
        assert asked.status == 204
        assert asked.headers["access-control-allow-origin"] == "https://app.example"
        assert asked.headers["access-control-allow-methods"] == "POST"
        assert asked.headers["access-control-allow-headers"] == "content-type,x-mine"
        asked = preflight("/shop.v1.Shop/Look")
        server.handle(asked)
        assert asked.headers["access-control-allow-methods"] == "GET, POST"
        for protocol in ("connect", "grpc-web"):
            headers = [("origin", "https://app.example")]
            answer = await call(server, "/shop.v1.Shop/Place", {}, protocol=protocol, headers=headers)
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert "grpc-status" in answer.headers["access-control-expose-headers"]
            answer = await call(server, "/shop.v1.Shop/Place", b"tea", protocol=protocol, headers=headers)
            assert answer.code is Code.INVALID_ARGUMENT
            assert answer.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_page_of_another_origin_may_not() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        asked = preflight("/shop.v1.Shop/Place", "https://evil.example")
        server.handle(asked)
        assert asked.status == 403
        assert "access-control-allow-origin" not in asked.headers
        refused = FakeExchange(
            "POST",
            "/shop.v1.Shop/Place",
            {},
            [("origin", "https://evil.example"), ("content-type", "application/json")],
        )
        server.handle(refused)
        assert (refused.status, shop.made) == (403, 0)


@pytest.mark.parametrize("path", ["/shop.v1.Shop/Nothing", "/mcp", "/elsewhere"])
async def test_only_methods_answer_preflights(path: str) -> None:
    async with serving(Shop().service, allow_origins=("*",)) as server:
        asked = preflight(path)
        server.handle(asked)
        assert asked.status in (404, 405)
    async with serving(Shop().service) as server:
        plain = FakeExchange("OPTIONS", "/shop.v1.Shop/Place")
        server.handle(plain)
        assert plain.status == 405


# --- what tools have over MCP ---------------------------------------------------------------------


async def test_a_tool_that_is_hidden_from_its_caller_is_not_there() -> None:
    shop = Shop()

    @shop.service.tool
    async def secret(text: str) -> str:
        return text

    @shop.service.filter
    def only_the_boss(definition: Any, viewer: Any) -> bool:
        return definition.name != "secret" or viewer.principal == "boss"

    async with serving(shop.service) as server:
        for protocol in ("connect", "grpc", "grpc-web"):
            answer = await call(server, "/shop.v1.Shop/Secret", {"text": "x"}, protocol=protocol)
            assert answer.code is Code.UNIMPLEMENTED
        assert (await call(server, "/shop.v1.Shop/Secret", {"text": "x"}, principal="boss")).error is None


class Till:
    """What is provided."""


@pytest.mark.parametrize("streams", [False, True])
async def test_a_tool_gets_what_is_provided_and_it_is_ended_after_the_call(streams: bool) -> None:
    shop = Shop()
    seen: list[str] = []

    @shop.service.provide
    async def till() -> AsyncIterator[Till]:
        seen.append("open")
        yield Till()
        seen.append("close")

    @shop.service.tool
    async def pay(sum: int, till: Till) -> int:
        seen.append(type(till).__name__)
        return sum

    @shop.service.tool
    async def pay_often(sum: int, till: Till) -> AsyncIterator[int]:
        seen.append(type(till).__name__)
        yield sum
        yield sum

    async with serving(shop.service) as server:
        path = "/shop.v1.Shop/PayOften" if streams else "/shop.v1.Shop/Pay"
        answer = await call(server, path, {"sum": 3}, stream=streams)
        assert (answer.error, len(answer.messages)) == (None, 1 + streams)
        assert seen == ["open", "Till", "close"]
