"""A server without a wire: exchanges made by hand, and clients that speak MCP through them to one `Server`.

`FakeExchange` records its one reply. A streamed reply runs in a task of its own, as a connection's coroutine would,
and what it writes is in `sink.written`; the sink can stall, and the peer can leave. `LegacySession`, `SseSession` and
`post_modern` make the requests of the three ways in; none of them retries or answers anything by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tailrace import Service
from tailrace.core.exchange import Exchange, Headers, Sink, StreamWriter
from tailrace.core.ports import Store
from tailrace.core.settings import Settings
from tailrace.errors import ClientGone, StoreError, TransportError
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.transports.incoming import Incoming
from tailrace.wire.sse import Event, Parser
from tests.core.support import turns
from tests.rigs.rawmcp import Json, call, initialize, is_answer, notification, request, text_of

__all__ = [
    "DISK_FULL",
    "MODERN",
    "FakeExchange",
    "LegacySession",
    "RecordingSink",
    "SseSession",
    "call",
    "initialize",
    "is_answer",
    "modern_headers",
    "modern_request",
    "notification",
    "parse_events",
    "post_modern",
    "request",
    "serving",
    "text_of",
]

MODERN = "2026-07-28"
DISK_FULL = StoreError("the disk is full")
_BOTH = "application/json, text/event-stream"
_META = "io.modelcontextprotocol/"


def parse_events(data: bytes) -> list[Event]:
    """The events of an SSE body so far, priming events among them."""
    return Parser(empty=True).feed(data)


class RecordingSink(Sink):
    """Keeps what is written. While `open` is not set, a write waits; once `broken`, it raises."""

    def __init__(self) -> None:
        self.written = b""
        self.writes = 0
        self.ended = False
        self.trailers: list[tuple[bytes, bytes]] = []
        self.broken = False
        self.open = asyncio.Event()
        self.open.set()
        self.changed = asyncio.Event()
        self._writing = False

    async def write(self, data: bytes) -> None:
        assert not self._writing, "two writers on one connection"
        assert not self.ended, "something is written behind the end"
        self._writing = True
        try:
            await self.open.wait()
            if self.broken:
                raise TransportError("the peer is gone")
            self.written += data
            self.writes += 1
            self.changed.set()
        finally:
            self._writing = False

    async def end(self, trailers: Headers = ()) -> None:
        if self.broken:
            raise TransportError("the peer is gone")
        self.ended = True
        self.trailers = list(trailers)
        self.changed.set()


class FakeExchange(Exchange):
    """One request, and the record of its reply.

    Args:
        method: Of HTTP.
        target: The path, with the query if there is one.
        body: Bytes as they are, None for nothing, anything else as JSON.
        headers: Names in any case; a name may come twice. `host: localhost` is added.
        principal: Who asks.
        loopback: Where it arrived.
        prefix: Under which the application is mounted.
        streams: The body comes through a `source`: what was given as `body`, then what `feed` gives, until `feed_end`.
        version: Of HTTP; over ``2`` a reply can have trailers.
    """

    def __init__(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: Iterable[tuple[str, str]] = (),
        *,
        principal: str = "",
        loopback: bool = True,
        prefix: str = "",
        streams: bool = False,
        version: str = "1.1",
    ) -> None:
        path, _, query = target.partition("?")
        super().__init__(method, path, query.encode(), prefix)
        given_body = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.version = version
        self.trailers = version == "2"
        self.unread = 0  # bytes that were fed and are not read yet
        self._incoming: Incoming | None = None
        if streams:
            self._incoming = self.source = Incoming(self._taken)
            self.feed(given_body)
        else:
            self.body = given_body
        self.principal = principal
        self.loopback = loopback
        given = [(name.lower().encode(), value) for name, value in headers]
        if not any(name == b"host" for name, _ in given):
            given.append((b"host", "localhost"))
        self._given = given
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reply_body = b""
        self.reply_trailers: list[tuple[bytes, bytes]] = []
        self.sink = RecordingSink()
        self.streaming: asyncio.Task[None] | None = None
        self._replied = asyncio.Event()

    # --- what the server sees ---

    def header(self, name: bytes) -> str | None:
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: bytes) -> list[str]:
        return [value for key, value in self._given if key == name]

    def fields(self) -> list[tuple[bytes, str]]:
        return list(self._given)

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        if self._reply(status, headers):
            self.reply_body = body
            self.reply_trailers = list(trailers) if self.trailers else []

    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        if self._reply(status, headers):
            self.sink.written += first  # with the head: it waits for nothing
            self.sink.changed.set()
            self.streaming = asyncio.get_running_loop().create_task(self._run(writer), name=f"stream of {self.path}")

    def _reply(self, status: int, headers: Headers) -> bool:
        if self.gone:
            return False
        assert not self.replied, "a second reply"
        self.replied = True
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}
        self._replied.set()
        return True

    async def _run(self, writer: StreamWriter) -> None:
        try:
            await writer(self.sink)
        except TransportError:
            pass  # as transports have it: the peer's end of it
        finally:
            self.sink.changed.set()
            self.leave()

    def _taken(self, size: int) -> None:
        self.unread -= size

    # --- what the client does and sees ---

    def feed(self, data: bytes) -> None:
        """Some more of the body arrives."""
        assert self._incoming is not None, "this exchange has no source"
        if data:
            self.unread += len(data)
            self._incoming.put(data)

    def feed_end(self) -> None:
        """The body is complete."""
        assert self._incoming is not None, "this exchange has no source"
        self._incoming.finish()

    def disconnect(self, by: ClientGone | None = None) -> None:
        """The peer goes away (or does what `by` says), and the transport says so."""
        self.sink.broken = True
        self.sink.open.set()
        if self._incoming is not None:
            self._incoming.fail(TransportError("the peer is gone"))
        self.leave(by)

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type") == "text/event-stream"

    @property
    def events(self) -> list[Event]:
        """All that was written so far."""
        return parse_events(self.sink.written)

    @property
    def messages(self) -> list[Json]:
        """The JSON of all events that carry some."""
        return [json.loads(event.data) for event in self.events if event.data and event.event == "message"]

    @property
    def last_id(self) -> str:
        """What a client would send as Last-Event-ID."""
        found = self.events[-1].id
        assert found is not None
        return found

    async def status_code(self) -> int:
        """Wait for the reply."""
        await self._replied.wait()
        return self.status

    async def json(self) -> Any:
        """Wait for a reply that is JSON."""
        await self._replied.wait()
        assert self.headers.get("content-type") == "application/json", (self.status, self.headers)
        return json.loads(self.reply_body)

    async def answer(self, id: int | str) -> Json:
        """Wait for the answer to the request `id`, whichever form the reply has."""
        await self._replied.wait()
        if not self.is_stream:
            found = await self.json()
            return next(one for one in found if one.get("id") == id) if isinstance(found, list) else found
        return await self.message(lambda message: is_answer(message, id))

    async def message(self, wanted: Any) -> Json:
        """Wait for a message in the stream; `wanted` is a predicate, or a method's name."""
        match = wanted if callable(wanted) else lambda message: message.get("method") == wanted
        while True:
            for message in self.messages:
                if match(message):
                    return message
            await self._change()

    async def event_count(self, count: int) -> list[Event]:
        """Wait until there are at least `count` events."""
        while len(self.events) < count:
            await self._change()
        return self.events

    async def end(self) -> None:
        """Wait until the stream has ended in order."""
        while not self.sink.ended:
            await self._change()

    async def _change(self) -> None:
        assert not (self.streaming is not None and self.streaming.done()), f"it ended: {self.sink.written!r}"
        self.sink.changed.clear()
        await self.sink.changed.wait()


