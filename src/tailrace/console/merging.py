"""One answer of several workers': what each says of itself, added up or put in order, and where it came from.

Pure: it is given what was answered. A worker that did not answer is missing in the sums, and named as silent.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from tailrace.console.recorder import ALONE
from tailrace.console.views import MAX_ENDED, MAX_ROWS

__all__ = ["Part", "Silent", "add_up", "merge_sessions", "merge_states", "plan_page"]

_GREATEST = frozenset({"lag", "largest_batch", "lease_age", "members"})  # numbers that are no sums


class Part(NamedTuple):
    """What one worker answered.

    Attributes:
        worker: Which, as people know it: its number from 0 on.
        pid: Its process.
        leaving: It is told to end.
        value: The answer.
    """

    worker: int
    pid: int
    leaving: bool
    value: Any


class Silent(NamedTuple):
    """One that did not answer in time, or is not ready yet."""

    worker: int
    pid: int
    leaving: bool
    starting: bool


def plan_page(touched: Sequence[Sequence[float]], offset: int, limit: int) -> list[tuple[int, int]]:
    """Which sessions of each worker are on a page of all of them: how many come before it, and how many it has.

    Args:
        touched: For each worker, when its sessions were last used, the newest first.
        offset: Sessions before the page.
        limit: Sessions of it.
    """
    counts = [[0, 0] for _ in touched]
    order = heapq.merge(*([(-at, worker) for at in times] for worker, times in enumerate(touched)))
    for place, (_, worker) in enumerate(order):
        if place >= offset + limit:
            break
        counts[worker][place >= offset] += 1
    return [(before, on) for before, on in counts]


def merge_states(
    parts: Sequence[Part], silent: Sequence[Silent] = (), *, offset: int, limit: int, found: int | None = None
) -> dict[str, Any]:
    """The state of all workers as one, with a page of their sessions.

    Args:
        parts: Each one's state; one at least. Their rows are those that may be on the page.
        silent: Who did not answer.
        offset: Sessions before the page.
        limit: Sessions of it.
        found: How many sessions were found, where that is known better than from `parts`.
    """
    states = [part.value for part in parts]
    sessions = [state["sessions"] for state in states]
    rows = _rows(parts, lambda state: state["sessions"]["rows"])
    rows.sort(key=itemgetter("touched"), reverse=True)
    return {
        "service": {**states[0]["service"], "began": min(state["service"]["began"] for state in states)},
        "limits": add_up(state["limits"] for state in states),
        "totals": _totals([state["totals"] for state in states]),
        "lag": _lag(parts),
        "sessions": {
            "open": sum(one["open"] for one in sessions),
            "found": sum(one["found"] for one in sessions) if found is None else found,
            "offset": offset,
            "limit": limit,
            "rows": rows[:limit],
        },
        "calls": _running(parts, "calls"),
        "detached": _running(parts, "detached"),
        "ended": sorted(_rows(parts, itemgetter("ended")), key=itemgetter("closed"), reverse=True)[:MAX_ENDED],
        "workers": sorted([*map(_worker, parts), *map(_silent, silent)], key=itemgetter("worker", "state", "pid")),
    }


def merge_sessions(name: str, parts: Sequence[Part]) -> dict[str, Any] | None:
    """What is known of a session: by the worker in which it lives, else by that in which it ended last. What has no
    session is in all of them, and is put together."""
    known = [part for part in parts if part.value is not None]
    if not known:
        return None
    if name != ALONE:
        part = max(known, key=lambda part: (part.value["state"] != "closed", part.value.get("closed") or 0.0))
        return {**part.value, "worker": part.worker, "timeline": _lines(part)}
    lines = [line for part in known for line in _lines(part)]
    lines.sort(key=itemgetter("at"))
    return {
        **known[0].value,
        "running": _running(known, "running"),
        "detached": _running(known, "detached"),
        "timeline": lines,
        "dropped": sum(part.value["dropped"] for part in known),
    }


# --- parts ------------------------------------------------------------------------------------------


def _rows(parts: Iterable[Part], of: Callable[[Any], Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{**row, "worker": part.worker} for part in parts for row in of(part.value)]


def _running(parts: Sequence[Part], name: str) -> dict[str, Any]:
    rows = sorted(_rows(parts, lambda value: value[name]["rows"]), key=itemgetter("accepted"))
    return {"count": sum(part.value[name]["count"] for part in parts), "rows": rows[:MAX_ROWS]}


def _lines(part: Part) -> list[dict[str, Any]]:
    """Each with its place in its worker's timeline: lines of several are not where they are in one."""
    dropped = part.value["dropped"]
    lines = enumerate(part.value["timeline"], dropped)
    return [{**line, "worker": part.worker, "place": place} for place, line in lines]


def _lag(parts: Sequence[Part]) -> dict[str, Any]:
    """The slowest; and what fails where."""
    known = [part.value["lag"]["ms"] for part in parts if part.value["lag"]["ms"] is not None]
    said: dict[str, str] = {}
    for kind in ("error", "failure"):
        failing = [(part.value["lag"][kind], part.worker) for part in parts if part.value["lag"][kind]]
        grouped = groupby(sorted(failing), key=itemgetter(0))
        said[kind] = "; ".join(f"{text} (worker {', '.join(str(one) for _, one in of)})" for text, of in grouped)
    return {"ms": max(known, default=None), **said}


def _worker(part: Part) -> dict[str, Any]:
    state = part.value
    totals, limits = state["totals"], state["limits"]
    numbers = {
        "sessions": totals["sessions"]["open"],
        "calls": totals["calls"]["running"],
        "detached": state["detached"]["count"],
        "log_bytes": totals["log_bytes"]["held"],
        "outbox": totals["outbox"]["waiting"],
    }
    return {
        "worker": part.worker,
        "pid": part.pid,
        "state": "leaving" if part.leaving else "ready",
        "began": state["service"]["began"],
        "numbers": {**numbers, "ended": totals["calls"]["ended"], "streams": totals["streams"]["open"]},
        "shares": {name: round(numbers[name] / limit, 3) for name, limit in limits.items() if limit},
        "partitions": totals.get("cluster", {}).get("partitions"),
        "lag": state["lag"],
    }


def _silent(one: Silent) -> dict[str, Any]:
    state = "starting" if one.starting else "silent"
    return {"worker": one.worker, "pid": one.pid, "state": state, "leaving": one.leaving}


def _totals(totals: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    sections = dict.fromkeys(name for one in totals for name in one)
    return {name: add_up(one[name] for one in totals if name in one) for name in sections}


def add_up(all: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One section of statistics, of several: numbers are added up, or the greatest of them counts; what is true has to
    be so for all; of words, the first that says something counts."""
    total: dict[str, Any] = {}
    for name, value in ((name, value) for one in all for name, value in one.items()):
        known = total.get(name)
        if known is None:
            total[name] = value
        elif isinstance(known, bool):
            total[name] = known and bool(value)
        elif isinstance(known, str) or isinstance(value, str):
            total[name] = known or value
        else:
            total[name] = max(known, value) if name in _GREATEST else known + value
    return total
