"""What the listener asks of sockets: whether others can reach them, and that dead peers are noticed."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any

__all__ = ["is_loopback", "watch_for_vanished"]


def is_loopback(address: Any) -> bool:
    """Does a socket with this name take connections of this machine only?"""
    if not isinstance(address, tuple):
        return True  # a Unix socket
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(address[0].partition("%")[0])  # type: ignore[reportUnknownMemberType]
        return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
    return False


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
