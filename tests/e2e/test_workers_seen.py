"""One admin address for several workers: what all of them do is seen there, and done wherever it has to be."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.rawmcp import Streamable, call
from tests.rigs.server import ServerProcess, running_async, stop_async, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TARGET = Path(__file__).parent / "fixtures" / "watched.py"
LIMIT = 60.0  # seconds for what has to come


class Desk:
    """Somebody at the admin address, with the token of the ready line."""

    def __init__(self, server: ServerProcess) -> None:
        found = re.findall(r"admin=(\S+)", server.ready_line)
        assert len(found) == 1, server.ready_line
        self.url, self.token = found[0].split("/console#token=")

    def _ask(self, path: str, token: str, act: bool) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        asked = urllib.request.Request(self.url + path, b"{}" if act else None, headers)
        try:
            with urllib.request.urlopen(asked, timeout=LIMIT) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def ask(self, path: str, *, token: str | None = None, act: bool = False) -> tuple[int, str]:
        return await asyncio.to_thread(self._ask, path, self.token if token is None else token, act)

    async def state(self, query: str = "", *, silent: int = 0) -> Any:
        """What is shown once so many workers do not answer: on a busy machine one may be late."""
        async with asyncio.timeout(LIMIT):
            while True:
                status, text = await self.ask(f"/console/api/state{query}")
                state = json.loads(text) if status == 200 else {"workers": []}
                if [one["state"] for one in state["workers"]] == ["ready"] * (2 - silent) + ["silent"] * silent:
                    return state

    async def numbers(self, name: str, *, up: int = 2) -> dict[str, float]:
        """One metric, added up for each worker, once so many of them answer."""
        async with asyncio.timeout(LIMIT):
            while True:
                _, text = await self.ask("/metrics")
                if sum(_read(text, "tailrace_worker_up").values()) == up:
                    return _read(text, name)


def _read(text: str, name: str) -> dict[str, float]:
    found = re.findall(rf'^{name}{{[^}}]*worker="(\d)"[^}}]*}} (\S+)$', text, re.MULTILINE)
    return {worker: sum(float(value) for at, value in found if at == worker) for worker, _ in found}


@asynccontextmanager
async def watched(tmp_path: Path) -> AsyncGenerator[tuple[ServerProcess, Desk]]:
    with Valkey() as valkey:
        flags = ("--workers", "2", "--admin", "127.0.0.1:0")
        async with running_async(tailrace_command(TARGET, *flags, store=valkey.url), tmp_path / "log") as server:
            yield server, Desk(server)


async def on_both(server: ServerProcess, desk: Desk) -> list[Streamable]:
    """Sessions, of which each worker has one at least."""
    sessions: list[Streamable] = []
    async with asyncio.timeout(LIMIT):
        while True:
            sessions.append(await Streamable(server.url).open())
            rows = (await desk.state())["sessions"]["rows"]
            if len({row["worker"] for row in rows}) == 2:
                return sessions


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await met():
            await asyncio.sleep(0.05)


async def test_counters_of_all_workers_are_on_one_page_and_rise_through_a_replacement(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, desk):

        async def ready() -> bool:
            return await desk.ask("/readyz", token="") == (200, "ready\n2 of 2 workers\n")

        await until(ready)
        sessions = await on_both(server, desk)
        for session in sessions:
            await session.call(1, "pour", {"tea": "sencha"})
        before = await desk.numbers("tailrace_calls_total")
        assert sum(before.values()) == len(sessions)
        victim = next(one for one in (await desk.state())["workers"] if one["worker"] == 1)

        os.kill(victim["pid"], signal.SIGKILL)

        async def replaced() -> bool:
            return await desk.numbers("tailrace_worker_starts_total") == {"0": 1, "1": 2}

        await until(replaced)
        assert await desk.numbers("tailrace_calls_total") == before, "what it has counted stays"
        for _ in sessions:
            await (await Streamable(server.url).open()).call(1, "pour", {"tea": "sencha"})

        server.signal(signal.SIGHUP)

        async def restarted() -> bool:
            return "restarted" in server.stderr()

        await until(restarted)
        after = await desk.numbers("tailrace_calls_total")
        assert sum(after.values()) == 2 * len(sessions), "and what they counted at their end, too"
        assert await stop_async(server) == 0


async def test_what_is_asked_for_is_done_by_whoever_has_it_and_who_sleeps_is_named(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, desk):
        assert (await desk.ask("/console/api/state", token="guessed"))[0] == 401
        sessions = await on_both(server, desk)
        while len(sessions) < 12:
            sessions.append(await Streamable(server.url).open())
        many = len(sessions)
        pages = [await desk.state(f"?limit=5&offset={offset}") for offset in range(0, many, 5)]
        rows = [row for page in pages for row in page["sessions"]["rows"]]
        assert {page["sessions"]["found"] for page in pages} == {many}
        assert len({row["id"] for row in rows}) == many
        assert [row["touched"] for row in rows] == sorted((row["touched"] for row in rows), reverse=True)

        brewing = [await session.post(call(3, "brew", {"tea": "gyokuro"}, progress="p")) for session in sessions]
        calls = (await desk.state())["calls"]["rows"]
        assert len({row["number"] for row in calls}) == len(calls) == many
        cancelled: set[int] = set()
        closed: set[tuple[str, int]] = set()
        for worker in (0, 1):
            number = next(row["number"] for row in calls if row["worker"] == worker)
            await desk.ask(f"/console/api/calls/{number}/cancel", act=True)
            name = next(row["id"] for row in rows if row["worker"] == worker)
            await desk.ask(f"/console/api/sessions/{name}/close", act=True)
            cancelled.add(number)
            closed.add((name, worker))

        async def done() -> bool:
            seen = await desk.state()
            running = {row["number"] for row in seen["calls"]["rows"]}
            return seen["sessions"]["open"] == many - 2 and not cancelled & running

        await until(done)
        for name, worker in closed:

            async def is_shown(name: str = name, worker: int = worker) -> bool:
                status, text = await desk.ask(f"/console/api/sessions/{name}")
                found = json.loads(text)
                return status == 200 and (found["state"], found["worker"]) == ("closed", worker)

            await until(is_shown)

        async def is_unknown() -> bool:
            return (await desk.ask("/console/api/calls/999/cancel", act=True))[0] == 404

        await until(is_unknown)
        state = await desk.state()

        accepted = await desk.numbers("tailrace_calls_accepted_total")
        sleeper = state["workers"][1]["pid"]
        os.kill(sleeper, signal.SIGSTOP)
        try:
            assert [one["pid"] for one in (await desk.state(silent=1))["workers"]][1] == sleeper
            assert await desk.numbers("tailrace_worker_up", up=1) == {"0": 1, "1": 0}
            assert await desk.numbers("tailrace_calls_accepted_total", up=1) == accepted, "what it has counted is shown"

            async def is_ready() -> bool:
                return (await desk.ask("/readyz"))[0] == 200

            async def is_unsure() -> bool:
                return (await desk.ask("/console/api/calls/999/cancel", act=True))[0] == 503

            await until(is_ready)  # one that takes requests is enough
            await until(is_unsure)
        finally:
            os.kill(sleeper, signal.SIGCONT)
        await desk.state()  # it answers again
        for reply in brewing:
            reply.close()
