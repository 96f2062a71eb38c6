"""Header fields of HTTP/2 as their bytes have to be, in requests, answers and trailers (RFC 9113, 8.2 and 8.3)."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

from tailrace.wire.h2_frames import ErrorCode, StreamFault

if TYPE_CHECKING:
    from tailrace.wire.hpack import Field

__all__ = ["Malformed", "check_field", "read_pseudo"]

_CONNECTION = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")  # RFC 9113, 8.2.1


class Malformed(StreamFault):
    """A request or an answer is none: its fields may not be there, or do not fit its body (RFC 9113, 8.1.1)."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.PROTOCOL_ERROR, message)


def read_pseudo(fields: Sequence[Field], known: Set[bytes]) -> tuple[dict[bytes, bytes], int]:
    """The pseudo-header fields, and where the others begin (RFC 9113, 8.3).

    Args:
        fields: As they were decoded.
        known: Those that may be there, each once.

    Raises:
        Malformed: There are others.
    """
    pseudo: dict[bytes, bytes] = {}
    for at, (name, value) in enumerate(fields):
        if not name.startswith(b":"):
            return pseudo, at
        if name not in known or name in pseudo:
            raise Malformed("a pseudo-header field is unknown, or there more than once")
        pseudo[name] = value
    return pseudo, len(fields)


def check_field(name: bytes, value: bytes) -> None:
    """Whether a field that is no pseudo-header field may be there.

    Raises:
        Malformed: It may not.
    """
    if not _NAME.fullmatch(name):
        raise Malformed("a field's name is malformed, or a pseudo-header field stands behind others")
    if not _VALUE.fullmatch(value):
        raise Malformed("a field's value has characters that it may not have")
    if name in _CONNECTION:
        raise Malformed("there are no header fields about the connection in HTTP/2")
