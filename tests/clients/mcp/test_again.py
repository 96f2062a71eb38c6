"""A call with a key is asked for again when its connection breaks, where the server says that this is safe."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.clients.mcp import Client
from tailrace.errors import ProtocolError, TransportError

from .fake_http import Exchange, FakeServer, Script, legacy, modern, result, serving

KEY = "io.tailrace/idempotencyKey"
_SAID = {"lost": 502, "unheard": 504, "moving": 503}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.clients.mcp.links.http._FIRST_DELAY", 0.02)


def listing(*once: str, then: Script) -> Script:
    """A server whose tools are `any`, and those that run once; calls are the script's."""

    async def script(x: Exchange) -> None:
        if x.rpc == "tools/list":
            tools: list[dict[str, Any]] = [{"name": "any", "inputSchema": {"type": "object"}}]
            tools += [{"name": name, "inputSchema": {"type": "object"}, "_meta": {"io.tailrace/once": True}}
                      for name in once]  # fmt: skip
            await x.result({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "public"})
        else:
            await then(x)

    return script


def calls(server: FakeServer) -> list[Any]:
    return [x.message for x in server.asked("tools/call")]


@pytest.mark.parametrize("era", [modern, legacy])
@pytest.mark.parametrize("how", ["cut", "stream", "ended", "gateway", "draining", "store", "lost", "unheard", "moving"])
async def test_a_lost_call_is_asked_for_again_under_a_new_id(era: Any, how: str) -> None:
    async def script(x: Exchange) -> None:
        if x.rpc != "tools/call":
            return await x.reply(405)
        if len(server.asked("tools/call")) > 2:
            return await x.reply(200, result(x.message["id"], "whole"))
        if how == "stream":
            await x.stream()
        elif how == "ended":
            await x.stream()
            return await x.end()
        elif how == "gateway":
            return await x.reply(502)
        elif how == "draining":
            return await x.error(503, -32000, {"limit": "draining"})
        elif how == "store":
            return await x.error(200, -32603, {"retry": True})
        elif how in _SAID:
            return await x.error(_SAID[how], -32600, None)  # by a worker that passed it on to another one
        return x.cut()

    async with serving(era(listing("pay", then=script))) as server, Client(server.url) as c:
        answer = await c.call_tool("pay", {"item": "tea"}, idempotency_key="k")
        assert answer.data == "whole"
        asked = calls(server)
        assert len({message["id"] for message in asked}) == 3
        assert [message["params"]["_meta"][KEY] for message in asked] == ["k"] * 3
        assert {str(message["params"]["arguments"]) for message in asked} == {str({"item": "tea"})}
        assert len(server.asked("tools/list")) == 1, "and only because it was needed"


async def test_a_tool_that_does_not_say_it_runs_once_is_never_asked_for_again() -> None:
    async def script(x: Exchange) -> None:
        x.cut()

    async with serving(modern(listing("pay", then=script))) as server, Client(server.url) as c:
        with pytest.raises(TransportError, match="may have run"):
            await c.call_tool("any", idempotency_key="k")
        with pytest.raises(TransportError, match="may have run"):
            await c.call_tool("pay")
        assert len(calls(server)) == 2


@pytest.mark.parametrize(
    ("status", "code", "data"), [(400, -32602, None), (503, -32000, {"limit": "ledger"}), (200, -32603, None)]
)
async def test_a_refusal_is_not_asked_for_again(status: int, code: int, data: Any) -> None:
    async def script(x: Exchange) -> None:
        await x.error(status, code, data)

    async with serving(modern(listing("pay", then=script))) as server, Client(server.url) as c:
        with pytest.raises(ProtocolError):
            await c.call_tool("pay", idempotency_key="k")
        assert len(calls(server)) == 1


async def test_it_is_tried_again_for_as_long_as_the_client_bears_an_outage() -> None:
    async def script(x: Exchange) -> None:
        x.cut()

    async with serving(modern(listing("pay", then=script))) as server:
        async with Client(server.url, reconnect=2.0) as c:
            with pytest.raises(TransportError, match="may have run"):
                await c.call_tool("pay", idempotency_key="k")
        tried = len(calls(server))
        assert tried > 1
        async with Client(server.url, reconnect=0) as c:
            with pytest.raises(TransportError, match="may have run"):
                await c.call_tool("pay", idempotency_key="k")
        assert len(calls(server)) == tried + 1


async def test_the_list_is_asked_for_again_too_while_the_server_is_away() -> None:
    lists = 0

    async def script(x: Exchange) -> None:
        nonlocal lists
        if x.rpc == "tools/list":
            lists += 1
            if lists < 3:
                return x.cut()
            return await listing("pay", then=script)(x)
        if len(server.asked("tools/call")) == 1:
            return x.cut()
        return await x.reply(200, result(x.message["id"]))

    async with serving(modern(script)) as server, Client(server.url) as c:
        assert (await c.call_tool("pay", idempotency_key="k")).data == 1
        assert (lists, len(calls(server))) == (3, 2)


async def test_a_list_that_is_refused_ends_it_with_the_first_reason() -> None:
    async def script(x: Exchange) -> None:
        if x.rpc == "tools/list":
            return await x.error(404, -32601)
        return x.cut()

    async with serving(modern(script)) as server, Client(server.url) as c:
        with pytest.raises(TransportError, match="may have run"):
            await c.call_tool("pay", idempotency_key="k")
        assert len(calls(server)) == 1


async def test_the_time_limit_is_for_all_attempts_together() -> None:
    async def script(x: Exchange) -> None:
        if len(server.asked("tools/call")) == 1:
            x.cut()
        else:
            await x.wait_left()

    async with serving(modern(listing("pay", then=script))) as server, Client(server.url) as c:
        with pytest.raises(TimeoutError):
            await c.call_tool("pay", idempotency_key="k", timeout=3.0)
        assert len(calls(server)) == 2


async def test_a_client_that_is_closed_asks_no_more() -> None:
    async def script(x: Exchange) -> None:
        await x.wait_left()

    async with serving(modern(listing("pay", then=script))) as server:
        async with Client(server.url) as c:
            await c.list_tools()
            waiting = asyncio.ensure_future(c.call_tool("pay", idempotency_key="k"))
            while not server.asked("tools/call"):
                await asyncio.sleep(0.01)
        with pytest.raises(TransportError, match="closed"):
            await waiting
        assert len(calls(server)) == 1
