"""The whole server over a store that loses whatever was not yet synced, and a crash at every point of its life.

One run in virtual time notes each moment at which the process could die (`Crash`): before and after every write,
sync and callback, and whenever a client is sent something or has received it. What is on the disk then is a prefix of
what was synced, and what the clients know by then is written down with it. Each crash is then a start on what
survived: `check` says what must be on the disk, `aftermath` what the clients must find.

A record that a new part of the server journals is covered as soon as a call of `lead` makes it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tailrace import Context, Service
from tailrace.core.ports import PutSession, Record
from tailrace.server import Server, make_settings
from tailrace.stores.memory import MemoryStore
from tailrace.transports.asgi import AsgiApp
from tailrace.wire.sse import Event, Parser
from tests.rigs import rawmcp
from tests.rigs.asgi import Request
from tests.schedules.served import Errors

SYNC = 0.001  # virtual seconds until a group of writes is on the disk
ORDERS = ("h6", "s5")  # calls of the tool that runs once for each key
OWED = 5.0  # virtual seconds in which an owed answer must be there after a restart
SERVICE = Service("lossy")


@SERVICE.tool
async def quick(key: str) -> str:
    """Answers at once."""
    World.current.executed[key] += 1
    return f"quick {key}"


@SERVICE.tool
async def slow(ctx: Context, key: str, seconds: float = 0.1) -> str:
    """Says two things on its way."""
    World.current.executed[key] += 1
    await ctx.progress(1, 2)
    await asyncio.sleep(seconds)
    await ctx.progress(2, 2)
    return f"slow {key}"


@SERVICE.tool
async def silent(key: str, seconds: float = 0.2) -> str:
    """Says nothing, so that its reply is held first."""
    World.current.executed[key] += 1
    await asyncio.sleep(seconds)
    return f"silent {key}"


@SERVICE.tool(read_only=True)
async def look(key: str, seconds: float = 0.1) -> str:
    """May run again after a crash, once."""
    World.current.executed[key] += 1
    await asyncio.sleep(seconds)
    return f"look {key}"


@SERVICE.tool(once="key")
async def order(ctx: Context, key: str) -> str:
    """Runs once for each key, over whatever number of process lives."""
    World.current.executed[key] += 1
    await ctx.progress(1, 1)
    await asyncio.sleep(0.1)
    return f"ordered {key}"


@dataclass
class Disk:
    """What is safe: groups of records, each there as a whole or not at all, in order."""

    groups: list[tuple[Record, ...]] = field(default_factory=list[tuple[Record, ...]])
    secrets: list[bytes] = field(default_factory=list[bytes])
    epoch: int = 0


class LossyStore(MemoryStore):
    """Syncs groups of writes, one at a time, and says `point` at every moment that a crash could tell from the next.

    Args:
        disk: What a store before it left.
        point: Called with the name of the moment.
        batch: Most writes in one sync; the thread of a real store may take them at any moment, so one alone as well.
    """

    def __init__(self, disk: Disk, point: Callable[[str], None], batch: int = 1000) -> None:
        super().__init__(durable=True)
        self.disk = disk
        self._point = point
        self._batch = batch
        self._syncing: list[tuple[int, Sequence[Record], int]] = []
        self._secrets, self._epoch = list(disk.secrets), disk.epoch
        for group in disk.groups:
            for record in group:
                self._apply(record)

    def write(self, records: Sequence[Record]) -> int:
        self._point("before a write")
        ticket = super().write(records)
        self._point("after a write")
        return ticket

    async def close(self) -> None:
        while self._loop is not None and (self._syncing or self._pending):
            self._syncing = self._syncing or self._taken()
            self._sync()
        await super().close()

    async def secrets(self) -> list[bytes]:
        found = await super().secrets()
        self.disk.secrets = found
        self._point("after the secrets")
        return found

    async def next_epoch(self) -> int:
        found = await super().next_epoch()
        self.disk.epoch = found
        self._point("after the epoch")
        return found

    def _commit(self) -> None:
        if self._pending and not self._syncing and self._loop is not None:
            self._syncing = self._taken()
            self._loop.call_later(SYNC, self._sync)

    def _taken(self) -> list[tuple[int, Sequence[Record], int]]:
        group, self._pending = self._pending[: self._batch], self._pending[self._batch :]
        return group

    def _sync(self) -> None:
        if not self._syncing:  # `close` was faster
            return
        self._point("before a sync")
        group, self._syncing = self._syncing, []
        later, self._pending = self._pending, group
        sound, _ = self._sifted(group)  # what a claim was refused for is on no disk
        self.disk.groups.append(tuple(record for _, records, _ in sound for record in records))
        self._point("after a sync, nobody told")
        super()._commit()  # applies the group, and tells
        self._pending = later + self._pending
        self._point("after a sync, all told")
        self._commit()


@dataclass
class Known:
    """What was sent to the clients, and what has arrived there."""

    sessions: dict[str, str] = field(default_factory=dict[str, str])  # initialized: id and transport
    ended: set[str] = field(default_factory=set[str])  # their client has asked for their end
    asked: dict[str, str] = field(default_factory=dict[str, str])  # call and session
    accepted: set[str] = field(default_factory=set[str])  # a 202, or a stream with an id, was sent
    sent: dict[tuple[str, int, int], str] = field(default_factory=dict[tuple[str, int, int], str])
    arrived: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict[tuple[str, int], tuple[str, str]])
    places: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])  # of calls: their stream
    answers: dict[str, str] = field(default_factory=dict[str, str])
    executed: Counter[str] = field(default_factory=Counter[str])

    def copy(self) -> Known:
        return Known(**{name: value.copy() for name, value in vars(self).items()})

    def place(self) -> str:
        """All of it, to be compared."""
        return repr([sorted(value.items() if isinstance(value, dict) else value) for value in vars(self).values()])


@dataclass
class Crash:
    """A moment at which the process could have died."""

    where: str
    groups: int  # of the disk
    disk: Disk
    known: Known

    def left(self) -> Disk:
        """What survives."""
        return Disk(list(self.disk.groups[: self.groups]), list(self.disk.secrets), self.disk.epoch)


class World:
    """One process life, its clients, and the moments at which it could have ended."""

    current: ClassVar[World]

    def __init__(self, disk: Disk, known: Known, batch: int = 1000) -> None:
        World.current = self
        self.disk = disk
        self.known = known
        self.executed = known.executed
        self.batch = batch
        self.crashes: list[Crash] = []
        self.requests: list[Request] = []
        self.errors = Errors()

    def point(self, where: str) -> None:
        disk = Disk(self.disk.groups, list(self.disk.secrets), self.disk.epoch)
        self.crashes.append(Crash(where, len(self.disk.groups), disk, self.known.copy()))

    async def start(self) -> None:
        logging.getLogger("tailrace").addHandler(self.errors)
        store = LossyStore(self.disk, self.point, self.batch)
        self.server = Server(SERVICE, make_settings({"keep_alive": 0.0, "drain": 2.0}), store)
        self.app = AsgiApp(self.server)
        await self.server.start()
        assert await self.request("GET", "/readyz", []).head() == 200

    async def stop(self) -> None:
        try:
            await self.server.stop()
            for request in self.requests:
                await asyncio.wait([request.task], timeout=60.0)
                assert request.task.done(), "a request waits for ever"
            assert not self.errors.texts, f"logged as our errors: {self.errors.texts}"
        finally:
            logging.getLogger("tailrace").removeHandler(self.errors)

    def request(
        self, method: str, target: str, headers: list[tuple[str, str]], body: Any = None, **more: Any
    ) -> Request:
        data = b"" if body is None else json.dumps(body).encode()
        request = Request(self.app, method, target, headers, data, **more)
        self.requests.append(request)
        return request


class Peer:
    """A client of one session; what it is sent and what it receives goes into `Known`."""

    def __init__(self, world: World, id: str = "") -> None:
        self.world = world
        self.id = id

    def _streaming(self, key: str | None = None, *, first: str = "") -> dict[str, Any]:
        """What a request is made with whose reply may be a stream; `key` is the call it carries."""
        sent, arriving = Parser(empty=True), Parser(empty=True)
        offset = 0

        def on_sent(data: bytes) -> None:
            if streams(request()):
                for event in sent.feed(data):
                    self._sent(event, key)
                self.world.point("a client is sent something")

        def on_data(at: Request) -> None:
            nonlocal offset
            if streams(at):
                data, offset = at.received[offset:], len(at.received)
                for event in arriving.feed(data):
                    self._arrived(event, key)
                self.world.point("a client has received something")

        def request() -> Request:
            return found[0]

        found: list[Request] = []
        return {"on_sent": on_sent, "on_data": on_data, "on_head": found.append}

    def _place(self, event: Event) -> tuple[int, int]:
        assert event.id is not None, f"an event without an id: {event}"
        place = self.world.server.endpoint.seals.open(event.id, "")
        return place.stream, place.seq

    def _sent(self, event: Event, key: str | None) -> None:
        known = self.world.known
        stream, seq = self._place(event)
        if key is not None:
            known.accepted.add(key)
            known.places[key] = self.id, stream
        if event.event == "message" and event.data:
            before = known.sent.setdefault((self.id, stream, seq), event.data)
            assert before == event.data, f"event {seq} of stream {stream} was {before}, and now is {event.data}"

    def _arrived(self, event: Event, key: str | None) -> None:
        known = self.world.known
        stream, _ = self._place(event)
        assert event.id is not None
        first, _ = known.arrived.get((self.id, stream), (event.id, ""))
        known.arrived[self.id, stream] = first, event.id
        if event.event == "message" and event.data:
            message = json.loads(event.data)
            if "method" not in message:
                before = known.answers.setdefault(message["id"], event.data)
                assert before == event.data, f"{message['id']} was answered {before}, and now {event.data}"


def streams(request: Request) -> bool:
    return "event-stream" in request.headers.get("content-type", "")


class SsePeer(Peer):
    """HTTP+SSE."""

    async def open(self) -> SsePeer:
        self.listen(None)
        assert await self.stream.until(lambda: b"\n\n" in self.stream.received)
        url = self.stream.received.partition(b"data: ")[2].partition(b"\n")[0].decode()
        self.id = url.partition("session_id=")[2]
        await self.post(rawmcp.initialize("2024-11-05", f"init {self.id}")).head()
        assert await self.stream.until(lambda: b'"result"' in self.stream.received)
        await self.post(rawmcp.notification("notifications/initialized")).head()
        return self

    def listen(self, last: str | None) -> None:
        headers = [("accept", "text/event-stream"), *([("last-event-id", last)] if last else [])]
        self.stream = self.world.request("GET", "/sse", headers, **self._streaming())

    def post(self, message: Any, **more: Any) -> Request:
        target = f"/messages/?session_id={self.id}"
        return self.world.request("POST", target, [("content-type", "application/json")], message, **more)

    def _sent(self, event: Event, key: str | None) -> None:
        if event.event == "message" and '"serverInfo"' in event.data:
            self.world.known.sessions[self.id] = "sse"
        if self.id:  # else it is the first event, which names the session
            super()._sent(event, key)

    def _arrived(self, event: Event, key: str | None) -> None:
        if event.event == "endpoint":
            self.id = event.data.partition("session_id=")[2]
        super()._arrived(event, key)

    async def ask(self, key: str, tool: str, **arguments: Any) -> None:
        self.world.known.asked[key] = self.id

        def on_head(request: Request) -> None:
            if request.status == 202:
                self.world.known.accepted.add(key)
                self.world.known.places[key] = self.id, 0
            self.world.point("a client is told the status of a call")

        await self.post(rawmcp.call(key, tool, {"key": key, **arguments}, progress=key), on_head=on_head).head()


class StreamablePeer(Peer):
    """Streamable HTTP with a session."""

    async def open(self) -> StreamablePeer:
        def on_head(request: Request) -> None:
            self.id = request.headers["mcp-session-id"]
            self.world.known.sessions[self.id] = "streamable"
            self.world.point("a client is given a session")

        await self.post(rawmcp.initialize("2025-11-25", "init"), on_head=on_head).whole()
        await self.post(rawmcp.notification("notifications/initialized")).head()
        self.listener = self.listen(None)
        assert await self.listener.until(lambda: b"\n\n" in self.listener.received)
        return self

    def headers(self) -> list[tuple[str, str]]:
        headers = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]
        return [*headers, ("mcp-session-id", self.id)] if self.id else headers

    def post(self, message: Any, **more: Any) -> Request:
        return self.world.request("POST", "/mcp", self.headers(), message, **more)

    def listen(self, last: str | None) -> Request:
        headers = [*self.headers(), *([("last-event-id", last)] if last else [])]
        return self.world.request("GET", "/mcp", headers, **self._streaming())

    async def ask(self, key: str, tool: str, **arguments: Any) -> Request:
        self.world.known.asked[key] = self.id
        message = rawmcp.call(key, tool, {"key": key, **arguments}, progress=key)
        request = self.post(message, **self._streaming(key))
        await request.head()
        return request

    async def leave(self) -> None:
        self.world.known.ended.add(self.id)
        assert await self.world.request("DELETE", "/mcp", self.headers()).head() == 200


# --- the life that is cut short at each of its moments ------------------------------------------------


async def lead(found: list[Crash], batch: int) -> None:
    """Two transports, calls of every kind, a resume, a cut, a push, a session that ends; then an orderly end."""
    world = World(Disk(), Known(), batch)
    try:
        await world.start()
        sse, http, brief = await asyncio.gather(
            SsePeer(world).open(), StreamablePeer(world).open(), StreamablePeer(world).open()
        )
        await http.ask("h0", "slow")
        calls = [sse.ask("s1", "slow"), sse.ask("s2", "quick"), sse.ask("s3", "look")]
        posts = [http.ask("h1", "slow"), http.ask("h2", "quick"), http.ask("h3", "silent"), http.ask("h4", "look")]
        calls += [sse.ask("s4", "slow", seconds=60.0)]
        posts += [http.ask("h6", "order")]
        calls += [sse.ask("s5", "order")]
        posts += [http.ask("h5", "slow", seconds=60.0), brief.ask("b1", "slow", seconds=60.0)]
        replies = await asyncio.gather(*posts, *calls)
        world.server.endpoint.sessions.by_id[http.id].notify("notifications/tools/list_changed")
        cut = replies[0]
        assert isinstance(cut, Request)
        cut.disconnect()
        await asyncio.sleep(0.05)
        sse.stream.disconnect()
        sse.listen(world.known.arrived[sse.id, 0][1])
        await brief.leave()
        await asyncio.sleep(0.15)
        await resumed(world, http, "h1")
        await asyncio.sleep(0.1)
        await world.stop()
    finally:
        found.extend(world.crashes)


async def resumed(world: World, peer: StreamablePeer, key: str) -> None:
    """Ask for a call's stream, from its first event on, until its answer is there."""
    first, _ = world.known.arrived[world.known.places[key]]
    request = peer.listen(first)
    await awaited(world, request, [key])


