"""A port that has to be known before its server starts, which no other test takes meanwhile.

A port that is bound, read and let go may be gone before the server binds it: the system gives it to the next
connection, or to another process of the tests. These ports lie below those that the system gives away, and each is
locked for as long as this process lives.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

__all__ = ["free_port"]

_COUNT = 12_000
_taken: set[int] = set()
_locks: int | None = None  # a descriptor: the byte of a port's number is locked until this process ends


def free_port() -> int:
    """A port on loopback on which nobody listens; no process of the tests that runs now is given it again."""
    lowest_given = _lowest_given()
    global _locks
    if _locks is None:  # one for good: to close any descriptor of the file would let go of all its locks
        path = Path(tempfile.gettempdir()) / f"tailrace-test-ports-{os.getuid()}"
        _locks = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for port in random.sample(range(lowest_given - _COUNT, lowest_given), _COUNT):
        if port in _taken:
            continue
        try:
            fcntl.lockf(_locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            continue
        _taken.add(port)
        if _is_free(port):
            return port
    raise RuntimeError("no port is free")


def _lowest_given() -> int:
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):  # not Linux: 49152 and up by convention
        lowest = 32_768
    return max(lowest, 1024 + _COUNT)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
