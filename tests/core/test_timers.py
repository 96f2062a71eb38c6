"""One timer for many: the sweeper twice a second, the delay line a fixed time after each entry."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable

import pytest

from tailrace.core.timers import DelayLine, Sweeper
from tests.core.support import virtual

request_value: contextvars.ContextVar[str] = contextvars.ContextVar("request_value", default="none")


class Member:
    """Writes down when it was swept; `then` is done each time."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.times: list[float] = []
        self.seen: list[str] = []
        self.then = then

    def sweep(self, now: float) -> None:
        self.times.append(now)
        self.seen.append(request_value.get())
        self.then()


class Entry:
    """Writes down when it was due."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.settled = False
        self.times: list[float] = []
        self.then = then

    def due(self) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self.then()


# --- the sweeper


@virtual
async def test_every_member_is_swept_at_each_interval_until_it_is_discarded() -> None:
    sweeper = Sweeper(0.5)
    first, second = Member(), Member()
    sweeper.add(first)
    sweeper.add(first)  # twice is once
    await asyncio.sleep(0.75)
    sweeper.add(second)
    await asyncio.sleep(0.5)
    sweeper.discard(first)
    sweeper.discard(first)
    await asyncio.sleep(0.5)
    assert first.times == [0.5, 1.0]
    assert second.times == [1.0, 1.5]
    sweeper.close()


@virtual
async def test_without_members_there_is_no_timer_and_a_new_member_starts_it_again() -> None:
    sweeper = Sweeper(0.5)
    member = Member()
    sweeper.add(member)
    sweeper.discard(member)
    await asyncio.sleep(5.0)
    assert member.times == []
    assert sweeper._timer is None
    sweeper.add(member)
    await asyncio.sleep(0.6)
    assert member.times == [5.5]
    sweeper.close()


@virtual
async def test_a_member_that_raises_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sweeper = Sweeper(0.5)
    broken, healthy = Member(lambda: 1 / 0), Member()
    sweeper.add(broken)
    sweeper.add(healthy)
    await asyncio.sleep(1.1)
    assert (broken.times, healthy.times) == ([0.5, 1.0], [0.5, 1.0])
    assert caplog.messages == [f"sweep failed member={broken!r}"] * 2
    sweeper.close()


@virtual
async def test_a_member_may_discard_and_add_others_while_it_is_swept() -> None:
    sweeper = Sweeper(0.5)
    victim, newcomer = Member(), Member()

    def act() -> None:
        sweeper.discard(victim)
        sweeper.add(newcomer)

    sweeper.add(Member(act))
    sweeper.add(victim)
    await asyncio.sleep(1.1)
    assert victim.times == [], "what was discarded is not swept any more, not even in the same round"
    assert newcomer.times == [1.0]
    sweeper.close()


@virtual
async def test_closed_by_a_member_in_the_middle_of_a_round_it_stops_there() -> None:
    sweeper = Sweeper(0.5)
    after = Member()
    sweeper.add(Member(sweeper.close))
    sweeper.add(after)
    await asyncio.sleep(5.0)
    assert after.times == []
    sweeper.close()  # twice is harmless


@virtual
async def test_nobodys_variables_live_on_in_the_sweeper() -> None:
    sweeper, member = Sweeper(0.5), Member()

    async def request() -> None:
        request_value.set("of one request")
        sweeper.add(member)

    await asyncio.ensure_future(request())
    await asyncio.sleep(1.1)
    assert member.seen == ["none", "none"]
    sweeper.close()


# --- the delay line


@virtual
async def test_each_entry_is_due_a_fixed_time_after_it_was_added() -> None:
    line = DelayLine(1.0)
    entries = [Entry() for _ in range(3)]
    for entry in entries:
        line.add(entry)
        await asyncio.sleep(0.4)
    await asyncio.sleep(5.0)
    assert [entry.times for entry in entries] == [[1.0], [1.4], [1.8]]
    assert line._timer is None


@virtual
async def test_a_settled_entry_is_never_due() -> None:
    line = DelayLine(1.0)
    settled, open_ = Entry(), Entry()
    line.add(settled)
    line.add(open_)
    settled.settled = True
    await asyncio.sleep(2.0)
    assert (settled.times, open_.times) == ([], [1.0])


@virtual
async def test_an_entry_that_another_settles_in_the_same_moment_is_not_due() -> None:
    line, second = DelayLine(1.0), Entry()
    line.add(Entry(lambda: setattr(second, "settled", True)))
    line.add(second)
    await asyncio.sleep(2.0)
    assert second.times == []


@virtual
async def test_an_entry_that_raises_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    line, second, later = DelayLine(1.0), Entry(), Entry()
    line.add(broken := Entry(lambda: 1 / 0))
    line.add(second)
    await asyncio.sleep(0.5)
    line.add(later)
    await asyncio.sleep(2.0)
    assert (second.times, later.times) == ([1.0], [1.5])
    assert caplog.messages == [f"what was due failed item={broken!r}"]


@virtual
async def test_an_entry_may_be_added_while_another_is_due() -> None:
    line, second = DelayLine(1.0), Entry()
    line.add(Entry(lambda: line.add(second)))
    await asyncio.sleep(3.0)
    assert second.times == [2.0]


@virtual
async def test_a_closed_line_forgets_its_entries() -> None:
    line, entry = DelayLine(1.0), Entry()
    line.close()  # before anything was added
    line.add(entry)
    line.close()
    await asyncio.sleep(2.0)
    assert entry.times == []


@virtual
async def test_the_lines_timer_is_in_nobodys_contextvars() -> None:
    line, seen = DelayLine(1.0), []
    mine = contextvars.copy_context()
    mine.run(request_value.set, "mine")
    mine.run(line.add, Entry(lambda: seen.append(request_value.get())))
    await asyncio.sleep(2.0)
    assert seen == ["none"], "a request's values would be kept until the timer fires"


@virtual
async def test_settled_entries_are_let_go_long_before_their_time() -> None:
    line = DelayLine(3600.0)
    waiting = Entry()
    line.add(waiting)
    alive: list[weakref.ref[Entry]] = []
    for _ in range(10_000):
        entry = Entry()
        line.add(entry)
        entry.settled = True
        alive.append(weakref.ref(entry))
    del entry
    gc.collect()
    held = sum(1 for reference in alive if reference() is not None)
    assert held < 50, "ten thousand finished requests must not wait for their hour"
    await asyncio.sleep(3600.0)
    assert waiting.times == [3600.0], "and what is not settled is not forgotten"


@virtual
async def test_a_line_of_entries_that_are_not_settled_keeps_them_all() -> None:
    line = DelayLine(10.0)
    entries = [Entry() for _ in range(100)]
    for entry in entries:
        line.add(entry)
    entries[0].settled = entries[50].settled = True
    await asyncio.sleep(20.0)
    assert [len(entry.times) for entry in entries] == [0, *[1] * 49, 0, *[1] * 49]
