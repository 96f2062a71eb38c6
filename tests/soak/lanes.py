"""A lane: one worker process with a folder, a launcher of servers, a diary and its own chance.

Lanes run side by side. Here are their clients, too: sessions that go on from one process life to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.rigs.ports import free_port
from tests.rigs.rawhttp import Cut, Stalled, leave_all
from tests.rigs.rawmcp import HttpSse, Reply, Streamable, call, is_answer
from tests.soak.diary import Diary
from tests.soak.launcher import Launcher, Life

BROKEN = (Cut, Stalled, OSError)  # what a client meets when its server is killed
LEAVE = "leave"  # the id of the call that ends a session; its answer is nobody's
DRAIN = 20  # seconds
OWED = 60.0  # seconds in which an answer that is owed must be there after a restart


class Lane:
    """What the sessions of one lane share.

    Args:
        folder: Its files.
        seed: All of its chance.
    """

    def __init__(self, folder: Path, seed: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.random = random.Random(seed)
        self.diary = Diary(folder / "diary.jsonl")
        self.launcher = Launcher(folder)
        self.life: Life
        self.port = free_port()
        self.promised = 0  # calls, ever
        self._keys = 0

    def key(self) -> str:
        self._keys += 1
        return f"{self.folder.name}/{self._keys}"

    def accepted(self, key: str) -> None:
        """The call was promised."""
        self.promised += 1
        self.diary.accepted(key)

    async def start(self, store: str, *flags: str) -> Life:
        """Begin a process life, on the port of the one before."""
        self.life = await self.launcher.start(store, "--drain", f"{DRAIN}", *flags, port=self.port)
        return self.life

    def kill(self) -> None:
        self.life.kill()
        self.diary.ended(self.life.name, "kill", None)

    async def term(self, limit: float = DRAIN + 30.0) -> None:
        """SIGTERM, and wait for the end: the drain and 2 s, and what a busy machine needs."""
        self.life.signal(signal.SIGTERM)
        self.diary.ended(self.life.name, "term", await self.life.wait(limit))

    async def close(self) -> None:
        await leave_all()
        self.launcher.close()
        self.diary.close()


class SseSession:
    """A client of one HTTP+SSE session, reading all the time."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.client: HttpSse
        self.id = ""
        self.owed: set[str] = set()
        self._paid: set[str] = set()
        self._seen: list[str] = []  # event ids, to resume from older ones as well
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> SseSession:
        self.client = await HttpSse(self.lane.life.url).open()
        self.id = self.client.endpoint.partition("session_id=")[2]
        self.lane.diary.greeted(self.id, self.lane.life.name)
        self.listen()
        return self

    def listen(self) -> None:
        """Read its stream from now on."""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while (message := await self.client.next(60.0)) is not None:
                if (id := self.client.last_event_id) is not None:
                    self._seen.append(id)
                if "method" not in message and message["id"] != LEAVE:
                    self.owed.discard(message["id"])
                    self._paid.add(message["id"])
                    self.lane.diary.delivered(message["id"], message)
        except BROKEN:
            return

    async def ask(self, key: str, tool: str, arguments: Mapping[str, Any], *, rerun: bool = False) -> None:
        """Call a tool; the answer comes on the stream, whenever it does."""
        self.lane.diary.sent(key, self.id, rerun=rerun)
        try:
            if await self.client.post(call(key, tool, {"key": key, **arguments}, progress=key)) == 202:
                self.lane.accepted(key)
                if key not in self._paid:  # the answer may be faster than the 202, on another connection
                    self.owed.add(key)
        except BROKEN:
            return

    async def catch_up(self) -> None:
        """Resume in the next process life, at times from further back, and wait for what is owed."""
        await self.stop()
        last = self.client.last_event_id
        if self._seen and self.lane.random.random() < 0.3:
            last = self._seen[max(0, len(self._seen) - self.lane.random.randrange(1, 12))]
        await self.client.resume(last)
        self.lane.diary.greeted(self.id, self.lane.life.name)
        self.listen()
        await self.paid()

    async def paid(self, limit: float = OWED) -> None:
        """Wait until nothing is owed, or the stream is over, or for too long: `recount` tells."""
        until = asyncio.get_running_loop().time() + limit
        while self.owed and self._reading is not None and not self._reading.done():
            if asyncio.get_running_loop().time() > until:
                return
            await asyncio.sleep(0.002)

    async def leave(self) -> None:
        """The service ends the session; its stream ends."""
        self.lane.diary.given_up(self.id)
        try:
            await self.client.post(call(LEAVE, "leave"))
            await self.settled()
        except BROKEN:
            pass
        await self.stop()

    async def settled(self, limit: float = OWED) -> None:
        """The stream has ended, whoever ended it."""
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=limit)

    def drop(self) -> None:
        """Reset the stream."""
        self.client.abort()

    async def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None
        self.client.close()


