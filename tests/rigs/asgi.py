"""An ASGI application driven in memory: no server, no socket, so that a simulated event loop can run all of it.

`Request` is both the ASGI server and the client behind it, for one request: what the application sends
is in `received`, as much of it as has arrived. Each body part is sent in two halves with a turn of the
loop between them, so a second writer tears a frame; each half arrives a little later, and is lost if the
client is gone by then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]


class Request:
    """One request, started at once.

    Args:
        app: The application.
        method: Of HTTP.
        target: The path, with the query if there is one.
        headers: Names in any case.
        body: All of the request's body, in one piece.
        flows: Body parts are taken; otherwise `send` waits until `flow`.
        parts: The body comes as `feed` gives it, behind `body`, until `feed(None)`.
        version: Of HTTP.
        trailers: The server takes trailers.
        raises: Sending after the peer's end raises `OSError`, as the specification has it; otherwise it is ignored.
        on_head: Called when the head is sent.
        on_sent: Called with each body part when its sending begins.
        on_data: Called after something has arrived.
    """

    def __init__(
        self,
        app: App,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        flows: bool = True,
        parts: bool = False,
        version: str = "1.1",
        trailers: bool = False,
        raises: bool = False,
        on_head: Callable[[Request], None] | None = None,
        on_sent: Callable[[bytes], None] | None = None,
        on_data: Callable[[Request], None] | None = None,
    ) -> None:
        path, _, query = target.partition("?")
        self.scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": version,
            "extensions": {"http.response.trailers": {}} if trailers else {},
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), *((name.lower().encode(), text.encode()) for name, text in headers)],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
        }
        self.status = 0
        self.headers: dict[str, str] = {}
        self.received = b""
        self.complete = False
        self.trailers: dict[str, str] | None = None
        self.asked = 0  # how often the application asked for what comes next
        self.gone = False
        self._parts: list[bytes | None] = [body] if parts else [body, None]
        self._whole = not parts  # the server had all of it when the application began, also of a client that left
        self._fed = asyncio.Event()
        self._announced = False  # trailers follow the body
        self._complete = False  # the request's body
        self._raises = raises
        self._on_head = on_head
        self._on_sent = on_sent
        self._on_data = on_data
        self._ended = False  # by the server
        self._sending = False
        self._left = asyncio.Event()
        self._flows = asyncio.Event()
        if flows:
            self._flows.set()
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] = loop.create_task(self._run(app), name=f"{method} {path}")
        self.task.add_done_callback(lambda _: self._changed.set())

    # --- what the client does ---

    def disconnect(self) -> None:
        """Go away; the server learns of it now."""
        self.gone = True
        self._left.set()
        self._fed.set()
        self._flows.set()

    def feed(self, data: bytes | None) -> None:
        """Some more of the body; None is its end."""
        self._parts.append(data)
        self._fed.set()

    def flow(self) -> None:
        """Take what is sent from now on."""
        self._flows.set()

    async def head(self) -> int:
        """Wait for the reply's status; 0 where the application ended without a reply."""
        await self.until(lambda: self.status != 0)
        return self.status

    async def whole(self) -> bytes:
        """Wait for the end of the reply, or of the application; give what has arrived of the body."""
        await self.until(lambda: self.complete)
        return self.received

    async def contains(self, text: bytes) -> bool:
        """Wait until `text` has arrived; False where the reply ended without it."""
        return await self.until(lambda: text in self.received)

    async def json(self) -> Any:
        """The whole body, as JSON."""
        return json.loads(await self.whole())

    async def until(self, true: Callable[[], bool]) -> bool:
        """Wait until `true()`, which is asked whenever something arrives; False where the reply ended without it."""
        while not (found := true()) and not self.complete and (not self.task.done() or (self._ended and not self.gone)):
            self._changed.clear()
            await self._changed.wait()
        return found or true()

    # --- what the server does ---

    async def _run(self, app: App) -> None:
        await app(self.scope, self._receive, self._send)
        if not self.gone:
            assert self._ended, "the application ended without completing its reply"

    async def _receive(self) -> Message:
        self.asked += 1
        while not (self._parts or self.gone or self._complete):
            self._fed.clear()
            await self._fed.wait()
        if self._parts and (self._whole or not self.gone):
            body = self._parts.pop(0)
            if self._parts[:1] == [None]:
                self._parts.pop()
                self._complete = True
                return {"type": "http.request", "body": body, "more_body": False}
            self._complete = body is None
            return {"type": "http.request", "body": body or b"", "more_body": body is not None}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        assert not self._sending, "two writers on one connection"
        assert not self._ended, "something is sent behind the end of the reply"
        self._sending = True
        try:
            if message["type"] == "http.response.start":
                assert not self.status, "a second reply"
                self._announced = message.get("trailers", False)
                await self._put_head(message)
            elif message["type"] == "http.response.trailers":
                assert self._announced, "trailers that were not announced"
                self.trailers = {name.decode(): value.decode() for name, value in message["headers"]}
                self._end()
            else:
                assert self.status or self.gone, "a body before its head"
                await self._put_body(message["body"])
                if not message.get("more_body", False) and not self._announced:
                    self._end()
        finally:
            self._sending = False

    def _end(self) -> None:
        self._ended = True
        asyncio.get_running_loop().call_soon(self._arrive, None)

    async def _put_head(self, message: Message) -> None:
        if self._may_put():
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            if self._on_head is not None:
                self._on_head(self)
            self._changed.set()

    async def _put_body(self, data: bytes) -> None:
        if self._on_sent is not None and self._may_put():
            self._on_sent(data)
        middle = len(data) // 2
        for half in (data[:middle], data[middle:]):
            if half:
                await self._flows.wait()
                await asyncio.sleep(0)
            if self._may_put() and half:
                asyncio.get_running_loop().call_soon(self._arrive, half)

    def _arrive(self, data: bytes | None) -> None:
        if self.gone:
            return
        if data is None:
            self.complete = True
        else:
            self.received += data
            if self._on_data is not None:
                self._on_data(self)
        self._changed.set()

    def _may_put(self) -> bool:
        if self.gone and self._raises:
            raise ConnectionResetError("the peer is gone")
        return not self.gone
