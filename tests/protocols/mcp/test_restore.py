"""Resuming a stream, and a session that outlives its server: complete or a gap, never somebody else's."""

from __future__ import annotations

import asyncio

import pytest

from tailrace import Context, DefinitionError, Session, StoreError
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import LegacySession, SseSession, serving, text_of
from tests.rigs.workshop import Workshop, errors

# --- resuming within one process life -------------------------------------------------------------


@virtual
async def test_a_cut_stream_is_resumed_where_it_was_cut() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "report", {"key": "a", "after": 3}, progress="token")
        await post.event_count(1)
        seen = post.last_id
        post.disconnect()
        shop.open("a")
        await turns()
        resumed = session.get(seen)
        assert text_of(await resumed.answer(1)) == "a"
        assert resumed.headers["tailrace-resume"] == "complete"
        assert [message["params"]["progress"] for message in resumed.messages if "method" in message] == [1, 2, 3]
        assert len({event.id for event in resumed.events if event.data}) == 4
        await resumed.end()


@virtual
async def test_a_resume_replays_what_came_after_the_event_and_that_stream_only() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        one, two = (session.call(id, "work", {"key": str(id), "progress": 2}, progress=id) for id in (1, 2))
        shop.open("1", "2")
        await one.answer(1)
        await two.answer(2)
        resumed = session.get(one.events[1].id)
        assert text_of(await resumed.answer(1)) == "1"
        assert [message["params"]["progress"] for message in resumed.messages if "method" in message] == [2]
        assert resumed.headers["tailrace-resume"] == "complete"


@virtual
async def test_the_newest_reader_takes_the_stream_and_the_older_one_ends_with_a_retry() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "work", {"key": "a", "progress": 1}, progress=1)
        await post.event_count(2)
        resumed = session.get(post.last_id)
        await post.end()
        assert post.sink.written.endswith(b"retry: 2000\n\n")
        shop.open("a")
        assert text_of(await resumed.answer(1)) == "a"
        assert len(post.messages) == 1, "a message goes to one stream"


@virtual
async def test_what_the_ring_could_not_keep_is_named_in_the_header_and_in_the_stream() -> None:
    shop = Workshop()
    async with serving(shop.service, ring=1000) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "report", {"key": "a", "after": 50}, progress="token")
        await post.event_count(1)
        post.disconnect()
        shop.open("a")
        await turns()
        resumed = session.get(post.last_id)
        assert text_of(await resumed.answer(1)) == "a"
        assert resumed.headers["tailrace-resume"] == "gap"
        kept = len(resumed.messages) - 1
        assert 0 < kept < 50
        assert b": gap %d\n" % (50 - kept) in resumed.sink.written


@virtual
async def test_notifications_of_a_session_wait_for_the_next_get() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        shop.sessions[0].notify("notifications/tools/list_changed")
        stream = session.get()
        await stream.message("notifications/tools/list_changed")
        assert "tailrace-resume" not in stream.headers, "nobody asked for a resume"
        again = session.get()
        await stream.end()
        shop.sessions[0].notify("notifications/message", {"level": "info", "data": 1})
        await again.message("notifications/message")
        assert len(again.messages) == 1, "what was delivered is not repeated"


@virtual
async def test_sse_resumes_with_the_endpoint_first_and_the_clients_own_id() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await SseSession(server).start()
        first, last_id = session.url, session.stream.last_id
        await session.call(1, "work", {"key": "a"}).status_code()
        session.stream.disconnect()
        shop.open("a")
        await turns()
        stream = await session.open(last_id)
        assert text_of(await stream.answer(1)) == "a"
        endpoint = stream.events[0]
        assert (endpoint.event, endpoint.data, endpoint.id) == ("endpoint", first, last_id)
        assert stream.headers["tailrace-resume"] == "complete"


@virtual
async def test_sse_can_be_resumed_before_its_first_message() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = SseSession(server)
        stream = await session.open()
        stream.disconnect()
        resumed = SseSession(server)
        await resumed.open(stream.last_id)
        assert resumed.url == session.url


# --- event ids ------------------------------------------------------------------------------------


