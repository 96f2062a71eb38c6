"""The official SDK's server with a few tools, run as `python official_server.py http|stdio`; prints its URL."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

server = MCPServer("official", version="1.0.0", instructions="ask for sums")
cancelled = 0


class Sum(BaseModel):
    total: int
    terms: list[int]


@server.tool()
def add(terms: list[int]) -> Sum:
    """Add numbers."""
    return Sum(total=sum(terms), terms=terms)


@server.tool()
def double(number: int) -> int:
    return 2 * number


@server.tool()
def fail() -> str:
    raise ValueError("as asked")


@server.tool()
async def steps(ctx: Context, count: int) -> str:
    for number in range(1, count + 1):
        await ctx.report_progress(number, count, f"step {number}")
    return "done"


@server.tool()
async def speak(ctx: Context) -> str:
    await ctx.info({"said": "something"})
    return "spoken"


@server.tool()
async def hang(ctx: Context) -> str:
    global cancelled
    await ctx.report_progress(1, 2, "hanging")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        cancelled += 1
        raise
    return "woke up"


@server.tool()
def cancellations() -> int:
    return cancelled


def main() -> None:
    if sys.argv[1] == "stdio":
        server.run("stdio")
        return
    app: Any = server.streamable_http_app()
    app.router.routes.extend(server.sse_app().routes)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


if __name__ == "__main__":
    main()
