"""The official Python SDK's server in the benchmark; see tailrace_server.py for what its tools must do."""

from __future__ import annotations

import os
import sys

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp.types import JSONRPCMessage, ProgressNotification, ProgressNotificationParams
from pydantic import BaseModel

server = MCPServer("bench", log_level="ERROR")
sessions = []


class Line(BaseModel):
    sku: str
    name: str
    qty: int
    price: float
    tags: list[str]


class Order(BaseModel):
    id: str
    customer: str
    lines: list[Line]


class Receipt(BaseModel):
    lines: int
    quantity: int


@server.tool()
async def echo(text: str) -> str:
    return text


@server.tool()
async def structured(order: Order) -> Receipt:
    return Receipt(lines=len(order.lines), quantity=sum(line.qty for line in order.lines))


@server.tool()
async def burst(count: int, size: int, ctx: Context, pause: float = 0.0) -> int:
    text = "x" * size or None
    for n in range(1, count + 1):
        await ctx.report_progress(n, None, text)
        if pause:
            await anyio.sleep(pause)
    return count


@server.tool()
async def slow(seconds: float) -> str:
    await anyio.sleep(seconds)
    return "done"


@server.tool()
async def effect(key: str, seconds: float) -> str:
    note(f"start {key}")
    await anyio.sleep(seconds)
    note(f"end {key}")
    return key


@server.tool()
async def join(ctx: Context) -> str:
    """The SDK lists no sessions: each one that is to hear the broadcasts says so."""
    sessions.append(ctx.session)
    return "joined"


@server.tool()
async def broadcast(first: int, count: int) -> int:
    for n in range(first, first + count):
        said = ProgressNotification(params=ProgressNotificationParams(progress_token="broadcast", progress=n))
        for session in sessions:
            await session.send_notification(said)
    return count


def note(line: str) -> None:
    """A trace in the witness file of `tailrace check`."""
    with open(os.environ.get("TAILRACE_WITNESS", os.devnull), "a") as file:
        file.write(line + "\n")


class MemoryEvents(EventStore):
    """The SDK brings the interface only; this is the least that fulfils it."""

    def __init__(self) -> None:
        self.events: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        stream = self.events[int(last_event_id) - 1][0]
        for number, (of, message) in enumerate(self.events[int(last_event_id) :], int(last_event_id) + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def main(transport: str, port: int, loop: str, *options: str) -> None:
    if transport == "stdio":
        server.run("stdio")
        return
    if transport == "sse":
        app = server.sse_app()
    else:
        store = MemoryEvents() if "resumable" in options else None
        app = server.streamable_http_app(event_store=store, max_sessions=None)
    uvicorn.run(app, host="127.0.0.1", port=port, loop=loop, log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
