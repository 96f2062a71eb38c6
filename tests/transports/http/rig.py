"""A server that is nothing but a listener and a few handlers, and a client that sends exact bytes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tailrace.core.exchange import Exchange, Sink, StreamWriter
from tailrace.core.settings import Settings
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.transports.http import Listener

LIMIT = 60.0  # seconds any wait of a test may take
JSON = ((b"content-type", b"application/json"),)
PLAIN = ((b"content-type", b"text/plain"),)


class Rig:
    """What is served: `/echo` gives the body back, `/held` waits for the test, `/stream` runs `writer`; what begins
    with `/open` is handed over with a source.

    Attributes:
        exchanges: All that were handed over.
        gone: Those whose client went away before the reply was complete.
        ended: How many were answered at once.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tasks = Tasks(Threads(size=1))
        self.exchanges: list[Exchange] = []
        self.gone: list[Exchange] = []
        self.ended = 0
        self.changed = asyncio.Condition()
        self.writer: StreamWriter = write_nothing
        self.other: Callable[[Exchange], None] = respond_not_found

    async def start(self) -> None:
        """It has begun."""

    async def stop(self) -> None:
        """It ends with its loop."""

    def streams(self, exchange: Exchange) -> bool:
        return exchange.path.startswith("/open")

    def handle(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        exchange.on_gone = lambda: self.gone.append(exchange)
        if exchange.path == "/echo":
            self.ended += 1
            exchange.respond(200, PLAIN, exchange.body)
        elif exchange.path == "/stream":
            exchange.stream(200, PLAIN, self.writer)
        elif exchange.path != "/held":
            self.other(exchange)

    def refuse(self, exchange: Exchange, status: int, message: str) -> None:
        headers = [*PLAIN, (b"retry-after", b"1")] if status == 503 else PLAIN
        exchange.respond(status, headers, message.encode())


async def write_nothing(sink: Sink) -> None:
    await sink.end()


def respond_not_found(exchange: Exchange) -> None:
    exchange.respond(404, PLAIN, b"nothing here")


@dataclass
class Served:
    """A running listener."""

    rig: Rig
    listener: Listener
    address: Any
    tls: ssl.SSLContext | None = None

    @asynccontextmanager
    async def peer(self) -> AsyncIterator[Peer]:
        """A client's connection."""
        where: dict[str, Any] = {"ssl": self.tls, "server_hostname": "localhost" if self.tls else None}
        if isinstance(self.address, str):
            reader, writer = await asyncio.open_unix_connection(self.address, **where)
        else:
            reader, writer = await asyncio.open_connection(*self.address[:2], **where)
        peer = Peer(reader, writer)
        try:
            yield peer
        finally:
            peer.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def ask(self, data: bytes) -> Reply:
        """One request on a connection of its own."""
        async with self.peer() as peer:
            await peer.send(data)
            return await peer.reply()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something of the server has become true."""
        async with asyncio.timeout(LIMIT):
            while not condition():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def serving(
    *, sockets: list[socket.socket] | None = None, tls: Any = None, sweep: float = 0.02, **limits: Any
) -> AsyncIterator[Served]:
    """A listener with these settings; the clock is looked at often, so that short limits are short."""
    listening = sockets or [listen()]
    rig = Rig(Settings(**limits))
    listener = Listener(rig, listening, tls=tls[0] if tls else None, sweep=sweep)
    address = listening[0].getsockname()
    await listener.start()
    try:
        yield Served(rig, listener, address, tls[1] if tls else None)
    finally:
        await listener.close(0)
        await rig.tasks.close(1.0)
        assert listener.statistics()["connections"] == 0
        assert listener.arriving == 0, "what was gathered of a body was counted off, whatever its end"


def listen(host: str = "127.0.0.1") -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.bind((host, 0))
    listening.listen(2048)
    return listening


@dataclass
class Reply:
    """One reply, read to its end."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} is there more than once: {values}"
        return values[0] if values else None


class Peer:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), LIMIT)

    async def head(self) -> Reply:
        """Status line and headers of the next reply, interim ones as well."""
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LIMIT)
        line, *fields = raw[:-4].decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [field.split(": ", 1) for field in fields]
        assert all(len(pair) == 2 and pair[0] == pair[0].lower() for pair in pairs)
        return Reply(int(status), [(name, value) for name, value in pairs], b"")

    async def reply(self, *, method: str = "GET") -> Reply:
        """The next final reply, whole; exactly as long as it says."""
        reply = await self.head()
        length, coding = reply["content-length"], reply["transfer-encoding"]
        assert length is None or coding is None
        if method == "HEAD" or reply.status in (204, 304):
            return reply
        if coding is not None:
            assert coding == "chunked"
            reply.body = b"".join([chunk async for chunk in self.chunks()])
        elif length is not None:
            reply.body = await asyncio.wait_for(self.reader.readexactly(int(length)), LIMIT)
        else:
            assert reply["connection"] == "close"
            reply.body = await self.rest()
        return reply

    async def chunk(self) -> bytes:
        """The next chunk's data; empty for the last one."""
        size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), LIMIT), 16)
        data = await asyncio.wait_for(self.reader.readexactly(size), LIMIT) if size else b""
        if size:
            assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def chunks(self) -> AsyncIterator[bytes]:
        """Chunks to the orderly end, trailers dropped."""
        while data := await self.chunk():
            yield data
        while await asyncio.wait_for(self.reader.readuntil(b"\r\n"), LIMIT) != b"\r\n":
            pass

    async def rest(self) -> bytes:
        """What comes until the connection is closed."""
        return await asyncio.wait_for(self.reader.read(), LIMIT)

    async def closed(self) -> bool:
        """The server closes, and says nothing more."""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    def abort(self) -> None:
        self.writer.transport.abort()


class Wire(asyncio.Transport):
    """A transport that is a list of bytes: what is fed in one piece arrives in one piece."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 80)})
        self.sent = bytearray()
        self.closing = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.closing
        self.sent += data

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close


async def converse(pieces: Iterable[bytes], rig: Rig | None = None) -> tuple[Rig, bytes]:
    """Feed pieces to a connection, each only once all that the one before caused has happened; returns the replies."""
    rig = rig or Rig(Settings())
    connection = Listener(rig, []).protocol()
    wire = Wire()
    connection.connection_made(wire)
    for piece in pieces:
        connection.data_received(piece)
        handed_over = -1
        while handed_over != len(rig.exchanges):  # pipelined ones follow one another
            handed_over = len(rig.exchanges)
            await asyncio.sleep(0)
        if wire.closing:
            break
    connection.connection_lost(None)
    return rig, bytes(wire.sent)


def request(
    method: str = "POST", target: str = "/echo", body: bytes | None = None, *fields: str, version: str = "1.1"
) -> bytes:
    """A well-formed request."""
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *fields]
    if body is not None and not any(field.lower().startswith("transfer-encoding") for field in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")
