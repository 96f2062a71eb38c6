"""RPC beside its peers: `python -m bench.rpc [--rounds 3] [--docs]`.

Each server is a process of its own, started afresh for each round of each trial; bench/rpcload (connect-go and grpc-go)
puts load on it and checks every answer; CPU time and memory are those of the server's processes. Ratios are of medians
over the rounds of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from bench.measure import drive
from bench.processes import free_port, server
from bench.report import between_markers
from bench.run import machine as this_machine
from bench.servers import HERE, Missing, build, build_load, environment

__all__ = ["PEERS", "TRIALS", "main", "markdown"]

BEGIN = "<!-- rpc: begin (python -m bench.rpc --docs writes this) -->"
END = "<!-- rpc: end -->"
_PAGE = HERE.parent / "docs" / "performance.md"
_PEERS = HERE / "peers"
_BIN = HERE / ".bin"
_LIMIT = 120.0  # seconds for one trial's load beside its measured time


@dataclass(frozen=True, slots=True)
class Peer:
    """One contestant.

    Args:
        name: For the command line.
        title: For people, with its version.
        setup: Installs or builds it; raises `Missing`.
        command: The command line for a port.
        speaks: Protocols, with the version of HTTP.
    """

    name: str
    title: str
    setup: Callable[[], None]
    command: Callable[[int], list[str]]
    speaks: frozenset[str]


@dataclass(frozen=True, slots=True)
class Trial:
    """One kind of work over one protocol.

    Args:
        name: For the command line.
        title: For people.
        protocol: As in `Peer.speaks`.
        flags: For the load generator.
        unit: What is counted.
    """

    name: str
    title: str
    protocol: str
    flags: Mapping[str, str]
    unit: str = "call"


def _go(name: str) -> Callable[[], None]:
    def setup() -> None:
        build(_PEERS / name)

    return setup


def _python(name: str) -> Callable[[], None]:
    def setup() -> None:
        lines = (_PEERS / f"{name}.txt").read_text().splitlines()
        environment(name, *(line for line in lines if line and not line.startswith("#")))

    return setup


def _in(name: str, program: str) -> str:
    return str(HERE / ".venvs" / name / "bin" / program)


def _tailrace(port: int) -> list[str]:
    start = [sys.executable, "-m", "tailrace", "run", str(_PEERS / "tailrace_rpc.py"), "--store", "memory"]
    return [*start, "--port", str(port)]


_EVERYTHING = frozenset({"connect/1", "connect/2", "grpc/2"})
_APP = ["--app-dir", str(_PEERS), "connectrpc_app:app"]
PEERS = (
    Peer("tailrace", "Tailrace", lambda: None, _tailrace, _EVERYTHING),
    Peer("connect-go", "connect-go 1.21.1", _go("connect_go"), lambda port: [str(_BIN / "connect_go"), str(port)],
         _EVERYTHING),
    Peer("grpc-go", "grpc-go 1.85.0", _go("grpc_go"), lambda port: [str(_BIN / "grpc_go"), str(port)],
         frozenset({"grpc/2"})),
    Peer("grpcio", "grpcio 1.85.1, asyncio on uvloop", _python("grpcio"),
         lambda port: [_in("grpcio", "python"), str(_PEERS / "grpcio_server.py"), str(port)], frozenset({"grpc/2"})),
    Peer("connectrpc-uvicorn", "connectrpc 0.13.0 on uvicorn", _python("connectrpc"),
         lambda port: [_in("connectrpc", "uvicorn"), *_APP, "--port", str(port), "--log-level", "warning"],
         frozenset({"connect/1"})),
    Peer("connectrpc-h2corn", "connectrpc 0.13.0 on h2corn", _python("connectrpc"),
         lambda port: [_in("connectrpc", "h2corn"), *_APP, "--bind", f"127.0.0.1:{port}", "--grpc", "--no-access-log",
                       "--max-concurrent-streams", "4096"], _EVERYTHING),
    Peer("connectrpc-pyvoy", "connectrpc 0.13.0 on pyvoy (Envoy)", _python("connectrpc"),
         lambda port: ["env", f"PYTHONPATH={_PEERS}", _in("connectrpc", "pyvoy"), "connectrpc_app:app",
                       "--port", str(port), "--loop", "uvloop"], _EVERYTHING),
)  # fmt: skip
TRIALS = (
    Trial("connect-unary", "Connect unary, HTTP/1.1, 32 callers", "connect/1", {"trial": "unary", "clients": "32"}),
    Trial("connect-unary-h2", "Connect unary, HTTP/2, 32 callers on 4 connections", "connect/2",
          {"trial": "unary", "clients": "32"}),
    Trial("grpc-unary", "gRPC unary, 32 callers on 4 connections", "grpc/2", {"trial": "unary", "clients": "32"}),
    Trial("connect-stream", "Connect server streams, HTTP/1.1, 8 at a time", "connect/1",
          {"trial": "stream", "clients": "8"}, "message"),
    Trial("grpc-stream", "gRPC server streams, 8 at a time", "grpc/2", {"trial": "stream", "clients": "8"}, "message"),
    Trial("connect-bidi", "Connect bidi, HTTP/2, 32 streams that ask and answer", "connect/2",
          {"trial": "bidi", "clients": "32"}, "round trip"),
    Trial("grpc-bidi", "gRPC bidi, 32 streams that ask and answer", "grpc/2", {"trial": "bidi", "clients": "32"},
          "round trip"),
    Trial("grpc-open", "990 open gRPC streams on 10 connections", "grpc/2",
          {"trial": "open", "clients": "1000", "conns": "10"}, "stream"),
)  # fmt: skip


@dataclass
class Run:
    """What was measured: by trial and peer, one sample each round; and what could not be."""

    rounds: int
    machine: dict[str, Any] = field(default_factory=this_machine)
    samples: defaultdict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, trial: str, peer: str, figure: str) -> float | None:
        """Over the rounds; None where it was not measured."""
        found = [sample[figure] for sample in self.samples[trial, peer] if figure in sample]
        return statistics.median(found) if found else None


def measure(trial: Trial, peer: Peer, load: Path, seconds: float) -> dict[str, Any]:
    """One trial of one peer, once.

    Raises:
        RuntimeError: The server or the load generator failed; says why.
    """
    protocol, _, http = trial.protocol.partition("/")
    port = free_port()
    flags = {"protocol": protocol, "http": http, "address": f"127.0.0.1:{port}", "seconds": f"{seconds}s",
             "warmup": f"{min(1.0, seconds)}s", **trial.flags}  # fmt: skip
    words = [f"-{name}={value}" for name, value in flags.items()]
    with (
        tempfile.TemporaryDirectory() as scratch,
        server(peer.command(port), port, Path(scratch) / "log", cwd=HERE.parent) as pid,
    ):
        sample = drive([str(load), "-paced", *words], pid, seconds + _LIMIT)
    if sample.get("failed"):
        raise RuntimeError(f"{sample['failed']} failed: {sample.get('complaint')}")
    return sample


def markdown(run: Run, command: str) -> str:
    """What goes between the markers."""
    return "\n".join(_lines(run, command)) + "\n"


def _lines(run: Run, command: str) -> Iterator[str]:
    about = run.machine
    rounds = f"{run.rounds} interleaved rounds" if run.rounds != 1 else "1 round"
    yield (
        f"Measured on {date.today()} with `{command}`: {rounds}, medians. {about['cpu']}, "
        f"{about['cores']} cores, {about['system']}, Python {about['python']}; load generator and servers on the same "
        "machine, over loopback, without TLS; messages of 32 bytes. Go servers use every core, Python servers one."
    )
    if about["load"] > 0.3 * about["cores"]:
        yield ""
        yield f"**Measured beside other work** (load average {about['load']:.1f} before the start): read ratios only."
    for trial in TRIALS:
        peers = [peer for peer in PEERS if run.samples[trial.name, peer.name]]
        if peers:
            yield from ("", f"### {trial.title}", "")
            yield from _table(run, trial, peers)
    for name, why in run.missing.items():
        yield from ("", f"Not measured: {name}: {why}")


def _table(run: Run, trial: Trial, peers: Sequence[Peer]) -> Iterator[str]:
    idle = trial.flags["trial"] == "open"
    main = "kb_each" if idle else "cpu_us"
    columns = {f"kB a {trial.unit}": "kb_each", "RSS MB": "rss_mb"} if idle else {
        f"{trial.unit}s/s": "rps", f"CPU µs a {trial.unit}": "cpu_us", "p50 µs": "p50_us", "p99 µs": "p99_us",
        "RSS MB": "rss_mb"}  # fmt: skip
    if trial.unit != "call":  # a latency is that of a whole stream
        columns = {title: key for title, key in columns.items() if not title.startswith("p")}
    yield "| server | " + " | ".join(columns) + f" | Tailrace's {'kB' if idle else 'CPU'} by its |"
    yield "|---|" + "---:|" * (len(columns) + 1)
    ours = run.median(trial.name, "tailrace", main)
    for peer in peers:
        figures = [run.median(trial.name, peer.name, key) for key in columns.values()]
        theirs = run.median(trial.name, peer.name, main)
        share = f"{ours / theirs:.2f}" if ours and theirs and peer.name != "tailrace" else "-"
        yield f"| {peer.title} | " + " | ".join(map(_shown, figures)) + f" | {share} |"


def _shown(figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.rpc", description="RPC beside its peers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", nargs="*", choices=[trial.name for trial in TRIALS])
    parser.add_argument("--peers", nargs="*", choices=[peer.name for peer in PEERS])
    parser.add_argument("--docs", action="store_true", help="write it into docs/performance.md")
    given = parser.parse_args(arguments)
    run = Run(given.rounds)
    try:
        load = build_load("rpcload")
    except Missing as reason:
        print(f"missing: {reason}", file=sys.stderr)
        return 1
    peers = [peer for peer in PEERS if not given.peers or peer.name in given.peers]
    for peer in list(peers):
        try:
            peer.setup()
        except Missing as reason:
            run.missing[peer.title] = str(reason)
            peers.remove(peer)
    trials = [trial for trial in TRIALS if not given.only or trial.name in given.only]
    for number in range(given.rounds):
        for trial in trials:
            for peer in peers:
                if trial.protocol in peer.speaks:
                    _once(run, number, trial, peer, load, given.seconds)
    command = " ".join(["python -m bench.rpc", *(arguments if arguments is not None else sys.argv[1:])])
    text = markdown(run, command)
    print(text)
    if given.docs:
        _PAGE.write_text(between_markers(_PAGE.read_text(), text, BEGIN, END))
    return 0


def _once(run: Run, number: int, trial: Trial, peer: Peer, load: Path, seconds: float) -> None:
    try:
        sample = measure(trial, peer, load, seconds)
    except RuntimeError as error:
        run.missing[f"{peer.title}, {trial.title}, round {number + 1}"] = str(error)[:300]
        print(f"{number + 1} {trial.name:18} {peer.name:20} {error}", file=sys.stderr, flush=True)
        return
    run.samples[trial.name, peer.name].append(sample)
    keys = ("rps", "cpu_us", "p50_us", "kb_each", "rss_mb")
    print(f"{number + 1} {trial.name:18} {peer.name:20}",
          json.dumps({key: round(sample[key], 1) for key in keys if key in sample}),
          f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
