"""One session with one call and one reader, made of the core alone, and everything that may end it or move it.

The reader's connection delivers each write in two halves, so that a second writer would tear a frame
and a break leaves half of one. `check` holds what must be true of it after any race.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import detangle

from tailrace.core.call import Call, CallState
from tailrace.core.cursor import Cursor
from tailrace.core.exchange import Headers, Sink
from tailrace.core.log import Log
from tailrace.core.ports import AppendEvent, Committed, EndCall, PutCall, PutSession, Record
from tailrace.core.session import Completion, Lifecycle, Session, Sessions
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.core.writer import Writer
from tailrace.errors import StoreError, TransportError
from tailrace.protocols.mcp.journal import Journals, SessionJournal
from tailrace.protocols.mcp.reply import SessionReply
from tailrace.stores.memory import MemoryStore
from tests.schedules.exploring import in_order, race

ENDS = ("close", "shutdown", "disconnect", "push", "keepalive", "answer", "resume")
DRAIN = 25.0  # virtual seconds
STALL = 30.0
ROOM = 8  # bytes: a call waits whenever its reader has not taken the last event


class WatchedStore(MemoryStore):
    """Knows what is safe before anybody is told so."""

    def __init__(self, *, durable: bool = True) -> None:
        super().__init__(durable=durable)
        self.events: set[tuple[str, int, int]] = set()  # session, stream, seq
        self.calls: set[tuple[str, int]] = set()
        self.ended: list[tuple[str, int]] = []
        self.sessions_put: set[str] = set()

    def write(self, records: Sequence[Record]) -> int:
        ticket = super().write(records)
        records = tuple(records)

        def committed(error: StoreError | None) -> None:
            for record in records if error is None else ():
                self._note(record)

        self.when(ticket, committed)
        return ticket

    def when(self, ticket: int, committed: Committed) -> None:
        super().when(ticket, committed)

    def _note(self, record: Record) -> None:
        if isinstance(record, AppendEvent):
            self.events.add((record.session, record.stream, record.seq))
        elif isinstance(record, PutCall):
            self.calls.add((record.session, record.call))
        elif isinstance(record, EndCall):
            self.ended.append((record.session, record.call))
        elif isinstance(record, PutSession):
            self.sessions_put.add(record.session)


class Home:
    """The house of the session: counts hooks, which take their time, and who was forgotten."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.hooks: list[str] = []
        self.forgotten: list[bool] = []  # for each time: was it kept in the store

    async def opened(self, session: Session) -> None:
        self.hooks.append("opening")
        await asyncio.sleep(0)
        self.hooks.append("opened")

    async def ended(self, session: Session, reason: str) -> None:
        self.hooks.append("ending")
        await asyncio.sleep(0)
        self.hooks.append("ended")

    def forget(self, session: Session, *, keep: bool) -> None:
        self.sessions.remove(session)
        self.forgotten.append(keep)

    def suspend(self, session: Session) -> None:
        session.log.journal = None

    def notification(self, method: str, params: Any) -> bytes:
        return b"push:" + method.encode()


class Bare:
    """As much of an endpoint, of its retention and of its home as a reply asks: nobody has a state, and no answer is
    large."""

    @property
    def endpoint(self) -> Bare:
        return self

    @property
    def home(self) -> Bare:
        return self

    def changed_state(self, session: Session) -> None:
        return None


class OneReply(SessionReply):
    """Answers once."""

    def __init__(self, session: Session, journal: SessionJournal | None) -> None:
        super().__init__(Bare(), session, journal)  # type: ignore[arg-type]
        self.answered = asyncio.Event()

    def answer(self, call: Call, payload: bytes | None) -> None:
        assert not self.answered.is_set(), "the call ended twice"
        self.answered.set()
        super().answer(call, payload)


