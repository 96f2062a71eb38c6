"""Verdicts on tokens, for a short while: a client shows the same one with each request.

Tokens themselves are not kept, only digests of them. Only those that were valid are remembered.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace.core.access import Access

__all__ = ["Remembered"]


class Remembered:
    """Verdicts that were given.

    Args:
        seconds: For how long at most; 0: not at all.
        limit: How many; the one that was kept first goes first.
        clock: Wall-clock time, in seconds.
    """

    def __init__(self, seconds: float, *, limit: int = 10_000, clock: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._limit = limit
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Access, float]] = OrderedDict()

    def find(self, token: str) -> Access | None:
        """What the token allows, if that was found out a short while ago."""
        digest = _digest(token)
        access, until = self._known.get(digest, (None, 0.0))
        if access is not None and self._clock() >= until:
            del self._known[digest]
            return None
        return access

    def keep(self, token: str, access: Access) -> None:
        """Remember it, until the token's end at most."""
        until = self._clock() + self._seconds
        if access.expires_at is not None:
            until = min(until, access.expires_at)
        if until > self._clock():
            self._known[_digest(token)] = access, until
            while len(self._known) > self._limit:
                self._known.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
