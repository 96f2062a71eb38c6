"""What went wrong, in one line, with what to do about it; a traceback is for bugs only."""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

__all__ = ["explained"]

_HINTS = {
    errno.EADDRINUSE: "choose another with --port (0 picks a free one) or --uds, or stop what listens there",
    errno.EADDRNOTAVAIL: "this machine has no such address; see --host",
    errno.EACCES: "no permission; ports below 1024 need privileges",
    errno.EPERM: "no permission",
    errno.ECONNREFUSED: "nothing listens there; is the server running?",
}


_HOME = str(Path(__file__).parents[1])


@contextmanager
def explained(*, debug: bool = False) -> Generator[None]:
    """Turn the errors that are to be expected into one line and an exit code: 2 for wrong use, else 1.

    Args:
        debug: Let every exception through as it is, with its traceback.

    Raises:
        click.ClickException: In place of `TailraceError` and of the socket errors that have a known cause.
    """
    try:
        yield
    except Exception as error:
        replacement = None if debug else _explanation(error)
        if replacement is None:
            raise
        raise replacement from None


def _explanation(error: Exception) -> click.ClickException | None:
    """None for what nobody expected, which is better seen whole."""
    from tailrace.errors import DefinitionError, StoreBusy, StoreTooNew, TailraceError

    if isinstance(error, click.ClickException):
        return error
    if isinstance(error, DefinitionError):
        return click.UsageError(str(error))
    if isinstance(error, StoreBusy):
        return click.ClickException(f"{error}\nStop the other process, or give this one another --store.")
    if isinstance(error, StoreTooNew):
        return click.ClickException(f"{error}\nUpdate tailrace, or give another --store.")
    if isinstance(error, TailraceError):
        return click.ClickException(str(error) or type(error).__name__)
    if isinstance(error, TimeoutError):
        return click.ClickException(str(error) or "it took too long; see --timeout")
    if _NOTE in getattr(error, "__notes__", ()):
        return _Broken(error)
    if isinstance(error, OSError):
        return _socket_explanation(error)
    return None


_NOTE = "raised by the service's lifespan"  # `server.lifespan` puts it there, and is not imported for it


class _Broken(click.ClickException):
    """The user's own code failed: one line, and the traceback from there on."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the service's lifespan failed: {type(error).__name__}: {error}")
        self.trace = error.__traceback__

    def show(self, file: Any = None) -> None:
        frames = traceback.extract_tb(self.trace)
        ours = [
            number for number, frame in enumerate(frames) if frame.filename.startswith((_HOME, contextlib.__file__))
        ]
        click.echo("".join(traceback.format_list(frames[ours[-1] + 1 if ours else 0 :])), err=True, nl=False)
        super().show(file)


def _socket_explanation(error: OSError) -> click.ClickException | None:
    import socket
    import ssl

    if isinstance(error, socket.gaierror):
        return click.ClickException(f"there is no such address: {error.strerror}; see --host")
    if isinstance(error, ssl.SSLError):
        return click.ClickException(f"TLS: {error.reason or error}; see --tls-cert and --tls-key")
    code = error.errno or 0
    if str(error.strerror).startswith("cannot listen on") and code not in _HINTS and code >= 0:
        return click.ClickException(str(error.strerror))
    hint = _HINTS.get(code, "there is no such address; see --host" if code < 0 else "")  # below 0: getaddrinfo's
    return click.ClickException(f"{error.strerror or error}: {hint}") if hint else None
