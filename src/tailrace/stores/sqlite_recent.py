"""What was committed last: one row a commit, as it came, sorted into the tables later and all at once.

A commit of a few records would touch a page in each of many places of the tables and their indexes: every
session has its own. So a commit appends one row, with all its records, and only when some megabytes
have come together are they merged into the tables, in order, without what has cancelled out meanwhile;
as a log-structured merge does. What is read comes after a merge, or from memory.
"""

from __future__ import annotations

import logging
import sqlite3
from heapq import nsmallest
from typing import TYPE_CHECKING

import msgspec

from tailrace.core.ports import (
    AppendEvent,
    DropEntry,
    DropStream,
    EndCall,
    PutCall,
    PutEntry,
    PutSession,
    Record,
    StoredEntry,
    TrimStream,
)
from tailrace.stores.sqlite_batch import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Recent", "encode", "is_worlds_fault", "merge_rows"]

logger = logging.getLogger("tailrace.store")

# A statement outside of a transaction is one by itself: the GIL is let go once, and a busy loop slow to give it
# back only once.
_APPEND = "INSERT INTO recent (records) VALUES (?)"
_LARGEST = 2**63 - 1

_encoder = msgspec.msgpack.Encoder()
_decode_all = msgspec.msgpack.Decoder(list[Record]).decode
_decode_apart = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_one = msgspec.msgpack.Decoder(Record).decode


def encode(records: Sequence[Record]) -> bytes:
    """The row of a commit. What is committed must be mergeable later, so what the tables do not hold is refused now.

    Raises:
        ValueError, TypeError, OverflowError: A number is out of range, or a text is none.
    """
    for record in records:
        if isinstance(record, AppendEvent):
            fits = -_LARGEST <= record.seq <= _LARGEST and -_LARGEST <= record.stream <= _LARGEST
        elif isinstance(record, PutCall):
            fits = -_LARGEST <= record.call <= _LARGEST and -_LARGEST <= record.stream <= _LARGEST
        elif isinstance(record, EndCall):
            fits = -_LARGEST <= record.call <= _LARGEST
        elif isinstance(record, TrimStream):
            fits = -_LARGEST <= record.upto <= _LARGEST and -_LARGEST <= record.stream <= _LARGEST
        elif isinstance(record, DropStream):
            fits = -_LARGEST <= record.stream <= _LARGEST
        elif isinstance(record, PutSession):
            fits = record.touched == record.touched  # else it is no number
        elif isinstance(record, PutEntry):
            fits = record.expires == record.expires
        else:
            fits = True
        if not fits:
            raise ValueError(f"a number of {type(record).__name__} is out of range")
    return _encoder.encode(records)


def is_worlds_fault(error: Exception) -> bool:
    """True where the disk or the file is at fault, False where a record is: too large, not text, out of range."""
    if isinstance(
        error, sqlite3.DataError | sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.ProgrammingError
    ):
        return False
    return isinstance(error, sqlite3.DatabaseError)


def merge_rows(connection: sqlite3.Connection) -> None:
    """Merge what an earlier process life has left; in a transaction of the caller's."""
    records: list[Record] = []
    for (row,) in connection.execute("SELECT records FROM recent ORDER BY number").fetchall():
        records.extend(_decoded(row))
    _merge(connection, records)
    connection.execute("DELETE FROM recent")


