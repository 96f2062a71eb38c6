"""One service behind each of the three HTTP servers, in a thread of this process, and a plain socket that talks to it.

`hosted` serves; the log records of the server are those of the test (`caplog` sees them). `Wire` sends exact requests
on a connection that is kept while the server keeps it, and reads replies whole, or a stream event by event.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any

from fastapi import FastAPI

from tailrace import Service
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.transports.asgi import AsgiApp
from tailrace.transports.embedded import Embedded
from tailrace.transports.http import Listener
from tailrace.wire.sse import Event, Parser

__all__ = ["SERVERS", "Hosted", "Reply", "Wire", "hosted"]

SERVERS = ("listener", "uvicorn", "fastapi")
LIMIT = 60.0  # seconds any wait may take


@dataclass
class Hosted:
    """A running server.

    Attributes:
        kind: One of `SERVERS`.
        prefix: Under which it is mounted.
        server: What it serves; owned by its thread.
    """

    kind: str
    address: tuple[str, int]
    prefix: str
    server: Server
    loop: asyncio.AbstractEventLoop

    def ask(self, question: Any) -> Any:
        """What `question(server)` is, asked on the server's own loop."""

        async def answer() -> Any:
            found = question(self.server)
            return await found if inspect.isawaitable(found) else found

        return asyncio.run_coroutine_threadsafe(answer(), self.loop).result(LIMIT)


@contextmanager
def hosted(kind: str, service: Service, **settings: Any) -> Iterator[Hosted]:
    """Serve until the block ends."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # as `tailrace run` does
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    settings.setdefault("drain", 0.0)
    ready: list[Hosted | BaseException] = []
    known = threading.Event()
    over: list[asyncio.Event] = []

    async def serve() -> None:
        server = Server(service, Settings(**settings), MemoryStore())
        await server.start()
        carrier: Listener | Embedded
        if kind == "listener":
            carrier = Listener(server, [listening])
        else:
            app: Any = AsgiApp(server)
            if kind == "fastapi":
                inner, app = app, FastAPI(openapi_url=None)
                app.mount("/ai", inner)
            carrier = Embedded(app, listening, None, server.tasks, server.settings)
        await carrier.start()
        over.append(asyncio.Event())
        prefix = "/ai" if kind == "fastapi" else ""
        ready.append(Hosted(kind, listening.getsockname(), prefix, server, asyncio.get_running_loop()))
        known.set()
        try:
            await over[0].wait()
            await server.end_sessions(0.2)
            await carrier.close(0.2)
        finally:
            await server.stop()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            ready.append(error)
            known.set()
        finally:
            listening.close()

    thread = threading.Thread(target=run, name=f"hosted by {kind}", daemon=True)
    thread.start()
    assert known.wait(LIMIT)
    first = ready[0]
    if isinstance(first, BaseException):
        raise first
    try:
        yield first
    finally:
        first.loop.call_soon_threadsafe(over[0].set)
        thread.join(LIMIT)
        assert not thread.is_alive(), "the server did not end"
        assert len(ready) == 1, ready[1:]


@dataclass
class Reply:
    """A whole reply; header names in lower case, of several the last."""

    status: int
    headers: dict[str, str]
    body: bytes
    events: list[Event] = field(default_factory=list[Event])

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A client's connection; a new one whenever the server closed the last."""

    def __init__(self, server: Hosted) -> None:
        self.server = server
        self._socket: socket.socket | None = None
        self._stream: HTTPResponse | None = None
        self._parser = Parser(empty=True)
        self._events: list[Event] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None = None) -> Reply:
        """One request and its whole reply. Host and Content-Length are added unless given."""
        response = self._send(method, target, headers, body)
        data = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close:
            self.close()
        return Reply(response.status, found, data, Parser(empty=True).feed(data) if _is_stream(found) else [])

    def open(self, target: str, headers: Iterable[tuple[str, str]]) -> None:
        """GET a stream; its events are had by `next`. The connection is its own from then on."""
        self._stream = self._send("GET", target, headers, None)
        assert self._stream.status == 200, self._stream.read()

    def next(self) -> Event:
        """The stream's next event."""
        assert self._stream is not None
        while not self._events:
            data = self._stream.read1(65_536)
            assert data, "the stream ended"
            self._events = self._parser.feed(data)
        return self._events.pop(0)

    def _send(self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None) -> HTTPResponse:
        if self._socket is None:
            self._socket = socket.create_connection(self.server.address, LIMIT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"{method} {self.server.prefix}{target} HTTP/1.1"]
        given = list(headers)
        names = {name.lower() for name, _ in given}
        if "host" not in names:
            lines.append("Host: localhost")
        lines += [f"{name}: {value}" for name, value in given]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self._socket.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))
        response = HTTPResponse(self._socket, method=method)
        response.begin()
        return response


def _is_stream(headers: dict[str, str]) -> bool:
    return headers.get("content-type") == "text/event-stream"
