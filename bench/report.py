"""Results as Markdown and charts; also a command that draws stored results anew:

    python -m bench.report build/bench/results.json --docs

Between the markers of docs/performance.md nothing is written by hand: what stands there was measured. It has a pair of
them for each section; one of which nothing was measured stays as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.summary import medians, ratio, spread
from bench.svg import Bar, bar_chart, figure
from bench.trials import HEADLINES, MORE_RATIOS, Headline

__all__ = ["SECTIONS", "Section", "between_markers", "charts", "markdown", "part", "write"]

BEGIN = "<!-- measured: begin (python -m bench.report writes this) -->"
END = "<!-- measured: end -->"

_DOCS = Path(__file__).parents[1] / "docs"

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report.

    Args:
        title: Of it in report.md.
        begin: What stands before it in docs/performance.md.
        end: And behind it.
        references: Servers by whose figures ours are divided.
        ratios: What a reader of these has to know.
    """

    title: str
    begin: str
    end: str
    references: tuple[str, ...]
    ratios: str


SECTIONS = {
    "peers": Section(
        "Tailrace beside its peers",
        BEGIN,
        END,
        ("mcp-go", "go-sdk", "mcp", "mcp-uvloop", "fastmcp", "tailrace"),  # the last: what durability costs
        "Tailrace's figure divided by the other's. Calls a second: a Go server uses every core, Tailrace one.",
    ),
    "workers": Section(
        "Several workers, and stores",
        "<!-- workers: begin (python -m bench.report writes this) -->",
        "<!-- workers: end -->",
        ("tailrace-1", "tailrace-memory-1", "tailrace-valkey"),
        "The figure of the server in the row divided by that of the one in the column. CPU is that of all processes of "
        "the server; Valkey's own is told apart, below.",
    ),
}
_COLUMNS = {  # of each kind of trial, beside the server: title and key
    "calls": {"calls/s": "rps", "CPU µs a call": "cpu_us", "Valkey's CPU µs a call": "beside_us",
              "relayed %": "away_percent", "p50 µs": "p50_us", "p90 µs": "p90_us", "p99 µs": "p99_us",
              "RSS MB": "rss_mb", "wrong or failed": "failures"},
    "burst": {"arrived/s": "per_second", "CPU µs each": "cpu_us", "lost": "lost", "out of order": "misordered",
              "RSS MB": "rss_mb"},
    "idle": {"kB a session": "kb_each", "CPU % of one core": "cpu_percent", "keep-alives": "keep_alives",
             "base MB": "base_mb", "RSS MB": "rss_mb", "streams lost": "lost"},
    "broadcast": {"deliveries/s": "per_second", "CPU µs each": "cpu_us", "lost": "lost", "out of order": "misordered",
                  "RSS MB": "rss_mb"},
    "slow": {"calls/s of the others": "rps", "p50 µs": "p50_us", "p50 by that without the slow one": "p50_ratio",
             "p99 µs": "p99_us", "calls of the same session": "same_session_calls",
             "its p99 µs": "same_session_p99_us", "its failed calls": "same_session_failed", "RSS MB": "rss_mb"},
    "resume": {"events/s": "per_second", "arrived": "arrived", "lost": "lost", "seconds": "seconds",
               "the server says": "said"},
}  # fmt: skip
_WHERE_THERE_ARE = {"beside_us", "away_percent"}  # columns that a table has if a server has a figure for them


def part(results: Results, section: str) -> dict[str, Any]:
    """The results of one section."""
    trials = {name: trial for name, trial in results["trials"].items() if trial.get("section", "peers") == section}
    taking_part = {server for trial in trials.values() for server in trial["servers"]}
    return {
        **results,
        "trials": trials,
        "servers": {name: about for name, about in results["servers"].items() if name in taking_part},
        "samples": [sample for sample in results["samples"] if sample["trial"] in trials],
    }


