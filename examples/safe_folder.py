"""A folder that no path leads out of, for tools that take paths from strangers.

A path is opened one component after the other, each by its parent's descriptor, and no link is ever
followed: so not even a link that is put there between the look and the leap leads outside. Pipes, sockets
and devices are refused unopened, since opening one can wait for ever or have effects.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, TypeAlias

from tailrace import ToolError

__all__ = ["Entry", "Kind", "SafeFolder"]

Kind: TypeAlias = Literal["file", "folder", "link", "other"]
BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.scandir in os.supports_fd  # not on Windows


@dataclass
class Entry:
    """Something in a folder; `path` is relative to the SafeFolder's root."""

    path: str
    kind: Kind
    bytes: int


class SafeFolder:
    """Read-only access to what is below `root`. Every method may be used from any thread.

    Args:
        root: The folder; links in its own path are followed, once, now.
        max_file: Bytes; files larger than that are listed, but not read.

    Raises:
        NotADirectoryError: There is no such folder.
    """

    def __init__(self, root: str | Path, *, max_file: int = 16 * 1024 * 1024) -> None:
        self.root = Path(root).expanduser().resolve()
        self.max_file = max_file
        if not self.root.is_dir():
            raise NotADirectoryError(f"there is no folder {self.root}")

    def entries(self, path: str = ".") -> list[Entry]:
        """The entries of one folder, by name."""
        where = self._open(path, folder=True)
        found: list[Entry] = []
        try:
            with os.scandir(where) as items:
                for item in items:
                    with suppress(OSError):  # gone again
                        info = item.stat(follow_symlinks=False)
                        found.append(Entry(str(PurePath(path, item.name)), _kind(info.st_mode), info.st_size))
        except OSError as error:
            raise ToolError(f"cannot list {path!r}: {error.strerror}") from None
        finally:
            if isinstance(where, int):
                os.close(where)
        return sorted(found, key=lambda entry: entry.path)

    def walk(self, path: str = ".", *, skip: frozenset[str] = frozenset()) -> Iterator[Entry]:
        """Every entry below a folder, in a stable order, without what is in folders named in `skip`.

        A folder that vanishes meanwhile, or that may not be read, is passed over.
        """
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            try:
                inside = self.entries(folder)
            except ToolError:
                if folder == path:
                    raise
                continue
            yield from inside
            waiting += [e.path for e in reversed(inside) if e.kind == "folder" and PurePath(e.path).name not in skip]

    def lines(self, path: str) -> list[str]:
        """The lines of a text file.

        Raises:
            ToolError: It is not a regular file inside the folder, or it is too large, or it is not text.
        """
        with self._file(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = b"" if size > self.max_file else file.read(self.max_file + 1)  # it may have grown since
        if max(size, len(data)) > self.max_file:
            raise ToolError(f"{path!r} has {max(size, len(data)):,} bytes; files of up to {self.max_file:,} are read")
        if b"\0" in data[:8192]:
            raise ToolError(f"{path!r} is not a text file")
        return _split(data)

    def lines_after(self, path: str, position: int | None) -> tuple[int, list[str]]:
        """Whole lines from a position on (None: from the end on; at most 64 KiB), and the position after them."""
        with self._file(path) as file:
            size = file.seek(0, os.SEEK_END)
            if position is None or position > size:  # also when the file was cut short
                return size, []
            file.seek(position)
            data = file.read(64 * 1024)
        whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == 64 * 1024 else b"")
        return position + len(whole), _split(whole)

    def _file(self, path: str):
        descriptor = self._open(path, folder=False)
        return open(descriptor, "rb")

    def _open(self, path: str, *, folder: bool) -> int | Path:
        """Open for reading; the caller closes the descriptor.

        Returns:
            A descriptor; where the system cannot list by descriptor, a folder's checked path.

        Raises:
            ToolError: The path leads outside or through a link, is missing, or is of the wrong kind.
        """
        pure = PurePath(path)
        if pure.anchor or ".." in pure.parts:
            raise ToolError(f"{path!r} is outside the folder: give a path relative to it, without '..'")
        if not pure.parts and not folder:
            raise ToolError(f"{path!r} is a folder, not a file")
        try:
            if not BY_DESCRIPTOR:
                return self._open_checked(path, folder)
            here = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            for number, part in enumerate(pure.parts, 1):
                try:
                    there = _step(here, part, path, folder or number < len(pure.parts))
                finally:
                    os.close(here)
                here = there
            return here
        except (OSError, ValueError) as error:  # ValueError: no file can have such a name
            raise ToolError(f"cannot open {path!r}: {getattr(error, 'strerror', None) or error}") from None

    def _open_checked(self, path: str, folder: bool) -> int | Path:
        """Where folders have no descriptors: resolve, check, open, and check that it is the same file."""
        full = (self.root / path).resolve(strict=True)
        if not full.is_relative_to(self.root):
            raise ToolError(f"{path!r} is a link out of the folder")
        before = os.stat(full, follow_symlinks=False)
        _refuse_wrong_kind(before.st_mode, path, folder)
        if folder:
            return full
        return _same(before, os.open(full, os.O_RDONLY | getattr(os, "O_BINARY", 0)), path)


def _step(here: int, name: str, path: str, folder: bool) -> int:
    """Open one component by its parent's descriptor."""
    before = os.stat(name, dir_fd=here, follow_symlinks=False)
    _refuse_wrong_kind(before.st_mode, path, folder)
    return _same(before, os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here), path)


def _same(before: os.stat_result, descriptor: int, path: str) -> int:
    """Make sure that what was opened is what was looked at."""
    if os.path.samestat(before, os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    raise ToolError(f"{path!r} was exchanged while it was opened")


def _refuse_wrong_kind(mode: int, path: str, folder: bool) -> None:
    kind = _kind(mode)
    if kind == "link":
        raise ToolError(f"{path!r} is a link, or leads through one: links are not followed")
    if folder and kind != "folder":
        raise ToolError(f"{path!r} is not a folder")
    if not folder and kind != "file":
        raise ToolError(f"{path!r} is a folder, not a file" if kind == "folder" else f"{path!r} is not a regular file")


def _kind(mode: int) -> Kind:
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def _split(data: bytes) -> list[str]:
    lines = data.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
