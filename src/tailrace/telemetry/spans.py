"""OpenTelemetry spans: for a call, its run, detached work, a published message and its delivery, in one trace.

Only the API is used, so what is configured in the process decides where spans go. Without a provider no tracer is
made, and a call pays for one comparison.

Names and attributes follow the semantic conventions for MCP, RPC and messaging (OpenTelemetry 1.44).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tailrace.core.trace import Span, Tracer

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from opentelemetry.trace import Tracer as OtelTracer

__all__ = ["OpenTelemetry", "make_tracer"]

_SCOPE = "tailrace"


def make_tracer() -> Tracer | None:
    """A tracer for the provider of this process; None where OpenTelemetry is not installed or not configured."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return OpenTelemetry(trace.get_tracer(_SCOPE))


class OpenTelemetry(Tracer):
    """Makes spans (fulfils `core.trace.Tracer`).

    Args:
        tracer: OpenTelemetry's.
    """

    def __init__(self, tracer: OtelTracer) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._trace = trace
        self._context = context
        self._propagator = TraceContextTextMapPropagator()

    def here(self) -> Mapping[str, str]:
        """The current span of the running task."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    def begin(self, kind: str, name: str, values: Mapping[Any, Any], attributes: Mapping[str, Any]) -> Span:
        """Begin a span under the trace that `values` name."""
        kinds = self._trace.SpanKind
        chosen = {"server": kinds.SERVER, "client": kinds.CLIENT, "producer": kinds.PRODUCER}.get(kind, kinds.INTERNAL)
        parent = self._propagator.extract(_carrier(values))
        span = self._tracer.start_span(name, context=parent, kind=chosen, attributes=dict(attributes))
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span))
        return Span(self, span, carrier)

    def end(self, span: Span, error: BaseException | str | None, code: str = "") -> None:
        """End it; with an error, as failed. Its type is the protocol's code for it, or the exception's class."""
        inner: Any = span.inner
        if error is not None:
            text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
            if code or isinstance(error, BaseException):
                inner.set_attribute("error.type", code or type(error).__qualname__)
            inner.set_status(self._trace.StatusCode.ERROR, text[:500])
        inner.end()

    @contextmanager
    def current(self, span: Span) -> Generator[None]:
        """Make it the current span of the running task, so that the user's own spans are its children."""
        inner: Any = span.inner
        token = self._context.attach(self._trace.set_span_in_context(inner))
        try:
            yield
        finally:
            self._context.detach(token)

    def delivered(self, headers: Mapping[str, str], topic: str, seconds: float, error: BaseException | None) -> None:
        """A message was told to the broker, and took so long."""
        now = time.time_ns()
        parent = self._propagator.extract(_carrier(headers))
        span = self._tracer.start_span(
            f"send {topic}",
            context=parent,
            kind=self._trace.SpanKind.CLIENT,
            start_time=now - int(seconds * 1e9),
            attributes={"messaging.operation.type": "send", "messaging.operation.name": "send",
                        "messaging.destination.name": topic},
        )  # fmt: skip
        self.end(Span(self, span, {}), error)


def _carrier(values: Mapping[Any, Any]) -> dict[str, str]:
    found = {name: values.get(name) for name in ("traceparent", "tracestate")}
    return {name: value for name, value in found.items() if isinstance(value, str)}
