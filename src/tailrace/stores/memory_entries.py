"""The entries of the memory store: found by kind and key, read in the order of keys, gone when they expire.

Commits and callbacks are `memory`'s; time is passed in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from tailrace.core.ports import PutEntry, Record, StoredEntry
from tailrace.errors import StoreError
from tailrace.stores.weight import OVERHEAD

__all__ = ["Entries"]

_PURGED_AT_ONCE = 64  # expired entries that go at each write, at most: more than one write usually adds


class Entries:
    """Keeps entries within a limit of bytes; expired ones make room, others never do.

    Args:
        max_bytes: What the entries may hold, data and overhead.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0  # held by the entries that are there, the expired that are not yet purged among them
        self._reserved = 0  # for what is written and not yet committed
        self._kinds: dict[str, dict[str, StoredEntry]] = {}
        self._free: set[tuple[str, str]] = set()  # those that nobody holds
        self._ordered: dict[str, list[str]] = {}  # the keys in order, until one comes or goes
        self._expiries: list[tuple[float, str, str]] = []  # a heap; what was replaced or dropped stays in it a while

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._kinds.values())

    def reserve(self, records: Sequence[Record], now: float) -> None:
        """Set room aside for the entries among `records`, until `settle`.

        Raises:
            StoreError: There is not enough, though all that has expired is gone.
        """
        puts = [record for record in records if isinstance(record, PutEntry)]
        if puts:
            self._purge(now, _PURGED_AT_ONCE)
            if not self._has_room(puts):
                self._purge(now, len(self._expiries))
                if not self._has_room(puts):
                    raise StoreError(f"the memory store is full: more than {self._max_bytes} bytes of entries")
            self._reserved += self._growth(puts)

    def settle(self) -> None:
        """What was reserved is about to be put, or is given up."""
        self._reserved = 0

    def is_held(self, kind: str, key: str, now: float) -> bool:
        """Whether there is one that has not expired and was not left free."""
        return self.get(kind, key, now) is not None and (kind, key) not in self._free

    def put(self, entry: PutEntry) -> None:
        """Create or replace one."""
        self.drop(entry.kind, entry.key)
        if entry.free:
            self._free.add((entry.kind, entry.key))
        self._kinds.setdefault(entry.kind, {})[entry.key] = StoredEntry(entry.key, entry.data, entry.expires)
        self._ordered.pop(entry.kind, None)
        self.bytes += _weight(entry)
        heappush(self._expiries, (entry.expires, entry.kind, entry.key))
        if len(self._expiries) > 2 * len(self) + _PURGED_AT_ONCE:  # mostly of entries that were replaced
            self._expiries = [
                (kept.expires, kind, key) for kind, entries in self._kinds.items() for key, kept in entries.items()
            ]
            heapify(self._expiries)

    def drop(self, kind: str, key: str) -> None:
        """Forget one, if it is there."""
        dropped = self._kinds.get(kind, {}).pop(key, None)
        if dropped is not None:
            self.bytes -= _weight(dropped)
            self._free.discard((kind, key))
            self._ordered.pop(kind, None)

    def get(self, kind: str, key: str, now: float) -> StoredEntry | None:
        """One that has not expired, or None."""
        entry = self._kinds.get(kind, {}).get(key)
        return None if entry is None or entry.expires <= now else entry

    def count(self, kind: str, now: float) -> int:
        """How many have not expired."""
        return sum(entry.expires > now for entry in self._kinds.get(kind, {}).values())

    def page(self, kind: str, after: str, limit: int, now: float) -> list[StoredEntry]:
        """At most `limit` that have not expired, by key, those after `after`."""
        entries = self._kinds.get(kind, {})
        keys = self._ordered.get(kind)
        if keys is None:
            keys = self._ordered[kind] = sorted(entries)
        page: list[StoredEntry] = []
        for at in range(bisect_right(keys, after), len(keys)):
            if len(page) >= limit:
                break
            if entries[keys[at]].expires > now:
                page.append(entries[keys[at]])
        return page

    def _has_room(self, puts: Sequence[PutEntry]) -> bool:
        growth = self._growth(puts)
        return growth == 0 or self.bytes + self._reserved + growth <= self._max_bytes

    def _growth(self, puts: Sequence[PutEntry]) -> int:
        growth = 0
        for entry in puts:
            replaced = self._kinds.get(entry.kind, {}).get(entry.key)
            growth += _weight(entry) - (0 if replaced is None else _weight(replaced))
        return max(0, growth)

    def _purge(self, now: float, most: int) -> None:
        for _ in range(most):
            if not self._expiries or self._expiries[0][0] > now:
                return
            expires, kind, key = heappop(self._expiries)
            entry = self._kinds.get(kind, {}).get(key)
            if entry is not None and entry.expires == expires:
                self.drop(kind, key)


def _weight(entry: PutEntry | StoredEntry) -> int:
    return OVERHEAD + len(entry.key) + len(entry.data)
