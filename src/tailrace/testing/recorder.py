"""What a client was told beside its answers: progress, log messages, notifications, warnings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.clients.mcp import LogMessage

__all__ = ["Recorder"]


class Recorder:
    """Keeps in lists what it is told; its methods fit a client's options (``on_log=recorder.log`` and the like).

    A `MemoryClient` has one already. For progress say it with the call: ``progress=client.recorder.progress``.

    Attributes:
        steps: (done, total, message) of each report of progress.
        logs: The server's log messages.
        notifications: (method, params) of all others.
        warnings: What the client found odd.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[float, float | None, str | None]] = []
        self.logs: list[LogMessage] = []
        self.notifications: list[tuple[str, Any]] = []
        self.warnings: list[str] = []
        self._told = asyncio.Event()

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Take one report."""
        self.steps.append((done, total, message))
        self._told.set()

    def log(self, message: LogMessage) -> None:
        """Take one log message."""
        self.logs.append(message)
        self._told.set()

    def notification(self, method: str, params: Any) -> None:
        """Take one notification."""
        self.notifications.append((method, params))
        self._told.set()

    def warning(self, text: str) -> None:
        """Take one warning."""
        self.warnings.append(text)
        self._told.set()

    async def until(self, true: Callable[[Recorder], object], *, timeout: float = 5.0) -> None:
        """Wait until `true(recorder)`, which is asked now and whenever something was told.

        Args:
            true: Looks at the lists.
            timeout: Seconds.

        Raises:
            TimeoutError: It never was.
        """
        async with asyncio.timeout(timeout):
            while not true(self):
                self._told.clear()
                await self._told.wait()
