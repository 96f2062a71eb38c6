"""Who wants to hear that a resource has changed (legacy: `resources/subscribe`; 2026-07-28 has `listen` for it).

What a session has subscribed to is part of its record, so a restarted server goes on telling it.
"""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Any

from tailrace.core.budget import EVENT_BYTES
from tailrace.errors import ProtocolError
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import INVALID_PARAMS, INVALID_REQUEST
from tailrace.wire.uri_templates import MAX_URI

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tailrace.core.budget import Budget
    from tailrace.core.session import Session

__all__ = ["Subscriptions", "check_said", "size_of"]


class Subscriptions:
    """The sessions of one endpoint, by the URI that they want to hear of.

    Args:
        limit: URIs that one session may subscribe to.
        said: What those of all sessions may take.
    """

    def __init__(self, limit: int, said: Budget) -> None:
        self._limit = limit
        self._said = said
        self._by_uri: dict[str, dict[Session, None]] = {}

    def __len__(self) -> int:
        return len(self._by_uri)

    def change(self, session: Session | None, method: str, uri: str) -> None:
        """Take note of `resources/subscribe` or `resources/unsubscribe`; both may come twice.

        Raises:
            ProtocolError: There is no session; the URI is none; it has subscribed to too much.
        """
        if session is None:
            raise ProtocolError(INVALID_REQUEST, "this server keeps no sessions, so nothing can be subscribed to")
        if not uri or len(uri) > MAX_URI:
            raise ProtocolError(INVALID_PARAMS, f"uri has 1 to {MAX_URI} characters")
        wanted: list[str] = session.record.subscriptions
        if method == "resources/unsubscribe":
            if uri in wanted:
                wanted.remove(uri)
                self._leave(session, uri)
        elif uri not in wanted:
            if len(wanted) >= self._limit:
                text = f"a session can subscribe to {self._limit} resources at most"
                raise ProtocolError(mcp.LIMIT_REACHED, text, {"limit": "subscriptions"})
            check_said(self._said, [uri])
            wanted.append(uri)
            self._enter(session, uri)

    def restored(self, session: Session) -> None:
        """A stored session is back."""
        for uri in session.record.subscriptions:
            self._enter(session, uri)

    def left(self, session: Session) -> None:
        """A session has ended."""
        for uri in session.record.subscriptions:
            self._leave(session, uri)

    def of(self, params: Any) -> Sequence[Session]:
        """The sessions that want to hear of the resource that `params` of `notifications/resources/updated` names."""
        uri: Any = params.get("uri") if isinstance(params, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return list(self._by_uri.get(uri, ())) if isinstance(uri, str) else ()

    def _enter(self, session: Session, uri: str) -> None:
        self._by_uri.setdefault(uri, {})[session] = None
        self._said.add(size_of([uri]))

    def _leave(self, session: Session, uri: str) -> None:
        told = self._by_uri.get(uri, {})
        if session in told:
            del told[session]
            self._said.add(-size_of([uri]))
        if not told:
            self._by_uri.pop(uri, None)


def check_said(said: Budget, uris: Sequence[str]) -> None:
    """Is there room for these, too?

    Raises:
        ProtocolError: All clients together want to hear of too much.
    """
    if not said.fits(size_of(uris)):
        text = "the clients of this server want to hear of too much; try again later"
        raise ProtocolError(mcp.LIMIT_REACHED, text, {"limit": "said"})


def size_of(uris: Iterable[str]) -> int:
    """What it takes to keep them, in bytes."""
    return sum(EVENT_BYTES + getsizeof(uri) for uri in uris)
