"""What is shown: progress while it runs, a table when it is over, JSON and JUnit for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tailrace import __version__
from tailrace.cli.check.model import Result, Trial, Verdict, Way
from tailrace.cli.render import clean

if TYPE_CHECKING:
    from tailrace.cli.check.runner import Report

__all__ = ["View", "as_json", "as_junit", "print_report", "print_trials"]

_MARKS = {Verdict.PASS: ("✓", "green"), Verdict.FAIL: ("✗", "bold red")}
_WORDS = {Verdict.PASS: "ok", Verdict.FAIL: "FAIL"}
_XML = {code: None for code in range(32) if code not in (9, 10, 13)}  # what XML 1.0 cannot carry


class View:
    """Progress on standard error: a bar on a terminal, else a line for each trial as it ends.

    Use it as a context manager, and hand it to `runner.run` as its watcher.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            SpinnerColumn(), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(), TextColumn("{task.description}", markup=False), console=self._console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("looking for the server", total=None, failed="")
        self._failed = 0

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def found(self, ways: Mapping[Way, str], trials: int) -> None:
        """The server answers."""
        self._bar.update(self._task, total=trials)
        if not self._console.is_terminal:
            where = ", ".join(" at ".join(filter(None, (way.value, url))) for way, url in ways.items())
            self._line(f"{trials} trials; the server speaks {where}")

    def begins(self, trial: Trial, way: Way) -> None:
        """A trial begins."""
        self._bar.update(self._task, description=f"{trial.name}/{way.value}: {trial.asks}")

    def ended(self, result: Result) -> None:
        """A trial ended."""
        self._failed += result.verdict is Verdict.FAIL
        failed = f"[red]{self._failed} failed[/red]" if self._failed else ""
        self._bar.update(self._task, advance=1, failed=failed)
        if not self._console.is_terminal and result.verdict is not Verdict.NOT_APPLICABLE:
            self._line(f"{_WORDS[result.verdict]:4} {result.name:30} {result.seconds:5.1f} s  {result.saw}")

    def _line(self, text: str) -> None:
        self._console.print(Text(clean(text)), soft_wrap=True)


# --- for people -------------------------------------------------------------------------------------


def print_report(report: Report, again: str, *, stderr: bool = False) -> None:
    """A table for each way, what was not tried by the reasons why, then what failed and how to try it again.

    Args:
        report: What came of it.
        again: The command line without the choice of trials.
        stderr: Standard output has something else.
    """
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = 150
    for way in report.ways:
        made = [one for one in report.results if one.way is way and one.verdict is not Verdict.NOT_APPLICABLE]
        if made:
            console.print(_way_table(report, way, made))
            console.print()
    if left := [result for result in report.results if result.verdict is Verdict.NOT_APPLICABLE]:
        console.print(_not_tried(left))
        console.print()
    failures = [result for result in report.results if result.verdict is Verdict.FAIL]
    if failures:
        console.print(Rule(Text("what failed", style="bold red"), align="left", style="red"))
        for result in failures:
            console.print(_failure(result, again))
    console.print(_summary(report))


