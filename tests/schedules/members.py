"""Members of one service in one process, a session that one of them owns, and all that may happen to it, by name.

The session has a state, a call that runs, asked through a member that does not own it, and a stream that is read
through that one too. What happens, happens within one moment; then `check` says what must be true: whatever was asked
is answered or refused, the session is known to every member that is left, with what was stored and what it is owed;
nobody but its owner has it in hand; hooks come in pairs, for each ownership; and nothing goes on that nobody waits for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tailrace import Context, Service, Session
from tailrace.core.ports import Store
from tailrace.core.settings import Settings
from tailrace.protocols.mcp.framing import tag_of
from tailrace.server import Server
from tailrace.stores.memory_membership import MemoryCluster, MemoryMembership
from tests.rigs.exchange import FakeExchange, LegacySession, is_answer, text_of
from tests.schedules.exploring import in_order, racing

__all__ = ["Meeting", "Member", "meet"]

T = TypeVar("T")
LEASE = 3.0
WAY = 0.01
MOMENT = 0.3  # virtual seconds that are explored: who was told something looks around within them
EXPECTED = ("a partition was lost", "the store does not commit", "the store fails", "the inbox of this member")
UNKNOWN = "io.tailrace/outcome"


class Errors(logging.Handler):
    """Keeps the text of every ERROR record that says more than that a partition changed hands."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not text.startswith(EXPECTED):
            self.texts.append(f"{text} {record.exc_info[1]!r}" if record.exc_info else text)


class Distant(MemoryMembership):
    """Asking takes as long on the way there as on the way back: what it says may be over by then."""

    async def owners(self, *, refresh: bool = False) -> dict[str, str]:
        return await _distant(super().owners, refresh=refresh)

    async def orphans(self) -> list[str]:
        return await _distant(super().orphans)

    async def adopt(self, partition: str) -> Store | None:
        return await _distant(super().adopt, partition)

    async def retire(self, store: Store) -> bool:
        return await _distant(super().retire, store)

    async def secrets(self) -> list[bytes]:
        return await _distant(super().secrets)


