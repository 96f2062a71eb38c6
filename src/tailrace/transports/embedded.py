"""uvicorn inside our own process: it moves bytes, and leaves signals, logs and the end to us."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks

__all__ = ["Embedded"]


class Embedded:
    """Serves an ASGI application on a listening socket.

    Args:
        app: The application; it is started and stopped by us, so no lifespan is run.
        listening: Where to accept.
        tls: Certificate and key files, or None.
        tasks: Where its task runs.
        settings: Of its limits uvicorn knows the idle time, the number of connections (to one more it answers 503)
            and, where it parses with h11, the size of a request's head.
    """

    def __init__(
        self, app: Any, listening: socket.socket, tls: tuple[str, str] | None, tasks: Tasks, settings: Settings
    ) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(settings.idle_time),
            limit_concurrency=settings.max_connections,
            h11_max_incomplete_event_size=settings.max_headers,
            backlog=2048,
            ssl_certfile=tls[0] if tls else None,
            ssl_keyfile=tls[1] if tls else None,
        )
        self._server = _Server(config)
        self._listening = listening
        self._tasks = tasks
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Begin to accept."""
        self._tasks.start(self._run(), name="tailrace-uvicorn")

    async def _run(self) -> None:
        try:
            await self._server.serve(sockets=[self._listening])
        finally:
            self._ended.set()

    def retire(self) -> None:
        """Stop accepting: another process listens on the same socket."""
        for server in getattr(self._server, "servers", ()):
            server.close()

    async def vacated(self, seconds: float) -> bool:
        """Do not wait: its clients are not let go one by one."""
        return True

    async def close(self, seconds: float) -> None:
        """Stop accepting, let connections finish for `seconds`, then cut them."""
        self._server.should_exit = True
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            self._server.force_exit = True
            for connection in list(self._server.server_state.connections):
                transport = getattr(connection, "transport", None)
                if transport is not None:
                    transport.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ended.wait()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are ours: the drain begins with them, and the exit code stays 0."""
        yield
