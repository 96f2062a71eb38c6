"""A session's own values survive a kill as soon as a call that changed them is answered; restored sessions are greeted
side by side, and hold up nobody but themselves (G1)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tailrace import Context, Service, Session
from tailrace.core.ports import PutSession
from tailrace.protocols.mcp.recovery import Recovery
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    DISK_FULL,
    FakeExchange,
    LegacySession,
    SseSession,
    initialize,
    is_answer,
    request,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop, errors


def remembering() -> Service:
    """A service whose calls change what is inside of a session's values."""
    service = Service("remembering")

    @service.tool
    async def add(ctx: Context, item: str, progress: bool = False) -> list[str]:
        assert ctx.session is not None
        if progress:
            await ctx.progress(1, 2)
        items = ctx.session.state.setdefault("items", [])
        items.append(item)
        return items

    @service.tool
    async def clear(ctx: Context) -> str:
        assert ctx.session is not None
        ctx.session.state.clear()
        return "ok"

    @service.tool
    async def items(ctx: Context) -> list[str]:
        assert ctx.session is not None
        return ctx.session.state.get("items", [])

    return service


async def items_of(session: LegacySession | SseSession, id: int = 99) -> Any:
    answer = await session.call(id, "items").answer(id)  # type: ignore[union-attr]
    return answer["result"]["structuredContent"]["result"]


@pytest.mark.parametrize("progress", [False, True])
def test_what_an_answered_call_made_of_the_state_survives_a_kill(progress: bool) -> None:
    @virtual
    async def run() -> None:
        store = MemoryStore(durable=True)
        async with serving(remembering(), store) as server:
            session = await LegacySession(server).start()
            for id, item in enumerate("abc"):
                await session.call(id, "add", {"item": item, "progress": progress}, progress=1).answer(id)
            store.crash()
        async with serving(remembering(), store) as server:
            assert await items_of(session.on(server)) == ["a", "b", "c"]
            await session.on(server).call(1, "clear").answer(1)
            store.crash()
        async with serving(remembering(), store) as server:
            assert await items_of(session.on(server)) == []

    run()


@virtual
async def test_over_http_sse_the_state_is_committed_with_the_answer() -> None:
    store = MemoryStore(durable=True)
    async with serving(remembering(), store) as server:
        session = await SseSession(server).start()
        last = session.stream.last_id
        assert await session.call(1, "add", {"item": "a"}).status_code() == 202
        await session.stream.answer(1)
        store.crash()
    async with serving(remembering(), store) as server:
        session.server = server
        await session.open(last)
        assert await session.call(2, "items").status_code() == 202
        assert (await session.stream.answer(2))["result"]["structuredContent"]["result"] == ["a"]


@virtual
async def test_what_the_hooks_made_of_the_state_is_committed_before_the_session_begins() -> None:
    service, store = remembering(), MemoryStore(durable=True)

    @service.on_register_session
    async def greet(session: Session) -> None:
        session.state["items"] = ["hello"]

    async with serving(service, store) as server:
        greeting = FakeExchange("POST", "/mcp", initialize("2025-11-25"), [("content-type", "application/json")])
        assert await send(server, greeting).status_code() == 200
        store.crash()
    async with serving(remembering(), store) as server:
        session = LegacySession(server, id=greeting.headers["mcp-session-id"])
        assert await items_of(session) == ["hello"]


@virtual
async def test_a_state_that_did_not_change_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(durable=True)
    async with serving(remembering(), store) as server:
        session = await LegacySession(server).start()
        await session.call(1, "add", {"item": "a"}).answer(1)
        written: list[Any] = []
        write = store.write
        monkeypatch.setattr(store, "write", lambda records: (written.extend(records), write(records))[1])
        for id in range(2, 9):
            await session.call(id, "items").answer(id)
        assert [record for record in written if isinstance(record, PutSession)] == []
        await session.call(9, "add", {"item": "b"}).answer(9)
        assert len([record for record in written if isinstance(record, PutSession)]) == 1


@virtual
async def test_a_client_that_leaves_while_the_state_is_stored_finds_its_answer_kept() -> None:
    store = MemoryStore(durable=True)
    async with serving(remembering(), store) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "add", {"item": "a"})
        while not server.endpoint.sessions.by_id[session.id].state:
            await asyncio.sleep(0)
        assert not post.replied, "the answer waits for the commit"
        post.disconnect()
        await turns()
        (living,) = server.endpoint.sessions.by_id.values()
        ((_, payload),) = living.finished[0].log.attach(0).take()
        assert is_answer(json.loads(payload), 1)