@virtual
async def test_forged_foreign_and_forgotten_event_ids_are_404() -> None:
    shop = Workshop()
    async with serving(shop.service, answer_time=100) as server:
        session, other = await LegacySession(server).start(), await LegacySession(server).start()
        sse = await SseSession(server).start()
        post, foreign = (one.call(1, "work", {"key": "a"}) for one in (session, other))
        await post.event_count(1)
        await foreign.event_count(1)
        real = post.last_id
        changed = ("B" if real[0] != "B" else "C") + real[1:]
        for bad in (changed, real[:-2], "", "1", "x" * 46, real + "é", foreign.last_id, sse.stream.last_id):
            refused = session.get(bad)
            assert await refused.status_code() == 404, bad
            assert "error" in await refused.json()
        shop.open("a")
        await post.answer(1)
        await asyncio.sleep(120)
        assert await session.get(real).status_code() == 404, "the stream has expired"


@virtual
async def test_event_ids_of_streamable_sessions_open_no_sse_stream() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "work", {"key": "a"})
        await post.event_count(1)
        for bad in (post.last_id, "nonsense", post.last_id[:-1]):
            assert await SseSession(server).get(bad).status_code() == 404


@virtual
async def test_event_ids_and_sessions_are_of_use_to_their_own_principal_only() -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        mine = await LegacySession(server, principal="ann").start()
        sse = await SseSession(server, principal="ann").start()
        post = mine.call(1, "work", {"key": "a"})
        await post.event_count(1)
        thief = LegacySession(server, principal="bob", id=mine.id)
        assert await thief.get().status_code() == 404
        assert await thief.get(post.last_id).status_code() == 404
        assert await thief.delete().status_code() == 404
        assert await thief.call(2, "echo", {"text": "x"}).status_code() == 404
        assert await sse.get(sse.stream.last_id, principal="bob").status_code() == 404
        sse.principal = "bob"
        assert await sse.call(2, "echo", {"text": "x"}).status_code() == 404
        shop.open("a")
        assert text_of(await post.answer(1)) == "a"


# --- over a restart -------------------------------------------------------------------------------


@virtual
async def test_a_session_its_state_and_its_unread_answer_outlive_the_server() -> None:
    store, before, after = MemoryStore(durable=True), Workshop(), Workshop()
    async with serving(before.service, store) as server:
        session = await LegacySession(server).start()
        await session.call(1, "remember", {"name": "colour", "value": "green"}).answer(1)
        post = session.call(2, "report", {"key": "a", "after": 2}, progress=1)
        await post.event_count(1)
        post.disconnect()
        before.open("a")
        await turns()
    assert before.seen == ["register", "unregister"]
    async with serving(after.service, store) as server:
        same = session.on(server)
        assert text_of(await same.call(3, "recall", {"name": "colour"}).answer(3)) == "green"
        resumed = same.get(post.last_id)
        assert text_of(await resumed.answer(2)) == "a"
        assert resumed.headers["tailrace-resume"] == "complete"
    assert after.seen == ["restore", "unregister"]


@virtual
async def test_state_that_cannot_be_stored_is_said_and_the_last_good_one_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, before = MemoryStore(durable=True), Workshop()
    async with serving(before.service, store, state=1000) as server:
        session = await LegacySession(server).start()
        await session.call(1, "remember", {"name": "n", "value": "good"}).answer(1)
        server.endpoint.home.save(before.sessions[0])
        await session.call(2, "remember", {"name": "n", "value": "x" * 2000}).answer(2)
        server.endpoint.home.save(before.sessions[0])
        before.sessions[0].state["n"] = object()
    assert [("session.state" in text) for text in errors(caplog)] == [True], "once, until it can be stored again"
    assert "over 1000 bytes" in errors(caplog)[0]
    async with serving(Workshop().service, store) as server:
        assert text_of(await session.on(server).call(3, "recall", {"name": "n"}).answer(3)) == "good"


@virtual
async def test_an_sse_session_goes_on_under_its_old_address_after_a_restart() -> None:
    store, before, after = MemoryStore(durable=True), Workshop(), Workshop()
    async with serving(before.service, store) as server:
        session = await SseSession(server).start()
        url, last_id = session.url, session.stream.last_id
    async with serving(after.service, store) as server:
        session.server = server
        assert await session.call(1, "echo", {"text": "x"}).status_code() == 202, "also before its stream is back"
        stream = await session.open(last_id)
        assert session.url == url
        assert text_of(await stream.answer(1)) == "x"
        assert stream.headers["tailrace-resume"] == "complete"
    assert after.seen == ["restore", "unregister"]