async def awaited(world: World, request: Request, keys: Sequence[str]) -> None:
    assert await request.head() == 200, f"a resume was answered {request.status}: {request.received!r}"
    assert request.headers["tailrace-resume"] == "complete", "a resume is not complete"
    marks = [json.dumps(key).encode() for key in keys]

    def there() -> bool:
        bodies = request.received.split(b"\n\n")[:-1]
        return all(any(b'"method"' not in body and b'"id":' + mark in body for body in bodies) for mark in marks)

    try:
        async with asyncio.timeout(OWED):
            assert await request.until(there), f"the stream ended without the answers to {keys}"
    except TimeoutError:
        missing = [key for key in keys if json.dumps(key).encode() not in request.received]
        raise AssertionError(f"accepted, and never answered: {missing or keys}; got {request.received!r}") from None


# --- what must be true of every crash ------------------------------------------------------------------


def check(crash: Crash) -> None:
    """What the disk must hold for what the clients were told."""
    known, kept = crash.known, LossyStore(crash.left(), lambda _: None)._kept
    for session, transport in known.sessions.items():
        if session not in known.ended:
            there = session in kept and isinstance(kept[session].record, PutSession)
            assert there, f"{crash.where}: a {transport} session was promised, and is not on the disk"
    for key in known.accepted:
        session, stream = known.places[key]
        if session in known.ended:
            continue
        stored = [json.loads(call.data)["request_id"] for call in kept[session].calls.values()]
        payloads = [json.loads(event.payload) for event in kept[session].events.get(stream, {}).values()]
        answered = any(payload.get("id") == key and "method" not in payload for payload in payloads)
        assert (key in stored) != answered, f"{crash.where}: {key} was accepted; on the disk: {stored}, {payloads}"
    for (session, stream, seq), payload in known.sent.items():
        if session not in known.ended:
            events = {event.seq: event.payload.decode() for event in kept[session].events.get(stream, {}).values()}
            assert events.get(seq) == payload, f"{crash.where}: event {seq} was sent, and is not on the disk: {events}"