def markdown(results: Results, images: str | None = None, section: Section = SECTIONS["peers"]) -> str:
    """The report of one section.

    Args:
        results: As `part` gives them.
        images: Where the charts are, relative to the page; None for none.
        section: Which.
    """
    return "\n".join(_lines(results, images, section)).rstrip() + "\n"


def _lines(results: Results, images: str | None, section: Section) -> Iterator[str]:
    found = medians(results["samples"])
    yield from _circumstances(results)
    yield from _contestants(results)
    yield from _ratios(results, found, section)
    for name, trial in results["trials"].items():
        yield from ("", f"### {trial['title']}", "")
        if trial.get("rounds", results["rounds"]) < results["rounds"]:
            yield from (f"{trial['rounds']} round{'s' if trial['rounds'] != 1 else ''}.", "")
        if images is not None:
            yield from (f"![{trial['title']}]({images}/{name}.svg)", "")
        yield from _table(results, found, name, trial)


def _circumstances(results: Results) -> Iterator[str]:
    machine = results["machine"]
    yield (
        f"Measured on {results['date']} with `{results['command']}`: {results['rounds']} interleaved "
        f"round{'s' if results['rounds'] != 1 else ''}, medians; what was lost is added up. {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}; load generator and servers on "
        "the same machine, over loopback."
    )
    if results["quick"]:
        yield from ("", "**A quick run**: short, one round, for a look. Not for comparing by the per cent.")
    if (busy := machine["load"]) > 0.3 * machine["cores"]:
        yield from (
            "",
            f"**The machine was busy** (load average {busy:.1f} before the start): absolute figures are noise, only "
            "ratios between servers mean something.",
        )
    gaps = [gap for trial in results["trials"] for gap in _spreads(results, trial) if gap is not None]
    if gaps:
        yield from (
            "",
            f"The rounds of one server lie apart by {100 * sorted(gaps)[len(gaps) // 2]:.0f} % in the middle.",
        )


def _spreads(results: Results, trial: str) -> Iterator[float | None]:
    key = HEADLINES[results["trials"][trial]["kind"]].key
    for server in results["servers"]:
        yield spread(results["samples"], trial, server, key)


def _contestants(results: Results) -> Iterator[str]:
    yield from ("", "| server | store | settings |", "|---|---|---|")
    for server in results["servers"].values():
        missing = f" **Missing: {_cell(server['missing'])}**" if server["missing"] else ""
        yield f"| {server['title']} | {server['store']} | {_cell(server['settings'])}{missing} |"


def _ratios(results: Results, found: Mapping[tuple[str, str], Mapping[str, Any]], section: Section) -> Iterator[str]:
    """Each of ours by each of theirs; below 1 is less. Where more is better, the head says so."""
    others = [name for name in section.references if name in results["servers"]]
    if not others:
        return
    yield from ("", "### Ratios", "", section.ratios, "")
    yield f"| | figure | server | {' | '.join('by ' + results['servers'][name]['title'] for name in others)} |"
    yield "|---|---|---|" + "---:|" * len(others)
    for name, trial in results["trials"].items():
        for headline in (HEADLINES[trial["kind"]], *MORE_RATIOS.get(trial["kind"], ())):
            for ours in (server for server in results["servers"] if server.startswith("tailrace")):
                if (name, ours) in found and headline.key in (mine := found[name, ours]):
                    cells = (
                        _ratio(None if other == ours else ratio(mine, found.get((name, other)), headline.key))
                        for other in others
                    )
                    title = results["servers"][ours]["title"]
                    yield f"| {name} | {_direction(headline)} | {title} | {' | '.join(cells)} |"


