"""The simplest things that the core can be run with: a call whose work is a function, a home that takes notes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import detangle

from tailrace.core.call import Call, Reply
from tailrace.core.exchange import Sink
from tailrace.core.log import Log
from tailrace.core.session import Home, Session
from tailrace.core.tasks import Tasks
from tailrace.errors import TransportError

TURNS = 20  # of the loop, after which whatever can happen without time passing has happened


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test in virtual time: a wait of an hour is over at once, and its order is always the same."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        detangle.run(lambda: test(*args, **kwargs))

    return run


async def turns(count: int = TURNS) -> None:
    """Let everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


class InlineThreads:
    """Plain functions run on the loop: real threads know no virtual time."""

    def __init__(self) -> None:
        self.closed = 0

    async def run(self, fn: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        return fn()

    def close(self) -> None:
        self.closed += 1


def make_tasks(**limits: int) -> Tasks:
    return Tasks(InlineThreads(), **limits)  # type: ignore[arg-type]


class Heard(Reply):
    """A reply that remembers what it was told; `behind` makes `room` wait."""

    def __init__(self) -> None:
        self.notes: list[bytes] = []
        self.answers: list[bytes | None] = []
        self.behind: asyncio.Event | None = None

    def notify(self, call: Call, payload: bytes) -> None:
        self.notes.append(payload)

    def answer(self, call: Call, payload: bytes | None) -> None:
        self.answers.append(payload)

    async def room(self) -> None:
        if self.behind is not None:
            await self.behind.wait()

    async def room_for(self, size: int) -> bool:
        return True


class Work(Call):
    """A call that runs `work(call)` and answers with what that returns."""

    # No __slots__: so it can be referred to weakly.

    def __init__(
        self,
        tasks: Tasks,
        work: Callable[[Any], Awaitable[bytes | None]] | None = None,
        *,
        key: Any = 1,
        session: Session | None = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(key, 1, key, session, tasks, reply or Heard())
        self.work = work or answer_at_once
        self.began = False

    async def run(self) -> bytes | None:
        self.began = True
        return await self.work(self)

    def aborted(self, error: Exception) -> bytes | None:
        return f"aborted: {error}".encode()

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        self.reply.notify(self, f"progress {done} {total} {message}".encode())

    def log(self, level: str, data: Any, logger: str | None) -> None:
        self.reply.notify(self, f"log {level} {data} {logger}".encode())

    @property
    def answers(self) -> list[bytes | None]:
        assert isinstance(self.reply, Heard)
        return self.reply.answers

    @property
    def notes(self) -> list[bytes]:
        assert isinstance(self.reply, Heard)
        return self.reply.notes

    def accepted(self) -> Work:
        """Have its owner take it."""
        if self.session is not None:
            self.session.accept(self)
        else:
            self.tasks.admit(self)
        return self


async def answer_at_once(call: Work) -> bytes | None:
    return b"done"


async def never(call: Work) -> bytes | None:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


class Notes(Home):
    """A home that writes down what it is asked for; `slow` hooks wait until they are let go."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.greeting: asyncio.Event | None = None
        self.farewell: asyncio.Event | None = None

    async def opened(self, session: Session) -> None:
        assert isinstance(session, Session)
        self.said.append("opened")
        if self.greeting is not None:
            await self.greeting.wait()
            self.said.append("greeted")

    async def ended(self, session: Session, reason: str) -> None:
        assert isinstance(session, Session)
        self.said.append(f"ended {reason}")
        if self.farewell is not None:
            await self.farewell.wait()

    def forget(self, session: Session, *, keep: bool) -> None:
        self.said.append("kept" if keep else "forgotten")

    def suspend(self, session: Session) -> None:
        assert isinstance(session, Session)
        self.said.append("suspended")

    def notification(self, method: str, params: Any) -> bytes:
        return f"{method} {params}".encode()


def make_session(tasks: Tasks, home: Home, *, id: str = "s", **options: Any) -> Session:
    return Session(id, id.encode(), "", tasks=tasks, home=home, log=Log(), record=None, **options)


class Pipe(Sink):
    """A way out that collects whole writes. `gate` makes it slow, `broken` lets the peer be gone."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.ended = 0
        self.gate: asyncio.Event | None = None
        self.broken = False
        self.writing = 0

    async def write(self, data: bytes) -> None:
        assert not self.writing, "two writers on one connection"
        self.writing += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.broken:
                raise TransportError("the peer is gone")
            self.writes.append(data)
        finally:
            self.writing -= 1

    async def end(self, trailers: Any = ()) -> None:
        if self.broken:
            raise TransportError("the peer is gone")
        self.ended += 1
