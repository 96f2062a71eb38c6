"""A stream's bounded log: frames go in once and get a number; a connection is a cursor over it.

This is the only queue between a handler and a socket, so there is no gap between replay and live,
and nothing to close in the right order. Notifications live in a ring; answers and server requests
are kept until they were delivered and have expired. With a journal, an event may be read only once
it is durable. The log knows no framing, no protocol and no clock: the time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

from tailrace.core.budget import EVENT_BYTES
from tailrace.core.cursor import Cursor
from tailrace.core.ports import Kind
from tailrace.core.waiters import Waiters

if TYPE_CHECKING:
    from tailrace.core.budget import Budget

__all__ = ["MANY_EVENTS", "Journal", "Log"]

_TRIM_EVERY = 64  # evictions that are told to the journal together
_LAST_UNREAD = 16 * 1024  # bytes of notifications that wait for a connected reader there, if their producer does not
MANY_EVENTS = 1024  # events that are read at once: framing tiny ones takes longer than sending them
_LAST_NOTE = 4096  # bytes of the one notification that a ring keeps where there is no room at all


class Journal(Protocol):
    """Where a log's events become durable. `append` is told of each event and calls `Log.commit` when it is safe."""

    def append(self, log: Log, seq: int, kind: Kind, payload: bytes) -> None:
        """Hand over one event."""
        ...

    def trim(self, log: Log, kind: Kind, upto: int) -> None:
        """Forget the events of `kind` up to `upto`."""
        ...


