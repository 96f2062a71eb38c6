"""What a tool does and what its caller reads: results, failures, progress, log records, time limits."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from tailrace import Context, Service, ToolError, current
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    FakeExchange,
    LegacySession,
    modern_request,
    notification,
    post_modern,
    request,
    serving,
    text_of,
)
from tests.rigs.workshop import errors

LIMIT_REACHED = -32000
svc = Service("kitchen")  # what needs no state of a test


@dataclass
class Order:
    item: str
    count: int


class Money(BaseModel):
    amount: Decimal


@svc.tool
async def order(item: str) -> Order:
    return Order(item, 2)


@svc.tool
async def number() -> int:
    return 7


@svc.tool
async def names() -> list[str]:
    return ["a", "b"]


@svc.tool
async def nothing() -> None:
    pass


@svc.tool
async def money() -> Money:
    return Money(amount=Decimal("1.50"))


@svc.tool
async def undeclared(kind: str):
    return {"text": "words", "object": {"a": 1}, "none": None, "model": Money(amount=Decimal(2))}[kind]


@svc.tool
async def refuse(data: Any = None) -> str:
    raise ToolError("there is no such thing", data)


@svc.tool
async def refuse_oddly() -> str:
    raise ToolError("with something that is no JSON", {"what": object()})


@svc.tool
async def refuse_with_an_exception() -> str:
    raise ToolError(ValueError("no such item"))  # type: ignore[arg-type]


@svc.tool
async def bug() -> str:
    raise KeyError("a secret path")


@svc.tool
def bug_in_a_thread() -> str:
    raise RuntimeError("a secret path")


@svc.tool
async def leave() -> str:
    sys.exit(3)


class Outcome(BaseException):
    """As test frameworks have it."""


@svc.tool
async def end_a_test() -> str:
    raise Outcome("failed")


@svc.tool
def end_a_test_in_a_thread() -> str:
    raise Outcome("failed")


@svc.tool
def leave_in_a_thread() -> str:
    sys.exit(3)


@svc.tool
async def cancel_itself() -> str:
    raise asyncio.CancelledError


@svc.tool
async def interrupt() -> str:
    raise KeyboardInterrupt


@svc.tool
def interrupt_in_a_thread() -> str:
    raise KeyboardInterrupt


@svc.tool
async def end_as_a_generator() -> str:
    raise GeneratorExit


@svc.tool
async def refuse_a_file() -> str:
    raise ToolError("there is no caf\udce9.txt")


@svc.tool(timeout=5)
async def hold_on() -> str:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@svc.tool
async def wrong_type() -> int:
    return "seven"  # type: ignore[return-value]


@svc.tool
async def large(size: int) -> str:
    return "x" * size


@svc.tool
async def large_stream(count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield "x" * 1000


@svc.tool(timeout=5)
async def slow() -> str:
    await asyncio.Event().wait()
    return "never"


@svc.tool(timeout=0.01)
def slow_in_a_thread() -> str:
    time.sleep(0.2)
    return "late"


@svc.tool
async def count(ctx: Context, upto: int) -> AsyncIterator[int]:
    """Counts."""
    for value in range(upto):
        yield value


@svc.tool
async def count_money() -> AsyncIterator[Money]:
    yield Money(amount=Decimal("1.50"))


@svc.tool
async def count_and_fail() -> AsyncIterator[int]:
    yield 1
    raise ToolError("no more")


@svc.tool
def from_a_thread(ctx: Context) -> str:
    for done in range(3):
        ctx.progress_nowait(done + 1, 3)
    ctx.log_nowait("warning", "careful")
    return threading.current_thread().name


@svc.tool
async def speak(ctx: Context) -> str:
    await ctx.debug("fine print")
    await ctx.info({"item": 1}, logger="kitchen")
    await ctx.warning("careful")
    await ctx.error_log("bad")
    await ctx.log("emergency", None)
    return "said"


@svc.tool
async def progress_nonsense(ctx: Context) -> str:
    await ctx.progress(float("nan"))
    return "said"


@svc.tool
def gives_a_coroutine(ctx: Context) -> str:
    async def later() -> str:
        return "later"

    return later()  # type: ignore[return-value]


@svc.tool
async def speak_nonsense(ctx: Context) -> str:
    await ctx.log("loud", "x")
    return "said"


@asynccontextmanager
async def session(**settings: Any) -> AsyncIterator[LegacySession]:
    async with serving(svc, **settings) as server:
        yield await LegacySession(server).start()


async def result(tool: str, arguments: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    async with session(**settings) as client:
        return (await client.call(1, tool, arguments).answer(1))["result"]


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "structured", "text"),
    [
        ("number", {"result": 7}, "7"),
        ("names", {"result": ["a", "b"]}, '["a","b"]'),
        ("nothing", {"result": None}, "null"),
        ("money", {"amount": "1.50"}, '{"amount":"1.50"}'),
    ],
)
async def test_declared_results_are_structured_and_scalars_wrapped(tool: str, structured: Any, text: str) -> None:
    answer = await result(tool)
    assert answer["structuredContent"] == structured
    assert answer["content"] == [{"type": "text", "text": text}]
    assert "isError" not in answer
    assert "resultType" not in answer


async def test_objects_go_as_they_are() -> None:
    answer = await result("order", {"item": "tea"})
    assert answer["structuredContent"] == {"item": "tea", "count": 2}


async def test_the_output_schema_says_what_is_wrapped() -> None:
    async with session() as client:
        tools = {tool["name"]: tool for tool in (await client.post(request(1, "tools/list")).json())["result"]["tools"]}
        assert tools["number"]["outputSchema"]["properties"]["result"]["type"] == "integer"
        assert tools["order"]["outputSchema"]["properties"].keys() == {"item", "count"}
        assert "outputSchema" not in tools["undeclared"]


@pytest.mark.parametrize(
    ("kind", "text", "structured"),
    [
        ("text", "words", {"result": "words"}),
        ("object", '{"a":1}', {"a": 1}),
        ("none", None, None),
        ("model", '{"amount":"2"}', {"amount": "2"}),
    ],
)
async def test_a_tool_that_declares_nothing_answers_with_text_and_structure(
    kind: str, text: str | None, structured: Any
) -> None:
    answer = await result("undeclared", {"kind": kind})
    assert [part["text"] for part in answer["content"]] == ([] if text is None else [text])
    assert answer.get("structuredContent") == structured
    assert "isError" not in answer


@pytest.mark.parametrize(("tool", "arguments"), [("large", {"size": 5000}), ("large_stream", {"count": 6})])
async def test_a_result_over_the_limit_is_a_failure_that_names_the_limit(
    tool: str, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    answer = await result(tool, arguments, max_result=5000)
    assert answer["isError"] is True
    assert "5000" in answer["content"][0]["text"]
    assert errors(caplog) == []


async def test_a_result_that_some_clients_cannot_take_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    answer = await result("large", {"size": 1_100_000})
    assert len(answer["content"][0]["text"]) == 1_100_000
    assert [record.levelname for record in caplog.records if "over 1 MiB" in record.getMessage()] == ["WARNING"]


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "structured"),
    [(None, None), ({"stock": 0}, {"stock": 0}), ([1, 2], {"result": [1, 2]}), (7, {"result": 7})],
)
async def test_a_tool_error_is_told_and_not_logged(
    data: Any, structured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await result("refuse", {"data": data})
    assert (answer["isError"], answer["content"]) == (True, [{"type": "text", "text": "there is no such thing"}])
    assert answer.get("structuredContent") == structured
    assert [record for record in caplog.records if record.levelname != "DEBUG" and record.name != "asyncio"] == []


BUGS = [
    *("bug", "bug_in_a_thread", "leave", "leave_in_a_thread", "cancel_itself", "wrong_type"),
    *("end_a_test", "end_a_test_in_a_thread"),
    *("speak_nonsense", "progress_nonsense", "refuse_oddly"),
    *("interrupt", "interrupt_in_a_thread", "end_as_a_generator"),
]


@pytest.mark.parametrize("tool", BUGS)
async def test_a_bug_is_one_error_record_and_a_generic_text_with_its_id(
    tool: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with session() as client:
        answer = (await client.call(1, tool).answer(1))["result"]
        assert answer["isError"] is True
        text = answer["content"][0]["text"]
        assert text.startswith("internal error")
        assert "secret" not in text
        error_id = text.rpartition("error id ")[2].rstrip(")")
        (logged,) = errors(caplog)
        assert f"error_id={error_id}" in logged
        assert (await client.call(2, "number").answer(2))["result"]["structuredContent"] == {"result": 7}


@virtual
async def test_a_tool_that_takes_too_long_is_cancelled_and_answered() -> None:
    async with session() as client:
        post = client.call(1, "slow")
        await asyncio.sleep(4)
        assert not any("id" in message for message in post.messages)
        await asyncio.sleep(2)
        answer = (await post.answer(1))["result"]
        assert answer["isError"] is True
        assert answer["content"][0]["text"] == "slow did not end within 5 s"


@virtual
async def test_a_tool_that_does_not_let_go_is_answered_after_the_grace() -> None:
    async with session() as client:
        post = client.call(1, "hold_on")
        await asyncio.sleep(11)
        answer = (await post.answer(1))["result"]
        assert (answer["isError"], answer["content"][0]["text"]) == (True, "hold_on did not end within 5 s")


async def test_what_a_tool_says_of_a_file_whose_name_is_no_utf8_is_heard() -> None:
    answer = await result("refuse_a_file")
    assert (answer["isError"], answer["content"][0]["text"]) == (True, "there is no caf\\udce9.txt")


async def test_a_thread_that_takes_too_long_is_not_waited_for() -> None:
    answer = await result("slow_in_a_thread")
    assert (answer["isError"], answer["content"][0]["text"]) == (True, "slow_in_a_thread did not end within 0.01 s")


async def test_more_plain_functions_than_threads_are_refused_with_the_limits_name() -> None:
    release = threading.Event()
    service = Service("threads")

    @service.tool
    def hold() -> str:
        release.wait(30)
        return "held"

    async with serving(service, max_threads=1) as server:
        client = await LegacySession(server).start()
        server.tasks.threads._waiting = 0
        first = client.call(1, "hold")
        error = (await client.call(2, "hold").answer(2))["error"]
        assert (error["code"], error["data"]) == (LIMIT_REACHED, {"limit": "threads"})
        release.set()
        assert text_of(await first.answer(1)) == "held"


# --- generators and threads -----------------------------------------------------------------------


@virtual
async def test_a_generator_streams_its_items_as_progress_and_answers_with_the_list() -> None:
    async with session() as client:
        post = client.call(1, "count", {"upto": 3}, progress="t")
        answer = (await post.answer(1))["result"]
        assert answer["structuredContent"] == {"result": [0, 1, 2]}
        params = [message["params"] for message in post.messages if "method" in message]
        assert [(one["progress"], one["message"]) for one in params] == [(1, "0"), (2, "1"), (3, "2")]


async def test_a_generator_of_models_streams_them_as_json() -> None:
    async with session() as client:
        post = client.call(1, "count_money", {}, progress="t")
        answer = (await post.answer(1))["result"]
        assert answer["structuredContent"] == {"result": [{"amount": "1.50"}]}
        (message,) = (message for message in post.messages if "method" in message)
        assert message["params"]["message"] == '{"amount":"1.50"}'


async def test_a_tool_error_may_be_made_of_another_exception() -> None:
    answer = await result("refuse_with_an_exception")
    assert (answer["isError"], answer["content"][0]["text"]) == (True, "no such item")


async def test_a_generator_may_fail_after_some_items() -> None:
    answer = await result("count_and_fail")
    assert (answer["isError"], answer["content"][0]["text"]) == (True, "no more")


async def test_a_generator_is_closed_when_its_call_is_cancelled() -> None:
    service, closed = Service("generator"), asyncio.Event()

    @service.tool
    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    async with serving(service) as server:
        client = await LegacySession(server).start()
        post = client.call(1, "endless", {}, progress="t")
        await post.message("notifications/progress")
        client.cancel(1)
        assert "error" in await post.answer(1)
        await closed.wait()


async def test_a_plain_function_runs_in_a_thread_and_reports_from_there() -> None:
    async with session() as client:
        post = client.call(1, "from_a_thread", {}, progress="t")
        assert text_of(await post.answer(1)).startswith("tailrace-tool")
        methods = [message["method"] for message in post.messages if "method" in message]
        assert methods == ["notifications/progress"] * 3 + ["notifications/message"]


async def test_a_plain_function_may_give_something_to_wait_for() -> None:
    assert (await result("gives_a_coroutine"))["structuredContent"] == {"result": "later"}


# --- the context ----------------------------------------------------------------------------------


async def test_contextvars_and_the_current_context_flow_into_tasks_and_threads() -> None:
    service, variable = Service("context"), contextvars.ContextVar("variable", default="unset")
    found: list[Any] = []

    @service.tool
    async def outer(ctx: Context) -> bool:
        variable.set("set by the tool")
        await asyncio.gather(asyncio.to_thread(inner, ctx), inner_task(ctx))
        return current() is ctx

    def inner(ctx: Context) -> None:
        found.append((variable.get(), current() is ctx))

    async def inner_task(ctx: Context) -> None:
        found.append((variable.get(), current() is ctx))

    @service.tool
    def plain(ctx: Context) -> bool:
        return current() is ctx

    async with serving(service) as server:
        client = await LegacySession(server).start()
        assert (await client.call(1, "outer").answer(1))["result"]["structuredContent"] == {"result": True}
        assert (await client.call(2, "plain").answer(2))["result"]["structuredContent"] == {"result": True}
    assert found == [("set by the tool", True)] * 2
    assert variable.get() == "unset"
    assert current() is Context.background()


async def test_a_call_knows_its_request_its_session_and_its_correlation_id() -> None:
    service = Service("context")

    @service.tool
    async def tell(ctx: Context) -> list[Any]:
        return [ctx.request_id, ctx.session.id if ctx.session else None, ctx.correlation_id, ctx.value("traceparent")]

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving(service) as server:
        client = await LegacySession(server).start()
        answer = await client.call("r", "tell").answer("r")
        *known, made = answer["result"]["structuredContent"]["result"][:3]
        assert known == ["r", client.id]
        assert re.fullmatch("[0-9a-f]{32}", made), "one is made where the client brings none"
        assert answer["result"]["structuredContent"]["result"][3] is None
        params = {"name": "tell"}
        answer = await post_modern(server, modern_request(7, "tools/call", params, traceparent=trace)).answer(7)
        correlation = "0af7651916cd43dd8448eb211c80319c"
        assert answer["result"]["structuredContent"]["result"] == [7, None, correlation, trace]


@virtual
async def test_spawned_work_outlives_the_answer_and_its_cancelled_call() -> None:
    service, done = Service("spawn"), []
    gate = asyncio.Event()

    async def mail(item: str) -> None:
        await gate.wait()
        done.append((item, current().cancelled, current().call))

    @service.tool
    async def place(ctx: Context, item: str, wait: bool = False) -> str:
        ctx.spawn(mail, item)
        if wait:
            await asyncio.Event().wait()
        return "placed"

    async with serving(service, drain=10) as server:
        client = await LegacySession(server).start()
        assert text_of(await client.call(1, "place", {"item": "tea"}).answer(1)) == "placed"
        cancelled = client.call(2, "place", {"item": "cups", "wait": True})
        await turns()
        client.cancel(2)
        await cancelled.answer(2)
        detached = server.statistics()["detached"]
        assert (detached["running"], detached["names"]) == (2, ["mail", "mail"])
        gate.set()
    assert done == [("tea", False, None), ("cups", False, None)]


# --- log records to the client --------------------------------------------------------------------


async def levels(post: FakeExchange) -> list[str]:
    await post.answer(1)
    if not post.is_stream:
        return []
    return [message["params"]["level"] for message in post.messages if message.get("method") == "notifications/message"]


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        (None, ["debug", "info", "warning", "error", "emergency"]),
        ("debug", ["debug", "info", "warning", "error", "emergency"]),
        ("warning", ["warning", "error", "emergency"]),
        ("emergency", ["emergency"]),
    ],
)
async def test_a_legacy_session_sets_its_level(level: str | None, heard: list[str]) -> None:
    async with serving(svc) as server:
        client, other = await LegacySession(server).start(), await LegacySession(server).start()
        if level is not None:
            assert (await client.post(request(9, "logging/setLevel", {"level": level})).json())["result"] == {}
        assert await levels(client.call(1, "speak")) == heard
        assert len(await levels(other.call(1, "speak"))) == 5, "it is the session's own"


@pytest.mark.parametrize(("level", "heard"), [(None, []), ("error", ["error", "emergency"]), ("nonsense", [])])
async def test_a_modern_request_asks_for_log_records_itself(level: str | None, heard: list[str]) -> None:
    async with serving(svc) as server:
        post = post_modern(server, modern_request(1, "tools/call", {"name": "speak"}, logLevel=level))
        assert await levels(post) == heard


async def test_a_log_record_carries_data_and_logger() -> None:
    async with session() as client:
        post = client.call(1, "speak")
        await post.answer(1)
        records = [message["params"] for message in post.messages if "method" in message]
        assert records[1] == {"level": "info", "data": {"item": 1}, "logger": "kitchen"}


@virtual
async def test_nothing_is_said_after_the_cancellation() -> None:
    service = Service("late")

    @service.tool
    async def late(ctx: Context) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await ctx.progress(1)
            await ctx.info("too late")

    async with serving(service) as server:
        client = await LegacySession(server).start()
        post = client.call(1, "late", {}, progress="t")
        await asyncio.sleep(0.1)
        await client.post(notification("notifications/cancelled", {"requestId": 1})).status_code()
        await post.answer(1)
        assert [message.get("method") for message in post.messages] == [None]
