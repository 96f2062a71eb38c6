"""A store that fails when a test says so: what does the service do when the disk is full, just there?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tailrace.errors import StoreError
from tailrace.stores.memory import MemoryStore

if TYPE_CHECKING:
    from tailrace.core.ports import Record

__all__ = ["FaultyStore"]


class FaultyStore(MemoryStore):
    """A durable memory store whose writes fail as planned.

    Attributes:
        writes: How many there were, those that failed among them.

    Args:
        options: As of `MemoryStore`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(durable=options.pop("durable", True), **options)
        self.writes = 0
        self._refused: dict[int, StoreError] = {}
        self._lost: dict[int, StoreError] = {}
        self._next_commit: StoreError | None = None  # what it fails with

    def fail_write(
        self, number: int = 1, *, count: int = 1, commit: bool = True, error: StoreError | None = None
    ) -> None:
        """Let a write fail that is still to come.

        Args:
            number: Which one, counted from now; 1 is the next.
            count: How many in a row.
            commit: The write is taken, and its commit fails (a full disk), with all that is in the same commit;
                otherwise it is refused at once (a full queue).
            error: What it fails with.
        """
        plan = self._lost if commit else self._refused
        for at in range(self.writes + number, self.writes + number + count):
            plan[at] = error if error is not None else StoreError(f"write {at} fails, as the test wants it")

    def write(self, records: Sequence[Record]) -> int:
        """As `Store.write`, but for what was planned."""
        self.writes += 1
        if (error := self._refused.pop(self.writes, None)) is not None:
            raise error
        ticket = super().write(records)
        if (error := self._lost.pop(self.writes, None)) is not None:
            self._next_commit = error
        return ticket

    def crash(self) -> None:
        """As `MemoryStore.crash`; what was planned for later writes stays so."""
        self._next_commit = None
        super().crash()

    def _commit(self) -> None:
        error, self._next_commit = self._next_commit, None
        if error is None:
            return super()._commit()
        always, self._failing = self._failing, error
        super()._commit()
        self._failing = always
        return None
