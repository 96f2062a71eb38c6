"""Several servers of one service: any of them takes any request, and what a dead one owned is taken over whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace import Context
from tailrace.core.outgoing import Message
from tailrace.core.settings import Settings
from tailrace.errors import StoreError
from tailrace.protocols.mcp.framing import tag_of
from tailrace.publish.publishers import MemoryPublisher
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.stores.memory_membership import MemoryCluster, MemoryMembership
from tests.rigs.exchange import (
    FakeExchange,
    LegacySession,
    SseSession,
    call,
    initialize,
    modern_request,
    post_modern,
    request,
    send,
    text_of,
)
from tests.rigs.workshop import Workshop

pytestmark = pytest.mark.timeout(60)

TASKS = {"clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}

HEADERS = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]


class Broker(MemoryPublisher):
    """A publisher that has to be open, once at a time, when it is used."""

    opened = 0
    is_open = False

    async def open(self) -> None:
        assert not self.is_open
        self.is_open, self.opened = True, self.opened + 1

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        return await super().publish(messages) if self.is_open else [ConnectionError("not connected")] * len(messages)

    async def close(self) -> None:
        self.is_open = False


class Town:
    """Servers that share partitions, each with a workshop of its own.

    Attributes:
        ran: What the tool `once` of any of them did, in order.
    """

    def __init__(self, *, lease: float = 0.15, **settings: Any) -> None:
        self.cluster = MemoryCluster(lease=lease)
        self.brokers: dict[Server, Broker] = {}
        self.settings = {"drain": 0.0, "hold": 0.02, "keep_alive": 0.0} | settings
        self.servers: dict[Server, tuple[MemoryMembership, Workshop]] = {}
        self.ran: list[str] = []
        self.gate = asyncio.Event()

    async def add(self, lifespan: Any = None) -> tuple[Server, Workshop]:
        """One more member, started; `lifespan` is its service's, given its membership."""
        workshop, membership = Workshop(), self.cluster.member()
        if lifespan is not None:
            workshop.service.lifespan(lambda _: lifespan(membership))

        @workshop.service.tool(once="key")
        async def pay(key: str, amount: int = 1) -> str:
            self.ran.append(f"{membership.member} {key}")
            await self.gate.wait()
            return f"paid {amount}"

        @workshop.service.tool(task="required")
        async def bake(key: str) -> str:
            workshop.seen.append(f"begin {key}")
            await workshop.gates[key].wait()
            return key

        @workshop.service.tool
        async def tell(ctx: Context, topic: str) -> str:
            await ctx.publish(topic, {})
            return topic

        broker = Broker()
        server = Server(workshop.service, Settings(**self.settings), None, None, broker, membership)
        self.servers[server] = membership, workshop
        self.brokers[server] = broker
        await server.start()
        return server, workshop

    async def kill(self, server: Server) -> None:
        """It says and stores nothing more, and the others see that it is gone."""
        membership, _ = self.servers.pop(server)
        membership.on_lost = None
        await membership.crash()
        await server.stop()

    def sleep_and_wake(self, server: Server, partition: str) -> None:
        """It sleeps for longer than its lease, and learns when it wakes that another one may have the partition."""
        self.servers[server][0].lose(partition)


@asynccontextmanager
async def town(count: int, **settings: Any) -> AsyncIterator[tuple[Any, ...]]:
    place = Town(**settings)
    try:
        members = [await place.add() for _ in range(count)]
        for server, _ in members:  # each has seen all others
            await until(lambda server=server: len(cluster_of(server).members.others()) == count - 1)
        yield place, *members
    finally:
        for server in list(place.servers):
            await server.stop()


def cluster_of(server: Server) -> Any:
    assert server.cluster is not None
    return server.cluster