async def aftermath(crash: Crash, found: list[Crash]) -> None:
    """Start on what survived: everything that was promised is there, once and as it was; and life goes on."""
    world = World(crash.left(), crash.known.copy())
    known = world.known
    before = dict(known.sent)
    try:
        await world.start()
        for session, transport in sorted(known.sessions.items(), key=lambda item: item[1], reverse=True):
            if session not in known.ended:
                await (_return_sse if transport == "sse" else _return_streamable)(world, session, before)
        await world.stop()
    finally:
        found.extend(world.crashes)
    for key in known.accepted - {"s3", "h4"}:  # those only read
        assert known.executed[key] <= 1, f"{key} ran {known.executed[key]} times"
    assert max(known.executed[key] for key in ORDERS) <= 1, f"an order ran twice: {known.executed}"
    assert max(known.executed.values(), default=0) <= 2, f"run again more than once: {known.executed}"


def owed(known: Known, session: str) -> list[str]:
    return sorted(key for key in known.accepted if known.asked[key] == session)


def check_new(key: str, world: World, before: dict[tuple[str, int, int], str]) -> None:
    """The events of a new call stand behind all that were ever sent on their stream."""
    session, stream = world.known.places[key]
    used = [seq for (of, on, seq) in before if (of, on) == (session, stream)]
    fresh = [seq for (of, on, seq) in world.known.sent if (of, on) == (session, stream) and (of, on, seq) not in before]
    assert min(fresh) > max(used, default=0), f"numbers {fresh} of stream {stream} come after {used}"


