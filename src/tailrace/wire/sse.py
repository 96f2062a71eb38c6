"""Server-sent events: frames to bytes, and bytes in any chunking back to events.

The parser follows the EventSource rules of the WHATWG HTML standard (section 9.2.6), with the limits
that a client of foreign servers needs. Ids that can be resumed from, and what the data means, are
left to the protocols.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from msgspec import Struct

__all__ = ["Event", "Parser", "SseOverflow", "comment", "event"]

# As integers, which bytes are searched for several times faster than for other bytes.
_NUL: Final = 0
_LF: Final = 10
_CR: Final = 13


# --- writing ------------------------------------------------------------------------------------


def event(data: bytes, *, id: bytes | None = None, event: bytes | None = None, retry: int | None = None) -> bytes:
    """One event, ready to send.

    Args:
        data: UTF-8; each of its lines becomes a data line. Readers get the line breaks as LF.
        id: The last event id that readers hold from now on; empty forgets it.
        event: The event's type; readers take "message" where there is none.
        retry: How long readers wait before they reconnect, in milliseconds.

    Raises:
        ValueError: `id` or `event` has a CR, LF or NUL, or `retry` is negative.
    """
    head = b"" if event is None else _event_line(event)
    if id is not None:
        if _LF in id or _CR in id or _NUL in id:
            raise ValueError("the id of an event must not have CR, LF or NUL")
        head += b"id: " + id + b"\n"
    if retry is not None:
        if retry < 0:
            raise ValueError("the retry of an event must not be negative")
        head += b"retry: %d\n" % retry
    if _LF in data or _CR in data:
        data = _unify_breaks(data).replace(b"\n", b"\ndata: ")
    return head + b"data: " + data + b"\n\n"


def comment(text: str = "") -> bytes:
    """A comment, which readers ignore: to keep a connection alive, or to say something to people.

    Args:
        text: Any text; each of its lines becomes a comment line, and what UTF-8 cannot carry is replaced.
    """
    lines = _unify_breaks(text.encode("utf-8", "replace")).split(b"\n")
    return b"".join(b": %b\n" % line if line else b":\n" for line in lines) + b"\n"


@lru_cache(maxsize=64)
def _event_line(name: bytes) -> bytes:
    if _LF in name or _CR in name or _NUL in name:
        raise ValueError("the type of an event must not have CR, LF or NUL")
    return b"event: %b\n" % name


def _unify_breaks(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


# --- reading ------------------------------------------------------------------------------------


class SseOverflow(ValueError):
    """The peer sent an event, or a line, that is longer than the parser was told to accept."""


class Event(Struct, frozen=True, gc=False):
    """One event.

    `id` is the last event id in force at its dispatch, None if no id was ever set: an event without
    an id of its own repeats the one before.
    """

    event: str
    data: str
    id: str | None


_BOM: Final = b"\xef\xbb\xbf"
_RETRY_DIGITS: Final = 15  # more milliseconds than that are no instruction; int() itself refuses 4,301 digits


class Parser:
    """Reads one stream of events; the chunks it comes in make no difference to what comes out.

    Args:
        max_event: Longest event, in bytes: its data so far and the line being read, which is also
            the most the parser holds. Default 64 MiB.
        empty: Return events whose data is present but empty as well. MCP's priming events are such: an
            id and ``data:``. Without data field no event is returned, only its id and retry remembered.

    Attributes:
        last_event_id: What to resume from, None if no id was set yet; changes when an event ends.
        retry: The reconnection time last asked for, in milliseconds, or None.
        comments: How many comment lines there were.
    """

    last_event_id: str | None
    retry: int | None
    comments: int

    def __init__(self, *, max_event: int = 67_108_864, empty: bool = False) -> None:
        self.last_event_id = None
        self.retry = None
        self.comments = 0
        self._max_event = max_event
        self._empty = empty
        self._start: bytes | None = b""  # the stream's first bytes, while they may be a byte order mark
        self._after_cr = False  # a LF that comes next belongs to the CR before
        self._line = bytearray()  # what was read of an unfinished line
        self._data = bytearray()
        self._type = ""
        self._id: str | None = None
        self._overflow = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete, in their order; the stream's end needs no call.

        Raises:
            SseOverflow: An event or a line grew over `max_event` bytes. Events completed by the same
                bytes are returned first, and the next call raises; so does each one after that.
        """
        if self._overflow:
            raise self._overflow_error()
        if self._start is not None:
            data = self._strip_mark(data)
        if not data:
            return []
        *lines, rest = self._split(data)
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        events: list[Event] = []
        for line in lines:
            if len(line) + len(self._data) > self._max_event:
                return self._give_up(events)
            if not line:
                self._dispatch(events)
            elif line.startswith(b":"):
                self.comments += 1
            else:
                self._read_field(line)
        self._line += rest
        if len(self._line) + len(self._data) > self._max_event:
            return self._give_up(events)
        return events

    def _strip_mark(self, data: bytes) -> bytes:
        """Take the byte order mark off the stream's start; holds at most two bytes back."""
        data = (self._start or b"") + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._start = data
            return b""
        self._start = None
        return data.removeprefix(_BOM)

    def _split(self, data: bytes) -> list[bytes]:
        """The lines of `data`, ended by CR, LF or CRLF; the last one is unfinished."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            if not data:
                self._after_cr = False
                return [data]
        self._after_cr = data.endswith(b"\r")
        return (_unify_breaks(data) if _CR in data else data).split(b"\n")

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            self._data += value
            self._data += b"\n"
        elif name == b"id":
            if _NUL not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS:
            self.retry = int(value)

    def _dispatch(self, events: list[Event]) -> None:
        self.last_event_id = self._id
        if len(self._data) > 1 or (self._empty and self._data):
            self._data.pop()  # the last line's LF
            events.append(Event(self._type or "message", self._data.decode("utf-8", "replace"), self._id))
        self._data.clear()
        self._type = ""

    def _give_up(self, events: list[Event]) -> list[Event]:
        self._overflow = True
        self._line.clear()
        self._data.clear()
        if not events:
            raise self._overflow_error()
        return events

    def _overflow_error(self) -> SseOverflow:
        return SseOverflow(f"an event is longer than {self._max_event} bytes")
