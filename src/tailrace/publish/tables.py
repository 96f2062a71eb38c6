"""The outbox in a database of your own: a message is committed with your rows, or not at all.

`Outbox.write` inserts into a table through your connection, inside your transaction; an `Outbox` that runs in one of
your processes delivers what was committed. Works with DB-API connections whose placeholders are known: sqlite3
and psycopg.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
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

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode

# By the first part of the module that the connection's class comes from.
_PLACEHOLDERS = {"sqlite3": "?", "psycopg": "%s", "psycopg2": "%s"}
_COLUMNS = {"?": ("INTEGER PRIMARY KEY AUTOINCREMENT", "BLOB"), "%s": ("BIGSERIAL PRIMARY KEY", "BYTEA")}


class Outbox:
    """Delivers messages from a table of your database: an async context manager, for one of your processes.

    With several of them at once messages are delivered several times, under the same `message-id`.

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

    @staticmethod
    def create(connection: Any, *, table: str = "tailrace_outbox") -> None:
        """Make the table, if it is not there; in your transaction, where your database can do that."""
        place, data = _COLUMNS[_placeholder(connection)]
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {_checked(table)} "
                f"(place {place}, message {data} NOT NULL, dead TEXT, attempts INTEGER NOT NULL DEFAULT 0)"
            )

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
        mark = _placeholder(connection)
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(f"INSERT INTO {_checked(table)} (message) VALUES ({mark})", (_encode(message),))
        return message.id

    async def __aenter__(self) -> Outbox:
        self._tasks = tasks = Tasks(Threads(size=1))
        source = _Table(tasks, self._connect, self._table)
        self._relay = Relay(source, self.publisher, tasks, look=self._poll)
        self._relay.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        relay, tasks = self._relay, self._tasks
        if relay is not None and tasks is not None:
            try:
                await relay.drain(self._drain)  # what is left stays in the table
            finally:
                await relay.close()
                await tasks.close(1.0)

    def nudge(self) -> None:
        """Something was committed just now: look at once. On the loop's thread."""
        if self._relay is not None:
            self._relay.nudge()


class _Table:
    """What the relay sees of the table (fulfils `relay.Source`).

    Places are given when a row is inserted, not when it is committed, so a smaller one may show up later: each look
    begins at the front, and passes over what is taken already.
    """

    def __init__(self, tasks: Tasks, connect: Callable[[], Any], table: str) -> None:
        self._tasks = tasks
        self._connect = connect
        self._table = table
        self._taken: set[int] = set()  # at most as many as the relay holds

    async def read(self, after: str, limit: int) -> Sequence[Waiting]:
        rows = await self._work(lambda cursor, mark: self._select(cursor, limit))
        self._taken.update(place for place, _ in rows)
        return [Waiting(str(place), _decode(bytes(data))) for place, data in rows]

    async def done(self, places: Sequence[str]) -> None:
        numbers = [int(place) for place in places]
        await self._work(
            lambda cursor, mark: cursor.executemany(
                f"DELETE FROM {self._table} WHERE place = {mark}", [(number,) for number in numbers]
            )
        )
        self._taken.difference_update(numbers)

    async def bury(self, waiting: Waiting, attempts: int, error: str) -> None:
        number = int(waiting.place)
        await self._work(
            lambda cursor, mark: cursor.execute(
                f"UPDATE {self._table} SET dead = {mark}, attempts = {mark} WHERE place = {mark}",
                (error[:1000], attempts, number),
            )
        )
        self._taken.discard(number)

    def _select(self, cursor: Any, limit: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        cursor.execute(f"SELECT place, message FROM {self._table} WHERE dead IS NULL ORDER BY place")
        while len(found) < limit and (row := cursor.fetchone()) is not None:
            if row[0] not in self._taken:
                found.append((row[0], row[1]))
        return found

    async def _work(self, work: Callable[[Any, str], Any]) -> Any:
        def run() -> Any:
            with contextlib.closing(self._connect()) as connection:
                mark = _placeholder(connection)
                with contextlib.closing(connection.cursor()) as cursor:
                    result = work(cursor, mark)
                connection.commit()
                return result

        try:
            return await self._tasks.in_thread(run)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise StoreError(f"the outbox's table {self._table} cannot be used: {error}") from error


def _placeholder(connection: Any) -> str:
    for kind in type(connection).__mro__:
        mark = _PLACEHOLDERS.get(kind.__module__.partition(".")[0])
        if mark is not None:
            return mark
    raise DefinitionError(
        f"connections of {type(connection).__module__} are not known; give one of {', '.join(_PLACEHOLDERS)}"
    )


def _checked(table: str) -> str:
    if not table.replace("_", "").replace(".", "").isalnum() or table[0].isdigit():
        raise DefinitionError(f"no table can be named {table!r}")
    return table
