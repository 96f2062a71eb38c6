"""Calls over a link in memory: who is told what, in which order, and what a slow or failing callback costs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.clients.mcp import Client, Link, MemoryLink
from tailrace.clients.mcp.calls import Call
from tailrace.errors import DefinitionError, LimitError, ProtocolError, TransportError

from .fake_http import DISCOVERED, INITIALIZED, progress, result


class Peer:
    """The server's end of a link in memory: shakes hands on its own, and leaves the rest to the test."""

    def __init__(self, *, era: str = "modern", answer: Callable[[Peer, dict[str, Any]], None] | None = None) -> None:
        self.link = MemoryLink(self.take, self.close)
        self.era = era
        self.answer = answer
        self.taken: list[dict[str, Any]] = []
        self.closed = 0

    def take(self, data: bytes) -> None:
        message = json.loads(data)
        self.taken.append(message)
        match message.get("method"):
            case "server/discover" if self.era == "modern":
                self.say({"id": message["id"], "result": DISCOVERED})
            case "server/discover":
                self.say({"id": message["id"], "error": {"code": -32601, "message": "what?"}})
            case "initialize":
                self.say({"id": message["id"], "result": INITIALIZED})
            case "logging/setLevel":
                self.say({"id": message["id"], "result": {}})
            case _ if self.answer is not None:
                self.answer(self, message)

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.link.receive(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def asked(self, method: str) -> list[dict[str, Any]]:
        return [message for message in self.taken if message.get("method") == method]

    def replies(self) -> list[Any]:
        return [message["id"] for message in self.taken if "result" in message]

    async def close(self) -> None:
        self.closed += 1


def answering(value: Any = 1) -> Callable[[Peer, dict[str, Any]], None]:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if "id" in message:
            peer.say(result(message["id"], value))

    return answer


def test_a_link_in_memory_is_a_link() -> None:
    assert isinstance(MemoryLink(lambda _: None), Link)


# --- progress ---------------------------------------------------------------------------------------


async def test_a_slow_callback_holds_up_no_other_call() -> None:
    let_go = asyncio.Event()

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if message["params"]["name"] == "slow":
            peer.say(progress(message["id"], 1), progress(message["id"], 2))
        peer.say(result(message["id"]))

    async def slow(*_: Any) -> None:
        await let_go.wait()

    async with Client(Peer(answer=answer).link) as c:
        slow_call = asyncio.create_task(c.call_tool("slow", progress=slow))
        assert (await c.call_tool("quick")).data == 1
        assert not slow_call.done()
        let_go.set()
        assert (await slow_call).data == 1


async def test_a_callback_may_call_the_server_itself() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if message["params"]["name"] == "outer":
            peer.say(progress(message["id"], 1))
        peer.say(result(message["id"], message["params"]["name"]))

    inner: list[Any] = []
    async with Client(Peer(answer=answer).link) as c:

        async def ask_again(*_: Any) -> None:
            inner.append((await c.call_tool("inner")).data)

        assert (await c.call_tool("outer", progress=ask_again)).data == "outer"
    assert inner == ["inner"]


async def test_a_callback_that_fails_is_logged_and_the_answer_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        peer.say(progress(message["id"], 1), result(message["id"]))

    def fail(*_: Any) -> None:
        raise ValueError("no display")

    async with Client(Peer(answer=answer).link) as c:
        assert (await c.call_tool("any", progress=fail)).data == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_reports_that_wait_for_a_slow_callback_are_bounded_and_the_oldest_go() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        peer.say(*(progress(message["id"], n) for n in range(2000)), result(message["id"]))

    warnings: list[str] = []
    seen: list[float] = []
    async with Client(Peer(answer=answer).link, on_warning=warnings.append) as c:
        await c.call_tool("any", progress=lambda done, *_: seen.append(done))
    assert seen == list(range(2000 - 1024, 2000))
    assert len(warnings) == 2000 - 1024


def test_waiting_reports_are_bounded_in_bytes_too() -> None:
    call = Call(1, "m", print, max_bytes=100)
    assert call.report(None, 60)  # type: ignore[arg-type]
    assert call.report(None, 40)  # type: ignore[arg-type]
    assert not call.report(None, 90)  # type: ignore[arg-type]
    assert not call.report(None, 500)  # type: ignore[arg-type]  # the newest one always stays
    assert call.report(None, 1) is False  # type: ignore[arg-type]


async def test_progress_of_unknown_calls_goes_to_the_other_notifications() -> None:
    told: list[Any] = []
    peer = Peer()
    async with Client(peer.link, on_notification=lambda *what: told.append(what)):
        peer.say(progress("nobody", 1))
    assert [method for method, _ in told] == ["notifications/progress"]


# --- answers ----------------------------------------------------------------------------------------


async def test_answers_in_another_order_reach_their_own_calls() -> None:
    waiting: list[Any] = []

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        waiting.append(message)
        if len(waiting) == 3:
            for asked in reversed(waiting):
                peer.say(result(asked["id"], asked["params"]["name"]))

    async with Client(Peer(answer=answer).link) as c:
        answers = await asyncio.gather(*(c.call_tool(name) for name in "abc"))
    assert [answer.data for answer in answers] == ["a", "b", "c"]
    assert len({asked["id"] for asked in waiting}) == 3


async def test_a_batch_is_taken_apart() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        peer.link.receive(json.dumps([progress(message["id"], 1), result(message["id"])]).encode())

    seen: list[float] = []
    async with Client(Peer(answer=answer).link) as c:
        assert (await c.call_tool("any", progress=lambda done, *_: seen.append(done))).data == 1
    assert seen == [1]


async def test_a_second_answer_and_one_to_nobody_do_no_harm() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        peer.say(result(4711), result(message["id"], "first"), result(message["id"], "second"))
        peer.say({"id": None, "error": {"code": -32700, "message": "what was that?"}})

    warnings: list[str] = []
    async with Client(Peer(answer=answer).link, on_warning=warnings.append) as c:
        assert (await c.call_tool("any")).data == "first"
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("schema", "content", "data"),
    [
        (None, {"result": [1]}, [1]),
        ({"properties": {"result": {}}}, {"result": None}, None),
        ({"properties": {"result": {}, "more": {}}}, {"result": 1}, {"result": 1}),
        (None, {"result": 1, "more": 2}, {"result": 1, "more": 2}),
        (None, [1, 2], [1, 2]),
        (None, None, None),
    ],
)
async def test_a_wrapped_value_is_unwrapped(schema: Any, content: Any, data: Any) -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if message["method"] == "tools/list":
            tools = [{"name": "any", "inputSchema": {}, **({"outputSchema": schema} if schema else {})}]
            peer.say({"id": message["id"], "result": {"tools": tools}})
        else:
            peer.say({"id": message["id"], "result": {"content": [], "structuredContent": content, "_meta": {"m": 1}}})

    async with Client(Peer(answer=answer).link) as c:
        await c.list_tools()
        answered = await c.call_tool("any")
    assert answered.data == data
    assert answered.structured_content == content
    assert answered.meta == {"m": 1}


