"""HTTP+SSE (2024-11-05): the endpoint event, what a POST is answered, what comes on the stream."""

from __future__ import annotations

import asyncio

import pytest

from tailrace import Session
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    DISK_FULL,
    FakeExchange,
    SseSession,
    call,
    initialize,
    modern_request,
    request,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop

INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32600, -32601, -32602
JSON = [("content-type", "application/json")]


@virtual
async def test_the_endpoint_comes_first_with_an_id_a_retry_and_the_prefix_of_the_mount() -> None:
    async with serving() as server:
        stream = send(server, FakeExchange("GET", "/sse", None, [("accept", "text/event-stream")], prefix="/api/v1"))
        (event,) = await stream.event_count(1)
        assert event.event == "endpoint"
        path, _, id = event.data.partition("?session_id=")
        assert path == "/api/v1/messages/"
        assert id in server.endpoint.sessions.by_id
        assert event.id
        assert id not in event.id, "event ids are no secrets"
        assert b"retry: 2000\n" in stream.sink.written
        assert stream.headers["content-type"] == "text/event-stream"
        assert "mcp-session-id" not in stream.headers
        stream.disconnect()


@virtual
async def test_whoever_sees_that_a_stream_begins_has_its_endpoint() -> None:
    async with serving() as server:
        stream = SseSession(server).get()
        stream.sink.open.clear()  # no write is taken
        await stream.status_code()
        (endpoint,) = stream.events
        assert (endpoint.event, bool(endpoint.id)) == ("endpoint", True)


@virtual
async def test_answers_come_on_the_stream_as_messages_with_ids() -> None:
    async with serving(Workshop().service) as server:
        session = await SseSession(server).start()
        post = session.call(1, "echo", {"text": "a"})
        assert await post.status_code() == 202
        assert text_of(await session.stream.answer(1)) == "a"
        answers = session.stream.events[1:]
        assert all(event.event == "message" for event in answers)
        assert len({event.id for event in answers}) == len(answers)


@virtual
async def test_progress_and_answer_come_in_order_on_the_one_stream() -> None:
    shop = Workshop()
    async with serving(shop.service, MemoryStore(durable=True)) as server:
        session = await SseSession(server).start()
        await session.call(1, "work", {"key": "a", "progress": 3}, progress="t").status_code()
        shop.open("a")
        await session.stream.answer(1)
        kinds = [message.get("method") for message in session.stream.messages[1:]]
        assert kinds == ["notifications/progress"] * 3 + [None]


@virtual
async def test_an_accepted_call_ends_although_its_stream_is_gone() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await SseSession(server).start()
        await session.call(1, "work", {"key": "a"}).status_code()
        last_id = session.stream.last_id
        session.stream.disconnect()
        shop.open("a")
        await turns()
        assert shop.seen[-1] == "end a"
        assert text_of(await (await session.open(last_id)).answer(1)) == "a"


@virtual
async def test_what_can_be_said_before_initialize() -> None:
    async with serving(Workshop().service) as server:
        session = SseSession(server)
        stream = await session.open()
        assert await session.post(request(1, "ping")).status_code() == 202
        assert (await stream.answer(1))["result"] == {}
        assert await session.call(2, "echo", {"text": "a"}).status_code() == 202
        assert (await stream.answer(2))["error"]["code"] == INVALID_REQUEST
        stream.disconnect()


class Again:
    """A client whose stream was cut, as the TypeScript client goes on: a new session, and no `initialize` in it."""

    def __init__(self, session: SseSession, version: str = "2025-11-25") -> None:
        self.session = session
        self.version = version

    def post(self, message: object) -> FakeExchange:
        headers = [*JSON, ("mcp-protocol-version", self.version)]
        return send(self.session.server, FakeExchange("POST", self.session.url, message, headers))


@virtual
@pytest.mark.parametrize("durable", [False, True])
async def test_a_client_that_was_initialized_before_its_stream_was_cut_goes_on_in_a_new_session(durable: bool) -> None:
    shop = Workshop()
    async with serving(shop.service, MemoryStore(durable=durable)) as server:
        before = await SseSession(server).start()
        before.stream.disconnect()
        session = SseSession(server)
        stream, client = await session.open(), Again(session)
        posts = [client.post(call(id, "echo", {"text": "a"})) for id in (7, 8)] + [
            client.post(request(9, "tools/list"))
        ]
        assert [await post.status_code() for post in posts] == [202, 202, 202]
        assert [text_of(await stream.answer(id)) for id in (7, 8)] == ["a", "a"]
        assert (await stream.answer(9))["result"]["tools"]
        assert shop.seen == ["register", "register"], "hooks as for any other session, once"
        assert session.id != before.id
        (record,) = [one.record for one in server.endpoint.sessions.by_id.values() if one.id == session.id]
        assert (record.version, bytes(record.capabilities), record.initialized) == ("2025-11-25", b"{}", True)
        await asyncio.sleep(server.settings.session_infancy + 10)
        assert session.id in server.endpoint.sessions.by_id, "it is no session that was never used"
        stream.disconnect()


@virtual
async def test_what_the_session_before_had_is_not_given_to_who_goes_on_in_another() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        before = await SseSession(server).start()
        await before.call(1, "work", {"key": "a"}).status_code()
        last_id = before.stream.last_id
        before.stream.disconnect()
        session = SseSession(server)
        stream = await session.open()
        await Again(session).post(call(2, "echo", {"text": "b"})).status_code()
        shop.open("a")
        assert text_of(await stream.answer(2)) == "b"
        assert [message["id"] for message in stream.messages] == [2]
        assert text_of(await (await before.open(last_id)).answer(1)) == "a", "it waits for who can name it"
        stream.disconnect()


