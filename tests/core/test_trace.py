"""What a request says of where it belongs: read with care, since a client says it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from tailrace.core.context import Context, current
from tailrace.core.trace import Span, Tracer, read_trace, trace_of
from tailrace.errors import CallCancelled
from tests.core.support import Work, answer_at_once, make_tasks, never, turns, virtual

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def said(**headers: str) -> dict[str, str]:
    return read_trace(lambda name: headers.get(name.decode().replace("-", "_")))


def test_a_trace_is_taken_with_its_state_and_gives_the_correlation_id() -> None:
    assert said(traceparent=PARENT, tracestate="v=1", x_request_id="other") == {
        "traceparent": PARENT,
        "tracestate": "v=1",
        "correlation_id": TRACE,
    }


@pytest.mark.parametrize("state", ["x" * 513, "a\nb", "ü"])
def test_a_state_that_cannot_be_passed_on_is_left_out(state: str) -> None:
    assert "tracestate" not in said(traceparent=PARENT, tracestate=state)


def test_without_a_trace_the_usual_headers_count() -> None:
    assert said(x_correlation_id="c-1", x_request_id="r-1") == {"correlation_id": "c-1"}
    assert said(x_request_id="r-1") == {"correlation_id": "r-1"}
    assert said() == {}


@pytest.mark.parametrize("parent", ["", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-xyz-1-01", PARENT.upper()])
def test_a_trace_that_is_none_is_passed_over(parent: str) -> None:
    assert said(traceparent=parent, x_request_id="r-1") == {"correlation_id": "r-1"}


@pytest.mark.parametrize("id", ["", "a b", "x" * 129, "a\nb", "ü"])
def test_an_id_that_would_break_a_log_line_is_passed_over(id: str) -> None:
    assert said(x_correlation_id=id, x_request_id="r-1") == {"correlation_id": "r-1"}


@virtual
async def test_a_call_that_brought_no_id_gets_one_that_its_detached_work_shares() -> None:
    call = Work(make_tasks()).accepted()
    derived = call.context.with_value("k", 1)
    detached = derived.detach()
    assert detached.correlation_id is not None
    assert len(detached.correlation_id) == 32
    assert call.context.correlation_id == derived.correlation_id == detached.correlation_id
    assert detached.value("k") == 1


def test_where_a_context_stands_in_its_trace_is_its_parent_and_state() -> None:
    context = Context()
    context.set_values({"traceparent": "p", "tracestate": "s", "other": 1})
    assert trace_of(context) == {"traceparent": "p", "tracestate": "s"}
    assert trace_of(Context.background()) == {"traceparent": None, "tracestate": None}


def test_outside_of_calls_there_is_none() -> None:
    assert Context.background().correlation_id is None


class Notes(Tracer):
    """A tracer that writes down what begins and ends, under which trace."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.inside: list[object] = []

    def begin(self, kind: str, name: str, values: Mapping[Any, Any], attributes: Mapping[str, Any]) -> Span:
        assert attributes == {}
        self.said.append(f"begin {kind} {name} of {values.get('traceparent')}")
        return Span(self, name, {"traceparent": name})

    def end(self, span: Span, error: BaseException | str | None, code: str) -> None:
        text = f"end {span.inner}" if error is None else f"end {span.inner}: {error!r}"
        self.said.append(f"{text} ({code})" if code else text)

    def current(self, span: Span) -> AbstractContextManager[None]:
        self.inside.append(span.inner)
        return nullcontext()


def traced(work: Callable[[Work], Awaitable[bytes | None]], kind: type[Work] = Work) -> tuple[Work, Notes]:
    tasks, notes = make_tasks(), Notes()
    tasks.tracer = notes
    call = kind(tasks, work).accepted()
    call.span = notes.begin("server", "call", {}, {})
    call.context.set_values(dict(call.span.values))
    return call, notes


async def run(call: Work) -> None:
    call.start()
    assert call.task is not None
    await asyncio.wait([call.task])


@virtual
async def test_a_calls_run_is_a_span_below_its_own() -> None:
    call, notes = traced(answer_at_once)
    await run(call)
    assert notes.said == [
        "begin server call of None",
        "begin internal run request of call",
        "end run request",
        "end call",
    ]
    assert notes.inside == ["run request"]


@virtual
async def test_an_answer_that_is_an_error_fails_both() -> None:
    async def work(call: Work) -> bytes:
        call.failure, call.failure_code = "sold out", "tool_error"
        return b"error"

    call, notes = traced(work)
    await run(call)
    assert notes.said[2:] == ["end run request: 'sold out' (tool_error)", "end call: 'sold out' (tool_error)"]


@virtual
async def test_a_cancellation_is_seen_in_both() -> None:
    call, notes = traced(never)
    call.start()
    await turns()
    error = CallCancelled("enough")
    call.cancel(error)
    await turns()
    assert notes.said[2:] == ["end run request: CancelledError()", f"end call: {error!r}"]


class Pausing(Work):
    """It comes back after its cancellation."""

    @property
    def paused(self) -> bool:
        return self.cancelled_by is not None


@virtual
async def test_a_call_that_has_ended_to_come_back_has_failed_in_neither() -> None:
    call, notes = traced(never, Pausing)
    call.start()
    await turns()
    call.cancel(CallCancelled("asked first"))
    await turns()
    assert notes.said[2:] == ["end run request", "end call"]


@virtual
async def test_detached_work_has_a_span_and_what_it_does_belongs_to_that() -> None:
    seen: list[Any] = []

    async def mail() -> None:
        seen.append(current().value("traceparent"))

    def broken() -> None:
        raise ValueError("no mail")

    async def work(call: Work) -> bytes:
        call.context.spawn(mail)
        call.context.spawn(broken, on_error=lambda error: None)
        return b"done"

    call, notes = traced(work)
    await run(call)
    await turns()
    assert seen == ["detached mail"]
    assert "begin internal detached mail of call" in notes.said
    assert notes.inside[1:] == ["detached mail", "detached broken"]
    assert "end detached mail" in notes.said
    assert "end detached broken: ValueError('no mail')" in notes.said


def test_a_context_can_be_the_current_one_for_a_while() -> None:
    context = Context()
    token = context.make_current()
    assert current() is context
    context.restore_current(token)
    assert current() is Context.background()
