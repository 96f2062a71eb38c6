"""The whole server in memory, its client, and everything that may happen to a call between them, by name.

Three ways of asking: HTTP+SSE, Streamable HTTP with a session, and the stateless version. All that
happens in a race happens at one moment of virtual time, so that timers take part in it as well.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeAlias

from tailrace import Context, Service, Session
from tailrace.core.session import Lifecycle
from tailrace.server import Server, make_settings
from tailrace.transports.asgi import AsgiApp
from tests.rigs import rawmcp
from tests.rigs.asgi import Request
from tests.schedules.conversation import WatchedStore
from tests.schedules.exploring import in_order, race

Headers: TypeAlias = list[tuple[str, str]]
ENDS = ("close", "shutdown", "disconnect", "push", "keepalive", "answer", "resume")
MOMENT = 1.0  # when everything happens; the server's clock ticks then, too
BEFORE = {"asking": 0.0, "holding": 0.05, "running": 0.1}  # how long before that the call is made, in seconds
CALL = 7  # the request id
SERVICE = Service("mill")


@SERVICE.tool
async def work(ctx: Context, quiet: bool = False) -> str:
    """Says two things, waits until it may go on, says a third and answers; or only waits and answers."""
    return await House.current.work(ctx, quiet)


@SERVICE.on_register_session
async def registered(session: Session) -> None:
    await House.current.hook("register", session)


@SERVICE.on_restore_session
async def restored(session: Session) -> None:
    await House.current.hook("restore", session)


@SERVICE.on_unregister_session
async def unregistered(session: Session) -> None:
    await House.current.hook("unregister", session)


class Errors(logging.Handler):
    """Keeps the text of every ERROR record."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class House:
    """One server after another over one store, and what was done in them.

    Args:
        durable: The store outlives a server.
        keep_alive: Of the settings; 0 for never.
        raises: The ASGI server raises when something is sent to a peer that is gone.
    """

    current: ClassVar[House]

    def __init__(self, *, durable: bool, keep_alive: float = 0.0, raises: bool = False) -> None:
        House.current = self
        self.durable = durable
        self.raises = raises
        self.store = WatchedStore(durable=durable)
        self.settings = make_settings({"keep_alive": keep_alive, "drain": 2.0, "grace": 0.5})
        self.may_answer = asyncio.Event()
        self.executed = 0
        self.finished = 0
        self.cancelled_at: float | None = None
        self.hooks: list[tuple[str, str]] = []
        self.requests: list[Request] = []
        self.stopped = False
        self.errors = Errors()

    async def start(self) -> None:
        """Begin a life."""
        self.server = Server(SERVICE, self.settings, self.store)
        self.app = AsgiApp(self.server)
        self.stopped = False
        await self.server.start()
        assert await self.request("GET", "/readyz", []).head() == 200

    async def stop(self) -> None:
        """End it in order."""
        self.stopped = True
        await self.server.stop()

    def request(self, method: str, target: str, headers: Headers, body: Any = None, **more: Any) -> Request:
        data = b"" if body is None else json.dumps(body).encode()
        reader: Reader | None = more.pop("reader", None)
        if reader is not None:
            more |= {"on_data": reader.on_data, "on_sent": reader.on_sent}
        request = Request(self.app, method, target, headers, data, raises=self.raises, **more)
        self.requests.append(request)
        return request

    # --- what users write ---

    async def work(self, ctx: Context, quiet: bool) -> str:
        self.executed += 1
        assert self.executed == 1, "the call runs twice"
        if self.durable and ctx.session is not None and ctx.session.record.transport == "sse":
            assert self.store.calls, "the handler starts before the call is committed"
        try:
            for step in () if quiet else (1, 2):
                await ctx.progress(step, 3)
            await self.may_answer.wait()
            if not quiet:
                await ctx.progress(3, 3)
        except asyncio.CancelledError:
            self.cancelled_at = asyncio.get_running_loop().time()
            raise
        self.finished += 1
        return "done"

    async def hook(self, name: str, session: Session) -> None:
        self.hooks.append((name, session.id))
        await asyncio.sleep(0)

    # --- after ---

    async def check(self) -> None:
        """What must be true once every server has stopped and every request has ended."""
        for request in self.requests:
            await asyncio.wait([request.task], timeout=60.0)
            assert request.task.done(), "a request waits for ever"
            request.task.result()
        tasks, sessions = self.server.tasks, self.server.endpoint.sessions
        assert (len(tasks.calls), tasks.started) == (0, tasks.ended), "a call did not end"
        assert (len(sessions), sessions.opened) == (0, sessions.closed), "a session did not end"
        ids = {id for _, id in self.hooks}
        for id in ids:
            names = [name for name, of in self.hooks if of == id]
            lives = len(names) // 2
            expected = ["register", "unregister", *["restore", "unregister"] * (lives - 1)]
            assert names == expected, f"hooks ran as {names}"
        assert not self.errors.texts, f"logged as our errors: {self.errors.texts}"


