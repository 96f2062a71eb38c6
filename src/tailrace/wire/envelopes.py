"""Messages on a stream: Connect's envelopes and gRPC's length-prefixed messages are the same five bytes and data.

What the flags mean beyond "compressed", and which message ends a stream, is the protocols' (`connect`, `grpc`).
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from tailrace.errors import Code, RpcError

__all__ = ["COMPRESSED", "END_STREAM", "TRAILERS", "Envelope", "EnvelopeReader", "envelope"]

COMPRESSED: Final = 0x01
END_STREAM: Final = 0x02  # Connect's: the data is the end-stream JSON
TRAILERS: Final = 0x80  # gRPC-Web's: the data is a block of trailers

_PREFIX = Layout(">BI")  # flags, and how long the data is
_PREFIX_SIZE = _PREFIX.size


class Envelope(Struct, frozen=True, gc=False):
    """One message as it came."""

    flags: int
    data: bytes


def envelope(flags: int, data: bytes) -> bytes:
    """One message, ready to send.

    Raises:
        RpcError: RESOURCE_EXHAUSTED: it has 4 GiB or more.
    """
    if len(data) > 0xFFFF_FFFF:
        raise RpcError(Code.RESOURCE_EXHAUSTED, "a message of 4 GiB or more cannot be sent")
    return _PREFIX.pack(flags, len(data)) + data


class EnvelopeReader:
    """Reads one stream of messages; the chunks it comes in make no difference to what comes out.

    Feed it when `next` has nothing more: then it never holds more than one unfinished message and one chunk.

    Args:
        max_message: The longest message, in bytes and as it comes (compressed, if it is).
    """

    __slots__ = ("_at", "_held", "max_message")

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self._held = bytearray()
        self._at = 0  # what is before it was given out

    def feed(self, data: bytes) -> None:
        """The stream's next bytes."""
        if self._at:
            del self._held[: self._at]
            self._at = 0
        self._held += data

    def next(self) -> Envelope | None:
        """The next message, or None until more is fed.

        Raises:
            RpcError: RESOURCE_EXHAUSTED: the next one is too long. This raises again each time.
        """
        held, at = self._held, self._at
        start = at + _PREFIX_SIZE
        if len(held) < start:
            return None
        flags, size = _PREFIX.unpack_from(held, at)
        if size > self.max_message:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED, f"the message has {size} bytes; at most {self.max_message} are taken"
            )
        end = start + size
        if len(held) < end:
            return None
        self._at = end
        return Envelope(flags, bytes(memoryview(held)[start:end]))

    @property
    def partial(self) -> bool:
        """A message has begun and is not complete, or was not asked for yet: at the stream's end, that is an error."""
        return len(self._held) > self._at
