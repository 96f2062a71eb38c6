"""Several processes that share a service's partitions in Valkey: who owns what, what the dead leave, what is empty."""

from __future__ import annotations

import asyncio
import random
import re
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from redis.crc import key_slot

from tailrace.core.ports import DropEntry, DropSession, Inbox, PutCall, PutEntry, Store
from tailrace.errors import EntryTaken, StoreError, StoreLost, StoreTooNew
from tailrace.stores import valkey_scripts as scripts
from tailrace.stores.valkey import ValkeyStore
from tailrace.stores.valkey_membership import ValkeyMembership
from tests.rigs.ports import free_port
from tests.rigs.proxy import Plan, running_proxy
from tests.rigs.valkey import Valkey, engine_version
from tests.stores.test_store import SESSION, claim, event, outcome, put
from tests.stores.test_stress import note
from tests.stores.test_valkey import names, tls_front

OWN = "{tailrace:tailrace}:"


class Deaf(Inbox):
    """An inbox that only says what is asked of it."""

    def __init__(self, member: str) -> None:
        self.member = member
        self.on_lost = None
        self.calls: list[str] = []
        self.refuses = False

    async def open(self) -> None:
        self.calls.append("open")
        if self.refuses:
            raise StoreError("no inbox today")

    async def close(self) -> None:
        self.calls.append("close")

    def send(self, to: str, piece: bytes) -> None:
        raise NotImplementedError

    async def receive(self) -> list[tuple[str, bytes]]:
        raise NotImplementedError


@pytest.fixture
async def join(server: Valkey) -> AsyncIterator[Callable[..., ValkeyMembership]]:
    members: list[ValkeyMembership] = []

    async def joined(**options: object) -> ValkeyMembership:
        # With so long a lease nobody asks for it anew in the midst of a test: who is said to be dead stays so.
        member = ValkeyMembership(server.url, Deaf, **{"probe_interval": 0.01, "lease": 60.0, **options})
        members.append(member)
        await member.join()
        return member

    yield joined
    for member in members:
        await member.leave()


def die(server: Valkey, store: Store) -> None:
    """Its lease has run out, as far as Valkey knows."""
    server.ask("DEL", f"{OWN}p:{store.partition}:owner")


# --- owning ---------------------------------------------------------------------------------------


async def test_each_member_takes_a_partition_of_its_own_and_sees_those_of_the_others(join) -> None:
    first, second = await join(), await join()
    stores = [await first.take(), await second.take(), await second.take()]
    assert len({store.partition for store in stores}) == 3
    assert all(store.partition.isalnum() and len(store.partition) <= 8 for store in stores)
    expected = dict(
        zip((store.partition for store in stores), (first.member, second.member, second.member), strict=True)
    )
    assert await first.owners(refresh=True) == await second.owners(refresh=True) == expected
    assert await first.orphans() == []
    assert (first.statistics()["partitions"], first.statistics()["members"]) == (1, 2)
    assert stores[0].name == f"{first.name}#{stores[0].partition}"
    for store in stores:
        await store.close()
    assert await first.owners(refresh=True) == {}


async def test_partitions_keep_sessions_and_tasks_apart_and_share_secrets_and_keys_of_once(join) -> None:
    first, second = await join(), await join()
    one, two = await first.take(), await second.take()
    assert await outcome(one, SESSION, event(1), put("k", kind="task", expires=4e9), claim("k", expires=4e9)) is None
    assert await two.load("s1") is None
    assert await two.entry("task", "k") is None
    kept = await two.entry("once", "k")
    assert kept is not None
    assert kept.data == b"mine"
    assert await two.count("once") == 1
    assert isinstance(await outcome(two, claim("k", expires=4e9), SESSION), EntryTaken)
    assert await two.load("s1") is None
    assert await outcome(one, PutEntry("once", "k", b"paused", 4e9, free=True)) is None
    assert await outcome(two, claim("k", b"theirs", expires=4e9)) is None
    assert isinstance(await outcome(one, claim("k", expires=4e9)), EntryTaken)
    assert await first.secrets() == await second.secrets() == await one.secrets() == await two.secrets()
    assert [await one.next_epoch(), await one.next_epoch(), await two.next_epoch()] == [1, 2, 1]
    for store in (one, two):
        await store.close()


