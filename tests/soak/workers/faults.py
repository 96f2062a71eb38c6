"""What happens to the workers in a round, each at a worker by chance."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable

from tests.rigs.proxy import Plan
from tests.soak.workers.crowd import LEASE, Crowd

REPLACED = 120.0  # seconds for a restart of all workers
Undo = Callable[[], None]


async def kill(crowd: Crowd) -> None:
    """A worker is killed -9."""
    crowd.random.choice(crowd.workers()).kill()
    crowd.diary.ended("life", "kill", None)


async def sleep(crowd: Crowd) -> Undo:
    """A worker sleeps for longer than its lease, and wakes when the sessions are usable again."""
    victim = crowd.random.choice(crowd.workers())
    os.kill(victim.pid, signal.SIGSTOP)
    crowd.diary.ended("life", "kill", None)

    def wake() -> None:
        with contextlib.suppress(ProcessLookupError):  # whoever sleeps for 30 s is killed and replaced
            os.kill(victim.pid, signal.SIGCONT)

    return wake


async def valkey(crowd: Crowd) -> None:
    """Valkey is killed -9, and started again."""
    await asyncio.to_thread(crowd.valkey.kill)
    await asyncio.sleep(crowd.random.random())
    await asyncio.to_thread(crowd.valkey.start)


async def cut(crowd: Crowd) -> None:
    """The network to Valkey is gone for up to three seconds."""
    crowd.proxy.plan = lambda _: Plan(refuse=True)
    crowd.proxy.cut()
    await asyncio.sleep(crowd.random.random() * 3)
    crowd.proxy.plan = lambda _: Plan()


async def pause(crowd: Crowd) -> None:
    """Valkey itself sleeps for up to two seconds: connections to it are there, and nothing comes of them."""
    crowd.valkey.signal(signal.SIGSTOP)
    await asyncio.sleep(crowd.random.random() * 2)
    crowd.valkey.signal(signal.SIGCONT)


async def both(crowd: Crowd) -> None:
    """A worker and Valkey are killed -9 at the same moment."""
    await kill(crowd)
    await valkey(crowd)


async def relapse(crowd: Crowd) -> Undo:
    """A worker is killed -9, and in the moment in which another takes over, that one falls asleep, or a third."""
    await kill(crowd)
    await asyncio.sleep(LEASE * (0.6 + 0.6 * crowd.random.random()))
    await crowd.whole()
    return await sleep(crowd)


async def restart(crowd: Crowd) -> None:
    """All workers are replaced (SIGHUP)."""
    before = {one.pid for one in crowd.workers()}
    crowd.server.signal(signal.SIGHUP)
    until = time.monotonic() + REPLACED
    while before & {one.pid for one in crowd.workers()}:
        assert time.monotonic() < until, "the restart is not done"
        await asyncio.sleep(0.1)


async def storm(crowd: Crowd) -> None:
    """Nothing but the storm of sessions, which is ten times as large (see `rounds`)."""


FAULTS: dict[str, Callable[[Crowd], Awaitable[Undo | None]]] = {
    "kill": kill,
    "valkey": valkey,
    "sleep": sleep,
    "cut": cut,
    "pause": pause,
    "both": both,
    "relapse": relapse,
    "restart": restart,
    "storm": storm,
}
