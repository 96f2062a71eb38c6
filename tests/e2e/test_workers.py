"""Two server processes on one real Valkey: any of them takes any request, and what a dead one owned lives on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_restart import check_unknown, kill
from tests.e2e.witness import Witness
from tests.rigs.rawmcp import (
    HttpSse,
    Json,
    Streamable,
    call,
    is_answer,
    modern_headers,
    modern_meta,
    request,
    send,
    text_of,
)
from tests.rigs.rawmcp import Reply as RawReply
from tests.rigs.server import ServerProcess, running_async, stop_async, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WORKERS = Path(__file__).parent / "fixtures" / "workers.py"
TASKS = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey(appendonly="yes", appendfsync="always") as server:
        yield server


@asynccontextmanager
async def two(
    valkey: Valkey, tmp_path: Path, witness: Witness, lease: float
) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    command = tailrace_command(WORKERS, "--lease", f"{lease:g}", "--drain", "80", store=valkey.url)
    async with (
        running_async(command, tmp_path / "one", env=witness.env) as one,
        running_async(command, tmp_path / "other", env=witness.env) as other,
    ):
        yield one, other


def at(server: ServerProcess, session: Streamable) -> Streamable:
    """The session, used at another process."""
    moved = Streamable(server.url, session.version)
    moved.session_id = session.session_id
    return moved


def move(client: HttpSse, server: ServerProcess) -> None:
    """From now on it uses another process."""
    client.endpoint = server.url + client.endpoint[client.endpoint.index("/messages") :]
    client.url = server.url + "/sse"


async def served(session: Streamable, limit: float = 60.0) -> int:
    """Ask until the session has an owner; the process that is it."""
    until = time.monotonic() + limit
    while True:
        reply = await session.post(call("pid", "pid"), limit=60)
        if reply.head.status == 200:
            answer = await reply.answer("pid")
            reply.close()
            return int(text_of(answer))
        text = await reply.text()
        assert reply.head.status in (502, 503, 504), f"HTTP {reply.head.status} {text}"
        assert time.monotonic() < until, f"not within {limit:g} s; the last reply was {reply.head.status} {text}"
        await asyncio.sleep(0.05)


async def modern(server: ServerProcess, id: str, method: str, params: Json, name: str) -> Json:
    """One request of 2026-07-28 from a client that knows tasks."""
    message = request(id, method, {**params, "_meta": {**modern_meta(), **TASKS}})
    connection = await send(server.url + "/mcp", "POST", modern_headers(method, name), json.dumps(message).encode())
    reply = RawReply(connection, await connection.read_head())
    answer = await reply.answer(id)
    reply.close()
    return answer


async def test_any_process_takes_any_request(witness: Witness, valkey: Valkey, tmp_path: Path) -> None:
    async with two(valkey, tmp_path, witness, 10) as (one, other):
        session = await Streamable(one.url).open()
        there = at(other, session)
        assert await served(there) == one.pid

        reply = await there.post(call("g", "gate", {"key": "g"}, progress="p"))  # POST, and its stream
        await witness.sees("start g")
        while (event := await reply.stream.next()) is not None and "notifications/progress" not in event.data:
            pass
        assert event is not None
        reply.abort()
        witness.open("g")
        resumed = await there.get(event.id)  # GET with Last-Event-ID
        assert resumed.head.get("tailrace-resume") == "complete"
        assert text_of(await resumed.answer("g")) == "g"
        resumed.close()

        client = await HttpSse(one.url).open()  # HTTP+SSE, both ways
        move(client, other)
        assert await client.post(call("p", "pid")) == 202
        assert text_of(await client.answer("p")) == str(one.pid)
        await client.resume(client.last_event_id)
        assert await client.post(call("q", "pid")) == 202
        assert text_of(await client.answer("q")) == str(one.pid)
        client.close()

        began = await modern(one, "t", "tools/call", {"name": "bake", "arguments": {"key": "t"}}, "bake")  # tasks
        id = began["result"]["taskId"]
        assert (await modern(other, "u", "tasks/get", {"taskId": id}, id))["result"]["status"] == "working"
        witness.open("t")
        async with asyncio.timeout(60):
            while (found := (await modern(other, "v", "tasks/get", {"taskId": id}, id))["result"])[
                "status"
            ] == "working":
                await asyncio.sleep(0.05)
        assert found["result"]["content"][0]["text"] == "t"

        far = await Streamable(other.url).open()  # a key at both at once
        paying = [asyncio.ensure_future(one.call("k", "pay", {"key": "k"})) for one in (session, far)]
        await witness.sees("start k")
        witness.open("k")
        assert [text_of(answer) for answer in await asyncio.gather(*paying)] == ["k", "k"]
        assert text_of(await far.call("again", "pay", {"key": "k"})) == "k"
        assert witness.count("start k") == 1

        assert await there.delete() == 200
        assert (await session.post(call("gone", "pid"))).head.status == 404
        assert await stop_async(one) == 0
        assert await stop_async(other) == 0
        assert one.records() == other.records() == [], one.stderr_tail() + other.stderr_tail()
    witness.check_hooks_paired()


async def test_a_killed_owner_is_replaced_within_two_leases(witness: Witness, valkey: Valkey, tmp_path: Path) -> None:
    lease = 4.0
    async with two(valkey, tmp_path, witness, lease) as (one, other):
        session, client = await Streamable(one.url).open(), await HttpSse(one.url).open()
        last = client.last_event_id
        assert await client.post(call("cut", "gate", {"key": "cut"})) == 202
        far = await Streamable(other.url).open()
        paying = await session.post_unanswered(call("k", "pay", {"key": "k"}))
        await witness.sees("start cut", "start k")
        waiting = await far.post(call("k", "pay", {"key": "k"}))
        await kill(one)
        killed = time.monotonic()
        paying.close()
        assert await served(at(other, session)) == other.pid
        print(f"the session was served again {time.monotonic() - killed:.1f} s after kill -9; the lease is {lease:g} s")
        move(client, other)
        await client.resume(last)
        check_unknown(await client.answer("cut"))
        check_unknown(await waiting.answer("k", limit=60))
        waiting.close()
        assert await client.post(call("p", "pid")) == 202
        assert text_of(await client.answer("p")) == str(other.pid)
        client.close()
    assert witness.count("start cut") == witness.count("start k") == 1


async def test_an_owner_that_slept_writes_nothing_and_serves_on(
    witness: Witness, valkey: Valkey, tmp_path: Path
) -> None:
    async with two(valkey, tmp_path, witness, 4) as (one, other):
        session, client = await Streamable(one.url).open(), await HttpSse(one.url).open()
        last = client.last_event_id
        assert await client.post(call("cut", "gate", {"key": "cut"})) == 202
        await witness.sees("start cut")
        os.kill(one.pid, signal.SIGSTOP)
        try:
            assert await served(at(other, session)) == other.pid
            witness.open("cut")  # it would answer as soon as it wakes
        finally:
            os.kill(one.pid, signal.SIGCONT)
        assert await served(session) == other.pid  # the sleeper sends on what it does not own any more
        assert await served(await Streamable(one.url).open()) == one.pid  # and has a new home
        answers = [message for message in await left(client) if is_answer(message, "cut")]
        assert answers == [], "the sleeper answered"
        move(client, other)
        await client.resume(last)
        check_unknown(await client.answer("cut"))
        client.close()
        assert "another" in one.stderr_tail()
        assert other.records() == [], other.stderr_tail()
        assert await stop_async(one) == 0
        assert await stop_async(other) == 0
    hooks = Counter(line.split(" ")[0] for line in witness.lines())  # the sleeper's farewells come when it wakes
    assert hooks["unregister"] == hooks["register"] + hooks["restore"], f"{hooks}"


async def test_a_process_that_is_told_to_end_hands_its_sessions_over_and_nothing_fails(
    witness: Witness, valkey: Valkey, tmp_path: Path
) -> None:
    async with two(valkey, tmp_path, witness, 10) as (one, other):
        session, client = await Streamable(one.url).open(), await HttpSse(one.url).open()
        running = asyncio.ensure_future(session.call("g", "gate", {"key": "g"}))
        assert await client.post(call("h", "gate", {"key": "h"})) == 202
        await witness.sees("start g", "start h")
        stopping = asyncio.ensure_future(stop_async(one, 100))
        async with asyncio.timeout(60):
            while partition(await Streamable(one.url).open()) == partition(session):
                await asyncio.sleep(0.05)  # until it gives to the other what is new: it has been told
        late = [await session.post_unanswered(call("late", "pid")) for _ in range(5)]
        await served(await Streamable(one.url).open())  # behind these
        witness.open("g")
        witness.open("h")
        assert text_of(await running) == "g"
        assert text_of(await client.answer("h")) == "h"
        for connection in late:
            reply = RawReply(connection, await connection.read_head())
            assert text_of(await reply.answer("late")) == str(other.pid)
            reply.close()
        while await client.next(60) is not None:  # its stream ends in order
            pass
        move(client, other)
        resumed = await client.resume(client.last_event_id)
        assert resumed.head.get("tailrace-resume") == "complete"
        assert await client.post(call("p", "pid")) == 202
        assert text_of(await client.answer("p")) == str(other.pid)
        client.close()
        assert await stopping == 0
        assert one.records() == other.records() == [], one.stderr_tail() + other.stderr_tail()
        assert await stop_async(other) == 0
    witness.check_hooks_paired()


def partition(session: Streamable) -> str:
    assert session.session_id is not None
    return session.session_id.partition("~")[0]


async def left(client: HttpSse) -> list[Json]:
    """What a stream still says until it ends or breaks."""
    found: list[Any] = []
    while (message := await client.next(60)) is not None:
        found.append(message)
    return found
