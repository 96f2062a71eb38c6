"""A client's stream that is left in bounded time (G5): opened, read, drained or dropped, whatever its peer does.

Waiting for a peer is safe only where something else can end the wait. Here everything that can end a stream (its
deadline, a close in another task, the client's own end, the peer) goes through one place, and whoever waits
at that time is woken. A graceful close reads on, so that the connection can be used again, inside a limit of
time *and* of bytes, and then drops what is left; `close_nowait` never waits. What carries the bytes is a `Pipe`:
it knows HTTP, and this module does not.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from tailrace.core.waiters import Waiters
from tailrace.errors import CallCancelled, DeadlineExceeded

__all__ = ["Pipe", "State", "Stream"]


class Pipe(Protocol):
    """The bytes of one answer, as they come. Futures, not coroutines: a wait that is given up loses nothing."""

    def open(self) -> asyncio.Future[Any]:
        """Done once the peer has begun to answer. Called once, first."""
        ...

    def read(self) -> asyncio.Future[bytes]:
        """The next bytes; ``b""`` at the answer's end. Called again only after the last one is done."""
        ...

    def drop(self) -> None:
        """Let go of it at once, whatever state it is in: the peer is told that nobody listens. Never waits; idempotent.
        What was asked for and is not done yet may stay so, or fail."""
        ...


class State(Enum):
    """Where a stream stands; it only moves down this list."""

    OPENING = "opening"  # the peer has not begun to answer
    OPEN = "open"
    CLOSING = "closing"  # nobody wants more; it is read on for the connection's sake, inside both limits
    CLOSED = "closed"


