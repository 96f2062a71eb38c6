"""Load on one server over Streamable HTTP (2025-11-25), made in pure Python on one core; every answer is checked.

Each client has a connection and a session of its own, and calls again as soon as it has its answer. Bytes go out and
come in without a client library, so that this side costs as little as Python allows.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import click
import httptools

from tailrace.cli.arguments import ArgumentError, parse_arguments
from tailrace.mcp import Client
from tailrace.wire.sse import Parser

__all__ = ["measure"]

_VERSION = "2025-11-25"
_MAX_BODY = 64 * 1024 * 1024  # bytes of one answer
_GIVE_UP = 100  # failed calls of one client


async def measure(url: str, words: Sequence[str], clients: int, seconds: float, timeout: float) -> dict[str, Any]:
    """Put load on a server, and say how it went.

    Args:
        url: Of its Streamable HTTP endpoint.
        words: A tool's name and its arguments as words, or nothing for `ping`.
        clients: Calls in flight.
        seconds: How long.
        timeout: Seconds for one answer.

    Returns:
        `calls`, `per_second`, `p50_ms`, `p90_ms`, `p99_ms`, `failed`, the first `complaint`, and what was done.

    Raises:
        click.ClickException: There is no such tool, or a session could not be opened.
    """
    method, params = await _work(url, words, timeout) if words else ("ping", {})
    latencies: list[float] = []
    complaints: list[str] = []

    async def repeat(client: _Client) -> None:
        failed = 0
        while (began := time.perf_counter()) < until and failed < _GIVE_UP:
            try:
                await client.request(method, params)
            except (click.ClickException, OSError, TimeoutError) as error:
                failed += 1
                complaints.append(str(error) or type(error).__name__)
            else:
                latencies.append(time.perf_counter() - began)

    async with _opened(url, clients, timeout) as opened:
        began = time.perf_counter()
        until = began + seconds
        async with asyncio.TaskGroup() as group:
            for client in opened:
                group.create_task(repeat(client))
        took = time.perf_counter() - began
    latencies.sort()
    return {
        "what": str(params.get("name", method)), "clients": clients, "seconds": took, "calls": len(latencies),
        "per_second": len(latencies) / took, **{f"p{p}_ms": _percentile(latencies, p) * 1000 for p in (50, 90, 99)},
        "failed": len(complaints), "complaint": complaints[0] if complaints else None, "load": "pure Python",
    }  # fmt: skip


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of all do not exceed; 0 of nothing."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else 0.0


async def _work(url: str, words: Sequence[str], timeout: float) -> tuple[str, dict[str, Any]]:
    """The request that is repeated, with arguments typed by the tool's own schema, as `tailrace call` does it."""
    async with asyncio.timeout(timeout), Client(url) as client:
        schemas = {tool.name: tool.input_schema for tool in await client.list_tools()}
    if words[0] not in schemas:
        raise click.ClickException(f"there is no tool {words[0]!r}; there is: {', '.join(sorted(schemas)[:20])}")
    try:
        arguments = await asyncio.to_thread(parse_arguments, words[1:], schemas[words[0]], _read)
    except ArgumentError as error:
        raise click.UsageError(str(error)) from None
    return "tools/call", {"name": words[0], "arguments": arguments}


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None


# --- clients --------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(url: str, clients: int, timeout: float) -> AsyncGenerator[list[_Client]]:
    """That many clients, each in a session, which it ends when all is over."""
    opened: list[_Client] = []
    try:
        for _ in range(clients):
            client = _Client(url, timeout)
            opened.append(client)
            await client.open()
        yield opened
    finally:
        for client in opened:
            await client.close()


class _Client:
    """One keep-alive connection and the session on it."""

    def __init__(self, url: str, timeout: float) -> None:
        self._parts = urlsplit(url)
        self._timeout = timeout
        self._session = ""
        self._id = 0
        self._connection: _Connection | None = None

    async def open(self) -> None:
        hello = {
            "protocolVersion": _VERSION,
            "capabilities": {},
            "clientInfo": {"name": "tailrace bench", "version": "1"},
        }
        await self.request("initialize", hello)
        await self._send("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def close(self) -> None:
        """End the session; nobody waits long for a server that does not answer that."""
        try:
            if self._session and self._connection is not None:
                self._timeout = min(self._timeout, 2.0)
                await self._send("DELETE", None)
        except (click.ClickException, OSError, TimeoutError):
            pass  # all was measured; a session that is not ended ends by itself
        finally:
            if self._connection is not None:
                self._connection.transport.abort()

    async def request(self, method: str, params: dict[str, Any]) -> None:
        """One request and its answer.

        Raises:
            click.ClickException: The answer is an error, or another's.
            OSError: The connection failed.
            TimeoutError: It took too long.
        """
        self._id += 1
        body = await self._send("POST", {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        _check(body, self._id)

    async def _send(self, verb: str, message: Any) -> bytes:
        async with asyncio.timeout(self._timeout):
            if self._connection is None or self._connection.transport.is_closing():
                self._connection = await self._connect()
            connection = self._connection
            try:
                body = await connection.exchange(self._encode(verb, message))
            except BaseException:
                connection.transport.abort()
                raise
        if connection.status >= 300:
            raise click.ClickException(f"HTTP {connection.status}: {body[:200].decode(errors='replace')}")
        self._session = connection.headers.get(b"mcp-session-id", b"").decode() or self._session
        return _events(body) if connection.headers.get(b"content-type", b"").startswith(b"text/event-stream") else body

    async def _connect(self) -> _Connection:
        tls = ssl.create_default_context() if self._parts.scheme == "https" else None
        port = self._parts.port or (443 if tls else 80)
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, self._parts.hostname or "", port, ssl=tls))[1]

    def _encode(self, verb: str, message: Any) -> bytes:
        body = b"" if message is None else json.dumps(message, separators=(",", ":")).encode()
        target = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        session = f"Mcp-Session-Id: {self._session}\r\n" if self._session else ""
        head = (
            f"{verb} {target} HTTP/1.1\r\nHost: {self._parts.netloc.rpartition('@')[2]}\r\n"
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
            f"MCP-Protocol-Version: {_VERSION}\r\n{session}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _Connection(asyncio.Protocol):
    """Exchanges whole requests for whole responses, one at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        self._waiter: asyncio.Future[bytes] | None = None
        self._parser: Any = None

    async def exchange(self, request: bytes) -> bytes:
        """Send a request; returns the body of its response."""
        self._waiter = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self.headers = {}
        self._body.clear()
        self.transport.write(request)
        return await self._waiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(OSError(f"not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("the server closed the connection"))

    def _fail(self, error: OSError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    # --- from the parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > _MAX_BODY:
            self._fail(OSError(f"an answer has more than {_MAX_BODY} bytes"))
            self.transport.abort()

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.transport.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(bytes(self._body))


# --- answers --------------------------------------------------------------------------------------


def _events(body: bytes) -> bytes:
    """The last message of an event stream: its answer, behind the notifications."""
    messages = [event.data for event in Parser(max_event=_MAX_BODY).feed(body)]
    return messages[-1].encode() if messages else b""


def _check(body: bytes, id: int) -> None:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise click.ClickException(f"not an answer: {body[:200].decode(errors='replace')!r}")
    said = cast("dict[str, Any]", answer)
    if said.get("id") != id:
        raise click.ClickException(f"the answer of another call: {said.get('id')!r} in place of {id}")
    if "error" in said:
        raise click.ClickException(f"the server refused it: {said['error'].get('message')}")
    if said.get("result", {}).get("isError"):
        raise click.ClickException(f"the tool failed: {body[:200].decode(errors='replace')}")
