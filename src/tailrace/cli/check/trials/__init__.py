"""The trials, by family, in the order in which they are made: gentle ones first, those that end the server last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.cli.check.trials import crash, disconnects, flow, identity, malformed, memory, retries, shutdown

if TYPE_CHECKING:
    from tailrace.cli.check.model import Trial

__all__ = ["TRIALS"]

TRIALS: tuple[Trial, ...] = (
    *disconnects.TRIALS,
    *retries.TRIALS,
    *identity.TRIALS,
    *flow.TRIALS,
    *malformed.TRIALS,
    *memory.TRIALS,
    *shutdown.TRIALS,
    *crash.TRIALS,
)
