"""HTTP/2 for the RPC client: one connection with many streams, each an `H2Pipe`. Its framing is the listener's, too.

pyqwest's HTTP/2 gives up a connection on which a server sends tiny messages faster than Python takes them
(its guard against floods of DATA frames cannot be set), and hands over one frame at a time between threads. Here a
stream's unread bytes are bounded by its own window, which only its reader opens again: a fast server waits, a slow
reader costs its own stream only, and what a peer can make us hold or write has a limit.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import cast

from tailrace.clients.connect.h2_pipe import Broken, H2Pipe, PeerReset
from tailrace.wire.h2_frames import (
    ACK,
    DATA,
    ENABLE_PUSH,
    END_STREAM,
    FRAME_SIZE,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    frame,
    goaway,
    header_frames,
    reset,
    settings,
    window_update,
)
from tailrace.wire.h2_reader import Block, Reader
from tailrace.wire.hpack import NO_TABLE, TABLE_SIZE, Decoder, encode

__all__ = ["H2Link"]

_STREAM_WINDOW = 1_048_576  # bytes that one stream may have unread
_LINK_WINDOW = 67_108_864  # bytes on the way in, over all streams; what is unread is bounded for each
_SAID_AT = 4  # of a window: what was taken is told the server once it is this part of it, not after each frame
_MAX_HEADERS = 65_536
_MAX_PARTS = 64  # frames of one block of header fields
_PART = 65_536  # bytes of bodies that are handed to the transport at once
_MAX_UNWRITTEN = 4_194_304  # bytes that a peer may let us keep that reads nothing and asks for answers
_MAX_BEGUN = 1_000_000_000  # streams of one connection: their numbers end
_CLOSE_LIMIT = 1.0  # seconds for the last frames to leave

_WANTED = {ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: _STREAM_WINDOW, MAX_HEADER_LIST_SIZE: _MAX_HEADERS}
_HELLO = PREFACE + settings(_WANTED) + window_update(0, _LINK_WINDOW - WINDOW)


class H2Link(asyncio.Protocol):
    """One connection. Belongs to one loop. Fulfils `h2_reader.StreamFrames` and `ConnectionFrames`.

    Args:
        on_room: Called when a stream has ended, or the server allows more of them.
        on_closed: Called once, when it takes no more streams.
        again: Given a request that the server says it did not process.

    Attributes:
        lost: Done once its socket is closed; after the end of the connection that is a moment, or `_CLOSE_LIMIT`.
    """

    def __init__(
        self, on_room: Callable[[], None], on_closed: Callable[[H2Link], None], again: Callable[[H2Pipe], bool]
    ) -> None:
        self._reader = Reader(self, self, lambda: True, preface=False)
        self._decoder = Decoder(_MAX_HEADERS)
        self._streams: dict[int, H2Pipe] = {}
        self._begun = 0
        self._most = 1  # streams at once; until the server has said how many, one
        self._window = WINDOW  # bytes of bodies that the server still takes, over all streams
        self._stream_window = WINDOW  # the same of a new stream
        self._frame_size = FRAME_SIZE
        self._prefix = b""  # of the next block of header fields
        self._credit = _LINK_WINDOW  # bytes that the server may still send
        self._out: list[bytes] = []
        self._on_room = on_room
        self._on_closed = on_closed
        self._again = again
        self._transport: asyncio.Transport | None = None
        self._paused = False  # the transport's buffer is full
        self._flushing = False
        self._greeted = False  # the server's settings are known
        self.usable = False  # takes new streams
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not derive from it
        self._out.append(_HELLO)
        self.usable = True
        self._flush()

    def data_received(self, data: bytes) -> None:
        """What the server says; SETTINGS come first (RFC 9113, 3.4)."""
        try:
            self._reader.feed(data)
        except ConnectionFault as fault:
            self._out.append(goaway(0, fault.code, fault.message))
            self._flush()
            said = f"the server's HTTP/2 is broken: {fault}" if self._reader.settled else "it is no HTTP/2"
            return self._end(Broken(said))
        return self._flush()

    def pause_writing(self) -> None:
        """The server reads too slowly: bodies wait."""
        self._paused = True

    def resume_writing(self) -> None:
        """It read."""
        self._paused = False
        self._pump_all()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if not self.lost.done():
            self.lost.set_result(None)
        self._end(Broken(f"the connection was closed{f': {exc}' if exc else ''}"))

    # --- the client's side ---

    @property
    def room(self) -> bool:
        """One more stream may begin."""
        return self.usable and len(self._streams) < self._most and self._begun < _MAX_BEGUN

    @property
    def idle(self) -> bool:
        """Nothing goes on."""
        return not self._streams

    def start(self, pipe: H2Pipe) -> None:
        """Send a request. `room` has to be true."""
        number = self._begun * 2 + 1
        self._begun += 1
        self._streams[number] = pipe
        pipe.attach(self, number, self._stream_window, _STREAM_WINDOW)
        fields = [(name.encode("latin-1"), value.strip(" \t").encode("latin-1")) for name, value in pipe.head]
        block, self._prefix = self._prefix + encode(fields), b""
        self._out.append(header_frames(number, block, 0 if pipe.sending else END_STREAM, self._frame_size))
        if pipe.upload is not None:
            pipe.upload.listener = lambda: self._more(pipe)
        self._pump(pipe)
        self._flush()

    def forget(self, pipe: H2Pipe) -> None:
        """Nobody listens: the server is told, unless it is over."""
        if self._streams.pop(pipe.number, None) is not None:
            self._out.append(reset(pipe.number, ErrorCode.CANCEL))
            self._flush()
            self._left()

    def reopen_window(self, pipe: H2Pipe, size: int) -> None:
        """The reader took `size` bytes of a stream: it may send as many again."""
        pipe.taken += size
        if pipe.taken >= _STREAM_WINDOW // _SAID_AT and pipe.number in self._streams:
            self._out.append(window_update(pipe.number, pipe.taken))
            pipe.credit += pipe.taken
            pipe.taken = 0
            self._flush_soon()

    def close(self) -> None:
        """End it, and what is on it; its last frames have a moment to leave. Idempotent."""
        if self._transport is None or not self.usable:
            return
        self._out.append(goaway(0, ErrorCode.NO_ERROR))
        self._flush()
        self._end(Broken("the client was closed"))

    # --- what the server says of streams ---

    def on_fields(self, number: int, block: bytes, ended: bool) -> None:
        """An answer's head, or its trailers. A stream that was let go changes the table as well."""
        fields = self._decoder.decode(block)
        pipe = self._stream(number)
        if pipe is not None:
            pipe.say(fields, ended)
            if ended:
                self._settle(pipe)

    def on_block(self, block: Block) -> None:
        """Some header fields; they have a limit before they are whole."""
        if len(block.data) > _MAX_HEADERS or block.frames > _MAX_PARTS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a block of header fields is too large")

    def on_data(self, number: int, data: bytes, size: int, ended: bool) -> None:
        """A part of an answer's body."""
        self._credit -= size
        if self._credit < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if self._credit <= _LINK_WINDOW - _LINK_WINDOW // _SAID_AT:
            self._out.append(window_update(0, _LINK_WINDOW - self._credit))
            self._credit = _LINK_WINDOW
        pipe = self._stream(number)
        if pipe is None:
            return
        pipe.credit -= size
        if pipe.credit < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
        pipe.came(data, ended)
        if ended:
            self._settle(pipe)
        elif size > len(data):  # nobody reads padding
            self.reopen_window(pipe, size - len(data))

    def on_reset(self, number: int, code: int) -> None:
        """The server gives a stream up."""
        pipe = self._stream(number)
        if pipe is None:
            return
        del self._streams[number]
        if not (code == ErrorCode.REFUSED_STREAM and self._again(pipe)):
            pipe.fail(PeerReset(code))
        self._left()

    def on_window(self, number: int, size: int) -> None:
        """The server takes more of a body, or of all of them."""
        if not number:
            self._window += size
            if self._window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            return self._pump_all()
        pipe = self._stream(number)
        if pipe is None:
            return None
        pipe.window += size
        if pipe.window > MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
        return self._pump(pipe)

    def on_fault(self, number: int, fault: StreamFault) -> None:
        """What came on a stream is wrong: it ends, and no other."""
        pipe = self._streams.pop(number, None)
        if pipe is not None:
            self._out.append(reset(number, fault.code))
            pipe.fail(Broken(f"the server's HTTP/2 is broken: {fault}"))
            self._left()

    # --- what it says of the connection ---

    def on_settings(self, values: dict[int, int]) -> None:
        """What the server wants us to keep to. All that it leaves out is as it was (RFC 9113, 6.5.2)."""
        if not self._greeted:
            self._greeted, self._most = True, MAX_WINDOW
        self._most = values.get(MAX_CONCURRENT_STREAMS, self._most)
        self._frame_size = values.get(MAX_FRAME_SIZE, self._frame_size)
        change = values.get(INITIAL_WINDOW_SIZE, self._stream_window) - self._stream_window
        self._stream_window += change
        for pipe in self._streams.values():  # what is open changes with it (RFC 9113, 6.9.2)
            pipe.window += change
            if pipe.window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
        if values.get(HEADER_TABLE_SIZE, TABLE_SIZE) < TABLE_SIZE:
            self._prefix = NO_TABLE
        self._out.append(frame(SETTINGS, ACK, 0))
        self._pump_all()
        self._on_room()

    def on_ping(self, payload: bytes, answer: bool) -> None:
        """It wants to know whether we are there."""
        if not answer:
            self._out.append(frame(PING, ACK, 0, payload))

    def on_goaway(self, last: int, code: int) -> None:
        """It takes no more streams; those that it began to process go on."""
        self._retire()
        for number in [number for number in self._streams if number > last]:
            pipe = self._streams.pop(number)
            if not self._again(pipe):
                pipe.fail(PeerReset(int(ErrorCode.REFUSED_STREAM)))
        if code != ErrorCode.NO_ERROR:
            self._end(Broken(f"the server ended the connection with code {code}"))
        else:
            self._left()

    def on_nothing(self, what: str) -> None:
        """Passed over."""

    # --- inside ---

    def _stream(self, number: int) -> H2Pipe | None:
        """None for one that is over, on which something was still on its way."""
        pipe = self._streams.get(number)
        if pipe is None and (number > self._begun * 2 or not number & 1):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame on a stream that was not opened")
        return pipe

    def _more(self, pipe: H2Pipe) -> None:
        if self._streams.get(pipe.number) is pipe:
            self._pump(pipe)
            self._flush()

    def _pump_all(self) -> None:
        for pipe in list(self._streams.values()):
            self._pump(pipe)

    def _pump(self, pipe: H2Pipe) -> None:
        """Send of a body what the windows and the transport have room for."""
        gathered = 0
        while pipe.sending and not self._paused:
            if not pipe.unsent and pipe.upload is not None:
                pipe.unsent = memoryview(pipe.upload.take() or b"")
            room = min(pipe.window, self._window, self._frame_size)
            last = pipe.upload is None or pipe.upload.finished
            if room <= 0 if pipe.unsent else not last:
                return
            part, pipe.unsent = pipe.unsent[:room], pipe.unsent[room:]
            pipe.window -= len(part)
            self._window -= len(part)
            pipe.sending = bool(pipe.unsent) or not last
            self._out.append(frame(DATA, 0 if pipe.sending else END_STREAM, pipe.number, bytes(part)))
            gathered += len(part)
            if gathered >= _PART:  # the transport may be full now
                gathered = 0
                self._flush()
        self._settle(pipe)

    def _settle(self, pipe: H2Pipe) -> None:
        if pipe.complete and self._streams.pop(pipe.number, None) is not None:
            self._left()

    def _left(self) -> None:
        """A stream has ended."""
        if self.usable:
            self._on_room()
        elif not self._streams:
            self._end(Broken("the server ended the connection"))

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush, context=contextvars.Context())

    def _flush(self) -> None:
        self._flushing = False
        transport = self._transport
        if transport is None or transport.is_closing():
            self._out.clear()
            return
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            transport.write(data)
        if transport.get_write_buffer_size() > _MAX_UNWRITTEN:
            self._end(Broken("the server reads nothing and asks for answers"))

    def _retire(self) -> None:
        if self.usable:
            self.usable = False
            self._on_closed(self)

    def _end(self, error: Exception) -> None:
        """The one way to the end."""
        self._reader.stopped = True
        self._retire()
        streams, self._streams = self._streams, {}
        for pipe in streams.values():
            pipe.fail(error)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            loop = asyncio.get_running_loop()
            loop.call_later(_CLOSE_LIMIT, self._transport.abort, context=contextvars.Context())
