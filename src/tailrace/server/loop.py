"""The process's event loop, and an exit that waits for no thread and no task that does not end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["run_loop"]

logger = logging.getLogger("tailrace.server")


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end on uvloop, where there is one, and leave without waiting for what does not end."""
    before = set(threading.enumerate())
    loop = _loop_factory()()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")  # what `asyncio.to_thread` uses; ours, to be ended
    loop.set_default_executor(executor)
    try:
        loop.run_until_complete(main)
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        for task in left:
            task.cancel()
        if left:
            _, left_over = loop.run_until_complete(asyncio.wait(left, timeout=0.2))
            if left_over:
                logger.error("exiting although tasks do not end count=%d", len(left_over))
                _exit()
        loop.run_until_complete(loop.shutdown_asyncgens())
        executor.shutdown(wait=False, cancel_futures=True)
        if stuck := _stuck_threads(before, 0.2):
            logger.warning("exiting although threads do not end names=%s", ",".join(stuck)[:1000])
            _exit()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        asyncio.set_event_loop(None)
        loop.close()


def _stuck_threads(before: set[threading.Thread], seconds: float) -> list[str]:
    """Threads begun meanwhile for which Python's own exit would wait, after `seconds` in which they may end."""
    deadline = time.monotonic() + seconds
    threads = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]


def _exit() -> NoReturn:
    """Leave without waiting for anybody."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
