"""The outbox in a database of your own: a message is committed with your rows, or not at all.

`Outbox.write` inserts into a table through your connection, inside your transaction; an `Outbox` that runs in your
processes delivers what was committed, in one of them at a time: who holds the table's lease. Works with DB-API
connections whose dialect is known: sqlite3 and psycopg.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec

from tailrace.core.context import current
from tailrace.core.outgoing import Message
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.errors import DefinitionError, StoreError
from tailrace.publish.encoding import make_message
from tailrace.publish.publishers import Publisher, make_publisher
from tailrace.publish.relay import Relay, Waiting

__all__ = ["Outbox"]

logger = logging.getLogger("tailrace.publish")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode

_LEASE = 15.0  # seconds after which another process takes over from one that does not say that it lives
_RENEWED = 3  # times in each lease


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What differs between databases.

    Attributes:
        mark: Stands for a value.
        place: The type of a number that the database gives.
        data: The type of bytes.
        now: The database's own clock, in seconds: that of its clients may differ.
    """

    mark: str
    place: str
    data: str
    now: str


_SQLITE = _Dialect("?", "INTEGER PRIMARY KEY AUTOINCREMENT", "BLOB", "((julianday('now') - 2440587.5) * 86400.0)")
_POSTGRES = _Dialect("%s", "BIGSERIAL PRIMARY KEY", "BYTEA", "extract(epoch FROM clock_timestamp())::float8")
# By the first part of the module that the connection's class comes from.
_DIALECTS = {"sqlite3": _SQLITE, "psycopg": _POSTGRES, "psycopg2": _POSTGRES}


class Outbox:
    """Delivers messages from a table of your database: an async context manager.

    Any number of processes may have one over the same table: one of them delivers. When it leaves its block another
    goes on at once; when it dies, after 15 s.

    Args:
        connect: Makes a DB-API connection; called in a thread, for each look into the table.
        publish: ``kafka://HOST:PORT``, ``log:``, ``memory:`` or a `Publisher`.
        table: The table's name.
        poll: Seconds between two looks, when `nudge` is not called.
        drain: Seconds to go on delivering when the block is left.

    Raises:
        DefinitionError: There is no such publisher; the table's name is not one.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        publish: str | Publisher,
        table: str = "tailrace_outbox",
        poll: float = 1.0,
        drain: float = 10.0,
    ) -> None:
        self.publisher = make_publisher(publish)
        self._connect = connect
        self._table = _checked(table)
        self._poll = poll
        self._drain = drain
        self._tasks: Tasks | None = None
        self._relay: Relay | None = None
        self._source: _Table | None = None

    @staticmethod
    def create(connection: Any, *, table: str = "tailrace_outbox") -> None:
        """Make the table, and that of its lease (``TABLE_lease``), if they are not there; in your transaction, where
        your database can do that."""
        dialect = _dialect(connection)
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {_checked(table)} (place {dialect.place}, "
                f"message {dialect.data} NOT NULL, dead TEXT, attempts INTEGER NOT NULL DEFAULT 0)"
            )
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {table}_lease (one INTEGER PRIMARY KEY CHECK (one = 1), "
                "owner TEXT NOT NULL, until DOUBLE PRECISION NOT NULL)"
            )
            cursor.execute(f"INSERT INTO {table}_lease (one, owner, until) VALUES (1, '', 0) ON CONFLICT DO NOTHING")

    @staticmethod
    def write(
        connection: Any,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        table: str = "tailrace_outbox",
    ) -> str:
        """Insert a message in your own transaction: it is published if, and only if, you commit.

        Args:
            connection: A DB-API connection (sqlite3, psycopg).
            topic: Where it goes.
            value: bytes, str, or what JSON can say; at most 1 MiB.
            key: Messages of one topic and key are delivered in the order of their places in the table.
            headers: More headers; `message-id`, the content's type and the running request's trace are added.
            table: As it was created.

        Returns:
            Its `message-id`.

        Raises:
            ValueError: It cannot be encoded, or is too large.
            DefinitionError: The connection is of no known kind.
        """
        message = make_message(current(), topic, value, key, headers or {})
        mark = _dialect(connection).mark
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(f"INSERT INTO {_checked(table)} (message) VALUES ({mark})", (_encode(message),))
        return message.id

    async def __aenter__(self) -> Outbox:
        self._tasks = tasks = Tasks(Threads(size=1))
        self._source = _Table(tasks, self._connect, self._table, self._lost)
        self._relay = Relay(self._source, self.publisher, tasks, look=self._poll)
        self._relay.start()
        tasks.start(self._stay(), name="tailrace-outbox-lease")
        return self

    async def _stay(self) -> None:
        """Say that we live, also while there is nothing to read or no room for it."""
        assert self._source is not None
        while True:
            await asyncio.sleep(_LEASE / _RENEWED)
            try:
                if self._source.ours:
                    await self._source.hold()
            except StoreError as error:
                logger.warning("the lease cannot be renewed: %s", error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        relay, tasks = self._relay, self._tasks
        if relay is not None and tasks is not None:
            try:
                await relay.drain(self._drain)  # what is left stays in the table
            finally:
                await relay.close()
                await self._leave(tasks)
                await tasks.close(1.0)

    def _lost(self) -> None:
        logger.warning("another process has taken over the outbox table=%s", self._table)
        if self._relay is not None:
            self._relay.let_go()

    async def _leave(self, tasks: Tasks) -> None:
        """Another process may go on at once."""
        if self._source is not None and self._source.ours:
            with contextlib.suppress(StoreError, TimeoutError):  # then it waits for the lease's end
                async with asyncio.timeout(1.0):
                    await self._source.release()

    def nudge(self) -> None:
        """Something was committed just now: look at once. On the loop's thread."""
        if self._relay is not None:
            self._relay.nudge()


