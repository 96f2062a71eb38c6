"""A call that the server made a task of looks like any other call; whoever gives it up has it cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tailrace import CallCancelled, Context, LimitError, ProtocolError, Service, ToolError, TransportError
from tailrace.mcp import Client
from tests.core.support import turns, virtual

from .fake_http import Exchange, modern, serving
from .test_calls import Peer

TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
STATE = {"taskId": "t", "createdAt": "a", "lastUpdatedAt": "b", "ttlMs": None}


class Mill:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[str] = []
        self.service = service = Service("mill")

        @service.tool(task=True)
        async def grind(ctx: Context, seconds: float) -> int:
            self.seen.append("begin")
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                self.seen.append("cancelled")
                raise
            return 7

        @service.tool(task=True)
        async def refuse() -> None:
            raise ToolError("no flour")

        @service.tool(task=True)
        async def full() -> None:
            raise LimitError("stones", "all are turning")

        @service.tool(task="required")
        async def only() -> str:
            return "ok"


# --- a server of ours -------------------------------------------------------------------------------


@virtual
async def test_a_task_is_followed_to_its_result() -> None:
    told: list[str] = []
    async with Client(Mill().service) as client:
        result = await client.call_tool("grind", {"seconds": 20}, on_task=told.append)
        assert (result.data, result.is_error) == (7, False)
        assert len(told) == 1
        assert (await client.task_result(told[0])).structured_content == {"result": 7}


@virtual
async def test_a_failing_tool_is_a_result_and_a_failed_task_an_error() -> None:
    async with Client(Mill().service) as client:
        refused = await client.call_tool("refuse")
        assert (refused.is_error, refused.text) == (True, "no flour")
        with pytest.raises(ProtocolError, match="all are turning") as caught:
            await client.call_tool("full")
        assert (caught.value.code, caught.value.data) == (-32000, {"limit": "stones"})


@virtual
async def test_a_client_without_tasks_has_plain_calls() -> None:
    async with Client(Mill().service, tasks=False) as client:
        assert (await client.call_tool("grind", {"seconds": 1})).data == 7
        with pytest.raises(ProtocolError) as caught:
            await client.call_tool("only")
        assert caught.value.code == -32021
        assert caught.value.data == {"requiredCapabilities": TASKS}


@virtual
async def test_a_legacy_client_has_plain_calls() -> None:
    async with Client(Mill().service, era="legacy") as client:
        assert (await client.call_tool("grind", {"seconds": 1})).data == 7
        assert (await client.call_tool("only")).data == "ok"


@virtual
async def test_a_limit_that_passes_cancels_the_task() -> None:
    mill = Mill()
    async with Client(mill.service) as client:
        with pytest.raises(TimeoutError, match=r"within .* s; wait longer by timeout="):
            await client.call_tool("grind", {"seconds": 1000}, timeout=10)
        await asyncio.sleep(1)
        assert mill.seen == ["begin", "cancelled"]


@virtual
async def test_who_cancels_the_call_cancels_the_task() -> None:
    mill = Mill()
    told: list[str] = []
    async with Client(mill.service) as client:
        calling = asyncio.ensure_future(client.call_tool("grind", {"seconds": 1000}, on_task=told.append))
        await asyncio.sleep(5)
        calling.cancel()
        await asyncio.wait([calling])
        assert calling.cancelled()
        await asyncio.sleep(1)
        assert mill.seen == ["begin", "cancelled"]
        with pytest.raises(CallCancelled, match="cancelled by its client"):
            await client.task_result(told[0])


@virtual
async def test_a_task_that_is_not_there_is_an_error() -> None:
    async with Client(Mill().service) as client:
        with pytest.raises(ProtocolError, match="no such task"):
            await client.task_result("nothing")


# --- any server -------------------------------------------------------------------------------------


def making(*states: dict[str, Any], poll: int | None = 200) -> Callable[[Peer, dict[str, Any]], None]:
    """Answers `tools/call` with a task, and `tasks/get` with one state after the other."""
    left = list(states)
    more = {} if poll is None else {"pollIntervalMs": poll}

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if message.get("method") == "tools/call":
            peer.say({"id": message["id"], "result": {**STATE, **more, "resultType": "task", "status": "working"}})
        elif message.get("method") == "tasks/get":
            state = left.pop(0)
            if "code" in state:
                peer.say({"id": message["id"], "error": state})
            else:
                peer.say({"id": message["id"], "result": {**STATE, **more, "resultType": "complete", **state}})
        elif "id" in message:
            peer.say({"id": message["id"], "result": {"resultType": "complete"}})

    return answer


WORKING = {"status": "working"}
DONE = {"status": "completed", "result": {"content": [], "structuredContent": {"result": 1}}}


@pytest.mark.parametrize(("poll", "seconds"), [(200, 0.6), (None, 3.0), (1, 0.06), (3_600_000, 180.0)])
def test_it_looks_as_often_as_the_server_asks_for_within_reason(poll: int | None, seconds: float) -> None:
    @virtual
    async def test() -> None:
        peer = Peer(answer=making(WORKING, WORKING, DONE, poll=poll))
        async with Client(peer.link, timeout=1000) as client:
            begun = asyncio.get_running_loop().time()
            assert (await client.call_tool("t")).data == 1
            assert asyncio.get_running_loop().time() - begun == pytest.approx(seconds)
            assert all(one["params"]["taskId"] == "t" for one in peer.asked("tasks/get"))

    test()


@virtual
async def test_every_request_says_that_this_client_knows_tasks() -> None:
    peer = Peer(answer=making(DONE))
    async with Client(peer.link) as client:
        await client.call_tool("t")
    for method in ("tools/call", "tasks/get"):
        [asked] = peer.asked(method)
        assert asked["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] == TASKS


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ({"status": "cancelled"}, CallCancelled, "the task was cancelled"),
        ({"status": "cancelled", "statusMessage": "enough"}, CallCancelled, "enough"),
        ({"status": "failed", "error": {"code": 1, "message": "broken"}}, ProtocolError, "broken"),
        ({"status": "failed", "error": {"code": "x"}}, ProtocolError, "not valid"),
        ({"status": "failed"}, ProtocolError, "not valid"),
        ({"status": "completed"}, ProtocolError, "not valid"),
        ({"status": "done"}, ProtocolError, "not valid"),
        ({"status": 1}, ProtocolError, "not valid"),
        ({"status": "input_required", "inputRequests": {}}, ProtocolError, "asks for input"),
        ({"code": -32602, "message": "Task has expired"}, ProtocolError, "expired"),
    ],
)
def test_an_end_that_is_no_result_is_an_error(state: dict[str, Any], error: type[Exception], text: str) -> None:
    @virtual
    async def test() -> None:
        peer = Peer(answer=making(state))
        async with Client(peer.link) as client:
            with pytest.raises(error, match=text):
                await client.call_tool("t")
            await turns()
            assert len(peer.asked("tasks/cancel")) == (state.get("status") == "input_required")

    test()


@virtual
async def test_a_result_of_another_type_is_refused() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        peer.say({"id": message["id"], "result": {"resultType": "riddle"}})

    async with Client(Peer(answer=answer).link) as client:
        with pytest.raises(ProtocolError, match="'riddle'"):
            await client.call_tool("t")


@virtual
async def test_a_look_that_is_not_answered_is_repeated_and_given_up_in_the_end() -> None:
    looks = 0

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        nonlocal looks
        if message.get("method") == "tasks/get":
            looks += 1
            if looks != 2:
                return
        making(WORKING)(peer, message)

    async with Client(Peer(answer=answer).link, timeout=1000, reconnect=40) as client:
        with pytest.raises(TransportError, match="does not say how task t stands"):
            await client.call_tool("t")
    assert looks == 4, "lost, answered, lost twice"


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_task_whose_worker_is_lost_or_cannot_be_reached_is_asked_for_again(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.clients.mcp.tasks._USUAL", 0.01)

    async def script(x: Exchange) -> None:
        if x.rpc == "tools/call":
            return await x.result({"resultType": "task", "status": "working", **STATE, "pollIntervalMs": 20})
        if len(server.asked("tasks/get")) < 3:
            return await x.error(status, -32600)
        await x.result({"resultType": "complete", "status": "completed", **STATE, "result": {"content": []}})

    async with serving(modern(script)) as server, Client(server.url) as client:
        assert (await client.call_tool("t")).content == []
        assert len(server.asked("tasks/get")) == 3


@pytest.mark.parametrize(("data", "looks"), [({"retry": True}, 3), (None, 1)])
async def test_a_task_whose_server_does_not_reach_its_store_is_asked_for_again_where_it_says_so(
    data: dict[str, Any] | None, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.clients.mcp.tasks._USUAL", 0.01)
    asked = 0

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        nonlocal asked
        if message.get("method") == "tasks/get":
            asked += 1
            if asked < 3:
                error = {"code": -32603, "message": "away"} | ({"data": data} if data else {})
                return peer.say({"id": message["id"], "error": error})
            making({"status": "completed", "result": {"content": []}})(peer, message)
            return None
        return making(WORKING)(peer, message)

    async with Client(Peer(answer=answer).link) as client:
        if data is None:
            with pytest.raises(ProtocolError, match="away"):
                await client.call_tool("t")
        else:
            assert (await client.call_tool("t")).content == []
    assert asked == looks


async def test_a_task_that_is_refused_is_not_asked_for_again() -> None:
    async def script(x: Exchange) -> None:
        if x.rpc == "tools/call":
            return await x.result({"resultType": "task", "status": "working", **STATE, "pollIntervalMs": 20})
        await x.reply(403)

    async with serving(modern(script)) as server, Client(server.url) as client:
        with pytest.raises(TransportError, match="HTTP 403"):
            await client.call_tool("t")
        assert len(server.asked("tasks/get")) == 1


@virtual
async def test_a_link_that_is_lost_is_not_asked_again() -> None:
    peer = Peer(answer=making(WORKING))
    async with Client(peer.link) as client:
        calling = asyncio.ensure_future(client.call_tool("t"))
        await asyncio.sleep(0.1)
        peer.link.lose("it is gone")
        with pytest.raises(TransportError, match="it is gone"):
            await calling
