"""Sessions by the hundred that all end at one moment, each in its own way, while SIGTERM comes as well.

A quarter has its connections reset, a quarter is ended by its client (DELETE) or by the service, the rest
is reading. Every call is running. Afterwards nothing is left in the process, hooks came in pairs, and what was
promised to those who may come back is there in the next process life.
"""

from __future__ import annotations

import asyncio

from tests.soak.lanes import BROKEN, HttpSession, Lane, SseSession

SESSIONS = 200
AT_ONCE = 20  # are opened together
WORK = (0.0, 100.0, 300.0, 500.0, 800.0)  # milliseconds
ASKED = 150  # calls that are promised or answered when it breaks loose; the others are on their way
MOMENT = 0.05  # seconds over which everything happens
FATES = ("drop", "leave", "stay", "stay")
FRESH = 20  # storms on one store


async def storms(lane: Lane, rounds: int) -> None:
    """So many storms."""
    back: list[SseSession | HttpSession] = []
    for number in range(rounds):
        store = f"sqlite:{lane.folder / f'store-{number // FRESH}.db'}"
        await lane.start(store)
        await _collect(back)
        back = await _storm(lane)
        lane.diary.round()
        if number % FRESH == FRESH - 1 or number == rounds - 1:
            await lane.start(store)
            await _collect(back)
            await lane.term()
            back = []


async def _storm(lane: Lane) -> list[SseSession | HttpSession]:
    """One; the sessions whose clients may come back."""
    sessions: list[SseSession | HttpSession] = []
    for _ in range(SESSIONS // AT_ONCE):
        kinds = [lane.random.choice((SseSession, HttpSession)) for _ in range(AT_ONCE)]
        sessions += await asyncio.gather(*(kind(lane).open() for kind in kinds))
    before = lane.promised
    calls = [
        asyncio.create_task(session.ask(lane.key(), "work", {"ms": lane.random.choice(WORK)})) for session in sessions
    ]
    until = asyncio.get_running_loop().time() + 5.0
    while lane.promised - before < ASKED and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.001)
    fates = [lane.random.choice(FATES) for _ in sessions]
    ends = [
        asyncio.create_task(_end(session, fate, lane.random.random() * MOMENT))
        for session, fate in zip(sessions, fates, strict=True)
    ]
    await asyncio.sleep(lane.random.random() * MOMENT)
    await lane.term()
    await asyncio.gather(*ends, *calls)
    for session in sessions:
        await session.stop()
    return [session for session, fate in zip(sessions, fates, strict=True) if fate != "leave" and session.owed]


async def _end(session: SseSession | HttpSession, fate: str, after: float) -> None:
    await asyncio.sleep(after)
    try:
        if fate == "drop":
            session.drop()
        elif fate == "leave":
            await session.leave()
        elif isinstance(session, SseSession):
            await session.settled()
    except (*BROKEN, AssertionError):
        return


async def _collect(sessions: list[SseSession | HttpSession]) -> None:
    """Who was cut off with an answer owed comes back for it."""
    for begin in range(0, len(sessions), AT_ONCE):
        few = sessions[begin : begin + AT_ONCE]
        await asyncio.gather(*(session.catch_up() for session in few))
        for session in few:
            await session.leave()
