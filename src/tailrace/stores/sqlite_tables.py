"""The tables of the SQLite store: their making and migration, a batch of records as few statements, the reads.

Everything here runs in the store's one thread, inside a transaction that the store begins and ends.
Which thread, which file and what happens when a commit fails is left to `sqlite`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from tailrace.core.ports import (
    AppendEvent,
    DropEntry,
    DropStream,
    EndCall,
    PutCall,
    PutEntry,
    PutSession,
    Record,
    StoredCall,
    StoredEntry,
    StoredEvent,
    StoredSession,
    TrimStream,
)

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "Batch",
    "count",
    "entries",
    "entry",
    "expire",
    "load",
    "migrate",
    "next_epoch",
    "probe",
    "sealing_secrets",
    "sessions",
    "unfinished",
]

APPLICATION_ID = int.from_bytes(b"tail", "big")  # in the file's header: this database is a Tailrace store

# Step i takes a file from version i to i + 1 (`PRAGMA user_version`); version 0 is an empty file. Steps that
# were released never change. They run outside WAL mode, so that the file's own header always tells its version
# and an older Tailrace can refuse the file without touching it.
#
# The kind stands in the key of an event: a trim is then one range, however many answers are kept among
# the notifications. Rows refer to each other by key only, without foreign keys: a record that relies on
# one whose commit failed is written all the same, and what stays an orphan goes at the next opening.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL)",
        "CREATE TABLE secrets (made INTEGER PRIMARY KEY AUTOINCREMENT, secret BLOB NOT NULL)",
        "CREATE TABLE sessions (session TEXT PRIMARY KEY, handle BLOB NOT NULL, principal TEXT NOT NULL,"
        " data BLOB NOT NULL, touched REAL NOT NULL)",
        "CREATE INDEX sessions_by_handle ON sessions (handle)",
        "CREATE TABLE streams (session TEXT, stream INTEGER, last INTEGER NOT NULL,"
        " PRIMARY KEY (session, stream)) WITHOUT ROWID",
        "CREATE TABLE events (session TEXT NOT NULL, stream INTEGER NOT NULL, kind INTEGER NOT NULL,"
        " seq INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (session, stream, kind, seq))",
        "CREATE TABLE calls (session TEXT NOT NULL, call INTEGER NOT NULL, stream INTEGER NOT NULL,"
        " data BLOB NOT NULL, PRIMARY KEY (session, call))",
    ),
    (
        "CREATE TABLE entries (kind TEXT NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL, expires REAL NOT NULL,"
        " PRIMARY KEY (kind, key))",
        "CREATE INDEX entries_by_expiry ON entries (expires)",
    ),
)

# Every event has its stream, so that of the large table only what goes is read.
_ORPHANS = (
    "DELETE FROM events WHERE session IN"
    " (SELECT session FROM streams WHERE session NOT IN (SELECT session FROM sessions))",
    "DELETE FROM streams WHERE session NOT IN (SELECT session FROM sessions)",
    "DELETE FROM calls WHERE session NOT IN (SELECT session FROM sessions)",
)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables from `version` up to date, and clear away what belongs to no session."""
    for number, steps in enumerate(MIGRATIONS[version:], version + 1):
        for step in steps:
            connection.execute(step)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number}")
    for clearing in _ORPHANS:
        connection.execute(clearing)


# --- writing ------------------------------------------------------------------------------------

_Row: TypeAlias = tuple[Any, ...]
_StreamKey: TypeAlias = tuple[str, int]

_PUT_SESSION = "INSERT OR REPLACE INTO sessions (session, handle, principal, data, touched) VALUES "
_APPEND = "INSERT OR IGNORE INTO events (session, stream, kind, seq, payload) VALUES "
_LAST = "INSERT INTO streams (session, stream, last) VALUES "
_LAST_RAISED = " ON CONFLICT (session, stream) DO UPDATE SET last = max(last, excluded.last)"
_PUT_ENTRY = "INSERT OR REPLACE INTO entries (kind, key, data, expires) VALUES "
_DROP_ENTRY = "DELETE FROM entries WHERE kind = ? AND key = ?"
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

# Rows for one statement. SQLite's binding lets go of the GIL at each statement, and a busy loop is slow to
# give it back; so few statements. Two sizes only, so that each statement is parsed once and found again.
_ROWS_AT_ONCE = 32