class Work(Call):
    """Says three things and answers; for the answer it waits until it may."""

    __slots__ = ("may_answer", "store")

    def __init__(self, session: Session, reply: SessionReply, store: WatchedStore, may_answer: asyncio.Event) -> None:
        super().__init__("work", 1, 1, session, session.tasks, reply)
        self.may_answer = may_answer
        self.store = store

    async def run(self) -> bytes | None:
        assert not self.journalled or ("s", 1) in self.store.calls, "user code runs before the call is committed"
        for step in (b"note:1", b"note:2"):
            self.reply.notify(self, step)
            await self.room()
        await self.may_answer.wait()
        self.reply.notify(self, b"note:3")
        return b"answer"

    def aborted(self, error: Exception) -> bytes | None:
        return b"answer:aborted"

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        raise NotImplementedError

    def log(self, level: str, data: Any, logger: str | None) -> None:
        raise NotImplementedError


class Lines:
    """Each event a line with its number. Whatever is framed is about to be sent, so it has to be safe."""

    def __init__(self, store: WatchedStore) -> None:
        self._store = store

    def frames(self, events: list[tuple[int, bytes]]) -> bytes:
        for seq, _ in events:
            assert not self._store.durable or ("s", 0, seq) in self._store.events, f"event {seq} is sent uncommitted"
        return b"".join(b"%d %b\n" % event for event in events)

    def gap(self, lost: int) -> bytes:
        return b"gap %d\n" % lost


class Line(Sink):
    """A connection that takes each write in two halves, or takes nothing, until it breaks."""

    def __init__(self, *, flows: bool = True) -> None:
        self.received = b""  # by the client
        self.newest = 0  # bytes of what came last
        self.broken = False
        self.left = False  # the client reads it no longer
        self.done = False
        self._writing = False
        self._news = asyncio.Event()
        if flows:
            self._news.set()

    async def write(self, data: bytes) -> None:
        assert not self._writing, "two writers on one connection"
        self._writing = True
        try:
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                await self._until_taken()
                if self.broken:
                    raise TransportError("the peer is gone")
                asyncio.get_running_loop().call_soon(self._arrive, half)
        finally:
            self._writing = False

    def _arrive(self, data: bytes) -> None:
        if not (self.broken or self.left):  # else it is lost in a buffer, though the server could write it
            self.received += data
            self.newest = len(data)

    async def _until_taken(self) -> None:
        if self._news.is_set():
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(STALL):
                await self._news.wait()
        except TimeoutError:
            raise TransportError("the peer took nothing") from None

    async def end(self, trailers: Headers = ()) -> None:
        asyncio.get_running_loop().call_soon(self._arrive_end)

    def _arrive_end(self) -> None:
        self.done = not (self.broken or self.left)

    def cut(self) -> None:
        self.broken = True
        self._news.set()


