"""A tool for every behaviour, for trying out clients.

    tailrace run examples/kitchen.py
    tailrace call http://127.0.0.1:8000/mcp slow seconds=3 steps=30

`fail`, `stubborn` and `burst` are what a good client survives; `later` and `whoami` show what a context knows.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from tailrace import Context, Service, ToolError

svc = Service("kitchen", version="1.0.0", instructions="A tool for every behaviour of a server.")


@dataclass
class Caller:
    session: str | None
    request_id: int | str | None
    correlation_id: str | None
    calls: int


@svc.tool(read_only=True)
def echo(text: str) -> str:
    """Answer with the text that was given.

    Args:
        text: Anything.
    """
    return text


@svc.tool(read_only=True)
async def slow(
    ctx: Context,
    seconds: Annotated[float, Meta(ge=0, le=3600)] = 1.0,
    steps: Annotated[int, Meta(ge=1, le=10_000)] = 5,
) -> int:
    """Take time, and report progress at each step; the answer is the number of steps.

    Args:
        seconds: How long it takes in all.
        steps: How many steps; each ends with one progress notification.
    """
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds / steps)
        await ctx.progress(step, steps, f"step {step} of {steps}")
    await asyncio.sleep(0.05)  # one client loses progress that arrives in one piece with the answer
    return steps


@svc.tool(read_only=True)
def stubborn(seconds: Annotated[float, Meta(ge=0, le=600)] = 5.0) -> str:
    """Block a thread and heed no cancellation: what a shutdown must not wait for.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
    return "done"


@svc.tool(read_only=True)
async def fail(kind: Literal["tool", "bug"] = "tool") -> str:
    """Fail.

    Args:
        kind: `tool` is an error meant for the caller; `bug` is an exception nobody thought of.
    """
    if kind == "tool":
        raise ToolError("this failed as asked", {"kind": kind})
    raise ZeroDivisionError("a bug, as asked: this text stays in the server's log")


@svc.tool(read_only=True)
async def burst(
    ctx: Context,
    count: Annotated[int, Meta(ge=0, le=100_000)] = 90,
    size: Annotated[int, Meta(ge=0, le=1_000_000)] = 100,
) -> int:
    """Send log notifications as fast as they are taken; the answer is how many.

    Args:
        count: How many; each carries its number, from 0 on.
        size: Characters of filling in each.
    """
    for number in range(count):
        await ctx.log("info", {"number": number, "filling": "x" * size}, logger="burst")
    return count


@svc.tool(read_only=True)
def big(size: Annotated[int, Meta(ge=0, le=8_000_000)] = 100_000) -> str:
    """Answer with a long text.

    Args:
        size: Characters.
    """
    return "x" * size


@svc.tool
async def later(ctx: Context, seconds: Annotated[float, Meta(ge=0, le=60)] = 1.0) -> str:
    """Answer at once, and go on working detached, as sending a mail would.

    Args:
        seconds: How long the detached work takes.
    """
    ctx.spawn(asyncio.sleep, seconds, name="later")
    return "answered; the work goes on"


@svc.tool
async def whoami(ctx: Context) -> Caller:
    """Say what the server knows of the caller, and count this session's calls of this tool."""
    session = ctx.session
    if session is None:
        return Caller(None, ctx.request_id, ctx.correlation_id, 1)
    state: dict[str, Any] = session.state
    state["calls"] = state.get("calls", 0) + 1
    return Caller(session.id, ctx.request_id, ctx.correlation_id, state["calls"])


if __name__ == "__main__":
    svc.run()
