"""What a request's token allows: whose it is, for what, and until when. The token itself goes no further.

Who judges tokens is left to the transports; what is asked of them, to protocols and handlers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tailrace.errors import ProtocolError, TailraceError

__all__ = ["Access", "InsufficientScope", "InvalidToken", "is_text"]

_INVALID_REQUEST = -32600  # JSON-RPC: its siblings of the wire are not known here


@dataclass(frozen=True, slots=True)
class Access:
    """What an async verifier gives for a token that is valid.

    Attributes:
        principal: Whose it is, 1 to 255 characters; sessions, calls and keys belong to it.
        scopes: What it is good for; None: for everything, as a token of the operator's own.
        claims: What else is known of it, e.g. a JWT's claims. Never stored.
        client_id: Which program asks, where that is known.
        expires_at: Wall-clock time in seconds; None: not known.
    """

    principal: str
    scopes: frozenset[str] | None = None
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType(dict[str, Any]()))
    client_id: str | None = None
    expires_at: float | None = None

    def covers(self, scopes: Iterable[str]) -> bool:
        """Whether it is good for all of these."""
        return self.scopes is None or self.scopes.issuperset(scopes)


def is_text(value: object) -> bool:
    """Whether it is a string that can be stored, sealed and sent: JSON can name half a surrogate pair, which cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class InvalidToken(TailraceError):
    """Raise it in a verifier to refuse a token with a reason that its client reads (``error_description``)."""


class InsufficientScope(ProtocolError):
    """The request needs more than its token is good for; over HTTP a 403 that names all of it (RFC 6750, 3.1).

    Args:
        scopes: What the request needs, the service's own included.
    """

    def __init__(self, scopes: Iterable[str]) -> None:
        self.scopes = tuple(dict.fromkeys(scopes))
        super().__init__(_INVALID_REQUEST, f"the token is not good for this; needed: {' '.join(self.scopes)}")
