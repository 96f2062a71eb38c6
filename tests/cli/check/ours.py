"""Tailrace's server for the check: the four tools, as docs/check.md shows them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tailrace import Context, Service

svc = Service("ours", version="1.0.0")
WITNESS = Path(os.environ.get("TAILRACE_WITNESS", os.devnull))


@svc.tool
async def echo(text: str) -> str:
    return text


@svc.tool
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@svc.tool
async def burst(ctx: Context, count: int, size: int = 0, pause: float = 0.0) -> int:
    for number in range(1, count + 1):
        await ctx.progress(number, count, "x" * size)
        if pause:
            await asyncio.sleep(pause)
    return count


@svc.tool(once=True)
async def effect(key: str, seconds: float) -> str:
    note(f"start {key}")
    await asyncio.sleep(seconds)
    note(f"end {key}")
    return key


def note(line: str) -> None:
    with WITNESS.open("a") as file:
        file.write(line + "\n")