async def test_of_many_that_claim_a_key_at_once_one_gets_it(join) -> None:
    members = [await join() for _ in range(4)]
    stores = [await member.take() for member in members]
    for number in range(50):
        key = f"k{number}"
        outcomes = await asyncio.gather(*(outcome(store, claim(key, expires=4e9)) for store in stores))
        assert sorted(type(error).__name__ for error in outcomes) == ["EntryTaken"] * 3 + ["NoneType"]
    for store in stores:
        await store.close()


# --- what the dead leave ----------------------------------------------------------------------------


async def test_the_partition_of_a_dead_member_is_adopted_whole_and_by_one(join, server: Valkey) -> None:
    dead, *others = [await join() for _ in range(4)]
    store = await dead.take()
    assert await outcome(store, SESSION, event(1), PutCall("s1", 1, 1, b"call")) is None
    assert await others[0].adopt(store.partition) is None  # it lives
    die(server, store)
    assert await others[0].orphans() == [store.partition]
    adopted = [new for new in await asyncio.gather(*(o.adopt(store.partition) for o in others)) if new is not None]
    assert [new.partition for new in adopted] == [store.partition]
    assert await adopted[0].unfinished() == ["s1"]
    assert await others[1].orphans() == []
    await adopted[0].close()
    await store.close()


async def test_a_member_without_a_partition_takes_an_orphan_before_it_makes_a_new_one(join) -> None:
    first = await join()
    store = await first.take()
    store.write([SESSION])
    await store.close()
    second = await join()
    again = await second.take()
    assert again.partition == store.partition
    assert await again.load("s1") is not None
    new = await second.take()
    assert new.partition != store.partition
    for store in (again, new):
        await store.close()


async def test_an_owner_that_slept_is_told_once_and_writes_nothing_more(join, server: Valkey) -> None:
    sleeper, heir = await join(lease=0.3), await join()
    lost: list[str] = []
    sleeper.on_lost = lambda store: lost.append(store.partition)
    store = await sleeper.take()
    assert await outcome(store, SESSION) is None
    async with asyncio.timeout(60):
        while True:
            die(server, store)  # it may have had its lease again before the other one came
            if (taken := await heir.adopt(store.partition)) is not None:
                break
        while not lost:  # though nobody writes: it would renew its lease
            await asyncio.sleep(0.01)
    for _ in range(2):
        assert isinstance(await outcome(store, event(1), claim("k", expires=4e9)), StoreLost)
    assert isinstance(store.failure, StoreLost)
    with pytest.raises(StoreLost):
        await store.load("s1")
    await store.close()
    assert lost == [store.partition]
    assert await taken.count("once") == 0
    assert await sleeper.owners(refresh=True) == {store.partition: heir.member}
    again = await sleeper.take()  # the process lives on
    assert await outcome(again, SESSION) is None
    for store in (taken, again):
        await store.close()


# --- a network that breaks ----------------------------------------------------------------------------


