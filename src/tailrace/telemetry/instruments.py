"""OpenTelemetry metrics: how long calls, sessions and deliveries took, by the semantic conventions for each.

Only the API is used, as for spans. The names are those of OpenTelemetry 1.44 for RPC and messaging, and of
semantic-conventions-genai for MCP. What is counted beside them is not repeated here: `/metrics` shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter as OtelMeter
    from opentelemetry.metrics import MeterProvider

    from tailrace.core.meter import Ending, Operation

__all__ = ["MCP_SECONDS", "RPC_SECONDS", "Instruments", "find_provider", "make_instruments"]

_SCOPE = "tailrace"

# The boundaries that the conventions recommend.
MCP_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
RPC_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def make_instruments() -> Instruments | None:
    """Instruments of the provider of this process; None where OpenTelemetry is not installed or not configured."""
    provider = find_provider()
    return None if provider is None else Instruments(provider.get_meter(_SCOPE))


def find_provider() -> MeterProvider | None:
    """The meter provider that somebody has configured, if anybody has."""
    try:
        from opentelemetry import metrics
    except ImportError:
        return None
    provider = metrics.get_meter_provider()
    return None if type(provider).__name__ in _UNSET else provider  # the first one has no public name


_UNSET = ("_ProxyMeterProvider", "NoOpMeterProvider")


class Instruments:
    """Records what it is told (fulfils `core.meter.Meter`, and is told by clients as well).

    Args:
        meter: OpenTelemetry's.
    """

    def __init__(self, meter: OtelMeter) -> None:
        self._mcp = {
            side: meter.create_histogram(
                f"mcp.{side}.operation.duration",
                unit="s",
                description=f"Duration of an MCP request, as its {side} sees it.",
                explicit_bucket_boundaries_advisory=MCP_SECONDS,
            )
            for side in ("server", "client")
        }
        self._rpc = {
            side: meter.create_histogram(
                f"rpc.{side}.call.duration",
                unit="s",
                description=f"Duration of a remote procedure call, as its {side} sees it.",
                explicit_bucket_boundaries_advisory=RPC_SECONDS,
            )
            for side in ("server", "client")
        }
        self._session = meter.create_histogram(
            "mcp.server.session.duration",
            unit="s",
            description="Duration of an MCP session, as its server sees it.",
            explicit_bucket_boundaries_advisory=MCP_SECONDS,
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            unit="{message}",
            description="Messages that were told to the broker.",
        )
        self._sending = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="How long it took to tell a message to the broker.",
            explicit_bucket_boundaries_advisory=RPC_SECONDS,
        )

    def call_ended(self, operation: Operation, ending: Ending, seconds: float, *, side: str = "server") -> None:
        """A call has ended, here or at the server's."""
        attributes: dict[str, Any] = {}
        if operation.system == "mcp":
            attributes["mcp.method.name"] = operation.method
            if operation.method == "tools/call":
                attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": operation.target}
            elif operation.method == "prompts/get":
                attributes["gen_ai.prompt.name"] = operation.target
            instrument = self._mcp[side]
        else:
            attributes |= {"rpc.system.name": operation.system, "rpc.method": operation.method}
            attributes["rpc.response.status_code"] = ending.code or _STATUS.get(ending.outcome, "UNKNOWN")
            instrument = self._rpc[side]
        if ending.outcome in _FAILED:
            attributes["error.type"] = ending.code or ending.outcome
        instrument.record(seconds, attributes)

    def session_ended(self, transport: str, seconds: float) -> None:
        """A session has ended."""
        network = {"network.transport": "pipe"} if transport == "stdio" else _HTTP
        self._session.record(seconds, network)

    def delivered(self, system: str, topic: str, seconds: float, error: BaseException | None) -> None:
        """A message was told to the broker."""
        attributes: dict[str, Any] = {
            "messaging.system": system,
            "messaging.destination.name": topic,
            "messaging.operation.name": "send",
        }
        if error is not None:
            attributes["error.type"] = type(error).__qualname__
        self._sent.add(1, attributes)
        self._sending.record(seconds, {**attributes, "messaging.operation.type": "send"})


_FAILED = frozenset({"error", "cancelled", "timeout"})
_STATUS = {"ok": "OK", "cancelled": "CANCELED", "timeout": "DEADLINE_EXCEEDED"}
_HTTP = {"network.transport": "tcp", "network.protocol.name": "http"}
