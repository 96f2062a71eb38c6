"""A client of HTTP/2 that says exactly what a test wants, and keeps count of all that comes.

`Client` frames by itself and decodes header fields with another library than the server does; so what is
malformed can be said, and what the server says is read by somebody else. Nothing is acknowledged or given
back but by the test, except SETTINGS and (unless told not to) windows.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from jh2.hpack.hpack import Decoder, Encoder

__all__ = ["LIMIT", "Client", "Stream", "connected", "frame"]

LIMIT = 60.0  # seconds any wait of a test may take
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


@dataclass
class Stream:
    """What the server said on one stream."""

    number: int
    fields: list[list[tuple[str, str]]] = field(default_factory=list)  # interim replies, the head, trailers
    data: bytes = b""
    received: int = 0
    frames: int = 0
    ended: bool = False
    reset: int | None = None

    @property
    def head(self) -> dict[str, str]:
        return dict(next(one for one in self.fields if not dict(one)[":status"].startswith("1")))

    @property
    def status(self) -> int:
        return int(self.head[":status"]) if self.fields else 0

    @property
    def trailers(self) -> dict[str, str]:
        return dict(self.fields[-1]) if ":status" not in dict(self.fields[-1]) else {}


class Client:
    """A client's end of a connection.

    Args:
        credit: Windows are opened again as data comes; else only by `window`.
        keep: The bytes of replies are kept; else only counted.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, credit: bool, keep: bool) -> None:
        self.writer = writer
        self.streams: dict[int, Stream] = {}
        self.settings: dict[int, int] = {}
        self.windows: list[tuple[int, int]] = []
        self.credits: dict[int, int] = {}  # bytes that the server takes, by stream; 0 is the connection
        self.pings: list[bytes] = []
        self.answers: list[bytes] = []
        self.goaways: list[tuple[int, int, str]] = []
        self.closed = False
        self.paused = asyncio.Event()  # set: it reads
        self.paused.set()
        self._credit = credit
        self._keep = keep
        self._reader = reader
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._next = 1
        self._greeted = False
        self._changed = asyncio.Condition()
        self._task = asyncio.ensure_future(self._read())

    # --- what it says ---

    def send(self, data: bytes) -> None:
        """These bytes."""
        self.writer.write(data)

    def greet(self, settings: dict[int, int] | None = None) -> None:
        """The preface."""
        payload = b"".join(struct.pack(">HI", *item) for item in (settings or {}).items())
        self.send(PREFACE + frame(SETTINGS, 0, 0, payload))
        self._greeted = True

    def block(self, fields: Iterable[tuple[str, str]], *, plain: bool = False) -> bytes:
        """Header fields, as a block."""
        if plain:
            return b"".join(b"\x00" + b"".join(_string(part.encode("latin-1")) for part in pair) for pair in fields)
        return self._encoder.encode([(name.encode(), value.encode()) for name, value in fields])

    def request(
        self,
        path: str = "/echo",
        body: bytes | None = b"",
        fields: Iterable[tuple[str, str]] = (),
        *,
        method: str = "POST",
        end: bool = True,
        number: int | None = None,
    ) -> Stream:
        """Open a stream. `body` None: none, and no length; `end` False: more will come."""
        number = self._next if number is None else number
        self._next = number + 2
        stream = self.streams[number] = Stream(number)
        head = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path), *fields]
        over = end and not body
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if over else 0), number, self.block(head)))
        if body:
            self.data(stream, body, end=end)
        return stream

    def data(self, stream: Stream, data: bytes = b"", *, end: bool = False) -> None:
        """A part of a body, whatever credit there is."""
        parts = [data[at : at + 16384] for at in range(0, len(data), 16384)] or [b""]
        for at, part in enumerate(parts):
            last = end and at == len(parts) - 1
            self.credits[stream.number] = self.credit(stream.number) - len(part)
            self.credits[0] = self.credit(0) - len(part)
            self.send(frame(DATA, END_STREAM if last else 0, stream.number, part))

    async def upload(self, stream: Stream, data: bytes, *, end: bool = True) -> None:
        """A body, as the server's credit allows."""
        at = 0
        while at < len(data):
            await self.until(lambda: self.room(stream) > 0)
            size = min(16384, self.room(stream), len(data) - at)
            self.data(stream, data[at : at + size], end=end and at + size == len(data))
            at += size
            await self.writer.drain()

    def room(self, stream: Stream) -> int:
        """Bytes that the server takes of it now."""
        return min(self.credit(0), self.credit(stream.number))

    def credit(self, number: int) -> int:
        return self.credits.get(number, 65535 if not number else self.settings.get(4, 65535))

    def reset(self, stream: Stream, code: int = 8) -> None:
        self.send(frame(RST_STREAM, 0, stream.number, struct.pack(">I", code)))

    def window(self, number: int, size: int) -> None:
        self.send(frame(WINDOW_UPDATE, 0, number, struct.pack(">I", size)))

    def settle(self, settings: dict[int, int]) -> None:
        """Other settings from now on."""
        self.send(frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in settings.items())))

    def ping(self, payload: bytes) -> None:
        self.send(frame(PING, 0, 0, payload))

    # --- what it hears ---

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait for something to have come."""
        async with asyncio.timeout(LIMIT), self._changed:
            while not true():
                assert not self.closed or true(), f"the connection is closed: {self.goaways}"
                await self._changed.wait()

    async def reply(self, stream: Stream) -> Stream:
        """Wait for a whole reply."""
        await self.until(lambda: stream.ended or stream.reset is not None)
        assert stream.ended, f"reset with {stream.reset}"
        return stream

    async def ask(self, path: str = "/echo", body: bytes | None = b"", **more: Any) -> Stream:
        """A request and its reply."""
        return await self.reply(self.request(path, body, **more))

    async def was_reset(self, stream: Stream) -> int | None:
        await self.until(lambda: stream.reset is not None or stream.ended)
        return stream.reset

    async def end(self) -> tuple[int, int, str]:
        """Wait for the connection's end; the last GOAWAY."""
        await self.until(lambda: self.closed)
        return self.goaways[-1]

    async def ponged(self, payload: bytes = b"12345678") -> None:
        """All that was sent before has been looked at."""
        count = len(self.answers)
        self.ping(payload)
        await self.until(lambda: len(self.answers) > count)

    async def _read(self) -> None:
        try:
            while True:
                await self.paused.wait()
                word, flags, number = struct.unpack(">IBI", await self._reader.readexactly(9))
                payload = await self._reader.readexactly(word >> 8)
                self._take(word & 0xFF, flags, number, payload)
                async with self._changed:
                    self._changed.notify_all()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.closed = True
            async with self._changed:
                self._changed.notify_all()

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        match kind:
            case 1:  # HEADERS
                assert flags & END_HEADERS
                assert stream is not None
                stream.fields.append(
                    [(name.decode(), value.decode()) for name, value in self._decoder.decode(payload, raw=True)]
                )
                stream.ended = bool(flags & END_STREAM)
            case 0:
                assert stream is not None
                assert not stream.ended
                assert stream.reset is None
                stream.received += len(payload)
                stream.frames += 1
                if self._keep:
                    stream.data += payload
                stream.ended = bool(flags & END_STREAM)
                if self._credit and payload:
                    self.window(0, len(payload))
                    if not stream.ended:
                        self.window(number, len(payload))
            case 3:
                assert stream is not None, number
                stream.reset = struct.unpack(">I", payload)[0]
            case 4:
                if not flags & ACK:
                    for key, value in struct.iter_unpack(">HI", payload):
                        self.settings[key] = value
                    if self._greeted:
                        self.send(frame(SETTINGS, ACK, 0))
            case 6:
                if flags & ACK:
                    self.answers.append(payload)
                else:
                    self.pings.append(payload)
            case 7:
                last, code = struct.unpack(">II", payload[:8])
                self.goaways.append((last, code, payload[8:].decode()))
            case 8:
                size = struct.unpack(">I", payload)[0]
                self.windows.append((number, size))
                self.credits[number] = self.credit(number) + size
            case _:
                raise AssertionError(f"a frame of kind {kind}")

    async def abort(self) -> None:
        self._task.cancel()
        self.writer.transport.abort()
        with suppress(asyncio.CancelledError, OSError):
            await self._task
        with suppress(OSError):
            await self.writer.wait_closed()


def _string(data: bytes) -> bytes:
    size = len(data)
    if size < 127:
        return bytes([size]) + data
    size -= 127
    out = [127]
    while size >= 128:
        out.append(128 | size & 127)
        size >>= 7
    return bytes([*out, size]) + data


@asynccontextmanager
async def connected(
    address: Any,
    *,
    greet: bool = True,
    settings: dict[int, int] | None = None,
    credit: bool = True,
    keep: bool = True,
    **where: Any,
) -> AsyncIterator[Client]:
    """A connection that has said its preface."""
    reader, writer = await asyncio.open_connection(*address[:2], **where)
    client = Client(reader, writer, credit=credit, keep=keep)
    try:
        if greet:
            client.greet(settings)
            await client.until(lambda: client.settings)
        yield client
    finally:
        if client._task.done() and not client._task.cancelled() and client._task.exception() is not None:
            raise AssertionError("the server said something odd") from client._task.exception()
        await client.abort()
