"""The workers under proof, with their Valkey and the network to it; and how a client insists on a reply of theirs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.rigs.ports import free_port
from tests.rigs.proxy import Plan, Proxy, running_proxy
from tests.rigs.rawhttp import leave_all
from tests.rigs.rawmcp import Streamable, modern_call, modern_post
from tests.rigs.server import ServerProcess, running_async
from tests.rigs.valkey import Valkey
from tests.soak.diary import Diary
from tests.soak.lanes import BROKEN, LEAVE, SseSession
from tests.soak.launcher import SERVICE
from tests.soak.recount import lines
from tests.soak.workers.takeovers import Takeovers

LEASE = 5.0  # seconds, the default
OWED = 90.0  # seconds in which sessions must be usable again, and an answer that is owed there
ATTEMPT = 3.0  # seconds until a client takes its connection for one to a worker that sleeps
DRAIN = 10
SOUND = Plan(fault="black-hole")  # a network to Valkey that is in order; once it is cut, nothing is heard of it
AWAY = (502, 503, 504)  # no worker has it at the moment, or nobody knows what became of the one that had
T = TypeVar("T")


@dataclass
class Life:
    """What the sessions of `lanes` ask a lane for."""

    url: str
    name: str = "life"


@dataclass
class Crowd:
    """A lane whose server is a crowd of workers.

    Attributes:
        failovers: Seconds from a worker's end, or its falling asleep, until each session was usable again; after
            other faults from their end on; by what happened.
        seen: How often clients saw what: resumes, gaps, cuts, attempts that were turned away.
        strays: Sessions whose opening was cut off; they are ended when the workers are whole again.
        clients: What became of the calls of real clients, by client: "" or why it failed.
        takeovers: How long what a struck worker owned was nobody else's.
    """

    folder: Path
    random: random.Random
    life: Life
    server: ServerProcess
    valkey: Valkey
    proxy: Proxy
    promised: int = 0
    failovers: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    seen: Counter[str] = field(default_factory=Counter[str])
    strays: list[SseSession | Streamable] = field(default_factory=list["SseSession | Streamable"])
    clients: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    _keys: int = 0

    def __post_init__(self) -> None:
        self.diary = Diary(self.folder / "diary.jsonl")
        self.takeovers = Takeovers(self.valkey.port)

    @property
    def url(self) -> str:
        return self.life.url

    def key(self, kind: str = "c") -> str:
        self._keys += 1
        return f"{kind}{self._keys}"

    def accepted(self, key: str) -> None:
        self.promised += 1
        self.diary.accepted(key)

    def workers(self) -> list[psutil.Process]:
        """The processes that serve; the newest last."""
        return sorted(psutil.Process(self.server.pid).children(), key=lambda one: one.create_time())

    def struck(self, fault: str, worker: psutil.Process, began: float) -> None:
        """What it was asked is in flight, and what it owns somebody else's to take.

        Args:
            began: When the fault did (monotonic).
        """
        self.diary.ended("life", "kill", None)
        life = lines(self.folder / f"life-{worker.pid}.jsonl")
        self.takeovers.struck(fault, next((said[1] for said in life if said[0] == "member"), None), began)

    async def whole(self) -> None:
        """Wait until all workers are there again."""
        count = int(self.server.ready_line.partition("workers=")[2].split()[0])
        until = time.monotonic() + 60
        while len(self.workers()) != count:
            assert time.monotonic() < until, "a worker is missing"
            await asyncio.sleep(0.05)

    async def statistics(self) -> dict[int, dict[str, Any]]:
        """The numbers of each worker, which a tool tells: asked until every worker has been hit."""
        found: dict[int, dict[str, Any]] = {}

        async def ask() -> bool:
            reply = await modern_post(self.url, modern_call("numbers", "numbers"))
            if reply.head.status in AWAY:
                return reply.close() is not None
            told = (await reply.answer("numbers"))["result"]["structuredContent"]
            found[told["pid"]] = told["statistics"]
            return True

        until = time.monotonic() + OWED
        while {one.pid for one in self.workers()} - found.keys():
            assert time.monotonic() < until, "a worker was never hit"
            await insist(ask, "numbers")
        return {one.pid: found[one.pid] for one in self.workers() if one.pid in found}


async def insist(attempt: Callable[[], Awaitable[T]], what: str, pause: float = 0.05) -> T:
    """Try again, at a worker by chance, while connections break, hang or are turned away (the attempt is false)."""
    until = time.monotonic() + OWED
    while True:
        with contextlib.suppress(*BROKEN, TimeoutError):
            async with asyncio.timeout(ATTEMPT):
                if found := await attempt():
                    return found
        assert time.monotonic() < until, f"{what}: nothing came of it within {OWED:g} s"
        await asyncio.sleep(pause)


async def end_session(session: SseSession | Streamable) -> None:
    """End it for good, whatever happens meanwhile: DELETE, or over HTTP+SSE its `leave` tool."""

    async def delete() -> bool:
        if isinstance(session, Streamable):
            return await session.delete() in (200, 404)
        leave = {"jsonrpc": "2.0", "id": LEAVE, "method": "tools/call", "params": {"name": "leave", "arguments": {}}}
        return await session.client.post(leave) == 404  # a 202 says that it will be, in a moment

    await insist(delete, "the end of a session")


@contextlib.asynccontextmanager
async def crowd(folder: Path, workers: int, seed: int) -> AsyncIterator[Crowd]:
    """Start them; at the end all of them end in order."""
    with Valkey(appendonly="yes", appendfsync="always") as valkey:
        async with running_proxy(valkey.port, lambda _: SOUND) as proxy:
            store = f"valkey://127.0.0.1:{proxy.port}/0"
            flags = ["--workers", str(workers), "--store", store, "--drain", str(DRAIN), "--port", str(free_port())]
            command = [sys.executable, "-m", "tailrace", "run", str(SERVICE), *flags, "--publish", "log:"]
            env = {"TAILRACE_SOAK_LIFE": str(folder / "life-{pid}.jsonl")}
            async with running_async(command, folder / "life.log", env=env) as server:
                one = Crowd(folder, random.Random(seed), Life(server.url), server, valkey, proxy)
                try:
                    yield one
                finally:
                    one.takeovers.close()
                await leave_all()
                one.diary.close()
                assert await asyncio.to_thread(server.stop, 2 * DRAIN + 40) == 0, server.stderr_tail()


def plain(result: Any) -> dict[str, Any]:
    """A result without what differs between two askings for it (ids, "replayed"), for the diary."""
    outcome = (result.get("_meta") or {}).get("io.tailrace/outcome")
    found = {"content": result.get("content"), "isError": bool(result.get("isError"))}
    return {"result": {**found, "_meta": {} if outcome is None else {"io.tailrace/outcome": outcome}}}


def shown(message: Any) -> str:
    """Some of it, for people."""
    return json.dumps(message)[:300]