async def test_a_result_of_a_type_that_nobody_offered_is_refused() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        peer.say({"id": message["id"], "result": {"resultType": "riddle"}})

    async with Client(Peer(answer=answer).link) as c:
        with pytest.raises(ProtocolError, match="riddle"):
            await c.call_tool("any")


async def test_all_pages_of_tools_are_read() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        page = int(message["params"].get("cursor", "0"))
        more = {"nextCursor": str(page + 1)} if page < 3 else {}
        tools = [{"name": f"t{page}", "inputSchema": {"type": "object"}, "title": None, "_meta": {"k": page}}]
        peer.say({"id": message["id"], "result": {"tools": tools, **more}})

    async with Client(Peer(answer=answer).link) as c:
        tools = await c.list_tools()
    assert [(tool.name, tool.meta) for tool in tools] == [(f"t{n}", {"k": n}) for n in range(4)]


async def test_paging_without_end_is_refused() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        peer.say({"id": message["id"], "result": {"tools": [], "nextCursor": "again"}})

    async with Client(Peer(answer=answer).link) as c:
        with pytest.raises(LimitError, match="paging"):
            await c.list_tools()


async def test_raw_requests_and_notifications() -> None:
    peer = Peer(answer=answering())
    async with Client(peer.link) as c:
        assert (await c.request("x/y", {"a": 1}))["structuredContent"] == {"result": 1}
        await c.notify("notifications/z", {"b": 2})
    assert peer.asked("x/y")[0]["params"]["a"] == 1
    assert peer.asked("notifications/z")[0]["params"] == {"b": 2}


# --- log and requests of the server -----------------------------------------------------------------


async def test_a_legacy_server_is_asked_for_the_level_once() -> None:
    peer = Peer(era="legacy")
    async with Client(peer.link, on_log=lambda _: None, log_level="error"):
        pass
    assert [asked["params"] for asked in peer.asked("logging/setLevel")] == [{"level": "error"}]


