"""One HTTP request and its reply, whatever carries it: ASGI, or our own HTTP/1.1 and HTTP/2 listener.

A transport makes an `Exchange` of every request and hands it to a handler, a plain function that
returns at once. The reply is given exactly once, then or later: whole by `respond`, or as a stream
by `stream`, whose writer coroutine then owns the connection's way out. Because nothing has to wait
inside a handler, no task stands between a connection and a call.

A request is handed over once its body has arrived whole, but for those that the server says it
`streams`: these come as soon as their head is there, with a `Source` to read the body from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from tailrace.core.access import Access
    from tailrace.errors import ClientGone

__all__ = ["Exchange", "Handler", "Headers", "Sink", "Source", "StreamWriter"]

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


class Sink(ABC):
    """The way out of one streamed reply. Only the stream's writer uses it: one writer, whole frames."""

    __slots__ = ()

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send `data`, and wait until the transport takes more, within the transport's stall limit.

        Raises:
            TransportError: The peer is gone, or took nothing for the whole stall limit; the connection is dead.
        """

    @abstractmethod
    async def end(self, trailers: Headers = ()) -> None:
        """End the reply in order. `trailers` need HTTP/2, or chunked HTTP/1.1 with a peer that takes them."""


StreamWriter: TypeAlias = Callable[[Sink], Awaitable[None]]


class Source(ABC):
    """The way in of a request's body that is still coming. One reader at a time; what it does not read holds the
    peer up (flow control), so no more than a window of it is ever kept."""

    __slots__ = ()

    @abstractmethod
    async def read(self) -> bytes:
        """The next bytes, one at least, as they came; ``b""`` at the body's end, and from then on.

        Raises:
            TransportError: The peer is gone, reset the stream, or broke the framing of its body.
        """

    @abstractmethod
    def stop(self) -> None:
        """Nothing more of it is wanted: what still comes is dropped, within the transport's limits. Idempotent."""


class Exchange(ABC):
    """A request, and the one reply it gets.

    Attributes:
        method: Upper-case, e.g. ``POST``.
        path: Decoded, without the prefix under which an application is mounted; begins with ``/``.
        prefix: That prefix (``""`` where there is none), for URLs that go to the client.
        query: Raw, without the question mark.
        body: All of the request's body; empty where there is a `source`.
        source: The body that is still coming, where the server asked for that (`streams`); else None.
        version: Of HTTP: ``1.0``, ``1.1`` or ``2``.
        trailers: The reply can end with trailers that reach the peer.
        principal: Who asks, once authenticated; ``""`` is nobody.
        access: What its token allows, where it showed one that says so; else None.
        challenge: Writes the `WWW-Authenticate` of a refusal of it that names the scopes it needs; None: nobody
            is asked who they are.
        loopback: It arrived on a socket that only this machine reaches.
        gone: The peer went away, or reset the stream, before the reply was complete.
        gone_by: What ended it, where that was not the end of its connection: `StreamReset`; else None.
        replied: `respond` or `stream` was called.
        partition: Which one an id in its body names, once somebody has read that; `""` where none does.
        put_off: Takes a request that is refused because this process ends, if it can give it to another one, and says
            so; None: it cannot.
        on_gone: Called once, on the loop, when `gone` becomes true; set it before returning from the handler.
        verdicts: What was found out from method, path, query and headers alone. A transport that knows a head again
            gives the same dict again, and what is in it need not be looked up (1.3 us of an echo call). Each key is
            its owner's own; an owner puts in a few small values that it cannot put in twice.
    """

    __slots__ = (
        "access",
        "body",
        "challenge",
        "gone",
        "gone_by",
        "loopback",
        "method",
        "on_gone",
        "partition",
        "path",
        "prefix",
        "principal",
        "put_off",
        "query",
        "replied",
        "source",
        "trailers",
        "verdicts",
        "version",
    )

    def __init__(
        self, method: str, path: str, query: bytes, prefix: str = "", verdicts: dict[str, Any] | None = None
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.prefix = prefix
        self.body = b""
        self.source: Source | None = None
        self.version = "1.1"
        self.trailers = False
        self.principal = ""
        self.access: Access | None = None
        self.challenge: Callable[[Exchange, Sequence[str]], bytes] | None = None
        self.loopback = True
        self.gone = False
        self.gone_by: ClientGone | None = None
        self.replied = False
        self.on_gone: Callable[[], None] | None = None
        self.partition = ""
        self.put_off: Callable[[Exchange], bool] | None = None
        self.verdicts: dict[str, Any] = {} if verdicts is None else verdicts

    @abstractmethod
    def header(self, name: bytes) -> str | None:
        """The value of the header `name` (given in lower case), or None; of several, the first."""

    @abstractmethod
    def header_values(self, name: bytes) -> list[str]:
        """All values of the header `name` (given in lower case), one for each line that carried it."""

    @abstractmethod
    def fields(self) -> Iterable[tuple[bytes, str]]:
        """All header fields, their names in lower case; those of one name in their order."""

    def doubled(self, names: frozenset[bytes]) -> bytes | None:
        """Which of the headers `names` (in lower case) was given more than once, if one was."""
        return next((name for name in names if len(self.header_values(name)) > 1), None)

    @abstractmethod
    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        """Reply at once and whole. Quietly does nothing when the peer is gone; a second reply is a bug and raises.

        `trailers` need `self.trailers`, as those of a `Sink` do; elsewhere they are left out.
        """

    @abstractmethod
    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        """Reply with a stream: send the head, then run `writer` as the owner of the way out until it returns.

        `first` goes with the head, in front of what the writer sends: however the reply is cut, and wherever it is
        relayed, no peer has the head alone. So whoever saw that a stream of events begins has the id to resume it from.
        """

    def covers(self, scopes: Sequence[str]) -> bool:
        """Whether its token is good for these; where nobody is asked for one, it need not be."""
        return self.access is None or self.access.covers(scopes)

    def leave(self, by: ClientGone | None = None) -> None:
        """The transport says that the peer is gone, and `by` what where it was not the connection's end. Idempotent."""
        if not self.gone:
            self.gone = True
            self.gone_by = by
            on_gone, self.on_gone = self.on_gone, None  # once; and whoever waited need not be kept for it
            if on_gone is not None:
                on_gone()


Handler: TypeAlias = Callable[[Exchange], None]
