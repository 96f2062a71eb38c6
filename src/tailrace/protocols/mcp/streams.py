"""What the SSE streams of an endpoint have in common: heads, ids of events, writers, and where a resume goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.core.writer import Writer
from tailrace.protocols.mcp.framing import SseFraming
from tailrace.protocols.mcp.reply import SSE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.core.cursor import Cursor
    from tailrace.core.exchange import Headers
    from tailrace.core.log import Log
    from tailrace.core.session import Session
    from tailrace.core.settings import Settings
    from tailrace.core.timers import Sweeper
    from tailrace.core.writer import Framing
    from tailrace.protocols.mcp.framing import EventId, Seals

__all__ = ["Streams"]


class Streams:
    """The streams of one endpoint.

    Args:
        settings: How often an idle one says that it lives, and when a client is to come back.
        sweeper: The house's clock.
        seals: Event ids.
        now: The time of the loop.

    Attributes:
        resumed: Connections that asked for what they had missed: those that got all of it, and those that did not.
    """

    def __init__(self, settings: Settings, sweeper: Sweeper, seals: Seals, now: Callable[[], float]) -> None:
        self._settings = settings
        self._sweeper = sweeper
        self._seals = seals
        self._now = now
        self.resumed = {"complete": 0, "gap": 0}

    def resume_after(self, place: EventId, log: Log) -> int:
        """Where a client that saw this event goes on in `log`.

        Of an earlier process life only what was durable counts: where a disk failed, a client may have seen
        events whose numbers were given again since.
        """
        return min(place.seq, log.last if place.epoch == self._seals.epoch else log.origin)

    def left(self, session: Session, cursor: Cursor) -> None:
        """A connection of the session is gone; the session is not."""
        cursor.stop()
        session.touched = self._now()

    def framing(self, session: Session, stream: int) -> SseFraming:
        """SSE with the ids of this stream."""
        return SseFraming(self._seals.seal(session.handle, stream, session.principal))

    def writer(self, cursor: Cursor, framing: Framing) -> Writer:
        """The writer of one SSE connection."""
        retry = b"retry: %d\n\n" % self._settings.retry
        return Writer(cursor, framing, self._sweeper, keep_alive=self._settings.keep_alive, farewell=lambda: retry)

    def headers(self, session: Session | None, missing: int | None = None) -> Headers:
        """The head of an SSE reply; `missing` is told on a resume, and counted."""
        headers = list(SSE)
        if session is not None and session.record.transport == "streamable":
            headers.append((b"mcp-session-id", session.id.encode()))
        if missing is not None:
            self.resumed["gap" if missing else "complete"] += 1
            headers.append((b"tailrace-resume", b"gap" if missing else b"complete"))
        return headers
