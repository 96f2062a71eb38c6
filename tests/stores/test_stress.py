"""Threads under stress: the interpreter switches between them every microsecond, so that a race gets its chance.

The SQLite writer beside the loop, and tool threads beside cancels. Counts are exact, or nothing is.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tailrace.core.ports import AppendEvent, EndCall, Kind, PutCall, PutSession
from tailrace.core.threads import Threads
from tailrace.errors import StoreError
from tailrace.stores.sqlite import SqliteStore

pytestmark = pytest.mark.timeout(300)
EVENTS = 1500


@pytest.fixture(autouse=True)
async def switching_all_the_time() -> AsyncIterator[None]:
    asyncio.get_running_loop().set_debug(True)  # it then refuses whoever uses it from another thread than its own
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def note(told: list[int], number: int, error: StoreError | None) -> None:
    if error is None:
        told.append(number)


async def test_every_write_is_told_once_in_order_on_the_loops_thread_and_is_there(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db", batch_writes=7)
    await store.open()
    own, told, chance = threading.get_ident(), list[int](), random.Random(1)

    def committed(number: int, error: StoreError | None) -> None:
        assert (error, threading.get_ident()) == (None, own)
        told.append(number)

    for number in range(1, EVENTS + 1):
        records = [AppendEvent("s", 0, number, Kind.ANSWER, b"%d" % number)]
        if number == 1:
            records = [PutSession("s", b"h", "", b"{}", 0.0), *records]
        ticket = store.write([*records, PutCall("s", number, 0, b"{}"), EndCall("s", number)])
        store.when(ticket, lambda error, number=number: committed(number, error))
        if chance.random() < 0.05:
            await asyncio.sleep(0)
        if chance.random() < 0.01:  # a read takes its turn among the writes
            loaded = await store.load("s")
            assert loaded is not None
            assert (loaded.last[0], loaded.calls) == (number, [])
            assert told == list(range(1, number + 1))
    await store.flush()
    assert told == list(range(1, EVENTS + 1))
    await store.close()
    again = SqliteStore(tmp_path / "store.db")
    await again.open()
    kept = await again.load("s")
    assert kept is not None
    assert [event.payload for event in kept.events] == [b"%d" % number for number in range(1, EVENTS + 1)]
    await again.close()


async def test_stores_that_are_closed_while_they_write_lose_nothing_they_have_told(tmp_path: Path) -> None:
    for life in range(15):
        told: list[int] = []
        store = SqliteStore(tmp_path / "store.db", batch_writes=3)
        await store.open()
        for number in range(40):
            ticket = store.write([PutSession(f"{life}/{number}", b"%d/%d" % (life, number), "", b"{}", 0.0)])
            store.when(ticket, partial(note, told, number))
        closing = asyncio.gather(*(store.close() for _ in range(3)))
        await asyncio.sleep(0)
        await closing
        assert told == list(range(40))
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    assert len(await store.sessions()) == 15 * 40
    await store.close()


async def test_functions_in_threads_and_their_cancels_are_counted_exactly() -> None:
    threads, chance = Threads(size=8, waiting=1000), random.Random(2)
    ran: list[int] = []  # list.append is atomic
    tasks = [asyncio.create_task(threads.run(lambda n=number: ran.append(n) or n)) for number in range(800)]
    cancelled: set[int] = set()
    for number in chance.sample(range(800), 300):
        if tasks[number].cancel():
            cancelled.add(number)
        if chance.random() < 0.1:
            await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        assert result == number or (number in cancelled and isinstance(result, asyncio.CancelledError)), result
    assert len(ran) == len(set(ran)), "a function ran twice"
    assert set(range(800)) - cancelled <= set(ran), "a function that nobody cancelled did not run"
    async with asyncio.timeout(120):
        while threads.statistics()["busy"]:
            await asyncio.sleep(0)
    assert threads.statistics()["waiting"] == 0
    threads.close()
    async with asyncio.timeout(120):
        while threads.statistics()["threads"]:
            await asyncio.sleep(0)
