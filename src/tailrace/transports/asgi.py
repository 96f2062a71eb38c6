"""ASGI: the same handlers inside Starlette, FastAPI, or any ASGI server, under any prefix.

An application mounted by a framework gets no lifespan, so the server behind it starts at the first
request, or when `app.lifespan` is entered by the parent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tailrace.core.exchange import Exchange, Headers, Sink, StreamWriter
from tailrace.errors import TransportError
from tailrace.transports.guard import is_loopback
from tailrace.transports.incoming import Incoming

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks
    from tailrace.errors import ClientGone

__all__ = ["AsgiApp", "Served"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


logger = logging.getLogger("tailrace.asgi")


class Served(Protocol):
    """What an application serves: the composition root fulfils it."""

    settings: Settings

    @property
    def tasks(self) -> Tasks:
        """Where tasks are started; there once it has begun."""
        ...

    async def start(self) -> None:
        """Begin; idempotent, and safe to be awaited by several."""
        ...

    async def stop(self) -> None:
        """Drain, then end; idempotent."""
        ...

    def streams(self, exchange: Exchange) -> bool:
        """Asked when a request's head is there: is it to be handed over now, with a `source` to read its body from?
        Otherwise it is handed over once its body is whole."""
        ...

    def handle(self, exchange: Exchange) -> None:
        """Reply to a request, now or later."""
        ...

    def refuse(self, exchange: Exchange, status: int, message: str) -> None:
        """Reply with an error that the transport found."""
        ...


class _Started(Served, Protocol):
    """One that says whether it has begun."""

    ready: bool


class AsgiApp:
    """An ASGI 3 application.

    Args:
        server: What it serves.
    """

    def __init__(self, server: _Started) -> None:
        self.server = server
        self._started = False
        self._warned = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection scope of the ASGI server."""
        if scope["type"] == "http":
            if not self._started:
                if not self.server.ready:
                    await self._start_late()
                self._started = True
            await _Connection(scope, receive, send, self.server).run()
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            raise TransportError(f"ASGI scope {scope['type']!r} is not served here")

    async def _start_late(self) -> None:
        """The first request starts it. Nobody will say when the process ends, which is worth a word."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "started by a request, and stopped by nobody: at the end running calls are not waited for, and neither "
                "hooks nor the lifespan run; the application around it has to enter its lifespan, as in "
                "FastAPI(lifespan=app.lifespan)"
            )
        await self.server.start()

    def lifespan(self, app: Any = None) -> AbstractAsyncContextManager[None]:
        """For a parent application's lifespan: ``FastAPI(lifespan=svc_app.lifespan)``."""
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        await self.server.start()
        self._started = True
        try:
            yield
        finally:
            await self.server.stop()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.server.start()
        except Exception as error:  # raised, it would count as "no lifespan here", and the server would go on
            return await send({"type": "lifespan.startup.failed", "message": _reason(error)})
        self._started = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self.server.stop()
        except Exception as error:
            return await send({"type": "lifespan.shutdown.failed", "message": _reason(error)})
        return await send({"type": "lifespan.shutdown.complete"})


