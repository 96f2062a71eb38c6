"""Records become rows: many of them at once, gathered by kind, so that a thousand take a few dozen statements.

What cancels out within a batch (a call that has ended, an event that was trimmed, a session that was
dropped) is never written. When a batch is made, and in which transaction, is left to `sqlite_recent`.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from tailrace.core.ports import (
    AppendEvent,
    DropEntry,
    DropSession,
    DropStream,
    EndCall,
    PutCall,
    PutEntry,
    PutSession,
    Record,
    TrimStream,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

__all__ = ["Batch"]

_Row: TypeAlias = tuple[Any, ...]
_StreamKey: TypeAlias = tuple[str, int]
_LogKey: TypeAlias = tuple[str, int, int]  # session, stream, kind

_PUT_SESSION = "INSERT OR REPLACE INTO sessions (session, handle, principal, data, touched) VALUES "
_APPEND = "INSERT OR IGNORE INTO events (session, stream, kind, seq, payload) VALUES "
_LAST = "INSERT INTO streams (session, stream, last) VALUES "
_LAST_RAISED = " ON CONFLICT (session, stream) DO UPDATE SET last = max(last, excluded.last)"
_PUT_CALL = "INSERT OR REPLACE INTO calls (session, call, stream, data) VALUES "
_END_CALL = "WITH ended (session, call) AS (VALUES "
_ENDED = (  # CROSS JOIN: one look into the index for each, never through all calls
    ") DELETE FROM calls WHERE rowid IN (SELECT calls.rowid FROM ended CROSS JOIN calls"
    " ON calls.session = ended.session AND calls.call = ended.call)"
)
_TRIM = "DELETE FROM events WHERE session = ? AND stream = ? AND kind = ? AND seq <= ?"
_DROP_STREAM = (
    "DELETE FROM events WHERE session = ? AND stream = ?",
    "DELETE FROM streams WHERE session = ? AND stream = ?",
)
_DROP_SESSION = tuple(f"DELETE FROM {table} WHERE session = ?" for table in ("sessions", "streams", "events", "calls"))
_PUT_ENTRY = "INSERT OR REPLACE INTO entries (kind, key, data, expires, free) VALUES "
_DROP_ENTRY = "DELETE FROM entries WHERE kind = ? AND key = ?"

# Rows for one statement. SQLite's binding lets go of the GIL at each statement, and a busy loop is slow to
# give it back; so few statements. Three sizes only, so that each statement is parsed once and found again.
_ROWS_AT_ONCE = (256, 16, 1)


class Batch:
    """Records in their order, gathered by kind.

    `flush` runs the kinds in one fixed order. A record for which that order would differ from the order
    of arrival (one for a stream or session that is dropped in this batch, say) flushes what is before it.

    Args:
        connection: In a transaction; the caller's to commit.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._clear()

    def _clear(self) -> None:
        self._sessions: dict[str, _Row] = {}
        self._events: dict[_LogKey, dict[int, bytes]] = {}
        self._calls: dict[_StreamKey, _Row] = {}
        self._ended: dict[_StreamKey, None] = {}
        self._trims: dict[_LogKey, int] = {}
        self._dropped_streams: dict[_StreamKey, None] = {}
        self._dropped: dict[str, None] = {}
        self._entries: dict[tuple[str, str], _Row | None] = {}

    def add(self, record: Record) -> None:
        """Take one record in; may run statements."""
        if isinstance(record, AppendEvent):  # most of them are
            self._append(record)
        elif isinstance(record, PutEntry):  # entries have no order towards what belongs to a session
            row = (record.kind, record.key, record.data, record.expires, record.free)
            self._entries[record.kind, record.key] = row
        elif isinstance(record, DropEntry):
            self._entries[record.kind, record.key] = None
        else:
            self._add_other(record)

    def _add_other(self, record: PutCall | EndCall | TrimStream | PutSession | DropStream | DropSession) -> None:
        session = record.session
        if self._dropped and session in self._dropped:
            self.flush()
        if isinstance(record, PutCall):
            if (session, record.call) in self._ended:
                self.flush()
            self._calls[session, record.call] = (session, record.call, record.stream, record.data)
        elif isinstance(record, EndCall):
            self._calls.pop((session, record.call), None)
            self._ended[session, record.call] = None
        elif isinstance(record, TrimStream):
            key = (session, record.stream, record.kind)
            self._trims[key] = max(record.upto, self._trims.get(key, record.upto))
        elif isinstance(record, PutSession):
            self._sessions[session] = (session, record.handle, record.principal, record.data, record.touched)
        elif isinstance(record, DropStream):
            self._dropped_streams[session, record.stream] = None
        else:
            self._dropped[session] = None

    def _append(self, record: AppendEvent) -> None:
        session, stream, seq = record.session, record.stream, record.seq
        if self._dropped and session in self._dropped:
            self.flush()
        key = (session, stream, record.kind)
        if (self._trims and seq <= self._trims.get(key, seq - 1)) or (session, stream) in self._dropped_streams:
            self.flush()
        events = self._events.get(key)
        if events is None:
            events = self._events[key] = {}
        events.setdefault(seq, record.payload)

    def flush(self) -> None:
        """Run what was gathered. The order of these lines is the one that `add` relies on."""
        events = {key: self._events[key] for key in sorted(self._events) if not self._is_dropped(key)}
        self._insert(_PUT_SESSION, [row for row in self._sessions.values() if row[0] not in self._dropped], 5)
        self._insert(_APPEND, self._event_rows(events), 5)
        self._insert(_LAST, _last_rows(events), 3, _LAST_RAISED)
        self._insert(_PUT_CALL, [row for row in self._calls.values() if row[0] not in self._dropped], 4)
        self._insert(_END_CALL, self._ended, 2, _ENDED)
        self._run((_TRIM,), [(*key, upto) for key, upto in self._trims.items()])
        self._run(_DROP_STREAM, list(self._dropped_streams))
        self._run(_DROP_SESSION, [(session,) for session in self._dropped])
        self._insert(_PUT_ENTRY, [row for row in self._entries.values() if row is not None], 5)
        self._run((_DROP_ENTRY,), [key for key, row in self._entries.items() if row is None])
        self._clear()

    def _is_dropped(self, key: _LogKey) -> bool:
        return key[0] in self._dropped or key[:2] in self._dropped_streams

    def _event_rows(self, logs: dict[_LogKey, dict[int, bytes]]) -> list[_Row]:
        rows: list[_Row] = []
        for key, events in logs.items():
            upto = self._trims.get(key)
            rows += [(*key, seq, payload) for seq, payload in events.items() if upto is None or seq > upto]
        return rows

    def _insert(self, head: str, given: Iterable[_Row], width: int, tail: str = "") -> None:
        rows = list(given)
        row = f"({','.join('?' * width)})"
        start = 0
        for size in _ROWS_AT_ONCE:
            sql = head + ",".join([row] * size) + tail
            while len(rows) - start >= size:
                self._connection.execute(sql, list(chain.from_iterable(rows[start : start + size])))
                start += size

    def _run(self, statements: Sequence[str], rows: Sequence[_Row]) -> None:
        if rows:
            for sql in statements:
                self._connection.executemany(sql, rows)


def _last_rows(logs: dict[_LogKey, dict[int, bytes]]) -> list[_Row]:
    """The highest number that was written to each stream, also where the event itself was trimmed since."""
    last: dict[_StreamKey, int] = {}
    for (session, stream, _), events in logs.items():
        newest = max(events)
        last[session, stream] = max(newest, last.get((session, stream), newest))
    return [(*key, seq) for key, seq in last.items()]