async def _return_sse(world: World, session: str, before: dict[tuple[str, int, int], str]) -> None:
    peer = SsePeer(world, session)
    if (session, 0) not in world.known.arrived:
        return  # it has seen no id: it begins anew
    peer.listen(world.known.arrived[session, 0][0])
    await awaited(world, peer.stream, owed(world.known, session))
    key = f"new {world.disk.epoch} {session}"
    await peer.ask(key, "quick")
    await awaited(world, peer.stream, [key])
    check_new(key, world, before)


async def _return_streamable(world: World, session: str, before: dict[tuple[str, int, int], str]) -> None:
    peer, known = StreamablePeer(world, session), world.known
    for key in owed(known, session):
        if known.places[key] in known.arrived:  # else it has seen no id, and cannot ask
            await resumed(world, peer, key)
    key = f"new {world.disk.epoch} {session}"
    reply = await peer.ask(key, "slow")
    assert await reply.until(lambda: b'"result"' in reply.received), f"no answer to a new call: {reply.received!r}"
    check_new(key, world, before)
    assert (session, known.places[key][1]) not in {(of, on) for of, on, _ in before}, "a stream's number is used again"
    for key in ORDERS:
        await _order_again(world, peer, key)


async def _order_again(world: World, peer: StreamablePeer, key: str) -> None:
    """Ask with the same key: what was answered is answered again, and nothing runs twice."""
    id, ran = f"again {world.disk.epoch} {key} {peer.id}", world.known.executed[key]
    reply = peer.post(rawmcp.call(id, "order", {"key": key}))
    assert b'"result"' in await reply.whole(), f"{key} was asked again: {reply.received!r}"
    assert not ran or world.known.executed[key] == ran, f"{key} ran again"
    if (before := world.known.answers.get(key)) is not None:
        text = rawmcp.text_of(json.loads(before))
        assert json.dumps(text).encode() in reply.received, f"{key} was answered {text!r}, and now {reply.received!r}"
