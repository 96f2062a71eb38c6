"""How the schedules of a race are explored: all of them within a bound on deviations, and many more on request.

Under `detangle` the event loop is simulated: whenever more than one task could run next, the explorer
decides, and time is virtual. `exhaust` runs *every* schedule that differs from asyncio's own order at
no more than `delays` places. With ``TAILRACE_SCHEDULES=10000`` each race also gets that many schedules
without a bound (random walks and probabilistic concurrency testing in turn).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import detangle
import pytest

Scenario: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

MORE = int(os.environ.get("TAILRACE_SCHEDULES") or "0")
SEED = 20261121
LIMITS: dict[str, Any] = {"database": False, "check_leaks": True, "max_time": 3600.0, "max_steps": 20_000}


def exhaust(scenario: Scenario, *, delays: int) -> int:
    """Run all schedules of `scenario` with at most `delays` deviations; how many there were."""
    with untraced():
        stats = detangle.explore(scenario, strategy=detangle.DFS(max_delays=delays), runs=1_000_000, **LIMITS)
        assert stats.exhausted
        if MORE:
            stats.runs += detangle.explore(scenario, strategy="auto", seed=SEED, runs=MORE, **LIMITS).runs
    return stats.runs


def fault(scenario: Scenario, *, delays: int) -> str:
    """The fault that the explorer finds in `scenario` within the same bound; fails if it finds none."""
    with untraced(), pytest.raises(detangle.BugFound) as found:
        detangle.explore(scenario, strategy=detangle.DFS(max_delays=delays), runs=100_000, shrink=False, **LIMITS)
    return str(found.value.report.failure.message)


@contextmanager
def untraced() -> Iterator[None]:
    """Without coverage: the same lines thousands of times, which would take three times as long."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


def in_order(reorder: bool = False) -> None:
    """From here on tasks run in asyncio's own order (or, with `reorder`, in the explorer's again)."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, detangle.SimLoop)
    loop.config = loop.config.replace(reorder=reorder)


@asynccontextmanager
async def racing() -> AsyncIterator[None]:
    """Only what happens within is reordered: what leads up to the race, and its aftermath, need no exploring."""
    in_order(reorder=True)
    yield
    in_order()


async def race(*ends: Callable[[], Awaitable[None]]) -> None:
    """Let all of `ends` happen at once, and wait until the last is through."""
    async with racing():
        await asyncio.gather(*(end() for end in ends))
