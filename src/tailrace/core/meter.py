"""What is measured of a server's work: how long calls, sessions and deliveries took, and how they ended.

The core tells a `Meter`, where there is one, each time something ends; `telemetry` makes histograms of it. Without one
a call pays for two comparisons. What is only counted (`Tasks.refused`, `Sessions.opened`, …) is a number where it
happens, and is read when somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ANSWERED", "Ending", "Meter", "Meters", "Operation"]


class Operation(NamedTuple):
    """What was asked for. Every value comes from the service's own definitions, never from a client: they are few.

    Attributes:
        system: ``mcp``, ``grpc`` or ``connectrpc``.
        method: ``tools/call``, or ``package.Service/Method``.
        target: The tool's name, the prompt's, the resource's; ``""`` where the method says all.
    """

    system: str
    method: str
    target: str


class Ending(NamedTuple):
    """How it ended.

    Attributes:
        outcome: ``ok``, ``error``, ``cancelled``, ``timeout``, or ``paused`` (it asked its client something).
        code: Of an error, as its protocol has it: ``tool_error``, ``-32602``, ``NOT_FOUND``; ``""`` without one.
    """

    outcome: str
    code: str


ANSWERED = Ending("ok", "")


class Meter(Protocol):
    """Is told what ended. Its methods are called on the loop, must not wait, and must not raise."""

    def call_ended(self, operation: Operation, ending: Ending, seconds: float) -> None:
        """A call has been answered, so long after it was accepted."""
        ...

    def session_ended(self, transport: str, seconds: float) -> None:
        """A session has ended, or was left to the next process life."""
        ...

    def delivered(self, system: str, topic: str, seconds: float, error: BaseException | None) -> None:
        """The broker took a message, or did not."""
        ...


class Meters:
    """Several as one (fulfils `Meter`).

    Args:
        meters: Who is told, in this order.
    """

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = tuple(meters)

    def call_ended(self, operation: Operation, ending: Ending, seconds: float) -> None:
        """As `Meter.call_ended`."""
        for meter in self._meters:
            meter.call_ended(operation, ending, seconds)

    def session_ended(self, transport: str, seconds: float) -> None:
        """As `Meter.session_ended`."""
        for meter in self._meters:
            meter.session_ended(transport, seconds)

    def delivered(self, system: str, topic: str, seconds: float, error: BaseException | None) -> None:
        """As `Meter.delivered`."""
        for meter in self._meters:
            meter.delivered(system, topic, seconds, error)
