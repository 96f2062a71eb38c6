"""A stream's bounded log: nothing is lost in silence, answers are kept, memory is flat (G1, G3)."""

from __future__ import annotations

import asyncio
import random

import pytest

from tailrace.core.budget import EVENT_BYTES, Budget
from tailrace.core.cursor import Cursor
from tailrace.core.log import Log
from tailrace.core.ports import Kind
from tests.core.support import turns

NOTE, ANSWER, REQUEST = Kind.NOTIFICATION, Kind.ANSWER, Kind.REQUEST


def payloads(cursor: Cursor, limit: int = 1 << 30) -> list[bytes]:
    taken = [payload for _, payload in cursor.take(limit)]
    cursor.taken()
    return taken


def fill(log: Log, count: int, kind: Kind = NOTE, size: int = 10) -> None:
    for _ in range(count):
        log.append(b"x" * size, kind)


class Slow:
    """A journal that is told everything and commits when the test says so."""

    def __init__(self) -> None:
        self.appended: list[tuple[int, Kind, bytes]] = []
        self.trimmed: list[tuple[Kind, int]] = []

    def append(self, log: Log, seq: int, kind: Kind, payload: bytes) -> None:
        self.appended.append((seq, kind, payload))

    def trim(self, log: Log, kind: Kind, upto: int) -> None:
        self.trimmed.append((kind, upto))

    def kept(self) -> set[int]:
        """What a store would still hold."""
        return {
            seq
            for seq, kind, _ in self.appended
            if not any(kind == trimmed and seq <= upto for trimmed, upto in self.trimmed)
        }


# --- order and numbers


def test_events_are_numbered_from_one_without_holes_whatever_their_kind() -> None:
    log = Log()
    assert [log.append(b"a", NOTE), log.append(b"b", ANSWER), log.append(b"c", REQUEST)] == [1, 2, 3]
    assert log.attach(0).take() == [(1, b"a"), (2, b"b"), (3, b"c")]


def test_numbers_go_on_above_those_of_an_earlier_life() -> None:
    log = Log(last=41)
    assert log.append(b"a", NOTE) == 42
    assert log.attach(41).take() == [(42, b"a")]


def test_an_ended_log_takes_nothing_and_what_is_there_is_still_read() -> None:
    log = Log()
    log.append(b"a", ANSWER)
    log.end()
    log.end()
    assert log.append(b"late", ANSWER) == 0
    assert payloads(log.attach(0)) == [b"a"]
    assert log.finished


def test_a_read_stops_at_about_its_limit_and_goes_on_where_it_stopped() -> None:
    log = Log()
    fill(log, 10, size=100)
    cursor = log.attach(0)
    assert [seq for seq, _ in cursor.take(250)] == [1, 2, 3]
    assert [seq for seq, _ in cursor.take(1)] == [4], "at least one, however small the limit"
    assert [seq for seq, _ in cursor.take()] == [5, 6, 7, 8, 9, 10]
    assert cursor.take() == []
    assert cursor.lost == 0


def test_live_and_replay_are_one_sequence_without_a_gap() -> None:
    log = Log()
    fill(log, 3)
    cursor = log.attach(1)
    assert [seq for seq, _ in cursor.take()] == [2, 3]
    fill(log, 2)
    assert [seq for seq, _ in cursor.take()] == [4, 5]


# --- waking


async def test_a_waiting_reader_is_woken_by_an_event_by_the_end_and_by_a_stop() -> None:
    log = Log()
    for act in (lambda: log.append(b"a", NOTE), log.end):
        cursor = log.attach(log.last)
        waiting = asyncio.ensure_future(cursor.wait())
        await turns()
        assert not waiting.done()
        act()
        await waiting
    log = Log()
    cursor = log.attach(0)
    waiting = asyncio.ensure_future(cursor.wait())
    await turns()
    cursor.stop()
    await waiting


async def test_a_reader_does_not_wait_where_there_is_something_to_do() -> None:
    log = Log()
    log.append(b"a", NOTE)
    async with asyncio.timeout(30):
        await log.attach(0).wait()
        stopped = log.attach(1)
        stopped.stop()
        await stopped.wait()
        log.end()
        await log.attach(1).wait()


