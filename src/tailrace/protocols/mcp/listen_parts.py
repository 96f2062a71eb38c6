"""A stream of `subscriptions/listen` that names tasks of several partitions: each of these listens to its own, and what
they say becomes one stream.

A part is a request of its own, with the tasks of one partition, which goes the way that a client's would. The stream
begins when all of them have said what they grant, and ends when one of them ends: its client listens anew, and
finds the partition wherever it is by then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tailrace.core.exchange import Exchange, Headers, Sink, StreamWriter
from tailrace.errors import ProtocolError, TransportError
from tailrace.protocols.mcp.framing import tag_of
from tailrace.protocols.mcp.http import refuse
from tailrace.wire import mcp, sse
from tailrace.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tailrace.core.tasks import Tasks
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.wire.jsonrpc import Request

__all__ = ["Part", "listen_everywhere"]

_PARTS = 64  # partitions that one stream can hear of
_EARLY = 1000  # messages of one part that are kept until all have begun


class _Refusal(NamedTuple):
    """What a part is answered that is not granted at all."""

    status: int
    headers: Headers
    body: bytes


_GONE = _Refusal(503, (), b"")


class _Said(msgspec.Struct):
    """As much of a message as says what it is."""

    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Acknowledged(msgspec.Struct):
    notifications: mcp.SubscriptionFilter


class Part(Exchange):
    """The request that asks one partition for its tasks, and the stream that it answers with.

    Args:
        whole: The client's own request.
        body: Of this one.
        tasks: Where the stream is read.

    Attributes:
        begun: What it grants, or its refusal.
        hear: Takes its messages, once the whole stream has begun.
        ended: Called at its end, once the whole stream has begun.
    """

    __slots__ = ("_early", "_fields", "_tasks", "_writer", "begun", "ended", "hear")

    def __init__(self, whole: Exchange, body: bytes, tasks: Tasks) -> None:
        super().__init__(whole.method, whole.path, whole.query, whole.prefix)
        self.body = body
        self.principal, self.access, self.challenge = whole.principal, whole.access, whole.challenge
        self.loopback = whole.loopback
        self._fields = list(whole.fields())
        self._tasks = tasks
        self._writer: asyncio.Task[Any] | None = None
        self._early: deque[bytes] = deque(maxlen=_EARLY)
        self.begun: asyncio.Future[_Refusal | tuple[str, ...]] = tasks.loop.create_future()
        self.hear: Callable[[bytes], None] = self._early.append
        self.ended: Callable[[], None] | None = None

    # --- its way out, as whoever answers it sees it ---

    def header(self, name: bytes) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self._fields if key == name), None)

    def header_values(self, name: bytes) -> list[str]:
        """All values of a header."""
        return [value for key, value in self._fields if key == name]

    def fields(self) -> Iterable[tuple[bytes, str]]:
        """All header fields."""
        return self._fields

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        """It is refused."""
        self.replied = True
        if not self.begun.done():
            self.begun.set_result(_Refusal(status, headers, body))

    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        """It is granted, or will say that it is not."""
        self.replied = True
        if not self.gone:
            self._writer = self._tasks.start(self._run(writer, first), name="tailrace-listen-part")

    def leave(self, by: Any = None) -> None:
        """Nobody wants to hear any more of it."""
        writer, self._writer = self._writer, None
        super().leave(by)
        if writer is not None and writer is not asyncio.current_task():
            writer.cancel()
        if not self.begun.done():
            self.begun.set_result(_GONE)

    # --- what it says ---

    def join(self, hear: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """The whole stream has begun: it takes what was said meanwhile, and what is said from now on."""
        self.hear, self.ended = hear, ended
        for message in self._early:
            hear(message)
        self._early.clear()
        if self._writer is None:
            ended()

    async def _run(self, writer: StreamWriter, first: bytes) -> None:
        sink = _PartSink(self)
        try:
            await sink.write(first)
            await writer(sink)
        except (TransportError, sse.SseOverflow):
            pass  # its end says all that there is to say
        finally:
            self._writer = None
            if not self.gone:
                self.leave()
                if self.ended is not None:
                    self.ended()

    def said(self, message: bytes) -> None:
        """One message has come."""
        said = msgspec.json.decode(message, type=_Said)
        if said.method == "notifications/subscriptions/acknowledged":
            if not self.begun.done():
                granted = msgspec.json.decode(said.params, type=_Acknowledged).notifications
                self.begun.set_result(granted.task_ids)
        elif said.method:  # else it is the result, behind which its end comes
            self.hear(message)


class _PartSink(Sink):
    """Reads the events of a part."""

    __slots__ = ("_parser", "_part")

    def __init__(self, part: Part) -> None:
        self._part = part
        self._parser = sse.Parser()

    async def write(self, data: bytes) -> None:
        """Some more of it."""
        if self._part.gone:
            raise TransportError("nobody listens any more")
        for event in self._parser.feed(data):
            self._part.said(event.data.encode())

    async def end(self, trailers: Headers = ()) -> None:
        """Its end."""


async def listen_everywhere(endpoint: Endpoint, exchange: Exchange, request: Request, params: mcp.ListenParams) -> None:
    """Answer a request to listen that names tasks of several partitions."""
    assert endpoint.elsewhere is not None
    foreign: dict[str, list[str]] = {}
    own = tag_of(endpoint.seals.name(""))
    for id in params.notifications.task_ids:
        if (tag := tag_of(id)) and tag != own:
            foreign.setdefault(tag, []).append(id)
    if len(foreign) > _PARTS:
        error = ProtocolError(INVALID_PARAMS, f"one stream can name tasks of {_PARTS} workers; open another one")
        return refuse(exchange, 400, error, request.id)
    parts: list[Part] = []

    def leave() -> None:
        for part in parts:
            part.leave()

    exchange.on_gone = leave
    try:
        for ids in foreign.values():
            part = Part(exchange, _body(request, ids), endpoint.tasks)
            parts.append(part)
            endpoint.elsewhere(part, ids[0])
        granted: list[str] = []
        for part in parts:
            begun = await part.begun
            if exchange.gone:
                return None
            if isinstance(begun, _Refusal):
                leave()
                return _refused(exchange, request, begun)
            granted += begun
        endpoint.listens.open_exchange(exchange, request, params, parts, granted)
    except ProtocolError as error:
        leave()
        refuse(exchange, mcp.http_status(error), error, request.id)
    except BaseException:
        leave()
        raise
    return None


def _refused(exchange: Exchange, request: Request, refusal: _Refusal) -> None:
    if refusal is _GONE:
        error = ProtocolError(INTERNAL_ERROR, "a worker whose task is named ended; try again")
        return refuse(exchange, 503, error, request.id)
    return exchange.respond(*refusal)


def _body(request: Request, ids: Sequence[str]) -> bytes:
    params = msgspec.json.decode(request.params)
    params["notifications"] = {"taskIds": ids}
    return encode_request(request.id, request.method, mcp.encode(params))
