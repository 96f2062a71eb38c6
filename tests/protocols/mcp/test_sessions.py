"""Sessions over HTTP: how they end, how many there may be, and what is refused before memory is."""

from __future__ import annotations

import asyncio

import pytest

from tailrace import Context, Service, Session
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    FakeExchange,
    LegacySession,
    SseSession,
    initialize,
    modern_request,
    post_modern,
    request,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop, errors

LIMIT_REACHED = -32000


# --- how a session ends ---------------------------------------------------------------------------


@virtual
async def test_delete_answers_the_calls_in_flight_before_their_streams_end() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        streaming, held = (
            session.call(1, "work", {"key": "a", "progress": 1}, progress=1),
            session.call(2, "work", {"key": "b"}),
        )
        await streaming.event_count(2)
        assert await session.delete().status_code() == 200
        assert (await streaming.answer(1))["error"]["code"] == LIMIT_REACHED
        await streaming.end()
        assert (await held.answer(2))["error"]["code"] == LIMIT_REACHED
        assert not held.is_stream
        await shop.sessions[0].wait_closed()
        assert shop.seen[-3:] == ["cancelled a", "cancelled b", "unregister"]


@virtual
async def test_delete_ends_the_sessions_own_stream_in_order() -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        stream = session.get()
        session.delete()
        await stream.end()


@virtual
async def test_an_ended_session_is_404_for_every_verb() -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        assert await session.delete().status_code() == 200
        assert await session.delete().status_code() == 404
        assert await session.get().status_code() == 404
        assert await session.call(1, "echo", {"text": "a"}).status_code() == 404


@virtual
async def test_an_ended_sse_session_takes_no_messages() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await SseSession(server).start()
        await shop.sessions[0].close("enough")
        await session.stream.end()
        assert await session.call(1, "echo", {"text": "a"}).status_code() == 404
        assert await session.get(session.stream.last_id).status_code() == 404


@virtual
async def test_a_session_that_nobody_uses_ends_and_its_hooks_are_paired() -> None:
    shop = Workshop()
    async with serving(shop.service, session_idle=100) as server:
        session = await LegacySession(server).start()
        await asyncio.sleep(90)
        assert text_of(await session.call(1, "echo", {"text": "a"}).answer(1)) == "a"
        await asyncio.sleep(90)
        assert len(server.endpoint.sessions) == 1, "it was used in between"
        await asyncio.sleep(20)
        assert len(server.endpoint.sessions) == 0
        assert shop.seen == ["register", "unregister"]
        assert await session.call(2, "echo", {"text": "a"}).status_code() == 404


@virtual
async def test_a_session_with_a_call_or_a_connected_reader_does_not_expire() -> None:
    shop = Workshop()
    async with serving(shop.service, session_idle=100) as server:
        calling, reading = await LegacySession(server).start(), await SseSession(server).start()
        call = calling.call(1, "work", {"key": "a"})
        await asyncio.sleep(1000)
        assert len(server.endpoint.sessions) == 2
        shop.open("a")
        await call.answer(1)
        reading.stream.disconnect()
        await asyncio.sleep(120)
        assert len(server.endpoint.sessions) == 0


@virtual
async def test_a_session_that_never_says_initialized_lives_a_minute() -> None:
    async with serving() as server:
        headers = [("content-type", "application/json")]
        post = send(server, FakeExchange("POST", "/mcp", initialize("2025-11-25"), headers))
        assert await post.status_code() == 200
        await asyncio.sleep(50)
        assert len(server.endpoint.sessions) == 1
        await asyncio.sleep(20)
        assert len(server.endpoint.sessions) == 0


async def test_hooks_may_be_plain_functions_and_a_session_may_be_closed_by_its_call() -> None:
    service, met = Service("plain"), list[str]()

    @service.on_register_session
    def registered(session: Session) -> None:
        met.append(f"hello {session.id}")

    @service.on_unregister_session
    def unregistered(session: Session) -> None:
        met.append(f"goodbye {session.id}")

    @service.tool
    async def leave(ctx: Context) -> str:
        assert ctx.session is not None
        await ctx.session.close("the tool ended it")
        return "not heard"

    async with serving(service) as server:
        session = await LegacySession(server).start()
        answer = await session.call(1, "leave").answer(1)
        assert "the tool ended it" in answer["error"]["message"]
        await turns()
        assert await session.delete().status_code() == 404
    assert met == [f"hello {session.id}", f"goodbye {session.id}"]