async def test_a_reader_that_is_cancelled_while_it_waits_can_wait_again() -> None:
    log = Log()
    cursor = log.attach(0)
    cursor.wake()  # nobody waits
    first = asyncio.ensure_future(cursor.wait())
    await turns()
    first.cancel()
    await turns()
    log.append(b"a", NOTE)
    async with asyncio.timeout(30):
        await cursor.wait()
    second = asyncio.ensure_future(log.attach(1).wait())
    await turns()
    assert log.reader is not None
    log.reader.wake()
    log.reader.wake()  # before it has run
    await second


# --- readers come and go


def test_the_newest_reader_takes_the_stream_and_the_older_one_takes_nothing_more() -> None:
    log = Log()
    fill(log, 2)
    old = log.attach(0)
    assert [seq for seq, _ in old.take(1)] == [1]
    new = log.attach(0)
    assert old.stopped
    assert old.take() == []
    assert log.reader is new
    assert [seq for seq, _ in new.take()] == [1, 2]
    old.stop()
    assert log.reader is new, "the old one's end is not the new one's"
    new.stop()
    assert log.reader is None


def test_a_reader_from_the_future_is_put_at_the_end() -> None:
    log = Log()
    fill(log, 3)
    cursor = log.attach(1000)
    log.append(b"a", NOTE)
    assert cursor.take() == [(4, b"a")]
    assert log.missing(1000) == 0


async def test_without_a_reader_nobody_waits_for_room() -> None:
    log = Log(high_water=10)
    fill(log, 100)
    async with asyncio.timeout(30):
        await log.room()


async def test_a_producer_waits_for_a_connected_reader_until_the_transport_took_enough() -> None:
    log = Log(high_water=100)
    cursor = log.attach(0)
    fill(log, 10, size=10)
    async with asyncio.timeout(30):
        await log.room()  # exactly at the mark is not behind it
    log.append(b"x", NOTE)
    waiting = asyncio.ensure_future(log.room())
    await turns()
    assert not waiting.done()
    cursor.take()
    await turns()
    assert not waiting.done(), "taken from the log is not yet taken by the transport"
    cursor.taken()
    await waiting


async def test_a_producer_with_a_lower_limit_looks_again_and_waits_on() -> None:
    log = Log(high_water=100)
    cursor = log.attach(0)
    fill(log, 20, size=10)
    waiting = asyncio.ensure_future(log.room(50))
    await turns()
    cursor.take(100)
    cursor.taken()  # 100 unread: fewer than the mark, more than this one wants
    await turns()
    assert not waiting.done()
    cursor.take(50)
    cursor.taken()
    await waiting


async def test_far_behind_a_taken_write_frees_nobody() -> None:
    log = Log(high_water=100)
    cursor = log.attach(0)
    fill(log, 50, size=10)
    waiting = asyncio.ensure_future(log.room())
    await turns()
    cursor.take(100)
    cursor.taken()
    await turns()
    assert not waiting.done()
    cursor.stop()
    await waiting


@pytest.mark.parametrize("how", ["the reader goes", "the log ends"])
async def test_a_producer_stops_waiting_when(how: str) -> None:
    log = Log(high_water=10)
    cursor = log.attach(0)
    fill(log, 10)
    waiting = [asyncio.ensure_future(log.room()) for _ in range(3)]
    await turns()
    if how == "the reader goes":
        cursor.stop()
    else:
        log.end()
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)


async def test_a_producer_that_waits_for_one_reader_then_waits_for_its_successor() -> None:
    log = Log(high_water=10)
    log.attach(0)
    fill(log, 10)
    waiting = asyncio.ensure_future(log.room())
    await turns()
    successor = log.attach(0)
    await turns()
    assert not waiting.done(), "it is as far behind as the one before it"
    payloads(successor)
    await waiting

    log.append(b"x" * 100, NOTE)
    waiting = asyncio.ensure_future(log.room())
    await turns()
    log.attach(log.last)  # a successor that is not behind
    await waiting


