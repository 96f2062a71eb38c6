"""What a client is told names nothing of the inside, whatever fails: no address of a store, no file, no member."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.core.settings import Settings
from tailrace.errors import StoreError
from tailrace.publish.publishers import make_publisher
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.stores.memory_membership import MemoryCluster, MemoryMembership
from tests.rigs.exchange import (
    FakeExchange,
    LegacySession,
    SseSession,
    initialize,
    modern_request,
    post_modern,
    send,
)

pytestmark = pytest.mark.timeout(120)

INSIDE = ("valkey", "10.11.12.13", "/var/lib", "m7f3a9")
FAILURE = StoreError("valkey://10.11.12.13:6379/0 (/var/lib/tailrace/store.db) is lost to member m7f3a9")
TASKS = {"clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}
READING = ("load", "entry", "entries", "count", "sessions", "unfinished", "flush")


async def fails(*args: Any, **options: Any) -> Any:
    raise FAILURE


def refuses(*args: Any, **options: Any) -> Any:
    raise FAILURE


def make_service() -> Service:
    service = Service("shop")

    @service.tool
    async def echo(text: str) -> str:
        return text

    @service.tool(once="key")
    async def pay(key: str) -> str:
        return key

    @service.tool(task="required")
    async def bake(key: str) -> str:
        return key

    @service.tool
    async def tell(ctx: Context) -> str:
        await ctx.publish("topic", {"n": 1})
        return "told"

    @service.tool
    async def keep(ctx: Context, value: str) -> str:
        assert ctx.session is not None
        ctx.session.state["value"] = value
        return "kept"

    return service


@asynccontextmanager
async def shop(membership: MemoryMembership) -> AsyncIterator[Server]:
    settings = Settings(drain=0.0, hold=0.02, keep_alive=0.0, hook_time=0.1)
    server = Server(make_service(), settings, None, None, make_publisher("memory:"), membership)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def told(exchange: FakeExchange) -> str:
    """All that the client got, once nothing more comes."""
    async with asyncio.timeout(30):
        await exchange.status_code()
        while exchange.is_stream and not exchange.sink.ended and not exchange.messages:
            await asyncio.sleep(0.01)
    return f"{exchange.status} {exchange.headers} {exchange.reply_body.decode()} {exchange.sink.written.decode()}"


def check(name: str, text: str) -> None:
    assert not [word for word in INSIDE if word in text], (name, text)


@pytest.mark.parametrize("reads", [False, True], ids=["writes-fail", "reads-and-writes-fail"])
@pytest.mark.parametrize("later", [False, True], ids=["at-once", "at-the-commit"])
async def test_a_client_of_a_store_that_fails_learns_nothing_of_it(
    reads: bool, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(MemoryCluster().member()) as server:
        session, other = await LegacySession(server).start(), await SseSession(server).start()
        begun = post_modern(
            server, modern_request(1, "tools/call", {"name": "bake", "arguments": {"key": "a"}}, **TASKS)
        )
        task = (await begun.answer(1))["result"]["taskId"]
        store = server.store
        assert isinstance(store, MemoryStore)
        if later:
            store.fail_commits(FAILURE)
        else:
            monkeypatch.setattr(store, "write", refuses)
        for name in READING if reads else ():
            monkeypatch.setattr(store, name, fails)
        absent = f"{session.id[:-4]}zzzz"
        accept = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]

        def modern(id: int, tool: str, **arguments: str) -> FakeExchange:
            return post_modern(
                server, modern_request(id, "tools/call", {"name": tool, "arguments": arguments}, **TASKS)
            )

        def rpc(method: str, **arguments: str) -> FakeExchange:
            headers = [("content-type", "application/json")]
            return send(server, FakeExchange("POST", f"/shop.Shop/{method}", json.dumps(arguments).encode(), headers))

        asked = {
            "initialize": send(server, FakeExchange("POST", "/mcp", initialize("2025-11-25"), accept)),
            "echo": session.call(2, "echo", {"text": "x"}),
            "progress": session.call(3, "echo", {"text": "x"}, progress="p"),
            "pay": session.call(4, "pay", {"key": "k"}),
            "tell": session.call(5, "tell"),
            "keep": session.call(6, "keep", {"value": "x"}),
            "sse": other.call(7, "echo", {"text": "x"}),
            "resume": session.get("0~AAAA"),
            "absent": LegacySession(server, id=absent).call(8, "echo", {"text": "x"}),
            "modern pay": modern(9, "pay", key="m"),
            "modern tell": modern(10, "tell"),
            "bake": modern(11, "bake", key="b"),
            "task": post_modern(server, modern_request(12, "tasks/get", {"taskId": task}, **TASKS)),
            "rpc pay": rpc("Pay", key="r"),
            "rpc tell": rpc("Tell"),
            "readyz": send(server, FakeExchange("GET", "/readyz")),
            "end": session.delete(),
        }
        for name, exchange in asked.items():
            check(name, await told(exchange))
        check("events", other.stream.sink.written.decode())
        assert any(exchange.status >= 400 or b'"error"' in exchange.reply_body for exchange in asked.values())


async def test_a_client_whose_worker_cannot_be_reached_learns_nothing_of_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = MemoryCluster(lease=0.3)
    async with shop(cluster.member()) as first, shop(cluster.member()) as second:
        session = await LegacySession(first).start()
        assert second.cluster is not None
        assert await second.cluster.members.look(at_once=True)
        monkeypatch.setattr(second.cluster.membership.inbox, "send", refuses)
        asked = session.on(second).call(1, "echo", {"text": "x"})
        assert await asked.status_code() == 503
        text = await told(asked)
        check("relay", text)
        assert first.home.store.partition not in text.replace(session.id, "")
        monkeypatch.setattr(second.cluster.membership, "owners", fails)
        second.cluster.members.forget(first.home.tag)
        waiting = session.on(second).call(2, "echo", {"text": "x"})
        check("no owner", await told(waiting))
