"""One key that is taken: where it stands, who waits for its answer, and what the store knows of it.

Two records an entry: a small one, its head, which a start reads, and its answer. When an entry is made and what becomes
of it is the ledger's.
"""

from __future__ import annotations

import hashlib
import logging
from enum import Enum
from typing import Any

import msgspec

from tailrace.core.waiters import Waiters

__all__ = [
    "ANSWER",
    "HEAD",
    "KIND",
    "NEVER",
    "OVERHEAD",
    "Entry",
    "EntryState",
    "Head",
    "Orphan",
    "encode_head",
    "name_of",
    "read_head",
]

logger = logging.getLogger("tailrace.ledger")

KIND = "once"
ANSWER, HEAD = "a:", "h:"  # in front of the names of the two records
NEVER = 1e11  # wall clock: what has not ended does not expire
OVERHEAD = 512  # bytes that an entry takes beside its own


class EntryState(Enum):
    """`CLAIMED` (being committed) -> `BEGUN` (its work may run) -> `ENDED` (it has an answer); or `OPEN` (it was paused
    without one, and is claimed again)."""

    CLAIMED = 0
    BEGUN = 1
    ENDED = 2
    OPEN = 3


class Outcome:
    """What those who are attached to one run wait for. They hold it, not the entry: it goes when the last one has it.

    Attributes:
        answer: Set when there is one.
        error: Set when there will be none.
        waiters: Those who wait.
    """

    __slots__ = ("answer", "error", "waiters")

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.error: Exception | None = None
        self.waiters = Waiters()


class Entry:
    """One key that is taken; only its ledger changes it.

    Attributes:
        name: Of its records in the store; the key cannot be read from it.
        principal: Whose it is.
        fingerprint: Of the call that it stands for.
        state: Where it stands.
        owner: Whoever does the work; None once that has ended.
        outcome: What the attached wait for; None once it has ended.
        kept: An answer that could not be stored.
        expires: Wall clock, seconds.
        size: Bytes it takes in the store, about.
    """

    __slots__ = ("expires", "fingerprint", "kept", "name", "outcome", "owner", "principal", "size", "state")

    def __init__(self, name: str, principal: str, fingerprint: bytes, owner: Any, size: int) -> None:
        self.name = name
        self.principal = principal
        self.fingerprint = fingerprint
        self.state = EntryState.CLAIMED
        self.owner = owner
        self.outcome: Outcome | None = Outcome()
        self.kept: bytes | None = None
        self.expires = NEVER
        self.size = size


class Orphan(msgspec.Struct, frozen=True):
    """An entry whose work began in an earlier process life and did not end in it."""

    entry: Entry
    detail: bytes


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What the store knows of an entry but for its answer."""

    principal: str
    fingerprint: bytes
    size: int
    detail: bytes | None  # None once it has ended
    open: bool = False


_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(Head).decode


def name_of(principal: str, key: str) -> str:
    """What names an entry: the same size for every key, and nobody's key can be read from the store."""
    owner = principal.encode()
    return hashlib.sha256(b"%d:%b%b" % (len(owner), owner, key.encode())).hexdigest()


def encode_head(entry: Entry, detail: bytes | None, *, open: bool = False) -> bytes:
    """What the store is to know of an entry but for its answer; `detail` is None once its work has ended."""
    return _encode_head(Head(entry.principal, entry.fingerprint, entry.size, detail, open))


def read_head(data: bytes) -> Head:
    """What it knows; of what cannot be read, that its key is taken."""
    try:
        return _decode_head(data)
    except msgspec.MsgspecError:
        logger.error("an entry of the ledger cannot be read: its key stays taken until it expires")
        return Head("", b"", OVERHEAD, None)
