"""MCP spoken by hand over `rawhttp`: each request its own connection, each header in sight, no resume unasked.

Three clients for three ways: `Streamable` (legacy versions with a session), `HttpSse` (2024-11-05), and plain functions
for the stateless 2026-07-28. None of them retries, reconnects or cancels by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

from tests.rigs.rawhttp import LIMIT, Cut, EventStream, Head, RawConnection

MODERN = "2026-07-28"
STREAMABLE_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
_BOTH = ("Accept", "application/json, text/event-stream")
_JSON = ("Content-Type", "application/json")
_PREFIX = "io.modelcontextprotocol/"
Json = dict[str, Any]


def request(id: int | str, method: str, params: Mapping[str, Any] | None = None) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": dict(params or {})}


def notification(method: str, params: Mapping[str, Any] | None = None) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": dict(params or {})}


def call(
    id: int | str, tool: str, arguments: Mapping[str, Any] | None = None, *, progress: int | str | None = None
) -> Json:
    """A tools/call request; `progress` is its progressToken."""
    params: Json = {"name": tool, "arguments": dict(arguments or {})}
    if progress is not None:
        params["_meta"] = {"progressToken": progress}
    return request(id, "tools/call", params)


def initialize(version: str, id: int | str = "init", capabilities: Mapping[str, Any] | None = None) -> Json:
    params = {
        "protocolVersion": version,
        "capabilities": dict(capabilities or {}),
        "clientInfo": {"name": "raw", "version": "0"},
    }
    return request(id, "initialize", params)


def is_answer(message: Mapping[str, Any], id: int | str) -> bool:
    """Whether the message is the result or the error of the request `id`."""
    return message.get("id") == id and ("result" in message or "error" in message)


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a tool's answer."""
    assert "result" in message, f"not a result: {message}"
    return "".join(part.get("text", "") for part in message["result"]["content"])


class Reply:
    """A reply to a POST or GET: the head is there, the body is read by `json`, `stream` or not at all."""

    def __init__(self, connection: RawConnection, head: Head) -> None:
        self.connection = connection
        self.head = head
        self.stream = EventStream(connection)

    @property
    def is_stream(self) -> bool:
        return (self.head.get("content-type") or "").startswith("text/event-stream")

    async def text(self) -> str:
        """The whole body, and the connection closed."""
        body = await self.connection.read_all()
        self.connection.close()
        return body.decode()

    async def json(self) -> Json:
        """The body as one JSON object, and the connection closed."""
        text = await self.text()
        try:
            return json.loads(text)
        except ValueError:
            raise AssertionError(f"HTTP {self.head.status}, not JSON: {text[:300]!r}") from None

    async def answer(self, id: int | str, limit: float = LIMIT) -> Json:
        """The answer to `id`, from a JSON body or out of the stream; what came before it stays in `stream.events`.

        Raises:
            AssertionError: The stream ended or broke without it.
        """
        if not self.is_stream:
            found = await self.json()
            assert is_answer(found, id), f"HTTP {self.head.status}: no answer to {id!r} but {found}"
            return found
        while (event := await self.stream.next(limit)) is not None:
            if event.event == "message" and event.data and is_answer(message := json.loads(event.data), id):
                return message
        how = "broke" if self.stream.cut else "ended"
        raise AssertionError(f"the stream {how} without the answer to {id!r}; it had {self.stream.events[-5:]}")

    def abort(self) -> None:
        self.connection.abort()

    def close(self) -> None:
        self.connection.close()


async def send(url: str, method: str, headers: list[tuple[str, str]], body: bytes | None = None) -> RawConnection:
    """Send one request on a connection of its own, and wait for nothing."""
    connection = RawConnection(url)
    await connection.open()
    parts = urlsplit(url)
    await connection.send(method, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers, body)
    return connection


async def exchange(
    url: str, method: str, headers: list[tuple[str, str]], body: bytes | None = None, limit: float = LIMIT
) -> Reply:
    """Send one request on a connection of its own, and wait for the reply's head."""
    connection = await send(url, method, headers, body)
    try:
        return Reply(connection, await connection.read_head(limit))
    except BaseException:
        connection.close()
        raise


