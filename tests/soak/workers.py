"""`python -m tests.soak.workers`: many workers over one real Valkey, while everything that can go wrong does.

Sessions of both legacy transports are used through whichever worker the system picks. In each round one thing happens:
a worker is killed -9, Valkey is killed -9 and started again, a worker sleeps for longer than its lease and wakes, the
network to Valkey is gone for up to three seconds, or all workers are replaced (SIGHUP). Then every session resumes, and
what was promised has to be there, once. Hooks come in pairs: a greeting and a farewell for each ownership.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.rigs.ports import free_port
from tests.rigs.proxy import Plan, Proxy, running_proxy
from tests.rigs.rawhttp import leave_all
from tests.rigs.server import running_async
from tests.rigs.valkey import Valkey
from tests.soak.diary import Diary
from tests.soak.lanes import BROKEN, HttpSession, SseSession
from tests.soak.launcher import SERVICE
from tests.soak.recount import Counts, count_calls, lines

KINDS = ("kill", "valkey", "sleep", "cut", "restart")
SESSIONS = 6
CALLS = 24  # a round
LENGTHS = (0.0, 0.0, 1.0, 5.0, 20.0, 60.0, 80.0, 400.0)  # milliseconds
TOOLS = ("work", "work", "work", "look", "work_in_thread")
LEASE = 5.0
OWED = 90.0  # seconds in which sessions must be usable again, and an answer that is owed there
ATTEMPT = 3.0  # seconds until a client takes its connection for one to a worker that sleeps
DRAIN = 10


@dataclass
class Life:
    """What the sessions of `lanes` ask a lane for."""

    url: str
    name: str = "life"


@dataclass
class Crowd:
    """A lane whose server is a crowd of workers.

    Attributes:
        failovers: Seconds from a worker's end, or its falling asleep, until each session was usable again; by what
            happened.
    """

    folder: Path
    random: random.Random
    life: Life
    server: Any
    valkey: Valkey
    proxy: Proxy
    promised: int = 0
    failovers: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    _keys: int = 0

    def __post_init__(self) -> None:
        self.diary = Diary(self.folder / "diary.jsonl")

    def key(self) -> str:
        self._keys += 1
        return f"c{self._keys}"

    def accepted(self, key: str) -> None:
        self.promised += 1
        self.diary.accepted(key)

    def workers(self) -> list[psutil.Process]:
        """The processes that serve; the newest last."""
        return sorted(psutil.Process(self.server.pid).children(), key=lambda one: one.create_time())


@contextlib.asynccontextmanager
async def crowd(folder: Path, workers: int, seed: int) -> AsyncIterator[Crowd]:
    with Valkey(appendonly="yes", appendfsync="always") as valkey:
        async with running_proxy(valkey.port) as proxy:
            store = f"valkey://127.0.0.1:{proxy.port}/0"
            flags = ["--workers", str(workers), "--store", store, "--drain", str(DRAIN), "--port", str(free_port())]
            command = [sys.executable, "-m", "tailrace", "run", str(SERVICE), *flags]
            env = {"TAILRACE_SOAK_LIFE": str(folder / "life-{pid}.jsonl")}
            async with running_async(command, folder / "life.log", env=env) as server:
                yield Crowd(folder, random.Random(seed), Life(server.url), server, valkey, proxy)
                await leave_all()
                assert await asyncio.to_thread(server.stop, 2 * DRAIN + 10) == 0, server.stderr_tail()


async def usable(session: SseSession | HttpSession) -> None:
    """Resume until it works: the owner may be dead, and nobody its heir yet."""
    until = time.monotonic() + OWED
    while True:
        try:
            async with asyncio.timeout(ATTEMPT):
                status = await _resumed(session)
            if status == 200 and isinstance(session, HttpSession):
                await asyncio.gather(*(_answered(session, key, until) for key in list(session.last)))
                return
            if status == 200:
                return await session.paid(OWED)
            assert status in (502, 503), f"{session.id} got {status}"
        except (*BROKEN, TimeoutError):
            pass
        assert time.monotonic() < until, f"{session.id} could not be used within {OWED:g} s"
        await asyncio.sleep(0.05)


async def _answered(session: HttpSession, key: str, until: float) -> None:
    """Resume the stream of one call until its answer is there."""
    while key in session.last and time.monotonic() < until:
        with contextlib.suppress(*BROKEN, TimeoutError):
            async with asyncio.timeout(ATTEMPT):
                await session.resume(key, session.last[key])
        await asyncio.sleep(0.02)


async def _resumed(session: SseSession | HttpSession) -> int:
    """One attempt; the status."""
    if isinstance(session, HttpSession):
        reply = await session.client.post({"jsonrpc": "2.0", "id": f"p{time.monotonic_ns()}", "method": "ping"})
        reply.close()
        return reply.head.status
    await session.stop()
    try:
        reply = await session.client.resume(session.client.last_event_id)
    except AssertionError as error:
        if "HTTP 50" in str(error):
            return 503
        raise
    session.listen()
    return reply.head.status


async def rounds(crowd: Crowd, kinds: list[str]) -> None:
    """One round for each kind: calls, the thing in their middle, sessions that go on."""
    sessions: list[SseSession | HttpSession] = []
    for number, kind in enumerate(kinds):
        while len(sessions) < SESSIONS:
            sessions.append(await _opened(crowd, HttpSession if len(sessions) % 3 else SseSession))
        calls = [asyncio.create_task(_call(crowd, crowd.random.choice(sessions))) for _ in range(CALLS)]
        await asyncio.sleep(crowd.random.random() * 0.3)
        began = time.monotonic()
        wake = await _happens(crowd, kind)
        _, hanging = await asyncio.wait(calls, timeout=ATTEMPT)
        for call in hanging:  # its connection is one to a worker that sleeps
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        times = await asyncio.gather(*(_timed(session, began) for session in sessions))
        crowd.failovers.setdefault(kind, []).append(max(times))
        if wake is not None:
            wake()
        after = [asyncio.create_task(_call(crowd, session)) for session in sessions]
        await asyncio.gather(*after)
        await asyncio.gather(*(usable(session) for session in sessions))
        owed = {key for session in sessions for key in session.owed}
        said = f"usable again after {max(times):5.1f} s, promised {crowd.promised:,}"
        print(f"  {number + 1:>3}/{len(kinds)} {kind:<8} {said}{f', owed {len(owed)}' if owed else ''}", flush=True)
        crowd.diary.round()
        await _whole(crowd)
        if number % 4 == 3:
            await sessions.pop(0).leave()
    for session in sessions:
        await session.stop()


async def _opened(crowd: Crowd, kind: type[SseSession] | type[HttpSession]) -> SseSession | HttpSession:
    until = time.monotonic() + OWED
    while True:
        try:
            async with asyncio.timeout(ATTEMPT):
                return await kind(crowd).open()  # type: ignore[arg-type]
        except (*BROKEN, TimeoutError, AssertionError):
            if time.monotonic() > until:
                raise
        await asyncio.sleep(0.05)


async def _timed(session: SseSession | HttpSession, began: float) -> float:
    await usable(session)
    return time.monotonic() - began


async def _call(crowd: Crowd, session: SseSession | HttpSession) -> None:
    tool = crowd.random.choice(TOOLS)
    await session.ask(crowd.key(), tool, {"ms": crowd.random.choice(LENGTHS)}, rerun=tool == "look")


async def _happens(crowd: Crowd, kind: str) -> Callable[[], None] | None:
    """Do it; gives what has to be done when the sessions are usable again."""
    victim = crowd.random.choice(crowd.workers())
    if kind == "kill":
        victim.kill()
        crowd.diary.ended("life", "kill", None)
    elif kind == "sleep":
        os.kill(victim.pid, signal.SIGSTOP)
        crowd.diary.ended("life", "kill", None)
        return lambda: os.kill(victim.pid, signal.SIGCONT)
    elif kind == "valkey":
        await asyncio.to_thread(crowd.valkey.kill)
        await asyncio.sleep(crowd.random.random())
        await asyncio.to_thread(crowd.valkey.start)
    elif kind == "cut":
        crowd.proxy.plan = lambda _: Plan(refuse=True)
        crowd.proxy.cut()
        await asyncio.sleep(crowd.random.random() * 3)
        crowd.proxy.plan = lambda _: Plan()
    else:
        before = {one.pid for one in crowd.workers()}
        crowd.server.signal(signal.SIGHUP)
        until = time.monotonic() + 120
        while before & {one.pid for one in crowd.workers()}:
            assert time.monotonic() < until, "the restart is not done"
            await asyncio.sleep(0.1)
    return None


async def _whole(crowd: Crowd) -> None:
    """Until all workers are there again."""
    until = time.monotonic() + 60
    count = int(crowd.server.ready_line.partition("workers=")[2].split()[0])
    while len(crowd.workers()) != count:
        assert time.monotonic() < until, "a worker is missing"
        await asyncio.sleep(0.05)


def count(folder: Path) -> Counts:
    """What the files say."""
    counts = Counts()
    lives = {path.stem: list(lines(path)) for path in sorted(folder.glob("life-*.jsonl"))}
    count_calls(counts, list(lines(folder / "diary.jsonl")), lives)
    counts.lives = len(lives)
    registered: dict[str, int] = {}
    for name, life in lives.items():
        living: set[str] = set()
        for what, *fields in life:
            if what in ("register", "restore"):
                counts.opened += 1
                registered[fields[0]] = registered.get(fields[0], 0) + (what == "register")
                if fields[0] in living:
                    counts.unpaired += 1
                    counts.notes.append(f"unpaired: {name} greeted {fields[0]} twice")
                living.add(fields[0])
            elif what == "unregister":
                counts.closed += 1
                if fields[0] not in living:
                    counts.unpaired += 1
                    counts.notes.append(f"unpaired: {name} bade farewell to {fields[0]} twice")
                living.discard(fields[0])
        if any(what == "finish" for what, *_ in life):  # it ended in order
            counts.unpaired += len(living)
            counts.notes += [f"unpaired: {name} ended without a farewell to {session}" for session in living]
        else:
            counts.alive += len(living)
    for session, times in registered.items():
        if times != 1:
            counts.unpaired += 1
            counts.notes.append(f"unpaired: {session} was registered {times} times")
    return counts


async def prove(folder: Path, workers: int, kinds: list[str], seed: int) -> tuple[Counts, dict[str, list[float]]]:
    """Run it; gives the counts and how long sessions were without an owner."""
    began = time.monotonic()
    async with crowd(folder, workers, seed) as one:
        await rounds(one, kinds)
    counts = count(folder)
    counts.seconds = time.monotonic() - began
    return counts, one.failovers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.workers", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seed = options.seed or random.SystemRandom().randrange(1, 1 << 32)
    kinds = [options.kinds[number % len(options.kinds)] for number in range(options.rounds)]
    folder = Path(tempfile.mkdtemp(prefix="tailrace-soak-workers-"))
    print(f"{options.workers} workers, {options.rounds} rounds, seed {seed}, files in {folder}", flush=True)
    counts, failovers = asyncio.run(prove(folder, options.workers, kinds, seed))
    print(f"accepted {counts.accepted:,}, executed {counts.executed:,}, delivered {counts.delivered:,}, withdrawn "
          f"{counts.withdrawn:,}, lost {counts.lost}, doubled {counts.doubled}, interrupted {counts.interrupted} of "
          f"{counts.in_flight} in flight")  # fmt: skip
    print(f"hooks: greeted {counts.opened}, farewell {counts.closed}, alive at kills {counts.alive}, unpaired "
          f"{counts.unpaired}; process lives {counts.lives}; {counts.seconds:.0f} s")  # fmt: skip
    for kind, times in failovers.items():
        each = ", ".join(f"{seconds:.1f}" for seconds in times)
        print(f"{kind}: all sessions usable again after {each} s (lease {LEASE:g} s)")
    for note in [*counts.notes, *counts.faults()][:30]:
        print(f"  {note}")
    return 1 if counts.faults() else 0


if __name__ == "__main__":
    raise SystemExit(main())
