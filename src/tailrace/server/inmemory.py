"""A client and a server in one process, without bytes on any wire: for tests and embedding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from tailrace.clients.mcp.links import MemoryLink
from tailrace.core.exchange import Headers, Sink
from tailrace.errors import TransportError

if TYPE_CHECKING:
    from tailrace.server import Server

__all__ = ["open_conversation", "open_link"]

_MAX_LINES = 10_000  # messages of the client that the server has not looked at


async def open_link(server: Server) -> MemoryLink:
    """Start `server`, and give a link to it; closing the link stops the server."""
    await server.start()
    return open_conversation(server, ended=server.stop)


def open_conversation(
    server: Server,
    *,
    ended: Callable[[], Awaitable[None]] | None = None,
    flows: asyncio.Event | None = None,
) -> MemoryLink:
    """A link to a server that has started, which may have several; closing it ends one conversation.

    Args:
        server: Which runs.
        ended: Called when the client closed the link and the conversation is over.
        flows: While it is not set, the client reads nothing; after the server's limit for that it is given up.
    """
    lines: asyncio.Queue[bytes | None] = asyncio.Queue(_MAX_LINES)

    async def close() -> None:
        lines.put_nowait(None)
        await asyncio.wait([conversation])
        if ended is not None:
            await ended()

    link = MemoryLink(lines.put_nowait, close)
    sink = _LinkSink(link, flows, server.settings.stall)
    conversation = server.tasks.start(server.converse().run(_each(lines), sink), name="tailrace-in-memory")
    conversation.add_done_callback(lambda _: link.lose("the server has ended"))
    return link


async def _each(lines: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    while (line := await lines.get()) is not None:
        yield line


class _LinkSink(Sink):
    """Gives the server's lines to the client."""

    __slots__ = ("_flows", "_link", "_stall")

    def __init__(self, link: MemoryLink, flows: asyncio.Event | None, stall: float) -> None:
        self._link = link
        self._flows = flows
        self._stall = stall

    async def write(self, data: bytes) -> None:
        if self._flows is not None and not self._flows.is_set():
            await self._wait(self._flows)
        for line in data.splitlines():
            self._link.receive(line)
        await asyncio.sleep(0)  # one who writes without end lets the client have its turn

    async def end(self, trailers: Headers = ()) -> None:
        pass

    async def _wait(self, flows: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._stall):
                await flows.wait()
        except TimeoutError:
            raise TransportError(f"the peer read nothing for {self._stall:g} s") from None