@asynccontextmanager
async def serving(service: Service | None = None, store: Store | None = None, **settings: Any) -> AsyncIterator[Server]:
    """A started server; stopped at the end. The drain is short: what a test leaves running is cancelled."""
    settings.setdefault("drain", 0.0)
    server = Server(service or Service("empty"), Settings(**settings), store or MemoryStore())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def kill(server: Server, store: MemoryStore) -> None:
    """End a server as a kill of its process does: nothing of what it still does reaches its store."""
    store.crash()
    server.endpoint.ending = True
    for running in list(server.tasks.calls):
        running.cancel(RuntimeError("killed"))
    await turns()
    server.endpoint.close()


def send(server: Server, exchange: FakeExchange) -> FakeExchange:
    """Let the server have it."""
    server.handle(exchange)
    return exchange


# --- Streamable HTTP, legacy ----------------------------------------------------------------------


class LegacySession:
    """A session of one of the versions 2025-03-26 to 2025-11-25; `start` makes it."""

    def __init__(self, server: Server, version: str = "2025-11-25", *, principal: str = "", id: str = "") -> None:
        self.server = server
        self.version = version
        self.principal = principal
        self.id = id

    async def start(self) -> LegacySession:
        exchange = self.send(
            FakeExchange("POST", "/mcp", initialize(self.version), self._headers(), principal=self.principal)
        )
        assert await exchange.status_code() == 200, exchange.reply_body
        self.id = exchange.headers["mcp-session-id"]
        assert await self.post(notification("notifications/initialized")).status_code() == 202
        await self.server.store.flush()
        return self

    def send(self, exchange: FakeExchange) -> FakeExchange:
        return send(self.server, exchange)

    def post(self, message: Any, *more: tuple[str, str]) -> FakeExchange:
        headers = [*self._headers(), *more]
        return self.send(FakeExchange("POST", "/mcp", message, headers, principal=self.principal))

    def call(
        self, id: int | str, tool: str, arguments: Mapping[str, Any] | None = None, **options: Any
    ) -> FakeExchange:
        return self.post(call(id, tool, arguments, **options))

    def get(self, last_id: str | None = None) -> FakeExchange:
        headers = [*self._headers(), *([("last-event-id", last_id)] if last_id is not None else [])]
        return self.send(FakeExchange("GET", "/mcp", None, headers, principal=self.principal))

    def delete(self) -> FakeExchange:
        return self.send(FakeExchange("DELETE", "/mcp", None, self._headers(), principal=self.principal))

    def cancel(self, id: int | str) -> FakeExchange:
        return self.post(notification("notifications/cancelled", {"requestId": id}))

    def on(self, server: Server) -> LegacySession:
        """The same session, as its client goes on with it at another server."""
        return LegacySession(server, self.version, principal=self.principal, id=self.id)

    def _headers(self) -> list[tuple[str, str]]:
        headers = [("accept", _BOTH), ("content-type", "application/json")]
        if self.id:
            headers.append(("mcp-session-id", self.id))
            if self.version != "2025-03-26":
                headers.append(("mcp-protocol-version", self.version))
        return headers


