"""The two descriptors of a stdio server, put out of reach of the code that shares its process.

That code prints, logs and starts programs. So `guard` takes standard input and output for the protocol before it is
imported. Their bytes are moved by `stdio`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from dataclasses import dataclass

from tailrace.errors import TransportError

__all__ = ["Pipes", "guard"]


@dataclass(frozen=True, slots=True)
class Pipes:
    """The protocol's own two descriptors, out of reach of `print` and of subprocesses.

    They belong to the process, whose end closes them: a thread may still stand in a read.
    """

    read_fd: int
    write_fd: int


_guarded: Pipes | None = None


def guard() -> Pipes:
    """Take standard input and output for the protocol; from then on `print` goes to standard error.

    Descriptor 0 becomes the null device and descriptor 1 a second standard error, also for C code and
    for subprocesses; `sys.stdin` and `sys.stdout` follow. Text that was printed before but sits in a
    buffer goes to standard error as well. Must run before the user's module is imported. Idempotent.

    Raises:
        TransportError: Standard input or output was closed when the process started.
    """
    global _guarded
    if _guarded is None:
        # Closed at the start, the number may by now belong to something else: Python says None then.
        if sys.__stdin__ is None or sys.__stdout__ is None:
            raise TransportError("standard input or output is closed: there is nobody to talk to over stdio")
        try:
            _guarded = Pipes(_private(0), _own_terminal(1) or _private(1))
        except OSError as error:
            raise TransportError(f"standard input or output cannot be used: {error}") from error
        _repoint()
    return _guarded


def _private(fd: int) -> int:
    """A duplicate that no program we start inherits, above 2 even where standard error is closed."""
    if sys.platform == "win32":
        import msvcrt

        copy = os.dup(fd)
        msvcrt.setmode(copy, os.O_BINARY)
        return copy
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _own_terminal(fd: int) -> int | None:
    """Open the terminal behind `fd` once more, or None.

    A terminal says that it has room when there is room for one byte, and blocks on the others. A
    description of its own can be non-blocking without harm to the shell that shares it.
    """
    if sys.platform == "win32" or not stat.S_ISCHR(os.fstat(fd).st_mode) or not os.isatty(fd):
        return None
    with contextlib.suppress(OSError):
        return os.open(os.ttyname(fd), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)  # close-on-exec by default
    return None


def _repoint() -> None:
    """Put the null device and standard error in the places of standard input and output."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if null == 2:  # standard error was closed; it stays so, without the next file taking its place
        os.set_inheritable(2, True)
    else:
        os.close(null)
    os.dup2(2, 1)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()  # only now, when it can do no harm
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  both live as long as the process
    # Line by line even where standard error is a file: a stray print shall be seen when it happens.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
