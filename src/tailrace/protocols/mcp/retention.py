"""What is kept of calls' streams for a resume, and when it has to go.

Answers stay until the session ends, an hour passes, or room is needed: then the oldest that were
delivered go first. What nobody has read is never dropped for room. New work is refused instead, and an
answer that would break a cap waits for a reader that reads, or is replaced by an error that says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tailrace.core.budget import Budget
from tailrace.core.ports import DropStream
from tailrace.core.session import ANSWER_ROOM, STREAM_BYTES
from tailrace.core.watching import make_log
from tailrace.errors import LimitError

if TYPE_CHECKING:
    from tailrace.core.log import Log
    from tailrace.core.session import Finished, Session
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.protocols.mcp.journal import SessionJournal

__all__ = ["Retention"]

_RELIEF_EVERY = 1.0  # seconds between two looks through all sessions for what can go


class Retention:
    """Keeps the streams of one endpoint's sessions within `Settings.session_log`, `server_log` and `finished`.

    Each call in flight has `ANSWER_ROOM` bytes reserved, so that there is always room for a small answer.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.settings = endpoint.settings
        self.answer_room = min(ANSWER_ROOM, self.settings.session_log // 64, self.settings.server_log // 64)
        self.budget = Budget(self.settings.server_log)  # all sessions, and the streams of calls without one
        self.said = Budget(self.settings.said)  # by clients, beside what is in streams
        self._next_relief = 0.0

    def session_budget(self) -> Budget:
        """The part of one session."""
        return Budget(self.settings.session_log, self.budget)

    def call_log(self, session: Session | None, *, journalled: bool = True) -> Log:
        """A new stream for a POST's calls; a session keeps it for a resume, nobody keeps it without one."""
        if session is None:
            return make_log(self.endpoint.tasks.watcher, "", ring=self.settings.ring, kept=0, budget=self.budget)
        journal = self.endpoint.home.journal_of(session) if journalled else None
        return self._keep_log(session, next(self.endpoint.numbers), journal, 0)

    def restored_log(self, session: Session, stream: int, last: int) -> Log:
        """A stream of an earlier process life; its events follow."""
        return self._keep_log(session, stream, self.endpoint.home.journal_of(session), last)

    def _keep_log(self, session: Session, stream: int, journal: SessionJournal | None, last: int) -> Log:
        ring, kept, watcher = self.settings.ring, self.settings.kept, self.endpoint.tasks.watcher
        options = {"ring": ring, "kept": kept, "journal": journal, "last": last, "budget": session.budget}
        log = make_log(watcher, session.id, stream, **options)
        session.streams[stream] = log
        session.budget.add(STREAM_BYTES)
        return log

    def drop_log(self, session: Session | None, log: Log) -> None:
        """Forget a stream of a session."""
        if session is not None and session.streams.pop(log.stream, None) is not None:
            log.discard()
            session.budget.add(-STREAM_BYTES)
            journal = self.endpoint.home.journal_of(session)
            if journal is not None:
                self.endpoint.journals.write([DropStream(session.id, log.stream)])

    def forget(self, session: Session) -> None:
        """The session is over: its streams hold nothing any more, as soon as their readers have gone."""
        session.log.discard()
        for log in session.streams.values():
            log.discard()
        session.budget.add(-STREAM_BYTES * len(session.streams))
        session.streams.clear()
        session.finished.clear()

    def retire(self, session: Session | None, log: Log) -> None:
        """A call's stream has ended: keep it for a resume, and drop older ones that were delivered if there are
        too many bytes of them."""
        if session is None:
            return log.discard()
        session.retire(log)
        if session.finished_bytes > self.settings.session_log // 2 or len(session.finished) > self.settings.finished:
            self._drop_delivered(session)
        return None

    # --- room ---

    def check(self, session: Session | None) -> None:
        """Refuse new work rather than let answers pile up that nobody reads.

        Raises:
            LimitError: The session, or the server, holds too much.
        """
        if session is not None and not self._session_has(session, self.answer_room):
            raise LimitError("log", "this session holds too many answers that nobody has read")
        if not self._server_has(self.answer_room):
            raise LimitError("log", "this server holds too many answers that nobody has read")

    async def room_for(self, session: Session | None, size: int) -> bool:
        """Is there room for an answer of `size` bytes? Where somebody reads the session's streams it is waited for,
        `Settings.stall` seconds at most: so a client that reads loses nothing, however much it asks for at once."""
        if not self._server_has(size):
            return False
        if session is None or self._session_has(session, size):
            return True
        budget = session.budget
        try:
            async with asyncio.timeout(self.settings.stall):
                while session.read and budget.waiting + size <= budget.limit:
                    await budget.wait(size)
                    if self._session_has(session, size):
                        return self._server_has(size)
        except TimeoutError:
            pass
        return False

    def _session_has(self, session: Session, size: int) -> bool:
        budget, reserved = session.budget, self.answer_room * len(session.calls)
        if budget.fits(reserved + size):
            return True
        for entry in list(session.finished):
            if _is_delivered(entry):
                self._drop_finished(session, entry)
                if budget.fits(reserved + size):
                    return True
        session.log.forget_delivered()
        return budget.fits(reserved + size)

    def _server_has(self, size: int) -> bool:
        budget, reserved = self.budget, self.answer_room * len(self.endpoint.tasks.calls)
        if budget.fits(reserved + size):
            return True
        self._relieve()
        return budget.fits(reserved + size)

    def _relieve(self) -> None:
        """Delivered answers of all sessions go, of those first that were not used for longest, until a quarter of
        the room is free. Where that is not to be had, the next look is some time away: each of them is dear."""
        now = self.endpoint.now()
        if now < self._next_relief:
            return
        self._next_relief = now + _RELIEF_EVERY
        enough = self.budget.limit // 4 * 3
        for session in sorted(self.endpoint.sessions.by_id.values(), key=lambda session: session.touched):
            session.log.forget_delivered()
            for entry in list(session.finished):
                if _is_delivered(entry):
                    self._drop_finished(session, entry)
            if self.budget.held <= enough:
                self._next_relief = now
                return

    def _drop_delivered(self, session: Session) -> None:
        for entry in list(session.finished):
            if session.finished_bytes <= self.settings.session_log // 4 and (
                len(session.finished) <= self.settings.finished // 2
            ):
                return
            if _is_delivered(entry):
                self._drop_finished(session, entry)

    def _drop_finished(self, session: Session, entry: Finished) -> None:
        session.finished.remove(entry)  # the oldest nearly always: found at once
        session.finished_bytes -= entry.size
        self.drop_log(session, entry.log)

    def expire(self, now: float) -> None:
        """Every few seconds: answers that are too old go."""
        before = now - self.settings.answer_time
        for session in self.endpoint.sessions.by_id.values():
            session.log.expire(before)
            while session.finished and session.finished[0].ended < before:
                self._drop_finished(session, session.finished[0])


def _is_delivered(entry: Finished) -> bool:
    return entry.log.reader is None and entry.log.delivered >= entry.log.last
