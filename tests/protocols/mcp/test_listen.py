"""`subscriptions/listen`: acknowledged first, told only what was asked for, and ended in order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace import Service
from tailrace.server import Server
from tests.core.support import turns, virtual
from tests.protocols.mcp.test_conversation import conversing
from tests.rigs.exchange import FakeExchange, LegacySession, modern_request, notification, post_modern, serving
from tests.rigs.workshop import Workshop, errors

TOOLS = {"toolsListChanged": True}
CHANGED = "notifications/tools/list_changed"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
INVALID_PARAMS, METHOD_NOT_FOUND, INVALID_REQUEST, LIMIT = -32602, -32601, -32600, -32000


def asking(id: int | str, wanted: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return modern_request(id, "subscriptions/listen", {"notifications": wanted}, **meta)


def listening(server: Server, id: int | str = "l", wanted: dict[str, Any] = TOOLS) -> FakeExchange:
    return post_modern(server, asking(id, wanted))


def tag_of(message: dict[str, Any]) -> Any:
    """The id of the stream that a message says it belongs to."""
    return (message.get("params") or message["result"])["_meta"][SUBSCRIPTION]


# --- over HTTP --------------------------------------------------------------------------------------


async def test_the_acknowledgment_is_the_first_message_and_names_what_is_granted() -> None:
    async with serving(Workshop().service) as server:
        wanted = {**TOOLS, "promptsListChanged": True, "resourceSubscriptions": ["a://b"]}
        stream = listening(server, 7, {**wanted, "taskIds": []})
        await stream.event_count(1)
        assert stream.status == 200
        assert stream.messages == [
            {
                "jsonrpc": "2.0",
                "method": ACKNOWLEDGED,
                "params": {"_meta": {SUBSCRIPTION: 7}, "notifications": wanted},
            }
        ]
        assert stream.events[0].id is None, "it cannot be resumed"
        assert "mcp-session-id" not in stream.headers


async def test_only_the_kinds_that_were_asked_for_are_told_each_with_the_id_of_its_stream() -> None:
    service = Workshop().service
    async with serving(service) as server:
        tools, nothing = listening(server, "a"), listening(server, "b", {})
        await service.broadcast(CHANGED)
        await service.broadcast("notifications/prompts/list_changed")
        await service.broadcast("notifications/message", {"level": "info", "data": 1})
        await service.broadcast(CHANGED, {"why": "news", "_meta": {"other": 1}})
        await tools.event_count(3)
        await turns()
        assert [(one["method"], tag_of(one)) for one in tools.messages[1:]] == [(CHANGED, "a"), (CHANGED, "a")]
        assert tools.messages[2]["params"] == {"_meta": {SUBSCRIPTION: "a"}, "why": "news"}
        assert [one["method"] for one in nothing.messages] == [ACKNOWLEDGED]


async def test_at_shutdown_it_ends_with_its_result() -> None:
    async with serving(Workshop().service) as server:
        stream = listening(server)
        await stream.event_count(1)
        await server.end_sessions()
        await stream.end()
        last = stream.messages[-1]
        assert (last["id"], last["result"]["resultType"], tag_of(last)) == ("l", "complete", "l")
        assert last["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "workshop"
        assert "notifications/cancelled" not in [one.get("method") for one in stream.messages]
        assert len(server.endpoint.listens) == 0


async def test_what_was_said_before_the_end_comes_before_the_result() -> None:
    service = Workshop().service
    async with serving(service) as server:
        stream = listening(server)
        await stream.event_count(1)
        stream.sink.open.clear()
        await service.broadcast(CHANGED)
        await server.end_sessions()
        stream.sink.open.set()
        await stream.end()
        assert [one.get("method", "result") for one in stream.messages] == [ACKNOWLEDGED, CHANGED, "result"]


async def test_a_client_that_goes_is_told_no_more() -> None:
    service = Workshop().service
    async with serving(service) as server:
        stream = listening(server)
        await stream.event_count(1)
        assert service.statistics()["streams"]["open"] == 1
        stream.disconnect()
        assert len(server.endpoint.listens) == 0
        assert service.statistics()["log_bytes"]["held"] == 0
        await service.broadcast(CHANGED)
        await turns()
        assert len(stream.messages) == 1


@virtual
async def test_an_idle_stream_is_kept_alive_by_comments() -> None:
    async with serving(keep_alive=15) as server:
        stream = listening(server)
        await asyncio.sleep(40)
        assert stream.sink.written.count(b": keep-alive\n\n") == 2


async def test_a_reader_that_stalls_costs_no_more_than_the_ring() -> None:
    service = Workshop().service
    async with serving(service, ring=10_000) as server:
        stream = listening(server)
        await stream.event_count(1)
        stream.sink.open.clear()
        for number in range(2000):
            await service.broadcast(CHANGED, {"number": number})
        [listen] = server.endpoint.listens._open
        assert listen.log.bytes <= 10_000
        stream.sink.open.set()
        await stream.message(lambda one: one.get("params", {}).get("number") == 1999)
        assert b": gap " in stream.sink.written


async def test_streams_over_the_servers_limit_are_refused() -> None:
    async with serving(Workshop().service, max_listens=2) as server:
        streams = [listening(server, number) for number in range(3)]
        assert [await stream.status_code() for stream in streams] == [200, 200, 503]
        assert (await streams[2].json())["error"]["data"] == {"limit": "listens"}
        streams[0].disconnect()
        assert await listening(server).status_code() == 200


async def test_a_stream_that_names_too_much_is_refused() -> None:
    async with serving(Workshop().service, max_watched=3) as server:
        stream = listening(server, 1, {"resourceSubscriptions": ["a://1", "a://2"], "taskIds": ["1", "2"]})
        assert await stream.status_code() == 400
        assert (await stream.json())["error"]["code"] == INVALID_PARAMS


@pytest.mark.parametrize("params", [{}, {"notifications": 1}, {"notifications": {"toolsListChanged": "yes"}}])
async def test_a_filter_that_is_none_is_refused(params: dict[str, Any]) -> None:
    async with serving(Workshop().service) as server:
        stream = post_modern(server, modern_request(1, "subscriptions/listen", params))
        assert await stream.status_code() == 400
        assert (await stream.json())["error"]["code"] == INVALID_PARAMS


async def test_a_draining_server_takes_no_new_stream() -> None:
    async with serving(Workshop().service) as server:
        server.endpoint.draining = True
        stream = listening(server)
        assert await stream.status_code() == 503
        assert (await stream.json())["error"]["data"] == {"limit": "draining"}


async def test_older_versions_do_not_have_it() -> None:
    async with serving(Workshop().service) as server:
        session = await LegacySession(server).start()
        answer = await session.post({**asking(1, TOOLS), "params": {"notifications": TOOLS}}).json()
        assert answer["error"]["code"] == METHOD_NOT_FOUND


@virtual
async def test_tools_that_are_added_meanwhile_are_announced_once_to_all() -> None:
    service = Workshop().service
    async with serving(service) as server:
        session = await LegacySession(server).start()
        old, new = session.get(), listening(server)
        await new.event_count(1)

        async def another() -> str:
            return "new"

        for number in range(20):
            service.tool(name=f"another_{number}")(another)
        await asyncio.sleep(2)
        assert [one["method"] for one in old.messages] == [CHANGED]
        assert [one["method"] for one in new.messages] == [ACKNOWLEDGED, CHANGED]
        listed = await post_modern(server, modern_request(1, "tools/list")).json()
        assert "another_19" in [tool["name"] for tool in listed["result"]["tools"]]


async def test_adding_a_tool_without_a_server_announces_nothing() -> None:
    service = Service("alone")

    @service.tool
    async def one() -> None: ...

    await service.broadcast(CHANGED)


# --- over stdio -------------------------------------------------------------------------------------


async def test_over_stdio_streams_share_the_pipe_and_are_told_apart_by_their_ids() -> None:
    service = Workshop().service
    async with conversing(service) as (pipes, _):
        pipes.say(asking("a", TOOLS))
        pipes.say(asking("b", {}))
        await pipes.hear(lambda one: one.get("method") == ACKNOWLEDGED and tag_of(one) == "b")
        await service.broadcast(CHANGED)
        await pipes.hear(lambda one: one.get("method") == CHANGED)
        await turns()
        assert [(one["method"], tag_of(one)) for one in pipes.heard] == [
            (ACKNOWLEDGED, "a"),
            (ACKNOWLEDGED, "b"),
            (CHANGED, "a"),
        ]


async def test_over_stdio_its_client_ends_it_by_cancelled_and_hears_no_more() -> None:
    service = Workshop().service
    async with conversing(service) as (pipes, _):
        pipes.say(asking("a", TOOLS))
        await pipes.hear(lambda one: one.get("method") == ACKNOWLEDGED)
        pipes.say(notification("notifications/cancelled", {"requestId": "other"}))
        pipes.say(notification("notifications/cancelled", {"requestId": "a"}))
        assert (await pipes.ask(modern_request(1, "tools/list")))["result"]
        await service.broadcast(CHANGED)
        await turns()
        assert [one.get("method", "result") for one in pipes.heard] == [ACKNOWLEDGED, "result"]
        pipes.say(asking("a", TOOLS))  # the id is free again
        await pipes.hear(lambda one: pipes.heard.count(pipes.heard[0]) == 2)


async def test_over_stdio_an_id_that_listens_is_in_flight() -> None:
    async with conversing() as (pipes, _):
        pipes.say(asking("a", TOOLS))
        pipes.say(asking("a", TOOLS))
        pipes.say(modern_request("a", "tools/call", {"name": "echo", "arguments": {"text": "x"}}))
        await pipes.hear(lambda _: len(pipes.heard) == 3)
        assert [one.get("id") for one in pipes.heard] == [None, None, None]
        assert [one["error"]["code"] for one in pipes.heard[1:]] == [INVALID_REQUEST, INVALID_REQUEST]


async def test_over_stdio_streams_over_the_connections_limit_are_refused() -> None:
    async with conversing(max_connection_listens=2) as (pipes, _):
        for number in range(3):
            pipes.say(asking(number, TOOLS))
        refused = await pipes.answer(2)
        assert (refused["error"]["code"], refused["error"]["data"]) == (LIMIT, {"limit": "listens"})


async def test_over_stdio_the_servers_end_is_the_result_and_then_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    service = Workshop().service
    async with conversing(service) as (pipes, running):
        pipes.say(asking("a", TOOLS))
        await pipes.hear(lambda one: one.get("method") == ACKNOWLEDGED)
        for server in service._servers:
            await server.stop()  # type: ignore[attr-defined]
        await running
        result, cancelled = pipes.heard[1:]
        assert (result["id"], result["result"]["resultType"]) == ("a", "complete")
        assert cancelled["method"] == "notifications/cancelled"
        assert cancelled["params"]["requestId"] == "a"
        assert errors(caplog) == []


async def test_over_stdio_the_end_of_input_ends_it_quietly() -> None:
    service = Workshop().service
    async with conversing(service) as (pipes, running):
        pipes.say(asking("a", TOOLS))
        await pipes.hear(lambda one: one.get("method") == ACKNOWLEDGED)
        pipes.close()
        await running
        assert len(pipes.heard) == 1
        assert service.statistics()["streams"]["open"] == 0
