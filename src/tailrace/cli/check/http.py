"""HTTP/1.1 in bytes: exact requests, the reply as it comes, and rude ways to leave.

One request a connection; nothing is pooled, retried, redirected or read ahead, because a trial must know what was
sent and what came. An orderly end of a body and a broken one are told apart. MCP is left to `talk`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httptools

from tailrace.cli.check.model import Cut, Failed, Stalled
from tailrace.wire.sse import Event, Parser

__all__ = ["LIMIT", "EventStream", "Head", "RawConnection", "leave_all", "target_of"]

LIMIT = 15.0  # seconds any single wait may take, unless the trial says otherwise
_MAX_HEAD = 256 * 1024  # bytes of a reply's head
_MAX_BODY = 64 * 1024 * 1024  # bytes of a body that is read as a whole
_CHUNK = 65_536
_open: set[RawConnection] = set()
_RST = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


@dataclass(frozen=True, slots=True)
class Head:
    """A reply's status and headers, in order, names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """The first header of that name (in lower case), or an empty text."""
        return next((value for key, value in self.headers if key == name), "")


def target_of(url: str) -> str:
    """What a request line says for this URL."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class RawConnection:
    """One TCP connection and one request on it.

    Args:
        url: Scheme, host and port; its path is the request's business.
        small: With a receive buffer so small that a server which nobody reads stalls soon.

    Attributes:
        head: The reply's, once it was read.
        ended: The body's orderly end came.
    """

    def __init__(self, url: str, *, small: bool = False) -> None:
        parts = urlsplit(url)
        self._host, self._netloc = parts.hostname or "127.0.0.1", parts.netloc.rpartition("@")[2]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._small = small
        self.head: Head | None = None
        self.ended = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._parser: Any = None
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._complete = False

    async def __aenter__(self) -> RawConnection:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def open(self) -> None:
        """Connect.

        Raises:
            Failed: Nobody listens, or not within `LIMIT`.
        """
        try:
            async with asyncio.timeout(LIMIT):
                if self._small:
                    address = (await asyncio.get_running_loop().getaddrinfo(
                        self._host, self._port, type=socket.SOCK_STREAM))[0]  # fmt: skip
                    raw = socket.socket(address[0], socket.SOCK_STREAM)
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    raw.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(raw, address[4])
                    where: dict[str, Any] = {"sock": raw}
                else:
                    where = {"host": self._host, "port": self._port}
                if self._tls is not None:
                    where |= {"ssl": self._tls, **({"server_hostname": self._host} if self._small else {})}
                self._reader, self._writer = await asyncio.open_connection(limit=_CHUNK, **where)
        except TimeoutError:
            raise Stalled(f"no connection within {LIMIT:g} s") from None
        except OSError as error:
            raise Failed(f"cannot connect: {error.strerror or error}") from None
        _open.add(self)

    # --- out --------------------------------------------------------------------------------------

    async def send_raw(self, data: bytes) -> None:
        """Send exactly these bytes.

        Raises:
            Cut: The server closed the connection.
        """
        assert self._writer is not None, "not open"
        try:
            async with asyncio.timeout(LIMIT):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError:
            raise Stalled(f"the server did not take a request within {LIMIT:g} s") from None
        except OSError as error:
            raise Cut(f"the connection was closed while sending: {error.strerror or error}") from None

    async def send(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> None:
        """Send one request; Host and, with a body, Content-Length are added unless given."""
        headers = list(headers)
        given = {name.lower() for name, _ in headers}
        lines = [f"{method} {target} HTTP/1.1"]
        if "host" not in given:
            lines.append(f"Host: {self._netloc}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None and not given & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        await self.send_raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    # --- in ---------------------------------------------------------------------------------------

    async def read_head(self, limit: float = LIMIT) -> Head:
        """The reply's head.

        Raises:
            Cut: The connection ended before it was complete, or it is no HTTP.
            Stalled: It was not there after `limit` seconds.
        """
        try:
            async with asyncio.timeout(limit):
                while self.head is None:
                    if not await self._feed():
                        raise Cut("the connection ended without a reply")
        except TimeoutError:
            raise Stalled(f"no reply within {limit:g} s") from None
        return self.head

    async def read_some(self, limit: float = LIMIT) -> bytes:
        """The next bytes of the body as they come; empty at its orderly end.

        Raises:
            Cut: The connection ended before the body did.
            Stalled: Nothing came for `limit` seconds.
        """
        try:
            async with asyncio.timeout(limit):
                while not self._body and not self._complete:
                    if not await self._feed():
                        if self._runs_until_close():
                            break
                        raise Cut("the connection broke within the body")
        except TimeoutError:
            raise Stalled(f"nothing came for {limit:g} s") from None
        if self._body:
            data = b"".join(self._body)
            self._body.clear()
            return data
        self.ended = True
        return b""

    async def read_all(self, limit: float = LIMIT) -> bytes:
        """The whole rest of the body, within `limit` seconds and 64 MiB."""
        data = bytearray()
        try:
            async with asyncio.timeout(limit):
                while some := await self.read_some(limit):
                    data += some
                    if len(data) > _MAX_BODY:
                        raise Failed(f"a body of more than {_MAX_BODY} bytes")
        except TimeoutError:
            raise Stalled(f"a body did not end within {limit:g} s") from None
        return bytes(data)

    async def _feed(self) -> bool:
        try:
            data = await self._reader.read(_CHUNK)
        except OSError as error:
            raise Cut(f"the connection broke: {error.strerror or error}") from None
        if not data:
            return False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            raise Cut(f"not HTTP: {error}: {data[:80]!r}") from None
        return True

    def _runs_until_close(self) -> bool:
        head = self.head
        return head is not None and not head.get("content-length") and not head.get("transfer-encoding")

    # --- from the parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))
        if sum(len(key) + len(text) for key, text in self._headers) > _MAX_HEAD:
            raise ValueError("the head is too long")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 or status == 101:
            self.head = Head(status, tuple(self._headers))
        self._headers = []

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._complete = self.head is not None

    # --- leaving ------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Leave at once with a RST: the server's next read or write fails. Idempotent."""
        _open.discard(self)
        writer, self._writer = self._writer, None
        if writer is None:
            return
        raw = writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        writer.transport.abort()

    def close(self) -> None:
        """Leave in order (FIN). Idempotent, and does nothing after `abort`."""
        _open.discard(self)
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def stop_reading(self) -> None:
        """Be a client that never reads: buffers fill, then the server's writes stall."""
        assert self._writer is not None, "not open"
        transport: Any = self._writer.transport
        transport.pause_reading()


def leave_all() -> None:
    """Break whatever connections are still open: one trial must not disturb the next."""
    for connection in list(_open):
        connection.abort()


class EventStream:
    """The SSE events of one reply, each as soon as it is complete.

    Attributes:
        last_event_id: What a resume would send; empty where no event had an id.
        count: Events so far, priming ones (an id, no data) among them.
    """

    def __init__(self, connection: RawConnection) -> None:
        self.connection = connection
        self.last_event_id = ""
        self.count = 0
        self._parser = Parser(empty=True)
        self._waiting: list[Event] = []

    async def next(self, limit: float = LIMIT) -> Event | None:
        """The next event; None when the stream ended in order.

        Raises:
            Cut: The stream broke.
            Stalled: There was none within `limit` seconds; keep-alives do not count.
        """
        try:
            async with asyncio.timeout(limit):
                while not self._waiting:
                    data = await self.connection.read_some(limit)
                    if not data:
                        return None
                    self._waiting = self._parser.feed(data)
        except TimeoutError:
            raise Stalled(f"no event within {limit:g} s") from None
        event = self._waiting.pop(0)
        self.last_event_id = event.id or self.last_event_id
        self.count += 1
        return event
