"""An HTTP/1.1 client that smooths nothing over: exact request bytes, the reply as it comes, and rude ways to leave.

One request a connection, as a test needs it: nothing is pooled, retried, redirected, decompressed or buffered ahead.
An orderly end of a body and a broken one are told apart. MCP is left to `rawmcp`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tailrace.wire.sse import Event, Parser

LIMIT = 45.0  # seconds any single wait of this client may take, unless the test says otherwise
_RST = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST
_open: set[RawConnection] = set()


class Cut(ConnectionError):
    """The connection ended before the reply did."""


class Stalled(AssertionError):
    """Nothing came for the whole limit; the text says what was awaited and what had come."""


@dataclass(frozen=True, slots=True)
class Head:
    """A reply's status line and headers, in order, names in lower case."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """The first header of that name (in lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)


class RawConnection:
    """One TCP connection and at most one request on it.

    Args:
        url: Scheme, host and port; a path in it is ignored.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or 80
        self.head: Head | None = None
        self.seen = bytearray()  # every byte of the reply's body, without chunk framing
        self.ended = False  # the body's orderly end came
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._left: int | None = None  # of the body (identity) or of the chunk; None: until the connection closes
        self._chunked = False

    async def __aenter__(self) -> RawConnection:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def open(self) -> None:
        """Connect; `leave_all` closes it in the end if nobody else does."""
        self._reader, self._writer = await asyncio.wait_for(
            asyncio.open_connection(self.host, self.port, limit=1 << 20), LIMIT
        )
        _open.add(self)

    # --- out --------------------------------------------------------------------------------------

    async def send_raw(self, data: bytes) -> None:
        """Send exactly these bytes."""
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), LIMIT)

    async def send(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> None:
        """Send one request; Host and, with a body, Content-Length are added unless given."""
        lines = [f"{method} {target} HTTP/1.1"]
        headers = list(headers)
        given = {name.lower() for name, _ in headers}
        if "host" not in given:
            lines.append(f"Host: {self.host}:{self.port}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None and not given & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        await self.send_raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    # --- in ---------------------------------------------------------------------------------------

    async def read_head(self, limit: float = LIMIT) -> Head:
        """The reply's head.

        Raises:
            Cut: The connection ended before it was complete.
            Stalled: It was not there after `limit` seconds.
        """
        lines: list[str] = []
        while line := await self._line(limit, "the head"):
            lines.append(line.decode("latin-1"))
        _, status, reason = (*lines[0].split(" ", 2), "")[:3]
        pairs = (line.split(":", 1) for line in lines[1:])
        self.head = head = Head(int(status), reason, tuple((name.lower(), value.strip()) for name, value in pairs))
        self._chunked = (head.get("transfer-encoding") or "").lower() == "chunked"
        length = head.get("content-length")
        self._left = 0 if self._chunked or head.status in (204, 304) else None if length is None else int(length)
        return head

    async def read_some(self, limit: float = LIMIT) -> bytes:
        """The next bytes of the body as they come; empty at its orderly end.

        Raises:
            Cut: The connection ended before the body did.
            Stalled: Nothing came for `limit` seconds.
        """
        if self.ended:
            return b""
        if self._chunked and self._left == 0 and not await self._next_chunk(limit):
            return b""
        if self._left == 0:
            self.ended = True
            return b""
        data = await self._some(65_536 if self._left is None else min(65_536, self._left), limit)
        if not data:
            if self._left is None:  # a body that runs until the connection closes: this is its end
                self.ended = True
                return b""
            raise Cut(f"the connection ended {self._left} bytes before the end of a body or chunk")
        if self._left is not None:
            self._left -= len(data)
            if self._chunked and self._left == 0:
                await self._line(limit, "a chunk's end")
        self.seen += data
        return data

    async def read_all(self, limit: float = LIMIT) -> bytes:
        """The whole rest of the body."""
        parts: list[bytes] = []
        while data := await self.read_some(limit):
            parts.append(data)
        return b"".join(parts)

    async def _next_chunk(self, limit: float) -> bool:
        size = int((await self._line(limit, "a chunk's size")).split(b";")[0], 16)
        if size == 0:
            while await self._line(limit, "trailers"):
                pass
            self.ended = True
            return False
        self._left = size
        return True

    async def _line(self, limit: float, what: str) -> bytes:
        try:
            line = await asyncio.wait_for(self._reader.readline(), limit)
        except TimeoutError:
            raise Stalled(f"no {what} within {limit:g} s; body so far: {bytes(self.seen[-300:])!r}") from None
        except ConnectionError as error:
            raise Cut(f"reset while reading {what}: {error}") from error
        if not line.endswith(b"\n"):
            raise Cut(f"the connection ended within {what}")
        return line.rstrip(b"\r\n")

    async def _some(self, most: int, limit: float) -> bytes:
        try:
            return await asyncio.wait_for(self._reader.read(most), limit)
        except TimeoutError:
            raise Stalled(f"nothing came for {limit:g} s; body so far: {bytes(self.seen[-300:])!r}") from None
        except ConnectionError as error:
            raise Cut(f"reset in the body: {error}") from error

    # --- leaving ------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Leave at once with a RST: the peer's next read or write fails."""
        _open.discard(self)
        raw = self._writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self._writer.transport.abort()

    def close(self) -> None:
        """Leave in order (FIN). Idempotent, and does nothing after `abort`."""
        _open.discard(self)
        self._writer.close()

    def stop_reading(self) -> None:
        """Be a client that never reads: the kernel's buffers fill, then the server's writes stall."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._writer.transport.pause_reading()


async def leave_all() -> None:
    """Close what a test left open: a failed one must not make the next fail as well, over an unclosed socket."""
    for connection in list(_open):
        connection.abort()
    await asyncio.sleep(0)  # the loop closes sockets one turn later


class EventStream:
    """The SSE events of one reply, each as soon as it is complete, priming events (an id, no data) among them.

    Attributes:
        events: All that came so far.
        last_event_id: What a resume would send.
        cut: The connection broke (True) or the stream ended in order or goes on (False).
    """

    def __init__(self, connection: RawConnection) -> None:
        self.connection = connection
        self.events: list[Event] = []
        self.cut = False
        self._parser = Parser(empty=True)
        self._waiting: list[Event] = []

    @property
    def last_event_id(self) -> str | None:
        return self.events[-1].id if self.events else None

    @property
    def retry(self) -> int | None:
        """The newest `retry:` in milliseconds."""
        return self._parser.retry

    def comments(self) -> list[str]:
        """The comment lines so far, without colon and blank."""
        lines = bytes(self.connection.seen).replace(b"\r", b"\n").split(b"\n")
        return [line[1:].decode().strip() for line in lines if line.startswith(b":")]

    async def next(self, limit: float = LIMIT) -> Event | None:
        """The next event; None when the stream ended in order, or broke (then `cut` is True).

        Raises:
            Stalled: There was none within `limit` seconds; keep-alives do not count.
        """
        try:
            async with asyncio.timeout(limit):
                while not self._waiting:
                    data = await self.connection.read_some(limit)
                    if not data:
                        return None
                    self._waiting = self._parser.feed(data)
        except Cut:
            self.cut = True
            return None
        except TimeoutError:
            raise Stalled(f"no event within {limit:g} s; {len(self.events)} before: {self.events[-3:]}") from None
        event = self._waiting.pop(0)
        self.events.append(event)
        return event

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self.next()) is not None:
            yield event

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """The JSON-RPC messages that come from now on; priming and `endpoint` events are passed over."""
        async for event in self:
            if event.event == "message" and event.data:
                yield json.loads(event.data)