class _Table:
    """What the relay sees of the table (fulfils `relay.Source`).

    Places are given when a row is inserted, not when it is committed, so a smaller one may show up later: each look
    begins at the front, and passes over what is taken already.
    """

    def __init__(
        self, tasks: Tasks, connect: Callable[[], Any], table: str, lost: Callable[[], None] = lambda: None
    ) -> None:
        self.ours = False  # we held the lease when we last looked
        self._tasks = tasks
        self._connect = connect
        self._table = table
        self._lost = lost  # called when the lease was ours, and is another's
        self._owner = secrets.token_hex(16)
        self._taken: set[int] = set()  # at most as many as the relay holds

    async def hold(self) -> None:
        """Take the lease, or keep it."""
        self._note(await self._work(self._hold))

    async def release(self) -> None:
        """Give the lease back."""
        self.ours = False
        sql = f"UPDATE {self._table}_lease SET until = 0 WHERE owner = {{mark}}"
        await self._work(lambda cursor, dialect: cursor.execute(sql.format(mark=dialect.mark), (self._owner,)))

    async def read(self, after: str, limit: int) -> Sequence[Waiting]:
        ours, rows = await self._work(lambda cursor, dialect: self._select(cursor, dialect, limit))
        self._note(ours)
        self._taken.update(place for place, _ in rows)
        return [Waiting(str(place), _decode(bytes(data))) for place, data in rows]

    def let_go(self, places: Sequence[str]) -> None:
        self._taken.difference_update(int(place) for place in places)

    async def done(self, places: Sequence[str]) -> None:
        numbers = [int(place) for place in places]
        await self._work(
            lambda cursor, dialect: cursor.executemany(
                f"DELETE FROM {self._table} WHERE place = {dialect.mark}", [(number,) for number in numbers]
            )
        )
        self._taken.difference_update(numbers)

    async def bury(self, waiting: Waiting, attempts: int, error: str) -> None:
        number = int(waiting.place)
        sql = f"UPDATE {self._table} SET dead = {{mark}}, attempts = {{mark}} WHERE place = {{mark}}"
        given = (error[:1000], attempts, number)
        await self._work(lambda cursor, dialect: cursor.execute(sql.format(mark=dialect.mark), given))
        self._taken.discard(number)

    def _hold(self, cursor: Any, dialect: _Dialect) -> bool:
        cursor.execute(f"SELECT owner, until - {dialect.now} FROM {self._table}_lease")
        ((owner, left),) = cursor.fetchall()
        if left > _LEASE / 2 or (left > 0 and owner != self._owner):  # most looks write nothing
            return owner == self._owner
        cursor.execute(
            f"UPDATE {self._table}_lease SET owner = {dialect.mark}, until = {dialect.now} + {dialect.mark} "
            f"WHERE owner = {dialect.mark} OR until < {dialect.now}",
            (self._owner, _LEASE, self._owner),
        )
        return cursor.rowcount == 1

    def _note(self, ours: bool) -> None:
        lost = self.ours and not ours
        self.ours = ours
        if lost:
            self._lost()

    def _select(self, cursor: Any, dialect: _Dialect, limit: int) -> tuple[bool, list[tuple[int, bytes]]]:
        if not self._hold(cursor, dialect):
            return False, []
        cursor.execute(
            f"SELECT place, message FROM {self._table} WHERE dead IS NULL ORDER BY place LIMIT {dialect.mark}",
            (limit + len(self._taken),),
        )
        return True, [(place, data) for place, data in cursor.fetchall() if place not in self._taken][:limit]

    async def _work(self, work: Callable[[Any, _Dialect], Any]) -> Any:
        def run() -> Any:
            with contextlib.closing(self._connect()) as connection:
                dialect = _dialect(connection)
                with contextlib.closing(connection.cursor()) as cursor:
                    result = work(cursor, dialect)
                connection.commit()
                return result

        try:
            return await self._tasks.in_thread(run)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise StoreError(f"the outbox's table {self._table} cannot be used: {error}") from error


def _dialect(connection: Any) -> _Dialect:
    for kind in type(connection).__mro__:
        dialect = _DIALECTS.get(kind.__module__.partition(".")[0])
        if dialect is not None:
            return dialect
    raise DefinitionError(
        f"connections of {type(connection).__module__} are not known; give one of {', '.join(_DIALECTS)}"
    )


def _checked(table: str) -> str:
    if not table.replace("_", "").replace(".", "").isalnum() or table[0].isdigit():
        raise DefinitionError(f"no table can be named {table!r}")
    return table
