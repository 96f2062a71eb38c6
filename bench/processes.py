"""Server processes: started, measured through /proc as a tree, and ended by their own process ids."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "cores", "free_port", "server", "tree", "usage"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PORTS = range(20_000, 32_000)  # below those that Linux gives to connections, one of which would be in the way


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree has used so far."""

    cpu: float  # seconds, user and system, with the children that have ended
    rss: int  # bytes


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on (the second may hold blanks), or None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found


def usage(pid: int) -> Usage:
    """The CPU time and the resident memory of a process and its descendants."""
    cpu, rss = 0.0, 0
    for fields in map(_stat, tree(pid)):
        if fields is not None:
            cpu += sum(map(int, fields[11:15])) / _TICKS
            rss += int(fields[21]) * _PAGE
    return Usage(cpu, rss)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")


@contextmanager
def cores(count: int) -> Iterator[None]:
    """What this thread starts meanwhile has so many cores of the machine.

    Raises:
        RuntimeError: There are not so many, or this system keeps no process to its cores.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        raise RuntimeError("it needs Linux, which keeps processes to their cores") from None
    if len(allowed) < count:
        raise RuntimeError(f"it needs {count} cores, and there are {len(allowed)}")
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def server(
    command: Sequence[str], port: int, log: Path, *, cwd: Path, ready: str = "", start_time: float = 30.0
) -> Iterator[int]:
    """Start a server, give its process id once it listens on `port`, and end it.

    Args:
        command: What to start.
        port: Where it will listen, on loopback.
        log: Takes what it prints.
        cwd: Where it runs.
        ready: Its log must say this as well.
        start_time: Seconds until it must listen.

    Raises:
        RuntimeError: It ended, or did not listen in time; says what it printed last.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, process_group=0
        )
    try:
        _await_port(process, port, log, ready.encode(), time.monotonic() + start_time)
        yield process.pid
    finally:
        _end(process)


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path, ready: bytes, until: float) -> None:
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}: {_last_line(log)}")
        with socket.socket() as probe:
            if ready in log.read_bytes() and probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"did not listen in time: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it printed nothing"


def _end(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """Terminate the tree, and kill what is left of it after `patience` seconds."""
    pids = tree(process.pid)
    _signal(pids[:1], signal.SIGTERM)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        _signal(pids, signal.SIGKILL)
        process.wait(patience)
    _signal([pid for pid in pids[1:] if _stat(pid) is not None], signal.SIGKILL)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
