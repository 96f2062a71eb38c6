"""What the core tells of its work, made into OpenTelemetry's spans and metrics, and into numbers for `/metrics`.

`spans` makes spans and `instruments` metrics, both through OpenTelemetry's API; `export` sets up where they go, where
nobody else has; `times` keeps what Prometheus fetches. Who writes it for Prometheus is `server.metrics`.
"""

from tailrace.telemetry.export import set_up_export
from tailrace.telemetry.instruments import Instruments, make_instruments
from tailrace.telemetry.spans import OpenTelemetry, make_tracer
from tailrace.telemetry.times import Histogram, Times

__all__ = ["Histogram", "Instruments", "OpenTelemetry", "Times", "make_instruments", "make_tracer", "set_up_export"]
