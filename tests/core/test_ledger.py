"""A key runs once: it is claimed, attached to, replayed or refused, and outlives the process (G1b)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tailrace.core.ledger import KeyReused, Ledger, Withheld
from tailrace.core.ledger_entry import Entry, EntryState
from tailrace.core.outgoing import Leaving
from tailrace.core.ports import DropEntry, PutEntry, Record, Store
from tailrace.errors import CallCancelled, LimitError, StoreError, StoreLost
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.core.test_outgoing import MESSAGE, Box

FULL = StoreError("the disk is full")
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A ledger over a store that outlives it, and what its work was told."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.store = MemoryStore(durable=True, clock=self.clock)
        self.limits = limits
        self.ledger: Ledger
        self.begun: list[StoreError | None] = []

    async def open(self) -> Desk:
        """A process life begins."""
        await self.store.open()
        self.ledger = Ledger(self.store, writer(self.store), clock=self.clock, **self.limits)
        return self

    async def restart(self, *, kill: bool = False) -> Ledger:
        if kill:
            self.store.crash()
        else:
            await self.store.close()
        await self.open()
        return self.ledger

    def claim(self, key: str = "k", call: bytes = b"call", *, who: str = "", detail: bytes = b"detail") -> Entry:
        assert self.ledger.find(who, key, call) is None
        return self.ledger.claim(who, key, call, detail, self.begun.append, owner="a run")

    async def begin(self, key: str = "k", call: bytes = b"call", **more: Any) -> Entry:
        entry = self.claim(key, call, **more)
        await turns()
        assert entry.state is EntryState.BEGUN
        return entry

    async def unstored(self, *keys: str) -> list[Entry]:
        """Answered ones of whose answers the store, which is full from now on, takes none."""
        entries = [await self.begin(key) for key in keys]
        self.store.fail_commits(FULL)
        for entry in entries:
            self.ledger.finish(entry, b"answer")
        await turns()
        return entries

    async def end(self, key: str = "k", answer: bytes = b"answer", **more: Any) -> Entry:
        entry = await self.begin(key, **more)
        self.ledger.finish(entry, answer)
        await turns()
        assert entry.state is EntryState.ENDED
        return entry


def writer(store: Store) -> Callable[[Sequence[Record], Callable[[StoreError | None], None] | None], None]:
    def write(records: Sequence[Record], then: Callable[[StoreError | None], None] | None) -> None:
        try:
            ticket = store.write(records)
        except StoreError as error:
            if then is not None:
                then(error)
            return
        if then is not None:
            store.when(ticket, then)

    return write


# --- claimed, attached to, replayed -----------------------------------------------------------------


@virtual
async def test_work_begins_when_its_entry_is_committed_and_no_earlier() -> None:
    desk = await Desk().open()
    entry = desk.claim()
    assert (entry.state, desk.begun) == (EntryState.CLAIMED, [])
    await turns()
    assert (entry.state, desk.begun, entry.owner) == (EntryState.BEGUN, [None], "a run")


@virtual
async def test_all_who_ask_while_it_runs_get_the_one_answer_once_it_is_committed() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    assert desk.ledger.find("", "k", b"call") is entry
    waiting = [asyncio.ensure_future(desk.ledger.answer(entry)) for _ in range(3)]
    await turns()
    desk.ledger.finish(entry, b"answer")
    late = asyncio.ensure_future(desk.ledger.answer(entry))
    assert entry.state is EntryState.BEGUN, "its answer is not safe yet"
    assert await asyncio.gather(*waiting, late) == [b"answer"] * 4
    assert (entry.state, entry.owner) == (EntryState.ENDED, None)


@virtual
async def test_one_who_does_not_wait_any_more_disturbs_nobody() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    first, second = (asyncio.ensure_future(desk.ledger.answer(entry)) for _ in range(2))
    await turns()
    first.cancel()
    desk.ledger.finish(entry, b"answer")
    assert await second == b"answer"
    assert first.cancelled()


@virtual
async def test_what_has_ended_is_replayed_from_the_store() -> None:
    desk = await Desk().open()
    entry = await desk.end()
    assert desk.ledger.find("", "k", b"call") is entry
    assert entry.outcome is None, "answers do not stay in memory"
    assert [await desk.ledger.answer(entry) for _ in range(2)] == [b"answer"] * 2


@virtual
async def test_one_who_was_woken_has_its_answer_also_when_it_is_slow_to_take_it() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    slow = desk.ledger.answer(entry)
    desk.ledger.finish(entry, b"answer")
    await turns()
    assert await slow == b"answer"


@virtual
@pytest.mark.parametrize("fails", [False, True])
async def test_what_work_publishes_is_committed_with_its_answer_or_neither_is(fails: bool) -> None:
    desk, box = await Desk().open(), Box()
    entry = await desk.begin()

    def unpublished(error: StoreError) -> bytes:
        desk.store.fail_commits(None)
        return b"failed"

    if fails:
        desk.store.fail_commits(FULL)
    desk.ledger.finish(entry, b"answer", Leaving(box, [MESSAGE], unpublished))
    assert await desk.ledger.answer(entry) == (b"failed" if fails else b"answer")
    assert box.delivered_to == ([] if fails else [MESSAGE])
    ledger = await desk.restart(kill=True)
    assert await ledger.load() == [], "it has ended"
    found = ledger.find("", "k", b"call")
    assert found is not None
    assert await ledger.answer(found) == (b"failed" if fails else b"answer")
    assert [stored.data for stored in await desk.store.entries("outbox")] == ([] if fails else [b"1"])


# --- refused ----------------------------------------------------------------------------------------


@virtual
async def test_a_key_that_stands_for_another_call_is_refused_while_it_runs_and_afterwards() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    with pytest.raises(KeyReused):
        desk.ledger.find("", "k", b"another call")
    desk.ledger.finish(entry, b"answer")
    await turns()
    with pytest.raises(KeyReused):
        desk.ledger.find("", "k", b"another call")


@virtual
async def test_a_key_is_its_principals_alone() -> None:
    desk = await Desk().open()
    await desk.end("k", who="ann")
    assert desk.ledger.find("bob", "k", b"call") is None
    assert desk.ledger.find("an", "nk", b"call") is None, "where a name ends and a key begins cannot be chosen"
    await desk.end("k", b"bob's", who="bob")
    assert len(desk.ledger) == 2
    found = desk.ledger.find("ann", "k", b"call")
    assert found is not None
    assert await desk.ledger.answer(found) == b"answer"


@virtual
async def test_no_key_can_be_read_in_the_store() -> None:
    desk = await Desk().open()
    await desk.end("a secret key")
    assert [
        entry for entry in await desk.store.entries("once") if b"secret" in entry.data or "secret" in entry.key
    ] == []


@pytest.mark.parametrize(
    ("limits", "others"),
    [({"max_entries": 2}, {"who": "bob"}), ({"max_principal": 2}, {}), ({"max_bytes": 1000}, {"who": "bob"})],
)
@virtual
async def test_a_full_ledger_refuses_new_keys_and_forgets_no_old_one(limits: Any, others: Any) -> None:
    desk = await Desk(**limits).open()
    first, second = await desk.end("1"), await desk.begin("2")
    with pytest.raises(LimitError) as raised:
        desk.claim("3", **others)
    assert raised.value.limit == "ledger"
    assert desk.begun == [None, None]
    assert desk.ledger.find("", "1", b"call") is first
    assert desk.ledger.find("", "2", b"call") is second


@virtual
async def test_one_principals_keys_leave_room_for_the_others() -> None:
    desk = await Desk(max_principal=1).open()
    await desk.end("1", who="ann")
    with pytest.raises(LimitError):
        desk.ledger.check_room("ann")
    await desk.end("1", who="bob")


@virtual
async def test_time_makes_room() -> None:
    desk = await Desk(max_entries=1).open()
    await desk.end("1")
    desk.clock.now += DAY
    await desk.end("2")
    assert len(desk.ledger) == 1


@virtual
async def test_large_answers_count() -> None:
    desk = await Desk(max_bytes=10_000).open()
    await desk.end("1", b"x" * 10_000)
    with pytest.raises(LimitError):
        desk.ledger.check_room("")
    desk.clock.now += DAY
    desk.ledger.check_room("")
    assert desk.ledger.bytes == 0


@virtual
async def test_a_principals_room_comes_back_with_each_key_that_expires() -> None:
    desk = await Desk(max_principal=2).open()
    for key in "12":
        await desk.end(key, who="p")
    desk.clock.now += DAY
    for key in "34":
        await desk.begin(key, who="p")
    with pytest.raises(LimitError, match=r"^too many calls with an idempotency key are remembered"):
        desk.ledger.check_room("p")


@virtual
async def test_answers_count_the_same_after_a_restart() -> None:
    desk = await Desk().open()
    await desk.end("1", b"x" * 10_000)
    before = desk.ledger.bytes
    ledger = await desk.restart()
    await ledger.load()
    assert ledger.bytes == before > 10_000


@virtual
async def test_work_that_runs_counts_with_its_detail_and_the_limit_is_the_last_byte() -> None:
    desk = await Desk(max_bytes=1_000_000).open()
    sizes = []
    for key, detail in (("1", b""), ("2", b"x" * 500)):
        before = desk.ledger.bytes
        await desk.begin(key, detail=detail)
        sizes.append(desk.ledger.bytes - before)
    assert sizes[1] - sizes[0] == 500
    desk.ledger.max_bytes = desk.ledger.bytes + 1
    desk.ledger.check_room("")
    desk.ledger.max_bytes = desk.ledger.bytes
    with pytest.raises(LimitError):
        desk.ledger.check_room("")


@virtual
async def test_a_key_is_found_again_by_what_earlier_versions_stored() -> None:
    desk = await Desk().open()
    entry = desk.claim("k", who="p")
    assert entry.name == hashlib.sha256(b"1:pk").hexdigest()


def test_the_limits_are_two_hundred_thousand_keys_and_half_of_them_for_one_principal() -> None:
    ledger = Ledger(MemoryStore(durable=True), lambda records, told: None)
    assert (ledger.max_entries, ledger.max_principal, ledger.ttl) == (200_000, 100_000, DAY)


@virtual
async def test_one_sweep_forgets_a_page_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.core.ledger._PAGE", 3)
    desk = await Desk().open()
    for number in range(7):
        await desk.end(str(number))
    desk.clock.now += DAY
    left = []
    for _ in range(3):
        desk.ledger.expire()
        left.append(len(desk.ledger))
    assert left == [4, 1, 0]


# --- expired ----------------------------------------------------------------------------------------


@virtual
async def test_an_answer_is_remembered_for_a_day_from_its_end_on() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    desk.clock.now += 5 * DAY
    assert desk.ledger.find("", "k", b"call") is entry, "what runs does not expire"
    desk.ledger.finish(entry, b"answer")
    await turns()
    desk.clock.now += DAY - 1
    assert desk.ledger.find("", "k", b"call") is entry
    desk.clock.now += 1
    assert desk.ledger.find("", "k", b"call") is None, "then the key is free again, swept or not"
    await turns()
    assert await desk.store.entries("once") == []


@virtual
async def test_the_sweep_forgets_what_has_expired_and_nothing_else() -> None:
    desk = await Desk().open()
    await desk.end("old")
    running = await desk.begin("running")
    desk.clock.now += DAY / 2
    await desk.end("young")
    desk.ledger.expire()
    assert len(desk.ledger) == 3
    desk.clock.now += DAY / 2
    desk.ledger.expire()
    await turns()
    assert len(desk.ledger) == 2
    assert desk.ledger.find("", "running", b"call") is running
    assert len(await desk.store.entries("once")) == 3, "two heads and one answer"


# --- what goes wrong --------------------------------------------------------------------------------


@virtual
async def test_an_entry_that_cannot_be_committed_begins_nothing_and_leaves_its_key_free() -> None:
    desk = await Desk().open()
    desk.store.fail_commits(FULL)
    entry = desk.claim()
    waiting = asyncio.ensure_future(desk.ledger.answer(entry))
    await turns()
    assert desk.begun == [FULL]
    with pytest.raises(StoreError, match="the disk is full"):
        await waiting
    assert len(desk.ledger) == 0
    assert desk.ledger.bytes == 0
    desk.store.fail_commits(None)
    await desk.end()


@virtual
async def test_an_entry_that_the_store_does_not_take_is_refused_at_once() -> None:
    desk = await Desk().open()
    await desk.store.close()
    entry = desk.claim()
    assert [type(error) for error in desk.begun] == [StoreError]
    with pytest.raises(StoreError):
        await desk.ledger.answer(entry)


@virtual
async def test_an_answer_that_cannot_be_committed_is_given_and_replayed_all_the_same() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    desk.store.fail_commits(FULL)
    desk.ledger.finish(entry, b"answer")
    assert await desk.ledger.answer(entry) == b"answer"
    assert entry.state is EntryState.ENDED
    assert await desk.ledger.answer(entry) == b"answer"


@virtual
async def test_answers_that_could_not_be_stored_are_stored_as_soon_as_that_works() -> None:
    desk = await Desk(ttl=DAY).open()
    entries = await desk.unstored("a", "b")
    desk.ledger.settle()
    await turns()
    assert [entry.kept for entry in entries] == [b"answer", b"answer"]
    desk.store.fail_commits(None)
    write, writes = desk.store.write, []
    desk.store.write = lambda records: writes.append(records) or write(records)  # type: ignore[func-returns-value, method-assign]
    for _ in range(2):  # the second finds the first one at work
        desk.ledger.settle()
    await turns()
    assert [entry.kept for entry in entries] == [None, None]
    assert len(writes) == 2, "one for each"
    del desk.store.write
    ledger = await desk.restart(kill=True)
    assert await ledger.load() == []
    for key in ("a", "b"):
        entry = ledger.find("", key, b"call")
        assert entry is not None
        assert await ledger.answer(entry) == b"answer"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether it is sure that nobody else has taken the store over; it is not."""
    sure = [False]
    monkeypatch.setattr(MemoryStore, "is_held", property(lambda store: sure[0]))
    return sure


