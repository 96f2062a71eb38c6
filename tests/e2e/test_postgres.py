"""The outbox in a PostgreSQL database of one's own, through psycopg, with a real server: committed with the rows or not
at all; of several processes one delivers."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tailrace.publish import Outbox
from tailrace.publish.publishers import MemoryPublisher, Rejected
from tests.rigs.postgres import Missing, running_postgres
from tests.rigs.rawmcp import eventually
from tests.rigs.server import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), pytest.mark.may_block]

DELIVERER = """
import asyncio, sys
import psycopg
from tailrace.publish import Outbox

class Lines:
    name = "lines:"

    async def open(self):
        pass

    async def publish(self, messages):
        with open(sys.argv[2], "a") as file:
            file.writelines(message.value.decode() + "\\n" for message in messages)
        return [None] * len(messages)

    async def close(self):
        pass

async def main():
    async with Outbox(lambda: psycopg.connect(sys.argv[1]), publish=Lines(), poll=0.05):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    try:
        with running_postgres() as address:
            with psycopg.connect(address) as connection:
                connection.execute("CREATE TABLE orders (item TEXT)")
            yield address
    except Missing as missing:
        reason = f"needs {missing.args[0]}: {missing.args[1]}"
        pytest.skip(reason)


@pytest.fixture
def table(database: str, request: pytest.FixtureRequest) -> str:
    name = f"outbox_{abs(hash(request.node.name))}"
    with psycopg.connect(database) as connection:
        Outbox.create(connection, table=name)
        Outbox.create(connection, table=name)  # once more changes nothing
    return name


async def test_what_is_committed_is_published_in_order_and_what_is_rolled_back_is_not(
    database: str, table: str
) -> None:
    publisher = MemoryPublisher()
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO orders VALUES ('tea')")
        id = Outbox.write(connection, "orders", {"item": "tea"}, key="tea", table=table)
        connection.commit()
        connection.execute("INSERT INTO orders VALUES ('salt')")
        Outbox.write(connection, "orders", {"item": "salt"}, table=table)
        connection.rollback()
        for n in range(50):
            Outbox.write(connection, "orders", n, key="tea", table=table)
        connection.commit()
        async with Outbox(lambda: psycopg.connect(database), publish=publisher, table=table, poll=0.05) as outbox:
            await eventually(lambda: len(publisher.messages) == 51, "all are published")
            Outbox.write(connection, "orders", "last", table=table)
            connection.commit()
            outbox.nudge()
            await eventually(lambda: len(publisher.messages) == 52, "the last one, too")
        rest = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        items = connection.execute("SELECT item FROM orders").fetchall()
    values = [message.value for message in publisher.messages]
    assert values == [b'{"item":"tea"}', *(b"%d" % n for n in range(50)), b"last"]
    assert publisher.messages[0].id == id
    assert rest == (0,)
    assert items == [("tea",)]


async def test_a_dead_letter_stays_in_the_table_with_its_reason(
    database: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.publish.relay._ATTEMPTS", 2)

    class Picky(MemoryPublisher):
        async def publish(self, messages: Any) -> list[Exception | None]:
            return [Rejected("never") for _ in messages]

    with psycopg.connect(database) as connection:
        Outbox.write(connection, "t", "refused", table=table)
        connection.commit()
        async with Outbox(lambda: psycopg.connect(database), publish=Picky(), table=table, poll=0.05):

            def dead() -> bool:
                connection.rollback()
                found = connection.execute(f"SELECT dead, attempts FROM {table}").fetchall()  # type: ignore[arg-type]
                return found == [("never", 2)]

            await eventually(dead, "it is a dead letter")


async def test_of_three_processes_one_delivers_and_when_it_leaves_another_goes_on(
    database: str, table: str, tmp_path: Path
) -> None:
    program = tmp_path / "deliverer.py"
    program.write_text(DELIVERER.replace("publish=Lines()", f"publish=Lines(), table={table!r}"))
    out = [tmp_path / f"delivered{number}" for number in range(3)]
    for file in out:
        file.touch()
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, str(program), database, str(file), cwd=ROOT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for file in out
    ]  # fmt: skip

    def delivered() -> list[list[str]]:
        return [file.read_text().split() for file in out]

    def write(first: int, last: int) -> None:
        with psycopg.connect(database) as connection:
            for n in range(first, last):
                Outbox.write(connection, "orders", n, key=str(n % 3), table=table)

    try:
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        write(0, 100)
        await eventually(lambda: sum(map(len, delivered())) == 100, "a hundred are delivered")
        (deliverer,) = (number for number, lines in enumerate(delivered()) if lines)
        await processes[deliverer].communicate(b"\n")
        write(100, 200)
        await eventually(lambda: sum(map(len, delivered())) == 200, "the others go on")
    finally:
        for process in processes:
            if process.returncode is None:
                await process.communicate(b"\n")
    everything = [line for lines in delivered() for line in lines]
    assert Counter(everything) == Counter(str(n) for n in range(200))
    for lines in delivered():
        for key in range(3):
            mine = [int(line) for line in lines if int(line) % 3 == key]
            assert mine == sorted(mine)
