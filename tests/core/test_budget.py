"""What logs hold is counted live, in the session's budget and in the server's: memory is flat at any moment (G3)."""

from __future__ import annotations

import asyncio
import random

from tailrace.core.budget import EVENT_BYTES, Budget
from tailrace.core.log import Log
from tailrace.core.ports import Kind
from tests.core.support import turns
from tests.core.test_log import Slow, payloads

NOTE, ANSWER = Kind.NOTIFICATION, Kind.ANSWER


def test_what_a_log_keeps_counts_in_its_budget_and_in_the_whole() -> None:
    whole = Budget(1000)
    one, other = Budget(1000, whole), Budget(1000, whole)
    Log(budget=one).append(b"x" * 10, ANSWER)
    Log(budget=other).append(b"x" * 20, NOTE)
    assert (one.held, other.held) == (10 + EVENT_BYTES, 20 + EVENT_BYTES)
    assert whole.held == one.held + other.held


def test_the_count_is_what_is_there_whatever_happens_to_the_log() -> None:
    chance = random.Random(7)
    for _ in range(50):
        budget = Budget(20_000, Budget(30_000))
        log = Log(ring=chance.choice((0, 500, 5000)), kept=chance.choice((0, 300, 3000)), budget=budget)
        cursor = log.attach(0)
        for now in range(200):
            match chance.randrange(9):
                case 0:
                    cursor.take(chance.randrange(1, 2000))
                    cursor.taken()
                case 1:
                    log.expire(now - 20.0)
                case 2:
                    cursor = log.attach(chance.randrange(log.last + 1))
                case 3:
                    log.forget_delivered()
                case _:
                    log.append(b"x" * chance.randrange(600), chance.choice((NOTE, ANSWER)), float(now))
            assert budget.held == log.bytes + EVENT_BYTES * log.events
            assert budget.whole is not None
            assert budget.whole.held == budget.held
        log.discard()
        cursor.stop()
        assert (budget.held, log.bytes, log.events) == (0, 0, 0)


def test_over_the_budget_a_ring_that_nobody_reads_keeps_hardly_anything_and_a_later_reader_is_told_of_the_gap() -> None:
    budget = Budget(10_000)
    hoard, log = Log(budget=budget), Log(budget=budget)
    for _ in range(5):
        log.append(b"n" * 1000, NOTE)
    hoard.append(b"a" * 10_000, ANSWER)
    for _ in range(5):
        log.append(b"n" * 1000, NOTE)
    assert log.bytes <= 4096
    cursor = log.attach(0)
    assert len(payloads(cursor)) + cursor.lost == 10
    assert cursor.lost == 6
    cursor.stop()
    log.append(b"n" * 5000, NOTE)
    assert log.bytes == 0, "one that is large by itself is not kept either"
    assert log.append(b"answer", ANSWER)
    cursor = log.attach(10)
    assert payloads(cursor) == [b"answer"]
    assert cursor.lost == 1


async def test_over_the_budget_a_reader_that_reads_loses_nothing_and_its_producer_waits() -> None:
    budget = Budget(10_000)
    hoard, log = Log(budget=budget), Log(budget=budget)
    hoard.append(b"a" * 10_000, ANSWER)
    cursor, got = log.attach(0), []

    async def produce() -> None:
        for number in range(500):
            log.append(b"%d " % number + b"n" * 500, NOTE)
            await log.room()

    async with asyncio.TaskGroup() as group:
        producer = group.create_task(produce())
        while not producer.done():
            await turns()
            assert log.events <= 2, "one that is taken, one that is to be"
            got += payloads(cursor)
            cursor.taken()
    assert [int(payload.split()[0]) for payload in got] == list(range(500))
    assert cursor.lost == 0


def test_over_the_budget_a_producer_that_does_not_wait_piles_up_little_for_a_reader() -> None:
    log = Log(budget=Budget(0))
    cursor = log.attach(0)
    for _ in range(100):
        log.append(b"n" * 1000, NOTE)
    assert 15_000 <= log.bytes <= 16 * 1024
    assert len(payloads(cursor)) + cursor.lost == 100
    log.append(b"n" * 100_000, NOTE)
    assert payloads(cursor) == [b"n" * 100_000], "the newest stays, however large: it is about to be taken"


