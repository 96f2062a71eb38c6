"""What goes on in a server, in numbers: `svc.statistics()`, and what `/metrics` and the console show of it.

Nothing is counted here. Numbers are read where they are kept, and those of all partitions are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.server import Server

__all__ = ["statistics_of"]


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
    statistics: dict[str, Mapping[str, Any]] = {
        "sessions": {
            "open": len(living),
            "opened": sum(endpoint.sessions.opened for endpoint in endpoints),
            "restored": sum(endpoint.sessions.restored for endpoint in endpoints),
            "closed": sum(endpoint.sessions.closed for endpoint in endpoints),
            "resumed": sum(endpoint.streams.resumed["complete"] for endpoint in endpoints),
            "gaps": sum(endpoint.streams.resumed["gap"] for endpoint in endpoints),
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
            "name": running.store.name,
            "up": all(store.failure is None for store in stores),
            **_summed([store.statistics() for store in stores]),
            "lag": max((float(store.statistics()["lag"]) for store in stores), default=0.0),
        },
        "outbox": {"waiting": 0, **_summed([part.outbox.statistics() for part in partitions if part.outbox])},
    }
    if running.cluster is not None:
        statistics["cluster"] = running.cluster.statistics()
    return statistics


def _summed(statistics: Sequence[Mapping[str, int | float | str]]) -> dict[str, int | float | str]:
    """Numbers are added up; of words, the first that says something counts."""
    total: dict[str, int | float | str] = {}
    for name, value in ((name, value) for one in statistics for name, value in one.items()):
        known = total.get(name)
        if isinstance(known, str) or isinstance(value, str) or known is None:
            total[name] = known or value
        else:
            total[name] = known + value
    return total