class Conversation:
    """A session under way, and what may happen to it, by name.

    Args:
        durable: Events and calls are journalled.
        flows: The first connection takes bytes; the others always do.
    """

    def __init__(self, *, durable: bool = False, flows: bool = True) -> None:
        self.loop = asyncio.get_running_loop()
        self.durable = durable
        self.flows = flows
        self.store = WatchedStore(durable=durable)
        self.journals = Journals(self.store)
        self.tasks = Tasks(Threads(size=1))
        self.sessions = Sessions()
        self.home = Home(self.sessions)
        self.may_answer = asyncio.Event()
        self.writers: list[asyncio.Task[None]] = []
        self.listeners: list[asyncio.Task[None]] = []
        self.swept: list[Writer] = []
        self.line: Line | None = None
        self.seen: list[tuple[int, bytes]] = []
        self.drained: float | None = None
        self.closings: list[Completion] = []

    # --- before ---

    async def begin(self) -> None:
        """The session is there and has accepted its call, which has not begun; its reader is connected."""
        in_order()
        await self.store.open()
        journal = SessionJournal("s", self.journals) if self.durable else None
        self.log = Log(high_water=ROOM, journal=journal)
        self.session = Session("s", b"handle", "", tasks=self.tasks, home=self.home, log=self.log, record=None)
        self.sessions.add(self.session)
        if self.durable:
            await self.journals.commit([PutSession("s", b"handle", "", b"{}", 0.0)])
        self.reply = OneReply(self.session, journal)
        self.call = Work(self.session, self.reply, self.store, self.may_answer)
        self.session.accept(self.call)
        self.first = self.connect(0, flows=self.flows)

    async def start(self) -> None:
        """The call begins, as soon as it is committed."""
        if self.durable:
            self.call.journalled = True
            self.journals.write([PutCall("s", 1, 0, b"{}")], lambda error: self.call.start())
        else:
            self.call.start()

    def connect(self, after: int, *, flows: bool = True) -> tuple[Line, Cursor]:
        self.line = line = Line(flows=flows)
        cursor = self.log.attach(after)
        writer = Writer(cursor, Lines(self.store), self, keep_alive=1.0, ping=b".\n")
        self.writers.append(self.loop.create_task(writer.run(line), name="writer"))
        self.listeners.append(self.loop.create_task(self.session.wait_closed(), name="listener"))
        return line, cursor

    def add(self, member: Writer) -> None:
        self.swept.append(member)

    def discard(self, member: Writer) -> None:
        self.swept.remove(member)

    # --- what may happen ---

    async def opening(self) -> None:
        await self.session.open()

    async def close(self) -> None:
        await self.session.close("closed by its client")
        assert self.session.lifecycle is Lifecycle.CLOSED

    async def shutdown(self) -> None:
        started = self.loop.time()
        await self.tasks.drain(DRAIN)
        self.drained = self.loop.time() - started
        for completion in self.sessions.close_all("the server stops", keep=self.durable):
            await completion
        await self.session.wait_closed()

    async def disconnect(self) -> None:
        """The transport learns of it, and some servers cancel what ran for the connection."""
        line, cursor = self.first
        line.cut()
        self.listeners[0].cancel()
        cursor.stop()

    async def push(self) -> None:
        for method in ("one", "two"):
            self.session.notify(method)
            for _ in range(4):
                await asyncio.sleep(0)

    async def keepalive(self) -> None:
        for now in (1.0, 3.0, 5.0, 7.0, 9.0, 11.0):
            for writer in list(self.swept):
                writer.sweep(now)
            await asyncio.sleep(0)

    async def answer(self) -> None:
        self.may_answer.set()
        await self.reply.answered.wait()

    async def resume(self) -> None:
        """The client gives the connection up, with what it has not read, and goes on from the last whole event."""
        for _ in range(detangle.choice((3, 0))):
            await asyncio.sleep(0)
        assert self.line is not None
        if detangle.flip():
            self.line.received = self.line.received[: -self.line.newest or None]
            self.line.done = False
        self.collect()
        self.connect(self.at)

    # --- the client ---

    @property
    def at(self) -> int:
        return self.seen[-1][0] if self.seen else 0

    def collect(self) -> None:
        """Read what the connection has brought: whole lines only."""
        assert self.line is not None
        self.line.left = True
        *lines, rest = self.line.received.split(b"\n")
        assert not (self.line.done and rest), f"a frame was torn: {rest!r}"
        for text in lines:
            if text == b".":
                continue
            number, _, payload = text.partition(b" ")
            assert number.isdigit(), f"a frame was torn: {text!r}"
            self.seen.append((int(number), payload))
        self.line = Line()

    # --- after ---

    async def end(self) -> None:
        """Let it come to its end whatever the race left of it; nothing of this may wait for ever."""
        in_order()
        self.may_answer.set()
        assert await self.tasks.drain(STALL + 1.0), "a call did not end"
        await self.session.close("the test is over")
        await self.writers[-1]  # the session's end ends its stream, also where the client does nothing
        await asyncio.sleep(0)  # what was written arrives
        self.collect()
        self.connect(self.at)
        await asyncio.gather(*self.writers)
        await asyncio.sleep(0)
        await asyncio.gather(*self.listeners, return_exceptions=True)
        assert all(listener.cancelled() or listener.exception() is None for listener in self.listeners)
        assert self.line is not None
        assert self.line.done
        self.collect()
        await self.tasks.close(1.0)
        await self.check()
        await self.store.close()

    async def check(self) -> None:
        """G1, G2 and G3 as counts."""
        home, session = self.home, self.session
        assert session.lifecycle is Lifecycle.CLOSED
        assert len(home.forgotten) == 1, f"the session ended {len(home.forgotten)} times"
        assert home.hooks in ([], ["opening", "opened", "ending", "ended"]), f"hooks ran as {home.hooks}"
        assert (self.sessions.opened, self.sessions.closed) == (1, 1)

        assert self.call.state is CallState.ENDED
        counts = (self.tasks.started, self.tasks.ended, len(self.tasks.calls), len(session.calls))
        assert counts == (1, 1, 0, 0), f"the call did not end: {counts}"
        assert [seq for seq, _ in self.seen] == list(range(1, self.log.last + 1)), f"lost or doubled: {self.seen}"
        said = [payload for _, payload in self.seen if not payload.startswith(b"push:")]
        answers = [payload for payload in said if payload.startswith(b"answer")]
        assert said == [b"note:1", b"note:2", b"note:3"][: len(said) - len(answers)] + answers, f"out of order: {said}"
        assert not self.swept
        assert self.log.reader is None
        if home.forgotten == [True]:  # kept for the next life: the answer is there, or the call is still owed
            await self._check_kept(len(answers))
        else:
            assert len(answers) == 1, f"{len(answers)} answers: {said}"

    async def _check_kept(self, answers: int) -> None:
        stored = await self.store.load("s")
        assert stored is not None
        kept = sum(event.payload.startswith(b"answer") for event in stored.events)
        owed = len(stored.calls)
        assert (answers, kept, owed) in ((0, 0, 1), (1, 1, 0)), f"delivered, kept, owed: {answers, kept, owed}"
        assert len(self.store.ended) == kept


