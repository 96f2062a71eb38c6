"""Sessions by the hundred, opened, used and ended nearly at once, each in its own way; nothing of them may be left.

A third has its connections reset and comes back for its answers, a third is ended in the middle of its call (DELETE, or
by the service), the rest reads on; in the end all are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from tests.rigs.rawmcp import HttpSse, Streamable
from tests.soak.lanes import BROKEN, HttpSession, SseSession
from tests.soak.workers.crowd import ATTEMPT, OWED, Crowd, end_session

AT_ONCE = 20  # are opened together
WORK = (0.0, 50.0, 100.0, 300.0)  # milliseconds
MOMENT = 0.3  # seconds over which everything happens
FATES = ("drop", "leave", "stay")
Any_ = SseSession | HttpSession


async def storm(crowd: Crowd, size: int) -> None:
    """One; those whose opening is cut off are begun by nobody else, and ended at the end."""
    sessions: list[Any_] = []
    for begin in range(0, size, AT_ONCE):
        kinds = [crowd.random.choice((SseSession, HttpSession)) for _ in range(min(AT_ONCE, size - begin))]
        opened = await asyncio.gather(*(_opened(crowd, kind) for kind in kinds))
        sessions += [one for one in opened if one is not None]
    calls = [asyncio.create_task(_ask(crowd, session)) for session in sessions]
    await asyncio.gather(*(_end(crowd, session) for session in sessions))
    await asyncio.gather(*calls)
    for begin in range(0, len(sessions), AT_ONCE):
        await asyncio.gather(*(_gone(crowd, session) for session in sessions[begin : begin + AT_ONCE]))


async def _opened(crowd: Crowd, kind: type[Any_]) -> Any_ | None:
    session = kind(crowd)  # type: ignore[arg-type]
    session.client = HttpSse(crowd.url) if isinstance(session, SseSession) else Streamable(crowd.url)
    try:
        async with asyncio.timeout(2 * ATTEMPT):
            await session.client.open()
    except (*BROKEN, TimeoutError, AssertionError):
        crowd.seen["openings cut off"] += 1
        if isinstance(session, SseSession) and session.client.endpoint:
            crowd.strays.append(session)
        elif isinstance(session, HttpSession) and session.client.session_id:
            crowd.strays.append(session.client)
        return None
    if isinstance(session, SseSession):
        session.id = session.client.endpoint.partition("session_id=")[2]
        session.listen()
    else:
        session.id = session.client.session_id or ""
    crowd.seen["sessions opened"] += 1
    return session


async def _ask(crowd: Crowd, session: Any_) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * ATTEMPT):
            await session.ask(crowd.key("w"), "work", {"ms": crowd.random.choice(WORK)})


async def _end(crowd: Crowd, session: Any_) -> None:
    await asyncio.sleep(crowd.random.random() * MOMENT)
    fate = crowd.random.choice(FATES)
    with contextlib.suppress(*BROKEN, TimeoutError, AssertionError):
        async with asyncio.timeout(ATTEMPT):
            if fate == "drop":
                crowd.seen["cuts"] += 1
                session.drop()
            elif fate == "leave":
                crowd.diary.left(session.id)
                await session.leave()


async def _gone(crowd: Crowd, session: Any_) -> None:
    """Come back for what is owed, unless it was given up, and end it."""
    until = time.monotonic() + OWED
    while session.owed and time.monotonic() < until:
        try:
            async with asyncio.timeout(2 * ATTEMPT):
                crowd.seen["resumes"] += 1
                if not await _caught_up(session):
                    break
        except (*BROKEN, TimeoutError, AssertionError):
            crowd.seen["turned away"] += 1
            await asyncio.sleep(0.1)
    await session.stop()
    crowd.diary.left(session.id)
    await end_session(session if isinstance(session, SseSession) else session.client)
    crowd.seen["sessions ended"] += 1


async def _caught_up(session: Any_) -> bool:
    """Whether there is such a session still: its end may have been told without the client's hearing of it."""
    if isinstance(session, SseSession):
        await session.stop()
        try:
            await session.client.resume(session.client.last_event_id)
        except AssertionError as error:
            if "HTTP 404" in str(error):
                return False
            raise
        session.listen()
        await session.paid(ATTEMPT)
        return True
    for key, place in list(session.last.items()):
        reply = await session.client.get(place)
        if reply.head.status == 404:
            return False
        reply.close()
        await session.resume(key, place)
    return True