class Reader:
    """What a client knows of one stream, over however many connections: whole events, each in its turn."""

    def __init__(self, house: House, session: str = "") -> None:
        self.house = house
        self.session = session
        self.request: Request | None = None
        self.seqs: list[int] = []
        self.messages: list[dict[str, Any]] = []
        self.last_id: str | None = None
        self._offset = 0

    def read(self, request: Request) -> None:
        """Read this connection from now on, and no longer the one before."""
        self.request = request
        self._offset = 0

    def get(self, path: str, headers: Headers) -> None:
        """Ask for it (again), from where it was."""
        if self.last_id is not None:
            headers = [*headers, ("last-event-id", self.last_id)]
        self.read(self.house.request("GET", path, headers, reader=self))

    def on_data(self, request: Request) -> None:
        """Take the events that are whole."""
        while request is self.request and (end := request.received.find(b"\n\n", self._offset)) >= 0:
            frame, self._offset = request.received[self._offset : end].decode(), end + 2
            self._take(frame)

    def _take(self, frame: str) -> None:
        fields: dict[str, str] = {}
        for line in frame.split("\n"):
            name, colon, value = line.partition(":")
            assert colon, f"a frame was torn: {frame!r}"
            assert name in ("", "id", "event", "data", "retry"), f"a frame was torn: {frame!r}"
            assert name not in fields, f"two frames in one: {frame!r}"
            assert name or not value.startswith(" gap"), f"events were lost: {frame!r}"  # a comment: ids may begin so
            fields[name] = value.removeprefix(" ")
        if "id" in fields:
            self.last_id = fields["id"]
        if fields.get("event") == "message" and fields.get("data"):
            if "id" in fields:
                seq = int(fields["id"].rpartition("-")[2])
                assert seq == len(self.seqs) + 1, f"event {seq} came behind {self.seqs}"
                self.seqs.append(seq)
            self.messages.append(json.loads(fields["data"]))

    def on_sent(self, data: bytes) -> None:
        """The server sends this now: each event of it has to be safe."""
        for id in re.findall(rb"event: message\nid: (.+)\n", data) if self.house.durable else ():
            place = self.house.server.endpoint.seals.open(id.decode(), "")
            safe = (self.session, place.stream, place.seq) in self.house.store.events
            assert safe or not place.seq, f"event {place.seq} is sent uncommitted"

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [message for message in self.messages if rawmcp.is_answer(message, CALL)]

    async def answered(self) -> bool:
        """Wait until the answer is there; False where the connection ended without it."""
        assert self.request is not None
        return await self.request.until(lambda: bool(self.answers))

    def check(self) -> None:
        """The answer comes once, behind the call's own notifications, which come in order."""
        assert len(self.answers) <= 1, f"answered {len(self.answers)} times"
        steps = [m["params"]["progress"] for m in self.messages if m.get("method") == "notifications/progress"]
        assert steps == [1, 2, 3][: len(steps)], f"progress came as {steps}"
        if self.answers:
            place = self.messages.index(self.answers[0])
            later = [m.get("method") for m in self.messages[place + 1 :]]
            assert "notifications/progress" not in later, "the answer overtook its own notifications"
            done = "result" in self.answers[0] and rawmcp.text_of(self.answers[0]) == "done"
            assert self.house.finished == 1 or not done, "answered without having run"


