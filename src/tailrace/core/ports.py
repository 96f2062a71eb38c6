"""What the core asks of the outside: the protocol a store fulfils, the records that go into it, and how several
processes share the work.

A store keeps sessions, the events of their streams, and the calls that were accepted; and, by kind and
key, entries that outlive sessions and expire (the ledger of `once`, tasks). It knows nothing of
protocols: everything but keys and numbers is opaque bytes. Writing is one-way: `write` hands over
records and returns at once; `when` tells when they are safe. Reading happens only when a session is
restored, or an entry is looked up.

Where several processes serve one service, each owns *partitions*: a partition is a store of its own, with one owner at
a time. `Membership` tells who owns which and hands over those of the dead; through its `Inbox` the members speak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol, TypeAlias

import msgspec

from tailrace.errors import StoreError

__all__ = [
    "SHARED_KINDS",
    "AppendEvent",
    "Committed",
    "DropEntry",
    "DropSession",
    "DropStream",
    "EndCall",
    "Inbox",
    "Kind",
    "Membership",
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
    claim: bool = False  # create only: fails with EntryTaken, all of its write, where one is held that has not expired
    free: bool = False  # nobody holds it from now on: it can be claimed by anybody, until it is put again


class DropEntry(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=9):
    """Forget an entry before it expires."""

    kind: str
    key: str


Record: TypeAlias = (
    PutSession | DropSession | AppendEvent | TrimStream | DropStream | PutCall | EndCall | PutEntry | DropEntry
)
Committed: TypeAlias = Callable[[StoreError | None], None]

# Kinds of entries that all partitions of a service have in common: a key that one of them holds is held for all.
SHARED_KINDS = frozenset({"once", "step"})


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
    journal at all, and says "not durable"; entries are written all the same. `partition` names it among the stores
    of one service (1 to 8 of ``0-9a-z``); it is empty where there is but one. What has a kind of `SHARED_KINDS` is the
    same in all of them.
    """

    durable: bool
    partition: str = ""

    @property
    def name(self) -> str:
        """For the ready line and `statistics()`: ``memory`` or ``sqlite:PATH``."""
        ...

    @property
    def failure(self) -> StoreError | None:
        """The error of the newest commit if that failed, else None: what `/readyz` and the refusals read.

        It stays a `StoreLost` once another process has taken the store over. A claim that was refused is no failure.
        """
        ...

    @property
    def is_held(self) -> bool:
        """Nobody can have taken it over by now. Where that is not sure, what memory says of it may be the past."""
        return True

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

        Claims among them (see `PutEntry`) are held against what was there before this write. Where one is refused,
        nothing of the write is done, and its ticket fails with `EntryTaken`; others are not concerned.

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
            StoreError: A commit among them failed. (Not for claims that were refused.)
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
        """Numbers for people: at least `queued_bytes`, `commits`, `records`, `failed`, `commit_seconds` (spent on all
        commits) and `lag` (seconds for which something has waited while nothing was committed)."""
        ...


class Inbox(Protocol):
    """What other members send to this one: pieces of opaque bytes, in order for each sender, each of them once.

    `on_lost` is called on the loop when pieces may have got lost on the way, to this member or from it (the server
    between them was cut off, or forgot them): whoever relies on one that was sent or is awaited has to end with an
    error.
    """

    on_lost: Callable[[], None] | None

    async def open(self) -> None:
        """Begin to receive; `Membership.join` does it.

        Raises:
            StoreError: It cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Send what is queued, and end. Idempotent, bounded; who waits in `receive` gets StoreError."""
        ...

    def send(self, to: str, piece: bytes) -> None:
        """Hand over a piece for a member; never waits. One for a member that is gone is lost without a word.

        Raises:
            StoreError: Too much is waiting to be sent, or the inbox is not open.
        """
        ...

    async def receive(self) -> list[tuple[str, bytes]]:
        """The next pieces, at least one, each with the member that sent it. One task at a time.

        Raises:
            StoreError: The inbox is closed.
        """
        ...


class Membership(Protocol):
    """Who of several processes owns which partition of a service. One event loop uses it, from one thread.

    `member` names this process, unlike any before it; `lease` is how many seconds an ownership lasts unless it is
    renewed (which the stores do by themselves); `inbox` is how the other members reach this one. `on_lost` is called on
    the loop with a store of `take` or `adopt` once it is not this member's any more: its `failure` says why.
    """

    member: str
    lease: float
    inbox: Inbox
    on_lost: Callable[[Store], None] | None

    @property
    def name(self) -> str:
        """For the ready line and `statistics()`: where the partitions are, without a password."""
        ...

    @property
    def failure(self) -> StoreError | None:
        """Why the others cannot be seen at the moment, else None."""
        ...

    async def join(self) -> None:
        """Become a member, and open the inbox.

        Raises:
            StoreTooNew: A newer version wrote it; nothing was changed.
            StoreError: It cannot be reached, is too old, or refuses the password.
        """
        ...

    async def leave(self) -> None:
        """Be none any more: close the inbox. Close the stores before it. Idempotent, bounded; never raises."""
        ...

    async def owners(self, *, refresh: bool = False) -> dict[str, str]:
        """Which partition is owned by which member, among those that are owned; not older than a third of the lease.

        Args:
            refresh: Ask, whatever is known.

        Raises:
            StoreError: It cannot be reached.
        """
        ...

    async def orphans(self) -> list[str]:
        """The partitions that nobody owns now. Those of them that hold nothing are deleted instead.

        Raises:
            StoreError: It cannot be reached.
        """
        ...

    async def take(self, *, new: bool = False) -> Store:
        """A partition for this member, opened: an orphan, else a new one.

        Args:
            new: A new one in any case.

        Raises:
            StoreError: It cannot be reached.
        """
        ...

    async def adopt(self, partition: str) -> Store | None:
        """Open a partition that nobody owns; None if somebody does by now, or it is gone.

        Raises:
            StoreError: It cannot be reached.
        """
        ...

    async def retire(self, store: Store) -> bool:
        """Close a store of `take` or `adopt`, and delete its partition if it holds nothing.

        Returns:
            Whether it is deleted; else it is an orphan now.
        """
        ...

    async def secrets(self) -> list[bytes]:
        """The sealing secrets that all partitions share: as `Store.secrets` of each of them."""
        ...

    def statistics(self) -> dict[str, int | float | str]:
        """Numbers for people: at least `member`, `partitions` (that this member owns)."""
        ...