async def test_a_partition_whose_writer_ends_by_a_bug_is_lost_as_by_a_crash(
    join, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise LookupError("a bug")

    lost: list[Store] = []
    owner, other = await join(lease=0.3), await join(lease=0.3)
    owner.on_lost = lost.append
    store = await owner.take()
    assert await outcome(store, SESSION) is None
    monkeypatch.setattr(store._writer, "_commit", bug)
    assert isinstance(await outcome(store, event(1)), StoreLost)
    assert lost == [store]
    assert isinstance(store.failure, StoreLost)
    assert "LookupError: a bug" in str(store.failure)
    assert not store.is_held
    async with asyncio.timeout(60):
        while (adopted := await other.adopt(store.partition)) is None:
            await asyncio.sleep(0.02)
    assert await adopted.load("s1") is not None
    await store.close()
    await adopted.close()


async def test_through_cuts_everywhere_a_key_is_claimed_once_and_the_one_who_has_it_knows(server: Valkey) -> None:
    cuts = random.Random(9)

    def plan(_: int) -> Plan:  # after the handshake, mostly: in the middle of a question or of an answer
        up, down = cuts.choice([(cuts.randint(500, 20_000), None), (None, cuts.randint(20, 300))])
        return Plan(cut_after=down, cut_up_after=up, fault=cuts.choice(["rst", "fin"]))

    async with running_proxy(server.port, plan) as proxy:
        url = f"valkey://127.0.0.1:{proxy.port}/0"
        stores = [
            ValkeyStore(
                server.url if number == 2 else url,
                partition=f"p{number}",
                new=True,
                retry_for=60.0,
                batch_writes=8,
            )
            for number in range(3)
        ]
        for store in stores:
            await opened(store)
        mine: list[list[int]] = [[] for _ in stores]  # what each believes to have
        for number in range(300):
            for holder, store in enumerate(stores):
                ticket = store.write([claim(f"{number}", b"%d" % holder, expires=4e9), SESSION, event(number + 1)])
                store.when(ticket, partial(note, mine[holder], number + 1))
            if cuts.random() < 0.3:
                await asyncio.sleep(cuts.uniform(0.0, 0.005))
        for store in stores:
            await store.flush()
        assert sum(passed.struck for passed in proxy.connections) > 3
        won: list[list[int]] = [[] for _ in stores]
        for number in range(300):
            kept = await stores[2].entry("once", f"{number}")
            assert kept is not None
            won[int(kept.data)].append(number + 1)
        for holder, store in enumerate(stores):
            found = await store.load("s1")
            assert mine[holder] == won[holder] == ([event.seq for event in found.events] if found else [])
            await store.close()


async def opened(store: ValkeyStore) -> None:
    """Opening is not tried again by itself."""
    while True:  # ends by the test's time-out
        try:
            await store.open(wait=30)
        except StoreLost:  # it was made before the cut: its answer was lost
            store._new = False
        except StoreError:
            continue
        else:
            return


@pytest.mark.parametrize("cuts", [1, 2, 3], ids=["once", "again when it is taken back", "and again"])
async def test_a_claim_that_was_done_though_its_answer_was_lost_is_taken_back_before_anything_else(
    server: Valkey, cuts: int
) -> None:
    async with running_proxy(server.port) as proxy:
        store = ValkeyStore(
            f"valkey://127.0.0.1:{proxy.port}/0",
            partition="p1",
            new=True,
            retry_for=0.0,
            probe_interval=600.0,
            lease=600.0,  # nothing else is asked on this connection
        )
        other = ValkeyStore(server.url, partition="p2", new=True)
        for one in (store, other):
            await one.open()
        assert await outcome(other, claim("theirs", b"theirs", expires=4e9)) is None
        for number in range(cuts):
            if number:
                await store.load("s1")  # a new connection
            proxy.connections[-1].cut_after = proxy.connections[-1].down  # the next answer does not pass
            if number:
                error = await outcome(store, event(1))  # is not even sent: taking back comes before
            else:
                records = [claim("k", b"lost", expires=4e9), put("l", kind="task", expires=4e9)]
                refused = asyncio.ensure_future(outcome(store, claim("theirs", expires=4e9)))
                error = await outcome(store, *records)
                assert isinstance(await refused, StoreError)
                found = await other.entry("once", "k")
                assert found is not None
                assert found.data == b"lost"
            assert "cannot be reached" in str(error)
        assert await outcome(store, SESSION) is None
        assert await other.entry("once", "k") is None
        assert await store.entry("task", "l") is None
        kept = await other.entry("once", "theirs")
        assert kept is not None
        assert kept.data == b"theirs"
        assert await outcome(other, claim("k", expires=4e9)) is None
        assert await outcome(store, SESSION) is None
        assert isinstance(await outcome(store, claim("k", expires=4e9)), EntryTaken)
        for one in (store, other):
            await one.close()


async def test_an_owner_behind_a_network_that_went_dead_is_replaced_and_told_when_it_is_back(
    join, server: Valkey
) -> None:
    heir = await join()
    async with running_proxy(server.port) as proxy:
        cut_off = ValkeyMembership(
            f"valkey://127.0.0.1:{proxy.port}/0", Deaf, lease=1.0, timeout=2.0, retry_for=0.1, probe_interval=0.05
        )
        await cut_off.join()
        lost: list[Store] = []
        cut_off.on_lost = lost.append
        store = await cut_off.take()
        assert await outcome(store, SESSION) is None
        proxy.plan = lambda _: Plan(cut_after=0, cut_up_after=0, fault="black-hole")
        for passed in proxy.connections:
            passed.plan = replace(passed.plan, fault="black-hole")
            passed.cut_after = passed.down
        adopted: Store | None = None
        async with asyncio.timeout(60):
            while adopted is None:
                adopted = await heir.adopt(store.partition)
                await asyncio.sleep(0.01)
        assert isinstance(await outcome(store, event(1)), StoreError)
        assert lost == []
        proxy.plan = lambda _: Plan()
        async with asyncio.timeout(60):
            while not lost:
                await asyncio.sleep(0.01)
        assert isinstance(await outcome(store, event(2)), StoreLost)
        assert await outcome(adopted, event(3)) is None
        found = await adopted.load("s1")
        assert found is not None
        assert [event.seq for event in found.events] == [3]
        await store.close()
        await adopted.close()
        await cut_off.leave()


# --- empty ones -------------------------------------------------------------------------------------


async def test_orphans_that_hold_nothing_are_deleted_and_leave_no_key(join, server: Valkey) -> None:
    member = await join(clock=lambda: 1_000.0)
    await member.secrets()
    standing = names(server)
    left = {
        "nothing": [],
        "a session that ended": [SESSION, event(1), PutCall("s1", 1, 1, b""), DropSession("s1")],
        "what belongs to no session": [event(1), PutCall("s1", 1, 1, b"")],
        "an entry that has expired": [put("k", kind="task", expires=999.0)],
        "an entry that was dropped": [
            PutEntry("task", "k", b"", 4e9, free=True),
            put("l", kind="task"),
            DropEntry("task", "k"),
            DropEntry("task", "l"),
        ],
    }
    for what, records in left.items():
        store = await member.take()
        assert await outcome(store, *records) is None, what
        await store.next_epoch()
        await store.close()
        assert await member.orphans() == [], what
        assert names(server) == standing, what
        assert await member.adopt(store.partition) is None, what


@pytest.mark.parametrize(
    "records", [[SESSION], [put("k", kind="task", expires=4e9)], [put("k", kind="outbox", expires=4e9)]],
    ids=["a session", "a task", "a message"],
)  # fmt: skip
async def test_an_orphan_that_holds_something_stays(join, records) -> None:
    member = await join()
    store = await member.take()
    assert await outcome(store, *records) is None
    assert await member.retire(store) is False
    assert await member.orphans() == [store.partition]
    again = await member.adopt(store.partition)
    assert again is not None
    await again.close()


async def test_a_partition_is_retired_by_its_owner_when_it_is_empty(join, server: Valkey) -> None:
    member = await join()
    store, other = await member.take(), await member.take()
    assert await outcome(store, SESSION) is None
    store.write([DropSession("s1"), put("answer", kind="once", expires=4e9)])  # what is shared holds no partition
    assert await member.retire(store) is True
    assert not [name for name in names(server) if store.partition in name]
    assert set(await member.owners()) == {other.partition}
    kept = await other.entry("once", "answer")
    assert kept is not None
    await other.close()


async def test_who_slept_while_its_empty_partition_was_deleted_takes_nothing_back(join, server: Valkey) -> None:
    sleeper, other = await join(), await join()
    store = await sleeper.take()
    die(server, store)
    assert await other.orphans() == []
    assert isinstance(await outcome(store, SESSION), StoreLost)
    assert not [name for name in names(server) if store.partition in name]
    await store.close()


# --- looking ----------------------------------------------------------------------------------------


async def test_those_who_ask_at_once_share_a_look_and_it_is_kept_for_a_third_of_the_lease(
    join, server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, other = await join(lease=600.0), await join()
    looks: list[float] = []
    look = member._look

    async def counted(began: float) -> None:
        looks.append(began)
        await look(began)

    monkeypatch.setattr(member, "_look", counted)
    assert await asyncio.gather(*(member.owners() for _ in range(20))) == [{}] * 20
    assert len(looks) <= 2  # those who asked while it went on may need another
    before = len(looks)
    store = await other.take()
    assert await member.owners() == {}
    assert len(looks) == before
    assert await member.owners(refresh=True) == {store.partition: other.member}
    assert len(looks) == before + 1
    await store.close()


async def test_while_valkey_is_away_members_say_so_and_afterwards_go_on() -> None:
    with Valkey(appendonly="yes", appendfsync="always") as server:
        member = ValkeyMembership(server.url, Deaf, lease=60.0, retry_for=30.0)
        await member.join()
        store = await member.take()
        server.kill()
        asked = [member.owners(refresh=True), member.owners(refresh=True), member.orphans(), member.secrets()]
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, StoreError)
        assert "cannot be reached" in str(member.failure)
        await asyncio.to_thread(server.start)
        assert await member.owners(refresh=True) == {store.partition: member.member}
        assert member.failure is None
        assert await outcome(store, SESSION) is None
        await store.close()
        await member.leave()


async def test_an_idle_connection_that_was_cut_is_no_failure(join, server: Valkey) -> None:
    member = await join()
    store = await member.take()
    for _ in range(3):
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        assert await member.orphans() == []
        assert await outcome(store, SESSION) is None
    await store.close()


async def test_a_valkey_that_sleeps_is_asked_for_the_timeout_and_no_longer(server: Valkey) -> None:
    member = ValkeyMembership(server.url, Deaf)
    await member.join()
    member._idle[0]._timeout = 0.2
    server.signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="no answer in time"):
            await asyncio.wait_for(member.orphans(), 30)
    finally:
        server.signal(signal.SIGCONT)
    await member.leave()


