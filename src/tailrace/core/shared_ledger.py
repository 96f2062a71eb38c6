"""The keys of calls that run once, where several processes have the same ones: each partition of a service has its
own ledger, and all of them have their entries in common.

A key is claimed on the condition that nobody holds it, so one store decides which of two processes runs the call.
Who comes too late reads what is there: an answer is replayed, work that goes on is waited for. What has begun is
listed in the partition of its owner besides, so whoever takes that over settles it, and nobody waits for a dead one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tailrace.core.ledger import Ledger, not_there
from tailrace.core.ledger_entry import (
    ANSWER,
    HEAD,
    KIND,
    NEVER,
    Entry,
    EntryState,
    Orphan,
    encode_head,
    name_of,
    read_head,
)
from tailrace.core.ports import DropEntry, PutEntry

if TYPE_CHECKING:
    from tailrace.core.ports import Record

__all__ = ["BEGUN_KEYS", "SharedLedger"]

BEGUN_KEYS = "once-begun"  # kind of what one partition has begun; not shared
_PAGE = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between two looks at another's work


class SharedLedger(Ledger):
    """The keys of one partition. As `Ledger`, but for what other partitions may do meanwhile.

    Its limits count the keys that this process life has begun. An answer is kept for `ttl`, by the store's clock as
    well as by this one's: nobody reads one that has expired, and nothing is dropped when it does.
    """

    async def load(self) -> list[Orphan]:
        """Read what was begun in this partition and did not end: `finish` or `rerun` each.

        Raises:
            StoreError: The store cannot be read.
        """
        orphans: list[Orphan] = []
        after = ""
        while page := await self._store.entries(BEGUN_KEYS, after=after, limit=_PAGE):
            for stored in page:
                head = read_head(stored.data)
                entry = Entry(stored.key, head.principal, head.fingerprint, None, head.size)
                entry.state = EntryState.BEGUN
                self._enter(entry)
                orphans.append(Orphan(entry, head.detail or b""))
            after = page[-1].key
        return orphans

    async def elsewhere(self, principal: str, key: str, fingerprint: bytes) -> tuple[bytes, bool] | None:
        """What came of a key that somebody else holds, and whether that was there already; None where the key is free
        again. Waits for work that goes on; who asks bounds that by its own deadline.

        Raises:
            KeyReused: The key stands for another call.
            StoreError: The store cannot be read, or the answer is not there.
        """
        name, waited, pause = name_of(principal, key), False, _FIRST_PAUSE
        while True:
            stored = await self._store.entry(KIND, HEAD + name)
            if stored is None:
                return None
            head = read_head(stored.data)
            if head.fingerprint != fingerprint:
                raise self._reused()
            if head.open:
                return None
            if head.detail is None:
                answer = await self._store.entry(KIND, ANSWER + name)
                if answer is not None:
                    self.replayed += not waited
                    return answer.data, not waited
                if await self._store.entry(KIND, HEAD + name) is not None:
                    raise not_there()
                return None  # both have just expired
            if not waited:
                waited = True
                self.awaited += 1
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    # --- inside ---

    def _begun(self, entry: Entry, detail: bytes, *, claim: bool = False) -> list[Record]:
        head = encode_head(entry, detail)
        return [
            PutEntry(KIND, HEAD + entry.name, head, NEVER, claim=claim),
            PutEntry(BEGUN_KEYS, entry.name, head, NEVER),
        ]

    def _paused(self, entry: Entry) -> list[Record]:
        head = encode_head(entry, None, open=True)
        return [PutEntry(KIND, HEAD + entry.name, head, entry.expires, free=True), DropEntry(BEGUN_KEYS, entry.name)]

    def _answered(self, entry: Entry, answer: bytes) -> list[Record]:
        gone = self._clock() + self.ttl
        return [
            PutEntry(KIND, HEAD + entry.name, encode_head(entry, None), gone),
            PutEntry(KIND, ANSWER + entry.name, answer, gone),
            DropEntry(BEGUN_KEYS, entry.name),
        ]

    def _forget(self, *entries: Entry) -> None:
        """Only what this one holds may be dropped: who knows whose the others are by now."""
        for entry in entries:
            self._leave(entry)
        held = [entry.name for entry in entries if entry.state in (EntryState.CLAIMED, EntryState.BEGUN)]
        if held:
            records: list[Record] = [DropEntry(KIND, HEAD + name) for name in held]
            self._write([*records, *(DropEntry(BEGUN_KEYS, name) for name in held)], None)
