"""`make scoreboard`: runs `tailrace check` on Tailrace and on each peer, and writes docs/scoreboard.md from it.

Each server is the one that `make bench` measures (bench/peers), with an event store where it has one, since streams can
only be resumed then. What came of each run stays in build/scoreboard; `--draw` writes the page from that alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from bench.servers import ROOT, SERVERS, Server, prepare

__all__ = ["BEGIN", "END", "markdown"]

BEGIN = "<!-- checked: begin (python -m bench.scoreboard writes this) -->"
END = "<!-- checked: end -->"
_OUTPUT = ROOT / "build/scoreboard"
_PAGE = ROOT / "docs/scoreboard.md"
_CONTESTANTS = ("tailrace-sqlite", "mcp", "fastmcp", "mcp-go", "go-sdk")
_FLAGS = ("--exit-within", "30", "--answer-within", "10", "--timeout", "60")
_LIMIT = 1500.0  # seconds one run may take
_MARKS = {"pass": "✓", "fail": "✗", "not applicable": "·"}
_WAYS = {"streamable": "Streamable HTTP, with sessions", "sse": "HTTP+SSE", "modern": "2026-07-28, stateless",
         "stdio": "stdio"}  # fmt: skip
# What a server is started as, and what it is then asked over. Tailrace and the SDKs for Python speak several at once.
_RUNS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "tailrace-sqlite": (("http", ("streamable", "sse", "modern")), ("stdio", ("stdio",))),
    "go-sdk": (("http", ("streamable",)), ("modern", ("modern",)), ("sse", ("sse",)), ("stdio", ("stdio",))),
}
_USUAL = (("http", ("streamable", "modern")), ("sse", ("sse",)), ("stdio", ("stdio",)))


def main(arguments: list[str] | None = None) -> int:
    """Check the servers, and write the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoreboard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--servers", nargs="+", default=list(_CONTESTANTS), metavar="SERVER", choices=_CONTESTANTS)
    parser.add_argument(
        "--draw", action="store_true", help="check nothing; write the page from what is in build/scoreboard"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TRIAL", help="check these anew; the rest stays as stored"
    )
    given = parser.parse_args(arguments)
    _OUTPUT.mkdir(parents=True, exist_ok=True)
    if not given.draw:
        for server in SERVERS:
            if server.name in given.servers:
                _check(server, given.only)
    found = [json.loads(path.read_text()) for name in _CONTESTANTS if (path := _OUTPUT / f"{name}.json").exists()]
    page = _PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    _PAGE.write_text(f"{before}{BEGIN}\n\n{markdown(found).strip()}\n\n{END}{after}")
    print(f"wrote {_PAGE.relative_to(ROOT)}")
    return 0


# --- checking ---------------------------------------------------------------------------------------


def _check(server: Server, only: list[str]) -> None:
    """Run the check over all that a server speaks, and keep what it said; `only`: beside what is stored."""
    missing = prepare(server)
    runs: list[dict[str, Any]] = []
    for transport, ways in () if missing else _RUNS.get(server.name, _USUAL):
        print(f"{server.title}, {transport}", flush=True)
        runs.append(_run(server, transport, ways, only))
    stored = _OUTPUT / f"{server.name}.json"
    if only and stored.exists():
        _merge(runs, json.loads(stored.read_text())["runs"])
    about = {
        "name": server.name, "title": server.title, "settings": server.settings, "missing": missing,
        "date": date.today().isoformat(), "cores": os.cpu_count(), "system": platform.system(), "runs": runs,
    }  # fmt: skip
    stored.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def _merge(runs: list[dict[str, Any]], stored: list[dict[str, Any]]) -> None:
    """Put the trials that were not made anew beside those that were, in the order of the stored ones."""
    before = {run["transport"]: run for run in stored}
    for run in runs:
        anew = {trial["name"]: trial for trial in run["trials"]}
        kept = before.get(run["transport"], run)["trials"]
        run["trials"] = [anew.pop(trial["name"], trial) for trial in kept] + list(anew.values())


def _run(server: Server, transport: str, ways: tuple[str, ...], only: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=_OUTPUT) as folder:
        report = Path(folder) / "report.json"
        command = server.command(transport, 65535, Path(folder), transport == "http")
        if transport != "stdio":
            command = [word.replace("65535", "{port}") for word in command]
        where = [] if transport == "stdio" else ["--http", "0"]
        asked = [part for way in ways for part in ("--way", way)]
        asked += [part for one in only for part in ("--only", one)]
        check = [
            sys.executable,
            "-m",
            "tailrace",
            "check",
            *where,
            *asked,
            *_FLAGS,
            "--json",
            str(report),
            "--",
            *command,
        ]
        try:
            done = subprocess.run(check, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                  timeout=_LIMIT, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"transport": transport, "trials": [], "error": f"not over within {_LIMIT:g} s"}
        if not report.exists():
            lines = done.stderr.strip().splitlines()
            return {"transport": transport, "trials": [], "error": lines[-1] if lines else "it said nothing"}
        said = json.loads(report.read_text())
        print(f"  {said['counts']}", flush=True)
        return {"transport": transport, "seconds": said["seconds"], "trials": said["trials"]}


# --- drawing ----------------------------------------------------------------------------------------


def markdown(found: list[dict[str, Any]]) -> str:
    """The page's part: a table for each way of speaking, then what was seen where a trial failed."""
    if not found:
        return "Nothing was checked yet."
    when, where = max(one["date"] for one in found), f"{found[0]['system']} with {found[0]['cores']} cores"
    lines = [f"Checked on {when}, on {where}, by `tailrace check {' '.join(_FLAGS)}`.", ""]
    lines += [f"- **{one['title']}**: {one['settings']}" + (f"; missing: {one['missing']}" if one["missing"] else "")
              for one in found]  # fmt: skip
    for way, title in _WAYS.items():
        lines += ["", f"### {title}", "", *_table(way, found)]
    lines += ["", "### What was seen where a trial failed", ""]
    for one in found:
        failed = [trial for run in one["runs"] for trial in run["trials"] if trial["verdict"] == "fail"]
        lines += [f"**{one['title']}**: {len(failed) or 'none'} failed.", ""]
        lines += [f"- `{trial['name']}`: {_cell(trial['saw'])}" for trial in failed]
        lines += [f"- {run['transport']}: {run['error']}" for run in one["runs"] if "error" in run]
        lines.append("")
    return "\n".join(lines)


def _table(way: str, found: list[dict[str, Any]]) -> list[str]:
    by_server = [{trial["trial"]: trial for run in one["runs"] for trial in run["trials"] if trial["way"] == way}
                 for one in found]  # fmt: skip
    asks = {name: trial["asks"] for trials in by_server for name, trial in trials.items()}
    rows = ["| trial | " + " | ".join(one["title"] for one in found) + " |", "| --- |" + " :-: |" * len(found)]
    for name, ask in asks.items():
        marks = [_MARKS[trials[name]["verdict"]] if name in trials else "" for trials in by_server]
        rows.append(f"| `{name}` {_cell(ask)} | " + " | ".join(marks) + " |")
    totals = [f"{sum(trial['verdict'] == 'pass' for trial in trials.values())} of "
              f"{sum(trial['verdict'] != 'not applicable' for trial in trials.values())}" if trials else "not spoken"
              for trials in by_server]  # fmt: skip
    return [*rows, "| **passed, of those that apply** | " + " | ".join(totals) + " |"]


def _cell(text: str) -> str:
    said = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return said if len(said) < 600 else said[:599] + "…"


if __name__ == "__main__":
    sys.exit(main())
