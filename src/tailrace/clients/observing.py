"""What telemetry sees of a client's calls: a span and a duration for each, under the trace of whoever calls.

Where nobody has configured OpenTelemetry, a call pays for one comparison, and only passes on the trace of the call
that it is made in. Both clients use this; where the trace goes (headers, `_meta`) is theirs to know.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tailrace.core.context import Context, current
from tailrace.core.meter import ANSWERED, Ending, Operation
from tailrace.core.trace import trace_of
from tailrace.errors import ProtocolError, RpcError
from tailrace.telemetry import make_instruments, make_tracer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.core.trace import Span, Tracer
    from tailrace.telemetry import Instruments

__all__ = ["Observed", "Observer", "current_trace"]

_PORTS = {"http": 80, "https": 443}


class Observer:
    """Observes the calls of one client, if anybody wants to know.

    Args:
        url: Of the server; None: it has no address.
    """

    def __init__(self, url: str | None = None) -> None:
        self._server: dict[str, Any] = {}
        parts = urlsplit(url or "")
        if parts.hostname:
            self._server = {"server.address": parts.hostname, "server.port": parts.port or _PORTS.get(parts.scheme, 0)}
        self._asked = False
        self._tracer: Tracer | None = None
        self._instruments: Instruments | None = None

    def begin(self, name: str, operation: Operation, attributes: Mapping[str, Any]) -> Observed | None:
        """A call begins; None where nobody observes.

        Args:
            name: Of the span.
            operation: What is called.
            attributes: Of the span, beside the server's address.
        """
        if not self._asked:  # what is configured when the first call is made counts
            self._asked = True
            self._tracer, self._instruments = make_tracer(), make_instruments()
        if self._tracer is None and self._instruments is None:
            return None
        span = None
        if self._tracer is not None:
            values = self._tracer.here() or trace_of(current())
            span = self._tracer.begin("client", name, values, {**attributes, **self._server})
        return Observed(operation, span, self._instruments)


class Observed:
    """One call.

    Attributes:
        values: `traceparent` and `tracestate` for the server.
    """

    __slots__ = ("_began", "_instruments", "_operation", "_span", "values")

    def __init__(self, operation: Operation, span: Span | None, instruments: Instruments | None) -> None:
        self._operation = operation
        self._span = span
        self._instruments = instruments
        self._began: float | None = perf_counter()
        self.values = current_trace() if span is None else dict(span.values)

    def end(self, error: BaseException | str | None, code: str = "") -> None:
        """It is over. Idempotent: the first end counts.

        Args:
            error: Why it failed; None: it did not.
            code: The error's in its protocol, where the exception does not say it.
        """
        if self._began is None:
            return
        seconds, self._began = perf_counter() - self._began, None
        ending = _ending(error, code)
        if self._span is not None:
            self._span.end(error, ending.code)
        if self._instruments is not None:
            self._instruments.call_ended(self._operation, ending, seconds, side="client")


def current_trace() -> dict[str, str]:
    """Where the running call stands in its trace; empty outside of calls, and where there is none."""
    context = current()
    found = {} if context is Context.background() else trace_of(context)
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _ending(error: BaseException | str | None, code: str) -> Ending:
    if error is None:
        return ANSWERED
    if isinstance(error, RpcError):
        return Ending("error", error.code.name)
    if isinstance(error, ProtocolError):
        return Ending("error", str(error.code))
    if isinstance(error, asyncio.CancelledError):
        return Ending("cancelled", "")
    if isinstance(error, TimeoutError):
        return Ending("timeout", "")
    return Ending("error", code or type(error).__qualname__)
