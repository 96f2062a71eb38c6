"""A store that does not commit: nothing is promised that is not safe, and nothing that runs is lost."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    DISK_FULL,
    FakeExchange,
    LegacySession,
    SseSession,
    initialize,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop, errors

INTERNAL_ERROR = -32603


# --- HTTP+SSE: the promise is the 202 -------------------------------------------------------------


@virtual
async def test_a_call_that_cannot_be_stored_is_refused_and_no_user_code_runs() -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await SseSession(server).start()
        shop.seen.clear()
        store.fail_commits(DISK_FULL)
        post = session.call(1, "work", {"key": "a"})
        assert await post.status_code() == 503
        assert (await post.json())["error"]["code"] == INTERNAL_ERROR
        assert post.headers["retry-after"] == "1"
        assert (await session.stream.answer(1))["error"]["code"] == INTERNAL_ERROR, "also on the stream"
        await turns()
        assert shop.seen == []
        assert not server.tasks.calls


@virtual
async def test_a_refused_call_leaves_nothing_in_the_store() -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await SseSession(server).start()
        store.fail_commits(DISK_FULL)
        await session.call(1, "work", {"key": "a"}).status_code()
        store.fail_commits(None)
        assert await store.unfinished() == []
        post = session.call(1, "work", {"key": "a"})
        assert await post.status_code() == 202, "the same id can be used again: the refused call is over"


@virtual
async def test_the_202_waits_for_the_commit_and_the_call_for_both() -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await SseSession(server).start()
        post = session.call(1, "work", {"key": "a"})
        assert not post.replied
        assert shop.seen == ["register"]
        assert await post.status_code() == 202
        assert await store.unfinished() == [session.id]
        await turns()
        assert shop.seen == ["register", "begin a"]


@virtual
async def test_events_after_a_failure_are_delivered_from_memory(caplog: pytest.LogCaptureFixture) -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await SseSession(server).start()
        await session.call(1, "report", {"key": "a", "after": 3}, progress="token").status_code()
        store.fail_commits(DISK_FULL)
        shop.open("a")
        assert text_of(await session.stream.answer(1)) == "a"
        progress = [one["params"]["progress"] for one in session.stream.messages if "method" in one]
        assert progress == [1, 2, 3]
    assert len([text for text in errors(caplog) if "does not commit" in text]) == 1, "one for the outage"


@virtual
async def test_a_second_outage_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await SseSession(server).start()
        for id in (1, 2):
            store.fail_commits(DISK_FULL)
            assert await session.call(id, "echo", {"text": "a"}).status_code() == 503
            store.fail_commits(None)
            assert await session.call(id, "echo", {"text": "a"}).status_code() == 202
            await session.stream.answer(id)
            await turns()
        assert len([text for text in errors(caplog) if "does not commit" in text]) == 2


# --- Streamable HTTP: the promise is the first byte -----------------------------------------------


@virtual
async def test_a_call_goes_on_after_a_failed_commit_at_the_hold_time_and_its_answer_is_json(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store, hold=0.05) as server:
        session = await LegacySession(server).start()
        store.fail_commits(DISK_FULL)
        post = session.call(1, "work", {"key": "a"})
        await asyncio.sleep(0.1)
        assert store.statistics()["failed"] >= 1
        assert not post.replied
        shop.open("a")
        assert text_of(await post.answer(1)) == "a"
        assert not post.is_stream
        assert len(errors(caplog)) == 1
        (living,) = server.endpoint.sessions.by_id.values()
        assert not living.streams
        assert not living.finished


@virtual
async def test_progress_right_before_the_answer_is_dropped_where_nothing_commits_and_leaves_no_stream_behind() -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await LegacySession(server).start()
        store.fail_commits(DISK_FULL)
        shop.open("a")
        post = session.call(1, "report", {"key": "a", "after": 3}, progress="token")
        assert text_of(await post.answer(1)) == "a"
        assert not post.is_stream
        (living,) = server.endpoint.sessions.by_id.values()
        assert not living.streams
        assert not living.finished
        assert living.finished_bytes == 0


@virtual
async def test_a_store_that_works_again_makes_streams_again_within_the_same_call() -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store, hold=0.05) as server:
        session = await LegacySession(server).start()
        store.fail_commits(DISK_FULL)
        post = session.call(1, "report", {"key": "a", "after": 2}, progress="token")
        await asyncio.sleep(0.1)
        assert store.statistics()["failed"] >= 1
        store.fail_commits(None)
        shop.open("a")
        assert text_of(await post.answer(1)) == "a"
        assert post.is_stream
        assert [message["params"]["progress"] for message in post.messages if "method" in message] == [1, 2]


@virtual
async def test_the_answer_of_a_call_is_not_sent_before_it_is_safe() -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store, hold=0.05) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "work", {"key": "a"})
        await post.status_code()
        commits = store.statistics()["commits"]
        shop.open("a")
        await post.answer(1)
        assert store.statistics()["commits"] > commits
        assert await store.unfinished() == [], "the end of the call is committed with its answer"


# --- sessions and readiness -----------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["streamable", "sse"])
def test_initialize_is_refused_where_the_session_cannot_be_stored(transport: str) -> None:
    @virtual
    async def run() -> None:
        shop, store = Workshop(), MemoryStore(durable=True)
        async with serving(shop.service, store) as server:
            store.fail_commits(DISK_FULL)
            if transport == "streamable":
                headers = [("content-type", "application/json")]
                post = send(server, FakeExchange("POST", "/mcp", initialize("2025-11-25"), headers))
            else:
                session = SseSession(server)
                await session.open()
                post = session.post(initialize("2024-11-05"))
            assert await post.status_code() == 503
            assert (await post.json())["error"]["code"] == INTERNAL_ERROR
            assert "mcp-session-id" not in post.headers
            await turns()
            assert len(server.endpoint.sessions) == 0
            assert shop.seen == [], "no hook has met it"
            if transport == "sse":
                await session.stream.end()

    run()


@virtual
async def test_readyz_says_that_the_store_fails_and_that_it_works_again() -> None:
    shop, store = Workshop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await SseSession(server).start()
        store.fail_commits(DISK_FULL)
        await session.call(1, "echo", {"text": "a"}).status_code()
        failing = send(server, FakeExchange("GET", "/readyz"))
        assert (failing.status, failing.reply_body) == (503, b"the store fails\n")
        assert send(server, FakeExchange("GET", "/healthz")).status == 200, "it lives all the same"
        store.fail_commits(None)
        assert await session.call(2, "echo", {"text": "b"}).status_code() == 202
        assert send(server, FakeExchange("GET", "/readyz")).status == 200
