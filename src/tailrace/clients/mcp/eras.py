"""Which era the servers of this process's clients speak, for a while: so that the next client need not probe.

A wrong memory costs a round trip, not a connection: `handshake` asks in the other way then, and what came of it is
remembered instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace.clients.mcp.handshake import Era

__all__ = ["ERAS", "Eras"]


class Eras:
    """The eras of servers, by their targets. Any thread may use it (each event loop has clients of its own): every
    step leaves the table whole.

    Args:
        limit: Servers at most; the one that was learned first is forgotten first.
        seconds: How long one is remembered: for so long, new clients of a server that learned the modern era may still
            greet it in the legacy way.
        now: A clock that never goes back.
    """

    def __init__(self, limit: int = 1024, seconds: float = 300.0, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._now = now
        self._known: dict[Hashable, tuple[Era, float]] = {}

    def find(self, target: Hashable) -> Era | None:
        """The era of a server, if it was learned lately."""
        era, until = self._known.get(target, (None, 0.0))
        return era if self._now() < until else None

    def learn(self, target: Hashable, era: Era) -> None:
        """A client and this server have agreed on an era."""
        self._known.pop(target, None)
        for oldest in list(self._known)[: max(0, len(self._known) - self._limit + 1)]:
            self._known.pop(oldest, None)
        self._known[target] = era, self._now() + self._seconds

    def forget(self, target: Hashable) -> None:
        """They could not agree: nobody knows anything of it."""
        self._known.pop(target, None)

    def clear(self) -> None:
        """Nothing is known of anybody."""
        self._known.clear()


ERAS = Eras()  # of this process
