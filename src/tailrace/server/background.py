"""Work after the answer in any ASGI application: `current()`, `spawn` and `publish` in handlers of FastAPI, Starlette.

A request has a context like a call's. What it publishes is committed when its response begins, if that is no error;
what it spawns is tracked, and drained at shutdown before the application lets go of its own resources.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tailrace.core.call import Call
from tailrace.core.outgoing import OUTBOX
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.core.trace import read_trace
from tailrace.errors import AnswerWritten, ClientGone, StoreError
from tailrace.publish.outbox import StoreOutbox
from tailrace.publish.publishers import make_publisher
from tailrace.server.ahead import Message, ReadAhead, Receive
from tailrace.telemetry import make_tracer

if TYPE_CHECKING:
    from tailrace.core.ports import Record, Store
    from tailrace.publish import Publisher

__all__ = ["Background"]

logger = logging.getLogger("tailrace.background")

Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

_FAILED = b"what this request publishes could not be stored\n"
_FIRST_ERROR = 400  # a status from here on is no success


class Background:
    """ASGI middleware: ``app.add_middleware(Background, publish="kafka://…", store="sqlite:PATH")``.

    It needs the lifespan that servers run for applications; without one it begins at the first request and nothing
    drains it.

    Args:
        app: The application.
        publish: Where `publish` goes: ``kafka://HOST:PORT``, ``log:``, ``memory:``, a `Publisher`; None: nowhere.
        store: Where the outbox is kept: ``sqlite:PATH`` (survives the process), ``memory``, or a store.
        drain: Seconds for spawned work, and then for the outbox, at shutdown.
        max_detached: Pieces of spawned work at a time; one more raises `LimitError`.
        max_threads: Threads for plain functions that are spawned.
        max_outbox: Messages that may wait for the broker.
    """

    def __init__(
        self,
        app: App,
        *,
        publish: str | Publisher | None = None,
        store: str | Store | None = None,
        drain: float = 25.0,
        max_detached: int = 1000,
        max_threads: int = 16,
        max_outbox: int = 100_000,
    ) -> None:
        from tailrace.server import make_store

        self._app = app
        self._publisher = None if publish is None else make_publisher(publish)
        self._store = make_store(store)
        self._drain = drain
        self._max_detached = max_detached
        self._max_threads = max_threads
        self._max_outbox = max_outbox
        self._tasks: Tasks | None = None
        self._outbox: StoreOutbox | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one scope."""
        if scope["type"] == "lifespan":
            return await self._app(scope, self._watched_lifespan(receive), self._lifespan_sender(send))
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        tasks = self._tasks or await self._start()
        return await _Request(tasks, self._outbox, scope).serve(self._app, scope, receive, send)

    def statistics(self) -> dict[str, Any]:
        """Numbers for people: `detached` and `outbox`, as `Service.statistics` has them."""
        detached = [] if self._tasks is None else [work.name for work in self._tasks.detached.values()]
        outbox = {"waiting": 0} if self._outbox is None else self._outbox.statistics()
        return {"detached": {"running": len(detached), "names": sorted(detached)}, "outbox": outbox}

    # --- its life ---

    async def _start(self) -> Tasks:
        async with self._starting:
            if self._tasks is None:
                tasks = Tasks(Threads(size=self._max_threads), max_detached=self._max_detached)
                tasks.tracer = make_tracer()
                await self._store.open(wait=30.0)
                try:
                    if self._publisher is not None:
                        self._outbox = await self._open_outbox(self._publisher, tasks)
                except BaseException:  # the next request begins anew
                    await self._store.close()
                    raise
                self._tasks = tasks
            return self._tasks

    async def _open_outbox(self, publisher: Publisher, tasks: Tasks) -> StoreOutbox:
        epoch = await self._store.next_epoch()
        outbox = StoreOutbox(self._store, epoch, publisher, tasks, limit=self._max_outbox)
        await outbox.open()
        return outbox

    async def _stop(self) -> None:
        """Let spawned work end, deliver what waits, both within limits. Idempotent."""
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return
        began = tasks.loop.time()
        await tasks.drain(self._drain)
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            await outbox.drain(max(0.5, self._drain - (tasks.loop.time() - began)))
            await outbox.close()
        await tasks.close(0.4)
        await self._store.close()

    def _watched_lifespan(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start()
            elif message["type"] == "lifespan.shutdown":  # before the application lets go of what the work needs
                await self._stop()
            return message

        return watched

    def _lifespan_sender(self, send: Send) -> Send:
        async def sender(message: Message) -> None:
            if message["type"].endswith(".failed"):
                await self._stop()
            await send(message)

        return sender


class _Request(Call):
    """One HTTP request of the application; it runs in the server's own task, so only its context is ours."""

    def __init__(self, tasks: Tasks, outbox: StoreOutbox | None, scope: Message) -> None:
        super().__init__(id(self), 0, 0, None, tasks, _Nowhere())
        headers: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), value.decode("latin-1"))
        values: dict[Any, Any] = dict(read_trace(headers.get))
        if outbox is not None:
            values[OUTBOX] = outbox
        if tasks.tracer is not None:
            values.update(tasks.tracer.here())  # of whoever instruments the application
            about = {"http.request.method": scope["method"], "url.path": scope["path"]}
            self.span = tasks.tracer.begin("server", f"request {scope['method']}", values, about)
            values.update(self.span.values)
        self.context.set_values(values)
        self._refused = False
        self._waits = b"expect" in headers  # for the application to want the body: reading it says "100 Continue"

    async def serve(self, app: App, scope: Message, receive: Receive, send: Send) -> None:
        """Run the application under the request's context."""
        ahead = ReadAhead(self.tasks, receive, self._client_left)
        if not self._waits:
            ahead.start()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._decide(message["status"])
                if self._refused:
                    return await _refuse(send)
            if self._refused:
                return None
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last:
                ahead.end()
            await send(message)
            if last:
                self.context.cancel(AnswerWritten())
            return None

        token = self.context.make_current()
        try:
            await app(scope, ahead.read, answer)
        finally:
            self.context.restore_current(token)
            self.decided = True
            self.context.cancel(AnswerWritten())
            ahead.end()
            if self.span is not None:
                self.span.end(self.failure)

    def _client_left(self) -> None:
        self.context.cancel(ClientGone())

    async def _decide(self, status: int) -> None:
        """The response begins: what the request publishes is committed with its success, or not at all."""
        self.decided = True
        collected, self.collected = self.collected, None
        if status >= _FIRST_ERROR:
            self.failure = f"HTTP {status}"
        if collected is None or status >= _FIRST_ERROR:
            return
        messages = collected.take(gone=isinstance(self.context.error, ClientGone))
        if messages:
            try:
                await collected.outbox.write(messages)
            except StoreError as error:
                self._refused = True
                logger.error(
                    "messages could not be committed, so the request failed correlation_id=%s error=%s",
                    self.context.correlation_id,
                    error,
                )

    # --- what a call of MCP's has besides ---

    async def run(self) -> bytes | None:
        """The application runs instead."""
        return None

    def aborted(self, error: Exception) -> bytes | None:
        """Nobody waits for an answer of ours."""
        return None

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """HTTP has no place for it."""

    def log(self, level: str, data: Any, logger: str | None) -> None:
        """HTTP has no place for it."""


class _Nowhere:
    """The reply of a request that is answered by its application (fulfils `core.call.Reply`)."""

    gone = False

    def notify(self, call: Call, payload: bytes) -> None:
        pass

    def answer(self, call: Call, payload: bytes | None) -> None:
        pass

    async def room(self) -> None:
        pass

    async def room_for(self, size: int) -> bool:
        return True

    def records(self, call: Any) -> Sequence[Record]:
        return ()

    def carries(self, call: Any) -> bool:
        return False


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_FAILED))]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": _FAILED})