@virtual
async def test_a_hook_that_fails_or_never_ends_harms_no_session(caplog: pytest.LogCaptureFixture) -> None:
    shop = Workshop()

    @shop.service.on_register_session
    async def stuck(session: Session) -> None:
        await asyncio.Event().wait()

    @shop.service.on_unregister_session
    async def broken(session: Session) -> None:
        raise ValueError("a bug in a hook")

    async with serving(shop.service, hook_time=5) as server:
        session = await LegacySession(server).start()
        assert text_of(await session.call(1, "echo", {"text": "a"}).answer(1)) == "a"
        session.delete()
        await shop.sessions[0].wait_closed()
    assert shop.seen == ["register", "unregister"]
    stuck_text, broken_text = errors(caplog)
    assert "did not end within 5.0s" in stuck_text
    assert "stuck" in stuck_text
    assert "failed" in broken_text
    assert "broken" in broken_text


# --- how many there may be ------------------------------------------------------------------------


@virtual
async def test_the_oldest_idle_session_makes_room() -> None:
    shop = Workshop()
    async with serving(shop.service, max_sessions=2) as server:
        oldest = await LegacySession(server).start()
        await asyncio.sleep(1)
        older = await LegacySession(server).start()
        await asyncio.sleep(1)
        await LegacySession(server).start()
        await turns()
        assert shop.seen.count("unregister") == 1
        assert await oldest.delete().status_code() == 404
        assert await older.delete().status_code() == 200


@virtual
async def test_an_evicted_session_is_over_although_its_farewell_takes_its_time() -> None:
    """What the store still has of it must not bring it back beside the one that is ending."""
    shop, store, farewell = Workshop(), MemoryStore(durable=True), asyncio.Event()

    @shop.service.on_unregister_session
    async def slow(session: Session) -> None:
        await farewell.wait()

    async with serving(shop.service, store, max_sessions=1, hook_time=60) as server:
        evicted = await LegacySession(server).start()
        await LegacySession(server).start()
        await turns()
        assert shop.seen == ["register", "unregister", "register"]
        assert await evicted.call(1, "echo", {"text": "a"}).status_code() == 404
        assert "restore" not in shop.seen
        farewell.set()
        await turns()
        assert len(await store.sessions()) == 1


@pytest.mark.parametrize("transport", ["streamable", "sse"])
def test_where_no_session_is_idle_a_new_one_is_refused(transport: str) -> None:
    @virtual
    async def run() -> None:
        async with serving(max_sessions=1) as server:
            await SseSession(server).start()
            if transport == "streamable":
                headers = [("content-type", "application/json")]
                refused = send(server, FakeExchange("POST", "/mcp", initialize("2025-11-25"), headers))
            else:
                refused = SseSession(server).get()
            assert await refused.status_code() == 503
            assert int(refused.headers["retry-after"]) > 0
            error = (await refused.json())["error"]
            assert (error["code"], error["data"]) == (LIMIT_REACHED, {"limit": "sessions"})
            assert len(server.endpoint.sessions) == 1

    run()


# --- how much a session may hold ------------------------------------------------------------------


@virtual
async def test_a_session_has_a_cap_on_running_calls() -> None:
    shop = Workshop()
    async with serving(shop.service, max_session_calls=2) as server:
        full, other = await LegacySession(server).start(), await LegacySession(server).start()
        running = [full.call(id, "work", {"key": "a"}) for id in (1, 2)]
        refused = full.call(3, "work", {"key": "a"})
        assert (await refused.status_code(), int(refused.headers["retry-after"])) == (503, 1)
        answer = await refused.json()
        assert (answer["id"], answer["error"]["code"]) == (3, LIMIT_REACHED)
        assert answer["error"]["data"] == {"limit": "session_calls"}
        assert text_of(await other.call(1, "echo", {"text": "x"}).answer(1)) == "x", "the cap is its own"
        shop.open("a")
        assert [text_of(await call.answer(id)) for id, call in enumerate(running, 1)] == ["a", "a"]
        assert text_of(await full.call(4, "echo", {"text": "x"}).answer(4)) == "x"


@virtual
async def test_the_server_has_a_cap_on_running_calls_for_all_ways_of_asking() -> None:
    shop = Workshop()
    async with serving(shop.service, max_calls=2) as server:
        legacy, sse = await LegacySession(server).start(), await SseSession(server).start()
        running = [legacy.call(1, "work", {"key": "a"})]
        await sse.call(1, "work", {"key": "a"}).status_code()
        echo = {"name": "echo", "arguments": {"text": "x"}}
        for refused in (
            legacy.call(2, "echo", {"text": "x"}),
            sse.call(2, "echo", {"text": "x"}),
            post_modern(server, modern_request(2, "tools/call", echo)),
        ):
            assert (await refused.status_code(), refused.headers["retry-after"]) == (503, "1")
            error = (await refused.json())["error"]
            assert (error["code"], error["data"]) == (LIMIT_REACHED, {"limit": "calls"})
        assert (await legacy.post(request(3, "ping")).answer(3))["result"] == {}, "what runs no user code is answered"
        shop.open("a")
        assert text_of(await running[0].answer(1)) == "a"
        assert text_of(await sse.stream.answer(1)) == "a"


