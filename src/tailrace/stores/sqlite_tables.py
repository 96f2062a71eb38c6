"""The tables of the SQLite store: their making and migration, and the reads.

Everything here runs in the store's one thread, inside a transaction that the store begins and ends.
Which thread, which file and what happens when a commit fails is left to `sqlite`; how records become
rows, to `sqlite_batch`; when, to `sqlite_recent`.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from tailrace.core.ports import StoredCall, StoredEvent, StoredSession
from tailrace.stores.sqlite_recent import merge_rows

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "count",
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
    ("CREATE TABLE recent (number INTEGER PRIMARY KEY, records BLOB NOT NULL)",),  # see `sqlite_recent`
    ("ALTER TABLE entries ADD COLUMN free INTEGER NOT NULL DEFAULT 0",),  # true: anybody may claim it
)

# Every event has its stream, so that of the large table only what goes is read.
_ORPHANS = (
    "DELETE FROM events WHERE session IN"
    " (SELECT session FROM streams WHERE session NOT IN (SELECT session FROM sessions))",
    "DELETE FROM streams WHERE session NOT IN (SELECT session FROM sessions)",
    "DELETE FROM calls WHERE session NOT IN (SELECT session FROM sessions)",
)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables from `version` up to date, merge what is recent, and clear away what belongs to no session."""
    for number, steps in enumerate(MIGRATIONS[version:], version + 1):
        for step in steps:
            connection.execute(step)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number}")
    merge_rows(connection)
    for clearing in _ORPHANS:
        connection.execute(clearing)


# --- writing ------------------------------------------------------------------------------------


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


def count(connection: sqlite3.Connection, kind: str, now: float) -> int:
    """How many entries of a kind there are, without the expired."""
    (found,) = connection.execute("SELECT count(*) FROM entries WHERE kind = ? AND expires > ?", (kind, now)).fetchone()
    return found


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
