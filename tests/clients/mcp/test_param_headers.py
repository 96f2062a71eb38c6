"""Arguments that a tool wants repeated in HTTP headers: the client writes them, and looks again when they changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.clients.mcp import Client
from tailrace.errors import ProtocolError

from .fake_http import Exchange, Script, legacy, modern, serving
from .test_calls import Peer, answering

HEADER_MISMATCH = -32020


def tool(name: str, header: str, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "inputSchema": {"properties": {"region": {"type": kind, "x-mcp-header": header}}}}


def listing(*tools: dict[str, Any], wanted: str = "mcp-param-region") -> Script:
    """Lists `tools`; takes a call that has the header `wanted`."""

    async def script(x: Exchange) -> None:
        if x.rpc == "tools/list":
            await x.result({"resultType": "complete", "tools": list(tools)})
        elif wanted in x.headers:
            await x.result({"resultType": "complete", "content": []})
        else:
            await x.error(400, HEADER_MISMATCH)

    return script


async def test_a_tool_that_was_listed_gets_its_headers() -> None:
    async with serving(modern(listing(tool("deploy", "Region")))) as server, Client(server.url) as c:
        await c.list_tools()
        await c.call_tool("deploy", {"region": "Zürich"})
        (call,) = server.asked("tools/call")
        assert call.headers["mcp-param-region"] == "=?base64?WsO8cmljaA==?="


async def test_a_refusal_makes_it_look_at_the_tools_and_try_once_more() -> None:
    async with serving(modern(listing(tool("deploy", "Region")))) as server, Client(server.url) as c:
        await c.call_tool("deploy", {"region": "eu"})
        assert [call.headers.get("mcp-param-region") for call in server.asked("tools/call")] == [None, "eu"]
        assert len(server.asked("tools/list")) == 1


async def test_looking_again_is_a_part_of_the_calls_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    send = Client._request

    async def observed(self: Client, method: str, *params: Any, timeout: float, **more: Any) -> Any:
        limits.append(timeout)
        await asyncio.sleep(0.01)
        return await send(self, method, *params, timeout=timeout, **more)

    async with serving(modern(listing(tool("deploy", "Region")))) as server, Client(server.url) as c:
        monkeypatch.setattr(Client, "_request", observed)
        await c.call_tool("deploy", {"region": "eu"}, timeout=60.0)
        first, look, second = limits
        assert 60 >= first > look > second


async def test_a_refusal_that_looking_again_does_not_help_is_the_callers() -> None:
    script = listing(tool("deploy", "Region"), wanted="never")
    async with serving(modern(script)) as server, Client(server.url) as c:
        await c.list_tools()
        with pytest.raises(ProtocolError) as caught:
            await c.call_tool("deploy", {"region": "eu"})
        assert caught.value.code == HEADER_MISMATCH
        assert len(server.asked("tools/call")) == 1


async def test_a_tool_that_asks_for_what_is_forbidden_is_left_out_with_a_warning() -> None:
    warnings: list[str] = []
    tools = (tool("bad", "a b"), tool("good", "Region"), tool("worse", "Region", "number"))
    async with serving(modern(listing(*tools))) as server, Client(server.url, on_warning=warnings.append) as c:
        assert [one.name for one in await c.list_tools()] == ["good"]
        assert [text.split("'")[1] for text in warnings] == ["bad", "worse"]


async def test_the_legacy_era_knows_no_such_headers() -> None:
    async def script(x: Exchange) -> None:
        if x.rpc == "tools/list":
            await x.result({"tools": [tool("deploy", "a b")]})
        elif x.method == "POST":
            await x.result({"content": []})

    async with serving(legacy(script)) as server, Client(server.url) as c:
        assert [one.name for one in await c.list_tools()] == ["deploy"]
        await c.call_tool("deploy", {"region": "eu"})
        assert not [name for name in server.asked("tools/call")[0].headers if name.startswith("mcp-param")]


async def test_without_http_no_tool_is_left_out() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if message["method"] == "tools/list":
            result = {"resultType": "complete", "tools": [tool("deploy", "a b")]}
            peer.say({"jsonrpc": "2.0", "id": message["id"], "result": result})
        else:
            answering()(peer, message)

    async with Client(Peer(answer=answer).link) as c:
        assert [one.name for one in await c.list_tools()] == ["deploy"]
