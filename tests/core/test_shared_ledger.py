"""Keys that partitions have in common: whoever claims one first runs the call, the others get what came of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.core.ledger import KeyReused
from tailrace.core.ledger_entry import EntryState
from tailrace.core.ports import DropEntry
from tailrace.core.shared_ledger import BEGUN_KEYS, SharedLedger
from tailrace.errors import EntryTaken, StoreError
from tailrace.stores.memory_membership import MemoryCluster, MemoryMembership
from tests.core.support import turns, virtual
from tests.core.test_ledger import DAY, FULL, Clock, writer

CALL = ("", "k", b"call")


class Desk:
    """The ledger of one of several partitions, and what its work was told."""

    def __init__(self, member: MemoryMembership) -> None:
        self.member = member
        self.begun: list[StoreError | None] = []
        self.store: Any
        self.ledger: SharedLedger

    async def open(self, partition: str = "") -> Desk:
        self.store = await (self.member.adopt(partition) if partition else self.member.take())
        self.ledger = SharedLedger(self.store, writer(self.store), ttl=DAY, clock=self.member.clock)
        return self

    async def claim(self) -> Any:
        entry = self.ledger.claim(*CALL, b"detail", self.begun.append, owner="a run")
        await turns()
        return entry


async def desks() -> tuple[MemoryCluster, Clock, Desk, Desk]:
    clock = Clock()
    cluster = MemoryCluster(clock=clock)
    return cluster, clock, await Desk(cluster.member()).open(), await Desk(cluster.member()).open()


@virtual
async def test_who_comes_second_does_not_begin_and_is_given_the_answer() -> None:
    _, _, one, other = await desks()
    entry = await one.claim()
    lost = await other.claim()
    assert one.begun == [None]
    assert isinstance(other.begun[0], EntryTaken)
    with pytest.raises(EntryTaken):
        await other.ledger.answer(lost)
    assert one.store.is_held
    assert other.ledger.find(*CALL) is None  # it has nothing of it
    waiting = asyncio.ensure_future(other.ledger.elsewhere(*CALL))
    await asyncio.sleep(3)
    assert not waiting.done()
    one.ledger.finish(entry, b"answer")
    assert await waiting == (b"answer", False)
    assert await other.ledger.elsewhere(*CALL) == (b"answer", True)
    assert (other.ledger.awaited, other.ledger.replayed) == (1, 1)


@virtual
async def test_who_waits_is_given_an_answer_that_could_not_be_stored_at_first() -> None:
    _, _, one, other = await desks()
    entry = await one.claim()
    waiting = asyncio.ensure_future(other.ledger.elsewhere(*CALL))
    one.store.fail_commits(FULL)
    one.ledger.finish(entry, b"answer")
    assert await one.ledger.answer(entry) == b"answer"
    await asyncio.sleep(3)
    assert not waiting.done()
    one.store.fail_commits(None)
    one.ledger.settle()
    assert await waiting == (b"answer", False)
    assert await one.store.count(BEGUN_KEYS) == 0


@virtual
async def test_a_key_of_another_call_is_refused_also_while_that_runs() -> None:
    _, _, one, other = await desks()
    await one.claim()
    with pytest.raises(KeyReused):
        await other.ledger.elsewhere("", "k", b"another call")
    assert other.ledger.refused == 1


@virtual
async def test_a_key_that_was_paused_or_dropped_is_free_for_everybody() -> None:
    _, _, one, other = await desks()
    one.ledger.pause(await one.claim(), b"question", 60.0)
    await turns()
    assert await other.ledger.elsewhere(*CALL) is None
    entry = await other.claim()
    assert other.begun == [None]
    assert (await one.claim()).outcome.error is not None  # what it knows of the pause is the past
    other.ledger.drop(entry, b"refused")
    await turns()
    assert await one.ledger.elsewhere(*CALL) is None
    await one.claim()
    assert one.begun[-1] is None


@virtual
async def test_an_answer_expires_for_all_at_once_and_nothing_of_a_later_one_is_dropped() -> None:
    cluster, clock, one, other = await desks()
    one.ledger.finish(await one.claim(), b"old")
    await turns()
    clock.now += DAY + 1
    other.ledger.finish(await other.claim(), b"new")
    await turns()
    one.ledger.expire()  # what it remembers has expired; the key is somebody else's by now
    assert len(one.ledger) == 0
    await turns()
    assert await one.ledger.elsewhere(*CALL) == (b"new", True)
    assert other.begun == [None]
    assert cluster.entries.count("once", clock()) == 2


@virtual
async def test_whoever_takes_a_partition_over_settles_what_it_had_begun() -> None:
    _, _, one, other = await desks()
    await one.claim()
    waiting = asyncio.ensure_future(other.ledger.elsewhere(*CALL))
    await turns()
    await one.member.crash()
    assert not waiting.done()
    heir = await Desk(other.member).open(one.store.partition)
    (orphan,) = await heir.ledger.load()
    assert orphan.detail == b"detail"
    assert orphan.entry.state is EntryState.BEGUN
    heir.ledger.finish(orphan.entry, b"unknown")
    assert await waiting == (b"unknown", False)
    assert await heir.ledger.load() == []
    assert await heir.store.count(BEGUN_KEYS) == 0


@virtual
async def test_an_orphan_that_runs_again_is_not_claimed_again() -> None:
    _, _, one, other = await desks()
    await one.claim()
    await one.member.crash()
    heir = await Desk(other.member).open(one.store.partition)
    (orphan,) = await heir.ledger.load()
    heir.ledger.rerun(orphan, b"again", heir.begun.append, "a run")
    await turns()
    assert heir.begun == [None]
    heir.ledger.finish(orphan.entry, b"answer")
    await turns()
    assert await other.ledger.elsewhere(*CALL) == (b"answer", True)


@virtual
async def test_an_owner_that_lost_its_partition_gives_no_answer() -> None:
    _, _, one, other = await desks()
    entry = await one.claim()
    waiting = asyncio.ensure_future(one.ledger.answer(entry))
    one.member.lose(one.store.partition)
    one.ledger.finish(entry, b"late")
    with pytest.raises(StoreError, match="another member has taken over"):
        await waiting
    assert await other.store.count(BEGUN_KEYS) == 0
    heir = await Desk(other.member).open(one.store.partition)
    assert [orphan.detail for orphan in await heir.ledger.load()] == [b"detail"]


@virtual
async def test_a_key_whose_answer_was_lost_is_taken_and_nobody_claims_it_in_vain() -> None:
    _, _, one, other = await desks()
    entry = await one.claim()
    one.ledger.finish(entry, b"answer")
    one.store.write([DropEntry("once", f"a:{entry.name}")])
    await turns()
    with pytest.raises(StoreError, match="not there"):
        await other.ledger.elsewhere(*CALL)


@virtual
async def test_a_key_that_expires_while_it_is_looked_at_is_free() -> None:
    _, clock, one, other = await desks()
    one.ledger.finish(await one.claim(), b"answer")
    await turns()
    read, names = other.store.entry, []

    async def entry(kind: str, name: str) -> Any:
        names.append(name[:2])
        found = await read(kind, name)
        clock.now += DAY
        return found

    other.store.entry = entry
    assert await other.ledger.elsewhere(*CALL) is None
    assert names == ["h:", "a:", "h:"]
