"""What only the Valkey store has: its lease and fencing token, cuts, restarts, the address, and what it warns of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from tailrace.core.ports import AppendEvent, DropEntry, DropSession, PutCall, PutEntry, PutSession, Record
from tailrace.errors import DefinitionError, StoreBusy, StoreError, StoreTooNew
from tailrace.stores import valkey_inbox, valkey_membership, valkey_post
from tailrace.stores import valkey_scripts as scripts
from tailrace.stores.memory import MemoryStore
from tailrace.stores.valkey import ValkeyStore
from tailrace.stores.valkey_link import Link, Unreachable
from tailrace.stores.valkey_records import encode
from tests.rigs.valkey import Valkey, engine_version
from tests.stores.test_store import RECORDS, SESSION, event, put, stored

OWN = "{tailrace:tailrace}:"


@pytest.fixture
def durable() -> Iterator[Valkey]:
    with Valkey(appendonly="yes", appendfsync="always") as server:
        yield server


def names(server: Valkey) -> list[str]:
    return sorted(key.decode() for key in server.ask("KEYS", "*"))


# --- who holds it ---------------------------------------------------------------------------------


async def test_a_second_server_of_the_service_is_refused_and_waits_for_the_first(server: Valkey) -> None:
    first, second, other = ValkeyStore(server.url), ValkeyStore(server.url), ValkeyStore(server.url, service="other")
    await first.open()
    await other.open(wait=0)  # another service at the same address
    with pytest.raises(StoreBusy, match="another server"):
        await second.open(wait=0)
    first.write([SESSION])
    waiting = asyncio.ensure_future(second.open(wait=30))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await first.close()
    await waiting
    assert await second.load("s1") is not None
    assert await other.load("s1") is None
    await second.close()
    await other.close()


async def test_the_lease_of_a_dead_server_ends_by_itself(server: Valkey) -> None:
    server.ask("SET", OWN + "fence", "7")
    server.ask("SET", OWN + "owner", "7:another", "PX", "600000")
    store = ValkeyStore(server.url)
    with pytest.raises(StoreBusy):
        await store.open(wait=0)
    server.ask("PEXPIRE", OWN + "owner", "300")
    await store.open(wait=60)
    assert server.ask("GET", OWN + "owner").startswith(b"8:")
    await store.close()


async def test_a_held_lease_is_renewed_though_nothing_is_written(server: Valkey) -> None:
    store = ValkeyStore(server.url, lease=6.0)
    await store.open()
    server.ask("PEXPIRE", OWN + "owner", "5000")
    async with asyncio.timeout(60):
        while server.ask("PTTL", OWN + "owner") <= 5000:
            await asyncio.sleep(0.05)
    assert server.ask("GET", OWN + "owner").startswith(b"1:"), "it is still the first who has it"
    await store.close()


async def test_who_was_away_while_another_took_over_can_write_nothing(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    # It asks for its lease every 20 s, so it cannot have it again before the other one comes.
    away, owner = ValkeyStore(server.url, probe_interval=0.01, lease=60.0), ValkeyStore(server.url)
    await away.open()
    away.write([SESSION, event(1)])
    await away.flush()
    server.ask("DEL", OWN + "owner")  # its lease ran out
    await owner.open(wait=0)
    owner.write([event(2)])
    await owner.flush()
    for records in ([event(3)], [DropSession("s1")], [put("k", expires=4e9)], []):
        away.write(records)
        with pytest.raises(StoreError, match="taken over"):
            await away.flush()
    for asked in (away.next_epoch, away.secrets, away.sessions):
        with pytest.raises(StoreError, match="taken over"):
            await asked()
    assert "taken over" in str(away.failure)
    assert sum("taken over" in record.getMessage() for record in caplog.records) == 1
    await away.close()  # takes nothing from the other either
    found = await owner.load("s1")
    assert found is not None
    assert found.events == [stored(1), stored(2)]
    assert await owner.next_epoch() == 1
    await owner.close()


async def test_a_lease_that_ran_out_and_that_nobody_took_goes_on(server: Valkey) -> None:
    store = ValkeyStore(server.url)
    await store.open()
    server.ask("DEL", OWN + "owner")
    store.write([SESSION])
    await store.flush()
    with pytest.raises(StoreBusy):
        await ValkeyStore(server.url).open(wait=0)
    await store.close()
    assert server.ask("EXISTS", OWN + "owner") == 0


async def test_who_has_not_heard_of_valkey_for_a_lease_is_not_sure_to_hold_it(server: Valkey) -> None:
    store = ValkeyStore(server.url, lease=1.0, probe_interval=0.01)
    assert store.is_held is False
    await store.open()
    async with asyncio.timeout(60):
        while not store.is_held:  # unless this machine stands still for a second
            await asyncio.sleep(0.01)
        server.signal(signal.SIGSTOP)
        try:
            while store.is_held:
                await asyncio.sleep(0.01)
        finally:
            server.signal(signal.SIGCONT)
        while not store.is_held:
            await asyncio.sleep(0.01)
    await store.close()
    assert store.is_held is False


async def test_a_commit_that_comes_twice_or_late_is_done_once(server: Valkey) -> None:
    link = Link(server.url, "tailrace", timeout=5)
    _, token = await link.call(scripts.ACQUIRE, "me", 600_000, scripts.FORMAT, "", 0)
    late = encode([SESSION], 1, 0.0)
    assert await link.call(scripts.COMMIT, token, 600_000, 2, *encode([DropSession("s1")], 1, 0.0)) == [b"ok", 0, b""]
    assert await link.call(scripts.COMMIT, token, 600_000, 2, *late) == [b"ok", 2, b""]
    assert await link.call(scripts.COMMIT, token, 600_000, 1, *late) == [b"ok", 2, b""]
    assert await link.call(scripts.LOAD, token, 600_000, "id", "s1") == [b"ok"]
    assert await link.call(scripts.RELEASE, token, 600_000) == [b"ok"]
    assert await link.call(scripts.RENEW, token, 600_000) == [b"gone"]  # late, out of a socket that was given up
    await link.drop()


async def test_a_claim_that_is_asked_again_after_a_cut_gets_the_answer_it_had(server: Valkey) -> None:
    link = Link(server.url, "tailrace", timeout=5)
    _, token = await link.call(scripts.ACQUIRE, "me", 600_000, scripts.FORMAT, "", 0)
    claim = PutEntry("once", "k", b"", 4e9, claim=True)
    commit = [*encode([claim], 7, 1.0), *encode([claim], 8, 1.0), *encode([SESSION], 9, 1.0), *encode([claim], 10, 1.0)]
    for last in (0, 1, 1):
        assert await link.call(scripts.COMMIT, token, 600_000, 1, *commit) == [b"ok", last, b"8,10"]
    assert await link.call(scripts.COMMIT, token, 600_000, 2) == [b"ok", 1, b""]
    await link.drop()


# --- cuts and restarts ----------------------------------------------------------------------------


class Resetting(asyncio.Protocol):
    """Says OK to everything, and resets the connection once it was asked to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"+OK\r\n" * data.count(b"*"))
        if b"RESET" in data:
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


