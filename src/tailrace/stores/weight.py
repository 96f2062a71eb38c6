"""What a write weighs while it waits for its commit: the measure of every store's queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.core.ports import AppendEvent, PutCall, PutEntry, PutSession

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.core.ports import Record

__all__ = ["OVERHEAD", "write_weight"]

OVERHEAD = 256  # bytes a record, a write or a read costs beside its payload: roughly what the objects take


def write_weight(records: Sequence[Record]) -> int:
    """Bytes that `records` hold in memory, roughly; never nothing, so that empty writes are bounded as well."""
    weight = OVERHEAD * (1 + len(records))
    for record in records:
        if isinstance(record, AppendEvent):
            weight += len(record.payload)
        elif isinstance(record, PutCall | PutSession | PutEntry):
            weight += len(record.data)
    return weight
