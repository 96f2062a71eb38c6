"""What a token is good for: a tool that needs more is refused with 403, over every way in, and says what it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.auth import Access, ResourceServer
from tailrace.server import Server, make_server
from tests.rigs.exchange import FakeExchange, LegacySession, call, modern_headers, modern_request, request, send

TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
JSON = ("content-type", "application/json")


async def known(token: str) -> Access | None:
    scopes = {"reader": "read", "writer": "read write", "nothing": ""}.get(token)
    return None if scopes is None else Access(token, frozenset(scopes.split()), {"tenant": 7}, client_id="app")


def make_service() -> Service:
    service = Service("vault")

    @service.tool(scopes="write")
    async def change(ctx: Context) -> str:
        assert ctx.access is not None
        return f"{ctx.principal} {ctx.access.claims['tenant']} {ctx.access.client_id}"

    @service.tool(scopes=["write"], task=True)
    async def slowly() -> str:
        return "done"

    @service.tool
    async def look(ctx: Context) -> str:
        return ctx.principal

    @service.resource("vault://{name}", scopes="write")
    async def content(name: str) -> str:
        return name

    @service.prompt(scopes=["write"], complete={"name": ["gold"]})
    async def plan(name: str) -> str:
        return name

    return service


@asynccontextmanager
async def guarded() -> AsyncIterator[Server]:
    auth = ResourceServer(known, issuers=["https://as.example"], scopes="read")
    server = make_server(make_service(), {"drain": 0.0}, auth=auth)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


class Session(LegacySession):
    token = "reader"

    def _headers(self) -> list[tuple[str, str]]:
        return [*super()._headers(), bearer(self.token)]


class Writers(Session):
    token = "writer"


async def modern(server: Server, token: str, tool: str, **meta: Any) -> FakeExchange:
    message = modern_request(1, "tools/call", {"name": tool, "arguments": {}}, **meta)
    headers = [*modern_headers(message).items(), bearer(token)]
    exchange = send(server, FakeExchange("POST", "/mcp", message, headers))
    await exchange.status_code()
    return exchange


async def needs_write(exchange: FakeExchange) -> None:
    assert await exchange.status_code() == 403
    challenge = exchange.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="read write"' in challenge
    assert "/.well-known/oauth-protected-resource" in challenge


async def test_a_modern_call_that_needs_more_is_refused_and_says_all_that_it_needs() -> None:
    async with guarded() as server:
        await needs_write(await modern(server, "reader", "change"))
        answer = await (await modern(server, "writer", "change")).json()
        assert answer["result"]["structuredContent"]["result"] == "writer 7 app"
        answer = await (await modern(server, "reader", "look")).json()
        assert answer["result"]["structuredContent"]["result"] == "reader"


async def test_a_task_needs_what_its_tool_needs() -> None:
    async with guarded() as server:
        await needs_write(await modern(server, "reader", "slowly", clientCapabilities=TASKS))


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resources/read", {"uri": "vault://gold"}),
        ("prompts/get", {"name": "plan", "arguments": {"name": "gold"}}),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "plan"}, "argument": {"name": "name", "value": ""}},
        ),
    ],
)
async def test_resources_and_prompts_may_need_more_too(method: str, params: dict[str, Any]) -> None:
    async with guarded() as server:
        message = modern_request(1, method, params)
        for token in ("reader", "writer"):
            headers = [*modern_headers(message).items(), bearer(token)]
            exchange = send(server, FakeExchange("POST", "/mcp", message, headers))
            if token == "reader":
                await needs_write(exchange)
            else:
                assert "gold" in str((await exchange.json())["result"])


async def test_a_call_of_a_session_is_refused_in_the_same_way() -> None:
    async with guarded() as server:
        await needs_write((await Session(server).start()).call(1, "change"))
        answer = await (await Writers(server).start()).call(1, "change").answer(1)
        assert answer["result"]["structuredContent"]["result"] == "writer 7 app"


async def test_a_call_over_http_sse_is_refused_by_its_post() -> None:
    async with guarded() as server:
        stream = send(server, FakeExchange("GET", "/sse", None, [("accept", "text/event-stream"), bearer("reader")]))
        url = (await stream.event_count(1))[0].data
        hello = {
            "jsonrpc": "2.0",
            "id": 0,
            "method": "initialize",
            "params": {
                "protocolVersion": "2024-11-05",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        }
        assert await send(server, FakeExchange("POST", url, hello, [JSON, bearer("reader")])).status_code() == 202
        await needs_write(send(server, FakeExchange("POST", url, call(1, "change"), [JSON, bearer("reader")])))
        stream.disconnect()


async def test_who_may_not_read_a_resource_does_not_learn_that_it_has_changed() -> None:
    wanted = {"uri": "vault://gold"}
    async with guarded() as server:
        reader, writer = await Session(server).start(), await Writers(server).start()
        await needs_write(reader.post(request(1, "resources/subscribe", wanted)))
        assert (await writer.post(request(1, "resources/subscribe", wanted)).json())["result"] == {}
        reads, writes = reader.get(), writer.get()
        server.updated(wanted["uri"])
        assert (await writes.message("notifications/resources/updated"))["params"] == wanted
        assert reads.messages == []


@pytest.mark.parametrize(("token", "granted"), [("reader", ["vault"]), ("writer", ["vault", "vault://gold"])])
async def test_nor_by_listening(token: str, granted: list[str]) -> None:
    uris = {"resourceSubscriptions": ["vault", "vault://gold"]}  # the first stands nowhere yet, and may do so later
    message = modern_request(1, "subscriptions/listen", {"notifications": uris})
    async with guarded() as server:
        headers = [*modern_headers(message).items(), bearer(token)]
        stream = send(server, FakeExchange("POST", "/mcp", message, headers))
        said = await stream.message("notifications/subscriptions/acknowledged")
        assert said["params"]["notifications"]["resourceSubscriptions"] == granted
        stream.disconnect()


async def test_a_token_that_is_good_for_nothing_here_gets_in_nowhere() -> None:
    async with guarded() as server:
        exchange = await modern(server, "nothing", "look")
        assert await exchange.status_code() == 403
        assert 'scope="read"' in exchange.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"])
async def test_where_tokens_are_had_is_told_to_everybody(path: str) -> None:
    async with guarded() as server:
        exchange = send(server, FakeExchange("GET", path))
        assert await exchange.status_code() == 200
        said = await exchange.json()
        assert said["authorization_servers"] == ["https://as.example"]
        assert said["scopes_supported"] == ["read"]
        assert await send(server, FakeExchange("POST", path, None, [JSON])).status_code() == 405


async def test_a_program_over_rpc_needs_the_same_scopes() -> None:
    async with guarded() as server:
        headers = [("content-type", "application/json"), bearer("reader")]
        exchange = send(server, FakeExchange("POST", "/Vault/Change", {}, headers))
        assert await exchange.status_code() == 403
        assert (await exchange.json())["code"] == "permission_denied"