# --- joining and leaving ------------------------------------------------------------------------------


async def test_joining_opens_the_inbox_and_leaving_closes_it(server: Valkey) -> None:
    member = ValkeyMembership(server.url, Deaf)
    inbox = member.inbox
    assert isinstance(inbox, Deaf)
    assert inbox.member == member.member
    with pytest.raises(StoreError, match="join first"):
        await member.take()
    await member.join()
    store = await member.take()
    await store.close()
    await member.leave()
    await member.leave()
    assert inbox.calls == ["open", "close", "close"]
    with pytest.raises(StoreError, match="join first"):
        await member.adopt(store.partition)
    inbox.refuses = True
    with pytest.raises(StoreError, match="no inbox"):
        await member.join()


async def test_members_reach_each_other_through_valkey_unless_they_have_another_way(server: Valkey) -> None:
    first, second = ValkeyMembership(server.url), ValkeyMembership(server.url)
    for member in (first, second):
        await member.join()
    first.inbox.send(second.member, b"hello")
    assert await asyncio.wait_for(second.inbox.receive(), 60) == [(first.member, b"hello")]
    for member in (first, second):
        await member.leave()


async def test_a_service_of_a_newer_version_is_not_joined(server: Valkey) -> None:
    server.ask("HSET", OWN + "meta", "format", str(scripts.FORMAT + 1))
    member = ValkeyMembership(server.url, Deaf)
    with pytest.raises(StoreTooNew):
        await member.join()
    assert names(server) == [OWN + "meta"]


