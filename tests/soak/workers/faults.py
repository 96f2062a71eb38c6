"""What happens to the workers in a round, each at a worker by chance."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable

from tests.rigs.proxy import Passed, Plan
from tests.rigs.sockets import has_connection
from tests.soak.workers.crowd import LEASE, SOUND, Crowd

REPLACED = 120.0  # seconds for a restart of all workers
Undo = Callable[[], None]


async def kill(crowd: Crowd, fault: str = "kill") -> None:
    """A worker is killed -9."""
    victim, began = crowd.random.choice(crowd.workers()), time.monotonic()
    victim.kill()
    crowd.struck(fault, victim, began)


async def sleep(crowd: Crowd, fault: str = "sleep") -> Undo:
    """A worker sleeps for longer than its lease, and wakes when the sessions are usable again.

    Where that takes two leases another process takes its place, and it is told to end, in order, when it wakes; else it
    goes on. Its sessions it has lost either way. After 30 s it would be killed.
    """
    victim, began = crowd.random.choice(crowd.workers()), time.monotonic()
    os.kill(victim.pid, signal.SIGSTOP)
    crowd.struck(fault, victim, began)

    def wake() -> None:
        with contextlib.suppress(ProcessLookupError):  # whoever sleeps for 30 s is killed
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
    crowd.proxy.plan = lambda _: SOUND


async def isolate(crowd: Crowd) -> Undo:
    """The network of one worker to Valkey is gone, that of the others is not: its connections are reset, or silent.

    It is back when the sessions are usable again, at others.
    """
    proxy, silent = crowd.proxy, crowd.random.random() < 0.5
    victim, began = crowd.random.choice(crowd.workers()), time.monotonic()
    gone = Plan(cut_after=0, cut_up_after=0, fault="black-hole") if silent else Plan(refuse=True)

    def is_its(passed: Passed) -> bool:
        return has_connection(victim.pid, passed.port, proxy.port)

    proxy.plan = lambda index: gone if is_its(proxy.connections[index]) else SOUND
    if silent:
        for passed in proxy.connections:
            if not passed.closed.is_set() and is_its(passed):
                passed.cut_after, passed.struck = passed.down, True
    else:
        proxy.cut(is_its)
    crowd.struck("isolate", victim, began)

    def mend() -> None:
        proxy.plan = lambda _: SOUND
        proxy.cut(lambda passed: passed.struck)

    return mend


async def pause(crowd: Crowd) -> None:
    """Valkey itself sleeps for up to two seconds: connections to it are there, and nothing comes of them."""
    crowd.valkey.signal(signal.SIGSTOP)
    await asyncio.sleep(crowd.random.random() * 2)
    crowd.valkey.signal(signal.SIGCONT)


async def both(crowd: Crowd) -> None:
    """A worker and Valkey are killed -9 at the same moment."""
    await kill(crowd, "both")
    await valkey(crowd)


async def relapse(crowd: Crowd) -> Undo:
    """A worker is killed -9, and in the moment in which another takes over, that one falls asleep, or a third."""
    await kill(crowd, "relapse: killed")
    await asyncio.sleep(LEASE * (0.6 + 0.6 * crowd.random.random()))
    await crowd.whole()
    return await sleep(crowd, "relapse: asleep")


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
    "isolate": isolate,
    "cut": cut,
    "pause": pause,
    "both": both,
    "relapse": relapse,
    "restart": restart,
    "storm": storm,
}