async def test_a_connection_that_was_reset_while_nothing_was_asked_is_given_up_and_made_anew() -> None:
    listener = await asyncio.get_running_loop().create_server(Resetting, "127.0.0.1", 0)
    link = Link(f"valkey://127.0.0.1:{listener.sockets[0].getsockname()[1]}", "tailrace", timeout=60)
    for _ in range(5):
        with contextlib.suppress(Unreachable):  # the reset may be faster than the answer
            assert await link.ask("RESET") == b"OK"
            async with asyncio.timeout(60):
                while not link._connection._writer.is_closing():
                    await asyncio.sleep(0.01)
            with pytest.raises(Unreachable):
                await link.ask("PING")
        assert await link.ask("PING") == b"OK"
    await link.drop()
    listener.close()
    await listener.wait_closed()


class Hanging(asyncio.Protocol):
    """Says OK to everything, until it was told to hang: then it reads no more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if b"HANG" in data:
            self.transport.pause_reading()
        else:
            self.transport.write(b"+OK\r\n" * data.count(b"*"))


async def test_a_connection_that_is_given_up_keeps_nothing_of_what_its_peer_did_not_read() -> None:
    hanging: list[Hanging] = []

    def accepted() -> Hanging:
        hanging.append(Hanging())
        return hanging[-1]

    listener = await asyncio.get_running_loop().create_server(accepted, "127.0.0.1", 0)
    link = Link(f"valkey://127.0.0.1:{listener.sockets[0].getsockname()[1]}", "tailrace", timeout=60)
    assert await link.ask("PING") == b"OK"
    transport = link._transport
    assert transport is not None
    asking = asyncio.ensure_future(link.ask("HANG", b"x" * 50_000_000))
    async with asyncio.timeout(60):
        while not transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert transport.is_closing()
    assert transport.get_write_buffer_size() == 0
    assert await link.ask("PING") == b"OK"
    await link.drop()
    for one in hanging:
        one.transport.abort()
    listener.close()
    await listener.wait_closed()
    await asyncio.sleep(0)


async def test_a_bug_below_the_store_costs_it_a_connection_and_nothing_else(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug(*_: object) -> None:
        raise AttributeError("no such thing")

    store = ValkeyStore(server.url)
    await store.open()
    for method in ("send_packed_command", "read_response"):
        setattr(store._link._connection, method, bug)
        store.write([SESSION])
        await store.flush()
    assert await store.load("s1") is not None
    assert store.failure is None
    await store.close()
    ours = [record for record in caplog.records if record.name.startswith("tailrace")]
    told = [record for record in ours if record.levelname == "ERROR"]
    assert [str(record.exc_info and record.exc_info[1]) for record in told] == ["no such thing"] * 2


async def test_a_writer_that_ends_by_a_bug_leaves_nobody_waiting_and_the_reason(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise LookupError("a bug")

    store = ValkeyStore(server.url, lease=0.2)
    await store.open()
    monkeypatch.setattr(store._writer, "_commit", bug)
    store.write([SESSION])
    with pytest.raises(StoreError, match="a bug"):
        await store.flush()
    assert "LookupError: a bug" in str(store.failure)
    with pytest.raises(StoreError, match=r"not open: .* a bug"):
        store.write([SESSION])
    await store.close()
    await store.open(wait=60)
    assert store.failure is None
    store.write([SESSION])
    await store.flush()
    await store.close()


@pytest.mark.parametrize(
    "refusal",
    [
        "READONLY You can't write against a read only replica.",
        "ERR Error running script (call to f_12ab): @user_script:7: @user_script: 7: -READONLY You can't write against "
        "a read only replica. ",
    ],
    ids=["now", "redis 6.2"],
)
async def test_after_a_failover_the_address_is_asked_again_not_the_old_primary(refusal: str) -> None:
    asked: list[int] = []  # times, on each connection

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(asked)
        asked.append(0)
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            while word := (await reader.readuntil(b"\r\n")).strip():
                asked[number] += word == b"PING"
                if word in (b"PING", b"tailrace"):  # the last of a command
                    writer.write(f"-{refusal}\r\n".encode() if word == b"PING" and not number else b"+OK\r\n")

    async with await asyncio.start_server(node, "127.0.0.1", 0) as listener:
        link = Link(f"valkey://127.0.0.1:{listener.sockets[0].getsockname()[1]}", "tailrace", timeout=60)
        with pytest.raises(Unreachable, match="read only replica"):
            await link.ask("PING")
        assert await link.ask("PING") == b"OK"
        await link.drop()
    assert asked == [1, 1]


async def test_a_primary_that_was_made_a_replica_takes_no_commit_until_it_is_one_again(server: Valkey) -> None:
    link = Link(server.url, "tailrace", timeout=30)
    _, token = await link.call(scripts.ACQUIRE, "me", 600_000, scripts.FORMAT, "", 0)
    server.ask("REPLICAOF", "127.0.0.1", "1")  # where nobody is: it keeps what it has
    try:
        with pytest.raises(Unreachable, match="read only replica"):
            await link.call(scripts.COMMIT, token, 600_000, 1, *encode([SESSION], 1, 0.0))
    finally:
        server.ask("REPLICAOF", "NO", "ONE")
    assert await link.call(scripts.COMMIT, token, 600_000, 1, *encode([SESSION], 1, 0.0)) == [b"ok", 0, b""]
    await link.drop()


async def test_what_was_committed_survives_a_kill_of_valkey_and_what_waits_is_done_once(durable: Valkey) -> None:
    store = ValkeyStore(durable.url, retry_for=60.0, timeout=30.0)
    await store.open()
    assert store.statistics()["persistence"] == "appendfsync always"
    store.write([SESSION])
    heard: list[StoreError | None] = []
    for seq in range(1, 601):
        store.when(store.write([event(seq), PutCall("s1", seq, 1, b"")]), heard.append)
        if seq % 200 == 100:
            while len(heard) < seq - 50:
                await asyncio.sleep(0.001)
            durable.kill()
            durable.start()
        elif seq % 10 == 0:
            await asyncio.sleep(0)
    await store.flush()
    assert heard == [None] * 600
    found = await store.load("s1")
    assert found is not None
    assert found.events == [stored(seq) for seq in range(1, 601)]
    assert [call.call for call in found.calls] == list(range(1, 601))
    assert store.statistics()["lost"] == 0
    await store.close()


async def test_while_valkey_is_away_writes_fail_and_afterwards_they_do_not(durable: Valkey) -> None:
    store = ValkeyStore(durable.url, retry_for=0.05, probe_interval=0.01, lease=60.0)
    await store.open()
    store.write([SESSION])
    await store.flush()
    durable.kill()
    store.write([event(1)])
    with pytest.raises(StoreError, match="cannot be reached"):
        await store.flush()
    assert store.failure is not None
    with pytest.raises(StoreError, match="cannot be reached"):
        await store.load("s1")
    durable.start()
    while store.failure is not None:  # ends by the test's time-out
        await asyncio.sleep(0.001)
    store.write([event(2)])
    await store.flush()
    found = await store.load("s1")
    assert found is not None
    assert found.events == [stored(2)]
    await store.close()


async def test_a_valkey_that_forgot_everything_is_not_written_to_again() -> None:
    with Valkey() as forgetful:
        store = ValkeyStore(forgetful.url, retry_for=60.0)
        await store.open()
        store.write([SESSION])
        await store.flush()
        forgetful.kill()
        forgetful.start()
        store.write([event(1)])
        with pytest.raises(StoreError, match="taken over"):
            await store.flush()
        assert names(forgetful) == []
        await store.close()


async def test_confirmed_commits_that_valkey_no_longer_knows_are_counted_and_reported(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    store = ValkeyStore(server.url)
    await store.open()
    for seq in range(1, 6):
        store.write([event(seq)])
        await store.flush()
    server.ask("SET", OWN + "batch", "2")  # as a replica that was behind
    store.write([event(6)])
    await store.flush()
    assert store.statistics()["lost"] == 3
    assert any("lost the last 3 commits" in record.message for record in caplog.records)
    await store.close()


async def test_closing_while_valkey_is_away_ends_within_its_limit_and_promises_nothing(durable: Valkey) -> None:
    store = ValkeyStore(durable.url, retry_for=600.0, close_timeout=0.1)
    await store.open()
    durable.kill()
    heard: list[StoreError | None] = []
    store.when(store.write([SESSION]), heard.append)
    asked = asyncio.ensure_future(store.load("s1"))
    await asyncio.sleep(0)
    await store.close()
    assert [str(error) for error in heard] == [str(store.failure)]
    assert "took longer than 0.1 s" in str(store.failure)
    with pytest.raises(StoreError, match="took longer"):
        await asked
    assert store.statistics()["queued_bytes"] == 0


async def test_a_record_that_cannot_be_stored_fails_alone(server: Valkey) -> None:
    store = ValkeyStore(server.url)
    await store.open()
    bad: list[list[Record]] = [
        [SESSION, PutEntry("once", "\ud800", b"", 1.0)],
        [SESSION, AppendEvent("s1", 1, 1, 9, b"")],
        [SESSION, PutEntry("once", "k", b"", float("nan"))],
    ]
    heard: list[StoreError | None] = []
    for records in bad:
        store.when(store.write(records), heard.append)
        store.when(store.write([put("sound", expires=4e9)]), heard.append)
    with pytest.raises(StoreError, match="cannot be stored"):
        await store.flush()
    assert [error is None for error in heard] == [False, True] * 3
    assert await store.load("s1") is None
    assert store.failure is None
    await store.close()


# --- the keys -------------------------------------------------------------------------------------


async def test_all_keys_of_a_service_live_in_one_slot_and_go_with_what_they_hold(server: Valkey) -> None:
    store = ValkeyStore(server.url, service="bad}{name")
    await store.open()
    await store.secrets()
    standing = names(server)
    store.write([SESSION, event(1), event(2, stream=2, kind=1), PutCall("s1", 1, 1, b""), put("k", expires=4e9)])
    store.write([event(1, session="nobody's")])
    await store.flush()
    grown = names(server)
    assert len({key_slot(name.encode()) for name in grown}) == 1
    assert len(grown) > len(standing) + 8
    store.write([DropSession("s1"), DropEntry("once", "k")])
    await store.close()
    await store.open()  # clears what belongs to no session
    kept = names(server)
    prefix = standing[0].rpartition(":")[0]
    assert [name for name in kept if name not in standing] == [f"{prefix}:kinds"]
    await store.close()


@pytest.mark.parametrize("partition", ["", "p1"], ids=["whole", "partition"])
async def test_entries_that_have_expired_are_deleted(server: Valkey, partition: str) -> None:
    now = [1_000.0]
    store = ValkeyStore(server.url, partition=partition, new=True, expiry_interval=0.01, clock=lambda: now[0])
    await store.open()
    store.write([put(f"{number}", expires=1_500.0) for number in range(1_200)])
    store.write([PutEntry("task", f"{number}", b"", 1_500.0, free=True) for number in range(3)])
    store.write([put("stays", expires=3_000.0)])
    await store.flush()
    now[0] = 2_000.0
    while server.ask("HLEN", OWN + "d:once") > 1:  # ends by the test's time-out
        await asyncio.sleep(0.005)
    assert [entry.key for entry in await store.entries("once")] == ["stays"]
    now[0] = 4_000.0
    while any(":kinds" in name or name.endswith(("once", "task")) for name in names(server)):
        await asyncio.sleep(0.005)
    await store.close()


@settings(max_examples=40, deadline=None)
@given(writes=st.lists(st.lists(RECORDS, max_size=30), max_size=6), partition=st.sampled_from(["", "p1"]))
def test_valkey_keeps_what_memory_keeps_however_the_writes_are_grouped(
    shared: Valkey, writes: list[list[Record]], partition: str
) -> None:
    async def main() -> None:
        shared.ask("FLUSHALL")
        memory, valkey = MemoryStore(), ValkeyStore(shared.url, partition=partition, new=True)
        for store in (memory, valkey):
            await store.open()
            for number, records in enumerate(writes):
                store.write(records)
                if number % 2:
                    await store.flush()
            store.write([PutSession(name, name.encode(), "", b"", 1.0) for name in ("a", "b")])  # shows all there is
        for name in ("a", "b"):
            assert await valkey.load(name) == await memory.load(name)
            assert await valkey.load(handle=name.encode()) == await memory.load(name)
        for kind in ("a", "once"):
            assert await valkey.count(kind) == await memory.count(kind)
            assert await valkey.entry(kind, "a") == await memory.entry(kind, "a")
            for page in ({}, {"after": "a"}, {"limit": 1}):
                assert await valkey.entries(kind, **page) == await memory.entries(kind, **page)
        assert await valkey.unfinished() == await memory.unfinished()
        assert await valkey.sessions() == await memory.sessions()
        for store in (memory, valkey):
            await store.close()

    asyncio.run(main())


def test_no_script_asks_for_what_redis_6_2_does_not_have(server: Valkey) -> None:
    texts = [
        value.text
        for module in (scripts, valkey_membership, valkey_inbox, valkey_post)
        for value in vars(module).values()
        if isinstance(value, scripts.Script)
    ]
    asked = {name for text in texts for name in re.findall(r"call\('([A-Z]+)'", text)}
    assert len(texts) > 15
    assert asked >= {"HSETNX", "ZRANGEBYLEX", "SISMEMBER"}
    for name in asked:
        if engine_version() < (7, 0):  # it cannot say since when it has it
            assert server.ask("COMMAND INFO", name), name
            continue
        _, facts = server.ask("COMMAND DOCS", name)
        since = facts[facts.index(b"since") + 1].decode()
        assert tuple(map(int, since.split("."))) <= (6, 2, 0), name


# --- its address, and what it says of itself --------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["valkey:", "valkey://", "valkey://h:x", "valkey://h/x", "valkey://h/-1", "valkey://h?ca=x", "valkey://h#x",
     "valkeys://h?decode_responses=1", "valkeys://h?ca", "mysql://h"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(DefinitionError, match="valkey://"):
        ValkeyStore(url)


def test_the_name_shows_where_it_is_and_no_password() -> None:
    assert ValkeyStore("valkey://ann:secret@h").name == "valkey://h:6379/0"
    assert ValkeyStore("valkeys://:secret@[::1]:7/2?ca=x.pem").name == "valkeys://[::1]:7/2"


async def test_a_password_and_the_rights_to_its_own_keys_suffice() -> None:
    with Valkey(requirepass="secret") as guarded:
        guarded.ask("ACL", "SETUSER", "ann", "on", ">pw 1", "~{tailrace:*", "+@all", "-@admin", "-@dangerous")
        for wrong in ("", ":wrong@", "ann:wrong@"):
            with pytest.raises(StoreError, match=r"(?i)auth|password"):
                await ValkeyStore(guarded.url.replace("//", "//" + wrong)).open(wait=0)
        store = ValkeyStore(guarded.url.replace("//", "//ann:pw%201@"))
        await store.open()
        store.write([SESSION])
        assert await store.load("s1") is not None
        assert store.statistics()["persistence"] == "unknown"
        await store.close()


async def test_what_is_wrong_with_the_address_is_said_each_time(server: Valkey) -> None:
    store = ValkeyStore(server.url.replace("/0", "/99"))
    for _ in range(2):
        with pytest.raises(StoreError, match="index is out of range"):
            await store.open(wait=0)


async def test_a_user_that_may_not_say_its_name_is_served_without_it(server: Valkey) -> None:
    server.ask("ACL", "SETUSER", "nameless", "on", ">pw", "~*", "+@all", "-client")
    for user, name in (("default", "tailrace"), ("nameless", "")):
        link = Link(server.url.replace("//", f"//{user}:pw@" if user == "nameless" else "//"), "tailrace", timeout=60)
        assert await link.ask("PING") == b"PONG"
        assert name in [one["name"] for one in server.ask("CLIENT LIST") if one["user"] == user]
        await link.drop()


async def test_nobody_at_the_address_is_said_at_once(server: Valkey) -> None:
    store = ValkeyStore("valkey://127.0.0.1:1", timeout=30)
    with pytest.raises(StoreError, match="cannot be reached"):
        await store.open(wait=600)
    with pytest.raises(StoreError, match="not open"):
        store.write([])


async def test_keys_of_a_newer_version_are_left_alone(server: Valkey) -> None:
    server.ask("HSET", OWN + "meta", "format", str(scripts.FORMAT + 1))
    with pytest.raises(StoreTooNew):
        await ValkeyStore(server.url).open(wait=0)
    assert names(server) == [OWN + "meta"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ["no append-only file"]),
        ({"appendonly": "yes", "appendfsync": "everysec"}, ["appendfsync everysec"]),
        ({"appendonly": "yes", "appendfsync": "always"}, []),
        ({"appendonly": "yes", "appendfsync": "always", "maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"},
         ["evicts keys"]),
    ],
    ids=["none", "everysec", "always", "evicting"],
)  # fmt: skip
async def test_what_this_valkey_cannot_promise_is_said(
    options: dict[str, str], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with Valkey(**options) as server:
        store = ValkeyStore(server.url)
        with caplog.at_level(logging.WARNING, "tailrace.stores.valkey"):
            await store.open()
        await store.close()
    messages = [record.message for record in caplog.records if record.name == "tailrace.stores.valkey"]
    assert len(messages) == len(said)
    assert all(part in message for part, message in zip(said, messages, strict=True))


@contextlib.asynccontextmanager
async def tls_front(server: Valkey) -> AsyncIterator[str]:
    """The server behind TLS: its URL, with the authority that vouches for it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(OSError):
            await asyncio.gather(pump(reader, back), pump(there, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as front:
        with authority.cert_pem.tempfile() as ca:
            yield f"valkeys://127.0.0.1:{front.sockets[0].getsockname()[1]}/0?ca={ca}"


async def test_over_tls_the_certificate_is_checked(server: Valkey) -> None:
    async with tls_front(server) as url:
        with pytest.raises(StoreError, match="certificate"):
            await ValkeyStore(url.partition("?")[0]).open(wait=0)
        store = ValkeyStore(url)
        await store.open(wait=0)
        store.write([SESSION])
        assert await store.load("s1") is not None
        await store.close()