@virtual
async def test_an_answer_that_is_not_stored_is_withheld_until_nobody_else_can_say_otherwise(held: list[bool]) -> None:
    desk = await Desk(ttl=DAY).open()
    (entry,) = await desk.unstored("k")
    waiting = asyncio.ensure_future(desk.ledger.answer(entry))
    desk.ledger.tell_withheld()
    desk.ledger.settle()
    desk.clock.now += DAY
    desk.ledger.expire()
    await turns()
    assert not waiting.done()
    held[0] = True
    desk.ledger.tell_withheld()
    assert await waiting == b"answer"
    desk.clock.now += DAY - 1
    assert desk.ledger.find("", "k", b"call") is entry
    assert await desk.ledger.answer(entry) == b"answer"
    held[0] = False  # from here on another one may say that its outcome is unknown
    with pytest.raises(StoreError, match="not there"):
        await desk.ledger.answer(entry)


@virtual
async def test_an_answer_that_is_stored_at_last_is_withheld_no_longer(held: list[bool]) -> None:
    desk = await Desk(ttl=DAY).open()
    entries = await desk.unstored("a", "b")
    waiting = [asyncio.ensure_future(desk.ledger.answer(entry)) for entry in entries]
    desk.store.fail_commits(None)
    desk.ledger.settle()
    assert await asyncio.gather(*waiting) == [b"answer", b"answer"]
    assert [(entry.state, entry.kept) for entry in entries] == [(EntryState.ENDED, None)] * 2


