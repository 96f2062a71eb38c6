"""What a session costs that nobody uses."""

from __future__ import annotations

import asyncio

from tailrace.cli.check.lab import Lab, together
from tailrace.cli.check.model import Failed, NotApplicable, Way, trial

__all__ = ["TRIALS"]

_WARM = 40  # sessions before the first look: code that is loaded once is no cost of a session
_SESSIONS = 200
_AT_ONCE = 20


@trial(
    "idle-memory", "An idle session costs little memory.",
    "The specification is silent: judged by the limit --session-kb, as sessions are kept for clients that may "
    "never come back",
    Way.STREAMABLE, Way.SSE, process=True,
)  # fmt: skip
async def idle_memory(lab: Lab) -> str:
    await lab.target.restart()  # what earlier trials left free in its heap would hide what sessions take
    await _open(lab, _WARM)
    await asyncio.sleep(0.3)
    before = lab.process.rss()
    await _open(lab, _SESSIONS)
    await asyncio.sleep(0.3)
    after = lab.process.rss()
    if before is None or after is None:
        raise NotApplicable("this system does not tell a process's memory")
    each = max(0, after - before) / _SESSIONS
    said = f"{each / 1024:.0f} kB a session ({_SESSIONS} sessions{' and streams' if lab.way is Way.SSE else ''})"
    if each > lab.options.max_session:
        raise Failed(f"{said}; the limit is {lab.options.max_session / 1024:.0f} kB")
    return said


TRIALS = (idle_memory,)


async def _open(lab: Lab, count: int) -> None:
    for _ in range(0, count, _AT_ONCE):
        await together(lab.client() for _ in range(_AT_ONCE))