@virtual
async def test_event_numbers_are_never_used_twice_over_a_restart() -> None:
    store = MemoryStore(durable=True)
    ids: list[str | None] = []
    async with serving(Workshop().service, store) as server:
        session = await SseSession(server).start()
        ids += [event.id for event in session.stream.events]
        last_id = session.stream.last_id
    for id in range(3):
        async with serving(Workshop().service, store) as server:
            session.server = server
            stream = await session.open(last_id)
            await session.call(id, "echo", {"text": "x"}).status_code()
            await stream.answer(id)
            ids += [event.id for event in stream.events[1:]]
            last_id = stream.last_id
    assert len(set(ids)) == len(ids)


@virtual
async def test_a_call_that_the_end_of_the_server_interrupts_is_answered_as_unknown_by_the_next() -> None:
    store, before, after = MemoryStore(durable=True), Workshop(), Workshop()
    async with serving(before.service, store) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "work", {"key": "a"})
        await post.event_count(1)
    assert not any("id" in message for message in post.messages), "no answer of that life"
    async with serving(after.service, store) as server:
        answer = await session.on(server).get(post.last_id).answer(1)
        assert answer["result"]["isError"] is True
        assert answer["result"]["_meta"] == {"io.tailrace/outcome": "unknown"}
    assert "begin a" not in after.seen


@virtual
async def test_a_read_only_call_that_was_interrupted_runs_again_and_its_progress_goes_on() -> None:
    store = MemoryStore(durable=True)

    def make() -> Workshop:
        shop = Workshop()

        @shop.service.tool(read_only=True)
        async def look(ctx: Context) -> str:
            shop.seen.append("look")
            await ctx.progress(1, 2)
            await shop.gates["look"].wait()
            return "seen"

        return shop

    before, after = make(), make()
    async with serving(before.service, store) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "look", {}, progress="token")
        await post.event_count(2)
        store.crash()
    async with serving(after.service, store) as server:
        after.open("look")
        resumed = session.on(server).get(post.last_id)
        assert text_of(await resumed.answer(1)) == "seen"
        assert after.seen.count("look") == 1
        (again,) = (message for message in resumed.messages if "method" in message)
        assert again["params"] == {"progressToken": "token", "progress": 1, "total": 2}


@virtual
async def test_a_session_is_never_restored_for_another_principal() -> None:
    store, after = MemoryStore(durable=True), Workshop()
    async with serving(Workshop().service, store) as server:
        mine = await LegacySession(server, principal="ann").start()
        sse = await SseSession(server, principal="ann").start()
        last_id = sse.stream.last_id
    async with serving(after.service, store) as server:
        for principal in ("bob", ""):
            thief = LegacySession(server, principal=principal, id=mine.id)
            assert await thief.call(1, "echo", {"text": "x"}).status_code() == 404
            assert await SseSession(server, principal=principal).get(last_id).status_code() == 404
        assert after.seen == []
        assert await mine.on(server).call(1, "echo", {"text": "x"}).status_code() == 200


@virtual
async def test_a_session_is_not_restored_over_the_other_transport() -> None:
    store = MemoryStore(durable=True)
    async with serving(Workshop().service, store) as server:
        streamable, sse = await LegacySession(server).start(), await SseSession(server).start()
    async with serving(Workshop().service, store) as server:
        assert await LegacySession(server, id=sse.id).call(1, "echo", {"text": "x"}).status_code() == 404
        sse.server, sse.url = server, f"/messages/?session_id={streamable.id}"
        assert await sse.call(1, "echo", {"text": "x"}).status_code() == 404


@virtual
async def test_requests_that_restore_one_session_at_the_same_time_get_one_session() -> None:
    store, after = MemoryStore(durable=True), Workshop()
    async with serving(Workshop().service, store) as server:
        session = await LegacySession(server).start()
        await session.call(1, "remember", {"name": "n", "value": "v"}).answer(1)
    async with serving(after.service, store) as server:
        same = session.on(server)
        calls = [same.call(id, "recall", {"name": "n"}) for id in range(10)]
        assert [text_of(await call.answer(id)) for id, call in enumerate(calls)] == ["v"] * 10
        assert len(server.endpoint.sessions) == 1
        assert after.seen == ["restore"]


@virtual
async def test_a_restore_over_the_cap_is_refused_for_now_and_the_session_stays_in_the_store() -> None:
    store = MemoryStore(durable=True)
    async with serving(Workshop().service, store) as server:
        session = await LegacySession(server).start()
    async with serving(Workshop().service, store, max_sessions=1) as server:
        busy = await SseSession(server).start()
        refused = session.on(server).call(1, "echo", {"text": "x"})
        assert await refused.status_code() == 503
        assert (await refused.json())["error"]["data"] == {"limit": "sessions"}
        busy.stream.disconnect()
        await asyncio.sleep(float(refused.headers["retry-after"]))
        assert await session.on(server).call(1, "echo", {"text": "x"}).status_code() == 200