def _direction(headline: Headline) -> str:
    return f"{headline.title} ({'more' if headline.more_is_better else 'less'} is better)"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _table(results: Results, found: Mapping[tuple[str, str], Mapping[str, Any]], name: str, trial: Mapping[str, Any]
           ) -> Iterator[str]:  # fmt: skip
    there = {key for (trial_name, _), row in found.items() if trial_name == name for key in row}
    columns = {title: key for title, key in _COLUMNS[trial["kind"]].items() if key not in _WHERE_THERE_ARE - there}
    yield f"| server | {' | '.join(columns)} |"
    yield "|---|" + "---:|" * len(columns)
    for server, about in results["servers"].items():
        row = found.get((name, server))
        if reason := _why_not(about, trial, server, row):
            yield f"| {about['title']} | {_cell(reason)} |" + " |" * (len(columns) - 1)
        elif row is not None:
            partly = f" (rounds that worked: {row['rounds']}; {_cell(row['error'])})" if "error" in row else ""
            yield f"| {about['title']}{partly} | {' | '.join(_figure(row, key) for key in columns.values())} |"


def _why_not(about: Mapping[str, Any], trial: Mapping[str, Any], server: str, row: Mapping[str, Any] | None) -> str:
    """Why there is no figure of a server that should have one; empty where there is, or where none is due."""
    if server not in trial["servers"]:
        return ""
    if about["missing"]:
        return f"missing: {about['missing']}"
    if trial["kind"] in about["cannot"]:
        return f"cannot: {about['cannot'][trial['kind']]}"
    if row is not None and not row["rounds"]:
        return f"failed: {row['error']}"
    return "" if row is not None else "not measured"


def _figure(row: Mapping[str, Any], key: str) -> str:
    if key == "failures":
        return figure(row.get("failed", 0) + row.get("wrong", 0))
    value = row.get(key)
    return "-" if value in (None, "") else value if isinstance(value, str) else figure(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- charts ---------------------------------------------------------------------------------------


def charts(results: Results) -> dict[str, str]:
    """One SVG for each trial, by its name: the headline of every server that was to take part."""
    found = medians(results["samples"])
    return {name: _chart(results, found, name, trial) for name, trial in results["trials"].items()}


def _chart(results: Results, found: Mapping[tuple[str, str], Mapping[str, Any]], name: str, trial: Mapping[str, Any]
           ) -> str:  # fmt: skip
    headline = HEADLINES[trial["kind"]]
    bars: list[Bar] = []
    for server in trial["servers"]:
        about, row = results["servers"][server], found.get((name, server))
        value = None if row is None else row.get(headline.key)
        lost = 0 if row is None else row.get("lost", 0)
        note = _why_not(about, trial, server, row) or (f"{figure(lost)} lost" if lost else "")
        bars.append(Bar(about["title"], value, server.startswith("tailrace"), note[:70]))
    return bar_chart(trial["title"], _direction(headline), bars)


# --- files ----------------------------------------------------------------------------------------


def between_markers(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """A page with what stands between its markers replaced.

    Raises:
        ValueError: It has not exactly one pair of markers, in order.
    """
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended or begin in after or end in after:
        raise ValueError(f"want one pair of markers:\n{begin}\n{end}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def write(results: Results, folder: Path, *, docs: Path | None = None) -> None:
    """Write results.json, report.md and the charts into a folder, and into the documentation if that is named."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    parts = {section: found for name, section in SECTIONS.items() if (found := part(results, name))["trials"]}
    texts = (f"# {section.title}\n\n{markdown(found, '.', section)}" for section, found in parts.items())
    (folder / "report.md").write_text("\n".join(texts))
    drawn = charts(results)
    for name, chart in drawn.items():
        (folder / f"{name}.svg").write_text(chart)
    if docs is not None:
        page = docs / "performance.md"
        for section, found in parts.items():
            text = markdown(found, "performance", section)
            page.write_text(between_markers(page.read_text(), text, section.begin, section.end))
        (docs / "performance").mkdir(exist_ok=True)
        for name, chart in drawn.items():
            (docs / "performance" / f"{name}.svg").write_text(chart)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw stored results anew.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md as well")
    given = parser.parse_args()
    results = json.loads(given.results.read_text())
    write(results, given.results.parent, docs=_DOCS if given.docs else None)


if __name__ == "__main__":
    main()
