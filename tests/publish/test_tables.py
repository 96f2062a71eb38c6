"""The outbox in a database of one's own: committed with the rows, or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tailrace.errors import DefinitionError
from tailrace.publish import Outbox
from tailrace.publish.publishers import MemoryPublisher, Rejected
from tailrace.publish.tables import _Table
from tests.core.support import make_tasks


def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders (item TEXT)")
        Outbox.create(connection)
    return path


async def until(condition: object) -> None:
    async with asyncio.timeout(60):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


@pytest.mark.may_block  # the user's own connection, in the handler
async def test_what_is_committed_is_published_and_what_is_rolled_back_is_not(tmp_path: Path) -> None:
    path, publisher = database(tmp_path), MemoryPublisher()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO orders VALUES ('tea')")
    id = Outbox.write(connection, "orders", {"item": "tea"}, key="tea")
    connection.commit()
    connection.execute("INSERT INTO orders VALUES ('salt')")
    Outbox.write(connection, "orders", {"item": "salt"})
    connection.rollback()
    async with Outbox(lambda: sqlite3.connect(path), publish=publisher, poll=0.05) as outbox:
        await until(lambda: publisher.messages)
        Outbox.write(connection, "orders", "third")
        connection.commit()
        outbox.nudge()
        await until(lambda: len(publisher.messages) == 2)
        await until(lambda: connection.execute("SELECT count(*) FROM tailrace_outbox").fetchone() == (0,))
    assert [message.value for message in publisher.messages] == [b'{"item":"tea"}', b"third"]
    assert publisher.messages[0].id == id
    connection.close()


@pytest.mark.may_block  # the user's own connection, in the handler
async def test_a_row_that_is_committed_late_is_not_passed_over(tmp_path: Path) -> None:
    path = database(tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for n in range(3):
            Outbox.write(connection, "t", n)
        rows = connection.execute("SELECT place, message FROM tailrace_outbox ORDER BY place").fetchall()
        connection.execute("DELETE FROM tailrace_outbox WHERE place = 1")
    source = _Table(make_tasks(), lambda: sqlite3.connect(path), "tailrace_outbox")
    assert [waiting.place for waiting in await source.read("", 10)] == ["2", "3"]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO tailrace_outbox (place, message) VALUES (?, ?)", rows[0])
    assert [waiting.place for waiting in await source.read("3", 10)] == ["1"]


@pytest.mark.may_block  # the user's own connection, in the handler
async def test_of_several_processes_one_delivers_and_another_goes_on_when_it_leaves(tmp_path: Path) -> None:
    path = database(tmp_path)
    first, second = MemoryPublisher(), MemoryPublisher()

    def write(*values: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for value in values:
                Outbox.write(connection, "t", value)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path)

    async with Outbox(connect, publish=second, poll=0.02):
        async with Outbox(connect, publish=first, poll=0.02):
            write(*"abcdefgh")
            await until(lambda: len(first.messages) + len(second.messages) == 8)
            assert 0 in (len(first.messages), len(second.messages))
        write("last")
        await until(lambda: len(first.messages) + len(second.messages) == 9)
    assert sorted(message.value for message in (*first.messages, *second.messages)) == [
        *(bytes([char]) for char in b"abcdefgh"),
        b"last",
    ]


@pytest.mark.may_block  # the user's own connection, in the handler
async def test_a_lease_that_is_not_renewed_is_taken_over_and_what_its_holder_held_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tailrace.publish.tables._LEASE", 0.2)
    path = database(tmp_path)

    class Away(MemoryPublisher):
        async def publish(self, messages: object) -> list[Exception | None]:
            raise ConnectionError("no broker")

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path)

    with closing(connect()) as connection, connection:
        Outbox.write(connection, "t", "x")
    async with Outbox(connect, publish=Away(), poll=0.02, drain=0.1) as holder:
        assert holder._source is not None
        assert holder._relay is not None
        await until(lambda: holder._relay._held)
        with closing(connect()) as connection, connection:  # as if it had slept for longer than its lease
            connection.execute("UPDATE tailrace_outbox_lease SET owner = 'another', until = 1e12")
        await until(lambda: "another process has taken over" in caplog.text and not holder._relay._held)
        with closing(connect()) as connection, connection:
            connection.execute("UPDATE tailrace_outbox_lease SET until = 0")
        publisher = MemoryPublisher()
        async with Outbox(connect, publish=publisher, poll=0.02):
            await until(lambda: publisher.messages or holder._source.ours)


class Picky(MemoryPublisher):
    async def publish(self, messages: object) -> list[Exception | None]:
        return [Rejected("never") for _ in messages]  # type: ignore[attr-defined]


@pytest.mark.may_block  # the user's own connection, in the handler
async def test_a_dead_letter_stays_in_the_table_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.publish.relay._ATTEMPTS", 2)
    path = database(tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        Outbox.write(connection, "t", "refused")
    async with Outbox(lambda: sqlite3.connect(path), publish=Picky(), poll=0.05):

        def dead() -> bool:
            with closing(sqlite3.connect(path)) as connection, connection:
                found = connection.execute("SELECT dead, attempts FROM tailrace_outbox").fetchall()
            return found == [("never", 2)]

        await until(dead)


def test_connections_of_an_unknown_kind_and_names_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="are not known"):
        Outbox.write(object(), "t", "x")
    with pytest.raises(DefinitionError, match="no table can be named"):
        Outbox(lambda: None, publish="memory:", table="a; DROP TABLE orders")