class Peer:
    """A client with one call, and what may happen, by name. Subclasses say how it is asked."""

    def __init__(self, house: House, *, quiet: bool = False) -> None:
        self.house = house
        self.arguments = {"quiet": True} if quiet else {}
        self.session_id = ""
        self.post: Request | None = None
        self.closing = False  # its client has asked for its end
        self.closed = False  # and it was granted
        self.left = False

    async def open(self) -> None:
        """Get to where a call can be made."""

    def ask(self) -> None:
        """Make the call; nothing is waited for."""
        raise NotImplementedError

    async def end(self) -> None:
        """Get the answer, if it can still be had, and check that there is one where there must be."""
        raise NotImplementedError

    @property
    def session(self) -> Session | None:
        return self.house.server.endpoint.sessions.by_id.get(self.session_id)

    async def close(self) -> None:
        session = self.session
        if session is not None:
            self.closed = session.lifecycle is Lifecycle.OPEN  # else it has been put away by the shutdown
            await session.close("closed by the service")

    async def shutdown(self) -> None:
        await self.house.stop()

    async def push(self) -> None:
        session = self.session
        for method in ("one", "two") if session is not None else ():
            session.notify(method)
            await asyncio.sleep(0)

    async def keepalive(self) -> None:
        """The server's own clock does it."""

    async def answer(self) -> None:
        self.house.may_answer.set()

    def on_accepted(self, request: Request) -> None:
        """The status of the call's POST is about to be told."""
        if request.status == 202 and self.house.durable:
            assert self.house.store.calls, "a 202 before the call is committed"

    def check_found(self, status: int) -> None:
        """The client of a session that was not found begins anew, so that must not be said of one that is kept."""
        kept = self.house.durable and not (self.closing or self.closed)
        assert status != 404 or not kept, "a session that is kept was not found"

    async def restart(self) -> None:
        """Another server takes over when the call is over."""
        self.house.may_answer.set()
        assert await self.house.server.tasks.drain(0.1)
        await self.house.stop()
        await self.house.start()

    async def settle(self) -> bool:
        """Let the call end, if it has been accepted; tells whether there is a server (again) to ask."""
        house = self.house
        house.may_answer.set()
        if not house.stopped:
            assert await house.server.tasks.drain(60.0)
            return True
        await house.server.stop()  # wait for the end that was begun
        if house.durable:
            await house.start()
        return house.durable

    async def check_store(self) -> None:
        """In a durable store no call is left over, and nothing at all of a session that was closed."""
        store = self.house.store
        await store.open()
        assert await store.unfinished() == [], "the store holds a call that has ended"
        assert len(store.ended) == len(set(store.ended)), "a call was recorded as ended twice"
        if self.closed:
            assert await store.load(self.session_id) is None, "the store holds a session that was closed"
        await store.close()


