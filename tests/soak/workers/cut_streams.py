"""Calls with numbered notifications whose streams the client drops every few events, to resume at another worker.

Each event has to come once and in order, whatever becomes of the owner meanwhile; what a resume lacks, it has to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from tests.rigs.rawhttp import Stalled
from tests.rigs.rawmcp import HttpSse, Reply, Streamable, call, is_answer
from tests.soak.lanes import BROKEN
from tests.soak.workers.crowd import ATTEMPT, AWAY, Crowd, insist

COUNT = 60  # notifications in a call
EVERY = (0.0, 0.002, 0.01)  # seconds between two of them
FEW = 24  # events that are read before a cut, at most


@dataclass
class Heard:
    """What the client of one call has, from all its streams together."""

    key: str
    last: str | None = None  # the id to resume from
    numbers: list[int] = field(default_factory=list[int])
    ids: list[str] = field(default_factory=list[str])
    answer: dict[str, Any] | None = None
    gaps: int = 0

    def take(self, id: str | None, data: str) -> None:
        if id is not None:
            self.last = id
        if not data:
            return
        message = json.loads(data)
        if is_answer(message, self.key):
            self.answer = message
        elif message.get("method") == "notifications/message" and message["params"]["data"]["of"] == self.key:
            self.numbers.append(message["params"]["data"]["n"])
        else:
            return
        self.ids.append(str(id))

    def write_down(self, crowd: Crowd) -> None:
        """What was interrupted ends anywhere; where a gap was named, anything may be missing but nothing doubled."""
        if self.answer is None:
            return
        crowd.diary.delivered(self.key, self.answer)
        whole = not self.answer.get("result", {"isError": True}).get("isError")
        expected = 0 if self.gaps else COUNT if whole else max(self.numbers, default=-1) + 1
        crowd.diary.events(self.key, self.numbers, expected, len(self.ids) - len(set(self.ids)))


async def cut_streamable(crowd: Crowd, client: Streamable) -> None:
    """One call over Streamable HTTP."""
    heard = Heard(crowd.key("s"))
    crowd.diary.sent(heard.key, client.session_id or "")
    try:
        async with asyncio.timeout(ATTEMPT):
            reply = await client.post(_burst(crowd, heard.key))
    except (*BROKEN, TimeoutError):
        return  # it was not promised
    if not reply.is_stream:
        if reply.head.status in AWAY:
            crowd.seen["turned away"] += 1
            return reply.close()
        heard.answer = await reply.json()
        return heard.write_down(crowd)
    await _read(crowd, heard, reply)
    if heard.last is None:
        return None
    crowd.accepted(heard.key)
    while heard.answer is None:

        async def resume() -> Reply | None:
            assert heard.last is not None
            return _resumed(crowd, await client.get(heard.last))

        reply = await insist(resume, f"the resume of {heard.key} in {client.session_id}")
        heard.gaps += reply.head.get("tailrace-resume") == "gap"
        await _read(crowd, heard, reply)
    return heard.write_down(crowd)


async def cut_http_sse(crowd: Crowd, client: HttpSse) -> None:
    """One call over HTTP+SSE, on the session's one stream, which is open again afterwards."""
    heard = Heard(crowd.key("s"), last=client.last_event_id)
    crowd.diary.sent(heard.key, client.endpoint)
    with contextlib.suppress(*BROKEN, TimeoutError):
        async with asyncio.timeout(ATTEMPT):
            if await client.post(_burst(crowd, heard.key)) == 202:
                crowd.accepted(heard.key)
            else:
                crowd.seen["turned away"] += 1
                return
        assert client.reply is not None
        await _read(crowd, heard, client.reply)
        while heard.answer is None:
            await _resume_http_sse(crowd, heard, client)
            await _read(crowd, heard, client.reply)
    client.last_event_id = heard.last
    await _resume_http_sse(crowd, heard, client)
    heard.write_down(crowd)


async def _resume_http_sse(crowd: Crowd, heard: Heard, client: HttpSse) -> None:
    async def resume() -> Reply | None:
        try:
            reply = _resumed(crowd, await client.resume(heard.last))
        except AssertionError as error:  # it says why
            if not any(f"HTTP {status}" in str(error) for status in AWAY):
                raise
            crowd.seen["turned away"] += 1
            return None
        return reply

    reply = await insist(resume, f"the resume of {heard.key} at {client.endpoint}")
    heard.gaps += reply.head.get("tailrace-resume") == "gap"


def _resumed(crowd: Crowd, reply: Reply) -> Reply | None:
    if reply.head.status in AWAY:
        crowd.seen["turned away"] += 1
        return reply.close()
    assert reply.head.status == 200, f"a resume was answered with HTTP {reply.head.status}"
    crowd.seen["resumes"] += 1
    crowd.seen["gaps"] += reply.head.get("tailrace-resume") == "gap"
    return reply


async def _read(crowd: Crowd, heard: Heard, reply: Reply) -> None:
    """Read a few events, and drop the connection."""
    with contextlib.suppress(*BROKEN, Stalled, TimeoutError):
        async with asyncio.timeout(ATTEMPT):
            for _ in range(crowd.random.randrange(1, FEW)):
                if (event := await reply.stream.next()) is None:
                    return reply.close()
                heard.take(event.id, event.data)
                if heard.answer is not None:
                    return reply.close()
    crowd.seen["cuts"] += 1
    return reply.abort() if crowd.random.random() < 0.5 else reply.close()


def _burst(crowd: Crowd, key: str) -> dict[str, Any]:
    return call(key, "burst", {"key": key, "count": COUNT, "every": crowd.random.choice(EVERY)})