@virtual
async def test_who_is_turned_away_may_ask_again_and_gets_the_answer_then(held: list[bool]) -> None:
    desk = await Desk().open()
    (entry,) = await desk.unstored("k")
    waiting = asyncio.ensure_future(desk.ledger.answer(entry))
    await turns()
    desk.ledger.turn_away()
    with pytest.raises(Withheld):
        await waiting
    again = asyncio.ensure_future(desk.ledger.answer(entry))
    await turns()
    assert not again.done()
    held[0] = True
    desk.ledger.settle()
    assert await again == b"answer"


@virtual
async def test_where_another_has_the_store_no_withheld_answer_is_told(held: list[bool]) -> None:
    desk = await Desk().open()
    entries = await desk.unstored("a", "b")
    waiting = [asyncio.ensure_future(desk.ledger.answer(entry)) for entry in entries]
    desk.store.fail_commits(StoreLost("another has it"))
    desk.ledger.settle()
    for one in waiting:
        with pytest.raises(StoreLost):
            await one


@virtual
async def test_answers_that_expire_before_they_could_be_stored_are_gone() -> None:
    desk = await Desk(ttl=DAY).open()
    await desk.unstored("under way", "waiting")
    desk.store.fail_commits(None)
    desk.ledger.settle()
    desk.clock.now += DAY
    desk.ledger.expire()
    await turns()
    assert len(desk.ledger) == 0
    assert await desk.store.count("once") == 0