async def test_log_goes_to_its_callback_and_the_rest_to_the_other() -> None:
    logged: list[Any] = []
    told: list[Any] = []
    warnings: list[str] = []
    peer = Peer()
    async with Client(
        peer.link, on_log=logged.append, on_notification=lambda *what: told.append(what), on_warning=warnings.append
    ):
        peer.say({"method": "notifications/message", "params": {"level": "info", "data": [1], "logger": "l"}})
        peer.say({"method": "notifications/other", "params": {"a": 1}})
        peer.say({"method": "notifications/bare"})
        peer.say({"method": "notifications/message", "params": {"level": 7}})
    assert [(log.level, log.data, log.logger) for log in logged] == [("info", [1], "l")]
    assert told == [("notifications/other", {"a": 1}), ("notifications/bare", None)]
    assert len(warnings) == 1


async def test_a_flood_of_requests_from_the_server_is_answered_within_bounds() -> None:
    warnings: list[str] = []
    peer = Peer(era="legacy")
    async with Client(peer.link, on_warning=warnings.append) as c:
        peer.say(*({"id": f"r{n}", "method": "ping"} for n in range(100)))
        assert len(warnings) == 84
        peer.answer = answering()
        await c.ping()
        while len(peer.replies()) < 16:
            await asyncio.sleep(0)
        peer.say({"id": "last", "method": "ping"})
        while len(peer.replies()) < 17:
            await asyncio.sleep(0)
    assert peer.replies() == [*(f"r{n}" for n in range(16)), "last"]


# --- ends -------------------------------------------------------------------------------------------


async def test_a_server_that_ends_fails_all_calls_now_and_later() -> None:
    peer = Peer()
    async with Client(peer.link) as c:
        calls = [asyncio.create_task(c.call_tool("any")) for _ in range(3)]
        await asyncio.sleep(0)
        peer.link.lose("the server was shut down")
        for call in calls:
            with pytest.raises(TransportError, match="the server was shut down"):
                await call
        with pytest.raises(TransportError, match="the server was shut down"):
            await c.call_tool("any")
    assert peer.closed == 1


async def test_a_limit_of_its_own_may_be_none() -> None:
    async with Client(Peer(answer=answering()).link, timeout=0.001) as c:
        assert (await c.call_tool("any", timeout=float("inf"))).data == 1


async def test_a_cancelled_call_is_told_and_its_late_answer_ignored() -> None:
    peer = Peer()
    async with Client(peer.link) as c:
        call = asyncio.create_task(c.call_tool("any"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        id = peer.asked("tools/call")[0]["id"]
        peer.say(result(id))
        peer.answer = answering()
        await c.ping()
    assert [asked["params"]["requestId"] for asked in peer.asked("notifications/cancelled")] == [id]


async def test_an_answered_call_is_not_cancelled_though_its_task_is() -> None:
    peer = Peer(answer=answering())
    entered = asyncio.Event()

    async def linger(*_: Any) -> None:
        entered.set()
        await asyncio.sleep(60)

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        peer.say(progress(message["id"], 1), result(message["id"]))

    peer.answer = answer
    async with Client(peer.link) as c:
        call = asyncio.create_task(c.call_tool("any", progress=linger))
        await entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert peer.asked("notifications/cancelled") == []


async def test_a_server_that_does_not_end_is_left_in_bounded_time() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    peer = Peer()
    peer.link = MemoryLink(peer.take, never)
    warnings: list[str] = []
    async with asyncio.timeout(60):
        async with Client(peer.link, close_timeout=0.1, on_warning=warnings.append):
            pass
    assert len(warnings) == 1


async def test_a_client_is_used_once_and_inside_its_block() -> None:
    c = Client(Peer().link)
    with pytest.raises(DefinitionError, match="async with"):
        await c.list_tools()
    with pytest.raises(DefinitionError, match="async with"):
        _ = c.era
    async with c:
        assert c.era == "modern"
    with pytest.raises(TransportError, match="closed"):
        await c.list_tools()
    with pytest.raises(DefinitionError, match="used once"):
        async with c:
            pass
    await Client(Peer().link).aclose()


async def test_what_cannot_become_json_is_the_callers_fault() -> None:
    async with Client(Peer().link) as c:
        with pytest.raises(TypeError):
            await c.call_tool("any", {"a": object()})
