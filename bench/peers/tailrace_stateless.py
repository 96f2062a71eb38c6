"""Tailrace's server in the benchmark where several workers share nothing: nothing in it has to remember."""

from __future__ import annotations

from tailrace import Service

svc = Service("bench", version="1.0.0")


@svc.tool
async def echo(text: str) -> str:
    """Answer with the text that was given."""
    return text
