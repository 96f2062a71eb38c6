"""A client and a server in one process, without bytes on any wire: for tests and embedding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from tailrace.clients.mcp.links import MemoryLink
from tailrace.core.exchange import Headers, Sink

if TYPE_CHECKING:
    from tailrace.server import Server

__all__ = ["open_link"]

_MAX_LINES = 10_000  # messages of the client that the server has not looked at


async def open_link(server: Server) -> MemoryLink:
    """Start `server`, and give a link to it; closing the link stops the server."""
    await server.start()
    lines: asyncio.Queue[bytes | None] = asyncio.Queue(_MAX_LINES)

    async def close() -> None:
        lines.put_nowait(None)
        await asyncio.wait([conversation])
        await server.stop()

    link = MemoryLink(lines.put_nowait, close)
    conversation = server.tasks.start(server.converse().run(_each(lines), _LinkSink(link)), name="tailrace-in-memory")
    conversation.add_done_callback(lambda _: link.lose("the server has ended"))
    return link


async def _each(lines: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    while (line := await lines.get()) is not None:
        yield line


class _LinkSink(Sink):
    """Gives the server's lines to the client."""

    __slots__ = ("_link",)

    def __init__(self, link: MemoryLink) -> None:
        self._link = link

    async def write(self, data: bytes) -> None:
        for line in data.splitlines():
            self._link.receive(line)
        await asyncio.sleep(0)  # one who writes without end lets the client have its turn

    async def end(self, trailers: Headers = ()) -> None:
        pass
