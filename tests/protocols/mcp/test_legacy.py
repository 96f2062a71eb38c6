"""Streamable HTTP in the versions with sessions: the handshake, statuses, batches, streams and their first events."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tailrace import Service
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    FakeExchange,
    LegacySession,
    call,
    initialize,
    notification,
    request,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
UNSUPPORTED_VERSION = -32022
JSON = [("content-type", "application/json")]
STREAMABLE = ["2025-03-26", "2025-06-18", "2025-11-25"]


# --- the handshake --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
        ("nonsense", "2025-11-25"),
    ],
)
async def test_initialize_answers_with_the_clients_version_or_the_newest_with_a_handshake(
    asked: str, answered: str
) -> None:
    async with serving(Service("mill", version="2.0", title="The mill", instructions="Grind.")) as server:
        post = send(server, FakeExchange("POST", "/mcp", initialize(asked), JSON))
        result = (await post.json())["result"]
        assert result["protocolVersion"] == answered
        assert result["serverInfo"] == {"name": "mill", "version": "2.0", "title": "The mill"}
        assert result["instructions"] == "Grind."
        assert {"tools", "logging"} <= result["capabilities"].keys()
        id = post.headers["mcp-session-id"]
        assert len(id) >= 22
        assert all(0x21 <= ord(char) <= 0x7E for char in id)


async def test_a_session_is_initialized_once() -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        again = session.post(initialize("2025-11-25"))
        assert await again.status_code() == 400
        assert (await again.json())["error"]["code"] == INVALID_REQUEST
        assert len(server.endpoint.sessions) == 1


async def test_initialize_without_its_parameters_makes_no_session() -> None:
    async with serving() as server:
        for params in ({}, {"protocolVersion": 1}, {"protocolVersion": "2025-11-25", "capabilities": 1}):
            post = send(server, FakeExchange("POST", "/mcp", request(1, "initialize", params), JSON))
            assert (await post.json())["error"]["code"] == INVALID_PARAMS
        assert len(server.endpoint.sessions) == 0


# --- what is refused ------------------------------------------------------------------------------


async def test_a_request_without_session_id_is_400_and_with_an_unknown_one_404() -> None:
    async with serving(Workshop().service) as server:
        for message in (call(1, "echo", {"text": "a"}), notification("notifications/initialized")):
            missing = send(server, FakeExchange("POST", "/mcp", message, JSON))
            assert await missing.status_code() == 400
            unknown = send(server, FakeExchange("POST", "/mcp", message, [*JSON, ("mcp-session-id", "nobody")]))
            assert await unknown.status_code() == 404
        for method in ("GET", "DELETE"):
            assert await send(server, FakeExchange(method, "/mcp")).status_code() == 400
            unknown = send(server, FakeExchange(method, "/mcp", None, [("mcp-session-id", "nobody")]))
            assert await unknown.status_code() == 404
            assert (await unknown.json())["error"]["code"] == INVALID_REQUEST


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_a_version_that_nobody_speaks_is_400(method: str) -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        headers = [*JSON, ("mcp-session-id", session.id), ("mcp-protocol-version", "1999-01-01")]
        body = request(5, "ping") if method == "POST" else None
        refused = send(server, FakeExchange(method, "/mcp", body, headers))
        assert await refused.status_code() == 400
        assert (await refused.json())["error"]["code"] == UNSUPPORTED_VERSION
        assert len(server.endpoint.sessions) == 1


async def test_a_request_without_a_version_header_counts_as_2025_03_26() -> None:
    async with serving() as server:
        session = await LegacySession(server, "2025-06-18").start()
        ping = send(server, FakeExchange("POST", "/mcp", request(1, "ping"), [*JSON, ("mcp-session-id", session.id)]))
        assert (await ping.json())["result"] == {}


@pytest.mark.parametrize(
    ("body", "code", "id"),
    [
        (b"", PARSE_ERROR, None),
        (b"{", PARSE_ERROR, None),
        (b"\xff\xfe", PARSE_ERROR, None),
        (b"1", INVALID_REQUEST, None),
        (b"{}", INVALID_REQUEST, None),
        (b'{"jsonrpc":"1.0","id":3,"method":"ping"}', INVALID_REQUEST, 3),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', INVALID_REQUEST, None),
        (b"[" * 5000, INVALID_REQUEST, None),
    ],
)
async def test_what_is_no_message_is_400(body: bytes, code: int, id: int | None) -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        refused = session.post(body)
        assert await refused.status_code() == 400
        answer = await refused.json()
        assert answer["error"]["code"] in (code, PARSE_ERROR)
        assert answer.get("id") == id
        assert (await session.post(request(1, "ping")).json())["result"] == {}, "and the session goes on"


async def test_media_types_are_checked() -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        own = [("mcp-session-id", session.id)]
        for headers, status in (
            ([("content-type", "application/json"), ("accept", "application/json")], 406),
            ([("content-type", "text/plain")], 415),
            ([], 415),
        ):
            refused = send(server, FakeExchange("POST", "/mcp", request(1, "ping"), [*own, *headers]))
            assert await refused.status_code() == status
        refused = send(server, FakeExchange("GET", "/mcp", None, [*own, ("accept", "application/json")]))
        assert await refused.status_code() == 406


async def test_methods_and_parameters_are_refused_as_answers() -> None:
    async with serving(Workshop().service) as server:
        session = await LegacySession(server).start()
        for message, code in (
            (request(1, "nonsense"), METHOD_NOT_FOUND),
            (request(2, "server/nonsense"), METHOD_NOT_FOUND),
            (request(3, "tools/call", {"name": "nothing"}), INVALID_PARAMS),
            (request(4, "tools/call", {}), INVALID_PARAMS),
            (request(5, "tools/list", {"cursor": "nonsense"}), INVALID_PARAMS),
            (request(6, "logging/setLevel", {"level": "loud"}), INVALID_PARAMS),
        ):
            post = session.post(message)
            assert await post.status_code() == 200
            answer = await post.json()
            assert (answer["id"], answer["error"]["code"]) == (message["id"], code)


async def test_a_tool_is_not_called_with_arguments_that_do_not_fit() -> None:
    async with serving(Workshop().service) as server:
        session = await LegacySession(server).start()
        for arguments in ({}, {"text": 1}, {"text": "a", "more": 1}):
            answer = await session.call(1, "echo", arguments).json()
            assert answer["result"]["isError"] is True, "the model shall see it and try again"
            assert "structuredContent" not in answer["result"]


async def test_responses_to_nothing_are_taken() -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        for body in ({"jsonrpc": "2.0", "id": 1, "result": {}}, notification("notifications/whatever")):
            assert await session.post(body).status_code() == 202


# --- streams --------------------------------------------------------------------------------------


@virtual
async def test_a_fast_answer_is_json_and_touches_no_journal() -> None:
    store = MemoryStore(durable=True)
    async with serving(Workshop().service, store) as server:
        session = await LegacySession(server).start()
        records = store.statistics()["records"]
        post = session.call(1, "echo", {"text": "a"})
        assert text_of(await post.json()) == "a"
        await store.flush()
        assert store.statistics()["records"] == records


@pytest.mark.parametrize("version", STREAMABLE)
def test_a_slow_answer_comes_as_a_stream_that_is_primed_in_the_newest_version_only(version: str) -> None:
    @virtual
    async def run() -> None:
        shop = Workshop()
        async with serving(shop.service, hold=0.05) as server:
            session = await LegacySession(server, version).start()
            post = session.call(1, "work", {"key": "a"})
            await asyncio.sleep(0.04)
            assert not post.replied
            await asyncio.sleep(0.02)
            assert post.is_stream
            primed = post.events
            shop.open("a")
            assert text_of(await post.answer(1)) == "a"
            await post.end()
            if version == "2025-11-25":
                assert [event.data for event in primed] == [""]
                assert primed[0].id
                assert b"retry: 2000\n" in post.sink.written
            else:
                assert primed == []
            assert len({event.id for event in post.events}) == len(post.events)

    run()


@virtual
async def test_whoever_sees_that_a_stream_begins_has_the_id_to_resume_it_from() -> None:
    """However soon it is cut: nothing stands between the head and the id."""
    shop = Workshop()
    async with serving(shop.service, hold=0.05) as server:
        session = await LegacySession(server).start()
        for begun in (session.call(1, "work", {"key": "a"}), session.get()):
            begun.sink.open.clear()  # no write is taken
            assert await begun.status_code() == 200
            begun.disconnect()
            (primed,) = begun.events
            assert primed.id
            resumed = session.get(primed.id)
            assert resumed.headers["tailrace-resume"] == "complete"
            assert [event.id for event in resumed.events] == [primed.id], "some forget what they came with"
            resumed.disconnect()


@virtual
async def test_the_first_notification_does_not_wait_for_the_hold_time() -> None:
    shop = Workshop()
    async with serving(shop.service, hold=100) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "work", {"key": "a", "progress": 1}, progress="t")
        message = await post.message("notifications/progress")
        assert message["params"] == {"progressToken": "t", "progress": 1, "total": 1, "message": "step 1 of a"}


@virtual
async def test_a_disconnect_cancels_nothing_and_the_answer_can_be_asked_for() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "work", {"key": "a"})
        await post.event_count(1)
        post.disconnect()
        shop.open("a")
        await turns()
        assert shop.seen[-1] == "end a"
        assert text_of(await session.get(post.last_id).answer(1)) == "a"


@virtual
async def test_a_stream_that_nobody_takes_holds_up_its_own_call_only() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await LegacySession(server).start()
        stalled = session.call(1, "work", {"key": "a", "progress": 1}, progress=1)
        await stalled.event_count(2)
        stalled.sink.open.clear()
        shop.open("a")
        await turns()
        assert text_of(await session.call(2, "echo", {"text": "b"}).answer(2)) == "b"
        stalled.sink.open.set()
        assert text_of(await stalled.answer(1)) == "a"


@virtual
async def test_an_idle_stream_is_kept_alive() -> None:
    async with serving(keep_alive=15) as server:
        session = await LegacySession(server).start()
        stream = session.get()
        await asyncio.sleep(33)
        assert stream.sink.written.startswith(b"id: %b\nretry: 2000\n" % stream.last_id.encode())
        assert stream.sink.written.count(b": keep-alive\n\n") == 2


# --- batches (2025-03-26) -------------------------------------------------------------------------


async def test_a_batch_is_answered_by_an_array_with_an_answer_for_every_request() -> None:
    async with serving(Workshop().service) as server:
        session = await LegacySession(server, "2025-03-26").start()
        batch = [
            call("a", "echo", {"text": "x"}),
            notification("notifications/whatever"),
            request("b", "ping"),
            request("c", "nonsense"),
            {"jsonrpc": "2.0", "id": "d"},
            initialize("2025-03-26", "e"),
            call("f", "nothing"),
        ]
        post = session.post(batch)
        answers = {answer["id"]: answer for answer in await post.json()}
        assert answers.keys() == {"a", "b", "c", "d", "e", "f"}
        assert text_of(answers["a"]) == "x"
        assert answers["b"]["result"] == {}
        assert [answers[id]["error"]["code"] for id in "cdef"] == [
            METHOD_NOT_FOUND,
            INVALID_REQUEST,
            INVALID_REQUEST,
            INVALID_PARAMS,
        ]


@virtual
async def test_a_batch_with_a_slow_call_becomes_a_stream_with_all_answers() -> None:
    shop = Workshop()
    async with serving(shop.service, MemoryStore(durable=True), hold=0.05) as server:
        session = await LegacySession(server, "2025-03-26").start()
        post = session.post([call(1, "echo", {"text": "x"}), call(2, "work", {"key": "a"}), request(3, "ping")])
        await asyncio.sleep(0.1)
        assert post.is_stream
        assert {message["id"] for message in post.messages} == {1, 3}
        shop.open("a")
        assert text_of(await post.answer(2)) == "a"
        await post.end()
        assert len(post.messages) == 3


async def test_a_batch_without_requests_is_202() -> None:
    async with serving() as server:
        session = await LegacySession(server, "2025-03-26").start()
        batch = [notification("notifications/whatever"), {"jsonrpc": "2.0", "id": 1, "result": {}}]
        post = session.post(batch)
        assert (await post.status_code(), post.reply_body) == (202, b"")


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_later_versions_have_no_batches(version: str) -> None:
    async with serving() as server:
        session = await LegacySession(server, version).start()
        post = session.post([request(1, "ping")])
        assert await post.status_code() == 400
        error = (await post.json())["error"]
        assert error["code"] == INVALID_REQUEST
        assert version in error["message"]


async def test_empty_and_overlong_batches_are_refused() -> None:
    async with serving(max_batch=3) as server:
        session = await LegacySession(server, "2025-03-26").start()
        for batch in ([], [request(id, "ping") for id in range(4)]):
            post = session.post(batch)
            assert await post.status_code() == 400
            assert (await post.json())["error"]["code"] == INVALID_REQUEST


async def test_a_batch_over_the_cap_on_calls_is_answered_one_by_one() -> None:
    shop = Workshop()
    async with serving(shop.service, max_session_calls=2) as server:
        session = await LegacySession(server, "2025-03-26").start()
        post = session.post([call(id, "echo", {"text": str(id)}) for id in range(4)])
        answers = sorted(await post.json(), key=lambda answer: answer["id"])
        assert [text_of(answer) for answer in answers[:2]] == ["0", "1"]
        assert [answer["error"]["data"] for answer in answers[2:]] == [{"limit": "session_calls"}] * 2


# --- without sessions -----------------------------------------------------------------------------


def stateless(message: Any, version: str | None = "2025-11-25", method: str = "POST") -> FakeExchange:
    headers = [*JSON, *([("mcp-protocol-version", version)] if version is not None else [])]
    return FakeExchange(method, "/mcp", message, headers)


@virtual
async def test_stateless_servers_mint_no_session_and_need_none() -> None:
    shop = Workshop()
    async with serving(shop.service, stateless=True) as server:
        post = send(server, stateless(initialize("2025-06-18")))
        assert (await post.json())["result"]["protocolVersion"] == "2025-06-18"
        assert "mcp-session-id" not in post.headers
        assert await send(server, stateless(notification("notifications/initialized"))).status_code() == 202
        assert text_of(await send(server, stateless(call(1, "echo", {"text": "a"}))).json()) == "a"
        slow = send(server, stateless(call(2, "work", {"key": "a", "progress": 1}, progress=1)))
        await slow.event_count(1)
        shop.open("a")
        assert text_of(await slow.answer(2)) == "a"
        assert "mcp-session-id" not in slow.headers
        assert len(server.endpoint.sessions) == 0
        assert shop.seen == ["begin a", "end a"]


async def test_stateless_servers_have_nothing_to_get_or_delete() -> None:
    async with serving(stateless=True) as server:
        for method in ("GET", "DELETE"):
            reply = send(server, stateless(None, method=method))
            assert (reply.status, reply.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(("version", "status"), [(None, 200), ("2025-03-26", 200), ("2025-06-18", 400)])
async def test_stateless_servers_take_batches_in_the_version_that_has_them(version: str | None, status: int) -> None:
    async with serving(Workshop().service, stateless=True) as server:
        post = send(server, stateless([call(1, "echo", {"text": "a"})], version))
        assert await post.status_code() == status
        assert isinstance(json.loads(post.reply_body), list) == (status == 200)


@virtual
async def test_a_stateless_call_cannot_be_cancelled_by_anybodys_id() -> None:
    shop = Workshop()
    async with serving(shop.service, stateless=True) as server:
        post = send(server, stateless(call(1, "work", {"key": "a"})))
        await turns()
        send(server, stateless(notification("notifications/cancelled", {"requestId": 1})))
        await turns()
        shop.open("a")
        assert text_of(await post.answer(1)) == "a"
