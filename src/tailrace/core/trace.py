"""What ties a request to others across services: its trace (W3C Trace Context) and its correlation id.

The core tells a `Tracer`, where there is one, what begins and ends; `telemetry` makes OpenTelemetry spans of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tailrace.core.context import Context

__all__ = ["Span", "Tracer", "read_trace", "trace_of"]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,64})?")
_NOTHING = "0" * 32
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MAX_STATE = 512  # characters; what the specification asks to be passed on


def read_trace(get: Callable[[bytes], str | None]) -> dict[str, str]:
    """The values of a context that a request's headers give: `traceparent`, `tracestate`, `correlation_id`.

    The correlation id is the trace's id, else `x-correlation-id`, else `x-request-id`. What is not as the
    specification says, or longer than 128 characters, is passed over: it comes from a client.

    Args:
        get: Gives the value of a header, by its name in lower case.
    """
    values: dict[str, str] = {}
    parent = get(b"traceparent")
    trace = _TRACEPARENT.fullmatch(parent) if parent is not None else None
    if parent is not None and trace is not None and trace[1] != _NOTHING:
        values = {"traceparent": parent, "correlation_id": trace[1]}
        state = get(b"tracestate")
        if state is not None and state.isascii() and state.isprintable() and len(state) <= _MAX_STATE:
            values["tracestate"] = state
        return values
    for name in (b"x-correlation-id", b"x-request-id"):
        given = get(name)
        if given is not None and _ID.fullmatch(given):
            values["correlation_id"] = given
            return values
    return values


def trace_of(context: Context) -> dict[str, Any]:
    """Where in its trace a context stands: `traceparent` and `tracestate`."""
    return {"traceparent": context.value("traceparent"), "tracestate": context.value("tracestate")}


class Tracer(Protocol):
    """Makes spans."""

    def here(self) -> Mapping[str, str]:
        """`traceparent` and `tracestate` of the running task's current span; empty where there is none."""
        ...

    def begin(self, kind: str, name: str, values: Mapping[Any, Any], attributes: Mapping[str, Any]) -> Span:
        """Begin a span.

        Args:
            kind: server, producer or internal.
            name: Of few different values.
            values: What it belongs to: `traceparent` and `tracestate`, as in a context's values.
            attributes: What is known at its begin.
        """
        ...

    def end(self, span: Span, error: BaseException | str | None, code: str) -> None:
        """End it, and say whether it failed; `code` is the error's in its protocol, or empty."""
        ...

    def current(self, span: Span) -> AbstractContextManager[None]:
        """Make it the running task's current span for the time of a block."""
        ...

    def delivered(self, headers: Mapping[str, str], topic: str, seconds: float, error: BaseException | None) -> None:
        """A message with these headers was told to the broker, which took so long."""
        ...


class Span:
    """One span.

    Attributes:
        values: `traceparent` and `tracestate` of what happens under it.
        inner: The tracer's own.
    """

    __slots__ = ("inner", "tracer", "values")

    def __init__(self, tracer: Tracer, inner: object, values: Mapping[str, str]) -> None:
        self.tracer = tracer
        self.inner = inner
        self.values = values

    def end(self, error: BaseException | str | None = None, code: str = "") -> None:
        """It is over (see `Tracer.end`)."""
        self.tracer.end(self, error, code)
