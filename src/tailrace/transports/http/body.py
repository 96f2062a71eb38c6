"""The body of a request, as it comes: of a known length, or chunked (RFC 9112, 7.1).

httptools could decode chunks, but does not say where a message ends and the next one begins, and sets
no limit to what stands around the data; so this is ours, and strict.
"""

from __future__ import annotations

import re
from typing import Protocol

from tailrace.transports.http.head import BadRequest

__all__ = ["Body", "ChunkedBody", "SizedBody"]

_MAX_LINE = 1024  # of a chunk's size and extensions, and of one trailer field
_MAX_AROUND = 16 * 1024  # of all extensions and trailers of one body
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;%b(?:=(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
_TRAILER = re.compile(rb"(%b):[\t -~\x80-\xff]*" % _TOKEN)
_NO_TRAILER = frozenset({b"content-length", b"transfer-encoding", b"host", b"trailer", b"authorization"})


class Body(Protocol):
    """Bytes of a body in, until it is complete."""

    done: bool

    @property
    def left(self) -> int | None:
        """How much is still to come, where that is known."""
        ...

    def feed(self, data: bytes | bytearray) -> int:
        """Take the body's part of `data`; returns how many bytes that were.

        Raises:
            BadRequest: The body is malformed, or over a limit.
        """
        ...

    def take(self) -> bytes:
        """What was fed since the last time."""
        ...


class SizedBody:
    """As many bytes as Content-Length says."""

    __slots__ = ("_content", "_left", "done")

    def __init__(self, length: int) -> None:
        self.done = length == 0
        self._left = length
        self._content = bytearray()

    @property
    def left(self) -> int | None:
        """How much is still to come, where that is known."""
        return self._left

    def feed(self, data: bytes | bytearray) -> int:
        """Take what is left of it."""
        taken = min(self._left, len(data))
        self._content += data if taken == len(data) else data[:taken]
        self._left -= taken
        self.done = self._left == 0
        return taken

    def take(self) -> bytes:
        """The bytes."""
        content, self._content = self._content, bytearray()
        return bytes(content)


class ChunkedBody:
    """Chunks, their extensions ignored, and a trailer section, ignored as well.

    Args:
        limit: Bytes of data; more is refused (413). None: whoever reads it bounds it.
    """

    __slots__ = ("_around", "_content", "_left", "_line", "_size", "_trailers", "done", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._size = 0
        self.done = False
        self._content = bytearray()
        self._line = bytearray()  # an incomplete line
        self._left = 0  # of the chunk and the CRLF behind it
        self._trailers = False  # the last chunk was there
        self._around = 0

    @property
    def left(self) -> None:
        """Nobody knows how much is still to come."""

    def feed(self, data: bytes | bytearray) -> int:
        """Take chunks, whole or in part."""
        at = 0
        while at < len(data) and not self.done:
            at = self._take_chunk(data, at) if self._left else self._take_line(data, at)
        return at

    def take(self) -> bytes:
        """The data of the chunks."""
        content, self._content = self._content, bytearray()
        return bytes(content)

    def _take_chunk(self, data: bytes | bytearray, at: int) -> int:
        """Of a chunk's data, and then of the CRLF behind it."""
        if self._left > 2:
            part = data[at : at + self._left - 2]
            self._content += part
        else:
            part = data[at : at + self._left]
            if part != b"\r\n"[2 - self._left :][: len(part)]:
                raise BadRequest(400, "a chunk's data must end with CRLF, after as many bytes as its size says")
        self._left -= len(part)
        return at + len(part)

    def _take_line(self, data: bytes | bytearray, at: int) -> int:
        end = data.find(b"\n", at, at + _MAX_LINE)
        self._line += data[at : end + 1] if end >= 0 else data[at : at + _MAX_LINE]
        if len(self._line) > _MAX_LINE:
            raise BadRequest(431 if self._trailers else 400, f"a chunk's line is over {_MAX_LINE} bytes")
        if end < 0:
            return min(len(data), at + _MAX_LINE)
        line, self._line = bytes(self._line), bytearray()
        if not line.endswith(b"\r\n"):
            raise BadRequest(400, "lines must end with CRLF")
        if self._trailers:
            self._trailer(line[:-2])
        else:
            self._begin_chunk(line[:-2])
        return end + 1

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise BadRequest(400, "a chunk's size must be hexadecimal digits, and its extensions well formed")
        size = int(match[1], 16)
        self._size += size
        if self.limit is not None:
            self._count_around(len(line) - len(match[1]))
            if self._size > self.limit:
                raise BadRequest(413, f"the body is over {self.limit} bytes")
        self._trailers = size == 0
        self._left = size + 2 if size else 0

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        match = _TRAILER.fullmatch(line)
        if match is None or match[1].lower() in _NO_TRAILER:
            raise BadRequest(400, "a trailer field is malformed, or must not be one")
        self._count_around(len(line))

    def _count_around(self, size: int) -> None:
        self._around += size
        if self._around > _MAX_AROUND:
            raise BadRequest(431, f"chunk extensions and trailers are over {_MAX_AROUND} bytes")