class SsePeer(Peer):
    """HTTP+SSE."""

    async def open(self) -> None:
        self.reader = Reader(self.house)
        self.connect()
        assert self.reader.request is not None
        assert await self.reader.request.until(lambda: self.reader.last_id is not None)
        self.url = self.reader.request.received.partition(b"data: ")[2].partition(b"\n")[0].decode()
        self.reader.session = self.session_id = self.url.partition("session_id=")[2]
        assert await self.send(rawmcp.initialize("2024-11-05", CALL - 1)).head() == 202
        assert await self.reader.request.until(lambda: bool(self.reader.messages))
        assert await self.send(rawmcp.notification("notifications/initialized")).head() == 202
        self.first = self.reader.request

    def connect(self) -> None:
        self.reader.get("/sse", [("accept", "text/event-stream")])

    def send(self, message: Any, **more: Any) -> Request:
        return self.house.request("POST", self.url, [("content-type", "application/json")], message, **more)

    def ask(self) -> None:
        message = rawmcp.call(CALL, "work", self.arguments, progress="p")
        self.post = self.send(message, on_head=self.on_accepted)

    async def disconnect(self) -> None:
        self.first.disconnect()

    async def resume(self) -> None:
        self.connect()
        assert self.reader.request is not None
        self.check_found(await self.reader.request.head())

    async def end(self) -> None:
        house, reader = self.house, self.reader
        shut = house.stopped
        there = await self.settle()
        assert self.post is not None
        accepted = await self.post.head() == 202
        if there:
            self.connect()
            assert reader.request is not None
            status = await reader.request.head()
            assert status == (404 if self.closed else 200)
            if accepted and status == 200:
                assert await reader.answered(), "an accepted call has no answer"
            await house.stop()
        reader.check()
        self.check_found(self.post.status)
        assert accepted or (house.executed, reader.answers) == (0, []), "a refused call has run"
        if accepted and not shut and not self.closed:
            assert rawmcp.text_of(reader.answers[0]) == "done"
        if house.durable:
            await self.check_store()


class StreamablePeer(Peer):
    """Streamable HTTP with a session."""

    async def open(self) -> None:
        initialize = self.send(rawmcp.initialize("2025-11-25", CALL - 1))
        assert await initialize.head() == 200
        await initialize.whole()
        self.session_id = initialize.headers["mcp-session-id"]
        assert await self.send(rawmcp.notification("notifications/initialized")).head() == 202
        self.reader = Reader(self.house, self.session_id)  # of the call
        self.listener = Reader(self.house, self.session_id)  # of the session
        self.listen(self.listener)
        assert self.listener.request is not None
        assert await self.listener.request.until(lambda: self.listener.last_id is not None)

    def _headers(self) -> list[tuple[str, str]]:
        headers = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]
        return [*headers, ("mcp-session-id", self.session_id)] if self.session_id else headers

    def send(self, message: Any, **more: Any) -> Request:
        return self.house.request("POST", "/mcp", self._headers(), message, **more)

    def listen(self, reader: Reader) -> None:
        reader.get("/mcp", self._headers())

    def ask(self) -> None:
        message = rawmcp.call(CALL, "work", self.arguments, progress="p")
        self.post = self.send(message, on_head=self.on_begun, reader=self.reader)
        self.reader.read(self.post)

    def on_begun(self, request: Request) -> None:
        """A stream is a promise: the call, or the answer it already has, is in the store."""
        if self.house.durable and "event-stream" in request.headers["content-type"]:
            assert self.house.store.calls or self.house.store.events, "a stream begins before the call is committed"

    async def close(self) -> None:
        """By its client."""
        if self.session is not None:
            self.closing = True
            self.closed = await self.house.request("DELETE", "/mcp", self._headers()).head() == 200

    async def disconnect(self) -> None:
        assert self.post is not None
        self.left = True
        self.post.disconnect()

    async def resume(self) -> None:
        reader = self.reader if self.reader.last_id is not None else self.listener
        self.listen(reader)
        assert reader.request is not None
        self.check_found(await reader.request.head())

    async def end(self) -> None:
        house, reader, post = self.house, self.reader, self.post
        assert post is not None
        shut = house.stopped
        there = await self.settle()
        answers, refused = 0, False
        if not post.gone:
            status, whole = await post.head(), await post.whole()
            if "json" in post.headers["content-type"]:
                message = json.loads(whole)
                answers = int(status == 200 and rawmcp.is_answer(message, CALL))
                refused = not answers
                assert not refused or (status != 200 and "error" in message)
                self.check_found(status)
        resumable = there and not self.closed and reader.last_id is not None
        if resumable and not reader.answers:
            self.listen(reader)
            assert reader.request is not None
            assert await reader.request.head() == 200
            assert await reader.answered(), "a call that was begun has no answer"
        if there:
            await house.stop()
        reader.check()
        self.listener.check()
        answers += len(reader.answers)
        assert answers <= 1, "answered twice"
        assert not refused or house.executed == 0, "a refused call has run"
        if not refused and not shut and reader.request is post and not post.gone:
            assert answers == 1, "no answer"
        if not refused and not shut and not self.closed:
            assert house.finished == 1, "an accepted call did not end by itself"
        if house.durable:
            await self.check_store()