@virtual
async def test_a_full_disk_holds_up_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(durable=True)
    async with serving(remembering(), store) as server:
        session = await LegacySession(server).start()
        store.fail_commits(DISK_FULL)
        assert await session.call(1, "add", {"item": "a"}).answer(1)
        store.fail_commits(None)


# --- version, level, capabilities -----------------------------------------------------------------


@virtual
async def test_a_restored_session_has_its_version_its_capabilities_and_its_log_level() -> None:
    store, before, after = MemoryStore(durable=True), Workshop(), Workshop()
    async with serving(before.service, store) as server:
        session = await LegacySession(server, version="2025-06-18").start()
        assert await session.post(request(1, "logging/setLevel", {"level": "error"})).status_code() == 200
        store.crash()
    async with serving(after.service, store) as server:
        await session.on(server).call(1, "echo", {"text": "a"}).answer(1)
        (living,) = after.sessions
        record, old = living.record, before.sessions[0].record
        assert (record.version, record.level, record.initialized) == ("2025-06-18", "error", True)
        assert (record.client, record.capabilities) == (old.client, old.capabilities)


# --- greeting them --------------------------------------------------------------------------------


async def interrupted(store: MemoryStore, count: int) -> list[LegacySession]:
    """Sessions with a call that a kill interrupted."""
    shop = Workshop()
    sessions: list[LegacySession] = []
    async with serving(shop.service, store) as server:
        for number in range(count):
            session = await LegacySession(server).start()
            await session.call(1, "work", {"key": str(number)}).event_count(1)
            sessions.append(session)
        store.crash()
    return sessions


@virtual
async def test_the_hooks_of_many_restored_sessions_run_side_by_side() -> None:
    store, shop = MemoryStore(durable=True), Workshop()
    await interrupted(store, 50)

    @shop.service.on_restore_session
    async def slow(session: Session) -> None:
        await asyncio.sleep(1.0)

    loop = asyncio.get_running_loop()
    before = loop.time()
    async with serving(shop.service, store, drain=5.0) as server:
        assert loop.time() - before < 2.0
        assert len(server.endpoint.sessions) == 50
    assert shop.seen.count("restore") == shop.seen.count("unregister") == 50


@virtual
async def test_a_slow_restore_hook_holds_up_its_own_session_only(caplog: pytest.LogCaptureFixture) -> None:
    store, shop = MemoryStore(durable=True), Workshop()
    sessions = await interrupted(store, 70)
    slowest = sessions[0].id

    @shop.service.on_restore_session
    async def one(session: Session) -> None:
        await asyncio.sleep(3.0 if session.id == slowest else 0.0)

    @shop.service.on_restore_session
    async def two(session: Session) -> None:
        await asyncio.sleep(4.0 if session.id == slowest else 0.0)

    loop = asyncio.get_running_loop()
    before = loop.time()
    async with serving(shop.service, store, drain=20.0, hook_time=5.0) as server:
        assert loop.time() - before < 5.5
        assert text_of(await sessions[1].on(server).call(2, "echo", {"text": "a"}).answer(2)) == "a"
        assert loop.time() - before < 5.5
        assert text_of(await sessions[0].on(server).call(2, "echo", {"text": "a"}).answer(2)) == "a"
        assert loop.time() - before >= 7.0, "nobody is served in it before its hooks are through"


@virtual
async def test_what_is_noted_of_ended_sessions_is_bounded_by_the_reads_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(Workshop().service, MemoryStore(durable=True)) as server:
        recovery = server.endpoint.recovery
        assert isinstance(recovery, Recovery)
        ended = recovery._ended  # pyright: ignore[reportPrivateUsage]
        recovery.ended("nobody reads")
        assert not ended
        load = server.store.load

        async def slow(*which: Any, **how: Any) -> Any:
            await asyncio.sleep(0.02)
            return await load(*which, **how)

        monkeypatch.setattr(server.store, "load", slow)
        reading: list[asyncio.Task[Any]] = []
        for number in range(200):  # one read is always under way, and none for long
            reading.append(asyncio.create_task(recovery.restore("", f"unknown-{number}")))
            await asyncio.sleep(0.01)
            recovery.ended(f"session-{number}")
            assert f"session-{number}" in ended, "what is being read of it is the past"
        assert len(ended) < 20
        await asyncio.gather(*reading)
        assert not ended


@virtual
async def test_an_outage_that_only_writes_saw_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(durable=True)
    async with serving(Workshop().service, store) as server:
        session = await LegacySession(server).start()
        store.fail_commits(DISK_FULL)
        server.endpoint.home.save(server.endpoint.sessions.by_id[session.id])
        await asyncio.sleep(3.0)
        assert len(errors(caplog)) == 1
        assert "the store does not commit" in errors(caplog)[0]
        store.fail_commits(None)
