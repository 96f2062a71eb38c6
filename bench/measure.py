"""One trial of one server, once: a fresh process, the load generator beside it, and /proc read at its marks."""

from __future__ import annotations

import json
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.processes import Usage, cores, free_port, server, usage
from bench.servers import ROOT, Server

if TYPE_CHECKING:
    from bench.trials import Trial

__all__ = ["drive", "measure"]

_OPENING_TIME = 120.0  # seconds that opening connections and sessions may take on top of the measured time


def measure(trial: Trial, contestant: Server, load: Path, scratch: Path, *, quick: bool) -> dict[str, Any]:
    """Run one trial of one server.

    Args:
        trial: At what.
        contestant: Who.
        load: The built load generator.
        scratch: An empty folder for its store and its log.
        quick: With the sizes of `make bench-quick`.

    Returns:
        What the load generator saw, with `cpu_us`, `cpu_percent`, `rss_mb`, `base_mb` and, for idle sessions,
        `kb_each`; `beside_us` is the CPU time a call of the process that the server needs beside it.

    Raises:
        RuntimeError: The server or the load generator failed; says why.
    """
    port, log = free_port(), scratch / "server.log"
    flags = _flags(trial, contestant, port, quick)
    limit = _limit(trial, flags) + _OPENING_TIME
    with ExitStack() as running:
        if trial.each:
            running.enter_context(cores(contestant.workers))
        beside = None if contestant.beside is None else running.enter_context(contestant.beside(scratch))
        command = contestant.command(trial.transport, port, scratch, trial.kind == "resume")
        if trial.transport == "stdio":
            return drive([str(load), "-paced", *_words(flags), "--", *command], None, limit)
        pid = running.enter_context(server(command, port, log, cwd=ROOT, ready=contestant.ready))
        return drive([str(load), "-paced", *_words(flags)], pid, limit, beside)


def _flags(trial: Trial, contestant: Server, port: int, quick: bool) -> dict[str, str]:
    path = "sse" if trial.transport == "sse" else "mcp"
    flags = {"trial": trial.kind, "era": trial.era, "url": f"http://127.0.0.1:{port}/{path}", **trial.flags}
    flags |= contestant.flags
    if trial.each:
        flags["clients"] = str(int(flags["clients"]) * contestant.workers)
    flags |= {"seconds": "1s", "warmup": "300ms"} if quick else {
        "seconds": f"{trial.seconds}s", "warmup": f"{trial.warmup}s"}  # fmt: skip
    if trial.kind == "broadcast" and contestant.join:
        flags["join"] = "true"
    return flags | (trial.quick_flags if quick else {})


def _words(flags: dict[str, str]) -> list[str]:
    return [f"-{name}={value}" for name, value in flags.items()]


def _limit(trial: Trial, flags: dict[str, str]) -> float:
    """How long the generator may take by its own flags, in seconds."""
    return trial.seconds + trial.warmup + sum(float(flags.get(name, "0s")[:-1]) for name in ("hold", "limit"))


def drive(command: list[str], pid: int | None, limit: float, beside: int | None = None) -> dict[str, Any]:
    """Run the generator, read /proc whenever it prints a mark, and join both into one sample.

    Args:
        command: The generator's, with `-paced`.
        pid: The server's process; None where the generator itself starts it, and says which it is.
        limit: Seconds.
        beside: A process whose CPU time is told apart.

    Raises:
        RuntimeError: The generator failed, or took too long.
    """
    base = None if pid is None else usage(pid)
    marks: dict[str, Usage] = {}
    others: dict[str, Usage] = {}
    result: dict[str, Any] | None = None
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        complaints: list[str] = []
        listener = threading.Thread(target=_collect, args=(process.stderr, complaints), daemon=True)
        listener.start()
        late = threading.Timer(limit, process.kill)
        late.start()
        try:
            for line in process.stdout:
                said = json.loads(line)
                if "mark" in said:
                    marks[said["mark"]] = usage(said.get("pid", pid))
                    if beside is not None:
                        others[said["mark"]] = usage(beside)
                    process.stdin.write("\n")
                    process.stdin.flush()
                else:
                    result = said["result"]
            process.wait()
        finally:
            late.cancel()
            process.kill()
        listener.join(5)
    if result is None or process.returncode:
        raise RuntimeError(complaints[-1] if complaints else f"no result within {limit:.0f} seconds")
    return result | _costs(result, base, marks) | _costs_beside(result, others)


def _collect(lines: Any, into: list[str]) -> None:
    """Keep the generator's complaints (a stdio server's lines come the same way): the last 50."""
    for line in lines:
        into.append(line.strip())
        del into[:-50]


def _costs(result: dict[str, Any], base: Usage | None, marks: dict[str, Usage]) -> dict[str, Any]:
    begin, end = marks.get("begin") or marks["open"], marks["end"]
    cpu = end.cpu - begin.cpu
    done = result.get("arrived") or result.get("calls") or 0
    costs: dict[str, Any] = {"cpu_seconds": cpu, "rss_mb": end.rss / 2**20}
    if base is not None:
        costs["base_mb"] = base.rss / 2**20
    if "base" in marks:
        costs["kb_each"] = (marks["open"].rss - marks["base"].rss) / 1024 / result["sessions"]
        costs["cpu_percent"] = 100 * cpu / result["held_seconds"]
    elif done:
        costs["cpu_us"] = cpu / done * 1e6
        costs["cpu_percent"] = 100 * cpu / result["seconds"]
    return costs


def _costs_beside(result: dict[str, Any], marks: dict[str, Usage]) -> dict[str, Any]:
    done = result.get("arrived") or result.get("calls")
    if not done or not {"begin", "end"} <= marks.keys():
        return {}
    return {"beside_us": (marks["end"].cpu - marks["begin"].cpu) / done * 1e6}
