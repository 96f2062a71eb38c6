"""Listening sockets of a server process: their files are cleared and removed, their addresses written for people."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Generator
from typing import Any

__all__ = ["listen", "listening", "unlink", "url_of"]

BACKLOG = 2048


@contextlib.contextmanager
def listening(host: str, port: int, uds: str | None) -> Generator[socket.socket]:
    """A listening socket, and its file if it has one, for the time of a block."""
    bound_socket = listen(host, port, uds)
    bound = os.stat(uds) if uds else None
    try:
        yield bound_socket
    finally:
        bound_socket.close()
        if uds and bound:
            unlink(uds, bound)


def listen(host: str, port: int, uds: str | None, *, shared: bool = False) -> socket.socket:
    """A bound, listening socket; the error of one that is in use names it.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 picks one.
        uds: Path of a Unix socket, instead.
        shared: Others listen on the same port, each with a socket of its own (``SO_REUSEPORT``).
    """
    if uds is not None:
        _unlink_stale(uds)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: Any = uds
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Only of sockets that name their protocol asyncio turns Nagle's algorithm off; with it, each reply that is
        # written in two pieces (uvicorn's) waits 40 ms for the client's delayed ACK.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        address = (host, port)
    try:
        if uds is not None:
            previous = os.umask(0o177)
            try:
                bound.bind(address)
            finally:
                os.umask(previous)
        else:
            bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        where = uds or f"{host}:{port}"
        why = os.strerror(error.errno) if error.errno else str(error)  # a path that is too long has no number
        raise OSError(error.errno, f"cannot listen on {where}: {why}") from None
    return bound


def _unlink_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more; one that answers is in use, and a file is none of ours."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return  # it refuses a connection just like a stale socket; `bind` says that it is in the way
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except TimeoutError:
                pass  # somebody is there, and busy


def unlink(path: str, bound: os.stat_result) -> None:
    """Remove our socket, unless another process put its own there meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), bound):
            os.unlink(path)


def url_of(bound: socket.socket, host: str, uds: str | None, tls: bool) -> str:
    """The address as people write it."""
    if uds is not None:
        return f"unix:{uds}"
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{bound.getsockname()[1]}"
