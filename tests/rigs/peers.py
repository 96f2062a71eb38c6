"""A server for hostile answers: HTTP/1.1 and HTTP/2 by hand, so that a test says exactly what goes out, and when.

A test gives a function that answers one request: head, bytes, trailers, a reset, or nothing for ever. What the client
did (its bytes, whether it ended its body, whether and how it left) is written down. It knows no RPC protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from jh2.config import H2Configuration
from jh2.connection import H2Connection
from jh2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from jh2.settings import SettingCodes, Settings

Pairs: TypeAlias = Sequence[tuple[str, str]]
_FRAME = 16_384


class Gone(ConnectionError):
    """The client left while it was answered."""


class Request:
    """One request, and the ways to answer it.

    Attributes:
        headers: Names in lower case; in HTTP/2 with the pseudo headers.
        body: What has come so far.
        ended: Set when the client has ended its body.
        left: Set when the client reset the stream, or its connection closed.
        reset: The HTTP/2 error code with which it did, or None.
    """

    def __init__(self, path: str, headers: dict[str, str]) -> None:
        self.path = path
        self.headers = headers
        self.body = bytearray()
        self.ended = asyncio.Event()
        self.left = asyncio.Event()
        self.reset: int | None = None
        self.arrived = asyncio.Event()  # set at every piece, and at the end
        self.over = False

    def finish(self) -> None:
        self.ended.set()
        self.arrived.set()

    async def head(self, status: int = 200, headers: Pairs = ()) -> None:
        raise NotImplementedError

    async def data(self, data: bytes) -> None:
        raise NotImplementedError

    async def end(self, trailers: Pairs = ()) -> None:
        raise NotImplementedError

    def abort(self, code: int = 8) -> None:
        """Reset the stream; over HTTP/1.1 the connection."""
        raise NotImplementedError

    def forget(self) -> None:
        """After the end of the answer: what the client still sends is not wanted (HTTP/2: a reset with NO_ERROR)."""
        raise NotImplementedError

    async def whole(self) -> bytes:
        """The client's body, once it has ended."""
        await self.ended.wait()
        return bytes(self.body)


Answer: TypeAlias = Callable[[Request], Awaitable[None]]


