"""The bytes of standard input and output: whole lines come in, whole writes go out, nothing else gets between.

Its descriptors were put out of everybody's reach by `pipes`, and bytes are cut into lines by `lines`. What a line
means, and when the process ends, is left to the protocol.

Why threads, and which: asyncio's pipe transports refuse a file as standard input, and need
``O_NONBLOCK``. That flag belongs to the open file description, which a `dup` shares: with the
terminal, with the parent, with standard error after ``2>&1``; they would get `EAGAIN` from nowhere.
So the descriptors stay blocking (uvloop's `add_writer` would set the flag, too).

* Reading: a thread stands in `read`, and hands over all lines of one chunk in one wake-up.
* Writing: the loop asks `poll` for room and writes at most ``PIPE_BUF`` bytes, which then cannot
  block (POSIX says so for pipes; sockets have more room than that when they say they have any).
  Only when there is no room, a thread waits for it. So an answer that fits costs no hand-over at
  all, and no byte is written by any thread but the loop's: a cancelled write is never half-way
  through a system call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from tailrace.core.exchange import Headers, Sink
from tailrace.errors import TransportError
from tailrace.transports.lines import Splitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from tailrace.transports.lines import Overlong
    from tailrace.transports.pipes import Pipes

__all__ = ["Stdio"]

_CHUNK = 64 * 1024  # what a pipe holds
_ATOMIC = getattr(select, "PIPE_BUF", 4096)  # written at once without blocking where poll says there is room
_LINE = 64  # what a line costs beside its bytes
_TURN = 256 * 1024  # written without a look at the rest of the loop
_TICK = 1.0  # seconds after which a thread that waits for a descriptor looks whether it shall end
_UNFINISHED = "an earlier write did not finish: what follows would be taken for the rest of its frame"


class Stdio:
    """The bytes of one stdio conversation. Make it, and use all of it, on the running event loop.

    One coroutine takes `lines`, one uses `sink`. An async context manager, or `start` and `close`.
    Two daemon threads belong to it. The one that reads ends with its read: when standard input
    ends, or with the process. Where pipes cannot be polled (Windows), a peer that does not read blocks the loop.

    Args:
        pipes: What `guard` returned.
        max_line: Bytes of one line; a longer one is dropped and becomes an `Overlong`.
        max_ahead: Bytes (and 64 for each line) that were read and not yet taken; from there on nothing
            is read. At most `max_line` and one chunk of 64 KiB come on top.
        stall: Seconds for which the peer may take nothing (less than makes room for 4 KiB in a full
            pipe, or than the system's low-water mark of a socket) before a write gives up.
    """

    sink: Sink

    def __init__(
        self, pipes: Pipes, *, max_line: int = 4 * 1024 * 1024, max_ahead: int = 1024 * 1024, stall: float = 30.0
    ) -> None:
        self._fd = pipes.read_fd
        self._max_ahead = max_ahead
        self._splitter = Splitter(max_line)  # the reader thread's own
        self._loop = asyncio.get_running_loop()
        self._lines: deque[bytes | Overlong] = deque()  # bounded by max_ahead
        self._held = 0  # bytes that came with self._lines, and are still counted in self._ahead
        self._ended = False
        self._failure: TransportError | None = None
        self._arrival = asyncio.Event()
        # Shared by the loop and the reader thread, under the lock of the condition:
        self._taken = threading.Condition()
        self._ahead = 0
        self._closing = False
        self._reader = threading.Thread(target=self._read, name="tailrace-stdin", daemon=True)
        self._writer = _PipeSink(pipes.write_fd, self._loop, stall)
        self.sink = self._writer

    async def __aenter__(self) -> Stdio:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to read. Once; a second start raises `RuntimeError`."""
        self._reader.start()
        self._writer.start()

    async def lines(self) -> AsyncIterator[bytes | Overlong]:
        r"""Yield line after line, without its ``\n`` or ``\r\n``; blank ones are skipped.

        Ends with standard input (a last line needs no newline) or when `close` is called. Leaving it
        loses nothing: a second iteration goes on where the first stopped.

        Raises:
            TransportError: Standard input cannot be read; all that came before was yielded.
        """
        while True:
            while self._lines:
                yield self._lines.popleft()
            self._release()
            if self._ended:
                break
            self._arrival.clear()
            await self._arrival.wait()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """End `lines` and `sink`, and let the threads go. Idempotent; waits for nothing.

        A write that still waits raises `TransportError`.
        """
        self._writer.close()
        self._lines.clear()
        self._ended = True
        self._arrival.set()
        with self._taken:
            self._closing = True
            self._taken.notify()

    # --- on the loop

    def _arrived(self, lines: list[bytes | Overlong], weight: int) -> None:
        if not self._ended:
            self._lines.extend(lines)
            self._held += weight
            self._arrival.set()

    def _end(self, failure: TransportError | None) -> None:
        if not self._ended:
            self._ended = True
            self._failure = failure
            self._arrival.set()

    def _release(self) -> None:
        """Everything that came was taken: count it no more, and let the thread read on."""
        if self._held:
            with self._taken:
                self._ahead -= self._held
                self._taken.notify()
            self._held = 0

    # --- in the reader thread

    def _read(self) -> None:
        failure: TransportError | None = None
        # A loop that was closed before us raises RuntimeError: nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            try:
                self._read_chunks()
            except (OSError, MemoryError) as error:
                failure = TransportError(f"standard input cannot be read: {error or type(error).__name__}")
            self._loop.call_soon_threadsafe(self._end, failure)

    def _read_chunks(self) -> None:
        weight = 0  # bytes read since the last hand-over
        while self._may_read():
            chunk = self._next_chunk()
            weight += len(chunk)
            lines = self._splitter.feed(chunk) if chunk else self._splitter.end()
            if lines:
                weight += _LINE * len(lines)
                with self._taken:
                    self._ahead += weight
                self._loop.call_soon_threadsafe(self._arrived, lines, weight)
                weight = 0
            if not chunk:
                return

    def _may_read(self) -> bool:
        with self._taken:
            self._taken.wait_for(lambda: self._closing or self._ahead < self._max_ahead)
            return not self._closing

    def _next_chunk(self) -> bytes:
        """One read; empty at the end, also after a close. Also of a descriptor that somebody made non-blocking."""
        while not self._closing:
            try:
                return os.read(self._fd, _CHUNK)
            except BlockingIOError:
                _poller(self._fd, readable=True).poll(_TICK * 1000)
            except ConnectionError:
                break  # how a socket says that the peer went, leaving answers unread
        return b""


class _PipeSink(Sink):
    """The one writer of the protocol's descriptor; its methods are called on the loop."""

    __slots__ = ("_asked", "_closed", "_failure", "_fd", "_loop", "_poll", "_room", "_stall", "_watched", "_watcher")

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop, stall: float) -> None:
        self._fd = fd
        self._loop = loop
        self._stall = stall
        self._failure: str | None = None  # why nothing can be written any more
        self._closed = False
        self._poll = _poller(fd, readable=False)
        self._room = asyncio.Event()
        self._watched = False  # the thread was asked, and has not said yes yet: so it is asked once
        self._asked: SimpleQueue[bool] = SimpleQueue()  # so it never holds more than one question and the end
        self._watcher = threading.Thread(target=self._watch, name="tailrace-stdout", daemon=True)

    def start(self) -> None:
        self._watcher.start()

    async def write(self, data: bytes) -> None:
        if self._failure is not None:
            raise TransportError(self._failure)
        begun = False
        rest = memoryview(data)
        try:
            while True:
                sent = self._put(rest[:_TURN])
                rest = rest[sent:]
                if not rest:
                    self._failure = None
                    return
                # Whatever ends the wait below: nobody may write behind half a frame.
                self._failure = _UNFINISHED
                begun = begun or sent > 0
                await self._wait_for_room()
                if self._closed:
                    raise TransportError("the connection was closed while a write waited")
        except asyncio.CancelledError:
            if not begun and not self._closed:
                self._failure = None  # not a byte went out
            raise

    async def end(self, trailers: Headers = ()) -> None:
        self._failure = self._failure or "standard output was ended"

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._failure = "standard output was closed"
            self._room.set()
            self._asked.put(False)

    def _put(self, data: memoryview) -> int:
        """Write what fits without blocking, and say how much. Nothing else writes to the descriptor."""
        done = 0
        try:
            while done < len(data) and self._poll.poll(0):
                done += os.write(self._fd, data[done : done + _ATOMIC])
        except BlockingIOError:
            pass  # somebody made it non-blocking: as good as no room
        except OSError as error:
            self._failure = f"standard output cannot be written: {error}"
            raise TransportError(self._failure) from error
        return done

    async def _wait_for_room(self) -> None:
        self._room.clear()
        if not self._watched:
            self._watched = True
            self._asked.put(True)
        try:
            async with asyncio.timeout(self._stall):
                await self._room.wait()
        except TimeoutError:
            self._failure = f"the peer read nothing for {self._stall:g} s"
            raise TransportError(self._failure) from None

    def _watch(self) -> None:
        """In the writer's thread: wait for room whenever asked to."""
        poll = _poller(self._fd, readable=False)
        while self._asked.get():
            while not self._closed and not poll.poll(_TICK * 1000):
                pass
            try:
                self._loop.call_soon_threadsafe(self._found_room)
            except RuntimeError:  # the loop was closed before us
                return

    def _found_room(self) -> None:
        self._watched = False
        self._room.set()


class _Poll(Protocol):
    def poll(self, timeout: float, /) -> list[tuple[int, int]]: ...


class _AlwaysReady:
    """Windows cannot ask a pipe whether it has room: there a write to a peer that does not read blocks."""

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        return [(0, 0)]


def _poller(fd: int, readable: bool) -> _Poll:
    if sys.platform == "win32":
        return _AlwaysReady()
    poll = select.poll()
    poll.register(fd, select.POLLIN if readable else select.POLLOUT)
    return poll