class Recent:
    """The commits that were not merged yet, as they are held in memory, too.

    Args:
        limit: Bytes of records, as `write_weight` counts them, at which the next commit merges.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: list[Record] = []
        self._entries: dict[str, dict[str, PutEntry | None]] = {}  # by kind, then by key; None where it was dropped
        self._weight = 0

    @property
    def is_full(self) -> bool:
        """The next commit has to merge."""
        return self._weight >= self._limit

    def commit(self, connection: sqlite3.Connection, records: Sequence[Record], weight: int) -> None:
        """Commit records as a row; in no transaction, because this is one.

        Raises:
            ValueError, TypeError, OverflowError: They hold something that cannot be written.
        """
        if not records:
            return
        connection.execute(_APPEND, (encode(records),))
        self._records += records
        self._weight += weight
        for record in records:
            if isinstance(record, PutEntry | DropEntry):
                entries = self._entries.setdefault(record.kind, {})
                entries[record.key] = record if isinstance(record, PutEntry) else None

    def is_held(self, connection: sqlite3.Connection, claim: PutEntry, now: float) -> bool:
        """Whether the entry that is claimed is there, has not expired and was not left free."""
        recent = self._entries.get(claim.kind, {})
        if claim.key in recent:
            put = recent[claim.key]
            return put is not None and not put.free and put.expires > now
        held = "SELECT 1 FROM entries WHERE kind = ? AND key = ? AND expires > ? AND NOT free"
        return connection.execute(held, (claim.kind, claim.key, now)).fetchone() is not None

    def merge(self, connection: sqlite3.Connection) -> None:
        """Bring what is recent into the tables; the caller commits the transaction, and then says `merged`."""
        if self._records:
            _merge(connection, self._records)
            connection.execute("DELETE FROM recent")

    def merged(self) -> None:
        """The merge is committed."""
        self._records = []
        self._entries = {}
        self._weight = 0

    def entry(self, connection: sqlite3.Connection, kind: str, key: str, now: float) -> StoredEntry | None:
        """One entry that has not expired; reading it needs no merge."""
        recent = self._entries.get(kind, {})
        if key in recent:
            return _unexpired(recent[key], now)
        found = connection.execute(
            "SELECT key, data, expires FROM entries WHERE kind = ? AND key = ? AND expires > ?", (kind, key, now)
        ).fetchone()
        return None if found is None else StoredEntry(*found)

    def entries(
        self, connection: sqlite3.Connection, kind: str, after: str, limit: int, now: float
    ) -> list[StoredEntry]:
        """The next entries of a kind by their keys, without the expired; reading them needs no merge."""
        recent = self._entries.get(kind, {})
        fresh = (key for key, put in recent.items() if key > after and _unexpired(put, now) is not None)
        page = {key: _unexpired(recent[key], now) for key in nsmallest(limit, fresh)}
        rows = connection.execute(
            "SELECT key, data, expires FROM entries WHERE kind = ? AND key > ? AND expires > ? ORDER BY key",
            (kind, after, now),
        )
        found = 0
        for row in rows:  # no more of them than are needed: a few of many, often
            if row[0] not in recent:
                page[row[0]] = StoredEntry(*row)
                found += 1
                if found == limit:
                    break
        rows.close()
        return [entry for _, entry in sorted(page.items())[:limit] if entry is not None]


def _unexpired(put: PutEntry | None, now: float) -> StoredEntry | None:
    return None if put is None or put.expires <= now else StoredEntry(put.key, put.data, put.expires)


def _merge(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    connection.execute("SAVEPOINT whole")
    try:
        _apply(connection, records)
    except Exception as error:
        if is_worlds_fault(error):
            raise
        connection.execute("ROLLBACK TO whole")
        for record in records:
            _apply_alone(connection, record)
    connection.execute("RELEASE whole")


def _apply(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    batch = Batch(connection)
    for record in records:
        batch.add(record)
    batch.flush()


def _apply_alone(connection: sqlite3.Connection, record: Record) -> None:
    """A record that the tables refuse (a bug: `check` should have) must not keep the others out for ever."""
    connection.execute("SAVEPOINT one")
    try:
        _apply(connection, [record])
    except Exception as error:
        if is_worlds_fault(error):
            raise
        connection.execute("ROLLBACK TO one")
        logger.error("a record cannot be stored record=%s error=%s", type(record).__name__, error)
    connection.execute("RELEASE one")


def _decoded(row: bytes) -> Iterator[Record]:
    try:
        yield from _decode_all(row)
    except msgspec.MsgspecError:
        yield from _decoded_apart(row)


def _decoded_apart(row: bytes) -> Iterator[Record]:
    """What can be read of a row that is damaged: the server starts all the same."""
    try:
        parts = _decode_apart(row)
    except msgspec.MsgspecError as error:
        logger.error("a record cannot be read error=%s", error)
        return
    for part in parts:
        try:
            yield _decode_one(part)
        except msgspec.MsgspecError as error:
            logger.error("a record cannot be read error=%s", error)