@virtual
async def test_an_answer_that_is_not_there_any_more_is_no_reason_to_run_again() -> None:
    desk = await Desk().open()
    entry = await desk.end()
    desk.store.write([DropEntry("once", "a:" + entry.name)])
    with pytest.raises(StoreError, match="not there"):
        await desk.ledger.answer(entry)
    assert desk.ledger.find("", "k", b"call") is entry


@virtual
async def test_work_that_was_dropped_before_it_began_leaves_its_key_free() -> None:
    desk = await Desk().open()
    entry = desk.claim()
    waiting = asyncio.ensure_future(desk.ledger.answer(entry))
    desk.ledger.drop(entry, b"refused")
    assert await waiting == b"refused"
    again = await desk.begin()
    assert again is not entry
    assert desk.begun == [None], "the claim that was dropped is not told of its commit"
    assert desk.ledger.bytes == again.size


@virtual
async def test_work_that_the_process_abandons_tells_whoever_waits_or_comes() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    waiting = asyncio.ensure_future(desk.ledger.answer(entry))
    await turns()
    desk.ledger.abandon(entry, CallCancelled("the end"))
    desk.ledger.abandon(entry, CallCancelled("the end again"))
    for answer in (waiting, desk.ledger.answer(entry)):
        with pytest.raises(CallCancelled, match=r"the end$"):
            await answer
    assert desk.ledger.find("", "k", b"call") is entry, "nobody runs it again in this life"


