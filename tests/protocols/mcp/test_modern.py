"""2026-07-28 over HTTP: each request on its own, its headers checked against its body, a disconnect cancels."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    MODERN,
    FakeExchange,
    modern_headers,
    modern_request,
    notification,
    post_modern,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop, errors

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022
ECHO = {"name": "echo", "arguments": {"text": "hello"}}
SERVER_INFO = {"io.modelcontextprotocol/serverInfo": {"name": "workshop", "version": "1.0.0"}}


def call_tool(name: str, arguments: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return modern_request("r1", "tools/call", {"name": name, "arguments": arguments}, **meta)


def encoded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


# --- the envelope and its headers -----------------------------------------------------------------


async def test_a_call_is_answered_as_one_json_object_without_any_session() -> None:
    async with serving(Workshop().service) as server:
        post = post_modern(server, modern_request("r1", "tools/call", ECHO))
        assert await post.status_code() == 200
        answer = await post.json()
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", "r1")
        assert answer["result"]["resultType"] == "complete"
        assert answer["result"]["_meta"] == SERVER_INFO
        assert text_of(answer) == "hello"
        assert "mcp-session-id" not in post.headers
        assert len(server.endpoint.sessions) == 0


@pytest.mark.parametrize(
    ("changed", "more"),
    [
        ({"mcp-protocol-version": None}, []),
        ({"mcp-method": None}, []),
        ({"mcp-name": None}, []),
        ({"mcp-protocol-version": "2025-11-25"}, []),
        ({"mcp-method": "tools/list"}, []),
        ({"mcp-name": "work"}, []),
        ({"mcp-name": "ECHO"}, []),
        ({}, [("Mcp-Protocol-Version", MODERN)]),
        ({}, [("Mcp-Method", "tools/call")]),
        ({}, [("Mcp-Name", "echo")]),
        ({"mcp-name": "=?base64?not base64?="}, []),
        ({"mcp-name": encoded("work")}, []),
        ({"mcp-name": "écho"}, []),
    ],
    ids=str,
)
async def test_headers_that_are_missing_doubled_or_differ_are_refused(
    changed: dict[str, str | None], more: list[tuple[str, str]]
) -> None:
    async with serving(Workshop().service) as server:
        post = post_modern(server, modern_request("r1", "tools/call", ECHO), changed, *more)
        assert await post.status_code() == 400
        answer = await post.json()
        assert (answer["id"], answer["error"]["code"]) == ("r1", HEADER_MISMATCH)


@pytest.mark.parametrize("name", ["echo", encoded("echo")])
async def test_a_header_may_be_encoded(name: str) -> None:
    async with serving(Workshop().service) as server:
        post = post_modern(server, modern_request(1, "tools/call", ECHO), {"mcp-name": name})
        assert await post.status_code() == 200


@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
async def test_a_request_without_its_meta_is_refused(missing: str) -> None:
    async with serving(Workshop().service) as server:
        post = post_modern(server, modern_request(1, "tools/call", ECHO, **{missing: None}))
        assert await post.status_code() == 400
        error = (await post.json())["error"]
        assert error["code"] == INVALID_PARAMS
        assert missing in error["message"]


async def test_a_version_that_header_and_body_agree_on_may_still_be_unknown() -> None:
    async with serving(Workshop().service) as server:
        message = modern_request(1, "tools/call", ECHO, protocolVersion="2099-01-01")
        post = post_modern(server, message, {"mcp-protocol-version": "2099-01-01"})
        assert await post.status_code() == 400
        error = (await post.json())["error"]
        assert error["code"] == UNSUPPORTED_VERSION
        assert error["data"] == {"supported": [MODERN], "requested": "2099-01-01"}


async def test_an_unknown_version_in_the_header_alone_is_refused_with_all_that_are_spoken() -> None:
    async with serving(Workshop().service) as server:
        for message in (
            {"jsonrpc": "2.0", "id": 1, "method": "ping"},
            notification("notifications/initialized"),
        ):
            headers = {**modern_headers({"method": "ping"}), "mcp-protocol-version": "1999-01-01"}
            post = send(server, FakeExchange("POST", "/mcp", message, headers.items()))
            assert await post.status_code() == 400
            error = (await post.json())["error"]
            assert error["code"] == UNSUPPORTED_VERSION
            assert MODERN in error["data"]["supported"]
            assert "2025-03-26" in error["data"]["supported"]


# --- methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["nonsense", "ping", "logging/setLevel", "initialize", "resources/subscribe", "tasks/list"]
)
async def test_methods_that_are_unknown_or_were_removed_are_404_with_the_id(method: str) -> None:
    async with serving(Workshop().service) as server:
        params = {"level": "info", "protocolVersion": MODERN} if method in ("logging/setLevel", "initialize") else {}
        post = post_modern(server, modern_request(7, method, params))
        assert await post.status_code() == 404
        answer = await post.json()
        assert (answer["id"], answer["error"]["code"]) == (7, METHOD_NOT_FOUND)


@pytest.mark.parametrize("method", ["logging/setLevel", "initialize"])
async def test_a_removed_method_is_404_also_without_the_parameters_it_had(method: str) -> None:
    async with serving(Workshop().service) as server:
        post = post_modern(server, modern_request(7, method))
        assert await post.status_code() == 404
        assert (await post.json())["error"]["code"] == METHOD_NOT_FOUND


async def test_an_unknown_tool_is_a_bad_parameter() -> None:
    async with serving(Workshop().service) as server:
        post = post_modern(server, call_tool("nothing", {}))
        assert await post.status_code() == 400
        answer = await post.json()
        assert (answer["id"], answer["error"]["code"]) == ("r1", INVALID_PARAMS)
        assert "nothing" in answer["error"]["message"]


async def test_discover_says_what_is_there_and_how_long_that_holds() -> None:
    async with serving(Workshop().service) as server:
        result = (await post_modern(server, modern_request(1, "server/discover")).json())["result"]
        assert result["resultType"] == "complete"
        assert result["supportedVersions"] == [MODERN]
        assert "tools" in result["capabilities"]
        assert result["ttlMs"] >= 0
        assert result["cacheScope"] in ("public", "private")
        assert result["_meta"] == SERVER_INFO


async def test_tools_are_listed_page_by_page_with_the_same_scope() -> None:
    shop = Workshop()
    async with serving(shop.service, page=2) as server:
        names: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            result = (await post_modern(server, modern_request(1, "tools/list", cursor)).json())["result"]
            assert (result["resultType"], result["cacheScope"]) == ("complete", "public")
            names += [tool["name"] for tool in result["tools"]]
            if "nextCursor" not in result:
                break
            cursor = {"cursor": result["nextCursor"]}
        assert names == list(shop.service.tools)
        for bad in ("nonsense", "é", "====", ""):
            post = post_modern(server, modern_request(1, "tools/list", {"cursor": bad}))
            assert await post.status_code() == 400, bad
            assert (await post.json())["error"]["code"] == INVALID_PARAMS


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_there_is_nothing_to_get_or_delete(method: str) -> None:
    async with serving() as server:
        reply = send(server, FakeExchange(method, "/mcp", None, [("mcp-protocol-version", MODERN)]))
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


async def test_other_verbs_are_refused() -> None:
    async with serving() as server:
        for method in ("PUT", "PATCH", "HEAD", "OPTIONS"):
            reply = send(server, FakeExchange(method, "/mcp"))
            assert reply.status == 405
            assert "POST" in reply.headers["allow"]


async def test_notifications_are_taken_responses_and_batches_are_refused() -> None:
    async with serving() as server:
        headers = modern_headers({"method": "notifications/cancelled"})
        bodies = [
            (notification("notifications/cancelled", {"requestId": 1}), 202, None),
            ({"jsonrpc": "2.0", "id": 1, "result": {}}, 400, INVALID_REQUEST),
            ({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}, 400, INVALID_REQUEST),
            ([modern_request(1, "tools/list")], 400, INVALID_REQUEST),
            (b"{", 400, PARSE_ERROR),
            (b"[]", 400, INVALID_REQUEST),
        ]
        for body, status, code in bodies:
            reply = send(server, FakeExchange("POST", "/mcp", body, headers.items()))
            assert await reply.status_code() == status, body
            if code is None:
                assert reply.reply_body == b""
            else:
                assert (await reply.json())["error"]["code"] == code


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("accept", "application/json", 406),
        ("accept", "text/html", 406),
        ("accept", "*/*", 200),
        ("accept", "application/*, text/*", 200),
        ("accept", "TEXT/event-stream;q=0.5 , Application/JSON", 200),
        ("accept", None, 200),
        ("content-type", "text/plain", 415),
        ("content-type", None, 415),
        ("content-type", "application/json; charset=utf-8", 200),
    ],
)
async def test_media_types(header: str, value: str | None, status: int) -> None:
    async with serving(Workshop().service) as server:
        post = post_modern(server, modern_request(1, "tools/call", ECHO), {header: value})
        assert await post.status_code() == status
        if status != 200:
            assert (await post.json())["error"]["code"] == INVALID_REQUEST


async def test_session_ids_and_event_ids_are_ignored_and_never_given() -> None:
    async with serving(Workshop().service, MemoryStore(durable=True)) as server:
        more = [("mcp-session-id", "something"), ("last-event-id", "something")]
        post = post_modern(server, modern_request(1, "tools/call", ECHO), None, *more)
        assert await post.status_code() == 200
        assert "mcp-session-id" not in post.headers


# --- JSON or a stream -----------------------------------------------------------------------------


@virtual
async def test_the_first_notification_makes_a_stream_whose_events_carry_no_ids() -> None:
    shop = Workshop()
    async with serving(shop.service, MemoryStore(durable=True)) as server:
        post = post_modern(server, call_tool("work", {"key": "a", "progress": 2}, progressToken="t"))
        await turns()
        assert post.is_stream
        assert post.headers["x-accel-buffering"] == "no"
        assert "mcp-session-id" not in post.headers
        assert "tailrace-resume" not in post.headers
        shop.open("a")
        assert text_of(await post.answer("r1")) == "a"
        await post.end()
        assert [message.get("method") for message in post.messages] == ["notifications/progress"] * 2 + [None]
        assert all(event.id is None for event in post.events)


@virtual
async def test_without_a_progress_token_nothing_is_sent_and_the_answer_is_json() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        shop.open("a")
        post = post_modern(server, call_tool("work", {"key": "a", "progress": 5}))
        assert text_of(await post.json()) == "a"


@virtual
async def test_a_silent_call_becomes_a_stream_after_the_keep_alive_time_and_is_kept_alive() -> None:
    shop = Workshop()
    async with serving(shop.service, keep_alive=15) as server:
        post = post_modern(server, call_tool("work", {"key": "a"}))
        await asyncio.sleep(14)
        assert not post.replied
        await asyncio.sleep(2)
        assert post.is_stream
        await asyncio.sleep(33)
        assert post.sink.written.count(b": keep-alive\n\n") == 2
        shop.open("a")
        assert text_of(await post.answer("r1")) == "a"


@virtual
async def test_an_error_before_the_stream_keeps_its_status() -> None:
    async with serving(Workshop().service) as server:
        post = post_modern(server, call_tool("nothing", {}, progressToken="t"))
        assert await post.status_code() == 400
        assert not post.is_stream


# --- a disconnect is a cancellation ---------------------------------------------------------------


@pytest.mark.parametrize("progress", [0, 1])
def test_a_disconnect_cancels_the_call(progress: int) -> None:
    @virtual
    async def run() -> None:
        shop = Workshop()
        async with serving(shop.service) as server:
            gone = post_modern(server, call_tool("work", {"key": "a", "progress": progress}, progressToken=1))
            stays = post_modern(server, call_tool("work", {"key": "b"}))
            await turns()
            assert gone.is_stream == bool(progress)
            gone.disconnect()
            await turns()
            assert shop.seen == ["begin a", "begin b", "cancelled a"]
            assert len(server.tasks.calls) == 1
            shop.open("b")
            assert text_of(await stays.json()) == "b"

    run()


@virtual
async def test_nothing_is_left_of_a_call_whose_client_went_away() -> None:
    shop = Workshop()
    async with serving(shop.service, MemoryStore(durable=True)) as server:
        for _ in range(5):
            post_modern(server, call_tool("work", {"key": "a"})).disconnect()
        await turns()
        assert not server.tasks.calls
        assert not server.endpoint.waiting
        assert server.store.statistics()["records"] == 0, "it is in no journal"


@virtual
async def test_a_call_that_will_not_be_cancelled_sends_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    shop = Workshop()

    @shop.service.tool
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await shop.gates["end"].wait()
        return "done"

    async with serving(shop.service) as server:
        post = post_modern(server, call_tool("stubborn", {}))
        await turns()
        post.disconnect()
        await turns()
        assert len(server.tasks.calls) == 1
        shop.open("end")
        await turns()
        assert not server.tasks.calls
        assert not post.replied
    assert errors(caplog) == []