class Batch:
    """Records in their order, gathered by kind, so that a thousand of them take a few dozen statements.

    `flush` runs the kinds in one fixed order. A record for which that order would differ from the order
    of arrival (one for a stream or session that is dropped in this batch, say) flushes what is before it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._clear()

    def _clear(self) -> None:
        self._sessions: dict[str, _Row] = {}
        self._events: list[_Row] = []
        self._last: dict[_StreamKey, int] = {}
        self._calls: dict[_StreamKey, _Row] = {}
        self._ended: dict[_StreamKey, None] = {}
        self._trims: dict[tuple[str, int, int], int] = {}
        self._dropped_streams: dict[_StreamKey, None] = {}
        self._dropped: dict[str, None] = {}
        self._entries: dict[tuple[str, str], _Row | None] = {}

    def add(self, record: Record) -> None:
        """Take one record in; may run statements."""
        if isinstance(record, PutEntry):  # entries have no order towards what belongs to a session
            self._entries[record.kind, record.key] = (record.kind, record.key, record.data, record.expires)
            return
        if isinstance(record, DropEntry):
            self._entries[record.kind, record.key] = None
            return
        session = record.session
        if self._dropped and session in self._dropped:
            self.flush()
        if isinstance(record, AppendEvent):
            self._append(record)
        elif isinstance(record, PutCall):
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
        trimmed = self._trims.get((session, stream, record.kind)) if self._trims else None
        if (trimmed is not None and seq <= trimmed) or (session, stream) in self._dropped_streams:
            self.flush()
        self._events.append((session, stream, record.kind, seq, record.payload))
        if self._last.get((session, stream), seq - 1) < seq:
            self._last[session, stream] = seq

    def flush(self) -> None:
        """Run what was gathered. The order of these lines is the one that `add` relies on."""
        self._insert(_PUT_SESSION, self._sessions.values(), 5)
        self._insert(_APPEND, self._events, 5)
        self._insert(_LAST, [(*key, last) for key, last in self._last.items()], 3, _LAST_RAISED)
        self._insert(_PUT_CALL, self._calls.values(), 4)
        self._insert(_END_CALL, self._ended, 2, _ENDED)
        self._run((_TRIM,), [(*key, upto) for key, upto in self._trims.items()])
        self._run(_DROP_STREAM, list(self._dropped_streams))
        self._run(_DROP_SESSION, [(session,) for session in self._dropped])
        self._insert(_PUT_ENTRY, [row for row in self._entries.values() if row is not None], 4)
        self._run((_DROP_ENTRY,), [key for key, row in self._entries.items() if row is None])
        self._clear()

    def _insert(self, head: str, given: Iterable[_Row], width: int, tail: str = "") -> None:
        rows = list(given)
        many = len(rows) - len(rows) % _ROWS_AT_ONCE
        row = f"({','.join('?' * width)})"
        for size, part in ((_ROWS_AT_ONCE, rows[:many]), (1, rows[many:])):
            if part:
                sql = head + ",".join([row] * size) + tail
                for start in range(0, len(part), size):
                    self._connection.execute(sql, list(chain.from_iterable(part[start : start + size])))

    def _run(self, statements: Sequence[str], rows: Sequence[_Row]) -> None:
        if rows:
            for sql in statements:
                self._connection.executemany(sql, rows)


def expire(connection: sqlite3.Connection, now: float, most: int) -> int:
    """Delete at most `most` entries that have expired; how many it were."""
    return connection.execute(
        "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE expires <= ? ORDER BY expires LIMIT ?)",
        (now, most),
    ).rowcount


def probe(connection: sqlite3.Connection) -> None:
    """Write a little that means nothing, to learn whether writing works."""
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', 0)")


# --- reading ------------------------------------------------------------------------------------


def load(connection: sqlite3.Connection, session: str | None, handle: bytes | None) -> StoredSession | None:
    """One session, by its id or else by its handle."""
    where, key = ("handle", handle) if session is None else ("session", session)
    found = connection.execute(
        f"SELECT session, handle, principal, data, touched FROM sessions WHERE {where} = ?", (key,)
    ).fetchone()
    if found is None:
        return None
    of = (found[0],)
    events = connection.execute(
        "SELECT stream, seq, kind, payload FROM events WHERE session = ? ORDER BY stream, seq", of
    )
    last = connection.execute("SELECT stream, last FROM streams WHERE session = ? ORDER BY stream", of)
    calls = connection.execute("SELECT call, stream, data FROM calls WHERE session = ? ORDER BY call", of)
    return StoredSession(
        *found,
        events=[StoredEvent(*row) for row in events],
        last=dict(last.fetchall()),
        calls=[StoredCall(*row) for row in calls],
    )


def sessions(connection: sqlite3.Connection) -> list[tuple[str, float]]:
    """All sessions with the time of their last use, oldest first."""
    return connection.execute("SELECT session, touched FROM sessions ORDER BY touched, session").fetchall()


def unfinished(connection: sqlite3.Connection) -> list[str]:
    """The sessions that hold calls."""
    rows = connection.execute(
        "SELECT session FROM sessions WHERE session IN (SELECT session FROM calls) ORDER BY session"
    )
    return [session for (session,) in rows]


def entry(connection: sqlite3.Connection, kind: str, key: str, now: float) -> StoredEntry | None:
    """One entry that has not expired."""
    found = connection.execute(
        "SELECT key, data, expires FROM entries WHERE kind = ? AND key = ? AND expires > ?", (kind, key, now)
    ).fetchone()
    return None if found is None else StoredEntry(*found)


def count(connection: sqlite3.Connection, kind: str, now: float) -> int:
    """How many entries of a kind there are, without the expired."""
    (found,) = connection.execute("SELECT count(*) FROM entries WHERE kind = ? AND expires > ?", (kind, now)).fetchone()
    return found


def entries(connection: sqlite3.Connection, kind: str, after: str, limit: int, now: float) -> list[StoredEntry]:
    """The next entries of a kind by their keys, without the expired."""
    rows = connection.execute(
        "SELECT key, data, expires FROM entries WHERE kind = ? AND key > ? AND expires > ? ORDER BY key LIMIT ?",
        (kind, after, now, limit),
    )
    return [StoredEntry(*row) for row in rows]


def sealing_secrets(connection: sqlite3.Connection) -> list[bytes]:
    """The secrets, newest first; made here when there is none."""
    newest = "SELECT secret FROM secrets ORDER BY made DESC LIMIT 2"
    if connection.execute(newest).fetchone() is None:
        connection.execute("INSERT INTO secrets (secret) VALUES (?)", (secrets.token_bytes(32),))
    return [secret for (secret,) in connection.execute(newest)]


def next_epoch(connection: sqlite3.Connection) -> int:
    """One more than the last time."""
    connection.execute(
        "INSERT INTO meta (key, value) VALUES ('epoch', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
    )
    (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    return epoch
