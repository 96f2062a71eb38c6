"""A worker's side of `--workers`: the sockets it inherits, and what it tells the supervisor that started it.

The supervisor (`tailrace.cli.workers`) binds the sockets and keeps them, so that a worker's end loses no connection
that waits to be accepted: the next worker accepts it. It is told in lines of a pipe how far the worker is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
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
        control: That of the socket on which it answers what the admin address is asked; None where there is none.
        report: That of the pipe to the supervisor.
        life: 0 or 1: other than that of the process that it replaces.
    """

    index: int
    count: int
    listening: int
    control: int | None
    report: int
    life: int = 0

    def encode(self) -> str:
        """For the environment."""
        control = -1 if self.control is None else self.control
        return ":".join(map(str, (self.index, self.count, self.listening, control, self.report, self.life)))

    @classmethod
    def of_environment(cls) -> Worker | None:
        """What the supervisor says, if there is one; said once: no child of ours takes itself for a worker."""
        text = os.environ.pop(VARIABLE, "")
        if not text:
            return None
        index, count, listening, control, report, life = map(int, text.split(":"))
        for descriptor in (listening, control, report):
            if descriptor >= 0:
                os.set_inheritable(descriptor, False)
        return cls(index, count, listening, None if control < 0 else control, report, life)

    def socket(self) -> socket.socket:
        """Its listening socket."""
        return socket.socket(fileno=self.listening)

    def numbers(self) -> Iterator[int]:
        """Numbers that no other worker gives, nor the process that this one replaces, as long as both live."""
        first = self.index + self.count * self.life
        return itertools.count(first + 1, 2 * self.count)

    def say(self, line: str) -> None:
        """Tell the supervisor: ``loaded``, or ``ready`` with what the ready line says."""
        with contextlib.suppress(OSError):  # it is gone, and so are we in a moment
            os.write(self.report, f"{line}\n".encode())