class Streamable:
    """A client of one Streamable HTTP session.

    Args:
        url: The server's address; `path` is put behind it.
        version: What `initialize` offers, and every later request says.
        capabilities: The client's.
    """

    def __init__(
        self,
        url: str,
        version: str = "2025-11-25",
        path: str = "/mcp",
        capabilities: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = url + path
        self.capabilities = capabilities
        self.version = version
        self.session_id: str | None = None
        self.initialized: Json = {}

    def headers(self) -> list[tuple[str, str]]:
        found = [_BOTH, _JSON]
        if self.session_id is not None:
            found.append(("Mcp-Session-Id", self.session_id))
            if self.version != "2025-03-26":  # the header exists since 2025-06-18
                found.append(("MCP-Protocol-Version", self.version))
        return found

    async def open(self) -> Streamable:
        """The handshake: initialize, then notifications/initialized."""
        reply = await self.post(initialize(self.version, capabilities=self.capabilities))
        answer = await reply.answer("init")
        reply.close()
        assert "result" in answer, f"initialize was refused: {answer}"
        assert answer["result"]["protocolVersion"] == self.version, answer
        self.initialized = answer["result"]
        self.session_id = reply.head.get("mcp-session-id")
        reply = await self.post(notification("notifications/initialized"))
        assert reply.head.status == 202, f"initialized: HTTP {reply.head.status} {await reply.text()}"
        reply.close()
        return self

    async def post(self, message: Json | list[Json], *, through: str | None = None, limit: float = LIMIT) -> Reply:
        """POST a message and wait for the head. `through`: another address (a proxy's) for this one request."""
        body = json.dumps(message).encode()
        return await exchange(self._address(through), "POST", self.headers(), body, limit)

    async def post_unanswered(self, message: Json, *, through: str | None = None) -> RawConnection:
        """POST a message and wait for nothing."""
        return await send(self._address(through), "POST", self.headers(), json.dumps(message).encode())

    async def get(self, last_event_id: str | None = None, *, through: str | None = None, limit: float = LIMIT) -> Reply:
        """Open the standalone stream, or resume any stream."""
        headers = [("Accept", "text/event-stream"), *self.headers()[2:]]
        if last_event_id is not None:
            headers.append(("Last-Event-ID", last_event_id))
        return await exchange(self._address(through), "GET", headers, limit=limit)

    async def delete(self) -> int:
        """End the session; the status."""
        reply = await exchange(self.url, "DELETE", self.headers()[2:])
        reply.close()
        return reply.head.status

    async def call(self, id: int | str, tool: str, arguments: Mapping[str, Any] | None = None) -> Json:
        """Call a tool and wait for its answer."""
        reply = await self.post(call(id, tool, arguments))
        try:
            return await reply.answer(id)
        finally:
            reply.close()

    def _address(self, through: str | None) -> str:
        return self.url if through is None else through + urlsplit(self.url).path


class HttpSse:
    """A client of one HTTP+SSE session: `open` (or `resume`) has the stream, `post` sends.

    Attributes:
        reply: The stream that is open now; None before `open`.
        endpoint: The address for POSTs that the server named.
        last_event_id: The id of the newest event seen on any stream of this session.
    """

    def __init__(self, url: str, path: str = "/sse") -> None:
        self.url = url + path
        self.reply: Reply | None = None
        self.endpoint = ""
        self.last_event_id: str | None = None
        self.messages: list[Json] = []  # all that came on any stream, in order

    @property
    def stream(self) -> EventStream:
        assert self.reply is not None, "not open"
        return self.reply.stream

    async def open(self, *, through: str | None = None, handshake: bool = True) -> HttpSse:
        """GET the stream, take the `endpoint` event, and do the handshake (whose answer comes on the stream)."""
        await self.resume(None, through=through)
        if handshake:
            assert await self.post(initialize("2024-11-05")) == 202
            answer = await self.answer("init")
            assert "result" in answer, f"initialize was refused: {answer}"
            assert await self.post(notification("notifications/initialized")) == 202
        return self

    async def resume(self, last_event_id: str | None, *, through: str | None = None, limit: float = LIMIT) -> Reply:
        """GET the stream with this Last-Event-ID (None: without) and take the `endpoint` event, which comes first.

        Raises:
            Cut: The stream broke before that event was complete.
        """
        headers = [("Accept", "text/event-stream")]
        if last_event_id is not None:
            headers.append(("Last-Event-ID", last_event_id))
        address = self.url if through is None else through + urlsplit(self.url).path
        self.close()
        self.reply = reply = await exchange(address, "GET", headers, limit=limit)
        assert reply.head.status == 200, f"GET {address}: HTTP {reply.head.status} {await reply.text()}"
        event = await reply.stream.next(limit)
        if event is None:
            reply.abort()
            raise Cut("the stream broke before its endpoint event")
        assert event.event == "endpoint", f"the first event of an HTTP+SSE stream was {event}"
        if last_event_id is not None:
            assert event.id == last_event_id, f"resumed after {last_event_id!r}, but endpoint has the id {event.id!r}"
            assert urljoin(self.url, event.data) == self.endpoint, f"another session: {event.data} != {self.endpoint}"
        self.endpoint = urljoin(self.url, event.data)
        self.last_event_id = event.id
        return reply

    async def post(self, message: Json) -> int:
        """POST one message; the status."""
        reply = await exchange(self.endpoint, "POST", [_JSON], json.dumps(message).encode())
        reply.close()
        return reply.head.status

    async def next(self, limit: float = LIMIT) -> Json | None:
        """The next message on the stream; None when it ended or broke."""
        while (event := await self.stream.next(limit)) is not None:
            self.last_event_id = event.id
            if event.event == "message" and event.data:
                message: Json = json.loads(event.data)
                self.messages.append(message)
                return message
        return None

    async def answer(self, id: int | str, limit: float = LIMIT) -> Json:
        """Read on until the answer to `id`.

        Raises:
            AssertionError: The stream ended or broke without it.
        """
        while (message := await self.next(limit)) is not None:
            if is_answer(message, id):
                return message
        how = "broke" if self.stream.cut else "ended"
        raise AssertionError(f"the stream {how} without the answer to {id!r}; it had {self.messages[-5:]}")

    def abort(self) -> None:
        """Drop the stream with a RST."""
        assert self.reply is not None
        self.reply.abort()

    def close(self) -> None:
        if self.reply is not None:
            self.reply.close()


# --- 2026-07-28 -------------------------------------------------------------------------------------


def modern_meta(version: str = MODERN, **more: Any) -> Json:
    """The `_meta` that every modern request carries; `more` are plain keys such as `progressToken`."""
    client = {"name": "raw", "version": "0"}
    own = {"protocolVersion": version, "clientCapabilities": {}, "clientInfo": client}
    return {**{_PREFIX + key: value for key, value in own.items()}, **more}


def modern_headers(method: str, name: str | None = None, version: str = MODERN) -> list[tuple[str, str]]:
    """The headers that must repeat what the body says."""
    found = [_BOTH, _JSON, ("MCP-Protocol-Version", version), ("Mcp-Method", method)]
    return found if name is None else [*found, ("Mcp-Name", name)]


def modern_call(
    id: int | str, tool: str, arguments: Mapping[str, Any] | None = None, *, progress: int | str | None = None
) -> Json:
    more = {} if progress is None else {"progressToken": progress}
    return request(id, "tools/call", {"name": tool, "arguments": dict(arguments or {}), "_meta": modern_meta(**more)})


async def modern_send(url: str, message: Json, path: str = "/mcp") -> RawConnection:
    """POST a modern request and wait for nothing."""
    headers = modern_headers(message["method"], message["params"].get("name"))
    return await send(url + path, "POST", headers, json.dumps(message).encode())


async def modern_post(url: str, message: Json, path: str = "/mcp", limit: float = LIMIT) -> Reply:
    """POST a modern request and wait for the head."""
    connection = await modern_send(url, message, path)
    return Reply(connection, await connection.read_head(limit))


# --- what other processes do --------------------------------------------------------------------------


async def eventually(check: Any, what: str, limit: float = LIMIT) -> Any:
    """Ask `check()` again and again until it is true; for what happens in another process and tells nobody.

    Raises:
        AssertionError: It was not within `limit` seconds; `what` says what was awaited.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while not (found := check()):
                await asyncio.sleep(0.01)
            return found
    raise AssertionError(f"not within {limit:g} s: {what}")
