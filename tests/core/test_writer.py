"""One writer a connection: whole frames, in order, with keep-alives, until the log or the peer ends (G3)."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.core.log import Log
from tailrace.core.ports import Kind
from tailrace.core.timers import Sweeper
from tailrace.core.writer import JOIN_LIMIT, Writer
from tests.core.support import Pipe, turns, virtual

NOTE, ANSWER = Kind.NOTIFICATION, Kind.ANSWER


class Plain:
    """Each event as NUMBER:PAYLOAD; a gap as <NUMBER>."""

    def frames(self, events: list[tuple[int, bytes]]) -> bytes:
        return b"".join(b"%d:%b;" % event for event in events)

    def gap(self, lost: int) -> bytes:
        return b"<%d>" % lost


class Rig:
    """A writer over a log, and what came out."""

    def __init__(self, log: Log | None = None, after: int = 0, **options: object) -> None:
        self.log = log or Log()
        self.sweeper = Sweeper()
        self.pipe = Pipe()
        self.writer = Writer(self.log.attach(after), Plain(), self.sweeper, **options)  # type: ignore[arg-type]
        self.running = asyncio.ensure_future(self.writer.run(self.pipe))

    @property
    def out(self) -> bytes:
        return b"".join(self.pipe.writes)

    async def end(self) -> None:
        self.log.end()
        async with asyncio.timeout(30):
            await self.running
        self.left_nothing()

    def left_nothing(self) -> None:
        assert self.running.done()
        assert self.log.reader is None
        assert not self.sweeper._members


async def test_all_that_is_behind_the_cursor_goes_out_in_one_write_and_the_end_ends_it() -> None:
    log = Log()
    for payload in (b"a", b"b", b"c"):
        log.append(payload, NOTE)
    rig = Rig(log)
    await turns()
    assert rig.pipe.writes == [b"1:a;2:b;3:c;"]
    log.append(b"d", ANSWER)
    await rig.end()
    assert rig.out == b"1:a;2:b;3:c;4:d;"
    assert rig.pipe.ended == 1


async def test_while_a_write_is_under_way_events_gather_and_go_out_together() -> None:
    rig = Rig()
    rig.pipe.gate = asyncio.Event()
    rig.log.append(b"a", NOTE)
    await turns()
    for payload in (b"b", b"c"):
        rig.log.append(payload, NOTE)
    rig.pipe.gate.set()
    await rig.end()
    assert rig.pipe.writes == [b"1:a;", b"2:b;3:c;"]


async def test_one_write_carries_no_more_than_about_its_limit() -> None:
    log = Log(ring=4 * JOIN_LIMIT)
    for _ in range(4):
        log.append(b"x" * (JOIN_LIMIT // 2), NOTE)
    rig = Rig(log)
    await rig.end()
    assert len(rig.pipe.writes) == 2


async def test_an_answer_never_overtakes_its_own_notifications() -> None:
    rig = Rig()
    for number in range(200):
        rig.log.append(b"n%d" % number, NOTE)
        if number % 7 == 0:
            await asyncio.sleep(0)
    rig.log.append(b"answer", ANSWER)
    await rig.end()
    numbers = [int(frame.split(b":")[0]) for frame in rig.out.split(b";")[:-1]]
    assert numbers == list(range(1, 202))


async def test_what_the_ring_lost_is_said_where_it_is_missing() -> None:
    rig = Rig(Log(ring=30))
    rig.pipe.gate = asyncio.Event()
    rig.log.append(b"x" * 10, NOTE)
    await turns()
    for _ in range(5):
        rig.log.append(b"y" * 10, NOTE)
    rig.pipe.gate.set()
    await turns()
    rig.log.append(b"z", NOTE)
    await rig.end()
    assert rig.pipe.writes == [b"1:xxxxxxxxxx;", b"<2>4:yyyyyyyyyy;5:yyyyyyyyyy;6:yyyyyyyyyy;", b"7:z;"]


async def test_a_second_gap_counts_only_what_went_since_the_first() -> None:
    rig = Rig(Log(ring=30))
    rig.pipe.gate = asyncio.Event()
    rig.log.append(b"x" * 10, NOTE)
    await turns()
    for _ in range(2):
        for _ in range(5):
            rig.log.append(b"y" * 10, NOTE)
        gate, rig.pipe.gate = rig.pipe.gate, asyncio.Event()
        gate.set()
        await turns()
    rig.pipe.gate.set()
    await rig.end()
    gaps = [write.partition(b">")[0] for write in rig.pipe.writes if write.startswith(b"<")]
    assert gaps == [b"<2", b"<2"]


async def test_expired_answers_at_the_very_end_are_a_gap_too() -> None:
    log = Log()
    log.append(b"a", ANSWER, 1.0)
    log.expire(2.0)
    rig = Rig(log)
    await rig.end()
    assert rig.out == b"<1>"


async def test_an_answer_counts_as_delivered_only_when_the_transport_took_it() -> None:
    rig = Rig()
    rig.pipe.gate = asyncio.Event()
    rig.log.append(b"answer", ANSWER)
    await turns()
    assert rig.log.delivered == 0
    rig.pipe.gate.set()
    await turns()
    assert rig.log.delivered == 1
    await rig.end()


async def test_a_stream_does_not_end_before_its_last_event_is_durable() -> None:
    class Slow:
        def append(self, log: Log, seq: int, kind: Kind, payload: bytes) -> None:
            pass

        def trim(self, log: Log, kind: Kind, upto: int) -> None:
            raise AssertionError

    rig = Rig(Log(journal=Slow()))
    rig.log.append(b"answer", ANSWER)
    rig.log.end()
    await turns()
    assert not rig.running.done()
    rig.log.commit(1)
    await rig.end()
    assert (rig.out, rig.pipe.ended) == (b"1:answer;", 1)


async def test_a_peer_that_is_gone_ends_the_writer_quietly_and_the_log_keeps_what_was_not_taken() -> None:
    rig = Rig()
    await turns()
    rig.pipe.broken = True
    rig.log.append(b"answer", ANSWER)
    await rig.running
    rig.left_nothing()
    assert rig.log.delivered == 0
    again = Rig(rig.log)
    await again.end()
    assert again.out == b"1:answer;"


async def test_a_peer_that_is_gone_at_the_very_end_is_no_error() -> None:
    rig = Rig()
    await turns()
    rig.pipe.broken = True
    await rig.end()
    assert rig.pipe.ended == 0


async def test_cancelling_the_writer_gives_the_stream_back() -> None:
    for gate in (None, asyncio.Event()):  # while it waits for events, and while it writes
        rig = Rig()
        rig.pipe.gate = gate
        await turns()
        rig.log.append(b"a", NOTE)
        await turns()
        rig.running.cancel()
        await turns()
        assert rig.running.cancelled()
        rig.left_nothing()


async def test_a_fault_of_the_transport_gives_the_stream_back_and_is_not_hidden() -> None:
    class Faulty(Pipe):
        async def write(self, data: bytes) -> None:
            raise ZeroDivisionError

    log, sweeper = Log(), Sweeper()
    log.append(b"a", NOTE)
    with pytest.raises(ZeroDivisionError):
        await Writer(log.attach(0), Plain(), sweeper).run(Faulty())
    assert log.reader is None
    assert not sweeper._members


async def test_the_older_connection_says_farewell_when_a_newer_one_takes_the_stream() -> None:
    old = Rig(farewell=lambda: b"retry")
    old.log.append(b"a", NOTE)
    await turns()
    new = Rig(old.log, after=1)
    old.log.append(b"b", NOTE)
    await old.running
    assert old.out == b"1:a;retry"
    assert old.pipe.ended == 1
    await new.end()
    assert new.out == b"2:b;"


async def test_without_a_farewell_a_stopped_stream_just_ends() -> None:
    rig = Rig()
    await turns()
    rig.writer.cursor.stop()
    await rig.running
    assert (rig.out, rig.pipe.ended) == (b"", 1)
    rig.left_nothing()


async def test_stopped_before_it_began_it_still_replies_in_order() -> None:
    log = Log()
    cursor = log.attach(0)
    cursor.stop()
    pipe = Pipe()
    await Writer(cursor, Plain(), Sweeper(), farewell=lambda: b"bye").run(pipe)
    assert (pipe.writes, pipe.ended) == ([b"bye"], 1)


# --- keep-alives


@virtual
async def test_an_idle_stream_is_kept_alive_by_its_own_writer() -> None:
    rig = Rig(keep_alive=15.0, ping=b"ping ")
    await asyncio.sleep(14.0)
    assert rig.pipe.writes == []
    await asyncio.sleep(3.0)
    assert rig.pipe.writes == [b"ping "]
    await asyncio.sleep(16.0)
    assert rig.pipe.writes == [b"ping ", b"ping "]
    await rig.end()


@virtual
async def test_a_stream_that_has_something_to_say_needs_no_keep_alive() -> None:
    rig = Rig(keep_alive=15.0, ping=b"ping ")
    for _ in range(10):
        await asyncio.sleep(10.0)
        rig.log.append(b"a", NOTE)
    await rig.end()
    assert b"ping" not in rig.out


@virtual
async def test_no_keep_alive_is_due_while_a_write_waits_for_the_transport() -> None:
    rig = Rig(keep_alive=15.0, ping=b"ping ")
    await asyncio.sleep(1.0)
    rig.pipe.gate = asyncio.Event()
    rig.log.append(b"a", NOTE)
    await asyncio.sleep(100.0)
    rig.pipe.gate.set()
    await turns()
    assert rig.pipe.writes == [b"1:a;"]
    await rig.end()


@virtual
async def test_zero_means_no_keep_alive() -> None:
    rig = Rig(keep_alive=0.0)
    await asyncio.sleep(100.0)
    await rig.end()
    assert rig.out == b""


@virtual
async def test_a_keep_alive_finds_out_that_the_peer_is_gone() -> None:
    rig = Rig(keep_alive=15.0)
    await asyncio.sleep(1.0)
    rig.pipe.broken = True
    async with asyncio.timeout(20.0):
        await rig.running
    rig.left_nothing()


@virtual
async def test_an_event_that_comes_with_the_keep_alive_is_not_delayed() -> None:
    rig = Rig(keep_alive=1.0, ping=b"ping ")
    await asyncio.sleep(0.25)
    asyncio.get_running_loop().call_later(1.25, rig.log.append, b"a", NOTE)  # at 1.5, as the sweep that finds it idle
    await asyncio.sleep(1.3)
    assert b"1:a;" in rig.out
    await rig.end()


async def test_one_who_reads_up_many_tiny_events_lets_the_others_have_their_turn() -> None:
    log = Log()
    for _ in range(4000):
        log.append(b"x", NOTE)
    rig, turns_of_others = Rig(log), 0
    while len(rig.pipe.writes) < 4:
        await asyncio.sleep(0)
        turns_of_others += 1
    assert turns_of_others >= 4
    await rig.end()
    assert rig.out.count(b":x;") == 4000
