"""What a request says of where it belongs: read with care, since a client says it."""

from __future__ import annotations

import pytest

from tailrace.core.context import Context
from tailrace.core.trace import read_trace
from tests.core.support import Work, make_tasks, virtual

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


def test_outside_of_calls_there_is_none() -> None:
    assert Context.background().correlation_id is None