@virtual
async def test_a_session_that_was_deleted_does_not_come_back() -> None:
    store = MemoryStore(durable=True)
    async with serving(Workshop().service, store) as server:
        session = await LegacySession(server).start()
        await session.delete().status_code()
    async with serving(Workshop().service, store) as server:
        assert await session.on(server).delete().status_code() == 404
    assert store.statistics()["sessions"] == 0


@virtual
async def test_a_stored_session_that_nobody_comes_back_for_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    store, after = MemoryStore(durable=True), Workshop()
    async with serving(Workshop().service, store) as server:
        await LegacySession(server).start()
    async with serving(after.service, store, session_idle=100) as server:
        monkeypatch.setattr(time, "time", lambda real=time.time: real() + 10_000)
        await asyncio.sleep(20)
        assert await store.sessions() == []
        assert after.seen == [], "no hook met it in this life"
        assert server.ready


@virtual
async def test_where_the_store_cannot_be_read_old_sessions_are_looked_for_again_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, looks = MemoryStore(durable=True), 0
    read = store.sessions

    async def sessions() -> list[tuple[str, float]]:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise StoreError("not now")
        return await read()

    monkeypatch.setattr(store, "sessions", sessions)
    async with serving(Workshop().service, store):
        await asyncio.sleep(60)
        assert looks == 3
    assert errors(caplog) == []


@virtual
async def test_nobody_is_served_in_a_restored_session_before_its_hook_is_through() -> None:
    store = MemoryStore(durable=True)
    async with serving(Workshop().service, store) as server:
        streamable, sse = await LegacySession(server).start(), await SseSession(server).start()
        seen = sse.stream.last_id
    shop, restoring = Workshop(), asyncio.Event()

    @shop.service.on_restore_session
    async def restore(session: Session) -> None:
        await restoring.wait()
        session.state["a"] = "from the hook"

    async with serving(shop.service, store) as server:
        streamable = streamable.on(server)
        waiting = [streamable.call(id, "recall", {"name": "a"}) for id in (1, 2)]  # both find it in the store
        await turns()
        waiting.append(streamable.call(3, "recall", {"name": "a"}))  # finds it in the table
        sse.server = server
        streams = [sse.get(seen), sse.get(seen)]
        await turns()
        assert not any(exchange.replied for exchange in (*waiting, *streams))
        restoring.set()
        for id, exchange in enumerate(waiting, 1):
            assert text_of(await exchange.answer(id)) == "from the hook"
        assert await streams[1].event_count(1)


# --- secrets --------------------------------------------------------------------------------------


@virtual
async def test_secrets_rotate_by_the_environment_and_old_ids_are_good_as_long_as_the_old_one_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, old, new = MemoryStore(durable=True), "o" * 16, "n" * 16
    monkeypatch.setenv("TAILRACE_SECRET", old)
    async with serving(Workshop().service, store) as server:
        session = await SseSession(server).start()
        last_id = session.stream.last_id
    monkeypatch.setenv("TAILRACE_SECRET", f"{new} {old}")
    async with serving(Workshop().service, store) as server:
        session.server = server
        await session.open(last_id)
        newest = (await session.stream.event_count(1))[0].id or ""
        assert await session.call(1, "echo", {"text": "a"}).status_code() == 202
        await session.stream.answer(1)
        newest = session.stream.last_id
    monkeypatch.setenv("TAILRACE_SECRET", new)
    async with serving(Workshop().service, store) as server:
        session.server = server
        assert await session.get(last_id).status_code() == 404
        await session.open(newest)
    for wrong in ("short", f"{new} {old} {new}"):
        monkeypatch.setenv("TAILRACE_SECRET", wrong)
        with pytest.raises(DefinitionError, match="TAILRACE_SECRET"):
            async with serving(Workshop().service, MemoryStore()):
                pass


@virtual
async def test_a_client_is_not_told_where_the_store_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(durable=True)

    async def broken(*which: object, **how: object) -> None:
        raise StoreError("/home/ann/secret.db: disk I/O error")

    async with serving(Workshop().service, store) as server:
        monkeypatch.setattr(store, "load", broken)
        refused = LegacySession(server, id="somebody").call(1, "echo", {"text": "a"})
        assert await refused.status_code() == 503
        assert b"secret.db" not in refused.reply_body
        assert "secret.db" in errors(caplog)[0], "but whoever runs it is"
        monkeypatch.undo()
