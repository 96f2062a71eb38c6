"""Streamable HTTP: each call has a connection, and a stream, of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tailrace.cli.check.http import LIMIT, EventStream, Head, RawConnection, target_of
from tailrace.cli.check.model import Failed, Json, Way
from tailrace.cli.check.talk import (
    CLIENT,
    JSON_BODY,
    Call,
    Running,
    named,
    notification,
    read_message,
    request,
    shorten,
)

if TYPE_CHECKING:
    from tailrace.wire.sse import Event

__all__ = ["MODERN", "Modern", "Streamable", "exchange"]

MODERN = "2026-07-28"
_NEWEST = "2025-11-25"
_LATER = (409, 429, 503)  # what a resume that comes too early is met with
_PATIENCE = 3.0  # seconds for which such a resume is tried again
_BOTH = ("Accept", "application/json, text/event-stream")
_PREFIX = "io.modelcontextprotocol/"


async def exchange(
    url: str, method: str, headers: list[tuple[str, str]], body: bytes | None = None, *, small: bool = False,
    limit: float = LIMIT,
) -> tuple[RawConnection, Head]:  # fmt: skip
    """Send one request on a connection of its own, and wait for the reply's head."""
    connection = await _send(url, method, headers, body, small=small)
    try:
        return connection, await connection.read_head(limit)
    except BaseException:
        connection.abort()
        raise


async def _send(
    url: str, method: str, headers: list[tuple[str, str]], body: bytes | None, *, small: bool = False
) -> RawConnection:
    connection = RawConnection(url, small=small)
    await connection.open()
    try:
        await connection.send(method, target_of(url), headers, body)
    except BaseException:
        connection.abort()
        raise
    return connection


class _OwnStreams:
    """What the two forms of Streamable HTTP share: each call has a connection, and a stream, of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.server = ""
        self._id = 0

    def headers(self, message: Json) -> list[tuple[str, str]]:
        raise NotImplementedError

    def meta(self) -> Json:
        return {}

    async def begin(self, call: Call, *, small: bool = False) -> Running:
        message = call.message(self.meta())
        headers = self.headers(message)
        if call.key is not None:
            headers.append(("Idempotency-Key", call.key))
        return Running(call, await _send(self.url, "POST", headers, json.dumps(message).encode(), small=small))

    async def finish(self, running: Running, limit: float = LIMIT) -> Running:
        try:
            async with asyncio.timeout(limit):
                await self._read_on(running)
        except TimeoutError:
            running.how = f"nothing more within {limit:g} s"
        except Failed as error:
            running.how = str(error)
        finally:
            if running.connection is not None and (running.answer is not None or running.how):
                running.connection.close()
        return running

    async def head(self, running: Running, limit: float = LIMIT) -> Head:
        """Wait for the head of a call's reply: with a stream, the first thing the server promises."""
        assert running.connection is not None
        if running.head is None:
            running.head = await running.connection.read_head(limit)
        return running.head

    async def event(self, running: Running, limit: float = LIMIT) -> Event | None:
        """The next event of a call's stream; None when it has ended, or is no stream."""
        head = await self.head(running, limit)
        if not head.get("content-type").startswith("text/event-stream"):
            return None
        if running.stream is None:
            assert running.connection is not None
            running.stream = EventStream(running.connection)
        event = await running.stream.next(limit)
        if event is not None and event.event == "message" and event.data:
            running.take(read_message(event.data))
        return event

    async def _read_on(self, running: Running) -> None:
        head = await self.head(running, 3600)
        if head.get("content-type").startswith("text/event-stream"):
            while running.answer is None:
                if await self.event(running, 3600) is None:
                    running.how = "its stream ended without an answer"
                    return
            return
        assert running.connection is not None
        body = await running.connection.read_all(3600)
        if not body:
            running.how = f"HTTP {head.status} without a body"
            return
        if head.status >= 300 and not head.get("content-type").startswith("application/json"):
            running.how = f"HTTP {head.status}: {shorten(body.decode(errors='replace'), 80)}"
            return
        running.take(read_message(body))
        if running.answer is None:
            running.how = f"HTTP {head.status}: {shorten(running.messages[-1])}"

    async def ask(self, method: str, params: Mapping[str, Any] | None = None, limit: float = LIMIT) -> Json:
        self._id += 1
        message = request(f"ask-{self._id}", method, params)
        if meta := self.meta():
            message["params"]["_meta"] = {**meta, **message["params"].get("_meta", {})}
        call = Call(method, {}, message["id"])
        running = Running(call, await _send(self.url, "POST", self.headers(message), json.dumps(message).encode()))
        await self.finish(running, limit)
        if running.answer is None:
            raise Failed(f"no answer to {method}: {running.how}")
        return running.answer

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        await self.post(notification(method, params))

    async def post(self, message: Json) -> int:
        """POST a message that wants no answer; the status."""
        body = json.dumps(message).encode()
        connection, head = await exchange(self.url, "POST", self.headers(message), body)
        connection.close()
        return head.status


