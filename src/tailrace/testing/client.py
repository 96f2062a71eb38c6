"""A client of a `RunningService`: as `tailrace.mcp.Client`, and its connection fails when a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tailrace.mcp import Client
from tailrace.server.inmemory import open_conversation
from tailrace.testing.recorder import Recorder
from tailrace.testing.virtual_time import hold_while_busy

if TYPE_CHECKING:
    from tailrace.clients.mcp import Link, LogMessage
    from tailrace.clients.mcp.links import MemoryLink
    from tailrace.service import Service
    from tailrace.testing.server import RunningService

__all__ = ["MemoryClient"]


class MemoryClient(Client):
    """One connection to a service that runs in this process; made by `connected` or `RunningService.client`.

    Attributes:
        server: The service that it talks to.
        recorder: What it was told.

    Args:
        server: Which runs.
        options: As of `tailrace.mcp.Client`; its callbacks are called as well as the recorder.
    """

    def __init__(
        self,
        server: RunningService,
        *,
        on_log: Callable[[LogMessage], object] | None = None,
        on_notification: Callable[[str, Any], object] | None = None,
        on_warning: Callable[[str], object] | None = None,
        **options: Any,
    ) -> None:
        self.server = server
        self.recorder = recorder = Recorder()
        self._flows = asyncio.Event()
        self._flows.set()
        self._memory: MemoryLink | None = None
        self._seconds_to_end = 0.0  # seconds for the end of the conversation
        super().__init__(
            server.service,
            on_log=_both(recorder.log, on_log),
            on_notification=_both(recorder.notification, on_notification),
            on_warning=_both(recorder.warning, on_warning),
            **options,
        )

    def stop_reading(self) -> None:
        """Read nothing from now on: the peer that is too slow. The server gives it up after its ``stall`` (30 s)."""
        self._flows.clear()

    def resume_reading(self) -> None:
        """Read again, also what was sent meanwhile."""
        self._flows.set()

    async def disconnect(self) -> None:
        """Break the connection, as a killed client does: calls in flight fail here with a `TransportError`.

        Returns when the server is done with it: has waited ``eof_drain`` (1.5 s) for what ran, and cancelled the rest.
        """
        if self._memory is not None:
            self._memory.lose("the client has disconnected")
            self._flows.set()
            await self._memory.close(self._seconds_to_end)

    async def _link_to_service(self, service: Service) -> Link:
        self._seconds_to_end = self.server.limit
        self._memory = open_conversation(self.server.now, flows=self._flows)
        if self._tasks is not None:
            hold_while_busy(self._tasks.threads)
        return self._memory


def _both(first: Callable[..., None], second: Callable[..., object] | None) -> Callable[..., None]:
    if second is None:
        return first

    def call(*args: Any) -> None:
        first(*args)
        second(*args)

    return call
