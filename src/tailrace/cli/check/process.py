"""A server's process that the check started: watched from outside, signalled by its id, ended for certain.

Memory and descriptors are counted for the whole process tree, from /proc (Linux); elsewhere `ps` gives the memory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tailrace.cli.check.model import Failed

__all__ = ["Process", "clean_end"]

_LINE = 16 * 1024 * 1024  # bytes of one line on standard output
_KILL_WAIT = 5.0  # seconds until a killed process must be gone
_POLL = 0.02
_POSIX = os.name == "posix"


def clean_end(code: int) -> bool:
    """Whether this is how a process ends that was asked to by SIGTERM: 0, or that signal itself."""
    return code in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


class Process:
    """One process and its children.

    Args:
        command: What to start.
        log: Takes what it prints on standard error (and on standard output, unless that is spoken over).
        environment: Beside that of this process.
        pipes: Speak over its standard input and output.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str], *, pipes: bool) -> None:
        self._command = list(command)
        self.log = log
        self._environment = {**os.environ, **environment}
        self._pipes = pipes
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it.

        Raises:
            Failed: There is no such program.
        """
        with self.log.open("ab") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, env=self._environment, limit=_LINE, start_new_session=_POSIX,
                    stdin=subprocess.PIPE if self._pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if self._pipes else output, stderr=output,
                )  # fmt: skip
            except OSError as error:
                raise Failed(f"cannot start {self._command[0]!r}: {error.strerror or error}") from None

    @property
    def streams(self) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
        """Its standard input and output."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    @property
    def code(self) -> int | None:
        """Its exit code (negative: the signal that ended it); None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def terminate(self) -> None:
        """SIGTERM to the process itself, as a supervisor sends it."""
        if self._process is not None and self.alive:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to the whole tree, at once."""
        if self._process is None:
            return
        for pid in self.tree():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if _POSIX else signal.SIGTERM)

    async def wait(self, limit: float) -> int | None:
        """Its exit code, or None if it still runs after `limit` seconds."""
        assert self._process is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                # Its own wait() also waits for the end of pipes that nobody reads.
                while self._process.returncode is None:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL)
        return self._process.returncode

    async def stop(self, patience: float = 1.0) -> None:
        """End it: politely, and after `patience` seconds by force."""
        if self._process is None:
            return
        children = self.tree()[1:]
        if self._process.stdin is not None:
            self._process.stdin.close()
        self.terminate()
        if await self.wait(patience) is None:
            self.kill()
            await self.wait(_KILL_WAIT)
        for pid in children:  # what a wrapper left behind
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if _POSIX else signal.SIGTERM)
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()  # pipes that a grandchild holds open would stay

    def last_lines(self, count: int = 8) -> list[str]:
        """What it printed last."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 8192))
            return file.read().decode(errors="replace").splitlines()[-count:]
        return []

    # --- measuring --------------------------------------------------------------------------------

    def tree(self) -> list[int]:
        """The process and all its descendants."""
        if self._process is None or not self.alive:
            return []
        children: dict[int, list[int]] = {}
        for pid, parent, _ in _table():
            children.setdefault(parent, []).append(pid)
        found = [self._process.pid]
        for one in found:
            found.extend(children.get(one, ()))
        return found

    def rss(self) -> int | None:
        """Resident bytes of the tree; None where that cannot be read."""
        mine = set(self.tree())
        sizes = [size for pid, _, size in _table() if pid in mine]
        return sum(sizes) if sizes else None

    def descriptors(self) -> int | None:
        """Open descriptors of the tree; None where that cannot be read."""
        if not sys.platform.startswith("linux"):
            return None
        count = 0
        for pid in self.tree():
            with suppress(OSError):
                count += len(os.listdir(f"/proc/{pid}/fd"))
        return count or None


def _table() -> list[tuple[int, int, int]]:
    """All processes: id, parent, resident bytes."""
    if sys.platform.startswith("linux"):
        return list(filter(None, map(_of_proc, filter(str.isdigit, os.listdir("/proc")))))
    if not _POSIX:
        return []
    done = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, timeout=10, check=False
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(int(row[0]), int(row[1]), int(row[2]) * 1024) for row in rows if len(row) == 3]


def _of_proc(pid: str) -> tuple[int, int, int] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(pid), int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