class ModernPeer(Peer):
    """The stateless version: a disconnect is a cancellation."""

    def ask(self) -> None:
        self.reader = Reader(self.house)
        message = rawmcp.modern_call(CALL, "work", self.arguments, progress="p")
        headers = rawmcp.modern_headers("tools/call", "work")
        self.post = self.house.request("POST", "/mcp", headers, message, reader=self.reader)
        self.reader.read(self.post)

    async def disconnect(self) -> None:
        assert self.post is not None
        self.left_at = asyncio.get_running_loop().time()
        self.left = True
        self.post.disconnect()

    async def end(self) -> None:
        house, post = self.house, self.post
        assert post is not None
        if self.left and house.cancelled_at is not None:
            assert house.cancelled_at - self.left_at <= 0.1, "the call outlives its client"
        if self.left:  # nothing else lets it end
            assert await house.server.tasks.drain(0.1), "the call outlives its client"
        elif not house.stopped:
            house.may_answer.set()
            assert await house.server.tasks.drain(60.0)
        if not self.left:
            status, whole = await post.head(), await post.whole()
            in_json = "json" in post.headers["content-type"] and rawmcp.is_answer(json.loads(whole), CALL)
            assert in_json + len(self.reader.answers) == 1, f"not answered once: {status} {whole!r}"
        await house.stop()
        self.reader.check()
        assert house.executed == house.finished + (house.cancelled_at is not None)
        assert not house.store.calls, "a stateless call is journalled"


async def until(moment: float) -> None:
    """Wait for a moment of virtual time."""
    loop = asyncio.get_running_loop()
    reached = loop.create_future()
    loop.call_at(moment, reached.set_result, None)
    await reached


def at(moment: float, end: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def happens() -> None:
        await until(moment)
        await end()

    return happens


async def meet(
    kind: type[Peer],
    names: Sequence[str],
    *,
    durable: bool = False,
    mode: str = "asking",
    raises: bool = False,
) -> None:
    """The scenario: a call, and everything in `names` at one moment.

    Args:
        kind: How it is asked.
        names: What happens.
        durable: The store outlives the server.
        mode: Where the call is at that moment: ``asking`` (its POST arrives), ``holding`` (it has said nothing
            yet, and its reply is about to become a stream), ``running`` (it has sent notifications), or ``stored``
            (it is over, the server has been restarted, and nobody has asked for the session yet).
        raises: As `House`.
    """
    in_order()
    house = House(durable=durable, keep_alive=0.5 if "keepalive" in names else 0.0, raises=raises)
    logger = logging.getLogger("tailrace")
    logger.addHandler(house.errors)
    try:
        await house.start()
        peer = kind(house, quiet=mode == "holding")
        await peer.open()
        asyncio.get_running_loop().call_at(MOMENT - BEFORE.get(mode, 0.5), peer.ask)
        if mode == "stored":
            await until(MOMENT - 0.4)
            await peer.restart()
        await until(MOMENT - 0.0001)
        await race(*(at(MOMENT, getattr(peer, name)) for name in names))
        await peer.end()
        await house.check()
    finally:
        logger.removeHandler(house.errors)
