"""What telemetry sees of a client's call, and what the server is told: also where nobody traces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.clients.observing import Observed, Observer
from tailrace.core.meter import ANSWERED, Ending, Operation
from tailrace.core.trace import Span
from tailrace.errors import Code, ProtocolError, RpcError
from tailrace.mcp import Client

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
OPERATION = Operation("mcp", "tools/call", "order")


class Notes:
    """Instruments and a tracer that write down what they are told."""

    def __init__(self) -> None:
        self.endings: list[tuple[Operation, Ending, str]] = []
        self.spans: list[tuple[Any, str]] = []

    def call_ended(self, operation: Operation, ending: Ending, seconds: float, *, side: str) -> None:
        assert 0 <= seconds < 60
        self.endings.append((operation, ending, side))

    def end(self, span: Span, error: Any, code: str) -> None:
        self.spans.append((error, code))


def observed() -> tuple[Observed, Notes]:
    notes: Any = Notes()
    return Observed(OPERATION, Span(notes, "inner", {"traceparent": PARENT}), notes), notes


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, ANSWERED),
        (RpcError(Code.NOT_FOUND, "no"), Ending("error", "NOT_FOUND")),
        (ProtocolError(-32602, "no"), Ending("error", "-32602")),
        (TimeoutError("late"), Ending("timeout", "")),
        (asyncio.CancelledError(), Ending("cancelled", "")),
        (ConnectionError("gone"), Ending("error", "ConnectionError")),
    ],
    ids=["answer", "rpc", "json-rpc", "timeout", "cancelled", "other"],
)
def test_how_a_call_ended_has_few_names(error: BaseException | None, ending: Ending) -> None:
    call, notes = observed()
    call.end(error)
    assert notes.endings == [(OPERATION, ending, "client")]
    assert notes.spans == [(error, ending.code)]


def test_a_tool_that_failed_is_an_error_without_an_exception_and_the_first_end_counts() -> None:
    call, notes = observed()
    call.end("the tool failed", "tool_error")
    call.end(None)
    assert notes.endings == [(OPERATION, Ending("error", "tool_error"), "client")]
    assert notes.spans == [("the tool failed", "tool_error")]


def test_where_nobody_observes_there_is_nothing_to_pay_for() -> None:
    assert Observer("http://127.0.0.1:8000").begin("order", OPERATION, {}) is None


async def test_a_client_in_a_handler_passes_on_the_trace_although_nobody_makes_spans() -> None:
    behind = Service("behind")

    @behind.tool
    async def where(ctx: Context) -> str:
        return str(ctx.value("traceparent"))

    before = Service("before")

    @before.tool
    async def ask() -> list[Any]:
        async with Client(behind) as inner:
            own = {"traceparent": PARENT.replace("f067", "0000")}
            return [(await inner.call_tool("where")).data, (await inner.call_tool("where", meta=own)).data]

    async with Client(before) as client:
        answer = await client.call_tool("ask", meta={"traceparent": PARENT})
        assert answer.data == [PARENT, PARENT.replace("f067", "0000")], "what a program says itself stays"
        assert (await client.call_tool("ask")).data[0] == "None"