async def test_producers_that_give_up_leave_nothing_behind() -> None:
    log = Log(high_water=10)
    cursor = log.attach(0)
    fill(log, 10)
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(log.room(), 0.000001)
    assert len(log._rooms) == 0
    cursor.stop()


# --- the ring


def test_the_ring_keeps_the_newest_notifications_and_a_resume_says_how_many_are_gone() -> None:
    log = Log(ring=100)
    fill(log, 25, size=10)
    assert log.bytes == log.ring_bytes == 100
    assert log.missing(0) == 15
    assert log.missing(15) == 0
    assert log.missing(20) == 0
    cursor = log.attach(0)
    assert [seq for seq, _ in cursor.take()] == list(range(16, 26))
    assert cursor.lost == 15


def test_the_newest_notification_stays_however_large() -> None:
    log = Log(ring=100)
    fill(log, 3)
    log.append(b"x" * 1000, NOTE)
    assert payloads(log.attach(0)) == [b"x" * 1000]
    log.append(b"small", NOTE)
    assert payloads(log.attach(0)) == [b"small"]
    assert log.bytes == 5


def test_what_a_connected_reader_is_too_late_for_is_counted_as_lost() -> None:
    log = Log(ring=100)
    cursor = log.attach(0)
    fill(log, 4, size=10)
    assert len(cursor.take(20)) == 2
    fill(log, 16, size=10)
    assert [seq for seq, _ in cursor.take()] == list(range(11, 21))
    assert cursor.lost == 8
    assert cursor.unread == 0


def test_answers_and_requests_outlive_any_number_of_notifications() -> None:
    log = Log(ring=100)
    cursor = log.attach(0)
    log.append(b"answer", ANSWER)
    log.append(b"question", REQUEST)
    fill(log, 1000)
    assert payloads(cursor)[:2] == [b"answer", b"question"]
    assert cursor.lost == 990


def test_a_sparse_log_is_read_without_walking_all_its_numbers() -> None:
    log = Log(ring=50)
    for _ in range(3):
        log.append(b"answer", ANSWER)
        fill(log, 1000)
    assert log.last == 3003
    cursor = log.attach(0)
    assert [seq for seq, _ in cursor.take(7)] == [1, 1002], "the limit holds here as well"
    assert cursor.lost == 1000
    taken = [seq for seq, _ in cursor.take()]
    assert taken == [2003, *range(2999, 3004)]
    assert cursor.lost + 8 == 3003
    assert cursor.unread == 0
    assert log.missing(0) == 2995
    assert log.bytes_after(2998) == 50


# --- what is kept of answers


def test_undelivered_answers_are_never_dropped_for_bytes() -> None:
    log = Log(kept=100)
    for _ in range(10):
        log.append(b"x" * 100, ANSWER)
    cursor = log.attach(0)
    log.mark_delivered(0)
    assert log.answer_bytes == 1000
    assert len(cursor.take()) == 10


def test_delivered_answers_go_when_they_are_over_their_bytes_oldest_first() -> None:
    log = Log(kept=250)
    cursor = log.attach(0)
    for _ in range(6):
        log.append(b"x" * 100, ANSWER)
    cursor.take(300)
    assert log.answer_bytes == 600, "what the transport has not taken is not delivered"
    cursor.taken()
    assert [seq for seq, _ in log.read(0, 1 << 20)[0]] == [2, 3, 4, 5, 6], "three delivered, two of them kept"
    cursor.take()
    cursor.taken()
    assert [seq for seq, _ in log.read(0, 1 << 20)[0]] == [5, 6]
    assert (log.answer_bytes, log.delivered_bytes, log.bytes) == (200, 200, 200)
    assert log.missing(0) == 4


def test_many_undelivered_answers_do_not_push_out_the_delivered_one() -> None:
    log = Log(kept=250)
    cursor = log.attach(0)
    log.append(b"first", ANSWER)
    payloads(cursor)
    cursor.stop()
    for _ in range(10):
        log.append(b"x" * 100, ANSWER)
    log.mark_delivered(1)
    assert log.missing(0) == 0


