"""A SQLite store: the file and its disk. Nothing of it is changed.

What a server would refuse at its start is refused by the same code (`stores.sqlite_file`); what only costs something
is measured beside the file. A file that a server holds is not opened.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from tailrace.cli.doctor.findings import Finding, ok, risk, warn

__all__ = ["examine_sqlite"]

_MOUNTS = Path("/proc/self/mounts")
_GONE_AT_REBOOT = frozenset({"tmpfs", "ramfs"})
_GONE_WITH_CONTAINER = frozenset({"overlay", "aufs"})
_LITTLE, _TOO_LITTLE = 1 << 30, 64 << 20  # bytes free
_SYNCS = 11
_SLOW = 0.020  # seconds of one fsync
_READ_LIMIT = 30.0  # seconds for the integrity check


def examine_sqlite(path: Path, *, mounts: Path = _MOUNTS) -> list[Finding]:
    """Look at the store in the file `path`; the folder at least has to be there."""
    name = f"sqlite:{path}"
    if not path.parent.is_dir():
        return [
            risk(
                name,
                "file",
                f"there is no folder {path.parent}",
                "Nothing is kept there yet; the server makes the folder at its first start, if it may.",
            )
        ]
    found = [_filesystem(name, path, mounts), _space(name, path), _rights(name, path), _fsync(name, path)]
    return found + _contents(name, path)


def _filesystem(name: str, path: Path, mounts: Path) -> Finding:
    from tailrace.stores.sqlite_file import mounted, network_filesystem

    kind = mounted(path, mounts)
    if network_filesystem(path, mounts) is not None:
        return risk(
            name,
            "disk",
            f"a network file system ({kind})",
            "Its locks and syncs are not to be relied on: servers refuse to start there. Use a local disk, or "
            "--store valkey://.",
        )
    if kind in _GONE_AT_REBOOT:
        return risk(name, "disk", f"memory ({kind})", "All of it is gone when the machine restarts: use a disk.")
    if kind in _GONE_WITH_CONTAINER:
        return warn(
            name,
            "disk",
            f"a container's own layer ({kind})",
            "All of it is gone with the container: mount a volume there.",
        )
    return ok(name, "disk", f"a local file system{f' ({kind})' if kind else ''}")


def _space(name: str, path: Path) -> Finding:
    free = shutil.disk_usage(path.parent).free
    saw = f"{free / 2**30:.1f} GiB free"
    if free < _TOO_LITTLE:
        return risk(name, "space", saw, "A full disk refuses every commit, and so every new call: make room.")
    if free < _LITTLE:
        return warn(
            name, "space", saw, "Streams alone may keep 512 MiB, and SQLite's log grows beside the file: make room."
        )
    return ok(name, "space", saw)


def _rights(name: str, path: Path) -> Finding:
    folder = path.parent.stat()
    try:
        found = path.lstat()
    except FileNotFoundError:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            return risk(name, "rights", "the folder cannot be written to", "No server of this user can start there.")
        return ok(name, "rights", "no file yet; it will be made for its owner alone (0600)")
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISREG(found.st_mode):
        return risk(name, "rights", "a link, or no file", "Servers refuse it: give the path of the file itself.")
    uid = os.geteuid() if hasattr(os, "geteuid") else found.st_uid
    if found.st_uid != uid:
        return risk(
            name,
            "rights",
            f"it belongs to user {found.st_uid}, this is user {uid}",
            "A server of this user refuses it: run the server, and the doctor, as its owner.",
        )
    if os.name == "posix" and stat.S_IMODE(found.st_mode) & 0o077:
        return warn(
            name,
            "rights",
            f"mode {stat.S_IMODE(found.st_mode):04o}",
            "Others can read arguments and answers; the next start makes it 0600.",
        )
    if os.name == "posix" and folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX:
        return warn(
            name,
            "rights",
            f"others may write to its folder ({stat.S_IMODE(folder.st_mode):04o})",
            "They can replace the file: chmod 0700 the folder.",
        )
    return ok(name, "rights", "its owner's alone")


def _fsync(name: str, path: Path) -> Finding:
    """What a commit waits for, in a file of our own beside it."""
    took: list[float] = []
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".tailrace-doctor-") as file:
            for _ in range(_SYNCS):
                began = time.perf_counter()
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - began)
    except OSError as error:
        return risk(
            name, "commit", f"a file beside it cannot be written: {error.strerror}", "Nothing can be committed there."
        )
    median = sorted(took)[len(took) // 2]
    saw = f"{median * 1000:.1f} ms for 4 KiB to reach the disk (the middle of {len(took)})"
    if median > _SLOW:
        return warn(
            name,
            "commit",
            saw,
            "Every call over HTTP+SSE, every one of more than 50 ms and every key waits for that: use a faster disk.",
        )
    return ok(name, "commit", saw)


def _contents(name: str, path: Path) -> list[Finding]:
    from tailrace.errors import StoreBusy, StoreError
    from tailrace.stores.sqlite_file import FileLock, check_header

    if not path.is_file():
        return []
    lock = FileLock(path)
    try:
        version = check_header(path)
    except StoreError as error:
        return [risk(name, "contents", str(error), "No server starts on it: restore a copy, or give another file.")]
    try:
        lock.acquire(0.0, threading.Event())
    except StoreBusy as error:
        holder = str(error).partition("held by ")[2].partition(",")[0]
        return [ok(name, "contents", f"version {version}; {holder} holds it, so it was not read")]
    try:
        return _read(name, path, version)
    finally:
        lock.release()


def _read(name: str, path: Path, version: int) -> list[Finding]:
    until = time.monotonic() + _READ_LIMIT
    sides = [Path(f"{path}{suffix}") for suffix in ("-wal", "-shm")]
    made = [side for side in sides if not side.exists()]  # by SQLite, to read the file with; servers want none
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            return [
                warn(
                    name,
                    "contents",
                    f"not read through within {_READ_LIMIT:g} s",
                    "Check it with sqlite3 at leisure: PRAGMA quick_check.",
                )
            ]
        return [risk(name, "contents", f"cannot be read: {error}", "No server starts on it: restore a copy.")]
    except sqlite3.DatabaseError as error:
        return [
            risk(
                name,
                "contents",
                f"damaged: {error}",
                "Accepted calls in it may be lost: restore a copy, and look at the disk.",
            )
        ]
    finally:
        for side in made:
            side.unlink(missing_ok=True)
    if problems != ["ok"]:
        return [
            risk(
                name,
                "contents",
                f"damaged: {problems[0]}",
                "Accepted calls in it may be lost: restore a copy, and look at the disk.",
            )
        ]
    found = [ok(name, "contents", f"version {version}, sound (quick_check)")]
    if version and mode != "wal":
        found.append(
            warn(name, "journal", f"journal mode {mode}", "Another program changed it; the next start sets WAL.")
        )
    return found
