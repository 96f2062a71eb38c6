"""How long what a struck worker owned is nobody else's, as Valkey has it: nothing that a client waits for is in it.

From the moment of the fault until the owner's key of each partition of that worker names another member. A partition
that is empty is deleted rather than taken over; that counts apart. Valkey is asked past the proxy, by a thread, so that
neither the fault nor the clients' work is in the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

EVERY = 0.05  # seconds from one look to the next
ALLOWED = 0.5  # seconds on top of two leases, for the looks: the thread has its turn among all else on this machine
LIMIT = 60.0  # seconds after which it is not looked for any more
_OWN = "{tailrace:soak}:"
_LOOK = """
local found = {}
for _, tag in ipairs(redis.call('SMEMBERS', KEYS[1] .. 'partitions')) do
  found[#found + 1] = tag
  found[#found + 1] = redis.call('GET', KEYS[1] .. 'p:' .. tag .. ':owner') or ''
end
return found
"""


@dataclass
class Takeover:
    """The partitions of one struck worker.

    Attributes:
        fault: What struck it.
        member: Its name among the members.
        began: When (monotonic).
        taken: The partitions that another member owned then, and after how many seconds that was seen.
        deleted: Those that were empty, and are gone.
        waiting: Those that nobody else has owned yet.
        blind: The longest time between two looks, in seconds.
    """

    fault: str
    member: str
    began: float
    taken: dict[str, float] = field(default_factory=dict[str, float])
    deleted: set[str] = field(default_factory=set[str])
    waiting: set[str] = field(default_factory=set[str])
    blind: float = 0.0
    _looked: float | None = None

    def see(self, at: float, owners: Mapping[str, str]) -> None:
        """One look.

        Args:
            at: When it was answered (monotonic).
            owners: Of all partitions there are, who has them; empty: nobody.
        """
        self.blind = max(self.blind, at - (self.began if self._looked is None else self._looked))
        self._looked = at
        self.waiting |= {tag for tag, owner in owners.items() if owner == self.member}
        for tag in self.waiting - owners.keys():
            self.deleted.add(tag)
        for tag in self.waiting & owners.keys():
            if owners[tag] not in ("", self.member):
                self.taken[tag] = at - self.began
        self.waiting -= self.deleted | self.taken.keys()

    @property
    def over(self) -> bool:
        """Whatever it owned, others do, or it is gone."""
        return self._looked is not None and not self.waiting


class Takeovers:
    """All of a run.

    Args:
        port: Valkey's own.

    Attributes:
        all: Those that were seen.
        unknown: Faults that struck a worker that had not said yet who it is, as it was still starting.
    """

    def __init__(self, port: int) -> None:
        self.all: list[Takeover] = []
        self.unknown = 0
        self._port = port
        self._stop = threading.Event()
        self._looking: list[asyncio.Future[None]] = []

    def struck(self, fault: str, member: str | None, began: float) -> None:
        """Look from now on, until it is over."""
        if member is None:
            self.unknown += 1
            return
        takeover = Takeover(fault, member, began)
        self.all.append(takeover)
        self._looking.append(asyncio.ensure_future(asyncio.to_thread(self._look, takeover)))

    async def settled(self) -> list[Takeover]:
        """Wait until all are over, or their time is; gives those that were not over before."""
        looking, self._looking = self._looking, []
        await asyncio.gather(*looking)
        return self.all[len(self.all) - len(looking) :]

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._stop.set()

    def _look(self, takeover: Takeover) -> None:
        with redis.Redis(port=self._port, protocol=2, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as client:
            while not takeover.over and time.monotonic() < takeover.began + LIMIT:
                with contextlib.suppress(redis.RedisError, OSError):  # it was killed as well
                    owners = _owners(client.eval(_LOOK, 1, _OWN))
                    takeover.see(time.monotonic(), owners)
                if self._stop.wait(EVERY):
                    return


def _owners(found: Any) -> dict[str, str]:
    held = zip(found[::2], found[1::2], strict=True)
    return {tag.decode(): owner.decode().partition(":")[2] for tag, owner in held}


# --- what is told of them --------------------------------------------------------------------------------


def told(takeovers: Takeovers, lease: float) -> list[str]:
    """For people: a line for each fault."""
    if not takeovers.all:
        return []
    lines = [
        "another owner, as Valkey has it, seconds after the fault: least, median, largest "
        f"(lease {lease:g}, two leases {2 * lease:g}, and {ALLOWED:g} allowed for the looks)"
    ]
    for fault in dict.fromkeys(one.fault for one in takeovers.all):
        those = [one for one in takeovers.all if one.fault == fault]
        times = sorted(seconds for one in those for seconds in one.taken.values())
        shown = f"{times[0]:.1f}, {statistics.median(times):.1f}, {times[-1]:.1f}" if times else "none"
        deleted, waiting = (sum(len(getattr(one, what)) for one in those) for what in ("deleted", "waiting"))
        lines.append(
            f"    {fault}: {shown} (partitions {len(times)}, of workers {len(those)}; empty and deleted {deleted}; "
            f"never {waiting}; {max(one.blind for one in those):.2f} s between two looks at most)"
        )
    if takeovers.unknown:
        lines.append(f"    not timed, as they were still starting: {takeovers.unknown} workers")
    return lines


def late(takeovers: Takeovers, lease: float) -> list[str]:
    """What took longer than two leases and what is allowed for the looks, or was never seen to happen."""
    most = 2 * lease + ALLOWED
    found: list[str] = []
    for one in takeovers.all:
        for tag, seconds in one.taken.items():
            if seconds > most:
                found.append(f"{one.fault}: partition {tag} had another owner after {seconds:.1f} s, not {most:g}")
        found += [f"{one.fault}: partition {tag} had no other owner within {LIMIT:g} s" for tag in sorted(one.waiting)]
        if not one.over and not one.waiting:
            found.append(f"{one.fault}: Valkey did not tell what {one.member} owned")
    return [f"late: {what}" for what in found]
