"""A handler asks its client: over every transport, bounded, once, and never for longer than its call lives."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from typing import Any, Literal

import pytest

from tailrace import CapabilityError, Context, LimitError, RequestRefused, Service
from tailrace.errors import StoreError
from tailrace.mcp import Client
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.protocols.mcp.test_conversation import conversing
from tests.rigs.exchange import (
    DISK_FULL,
    FakeExchange,
    LegacySession,
    SseSession,
    initialize,
    modern_request,
    notification,
    post_modern,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import errors

CAPABLE = {"elicitation": {}, "sampling": {}, "roots": {}}
JSON = ("content-type", "application/json")


@dataclasses.dataclass
class Order:
    """What is asked for."""

    item: str
    size: Literal["small", "large"]
    count: int = 1
    note: str | None = None


def curious(seen: list[str] | None = None) -> Service:
    """A service whose tools ask."""
    service, notes = Service("curious"), seen if seen is not None else []

    @service.tool
    async def order(ctx: Context, timeout: float | None = None) -> str:
        try:
            result = await ctx.elicit("What shall it be?", Order, timeout=timeout)
        except (CapabilityError, RequestRefused, LimitError, TimeoutError) as error:
            notes.append(type(error).__name__)
            raise
        return f"{result.action} {result.data}"

    @service.tool
    async def think(ctx: Context) -> str:
        result = await ctx.sample(["How much?", {"role": "assistant", "content": {"type": "text", "text": "?"}}])
        return f"{result.model}: {result.text}"

    @service.tool
    async def look(ctx: Context) -> list[str]:
        return [f"{root.uri} {root.name}" for root in await ctx.list_roots()]

    @service.tool
    async def flood(ctx: Context, count: int) -> list[str]:
        async def one() -> str:
            try:
                return (await ctx.elicit("?")).action
            except LimitError as error:
                return error.limit

        return list(await asyncio.gather(*(one() for _ in range(count))))

    @service.tool(read_only=True)
    async def again(ctx: Context) -> str:
        return (await ctx.elicit("Again?")).action

    return service


async def legacy(server: Any, capabilities: Any = CAPABLE, version: str = "2025-11-25") -> LegacySession:
    session, message = LegacySession(server, version), initialize(version)
    message["params"]["capabilities"] = capabilities
    exchange = session.post(message)
    assert await exchange.status_code() == 200
    session.id = exchange.headers["mcp-session-id"]
    assert await session.post(notification("notifications/initialized")).status_code() == 202
    await server.store.flush()
    return session


def reply(id: str, result: Any) -> Any:
    return {"jsonrpc": "2.0", "id": id, "result": result}


FILLED_IN = {"action": "accept", "content": {"item": "tea", "size": "large", "count": 2}}


# --- it works -------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_a_request_goes_out_on_the_calls_own_stream_and_its_answer_comes_by_post(durable: bool) -> None:
    @virtual
    async def run() -> None:
        async with serving(curious(), MemoryStore(durable=durable)) as server:
            session = await legacy(server)
            post = session.call(1, "order")
            asked = await post.message("elicitation/create")
            assert asked["params"]["message"] == "What shall it be?"
            assert asked["params"]["requestedSchema"] == {
                "type": "object",
                "properties": {
                    "item": {"type": "string"},
                    "size": {"type": "string", "enum": ["large", "small"]},
                    "count": {"type": "integer", "default": 1},
                    "note": {"type": "string"},
                },
                "required": ["item", "size"],
            }
            assert await session.post(reply(asked["id"], FILLED_IN)).status_code() == 202
            answer = text_of(await post.answer(1))
            assert answer == "accept Order(item='tea', size='large', count=2, note=None)"
            await post.end()
            assert len(server.endpoint.asking) == 0

    run()


@virtual
async def test_it_works_over_http_sse_and_two_that_ask_at_once_get_their_own_answers() -> None:
    async with serving(curious()) as server:
        session = SseSession(server)
        await session.open()
        message = initialize("2024-11-05")
        message["params"]["capabilities"] = CAPABLE
        assert await session.post(message).status_code() == 202
        for id in (1, 2):
            assert await session.call(id, "think").status_code() == 202
        while (
            len(found := [one for one in session.stream.messages if one.get("method") == "sampling/createMessage"]) < 2
        ):
            await asyncio.sleep(0.01)
        assert found[0]["params"]["messages"][0] == {"role": "user", "content": {"type": "text", "text": "How much?"}}
        assert found[0]["params"]["maxTokens"] == 1024
        for number, asked in reversed(list(enumerate(found, 1))):
            said = {"role": "assistant", "content": {"type": "text", "text": f"{number}"}, "model": "m"}
            assert await session.post(reply(asked["id"], said)).status_code() == 202
        for id in (1, 2):
            assert text_of(await session.stream.answer(id)) == f"m: {id}"


@virtual
async def test_it_works_over_a_pipe() -> None:
    async with conversing(curious()) as (pipes, running):
        message = initialize("2025-11-25")
        message["params"]["capabilities"] = CAPABLE
        pipes.say(message)
        pipes.say({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "look", "arguments": {}}})
        while not (asked := [one for one in pipes.heard if one.get("method") == "roots/list"]):
            await asyncio.sleep(0.01)
        pipes.say(reply(asked[0]["id"], {"roots": [{"uri": "file:///a", "name": "a"}, {"uri": "file:///b"}]}))
        while not (answer := [one for one in pipes.heard if one.get("id") == 1]):
            await asyncio.sleep(0.01)
        assert answer[0]["result"]["structuredContent"]["result"] == ["file:///a a", "file:///b None"]
        pipes.close()
        await running


async def test_our_client_answers_by_its_callbacks() -> None:
    shown: list[Any] = []

    async def fill_in(message: str, schema: dict[str, Any]) -> Any:
        shown.append((message, sorted(schema["properties"])))
        return {"item": "tea", "size": "small"}

    options: Any = {"elicitation": fill_in, "sampling": lambda params: "four", "roots": ["file:///a"]}
    async with Client(curious(), era="legacy", **options) as client:
        assert (await client.call_tool("order")).data.startswith("accept Order(item='tea', size='small', count=1")
        assert (await client.call_tool("think")).data == "unknown: four"
        assert (await client.call_tool("look")).data == ["file:///a None"]
    assert shown == [("What shall it be?", ["count", "item", "note", "size"])]


# --- what a client cannot do, or will not ---------------------------------------------------------


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {"url": {}}}])
def test_a_client_that_did_not_declare_it_is_not_asked_and_the_caller_reads_why(capabilities: Any) -> None:
    @virtual
    async def run() -> None:
        async with serving(curious()) as server:
            answer = await (await legacy(server, capabilities)).call(1, "order").answer(1)
            assert answer["result"]["isError"] is True
            assert "elicitation" in text_of(answer)

    run()


@virtual
async def test_calls_without_a_session_cannot_ask(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(curious()) as server:
        for name, needed in (("order", "elicitation"), ("think", "sampling"), ("look", "roots")):
            post = post_modern(server, modern_request(1, "tools/call", {"name": name, "arguments": {}}))
            assert await post.status_code() == 400
            error = (await post.answer(1))["error"]
            assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": {needed: {}}})
    async with serving(curious(), stateless=True) as server:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "order", "arguments": {}}}
        accept = ("accept", "application/json, text/event-stream")
        answer = await send(server, FakeExchange("POST", "/mcp", call, [JSON, accept])).answer(1)
        assert "no session" in text_of(answer)
    assert errors(caplog) == []


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (reply("", {"action": "decline"}), "decline None"),
        (reply("", {"action": "cancel"}), "cancel None"),
        (reply("", {"action": "accept", "content": {"item": 3, "size": "small"}}), "does not fit the form"),
        (reply("", {"action": "accept"}), "does not fit the form"),
        (reply("", {"verdict": 1}), "is not valid"),
        (
            {"jsonrpc": "2.0", "id": "", "error": {"code": -1, "message": "user is away", "data": {"a": 1}}},
            "user is away",
        ),
    ],
)
def test_what_the_client_says_instead_is_told(said: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def run() -> None:
        async with serving(curious()) as server:
            session = await legacy(server)
            post = session.call(1, "order")
            asked = await post.message("elicitation/create")
            assert await session.post({**said, "id": asked["id"]}).status_code() == 202
            assert text in text_of(await post.answer(1))
            assert errors(caplog) == []

    run()


# --- limits ---------------------------------------------------------------------------------------


@virtual
async def test_a_client_that_does_not_answer_is_told_that_nobody_waits_any_more() -> None:
    seen: list[str] = []
    async with serving(curious(seen)) as server:
        session = await legacy(server)
        post = session.call(1, "order", {"timeout": 5.0})
        asked = await post.message("elicitation/create")
        await post.answer(1)
        assert seen == ["TimeoutError"]
        gone = await post.message("notifications/cancelled")
        assert gone["params"] == {"requestId": asked["id"], "reason": "it took too long"}
        assert await session.post(reply(asked["id"], FILLED_IN)).status_code() == 202, "late, and dropped"


@virtual
async def test_requests_of_one_session_that_wait_are_counted() -> None:
    async with serving(curious(), max_asked=5) as server:
        session = await legacy(server)
        post = session.call(1, "flood", {"count": 8})
        await turns()
        while len(asked := [one for one in post.messages if one.get("method") == "elicitation/create"]) < 5:
            await asyncio.sleep(0.01)
        assert len({one["id"] for one in asked}) == 5
        for one in asked:
            await session.post(reply(one["id"], {"action": "accept"})).status_code()
        result = (await post.answer(1))["result"]["structuredContent"]["result"]
        assert sorted(result) == ["accept"] * 5 + ["asked"] * 3
        assert len(server.endpoint.asking) == 0


@virtual
async def test_a_cancelled_call_takes_its_request_back() -> None:
    async with serving(curious()) as server:
        session = await legacy(server)
        post = session.call(1, "order")
        asked = await post.message("elicitation/create")
        assert await session.cancel(1).status_code() == 202
        gone = await post.message("notifications/cancelled")
        assert gone["params"]["requestId"] == asked["id"]
        await post.answer(1)
        assert len(server.endpoint.asking) == 0


@virtual
async def test_an_answer_of_another_session_counts_for_nothing() -> None:
    async with serving(curious()) as server:
        session, thief = await legacy(server), await legacy(server)
        post = session.call(1, "order")
        asked = await post.message("elicitation/create")
        assert len(asked["id"]) >= 20, "nobody can guess it"
        assert await thief.post(reply(asked["id"], {"action": "decline"})).status_code() == 202
        for id in ("made up", 7):
            assert await session.post({"jsonrpc": "2.0", "id": id, "result": {}}).status_code() == 202
        await turns()
        assert len(server.tasks.calls) == 1
        for _ in range(2):  # the second is one too many, and harmless
            assert await session.post(reply(asked["id"], FILLED_IN)).status_code() == 202
        assert "tea" in text_of(await post.answer(1))


# --- cut streams, kills ---------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_a_resume_brings_the_request_again_until_it_is_answered_and_then_no_more(durable: bool) -> None:
    @virtual
    async def run() -> None:
        async with serving(curious(), MemoryStore(durable=durable)) as server:
            session = await legacy(server)
            post = session.call(1, "order")
            first = (await post.event_count(1))[0].id
            post.disconnect()
            await turns()
            resumed = session.get(first)
            asked = await resumed.message("elicitation/create")
            assert resumed.headers["tailrace-resume"] == "complete"
            resumed.disconnect()
            assert await session.post(reply(asked["id"], FILLED_IN)).status_code() == 202
            await turns()
            last = session.get(first)
            assert "tea" in text_of(await last.answer(1))
            assert last.headers["tailrace-resume"] == "complete"
            await last.end()
            assert [one for one in last.messages if "method" in one] == [], "it is not asked again"
            assert b"gap" not in last.sink.written

    run()


@virtual
async def test_a_request_of_an_earlier_process_life_is_taken_back_and_its_late_answer_dropped() -> None:
    store = MemoryStore(durable=True)
    async with serving(curious(), store) as server:
        session = await legacy(server)
        post = session.call(1, "order")
        asked = await post.message("elicitation/create")
        first = post.events[0].id
        store.crash()
    async with serving(curious(), store) as server:
        session = session.on(server)
        resumed = session.get(first)
        assert (await resumed.answer(1))["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
        assert [one["method"] for one in resumed.messages if "method" in one] == ["notifications/cancelled"]
        assert resumed.messages[0]["params"]["requestId"] == asked["id"]
        assert await session.post(reply(asked["id"], FILLED_IN)).status_code() == 202


@virtual
async def test_a_call_that_runs_again_asks_again() -> None:
    store = MemoryStore(durable=True)
    async with serving(curious(), store) as server:
        session = await legacy(server)
        post = session.call(1, "again")
        asked = await post.message("elicitation/create")
        first = post.events[0].id
        store.crash()
    async with serving(curious(), store) as server:
        session = session.on(server)
        resumed = session.get(first)
        anew = await resumed.message("elicitation/create")
        assert anew["id"] != asked["id"]
        assert await session.post(reply(asked["id"], {"action": "decline"})).status_code() == 202
        assert await session.post(reply(anew["id"], {"action": "accept"})).status_code() == 202
        assert text_of(await resumed.answer(1)) == "accept"


@virtual
async def test_a_request_that_cannot_be_stored_fails_and_does_not_wait() -> None:
    store = MemoryStore(durable=True)
    async with serving(curious(), store) as server:
        session = await legacy(server)
        store.fail_commits(DISK_FULL)
        answer = await session.call(1, "order").answer(1)
        assert answer["error"]["data"] == {"limit": "store"}
        store.fail_commits(None)


@virtual
async def test_a_request_that_the_store_refuses_at_once_fails_by_that_name_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    store = MemoryStore(durable=True)
    async with serving(curious(), store) as server:
        session = await legacy(server)
        with monkeypatch.context() as full:
            full.setattr(store, "write", raising(StoreError("more than 1 byte is waiting to be committed")))
            answer = await session.call(1, "order").answer(1)
        assert answer["error"]["data"] == {"limit": "store"}
    gc.collect()
    assert lost == []


def raising(error: Exception) -> Any:
    """A function that raises it, whatever it is called with."""

    def fail(*_: Any) -> None:
        raise error

    return fail
