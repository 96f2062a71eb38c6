"""`ctx.headers`: a handler sees the headers of its own call's request, on every way that has some; none are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.core.settings import Settings
from tailrace.mcp import Client
from tailrace.server import Server
from tailrace.service import Invocation
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    FakeExchange,
    LegacySession,
    SseSession,
    call,
    kill,
    modern_request,
    post_modern,
    request,
    send,
    serving,
    text_of,
)

MINE = [("X-Tenant", "acme"), ("X-Tenant", "other"), ("Authorization", "Bearer s3cret"), ("Cookie", "a=b")]
SEEN = {"x-tenant": "acme", "authorization": "Bearer s3cret", "cookie": "a=b"}
TASKS: dict[str, Any] = {"clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}
WATCHED = ("x-tenant", "authorization", "cookie")


def of_interest(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name.upper()] for name in WATCHED if name in headers}


class Shop:
    """Notes what its handlers see of the headers.

    Attributes:
        seen: By who saw it.
        gate: What `slow` waits for.
    """

    def __init__(self, **options: Any) -> None:
        self.service = Service("shop", **options)
        self.seen: list[Any] = []
        self.gate = asyncio.Event()

        @self.service.provide
        def tenant(ctx: Context) -> Tenant:
            return Tenant(ctx.headers.get("x-tenant", "nobody"))

        @self.service.tool
        async def look(ctx: Context) -> list[str]:
            self.note(ctx)
            return ctx.headers.all("X-TENANT")

        @self.service.tool
        def plain(who: Tenant) -> str:
            return who.name

        @self.service.tool
        async def later(ctx: Context) -> None:
            async def after(ctx: Context) -> None:
                self.note(ctx)

            ctx.spawn(after, ctx.detach())

        @self.service.tool(once="key", on_crash="rerun")
        async def slow(key: str, ctx: Context) -> str:
            self.note(ctx)
            await self.gate.wait()
            return key

        @self.service.tool(task="required")
        async def bake(ctx: Context) -> None:
            self.note(ctx)

        @self.service.resource("note://one")
        async def one(ctx: Context) -> str:
            self.note(ctx)
            return "one"

    def note(self, ctx: Context) -> None:
        self.seen.append(of_interest(ctx.headers))


class Tenant:
    """Who asks, by a header."""

    def __init__(self, name: str) -> None:
        self.name = name


def post(server: Server, id: int, tool: str, arguments: dict[str, Any] | None = None, **meta: Any) -> FakeExchange:
    params = {"name": tool, "arguments": arguments or {}}
    return post_modern(server, modern_request(id, "tools/call", params, **meta), None, *MINE)


async def over_streamable(server: Server) -> Any:
    session = await LegacySession(server).start()
    return text_of(await session.post(call(1, "look"), *MINE).answer(1))


async def over_sse(server: Server) -> Any:
    session = await SseSession(server).start()
    given = [("content-type", "application/json"), *MINE]
    assert await send(server, FakeExchange("POST", session.url, call(1, "look"), given)).status_code() == 202
    return text_of(await session.stream.answer(1))


async def over_modern(server: Server) -> Any:
    return text_of(await post(server, 1, "look").answer(1))


WAYS = pytest.mark.parametrize("ask", [over_streamable, over_sse, over_modern], ids=["streamable", "sse", "modern"])


@WAYS
@virtual
async def test_a_tool_sees_the_headers_of_its_calls_own_request(ask: Callable[[Server], Any]) -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        assert await ask(server) == '["acme","other"]'
        assert shop.seen == [SEEN]


@virtual
async def test_one_session_sees_for_each_call_what_came_with_it() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        await session.post(call(1, "look"), ("x-tenant", "one")).answer(1)
        await session.post(call(2, "look")).answer(2)
        await session.post(call(3, "look"), ("x-tenant", "two")).answer(3)
        assert shop.seen == [{"x-tenant": "one"}, {}, {"x-tenant": "two"}]


@virtual
async def test_middleware_dependencies_and_resources_see_them_too() -> None:
    around: list[Any] = []

    async def note(ctx: Context, invocation: Invocation, next: Any) -> Any:
        around.append((invocation.method, ctx.headers.get("x-tenant")))
        return await next(invocation)

    shop = Shop(middleware=[note])
    async with serving(shop.service) as server:
        assert text_of(await post(server, 1, "plain").answer(1)) == "acme"
        for id, method, params in ((2, "resources/read", {"uri": "note://one"}), (3, "tools/list", {})):
            await post_modern(server, modern_request(id, method, params), None, *MINE).answer(id)
        assert around == [("tools/call", "acme"), ("resources/read", "acme"), ("tools/list", "acme")]
        assert shop.seen == [SEEN]


@virtual
async def test_a_conversation_without_http_has_none() -> None:
    shop = Shop()
    async with Client(shop.service) as client:
        await client.call_tool("look")
    assert shop.seen == [{}]


@virtual
async def test_detached_work_has_them_without_credentials() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        await post(server, 1, "later").answer(1)
        await turns()
        assert shop.seen == [{"x-tenant": "acme"}]


@virtual
async def test_a_task_has_those_of_the_request_that_made_it() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        await post(server, 1, "bake", **TASKS).answer(1)
        await turns()
        assert shop.seen == [SEEN]


@virtual
async def test_the_one_run_of_a_key_has_those_of_the_request_that_began_it() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        first = post(server, 1, "slow", {"key": "k"})
        await turns()
        params = {"name": "slow", "arguments": {"key": "k"}}
        second = post_modern(server, modern_request(2, "tools/call", params), None, ("x-tenant", "second"))
        await turns()
        shop.gate.set()
        assert text_of(await first.answer(1)) == text_of(await second.answer(2)) == "k"
        assert shop.seen == [SEEN]


@virtual
async def test_a_run_after_a_crash_has_none_and_the_store_never_had_any() -> None:
    shop, store = Shop(), MemoryStore(durable=True)
    server = Server(shop.service, Settings(drain=0.0), store)
    await server.start()
    session = await SseSession(server).start()
    given = [("content-type", "application/json"), *MINE]
    asked = send(server, FakeExchange("POST", session.url, call(1, "slow", {"key": "k"}), given))
    assert await asked.status_code() == 202
    await turns()
    await store.flush()
    held = repr(store.__dict__)
    await kill(server, store)
    shop.gate.set()
    async with serving(shop.service, store):
        await turns()
        assert shop.seen == [SEEN, {}]
    assert "s3cret" not in held
    assert "acme" not in held


@virtual
async def test_requests_in_a_batch_share_those_of_the_batch() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        session = await LegacySession(server, "2025-03-26").start()
        batch = session.post([call(1, "look"), call(2, "look"), request(3, "ping")], *MINE)
        await batch.answer(1)
        await batch.answer(2)
        assert shop.seen == [SEEN, SEEN]
