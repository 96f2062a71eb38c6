"""Servers that start in hundredths of a second: a process that has imported everything forks one for each order.

A start costs a quarter of a second of imports otherwise, a thousand times. What is forked is a process like any
other: `tailrace run` with its own command line, loop, store, threads and end. Orders and replies are lines of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SERVICE = Path(__file__).with_name("service.py")
IMPORTED = (
    "tailrace.cli.run",
    "tailrace.cli.target",
    "tailrace.server.process",
    "tailrace.service.definitions",
    "tailrace.transports.http",
    "uvloop",
)
_READY = re.compile(r"tailrace ready url=(\S+)")


class Life:
    """One process life of a server.

    Attributes:
        name: Of its file, in which its tools and hooks write.
        url: Its address.
    """

    def __init__(self, launcher: Launcher, name: str, pid: int, log: Path) -> None:
        self.name = name
        self.pid = pid
        self.url = ""
        self.code: int | None = None
        self._launcher = launcher
        self._log = log

    async def ready(self, limit: float = 60.0) -> Life:
        """Wait for the ready line."""
        until = time.monotonic() + limit
        while (found := _READY.search(self._log.read_text() if self._log.exists() else "")) is None:
            assert time.monotonic() < until, f"not ready within {limit:g} s: {self.log()}"
            assert not self.ended(), f"it ended with {self.code} before it was ready: {self.log()}"
            await asyncio.sleep(0.003)
        self.url = found[1]
        return self

    def signal(self, number: int) -> None:
        if not self.ended():
            os.kill(self.pid, number)  # it is not reaped before `ended` says so: the number is still its own

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        self.signal(signal.SIGKILL)
        while not self.ended():
            time.sleep(0.0005)

    async def wait(self, limit: float) -> int | None:
        """Its exit code; None where it still ran after `limit` seconds (and has been killed)."""
        until = time.monotonic() + limit
        while not self.ended():
            if time.monotonic() > until:
                self.kill()
                return None
            await asyncio.sleep(0.005)
        return self.code

    def ended(self) -> bool:
        if self.code is None:
            self.code = self._launcher.order(do="reap", pid=self.pid)["code"]
        return self.code is not None

    def log(self) -> str:
        """The end of its stderr."""
        return self._log.read_text("utf-8", "replace")[-3000:] if self._log.exists() else ""


class Launcher:
    """The process that forks; everything it started ends with it.

    Args:
        folder: Where lives have their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.launcher"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )

    def order(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    async def start(self, store: str, *flags: str, port: int = 0) -> Life:
        """Start a server and wait until it is ready."""
        self._count += 1
        name = f"life-{self._count}"
        log = self.folder / f"{name}.log"
        arguments = ["run", str(SERVICE), "--port", str(port), "--store", store, *flags]
        env = {"TAILRACE_SOAK_LIFE": str(self.folder / f"{name}.jsonl")}
        pid = self.order(do="start", arguments=arguments, log=str(log), env=env)["pid"]
        return await Life(self, name, pid, log).ready()

    def close(self) -> None:
        """End it, and with it whatever still runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60.0)
        assert self._process.stdout is not None
        self._process.stdout.close()


# --- in the process that forks ----------------------------------------------------------------------


def _take_orders() -> list[str] | None:
    """Fork and reap as told; in a child, its command line."""
    children: set[int] = set()
    for line in sys.stdin.buffer:
        order = json.loads(line)
        if order["do"] == "start":
            pid = os.fork()
            if pid == 0:
                return _become_server(order)
            children.add(pid)
            reply: dict[str, Any] = {"pid": pid}
        else:
            pid, status = os.waitpid(order["pid"], os.WNOHANG)
            children.discard(pid)
            reply = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def _become_server(order: dict[str, Any]) -> list[str]:
    nothing = os.open(os.devnull, os.O_RDWR)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, target in ((0, nothing), (1, nothing), (2, log)):
        os.dup2(target, number)
    os.close(nothing)
    os.close(log)
    os.environ.update(order["env"])
    return order["arguments"]


def _main() -> None:
    from tailrace.cli import main

    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # uvloop is not everywhere
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is imported stays shared between the processes
    arguments = _take_orders()
    if arguments is not None:
        main(arguments)


if __name__ == "__main__":
    _main()