def reader_counts(talk: Conversation) -> None:
    """What `room` measures is what is there to be read; nothing is read that is not safe."""
    log = talk.log
    reader = log.reader
    if reader is not None:
        assert reader.unread == log.bytes_after(reader.seq), "the reader's count is wrong"
        assert not reader.stopped, "a stopped reader holds the stream"
    assert log.ready <= log.last


async def meet(names: Sequence[str], *, mode: str = "running", durable: bool = False, flows: bool = True) -> None:
    """The scenario: everything in `names` happens at once.

    Args:
        names: What happens.
        mode: Where the call is: ``starting`` (it starts at the same time), ``running`` (it was started just
            before) or ``over`` (it has been answered).
        durable: As `Conversation`.
        flows: As `Conversation`.
    """
    talk = Conversation(durable=durable, flows=flows)
    await talk.begin()
    starting = [talk.start] if mode == "starting" else []
    if mode != "starting":
        await talk.start()
    if mode == "over":
        talk.may_answer.set()
        await talk.reply.answered.wait()
    detangle.invariant(lambda: reader_counts(talk))
    ended_at: list[int] = []

    def nothing_follows_the_end() -> None:
        if talk.log.ended:
            ended_at.append(talk.log.last)
            assert ended_at[0] == talk.log.last, "an event was added to a stream that has ended"

    detangle.invariant(nothing_follows_the_end)
    if "shutdown" in names and "answer" not in names:
        talk.may_answer.set()  # so that the drain is over while the others are at it
    await race(talk.opening, *(getattr(talk, name) for name in names), *starting)
    if "answer" in names and flows and talk.drained is not None:
        assert talk.drained < DRAIN, "the drain waited for its limit although nothing ran any more"
    await talk.end()