def test_the_newest_delivered_answer_stays_however_large() -> None:
    log = Log(kept=100)
    cursor = log.attach(0)
    log.append(b"x" * 1000, ANSWER)
    payloads(cursor)
    assert log.missing(0) == 0, "a write into a socket that breaks is no delivery: the client will ask again"
    log.append(b"y" * 50, ANSWER)
    payloads(cursor)
    assert [seq for seq, _ in log.read(0, 1 << 20)[0]] == [2]


def test_where_nobody_can_resume_nothing_delivered_is_kept() -> None:
    log = Log(kept=0)
    cursor = log.attach(0)
    log.append(b"a", ANSWER)
    assert payloads(cursor) == [b"a"]
    assert (log.bytes, log.answer_bytes, log.delivered_bytes) == (0, 0, 0)


def test_answers_expire_delivered_or_not_and_younger_ones_stay() -> None:
    log = Log(kept=150)
    cursor = log.attach(0)
    for now in range(1, 7):
        log.append(b"x" * 100, ANSWER, float(now))
    cursor.take(300)
    cursor.taken()  # 1 to 3 delivered, 3 of them kept
    log.expire(3.0)
    assert [seq for seq, _ in log.read(0, 1 << 20)[0]] == [3, 4, 5, 6]
    log.expire(5.0)
    assert [seq for seq, _ in log.read(0, 1 << 20)[0]] == [5, 6]
    assert (log.answer_bytes, log.delivered_bytes) == (200, 0)
    assert cursor.unread == 200
    assert [seq for seq, _ in cursor.take()] == [5, 6]
    assert cursor.lost == 1, "the reader is told of the one that expired before it came"
    log.expire(100.0)
    assert (log.bytes, log.missing(4)) == (0, 2)


# --- with a journal


def test_an_event_may_be_read_only_once_it_is_durable() -> None:
    journal = Slow()
    log = Log(journal=journal)
    cursor = log.attach(0)
    fill(log, 3)
    assert journal.appended == [(seq, NOTE, b"x" * 10) for seq in (1, 2, 3)]
    assert cursor.take() == []
    log.commit(2)
    assert [seq for seq, _ in cursor.take()] == [1, 2]
    log.commit(1)  # out of step: nothing goes back
    assert log.ready == 2
    log.commit(3)
    assert [seq for seq, _ in cursor.take()] == [3]


async def test_a_reader_of_an_ended_log_waits_for_the_last_commit() -> None:
    log = Log(journal=Slow())
    cursor = log.attach(0)
    log.append(b"answer", ANSWER)
    log.end()
    assert not log.finished
    waiting = asyncio.ensure_future(cursor.wait())
    await turns()
    assert not waiting.done()
    log.commit(1)
    await waiting
    assert log.finished
    assert payloads(cursor) == [b"answer"]


def test_a_commit_without_a_reader_is_remembered() -> None:
    log = Log(journal=Slow())
    log.append(b"a", ANSWER)
    log.commit(1)
    assert payloads(log.attach(0)) == [b"a"]


def test_uncommitted_notifications_may_be_evicted_and_are_then_lost_not_late() -> None:
    log = Log(ring=50, journal=Slow())
    cursor = log.attach(0)
    fill(log, 10)
    log.commit(10)
    assert [seq for seq, _ in cursor.take()] == [6, 7, 8, 9, 10]
    assert (cursor.lost, cursor.unread) == (5, 0)


def test_the_journal_hears_of_evictions_now_and_then() -> None:
    journal = Slow()
    log = Log(ring=100, journal=journal)
    fill(log, 200)
    assert 1 < len(journal.trimmed) < 10, "together, not one by one"
    assert journal.kept() >= set(range(191, 201))
    assert len(journal.kept()) <= 10 + 64


def test_the_journal_hears_of_evictions_also_where_answers_expire_in_between() -> None:
    journal = Slow()
    log = Log(ring=100, journal=journal)
    for now in range(40):  # few at a time, and a sweep after each: the count must not begin anew
        fill(log, 30)
        log.append(b"answer", ANSWER, float(now))
        log.expire(now - 1.0)
    assert len(journal.kept()) <= 10 + 64 + 3


