"""One round for each fault: calls of every kind, the fault in their middle, and everything works again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rigs.rawmcp import HttpSse, Streamable
from tests.soak.lanes import BROKEN, HttpSession, SseSession
from tests.soak.workers.again import keyed, task
from tests.soak.workers.clients import Use, clients
from tests.soak.workers.counting import CrowdCounts, count
from tests.soak.workers.crowd import ATTEMPT, AWAY, OWED, Crowd, crowd, end_session, insist
from tests.soak.workers.cut_streams import cut_http_sse, cut_streamable
from tests.soak.workers.faults import FAULTS
from tests.soak.workers.storm import storm

SESSIONS = 6
CALLS = 24  # of them in a round
LENGTHS = (0.0, 0.0, 1.0, 5.0, 20.0, 60.0, 80.0, 400.0)  # milliseconds
TOOLS = ("work", "work", "order", "look", "work_in_thread")
CUTTING = 3  # sessions whose streams are cut, and one over HTTP+SSE
MOMENT = 0.5  # seconds from their beginning to the fault, at most
KEYS, TASKS = 8, 6  # in a round
OURS = 2  # sessions beside them: the one over HTTP+SSE, and our client's
GUST = 20  # sessions of the storm beside another fault
STORM = 200  # of one that is a round's own
STORM_OWED = 60.0  # seconds until nothing is left of it


@dataclass
class Present:
    """What lives through all the rounds."""

    sessions: list[SseSession | HttpSession] = field(default_factory=list["SseSession | HttpSession"])
    cutting: list[Streamable] = field(default_factory=list[Streamable])
    http_sse: HttpSse | None = None


async def prove(
    folder: Path, workers: int, kinds: list[str], seed: int, *, size: int = STORM
) -> tuple[CrowdCounts, Crowd]:
    """Run it; gives the counts, and what clients saw.

    Args:
        kinds: The faults, one a round.
        size: Sessions of a storm.
    """
    began = time.monotonic()
    async with crowd(folder, workers, seed) as one:
        async with clients(one) as uses:
            present = Present()
            for number, kind in enumerate(kinds):
                said = await _round(one, present, uses, kind, size)
                print(f"  {number + 1:>3}/{len(kinds)} {kind:<8} {said}", flush=True)
                if number % 4 == 3:
                    await present.sessions.pop(0).leave()
            for session in present.sessions:
                await session.stop()
                await _end(one, session.id, session if isinstance(session, SseSession) else session.client)
            for client in present.cutting:
                await _end(one, client.session_id or "", client)
            if present.http_sse is not None:
                present.http_sse.close()
                last = SseSession(one)  # type: ignore[arg-type]
                last.client = present.http_sse
                await _end(one, "", last)
        for stray in one.strays:
            await _end(one, "", stray)
        await nothing_left(one)
    counts = count(folder)
    counts.rounds = len(kinds)
    counts.seconds = time.monotonic() - began
    return counts, one


async def _round(crowd: Crowd, present: Present, uses: list[Use], kind: str, size: int) -> str:
    await _complete(crowd, present)
    sessions = present.sessions
    promised, said = crowd.promised, sum(map(len, crowd.clients.values()))
    real = _all(use() for use in uses)
    while sum(map(len, crowd.clients.values())) < said + len(uses):  # they are connected, and at work
        await asyncio.sleep(0.01)
    calls = _all(_call(crowd, crowd.random.choice(sessions)) for _ in range(CALLS))
    http_sse = present.http_sse
    assert http_sse is not None
    company = _all(
        [
            storm(crowd, size if kind == "storm" else GUST),
            cut_http_sse(crowd, http_sse),
            *(cut_streamable(crowd, client) for client in present.cutting for _ in range(2)),
            *(keyed(crowd, present.cutting) for _ in range(KEYS)),
            *(task(crowd) for _ in range(TASKS)),
        ]
    )
    await asyncio.sleep(crowd.random.random() * MOMENT)
    happened = time.monotonic()
    wake = await FAULTS[kind](crowd)
    began = time.monotonic()  # what is killed or sleeps does so at once; other faults take their time, and are over
    _, hanging = await asyncio.wait(calls, timeout=ATTEMPT)
    for call in hanging:  # its connection is one to a worker that sleeps
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    times = await asyncio.gather(*(_timed(session, began) for session in sessions))
    crowd.failovers.setdefault(kind, []).append(max(times))
    takeovers = await crowd.takeovers.settled()
    if wake is not None:
        wake()
    await asyncio.gather(*company, *real)
    await asyncio.gather(*(_call(crowd, session) for session in sessions))
    await asyncio.gather(*(usable(session) for session in sessions))
    crowd.diary.round()
    await crowd.whole()
    if kind == "storm":
        await _storm_over(crowd, OURS + len(sessions) + len(present.cutting) + len(crowd.strays))
    owed = {key for session in sessions for key in session.owed}
    taken = [seconds for one in takeovers for seconds in one.taken.values()]
    owner = f"another owner after {max(taken):4.1f} s, " if taken else ""
    told = f"{owner}usable again after {max(times):5.1f} s, promised {crowd.promised - promised:,}, all over after"
    return f"{told} {time.monotonic() - happened:5.1f} s{f', owed {len(owed)}' if owed else ''}"


def _all(work: Iterable[Awaitable[Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(one) for one in work]


async def _complete(crowd: Crowd, present: Present) -> None:
    """As many sessions as there are to be."""
    while len(present.sessions) < SESSIONS:
        present.sessions.append(await _opened(crowd, HttpSession if len(present.sessions) % 3 else SseSession))
    while len(present.cutting) < CUTTING:
        present.cutting.append(await insist(lambda: Streamable(crowd.url).open(), "a session"))
    if present.http_sse is None:
        present.http_sse = await insist(lambda: HttpSse(crowd.url).open(), "a session")


async def _call(crowd: Crowd, session: SseSession | HttpSession) -> None:
    tool = crowd.random.choice(TOOLS)
    key = crowd.key("o" if tool == "order" else "c")
    await session.ask(key, tool, {"ms": crowd.random.choice(LENGTHS)}, rerun=tool == "look")


async def _opened(crowd: Crowd, kind: type[SseSession] | type[HttpSession]) -> SseSession | HttpSession:
    return await insist(lambda: kind(crowd).open(), "a session")  # type: ignore[arg-type]


# --- whether a session works --------------------------------------------------------------------------


async def _timed(session: SseSession | HttpSession, began: float) -> float:
    await usable(session)
    return time.monotonic() - began


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
            assert status in AWAY, f"{session.id} got {status}"
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


# --- whether anything is left ---------------------------------------------------------------------------


async def _storm_over(crowd: Crowd, known: int) -> None:
    """Until no sessions are open but those that go on."""
    until = time.monotonic() + STORM_OWED
    while (found := [one["sessions"]["open"] for one in (await crowd.statistics()).values()]) and sum(found) > known:
        assert time.monotonic() < until, f"{found} sessions are open, and {known} should be"
        await asyncio.sleep(0.1)


async def _end(crowd: Crowd, id: str, session: SseSession | Streamable) -> None:
    crowd.diary.left(id)
    await end_session(session)


async def nothing_left(crowd: Crowd) -> None:
    """All sessions were ended: until every worker says that nothing is open, running, waiting or held."""
    until = time.monotonic() + OWED
    while True:
        left = {pid: found for pid, one in (await crowd.statistics()).items() if (found := _left(one))}
        if not left:
            return
        assert time.monotonic() < until, f"left behind, by worker: {left}"
        await asyncio.sleep(0.2)


def _left(numbers: dict[str, Any]) -> dict[str, Any]:
    """What is not zero of the numbers of one worker; the call that asks runs itself."""
    cluster = numbers["cluster"]
    found = {
        "sessions": numbers["sessions"]["open"],
        "calls": numbers["calls"]["running"] - 1,
        "streams": numbers["streams"]["open"],
        "detached": numbers["detached"]["running"],
        "log_bytes": numbers["log_bytes"]["held"],
        "outbox": numbers["outbox"]["waiting"],
        **{name: cluster[name] for name in ("asked", "served", "waiting")},
    }
    return {name: value for name, value in found.items() if value}