class HttpSession:
    """A client of one Streamable HTTP session; each call has its own stream."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.client: Streamable
        self.id = ""
        self.last: dict[str, str] = {}  # of the calls that were promised and not answered
        self._first: list[tuple[str, str]] = []  # of those that were answered as well: the first id of the stream
        self._replies: set[Reply] = set()

    @property
    def owed(self) -> set[str]:
        return set(self.last)

    async def open(self) -> HttpSession:
        self.client = await Streamable(self.lane.life.url).open()
        self.id = self.client.session_id or ""
        self.lane.diary.greeted(self.id, self.lane.life.name)
        return self

    async def ask(self, key: str, tool: str, arguments: Mapping[str, Any], *, rerun: bool = False) -> None:
        """Call a tool, and read its stream as long as there is one."""
        self.lane.diary.sent(key, self.id, rerun=rerun)
        message = call(key, tool, {"key": key, **arguments}, progress=key)
        try:
            reply = await self.client.post(message, limit=60.0)
            if reply.is_stream:
                await self._read(key, reply)
            elif is_answer(message := await reply.json(), key) and reply.head.status == 200:
                self.lane.accepted(key)
                self.lane.diary.delivered(key, message)
            reply.close()
        except BROKEN:
            return

    async def _read(self, key: str, reply: Reply) -> None:
        self._replies.add(reply)
        try:
            while (event := await reply.stream.next(60.0)) is not None:
                if event.id is not None:
                    if key not in self.last:
                        self.lane.accepted(key)
                        self._first.append((key, event.id))
                    self.last[key] = event.id
                if event.data and is_answer(message := json.loads(event.data), key):
                    self.lane.diary.delivered(key, message)
                    self.last.pop(key, None)
                    return
        finally:
            self._replies.discard(reply)

    async def catch_up(self) -> None:
        """Resume every stream that owes an answer, and at times one that does not: its answer must be the same."""
        places = dict(self.last)
        if self._first and self.lane.random.random() < 0.5:
            places.update([self.lane.random.choice(self._first)])
        await asyncio.gather(*(self.resume(key, place) for key, place in places.items()))

    async def resume(self, key: str, place: str) -> None:
        """Resume one stream, and read it as long as its answer may take."""
        reply = await self.client.get(place)
        if reply.is_stream:
            self.lane.diary.greeted(self.id, self.lane.life.name)
            self.last[key] = place
            try:
                async with asyncio.timeout(OWED):
                    await self._read(key, reply)
            except TimeoutError:
                pass  # it stays owed: `recount` tells
        reply.close()

    async def leave(self) -> None:
        """DELETE."""
        self.lane.diary.given_up(self.id)
        with contextlib.suppress(*BROKEN):
            await self.client.delete()
        self._first.clear()
        self.last.clear()

    def drop(self) -> None:
        """Reset the streams of all calls."""
        for reply in list(self._replies):
            reply.abort()

    async def stop(self) -> None:
        for reply in list(self._replies):
            reply.close()
