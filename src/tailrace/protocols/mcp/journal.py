"""A session's way into the store: what was promised is written before the promise is given.

An event may be sent once its commit is known. If a commit fails (a full disk), running work goes on
from memory and is still delivered, new work is refused, and one ERROR is logged for the outage. Where another
process has taken the store over, nothing that it does not know is delivered: the other one speaks now. Where another
may have (nobody could be asked for longer than a lease), it is withheld until that is known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tailrace.core.ports import AppendEvent, Kind, Record, Store, TrimStream
from tailrace.errors import EntryTaken, StoreError, StoreLost

if TYPE_CHECKING:
    from tailrace.core.log import Log

__all__ = ["Journals", "SessionJournal"]

logger = logging.getLogger("tailrace.store")


class Journals:
    """The journal of one server: the store, and whether it works at present."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.durable = store.durable
        self.failing = False
        self._withheld: dict[object, Callable[[], None]] = {}  # by what it is about

    def write(self, records: Sequence[Record], then: Callable[[StoreError | None], None] | None = None) -> int:
        """Hand over records; `then` is called on the loop with the outcome. Never raises.

        Returns:
            The ticket, or 0 where nothing was taken (`then` is told so).
        """
        try:
            ticket = self.store.write(records)
        except StoreError as error:
            self._outcome(then, error)
            return 0
        if then is not None:
            self.store.when(ticket, partial(self._outcome, then))
        return ticket

    async def commit(self, records: Sequence[Record]) -> None:
        """Write and wait until it is safe.

        Raises:
            StoreError: It is not.
        """
        waiter: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()

        def resolve(error: StoreError | None) -> None:
            if not waiter.done():
                waiter.set_result(error)

        self.write(records, resolve)
        if (error := await waiter) is not None:
            raise error

    def tell_from_memory(self, about: object, tell: Callable[[], None]) -> None:
        """What could not be committed is told all the same: now, later (see `tell_withheld`), or never.

        Args:
            about: Later, only the newest about the same is told.
            tell: Tells it.
        """
        if isinstance(self.store.failure, StoreLost):
            self._withheld.clear()
        elif self.store.is_held:
            tell()
        else:
            self._withheld[about] = tell

    def tell_withheld(self) -> None:
        """Tell it, if nobody else can have taken the store over by now."""
        if self._withheld and not isinstance(self.store.failure, StoreLost) and self.store.is_held:
            withheld, self._withheld = self._withheld, {}
            for tell in withheld.values():
                tell()

    def note(self, error: StoreError | None) -> None:
        """An outcome is known: one ERROR for an outage, not one for each event."""
        if error is None:
            self.failing = False
            self.tell_withheld()
        elif not self.failing:
            self.failing = True
            told = (
                "go on from memory" if self.store.is_held else "go on, and are answered once it is sure whose they are"
            )
            logger.error("the store does not commit; running calls %s error=%s", told, error)

    def _outcome(self, then: Callable[[StoreError | None], None] | None, error: StoreError | None) -> None:
        if (error is not None or self.failing) and not isinstance(error, EntryTaken):
            self.note(error)
        if then is not None:
            then(error)


class SessionJournal:
    """Writes the logs of one session (fulfils `core.log.Journal`).

    However many events wait for the disk, a log has one callback under way: it moves `ready` to what it
    was set for, and is set again for the newest event.
    """

    __slots__ = ("_along", "_newest", "_then", "journals", "session", "state_refused")

    def __init__(self, session: str, journals: Journals) -> None:
        self.session = session
        self.journals = journals
        self.state_refused = False  # the session's own values cannot be stored, which was logged
        self._along: list[Record] = []
        self._then: Callable[[StoreError | None], None] | None = None
        self._newest: dict[Log, tuple[int, int]] = {}  # per log: the newest event and its ticket

    def along(self, *records: Record, then: Callable[[StoreError | None], None] | None = None) -> None:
        """Commit `records` together with the next event, or not at all; `then` is called with the outcome before the
        event may be read."""
        self._along.extend(records)
        self._then = then

    def append(self, log: Log, seq: int, kind: Kind, payload: bytes) -> None:
        """Hand over one event; `log.commit` follows."""
        records: list[Record] = [AppendEvent(self.session, log.stream, seq, kind, payload)]
        if self._along:
            records += self._along
            self._along = []
        then, self._then = self._then, None
        ticket = self.journals.write(records, then)
        if log in self._newest:  # its callback is under way
            self._newest[log] = (seq, ticket)
        else:
            self._watch(log, seq, ticket)

    def trim(self, log: Log, kind: Kind, upto: int) -> None:
        """Forget events that the log no longer keeps."""
        self.journals.write([TrimStream(self.session, log.stream, kind, upto)])

    def _watch(self, log: Log, seq: int, ticket: int) -> None:
        if ticket:
            self._newest[log] = (seq, ticket)
            self.journals.store.when(ticket, partial(self._committed, log, seq))
        else:  # it took nothing
            self.journals.tell_from_memory(log, partial(log.commit, seq))

    def _committed(self, log: Log, seq: int, error: StoreError | None) -> None:
        if error is not None or self.journals.failing:
            self.journals.note(error)
        newest, ticket = self._newest.pop(log)
        if newest > seq:
            self._watch(log, newest, ticket)
        if error is None:
            log.commit(seq)
        elif not isinstance(error, StoreLost):
            self.journals.tell_from_memory(log, partial(log.commit, seq))
