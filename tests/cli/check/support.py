"""Runs trials on a server that is started for it, with limits as short as a busy machine bears."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tailrace.cli.check.http import leave_all
from tailrace.cli.check.lab import Witness
from tailrace.cli.check.model import Options, Result, Trial, Verdict, Way
from tailrace.cli.check.runner import Plan, Report, run
from tailrace.cli.check.target import Target
from tests.rigs.ports import free_port

HERE = Path(__file__).parent
LIMITS = Options(timeout=60.0, exit_within=5.0, answer_within=4.0)  # of a server that will not keep them
GENEROUS = Options(timeout=150.0, exit_within=30.0, answer_within=20.0)  # of one that will, on a busy machine


class Quiet:
    """Watches nothing."""

    def found(self, ways: Mapping[Way, str], trials: int) -> None: ...

    def begins(self, trial: Trial, way: Way) -> None: ...

    def ended(self, result: Result) -> None: ...


async def tried(
    command: Sequence[str], folder: Path, *only: str, http: bool = True, skip: tuple[str, ...] = (),
    limits: Options = LIMITS, ways: tuple[Way, ...] = (),
) -> Report:  # fmt: skip
    """Make trials on a server; `{port}` in the command becomes a free one."""
    port = str(free_port())
    witness = folder / "witness"
    words = [word.replace("{port}", port) for word in command]
    target = Target(f"http://127.0.0.1:{port}" if http else None, words, folder, {"TAILRACE_WITNESS": str(witness)})
    try:
        return await run(target, Plan(limits, 600.0, ways, only, skip, witness=Witness(witness)), Quiet())
    finally:
        leave_all()
        await target.stop()


def planted(fault: str = "", *, http: bool = True) -> list[str]:
    """The command of the small server with one fault."""
    return [sys.executable, "-S", str(HERE / "planted.py"), "{port}" if http else "stdio", fault]


def ours(*flags: str) -> list[str]:
    """The command of Tailrace's own."""
    return [sys.executable, "-m", "tailrace", "run", str(HERE / "ours.py"), *flags]


def said(report: Report, *but: Verdict) -> dict[str, str]:
    """What was seen in the trials that ended otherwise."""
    return {one.name: f"{one.verdict.value}: {one.saw}" for one in report.results if one.verdict not in but}
