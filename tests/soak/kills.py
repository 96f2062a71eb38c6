"""`kill -9` in the middle of calls, and a start on the same store: what was promised is there, once.

Every round is a process life: sessions of the one before are resumed and owed answers collected, calls of every kind
are made, and at a random moment the process is killed. Now and then one ends with SIGTERM instead.
"""

from __future__ import annotations

import asyncio

from tests.soak.lanes import BROKEN, HttpSession, Lane, SseSession

CALLS = 10  # a round
SESSION_ROUNDS = 6  # a session lives through so many kills
ORDERLY = 10  # every so many rounds the process is ended with SIGTERM
MOMENTS = (0.002, 0.01, 0.03, 0.06, 0.1, 0.1)  # seconds from the first call to the kill, at most
TOOLS = ("work", "work", "work", "look", "work_in_thread")
LENGTHS = (0.0, 0.0, 1.0, 5.0, 20.0, 60.0, 80.0, 600_000.0)  # milliseconds; the last is never over


async def kills(lane: Lane, rounds: int) -> None:
    """Kill so many servers."""
    store = f"sqlite:{lane.folder / 'store.db'}"
    sessions: list[tuple[int, SseSession | HttpSession]] = []
    killed = number = 0
    while killed < rounds:
        number += 1
        await lane.start(store)
        await asyncio.gather(*(session.catch_up() for _, session in sessions))
        for since, session in list(sessions):
            if number - since >= SESSION_ROUNDS:
                sessions.remove((since, session))
                await session.leave()
        while len(sessions) < 3:
            kind = HttpSession if sum(isinstance(one, HttpSession) for _, one in sessions) < 2 else SseSession
            sessions.append((number, await kind(lane).open()))
        work = [_call(lane, sessions[turn % 3][1], endless=number % ORDERLY != 0) for turn in range(CALLS)]
        late = asyncio.create_task(_open_and_forget(lane))
        calls = [asyncio.create_task(one) for one in work]
        if number % ORDERLY:
            await asyncio.sleep(lane.random.random() * lane.random.choice(MOMENTS))
            lane.kill()
            killed += 1
        else:
            await asyncio.sleep(0.02)
            await lane.term()
        await asyncio.gather(late, *calls)
    await lane.start(store)  # the last life, for what is still owed
    await asyncio.gather(*(session.catch_up() for _, session in sessions))
    for _, session in sessions:
        await session.stop()
    await lane.term()


async def _call(lane: Lane, session: SseSession | HttpSession, *, endless: bool) -> None:
    tool = lane.random.choice(TOOLS)
    ms = lane.random.choice(LENGTHS if endless and tool == "work" else LENGTHS[:-1])
    await session.ask(lane.key(), tool, {"ms": ms}, rerun=tool == "look")


async def _open_and_forget(lane: Lane) -> None:
    """A session that is begun while the process is killed: it is there or not, its hooks run once."""
    try:
        session = await HttpSession(lane).open()
        await session.leave()
    except (*BROKEN, AssertionError):
        return