@virtual
async def test_whoever_goes_on_waits_for_the_hooks_that_greet_the_session() -> None:
    shop, greeted = Workshop(), asyncio.Event()

    @shop.service.on_register_session
    async def slow(session: Session) -> None:
        await greeted.wait()

    async with serving(shop.service) as server:
        session = SseSession(server)
        stream, client = await session.open(), Again(session)
        first = client.post(call(1, "work", {"key": "a"}))
        await turns()
        second = client.post(call(2, "work", {"key": "a"}))
        await turns()
        assert not first.replied
        assert not second.replied
        greeted.set()
        shop.open("a")
        assert [text_of(await stream.answer(id)) for id in (1, 2)] == ["a", "a"]
        stream.disconnect()


@virtual
async def test_a_session_that_cannot_be_stored_is_not_gone_on_with() -> None:
    store = MemoryStore(durable=True)
    async with serving(Workshop().service, store) as server:
        session = SseSession(server)
        await session.open()
        store.fail_commits(DISK_FULL)
        assert await Again(session).post(call(1, "echo", {"text": "a"})).status_code() == 503


@virtual
@pytest.mark.parametrize("version", ["2026-07-28", "1999-01-01", ""])
async def test_who_names_no_version_with_a_handshake_has_to_initialize(version: str) -> None:
    async with serving(Workshop().service) as server:
        session = SseSession(server)
        stream = await session.open()
        assert await Again(session, version).post(call(1, "echo", {"text": "a"})).status_code() == 202
        assert (await stream.answer(1))["error"]["code"] == INVALID_REQUEST
        stream.disconnect()


@virtual
async def test_only_the_versions_with_a_handshake_are_spoken() -> None:
    async with serving(Workshop().service) as server:
        session = await SseSession(server).start()
        for id, method in ((1, "server/discover"), (2, "nonsense")):
            await session.post(request(id, method)).status_code()
            assert (await session.stream.answer(id))["error"]["code"] == METHOD_NOT_FOUND
        message = modern_request(3, "tools/call", {"name": "echo", "arguments": {"text": "a"}})
        await session.post(message).status_code()
        assert "resultType" not in (await session.stream.answer(3))["result"]


@virtual
async def test_a_second_initialize_is_refused_on_the_stream() -> None:
    async with serving() as server:
        session = await SseSession(server).start()
        assert await session.post(initialize("2025-06-18", 9)).status_code() == 202
        assert (await session.stream.answer(9))["error"]["code"] == INVALID_REQUEST


@virtual
async def test_bad_parameters_are_answered_on_the_stream() -> None:
    async with serving(Workshop().service) as server:
        session = await SseSession(server).start()
        assert await session.post(call(1, "nothing")).status_code() == 202
        assert await session.post(request(2, "tools/call", {"name": 1})).status_code() == 202
        for id in (1, 2):
            assert (await session.stream.answer(id))["error"]["code"] == INVALID_PARAMS


@virtual
async def test_what_is_refused_at_the_post() -> None:
    async with serving() as server:
        session = await SseSession(server).start()
        for target, body, headers, status in (
            ("/messages/", request(1, "ping"), JSON, 400),
            ("/messages/?session_id=", request(1, "ping"), JSON, 400),
            ("/messages/?session_id=nobody", request(1, "ping"), JSON, 404),
            ("/messages/?session_id=%ff%00", request(1, "ping"), JSON, 404),
            (session.url, b"{", JSON, 400),
            (session.url, [request(1, "ping")], JSON, 400),
            (session.url, request(1, "ping"), [("content-type", "text/plain")], 415),
        ):
            refused = send(server, FakeExchange("POST", target, body, headers))
            assert await refused.status_code() == status, (target, body)
            assert "error" in await refused.json()


@pytest.mark.parametrize(("method", "path", "allow"), [("POST", "/sse", "GET"), ("GET", "/messages/", "POST")])
async def test_wrong_verbs_are_405(method: str, path: str, allow: str) -> None:
    async with serving() as server:
        reply = send(server, FakeExchange(method, path, None, JSON))
        assert (reply.status, reply.headers["allow"]) == (405, allow)


async def test_the_stream_is_had_as_an_event_stream_only() -> None:
    async with serving() as server:
        assert send(server, FakeExchange("GET", "/sse", None, [("accept", "application/json")])).status == 406
        assert len(server.endpoint.sessions) == 0


@virtual
async def test_a_slow_reader_holds_up_no_other_session() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        slow, other = await SseSession(server).start(), await SseSession(server).start()
        slow.stream.sink.open.clear()
        shop.open("a")
        for id in range(5):
            assert await slow.call(id, "echo", {"text": "x" * 100_000}).status_code() == 202
        await other.call(1, "echo", {"text": "b"}).status_code()
        assert text_of(await other.stream.answer(1)) == "b"
        slow.stream.sink.open.set()
        assert len(text_of(await slow.stream.answer(4))) == 100_000


@virtual
async def test_a_chatty_call_waits_for_a_slow_reader_and_never_for_an_absent_one() -> None:
    shop = Workshop()

    @shop.service.tool
    async def chatter(count: int) -> int:
        from tailrace import current

        for number in range(count):
            await current().progress(number + 1, count, "x" * 10_000)
        shop.seen.append("said all")
        return count

    async with serving(shop.service) as server:
        session = await SseSession(server).start()
        session.stream.sink.open.clear()
        await session.call(1, "chatter", {"count": 200}, progress="t").status_code()
        await asyncio.sleep(5)
        assert "said all" not in shop.seen
        assert server.endpoint.sessions.by_id[session.id].budget.held < 1_000_000
        session.stream.disconnect()
        await turns(300)
        assert "said all" in shop.seen
