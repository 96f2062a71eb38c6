"""One call as interceptors see it: where it goes, what goes with it, and what came back beside its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from tailrace.wire.metadata import Metadata

if TYPE_CHECKING:
    from tailrace.clients.connect.options import Options
    from tailrace.clients.observing import Observed

__all__ = ["Call", "Interceptor", "Kind", "Messages", "Opens", "Sends"]

Kind: TypeAlias = Literal["unary", "client_stream", "server_stream", "bidi"]


class Call:
    """One call. Make an empty one and give it as `call=` to look at it afterwards.

    Attributes:
        path: ``package.Service/Method``.
        kind: ``unary``, ``client_stream``, ``server_stream`` or ``bidi``.
        headers: The request's; an interceptor may change them before it goes on.
        deadline: Loop time, or None.
        options: What holds for it.
        request: The type of what is sent; None: each value's own.
        response: The type of what is received.
        answer_headers: The answer's, once it has begun.
        answer_trailers: The answer's, once it has ended.
        status: The answer's HTTP status, once it has begun; 0 before.
        attempts: How often it was sent.
        observed: Of a stream: its end is told to telemetry, where anybody wants to know.
        get: It goes by GET.
        repeatable: It may run twice, so it is retried.
    """

    __slots__ = (
        "answer_headers",
        "answer_trailers",
        "attempts",
        "deadline",
        "get",
        "headers",
        "kind",
        "observed",
        "options",
        "path",
        "repeatable",
        "request",
        "response",
        "status",
    )

    options: Options

    def __init__(self) -> None:
        self.path = ""
        self.kind: Kind = "unary"
        self.headers = Metadata()
        self.deadline: float | None = None
        self.request: Any = None
        self.response: Any = None
        self.get = False
        self.repeatable = False
        self.answer_headers = Metadata()
        self.answer_trailers = Metadata()
        self.status = 0
        self.attempts = 0
        self.observed: Observed | None = None

    def __repr__(self) -> str:
        return f"<Call {self.kind} {self.path} attempts={self.attempts} status={self.status}>"


class Messages(Protocol):
    """The messages of one stream, on both its ways. An interceptor may put its own before those it was given."""

    async def send(self, message: Any) -> None:
        """Send one more message; raises `StreamEnded` where the server has ended the call."""
        ...

    async def close_send(self) -> None:
        """There are no more."""
        ...

    async def receive(self) -> Any:
        """The next message; None at the stream's end. Raises the `RpcError` that ended it."""
        ...


Sends: TypeAlias = Callable[[Call, Any], Awaitable[Any]]
Opens: TypeAlias = Callable[[Call], Awaitable[Messages]]


class Interceptor:
    """Looks at calls, and may change them; the first of a client's list is the outermost. Override either method."""

    async def unary(self, call: Call, message: Any, proceed: Sends) -> Any:
        """Make a unary call.

        Args:
            call: The call.
            message: The request's message.
            proceed: Goes on with it, as often as it is awaited, and gives the answer's message.

        Raises:
            RpcError: How it ended.
        """
        return await proceed(call, message)

    async def stream(self, call: Call, proceed: Opens) -> Messages:
        """Open a stream.

        Args:
            call: The call.
            proceed: Goes on with it; its messages may be given on as they are, or wrapped.
        """
        return await proceed(call)