async def test_a_user_with_the_rights_that_the_docs_name_is_a_member_like_any_other(server: Valkey) -> None:
    page = (Path(__file__).parents[2] / "docs/durability.md").read_text()
    rights = re.findall(r"^ACL SETUSER tailrace on >SECRET (.*)$", page, re.MULTILINE)
    server.ask("ACL", "SETUSER", "ann", "on", ">pw", *rights[0].split())
    try:
        await two_share(server.url.replace("//", "//ann:pw@"))
    finally:
        server.ask("ACL", "DELUSER", "ann")


async def two_share(url: str) -> None:
    """All that members do: they join, tell each other, own, claim, hand over, adopt, retire, and leave."""
    first, second = ValkeyMembership(url), ValkeyMembership(url)
    for member in (first, second):
        await member.join()
    store, beside = await first.take(), await second.take(new=True)
    assert await outcome(store, SESSION, event(1), claim("k", expires=4e9)) is None
    assert isinstance(await outcome(beside, claim("k", expires=4e9)), EntryTaken)
    assert await store.load("s1") is not None
    assert await second.owners(refresh=True) == {store.partition: first.member, beside.partition: second.member}
    assert await first.secrets() == await second.secrets()
    first.inbox.send(second.member, b"hello")
    assert await asyncio.wait_for(second.inbox.receive(), 60) == [(first.member, b"hello")]
    assert await first.retire(store) is False
    store = await second.take()
    assert await outcome(store, DropSession("s1")) is None
    assert await second.retire(store) is True
    assert await second.retire(beside) is True
    for member in (first, second):
        assert member.failure is None
        await member.leave()


