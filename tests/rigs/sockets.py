"""Which process has a connection of loopback, by its port (Linux).

The kernel is asked for that one connection, by netlink (sock_diag(7)): to read all of them from `/proc/net/tcp` takes
70 ms where thousands have just ended, too long for who accepts them.
"""

from __future__ import annotations

import os
import socket
import struct

__all__ = ["has_connection"]

_SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, _NETLINK_SOCK_DIAG = 20, 1, 4
_ANY_STATE, _ANY_COOKIE = 0xFFFFFFFF, b"\xff" * 8
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_INODE = _HEADER.size + 68  # where it stands in the answer


def has_connection(pid: int, port: int, peer: int) -> bool:
    """Whether process `pid` has the socket of 127.0.0.1:`port` that is connected to 127.0.0.1:`peer`."""
    inode = _inode(port, peer)
    return inode != 0 and inode in _inodes(pid)


def _inode(port: int, peer: int) -> int:
    """Of that socket; 0: there is none (any more)."""
    here = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    wanted = struct.pack("!HH", port, peer) + here + here + struct.pack("=I", 0) + _ANY_COOKIE
    question = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + wanted
    head = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(5.0)
        kernel.send(head + question)
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return 0
    return int(struct.unpack_from("=I", answer, _INODE)[0])


def _inodes(pid: int) -> set[int]:
    """Of all that it has open; nothing where it has ended."""
    found: set[int] = set()
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.add(os.stat(f"/proc/{pid}/fd/{number}").st_ino)
            except OSError:  # closed meanwhile
                continue
    except OSError:
        pass
    return found