@virtual
async def test_abandoning_what_has_ended_changes_nothing() -> None:
    desk = await Desk().open()
    entry = await desk.end()
    desk.ledger.abandon(entry, CallCancelled("the end"))
    assert await desk.ledger.answer(entry) == b"answer"


# --- another process life ---------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True])
@virtual
async def test_answers_are_replayed_after_a_restart(kill: bool) -> None:
    desk = await Desk().open()
    await desk.end("k", who="ann")
    ledger = await desk.restart(kill=kill)
    assert await ledger.load() == []
    entry = ledger.find("ann", "k", b"call")
    assert entry is not None
    assert entry.state is EntryState.ENDED
    assert await ledger.answer(entry) == b"answer"
    with pytest.raises(KeyReused):
        ledger.find("ann", "k", b"another call")
    desk.clock.now += DAY
    assert ledger.find("ann", "k", b"call") is None


@virtual
async def test_work_that_did_not_end_is_an_orphan_and_its_key_is_taken() -> None:
    desk = await Desk().open()
    await desk.begin(detail=b"what it was")
    ledger = await desk.restart(kill=True)
    orphans = await ledger.load()
    assert [orphan.detail for orphan in orphans] == [b"what it was"]
    entry = ledger.find("", "k", b"call")
    assert entry is orphans[0].entry
    waiting = asyncio.ensure_future(ledger.answer(entry))
    await turns()
    ledger.finish(entry, b"unknown")
    assert await waiting == b"unknown"
    ledger = await desk.restart(kill=True)
    assert await ledger.load() == [], "it was settled once"


@virtual
async def test_an_orphan_runs_again_once_that_is_committed() -> None:
    desk = await Desk().open()
    await desk.begin(detail=b"first")
    ledger = await desk.restart(kill=True)
    [orphan] = await ledger.load()
    desk.begun.clear()
    ledger.rerun(orphan, b"second", desk.begun.append, "another run")
    entry = ledger.find("", "k", b"call")
    assert entry is not None
    assert (entry.state, entry.owner, desk.begun) == (EntryState.CLAIMED, "another run", [])
    await turns()
    assert (entry.state, desk.begun) == (EntryState.BEGUN, [None])
    ledger = await desk.restart(kill=True)
    assert [orphan.detail for orphan in await ledger.load()] == [b"second"]


@virtual
async def test_a_second_run_that_cannot_be_committed_is_left_to_the_next_life() -> None:
    desk = await Desk().open()
    await desk.begin(detail=b"first")
    ledger = await desk.restart(kill=True)
    [orphan] = await ledger.load()
    desk.begun.clear()
    desk.store.fail_commits(FULL)
    ledger.rerun(orphan, b"second", desk.begun.append, "another run")
    await turns()
    assert desk.begun == [FULL]
    with pytest.raises(StoreError):
        await ledger.answer(orphan.entry)
    assert ledger.find("", "k", b"call") is orphan.entry, "it may have had its effect: it is not begun anew"
    desk.store.fail_commits(None)
    ledger = await desk.restart(kill=True)
    assert [orphan.detail for orphan in await ledger.load()] == [b"first"]


@virtual
async def test_what_expired_while_there_was_no_process_is_known_for_a_minute_more() -> None:
    desk = await Desk().open()
    await desk.end()
    desk.clock.now += DAY + 1
    ledger = await desk.restart()
    assert await ledger.load() == []
    assert ledger.find("", "k", b"call") is not None
    desk.clock.now += 60
    assert ledger.find("", "k", b"call") is None