async def _distant(ask: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
    await asyncio.sleep(WAY)
    found = await ask(*args, **options)
    await asyncio.sleep(WAY)
    return found


class Member:
    """One process.

    Attributes:
        hooks: The names of those that ran, by session.
        alive: It was neither killed nor stopped.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        meeting.cluster.numbers += 1
        self.membership = Distant(meeting.cluster, f"m{meeting.cluster.numbers}")
        self.name = self.membership.member
        self.hooks: dict[str, list[str]] = {}
        self.alive = True
        self.killed = False
        service = Service("town")
        self.service = service

        @service.tool
        async def recall(ctx: Context) -> str:
            assert ctx.session is not None
            return str(ctx.session.state.get("n"))

        @service.tool
        async def remember(ctx: Context) -> str:
            assert ctx.session is not None
            ctx.session.state["n"] = "v"
            return "ok"

        @service.tool
        async def work(ctx: Context) -> str:
            meeting.ran += 1
            assert meeting.ran == 1, "the call runs twice"
            await ctx.progress(1, 2)
            await meeting.gate.wait()
            return "done"

        @service.tool(once="key")
        async def pay(key: str) -> str:
            meeting.paid.append(self.name)
            await meeting.gate.wait()
            return f"paid {key}"

        @service.on_register_session
        async def registered(session: Session) -> None:
            await self._hook("begin", session)

        @service.on_restore_session
        async def restored(session: Session) -> None:
            await self._hook("begin", session)

        @service.on_unregister_session
        async def unregistered(session: Session) -> None:
            await self._hook("end", session)

        settings = Settings(drain=1.0, grace=0.5, keep_alive=0.0, hold=0.02, hook_time=2.0)
        self.server = Server(service, settings, None, membership=self.membership)

    async def _hook(self, name: str, session: Session) -> None:
        self.hooks.setdefault(session.id, []).append(name)
        await asyncio.sleep(0)

    @property
    def cluster(self) -> Any:
        return self.server.cluster

    def holds(self, tag: str) -> bool:
        """It would answer for the sessions of a partition, of its own."""
        partition = None if self.cluster is None else self.cluster.ownership.by_tag.get(tag)
        return self.alive and partition is not None and partition.store.is_held

    async def kill(self) -> None:
        self.alive, self.killed = False, True
        self.membership.on_lost = None
        await self.membership.crash()

    async def stop(self) -> None:
        self.alive = False
        await self.server.stop()


class Meeting:
    """One session, its members, and what may happen to it."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster(lease=LEASE)
        self.gate = asyncio.Event()
        self.ran = 0
        self.paid: list[str] = []
        self.members: list[Member] = []
        self.asked: list[tuple[Member, str, int, FakeExchange]] = []
        self.ids = iter(range(1, 1000))
        self.ending: list[asyncio.Task[None]] = []
        self.deleted = False
        self.told = False
        self.errors = Errors()

    async def add(self) -> Member:
        member = Member(self)
        self.members.append(member)
        await member.server.start()
        return member

    async def begin(self, *, adopted: bool = False) -> None:
        """Three members, `owner`, `other` and one more, and the session; `adopted`: a fourth had it, and was killed."""
        first = await self.add()
        self.session = await LegacySession(first.server).start()
        self.tag = tag_of(self.session.id)
        await self.session.call(0, "remember").answer(0)
        await first.server.store.flush()
        self.owner = first
        if adopted:
            self.owner = await self.add()
            await self.kill(first)
            await self._until(lambda: self.owner.holds(self.tag))
        self.other = await self.add()
        await self.add()
        self.beside = await LegacySession(self.other.server).start()
        await asyncio.sleep(LEASE)
        self.work = next(self.ids)
        self.running = self._post(self.other, "work")
        await self.running.event_count(2)
        self.listening = self.session.on(self.other.server).get()
        assert await self.listening.status_code() == 200

    def _post(self, member: Member, tool: str, **arguments: Any) -> FakeExchange:
        id = self.work if tool == "work" else next(self.ids)
        session = self.beside if tool == "pay" and member is self.other else self.session.on(member.server)
        exchange = session.call(id, tool, arguments, progress="p")
        self.asked.append((member, tool, id, exchange))
        return exchange

    def _end(self, member: Member) -> None:
        self.ending.append(asyncio.ensure_future(member.stop()))

    async def kill(self, member: Member) -> None:
        """It says and stores nothing more. That it closes after itself is ours, not its."""
        await member.kill()
        for at, _, _, exchange in self.asked:
            if at is member:
                exchange.disconnect()
        self.ending.append(asyncio.ensure_future(member.server.stop()))

    async def _until(self, true: Any) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.1)

    # --- what may happen ---

    async def near(self) -> None:
        """A request comes to the owner."""
        if self.owner.alive:
            self._post(self.owner, "recall")

    async def far(self) -> None:
        """One comes to the other."""
        if self.other.alive:
            self._post(self.other, "recall")

    async def pay(self) -> None:
        """The owner is asked to do what is done once for a key."""
        if self.owner.alive:
            self._post(self.owner, "pay", key="k")

    async def pay_too(self) -> None:
        """The other is, in a session of its own."""
        if self.other.alive:
            self._post(self.other, "pay", key="k")

    async def answer(self) -> None:
        self.gate.set()

    async def lost(self) -> None:
        """The owner has slept, and learns when it wakes that it does not own the partition any more."""
        if self.owner.holds(self.tag):
            self.owner.membership.lose(self.tag)

    async def asleep(self) -> None:
        """It learns that later than the others."""
        if self.owner.holds(self.tag):
            store = self.owner.membership._stores[self.tag]
            self.owner.membership.lose(self.tag, tell=False)
            self._look()
            await asyncio.sleep(MOMENT / 2)
            store._failure = store._failing
            if self.owner.membership.on_lost is not None:
                self.owner.membership.on_lost(store)

    async def killed(self) -> None:
        if self.owner.alive:
            await self.kill(self.owner)
            self._look()

    async def leave(self) -> None:
        """The owner is told to end."""
        if self.owner.alive:
            self._end(self.owner)

    async def others_leave(self) -> None:
        if self.other.alive:
            self._end(self.other)

    async def join(self) -> None:
        """One more member starts."""
        await self.add()
        self._look()

    async def snatched(self) -> None:
        """Whoever takes the partition over loses it again, while it is being restored."""
        for _ in range(200):
            for member in self.members:
                if member.alive and self.tag in member.membership._stores.keys() & member.cluster.ownership.entering:
                    return member.membership.lose(self.tag)
            await asyncio.sleep(WAY / 5)

    async def tell(self) -> None:
        """Everybody is told something."""
        if self.other.alive:
            self.told = True
            await self.other.service.broadcast("notifications/message", {"level": "info", "data": "all"})

    async def delete(self) -> None:
        """The client ends the session; a partition that was adopted is empty then."""
        if self.other.alive:
            self.deleted = True
            self.session.on(self.other.server).delete()
            self._look()

    def _look(self) -> None:
        """Whoever is there looks around now."""
        for member in self.members:
            if member.alive and member.cluster is not None:
                member.cluster._wanted.set()


async def meet(names: tuple[str, ...], *, adopted: bool = False, apart: float = 0.0) -> None:
    """The scenario: all of `names` within one moment, each so many seconds after the one before."""
    in_order()
    meeting = Meeting()
    logger = logging.getLogger("tailrace")
    logger.addHandler(meeting.errors)
    try:
        await meeting.begin(adopted=adopted)

        async def happens(name: str, after: float) -> None:
            await asyncio.sleep(after)
            await getattr(meeting, name)()

        async with racing():
            await asyncio.gather(*(happens(name, apart * at) for at, name in enumerate(names)))
            await asyncio.sleep(MOMENT)
        await check(meeting, set(names))
    finally:
        logger.removeHandler(meeting.errors)


