"""The table of sessions: bounded, the oldest idle one makes room, and the unused end by themselves (G2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.core.session import Lifecycle, Session, Sessions
from tailrace.errors import LimitError
from tests.core.support import Notes, Work, make_session, make_tasks, never, turns, virtual


class House(Notes):
    """A home with a table, as a server is one."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.tasks = make_tasks()
        self.sessions = Sessions(**options)

    def forget(self, session: Session, *, keep: bool) -> None:
        super().forget(session, keep=keep)
        self.sessions.remove(session)

    def add(self, id: str) -> Session:
        session = make_session(self.tasks, self, id=id)
        self.sessions.add(session)
        return session

    def busy(self, session: Session) -> Session:
        Work(self.tasks, never, session=session).accepted().start()
        return session


async def test_a_session_is_found_by_its_id_and_by_its_handle_until_it_ends() -> None:
    house = House()
    session = house.add("a")
    assert house.sessions.by_id == {"a": session}
    assert house.sessions.by_handle == {b"a": session}
    assert len(house.sessions) == 1
    await session.close("x")
    assert house.sessions.by_id == {}
    assert house.sessions.by_handle == {}
    assert (house.sessions.opened, house.sessions.closed) == (1, 1)
    house.sessions.remove(session)
    assert house.sessions.closed == 1, "removing twice counts once"


async def test_removing_an_older_session_never_touches_its_successor_under_the_same_id() -> None:
    house = House()
    older = house.add("a")
    house.sessions.remove(older)
    newer = house.add("a")
    house.sessions.remove(older)
    assert house.sessions.by_id == {"a": newer}
    assert house.sessions.by_handle == {b"a": newer}


@virtual
async def test_over_the_limit_the_session_that_was_idle_longest_makes_room() -> None:
    house = House(limit=3)
    first = house.busy(house.add("first"))
    second = house.add("second")
    await asyncio.sleep(1.0)
    third = house.add("third")
    house.add("fourth")
    assert second.lifecycle is not Lifecycle.OPEN
    assert set(house.sessions.by_id) == {"first", "third", "fourth"}
    await turns()
    assert "evicted" in second.reason
    assert first.lifecycle is third.lifecycle is Lifecycle.OPEN
    assert (house.sessions.opened, house.sessions.closed) == (4, 1)


async def test_in_a_large_table_several_make_room_at_once() -> None:
    house = House(limit=300)
    for number in range(301):
        house.add(str(number))
    assert len(house.sessions) == 298
    await turns()
    assert len(house.sessions) == 298


async def test_where_all_are_busy_the_newcomer_is_refused() -> None:
    house = House(limit=2)
    for id in "ab":
        house.busy(house.add(id))
    with pytest.raises(LimitError) as refused:
        house.add("c")
    assert refused.value.limit == "sessions"
    assert "2 sessions are open; try again later" in str(refused.value)
    assert set(house.sessions.by_id) == {"a", "b"}
    assert set(house.sessions.by_handle) == {b"a", b"b"}
    assert house.sessions.opened == 2


async def test_all_are_closed_with_one_reason_and_the_fault_of_one_is_not_anothers() -> None:
    house = House()
    sessions = [house.add(id) for id in "abc"]
    house.busy(sessions[1])
    for completion in house.sessions.close_all("shutdown", keep=True, grace=1.0):
        await completion
    assert [session.reason for session in sessions] == ["shutdown"] * 3
    assert house.said.count("kept") == 3
    assert len(house.sessions) == 0
    assert house.sessions.close_all("again", keep=True) == []


@virtual
async def test_what_was_not_used_for_too_long_ends_and_what_is_busy_does_not() -> None:
    loop = asyncio.get_running_loop()
    house = House(idle=100.0)
    idle, busy, read = house.add("idle"), house.busy(house.add("busy")), house.add("read")
    read.log.attach(0)
    await asyncio.sleep(99.0)
    house.sessions.expire(loop.time())
    assert idle.lifecycle is Lifecycle.OPEN
    await asyncio.sleep(2.0)
    house.sessions.expire(loop.time())
    await turns()
    assert idle.reason == "the session expired"
    assert set(house.sessions.by_id) == {"busy", "read"}
    assert busy.lifecycle is Lifecycle.OPEN


