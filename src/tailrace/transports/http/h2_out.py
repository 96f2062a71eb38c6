"""The way out of an HTTP/2 connection: all frames of one turn of the loop in one write, and every stream in its turn.

Only here is the transport written to. Data waits for its stream's window, for the connection's, and for
room: what is with us and not with the transport yet is bounded, whatever windows the peer gives. A stream
whose window is closed waits by itself; those that wait for the connection queue, and each sends a part in
its turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from tailrace.errors import TransportError
from tailrace.wire.h2_frames import DATA, END_STREAM, FRAME_SIZE, HEAD, WINDOW, header_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.transports.http.h2_floods import Floods
    from tailrace.transports.http.h2_streams import H2Exchange
    from tailrace.transports.http.listener import Listener

__all__ = ["Outgoing"]

PART = 32 * 1024  # bytes that a stream sends before another has its turn
GATHERED = 128 * 1024  # bytes of one turn of the loop; whatever can wait waits from there on
_pack = HEAD.pack


class Outgoing:
    """What one connection sends.

    Args:
        listener: Its loop and clock.
        transport: What is written to.
        floods: Told what is sent of replies.
        flushed: Called when all that was gathered is with the transport.

    Attributes:
        gathered: Bytes that are not with the transport yet.
        window: Bytes of data that the peer takes on the connection as a whole.
        frame_size: The largest payload that it takes.
        paused: The transport takes no more.
        stalls_at: While streams wait for `window`: when that has lasted too long.
        prefix: Stands in front of the next block of header fields.
    """

    __slots__ = (
        "_closed",
        "_floods",
        "_flushed",
        "_flushing",
        "_frames",
        "_granted",
        "_last",
        "_last_at",
        "_last_size",
        "_listener",
        "_queue",
        "_transport",
        "frame_size",
        "gathered",
        "paused",
        "prefix",
        "stalls_at",
        "window",
    )

    def __init__(
        self, listener: Listener, transport: asyncio.Transport, floods: Floods, flushed: Callable[[], None]
    ) -> None:
        self.gathered = 0
        self.window = WINDOW
        self.frame_size = FRAME_SIZE
        self.paused = False
        self.stalls_at = 0.0
        self.prefix = b""
        self._listener = listener
        self._transport = transport
        self._floods = floods
        self._flushed = flushed
        self._frames: list[bytes] = []
        self._last: H2Exchange | None = None  # whose data stands at the end of them, if that may go on
        self._last_at = 0  # where the head of its frame is
        self._last_size = 0
        self._flushing = False
        self._closed = False
        self._queue: deque[H2Exchange] = deque()
        self._granted = 0  # turns that are not taken yet

    # --- what goes at once ---

    def put(self, frames: bytes) -> None:
        """Send frames that no window holds up, with all else of this turn."""
        self._last = None
        self._frames.append(frames)
        self.gathered += len(frames)
        if not self._flushing:
            self._flushing = True
            self._listener.loop.call_soon(self.flush)

    def put_headers(self, number: int, block: bytes, flags: int) -> None:
        """Send a block of fields."""
        self._floods.worked()
        if self.prefix:
            block, self.prefix = self.prefix + block, b""
        self.put(header_frames(number, block, flags, self.frame_size))

    def put_data(self, stream: H2Exchange, data: bytes, flags: int = 0) -> None:
        """Send data that the windows have room for."""
        size, most = len(data), self.frame_size
        stream.window -= size
        self.window -= size
        self._floods.worked(size)
        if size <= most:
            return self._put_part(stream, data, size, flags)
        for at in range(0, size, most):
            part = data[at : at + most]
            self.put(_pack(len(part) << 8 | DATA, flags if at + most >= size else 0, stream.number) + part)
        return None

    def _put_part(self, stream: H2Exchange, data: bytes, size: int, flags: int) -> None:
        """One frame; or a part of the last one, if that is the same stream's and may be longer. (Clients bound the
        number of tiny frames that they take: hyper's lets go of the connection.)"""
        frames = self._frames
        if self._last is stream and self._last_size + size <= self.frame_size:
            self._last_size += size
            frames[self._last_at] = _pack(self._last_size << 8 | DATA, flags, stream.number)
            frames.append(data)
            self.gathered += size
            return
        self.put(_pack(size << 8 | DATA, flags, stream.number))
        self._last, self._last_at, self._last_size = stream, len(self._frames) - 1, size
        self._frames.append(data)
        self.gathered += size

    def end_data(self, stream: H2Exchange) -> None:
        """End a stream without trailers."""
        self._put_part(stream, b"", 0, END_STREAM)
        self._last = None

    def fits(self, stream: H2Exchange, size: int) -> bool:
        """May all of that be sent now?"""
        return size <= stream.window and size <= self.window and not self._queue and not self.full

    @property
    def full(self) -> bool:
        """What can wait has to."""
        return self.paused or self.gathered >= GATHERED

    def flush(self) -> None:
        """The only place that writes to the transport: all that was gathered, then whoever waits for room."""
        self._flushing = False
        frames, self._frames, self.gathered = self._frames, [], 0
        self._last = None
        if frames and not self._closed:
            self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        self.grant()
        self._flushed()

    def close(self) -> None:
        """Nothing more is sent."""
        self._closed = True

    # --- what waits ---

    async def transmit(self, stream: H2Exchange, data: bytes) -> None:
        """Send data as the windows allow, part by part, in turn with the other streams.

        Raises:
            TransportError: The stream is over.
        """
        at, size = 0, len(data)
        turn = not (self._queue or self._granted)
        waited = False
        if stream.over:
            raise _over()
        while at < size:
            if not turn or stream.window <= 0 or self.window <= 0 or self.full:
                await self._wait(stream, first=waited)
                turn = waited = True
                continue
            end = min(size, at + min(PART, stream.window, self.window))
            self.put_data(stream, data if end - at == size else data[at:end])
            at = end
            turn, waited = not (self._queue or self._granted), False
            self.grant()

    async def _wait(self, stream: H2Exchange, *, first: bool) -> None:
        """Until it is the stream's turn. A turn that is not taken goes to the next one; who had one, and found no room
        any more, is the first to have another."""
        listener = self._listener
        stream.waiter = waiter = listener.loop.create_future()
        stream.stalls_at = listener.after(listener.settings.stall)
        if stream.window > 0:
            self._join_queue(stream, first=first)
        try:
            await waiter
        except asyncio.CancelledError:
            self._granted -= _is_granted(waiter)
            self.grant()
            raise
        finally:
            stream.waiter = None
        self._granted -= _is_granted(waiter)
        if stream.over:
            self.grant()
            raise _over()

    def opened(self, stream: H2Exchange) -> None:
        """The stream's window has opened."""
        if stream.waiter is not None:
            self._join_queue(stream)
            self.grant()

    def _join_queue(self, stream: H2Exchange, *, first: bool = False) -> None:
        if not self._queue:
            self.stalls_at = self._listener.after(self._listener.settings.stall)
        if first:
            self._queue.appendleft(stream)
        else:
            self._queue.append(stream)

    def grant(self) -> None:
        """If there is room: the turn of the stream that waits the longest."""
        queue = self._queue
        while queue and self.window > 0 and not self.full:
            stream = queue.popleft()
            if stream.waiter is not None and not stream.waiter.done() and stream.window > 0:
                self._granted += 1
                return stream.waiter.set_result(True)
        return None

    def progressed(self) -> None:
        """The peer takes more on the connection."""
        self.stalls_at = self._listener.after(self._listener.settings.stall)
        self.grant()

    @property
    def stalled(self) -> bool:
        """Streams wait for the connection's window, and that does not open."""
        return self.window <= 0 and bool(self._queue) and self._listener.clock >= self.stalls_at


def _is_granted(waiter: asyncio.Future[bool]) -> bool:
    """It was given a turn; not only woken because its stream is over."""
    return waiter.done() and not waiter.cancelled() and waiter.result()


def _over() -> TransportError:
    return TransportError("the peer is gone, gave the stream up, or took nothing for too long")
