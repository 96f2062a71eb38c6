"""What the core asks of the outside: the protocol a store fulfils, and the records that go into it.

A store keeps sessions, the events of their streams, and the calls that were accepted; and, by kind and
key, entries that outlive sessions and expire (the ledger of `once`, tasks). It knows nothing of
protocols: everything but keys and numbers is opaque bytes. Writing is one-way: `write` hands over
records and returns at once; `when` tells when they are safe. Reading happens only when a session is
restored, or an entry is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol, TypeAlias

import msgspec

from tailrace.errors import StoreError

__all__ = [
    "AppendEvent",
    "Committed",
    "DropEntry",
    "DropSession",
    "DropStream",
    "EndCall",
    "Kind",
    "PutCall",
    "PutEntry",
    "PutSession",
    "Record",
    "Store",
    "StoredCall",
    "StoredEntry",
    "StoredEvent",
    "StoredSession",
    "TrimStream",
]


class Kind(IntEnum):
    """What an event of a stream is, which decides how long its log keeps it."""

    NOTIFICATION = 0  # lives in the ring: the oldest goes when the ring is full
    ANSWER = 1  # kept until delivered and expired
    REQUEST = 2  # a server's request to the client: kept like an answer


# The records are encoded as arrays that begin with their tag. Stores keep them so: a tag is never given to another
# record, and a new field comes last and has a default.


class PutSession(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    """Create or replace a session's record (not its streams, nor its calls)."""

    session: str  # the session id; secret
    handle: bytes  # names the session inside event ids; not secret, unique
    principal: str  # whom the session belongs to; "" for nobody
    data: bytes  # the protocol's own record of the session
    touched: float  # wall clock, seconds: when it was last used


class DropSession(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    """Forget a session with all its streams, events and calls."""

    session: str


class AppendEvent(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    """Add one event to a stream; `seq` grows by one within a stream and is never used twice."""

    session: str
    stream: int
    seq: int
    kind: int
    payload: bytes


class TrimStream(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=4):
    """Delete the events of one kind with `seq <= upto`: the ring has turned, or answers expired."""

    session: str
    stream: int
    kind: int
    upto: int


class DropStream(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=5):
    """Forget one stream of a session with all its events."""

    session: str
    stream: int


class PutCall(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=6):
    """Record an accepted call: from its commit on, the promise is given."""

    session: str
    call: int  # unique within the session
    stream: int  # the stream that will carry its answer
    data: bytes  # the protocol's own record: request id, method, parameters


class EndCall(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=7):
    """The call has ended; written together with the event that carries its answer, if it has one."""

    session: str
    call: int


class PutEntry(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=8):
    """Create or replace an entry; it belongs to no session, and goes by itself once it has expired."""

    kind: str  # whose table it is: "once", "task", "outbox"
    key: str  # unique within its kind
    data: bytes
    expires: float  # wall clock, seconds


class DropEntry(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=9):
    """Forget an entry before it expires."""

    kind: str
    key: str


Record: TypeAlias = (
    PutSession | DropSession | AppendEvent | TrimStream | DropStream | PutCall | EndCall | PutEntry | DropEntry
)
Committed: TypeAlias = Callable[[StoreError | None], None]


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as it was read back."""

    stream: int
    seq: int
    kind: int
    payload: bytes


class StoredCall(msgspec.Struct, frozen=True, gc=False):
    """One call that was accepted and had not ended."""

    call: int
    stream: int
    data: bytes


class StoredSession(msgspec.Struct, frozen=True):
    """All that is kept of one session, for its restoration.

    `events` are ordered by stream, then by seq. `last` gives, per stream, the highest seq ever
    written to it, also when that event was trimmed since: numbers are never used twice.
    """

    session: str
    handle: bytes
    principal: str
    data: bytes
    touched: float
    events: list[StoredEvent]
    last: dict[int, int]
    calls: list[StoredCall]


class StoredEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry as it was read back."""

    key: str
    data: bytes
    expires: float  # wall clock, seconds


class Store(Protocol):
    """Keeps sessions, streams, calls and entries. One event loop at a time uses it, from one thread.

    `durable` says whether a write outlives the process. Where it is False the server does not
    journal at all, and says "not durable"; entries are written all the same.
    """

    durable: bool

    @property
    def name(self) -> str:
        """For the ready line and `statistics()`: ``memory`` or ``sqlite:PATH``."""
        ...

    @property
    def failure(self) -> StoreError | None:
        """The error of the newest commit if that failed, else None: what `/readyz` and the refusals read."""
        ...

    async def open(self, *, wait: float = 30.0) -> None:
        """Take hold of the store.

        Args:
            wait: Seconds to wait for another process that holds it.

        Raises:
            StoreBusy: It was still held after `wait`.
            StoreTooNew: A newer version wrote it; nothing was changed.
            StoreError: It cannot be opened (damaged, no permission, a network file system).
        """
        ...

    async def close(self) -> None:
        """Commit all that was written, then let go. Idempotent; waits at most about ten seconds."""
        ...

    def write(self, records: Sequence[Record]) -> int:
        """Hand over records, which are committed together, in the order of the calls; never waits.

        Returns:
            A ticket, larger than every one before it.

        Raises:
            StoreError: The queue of uncommitted bytes is over its limit, there is no room for more entries,
                or the store is closed. Nothing of `records` was taken.
        """
        ...

    def when(self, ticket: int, committed: Committed) -> None:
        """Call `committed(None)` on the loop once `ticket` is safe, or `committed(error)` if its commit failed.

        Callbacks come in the order of their tickets, and never from within `when` itself or `write`.
        An error concerns its own ticket only: a later one may succeed again (a disk that has space again).
        """
        ...

    async def flush(self) -> None:
        """Return when all that was written before is committed.

        Raises:
            StoreError: A commit among them failed.
        """
        ...

    async def load(self, session: str | None = None, *, handle: bytes | None = None) -> StoredSession | None:
        """Read one session back, by its id or by its handle; None where there is no such session."""
        ...

    async def sessions(self) -> list[tuple[str, float]]:
        """The ids of all kept sessions and when each was last touched (wall clock), oldest first."""
        ...

    async def unfinished(self) -> list[str]:
        """The ids of the sessions that hold calls which were accepted and have not ended."""
        ...

    async def entry(self, kind: str, key: str) -> StoredEntry | None:
        """One entry, as all that was written before left it; None where there is none, or it has expired."""
        ...

    async def count(self, kind: str) -> int:
        """How many entries of a kind have not expired."""
        ...

    async def entries(self, kind: str, *, after: str = "", limit: int = 1000) -> list[StoredEntry]:
        """The entries of a kind that have not expired, in the order of their keys (by code points), a page at a time.

        Args:
            kind: As in `PutEntry`.
            after: Only keys greater than this: the last one of the page before.
            limit: Most entries of one page.
        """
        ...

    async def secrets(self) -> list[bytes]:
        """The sealing secrets (32 bytes each), newest first, at most two; made at the first call and kept."""
        ...

    async def next_epoch(self) -> int:
        """Count this opening: 1 for a new store, then one more each time; committed before it returns."""
        ...

    def statistics(self) -> dict[str, int | float | str]:
        """Numbers for people: at least `queued_bytes`, `commits`, `records`, `failed`."""
        ...
