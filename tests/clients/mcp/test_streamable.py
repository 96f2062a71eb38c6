"""Streamable HTTP against scripted servers: cuts, resumes, odd answers, and what is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.clients.mcp import Client
from tailrace.clients.mcp.links.http import Patience, Place
from tailrace.errors import LimitError, ProtocolError, TransportError

from .fake_http import DISCOVERED, INITIALIZED, Exchange, legacy, modern, progress, result, serving, timed_out


class Seen:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.done: list[float] = []

    def __call__(self, done: float, total: float | None, message: str | None) -> None:
        self.done.append(done)


# --- resuming (legacy) ------------------------------------------------------------------------------


@pytest.mark.parametrize("orderly", [True, False], ids=["ended", "cut"])
async def test_a_primed_answer_is_resumed_and_every_event_comes_exactly_once(orderly: bool) -> None:
    async def script(x: Exchange) -> None:
        id = server.asked("tools/call")[0].message["id"]
        if x.method == "POST":
            await x.stream()
            await x.event(id="e0")
            await x.event(progress(id, 1), id="e1")
            if orderly:
                await x.end()
            else:
                x.cut()
            return
        await x.stream(tailrace_resume="complete")
        last = x.headers["last-event-id"]
        if last == "e1":
            await x.event(progress(id, 2), id="e2")
            await x.raw(b'id: e3\ndata: {"jsonrpc":"2.0","meth')  # the cut falls into an event
            x.cut()
        else:
            assert last == "e2"
            await x.event(progress(id, 3), id="e3")
            await x.event(result(id, "whole"), id="e4")
            await x.end()

    seen = Seen()
    async with serving(legacy(script)) as server, Client(server.url) as c:
        answer = await c.call_tool("any", progress=seen)
        assert answer.data == "whole"
        assert seen.done == [1, 2, 3]
        assert c.gaps == 0
        assert [x.headers["last-event-id"] for x in server.asked("GET") if "last-event-id" in x.headers] == ["e1", "e2"]
        assert {x.headers["mcp-session-id"] for x in server.asked("GET")} == {"s-1"}


async def test_an_answer_that_was_cut_right_after_its_priming_event_is_resumed() -> None:
    async def script(x: Exchange) -> None:
        await x.stream()
        if x.method == "POST":
            await x.event(id="primed")
            x.cut()
        else:
            await x.event(result(server.asked("tools/call")[0].message["id"]), id="e1")

    async with serving(legacy(script)) as server, Client(server.url) as c:
        assert (await c.call_tool("any")).data == 1


async def test_a_server_that_is_away_for_a_while_is_tried_again() -> None:
    attempts = 0

    async def script(x: Exchange) -> None:
        nonlocal attempts
        if x.method == "POST":
            await x.stream()
            await x.event(id="primed")
            x.cut()
            return
        attempts += 1
        match attempts:
            case 1:
                x.cut()
            case 2:
                await x.reply(503, retry_after="1")
            case 3:
                await x.error(502, -32000)
            case 4:
                await x.stream()  # takes it, and has nothing yet
                await x.end()
            case _:
                await x.stream()
                await x.event(result(server.asked("tools/call")[0].message["id"]), id="e1")

    async with serving(legacy(script)) as server, Client(server.url) as c:
        assert (await c.call_tool("any")).data == 1
        assert attempts == 5


async def test_a_server_that_stays_away_fails_the_call_in_bounded_time() -> None:
    async def script(x: Exchange) -> None:
        if x.method == "POST":
            await x.stream()
            await x.event(id="primed")
        x.cut()

    async with serving(legacy(script)) as server, Client(server.url, reconnect=0.3) as c:
        with pytest.raises(TransportError, match="did not come back within"):
            await c.call_tool("any")


async def test_without_an_event_id_a_broken_answer_is_not_resumed() -> None:
    async def script(x: Exchange) -> None:
        await x.stream()
        await x.event(progress(x.message["id"], 1))
        x.cut()

    async with serving(legacy(script)) as server, Client(server.url) as c:
        with pytest.raises(TransportError, match="it may have run"):
            await c.call_tool("any")
        assert len(server.asked("GET")) <= 1  # the stream of what belongs to no call


async def test_a_server_that_does_not_know_the_event_any_more_fails_the_call() -> None:
    async def script(x: Exchange) -> None:
        if x.method == "POST":
            await x.stream()
            await x.event(id="primed")
            x.cut()
        else:
            await x.reply(404)

    async with serving(legacy(script)) as server, Client(server.url) as c:
        with pytest.raises(TransportError, match="does not know this session any more"):
            await c.call_tool("any")


async def test_a_gap_is_counted_and_told() -> None:
    async def script(x: Exchange) -> None:
        id = server.asked("tools/call")[0].message["id"]
        if x.method == "POST":
            await x.stream()
            await x.event(id="primed")
            x.cut()
            return
        await x.stream(tailrace_resume="gap")
        await x.raw(b": gap 7\n\n")
        await x.event(result(id), id="e9")

    warnings: list[str] = []
    async with serving(legacy(script)) as server, Client(server.url, on_warning=warnings.append) as c:
        assert (await c.call_tool("any")).data == 1
        assert c.gaps == 1
    assert [text for text in warnings if "notifications are missing" in text]


# --- what belongs to no call (legacy) ---------------------------------------------------------------


async def test_the_standalone_stream_is_read_and_resumed() -> None:
    initialized = asyncio.Event()

    async def script(x: Exchange) -> None:
        match x.rpc:
            case "server/discover":
                await x.reply(400)
            case "initialize":
                await x.result(INITIALIZED, mcp_session_id="s")
            case "notifications/initialized":
                await x.reply(202)
                initialized.set()
            case "GET":
                assert initialized.is_set()
                assert x.headers["mcp-protocol-version"] == "2025-11-25"
                number = int(x.headers.get("last-event-id", "0"))
                await x.stream()
                if number == 3:
                    await x.wait_left()
                else:
                    await x.event(
                        {"jsonrpc": "2.0", "method": "notifications/x", "params": {"n": number}}, id=str(number + 1)
                    )
                    x.cut()
            case "DELETE":
                await x.reply(200)

    told: list[tuple[str, Any]] = []
    three = asyncio.Event()

    def tell(method: str, params: Any) -> None:
        told.append((method, params))
        if len(told) == 3:
            three.set()

    async with serving(script) as server, Client(server.url, on_notification=tell):
        await three.wait()
    assert told == [("notifications/x", {"n": n}) for n in range(3)]
    assert server.exchanges[-1].method == "DELETE"


async def test_requests_of_the_server_are_answered() -> None:
    answers: dict[Any, dict[str, Any]] = {}
    both = asyncio.Event()

    async def script(x: Exchange) -> None:
        if x.rpc == "response":
            answers[x.message["id"]] = x.message
            await x.reply(202)
            if len(answers) == 2:
                both.set()
            return
        await x.stream()
        await x.event({"jsonrpc": "2.0", "id": "a", "method": "ping"})
        await x.event({"jsonrpc": "2.0", "id": "b", "method": "roots/list"})
        await both.wait()
        await x.event(result(x.message["id"]))

    async with serving(legacy(script)) as server, Client(server.url) as c:
        await c.call_tool("any")
    assert answers["a"]["result"] == {}
    assert answers["b"]["error"]["code"] == -32601


# --- the modern era ---------------------------------------------------------------------------------


async def test_a_modern_request_carries_its_envelope_and_headers() -> None:
    async def script(x: Exchange) -> None:
        await x.result({"resultType": "complete", "content": []})

    async with serving(modern(script)) as server, Client(server.url, on_log=print, client_info=("me", "7")) as c:
        await c.call_tool("grüße", {"a": 1}, progress=print, idempotency_key="k", meta={"mine": 1})
        assert (c.era, c.protocol_version, c.server_info.version, c.session_id) == ("modern", "2026-07-28", "10", None)
    asked = server.asked("tools/call")[0]
    assert asked.headers["mcp-protocol-version"] == "2026-07-28"
    assert asked.headers["mcp-method"] == "tools/call"
    assert asked.headers["mcp-name"] == "=?base64?Z3LDvMOfZQ==?="
    assert "mcp-session-id" not in asked.headers
    assert asked.message["params"] == {
        "name": "grüße",
        "arguments": {"a": 1},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}},
            "io.modelcontextprotocol/clientInfo": {"name": "me", "version": "7"},
            "io.modelcontextprotocol/logLevel": "info",
            "io.tailrace/idempotencyKey": "k",
            "mine": 1,
            "progressToken": asked.message["id"],
        },
    }
    assert {x.rpc for x in server.exchanges} == {"server/discover", "tools/call"}  # no GET, no DELETE


@pytest.mark.parametrize("streaming", [True, False], ids=["in the stream", "before the answer"])
@pytest.mark.parametrize("end", ["cancelled", "timed out"])
async def test_leaving_a_modern_call_closes_its_stream_and_says_nothing_else(streaming: bool, end: str) -> None:
    begun = asyncio.Event()

    async def script(x: Exchange) -> None:
        if streaming:
            await x.stream()
            await x.event(progress(x.message["id"], 1))
        begun.set()
        await x.wait_left()

    async with serving(modern(script)) as server, Client(server.url) as c:
        if end == "cancelled":
            call = asyncio.create_task(c.call_tool("any"))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            await timed_out(lambda seconds: c.call_tool("any", timeout=seconds), begun.is_set)
        async with asyncio.timeout(60):
            await server.asked("tools/call")[0].left.wait()
    assert server.asked("notifications/cancelled") == []


async def test_a_modern_answer_that_is_cut_is_not_resumed() -> None:
    async def script(x: Exchange) -> None:
        await x.stream()
        await x.event(progress(x.message["id"], 1), id="e1")
        x.cut()

    async with serving(modern(script)) as server, Client(server.url) as c:
        with pytest.raises(TransportError, match="it may have run"):
            await c.call_tool("any")
        assert server.asked("GET") == []


async def test_a_request_of_a_modern_server_gets_no_answer() -> None:
    async def script(x: Exchange) -> None:
        await x.stream()
        await x.event({"jsonrpc": "2.0", "id": "a", "method": "ping"})
        await x.event(result(x.message["id"]))

    warnings: list[str] = []
    async with serving(modern(script)) as server, Client(server.url, on_warning=warnings.append) as c:
        await c.call_tool("any")
    assert server.asked("response") == []
    assert len(warnings) == 1


# --- cancelling (legacy) ----------------------------------------------------------------------------


async def test_a_legacy_call_that_nobody_waits_for_is_left_and_cancelled_by_a_notification() -> None:
    begun, told = asyncio.Event(), asyncio.Event()

    async def script(x: Exchange) -> None:
        if x.rpc == "notifications/cancelled":
            await x.reply(202)
            told.set()
            return
        await x.stream()
        await x.event(progress(x.message["id"], 1), id="e1")
        begun.set()
        await x.wait_left()

    async with serving(legacy(script)) as server, Client(server.url) as c:
        call = asyncio.create_task(c.call_tool("any"))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(60):
            await told.wait()
            await server.asked("tools/call")[0].left.wait()
        assert len(server.asked("GET")) <= 1  # left for good: not resumed
    params = server.asked("notifications/cancelled")[0].message["params"]
    assert params["requestId"] == server.asked("tools/call")[0].message["id"]


async def test_initialize_is_never_cancelled() -> None:
    async def script(x: Exchange) -> None:
        if x.rpc == "server/discover":
            await x.reply(400)
        else:
            await x.wait_left()

    async with serving(script) as server:
        with pytest.raises(TimeoutError, match="initialize had no answer"):
            async with Client(server.url, connect_timeout=3.0):
                pass
        assert {x.rpc for x in server.exchanges} == {"server/discover", "initialize"}


# --- refusals and odd answers -----------------------------------------------------------------------


async def test_a_json_rpc_error_keeps_its_code_and_data_whatever_the_status() -> None:
    async def script(x: Exchange) -> None:
        await x.error(int(x.message["params"]["name"]), -32099, {"limit": "calls"})

    async with serving(legacy(script)) as server, Client(server.url) as c:
        for status in ("200", "400", "503"):
            with pytest.raises(ProtocolError) as caught:
                await c.call_tool(status)
            assert (caught.value.code, caught.value.data) == (-32099, {"limit": "calls"})


async def test_a_session_that_the_server_forgot_is_a_clear_error() -> None:
    async def script(x: Exchange) -> None:
        await x.error(404, -32001)

    async with serving(legacy(script)) as server, Client(server.url) as c:
        assert c.session_id == "s-1"
        with pytest.raises(
            TransportError, match=r"does not know this session any more \(error -32001\): connect again"
        ):
            await c.call_tool("any")


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "--token"), (403, "credentials"), (404, "/mcp"), (503, "try again after 7 s"), (500, "try again")],
)
async def test_a_refusal_says_what_to_do(status: int, says: str) -> None:
    async def script(x: Exchange) -> None:
        await x.reply(status, b"no", retry_after="7")

    async with serving(modern(script)) as server, Client(server.url) as c:
        with pytest.raises(TransportError, match=f"HTTP {status} .*{says}"):
            await c.call_tool("any")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"jsonrpc":"2.0","id":4711,"result":{}}'])
async def test_a_reply_without_the_answer_fails_the_call(body: bytes) -> None:
    async def script(x: Exchange) -> None:
        await x.reply(200, body, content_type="application/json")

    async with serving(modern(script)) as server, Client(server.url) as c:
        with pytest.raises(TransportError, match="ended without an answer"):
            await c.call_tool("any")


async def test_a_page_for_people_is_no_answer() -> None:
    async def script(x: Exchange) -> None:
        await x.reply(200, b"<html>", content_type="text/html")

    async with serving(modern(script)) as server, Client(server.url) as c:
        with pytest.raises(TransportError, match="text/html"):
            await c.call_tool("any")


async def test_a_result_of_the_wrong_shape_is_the_servers_fault() -> None:
    async def script(x: Exchange) -> None:
        await x.result({"content": "text"})

    async with serving(modern(script)) as server, Client(server.url) as c:
        with pytest.raises(ProtocolError, match="answer to tools/call is not valid"):
            await c.call_tool("any")


@pytest.mark.parametrize("streaming", [True, False], ids=["event", "body"])
async def test_a_message_over_the_limit_fails_its_call_only(streaming: bool) -> None:
    async def script(x: Exchange) -> None:
        value = "x" * int(x.message["params"]["name"])
        if streaming:
            await x.stream()
            await x.event(result(x.message["id"], value), id="e1")
        else:
            await x.reply(200, result(x.message["id"], value))

    async with serving(legacy(script)) as server, Client(server.url, max_message=100_000) as c:
        with pytest.raises(LimitError, match="max_message="):
            await c.call_tool("200000")
        assert len((await c.call_tool("20000")).data) == 20_000


async def test_a_redirect_within_the_server_is_followed() -> None:
    async def script(x: Exchange) -> None:
        if not x.path.endswith("/"):
            await x.reply(307, location=f"{x.path}/")
        elif x.rpc == "server/discover":
            await x.result(DISCOVERED)
        else:
            await x.result({"content": []})

    async with serving(script) as server, Client(server.url, headers={"X-Key": "k"}) as c:
        await c.call_tool("any")
    assert server.exchanges[-1].path == "/mcp/"
    assert server.exchanges[-1].headers["x-key"] == "k"


async def test_a_redirect_to_another_server_is_not_followed() -> None:
    async def script(x: Exchange) -> None:
        await x.reply(307, location=f"{other.url}/mcp")

    async def untouched(x: Exchange) -> None:
        raise AssertionError("the secret went to another server")

    async with serving(untouched) as other, serving(script) as server:
        with pytest.raises(TransportError, match="redirects to another server"):
            async with Client(server.url, headers={"X-Key": "secret"}):
                pass
        assert other.exchanges == []


async def test_an_answer_wakes_the_call_though_the_server_never_ends_its_stream() -> None:
    async def script(x: Exchange) -> None:
        await x.stream()
        await x.event(result(x.message["id"]))
        await x.wait_left()  # the client leaves after a second at most

    async with serving(modern(script)) as server, Client(server.url) as c:
        assert (await c.call_tool("any")).data == 1
        async with asyncio.timeout(60):
            await server.asked("tools/call")[0].left.wait()


async def test_headers_are_sent_with_every_request() -> None:
    async def script(x: Exchange) -> None:
        await x.result({"content": []})

    async with serving(legacy(script)) as server, Client(server.url, headers={"Authorization": "Bearer t"}) as c:
        await c.call_tool("any")
    assert {x.headers["authorization"] for x in server.exchanges} == {"Bearer t"}


# --- the end ----------------------------------------------------------------------------------------


async def test_closing_ends_the_session_and_fails_the_calls_in_flight() -> None:
    begun = asyncio.Event()

    async def script(x: Exchange) -> None:
        begun.set()
        await x.wait_left()

    async with serving(legacy(script)) as server:
        c = Client(server.url)
        async with c:
            call = asyncio.create_task(c.call_tool("any"))
            await begun.wait()
        with pytest.raises(TransportError, match="the client was closed"):
            await call
        assert server.exchanges[-1].method == "DELETE"
        assert server.exchanges[-1].headers["mcp-session-id"] == "s-1"
        with pytest.raises(TransportError, match="the client is closed"):
            await c.call_tool("any")


async def test_closing_is_bounded_though_the_server_never_answers_the_delete() -> None:
    async def script(x: Exchange) -> None:
        raise AssertionError

    async def silent(x: Exchange) -> None:
        if x.method == "DELETE":
            await x.wait_left()
        else:
            await legacy(script)(x)

    async with serving(silent) as server:
        c = await Client(server.url, close_timeout=0.3).__aenter__()
        async with asyncio.timeout(60):
            await asyncio.gather(c.aclose(), c.aclose())
            await c.aclose()
            await server.asked("DELETE")[0].left.wait()


# --- connections ------------------------------------------------------------------------------------


async def test_a_server_that_is_gone_is_told_apart_from_one_that_broke() -> None:
    async def script(x: Exchange) -> None:
        x.cut()

    async with serving(modern(script)) as server, Client(server.url, reconnect=0) as c:
        with pytest.raises(TransportError, match="it may have run"):
            await c.call_tool("any")
        await server.stop()
        with pytest.raises(TransportError, match="Nothing was sent"):
            await c.call_tool("any")
        await server.start()


async def test_a_server_too_busy_for_the_standalone_stream_is_asked_again() -> None:
    opened = asyncio.Event()

    async def script(x: Exchange) -> None:
        if x.rpc != "GET":
            await legacy(script)(x)
        elif len(server.asked("GET")) == 1:
            await x.reply(503)
        else:
            opened.set()
            await x.reply(405)

    async with serving(script) as server, Client(server.url), asyncio.timeout(60):
        await opened.wait()


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_call_made_while_the_server_is_away_goes_out_when_it_is_back(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_once = asyncio.Event()
    wait = Patience.wait

    async def tell(patience: Patience, place: Place) -> bool:
        failed_once.set()
        return await wait(patience, place)

    async def script(x: Exchange) -> None:
        await x.result({"content": [], "structuredContent": {"result": "back"}})

    async with serving((modern if era == "modern" else legacy)(script)) as server, Client(server.url) as c:
        await server.stop()
        monkeypatch.setattr(Patience, "wait", tell)
        call = asyncio.create_task(c.call_tool("any"))
        await failed_once.wait()
        await server.start()
        assert (await call).data == "back"
        assert len(server.asked("tools/call")) == 1


async def test_a_server_that_wants_a_token_is_told_of_with_what_to_do() -> None:
    async def script(x: Exchange) -> None:
        await x.error(401, -32600, www_authenticate="Bearer")

    async with serving(script) as server:
        with pytest.raises(TransportError, match=r"HTTP 401 \(error -32600\); pass valid credentials"):
            async with Client(server.url):
                pass
        assert len(server.exchanges) == 1