# --- HTTP+SSE -------------------------------------------------------------------------------------


class SseSession:
    """A session over HTTP+SSE; `start` opens its stream and initializes it."""

    def __init__(self, server: Server, *, principal: str = "") -> None:
        self.server = server
        self.principal = principal
        self.stream: FakeExchange
        self.url = ""

    async def start(self) -> SseSession:
        await self.open()
        assert await self.post(initialize("2024-11-05")).status_code() == 202
        await self.stream.answer("init")
        assert await self.post(notification("notifications/initialized")).status_code() == 202
        await self.server.store.flush()
        return self

    async def open(self, last_id: str | None = None) -> FakeExchange:
        """A new connection takes the stream."""
        self.stream = self.get(last_id)
        self.url = (await self.stream.event_count(1))[0].data
        return self.stream

    def get(self, last_id: str | None = None, *, principal: str | None = None) -> FakeExchange:
        headers = [("accept", "text/event-stream"), *([("last-event-id", last_id)] if last_id is not None else [])]
        who = self.principal if principal is None else principal
        return send(self.server, FakeExchange("GET", "/sse", None, headers, principal=who))

    def post(self, message: Any) -> FakeExchange:
        headers = [("content-type", "application/json")]
        return send(self.server, FakeExchange("POST", self.url, message, headers, principal=self.principal))

    def call(
        self, id: int | str, tool: str, arguments: Mapping[str, Any] | None = None, **options: Any
    ) -> FakeExchange:
        return self.post(call(id, tool, arguments, **options))

    @property
    def id(self) -> str:
        return self.url.partition("session_id=")[2]


# --- modern ---------------------------------------------------------------------------------------


def modern_request(id: int | str, method: str, params: Mapping[str, Any] | None = None, **meta: Any) -> Json:
    """A request of 2026-07-28; `meta` is added to its `_meta` (of MCP's own keys the last part is enough)."""
    own = {
        f"{_META}{key}" if key in ("protocolVersion", "clientCapabilities", "logLevel") else key: value
        for key, value in ({"protocolVersion": MODERN, "clientCapabilities": {}} | meta).items()
        if value is not None
    }
    return request(id, method, {**(params or {}), "_meta": own})


def modern_headers(message: Json) -> dict[str, str]:
    """The headers that go with a modern request."""
    headers = {
        "accept": _BOTH,
        "content-type": "application/json",
        "mcp-protocol-version": MODERN,
        "mcp-method": message["method"],
    }
    params = message.get("params", {})
    name = params.get("uri") if message["method"] == "resources/read" else params.get("name") or params.get("taskId")
    if name is not None:
        headers["mcp-name"] = name
    return headers


def post_modern(
    server: Server,
    message: Json,
    changed: Mapping[str, str | None] | None = None,
    *more: tuple[str, str],
    principal: str = "",
) -> FakeExchange:
    """POST a modern request; headers are replaced or (None) left out by `changed`, and added by `more`."""
    headers = {**modern_headers(message), **(changed or {})}
    given = [(name, value) for name, value in headers.items() if value is not None]
    return send(server, FakeExchange("POST", "/mcp", message, [*given, *more], principal=principal))
