"""A TCP proxy between the demo's client and server, whose wires can be cut."""

from __future__ import annotations

import asyncio
import contextlib

from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads

__all__ = ["Proxy"]


class Proxy:
    """Forwards connections on loopback until they are cut.

    Args:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.down = False  # new connections are refused
        self._tasks = Tasks(Threads(size=1))
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Reset every connection of this moment; returns how many clients' there were."""
        count = len(self._open) // 2
        for writer in list(self._open):
            writer.transport.abort()
        return count

    async def close(self) -> None:
        """Stop listening, and cut what is left."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await self._tasks.close(1.0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            return writer.transport.abort()
        try:
            onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # the server is down at the moment: so is the wire
            return writer.transport.abort()
        ways = (
            self._tasks.start(self._forward(reader, onward_writer), name="demo-forward"),
            self._tasks.start(self._forward(onward_reader, writer), name="demo-backward"),
        )
        self._open |= {writer, onward_writer}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(ways, timeout=1.0)
        finally:
            self._open -= {writer, onward_writer}
            for end in (writer, onward_writer):
                end.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
