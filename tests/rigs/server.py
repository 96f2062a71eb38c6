"""Server processes: started, waited for, signalled by pid, and their stderr kept for the questions afterwards.

A thread copies each process's stderr into a file and watches for the ready line, so nothing here polls and a server
that talks much never blocks on a full pipe. What is said over HTTP or stdio is left to the other rigs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"tailrace ready url=(?P<url>\S+) store=(?P<store>.*?) drain=(?P<drain>\S+)")
UVICORN_READY = re.compile(r"Uvicorn running on (?P<url>http://\S+)")
# "TIME LEVEL logger message": the level is a word of its own near the start; our own JSON form as well.
_LEVEL = re.compile(r'^(?:\S+ ){0,2}(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|"level": ?"(?P<json>[A-Za-z]+)"')
_BARE = re.compile(r"^(Traceback \(most recent call last\)|Exception ignored in|Task exception was never retrieved)")


class ServerFailed(AssertionError):
    """A server did not start, or did not stop, as it should; the text ends with its stderr."""


def tailrace_command(target: Path | str, *flags: str, port: int = 0, store: str = "memory") -> list[str]:
    """The command line of `tailrace run TARGET` with the interpreter that runs the tests."""
    return [sys.executable, "-m", "tailrace", "run", str(target), "--port", str(port), "--store", store, *flags]


def uvicorn_command(target: Path, app: str, *flags: str) -> list[str]:
    """The command line of `uvicorn` for the application `app` of a file; say `ready=UVICORN_READY`."""
    where = ["--app-dir", str(target.parent), f"{target.stem}:{app}", "--port", "0"]
    return [sys.executable, "-m", "uvicorn", *where, *flags]


class ServerProcess:
    """One server process and its stderr.

    Args:
        command: The command line; it is started at once.
        log: The file that receives its stderr (appended, so that a restart goes on in the same file).
        env: Variables added to the tests' own.
        ready: Matches the ready line; its group `url` is the address. None: there is no ready line.
        stdio: Open stdin and stdout for the protocol (see `send` and `receive`).
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        ready: re.Pattern[str] | None = READY,
        stdio: bool = False,
    ) -> None:
        self.command = list(command)
        self.log = log
        self.url = ""
        self.ready_line = ""
        self._ready = ready
        self._known = threading.Event()
        pipe = subprocess.PIPE if stdio else subprocess.DEVNULL
        self.process = subprocess.Popen(
            self.command,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=ROOT,
        )
        self._copy = threading.Thread(target=self._copy_stderr, name=f"stderr of {self.process.pid}", daemon=True)
        self._copy.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None, f"no port in {self.url!r}"
        return port

    # --- its life -----------------------------------------------------------------------------------

    def wait_ready(self, limit: float = 60.0) -> None:
        """Wait for the ready line, at most `limit` seconds.

        Raises:
            ServerFailed: It ended before, or said nothing in time.
        """
        if not self._known.wait(limit):
            self.kill()
            raise ServerFailed(f"no ready line within {limit:g} s from {self.command}\n{self.stderr_tail()}")
        if not self.url:
            raise ServerFailed(f"exit code {self.wait(60.0)} before it was ready: {self.command}\n{self.stderr_tail()}")

    def signal(self, number: int) -> None:
        """Send one signal, to this process only. Quietly does nothing when it has ended."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and reap it."""
        self.process.kill()
        self.process.wait(60.0)
        self._finish_log()

    def wait(self, limit: float) -> int:
        """The exit code, once it ended by itself.

        Raises:
            ServerFailed: It still ran after `limit` seconds; it has been killed then.
        """
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"still running after {limit:g} s: {self.command}\n{self.stderr_tail()}") from None
        self._finish_log()
        return code

    def stop(self, limit: float = 60.0) -> int:
        """SIGTERM, then the exit code; see `wait`."""
        self.signal(signal.SIGTERM)
        return self.wait(limit)

    def close(self) -> None:
        """Leave nothing behind: kill what still runs, close the pipes. Idempotent."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60.0)
        self._finish_log()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    # --- stdio --------------------------------------------------------------------------------------

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one message as a line to its stdin."""
        assert self.process.stdin is not None, "started without stdio=True"
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """Read one message from its stdout (blocks: the test's own time limit applies); None at its end."""
        assert self.process.stdout is not None, "started without stdio=True"
        line = self.process.stdout.readline()
        if not line:
            return None
        try:
            return json.loads(line)
        except ValueError:
            raise ServerFailed(f"stdout carries something else than JSON: {line[:200]!r}") from None

    def close_stdin(self) -> None:
        """End of input."""
        assert self.process.stdin is not None, "started without stdio=True"
        self.process.stdin.close()

    # --- what it said -------------------------------------------------------------------------------

    def stderr(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def stderr_tail(self, lines: int = 40) -> str:
        return "--- stderr ---\n" + "\n".join(self.stderr().splitlines()[-lines:])

    def records(self, level: str = "ERROR") -> list[str]:
        """The log records of one level; a traceback that stands outside any record counts as an ERROR."""
        return records(self.stderr(), level)

    def _copy_stderr(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr, self.log.open("ab", buffering=0) as out:
            for line in stderr:
                out.write(line)
                if not self._known.is_set() and self._ready is not None:
                    found = self._ready.search(line.decode("utf-8", "replace"))
                    if found is not None:
                        self.url = found["url"].rstrip("/")
                        self.ready_line = line.decode().strip()
                        self._known.set()
        self._known.set()

    def _finish_log(self) -> None:
        # A grandchild that inherited stderr could hold it open: the limit keeps that from hanging the tests.
        self._copy.join(20.0)


def records(text: str, level: str) -> list[str]:
    """The records of `level` in a server's stderr."""
    found: list[str] = []
    in_record = False  # the lines of a traceback belong to the record above them
    for line in text.splitlines():
        match = _LEVEL.search(line)
        if match is not None:
            name = (match["level"] or match["json"]).upper()
            in_record = name in ("ERROR", "CRITICAL")
            if name == level or (name == "CRITICAL" and level == "ERROR"):
                found.append(line)
        elif _BARE.search(line) and not in_record and level == "ERROR":
            found.append(line)
    return found


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    ready: re.Pattern[str] | None = READY,
    stdio: bool = False,
    start_limit: float = 60.0,
) -> Iterator[ServerProcess]:
    """Start a server, wait until it is ready, and kill it on the way out if the test has not stopped it."""
    server = ServerProcess(command, log, env=env, ready=None if stdio else ready, stdio=stdio)
    try:
        if not stdio and ready is not None:
            server.wait_ready(start_limit)
        yield server
    finally:
        server.close()


@contextlib.asynccontextmanager
async def running_async(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    ready: re.Pattern[str] | None = READY,
    start_limit: float = 60.0,
) -> AsyncIterator[ServerProcess]:
    """`running` for async tests: waiting happens in threads, so that the test's own loop goes on."""
    server = ServerProcess(command, log, env=env, ready=ready)
    try:
        await asyncio.to_thread(server.wait_ready, start_limit)
        yield server
    finally:
        await asyncio.to_thread(server.close)


async def stop_async(server: ServerProcess, limit: float = 60.0) -> int:
    """`server.stop` without blocking the loop."""
    return await asyncio.to_thread(server.stop, limit)
