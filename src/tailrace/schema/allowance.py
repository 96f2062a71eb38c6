"""How many messages one message may hold: few bytes on the wire can be many objects in Python.

An empty message takes two bytes of its list and more than a microsecond and a hundred bytes of memory of ours; 4 MiB
of them held up the event loop for seconds. So a big message is counted while it is read, and refused before it costs
that much. What has fewer than `MANY` parts, or 16 bytes for each, is never refused.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sized
from typing import NoReturn, TypeVar

__all__ = ["MANY", "Allowance", "InvalidMessage", "check_json"]

MANY = 262_144
_SHARE = 16  # bytes that each has where there are more: two doubles and their tags have 18

S = TypeVar("S", bound=Sized)


class InvalidMessage(ValueError):
    """A message does not fit its type; the text is for the caller, or, of what a method returned, for the log."""


class Allowance(threading.local):
    """What is left for the message that is being read; each thread reads one at a time."""

    left = MANY

    def begin(self, size: int) -> None:
        """A message of `size` bytes is read now."""
        self.left = _allowed(size)

    def take(self, several: S) -> S:
        """A list or a map of messages, which is about to be read.

        Raises:
            InvalidMessage: Together with those before it, that is too many.
        """
        self.left -= len(several)
        if self.left < 0:
            _refuse()
        return several


def check_json(data: bytes, *, slowly: bool = False) -> None:
    """The same for JSON, before it is decoded: its objects and lists are counted, as far as they stand in no string.

    Args:
        data: The JSON.
        slowly: google's module is to read it, which takes eight times as long for an object, and for each number of a
            list as long as we for an object.

    Raises:
        InvalidMessage: There are too many.
    """
    allowed = _allowed(len(data))
    if len(data) <= MANY // _SLOWNESS or _cost(data, slowly) <= allowed:
        return
    if _cost(_STRING.sub(b"", data), slowly) > allowed:
        _refuse()


_SLOWNESS = 8
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)  # one without an end goes to the very end


def _cost(data: bytes, slowly: bool) -> int:
    parts = data.count(b"{") + data.count(b"[")
    return parts * _SLOWNESS + data.count(b",") if slowly else parts


def _allowed(size: int) -> int:
    return max(MANY, size // _SHARE)


def _refuse() -> NoReturn:
    raise InvalidMessage(
        f"the message is made of too many parts: at most {MANY:,}, or one for each {_SHARE} bytes of it, are read (as "
        f"JSON of generated messages an eighth of that); divide it, or stream it"
    )
