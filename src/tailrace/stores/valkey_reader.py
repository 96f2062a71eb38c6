"""Reads what others own: the partitions of a service in Valkey, and their entries, without a lease and without a trace.

What it reads may change while it does. To change something oneself has to be an owner, or to ask one.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tailrace.stores import valkey_scripts as scripts
from tailrace.stores.valkey_link import Link
from tailrace.stores.valkey_records import owners, stored_entries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tailrace.core.ports import StoredEntry

__all__ = ["Shelf", "ValkeyReader"]


class ValkeyReader:
    """Looks at a service's partitions.

    Args:
        url: As of `ValkeyStore`.
        service: Whose they are.
        timeout: Seconds for one answer.
        clock: Tells the wall-clock time in seconds, by which entries expire.

    Raises:
        DefinitionError: No such URL, or redis-py is not installed.
    """

    def __init__(self, url: str, service: str, *, timeout: float = 5.0, clock: Callable[[], float] = time.time) -> None:
        self._url, self._service, self._timeout, self._clock = url, service, timeout, clock
        self.name = Link(url, service, timeout=timeout).name

    async def partitions(self) -> dict[str, str]:
        """Their tags, each with the member that owns it now, or ``""``.

        Raises:
            StoreError: Valkey cannot be asked.
        """
        link = Link(self._url, self._service, timeout=self._timeout)
        try:
            _, found = await link.call(scripts.PARTITIONS)
        finally:
            await link.drop()
        return dict(sorted(owners(found).items()))

    @asynccontextmanager
    async def shelf(self, partition: str) -> AsyncGenerator[Shelf]:
        """A partition's entries, for the time of a block."""
        link = Link(self._url, self._service, timeout=self._timeout, partition=partition)
        try:
            yield Shelf(link, self._clock)
        finally:
            await link.drop()


class Shelf:
    """The entries of one partition."""

    def __init__(self, link: Link, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock

    async def entries(self, kind: str, *, after: str = "", limit: int = 1000) -> list[StoredEntry]:
        """As `Store.entries`."""
        _, found = await self._link.call(scripts.READ_ENTRIES, "", "", kind, after, limit, repr(self._clock()))
        return stored_entries(found)
