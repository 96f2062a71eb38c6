"""What the doctor says of one thing it looked at, and how all of it is shown."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import click

__all__ = ["Finding", "Level", "as_json", "ok", "print_findings", "risk", "warn"]


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # something weaker than it could be, or that could not be seen
    RISK = "risk"  # accepted calls, their answers or their streams can be lost as it is


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: The store or the address.
        name: What was looked at: `eviction`, `buffering`.
        level: How bad it is.
        saw: What is so.
        advice: What is at risk, and what to do; empty where all is well.
    """

    about: str
    name: str
    level: Level
    saw: str
    advice: str = ""


def ok(about: str, name: str, saw: str) -> Finding:
    """All is well."""
    return Finding(about, name, Level.OK, saw)


def warn(about: str, name: str, saw: str, advice: str) -> Finding:
    """Weaker than it could be."""
    return Finding(about, name, Level.WARN, saw, advice)


def risk(about: str, name: str, saw: str, advice: str) -> Finding:
    """Something can be lost."""
    return Finding(about, name, Level.RISK, saw, advice)


def as_json(findings: Iterable[Finding]) -> str:
    """The findings for another program."""
    return json.dumps({"findings": [asdict(finding) for finding in findings]}, ensure_ascii=False, indent=2)


_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.RISK: "red"}


def print_findings(findings: Sequence[Finding]) -> None:
    """The findings for people: a line each, and below it what is at risk."""
    width = min(shutil.get_terminal_size((110, 24)).columns, 120)
    column = max((len(finding.name) for finding in findings), default=0)
    about = ""
    for finding in findings:
        if finding.about != about:
            about = finding.about
            click.secho(about, bold=True)
        label = click.style(f"{finding.level.value:<4}", fg=_COLOURS[finding.level], bold=finding.level is Level.RISK)
        indent = " " * (column + 10)
        lines = _wrapped(finding.saw, width - len(indent)) + _wrapped(finding.advice, width - len(indent))
        click.echo(f"  {label}  {finding.name:<{column}}  {lines[0]}")
        for line in lines[1:]:
            click.echo(f"{indent}{line}")
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    click.echo(", ".join(f"{count} {level.value}" for level, count in counts.items()))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 30), break_on_hyphens=False, break_long_words=False)