@virtual
async def test_entries_expire_in_their_order_after_a_restart_too() -> None:
    desk = await Desk().open()
    keys = [f"k{number}" for number in range(20)]
    for key in keys:
        await desk.end(key)
        desk.clock.now += 100
    ledger = await desk.restart()
    await ledger.load()
    desk.clock.now += DAY - 1000
    ledger.expire()
    assert [key for key in keys if ledger.find("", key, b"call") is not None] == keys[11:]
    assert len(ledger) == 9


@virtual
async def test_many_entries_are_read_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.core.ledger._PAGE", 3)
    desk = await Desk().open()
    for number in range(7):
        await desk.end(f"k{number}")
    ledger = await desk.restart()
    await ledger.load()
    assert len(ledger) == 7
    assert all(ledger.find("", f"k{number}", b"call") for number in range(7))


@virtual
async def test_an_entry_that_cannot_be_read_keeps_its_key_taken(caplog: pytest.LogCaptureFixture) -> None:
    desk = await Desk().open()
    entry = await desk.end()
    desk.store.write([PutEntry("once", "h:" + entry.name, b"damaged", desk.clock.now + 2 * DAY)])
    ledger = await desk.restart()
    assert await ledger.load() == []
    with pytest.raises(KeyReused):
        ledger.find("", "k", b"call")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.messages == ["an entry of the ledger cannot be read: its key stays taken until it expires"]


# --- paused, and claimed again ------------------------------------------------------------------------


async def pause(desk: Desk, key: str = "k", seconds: float = 60.0) -> Entry:
    entry = await desk.begin(key)
    desk.ledger.pause(entry, b"a question", seconds)
    return entry


@virtual
async def test_a_pause_is_told_to_those_who_are_attached_once_it_is_committed_and_kept_for_nobody() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    waiting = [asyncio.ensure_future(desk.ledger.answer(entry)) for _ in range(2)]
    await turns()
    desk.ledger.pause(entry, b"a question", 60.0)
    assert not any(one.done() for one in waiting)
    await turns()
    assert [await one for one in waiting] == [b"a question"] * 2
    assert (entry.state, entry.owner) == (EntryState.OPEN, None)
    again = desk.ledger.claim("", "k", b"call", b"detail", desk.begun.append, owner="another run")
    assert desk.ledger.find("", "k", b"call") is again
    await turns()
    desk.ledger.finish(again, b"answer")
    await turns()
    assert await desk.ledger.answer(again) == b"answer"
    assert len(desk.ledger) == 1


@virtual
async def test_a_pause_that_cannot_be_committed_is_told_all_the_same() -> None:
    desk = await Desk().open()
    entry = await desk.begin()
    waiting = asyncio.ensure_future(desk.ledger.answer(entry))
    await turns()
    desk.store.fail_commits(FULL)
    desk.ledger.pause(entry, b"a question", 60.0)
    assert await waiting == b"a question"


@virtual
async def test_an_open_key_is_for_its_call_only_until_its_time_has_passed() -> None:
    desk = await Desk().open()
    await pause(desk)
    with pytest.raises(KeyReused):
        desk.ledger.find("", "k", b"another call")
    desk.clock.now += 60.0
    assert desk.ledger.find("", "k", b"another call") is None
    await pause(desk, "l", 30.0)
    await desk.end("m")
    desk.clock.now += 30.0
    desk.ledger.expire()
    assert (len(desk.ledger), desk.ledger.bytes > 0) == (1, True)


@virtual
async def test_an_open_key_outlives_the_process_and_is_no_orphan() -> None:
    desk = await Desk().open()
    await pause(desk)
    await turns()
    ledger = await desk.restart(kill=True)
    assert await ledger.load() == []
    entry = ledger.find("", "k", b"call")
    assert entry is not None
    assert entry.state is EntryState.OPEN
    again = ledger.claim("", "k", b"call", b"detail", desk.begun.append)
    await turns()
    assert again.state is EntryState.BEGUN
    ledger = await desk.restart(kill=True)
    (orphan,) = await ledger.load()
    assert orphan.detail == b"detail"


@virtual
async def test_without_others_no_key_is_held_elsewhere() -> None:
    desk = await Desk().open()
    await desk.begin()
    assert await desk.ledger.elsewhere("", "k", b"call") is None
