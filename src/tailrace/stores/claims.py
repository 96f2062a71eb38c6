"""Entries that are claimed (see `PutEntry`): which of a write's are, and which of several writes may go.

What every store does alike; whether an entry is held is each store's own to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tailrace.core.ports import DropEntry, PutEntry
from tailrace.errors import EntryTaken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace.core.ports import Record
    from tailrace.stores.queued import Write
    from tailrace.stores.tickets import Failed

__all__ = ["Put", "claims", "sift", "taken"]

Put: TypeAlias = PutEntry | None  # what a write makes of an entry; None where it drops it


def claims(records: Sequence[Record]) -> list[PutEntry]:
    """The entries that `records` claim."""
    return [record for record in records if isinstance(record, PutEntry) and record.claim]


def taken(name: str) -> EntryTaken:
    """What the ticket of a refused claim fails with."""
    return EntryTaken(f"{name}: the key of an entry is held already")


def sift(
    writes: list[Write], is_held: Callable[[PutEntry], bool], now: float, name: str
) -> tuple[list[Write], list[Failed]]:
    """The writes whose claims stand, one after the other, and the tickets of the others.

    Args:
        writes: In their order.
        is_held: Whether an entry is held by what was committed before all of them.
        now: Wall clock, seconds, by which entries expire.
        name: Of the store, for the error.
    """
    if not any(claims(records) for _, records, _ in writes):
        return writes, []
    sound: list[Write] = []
    failed: list[Failed] = []
    written: dict[tuple[str, str], Put] = {}  # by those that stand

    def stands(claim: PutEntry) -> bool:
        key = (claim.kind, claim.key)
        if key not in written:
            return not is_held(claim)
        put = written[key]
        return put is None or put.free or put.expires <= now

    for write in writes:
        if not all(map(stands, claims(write[1]))):
            failed.append((write[0], write[0], taken(name)))
            continue
        sound.append(write)
        for record in write[1]:
            if isinstance(record, PutEntry | DropEntry):
                written[record.kind, record.key] = record if isinstance(record, PutEntry) else None
    return sound, failed