_MOVES = {
    State.OPENING: frozenset({State.OPEN, State.CLOSING, State.CLOSED}),
    State.OPEN: frozenset({State.CLOSING, State.CLOSED}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset[State](),
}


class Stream:
    """One answer and its bounded life. Belongs to one loop; one task reads at a time, any task may close.

    Args:
        pipe: What carries it.
        deadline: Loop time at which it ends by itself; None: never.
        close_timeout: Seconds that a graceful close may take.
        close_max_bytes: Bytes that a graceful close may read.
        on_closed: Called once, when it is closed.

    Attributes:
        state: Where it stands.
        complete: The peer ended it in order, and all of it was read.
        reason: Why it cannot be read any more, where that is not its own end: `DeadlineExceeded`, `CallCancelled`
            (closed here), or what the pipe raised.
    """

    __slots__ = (
        "_head",
        "_on_closed",
        "_pipe",
        "_reading",
        "_taken",
        "_timer",
        "_waiters",
        "close_max_bytes",
        "close_timeout",
        "complete",
        "reason",
        "state",
    )

    def __init__(
        self,
        pipe: Pipe,
        *,
        deadline: float | None = None,
        close_timeout: float = 30.0,
        close_max_bytes: int = 1_048_576,
        on_closed: Callable[[Stream], None] | None = None,
    ) -> None:
        self.close_timeout = close_timeout
        self.close_max_bytes = close_max_bytes
        self.state = State.OPENING
        self.complete = False
        self.reason: Exception | None = None
        self._pipe = pipe
        self._on_closed = on_closed
        self._waiters = Waiters()
        self._taken = False  # by a reader
        self._reading: asyncio.Future[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head = pipe.open()
        self._head.add_done_callback(self._wake)
        if deadline is not None:
            self._timer = _call_at(deadline, self._expire)

    # --- use ---

    async def open(self) -> None:
        """Wait until the peer has begun to answer. Being cancelled here closes the stream at once.

        Raises:
            DeadlineExceeded: Its deadline passed.
            CallCancelled: It was closed meanwhile.
            Exception: What the pipe raised.
        """
        try:
            await self.until(self._head.done)
        except asyncio.CancelledError:
            self.close_nowait()
            raise
        self._begin()

    async def read(self) -> bytes:
        """The next bytes; ``b""`` at its end, and from then on. Raises as `open` does, and gives up nothing when it is
        cancelled: the next `read` has what this one would have had.

        Raises:
            RuntimeError: Another task is reading.
        """
        if self._taken:
            raise RuntimeError("one task at a time reads a stream")
        if self.complete and self.reason is None:
            return b""
        self._taken = True
        try:
            await self.until(self._head.done)
            self._begin()
            reading = self._read()
            if reading.done():
                await asyncio.sleep(0)  # or a peer that is always faster keeps the loop, and the deadline waits
            await self.until(reading.done)
            return self._take(reading)
        finally:
            self._taken = False

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until `done` is true, or the peer has ended the stream in order; whoever makes it true calls `wake`.

        Raises:
            Exception: Why it ended, if that came first (see `open`).
        """
        while not done() and self.reason is None and not self.complete:
            await self._waiters.wait()
        if self.reason is not None:
            raise self.reason

    def wake(self) -> None:
        """Have those who wait in `until` look again."""
        self._waiters.wake()

    # --- ending ---

    async def aclose(self, timeout: float | None = None, max_bytes: int | None = None) -> None:
        """Read on to the end, so that the connection can be used again; over a limit, drop it.

        Whoever reads it is told at once. Several may close it: each returns when it is closed, and forces that when its
        own time is up. Being cancelled while draining drops it.

        Args:
            timeout: Seconds; by default `close_timeout`. 0 or less: as `close_nowait`.
            max_bytes: At most this many are read and thrown away; by default `close_max_bytes`.
        """
        timeout = self.close_timeout if timeout is None else timeout
        if timeout <= 0:
            self.close_nowait()
        if self.state is State.CLOSED:
            return
        timer = _call_at(asyncio.get_running_loop().time() + timeout, self.close_nowait)
        try:
            if self.state is State.CLOSING:
                await self._settled(self._is_closed)
            else:
                await self._drain(self.close_max_bytes if max_bytes is None else max_bytes)
        finally:
            timer.cancel()

    def close_nowait(self, reason: Exception | None = None) -> None:
        """Drop it: the peer is told at once, whoever waits raises `reason`. Never waits; idempotent."""
        self._close(reason or CallCancelled("the stream was closed"))

    # --- inside ---

    def _begin(self) -> None:
        if self.state is not State.OPENING:
            return
        try:
            self._head.result()
        except Exception as error:
            self._close(error)
            raise
        self._move(State.OPEN)

    def _read(self) -> asyncio.Future[bytes]:
        if self._reading is None:
            self._reading = self._pipe.read()
            if not self._reading.done():
                self._reading.add_done_callback(self._wake)
        return self._reading

    def _take(self, reading: asyncio.Future[bytes]) -> bytes:
        self._reading = None
        try:
            data = reading.result()
        except Exception as error:
            self._close(error)
            raise
        if not data:
            self.complete = True
            self._close(None)
        return data

    async def _drain(self, left: int) -> None:
        beginning = self.state is State.OPENING
        self._move(State.CLOSING)
        self.reason = CallCancelled("the stream was closed")
        self._waiters.wake()  # a reader leaves; what it waited for is read here
        try:
            if beginning:
                await self._settled(self._head.done)
            while left >= 0 and self.state is State.CLOSING:
                self._head.result()
                reading = self._read()
                await self._settled(reading.done)
                if self.state is State.CLOSING:
                    left -= len(self._take(reading))
        except Exception:  # it broke, or was dropped meanwhile: then there is nothing to keep
            pass
        finally:
            self._close(None)

    async def _settled(self, done: Callable[[], bool]) -> None:
        while not done() and self.state is not State.CLOSED:
            await self._waiters.wait()

    def _is_closed(self) -> bool:
        return self.state is State.CLOSED

    def _expire(self) -> None:
        self._close(DeadlineExceeded("the call's deadline passed"))

    def _wake(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # seen: one that nobody waits for any more is not reported as lost
        self._waiters.wake()

    def _close(self, reason: Exception | None) -> None:
        """The one way to the end."""
        if self.state is State.CLOSED:
            return
        self._move(State.CLOSED)
        if self.reason is None:
            self.reason = reason
        if self._timer is not None:
            self._timer.cancel()
        self._pipe.drop()
        self._waiters.wake()
        if self._on_closed is not None:
            self._on_closed(self)

    def _move(self, state: State) -> None:
        if state not in _MOVES[self.state]:
            raise RuntimeError(f"a stream that is {self.state.value} cannot become {state.value}")
        self.state = state


def _call_at(when: float, call: Callable[[], None]) -> asyncio.TimerHandle:
    # In nobody's contextvars: they would live on for as long as the timer.
    return asyncio.get_running_loop().call_at(when, call, context=contextvars.Context())
