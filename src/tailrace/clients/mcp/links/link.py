"""What a way to a server has to offer, and what it may ask of the client in return.

A link moves encoded messages and knows how a request is cancelled there; what the messages mean,
which request waits, and who is told, is the conversation's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Struct

from tailrace.wire.jsonrpc import RequestId

if TYPE_CHECKING:
    from tailrace.core.tasks import Tasks

__all__ = ["Link", "Outgoing", "Receiver"]


class Outgoing(Struct, frozen=True, gc=False):
    """One message on its way to the server.

    Attributes:
        data: The encoded JSON-RPC message, on one line.
        id: The request's id; None for notifications and responses.
        method: None for responses.
        name: What the header `Mcp-Name` repeats, or None (2026-07-28, transports).
        version: The protocol version that governs the message; None for `initialize`.
        headers: The headers `Mcp-Param-*` (2026-07-28, transports), or None.
    """

    data: bytes
    id: RequestId | None = None
    method: str | None = None
    name: str | None = None
    version: str | None = None
    headers: Mapping[str, str] | None = None


class Receiver(Protocol):
    """What a link tells. Plain functions that return at once; to be called on the loop."""

    def receive(self, data: bytes) -> None:
        """One encoded message (or batch) has arrived."""
        ...

    def fail(self, id: RequestId, error: Exception) -> None:
        """No answer will come to this request, and why."""
        ...

    def lose(self, error: Exception) -> None:
        """The link is broken for good, and why: every call fails, also later ones."""
        ...

    def waits_for(self, id: RequestId) -> bool:
        """Whether the request's answer is still awaited."""
        ...

    def report_gap(self, where: str) -> None:
        """A resumed stream lacks events which the server no longer has."""
        ...

    def warn(self, text: str) -> None:
        """Something is odd, and nobody's call fails for it."""
        ...


@runtime_checkable
class Link(Protocol):
    """One way to one server, for one client; opened once, closed once.

    Attributes:
        legacy_only: The modern era does not exist on this transport.
    """

    legacy_only: bool

    @property
    def session_id(self) -> str | None:
        """The session's id, where the transport has one."""
        ...

    async def open(self, receiver: Receiver, tasks: Tasks) -> None:
        """Connect; from now on `receiver` is told what arrives. Work of its own runs in `tasks`. After a refusal it may
        be tried again.

        Raises:
            TransportError: It cannot be connected, and what to do about it.
        """
        ...

    def establish(self, version: str) -> None:
        """The handshake is over: `version` governs all that follows."""
        ...

    async def send(self, message: Outgoing) -> None:
        """Send one message, and wait until it is on its way, never for its answer; the caller sets the time limit.

        Raises:
            TransportError: It could not be sent, or the server did not take it.
        """
        ...

    async def cancel(self, id: RequestId, notice: Outgoing) -> None:
        """Tell the server that nobody waits for the request any more: by `notice`, or as the transport does it."""
        ...

    async def close(self, limit: float) -> None:
        """Let go of everything, in at most about `limit` seconds; cancelled earlier, at once. Idempotent."""
        ...
