"""FastMCP's server in the benchmark; see tailrace_server.py for what its tools must do.

It gives no way to write to the sessions of others: no broadcast.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvicorn
from fastmcp import Context, FastMCP
from fastmcp.server.event_store import EventStore
from pydantic import BaseModel

server = FastMCP("bench")


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


@server.tool
async def echo(text: str) -> str:
    return text


@server.tool
async def structured(order: Order) -> Receipt:
    return Receipt(lines=len(order.lines), quantity=sum(line.qty for line in order.lines))


@server.tool
async def burst(count: int, size: int, ctx: Context, pause: float = 0.0) -> int:
    text = "x" * size or None
    for n in range(1, count + 1):
        await ctx.report_progress(n, None, text)
        if pause:
            await asyncio.sleep(pause)
    return count


@server.tool
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@server.tool
async def effect(key: str, seconds: float) -> str:
    note(f"start {key}")
    await asyncio.sleep(seconds)
    note(f"end {key}")
    return key


def note(line: str) -> None:
    """A trace in the witness file of `tailrace check`."""
    with open(os.environ.get("TAILRACE_WITNESS", os.devnull), "a") as file:
        file.write(line + "\n")


def main(transport: str, port: int, loop: str, *options: str) -> None:
    if transport == "stdio":
        server.run("stdio", show_banner=False, log_level="ERROR")
        return
    if transport == "sse":
        app = server.http_app(transport="sse")
    else:
        store = EventStore(max_events_per_stream=20_000) if "resumable" in options else None
        app = server.http_app(event_store=store)
    uvicorn.run(app, host="127.0.0.1", port=port, loop=loop, log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