async def test_a_node_of_a_cluster_has_all_keys_of_a_service_in_one_slot() -> None:
    if engine_version() < (7, 0):
        pytest.skip("the port of its bus cannot be chosen before Redis 7, and may be somebody's")
    options = {"cluster-enabled": "yes", "cluster-port": f"{free_port()}", "cluster-require-full-coverage": "no"}
    with Valkey(**options) as node:
        node.ask("CLUSTER", "ADDSLOTS", key_slot(OWN.encode()))  # any other one is refused: CLUSTERDOWN
        async with asyncio.timeout(60):
            while b"cluster_state:ok" not in node.ask("CLUSTER", "INFO"):
                await asyncio.sleep(0.02)
        await two_share(node.url)
        assert {key_slot(name.encode()) for name in names(node)} == {key_slot(OWN.encode())}


async def test_over_tls_members_share_as_they_do_without_it(server: Valkey) -> None:
    async with tls_front(server) as url:
        await two_share(url)


async def test_nobody_at_the_address_is_said_when_joining() -> None:
    member = ValkeyMembership("valkey://127.0.0.1:1", Deaf, timeout=30)
    with pytest.raises(StoreError, match="cannot be reached"):
        await member.join()
    await member.leave()


async def test_what_this_valkey_cannot_promise_is_said_once_not_for_each_partition(
    join, caplog: pytest.LogCaptureFixture
) -> None:
    member = await join()
    stores = [await member.take() for _ in range(3)]
    assert sum("append-only" in record.message for record in caplog.records) == 1
    assert member.statistics()["persistence"] == "none"
    for store in stores:
        await store.close()


async def test_a_partition_is_opened_by_name_only_where_it_is_and_made_only_where_it_is_not(server: Valkey) -> None:
    with pytest.raises(StoreLost, match="no partition"):
        await ValkeyStore(server.url, partition="none").open(wait=0)
    made = ValkeyStore(server.url, partition="made", new=True)
    await made.open(wait=0)
    with pytest.raises(StoreLost, match="there already"):
        await ValkeyStore(server.url, partition="made", new=True).open(wait=0)
    await made.close()
    await made.open(wait=0)  # it is there by now
    await made.close()


async def test_all_keys_of_all_partitions_live_in_one_slot(join, server: Valkey) -> None:
    member = await join(service="bad}{name")
    for _ in range(2):
        store = await member.take()
        records = [SESSION, event(1), put("k", kind="task", expires=4e9), claim(store.partition)]
        assert await outcome(store, *records) is None
        await store.close()
    grown = names(server)
    assert len(grown) > 15
    assert len({key_slot(name.encode()) for name in grown}) == 1
