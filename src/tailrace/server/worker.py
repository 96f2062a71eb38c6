"""A worker's side of `--workers`: the sockets it inherits, and what it tells the supervisor that started it.

The supervisor (`tailrace.cli.workers`) binds the sockets and keeps them, so that a worker's end loses no connection
that waits to be accepted: the next worker accepts it. It is told in lines of a pipe how far the worker is.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

__all__ = ["VARIABLE", "Worker"]

VARIABLE = "TAILRACE_WORKER"  # of a worker's environment


@dataclass(frozen=True, slots=True)
class Worker:
    """One of the processes that serve a service on one port.

    Attributes:
        index: Which, from 0 on.
        count: How many there are.
        listening: The descriptor of its listening socket.
        admin: That of its admin socket; None where none is wanted.
        report: That of the pipe to the supervisor.
    """

    index: int
    count: int
    listening: int
    admin: int | None
    report: int

    def encode(self) -> str:
        """For the environment."""
        numbers = (self.index, self.count, self.listening, -1 if self.admin is None else self.admin, self.report)
        return ":".join(map(str, numbers))

    @classmethod
    def of_environment(cls) -> Worker | None:
        """What the supervisor says, if there is one; said once: no child of ours takes itself for a worker."""
        text = os.environ.pop(VARIABLE, "")
        if not text:
            return None
        index, count, listening, admin, report = map(int, text.split(":"))
        for descriptor in (listening, admin, report):
            if descriptor >= 0:
                os.set_inheritable(descriptor, False)
        return cls(index, count, listening, None if admin < 0 else admin, report)

    def socket(self) -> socket.socket:
        """Its listening socket."""
        return socket.socket(fileno=self.listening)

    def admin_socket(self) -> socket.socket:
        """Its admin socket."""
        assert self.admin is not None
        return socket.socket(fileno=self.admin)

    def say(self, line: str) -> None:
        """Tell the supervisor: ``loaded``, or ``ready`` with what the ready line says."""
        with contextlib.suppress(OSError):  # it is gone, and so are we in a moment
            os.write(self.report, f"{line}\n".encode())
