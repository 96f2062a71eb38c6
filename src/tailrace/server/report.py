"""What a process says of itself: that it is ready, and that it lives.

Where it is one of several workers, it is the supervisor who is told (`worker`), and who tells people.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tailrace.server.admin import Admin

if TYPE_CHECKING:
    from tailrace.server.control import Control
    from tailrace.server.server import Server
    from tailrace.server.worker import Worker

__all__ = ["Report"]

_SIGN_OF_LIFE = 1.0  # seconds between two that a worker gives


class Report:
    """Says when it is ready: on stderr, or to the supervisor, which says it when all of its workers are.

    Args:
        running: The server.
        url: Where it is reached, as people write it.
        door: Its admin address, if it has one; a worker's is its supervisor's.
        worker: The line to the supervisor; None: there is none.
    """

    def __init__(self, running: Server, url: str, door: Admin | Control | None, worker: Worker | None = None) -> None:
        self._running = running
        self._url = url
        self._door = door
        self._worker = worker

    @property
    def is_worker(self) -> bool:
        """Others serve on the same port."""
        return self._worker is not None

    def loaded(self) -> None:
        """The service's code is there and the flags make sense; the store comes next."""
        if self._worker is not None:
            self._worker.say("loaded")

    def ready(self) -> None:
        """Requests are served."""
        running, settings = self._running, self._running.settings
        durable = "" if running.store.durable else " (not durable)"
        facts = f"url={self._url} store={running.store_name}{durable} drain={settings.drain:g}"
        if self._worker is not None:
            self._worker.say(f"ready {facts}")
            self._live(self._worker)
        else:
            admin = f" admin={self._door.front}" if isinstance(self._door, Admin) else ""
            print(f"tailrace ready {facts}{admin}", file=sys.stderr, flush=True)

    def _live(self, worker: Worker) -> None:
        """A sign of life, again and again, as long as the loop turns."""
        worker.say("")
        self._running.tasks.loop.call_later(_SIGN_OF_LIFE, self._live, worker)
