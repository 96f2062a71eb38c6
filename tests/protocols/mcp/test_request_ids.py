"""Request ids: over Streamable HTTP a call is its exchange, elsewhere its id is its only address."""

from __future__ import annotations

import asyncio

from tests.core.support import turns, virtual
from tests.rigs.exchange import LegacySession, SseSession, call, notification, serving, text_of
from tests.rigs.workshop import Workshop

INVALID_REQUEST = -32600


@virtual
async def test_twelve_calls_with_the_same_id_each_get_their_own_answer() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        keys = [f"k{number}" for number in range(12)]
        calls = {
            key: session.call(1, "work", {"key": key, "progress": index % 3}, progress=1)
            for index, key in enumerate(keys)
        }
        await asyncio.sleep(0.1)
        for key in reversed(keys):
            shop.open(key)
            assert text_of(await calls[key].answer(1)) == key
        for index, key in enumerate(keys):
            messages = [one["params"]["message"] for one in calls[key].messages if "method" in one]
            assert messages == [f"step {done} of {key}" for done in range(1, index % 3 + 1)], "and its own progress"


@virtual
async def test_cancelled_ends_the_one_call_with_that_id() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        first, second = session.call(1, "work", {"key": "a"}), session.call(2, "work", {"key": "b"})
        await asyncio.sleep(0.1)
        assert await session.cancel(1).status_code() == 202
        assert "cancelled by the client" in (await first.answer(1))["error"]["message"]
        shop.open("b")
        assert text_of(await second.answer(2)) == "b"


@virtual
async def test_an_ambiguous_cancelled_ends_none() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        calls = [session.call(1, "work", {"key": key}) for key in "ab"]
        await turns()
        assert await session.cancel(1).status_code() == 202
        await turns()
        shop.open("a", "b")
        assert [text_of(await call.answer(1)) for call in calls] == ["a", "b"]


@virtual
async def test_the_number_one_and_the_text_1_are_two_ids() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        number, text = session.call(1, "work", {"key": "a"}), session.call("1", "work", {"key": "b"})
        await turns()
        session.cancel("1")
        assert "error" in await text.answer("1")
        shop.open("a")
        assert text_of(await number.answer(1)) == "a"


@virtual
async def test_cancelled_of_another_session_touches_nothing() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        mine, other = await LegacySession(server).start(), await LegacySession(server).start()
        sse = await SseSession(server).start()
        call = mine.call(1, "work", {"key": "a"})
        await turns()
        assert await other.cancel(1).status_code() == 202
        assert await sse.post(notification("notifications/cancelled", {"requestId": 1})).status_code() == 202
        await turns()
        shop.open("a")
        assert text_of(await call.answer(1)) == "a"


@virtual
async def test_cancelled_of_an_unknown_call_or_without_sense_is_taken_and_ignored() -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        assert await session.cancel(99).status_code() == 202
        for params in ({}, {"requestId": None}, {"requestId": {"a": 1}}):
            assert await session.post(notification("notifications/cancelled", params)).status_code() == 202


@virtual
async def test_a_second_use_of_an_id_over_sse_is_refused_without_disturbing_the_first() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await SseSession(server).start()
        assert await session.call(1, "work", {"key": "a"}).status_code() == 202
        refused = session.call(1, "work", {"key": "b"})
        assert await refused.status_code() == 400
        body = await refused.json()
        assert body["error"]["code"] == INVALID_REQUEST
        assert body.get("id") is None, "under its id it would end the first one"
        await turns()
        assert "begin b" not in shop.seen
        shop.open("a")
        assert text_of(await session.stream.answer(1)) == "a"
        assert await session.call(1, "echo", {"text": "x"}).status_code() == 202, "it is free again"


@virtual
async def test_a_call_cancelled_over_sse_gets_no_answer_and_the_stream_goes_on() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await SseSession(server).start()
        await session.call(1, "work", {"key": "a"}).status_code()
        await turns()
        await session.post(notification("notifications/cancelled", {"requestId": 1, "reason": "enough"})).status_code()
        await turns()
        assert shop.seen[-1] == "cancelled a"
        await session.call(2, "echo", {"text": "x"}).status_code()
        await session.stream.answer(2)
        assert all(message.get("id") != 1 for message in session.stream.messages)


@virtual
async def test_a_cancelled_that_overtakes_its_own_request_in_a_batch_is_ambiguous_no_more() -> None:
    """2025-03-26: both in one array; the call has not started yet, and never does."""
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server, "2025-03-26").start()
        batch = [call(1, "work", {"key": "a"}), notification("notifications/cancelled", {"requestId": 1})]
        answer = await session.post(batch).answer(1)
        assert "error" in answer
        assert "begin a" not in shop.seen
