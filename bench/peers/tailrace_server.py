"""Tailrace's server in the benchmark: `python -m tailrace run bench/peers/tailrace_server.py`.

Every peer's server has these tools; what they do must stay the same in all of them.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from tailrace import Context, Service

svc = Service("bench", version="1.0.0")


@dataclass
class Line:
    sku: str
    name: str
    qty: int
    price: float
    tags: list[str]


@dataclass
class Order:
    id: str
    customer: str
    lines: list[Line]


@dataclass
class Receipt:
    lines: int
    quantity: int


@svc.tool
async def echo(text: str) -> str:
    """Answer with the text that was given."""
    return text


@svc.tool
async def structured(order: Order) -> Receipt:
    """Add up an order of about 5 kB."""
    return Receipt(lines=len(order.lines), quantity=sum(line.qty for line in order.lines))


@svc.tool
async def burst(ctx: Context, count: int, size: int, pause: float = 0.0) -> int:
    """Send `count` notifications of `size` bytes of text, as fast as can be or with pauses of so many seconds."""
    text = "x" * size or None
    for n in range(1, count + 1):
        await ctx.progress(n, None, text)
        if pause:
            await asyncio.sleep(pause)
    return count


@svc.tool
async def slow(seconds: float) -> str:
    """Take time."""
    await asyncio.sleep(seconds)
    return "done"


@svc.tool(once=True)
async def effect(key: str, seconds: float) -> str:
    """Leave a trace of the start and of the end, with so many seconds between."""
    note(f"start {key}")
    await asyncio.sleep(seconds)
    note(f"end {key}")
    return key


@svc.tool
async def broadcast(first: int, count: int) -> int:
    """Send `count` notifications to every session."""
    for n in range(first, first + count):
        await svc.broadcast("notifications/progress", {"progressToken": "broadcast", "progress": n})
    return count


def note(line: str) -> None:
    """A trace in the witness file of `tailrace check`."""
    with open(os.environ.get("TAILRACE_WITNESS", os.devnull), "a") as file:
        file.write(line + "\n")
