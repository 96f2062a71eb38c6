"""The official SDK's server with the tools of `fixtures/calls.py`: it shows that rigs and drivers are right.

Where a driver passes here and fails there, the fault is not the driver's. It does less (no hooks, no HTTP+SSE resume,
events in memory only). Run: `python reference.py http|stdio`, with the same `TAILRACE_E2E_FOLDER`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.streamable_http import EventMessage, EventStore
from pydantic import BaseModel

FOLDER = Path(os.environ["TAILRACE_E2E_FOLDER"])
server = MCPServer("calls", version="1.0.0")


def note(line: str) -> None:
    with (FOLDER / "journal").open("a") as out:
        out.write(line + "\n")


def is_open(key: str) -> bool:
    return (FOLDER / f"open-{key}").exists() or (FOLDER / "open-all").exists()


class Sum(BaseModel):
    total: int
    terms: list[int]


@server.tool()
def add(terms: list[int]) -> Sum:
    return Sum(total=sum(terms), terms=terms)


@server.tool()
async def gate(ctx: Context, key: str, say: bool = False) -> str:
    note(f"start {key}")
    try:
        if say:
            await ctx.report_progress(1, 2, "waiting")
        while not is_open(key):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(f"cancelled {key}")
        raise
    note(f"end {key}")
    return key


@server.tool()
async def burst(ctx: Context, key: str, count: int = 90, size: int = 64, every: float = 0.0, after: int = 0) -> int:
    note(f"start {key}")
    for number in range(count):
        if after and number == after:
            while not is_open(key):
                await asyncio.sleep(0.01)
        await ctx.log("info", {"n": number, "pad": "x" * size})
        if every:
            await asyncio.sleep(every)
    note(f"end {key}")
    return count


@server.tool()
async def steps(ctx: Context, count: int = 3, every: float = 0.05, key: str = "", after: int = 0) -> str:
    if key:
        note(f"start {key}")
    for number in range(1, count + 1):
        await ctx.report_progress(number, count, f"step {number}")
        if number == after:
            while not is_open(key):
                await asyncio.sleep(0.01)
        await asyncio.sleep(every)
    if key:
        note(f"end {key}")
    return "done"


@server.tool()
async def refuse(reason: str) -> str:
    raise ToolError(reason)


class Events(EventStore):
    """Every event of every stream, in memory."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events) - 1)

    async def replay_events_after(
        self, last_event_id: str, send_callback: Callable[[EventMessage], Awaitable[None]]
    ) -> str | None:
        stream = self.events[int(last_event_id)][0]
        for number, (owner, message) in enumerate(self.events):
            if owner == stream and number > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def main() -> None:
    if sys.argv[1] == "stdio":
        server.run("stdio")
        return
    app = server.streamable_http_app(event_store=Events())
    app.router.routes.extend(server.sse_app().routes)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    print(f"tailrace ready url=http://127.0.0.1:{port} store=memory drain=25", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


if __name__ == "__main__":
    main()
