"""Tickets: which writes are safe, which failed, and who waits to hear of it.

The part that every store does alike, on the loop's side. How records become safe is the store's own
affair; it calls `settle` as commits end. Nothing here is shared between threads.
"""

from __future__ import annotations

from bisect import bisect_left
from heapq import heappop, heappush
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

from tailrace.errors import EntryTaken, StoreError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from tailrace.core.ports import Committed

__all__ = ["Failed", "Tickets", "failures"]

Failed: TypeAlias = tuple[int, int, StoreError]  # from ticket, to ticket (inclusive), why


def failures(failed: Sequence[Failed]) -> int:
    """How many writes failed; a claim that was refused is no failure."""
    return sum(last - first + 1 for first, last, error in failed if not isinstance(error, EntryTaken))


class Tickets:
    """Counts tickets, and calls back in their order as they settle. Knows how long they wait for that.

    Args:
        failures_kept: How many failures are remembered for a `when` that comes late. A ticket older than
            all that is remembered is reported as failed: a promise is never given on a guess.
    """

    __slots__ = (
        "_failed",
        "_failures_kept",
        "_flushed",
        "_forgotten",
        "_forgotten_faults",
        "_loop",
        "_order",
        "_waiting",
        "newest",
        "pending_since",
        "settled",
        "waited",
    )

    def __init__(self, *, failures_kept: int = 2048) -> None:
        self.newest = 0  # the last ticket given out
        self.settled = 0  # all tickets up to here have committed or failed
        self.pending_since: float | None = None  # since then something waits, and nothing settled
        self.waited = 0.0  # seconds, over all settlements: of the oldest ticket in each, or since the one before
        self._failures_kept = failures_kept
        self._failed: list[Failed] = []  # ascending, never overlapping
        self._forgotten = 0  # up to here failures may have been dropped from the list
        self._forgotten_faults = 0  # the last of them that was no refused claim
        self._flushed = 0  # up to here failures have been told by a flush
        self._waiting: list[tuple[int, int, Committed]] = []  # a heap
        self._order = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, loop: asyncio.AbstractEventLoop, *, keep: bool = False) -> None:
        """Call back on `loop` from now on. Who waited on a loop that is gone is not called any more.

        Args:
            keep: The tickets that have not settled still may; without it they count as failed.
        """
        self._loop = loop
        self._waiting.clear()
        if self.newest > self.settled and not keep:
            self.settle(self.newest, [(self.settled + 1, self.newest, StoreError("the store was let go uncommitted"))])
        if not keep:
            self._flushed = self.newest

    def issue(self) -> int:
        """The next ticket."""
        self.newest += 1
        if self.pending_since is None:
            self.pending_since = perf_counter()
        return self.newest

    def error(self, ticket: int) -> StoreError | None:
        """Why a settled ticket failed, or None where it committed."""
        if ticket <= self._forgotten:
            return StoreError("it is no longer known whether this old write was committed")
        at = bisect_left(self._failed, ticket, key=lambda failed: failed[1])
        if at < len(self._failed) and self._failed[at][0] <= ticket:
            return self._failed[at][2]
        return None

    @property
    def lag(self) -> float:
        """Seconds for which something has waited while nothing settled; 0 where nothing waits."""
        return 0.0 if self.pending_since is None else perf_counter() - self.pending_since

    def when(self, ticket: int, committed: Committed) -> None:
        """As `Store.when`. A ticket that was never given out is a mistake of the caller's: ValueError."""
        if not 0 < ticket <= self.newest:
            raise ValueError(f"ticket {ticket} was never given out")
        self._order += 1
        heappush(self._waiting, (ticket, self._order, committed))
        if ticket <= self.settled:
            self._bound().call_soon(self._deliver)

    def settle(self, upto: int, failed: Sequence[Failed] = ()) -> None:
        """All tickets up to `upto` have ended; `failed` are those that did not commit. Calls back."""
        self.settled = upto
        if self.pending_since is not None:
            now = perf_counter()
            self.waited += now - self.pending_since
            self.pending_since = now if self.newest > upto else None
        self._failed.extend(failed)
        self._deliver()
        surplus = len(self._failed) - self._failures_kept
        if surplus > 0:
            self._forgotten = self._failed[surplus - 1][1]
            faults = [last for _, last, error in self._failed[:surplus] if not isinstance(error, EntryTaken)]
            self._forgotten_faults = max(faults, default=self._forgotten_faults)
            del self._failed[:surplus]

    async def flush(self) -> None:
        """Wait until all tickets given out so far have settled; raise the newest failure not yet told by a flush."""
        told, upto = self._flushed, self.newest
        await self.wait_settled(upto)
        self._flushed = max(self._flushed, upto)
        for first, last, error in reversed(self._failed):
            if last > told and first <= upto and not isinstance(error, EntryTaken):
                raise error
        if self._forgotten_faults > told:
            raise StoreError("a commit failed")

    async def wait_settled(self, upto: int) -> None:
        """Wait until `upto` has settled, committed or not. Cancelling the wait has no effect on the writes."""
        if upto > self.settled:
            heard = self._bound().create_future()
            self.when(upto, lambda _: None if heard.done() else heard.set_result(None))
            await heard

    def _deliver(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.settled:
            ticket, _, committed = heappop(self._waiting)
            try:
                committed(self.error(ticket) if self._failed or self._forgotten else None)
            except Exception as error:  # one listener's fault is not the next one's
                self._bound().call_exception_handler({"message": "a store's callback failed", "exception": error})
            except BaseException:  # the loop is being stopped: the others are still told, if it goes on
                self._bound().call_soon(self._deliver)
                raise

    def _bound(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise StoreError("the store is not open")
        return self._loop