async def check(meeting: Meeting, names: set[str]) -> None:
    """What must be true, however it went."""
    meeting.gate.set()
    await asyncio.sleep(3 * LEASE)
    living = [member for member in meeting.members if member.alive]
    holding = [member.name for member in living if member.holds(meeting.tag)]
    assert len(holding) <= 1, f"owned by {holding}"
    if not living:
        living = [await meeting.add()]
        await asyncio.sleep(2 * LEASE)
    owners = dict(meeting.cluster.owners)
    for tag, owner in owners.items():
        assert owner in {member.name for member in living}, f"{tag} is owned by {owner}, which is gone"
    for member in living:
        tags = set(member.cluster.ownership.by_tag)
        assert tags == {tag for tag, owner in owners.items() if owner == member.name}, "what it owns, and what it has"
        assert member.server.home in member.server.partitions
        assert {partition.tag for partition in member.server.partitions} == tags
        assert not member.cluster.ownership.homeless
    for _, tool, id, exchange in meeting.asked:
        check_reply(meeting, tool, id, exchange)
    await check_after(meeting, living)
    assert len(meeting.paid) <= 1, f"a key ran at {meeting.paid}"
    if meeting.told and not meeting.deleted:
        await check_told(meeting, living[0], sure=names <= {"tell", "near", "far", "answer", "join"})
    for member in living:
        await member.stop()
    await asyncio.gather(*meeting.ending)
    for member in meeting.members:
        numbers = member.cluster.relay.statistics()
        assert (numbers["asked"], numbers["served"]) == (0, 0), f"something is left at {member.name}"
        assert member.cluster.router.waiting == 0
        tasks = member.server.tasks
        assert (len(tasks.calls), tasks.started) == (0, tasks.ended), "a call did not end"
        for ran in member.hooks.values():
            pairs = ["begin", "end"] * (len(ran) // 2)
            assert ran in (pairs, [*pairs, "begin"] if member.killed else pairs), f"hooks ran as {ran}"
    assert not meeting.cluster.owners, "a lease is held by nobody"
    assert not meeting.errors.texts, f"logged as our errors: {meeting.errors.texts}"


def check_reply(meeting: Meeting, tool: str, id: int, exchange: FakeExchange) -> None:
    """It is answered once, or refused for a while, or its stream has ended; it was told nothing that is not so."""
    assert exchange.replied or exchange.gone, "a request waits for ever"
    if not exchange.replied:
        return
    if exchange.is_stream:
        assert exchange.streaming is not None
        assert exchange.streaming.done(), "a reply goes on for ever"
        answers = [message for message in exchange.messages if is_answer(message, id)]
        assert len(answers) <= 1, "answered twice"
    elif exchange.status == 200:
        answers = [json.loads(exchange.reply_body)]
    else:
        allowed = (502, 503, 404) if meeting.deleted else (502, 503)  # 502: it may have been done, or not
        assert exchange.status in allowed, (exchange.status, exchange.reply_body)
        answers = []
    for answer in answers:
        assert "result" in answer or ((meeting.deleted or tool == "pay") and "error" in answer), answer
        if "result" in answer and UNKNOWN not in answer["result"].get("_meta", {}) and not meeting.deleted:
            assert text_of(answer) in ("v", "done", "paid k"), answer


async def check_after(meeting: Meeting, living: list[Member]) -> None:
    """The session is known everywhere, with what it had; what it is owed comes."""
    for member in living:
        session = meeting.session.on(member.server)
        asked = session.call(next(meeting.ids), "recall")
        status = await asyncio.wait_for(asked.status_code(), 60)
        if meeting.deleted and status == 404:
            continue
        assert status == 200, (status, asked.reply_body)
        answer = json.loads(asked.reply_body)
        assert text_of(answer) == "v", f"the state is lost: {answer}"
    if meeting.deleted:
        return
    if not any(is_answer(message, meeting.work) for message in meeting.running.messages):
        resumed = meeting.session.on(living[0].server).get(meeting.running.last_id)
        answer = await asyncio.wait_for(resumed.answer(meeting.work), 60)
        unknown = answer["result"].get("_meta", {}).get(UNKNOWN) == "unknown"
        assert unknown or text_of(answer) == "done", answer
    fresh = await LegacySession(living[0].server).start()
    assert await fresh.delete().status_code() == 200


async def check_told(meeting: Meeting, member: Member, *, sure: bool) -> None:
    """What everybody was told reached the session's stream once; `sure`: it could not be missed."""
    listening = meeting.listening
    events = listening.events
    if listening.streaming is not None and listening.streaming.done():
        resumed = meeting.session.on(member.server).get(listening.last_id)
        assert await asyncio.wait_for(resumed.status_code(), 60) == 200
        await asyncio.sleep(1)
        events += resumed.events
    count = sum(b'"data":"all"' in event.data.encode() for event in events if event.data)
    assert count == 1 if sure else count <= 1, f"told {count} times"
