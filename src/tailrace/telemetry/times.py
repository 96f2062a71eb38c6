"""How long things took, as `/metrics` shows it: a few numbers for each tool and method, counted in this process.

These are not `prometheus_client`'s own histograms: those take a lock for each bucket, for threads that there are none
of here. What is counted here is handed to that library, which writes it, when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from tailrace.core.meter import Operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailrace.core.meter import Ending

__all__ = ["Histogram", "Times"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_SESSION_SECONDS = (1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
_OPERATIONS = 1000  # of which each has its own series; what comes after these is one more
_TOPICS = 1000


class Histogram:
    """Counts values by their size.

    Args:
        bounds: The greatest value of each bucket, ascending; one more bucket has no bound.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = _SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Each bound, as Prometheus writes it, and how many values were not over it."""
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            yield ("+Inf" if bound == float("inf") else f"{bound:g}"), total


class Times:
    """What a server was told of its calls, sessions and deliveries (fulfils `core.meter.Meter`).

    Attributes:
        calls: By operation.
        endings: How many of them ended how: by operation and outcome.
        sessions: Over all transports.
        deliveries: By publisher, topic and outcome (``ok`` or ``error``).
    """

    def __init__(self) -> None:
        self.calls: dict[Operation, Histogram] = {}
        self.endings: dict[tuple[Operation, str], int] = {}
        self.sessions = Histogram(_SESSION_SECONDS)
        self.deliveries: dict[tuple[str, str, str], Histogram] = {}

    def call_ended(self, operation: Operation, ending: Ending, seconds: float) -> None:
        """A call has been answered."""
        histogram = self.calls.get(operation)
        if histogram is None:
            if len(self.calls) >= _OPERATIONS:
                operation = Operation(operation.system, "_OTHER", "")
            histogram = self.calls.setdefault(operation, Histogram())
        histogram.observe(seconds)
        key = (operation, ending.outcome)
        self.endings[key] = self.endings.get(key, 0) + 1

    def session_ended(self, transport: str, seconds: float) -> None:
        """A session has ended."""
        self.sessions.observe(seconds)

    def delivered(self, system: str, topic: str, seconds: float, error: BaseException | None) -> None:
        """A message was told to the broker."""
        key = (system, topic, "ok" if error is None else "error")
        if key not in self.deliveries and len(self.deliveries) >= _TOPICS:
            key = (system, "_OTHER", key[2])
        self.deliveries.setdefault(key, Histogram()).observe(seconds)