class _Connection(Sink):
    """One request of an ASGI server: reads its body, waits for its reply, watches for the peer's end."""

    __slots__ = ("_receive", "_room", "_send", "_source", "exchange", "scope", "server")

    def __init__(self, scope: Message, receive: Receive, send: Send, server: Served) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.server = server
        self.exchange = AsgiExchange(scope)
        self._source: Incoming | None = None
        self._room: asyncio.Future[None] | None = None  # the watch waits for the reader to take some

    async def run(self) -> None:
        exchange = self.exchange
        if self.server.streams(exchange):
            self._source = exchange.source = Incoming(self._taken)
        elif not await self._read_body():
            return None
        self.server.handle(exchange)
        if exchange.replied and exchange.writer is None:
            return await self._reply_whole()
        # Something has to be waited for, or streamed: from here on a disconnect matters.
        watch = self.server.tasks.start(self._watch(), name="tailrace-asgi-watch")
        try:
            await exchange.wait_replied()
            if exchange.writer is not None:
                await self._reply_stream(exchange.writer)
            elif not exchange.gone:
                await self._reply_whole()
        finally:
            watch.cancel()
            if self._source is not None:
                self._source.stop()
            exchange.leave()  # also where the ASGI server gave this request up
        return None

    async def _read_body(self) -> bool:
        """Gather the body within its size and time; False if that ended the exchange."""
        settings = self.server.settings
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(settings.body_time):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self.exchange.leave()
                        return False
                    part = message.get("body", b"")
                    size += len(part)
                    if size > settings.max_body:
                        self.server.refuse(self.exchange, 413, f"the body is over {settings.max_body} bytes")
                        break
                    parts.append(part)
                    if not message.get("more_body", False):
                        self.exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
                        return True
        except TimeoutError:
            text = f"the body did not arrive within {settings.body_time:g} s"
            self.server.refuse(self.exchange, 408, text)
        with suppress(TransportError):
            await self._reply_whole()
        return False

    async def _watch(self) -> None:
        """Gather the body that is read as a stream, and learn of the peer's end as soon as the server does."""
        while (message := await self._receive())["type"] != "http.disconnect":
            if self._source is not None and not self._source.ended:
                await self._give(self._source, message)
        if self._source is not None:
            self._source.fail(TransportError("the peer is gone"))
        self.exchange.leave()

    async def _give(self, source: Incoming, message: Message) -> None:
        """The reader's part of a message; waits while `look_ahead` bytes are not read."""
        if part := message.get("body", b""):
            source.put(part)
        if not message.get("more_body", False):
            return source.finish()
        while source.held > self.server.settings.look_ahead:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        return None

    def _taken(self, size: int) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _reply_whole(self) -> None:
        exchange = self.exchange
        trailers = exchange.reply_trailers
        headers = [*exchange.reply_headers]
        if not trailers:  # a length leaves no room for them in HTTP/1.1
            headers.append((b"content-length", b"%d" % len(exchange.reply_body)))
        start = {"type": "http.response.start", "status": exchange.status, "headers": headers}
        try:
            await self._transmit({**start, "trailers": True} if trailers else start)
            await self._transmit({"type": "http.response.body", "body": exchange.reply_body})
            if trailers:
                await self._send_trailers(trailers)
        except TransportError:
            exchange.leave()

    async def _reply_stream(self, writer: StreamWriter) -> None:
        exchange = self.exchange
        head = {"type": "http.response.start", "status": exchange.status, "headers": list(exchange.reply_headers)}
        if exchange.trailers:
            head["trailers"] = True
        try:
            await self._transmit(head)
            if exchange.first:
                await self.write(exchange.first)
            await writer(self)
        except TransportError:
            pass  # this connection carries nothing any more

    # --- Sink ---

    async def write(self, data: bytes) -> None:
        """Send a part of a streamed reply."""
        await self._transmit({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, trailers: Headers = ()) -> None:
        """Complete a streamed reply."""
        await self._transmit({"type": "http.response.body", "body": b"", "more_body": False})
        if self.exchange.trailers:  # they were announced, so none is said as well
            await self._send_trailers(trailers)

    async def _send_trailers(self, trailers: Headers) -> None:
        await self._transmit({"type": "http.response.trailers", "headers": list(trailers), "more_trailers": False})

    async def _transmit(self, message: Message) -> None:
        """The only place that writes to the ASGI server, within the stall limit."""
        if self.exchange.gone:
            raise TransportError("the peer is gone")
        try:
            async with asyncio.timeout(self.server.settings.stall):
                await self._send(message)
        except TimeoutError:
            self._abort()
            await asyncio.sleep(0)  # the server learns it one turn later, and logs no unfinished reply as our error
            raise TransportError(f"the peer took nothing for {self.server.settings.stall:g} s") from None
        except OSError as error:
            raise TransportError(f"the connection broke: {error}") from None

    def _abort(self) -> None:
        """Cut a stalled connection, where the server lets us reach it; its buffer would keep it open for ever."""
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        abort = getattr(transport, "abort", None)  # uvloop's transports are none by inheritance
        if abort is not None:
            abort()


_BLANK = b" \t"  # around a value it is no part of it (RFC 9110, 5.5); uvicorn on httptools leaves it at the end


class AsgiExchange(Exchange):
    """A request as ASGI brings it; its reply is noted here and sent by the connection's own coroutine."""

    __slots__ = ("_headers", "_waiter", "first", "reply_body", "reply_headers", "reply_trailers", "status", "writer")

    def __init__(self, scope: Message) -> None:
        prefix = scope.get("root_path", "")
        path = scope["path"]
        if prefix and path.startswith(prefix):
            path = path[len(prefix) :] or "/"
        super().__init__(scope["method"], path, scope["query_string"], prefix)
        self._headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        self.version = scope.get("http_version", "1.1")
        self.trailers = "http.response.trailers" in (scope.get("extensions") or ()) and self._takes_trailers()
        server = scope.get("server")
        self.loopback = server is None or server[1] is None or "/" in server[0] or is_loopback(server[0])
        self.status = 0
        self.reply_headers: Headers = ()
        self.reply_body = b""
        self.reply_trailers: Headers = ()
        self.writer: StreamWriter | None = None
        self.first = b""  # of what is streamed
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: bytes) -> str | None:
        """The first value of a header."""
        for key, value in self._headers:
            if key == name:
                return value.strip(_BLANK).decode("latin-1")
        return None

    def header_values(self, name: bytes) -> list[str]:
        """All values of a header."""
        return [value.strip(_BLANK).decode("latin-1") for key, value in self._headers if key == name]

    def fields(self) -> Iterable[tuple[bytes, str]]:
        """All header fields."""
        return [(name, value.strip(_BLANK).decode("latin-1")) for name, value in self._headers]

    def doubled(self, names: frozenset[bytes]) -> bytes | None:
        """Which of these headers was given more than once."""
        seen: set[bytes] = set()
        for key, _ in self._headers:
            if key in names:
                if key in seen:
                    return key
                seen.add(key)
        return None

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        """Reply whole."""
        self.reply_body = body
        if self.trailers:
            self.reply_trailers = trailers
        self._reply(status, headers)

    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        """Reply with a stream."""
        self.writer, self.first = writer, first
        self._reply(status, headers)

    def _takes_trailers(self) -> bool:
        """HTTP/2 has room for trailers; in HTTP/1.1 the client says whether it takes them (RFC 9110, 6.5.1)."""
        return self.version.startswith(("2", "3")) or "trailers" in ",".join(self.header_values(b"te")).lower()

    async def wait_replied(self) -> None:
        """Return once there is a reply, or nobody to get it."""
        if not (self.replied or self.gone):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def leave(self, by: ClientGone | None = None) -> None:
        """The peer is gone."""
        super().leave(by)
        self._wake()

    def _reply(self, status: int, headers: Headers) -> None:
        if self.gone:
            return
        if self.replied:
            raise RuntimeError("this exchange has its reply already")
        self.replied = True
        self.status = status
        self.reply_headers = headers
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
