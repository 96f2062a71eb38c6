"""What a store is on the loop's side when a writer of its own commits for it: limits, tickets, callbacks, numbers.

Writes and questions queue for the writer, one queue for both; what it tells comes back as calls of `_settled` and
`_answered`, on the loop. Who the writer is, how it begins and ends, and what it is asked, is each store's own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tailrace.core.ports import Record, Store
from tailrace.errors import StoreError
from tailrace.stores.tickets import Failed, Tickets, failures
from tailrace.stores.weight import OVERHEAD, write_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.core.ports import Committed

__all__ = ["Question", "QueuedStore", "Write", "resolve"]

Write: TypeAlias = tuple[int, "Sequence[Record]", int]  # ticket, records, weight in bytes


class Question(Protocol):
    """What the writer is asked, after the writes before it."""

    @property
    def answer(self) -> asyncio.Future[Any]:
        """Where the answer goes."""
        ...


class QueuedStore(Store):
    """A durable store whose writer takes `Write` and `Question`; the base of those that are one.

    Args:
        place: What errors call it.
        max_queued: Bytes that may wait for their commit, payloads and overhead; over it `write` raises.
    """

    def __init__(self, place: str, max_queued: int) -> None:
        self.durable = True
        self._place = place
        self._max_queued = max_queued
        self._tickets = Tickets()
        self._is_open = False
        self._closing: asyncio.Future[None] | None = None
        self._asked: set[Question] = set()
        self._queued = 0
        self._failure: StoreError | None = None
        self._commits = self._records = self._failed = self._largest_batch = 0

    @property
    def failure(self) -> StoreError | None:
        """Why writing does not work at the moment, else None."""
        return self._failure

    def write(self, records: Sequence[Record]) -> int:
        """As `Store.write`."""
        self._reserve(weight := write_weight(records))
        ticket = self._tickets.issue()
        self._put_write((ticket, tuple(records), weight))
        return ticket

    def when(self, ticket: int, committed: Committed) -> None:
        """As `Store.when`."""
        self._tickets.when(ticket, committed)

    async def flush(self) -> None:
        """As `Store.flush`."""
        await self._tickets.flush()

    def statistics(self) -> dict[str, int | float | str]:
        """As `Store.statistics`; also `largest_batch`, the most writes in one commit."""
        return {
            "queued_bytes": self._queued,
            "commits": self._commits,
            "records": self._records,
            "failed": self._failed,
            "commit_seconds": self._tickets.waited,
            "lag": self._tickets.lag,
            "largest_batch": self._largest_batch,
        }

    # --- the writer, which each store has of its own ------------------------------------------------

    def _put_write(self, write: Write) -> None:
        raise NotImplementedError

    def _put_question(self, question: Any) -> None:
        raise NotImplementedError

    # --- what the writer tells, on the loop ---------------------------------------------------------

    def _settled(self, writes: Sequence[Write], failed: Sequence[Failed], error: StoreError | None) -> None:
        self._queued -= sum(weight for _, _, weight in writes)
        self._failed += failures(failed)
        if error is None:
            self._commits += 1
            self._records += sum(len(records) for _, records, _ in writes)
        self._largest_batch = max(self._largest_batch, len(writes))
        self._tickets.settle(writes[-1][0], failed)

    def _answered(self, question: Question, answer: Any, error: StoreError | None) -> None:
        self._queued -= OVERHEAD
        self._asked.discard(question)
        resolve(question.answer, answer, error)

    # --- for the stores -----------------------------------------------------------------------------

    async def _ask_writer(self, question: Question) -> Any:
        self._reserve(OVERHEAD)
        self._asked.add(question)
        self._put_question(question)
        return await question.answer

    def _give_up(self, error: StoreError) -> None:
        """The writer has ended, in order or not: whatever still waits for it ends with `error`, and then who closes."""
        asked, closing = list(self._asked), self._closing
        self._forget()
        for question in asked:
            resolve(question.answer, None, error)
        first, last = self._tickets.settled + 1, self._tickets.newest
        if first <= last:
            self._failed += last - first + 1
            self._tickets.settle(last, [(first, last, error)])
        if closing is not None:
            resolve(closing, None, None)

    def _forget(self) -> None:
        """Nothing is queued any more, and nobody is told."""
        self._is_open = False
        self._queued = 0
        self._asked.clear()
        self._closing = None

    def _reserve(self, weight: int) -> None:
        if not self._is_open:
            why = "" if self._failure is None else f": {self._failure}"
            raise StoreError(f"the store {self._place} is not open{why}")
        if self._queued + weight > self._max_queued:
            raise StoreError(f"{self._place}: more than {self._max_queued} bytes are waiting to be committed")
        self._queued += weight


def resolve(future: asyncio.Future[Any], answer: Any, error: StoreError | None) -> None:
    """Answer who waits, unless it was cancelled or went with its loop."""
    if future.done() or future.get_loop().is_closed():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