@virtual
async def test_answers_that_nobody_reads_are_kept_up_to_a_cap_then_new_work_is_refused() -> None:
    shop = Workshop()
    async with serving(shop.service, session_log=10_000) as server:
        session = await SseSession(server).start()
        session.stream.disconnect()
        accepted = 0
        while await (post := session.call(accepted, "echo", {"text": "x" * 1000})).status_code() == 202:
            accepted += 1
            await turns()
        assert (await post.json())["error"]["data"] == {"limit": "log"}
        assert 3 <= accepted <= 10
        stream = await session.open(session.stream.last_id)
        for id in range(accepted):
            assert text_of(await stream.answer(id)) == "x" * 1000, "none of them was dropped"


@virtual
async def test_answers_that_were_read_make_room_for_new_work() -> None:
    shop = Workshop()
    async with serving(shop.service, session_log=10_000, kept=2_000) as server:
        session = await SseSession(server).start()
        for id in range(50):
            assert await session.call(id, "echo", {"text": "x" * 1000}).status_code() == 202
            await session.stream.answer(id)
            await turns()
        assert server.endpoint.sessions.by_id[session.id].budget.held < 5_000


@pytest.mark.parametrize("limits", [{"session_log": 100_000}, {"finished": 20}], ids=str)
def test_streams_that_were_read_to_their_end_are_dropped_for_room_the_oldest_first(limits: dict[str, int]) -> None:
    @virtual
    async def run() -> None:
        shop, store = Workshop(), MemoryStore(durable=True)
        shop.open("a")
        async with serving(shop.service, store, **limits) as server:
            session = await LegacySession(server).start()
            ids: list[str] = []
            for id in range(100):
                post = session.call(id, "work", {"key": "a", "progress": 1}, progress=1)
                assert text_of(await post.answer(id)) == "a"
                await post.end()
                ids.append(post.events[0].id or "")
            (living,) = server.endpoint.sessions.by_id.values()
            assert 5 <= len(living.finished) <= 35
            assert len(living.streams) == len(living.finished)
            assert await session.get(ids[0]).status_code() == 404
            assert text_of(await session.get(ids[-1]).answer(99)) == "a"
            stored = await store.load(session.id)
            assert stored is not None
            assert {event.stream for event in stored.events} == living.streams.keys(), "the store forgets them as well"

    run()


@virtual
async def test_streams_that_nobody_reads_are_never_dropped_for_room_and_cost_what_they_take() -> None:
    """A small answer takes far more memory than its bytes: that counts as well."""
    shop = Workshop()
    shop.open("a")
    async with serving(shop.service, session_log=100_000, finished=10) as server:
        session = await LegacySession(server).start()
        (living,) = server.endpoint.sessions.by_id.values()
        for id in range(1000):
            post = session.call(id, "echo", {"text": "x"})
            if post.replied:
                break
            post.disconnect()
            await turns()
        assert (await post.json())["error"]["data"] == {"limit": "log"}
        assert 20 < id < 60
        assert len(living.finished) == id, "every one of them is there"


@virtual
async def test_the_log_cap_of_the_server_refuses_new_work_in_every_session() -> None:
    shop = Workshop()
    async with serving(shop.service, server_log=5_000) as server:
        hoarder, other = await SseSession(server).start(), await LegacySession(server).start()
        hoarder.stream.disconnect()
        for id in range(4):
            assert await hoarder.call(id, "echo", {"text": "x" * 1000}).status_code() == 202
        await turns()
        refused = other.call(1, "echo", {"text": "a"})
        assert await refused.status_code() == 503
        assert (await refused.json())["error"]["data"] == {"limit": "log"}


@virtual
async def test_answers_expire() -> None:
    shop = Workshop()
    async with serving(shop.service, answer_time=100, session_idle=1000) as server:
        session = await SseSession(server).start()
        last_id = session.stream.last_id
        session.stream.disconnect()
        await session.call(1, "echo", {"text": "a"}).status_code()
        await asyncio.sleep(120)
        stream = await session.open(last_id)
        assert stream.headers["tailrace-resume"] == "gap"
        assert server.endpoint.sessions.by_id[session.id].budget.held == 0
