"""HTTP+SSE, and what it shares with stdio: all answers come on one stream, told apart by their ids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from tailrace.cli.check.http import LIMIT, EventStream, RawConnection
from tailrace.cli.check.model import Cut, Failed, Json, Stalled, Way
from tailrace.cli.check.streamable import exchange
from tailrace.cli.check.talk import (
    CLIENT,
    JSON_BODY,
    Call,
    Conversation,
    Running,
    named,
    notification,
    read_message,
    request,
    shorten,
)

__all__ = ["HttpSse", "SharedStream", "drop"]


class SharedStream:
    """What HTTP+SSE and stdio share: all answers come on one stream, told apart by their ids.

    Attributes:
        strays: Messages of no call that is known.
    """

    def __init__(self) -> None:
        self.server = ""
        self.strays: list[Json] = []
        self._runs: list[Running] = []
        self._reading = asyncio.Lock()
        self._over = ""  # how the stream ended
        self._id = 0

    async def send(self, message: Json) -> None:
        raise NotImplementedError

    async def next(self) -> Json | None:
        """The next message; None when the stream ended in order."""
        raise NotImplementedError

    def expect(self, call: Call) -> Running:
        """Make a call known, so that what comes for it is found."""
        running = Running(call)
        self._runs.append(running)
        return running

    async def begin(self, call: Call) -> Running:
        running = self.expect(call)
        await self.send(call.message())
        return running

    async def finish(self, running: Running, limit: float = LIMIT) -> Running:
        try:
            async with asyncio.timeout(limit):
                while running.answer is None:
                    async with self._reading:  # whoever reads, reads for all
                        if running.answer is None and not await self.read_one():
                            running.how = self._over
                            break
        except TimeoutError:
            running.how = f"nothing more within {limit:g} s"
        return running

    async def read_one(self) -> bool:
        """Read one message and give it to its call; False if the stream is over."""
        if self._over:
            return False
        try:
            message = await self.next()
        except Stalled:
            raise
        except Failed as error:
            self._over = str(error)
            return False
        if message is None:
            self._over = "the stream ended without an answer"
            return False
        self._give(message)
        return True

    def _give(self, message: Json) -> None:
        if "method" in message:
            token = message.get("params", {}).get("progressToken")
            owners = [one for one in self._runs if token is not None and one.call.token == token]
        else:
            owners = [one for one in self._runs if one.call.id == message.get("id")]
            owners = [one for one in owners if one.answer is None] or owners
        if owners:
            owners[0].take(message)
        else:
            self.strays.append(message)

    def restart(self) -> None:
        """The stream goes on, on another connection."""
        self._over = ""
        for running in self._runs:
            running.how = ""

    async def ask(self, method: str, params: Mapping[str, Any] | None = None, limit: float = LIMIT) -> Json:
        self._id += 1
        running = self.expect(Call(method, {}, f"ask-{self._id}"))
        await self.send(request(running.call.id, method, params))
        await self.finish(running, limit)
        self._runs.remove(running)
        if running.answer is None:
            raise Failed(f"no answer to {method}: {running.how}")
        return running.answer

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        await self.send(notification(method, params))

    async def hello(self, version: str) -> Json:
        """The handshake.

        Raises:
            Failed: It was refused.
        """
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}
        answer = await self.ask("initialize", params)
        if "result" not in answer:
            raise Failed(f"initialize was refused: {shorten(answer)}")
        self.server = named(answer["result"])
        await self.notify("notifications/initialized")
        return answer["result"]


class HttpSse(SharedStream):
    """A client of one HTTP+SSE session.

    Attributes:
        endpoint: The address for POSTs that the server named.
        last_event_id: Of the newest event; empty where none had an id.
    """

    way = Way.SSE

    def __init__(self, url: str, *, small: bool = False) -> None:
        super().__init__()
        self.url = url
        self.endpoint = ""
        self.last_event_id = ""
        self.connection: RawConnection | None = None
        self._stream: EventStream | None = None
        self._small = small

    async def open(self) -> None:
        await self.connect()
        await self.hello("2024-11-05")

    async def connect(self, last_event_id: str = "", limit: float = LIMIT) -> str:
        """GET the stream; returns the address that its first event names.

        Raises:
            Failed: It is refused, ends, or begins with something else.
        """
        headers = [("Accept", "text/event-stream")]
        if last_event_id:
            headers.append(("Last-Event-ID", last_event_id))
        self.abort()
        self.connection, head = await exchange(self.url, "GET", headers, small=self._small, limit=limit)
        if head.status != 200:
            raise Failed(f"GET was answered with HTTP {head.status}")
        self._stream = EventStream(self.connection)
        event = await self._stream.next(limit)
        if event is None or event.event != "endpoint":
            raise Failed(f"the first event is {event.event if event else 'missing'}, not endpoint")
        self.last_event_id = event.id or ""
        self.endpoint = urljoin(self.url, event.data)
        if urlsplit(self.endpoint)[:2] != urlsplit(self.url)[:2]:
            raise Failed(f"the endpoint is at another server: {shorten(self.endpoint)}")
        return self.endpoint

    async def resume(self) -> None:
        """Drop the stream, and take it up again after the last event.

        Raises:
            Failed: Its events had no ids, or it is another session's stream that came.
        """
        if not self.last_event_id:
            raise Failed("its events had no id to resume from")
        before = self.endpoint
        if await self.connect(self.last_event_id) != before:
            raise Failed("Last-Event-ID was ignored: a new session came")
        self.restart()

    async def send(self, message: Json) -> None:
        """POST one message; it must be accepted."""
        status = await self.post(message)
        if not 200 <= status < 300:
            raise Failed(f"POST of {message.get('method')} was answered with HTTP {status}")

    async def post(self, message: Json) -> int:
        """POST one message; the status."""
        connection, head = await exchange(self.endpoint, "POST", [JSON_BODY], json.dumps(message).encode())
        connection.close()
        return head.status

    async def next(self) -> Json | None:
        if self._stream is None:
            raise Cut("the stream is closed")
        while (event := await self._stream.next(3600)) is not None:
            self.last_event_id = event.id or self.last_event_id
            if event.event == "message" and event.data:
                return read_message(event.data)
        return None

    def abort(self) -> None:
        """Drop the stream with a RST."""
        if self.connection is not None:
            self.connection.abort()
        self.connection = self._stream = None

    async def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = self._stream = None


def drop(client: Conversation, running: Running) -> None:
    """Break the connection that a call's answer would come on, with a RST."""
    if isinstance(client, HttpSse):
        client.abort()
    if running.connection is not None:
        running.connection.abort()