class Streamable(_OwnStreams):
    """A client of one Streamable HTTP session.

    Attributes:
        version: What was agreed on.
        session: The session's id; empty where the server gave none.
    """

    way = Way.STREAMABLE

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.version = _NEWEST
        self.session = ""

    def headers(self, message: Json | None = None) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = [_BOTH, JSON_BODY]
        if self.session:
            found.append(("Mcp-Session-Id", self.session))
        if (message or {}).get("method") != "initialize" and self.version != "2025-03-26":
            found.append(("MCP-Protocol-Version", self.version))  # the header exists since 2025-06-18
        return found

    async def open(self) -> None:
        hello = request(0, "initialize", {"protocolVersion": _NEWEST, "capabilities": {}, "clientInfo": CLIENT})
        running = Running(Call("initialize", {}, 0), await _send(
            self.url, "POST", self.headers(hello), json.dumps(hello).encode()))  # fmt: skip
        await self.finish(running)
        answer = running.result()
        self.version = answer.get("protocolVersion", _NEWEST)
        self.server = named(answer)
        assert running.head is not None
        self.session = running.head.get("mcp-session-id")
        await self.notify("notifications/initialized")

    async def get(self, last_event_id: str = "", *, small: bool = False, limit: float = LIMIT) -> Running:
        """Open the session's own stream, or resume any; a `Running` of a call that nobody made."""
        headers = [("Accept", "text/event-stream"), *self.headers()[2:]]
        if last_event_id:
            headers.append(("Last-Event-ID", last_event_id))
        connection, head = await exchange(self.url, "GET", headers, small=small, limit=limit)
        return Running(Call("GET", {}, ""), connection, None, head)

    async def resume(self, running: Running, limit: float = LIMIT) -> None:
        """Leave a call's connection, if it still stands, and go on with its stream on another.

        Raises:
            Failed: It had no event id, or the server does not resume it.
        """
        last = running.stream.last_event_id if running.stream is not None else ""
        if running.connection is not None:
            running.connection.abort()
        if not last:
            raise Failed("its events had no id to resume from")
        again = await self.get(last, limit=limit)
        assert again.head is not None
        until = asyncio.get_running_loop().time() + _PATIENCE
        while again.head.status in _LATER and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.1)  # it has not seen yet that the old connection is gone: clients try again
            again = await self.get(last, limit=limit)
            assert again.head is not None
        assert again.connection is not None
        if again.head.status != 200:
            again.connection.abort()
            raise Failed(f"the resume was answered with HTTP {again.head.status}")
        running.connection, running.head, running.how = again.connection, again.head, ""
        running.stream = EventStream(again.connection)
        running.stream.last_event_id = last

    async def delete(self, limit: float = LIMIT) -> int:
        """End the session; the status."""
        connection, head = await exchange(self.url, "DELETE", self.headers()[2:], limit=limit)
        connection.close()
        return head.status

    async def close(self) -> None:
        if self.session:
            with suppress(Failed):
                await self.delete(2.0)


class Modern(_OwnStreams):
    """A client of the stateless 2026-07-28: every request says all about itself."""

    way = Way.MODERN

    def headers(self, message: Json) -> list[tuple[str, str]]:
        found = [_BOTH, JSON_BODY, ("MCP-Protocol-Version", MODERN), ("Mcp-Method", message.get("method", ""))]
        name = message.get("params", {}).get("name")
        return found if name is None else [*found, ("Mcp-Name", name)]

    def meta(self) -> Json:
        own = {"protocolVersion": MODERN, "clientCapabilities": {}, "clientInfo": CLIENT}
        return {_PREFIX + key: value for key, value in own.items()}

    async def open(self) -> None:
        """There is no handshake."""

    async def listen(self) -> Running:
        """Open a `subscriptions/listen` stream."""
        params = {"notifications": {"toolsListChanged": True}, "_meta": self.meta()}
        message = request("listen", "subscriptions/listen", params)
        connection = await _send(self.url, "POST", self.headers(message), json.dumps(message).encode())
        return Running(Call("subscriptions/listen", {}, "listen"), connection)

    async def close(self) -> None:
        """There is nothing to end."""
