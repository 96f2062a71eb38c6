"""What a client may send to grow the server's memory, its work or its log, and what it gets instead."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from msgspec import Raw

from tailrace import Context, Service
from tests.core.support import virtual
from tests.protocols.mcp.test_conversation import Pipes, conversing
from tests.rigs.exchange import (
    FakeExchange,
    LegacySession,
    SseSession,
    call,
    initialize,
    is_answer,
    modern_request,
    notification,
    post_modern,
    request,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop

INVALID_PARAMS, LIMIT_REACHED = -32602, -32000
BOTH = "application/json, text/event-stream"
JSON = ("content-type", "application/json")


# --- memory ---------------------------------------------------------------------------------------


def greeting(size: int) -> Any:
    message = initialize("2025-11-25")
    message["params"]["capabilities"] = {"experimental": {"x": "y" * size}}
    return message


@virtual
async def test_a_session_keeps_a_bounded_description_of_its_client() -> None:
    async with serving(max_greeting=10_000) as server:
        headers = [("accept", BOTH), JSON]
        refused = send(server, FakeExchange("POST", "/mcp", greeting(10_000), headers))
        assert await refused.status_code() == 400
        assert (await refused.json())["error"]["code"] == INVALID_PARAMS
        await asyncio.sleep(0.1)
        assert len(server.endpoint.sessions) == 0, "nobody has its id, so it does not wait for its end"
        assert await send(server, FakeExchange("POST", "/mcp", greeting(1_000), headers)).status_code() == 200
        sse = SseSession(server)
        await sse.open()
        await sse.post(greeting(10_000)).status_code()
        assert (await sse.stream.answer("init"))["error"]["code"] == INVALID_PARAMS


@virtual
async def test_what_a_client_says_it_can_do_takes_no_more_than_its_text() -> None:
    many = initialize("2025-11-25")
    many["params"]["capabilities"] = {"experimental": {"x": [[] for _ in range(10_000)]}}
    async with serving() as server:
        began = send(server, FakeExchange("POST", "/mcp", many, [("accept", BOTH), JSON]))
        assert await began.status_code() == 200
        (living,) = server.endpoint.sessions.by_id.values()
        assert isinstance(living.record.capabilities, Raw), "lists of Python's take twenty times as much"
        assert 20_000 < len(living.record.capabilities) < 40_000


@virtual
async def test_what_all_clients_say_of_themselves_is_bounded_and_brief_ones_are_served() -> None:
    async with serving(said=20_000) as server:
        headers = [("accept", BOTH), JSON]

        def began(size: int) -> FakeExchange:
            return send(server, FakeExchange("POST", "/mcp", greeting(size), headers))

        first = began(15_000)
        assert await first.status_code() == 200
        refused = began(15_000)
        assert await refused.status_code() == 503
        assert (await refused.json())["error"]["data"] == {"limit": "said"}
        assert await began(500).status_code() == 200
        ended = LegacySession(server, id=first.headers["mcp-session-id"])
        assert await ended.delete().status_code() == 200
        assert await began(15_000).status_code() == 200, "there is room again"


@virtual
async def test_what_all_clients_want_to_hear_of_is_bounded_and_is_counted_off_again() -> None:
    svc = Service("files")

    @svc.resource("files://{+path}")
    async def file(path: str) -> str:
        return path

    long = [f"files://{n}{'x' * 3_000}" for n in range(5)]
    async with serving(svc, said=10_000) as server:
        said = server.endpoint.retention.said
        session, other = await LegacySession(server).start(), await LegacySession(server).start()
        for id, uri in enumerate(long[:3]):
            assert "result" in await session.post(request(id, "resources/subscribe", {"uri": uri})).json()
        answer = await other.post(request(1, "resources/subscribe", {"uri": long[3]})).json()
        assert answer["error"]["data"] == {"limit": "said"}
        wanted = {"notifications": {"resourceSubscriptions": long[3:4]}}
        refused = await post_modern(server, modern_request(1, "subscriptions/listen", wanted)).json()
        assert refused["error"]["data"] == {"limit": "said"}
        for _ in range(2):  # the second time there is nothing to take back
            await session.post(request(8, "resources/unsubscribe", {"uri": long[0]})).json()
        stream = post_modern(server, modern_request(1, "subscriptions/listen", wanted))
        await stream.event_count(1)
        assert said.held > 9_000
        await session.delete().status_code()
        stream.disconnect()
        await asyncio.sleep(0.1)
        assert said.held == 0


@virtual
async def test_a_listener_names_no_uri_that_could_not_be_read() -> None:
    async with serving() as server:
        wanted = {"notifications": {"resourceSubscriptions": ["a://" + "x" * 10_000]}}
        refused = await post_modern(server, modern_request(1, "subscriptions/listen", wanted)).json()
        assert refused["error"]["code"] == INVALID_PARAMS


@pytest.mark.parametrize("method", ["ping", "tools/list", "no/such/method"])
def test_answers_that_nobody_reads_are_capped_also_where_no_tool_is_called(method: str) -> None:
    @virtual
    async def run() -> None:
        async with serving(Workshop().service, session_log=20_000) as server:
            session = await SseSession(server).start()
            session.stream.disconnect()
            asked = 0
            while await (post := session.post(request(asked, method))).status_code() == 202:
                asked += 1
                assert asked < 100
            assert post.headers["retry-after"] == "1"
            assert (await post.json())["error"]["data"] == {"limit": "log"}
            stream = await session.open(session.stream.last_id)
            for id in range(asked):
                await stream.answer(id)

    run()


@virtual
async def test_a_stream_without_an_initialize_ends_although_somebody_reads_it() -> None:
    async with serving(session_infancy=60.0) as server:
        silent = SseSession(server)
        await silent.open()
        for id in range(13):  # asking does not make a session of it
            await silent.post(request(id, "ping")).status_code()
            await asyncio.sleep(6.0)
        await silent.stream.end()
        assert len(server.endpoint.sessions) == 0


@virtual
async def test_a_made_up_cursor_is_refused_and_not_kept() -> None:
    service = Workshop().service
    async with serving(service, page=1) as server:
        first = await post_modern(server, modern_request(1, "tools/list")).json()
        cursor = first["result"]["nextCursor"]
        assert (
            "tools" in (await post_modern(server, modern_request(2, "tools/list", {"cursor": cursor})).json())["result"]
        )
        kept = len(server.endpoint.methods._pages)  # pyright: ignore[reportPrivateUsage]
        for made_up in ("!" * 1000 + cursor, "!" + cursor, cursor + "=", "", base64.b64encode(b"nobody").decode()):
            answer = await post_modern(server, modern_request(3, "tools/list", {"cursor": made_up})).json()
            assert answer["error"]["code"] == INVALID_PARAMS
        assert len(server.endpoint.methods._pages) == kept  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("token", ["t" * 256, 10**255])
def test_a_progress_token_is_as_long_as_an_id_at_most(token: Any) -> None:
    @virtual
    async def run() -> None:
        async with serving(Workshop().service) as server:
            session = await LegacySession(server).start()
            message = call(1, "echo", {"text": "a"})
            message["params"]["_meta"] = {"progressToken": token}
            assert (await session.post(message).answer(1))["error"]["code"] == INVALID_PARAMS
            message["params"]["_meta"] = {"progressToken": token[:255] if isinstance(token, str) else token - 1}
            assert text_of(await session.post(message).answer(1)) == "a"

    run()


@virtual
async def test_a_traceparent_that_is_none_sets_no_value() -> None:
    service = Service("traced")

    @service.tool
    async def trace(ctx: Context) -> list[str | None]:
        return [ctx.value("traceparent"), ctx.correlation_id]

    good = f"00-{'a' * 32}-{'b' * 16}-01"
    async with serving(service) as server:
        for given, seen in ((good, good), ("a-b\nforged", None), ("-" * 1000, None)):
            message = modern_request(1, "tools/call", {"name": "trace"}, traceparent=given)
            answer = await post_modern(server, message).answer(1)
            parent, correlation = answer["result"]["structuredContent"]["result"]
            assert parent == seen
            assert (correlation == "a" * 32) == (seen is not None)
            assert len(correlation) == 32, "one is made where the client brings none"


# --- forms ----------------------------------------------------------------------------------------


@virtual
async def test_accept_in_several_lines_is_one_list() -> None:
    async with serving() as server:
        lines = [("accept", "application/json"), ("accept", "text/event-stream"), JSON]
        assert await send(server, FakeExchange("POST", "/mcp", initialize("2025-11-25"), lines)).status_code() == 200


@virtual
async def test_the_prefix_of_a_mount_is_escaped_in_the_endpoint() -> None:
    async with serving() as server:
        accept = [("accept", "text/event-stream")]
        stream = send(server, FakeExchange("GET", "/sse", None, accept, prefix="/a b\ndata: c"))
        (event,) = await stream.event_count(1)
        assert event.data.startswith("/a%20b%0Adata%3A%20c/messages/?session_id=")


# --- stdio ----------------------------------------------------------------------------------------


@virtual
async def test_what_stands_behind_initialize_in_the_pipe_finds_it_done() -> None:
    shop = Workshop()
    async with conversing(shop.service) as (pipes, running):
        say_all(
            pipes, initialize("2025-11-25"), notification("notifications/initialized"), call(1, "echo", {"text": "a"})
        )
        pipes.close()
        await running
        assert [is_answer(message, id) for message, id in zip(pipes.heard, ("init", 1), strict=True)] == [True, True]
        assert text_of(pipes.heard[1]) == "a"
    assert shop.seen == ["register", "unregister"]


@virtual
async def test_an_initialize_at_the_end_of_input_is_answered() -> None:
    async with conversing() as (pipes, running):
        say_all(pipes, initialize("2025-11-25"))
        pipes.close()
        await running
        assert is_answer(pipes.heard[0], "init")


def say_all(pipes: Pipes, *messages: Any) -> None:
    for message in messages:
        pipes.say(message)


# --- hooks ----------------------------------------------------------------------------------------


@virtual
async def test_an_async_hook_in_a_plain_wrapper_runs() -> None:
    service = Service("wrapped")
    seen: list[str] = []

    async def greet(session: Any) -> None:
        seen.append("greeted")

    service.on_register_session(lambda session: greet(session))
    async with serving(service) as server:
        await LegacySession(server).start()
        assert seen == ["greeted"]
