"""An HTTP/1.1 server that does as a test scripts it, byte by byte: half an event, a cut, a redirect, silence.

Each connection serves one request. What was asked, and whether the client left, is kept for the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from tailrace.wire import sse

LIMIT = 45.0  # seconds any wait of a script may take


class Exchange:
    """One request, and the way to answer it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.method = ""
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.left = asyncio.Event()  # the client closed the connection

    async def read(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.method, self.path, _ = head[0].split(" ")
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self.body = await self._reader.readexactly(int(self.headers.get("content-length", "0")))

    @property
    def message(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body else {}

    @property
    def rpc(self) -> str:
        """The JSON-RPC method of a POST, else the HTTP method."""
        return self.message.get("method", "response") if self.method == "POST" else self.method

    async def reply(self, status: int, body: Any = b"", **headers: str) -> None:
        """Answer whole; what is no bytes goes as JSON."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("content_type", "application/json")
        await self._head(status, {"content-length": str(len(body)), **headers})
        await self._write(body)

    async def result(self, result: Any, **headers: str) -> None:
        """Answer the request with a result, as JSON."""
        await self.reply(200, {"jsonrpc": "2.0", "id": self.message["id"], "result": result}, **headers)

    async def error(self, status: int, code: int, data: Any = None, **headers: str) -> None:
        """Answer the request with a JSON-RPC error."""
        error = {"code": code, "message": f"error {code}", "data": data}
        await self.reply(status, {"jsonrpc": "2.0", "id": self.message.get("id"), "error": error}, **headers)

    async def stream(self, **headers: str) -> None:
        """Begin a stream of events."""
        await self._head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **headers})

    async def event(
        self, data: Any = b"", *, id: str | None = None, event: str | None = None, retry: int | None = 10
    ) -> None:
        """Send one event; what is no bytes goes as JSON."""
        payload = data if isinstance(data, bytes) else json.dumps(data).encode()
        await self.raw(
            sse.event(payload, id=id.encode() if id else None, event=event.encode() if event else None, retry=retry)
        )

    async def raw(self, data: bytes) -> None:
        """Send part of a stream of events."""
        await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """End the stream in order."""
        await self._write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()

    async def wait_left(self) -> None:
        async with asyncio.timeout(LIMIT):
            await self.left.wait()

    async def watch(self) -> None:
        with contextlib.suppress(OSError):
            await self._reader.read()
        self.left.set()

    async def _head(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self._write("\r\n".join([*lines, "", ""]).encode())

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        with contextlib.suppress(OSError):
            await self._writer.drain()


Script: TypeAlias = Callable[[Exchange], Awaitable[None]]


class FakeServer:
    """Listens on loopback, and runs the script for each request. Its port stays its own while it is stopped."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.exchanges: list[Exchange] = []
        self.faults: list[BaseException] = []  # what a script raised
        self.port = 0
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._place = socket.socket()  # bound, and never listening: nobody else gets the port between stop and start

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, rpc: str) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.rpc == rpc]

    async def start(self) -> None:
        if not self.port:
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._place.bind(("127.0.0.1", 0))
            self.port = self._place.getsockname()[1]
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Stop listening, and break every connection."""
        assert self._server is not None
        self._server.close()
        for exchange in self.exchanges:
            exchange.cut()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def close(self) -> None:
        """Let the port go, once it has stopped for good."""
        self._place.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        exchange = Exchange(reader, writer)
        watch: asyncio.Task[None] | None = None
        try:
            await exchange.read()
            self.exchanges.append(exchange)
            watch = asyncio.create_task(exchange.watch())
            await self.script(exchange)
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a connection without a request, or the end of the server
        except Exception as fault:
            self.faults.append(fault)
        finally:
            if watch is not None:
                watch.cancel()
            writer.close()
            self._handlers.discard(task)


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[FakeServer]:
    """A fake server that is gone afterwards; a fault of its script fails the test."""
    server = FakeServer(script)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        server.close()
    assert server.faults == []


async def timed_out(call: Callable[[float], Awaitable[Any]], begun: Callable[[], bool], seconds: float = 0.5) -> None:
    """A call that ends at its limit after the server has got it: where a busy machine lets the time pass before, it is
    made again with more of it."""
    for limit in (seconds, 5.0, 30.0):
        with pytest.raises(TimeoutError):
            await call(limit)
        if begun():
            return
    raise AssertionError("the server was never asked")


# --- parts of scripts -------------------------------------------------------------------------------

INITIALIZED = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}, "logging": {}},
    "serverInfo": {"name": "fake", "version": "9"},
    "instructions": "be kind",
}
DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
    "ttlMs": 0,
    "cacheScope": "public",
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "fake", "version": "10"}},
}


def result(id: Any, value: Any = 1) -> dict[str, Any]:
    """The answer to a call whose value had to be wrapped."""
    content = {"content": [{"type": "text", "text": str(value)}], "structuredContent": {"result": value}}
    return {"jsonrpc": "2.0", "id": id, "result": content}


def progress(token: Any, done: int, message: str | None = None) -> dict[str, Any]:
    """A progress notification."""
    params = {"progressToken": token, "progress": done, "total": 9, "message": message}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def legacy(script: Script, *, session: str = "s-1") -> Script:
    """A legacy Streamable server whose handshake is taken care of; `script` gets the calls, GET and cancellations."""

    async def whole(exchange: Exchange) -> None:
        match exchange.rpc:
            case "server/discover":
                await exchange.error(400, -32600)
            case "initialize":
                await exchange.result(INITIALIZED, mcp_session_id=session)
            case "notifications/initialized":
                await exchange.reply(202)
            case "DELETE":
                await exchange.reply(200)
            case "GET" if "last-event-id" not in exchange.headers:
                await exchange.reply(405)
            case _:
                await script(exchange)

    return whole


def modern(script: Script) -> Script:
    """A modern server; `script` gets all but `server/discover`."""

    async def whole(exchange: Exchange) -> None:
        if exchange.rpc == "server/discover":
            await exchange.result(DISCOVERED)
        else:
            await script(exchange)

    return whole
