"""Which calls run once, and what came of them: a key is claimed, attached to, replayed or refused (G1b).

An entry is committed before its work begins, and its answer before anybody gets it; between the two
lies the moment whose outcome a crash leaves unknown. What a key means, how two calls are compared and
what an answer looks like is the protocol's: here keys have owners, and all else is opaque bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from tailrace.core.ledger_entry import (
    ANSWER,
    HEAD,
    KIND,
    NEVER,
    OVERHEAD,
    Entry,
    EntryState,
    Orphan,
    Outcome,
    encode_head,
    name_of,
    read_head,
)
from tailrace.core.ports import DropEntry, PutEntry, Record, Store
from tailrace.errors import LimitError, StoreError, StoreLost, TailraceError

if TYPE_CHECKING:
    from tailrace.core.outgoing import Leaving

__all__ = ["KeyReused", "Ledger", "Withheld", "Write", "not_there"]

Write: TypeAlias = Callable[[Sequence[Record], Callable[[StoreError | None], None] | None], object]

_GRACE = 60.0  # seconds for which a new process still knows what expired while there was none
_PAGE = 1000  # entries that are read, or forgotten, at once


class KeyReused(TailraceError):
    """The key stands for another call."""


class Withheld(StoreError):
    """There is an answer, which could not be stored; whether it is the key's is not known as long as another process
    may have taken the store over."""


class Ledger:
    """The keys of one server. All methods belong to its event loop.

    What is full refuses. Nothing but time makes room: an entry that were evicted early would let its call run twice.

    Args:
        store: Where entries are read from; a durable one carries them over a restart.
        write: Hands records to it and tells when they are safe (`Store.write` and `Store.when` in one); never raises.
        ttl: Seconds for which an answer is kept, from its end on.
        max_entries: Keys of the whole server.
        max_principal: Keys of one principal.
        max_bytes: Of all entries and their answers; looked at when a key is claimed.
        clock: Wall clock, seconds.
    """

    def __init__(
        self,
        store: Store,
        write: Write,
        *,
        ttl: float = 86_400.0,
        max_entries: int = 200_000,
        max_principal: int = 100_000,
        max_bytes: int = 256 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ttl = ttl
        self.max_entries = max_entries
        self.max_principal = max_principal
        self.max_bytes = max_bytes
        self.bytes = 0
        self.runs = 0  # keys that were claimed, ever
        self.attached = 0  # requests that came while their run went on
        self.replayed = 0  # requests that got an answer which was there
        self.awaited = 0  # requests that waited for a run of another process
        self.refused = 0  # requests whose key stands for another call, or for which there was no room
        self._store = store
        self._write = write
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._ended: dict[str, Entry] = {}  # in the order in which they expire
        self._open: dict[str, Entry] = {}  # about so
        self._kept: dict[str, Entry] = {}  # whose answer could not be stored
        self._settling = False
        self._principals: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def load(self) -> list[Orphan]:
        """Read what an earlier process life left. What began and did not end is returned: `finish` or `rerun` each.

        An entry that cannot be read keeps its key taken, as nobody knows what it stood for.

        Raises:
            StoreError: The store cannot be read.
        """
        orphans: list[Orphan] = []
        ended: list[Entry] = []
        after = HEAD
        while page := await self._store.entries(KIND, after=after, limit=_PAGE):
            for stored in page:
                head = read_head(stored.data)
                entry = Entry(stored.key.removeprefix(HEAD), head.principal, head.fingerprint, None, head.size)
                entry.state = EntryState.BEGUN
                self._enter(entry)
                if head.open:
                    entry.expires = stored.expires
                    self._reopen(entry)
                elif head.detail is not None:
                    orphans.append(Orphan(entry, head.detail))
                else:
                    entry.expires = max(stored.expires - self.ttl, self._clock() + _GRACE)
                    ended.append(entry)
            after = page[-1].key
        for entry in sorted(ended, key=lambda entry: entry.expires):
            self._end(entry)
        return orphans

    # --- asking ---

    def find(self, principal: str, key: str, fingerprint: bytes) -> Entry | None:
        """The entry of a key; None if the key is free.

        Raises:
            KeyReused: It stands for another call.
        """
        entry = self._entries.get(name_of(principal, key))
        if entry is None:
            return None
        if entry.expires <= self._clock():
            self._forget(entry)
            return None
        if entry.fingerprint != fingerprint:
            raise self._reused()
        return entry

    async def elsewhere(self, principal: str, key: str, fingerprint: bytes) -> tuple[bytes, bool] | None:
        """What came of a key whose claim failed with `EntryTaken`, and whether that was there already; None where the
        key is free again. Here nobody else has keys (see `core.shared_ledger`)."""
        return None

    def check_room(self, principal: str) -> None:
        """Before a key is claimed.

        Raises:
            LimitError: ``ledger``: there are too many keys, or they hold too much.
        """
        if self._is_full(principal):
            self.expire()
            if self._is_full(principal):
                self.refused += 1
                text = "too many calls with an idempotency key are remembered; try again later, or without a key"
                raise LimitError("ledger", text)

    async def answer(self, entry: Entry) -> bytes:
        """The entry's answer, as soon as there is one.

        Raises:
            StoreError: It could not be committed, and nothing has begun; or its answer cannot be read.
            Withheld: See `turn_away`.
            Exception: What `abandon` was told.
        """
        outcome = entry.outcome
        if outcome is not None:
            if outcome.answer is None and outcome.error is None:
                await outcome.waiters.wait()
            if outcome.error is not None:
                raise outcome.error
            assert outcome.answer is not None
            return outcome.answer
        if entry.kept is not None and self._store.is_held:
            return entry.kept
        stored = await self._store.entry(KIND, ANSWER + entry.name)
        if stored is None:
            raise not_there()
        return stored.data

    # --- the work ---

    def claim(
        self,
        principal: str,
        key: str,
        fingerprint: bytes,
        detail: bytes,
        begin: Callable[[StoreError | None], None],
        owner: Any = None,
    ) -> Entry:
        """Take a key that `find` found free, or open; no `await` may lie between the two.

        Args:
            principal: Whose it is.
            key: As the client gave it.
            fingerprint: Of the call.
            detail: What a later process life has to know of work that did not end.
            begin: Called once the entry is committed: then the work may begin. Or with the error: then the key is free
                again. Not called if the entry is dropped before.
            owner: Whoever does the work.

        Raises:
            LimitError: As `check_room`.
        """
        name = name_of(principal, key)
        if (before := self._entries.get(name)) is not None:
            self._leave(before)  # it was open
        else:
            self.check_room(principal)
        entry = Entry(name, principal, fingerprint, owner, OVERHEAD + len(detail))
        self._enter(entry)
        self.runs += 1

        def committed(error: StoreError | None) -> None:
            if self._entries.get(entry.name) is not entry:
                return  # dropped meanwhile
            if error is None:
                entry.state = EntryState.BEGUN
            else:
                self._leave(entry)
                self._tell(entry, error=error)
            begin(error)

        self._write(self._begun(entry, detail, claim=True), committed)
        return entry

    def rerun(self, orphan: Orphan, detail: bytes, begin: Callable[[StoreError | None], None], owner: Any) -> None:
        """Begin an orphan's work again, once that is committed with its new detail; `begin` is as in `claim`."""
        entry = orphan.entry
        entry.state = EntryState.CLAIMED
        entry.owner = owner

        def committed(error: StoreError | None) -> None:
            entry.state = EntryState.BEGUN
            if error is not None:
                self.abandon(entry, error)
            begin(error)

        self._write(self._begun(entry, detail), committed)

    def finish(self, entry: Entry, answer: bytes, leaving: Leaving | None = None) -> None:
        """The work has ended: commit its answer, then give it to all who are attached.

        If it cannot be committed, it is given all the same, and kept in memory until it can be (see `settle`); after
        a restart before that it is unknown. Where another process may have the store by now, which would say that it
        is unknown, it is given once that is sure (see `tell_withheld`).

        Args:
            entry: Its state is `BEGUN`.
            answer: What is replayed from now on.
            leaving: What it publishes, which is committed together with the answer; or neither is, and the answer is
                the one that it gives instead.
        """
        size = OVERHEAD + len(answer)
        self.bytes += size - entry.size
        entry.size = size
        expires = self._clock() + self.ttl

        def committed(error: StoreError | None) -> None:
            if leaving is not None and (instead := leaving.settled(error)) is not None:
                self.finish(entry, instead)
                return
            if isinstance(error, StoreLost):  # whoever has the store now says what came of it
                self._tell(entry, error=error)
                return
            if error is not None:
                entry.kept = answer
                self._kept[entry.name] = entry
                if not self._store.is_held:
                    return
            entry.expires = expires
            self._tell(entry, answer=answer)
            self._end(entry)

        published = leaving.records() if leaving is not None else ()
        self._write([*self._answered(entry, answer), *published], committed)

    def pause(self, entry: Entry, answer: bytes, seconds: float) -> None:
        """The work has ended, and has no outcome yet: for so many seconds the key is open for the same call, which does
        the work anew. Those who are attached get `answer` once that is committed, or cannot be.

        Args:
            entry: Its state is `BEGUN`.
            answer: What comes of the work until then; nobody else gets it.
            seconds: Until the key is free for any call.
        """
        outcome = entry.outcome
        assert outcome is not None
        entry.owner = entry.outcome = None
        entry.expires = self._clock() + seconds
        self._reopen(entry)

        def committed(error: StoreError | None) -> None:
            outcome.answer = answer
            outcome.waiters.wake()

        self._write(self._paused(entry), committed)

    def drop(self, entry: Entry, answer: bytes) -> None:
        """The work was not begun, and will not be: the key is free again; those who are attached get `answer`."""
        self._forget(entry)
        self._tell(entry, answer=answer)

    def abandon(self, entry: Entry, error: Exception) -> None:
        """The process ends before the work does: those who are attached, or will be, get `error`; the store keeps the
        entry as it is, for the next process life."""
        self._tell(entry, error=error)

    # --- time ---

    def expire(self) -> None:
        """Forget what has expired, a thousand entries at most."""
        now = self._clock()
        expired: list[Entry] = []
        for entries in (self._ended, self._open):
            for entry in islice(entries.values(), _PAGE - len(expired)):
                if entry.expires > now:
                    break
                expired.append(entry)
        if expired:
            self._forget(*expired)

    def settle(self) -> None:
        """Every few seconds: store the answers that could not be, one after the other, until one still cannot be. Until
        then a crash makes its outcome unknown, and other processes wait for it."""
        self.tell_withheld()
        if self._settling or not self._kept:
            return
        entry = next(iter(self._kept.values()))
        assert entry.kept is not None
        self._settling = True

        def committed(error: StoreError | None) -> None:
            self._settling = False
            if error is None:
                if entry.state is EntryState.BEGUN:  # now it is the key's
                    self._give(entry)
                entry.kept = None
                if self._kept.get(entry.name) is entry:  # it may have expired meanwhile
                    del self._kept[entry.name]
                self.settle()
            elif isinstance(error, StoreLost):  # whoever has the store now says what came of them
                for one in self._withheld():
                    self._tell(one, error=error)

        self._write(self._answered(entry, entry.kept), committed)

    def tell_withheld(self) -> None:
        """Give the answers that were withheld, if nobody else can have taken the store over by now."""
        for entry in self._withheld():
            if self._store.is_held:
                self._give(entry)

    def turn_away(self) -> None:
        """Whether somebody has taken the store over is not known for so long that who waits for an answer that is
        withheld had better ask again, and may reach whoever knows."""
        for entry in self._withheld():
            self._tell(entry, error=Withheld("whether the answer counts is not known: the store cannot be reached"))
            entry.outcome = Outcome()  # for those who ask here again

    # --- inside ---

    def _reused(self) -> KeyReused:
        self.refused += 1
        return KeyReused("the idempotency key stands for a call of another tool, or with other arguments")

    def _is_full(self, principal: str) -> bool:
        return (
            len(self._entries) >= self.max_entries
            or self._principals.get(principal, 0) >= self.max_principal
            or self.bytes >= self.max_bytes
        )

    def _answered(self, entry: Entry, answer: bytes) -> list[Record]:
        gone = self._clock() + 2 * self.ttl  # the store lets it go later than the ledger does, which tells it so
        return [
            PutEntry(KIND, HEAD + entry.name, encode_head(entry, None), gone),
            PutEntry(KIND, ANSWER + entry.name, answer, gone),
        ]

    def _begun(self, entry: Entry, detail: bytes, *, claim: bool = False) -> list[Record]:
        """The records of work that begins; `claim`: unless the key is held, which without others cannot be."""
        return [PutEntry(KIND, HEAD + entry.name, encode_head(entry, detail), NEVER)]

    def _paused(self, entry: Entry) -> list[Record]:
        return [PutEntry(KIND, HEAD + entry.name, encode_head(entry, None, open=True), entry.expires)]

    def _withheld(self) -> list[Entry]:
        return [entry for entry in self._kept.values() if entry.state is EntryState.BEGUN]

    def _give(self, entry: Entry) -> None:
        entry.expires = self._clock() + self.ttl
        self._tell(entry, answer=entry.kept)
        self._end(entry)

    def _tell(self, entry: Entry, *, answer: bytes | None = None, error: Exception | None = None) -> None:
        """Only the first time counts."""
        outcome = entry.outcome
        if outcome is not None and outcome.answer is None and outcome.error is None:
            outcome.answer, outcome.error = answer, error
            outcome.waiters.wake()

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.name] = entry
        self._principals[entry.principal] = self._principals.get(entry.principal, 0) + 1
        self.bytes += entry.size

    def _end(self, entry: Entry) -> None:
        entry.state = EntryState.ENDED
        entry.owner = entry.outcome = None
        self._ended[entry.name] = entry

    def _reopen(self, entry: Entry) -> None:
        entry.state = EntryState.OPEN
        self._open[entry.name] = entry

    def _leave(self, entry: Entry) -> None:
        del self._entries[entry.name]
        self._ended.pop(entry.name, None)
        self._open.pop(entry.name, None)
        self._kept.pop(entry.name, None)
        self.bytes -= entry.size
        self._principals[entry.principal] -= 1
        if not self._principals[entry.principal]:
            del self._principals[entry.principal]

    def _forget(self, *entries: Entry) -> None:
        for entry in entries:
            self._leave(entry)
        names = [prefix + entry.name for entry in entries for prefix in (HEAD, ANSWER)]
        self._write([DropEntry(KIND, name) for name in names], None)


def not_there() -> StoreError:
    """A key has an answer, and that is nowhere to be found: no reason to run again."""
    return StoreError("the answer that belongs to the idempotency key is not there")
