"""`tailrace outbox`: what waits and what was refused, seen and settled by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tailrace.cli import main
from tailrace.core.context import Context
from tailrace.core.ports import PutEntry
from tailrace.publish.encoding import make_message
from tailrace.publish.letters import Letter, letters
from tailrace.publish.outbox import DEAD, NEVER, WAITING, DeadLetter, encode, place_of
from tailrace.stores.sqlite import SqliteStore


def outbox(path: Path, *words: str) -> Result:
    command, *rest = words
    return CliRunner().invoke(main, ["outbox", command, "--store", f"sqlite:{path}", *rest])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two messages that wait and two that were refused."""

    async def fill() -> None:
        store = SqliteStore(tmp_path / "shop.db")
        await store.open()
        epoch = await store.next_epoch()
        for number in range(1, 5):
            message = make_message(Context.background(), "orders", {"n": number}, f"k{number}")
            dead = number <= 2
            data = encode(DeadLetter(message, 10, "too large")) if dead else encode(message)
            store.write([PutEntry(DEAD if dead else WAITING, place_of(epoch, number), data, NEVER)])
        await store.close()

    asyncio.run(fill())
    return tmp_path / "shop.db"


def kept(path: Path) -> list[Letter]:
    async def read() -> list[Letter]:
        store = SqliteStore(path)
        await store.open()
        found = [letter async for letter in letters(store)]
        await store.close()
        return found

    return asyncio.run(read())


def numbers(found: list[Letter], *, dead: bool) -> list[int]:
    return [json.loads(letter.message.value)["n"] for letter in found if letter.dead is dead]


def test_what_waits_and_what_was_refused_is_listed(path: Path) -> None:
    lines = outbox(path, "ls").output.splitlines()
    assert len(lines) == 4
    assert "refused 10x: too large" in lines[0]
    assert "key=k3" in lines[2]
    assert "waits" in lines[2]
    described = [json.loads(line) for line in outbox(path, "ls", "--json", "--dead").output.splitlines()]
    assert [line["key"] for line in described] == ["k1", "k2"]
    assert described[0]["headers"]["message-id"] == described[0]["message_id"]


def test_a_long_list_is_cut_and_says_so(path: Path) -> None:
    result = outbox(path, "ls", "--limit", "1")
    assert "and more; see --limit" in result.output


def test_one_that_was_refused_can_be_put_back_behind_the_others(path: Path) -> None:
    second = kept(path)[1].message.id
    assert outbox(path, "retry", second).output == "put back: 1\n"
    assert numbers(kept(path), dead=False) == [3, 4, 2]
    assert numbers(kept(path), dead=True) == [1]
    assert outbox(path, "retry", "--all").output == "put back: 1\n"
    assert numbers(kept(path), dead=False) == [3, 4, 2, 1]


def test_all_that_were_refused_can_be_dropped_and_by_id_what_waits(path: Path) -> None:
    third = kept(path)[2].message.id
    assert outbox(path, "drop", "--all").output == "dropped: 2\n"
    assert numbers(kept(path), dead=False) == [3, 4]
    assert outbox(path, "drop", third).output == "dropped: 1\n"
    assert numbers(kept(path), dead=False) == [4]
    assert outbox(path, "ls", "--dead").output == "nothing was refused\n"


def test_an_id_that_is_not_there_is_said(path: Path) -> None:
    result = outbox(path, "drop", "nobody")
    assert result.exit_code == 1
    assert "are not there" in result.output


@pytest.mark.parametrize("words", [("retry",), ("drop",), ("drop", "x", "--all")])
def test_what_is_meant_has_to_be_said(path: Path, words: tuple[str, ...]) -> None:
    assert outbox(path, *words).exit_code == 2


def test_a_store_that_is_not_there_or_keeps_none_is_refused(tmp_path: Path) -> None:
    assert outbox(tmp_path / "nowhere.db", "ls").exit_code == 2
    assert not (tmp_path / "nowhere.db").exists()
    assert CliRunner().invoke(main, ["outbox", "ls", "--store", "memory"]).exit_code == 2


def test_a_store_that_a_server_holds_is_said_to_be_held(path: Path) -> None:
    async def hold() -> Result:
        store = SqliteStore(path)
        await store.open()
        result = await asyncio.to_thread(outbox, path, "ls")
        await store.close()
        return result

    result = asyncio.run(hold())
    assert result.exit_code == 1
    assert "Its server is running" in result.output