def _way_table(report: Report, way: Way, results: list[Result]) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(width=1, no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right", style="dim")
    table.add_column(overflow="fold", ratio=1)
    for result in results:
        mark, style = _MARKS[result.verdict]
        saw = Text(clean(result.saw))
        table.add_row(Text(mark, style), Text(result.trial.name, style), f"{result.seconds:.1f} s", saw)
    where = report.ways[way]
    title = Text(way.label, style="bold")
    if where:
        title.append(f"  {where}", style="default dim")
    return Group(title, Padding(table, (0, 0, 0, 2)))


def _not_tried(results: list[Result]) -> RenderableType:
    """Each reason once, with the trials that it keeps from being made: a missing tool is missing for many."""
    reasons: dict[str, dict[str, None]] = {}
    for result in results:
        reasons.setdefault(result.saw, {})[result.trial.name] = None
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(width=1, no_wrap=True, style="dim")
    table.add_column(overflow="fold", ratio=1)
    for reason, names in reasons.items():
        table.add_row("·", Text.assemble(clean(reason), "\n", (", ".join(names), "dim")))
    return Group(Text("Not tried", style="bold"), Padding(table, (0, 0, 0, 2)))


def _failure(result: Result, again: str) -> RenderableType:
    rows = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold", ratio=1)
    rows.add_row("asked", Text(result.trial.asks))
    rows.add_row("seen", Text(clean(result.saw)))
    rows.add_row("because", Text(result.trial.basis))
    if result.log:
        rows.add_row("printed", Text(clean("\n".join(result.log[-4:])), style="dim"))
    rows.add_row("again", Text(again.replace("check", f"check --only {result.name}", 1)))
    return Group(Text(result.name, style="bold red"), Padding(rows, (0, 0, 1, 2)))


def _summary(report: Report) -> Text:
    passed, failed = report.count(Verdict.PASS), report.count(Verdict.FAIL)
    text = Text(f"{passed} passed", style="bold green" if passed else "bold")
    text.append(f", {failed} failed", style="bold red" if failed else "default")
    text.append(f", {report.count(Verdict.NOT_APPLICABLE)} not applicable in {report.seconds:.0f} s", style="default")
    return text


def print_trials(trials: tuple[Trial, ...]) -> None:
    """What there is to choose from."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 150
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("trial", "ways", "needs"):
        table.add_column(title, no_wrap=True)
    table.add_column("asks", overflow="fold", ratio=1)
    for trial in trials:
        needs = [*trial.needs, *(["its process"] if trial.process else [])]
        ways = " ".join(way.value for way in trial.ways)
        table.add_row(Text(trial.name, style="cyan"), Text(ways, style="dim"), ", ".join(needs) or "-", trial.asks)
    console.print(table)


# --- for programs -----------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    """All of it."""
    said: dict[str, Any] = {
        "tailrace": __version__,
        "target": report.target,
        "seconds": round(report.seconds, 3),
        "passed": report.passed,
        "counts": {verdict.value: report.count(verdict) for verdict in Verdict},
        "ways": {way.value: url for way, url in report.ways.items()},
        "servers": {way.value: said for way, said in report.server.items()},
        "trials": [_row(result) for result in report.results],
    }
    return json.dumps(said, ensure_ascii=False, indent=2)


def _row(result: Result) -> dict[str, Any]:
    trial = result.trial
    row: dict[str, Any] = {
        "name": result.name, "trial": trial.name, "way": result.way.value, "verdict": result.verdict.value,
        "seconds": round(result.seconds, 3), "asks": trial.asks, "saw": result.saw, "basis": trial.basis,
    }  # fmt: skip
    return {**row, "log": result.log} if result.log else row


def as_junit(report: Report) -> bytes:
    """One suite for each way, as continuous integration servers read it."""
    root = ElementTree.Element("testsuites", name="tailrace check", time=f"{report.seconds:.3f}")
    for way in report.ways:
        results = [result for result in report.results if result.way is way]
        counts = {verdict: sum(one.verdict is verdict for one in results) for verdict in Verdict}
        suite = ElementTree.SubElement(
            root, "testsuite", name=f"tailrace check {way.value}", tests=str(len(results)), errors="0",
            failures=str(counts[Verdict.FAIL]), skipped=str(counts[Verdict.NOT_APPLICABLE]),
            time=f"{sum(one.seconds for one in results):.3f}",
        )  # fmt: skip
        for result in results:
            _case(suite, result)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _case(suite: ElementTree.Element, result: Result) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"tailrace.check.{result.way.value}", name=result.trial.name,
        time=f"{result.seconds:.3f}",
    )  # fmt: skip
    saw = clean(result.saw).translate(_XML)
    if result.verdict is Verdict.FAIL:
        failure = ElementTree.SubElement(case, "failure", message=saw, type="failed")
        failure.text = f"asked: {result.trial.asks}\nseen: {saw}\nbecause: {result.trial.basis}"
        if result.log:
            ElementTree.SubElement(case, "system-err").text = clean("\n".join(result.log)).translate(_XML)
    elif result.verdict is Verdict.NOT_APPLICABLE:
        ElementTree.SubElement(case, "skipped", message=saw)
    else:
        ElementTree.SubElement(case, "system-out").text = saw