class Log:
    """A stream's events, numbered from 1 without holes, read by at most one cursor at a time.

    One event loop owns it; no method waits, except `room`.

    Args:
        stream: The stream's number within its session.
        ring: Bytes of notifications that are kept; the oldest go first.
        kept: Bytes of *delivered* answers that are kept for a resume; the oldest go first, and the newest stays,
            however large. 0 where nobody can resume: none is kept.
        high_water: Unread bytes at which `room` begins to wait for a connected reader.
        journal: Where events become durable, or None.
        last: The number of the last event of an earlier process life.
        budget: Where what it holds is counted; over it, the ring keeps hardly anything.
    """

    __slots__ = (
        "_answers",
        "_asked",
        "_delivered",
        "_dropped",
        "_events",
        "_evicted",
        "_rooms",
        "answer_bytes",
        "budget",
        "bytes",
        "delivered",
        "delivered_bytes",
        "discarded",
        "ended",
        "high_water",
        "journal",
        "kept",
        "last",
        "origin",
        "reader",
        "ready",
        "ring",
        "ring_bytes",
        "ring_seqs",
        "stream",
        "uncommitted",
    )

    def __init__(
        self,
        stream: int = 0,
        *,
        ring: int = 1024 * 1024,
        kept: int = 1024 * 1024,
        high_water: int = 256 * 1024,
        journal: Journal | None = None,
        last: int = 0,
        budget: Budget | None = None,
    ) -> None:
        self.stream = stream
        self.ring = ring
        self.kept = kept
        self.high_water = high_water
        self.journal = journal
        self.budget = budget
        self.last = last  # the newest event's number
        self.ready = last  # the newest that may be read
        self.origin = last  # the newest of an earlier process life
        self.delivered = 0  # the newest that a connection took
        self.uncommitted = 0  # bytes that the journal has, and has not committed
        self.ended = False
        self.discarded = False  # nobody will read it again, but for who does now
        self.bytes = 0
        self.ring_bytes = 0
        self.answer_bytes = 0
        self.delivered_bytes = 0  # of the answers in `_delivered`
        self.ring_seqs: deque[int] = deque()
        self._answers: deque[tuple[int, float]] = deque()  # number and time
        self._delivered: deque[tuple[int, float]] = deque()  # they move here only when bytes are short
        self._events: dict[int, bytes] = {}
        self._evicted = 0  # notifications that the journal was not yet told of
        self._dropped = 0  # answers
        self._asked: _Asked | None = None
        self._rooms = Waiters()
        self.reader: Cursor | None = None

    # --- writing ---

    def append(self, payload: bytes, kind: Kind, now: float = 0.0) -> int:
        """Add one event and wake the reader; returns its number. An ended log takes none and returns 0."""
        if self.ended:
            return 0
        self.last = seq = self.last + 1
        self._keep(seq, payload, kind, now)
        if self.journal is None:
            self._make_ready(seq)
        else:
            self.uncommitted += len(payload)
            self.journal.append(self, seq, kind, payload)
        return seq

    def restore(self, seq: int, payload: bytes, kind: Kind, now: float = 0.0) -> None:
        """Put back one event of an earlier process life, in the order of the numbers; it is durable already."""
        self._keep(seq, payload, kind, now)

    def commit(self, seq: int) -> None:
        """The journal says that everything up to `seq` is safe to be read."""
        if seq > self.ready:
            later = range(seq + 1, self.last + 1)
            self.uncommitted = sum(len(self._events.get(number, b"")) for number in later) if later else 0
            self._make_ready(seq)
            if self.uncommitted <= self.high_water:
                self.free_rooms()

    def replace(self, seq: int, payload: bytes) -> None:
        """What was appended as answer `seq` turned out not to be so, before anybody may read it: it says this instead.
        Harmless where it has gone meanwhile."""
        old = self._events.get(seq)
        if old is None:
            return
        grown = len(payload) - len(old)
        self._events[seq] = payload
        self.bytes += grown
        self.answer_bytes += grown
        if self.budget is not None:
            self.budget.add(grown)
        if self.reader is not None:
            self.reader.unread += grown

    def end(self) -> None:
        """No event will follow. Idempotent; the reader still reads what is there, then ends."""
        if not self.ended:
            self.ended = True
            self.free_rooms()
            if self.reader is not None:
                self.reader.wake()

    async def room(self, limit: int | None = None) -> None:
        """Wait while a connected reader or the journal is behind by more than `limit` bytes (default: `high_water`).

        Where the budget is full, behind is a reader that has not taken everything. Returns as soon as it caught up,
        went away (also by its own stall limit) or the log ended, and the journal has had its say: never raises for a
        slow reader, never waits for an absent one.
        """
        limit = self.high_water if limit is None else limit
        while not self.ended and (self.uncommitted > limit or self._reader_is_behind(limit)):
            await self._rooms.wait()

    def _reader_is_behind(self, limit: int) -> bool:
        if self.reader is None:
            return False
        unread = self.reader.unread
        return unread > limit or (unread > 0 and self.budget is not None and self.budget.full)

    # --- reading ---

    def attach(self, after: int) -> Cursor:
        """Begin to read behind event `after`; the newest reader takes the stream, an older one is stopped."""
        if self.reader is not None:
            self.reader.stop()
        self.reader = cursor = Cursor(self, min(after, self.last))
        return cursor

    def missing(self, after: int) -> int:
        """How many events behind `after` are no longer there: 0 means that a resume is complete."""
        if after >= self.last:
            return 0
        kept = sum(1 for _ in takewhile(lambda seq: seq > after, reversed(self._events)))  # they are in order
        return self.last - after - kept - self.resolved(after, self.last)

    def bytes_after(self, after: int) -> int:
        """How many bytes are kept behind `after`."""
        newest = takewhile(lambda event: event[0] > after, reversed(self._events.items()))
        return sum(len(payload) for _, payload in newest)

    def read(self, after: int, limit: int) -> tuple[list[tuple[int, bytes]], int, int]:
        """Events behind `after` that may be read, up to about `limit` bytes and not too many of them: they, the last
        number looked at, their bytes."""
        events, ready, seq = self._events, self.ready, after
        found: list[tuple[int, bytes]] = []
        size = 0
        if ready - after <= 2 * len(events):
            numbers: Iterable[int] = range(after + 1, ready + 1)
        else:  # most of the numbers are gone: walk what is there
            numbers = [number for number in events if after < number <= ready]
        for number in numbers:
            payload = events.get(number)
            if payload is not None:
                found.append((number, payload))
                size += len(payload)
                if size >= limit or len(found) >= MANY_EVENTS:
                    seq = number
                    break
        else:
            seq = ready
        return found, seq, size

    @property
    def events(self) -> int:
        """How many events it holds."""
        return len(self._events)

    @property
    def finished(self) -> bool:
        """It has ended and all of it may be read."""
        return self.ended and self.ready >= self.last

    # --- keeping ---

    def expire(self, before: float) -> None:
        """Forget the answers that are older than `before`, delivered or not."""
        while self._delivered and self._delivered[0][1] < before:
            self._drop_delivered()
        while self._answers and self._answers[0][1] < before:
            self._drop(self._answers.popleft()[0])
        self._tell_dropped()

    def resolve(self, seq: int) -> None:
        """A request to the client (`Kind.REQUEST`) is over: it is not shown again, and its absence is no gap."""
        asked = self._asked = self._asked or _Asked()
        asked.open.pop(seq, None)
        asked.over.append(seq)
        for kept in (self._answers, self._delivered):
            if (entry := next((entry for entry in kept if entry[0] == seq), None)) is not None:
                kept.remove(entry)
                size = self._remove(seq)
                self.answer_bytes -= size
                self.delivered_bytes -= size if kept is self._delivered else 0
        if self.journal is not None:
            self.journal.trim(self, Kind.REQUEST, min(asked.open, default=self.last + 1) - 1)

    def resolved(self, after: int, upto: int) -> int:
        """How many requests among the events behind `after`, up to `upto`, are over."""
        return sum(1 for seq in self._asked.over if after < seq <= upto) if self._asked is not None else 0

    def forget_delivered(self) -> None:
        """Everything goes that a connection took, the answers as well as the notifications."""
        self._set_delivered_aside()
        while self._delivered:
            self._drop_delivered()
        self._tell_dropped()
        seqs = self.ring_seqs
        while seqs and seqs[0] <= self.delivered:
            self.ring_bytes -= self._remove(seqs.popleft())
            self._evicted += 1

    def discard(self) -> None:
        """Nobody will attach any more: hold nothing, as soon as its present reader has gone. Idempotent."""
        self.discarded = True
        self.end()
        if self.reader is None:
            self.free()

    def free(self) -> None:
        """(The reader's.) Hold nothing any more."""
        if self.budget is not None:
            self.budget.add(-self.bytes - EVENT_BYTES * len(self._events))
        for container in (self._events, self.ring_seqs, self._answers, self._delivered):
            container.clear()
        self.bytes = self.ring_bytes = self.answer_bytes = self.delivered_bytes = 0

    def _keep(self, seq: int, payload: bytes, kind: Kind, now: float) -> None:
        size = len(payload)
        self._events[seq] = payload
        self.bytes += size
        budget = self.budget
        if budget is not None:
            budget.add(size + EVENT_BYTES)
        if self.reader is not None:
            self.reader.unread += size
        if kind is Kind.NOTIFICATION:
            self.ring_seqs.append(seq)
            self.ring_bytes += size
            if self.ring_bytes > self.ring:
                self._turn_ring(self.ring, 1)  # the newest stays, however large
            if budget is not None and budget.full:
                self._give_way()
        else:
            self._answers.append((seq, now))
            self.answer_bytes += size
            if kind is Kind.REQUEST:
                self._asked = self._asked or _Asked()
                self._asked.open[seq] = None

    def _give_way(self) -> None:
        """The budget is full: what a connected reader has taken goes, what it has not taken stays (`room` makes the
        producer wait for it). Only of what nobody reads, or a producer piles up that does not wait, more goes."""
        if self.reader is None:
            return self._turn_ring(_LAST_NOTE, 0)
        seqs, taken = self.ring_seqs, self.reader.seq
        while seqs and seqs[0] <= taken:
            self.ring_bytes -= self._remove(seqs.popleft())
            self._evicted += 1
        return self._turn_ring(_LAST_UNREAD, 1)

    def _turn_ring(self, limit: int, least: int) -> None:
        """Let the oldest notifications go until `limit` bytes, or `least` of them, are left."""
        seqs = self.ring_seqs
        while self.ring_bytes > limit and len(seqs) > least:
            self.ring_bytes -= self._remove(seqs.popleft())
            self._evicted += 1
        if self._evicted >= _TRIM_EVERY and self.journal is not None:
            self._evicted = 0
            self.journal.trim(self, Kind.NOTIFICATION, seqs[0] - 1 if seqs else self.last)

    def mark_delivered(self, seq: int) -> None:
        """(The reader's.) A connection took everything up to `seq`: delivered answers over the cap go, oldest first."""
        self.delivered = max(self.delivered, seq)
        if not self.kept:
            return self.forget_delivered()  # nobody can resume
        if self.answer_bytes <= self.kept:
            return None
        self._set_delivered_aside()
        while self.delivered_bytes > self.kept and len(self._delivered) > 1:
            self._drop_delivered()
        if self._dropped >= _TRIM_EVERY:
            self._tell_dropped()
        return None

    def _set_delivered_aside(self) -> None:
        while self._answers and self._answers[0][0] <= self.delivered:
            answer = self._answers.popleft()
            self._delivered.append(answer)
            self.delivered_bytes += len(self._events[answer[0]])

    def _drop_delivered(self) -> None:
        self.delivered_bytes -= self._drop(self._delivered.popleft()[0])

    def _drop(self, seq: int) -> int:
        size = self._remove(seq)
        self.answer_bytes -= size
        self._dropped += 1
        return size

    def _remove(self, seq: int) -> int:
        size = len(self._events.pop(seq))
        self.bytes -= size
        if self.budget is not None:
            self.budget.add(-size - EVENT_BYTES)
        if self.reader is not None and seq > self.reader.seq:
            self.reader.unread -= size
        return size

    def _tell_dropped(self) -> None:
        if self._dropped and self.journal is not None:
            self._dropped = 0
            oldest = self._delivered or self._answers
            upto = oldest[0][0] - 1 if oldest else self.last
            self.journal.trim(self, Kind.ANSWER, upto)
            self.journal.trim(self, Kind.REQUEST, upto)

    def _make_ready(self, seq: int) -> None:
        self.ready = seq
        if self.reader is not None:
            self.reader.wake()

    def free_rooms(self) -> None:
        """(The reader's.) Whoever waits in `room` looks again."""
        self._rooms.wake()


class _Asked:
    """The requests to the client among a log's events: most logs have none."""

    __slots__ = ("open", "over")

    def __init__(self) -> None:
        self.open: dict[int, None] = {}
        self.over: deque[int] = deque(maxlen=1024)
