"""MCP over HTTP/2: the same handlers, side by side on one connection; what ends a stream is told to its call."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace import ClientGone, Context, Service, StreamReset
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.transports.bearer import make_bearer
from tailrace.transports.http import Listener
from tests.rigs.exchange import initialize, is_answer, modern_headers, modern_request, notification, parse_events
from tests.rigs.rawh2 import END_HEADERS, END_STREAM, HEADERS, Client, Stream, connected, frame

BOTH = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]


class Place:
    """A service that says how its calls ended."""

    def __init__(self) -> None:
        self.errors: list[Exception | None] = []
        self.begun = 0
        self.service = service = Service("place")

        @service.tool
        async def echo(text: str) -> str:
            return text

        @service.tool
        async def wait(ctx: Context, steps: int = 0) -> str:
            self.begun += 1
            for step in range(steps):
                await ctx.progress(step, steps, f"step {step}")
            try:
                await asyncio.Event().wait()
            finally:
                self.errors.append(ctx.error)
            return "never"


@asynccontextmanager
async def serving(service: Service, **options: Any) -> AsyncIterator[tuple[Server, Any]]:
    bearer = make_bearer(None, options.pop("auth_token", None), seconds=1.0, limit=10)
    server = Server(service, Settings(drain=0.0, **options), MemoryStore(), bearer)
    await server.start()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listener = Listener(server, [listening], sweep=0.05)
    await listener.start()
    try:
        yield server, listening.getsockname()
    finally:
        await server.drain()
        await server.end_sessions()
        await listener.close(0)
        await server.stop()


def post(client: Client, message: Any, *fields: tuple[str, str], path: str = "/mcp") -> Stream:
    return client.request(path, json.dumps(message).encode(), [*BOTH, *fields])


def call_modern(client: Client, tool: str, **arguments: Any) -> Stream:
    message = modern_request(1, "tools/call", {"name": tool, "arguments": arguments}, progressToken="t")
    return client.request("/mcp", json.dumps(message).encode(), modern_headers(message).items())


async def answer(client: Client, stream: Stream) -> Any:
    found = await client.reply(stream)
    return json.loads(found.data)


async def until(true: Any) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("steps", [0, 2])
async def test_a_reset_and_the_connections_end_are_told_apart_to_a_modern_call(steps: int) -> None:
    place = Place()
    async with serving(place.service) as (_, address), connected(address) as client:
        stream = call_modern(client, "wait", steps=steps)
        await until(lambda: place.begun == 1)
        if steps:
            await client.until(lambda: b"step 1" in stream.data)
        client.reset(stream)
        await until(lambda: place.errors)
        assert type(place.errors[0]) is StreamReset
        assert (await answer(client, call_modern(client, "echo", text="goes on")))["result"]["structuredContent"] == {
            "result": "goes on"
        }
        call_modern(client, "wait", steps=steps)
        await until(lambda: place.begun == 2)
        await client.abort()
        await until(lambda: len(place.errors) == 2)
        assert type(place.errors[1]) is ClientGone


async def test_a_legacy_session_with_calls_side_by_side_and_its_own_stream() -> None:
    place = Place()
    async with serving(place.service) as (server, address), connected(address) as client:
        begun = await client.reply(post(client, initialize("2025-11-25")))
        session = [("mcp-session-id", begun.head["mcp-session-id"]), ("mcp-protocol-version", "2025-11-25")]
        assert (await client.reply(post(client, notification("notifications/initialized"), *session))).status == 202
        listening = client.request("/mcp", b"", [*BOTH, *session], method="GET")
        await client.until(lambda: listening.fields)

        def call(id: int, tool: str, **arguments: Any) -> Stream:
            message = {"jsonrpc": "2.0", "id": id, "method": "tools/call"}
            return post(client, {**message, "params": {"name": tool, "arguments": arguments}}, *session)

        waiting = call(1, "wait")
        await until(lambda: place.begun)
        echoes = [call(2 + number, "echo", text=str(number)) for number in range(20)]
        for number, stream in enumerate(echoes):
            assert (await answer(client, stream))["result"]["structuredContent"] == {"result": str(number)}
        await server.broadcast("notifications/tools/list_changed", {})
        await client.until(lambda: b"list_changed" in listening.data)
        client.reset(waiting)  # a legacy call goes on without its client
        await client.ponged()
        assert place.errors == []
        assert (await client.ask("/mcp", b"", fields=session, method="DELETE")).status == 200
        await until(lambda: place.errors)
        assert not isinstance(place.errors[0], ClientGone)
        assert (await client.reply(listening)).status == 200


async def test_http_sse_over_one_connection() -> None:
    async with serving(Place().service) as (_, address), connected(address) as client:
        stream = client.request("/sse", b"", [("accept", "text/event-stream")], method="GET")
        await client.until(lambda: parse_events(stream.data))
        place = parse_events(stream.data)[0].data
        assert (await client.reply(post(client, initialize("2024-11-05"), path=place))).status == 202
        await client.until(
            lambda: any(
                event.event == "message" and is_answer(json.loads(event.data), "init")
                for event in parse_events(stream.data)
            )
        )


async def test_host_and_token_are_checked_as_elsewhere() -> None:
    async with serving(Place().service, auth_token="secret") as (_, address), connected(address) as client:
        assert (await client.ask("/mcp")).status == 401
        assert (await client.ask("/healthz", b"", method="GET")).status == 200
        assert (await client.ask("/mcp", fields=[("authorization", "Bearer secret"), *BOTH])).status == 400
        assert (await client.ask("/mcp", fields=[("origin", "http://evil.example")])).status == 403
        head = [(":method", "GET"), (":scheme", "http"), (":path", "/healthz"), (":authority", "evil.example")]
        stream = client.streams[99] = Stream(99)
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 99, client.block(head)))
        assert (await client.reply(stream)).status == 421


async def test_streams_end_in_order_when_the_server_stops() -> None:
    async with serving(Place().service) as (server, address), connected(address) as client:
        begun = await client.reply(post(client, initialize("2025-11-25")))
        session = [("mcp-session-id", begun.head["mcp-session-id"]), ("mcp-protocol-version", "2025-11-25")]
        await client.reply(post(client, notification("notifications/initialized"), *session))
        listening = client.request("/mcp", b"", [*BOTH, *session], method="GET")
        await client.until(lambda: listening.fields)
        stopping = asyncio.ensure_future(server.stop())
        assert (await client.reply(listening)).ended
        await stopping