async def until(true: Any, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


async def moved_to(server: Server, session: LegacySession) -> LegacySession:
    """The session, as soon as its partition is there: what is sent to a dead owner may have been done by it."""
    await until(lambda: tag_of(session.id) in {partition.tag for partition in server.partitions})
    return session.on(server)


def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """What reading a partition fails with, by its tag; empty as yet."""
    failing: dict[str, Exception] = {}
    unfinished = MemoryStore.unfinished

    async def read(store: MemoryStore) -> list[str]:
        if store.partition in failing:
            raise failing[store.partition]
        return await unfinished(store)

    monkeypatch.setattr(MemoryStore, "unfinished", read)
    return failing


async def begins(workshop: Workshop, key: str) -> None:
    await until(lambda: f"begin {key}" in workshop.seen)


# --- any of them takes any request ----------------------------------------------------------------


async def test_a_call_that_another_server_runs_sees_the_headers_but_for_credentials() -> None:
    seen: list[dict[str, str]] = []
    async with town(2) as (_, (first, workshop), (second, _)):

        @workshop.service.tool
        async def look(ctx: Context) -> None:
            seen.append(dict(ctx.headers))

        session = (await LegacySession(first).start()).on(second)
        await session.post(call(1, "look"), ("x-tenant", "acme"), ("authorization", "Bearer s3cret")).answer(1)
    assert seen[0]["x-tenant"] == "acme"
    assert "authorization" not in seen[0]


async def test_ids_name_the_partition_of_their_session() -> None:
    async with town(2) as (_, (first, _), (second, _)):
        one, other = await LegacySession(first).start(), await LegacySession(second).start()
        assert tag_of(one.id) == first.home.tag != second.home.tag == tag_of(other.id)


async def test_a_session_is_used_at_the_other_server() -> None:
    async with town(2) as (_, (first, workshop), (second, idle)):
        session = (await LegacySession(first).start()).on(second)
        assert text_of(await session.call(1, "echo", {"text": "there"}).answer(1)) == "there"
        reply = session.call(2, "work", {"key": "slow", "progress": 2}, progress="p")
        await begins(workshop, "slow")
        await reply.event_count(3)  # the priming event, and what it reports
        workshop.gates["slow"].set()
        assert text_of(await reply.answer(2)) == "slow"
        await reply.end()
        assert await session.delete().status_code() == 200
        await until(lambda: not first.endpoint.sessions.by_id)
        assert await session.call(3, "echo", {"text": "gone"}).status_code() == 404
        assert workshop.seen.count("register") == workshop.seen.count("unregister") == 1
        assert idle.seen == []


async def test_a_stream_is_resumed_at_the_other_server() -> None:
    async with town(2) as (_, (first, workshop), (second, _)):
        session = await LegacySession(first).start()
        reply = session.call(1, "work", {"key": "slow", "progress": 1}, progress="p")
        await reply.event_count(2)
        reply.disconnect()
        workshop.gates["slow"].set()
        resumed = session.on(second).get(reply.last_id)
        assert text_of(await resumed.answer(1)) == "slow"
        assert resumed.headers["tailrace-resume"] == "complete"


async def test_http_sse_is_used_and_resumed_at_the_other_server() -> None:
    async with town(2) as (_, (first, _), (second, _)):
        session = await SseSession(first).start()
        session.server = second
        assert await session.call(1, "echo", {"text": "one"}).status_code() == 202
        assert text_of(await session.stream.answer(1)) == "one"
        last = session.stream.last_id
        session.stream.disconnect()
        assert await session.call(2, "echo", {"text": "two"}).status_code() == 202
        await session.open(last)
        assert session.stream.headers["tailrace-resume"] == "complete"
        assert text_of(await session.stream.answer(2)) == "two"


async def test_a_look_while_a_session_changes_hands_does_not_make_it_unknown() -> None:
    async with town(2) as (_, (first, _), (second, _)):
        session = (await LegacySession(first).start()).on(second)
        membership = cluster_of(second).membership
        owners, tag, looks = membership.owners, tag_of(session.id), 0

        async def between(*, refresh: bool = False) -> dict[str, str]:
            """Nobody has it any more, and nobody has it yet; a moment later it is no orphan either."""
            nonlocal looks
            looks += 1
            found = await owners(refresh=refresh)
            return found if looks > 1 else {name: owner for name, owner in found.items() if name != tag}

        membership.owners = between
        cluster_of(second)._on_released(cluster_of(first).membership.member, tag.encode())
        reply = session.call(1, "echo", {"text": "still here"})
        assert text_of(await reply.answer(1)) == "still here"
        assert looks > 1


async def test_a_client_that_leaves_is_seen_at_the_owner() -> None:
    async with town(2) as (_, (first, _), (second, _)):
        session = await LegacySession(first).start()
        listening = session.on(second).get()
        assert await listening.status_code() == 200
        inside = first.endpoint.sessions.by_id[session.id]
        await until(lambda: inside.log.reader is not None)
        listening.disconnect()
        await until(lambda: inside.log.reader is None)


async def test_a_task_is_asked_for_and_cancelled_at_the_other_server() -> None:
    async with town(2) as (_, (first, workshop), (second, _)):
        begun = post_modern(
            first, modern_request(1, "tools/call", {"name": "bake", "arguments": {"key": "a"}}, **TASKS)
        )
        id = (await begun.answer(1))["result"]["taskId"]
        assert tag_of(id) == first.home.tag
        await begins(workshop, "a")
        asked = post_modern(second, modern_request(2, "tasks/get", {"taskId": id}, **TASKS))
        assert (await asked.answer(2))["result"]["status"] == "working"
        workshop.gates["a"].set()
        await until(lambda: first.endpoint.task_table.tasks[id].status == "completed")
        asked = post_modern(second, modern_request(3, "tasks/get", {"taskId": id}, **TASKS))
        assert (await asked.answer(3))["result"]["result"]["content"][0]["text"] == "a"
        unknown = post_modern(second, modern_request(4, "tasks/get", {"taskId": f"nobody~{id[3:]}"}, **TASKS))
        assert "no such task" in (await unknown.answer(4))["error"]["message"]


async def test_a_task_of_the_other_server_is_found_by_one_that_had_no_home_when_it_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(2) as (place, (first, _), (second, workshop)):
        begun = post_modern(
            second, modern_request(1, "tools/call", {"name": "bake", "arguments": {"key": "a"}}, **TASKS)
        )
        id = (await begun.answer(1))["result"]["taskId"]
        await begins(workshop, "a")
        membership, found = place.servers[first][0], asyncio.Event()
        take = membership.take

        async def take_later(**options: Any) -> Any:
            await found.wait()
            return await take(**options)

        monkeypatch.setattr(membership, "take", take_later)
        place.sleep_and_wake(first, first.home.tag)
        await until(lambda: cluster_of(first).ownership.homeless)
        asked = post_modern(first, modern_request(2, "tasks/get", {"taskId": id}, **TASKS))
        await until(lambda: cluster_of(first).statistics()["waiting"] == 1)
        found.set()
        assert (await asked.answer(2))["result"]["status"] == "working"
        workshop.gates["a"].set()


@pytest.mark.parametrize("id", ["zzz~made-up", "never here", "~", "UPPER~case"])
async def test_an_id_that_names_nothing_is_not_found(id: str) -> None:
    async with town(2) as (_, (first, _), _):
        assert await LegacySession(first, id=id).call(1, "echo", {"text": "x"}).status_code() == 404


async def test_what_everybody_is_told_reaches_the_sessions_of_all_servers() -> None:
    async with town(2) as (_, (first, workshop), (second, _)):
        near, far = await LegacySession(first).start(), await LegacySession(second).start()
        streams = [near.get(), far.get()]
        for stream in streams:
            await stream.status_code()
        await workshop.service.broadcast("notifications/message", {"level": "info", "data": "all"})
        for stream in streams:
            assert (await stream.message("notifications/message"))["params"]["data"] == "all"
        first.changed("tools")
        for stream in streams:
            await stream.message("notifications/tools/list_changed")
            assert [message["method"] for message in stream.messages].count("notifications/tools/list_changed") == 1


async def test_that_a_resource_has_changed_reaches_those_who_want_to_hear_of_it_at_all_servers() -> None:
    wanted = {"uri": "note://one"}
    async with town(2) as (_, (first, workshop), (second, _)):
        for server in (first, second):

            @server.service.resource("note://one")
            async def one() -> str:
                return "one"

        streams: list[FakeExchange] = []
        for server in (first, second):
            session = await LegacySession(server).start()
            assert (await session.post(request(1, "resources/subscribe", wanted)).json())["result"] == {}
            filter = {"notifications": {"resourceSubscriptions": [wanted["uri"]]}}
            streams += [session.get(), post_modern(server, modern_request(2, "subscriptions/listen", filter))]
        for stream in streams:
            await stream.status_code()
        workshop.service.resource_updated(wanted["uri"])
        for stream in streams:
            found = await stream.message("notifications/resources/updated")
            assert found["params"]["uri"] == wanted["uri"]


async def test_who_has_just_come_is_told_what_all_are_told() -> None:
    """Members look at each other every third of a lease, here every twenty seconds: news go to the one that no look
    has seen as yet."""
    place = Town()
    place.cluster.lease = 60.0
    try:
        first, _ = await place.add()
        await until(lambda: cluster_of(first).members.seen > 0)
        second, _ = await place.add()
        listening = (await LegacySession(second).start()).get()
        assert await listening.status_code() == 200
        await until(lambda: cluster_of(first).members.others())
        await first.broadcast("notifications/message", {"level": "info", "data": "now"})
        assert (await listening.message("notifications/message"))["params"]["data"] == "now"
    finally:
        for server in list(place.servers):
            await server.stop()


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_at_both_servers_at_once_runs_once() -> None:
    async with town(2) as (place, (first, _), (second, _)):
        sessions = [await LegacySession(first).start(), await LegacySession(second).start()]
        replies = [session.call(1, "pay", {"key": "k", "amount": 3}) for session in sessions]
        await until(lambda: place.ran)
        await asyncio.sleep(0.1)  # whatever the other one does, it has had its turn
        place.gate.set()
        assert [text_of(await reply.answer(1)) for reply in replies] == ["paid 3", "paid 3"]
        assert len(place.ran) == 1
        again = await sessions[1].call(2, "pay", {"key": "k", "amount": 3}).answer(2)
        assert again["result"]["_meta"]["io.tailrace/replayed"] is True
        refused = await sessions[0].on(second).call(3, "pay", {"key": "k", "amount": 4}).answer(3)
        assert "another tool, or with other arguments" in refused["error"]["message"]
        other = await sessions[1].call(4, "pay", {"key": "k", "amount": 4}).answer(4)
        assert "another tool, or with other arguments" in other["error"]["message"]
        assert len(place.ran) == 1


async def test_who_waits_for_the_run_of_a_server_that_dies_learns_that_its_outcome_is_unknown() -> None:
    async with town(2) as (place, (first, _), (second, _)):
        one, other = await LegacySession(first).start(), await LegacySession(second).start()
        one.call(1, "pay", {"key": "k"})
        await until(lambda: place.ran)
        waiting = other.call(1, "pay", {"key": "k"})
        await place.kill(first)
        answer = await waiting.answer(1)
        assert answer["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
        assert len(place.ran) == 1


# --- owners that die, sleep, or leave --------------------------------------------------------------


async def test_a_key_whose_worker_dies_with_it_is_taken_to_its_next_owner_and_a_call_without_one_is_not() -> None:
    async with town(2, hold=60.0) as (place, (first, workshop), (second, _)):
        session = (await LegacySession(first).start()).on(second)
        keyed = session.call(1, "pay", {"key": "k"})
        plain = session.call(2, "work", {"key": "cut"})
        await until(lambda: place.ran)
        await begins(workshop, "cut")
        await place.kill(first)
        answer = (await keyed.answer(1))["result"]
        assert answer["_meta"]["io.tailrace/outcome"] == "unknown", "it was running"
        assert await plain.status_code() == 502
        assert len(place.ran) == 1


async def test_a_call_with_a_key_whose_owner_slept_is_told_to_ask_again_and_learns_there_what_became_of_it() -> None:
    async with town(2, hold=60.0) as (place, (first, _), (second, _)):
        paying = {"name": "pay", "arguments": {"key": "k"}}
        asked = post_modern(first, modern_request(1, "tools/call", paying))
        await until(lambda: place.ran)
        lost = first.home.tag
        place.sleep_and_wake(first, lost)
        assert (await asked.answer(1))["error"]["data"] == {"retry": True}
        await until(lambda: lost in cluster_of(second).ownership.by_tag or lost not in place.cluster.owners)
        again = post_modern(second, modern_request(2, "tools/call", paying))
        assert (await again.answer(2))["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
        assert len(place.ran) == 1


async def test_the_sessions_of_a_dead_server_live_on_at_another() -> None:
    async with town(2) as (place, (first, _), (second, heir)):
        session, other = await LegacySession(first).start(), await SseSession(first).start()
        reply = session.call(1, "work", {"key": "cut", "progress": 1}, progress="p")
        await reply.event_count(2)
        last, seen = reply.last_id, other.stream.last_id
        await place.kill(first)
        moved = await moved_to(second, session)
        assert text_of(await moved.call(2, "echo", {"text": "alive"}).answer(2)) == "alive"
        resumed = moved.get(last)
        assert (await resumed.answer(1))["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
        other.server = second
        await other.open(seen)
        assert await other.call(3, "echo", {"text": "too"}).status_code() == 202
        assert text_of(await other.stream.answer(3)) == "too"
        assert heir.seen.count("restore") == 2
        assert first.home.tag in {partition.tag for partition in second.partitions}


async def test_a_request_that_comes_before_anybody_has_taken_over_waits_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(2) as (place, (first, _), (second, _)):
        session, tag = await LegacySession(first).start(), first.home.tag
        await session.call(1, "remember", {"name": "n", "value": "v"}).answer(1)
        await first.store.flush()
        membership, allowed = place.servers[second][0], asyncio.Event()
        adopt = membership.adopt

        async def slowly(partition: str) -> Any:
            await allowed.wait()
            return await adopt(partition)

        monkeypatch.setattr(membership, "adopt", slowly)
        await place.kill(first)
        await until(lambda: tag not in cluster_of(second).members.owners)
        asked = session.on(second).call(2, "recall", {"name": "n"})
        await until(lambda: cluster_of(second).statistics()["waiting"] == 1)
        assert not asked.replied
        allowed.set()
        assert text_of(await asked.answer(2)) == "v"


async def test_a_request_whose_partition_nobody_takes_over_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with town(2, hook_time=0.1) as (place, (first, _), (second, _)):
        session, tag = await LegacySession(first).start(), first.home.tag

        async def refused(partition: str) -> Any:
            return None

        monkeypatch.setattr(place.servers[second][0], "adopt", refused)
        await place.kill(first)
        await until(lambda: tag not in cluster_of(second).members.owners)
        asked = session.on(second).call(2, "echo", {"text": "x"})
        assert await asked.status_code() == 503
        assert asked.headers["retry-after"] == "1"


async def test_an_owner_that_slept_says_nothing_more_and_finds_a_new_home() -> None:
    async with town(2) as (place, (first, workshop), (second, heir)):
        session = await LegacySession(first).start()
        reply = session.call(1, "work", {"key": "cut", "progress": 1}, progress="p")
        await reply.event_count(2)
        lost = first.home
        place.sleep_and_wake(first, lost.tag)
        await asyncio.sleep(0)  # it has noticed, and has no home now: a new session waits for one
        starting = asyncio.ensure_future(LegacySession(first).start())
        await reply.end()  # in order, without an answer: its client asks for the rest
        assert all("result" not in message and "error" not in message for message in reply.messages)
        await until(lambda: lost.tag in place.cluster.owners)
        moved = session.on(second)
        assert text_of(await moved.call(2, "echo", {"text": "alive"}).answer(2)) == "alive"
        await until(lambda: first.home is not lost and lost not in first.partitions)
        assert "cancelled cut" in workshop.seen
        fresh = await starting
        assert text_of(await fresh.call(1, "echo", {"text": "new"}).answer(1)) == "new"
        assert (workshop.seen + heir.seen).count("unregister") == 1


async def test_an_owner_that_is_not_sure_of_its_lease_answers_for_no_session_until_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(1) as (_, (first, _)):
        session, sure = await LegacySession(first).start(), [False]
        monkeypatch.setattr(type(first.store), "is_held", property(lambda store: sure[0]))
        asked = session.call(1, "echo", {"text": "mine"})
        await until(lambda: cluster_of(first).statistics()["waiting"] == 1)
        assert not asked.replied
        sure[0] = True
        assert text_of(await asked.answer(1)) == "mine"


async def test_an_owner_that_does_not_reach_the_store_tells_only_what_is_stored_until_it_is_sure_of_its_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(1) as (_, (first, workshop)):
        session, sure = await LegacySession(first).start(), [True]
        monkeypatch.setattr(type(first.store), "is_held", property(lambda store: sure[0]))
        reply = session.call(1, "work", {"key": "told", "progress": 1}, progress="p")
        await reply.event_count(2)
        sure[0] = False
        first.store.fail_commits(StoreError("there is no answer"))
        workshop.gates["told"].set()
        await until(lambda: first.store.failure is not None and not first.tasks.calls)
        for _ in range(3):
            cluster_of(first).ownership.mind_leases()
        assert all("result" not in message for message in reply.messages)
        first.store.fail_commits(None)
        sure[0] = True  # nobody has taken it
        assert text_of(await reply.answer(1)) == "told"


async def test_who_reads_where_the_lease_is_over_for_a_lease_is_sent_to_look_for_the_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(1) as (place, (first, workshop)):
        session, sure, age = await LegacySession(first).start(), [True], [0.0]
        kind = type(first.store)
        numbers = kind.statistics
        monkeypatch.setattr(kind, "is_held", property(lambda store: sure[0]))
        monkeypatch.setattr(kind, "statistics", lambda store: {**numbers(store), "lease_age": age[0]})
        reply = session.call(1, "work", {"key": "cut", "progress": 1}, progress="p")
        await reply.event_count(2)
        sure[0], age[0] = False, 1.9 * place.cluster.lease
        cluster_of(first).ownership.mind_leases()
        (log,) = first.endpoint.sessions.by_id[session.id].streams.values()
        assert log.reader is not None
        age[0] = 2 * place.cluster.lease
        await reply.end()
        assert all("result" not in message for message in reply.messages)
        sure[0] = True
        workshop.gates["cut"].set()
        resumed = session.get(reply.last_id)
        assert text_of(await resumed.answer(1)) == "cut"
        assert resumed.headers["tailrace-resume"] == "complete"


async def test_the_answer_of_a_key_that_is_not_stored_is_told_once_no_next_owner_can_say_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(1) as (place, (first, _)):
        session, sure, age = await LegacySession(first).start(), [True], [0.0]
        kind, ledger, paying = type(first.store), first.endpoint.once.ledger, {"name": "pay", "arguments": {"key": "k"}}
        numbers = kind.statistics
        monkeypatch.setattr(kind, "is_held", property(lambda store: sure[0]))
        monkeypatch.setattr(kind, "statistics", lambda store: {**numbers(store), "lease_age": age[0]})
        streamed = session.call(1, "pay", {"key": "k"})
        await streamed.event_count(1)
        asked = post_modern(first, modern_request(2, "tools/call", paying))
        await until(lambda: ledger.attached == 1)
        sure[0] = False
        first.store.fail_commits(StoreError("there is no answer"))
        place.gate.set()
        await until(lambda: first.store.failure is not None)
        for _ in range(3):
            cluster_of(first).ownership.mind_leases()
            await asyncio.sleep(0)
        assert not asked.replied
        age[0] = 2 * place.cluster.lease
        assert (await asked.answer(2))["error"]["data"] == {"retry": True}
        await streamed.end()
        assert all("result" not in message and "error" not in message for message in streamed.messages)
        age[0] = 0.0
        again = post_modern(first, modern_request(3, "tools/call", paying))
        await until(lambda: ledger.attached == 2)
        first.store.fail_commits(None)
        sure[0] = True  # nobody has taken it
        assert text_of(await again.answer(3)) == "paid 1"
        assert text_of(await session.get(streamed.last_id).answer(1)) == "paid 1"
        assert len(place.ran) == 1


async def test_a_server_that_leaves_hands_its_sessions_over_and_nothing_fails() -> None:
    async with town(2, drain=20.0) as (place, (first, workshop), (second, heir)):
        session = await LegacySession(first).start()
        running = session.call(1, "work", {"key": "long"})
        await begins(workshop, "long")
        place.servers.pop(first)
        leaving = asyncio.ensure_future(first.stop())
        await until(lambda: cluster_of(first).leaving)
        late = session.call(2, "echo", {"text": "late"})  # the session is not handed over yet
        new = send(first, FakeExchange("POST", "/mcp", initialize("2025-11-25"), HEADERS))
        assert await new.status_code() == 200
        assert tag_of(new.headers["mcp-session-id"]) == second.home.tag
        assert not late.replied
        workshop.gates["long"].set()
        assert text_of(await running.answer(1)) == "long"
        assert text_of(await late.answer(2)) == "late"
        await leaving
        assert heir.seen.count("restore") == 1
        assert text_of(await session.on(second).call(3, "echo", {"text": "moved"}).answer(3)) == "moved"


async def test_what_an_owner_declines_is_sent_to_it_again_only_after_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async with town(2) as (place, (first, _), (second, _)):
        session, tag = await LegacySession(first).start(), first.home.tag
        place.servers[second][0].lease = 600.0  # none of its looks but those of who waits
        members, relay = cluster_of(second).members, cluster_of(second).relay
        happened: list[str] = []
        look, forward = members.look, relay.forward

        async def looks(**how: Any) -> bool:
            seen = await look(**how)
            if seen:
                happened.append("seen")
            return seen

        def sends(exchange: Any, to: str) -> None:
            happened.append("sent")
            forward(exchange, to)

        monkeypatch.setattr(members, "look", looks)
        monkeypatch.setattr(relay, "forward", sends)
        del cluster_of(first).ownership.by_tag[tag]  # as one that lets go of it, and has the lease still
        asked = session.on(second).call(1, "echo", {"text": "x"})
        await until(lambda: happened.count("sent") >= 4)
        cluster_of(first).ownership.by_tag[tag] = first.home
        assert text_of(await asked.answer(1)) == "x"
        assert "sent sent" not in " ".join(happened)


async def test_a_fault_of_one_look_does_not_end_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    async with town(2) as (place, (first, _), (second, _)):
        session = await LegacySession(first).start()
        membership, faults = place.servers[second][0], [ZeroDivisionError("a bug")]
        orphans = membership.orphans

        async def found() -> list[str]:
            if faults:
                raise faults.pop()
            return await orphans()

        monkeypatch.setattr(membership, "orphans", found)
        await until(lambda: not faults)
        await place.kill(first)
        moved = await moved_to(second, session)
        assert text_of(await moved.call(1, "echo", {"text": "x"}).answer(1)) == "x"


async def test_a_partition_that_holds_nothing_any_more_is_retired() -> None:
    async with town(2) as (place, (first, _), (second, _)):
        session, tag = await LegacySession(first).start(), first.home.tag
        await place.kill(first)
        moved = await moved_to(second, session)
        assert text_of(await moved.call(1, "echo", {"text": "x"}).answer(1)) == "x"
        assert await moved.delete().status_code() == 200
        await until(lambda: tag not in place.cluster.partitions)
        assert second.partitions == [second.home]


async def test_what_is_published_goes_on_when_another_partition_of_the_same_server_is_gone() -> None:
    async with town(2) as (place, (first, _), (second, _)):
        broker, session = place.brokers[second], await LegacySession(second).start()

        async def told(id: int) -> None:
            assert text_of(await session.call(id, "tell", {"topic": f"{id}"}).answer(id))
            await until(lambda: f"{id}" in {message.topic for message in broker.messages})

        await told(1)
        other, tag = await LegacySession(first).start(), first.home.tag
        await place.kill(first)
        moved = await moved_to(second, other)
        await until(lambda: len(second.partitions) == 2)
        assert await moved.delete().status_code() == 200
        await until(lambda: tag not in place.cluster.partitions)
        await told(2)
        assert broker.opened == 1
        place.servers.pop(second)
        await second.stop()
        assert not broker.is_open


async def test_what_a_partition_has_counted_stays_when_it_is_gone() -> None:
    async with town(2) as (place, (first, _), (second, _)):
        session, tag = await LegacySession(first).start(), first.home.tag
        await place.kill(first)
        moved = await moved_to(second, session)
        assert text_of(await moved.call(1, "echo", {"text": "x"}).answer(1)) == "x"
        await until(lambda: len(second.partitions) == 2)
        assert await moved.delete().status_code() == 200
        await until(lambda: not second.statistics()["sessions"]["open"])
        before = second.statistics()
        await until(lambda: tag not in place.cluster.partitions)
        after = second.statistics()
        assert before["sessions"]["restored"] == 1
        for section, names in (("sessions", ["opened", "restored", "closed"]), ("store", ["commits", "records"])):
            for name in names:
                assert after[section][name] >= before[section][name] > 0, name
        cluster = after["cluster"]
        assert [cluster[name] for name in ("partitions", "adopted", "retired", "fenced")] == [1, 1, 1, 0]


async def test_a_member_counts_what_it_loses_and_what_it_hands_over() -> None:
    async with town(2) as (place, (first, _), (second, _)):
        await LegacySession(first).start()
        lost = first.home
        place.sleep_and_wake(first, lost.tag)
        await until(lambda: first.home is not lost and lost not in first.partitions)
        await until(lambda: lost.tag in place.cluster.owners and not cluster_of(first).ownership.entering)
        owned = len(first.partitions)
        place.servers.pop(first)
        await first.stop()
        ownership = cluster_of(first).ownership
        assert (ownership.fenced, ownership.handed_over) == (1, owned)
        await until(lambda: second.statistics()["cluster"]["bytes_in"] > 0)


# --- partitions that cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreError("it is damaged"), ValueError("a bug")], ids=lambda error: str(error))
async def test_a_partition_that_cannot_be_restored_disturbs_no_other_and_is_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = broken(monkeypatch)
    async with town(2, hook_time=30.0) as (place, (first, _), (second, _)):
        session, other = await LegacySession(first).start(), await LegacySession(second).start()
        await session.call(1, "remember", {"name": "n", "value": "v"}).answer(1)
        await first.store.flush()
        failing[first.home.tag] = error
        await place.kill(first)
        await until(lambda: second.statistics()["cluster"]["failed_recoveries"] >= 4)
        assert second.statistics()["cluster"]["stuck"] == 1
        said = [record for record in caplog.records if first.home.tag in record.getMessage() and record.levelno >= 30]
        assert [record.levelname for record in said] == ["WARNING", "ERROR"]
        assert "cannot be restored: its sessions are refused" in said[1].getMessage()
        assert str(error) in said[1].getMessage()
        ready = send(second, FakeExchange("GET", "/readyz"))
        assert (ready.status, ready.reply_body) == (200, b"ready\n1 partitions cannot be restored\n")
        refused = session.on(second).call(2, "recall", {"name": "n"})
        assert await refused.status_code() == 503  # at once: nobody waits for the next attempt
        assert str(error).encode() not in refused.reply_body
        assert text_of(await other.call(1, "echo", {"text": "fine"}).answer(1)) == "fine"
        assert second.partitions == [second.home]
        failing.clear()
        await moved_to(second, session)
        assert text_of(await session.on(second).call(3, "recall", {"name": "n"}).answer(3)) == "v"
        assert second.statistics()["cluster"]["stuck"] == 0
        ready = send(second, FakeExchange("GET", "/readyz"))
        assert (ready.status, ready.reply_body) == (200, b"ready\n")


async def test_attempts_to_restore_a_partition_become_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = broken(monkeypatch)
    async with town(2, lease=1.0) as (place, (first, _), (second, _)):  # so long that no moment's pause counts
        await LegacySession(first).start()
        failing[first.home.tag] = StoreError("it is damaged")
        await place.kill(first)
        await until(lambda: cluster_of(second).ownership.failures == 3)
        lease, loop = place.cluster.lease, asyncio.get_running_loop()
        due = cluster_of(second).ownership._failing[first.home.tag].due - loop.time()
        assert 0.8 * 4 * lease / 3 - lease < due <= 4 * lease / 3
        cluster_of(second).ownership._failing[first.home.tag].attempts = 100
        cluster_of(second).ownership._failed(first.home.tag, StoreError("still"))
        assert cluster_of(second).ownership._failing[first.home.tag].due - loop.time() <= 60


async def test_a_server_starts_although_what_a_dead_one_left_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = broken(monkeypatch)
    async with town(1) as (place, (first, _)):
        session = await LegacySession(first).start()
        await first.store.flush()
        failing[first.home.tag] = StoreError("it is damaged")
        await place.kill(first)
        second, _ = await place.add()
        assert second.home.tag != first.home.tag
        assert text_of(await (await LegacySession(second).start()).call(1, "echo", {"text": "new"}).answer(1)) == "new"
        assert await session.on(second).call(1, "echo", {"text": "old"}).status_code() == 503
        failing.clear()
        moved = await moved_to(second, session)
        assert text_of(await moved.call(2, "echo", {"text": "old"}).answer(2)) == "old"


async def test_a_server_that_takes_longer_than_a_lease_to_recover_its_home_has_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(1) as (place, (_, _)):
        unfinished, lost = MemoryStore.unfinished, set[str]()

        async def read(store: MemoryStore) -> list[str]:
            if not lost:  # the loop stood still, and its first step since was to find that out
                lost.add(store.partition)
                place.servers[server][0].lose(store.partition)
            return await unfinished(store)

        monkeypatch.setattr(MemoryStore, "unfinished", read)
        adding = asyncio.ensure_future(place.add())
        await asyncio.sleep(0)
        server = list(place.servers)[-1]
        await adding
        await until(lambda: server.home.store.failure is None)
        assert server.home.tag not in lost
        assert text_of(await (await LegacySession(server).start()).call(1, "echo", {"text": "new"}).answer(1)) == "new"


async def test_a_server_owns_nothing_until_its_service_has_started() -> None:
    async with town(1) as (place, (first, _)):
        session, entered, allowed = await LegacySession(first).start(), asyncio.Event(), asyncio.Event()
        await first.store.flush()
        await place.kill(first)

        @asynccontextmanager
        async def slow(_: MemoryMembership) -> AsyncIterator[None]:
            entered.set()
            await allowed.wait()
            yield

        adding = asyncio.ensure_future(place.add(slow))
        await entered.wait()
        assert not place.cluster.owners, "what is sent to an owner has to be answered"
        third, _ = await place.add()
        moved = await moved_to(third, session)
        assert text_of(await moved.call(1, "echo", {"text": "at once"}).answer(1)) == "at once"
        allowed.set()
        second, _ = await adding
        assert text_of(await session.on(second).call(2, "echo", {"text": "too"}).answer(2)) == "too"


@pytest.mark.parametrize("reason", ["another member has taken over", "the store failed (KeyError: 'x')"])
async def test_of_a_partition_that_is_lost_it_is_said_why(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    async with town(1) as (place, (first, _)):
        lost = first.home
        place.servers[first][0].lose(lost.tag, reason)
        await until(lambda: first.home is not lost)
        (said,) = [record.getMessage() for record in caplog.records if "was lost" in record.getMessage()]
        assert said == f"a partition was lost partition={lost.tag} error={reason}"


async def test_a_task_of_a_server_that_does_not_have_it_any_more_is_asked_for_at_the_one_that_has() -> None:
    async with town(3) as (_, (first, workshop), (second, _), (third, _)):
        begun = post_modern(
            first, modern_request(1, "tools/call", {"name": "bake", "arguments": {"key": "a"}}, **TASKS)
        )
        id = (await begun.answer(1))["result"]["taskId"]
        workshop.gates["a"].set()
        await until(lambda: first.endpoint.task_table.tasks[id].status == "completed")
        cluster = cluster_of(second)
        cluster.members.owners[tag_of(id)] = cluster_of(third).membership.member  # as it was a moment ago
        asked = post_modern(second, modern_request(2, "tasks/get", {"taskId": id}, **TASKS))
        assert (await asked.answer(2))["result"]["status"] == "completed"
        assert cluster.relay.statistics()["forwarded"] >= 2  # until the next look it may be sent to the wrong one again


# --- listening to tasks of several servers ----------------------------------------------------------


async def baking(server: Server, workshop: Workshop, key: str) -> str:
    """A task of this server's."""
    params = {"name": "bake", "arguments": {"key": key}}
    id: str = (await post_modern(server, modern_request(1, "tools/call", params, **TASKS)).json())["result"]["taskId"]
    await begins(workshop, key)
    return id


def listening(server: Server, ids: list[str], **more: Any) -> FakeExchange:
    wanted = {"notifications": {"taskIds": ids, **more}}
    return post_modern(server, modern_request("l", "subscriptions/listen", wanted, **TASKS))


def stands(stream: FakeExchange, id: str, status: str) -> bool:
    told = [message["params"] for message in stream.messages if message.get("method") == "notifications/tasks"]
    return any((one["taskId"], one["status"]) == (id, status) for one in told)


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_stream_hears_of_tasks_of_several_servers(at: int) -> None:
    async with town(3) as (_, *members):
        ids = [await baking(server, workshop, f"{number}") for number, (server, workshop) in enumerate(members[:2])]
        stream = listening(members[at][0], [*ids, "zzz~made-up"], toolsListChanged=True)
        said = (await stream.message("notifications/subscriptions/acknowledged"))["params"]
        assert sorted(said["notifications"].pop("taskIds")) == sorted(ids)
        assert said["notifications"] == {"toolsListChanged": True}
        await until(lambda: all(stands(stream, id, "working") for id in ids))
        for number, (_, workshop) in enumerate(members[:2]):
            workshop.gates[f"{number}"].set()
        await until(lambda: all(stands(stream, id, "completed") for id in ids))
        tags = {message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] for message in stream.messages}
        assert tags == {"l"}
        members[at][0].changed("tools")
        await stream.message("notifications/tools/list_changed")
        stream.disconnect()
        listens = [partition.endpoint.listens for server, _ in members for partition in server.partitions]
        await until(lambda: sum(map(len, listens)) == 0)


@pytest.mark.parametrize("how", ["killed", "in order"])
async def test_such_a_stream_ends_with_the_server_of_one_of_its_tasks(how: str) -> None:
    async with town(2) as (place, (first, workshop), (second, other)):
        ids = [await baking(first, workshop, "a"), await baking(second, other, "b")]
        stream = listening(first, ids)
        await until(lambda: all(stands(stream, id, "working") for id in ids))
        if how == "killed":
            await place.kill(second)
        else:
            place.servers.pop(second)
            await second.stop()
        await until(lambda: stream.streaming is not None and stream.streaming.done())
        assert not any("result" in message for message in stream.messages), "it does not end for good"
        again = listening(first, ids)  # as its client does
        await again.message("notifications/subscriptions/acknowledged")
        await until(lambda: stands(again, ids[0], "working"))
        again.disconnect()


async def test_such_a_stream_ends_with_its_result_where_its_own_server_ends() -> None:
    async with town(2) as (place, (first, workshop), (second, other)):
        ids = [await baking(first, workshop, "a"), await baking(second, other, "b")]
        stream = listening(first, ids)
        await until(lambda: all(stands(stream, id, "working") for id in ids))
        place.servers.pop(first)
        await first.stop()
        await until(lambda: any("result" in message for message in stream.messages))
        await until(lambda: len(second.home.endpoint.listens) == 0)


async def test_whoever_may_not_listen_is_told_so_although_it_names_several_servers() -> None:
    async with town(2) as (_, (first, workshop), (second, other)):
        ids = [await baking(first, workshop, "a"), await baking(second, other, "b")]
        wanted = {"notifications": {"taskIds": ids}}
        refused = post_modern(first, modern_request("l", "subscriptions/listen", wanted))  # does not know tasks
        assert await refused.status_code() == 400
        assert "tasks" in str(await refused.json())
        too_many = listening(first, [f"{'abcdefgh'[n % 8]}{n}~x" for n in range(65)])
        assert await too_many.status_code() == 400
