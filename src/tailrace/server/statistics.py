"""What goes on in a server, in numbers: `svc.statistics()`, and what `/metrics` and the console show of it.

Nothing is counted here. Numbers are read where they are kept, and those of all partitions are added up; what partitions
have counted that are gone stays, since a total that falls is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tailrace.console.merging import add_up

if TYPE_CHECKING:
    from tailrace.server import Server
    from tailrace.server.partition import Partition

__all__ = ["Past", "counts_of", "statistics_of"]

_STORE = ("commits", "records", "failed", "commit_seconds", "lost")  # totals among a store's numbers
_OUTBOX = ("published", "failures")
_KEYS = ("runs", "attached", "replayed", "refused", "awaited")


class Past:
    """What partitions have counted that a server does not own any more."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, float]] = {}
        self._closing: list[Partition] = []  # they still count

    def add(self, partition: Partition) -> None:
        """It is none of the server's any more, and about to be closed."""
        self._closing.append(partition)

    def settle(self, partition: Partition) -> None:
        """It is closed: its numbers are kept, and it is not."""
        if partition in self._closing:
            self._closing.remove(partition)
            _add(self._counts, _counts(partition))

    def counts(self) -> dict[str, dict[str, float]]:
        """The totals, by section."""
        total = {section: dict(numbers) for section, numbers in self._counts.items()}
        for partition in self._closing:
            _add(total, _counts(partition))
        return total


def counts_of(running: Server) -> dict[str, dict[str, float]]:
    """The totals of all partitions that a server owns or has owned, which never fall: of ``sessions``, ``keys``,
    ``store`` and ``outbox``."""
    total = running.past.counts()
    for partition in running.partitions:
        _add(total, _counts(partition))
    return total


def _counts(partition: Partition) -> dict[str, dict[str, float]]:
    endpoint, store = partition.endpoint, partition.store.statistics()
    sessions, resumed, ledger = endpoint.sessions, endpoint.streams.resumed, endpoint.once.ledger
    outbox = {} if partition.outbox is None else partition.outbox.statistics()
    return {
        "sessions": {
            "opened": sessions.opened,
            "restored": sessions.restored,
            "closed": sessions.closed,
            "resumed": resumed["complete"],
            "gaps": resumed["gap"],
        },
        "keys": {name: getattr(ledger, name) for name in _KEYS},
        "store": {name: value for name in _STORE if isinstance(value := store.get(name), (int, float))},
        "outbox": {name: value for name in _OUTBOX if isinstance(value := outbox.get(name), (int, float))},
    }


def _add(total: dict[str, dict[str, float]], counts: Mapping[str, Mapping[str, float]]) -> None:
    for section, numbers in counts.items():
        sums = total.setdefault(section, {})
        for name, value in numbers.items():
            sums[name] = sums.get(name, 0) + value


def statistics_of(running: Server) -> Mapping[str, Mapping[str, Any]]:
    """The numbers of a server that has started, in seven sections; of a member of several, in eight."""
    tasks, partitions = running.tasks, running.partitions
    endpoints = [partition.endpoint for partition in partitions]
    living = [session for endpoint in endpoints for session in endpoint.sessions.by_id.values()]
    reading = sum(
        (session.log.reader is not None) + sum(log.reader is not None for log in session.streams.values())
        for session in living
    )
    stores = [partition.store for partition in partitions]
    counts = counts_of(running)
    statistics: dict[str, Mapping[str, Any]] = {
        "sessions": {
            "open": len(living),
            **counts["sessions"],
        },
        "calls": {
            "running": len(tasks.calls),
            "accepted": tasks.started,
            "ended": tasks.ended,
            "refused": sum(tasks.refused.values()),
            "tasks": sum(len(endpoint.task_table.tasks) for endpoint in endpoints),
            "keys": sum(len(endpoint.once.ledger) for endpoint in endpoints),
        },
        "streams": {"open": reading + sum(len(endpoint.listens) for endpoint in endpoints) + running.rpc.open_streams},
        "detached": {
            "running": len(tasks.detached),
            "started": tasks.spawned,
            "failed": tasks.failed,
            "dropped": tasks.dropped,
            "names": sorted(work.name for work in tasks.detached.values()),
        },
        "log_bytes": {"held": sum(endpoint.retention.budget.held for endpoint in endpoints)},
        "store": {
            "name": running.store_name,
            "up": bool(stores) and all(store.failure is None for store in stores),
            "queued_bytes": 0,
            "lag": 0.0,
            **add_up(store.statistics() for store in stores),
            **counts["store"],
        },
        "outbox": {
            "waiting": 0,
            **({"dead": 0} if counts["outbox"] else {}),  # of a member that has handed everything over
            **add_up(part.outbox.statistics() for part in partitions if part.outbox),
            **counts["outbox"],
        },
    }
    if running.cluster is not None:
        statistics["cluster"] = {**running.cluster.statistics(), "claims_awaited": counts["keys"]["awaited"]}
    return statistics
