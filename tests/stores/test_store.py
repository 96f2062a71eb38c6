"""What every store promises, held on each of them alike: tickets, callbacks, reading back, forgetting."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.core.ports import (
    AppendEvent,
    DropEntry,
    DropSession,
    DropStream,
    EndCall,
    Kind,
    PutCall,
    PutEntry,
    PutSession,
    Record,
    StoredCall,
    StoredEntry,
    StoredEvent,
    StoredSession,
    TrimStream,
)
from tailrace.errors import EntryTaken, StoreBusy, StoreError
from tailrace.stores.memory import MemoryStore
from tailrace.stores.sqlite import SqliteStore
from tailrace.stores.tickets import Tickets
from tailrace.stores.valkey import ValkeyStore
from tests.rigs.valkey import Valkey

AnyStore = MemoryStore | SqliteStore | ValkeyStore


@dataclass
class Bench:
    """A kind of store under test: `make` gives a store over what the one before it left."""

    make: Callable[..., AnyStore]
    break_disk: Callable[[], None]
    repair_disk: Callable[[], None]
    complaint: str = "disk I/O error"


@pytest.fixture(params=["memory", "sqlite", "valkey", "valkey partition"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param in ("valkey", "valkey partition"):
        server: Valkey = request.getfixturevalue("server")
        partition = "p1" if request.param == "valkey partition" else ""
        server.ask("SADD", "{tailrace:tailrace}:partitions", "p1")
        yield Bench(
            lambda **options: ValkeyStore(server.url, partition=partition, probe_interval=0.01, **options),
            lambda: server.ask("CONFIG", "SET", "maxmemory", "1"),  # it refuses whatever takes memory
            lambda: server.ask("CONFIG", "SET", "maxmemory", "0"),
            "used memory > 'maxmemory'",
        )
    elif request.param == "sqlite":

        class Breakable(sqlite3.Connection):
            broken = False

            def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
                if self.broken and sql.startswith(("COMMIT", "INSERT INTO recent")):
                    raise sqlite3.OperationalError("disk I/O error")
                return super().execute(sql, *rest)

        yield Bench(
            lambda **options: SqliteStore(tmp_path / "s.db", factory=Breakable, probe_interval=0.01, **options),
            lambda: setattr(Breakable, "broken", True),
            lambda: setattr(Breakable, "broken", False),
        )
    else:
        kept = MemoryStore(durable=True)

        def make(**options: Any) -> AnyStore:
            return MemoryStore(durable=True, **options) if options else kept

        yield Bench(make, lambda: kept.fail_commits(StoreError("disk I/O error")), lambda: kept.fail_commits(None))


SESSION = PutSession("s1", b"h1", "ann", b"data", 100.0)


def event(seq: int, *, stream: int = 1, kind: int = Kind.NOTIFICATION, session: str = "s1") -> AppendEvent:
    return AppendEvent(session, stream, seq, kind, b"payload %d" % seq)


def stored(seq: int, *, stream: int = 1, kind: int = Kind.NOTIFICATION) -> StoredEvent:
    return StoredEvent(stream, seq, kind, b"payload %d" % seq)


async def loaded(store: AnyStore, session: str = "s1") -> StoredSession:
    found = await store.load(session)
    assert found is not None
    return found


# --- tickets and callbacks ------------------------------------------------------------------------


async def test_tickets_grow(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    tickets = [store.write([event(seq)]) for seq in range(1, 50)]
    await store.flush()
    tickets += [store.write([]), store.write([SESSION])]
    assert tickets == sorted(set(tickets))
    assert store.is_held
    await store.close()


async def test_callbacks_come_in_the_order_of_tickets_and_never_from_within(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    heard: list[tuple[int, StoreError | None]] = []
    tickets: list[int] = []
    for seq in range(1, 201):
        ticket = store.write([event(seq)])
        store.when(ticket, lambda error, ticket=ticket: heard.append((ticket, error)))
        tickets.append(ticket)
        if seq % 3 == 0:  # a listener that comes late stands in its place all the same
            store.when(tickets[-2], lambda error, ticket=tickets[-2]: heard.append((ticket, error)))
    assert heard == []
    await store.flush()
    assert [ticket for ticket, _ in heard] == sorted(ticket for ticket, _ in heard)
    assert len(heard) == 266
    assert {error for _, error in heard} == {None}
    await store.close()


async def test_who_asks_about_a_committed_ticket_is_told_soon(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    ticket = store.write([SESSION])
    await store.flush()
    told: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    store.when(ticket, told.set_result)
    assert not told.done()
    assert await told is None
    await store.close()


async def test_a_ticket_that_was_never_given_out_is_refused(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    ticket = store.write([SESSION])
    for wrong in (0, -1, ticket + 1):
        with pytest.raises(ValueError, match="never given out"):
            store.when(wrong, print)
    await store.close()


async def test_a_callback_that_raises_keeps_no_other_from_being_told(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    heard: list[StoreError | None] = []

    def fault(_: StoreError | None) -> None:
        raise LookupError("mine")

    ticket = store.write([SESSION])
    store.when(ticket, fault)
    store.when(ticket, heard.append)
    store.when(store.write([event(1)]), heard.append)
    await store.flush()
    assert heard == [None, None]
    assert [type(context["exception"]) for context in reported] == [LookupError]
    await store.close()


async def test_a_callback_may_write_again(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    done = asyncio.get_running_loop().create_future()

    def chain(seq: int) -> None:
        if seq == 30:
            done.set_result(None)
        else:
            store.when(store.write([event(seq + 1)]), lambda _: chain(seq + 1))

    store.write([SESSION])
    chain(0)
    await done
    assert (await loaded(store)).last == {1: 30}
    await store.close()


async def test_cancelling_a_wait_cancels_no_write(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION])
    waits = [asyncio.ensure_future(wait) for wait in (store.flush(), store.load("s1"), store.next_epoch())]
    await asyncio.sleep(0)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert (await loaded(store)).data == b"data"
    assert store.statistics()["queued_bytes"] == 0
    await store.close()


# --- limits, opening and closing ------------------------------------------------------------------


async def test_a_store_that_is_not_open_takes_nothing(bench: Bench) -> None:
    store = bench.make()
    await store.close()  # nothing to do
    for use in (store.load, store.sessions, store.unfinished, store.secrets, store.next_epoch):
        with pytest.raises(StoreError, match="not open"):
            await use()
    with pytest.raises(StoreError, match="not open"):
        store.write([SESSION])
    await store.open()
    ticket = store.write([SESSION])
    await store.close()
    with pytest.raises(StoreError, match="not open"):
        store.write([event(1)])
    heard = asyncio.get_running_loop().create_future()
    store.when(ticket, heard.set_result)
    assert await heard is None


async def test_over_the_limit_of_uncommitted_bytes_a_write_is_refused_whole(bench: Bench) -> None:
    store = bench.make(max_queued=20_000)
    await store.open()
    ticket = store.write([SESSION])
    with pytest.raises(StoreError, match="20000 bytes"):
        store.write([event(1), AppendEvent("s1", 1, 2, 0, b"x" * 20_000)])
    taken: list[int] = []
    with suppress(StoreError):
        while len(taken) < 1000:  # nothing at all weighs something, too
            taken.append(store.write([]))
    assert 0 < len(taken) < 100
    await store.flush()
    assert store.statistics()["queued_bytes"] == 0
    assert store.write([event(1)]) > ticket
    assert (await loaded(store)).events == [stored(1)]
    await store.close()


async def test_closing_commits_and_calls_back_before_it_returns(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    heard: list[StoreError | None] = []
    for seq in range(1, 2501):
        store.when(store.write([event(seq)]), heard.append)
    store.write([SESSION])
    closers = [asyncio.ensure_future(store.close()) for _ in range(3)]
    await asyncio.gather(*closers)
    assert heard == [None] * 2500
    await store.close()
    again = bench.make()
    await again.open()
    assert (await loaded(again)).last == {1: 2500}
    await again.close()


async def test_a_cancelled_closer_does_not_stop_the_closing(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION])
    closer = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closer.cancel()
    await asyncio.gather(closer, return_exceptions=True)
    await store.close()
    again = bench.make()
    await again.open(wait=0)
    assert (await loaded(again)) is not None
    await again.close()


async def test_a_store_is_opened_once(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    with pytest.raises(StoreBusy, match="open already"):
        await store.open()
    store.write([SESSION])
    await store.flush()
    await store.close()
    await store.open()
    assert (await loaded(store)).principal == "ann"
    await store.close()


def test_a_store_whose_loop_is_gone_can_be_opened_on_the_next(bench: Bench) -> None:
    store = bench.make()

    async def first() -> int:
        await store.open()
        store.write([SESSION])
        await store.flush()
        return store.write([event(1)])

    async def second(left: int) -> None:
        await store.open()
        assert (await loaded(store)).data == b"data"
        heard = asyncio.get_running_loop().create_future()
        store.when(left, heard.set_result)
        if await heard is None:  # else nobody can promise it
            assert (await loaded(store)).events == [stored(1)]
        assert store.write([event(2)]) > left
        await store.flush()
        await store.close()

    asyncio.run(second(asyncio.run(first())))


def test_statistics_name_their_numbers(bench: Bench) -> None:
    store = bench.make()

    async def main() -> None:
        await store.open()
        before = store.statistics()
        store.write([SESSION, event(1)])
        assert store.statistics()["queued_bytes"] > 0
        await store.flush()
        after = store.statistics()
        assert {"queued_bytes", "commits", "records", "failed"} <= set(after)
        assert after["queued_bytes"] == after["failed"] == 0
        assert (after["commits"], after["records"]) == (before["commits"] + 1, before["records"] + 2)
        await store.close()

    asyncio.run(main())


# --- a commit that fails --------------------------------------------------------------------------


async def test_an_error_concerns_its_own_ticket_only(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    heard: dict[str, StoreError | None] = {}
    store.when(store.write([SESSION]), lambda error: heard.update(before=error))
    await store.flush()
    bench.break_disk()
    failed = store.write([event(1), PutCall("s1", 7, 1, b"call")])
    store.when(failed, lambda error: heard.update(failed=error))
    with pytest.raises(StoreError, match=bench.complaint):
        await store.flush()
    assert bench.complaint in str(store.failure)
    await store.flush()  # it was told
    bench.repair_disk()
    store.when(store.write([event(2), EndCall("s1", 7)]), lambda error: heard.update(after=error))
    await store.flush()
    assert store.failure is None
    assert heard["before"] is heard["after"] is None
    assert isinstance(heard["failed"], StoreError)
    assert store.statistics()["failed"] == 1
    late = asyncio.get_running_loop().create_future()
    store.when(failed, late.set_result)
    assert isinstance(await late, StoreError)
    found = await loaded(store)  # rolled back whole; what came later was written all the same
    assert (found.events, found.calls, found.last) == ([stored(2)], [], {1: 2})
    await store.close()


async def test_failure_ends_when_writing_works_again_though_nobody_writes(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    bench.break_disk()
    store.write([SESSION])
    with pytest.raises(StoreError):
        await store.flush()
    assert store.failure is not None
    bench.repair_disk()
    while store.failure is not None:  # ends by the test's time-out
        await asyncio.sleep(0.001)
    await store.close()


# --- reading back ---------------------------------------------------------------------------------


async def test_a_session_is_read_back_whole_by_its_id_and_by_its_handle(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([PutSession("s2", b"h2", "", b"", 5.0), event(1, session="s2")])
    store.write([SESSION, PutCall("s1", 2, 3, b"second"), PutCall("s1", 1, 1, b"first")])
    store.write([event(1, stream=3, kind=Kind.ANSWER), event(1), event(2, kind=Kind.REQUEST), event(3)])
    expected = StoredSession(
        "s1",
        b"h1",
        "ann",
        b"data",
        100.0,
        [stored(1), stored(2, kind=Kind.REQUEST), stored(3), stored(1, stream=3, kind=Kind.ANSWER)],
        {1: 3, 3: 1},
        [StoredCall(1, 1, b"first"), StoredCall(2, 3, b"second")],
    )
    assert await store.load("s1") == expected  # a read comes after the writes before it, also without a flush
    assert await store.load(handle=b"h1") == expected
    assert await store.load("h1") is None
    assert await store.load(handle=b"s1") is None
    assert await store.load("other") is None
    await store.close()
    again = bench.make()
    await again.open()
    assert await again.load(handle=b"h1") == expected
    await again.close()


async def test_putting_a_session_again_replaces_its_record_only(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION, event(1), PutCall("s1", 1, 1, b"call")])
    store.write([PutSession("s1", b"h9", "bob", b"new", 200.0)])
    found = await loaded(store)
    assert (found.handle, found.principal, found.data, found.touched) == (b"h9", "bob", b"new", 200.0)
    assert (found.events, found.calls) == ([stored(1)], [StoredCall(1, 1, b"call")])
    assert await store.load(handle=b"h1") is None
    await store.close()


async def test_writing_the_same_again_changes_nothing(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    records = [SESSION, event(1), event(2), PutCall("s1", 1, 1, b"call"), TrimStream("s1", 1, 0, 1), EndCall("s1", 9)]
    store.write(records)
    before = await loaded(store)
    store.write(records)
    assert await loaded(store) == before
    store.write([AppendEvent("s1", 1, 2, 0, b"another payload")])
    assert await loaded(store) == before
    await store.close()


async def test_trimming_takes_one_kind_and_never_the_last_number(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION, event(1), event(2, kind=Kind.ANSWER), event(3), event(4), event(1, stream=2)])
    store.write([TrimStream("s1", 1, Kind.NOTIFICATION, 3)])
    found = await loaded(store)
    assert found.events == [stored(2, kind=Kind.ANSWER), stored(4), stored(1, stream=2)]
    store.write([TrimStream("s1", 1, kind, 99) for kind in Kind])
    found = await loaded(store)
    assert (found.events, found.last) == ([stored(1, stream=2)], {1: 4, 2: 1})
    store.write([event(5)])
    assert (await loaded(store)).last == {1: 5, 2: 1}
    await store.close()


@pytest.mark.parametrize(
    ("records", "events", "calls", "last"),
    [
        ([TrimStream("s1", 1, 0, 5), event(5)], [stored(5)], [], {1: 5}),
        ([event(5), TrimStream("s1", 1, 0, 5)], [], [], {1: 5}),
        ([event(5), TrimStream("s1", 1, 0, 5), TrimStream("s1", 1, 0, 4), event(6)], [stored(6)], [], {1: 6}),
        ([DropStream("s1", 1), event(5)], [stored(5)], [], {1: 5}),
        ([event(5), DropStream("s1", 1)], [], [], {}),
        ([PutCall("s1", 1, 1, b""), EndCall("s1", 1)], [], [], {}),
        ([EndCall("s1", 1), PutCall("s1", 1, 1, b"")], [], [StoredCall(1, 1, b"")], {}),
        ([event(1), PutCall("s1", 1, 1, b""), DropSession("s1"), SESSION, event(2)], [stored(2)], [], {1: 2}),
        ([event(6), event(5)], [stored(5), stored(6)], [], {1: 6}),
    ],
)
async def test_records_of_one_commit_have_their_effect_in_their_order(
    bench: Bench, records: list[Record], events: list[StoredEvent], calls: list[StoredCall], last: dict[int, int]
) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION])
    store.write(records)
    found = await loaded(store)
    assert (found.events, found.calls, found.last) == (events, calls, last)
    await store.close()


async def test_many_calls_end_in_one_commit(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION, *(PutCall("s1", call, 1, b"") for call in range(100))])
    await store.flush()
    store.write([EndCall("s1", call) for call in range(100) if call not in (3, 97)])
    assert [call.call for call in (await loaded(store)).calls] == [3, 97]
    await store.close()


async def test_a_dropped_stream_is_gone_with_its_number(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION, event(1), event(2, kind=Kind.ANSWER), event(1, stream=2), PutCall("s1", 1, 1, b"")])
    store.write([DropStream("s1", 1), DropStream("s1", 77)])
    found = await loaded(store)
    assert (found.events, found.last, found.calls) == ([stored(1, stream=2)], {2: 1}, [StoredCall(1, 1, b"")])
    await store.close()


async def test_a_dropped_session_is_gone_with_all_that_was_its_own(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION, event(1), PutCall("s1", 1, 1, b""), PutSession("s2", b"h2", "", b"", 1.0)])
    store.write([DropSession("s1"), DropSession("never")])
    assert await store.load("s1") is None
    assert await store.load(handle=b"h1") is None
    assert await store.sessions() == [("s2", 1.0)]
    assert await store.unfinished() == []
    store.write([SESSION])
    found = await loaded(store)
    assert (found.events, found.last, found.calls) == ([], {}, [])
    await store.close()


async def test_what_belongs_to_no_session_is_written_and_gone_at_the_next_opening(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([event(1), PutCall("s1", 1, 1, b"")])  # the write with the session failed, say
    store.write([TrimStream("s9", 1, 0, 5), EndCall("s9", 1), DropStream("s9", 1)])
    assert await store.load("s1") is None
    assert await store.unfinished() == []
    store.write([SESSION, event(1, session="s2")])
    assert (await loaded(store)).events == [stored(1)]
    await store.close()
    again = bench.make()
    await again.open()
    again.write([PutSession("s2", b"h2", "", b"", 1.0)])
    assert (await loaded(again, "s2")).events == []
    assert (await loaded(again)).events == [stored(1)]
    await again.close()


async def test_sessions_are_listed_oldest_first_and_unfinished_ones_by_their_calls(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    for name, touched in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        store.write([PutSession(name, name.encode(), "", b"", touched), PutCall(name, 1, 1, b"")])
    store.write([PutSession("a", b"a", "", b"", 9.0), EndCall("b", 1)])
    assert await store.sessions() == [("b", 2.0), ("c", 3.0), ("a", 9.0)]
    assert await store.unfinished() == ["a", "c"]
    await store.close()


async def test_secrets_are_made_once_and_epochs_counted(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    secrets = await store.secrets()
    assert [len(secret) for secret in secrets] == [32]
    assert [await store.next_epoch(), await store.next_epoch()] == [1, 2]
    await store.close()
    again = bench.make()
    await again.open()
    assert await again.secrets() == secrets
    assert await again.next_epoch() == 3
    await again.close()


# --- entries, which belong to no session -----------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def put(key: str, data: bytes = b"data", *, kind: str = "once", expires: float = 2_000.0) -> PutEntry:
    return PutEntry(kind, key, data, expires)


async def keys(store: AnyStore, kind: str = "once", **page: Any) -> list[str]:
    return [entry.key for entry in await store.entries(kind, **page)]


async def test_an_entry_is_read_by_kind_and_key_replaced_and_dropped(bench: Bench) -> None:
    store = bench.make(clock=Clock())
    await store.open()
    assert await store.entry("once", "k") is None
    store.write([put("k"), put("k", b"task", kind="task")])
    assert await store.entry("once", "k") == StoredEntry("k", b"data", 2_000.0)  # also without a flush
    store.write([put("k", b"new", expires=3_000.0), DropEntry("once", "never")])
    assert await store.entry("once", "k") == StoredEntry("k", b"new", 3_000.0)
    store.write([put("l"), DropEntry("once", "l"), DropEntry("once", "k"), put("m"), DropEntry("once", "m"), put("m")])
    assert await store.entry("once", "k") is None
    assert await keys(store) == ["m"]
    assert await store.entry("task", "k") == StoredEntry("k", b"task", 2_000.0)
    await store.close()


async def test_entries_outlive_sessions_and_the_store_that_wrote_them(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([SESSION, put("k", expires=4e9), PutCall("s1", 1, 1, b"")])
    store.write([EndCall("s1", 1), put("l", expires=4e9), DropSession("s1")])
    await store.close()
    again = bench.make()
    await again.open()
    assert await keys(again) == ["k", "l"]
    assert await again.load("s1") is None
    await again.close()


async def test_entries_come_in_the_order_of_their_keys_page_by_page(bench: Bench) -> None:
    store = bench.make(clock=Clock())
    await store.open()
    names = ["", "Z", "a", "a\0b", "ab", "\u00e4", "\uff5e", "\U0001f600"]  # by code points, not UTF-16, not locale
    assert names == sorted(names)
    store.write([put(name) for name in reversed(names)])
    store.write([put("other", kind="task")])
    assert await keys(store) == names[1:]  # after "" is not "" itself
    pages = [await keys(store, after=after, limit=3) for after in ("", "a\0b", "\uff5e", "\U0001f600")]
    assert pages == [names[1:4], names[4:7], names[7:], []]
    store.write([DropEntry("once", "Z"), put("b")])
    assert await keys(store, limit=4) == ["a", "a\0b", "ab", "b"]
    assert await keys(store, limit=0) == []
    await store.close()


async def test_what_has_expired_is_not_read_though_nobody_dropped_it(bench: Bench) -> None:
    clock = Clock()
    store = bench.make(clock=clock)
    await store.open()
    store.write([put("early", expires=1_500.0), put("late"), put("longer", expires=1_500.0)])
    store.write([put("longer", expires=2_500.0)])
    clock.now = 1_500.0
    assert await store.entry("once", "early") is None
    assert await keys(store) == ["late", "longer"]
    clock.now = 2_400.0
    assert await keys(store) == ["longer"]
    store.write([put("early", b"again", expires=3_000.0)])
    assert await store.entry("once", "early") == StoredEntry("early", b"again", 3_000.0)
    await store.close()


async def test_entries_of_a_commit_that_failed_are_not_there(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([put("k", b"old", expires=4e9)])
    await store.flush()
    bench.break_disk()
    store.write([put("k", b"new", expires=4e9), put("l", expires=4e9), event(1)])
    with pytest.raises(StoreError):
        await store.flush()
    bench.repair_disk()
    store.write([put("m", expires=4e9)])
    assert await store.entry("once", "k") == StoredEntry("k", b"old", 4e9)
    assert await keys(store) == ["k", "m"]
    await store.close()


# --- entries that are claimed ----------------------------------------------------------------------


def claim(key: str, data: bytes = b"mine", *, kind: str = "once", expires: float = 2_000.0) -> PutEntry:
    return PutEntry(kind, key, data, expires, claim=True)


async def outcome(store: AnyStore, *records: Record) -> StoreError | None:
    heard: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    store.when(store.write(records), heard.set_result)
    return await heard


async def test_a_key_is_claimed_once_and_a_refused_claim_takes_its_whole_write_with_it(bench: Bench) -> None:
    store = bench.make(clock=Clock())
    await store.open()
    heard: list[StoreError | None] = []
    writes: list[list[Record]] = [
        [claim("k", b"first"), SESSION],
        [event(1)],
        [event(2), claim("k", b"second"), put("beside")],  # all in one commit, most probably
        [claim("k", kind="step"), event(3)],
    ]
    for records in writes:
        store.when(store.write(records), heard.append)
    await store.flush()  # a refused claim is no failure
    assert [type(error) for error in heard] == [type(None), type(None), EntryTaken, type(None)]
    assert isinstance(await outcome(store, claim("k", b"third")), EntryTaken)
    assert store.failure is None
    assert store.statistics()["failed"] == 0
    assert await store.entry("once", "k") == StoredEntry("k", b"first", 2_000.0)
    assert await store.entry("once", "beside") is None
    assert [stored.seq for stored in (await loaded(store)).events] == [1, 3]
    assert await keys(store, "step") == ["k"]
    await store.close()


async def test_what_is_held_is_written_by_whoever_does_not_claim_it(bench: Bench) -> None:
    store = bench.make(clock=Clock())
    await store.open()
    store.write([claim("k", b"begun")])
    assert await outcome(store, put("k", b"ended", expires=3_000.0)) is None
    assert isinstance(await outcome(store, claim("k")), EntryTaken)
    assert await store.entry("once", "k") == StoredEntry("k", b"ended", 3_000.0)
    await store.close()


@pytest.mark.parametrize("apart", [True, False], ids=["each committed", "in one commit"])
async def test_a_key_that_was_dropped_left_free_or_has_expired_is_claimed_again_once(bench: Bench, apart: bool) -> None:
    clock = Clock()
    store = bench.make(clock=clock)
    await store.open()
    before: list[Record] = [
        claim("dropped"),
        claim("free"),
        PutEntry("once", "free", b"paused", 2_000.0, free=True),
        claim("gone", expires=1_000.0),  # at this moment
        PutEntry("once", "held again", b"", 2_000.0, free=True),
        put("held again"),
        DropEntry("once", "dropped"),
    ]
    heard: list[StoreError | None] = []
    for record in before:
        store.when(store.write([record]), heard.append)
        if apart:
            await store.flush()
    for key in ("dropped", "free", "gone", "held again"):
        for _ in range(2):
            store.when(store.write([claim(key)]), heard.append)
            if apart:
                await store.flush()
    await store.flush()
    assert heard[: len(before)] == [None] * len(before)
    assert [error is None for error in heard[len(before) :]] == [True, False] * 3 + [False, False]
    await store.close()


async def test_who_holds_a_key_and_what_is_free_outlives_the_store_that_wrote_it(bench: Bench) -> None:
    store = bench.make()
    await store.open()
    store.write([claim("held", expires=4e9), PutEntry("once", "free", b"", 4e9, free=True)])
    await store.close()
    again = bench.make()
    await again.open()
    assert isinstance(await outcome(again, claim("held", expires=4e9)), EntryTaken)
    assert await outcome(again, claim("free", expires=4e9)) is None
    await again.close()
    last = bench.make()
    await last.open()
    assert isinstance(await outcome(last, claim("free", expires=4e9)), EntryTaken)
    await last.close()


async def test_of_several_claims_in_one_write_all_stand_or_none(bench: Bench) -> None:
    store = bench.make(clock=Clock())
    await store.open()
    assert await outcome(store, claim("a"), claim("b"), put("c")) is None
    assert isinstance(await outcome(store, claim("d"), claim("b"), claim("e")), EntryTaken)
    assert await keys(store) == ["a", "b", "c"]
    assert await outcome(store, claim("d"), claim("d", b"twice")) is None  # held against what was there before
    assert await store.entry("once", "d") == StoredEntry("d", b"twice", 2_000.0)
    await store.close()


# --- any records, in any grouping -----------------------------------------------------------------

SESSIONS = st.sampled_from(["a", "b"])
KINDS = st.sampled_from(["a", "once"])  # the second is one that partitions share
SMALL = st.integers(1, 3)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(lambda s, d: PutSession(s, s.encode(), "", d, 1.0), SESSIONS, st.binary(max_size=2)),
    st.builds(DropSession, SESSIONS),
    st.builds(lambda s, n, q: AppendEvent(s, n, q, q % 2, b"%d" % q), SESSIONS, SMALL, SMALL),  # a number has one kind
    st.builds(TrimStream, SESSIONS, SMALL, st.integers(0, 1), SMALL),
    st.builds(DropStream, SESSIONS, SMALL),
    st.builds(PutCall, SESSIONS, SMALL, SMALL, st.binary(max_size=2)),
    st.builds(EndCall, SESSIONS, SMALL),
    st.builds(PutEntry, KINDS, SESSIONS, st.binary(max_size=2), st.floats(3e9, 4e9), st.booleans(), st.booleans()),
    st.builds(DropEntry, KINDS, SESSIONS),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(RECORDS, max_size=30), max_size=6), st.sampled_from([1, 3_000, 4_194_304]), st.booleans())
def test_sqlite_keeps_what_memory_keeps_however_the_writes_are_grouped(
    writes: list[list[Record]], merge_bytes: int, killed: bool
) -> None:
    async def main(folder: Path) -> None:
        memory, sqlite = MemoryStore(), SqliteStore(folder / "s.db", merge_bytes=merge_bytes)
        for store in (memory, sqlite):
            await store.open()
            for number, records in enumerate(writes):
                store.write(records)
                if number % 2:
                    await store.flush()
            store.write([PutSession(name, name.encode(), "", b"", 1.0) for name in ("a", "b")])  # shows all there is
            await store.flush()
        if killed:
            (folder / "copy").mkdir()
            for file in folder.glob("s.db*"):
                shutil.copy(file, folder / "copy")
            await sqlite.close()
            sqlite = SqliteStore(folder / "copy" / "s.db")
            await sqlite.open()
        for kind in ("a", "once"):  # entries first: they are read without a merge
            assert await sqlite.entry(kind, "a") == await memory.entry(kind, "a")
            for page in ({}, {"after": "a"}, {"limit": 1}):
                assert await sqlite.entries(kind, **page) == await memory.entries(kind, **page)
        for name in ("a", "b"):
            assert await sqlite.load(name) == await memory.load(name)
        for kind in ("a", "once"):
            assert await sqlite.count(kind) == await memory.count(kind)
        assert await sqlite.unfinished() == await memory.unfinished()
        for store in (memory, sqlite):
            await store.close()

    with TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


# --- memory, and tickets by themselves ------------------------------------------------------------


async def test_a_memory_store_says_whether_it_is_durable() -> None:
    assert MemoryStore().durable is False
    assert MemoryStore(durable=True).durable is True
    assert MemoryStore().name == "memory"


async def test_a_crash_loses_what_was_not_committed_and_tells_nobody() -> None:
    store = MemoryStore(durable=True)
    await store.open()
    store.write([SESSION])
    await store.flush()
    heard: list[StoreError | None] = []
    store.when(store.write([event(1)]), heard.append)
    store.crash()
    with pytest.raises(StoreError, match="not open"):
        store.write([event(2)])
    await store.open()
    assert (await loaded(store)).events == []
    assert heard == []
    await store.close()


async def test_a_full_memory_store_refuses_entries_and_never_evicts_what_has_not_expired() -> None:
    clock = Clock()
    store = MemoryStore(max_entries=10_000, clock=clock)
    await store.open()
    store.write([put("short", expires=1_500.0), *(put(f"{number}", b"x" * 1_000) for number in range(5))])
    taken = 0
    with suppress(StoreError):
        while taken < 100:
            store.write([put(f"more{taken}", b"x" * 1_000)])
            taken += 1
    assert 1 <= taken <= 4
    await store.flush()
    before = await keys(store)
    with pytest.raises(StoreError, match="10000 bytes of entries"):
        store.write([event(1), put("much", b"x" * 3_000)])
    assert await store.load("s1") is None
    store.write([put("0", b"y" * 1_000)])  # as much as what it replaces
    store.write([EndCall("s1", 1), SESSION])  # what is no entry needs no room here
    assert await keys(store) == before
    assert (await loaded(store)).events == []
    clock.now = 1_600.0
    store.write([put("short again", b"", expires=1_700.0)])
    assert len(await keys(store)) == len(before)
    store.write([DropEntry("once", "1"), DropEntry("once", "2")])
    await store.flush()
    store.write([put("much", b"x" * 1_500)])
    await store.flush()
    clock.now = 2_000.0
    store.write([put("all", b"x" * 9_000, expires=3_000.0)])
    assert await keys(store) == ["all"]
    assert store.statistics()["entries"] == 1
    await store.close()


async def test_entries_that_are_not_committed_take_room_until_they_fail_or_are_lost() -> None:
    store = MemoryStore(durable=True, max_entries=5_000, clock=Clock())
    await store.open()
    for lose in (lambda: None, store.crash, lambda: store.fail_commits(StoreError("full"))):
        store.write([put("k", b"x" * 3_000)])
        with pytest.raises(StoreError, match="full"):
            store.write([put("l", b"x" * 3_000)])
        store.write([DropEntry("once", "k")])
        lose()
        if lose == store.crash:
            await store.open()
        with suppress(StoreError):
            await store.flush()
    store.fail_commits(None)
    store.write([put("k", b"x" * 4_000)])
    assert await keys(store) == ["k"]
    await store.close()


async def test_a_memory_store_does_not_grow_with_entries_that_expire_or_are_replaced() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.open()
    for turn in range(2_000):
        clock.now += 1
        store.write([put(f"{turn}", expires=clock.now + 10), put("same", b"%d" % turn, expires=clock.now + 50)])
        if turn % 7 == 0:
            await store.flush()
    await store.flush()
    statistics = store.statistics()
    assert int(statistics["entries"]) < 30
    assert int(statistics["entry_bytes"]) < 30 * 300
    assert len(store._entries._expiries) < 300
    await store.close()


async def test_a_failure_too_old_to_be_remembered_is_still_no_promise() -> None:
    tickets = Tickets(failures_kept=2)
    tickets.bind(asyncio.get_running_loop())
    for number in range(1, 7):
        ticket = tickets.issue()
        tickets.settle(ticket, [(ticket, ticket, StoreError(f"failure {number}"))] if number % 2 else [])
    assert [str(tickets.error(number)) for number in (3, 4, 5, 6)] == ["failure 3", "None", "failure 5", "None"]
    assert "no longer known" in str(tickets.error(1))
    with pytest.raises(StoreError, match="failure 5"):
        await tickets.flush()
    await tickets.flush()


async def test_a_flush_tells_of_failures_it_has_forgotten() -> None:
    tickets = Tickets(failures_kept=0)
    tickets.bind(asyncio.get_running_loop())
    ticket = tickets.issue()
    tickets.settle(ticket, [(ticket, ticket, EntryTaken("held"))])
    await tickets.flush()  # of refused claims it does not
    ticket = tickets.issue()
    tickets.settle(ticket, [(ticket, ticket, StoreError("full"))])
    with pytest.raises(StoreError, match="failed"):
        await tickets.flush()
    await tickets.flush()


async def test_when_the_loop_is_being_stopped_the_others_are_still_told() -> None:
    tickets = Tickets()
    tickets.bind(asyncio.get_running_loop())
    heard: list[StoreError | None] = []

    def stop(_: StoreError | None) -> None:
        raise KeyboardInterrupt

    ticket = tickets.issue()
    tickets.when(ticket, stop)
    tickets.when(ticket, heard.append)
    with pytest.raises(KeyboardInterrupt):
        tickets.settle(ticket)
    await asyncio.sleep(0)
    assert heard == [None]


def test_tickets_of_no_loop_call_nobody_back() -> None:
    tickets = Tickets()
    tickets.settle(tickets.issue())
    with pytest.raises(StoreError, match="not open"):
        tickets.when(1, print)
