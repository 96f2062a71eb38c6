"""`make bench`: every server in turn, round after round, each time in a fresh process.

Round robin, so that a machine that gets slower gets slower for all. Nothing runs beside the server and the load
generator. Results go to build/bench; with --docs into the documentation as well.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import signal
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from bench import report
from bench.measure import measure
from bench.servers import ROOT, SERVERS, Missing, Server, build_load, prepare
from bench.trials import HEADLINES, Trial, chosen

_OPEN_FILES = 20_000  # of the server and of the generator; the largest trial needs half of it


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write what was found; returns the exit code."""
    given = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no server is left behind then, either
    try:
        trials = chosen(given.only, quick=given.quick)
        servers = _named(given.servers)
        load = build_load()
    except (ValueError, Missing) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _raise_limit()
    results: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": _command(arguments),
        "quick": given.quick,
        "rounds": given.rounds or (1 if given.quick else 3),
        "machine": machine(),
        "servers": {server.name: _about(server) for server in servers},
        "trials": {trial.name: _described(trial, servers) for trial in trials},
        "samples": [],
    }
    folder: Path = given.output
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        _measure_all(results, trials, servers, load, folder)
    except KeyboardInterrupt:
        print("bench: interrupted; what was measured is written", file=sys.stderr)
    report.write(results, folder, docs=ROOT / "docs" if given.docs else None)
    failed = sum("error" in sample for sample in results["samples"])
    missing = [about["title"] for about in results["servers"].values() if about["missing"]]
    print(
        f"{len(results['samples'])} measured in {time.monotonic() - began:.0f} s, {failed} failed: {folder}/report.md"
    )
    if missing:
        print(f"missing: {', '.join(missing)}")
    return 0


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Measure Tailrace beside its peers.")
    parser.add_argument("--quick", action="store_true", help="about three minutes: one short round of the main trials")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 3, with --quick 1")
    parser.add_argument("--only", nargs="+", default=[], metavar="TRIAL")
    parser.add_argument("--servers", nargs="+", default=[], metavar="SERVER")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md as well")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", metavar="FOLDER")
    return parser.parse_args(arguments)


def _command(arguments: list[str] | None) -> str:
    return shlex.join(["python", "-m", "bench.run", *(sys.argv[1:] if arguments is None else arguments)])


def _named(names: list[str]) -> list[Server]:
    if unknown := sorted(set(names) - {server.name for server in SERVERS}):
        raise ValueError(f"no server {unknown[0]!r}; there are {', '.join(server.name for server in SERVERS)}")
    return [server for server in SERVERS if not names or server.name in names]


def _raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def machine() -> dict[str, Any]:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _about(server: Server) -> dict[str, Any]:
    print(f"{server.title}: ", end="", flush=True)
    missing = prepare(server)
    print(f"missing: {missing}" if missing else "ready", flush=True)
    return {"title": server.title, "store": server.store, "settings": server.settings, "missing": missing,
            "cannot": server.cannot}  # fmt: skip


def _described(trial: Trial, servers: list[Server]) -> dict[str, Any]:
    taking_part = [server.name for server in servers if _due(trial, server)]
    return {"title": trial.title, "kind": trial.kind, "era": trial.era, "flags": trial.flags, "servers": taking_part,
            "rounds": trial.rounds, "section": trial.section}  # fmt: skip


def _due(trial: Trial, server: Server) -> bool:
    named = server.name in trial.servers if trial.servers else not server.invited
    return named and trial.transport in server.transports


def _measure_all(results: dict[str, Any], trials: list[Trial], servers: list[Server], load: Path, folder: Path) -> None:
    for number in range(1, results["rounds"] + 1):
        for trial in trials:
            for server in servers:
                about = results["servers"][server.name]
                if number > trial.rounds:
                    continue
                if about["missing"] or not _due(trial, server) or trial.kind in server.cannot:
                    continue
                sample = {"trial": trial.name, "server": server.name, "round": number}
                with tempfile.TemporaryDirectory(prefix="scratch-", dir=folder) as scratch:
                    try:
                        sample |= measure(trial, server, load, Path(scratch), quick=results["quick"])
                    except RuntimeError as error:
                        sample["error"] = str(error)
                results["samples"].append(sample)
                print(
                    f"{number}/{results['rounds']} {trial.name:18} {server.name:18} {_line(trial, sample)}", flush=True
                )


def _line(trial: Trial, sample: dict[str, Any]) -> str:
    if "error" in sample:
        return f"failed: {sample['error']}"
    headline = HEADLINES[trial.kind]
    about = "".join(
        f"; {text.format(sample[name])}" for name, text in _BESIDE.get(trial.kind, {}).items() if name in sample
    )
    more = ", ".join(f"{name} {sample[name]}" for name in ("lost", "failed", "wrong") if sample.get(name))
    return f"{sample.get(headline.key, 0):12,.1f} {headline.title}{about}" + (f"; {more}" if more else "")


_BESIDE = {  # other figures of a kind of trial, for the line that is printed
    "calls": {"rps": "{:,.0f} calls/s", "beside_us": "Valkey {:,.1f} µs", "away_percent": "{:.0f} % relayed"},
    "idle": {"cpu_percent": "{:.1f} % of one core"},
    "slow": {"p50_ratio": "median {:.2f} x that without the slow one"},
}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # during the set-up: there is nothing to write yet
        sys.exit(130)
