"""Records as the arguments of the scripts that keep them in Valkey, and what is read back as records.

The scripts themselves, and their keys, are `valkey_scripts`'.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tailrace.core.ports import (
    AppendEvent,
    DropEntry,
    DropSession,
    DropStream,
    EndCall,
    Kind,
    PutCall,
    PutEntry,
    PutSession,
    Record,
    StoredCall,
    StoredEntry,
    StoredEvent,
    StoredSession,
    TrimStream,
)
from tailrace.stores.claims import claims

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["encode", "owners", "stored_entries", "stored_session"]

_EXACT = 2**53  # scores are doubles: numbers up to here are told apart


def encode(records: Sequence[Record], ticket: int, now: float) -> list[Any]:
    """One write as arguments of `COMMIT`.

    Args:
        records: What is written.
        ticket: Of the write; comes back if it is refused.
        now: Wall clock, seconds: by it entries expire that are in the way of a claim.

    Raises:
        ValueError: One cannot be stored: text that is no Unicode, a kind or a number that is out of range.
    """
    arguments = _encoded(records)
    if claimed := claims(records):
        head: list[Any] = [b"Q", ticket, repr(now), len(claimed), len(arguments)]
        for claim in claimed:
            head += (claim.kind.encode(), claim.key.encode())
        return head + arguments
    return arguments


def _encoded(records: Sequence[Record]) -> list[Any]:
    arguments: list[Any] = []
    for record in records:
        match record:
            case AppendEvent(session, stream, seq, kind, payload):
                _check_numbers(kind, seq)
                arguments += (b"A", session.encode(), int(stream), int(seq), int(kind), payload)
            case TrimStream(session, stream, kind, upto):
                _check_numbers(kind, upto)
                arguments += (b"T", session.encode(), int(stream), int(kind), int(upto))
            case DropStream(session, stream):
                arguments += (b"S", session.encode(), int(stream))
            case PutSession(session, handle, principal, data, touched):
                arguments += (b"P", session.encode(), handle, principal.encode(), data, _number(touched))
            case DropSession(session):
                arguments += (b"D", session.encode())
            case PutCall(session, call, stream, data):
                arguments += (b"C", session.encode(), int(call), int(stream), data)
            case EndCall(session, call):
                arguments += (b"E", session.encode(), int(call))
            case PutEntry(kind, key, data, expires, _, free):
                arguments += (b"F" if free else b"N", kind.encode(), key.encode(), data, _number(expires))
            case DropEntry(kind, key):
                arguments += (b"X", kind.encode(), key.encode())
    return arguments


def stored_session(answer: Sequence[Any]) -> StoredSession | None:
    """What `LOAD` has read."""
    if not answer:
        return None
    session, (handle, principal, data, touched), last, calls, events = answer
    streams = [int(stream) for stream in last[::2]]
    return StoredSession(
        session.decode(),
        handle,
        principal.decode(),
        data,
        float(touched),
        sorted(
            (
                _event(stream, name, payload)
                for stream, found in zip(streams, events, strict=True)
                for name, payload in zip(found[::2], found[1::2], strict=True)
            ),
            key=lambda event: (event.stream, event.seq),
        ),
        dict(sorted(zip(streams, map(int, last[1::2]), strict=True))),
        sorted(
            (_call(int(call), held) for call, held in zip(calls[::2], calls[1::2], strict=True)),
            key=lambda call: call.call,
        ),
    )


def stored_entries(page: Sequence[Any]) -> list[StoredEntry]:
    """What `ENTRIES` has read."""
    rows = zip(page[::3], page[1::3], page[2::3], strict=True)
    return [StoredEntry(key.decode(), data, float(expires)) for key, data, expires in rows]


def owners(found: Sequence[Any]) -> dict[str, str]:
    """What `PARTITIONS` has read: who holds each, or ``""``."""
    return {tag.decode(): owner.decode() for tag, owner in zip(found[::2], found[1::2], strict=True)}


def _event(stream: int, name: bytes, payload: bytes) -> StoredEvent:
    kind, _, seq = name.partition(b":")
    return StoredEvent(stream, int(seq), int(kind), payload)


def _call(call: int, held: bytes) -> StoredCall:
    stream, _, data = held.partition(b":")
    return StoredCall(call, int(stream), data)


def _check_numbers(kind: int, seq: int) -> None:
    if kind not in (Kind.NOTIFICATION, Kind.ANSWER, Kind.REQUEST) or abs(seq) > _EXACT:
        raise ValueError(f"kind {kind} or number {seq} is out of range")


def _number(value: float) -> str:
    if math.isnan(value):
        raise ValueError("a time that is no number")
    return repr(float(value))
