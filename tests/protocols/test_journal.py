"""What was promised is written before the promise is given; a failing store loses nothing that runs (G1)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from tailrace.core.log import Log
from tailrace.core.ports import Committed, EndCall, Kind, PutCall, PutSession, Record
from tailrace.errors import StoreError, StoreLost
from tailrace.protocols.mcp.journal import Journals, SessionJournal
from tailrace.stores.memory import MemoryStore

NOTE, ANSWER = Kind.NOTIFICATION, Kind.ANSWER
FULL = StoreError("no space left on device")


class Watched(MemoryStore):
    """Counts the callbacks that were asked for, and can refuse to take anything."""

    def __init__(self, **options: int) -> None:
        super().__init__(durable=True, **options)
        self.asked = 0
        self.refuses = False
        self.held = True
        self.written: list[Record] = []

    @property
    def is_held(self) -> bool:
        return self.held

    def write(self, records: list[Record]) -> int:  # type: ignore[override]
        if self.refuses:
            raise StoreError("the queue is full")
        self.written += records
        return super().write(records)

    def when(self, ticket: int, committed: Committed) -> None:
        self.asked += 1
        super().when(ticket, committed)


@pytest.fixture
async def store() -> AsyncIterator[Watched]:
    store = Watched()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def journals(store: Watched) -> Journals:
    return Journals(store)


@pytest.fixture
async def journal(journals: Journals) -> SessionJournal:
    return SessionJournal("s", journals)


async def committed(store: MemoryStore) -> None:
    """Everything written so far has committed, or failed."""
    with contextlib.suppress(StoreError):
        await store.flush()
    await asyncio.sleep(0)


def read(log: Log, after: int = 0) -> list[bytes]:
    return [payload for _, payload in log.read(after, 1 << 30)[0]]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# --- a log's events


async def test_an_event_is_read_only_once_it_is_committed_and_is_then_in_the_store(
    store: Watched, journal: SessionJournal
) -> None:
    log = Log(7, journal=journal)
    log.append(b"note", NOTE)
    log.append(b"answer", ANSWER)
    assert read(log) == []
    await committed(store)
    assert read(log) == [b"note", b"answer"]
    store.write([PutSession("s", b"h", "", b"", 0.0)])
    stored = await store.load("s")
    assert stored is not None
    assert [(event.stream, event.seq, event.kind, event.payload) for event in stored.events] == [
        (7, 1, NOTE, b"note"),
        (7, 2, ANSWER, b"answer"),
    ]


async def test_however_many_events_wait_a_log_asks_for_one_callback_at_a_time(
    store: Watched, journal: SessionJournal
) -> None:
    log = Log(journal=journal)
    for number in range(1000):
        log.append(b"%d" % number, NOTE)
    await committed(store)
    await committed(store)
    assert len(read(log)) == 1000
    assert store.asked - 2 <= 2, "one for the first event, one for all that came meanwhile"


async def test_events_that_come_while_others_commit_follow_in_their_order(
    store: Watched, journal: SessionJournal
) -> None:
    log, seen = Log(journal=journal), []
    cursor = log.attach(0)

    async def read_all() -> None:
        while not log.finished or cursor.seq < log.last:
            await cursor.wait()
            seen.extend(seq for seq, _ in cursor.take())

    reading = asyncio.ensure_future(read_all())
    for number in range(100):
        log.append(b"x", NOTE)
        if number % 3 == 0:
            await asyncio.sleep(0)
    log.end()
    async with asyncio.timeout(30):
        await reading
    assert seen == list(range(1, 101))
    assert journal._newest == {}, "nothing is held once all is committed"


async def test_two_logs_of_a_session_do_not_wait_for_each_others_callbacks(
    store: Watched, journal: SessionJournal
) -> None:
    one, two = Log(1, journal=journal), Log(2, journal=journal)
    one.append(b"a", NOTE)
    two.append(b"b", NOTE)
    one.append(b"c", NOTE)
    await committed(store)
    assert (read(one), read(two)) == ([b"a", b"c"], [b"b"])


async def test_what_goes_along_is_committed_with_the_next_event_and_only_once(
    store: Watched, journal: SessionJournal
) -> None:
    journal.journals.write([PutSession("s", b"h", "", b"", 0.0), PutCall("s", 1, 0, b"call")])
    log = Log(journal=journal)
    await store.flush()
    journal.along(EndCall("s", 1))
    store.crash()
    await store.open()
    stored = await store.load("s")
    assert stored is not None
    assert len(stored.calls) == 1, "without the event it is not written at all"
    log.append(b"answer", ANSWER)
    log.append(b"more", NOTE)
    stored = await store.load("s")
    assert stored is not None
    assert (len(stored.events), stored.calls) == (2, [])
    assert sum(isinstance(record, EndCall) for record in store.written) == 1


async def test_a_kill_before_the_commit_loses_the_answer_and_the_end_of_its_call_together(
    store: Watched, journal: SessionJournal
) -> None:
    await journal.journals.commit([PutSession("s", b"h", "", b"", 0.0), PutCall("s", 1, 0, b"call")])
    log = Log(journal=journal)
    journal.along(EndCall("s", 1))
    log.append(b"answer", ANSWER)
    store.crash()
    assert read(log) == [], "it was not sent to anybody either"
    await store.open()
    stored = await store.load("s")
    assert stored is not None
    assert (stored.events, len(stored.calls)) == ([], 1)


async def test_what_the_log_forgets_the_store_forgets(store: Watched, journal: SessionJournal) -> None:
    log = Log(ring=100, kept=100, journal=journal)
    cursor = log.attach(0)
    for now in range(200):
        log.append(b"x" * 10, NOTE)
        log.append(b"y" * 10, ANSWER, float(now))
        await asyncio.sleep(0)
        cursor.take()
        cursor.taken()
    log.expire(190.0)
    store.write([PutSession("s", b"h", "", b"", 0.0)])
    stored = await store.load("s")
    assert stored is not None
    held = {seq for seq, _ in log.read(0, 1 << 30)[0]}
    kept = {event.seq for event in stored.events}
    assert held <= kept
    assert len(kept) <= len(held) + 2 * 64
    assert stored.last == {0: 400}, "numbers are not used again"


# --- a store that fails


async def test_after_a_failed_commit_the_event_is_delivered_from_memory(
    store: Watched, journal: SessionJournal, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log(journal=journal)
    store.fail_commits(FULL)
    log.append(b"note", NOTE)
    log.append(b"answer", ANSWER)
    log.end()
    await committed(store)
    await committed(store)
    assert read(log) == [b"note", b"answer"]
    assert log.finished
    assert len(errors(caplog)) == 1


async def test_an_outage_is_one_error_however_much_fails_and_a_second_outage_another(
    store: Watched, journals: Journals, journal: SessionJournal, caplog: pytest.LogCaptureFixture
) -> None:
    logs = [Log(stream, journal=journal) for stream in range(5)]
    for outage in (1, 2):
        store.fail_commits(FULL)
        for _ in range(10):
            for log in logs:
                log.append(b"x", NOTE)
            journals.write([EndCall("s", 1)], lambda error: None)
            await committed(store)
        assert len(errors(caplog)) == outage
        store.fail_commits(None)
        logs[0].append(b"x", NOTE)
        await committed(store)
        await committed(store)
    assert "no space left on device" in errors(caplog)[0]
    assert [log.ready == log.last for log in logs] == [True] * 5


async def test_what_the_store_does_not_even_take_is_delivered_from_memory_at_once(
    store: Watched, journal: SessionJournal, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log(journal=journal)
    store.refuses = True
    log.append(b"answer", ANSWER)
    assert read(log) == [b"answer"]
    assert journal._newest == {}
    journal.trim(log, NOTE, 1)  # nobody waits for it
    assert len(errors(caplog)) == 1


async def test_what_is_not_taken_behind_events_that_are_does_not_overtake_them(
    store: Watched, journal: SessionJournal
) -> None:
    log = Log(journal=journal)
    log.append(b"first", NOTE)
    store.refuses = True
    log.append(b"second", NOTE)
    assert read(log) == [], "the first is still on its way to the disk"
    await committed(store)
    assert read(log) == [b"first", b"second"]
    store.refuses = False
    log.append(b"third", ANSWER)
    assert read(log) == [b"first", b"second"]
    await committed(store)
    assert read(log) == [b"first", b"second", b"third"]
    assert journal._newest == {}


async def test_a_failure_between_two_commits_keeps_the_order(store: Watched, journal: SessionJournal) -> None:
    log = Log(journal=journal)
    log.append(b"1", NOTE)
    await committed(store)
    store.fail_commits(FULL)
    log.append(b"2", NOTE)
    await asyncio.sleep(0)
    store.fail_commits(None)
    log.append(b"3", NOTE)
    await committed(store)
    await committed(store)
    assert read(log) == [b"1", b"2", b"3"]


async def test_a_reader_waits_neither_for_ever_nor_in_vain_when_the_store_fails(
    store: Watched, journal: SessionJournal
) -> None:
    log = Log(journal=journal)
    cursor = log.attach(0)
    store.fail_commits(FULL)
    log.append(b"answer", ANSWER)
    async with asyncio.timeout(30):
        await cursor.wait()
    assert cursor.take() == [(1, b"answer")]


# --- records of their own


async def test_whoever_writes_hears_the_outcome_on_the_loop_and_in_order(store: Watched, journals: Journals) -> None:
    heard: list[tuple[int, StoreError | None]] = []
    for number in range(3):
        assert journals.write([EndCall("s", number)], lambda error, number=number: heard.append((number, error)))
    assert heard == [], "never from within `write`"
    await committed(store)
    assert heard == [(0, None), (1, None), (2, None)]


async def test_a_write_that_is_not_taken_never_raises_and_says_so(
    store: Watched, journals: Journals, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[StoreError | None] = []
    store.refuses = True
    assert journals.write([EndCall("s", 1)], heard.append) == 0
    assert journals.write([EndCall("s", 1)]) == 0
    assert [str(error) for error in heard] == ["the queue is full"]
    assert len(errors(caplog)) == 1


async def test_a_write_after_the_store_was_closed_never_raises(store: Watched, journals: Journals) -> None:
    await store.close()
    assert journals.write([EndCall("s", 1)]) == 0


async def test_commit_returns_when_it_is_safe_and_raises_where_it_is_not(store: Watched, journals: Journals) -> None:
    await journals.commit([PutSession("s", b"h", "", b"", 0.0)])
    store.crash()
    await store.open()
    assert await store.load("s") is not None
    store.fail_commits(FULL)
    with pytest.raises(StoreError, match="no space"):
        await journals.commit([EndCall("s", 1)])
    store.refuses = True
    with pytest.raises(StoreError, match="queue is full"):
        await journals.commit([EndCall("s", 1)])


async def test_a_commit_that_nobody_waits_for_any_more_is_committed_all_the_same(
    store: Watched, journals: Journals, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = asyncio.ensure_future(journals.commit([PutSession("s", b"h", "", b"", 0.0)]))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await store.load("s") is not None
    assert waiting.cancelled()
    assert not caplog.records


async def test_a_store_that_is_not_durable_is_said_to_be_so() -> None:
    assert not Journals(MemoryStore()).durable
    assert Journals(MemoryStore(durable=True)).durable


# --- where another may have taken the store over


@pytest.mark.parametrize("how", ["its commit fails", "it is not taken"])
async def test_what_is_not_committed_is_told_only_once_nobody_else_can_have_the_store(
    how: str, store: Watched, journals: Journals, journal: SessionJournal, caplog: pytest.LogCaptureFixture
) -> None:
    log, other = Log(journal=journal), Log(8, journal=journal)
    store.held = False
    store.fail_commits(FULL)
    store.refuses = how == "it is not taken"
    for each in (log, other):
        each.append(b"note", NOTE)
        await committed(store)
        each.append(b"answer", ANSWER)
    await committed(store)
    journals.tell_withheld()
    assert read(log) == read(other) == []
    assert ["answered once it is sure whose they are" in said for said in errors(caplog)] == [True], "one for an outage"
    store.held = True
    journals.tell_withheld()
    assert read(log) == read(other) == [b"note", b"answer"]


async def test_it_is_told_with_the_next_commit_as_well(store: Watched, journals: Journals) -> None:
    log, later = Log(journal=SessionJournal("s", journals)), Log(journal=SessionJournal("t", journals))
    store.held = False
    store.fail_commits(FULL)
    log.append(b"answer", ANSWER)
    await committed(store)
    store.fail_commits(None)
    later.append(b"while it is not sure", NOTE)
    await committed(store)
    assert (read(log), read(later)) == ([], [b"while it is not sure"]), "what is stored may be told"
    store.fail_commits(FULL)
    later.append(b"fails", NOTE)
    await committed(store)
    store.held = True
    store.fail_commits(None)
    later.append(b"works", NOTE)
    await committed(store)
    assert read(log) == [b"answer"]
    assert read(later) == [b"while it is not sure", b"fails", b"works"]


@pytest.mark.parametrize("held", [True, False])
async def test_it_is_never_told_where_another_has_taken_over(
    held: bool, store: Watched, journals: Journals, journal: SessionJournal
) -> None:
    log = Log(journal=journal)
    store.held = False
    store.fail_commits(FULL)
    log.append(b"note", NOTE)
    await committed(store)
    store.fail_commits(StoreLost("another has it"))
    log.append(b"answer", ANSWER)
    await committed(store)
    store.held = held
    journals.tell_withheld()
    store.refuses = True
    log.append(b"more", ANSWER)
    store.refuses = False
    store.fail_commits(FULL)
    journals.tell_withheld()
    assert read(log) == []
