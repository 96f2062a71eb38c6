"""What a trial is, how it can end, and what it is given: the words that the other files of this room share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from tailrace.cli.check.lab import Lab

__all__ = ["Cut", "Failed", "Json", "NotApplicable", "Options", "Result", "Stalled", "Trial", "Verdict", "Way", "trial"]

Json: TypeAlias = dict[str, Any]


class Way(StrEnum):
    """How a server is spoken to: each is tried by itself, as each has a life of its own for calls and streams."""

    STREAMABLE = "streamable"  # Streamable HTTP of 2025-03-26 to 2025-11-25: sessions
    SSE = "sse"  # HTTP+SSE of 2024-11-05: two addresses, one stream
    MODERN = "modern"  # Streamable HTTP of 2026-07-28: no sessions
    STDIO = "stdio"

    @property
    def label(self) -> str:
        """For people."""
        return {
            "streamable": "Streamable HTTP, with sessions (2025-03-26 to 2025-11-25)",
            "sse": "HTTP+SSE (2024-11-05)",
            "modern": "Streamable HTTP, stateless (2026-07-28)",
            "stdio": "stdio",
        }[self.value]


class Verdict(StrEnum):
    """How a trial ended."""

    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


class Failed(Exception):
    """The server did not do what the trial asks; the text says what was seen."""


class Cut(Failed):
    """A connection ended before what it carried did."""


class Stalled(Failed):
    """Nothing came within the limit."""


class NotApplicable(Exception):
    """The trial cannot be made here; the text says why, and how it could be."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose.

    Args:
        timeout: Seconds one trial may take.
        exit_within: Seconds a process may take to end after SIGTERM or the end of its standard input.
        answer_within: Seconds until a quick call must be answered, whatever else goes on.
        max_growth: Bytes that a server may grow by for one reader that does not read.
        max_session: Bytes that one idle session may cost.
    """

    timeout: float = 60.0
    exit_within: float = 30.0
    answer_within: float = 10.0
    max_growth: int = 64 * 1024 * 1024
    max_session: int = 256 * 1024


Run: TypeAlias = "Callable[[Lab], Awaitable[str]]"


@dataclass(frozen=True, slots=True)
class Trial:
    """One question to a server.

    Args:
        name: For the command line and reports.
        asks: What must happen.
        basis: The section of the specification that asks for it, or why it counts where the specification is silent.
        ways: How the server must be spoken to.
        needs: Tools, by their role: echo, slow, burst or effect.
        process: Whether the server's process must be one that was started here.
        run: Makes the trial; returns what was seen, raises `Failed` or `NotApplicable`.
        ends: Whether the process ends in it: such trials come last.
    """

    name: str
    asks: str
    basis: str
    ways: tuple[Way, ...]
    needs: tuple[str, ...]
    process: bool
    run: Run
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """How one trial went over one way."""

    trial: Trial
    way: Way
    verdict: Verdict
    saw: str
    seconds: float
    log: list[str] = field(default_factory=list[str])  # the last lines the server printed, of a failed trial

    @property
    def name(self) -> str:
        """For `--only` and for reports: `resume/sse`."""
        return f"{self.trial.name}/{self.way.value}"


def trial(
    name: str, asks: str, basis: str, *ways: Way, needs: tuple[str, ...] = (), process: bool = False, ends: bool = False
) -> Callable[[Run], Trial]:
    """Make a trial of the function below; see `Trial` for the arguments."""
    return lambda run: Trial(name, asks, basis, ways, needs, process, run, ends)
