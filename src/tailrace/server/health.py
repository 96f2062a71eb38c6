"""Whether the server lives and takes requests, for load balancers and supervisors: ``/healthz`` and ``/readyz``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.protocols.mcp.http import not_allowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.core.exchange import Exchange, Handler

__all__ = ["READING", "Health"]

READING = frozenset({"GET", "HEAD"})  # methods that ask, and change nothing

_TEXT = ((b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"))


class Health:
    """The two pages. Those who ask have no token: they are served to everybody.

    Args:
        hindrance: Why the server takes no requests, in a few words; None: it does.
        notes: What people should know although it does; may be empty.

    Attributes:
        routes: Handlers, by path.
    """

    def __init__(self, hindrance: Callable[[], str | None], notes: Callable[[], str]) -> None:
        self._hindrance = hindrance
        self._notes = notes
        self.routes: dict[str, Handler] = {"/healthz": self._healthz, "/readyz": self._readyz}

    def _healthz(self, exchange: Exchange) -> None:
        _answer(exchange, 200, "ok")

    def _readyz(self, exchange: Exchange) -> None:
        hindrance = self._hindrance()
        if hindrance is None:
            notes = self._notes()
            return _answer(exchange, 200, f"ready\n{notes}" if notes else "ready")
        return _answer(exchange, 503, hindrance)


def _answer(exchange: Exchange, status: int, line: str) -> None:
    if exchange.method not in READING:
        return not_allowed(exchange, b"GET, HEAD")
    return exchange.respond(status, _TEXT, f"{line}\n".encode())