def test_the_journal_hears_of_answers_that_went_also_where_the_ring_turns_in_between() -> None:
    journal = Slow()
    log = Log(ring=100, kept=100, journal=journal)
    cursor = log.attach(0)
    for _ in range(200):
        log.append(b"x" * 100, ANSWER)
        fill(log, 70)
        log.commit(log.last)
        payloads(cursor)
    assert len(journal.kept()) <= 1 + 64 + 10 + 64


def test_the_journal_hears_of_delivered_answers_and_requests_that_went() -> None:
    journal = Slow()
    log = Log(kept=100, journal=journal)
    cursor = log.attach(0)
    for _ in range(200):
        log.append(b"x" * 50, ANSWER)
        log.commit(log.append(b"x" * 50, REQUEST))
        payloads(cursor)
    assert journal.kept() >= {399, 400}
    assert len(journal.kept()) <= 2 + 64
    assert len(journal.trimmed) < 20


def test_what_expired_is_told_at_once_and_only_if_there_was_anything() -> None:
    journal = Slow()
    log = Log(journal=journal)
    log.expire(10.0)
    assert journal.trimmed == []
    log.append(b"a", ANSWER, 1.0)
    log.append(b"n", NOTE, 1.0)
    log.append(b"b", ANSWER, 2.0)
    log.expire(2.0)
    assert journal.trimmed == [(ANSWER, 2), (REQUEST, 2)]
    log.expire(3.0)
    assert journal.trimmed[2:] == [(ANSWER, 3), (REQUEST, 3)]
    assert journal.kept() == {2}


def test_a_log_of_an_earlier_life_is_put_back_as_it_was() -> None:
    journal = Slow()
    log = Log(last=100, journal=journal)
    log.restore(40, b"answer", ANSWER, 7.0)
    log.restore(99, b"note", NOTE, 7.0)
    assert journal.appended == [], "it is durable already"
    assert log.attach(0).take() == [(40, b"answer"), (99, b"note")]
    assert log.missing(98) == 1
    assert log.missing(0) == 98
    log.expire(8.0)
    assert [seq for seq, _ in log.read(0, 1 << 20)[0]] == [99]
    assert log.append(b"new", NOTE) == 101


# --- all of it at once


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_books_are_right_and_no_answer_is_lost_unread(seed: int) -> None:
    chance = random.Random(seed)
    journal = Slow() if seed % 2 else None
    log = Log(ring=200, kept=chance.choice([0, 100, 300]), high_water=100, journal=journal)
    answers: list[int] = []
    seen: set[int] = set()
    cursor = log.attach(0)
    for _ in range(600):
        what = chance.random()
        if what < 0.5:
            log.append(b"n" * chance.randint(1, 60), NOTE)
        elif what < 0.65:
            answers.append(log.append(b"a" * chance.randint(1, 90), chance.choice([ANSWER, REQUEST])))
        elif what < 0.75 and journal is not None:
            log.commit(chance.randint(0, log.last))
        elif what < 0.9:
            seen |= {seq for seq, _ in cursor.take(chance.randint(1, 300))}
            cursor.taken()
        elif what < 0.95:
            cursor = log.attach(cursor.seq)
        else:
            cursor.stop()
            cursor = log.attach(log.delivered)
        held = log._events
        assert log.bytes == sum(map(len, held.values())) == log.ring_bytes + log.answer_bytes
        assert log.ring_bytes <= 200
        assert cursor.unread == sum(len(payload) for seq, payload in held.items() if seq > cursor.seq)
        assert log.missing(0) == log.last - len(held)
    log.commit(log.last)
    seen |= {seq for seq, _ in cursor.take(1 << 30)}
    assert set(answers) <= seen
    assert cursor.unread == 0


