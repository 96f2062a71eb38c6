"""What is kept of calls' streams for a resume, and when it has to go.

Answers stay until the session ends, an hour passes, or room is needed: then the oldest that were
delivered go first. What nobody has read is never dropped for room; new work is refused instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.core.log import Log
from tailrace.core.ports import DropStream
from tailrace.errors import LimitError

if TYPE_CHECKING:
    from tailrace.core.session import Finished, Session
    from tailrace.protocols.mcp.endpoint import Endpoint

__all__ = ["Retention"]

_EVENT_BYTES = 256  # what an event takes besides its payload


class Retention:
    """Keeps the streams of one endpoint's sessions within `Settings.session_log`, `server_log` and `finished`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.settings = endpoint.settings
        self._held = 0  # bytes in all sessions, as of the last look

    def call_log(self, session: Session | None, *, journalled: bool = True) -> Log:
        """A new stream for a POST's calls; a session keeps it for a resume, nobody keeps it without one."""
        settings = self.settings
        if session is None:
            return Log(ring=settings.ring, kept=0)
        number = next(self.endpoint.numbers)
        journal = self.endpoint.journal_of(session) if journalled else None
        log = Log(number, ring=settings.ring, kept=settings.kept, journal=journal)
        session.streams[number] = log
        return log

    def restored_log(self, session: Session, stream: int, last: int) -> Log:
        """A stream of an earlier process life; its events follow."""
        journal = self.endpoint.journal_of(session)
        return Log(stream, ring=self.settings.ring, kept=self.settings.kept, journal=journal, last=last)

    def drop_log(self, session: Session | None, log: Log) -> None:
        """Forget a stream of a session."""
        if session is not None and session.streams.pop(log.stream, None) is not None:
            journal = self.endpoint.journal_of(session)
            if journal is not None:
                self.endpoint.journals.write([DropStream(session.id, log.stream)])

    def retire(self, session: Session | None, log: Log) -> None:
        """A call's stream has ended: keep it for a resume, and drop older ones that were delivered if there are
        too many bytes of them."""
        if session is None:
            return
        session.retire(log)
        if session.finished_bytes > self.settings.session_log // 2 or len(session.finished) > self.settings.finished:
            self._drop_delivered(session)

    def check(self, session: Session) -> None:
        """Refuse new work rather than let answers pile up that nobody reads.

        Raises:
            LimitError: The session, or the server, holds too much.
        """
        if _weight(session) > self.settings.session_log:
            self._drop_delivered(session)
            if _weight(session) > self.settings.session_log:
                raise LimitError("log", "this session holds too many answers that nobody has read")
        if self._held > self.settings.server_log:
            raise LimitError("log", "this server holds too many answers that nobody has read")

    def _drop_delivered(self, session: Session) -> None:
        for entry in list(session.finished):
            if session.finished_bytes <= self.settings.session_log // 4 and (
                len(session.finished) <= self.settings.finished // 2
            ):
                return
            log = entry.log
            if log.reader is None and log.delivered >= log.last:
                self._drop_finished(session, entry)

    def _drop_finished(self, session: Session, entry: Finished) -> None:
        session.finished.remove(entry)  # the oldest nearly always: found at once
        session.finished_bytes -= entry.size
        self.drop_log(session, entry.log)

    def expire(self, now: float) -> None:
        """Every few seconds: answers that are too old go, and what is left is counted."""
        before = now - self.settings.answer_time
        held = 0
        for session in self.endpoint.sessions.by_id.values():
            session.log.expire(before)
            while session.finished and session.finished[0].ended < before:
                self._drop_finished(session, session.finished[0])
            held += _weight(session)
        self._held = held


def _weight(session: Session) -> int:
    """What a session's streams take, about: of a small answer its bytes are the smaller part."""
    return session.log.bytes + _EVENT_BYTES * session.log.events + session.finished_bytes
