"""SIGTERM and SIGINT: the first asks the process to end in order, a second one ends it there and then."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.server.server import Server

__all__ = ["Stop", "started", "stop_at_signal"]

logger = logging.getLogger("tailrace.server")


class Stop(asyncio.Event):
    """Set by the first SIGTERM or SIGINT.

    Attributes:
        starting: The task that starts the server, as long as it does: the signal cancels it.
    """

    starting: asyncio.Task[Any] | None = None


async def started(running: Server, stop: Stop) -> bool:
    """Start it; False if a signal came first: a store may be held, and a lifespan may wait, for long."""
    stop.starting = task = asyncio.current_task()
    try:
        await running.start()
    except asyncio.CancelledError:
        if task is None or not stop.is_set():
            raise
        task.uncancel()
        return False
    finally:
        stop.starting = None
    return True


def stop_at_signal() -> Stop:
    """An event that the first SIGTERM or SIGINT sets; a second one ends the process there and then, also where the
    loop is blocked and would not hear of it."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    heard = False

    def on_arrival(number: int, _: object = None) -> None:
        nonlocal heard
        if heard:
            with contextlib.suppress(Exception):  # it may come in the middle of a record
                logger.warning("a second signal: exiting at once")
            os._exit(128 + number)
        heard = True

    def on_signal(number: int) -> None:
        logger.info("signal received; draining")
        stop.set()
        if stop.starting is not None:
            stop.starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, on_signal, number)
        except NotImplementedError:  # Windows

            def on_windows(received: int, _: object) -> None:
                on_arrival(received)
                loop.call_soon_threadsafe(on_signal, received)

            signal.signal(number, on_windows)
        else:
            # In place of the loop's own, which does nothing: this runs in the main thread, between bytecodes.
            signal.signal(number, on_arrival)
    return stop