async def test_a_producer_waits_for_a_journal_that_is_behind_also_without_a_reader() -> None:
    class Slow:
        def append(self, log: Log, seq: int, kind: Kind, payload: bytes) -> None:
            pass

        def trim(self, log: Log, kind: Kind, upto: int) -> None:
            raise NotImplementedError

    log = Log(high_water=10, journal=Slow())
    for _ in range(3):
        log.append(b"12345", Kind.NOTIFICATION)
    waiting = asyncio.ensure_future(log.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    log.commit(1)  # ten bytes are left, which is no more than may be
    await asyncio.wait_for(waiting, 1)
    log.append(b"12345", Kind.NOTIFICATION)
    waiting = asyncio.ensure_future(log.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    log.end()
    await asyncio.wait_for(waiting, 1)


# --- requests to the client


def test_a_request_that_is_over_is_not_shown_again_and_is_no_gap() -> None:
    journal = Slow()
    log = Log(journal=journal)
    first, note, second = log.append(b"ask", REQUEST), log.append(b"note", NOTE), log.append(b"ask", REQUEST)
    log.commit(second)
    log.resolve(first)
    assert journal.trimmed == [(REQUEST, second - 1)]
    assert (log.missing(0), log.answer_bytes, log.bytes) == (0, 3, 7)
    cursor = log.attach(0)
    assert [seq for seq, _ in cursor.take()] == [note, second]
    assert cursor.lost == 0
    log.resolve(second)
    assert journal.trimmed[-1] == (REQUEST, second)
    assert log.missing(0) == 0
    log.resolve(second)
    assert log.bytes == 4


def test_a_request_that_was_delivered_and_set_aside_goes_as_well() -> None:
    log = Log(kept=5)
    cursor = log.attach(0)
    fill(log, 1, ANSWER, 3)
    seq = log.append(b"ask", REQUEST)
    assert len(payloads(cursor)) == 2
    log.resolve(seq)
    assert (log.bytes, log.answer_bytes, log.delivered_bytes) == (0, 0, 0), "the answer had gone for want of room"
    assert log.missing(1) == 0


def test_a_request_that_nobody_took_takes_nothing_from_what_was_delivered() -> None:
    log = Log(kept=5)
    cursor = log.attach(0)
    fill(log, 2, ANSWER, 3)
    assert len(payloads(cursor)) == 2
    log.resolve(log.append(b"ask", REQUEST))
    assert (log.bytes, log.answer_bytes, log.delivered_bytes) == (3, 3, 3)


def test_without_a_journal_and_without_requests_nothing_is_resolved() -> None:
    log = Log()
    assert log.resolved(0, 10) == 0
    log.resolve(3)
    assert log.resolved(0, 10) == 1


def test_not_too_many_events_are_read_at_once_however_tiny() -> None:
    log = Log()
    fill(log, 3000, size=1)
    cursor = log.attach(0)
    assert [len(cursor.take()) for _ in range(4)] == [1024, 1024, 952, 0]
    assert cursor.unread == 0


def test_of_the_requests_that_are_over_the_last_thousand_are_remembered() -> None:
    log = Log()
    for _ in range(1100):
        log.resolve(log.append(b"ask", REQUEST))
    assert log.resolved(0, log.last) == 1024
    assert log.events == 0


# --- an answer that turned out not to be so


@pytest.mark.parametrize("read", [False, True])
def test_an_answer_whose_commit_failed_says_something_else_before_anybody_reads_it(read: bool) -> None:
    journal, budget = Slow(), Budget(1000)
    log = Log(journal=journal, budget=budget)
    cursor = log.attach(0) if read else None
    held = budget.held
    seq = log.append(b"it worked", ANSWER)
    log.replace(seq, b"it did not work")
    assert (log.bytes, log.answer_bytes) == (15, 15)
    assert budget.held == held + 15 + EVENT_BYTES
    if cursor is not None:
        assert cursor.unread == 15
        assert cursor.take() == []
    log.commit(seq)
    assert payloads(cursor or log.attach(0)) == [b"it did not work"]


def test_an_answer_without_a_budget_is_replaced_and_one_that_has_gone_is_not() -> None:
    log = Log(journal=Slow())
    seq = log.append(b"1", ANSWER)
    log.replace(seq, b"22")
    assert log.bytes == 2
    log.discard()
    log.replace(seq, b"333")
    assert log.bytes == 0
