"""MCP over standard input and output: one process is one session."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from tailrace.cli.check.model import Cut, Failed, Json, Stalled, Way
from tailrace.cli.check.shared_stream import SharedStream
from tailrace.cli.check.talk import read_message

if TYPE_CHECKING:
    from tailrace.cli.check.process import Process

__all__ = ["Stdio"]

_WRITE_LIMIT = 15.0  # seconds the server may take to read a message
_VERSION = "2025-11-25"


class Stdio(SharedStream):
    """A client that started its server.

    Args:
        process: Not started yet; its pipes are spoken over.
    """

    way = Way.STDIO

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self.version = _VERSION

    async def open(self) -> None:
        await self.process.start()
        try:
            self.version = (await self.hello(_VERSION)).get("protocolVersion", _VERSION)
        except Failed as error:
            last = self.process.last_lines(1)
            raise Failed(f"{error}{f'; it printed: {last[0]}' if last else ''}") from None

    async def send(self, message: Json) -> None:
        await self.send_raw(json.dumps(message).encode() + b"\n")

    async def send_raw(self, data: bytes) -> None:
        """Write exactly these bytes.

        Raises:
            Cut: The server closed its standard input.
            Stalled: It does not read.
        """
        writer, _ = self.process.streams
        try:
            async with asyncio.timeout(_WRITE_LIMIT):
                writer.write(data)
                await writer.drain()
        except TimeoutError:
            raise Stalled(f"the server did not read its input within {_WRITE_LIMIT:g} s") from None
        except (OSError, RuntimeError):
            raise Cut("the server closed its standard input") from None

    async def next(self) -> Json | None:
        _, reader = self.process.streams
        try:
            line = await reader.readline()
        except ValueError as error:
            raise Failed(f"a line on standard output is too long: {error}") from None
        if not line:
            return None
        return read_message(line) if line.strip() else await self.next()

    def end_input(self) -> None:
        """Close its standard input: the way of this transport to say goodbye."""
        self.process.streams[0].close()

    def stop_reading(self) -> None:
        """Be a client that never reads: the pipe fills."""
        transport = getattr(self.process.streams[1], "_transport", None)
        if transport is not None:
            transport.pause_reading()

    async def close(self) -> None:
        await self.process.stop()