@virtual
async def test_a_session_that_never_finished_its_beginning_ends_early() -> None:
    loop = asyncio.get_running_loop()
    house = House(idle=1800.0, infancy=60.0, unborn=lambda session: session.id == "infant")
    infant, adult = house.add("infant"), house.add("adult")
    await asyncio.sleep(59.0)
    house.sessions.expire(loop.time())
    assert infant.lifecycle is Lifecycle.OPEN
    await asyncio.sleep(2.0)
    house.sessions.expire(loop.time())
    assert infant.lifecycle is not Lifecycle.OPEN
    assert adult.lifecycle is Lifecycle.OPEN
    await infant.wait_closed()


@virtual
async def test_an_idle_time_below_the_infancy_is_kept_to() -> None:
    house = House(idle=5.0, infancy=60.0)
    session = house.add("a")
    await asyncio.sleep(6.0)
    house.sessions.expire(asyncio.get_running_loop().time())
    assert session.lifecycle is not Lifecycle.OPEN
    await session.wait_closed()


@virtual
async def test_a_full_table_without_idle_sessions_is_looked_through_now_and_then_only() -> None:
    house = House(limit=1)
    first = house.busy(house.add("first"))
    with pytest.raises(LimitError):
        house.add("second")
    first.calls.clear()
    with pytest.raises(LimitError):
        house.add("third")
    await asyncio.sleep(0.5)
    house.add("fourth")
    assert set(house.sessions.by_id) == {"fourth"}


@virtual
async def test_a_session_nobody_greeted_ends_although_it_is_read() -> None:
    house = House(infancy=60.0, unborn=lambda session: True)
    session = house.add("infant")
    session.log.attach(0)
    assert not session.opening
    await asyncio.sleep(61.0)
    house.sessions.expire(asyncio.get_running_loop().time())
    await session.closed
    assert session.reason == "the session was never initialized"


@virtual
async def test_a_session_is_as_old_as_its_last_use() -> None:
    loop = asyncio.get_running_loop()
    house = House(idle=100.0, infancy=60.0, unborn=lambda session: session.id == "infant")
    await asyncio.sleep(1000.0)
    session, infant = house.add("a"), house.add("infant")
    infant.log.attach(0)
    await asyncio.sleep(60.0)
    house.sessions.expire(loop.time())
    assert infant.lifecycle is Lifecycle.OPEN, "its time is over after sixty seconds, not with them"
    session.accept(call := Work(house.tasks, session=session))
    call.start()
    await turns()
    await asyncio.sleep(100.0)
    house.sessions.expire(loop.time())
    assert session.lifecycle is Lifecycle.OPEN
    assert infant.lifecycle is not Lifecycle.OPEN
    await asyncio.sleep(1.0)
    house.sessions.expire(loop.time())
    assert session.lifecycle is not Lifecycle.OPEN
    await session.closed
    assert house.sessions.closed == 2


@virtual
async def test_all_are_closed_within_the_grace_that_is_given() -> None:
    async def stubborn(call: Work) -> bytes:
        try:
            await asyncio.sleep(1000.0)
        except asyncio.CancelledError:
            await asyncio.sleep(50.0)
            raise
        return b""

    loop = asyncio.get_running_loop()
    house = House()
    session = house.add("a")
    Work(house.tasks, stubborn, session=session).accepted().start()
    await turns()
    begun = loop.time()
    (completion,) = house.sessions.close_all("shutdown", keep=False, grace=7.0)
    await completion
    assert loop.time() - begun == pytest.approx(7.0)
    await asyncio.sleep(60.0)


@virtual
async def test_an_evicted_session_is_known_until_it_has_ended() -> None:
    house = House(limit=1)
    first = house.add("first")
    house.add("second")
    assert house.sessions.evicted == {"first": first}
    await turns()
    assert first.reason == "evicted: too many sessions are open"
    assert house.sessions.evicted == {}


def test_the_limits_are_ten_thousand_sessions_half_an_hour_and_a_minute() -> None:
    sessions = Sessions()
    assert (sessions.limit, sessions.idle, sessions.infancy) == (10_000, 1800.0, 60.0)
