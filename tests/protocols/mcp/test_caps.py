"""The caps on what logs hold are kept at every moment, not only when a call is accepted (G3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import LegacySession, SseSession, is_answer, modern_request, post_modern, serving

LIMIT_REACHED = -32000
MIB = 1024 * 1024


def large() -> tuple[Service, asyncio.Event]:
    """A service whose answers are large, and come when they are let go."""
    service, gate = Service("large"), asyncio.Event()

    @service.tool
    async def big(size: int) -> str:
        await gate.wait()
        return "x" * (size // 2)  # it goes as text and as structured content

    @service.tool
    async def chat(ctx: Context, count: int, size: int) -> str:
        for _ in range(count):
            await ctx.log("info", "x" * size)
        await gate.wait()
        return "done"

    return service, gate


async def peak_of(server: Any, seconds: float = 60.0) -> int:
    """The most that was held, looked at after every step of the loop for a while."""
    peak = 0
    for _ in range(400):
        await asyncio.sleep(0)
        peak = max(peak, server.endpoint.retention.budget.held)
    await asyncio.sleep(seconds)
    return max(peak, server.endpoint.retention.budget.held)


@pytest.mark.parametrize("durable", [False, True])
def test_a_hundred_large_answers_that_nobody_reads_stay_within_the_sessions_cap(durable: bool) -> None:
    @virtual
    async def run() -> None:
        service, gate = large()
        async with serving(service, MemoryStore(durable=durable), session_log=2 * MIB) as server:
            session = await SseSession(server).start()
            for id in range(100):
                assert await session.call(id, "big", {"size": MIB}).status_code() == 202
            last = session.stream.last_id
            session.stream.disconnect()
            gate.set()
            assert await peak_of(server) <= 2 * MIB
            stream = await session.open(last)
            answers = [await stream.answer(id) for id in range(100)]
            whole = [answer for answer in answers if "result" in answer]
            refused = [answer["error"] for answer in answers if "error" in answer]
            assert len(whole) == 1, "of those that fit one was kept"
            assert len(refused) == 99, "and each of the others says what became of its answer"
            assert {(error["code"], error["data"]["limit"]) for error in refused} == {(LIMIT_REACHED, "log")}

    run()


@virtual
async def test_answers_wait_for_a_reader_that_reads_and_none_is_lost() -> None:
    service, gate = large()
    async with serving(service, session_log=2 * MIB, kept=MIB // 2) as server:
        session = await SseSession(server).start()
        for id in range(10):
            assert await session.call(id, "big", {"size": MIB // 3}).status_code() == 202
        gate.set()
        assert await peak_of(server) <= 2 * 2 * MIB, "as much again may wait for room"
        for id in range(10):
            assert "result" in await session.stream.answer(id)


@virtual
async def test_a_reader_that_does_not_read_is_waited_for_within_the_stall_limit() -> None:
    service, gate = large()
    async with serving(service, session_log=2 * MIB, stall=30.0) as server:
        session = await SseSession(server).start()
        for id in range(4):
            assert await session.call(id, "big", {"size": MIB}).status_code() == 202
        session.stream.sink.open.clear()
        gate.set()
        await asyncio.sleep(29.0)
        assert len(server.tasks.calls) == 1, "one fits, one waits, and for two there is no room to wait"
        await asyncio.sleep(2.0)
        assert not server.tasks.calls
        session.stream.sink.open.set()
        answers = [await session.stream.answer(id) for id in range(4)]
        assert sorted("error" in answer for answer in answers) == [False, True, True, True]


@virtual
async def test_an_answer_waits_no_longer_when_the_reader_goes() -> None:
    service, gate = large()
    async with serving(service, session_log=2 * MIB) as server:
        session = await SseSession(server).start()
        for id in range(2):
            assert await session.call(id, "big", {"size": MIB + MIB // 2}).status_code() == 202
        session.stream.sink.open.clear()
        gate.set()
        await turns()
        assert len(server.tasks.calls) == 1
        session.stream.disconnect()
        await turns()
        assert not server.tasks.calls


@virtual
async def test_a_full_session_still_has_room_for_the_small_answers_of_its_calls() -> None:
    service, gate = large()
    async with serving(service, session_log=2 * MIB) as server:
        session = await SseSession(server).start()
        last = session.stream.last_id
        session.stream.disconnect()
        ids = list(range(40))
        assert await session.call("first", "big", {"size": MIB + 9 * MIB // 10}).status_code() == 202
        for id in ids:
            assert await session.call(id, "big", {"size": 15_000}).status_code() == 202
        gate.set()
        assert await peak_of(server) <= 2 * MIB
        stream = await session.open(last)
        for id in ids:
            assert "result" in await stream.answer(id)


@virtual
async def test_the_rings_of_many_streams_stay_within_the_sessions_cap_together() -> None:
    service, gate = large()
    async with serving(service, session_log=MIB, hold=0.01) as server:
        session = await LegacySession(server).start()
        for id in range(30):
            post = session.call(id, "chat", {"count": 100, "size": 10_000})
            post.disconnect()
        assert await peak_of(server) <= MIB + 30 * 4096
        gate.set()
        assert await peak_of(server) <= MIB + 30 * 4096
        (living,) = server.endpoint.sessions.by_id.values()
        assert len(living.finished) == 30, "each has its answer"


@virtual
async def test_streams_of_calls_without_a_session_count_and_are_let_go_at_their_end() -> None:
    service, gate = large()
    async with serving(service) as server:
        message = modern_request(1, "tools/call", {"name": "chat", "arguments": {"count": 20, "size": 5000}})
        message["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = "info"
        post = post_modern(server, message)
        post.sink.open.clear()
        await turns()
        assert server.endpoint.retention.budget.held > 20 * 5000
        post.sink.open.set()
        gate.set()
        await post.answer(1)
        await post.end()
        await turns()
        assert server.endpoint.retention.budget.held == 0
        assert server.statistics()["log_bytes"] == {"held": 0}
        gate.clear()
        post = post_modern(server, message)
        post.sink.open.clear()
        await turns()
        assert server.endpoint.retention.budget.held > 20 * 5000
        post.disconnect()
        await turns()
        assert server.endpoint.retention.budget.held == 0


@virtual
async def test_the_servers_cap_makes_the_delivered_answers_of_idle_sessions_go_before_it_refuses_anybody() -> None:
    service, gate = large()
    gate.set()
    async with serving(service, server_log=2 * MIB, session_log=MIB) as server:
        for number in range(20):
            session = await SseSession(server).start()
            assert await session.call(number, "big", {"size": MIB // 3}).status_code() == 202, f"session {number}"
            assert "result" in await session.stream.answer(number)
            assert server.endpoint.retention.budget.held <= 2 * MIB


@virtual
async def test_an_answer_over_the_servers_cap_is_replaced_and_new_work_refused_until_there_is_room() -> None:
    service, gate = large()
    gate.set()
    async with serving(service, server_log=2 * MIB, session_log=2 * MIB) as server:
        hoarder, other = await SseSession(server).start(), await SseSession(server).start()
        hoarder.stream.disconnect()
        assert await hoarder.call(1, "big", {"size": 3 * MIB // 2}).status_code() == 202
        await turns()
        assert await other.call(1, "big", {"size": MIB}).status_code() == 202
        assert (await other.stream.answer(1))["error"]["data"] == {"limit": "log"}
        id = 2
        while await hoarder.call(id, "big", {"size": 10_000}).status_code() == 202:
            await turns()
            id += 1
            assert id < 100
        refused = post_modern(server, modern_request(1, "tools/call", {"name": "big", "arguments": {"size": 1}}))
        assert await refused.status_code() == 503
        assert (await refused.json())["error"]["data"] == {"limit": "log"}
        await server.endpoint.sessions.by_id[hoarder.id].close()
        assert await other.call(2, "big", {"size": MIB}).status_code() == 202
        assert "result" in await other.stream.answer(2)


@virtual
async def test_what_an_ended_session_held_counts_until_its_readers_have_gone() -> None:
    service, gate = large()
    gate.set()
    async with serving(service) as server:
        session = await SseSession(server).start()
        session.stream.sink.open.clear()
        assert await session.call(1, "big", {"size": MIB}).status_code() == 202
        await turns()
        await server.endpoint.sessions.by_id[session.id].close("enough")
        assert server.endpoint.retention.budget.held > MIB, "a stalled reader holds it in memory"
        session.stream.sink.open.set()
        assert is_answer(await session.stream.answer(1), 1)
        await session.stream.end()
        await turns()
        assert server.endpoint.retention.budget.held == 0