class Peer:
    """The server; `answer` may be replaced at any time. Use `running_peer`."""

    def __init__(self, answer: Answer, *, http2: bool, tls: ssl.SSLContext | None = None, streams: int = 100) -> None:
        self.answer = answer
        self.http2 = http2
        self.tls = tls
        self.max_streams = streams  # HTTP/2: at the same time on one connection
        self.port = 0
        self.requests: list[Request] = []
        self.connections = 0  # ever
        self.open = 0  # now
        self.errors: list[Exception] = []  # of the test's own functions
        self.arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def streams(self) -> int:
        """Requests that are neither answered to their end nor left."""
        return sum(not (request.over or request.left.is_set()) for request in self.requests)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.errors:
            raise self.errors[0]

    def go_away(self, last: int, code: int = 0) -> None:
        """HTTP/2: send a GOAWAY on all connections; what was begun can still be answered."""
        for writer in self._writers:
            writer.write(struct.pack(">I", 8)[1:] + b"\x07\0\0\0\0\0" + struct.pack(">II", last, code))

    def hang_up(self) -> None:
        """Break all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    def run(self, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except (Gone, ConnectionError):
                pass
            except Exception as error:
                self.errors.append(error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def accept(self, request: Request) -> None:
        self.requests.append(request)
        self.arrived.set()
        self.run(self.answer(request))

    async def request(self, number: int = 0) -> Request:
        """The request of that number, once it is there."""
        async with asyncio.timeout(60):
            while len(self.requests) <= number:
                self.arrived.clear()
                await self.arrived.wait()
        return self.requests[number]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.run((_serve_h2 if self.http2 else _serve_h1)(self, reader, writer))

    @contextlib.contextmanager
    def counted(self, writer: asyncio.StreamWriter):  # type: ignore[no-untyped-def]
        self.connections += 1
        self.open += 1
        self._writers.add(writer)
        try:
            yield
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def running_peer(answer: Answer, *, http2: bool, **options: Any) -> AsyncIterator[Peer]:
    """A hostile server on a free port of loopback; `options` as of `Peer`."""
    peer = Peer(answer, http2=http2, **options)
    await peer.start()
    try:
        yield peer
    finally:
        await peer.stop()


# --- HTTP/1.1 -----------------------------------------------------------------------------------


class _H1Request(Request):
    def __init__(self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        super().__init__(path, headers)
        self._writer = writer
        self._lengthy = False

    async def _write(self, data: bytes) -> None:
        if self.left.is_set():
            raise Gone
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int = 200, headers: Pairs = ()) -> None:
        self._lengthy = any(name.lower() == "content-length" for name, _ in headers)
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers)]
        if not self._lengthy:
            lines.append("transfer-encoding: chunked")
        await self._write(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def data(self, data: bytes) -> None:
        await self._write(data if self._lengthy else b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self, trailers: Pairs = ()) -> None:
        if not self._lengthy:
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            await self._write(f"0\r\n{lines}\r\n".encode())
        self.over = True

    def abort(self, code: int = 8) -> None:
        self.over = True
        self._writer.transport.abort()


async def _serve_h1(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with peer.counted(writer):
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            first, *lines = head[:-4].decode("latin-1").split("\r\n")
            pairs = (line.split(":", 1) for line in lines)
            request = _H1Request(
                first.split(" ")[1], {name.strip().lower(): value.strip() for name, value in pairs}, writer
            )
            peer.accept(request)
            if not await _read_body(request, reader):
                request.left.set()
                return
            request.finish()
            while not request.over:  # the client closes, or is answered
                try:
                    async with asyncio.timeout(0.01):
                        if not await reader.read(1):
                            request.left.set()
                            return
                except TimeoutError:
                    continue
                except ConnectionError:
                    request.left.set()
                    return


async def _read_body(request: Request, reader: asyncio.StreamReader) -> bool:
    try:
        if request.headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                request.body += await reader.readexactly(size)
                await reader.readexactly(2)
                request.arrived.set()
            await reader.readexactly(2)
        else:
            request.body += await reader.readexactly(int(request.headers.get("content-length", "0")))
            request.arrived.set()
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    return True


# --- HTTP/2 -------------------------------------------------------------------------------------


class _H2Request(Request):
    def __init__(self, path: str, headers: dict[str, str], link: _Link, id: int) -> None:
        super().__init__(path, headers)
        self._link = link
        self._id = id
        self.window = asyncio.Event()

    def _check(self) -> None:
        if self.left.is_set():
            raise Gone

    async def head(self, status: int = 200, headers: Pairs = ()) -> None:
        self._check()
        self._link.h2.send_headers(self._id, [(":status", str(status)), *headers])
        await self._link.flush()

    async def data(self, data: bytes) -> None:
        while data:
            self._check()
            room = min(self._link.h2.local_flow_control_window(self._id), _FRAME)
            if room <= 0:
                self.window.clear()
                await self.window.wait()
                continue
            self._link.h2.send_data(self._id, data[:room])
            data = data[room:]
            await self._link.flush()

    async def end(self, trailers: Pairs = ()) -> None:
        self._check()
        if trailers:
            self._link.h2.send_headers(self._id, list(trailers), end_stream=True)
        else:
            self._link.h2.end_stream(self._id)
        await self._link.flush()
        self.over = True

    def abort(self, code: int = 8) -> None:
        self._check()
        self._link.h2.reset_stream(self._id, code)
        self._link.writer.write(self._link.h2.data_to_send())
        self.over = True

    def forget(self) -> None:
        self.abort(0)


class _Link:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.writer = writer

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()


async def _serve_h2(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    link = _Link(writer)
    requests: dict[int, _H2Request] = {}
    link.h2.local_settings = Settings(
        client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: peer.max_streams}
    )
    link.h2.initiate_connection()
    with peer.counted(writer):
        try:
            await link.flush()
            while data := await reader.read(65_536):
                for event in link.h2.receive_data(data):
                    if isinstance(event, ConnectionTerminated):
                        return
                    _hear(peer, link, requests, event)
                await link.flush()
        except ConnectionError:
            pass
        finally:
            for request in requests.values():
                if not request.over:
                    request.left.set()
                request.window.set()


def _hear(peer: Peer, link: _Link, requests: dict[int, _H2Request], event: object) -> None:
    if isinstance(event, RequestReceived):
        headers = {str(name): str(value) for name, value in event.headers}
        request = requests[event.stream_id] = _H2Request(headers[":path"], headers, link, event.stream_id)
        peer.accept(request)
    elif isinstance(event, DataReceived):
        requests[event.stream_id].body += event.data
        requests[event.stream_id].arrived.set()
        link.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    elif isinstance(event, StreamEnded):
        requests[event.stream_id].finish()
    elif isinstance(event, StreamReset):
        requests[event.stream_id].reset = int(event.error_code)
        requests[event.stream_id].left.set()
        requests[event.stream_id].window.set()
    elif isinstance(event, WindowUpdated):
        for request in requests.values():
            request.window.set()
