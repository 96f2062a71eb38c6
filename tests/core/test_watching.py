"""What a watcher is told, in which order, and that a server which nobody watches is made of the plain parts."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tailrace.core.call import Call
from tailrace.core.context import Context, current
from tailrace.core.log import Log
from tailrace.core.ports import Kind
from tailrace.core.session import Session, Sessions
from tailrace.core.tasks import Detached, Tasks
from tailrace.core.watching import (
    WatchedLog,
    WatchedSessions,
    WatchedTasks,
    Watcher,
    make_log,
    make_sessions,
    make_tasks,
)
from tailrace.errors import CallCancelled, LimitError
from tests.core.support import InlineThreads, Notes, Work, never, turns, virtual

SESSIONS: dict[str, Any] = {"limit": 1, "idle": 60.0, "infancy": 60.0, "unborn": lambda session: False}


class Told(Watcher):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.callers: list[Call | None] = []

    def session_opened(self, session: Session) -> None:
        self.said.append(f"opened {session.id}")

    def session_closed(self, session: Session) -> None:
        self.said.append(f"closed {session.id}")

    def call_accepted(self, call: Call) -> None:
        self.said.append(f"accepted {call.key}")

    def call_started(self, call: Call) -> None:
        self.said.append(f"started {call.key}")

    def call_ended(self, call: Call) -> None:
        self.said.append(f"ended {call.key}")

    def detached_began(self, work: Detached) -> None:
        self.callers.append(current().call)
        self.said.append(f"began {work.name}")

    def detached_failed(self, work: Detached, error: BaseException) -> None:
        self.said.append(f"failed {work.name}: {error}")

    def detached_ended(self, work: Detached) -> None:
        self.said.append(f"done {work.name}")

    def appended(self, log: WatchedLog, kind: Kind, size: int) -> None:
        self.said.append(f"{log.owner}/{log.stream} has {kind.name.lower()} {size}")

    def attached(self, log: WatchedLog, after: int, missing: int, *, again: bool) -> None:
        self.said.append(f"{'resumed' if again else 'attached'} behind {after}, {missing} gone")

    def written(self, log: WatchedLog, count: int) -> None:
        self.said.append(f"wrote {count}")

    def left(self, log: WatchedLog) -> None:
        self.said.append("left")


@pytest.fixture
def told() -> Told:
    return Told()


def tasks_of(told: Told, **limits: int) -> Tasks:
    return make_tasks(InlineThreads(), told, **{"max_calls": 10, "max_detached": 10, **limits})  # type: ignore[arg-type]


def session_of(tasks: Tasks, id: str = "s") -> Session:
    return Session(id, id.encode(), "", tasks=tasks, home=Notes(), log=Log(), record=None)


def test_nothing_is_watched_where_nobody_watches() -> None:
    @virtual
    async def parts() -> None:
        tasks = make_tasks(InlineThreads(), None, max_calls=3, max_detached=4)  # type: ignore[arg-type]
        assert (type(tasks), tasks.watcher, tasks.max_calls, tasks.max_detached) == (Tasks, None, 3, 4)

    parts()
    sessions = make_sessions(None, **SESSIONS)
    assert (type(sessions), sessions.limit) == (Sessions, 1)
    log = make_log(None, "s", 7, last=5)
    assert (type(log), log.stream, log.last) == (Log, 7, 5)


def test_what_is_watched_has_the_same_limits(told: Told) -> None:
    @virtual
    async def parts() -> None:
        tasks = tasks_of(told, max_calls=3, max_detached=4)
        assert isinstance(tasks, WatchedTasks)
        assert (tasks.watcher, tasks.max_calls, tasks.max_detached) == (told, 3, 4)

    parts()
    sessions = make_sessions(told, **SESSIONS)
    assert isinstance(sessions, WatchedSessions)
    assert sessions.limit == 1
    log = make_log(told, "s", 7, last=5)
    assert isinstance(log, WatchedLog)
    assert (log.stream, log.last, log.owner) == (7, 5, "s")


@virtual
async def test_a_call_is_told_of_from_its_acceptance_to_its_end() -> None:
    told = Told()
    call = Work(tasks_of(told)).accepted()
    assert told.said == ["accepted 1"]
    call.start()
    await turns()
    assert told.said == ["accepted 1", "started 1", "ended 1"]
    assert call.answers == [b"done"]


@virtual
async def test_a_call_that_is_cancelled_before_it_starts_only_ends() -> None:
    told = Told()
    call = Work(tasks_of(told)).accepted()
    call.cancel(CallCancelled("too late"))
    call.tasks.release(call)  # it is out already
    assert told.said == ["accepted 1", "ended 1"]


@virtual
async def test_a_call_that_is_refused_is_not_told_of() -> None:
    told = Told()
    tasks = tasks_of(told, max_calls=1)
    Work(tasks).accepted()
    with pytest.raises(LimitError):
        Work(tasks, key=2).accepted()
    assert told.said == ["accepted 1"]


@virtual
async def test_detached_work_is_told_of_with_its_caller_and_its_failure() -> None:
    told = Told()
    tasks = tasks_of(told)

    async def fine() -> None:
        await asyncio.sleep(1)

    async def broken() -> None:
        raise ValueError("no tea")

    async def handler(call: Work) -> bytes:
        current().spawn(fine)
        current().spawn(broken, on_error=lambda error: None)
        return b"later"

    call = Work(tasks, handler).accepted()
    call.start()
    await asyncio.sleep(2)
    assert [line for line in told.said if "1" not in line] == [
        "began fine",
        "began broken",
        "failed broken: no tea",
        "done broken",
        "done fine",
    ]
    assert told.callers == [call, call]


async def test_what_a_thread_has_left_to_a_loop_that_has_closed_meanwhile_is_not_told_of() -> None:
    told = Told()
    tasks = tasks_of(told)
    spawned = threading.Event()

    def late() -> None:
        tasks.spawn(Context.background(), lambda: None, ())
        spawned.set()

    thread = threading.Thread(target=late)
    thread.start()
    spawned.wait(30)  # the loop is held meanwhile, so that what the thread handed over waits
    await tasks.close(0.0)
    await turns()
    thread.join()
    assert told.said == []


@virtual
async def test_a_session_is_told_of_once_when_it_comes_and_once_when_it_goes() -> None:
    told = Told()
    sessions = make_sessions(told, **SESSIONS)
    session = session_of(tasks_of(told))
    sessions.add(session)
    assert told.said == ["opened s"]
    sessions.remove(session)
    sessions.remove(session)
    assert told.said == ["opened s", "closed s"]


@virtual
async def test_a_session_for_which_there_is_no_room_is_not_told_of() -> None:
    told = Told()
    sessions, tasks = make_sessions(told, **SESSIONS), tasks_of(told)
    first = session_of(tasks, "first")
    sessions.add(first)
    first.accept(Work(tasks, never, session=first))  # not idle
    with pytest.raises(LimitError):
        sessions.add(session_of(tasks, "second"))
    assert told.said == ["opened first", "accepted 1"]


@virtual
async def test_a_stream_is_told_of_as_it_is_filled_read_left_and_resumed() -> None:
    told = Told()
    log = make_log(told, "s", 3)
    log.append(b"abc", Kind.NOTIFICATION)
    first = log.attach(0)
    first.take()
    first.taken()
    first.taken()  # nothing new: nothing is told
    log.append(b"abcd", Kind.ANSWER)
    first.stop()
    first.stop()
    again = log.attach(1)
    again.take()
    again.taken()
    log.end()
    assert log.append(b"late", Kind.ANSWER) == 0
    again.stop()
    assert told.said == [
        "s/3 has notification 3",
        "attached behind 0, 0 gone",
        "wrote 1",
        "s/3 has answer 4",
        "left",
        "resumed behind 1, 0 gone",
        "wrote 1",
        "left",
    ]


@virtual
async def test_a_newer_reader_takes_the_stream_from_an_older_one() -> None:
    told = Told()
    log = make_log(told, "s")
    log.attach(0)
    log.attach(0)
    assert told.said == ["attached behind 0, 0 gone", "left", "resumed behind 0, 0 gone"]


@virtual
async def test_the_first_reader_after_a_restart_resumes_and_hears_of_gaps() -> None:
    told = Told()
    log = make_log(told, "s", last=5)
    log.attach(3)
    assert told.said == ["resumed behind 3, 2 gone"]
