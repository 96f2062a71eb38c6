"""The file of the SQLite store before SQLite sees it: its folder, its safety, its version, and who holds it.

Holding is a `flock` on ``PATH.lock`` beside the file. Why not SQLite's own locks alone: the version must be
read, and a newer file left alone, before SQLite may touch anything; and POSIX locks, SQLite's kind, are lost
when any part of the process opens and closes the file. `flock` belongs to the opening of the lock file, is
freed by the kernel however the process ends, holds between two stores of one process as well, and the file
has room for the holder's process id. SQLite's exclusive mode is a second fence, against other programs.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from tailrace.errors import StoreBusy, StoreError, StoreTooNew
from tailrace.stores.sqlite_tables import APPLICATION_ID, MIGRATIONS

if TYPE_CHECKING:
    import threading

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("tailrace.store")

__all__ = ["FileLock", "check_header", "mounted", "network_filesystem", "prepare_file", "prepare_folder"]

# Locks and fsync of these are not to be relied on, or another machine may write below us.
# fmt: off
_NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.davfs", "fuse.glusterfs",
    "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "smb2", "smb3", "smbfs",
})
# fmt: on
_HEADER = 100  # bytes; https://sqlite.org/fileformat.html section 1.3
_POLL = 0.05  # seconds between two tries at the lock
_TELL = 2.0  # seconds after which people are told what is waited for


def prepare_folder(path: Path, *, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Make the folder of `path` (0700) where it is missing.

    Raises:
        StoreError: It is on a network file system, or cannot be made.
    """
    kind = network_filesystem(path, mounts)
    if kind is not None:
        raise StoreError(f"{path} is on a network file system ({kind}), where SQLite is not safe: use a local disk")
    try:
        _make_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot make the folder of {path}: {error.strerror}") from error


def prepare_file(path: Path) -> None:
    """Make the file where it is missing, and make it and SQLite's side files private (0600). Call it holding the lock.

    Raises:
        StoreError: A symbolic link, not a file, another user's file, no permission.
    """
    try:
        for suffix in ("", "-wal", "-journal"):
            _make_private(Path(f"{path}{suffix}"), make=not suffix)
    except OSError as error:
        raise StoreError(f"cannot use {path} as the store: {error.strerror}") from error


def network_filesystem(path: Path, mounts: Path) -> str | None:
    """The type of the file system under `path` if that is a network's, else None (also where `mounts` is not there)."""
    kind = mounted(path, mounts)
    return kind if kind in _NETWORK else None


def mounted(path: Path, mounts: Path) -> str:
    """The type of the file system under `path`; an empty text where `mounts` is not there."""
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return ""
    place = os.path.realpath(path.parent)
    longest, kind = "", ""
    for line in lines:
        fields = line.split()
        point = os.fsdecode(fields[1].decode("unicode_escape").encode("latin-1"))  # spaces stand there as \040
        inside = point == "/" or place == point or place.startswith(f"{point}/")
        if inside and len(point) >= len(longest):  # of two on one point the later is on top
            longest, kind = point, fields[2].decode()
    return kind


def check_header(path: Path) -> int:
    """Read the version from the file's header, changing nothing. Call it while holding the lock.

    Returns:
        The version; 0 for an empty file.

    Raises:
        StoreTooNew: A newer Tailrace wrote it.
        StoreError: It is no SQLite database, or not one of Tailrace's.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    if not header:
        return 0
    if len(header) < _HEADER or not header.startswith(b"SQLite format 3\0"):
        raise StoreError(f"{path} is not a database: it is damaged, or another kind of file")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program, not a Tailrace store")
    version = int.from_bytes(header[60:64], "big")
    if version > len(MIGRATIONS):
        raise StoreTooNew(
            f"{path} was written by a newer Tailrace (version {version}, this one knows up to {len(MIGRATIONS)});"
            " it was left untouched: upgrade Tailrace, or use another file"
        )
    return version


class FileLock:
    """Holds a store's file against other processes, and other stores of this one, until `release` or death.

    Args:
        path: The store's file. The lock is ``PATH.lock``, which stays when it is released: removing it would race.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self, wait: float, stop: threading.Event) -> None:
        """Block until it is held; for the store's thread, never for the loop.

        Args:
            wait: Seconds to wait for another holder; 0 tries once.
            stop: Set from elsewhere, it ends the wait.

        Raises:
            StoreBusy: It was still held after `wait`, or `stop` was set.
            StoreError: The lock file cannot be made.
        """
        until = time.monotonic() + wait
        told = False
        while not self._try():
            left = until - time.monotonic()
            if not told and _TELL <= wait - left < wait:
                told = True
                logger.info("waiting for the store, held by %s path=%s seconds=%.0f", self._holder(), self._path, left)
            if left <= 0 or stop.wait(min(left, _POLL)):
                raise StoreBusy(
                    f"{self._path} is held by {self._holder()}, still so after {wait:g} s: only one server can use it"
                )

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _try(self) -> bool:
        if sys.platform == "win32":  # SQLite's exclusive mode alone has to do
            return True
        try:
            descriptor = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot make {self._path}.lock: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            raise StoreError(f"cannot lock {self._path}: {error.strerror}") from error
        self._descriptor = descriptor
        _held.add(self)
        return True

    def _holder(self) -> str:
        try:
            with open(f"{self._path}.lock", "rb") as file:
                pid = int(file.read(20))
        except (OSError, ValueError):
            return "another process"
        return "this process" if pid == os.getpid() else f"process {pid}"


# A forked child shares the lock with its parent, and would keep it after the parent's end.
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _release_in_child() -> None:
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new entry of `folder` outlive a power cut; of files in the store's own folder SQLite takes care."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private(path: Path, *, make: bool) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        if not make:
            return
        # From the start nobody else can open it, whatever the umask. SQLite gives its -wal the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return
    if stat.S_ISLNK(found.st_mode):
        raise StoreError(f"{path} is a symbolic link: give the path of the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is not a file")
    if sys.platform != "win32":
        if found.st_uid != os.geteuid() and os.geteuid() != 0:
            raise StoreError(f"{path} belongs to another user")
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o600)
