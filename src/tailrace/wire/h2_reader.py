"""Bytes of an HTTP/2 connection in, whole and well-formed frames out (RFC 9113, 4 and 6).

What a frame means for the stream it is about, and for the connection, is decided by whoever gets it: the listener's
connection, or the RPC client's. Not pure only in that it calls; there is no clock, no loop and no transport here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tailrace.wire.h2_frames import (
    ACK,
    CONTINUATION,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FRAME_SIZE,
    HEAD,
    HEAD_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME,
    MAX_FRAME_SIZE,
    MAX_STREAM,
    MAX_WINDOW,
    NUMBER,
    PADDED,
    PREFACE,
    SETTING,
    SETTINGS,
    TWO_NUMBERS,
    WITH_PRIORITY,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    unpad,
)

__all__ = ["Block", "ConnectionFrames", "Reader", "StreamFrames"]


class Block:
    """Header fields that come in more than one frame."""

    __slots__ = ("data", "ended", "frames", "number")

    def __init__(self, number: int, data: bytes, ended: bool) -> None:
        self.number = number
        self.data = bytearray(data)
        self.ended = ended
        self.frames = 1


class StreamFrames(Protocol):
    """Who gets the frames of streams. Each may raise `StreamFault` and `ConnectionFault`."""

    def on_fields(self, number: int, block: bytes, ended: bool) -> None:
        """Header fields of a stream, as a block that is not decoded."""
        ...

    def on_block(self, block: Block) -> None:
        """Some header fields, but not all of their block."""
        ...

    def on_data(self, number: int, data: bytes, size: int, ended: bool) -> None:
        """Data of a stream, which took `size` bytes of the windows."""
        ...

    def on_reset(self, number: int, code: int) -> None:
        """A stream is given up, and why."""
        ...

    def on_window(self, number: int, size: int) -> None:
        """Credit for a stream, or (0) for the connection."""
        ...

    def on_fault(self, number: int, fault: StreamFault) -> None:
        """A stream ends because of what came on it."""
        ...


class ConnectionFrames(Protocol):
    """Who gets the others. Each may raise `ConnectionFault`."""

    def on_settings(self, values: dict[int, int]) -> None:
        """What the peer wants us to keep to."""
        ...

    def on_ping(self, payload: bytes, answer: bool) -> None:
        """A ping, or the answer to one of ours."""
        ...

    def on_goaway(self, last: int, code: int) -> None:
        """The peer opens no more streams; of ours it looks at none above `last`."""
        ...

    def on_nothing(self, what: str) -> None:
        """A frame without a meaning here."""
        ...


class Reader:
    """Reads one connection.

    Args:
        streams: Who gets the frames of streams.
        connection: Who gets the others.
        may_go_on: Asked before each frame.
        preface: The peer is a client, which says first that it speaks HTTP/2 (RFC 9113, 3.4).

    Attributes:
        settled: The peer's settings have come.
        block: What has come of header fields whose last frame has not.
        stopped: Nothing that still comes is looked at.
        behind: There may be whole frames that wait until what was said to the earlier ones is taken: `feed` again.
    """

    __slots__ = (
        "_connection",
        "_greeted",
        "_input",
        "_kinds",
        "_may_go_on",
        "_streams",
        "behind",
        "block",
        "settled",
        "stopped",
    )

    def __init__(
        self, streams: StreamFrames, connection: ConnectionFrames, may_go_on: Callable[[], bool], *, preface: bool
    ) -> None:
        self.behind = False
        self._may_go_on = may_go_on
        self.settled = False
        self.block: Block | None = None
        self.stopped = False
        self._streams = streams
        self._connection = connection
        self._greeted = not preface
        self._kinds = (  # by their numbers
            self._data,
            self._headers,
            self._priority,
            self._reset,
            self._settings,
            self._push_promise,
            self._ping,
            self._goaway,
            self._window_update,
            self._continuation,
        )
        self._input = b""  # an incomplete frame

    def feed(self, data: bytes = b"") -> None:
        """Read what has come.

        Raises:
            ConnectionFault: It cannot be gone on with.
        """
        if self._input:
            data = self._input + data
        at, size = 0, len(data)
        self.behind = False
        if not self._greeted:
            at = self._read_preface(data)
        while size - at >= HEAD_SIZE and not self.stopped and self._greeted:
            word, flags, number = HEAD.unpack_from(data, at)
            length = word >> 8
            if length > FRAME_SIZE:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame is over {FRAME_SIZE} bytes")
            end = at + HEAD_SIZE + length
            if end > size:
                break
            if not self._may_go_on():
                self.behind = True
                break
            self._read(word & 0xFF, flags, number & MAX_STREAM, data[at + HEAD_SIZE : end])
            at = end
        self._input = data[at:] if at < size and not self.stopped else b""

    def _read_preface(self, data: bytes) -> int:
        given = data[: len(PREFACE)]
        if not PREFACE.startswith(given):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not the beginning of HTTP/2")
        self._greeted = len(given) == len(PREFACE)
        return len(PREFACE) if self._greeted else 0

    def _read(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self.block is not None and (kind != CONTINUATION or number != self.block.number):
            raise _broken("something stands between the frames of header fields")
        if not self.settled:
            if kind != SETTINGS or flags & ACK:
                raise _broken("the first frame has to be SETTINGS")
            self.settled = True
        try:
            if kind < len(self._kinds):
                self._kinds[kind](flags, number, payload)
            else:
                self._connection.on_nothing("unknown")
        except StreamFault as fault:
            self._streams.on_fault(number, fault)

    # --- one function for each kind ---

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise _broken("DATA needs a stream")
        data = unpad(payload, flags, 0) if flags & PADDED else payload
        self._streams.on_data(number, data, len(payload), bool(flags & END_STREAM))

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1:
            raise _broken("HEADERS needs a stream with an odd number")
        if flags & (PADDED | WITH_PRIORITY):
            self._check_priority(flags, number, payload)
            payload = unpad(payload, flags, HEADERS)
        if flags & END_HEADERS:
            return self._streams.on_fields(number, payload, bool(flags & END_STREAM))
        self.block = Block(number, payload, bool(flags & END_STREAM))
        return self._streams.on_block(self.block)

    def _check_priority(self, flags: int, number: int, payload: bytes) -> None:
        at = 1 if flags & PADDED else 0
        if flags & WITH_PRIORITY and len(payload) >= at + 5:
            _check_depends(number, payload[at : at + 4])

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        block = self.block
        if block is None:
            raise _broken("CONTINUATION without HEADERS")
        block.data += payload
        block.frames += 1
        if not flags & END_HEADERS:
            return self._streams.on_block(block)
        self.block = None
        return self._streams.on_fields(number, bytes(block.data), block.ended)

    def _priority(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise _broken("PRIORITY needs a stream")
        if len(payload) != 5:
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has five bytes")
        _check_depends(number, payload[:4])
        self._connection.on_nothing("PRIORITY")

    def _reset(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _size("RST_STREAM has four bytes")
        if not number:
            raise _broken("RST_STREAM needs a stream")
        self._streams.on_reset(number, NUMBER.unpack(payload)[0])

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise _broken("SETTINGS are about no stream")
        if len(payload) % SETTING.size or (flags & ACK and payload):
            raise _size("SETTINGS have six bytes each, and their acknowledgement none")
        if flags & ACK:
            return self._connection.on_nothing("SETTINGS")
        values = dict(SETTING.iter_unpack(payload))
        if values.get(ENABLE_PUSH, 0) > 1:
            raise _broken("ENABLE_PUSH is 0 or 1")
        if values.get(INITIAL_WINDOW_SIZE, 0) > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        if not FRAME_SIZE <= values.get(MAX_FRAME_SIZE, FRAME_SIZE) <= MAX_FRAME:
            raise _broken("MAX_FRAME_SIZE is out of its range")
        return self._connection.on_settings(values)

    def _push_promise(self, flags: int, number: int, payload: bytes) -> None:
        raise _broken("nothing may be promised: neither by clients, nor to one that did not allow it")

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise _broken("PING is about no stream")
        if len(payload) != 8:
            raise _size("PING has eight bytes")
        self._connection.on_ping(payload, bool(flags & ACK))

    def _goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise _broken("GOAWAY is about no stream")
        if len(payload) < 8:
            raise _size("GOAWAY has eight bytes at least")
        last, code = TWO_NUMBERS.unpack_from(payload)
        self._connection.on_goaway(last & MAX_STREAM, code)

    def _window_update(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _size("WINDOW_UPDATE has four bytes")
        size = NUMBER.unpack(payload)[0] & MAX_WINDOW
        if not size:
            if number:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
            raise _broken("a WINDOW_UPDATE of nothing")
        self._streams.on_window(number, size)


def _broken(message: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.PROTOCOL_ERROR, message)


def _size(message: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, message)


def _check_depends(number: int, parent: bytes) -> None:
    if NUMBER.unpack(parent)[0] & MAX_STREAM == number:
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a stream cannot depend on itself")
