"""How MCP's events look on each wire, and the sealed ids that let a stream be resumed.

An event id names the session (by its handle, which is no secret), the stream, the process life and
the event, and is sealed with the store's secret for the principal it was given to: nobody can make
one up, and nobody else can use it. The sequence number stands behind the seal in the clear, for a
forged one could only move its owner's own cursor. So does, in front of it, the tag of the partition
where there are several: it only says where to look.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from typing import NamedTuple

__all__ = ["EventId", "LineFraming", "Seals", "SseFraming", "tag_of"]

_PLACE = struct.Struct(">9sQI")  # handle, stream, epoch
_MAC = 12
_TOKEN = (_PLACE.size + _MAC) // 3 * 4  # 33 bytes are 44 characters
_STAMP = 32
_TILDE = "~"  # behind the tag: legal in headers and URLs as it is, and in no id otherwise
_TAG = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
_MAX_TAG = 8


class EventId(NamedTuple):
    """What an event id says once its seal was found whole."""

    handle: bytes
    stream: int
    epoch: int
    seq: int


class Seals:
    """Makes and opens event ids, and stamps whatever else a client carries for the server.

    Args:
        secrets: The newest first; the others are still accepted.
        epoch: The number of this process life, so that ids are never used twice.
        tag: Of the partition, where there are several: all ids begin with it.
    """

    def __init__(self, secrets: list[bytes], epoch: int, tag: str = "") -> None:
        self._secrets = secrets
        self.epoch = epoch
        self._front = f"{tag}{_TILDE}" if tag else ""

    def name(self, random: str) -> str:
        """The id of something that a client may ask for: it says which partition has it."""
        return self._front + random

    def seal(self, handle: bytes, stream: int, principal: str) -> bytes:
        """The part of an event id that all events of a stream share."""
        place = _PLACE.pack(handle, stream, self.epoch)
        return self._front.encode() + base64.urlsafe_b64encode(place + _mac(self._secrets[0], place, principal))

    def open(self, text: str, principal: str) -> EventId:
        """Read an event id back.

        Raises:
            ValueError: It was not made here, or for somebody else.
        """
        if not text.startswith(self._front):
            raise ValueError("not an event id of this server")
        text = text[len(self._front) :]
        token, dash, number = text[:_TOKEN], text[_TOKEN : _TOKEN + 1], text[_TOKEN + 1 :]
        if dash != "-" or not (number.isascii() and number.isdigit()) or len(number) > 18:
            raise ValueError("not an event id of this server")
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise ValueError("not an event id of this server") from None
        place, mac = raw[: _PLACE.size], raw[_PLACE.size :]
        if not any(hmac.compare_digest(mac, _mac(secret, place, principal)) for secret in self._secrets):
            raise ValueError("not an event id of this server, or of somebody else")
        handle, stream, epoch = _PLACE.unpack(place)
        return EventId(handle, stream, epoch, int(number))

    def stamp(self, purpose: bytes, payload: bytes, principal: str) -> bytes:
        """What proves, in front of `payload`, that this server (or one with its secrets) made it for `principal`."""
        return _stamp(self._secrets[0], purpose, payload, principal)

    def opened(self, purpose: bytes, stamped: bytes, principal: str) -> bytes:
        """The payload behind its stamp.

        Raises:
            ValueError: The stamp is not of this server, or for another purpose or principal.
        """
        stamp, payload = stamped[:_STAMP], stamped[_STAMP:]
        if not any(hmac.compare_digest(stamp, _stamp(secret, purpose, payload, principal)) for secret in self._secrets):
            raise ValueError("not made by this server, or for somebody else")
        return payload


def tag_of(id: str) -> str:
    """Which partition an id names; empty where it names none."""
    tag, tilde, _ = id.partition(_TILDE)
    return tag if tilde and 0 < len(tag) <= _MAX_TAG and _TAG.issuperset(tag) else ""


def _mac(secret: bytes, place: bytes, principal: str) -> bytes:
    return hmac.digest(secret, place + principal.encode(), hashlib.sha256)[:_MAC]


def _stamp(secret: bytes, purpose: bytes, payload: bytes, principal: str) -> bytes:
    who = principal.encode()
    return hmac.digest(secret, b"%b\0%d:%b%b" % (purpose, len(who), who, payload), hashlib.sha256)


class SseFraming:
    """Events of a stream that can be resumed (with `token`), or that cannot (without)."""

    __slots__ = ("token",)

    def __init__(self, token: bytes = b"") -> None:
        self.token = token

    def frames(self, events: list[tuple[int, bytes]]) -> bytes:
        """All of them as one piece: payloads are JSON on one line, so one `data` line carries each."""
        token = self.token
        if token:
            return b"".join(
                [b"event: message\nid: %b-%d\ndata: %b\n\n" % (token, seq, payload) for seq, payload in events]
            )
        return b"".join([b"event: message\ndata: %b\n\n" % payload for _, payload in events])

    def gap(self, lost: int) -> bytes:
        """Events that the ring could not keep are named, never passed over in silence."""
        return b": gap %d\n\n" % lost

    def event_id(self, seq: int) -> bytes:
        """The id of one event."""
        return b"%b-%d" % (self.token, seq)


class LineFraming:
    """One JSON message a line (stdio)."""

    __slots__ = ()

    def frames(self, events: list[tuple[int, bytes]]) -> bytes:
        """All of them as one piece."""
        return b"".join([payload + b"\n" for _, payload in events])

    def gap(self, lost: int) -> bytes:
        """stdio has no way to say it: unread notifications were dropped while answers were kept."""
        return b""
