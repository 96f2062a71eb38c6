"""Frames of HTTP/2 (RFC 9113): their numbers, how they are put into bytes, and what is wrong with them.

What a frame means where its connection stands is for the connection to say.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from tailrace.errors import TailraceError

__all__ = ["ConnectionFault", "ErrorCode", "StreamFault", "frame", "unpad"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
WITH_PRIORITY = 0x20

# Settings (RFC 9113, 6.5.2; RFC 9218, 2.1)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
NO_RFC7540_PRIORITIES = 9

FRAME_SIZE = 16_384  # the largest payload, as both sides have it without a word
WINDOW = 65_535  # the same of all windows
MAX_WINDOW = 2**31 - 1
MAX_FRAME = 2**24 - 1
MAX_STREAM = 2**31 - 1

HEAD = struct.Struct(">IBI")  # length and type, flags, stream
HEAD_SIZE = HEAD.size
SETTING = struct.Struct(">HI")
NUMBER = struct.Struct(">I")
TWO_NUMBERS = struct.Struct(">II")
_pack = HEAD.pack


class ErrorCode(IntEnum):
    """RFC 9113, 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(TailraceError):
    """The peer did what ends the connection (RFC 9113, 5.4.1)."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StreamFault(TailraceError):
    """The peer did what ends the stream that it was about (RFC 9113, 5.4.2)."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return _pack(len(payload) << 8 | kind, flags, stream) + payload


def header_frames(stream: int, block: bytes, flags: int, most: int) -> bytes:
    """HEADERS, and as many CONTINUATIONs as a block of fields needs where a frame holds `most` bytes."""
    if len(block) <= most:
        return _pack(len(block) << 8 | HEADERS, flags | END_HEADERS, stream) + block
    parts = [block[at : at + most] for at in range(0, len(block), most)]
    frames = [frame(HEADERS, flags, stream, parts[0])]
    frames += [frame(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    frames.append(frame(CONTINUATION, END_HEADERS, stream, parts[-1]))
    return b"".join(frames)


def window_update(stream: int, size: int) -> bytes:
    """Credit for `size` bytes more."""
    return frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(size))


def reset(stream: int, code: int) -> bytes:
    """A stream is given up, and why."""
    return frame(RST_STREAM, 0, stream, NUMBER.pack(code))


def goaway(last: int, code: int, message: str = "") -> bytes:
    """No stream above `last` was, or will be, looked at."""
    return frame(GOAWAY, 0, 0, TWO_NUMBERS.pack(last, code) + message.encode()[:256])


def settings(values: dict[int, int]) -> bytes:
    """What we want the peer to keep to."""
    return frame(SETTINGS, 0, 0, b"".join([SETTING.pack(*item) for item in values.items()]))


def unpad(payload: bytes, flags: int, kind: int) -> bytes:
    """A payload without its padding (RFC 9113, 6.1); that of HEADERS without its priority as well (6.2).

    Raises:
        ConnectionFault: It is shorter than what it says of itself.
    """
    begin, end = 0, len(payload)
    if flags & PADDED:
        begin = 1
        end -= payload[0] if payload else 1
    if kind == HEADERS and flags & WITH_PRIORITY:
        begin += 5
    if begin > end:
        code = ErrorCode.PROTOCOL_ERROR if flags & PADDED else ErrorCode.FRAME_SIZE_ERROR
        raise ConnectionFault(code, "a frame is shorter than its padding")
    return payload[begin:end]