def test_a_journal_is_told_of_what_a_ring_lost_for_want_of_room() -> None:
    journal = Slow()
    log = Log(budget=Budget(0), journal=journal)
    for _ in range(200):
        log.append(b"n" * 5000, NOTE)
    assert (NOTE, 192) in journal.trimmed


def test_where_nobody_can_resume_nothing_is_kept_that_was_delivered() -> None:
    log = Log(kept=0)
    log.append(b"note", NOTE)
    log.append(b"answer", ANSWER)
    cursor = log.attach(0)
    assert payloads(cursor) == [b"note", b"answer"]
    assert log.events == 0


def test_a_discarded_log_holds_what_its_reader_has_not_taken_until_that_goes() -> None:
    budget = Budget(1000)
    log = Log(budget=budget)
    log.append(b"answer", ANSWER)
    cursor = log.attach(0)
    log.discard()
    assert log.append(b"late", ANSWER) == 0
    assert budget.held > 0, "it is in memory as long as somebody reads it"
    assert payloads(cursor) == [b"answer"]
    cursor.stop()
    assert (budget.held, log.events) == (0, 0)
    log.discard()
    bare = Log()
    bare.append(b"answer", ANSWER)
    bare.discard()
    assert (bare.bytes, bare.events) == (0, 0)


async def test_whoever_waits_for_room_looks_again_when_something_goes_or_a_reader_does() -> None:
    whole = Budget(1000)
    budget = Budget(1000, whole)
    log = Log(budget=budget)
    log.append(b"answer", ANSWER, 0.0)
    held = whole.held
    cursor = log.attach(0)
    waiting = asyncio.create_task(budget.wait(50))
    await turns()
    assert (budget.waiting, whole.held) == (50, held + 50), "it is in memory, too"
    log.expire(1.0)
    await turns()
    assert waiting.done()
    assert (budget.waiting, whole.held) == (0, 0)
    waiting = asyncio.create_task(budget.wait(50))
    await turns()
    cursor.stop()
    await turns()
    assert waiting.done()


async def test_one_who_waits_without_a_whole_can_be_cancelled() -> None:
    budget = Budget(10)
    waiting = asyncio.create_task(budget.wait(5))
    await turns()
    assert budget.waiting == 5
    waiting.cancel()
    await turns()
    assert budget.waiting == 0
    waiting = asyncio.create_task(budget.wait(5))
    await turns()
    budget.wake()
    await waiting
    assert budget.waiting == 0


async def test_all_who_wait_for_room_count_and_nothing_is_left_of_them() -> None:
    budget = Budget(0, Budget(0))
    waiters = [asyncio.ensure_future(budget.wait(size)) for size in (3, 4)]
    await turns()
    assert budget.whole is not None
    assert (budget.waiting, budget.held, budget.whole.held) == (7, 0, 7)
    budget.wake()
    await asyncio.gather(*waiters)
    assert (budget.waiting, budget.whole.held) == (0, 0)


def test_over_the_budget_each_notification_makes_the_reader_drop_what_it_has_taken() -> None:
    journal, budget = Slow(), Budget(0)
    log = Log(budget=budget, journal=journal)
    cursor = log.attach(0)
    for number in range(1, 131):
        log.append(b"n" * 100, NOTE)
        if not number % 5:
            log.commit(number)
            assert len(payloads(cursor)) == 5
        assert log.events == (number - 1) % 5 + 1, "those of the last five, taken or not"
        assert log.ring_bytes == log.bytes == 100 * log.events
    log.append(b"last", NOTE)
    assert (log.events, log.ring_bytes) == (1, 4)
    assert journal.trimmed == [(NOTE, 65), (NOTE, 130)]


def test_what_fits_is_what_the_limit_leaves() -> None:
    budget = Budget(10)
    budget.add(4)
    assert budget.fits(6)
    assert not budget.fits(7)
