"""What the listener asks of sockets: who can reach them, what their peers took, and that dead peers are noticed."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, cast

from tailrace.transports import guard

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    import asyncio

__all__ = ["is_loopback", "unsent", "watch_for_vanished"]


def is_loopback(address: Any) -> bool:
    """Does a socket with this name take connections of this machine only? A Unix socket's is no tuple."""
    return not isinstance(address, tuple) or guard.is_loopback(str(cast("Any", address)[0]).partition("%")[0])


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not taken: ours and, where the system says (Linux), the kernel's.

    The kernel asks for more only when a third of its buffer, which can be megabytes, is free again. Seen from
    our own buffer, a reader of 40 kB/s takes nothing for half a minute.
    """
    own = transport.get_write_buffer_size()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            own += struct.unpack("i", queued)[0]
    return own


def watch_for_vanished(listening: socket.socket, seconds: float) -> None:
    """A peer that vanished without a FIN is noticed as a stall is, though nothing is written to it.

    Accepted sockets inherit these options, where the system has them.
    """
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        return
    limit = max(1, int(seconds))
    options = {"TCP_USER_TIMEOUT": limit * 1000, "TCP_KEEPIDLE": limit, "TCP_KEEPINTVL": max(1, limit // 3)}
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
