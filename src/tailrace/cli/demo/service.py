"""The demo's service: one tool that does something once and says so in a file."""

from __future__ import annotations

import asyncio
import os

from tailrace import Context, Service

svc = Service("demo", version="1.0.0", instructions="Reserve seats, slowly.")


@svc.tool
async def reserve(ctx: Context, seat: str, seconds: float = 2.0) -> dict[str, str]:
    """Reserve one seat. The reservation takes effect half-way through; the caller hears of every step.

    Args:
        seat: Which one.
        seconds: How long it takes.
    """
    await ctx.progress(1, 4, "accepted")
    await asyncio.sleep(seconds / 4)
    await ctx.progress(2, 4, "checking")
    await asyncio.sleep(seconds / 4)
    note(seat)
    await ctx.progress(3, 4, "reserved")
    await asyncio.sleep(seconds / 2)
    await ctx.progress(4, 4, "confirmed")
    return {"seat": seat, "state": "reserved"}


def note(seat: str) -> None:
    """The effect: one line in the file that the count reads. One write, so that a kill leaves no half line."""
    file = os.open(os.environ["TAILRACE_DEMO_EXECUTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"executed {seat}\n".encode())
    finally:
        os.close(file)
