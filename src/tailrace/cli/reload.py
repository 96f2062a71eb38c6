"""`tailrace run --reload`: a parent that starts the server again when a `.py` file near its target changes.

The parent looks at the files' times twice a second. That needs no dependency and also works where the system tells of
no changes (mounted folders, containers); it costs one `stat` a file, of at most 10,000. Files that do not compile leave
the server that runs alone. The server is a child in a group of its own, so that a terminal's Ctrl-C reaches it once,
through the parent; when the parent dies, however it does, the child ends (`end_with_parent`).

What survives a restart is the store's affair.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import click

__all__ = ["PARENT", "Files", "Supervisor", "end_with_parent", "folders_of", "free_port"]

_TICK = 0.1  # seconds between two looks at the child and at signals
_LOOK = 0.5  # seconds between two looks at the files
_MARGIN = 3.0  # seconds that the child gets beyond its own limits, before it is killed
_MAX_FILES = 10_000
_POSIX = os.name == "posix"
PARENT = "TAILRACE_RELOAD_PIPE"  # of the child's environment: the descriptor that ends with the parent
_SKIPPED = {"__pycache__", "node_modules", "site-packages"}

Seen = Mapping[str, tuple[int, int]]  # by path: time of the last change, and size


class Files:
    """The `.py` files below some folders; hidden folders, virtual environments and links to folders are left out."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)
        self.too_many = False

    def look(self) -> Seen:
        """What is there now, at most 10,000 files."""
        seen: dict[str, tuple[int, int]] = {}
        for entry in self._each():
            if len(seen) == _MAX_FILES:
                self.too_many = True
                break
            with contextlib.suppress(OSError):  # gone since
                found = entry.stat()
                seen[entry.path] = (found.st_mtime_ns, found.st_size)
        return seen

    def _each(self) -> Iterator[os.DirEntry[str]]:
        folders = [str(folder) for folder in self._folders]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    here = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                continue
            if any(entry.name == "pyvenv.cfg" for entry in here):
                continue
            for entry in here:
                if entry.name.startswith(".") or entry.name in _SKIPPED:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.name.endswith(".py"):
                    yield entry


def changed(before: Seen, after: Seen) -> list[str]:
    """The files that are new, gone or not as they were."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def folders_of(target: str) -> list[Path]:
    """Where the code of a TARGET is; nothing of it is imported.

    Raises:
        click.UsageError: There is no such file or module.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not all(part.isidentifier() for part in name.split(".")):
        where = target
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise click.UsageError(f"there is no file {where}.")
        return [Path(where).resolve().parent]
    top = where.partition(".")[0]
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None:
        raise click.UsageError(f"{where!r} is neither a file nor a module: give file.py, file.py:svc or pkg.mod:svc.")
    if spec.submodule_search_locations:
        return [Path(folder).resolve() for folder in spec.submodule_search_locations]
    return [Path(spec.origin).resolve().parent] if spec.origin else [Path.cwd()]


def free_port(host: str) -> int:
    """A port that is free now: all lives of the server have to listen on the same one."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.bind((host, 0))
        return one.getsockname()[1]


class Supervisor:
    """Runs one command, and again when a file has changed, until a signal ends both.

    Args:
        command: The server's command line.
        files: What is watched.
        limit: Seconds that the server may take to end after a signal, by its own limits.
        say: Tells the user.
    """

    def __init__(self, command: Sequence[str], files: Files, *, limit: float, say: Callable[[str], object]) -> None:
        self._command = list(command)
        self._files = files
        self._limit = limit + _MARGIN
        self._say = say
        self._child: subprocess.Popen[bytes] | None = None
        self._ends: tuple[int, ...] = ()  # of the pipe that ends with this process
        self._signals: list[int] = []

    def run(self) -> int:
        """Until the end; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        if _POSIX:
            self._ends = os.pipe()
        try:
            return self._watch()
        finally:
            if self._child is not None and self._child.poll() is None:
                self._child.kill()
                self._child.wait()

    def _watch(self) -> int:
        seen = self._files.look()
        if self._files.too_many:
            self._say(f"more than {_MAX_FILES} files; the rest is not watched")
        first, looked = True, time.monotonic()
        self._start()
        while True:
            time.sleep(_TICK)
            if self._signals:
                return self._end()
            if self._child is not None and (code := self._child.poll()) is not None:
                self._child = None
                if code == 0 or (first and code == 2):  # it was told to end; or it was asked for wrongly
                    return code
                self._say(f"the server ended with code {code}; waiting for a change")
            if time.monotonic() - looked < _LOOK:
                continue
            now, looked = self._files.look(), time.monotonic()
            if now == seen:
                continue
            now = self._settled(now)
            paths, seen, looked = changed(seen, now), now, time.monotonic()
            if (wrong := _does_not_compile(paths)) is not None:
                self._say(f"not restarted: {wrong}")
                continue
            first = False
            self._say(f"{_named(paths)} changed; restarting")
            self._end()
            if self._signals:
                return 0
            _forget_compiled(paths)
            self._start()

    def _settled(self, now: Seen) -> Seen:
        """Wait until the files stay as they are: an editor writes several, a checkout many; for at most 5 s."""
        for _ in range(50):
            time.sleep(_TICK)
            before, now = now, self._files.look()
            if now == before:
                break
        return now

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "TAILRACE_RELOAD"}
        kept: tuple[int, ...] = ()
        if self._ends:
            kept = self._ends[:1]
            environment[PARENT] = str(kept[0])
        self._child = subprocess.Popen(self._command, env=environment, start_new_session=_POSIX, pass_fds=kept)

    def _end(self) -> int:
        """End the child: SIGTERM (or the signal that came), each further signal passed on, SIGKILL after the limit."""
        child, self._child = self._child, None
        if child is None:
            return 0
        number, passed = (self._signals or [signal.SIGTERM])[0], len(self._signals[:1])
        until = time.monotonic() + self._limit
        with contextlib.suppress(OSError):
            child.send_signal(number)
        while child.poll() is None:
            if len(self._signals) > passed:
                with contextlib.suppress(OSError):
                    child.send_signal(self._signals[passed])
                passed += 1
            if time.monotonic() > until:
                self._say(f"the server did not end within {self._limit:g} s and was killed")
                child.kill()
                child.wait()
                return 1
            time.sleep(_TICK)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)


def end_with_parent() -> None:
    """In the child: end as by SIGTERM when the parent is gone. Without a parent that reloads, nothing."""
    number = os.environ.pop(PARENT, "")
    if not number.isdecimal():
        return

    def watch(descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 1):  # nothing is ever written: it returns at the parent's end
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    os.set_inheritable(int(number), False)
    threading.Thread(target=watch, args=(int(number),), name="tailrace-reload", daemon=True).start()


def _does_not_compile(paths: Sequence[str]) -> str | None:
    for path in paths:
        try:
            compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
        except FileNotFoundError:
            continue
        except SyntaxError as error:
            return f"{path}:{error.lineno}: {error.msg}"
        except (OSError, ValueError) as error:
            return f"{path}: {error}"
    return None


def _forget_compiled(paths: Sequence[str]) -> None:
    """Remove what Python keeps of these files.

    It knows them by size and whole second: an edit in the second of the last one that leaves the size alone would be
    missed, and the old code served for good.
    """
    for path in paths:
        for level in ("", "1", "2"):
            with contextlib.suppress(OSError):  # there is none, or it belongs to somebody else
                os.unlink(importlib.util.cache_from_source(path, optimization=level))


def _named(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
