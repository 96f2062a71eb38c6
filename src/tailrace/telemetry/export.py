"""Export over OTLP/HTTP, set up where the environment asks for it and nobody has configured anything else.

Whoever configures OpenTelemetry in their own program, or runs it under ``opentelemetry-instrument``, has done so
before, and keeps what they have. The variables are OpenTelemetry's own; the SDK reads the rest of them (headers,
certificates, intervals, sampling) itself.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["set_up_export"]

logger = logging.getLogger("tailrace.telemetry")

_END_LIMIT = 1.0  # seconds


def set_up_export(name: str) -> Callable[[], None]:
    """Configure the export of spans and of metrics, each if the environment asks for it.

    Args:
        name: The service's, for `service.name`, where OTEL_SERVICE_NAME does not say another.

    Returns:
        What flushes and ends it, within about a second; it does nothing where nothing was set up.
    """
    spans, metrics = _asked("TRACES"), _asked("METRICS")
    if not (spans or metrics):
        return _nothing
    try:
        from opentelemetry import metrics as metrics_api
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("nothing is exported: pip install 'tailrace[otel]'")
        return _nothing
    given: dict[str, Any] = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": name}
    resource = Resource.create(given)
    ends: list[Callable[[], None]] = []
    if spans and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
        trace.set_tracer_provider(tracers)
        ends.append(tracers.shutdown)
    if metrics and not _is_metered():
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=5))
        meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        metrics_api.set_meter_provider(meters)
        ends.append(meters.shutdown)

    def end() -> None:
        # Each in a thread of its own: a collector that is away must not hold up the exit.
        endings = [threading.Thread(target=end, name="tailrace-export-end", daemon=True) for end in ends]
        for ending in endings:
            ending.start()
        for ending in endings:
            ending.join(_END_LIMIT / len(endings))

    return end


def _asked(signal: str) -> bool:
    """Whether the environment names an endpoint for a signal, and does not switch it off."""
    if os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", f"{signal}_"))


def _is_metered() -> bool:
    from tailrace.telemetry.instruments import find_provider

    return find_provider() is not None


def _nothing() -> None:
    pass
