"""Exceptions that are not a function's own, whoever's frame they come out of: they end more than the function.

A handler may raise anything. `SystemExit` from a library that meant to leave its own program is a failure of that
call; so is a `KeyboardInterrupt` that no keyboard has sent. What is left for those who run users' code to pass on is
decided here.
"""

from __future__ import annotations

import asyncio
import signal
import threading

__all__ = ["as_failure", "is_foreign"]


def is_foreign(error: BaseException, task: asyncio.Task[None] | None) -> bool:
    """Whether somebody else than the function means it: Python by Ctrl-C, or by closing the coroutine.

    Ctrl-C is Python's alone where nobody else hears SIGINT. A server that `tailrace run`, uvicorn or `asyncio.run`
    runs hears it by itself: a `KeyboardInterrupt` is then the function's own, and no reason to end a server.

    Args:
        error: What came out of a function.
        task: In which it ran.
    """
    if isinstance(error, KeyboardInterrupt):
        return (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
    return isinstance(error, GeneratorExit) and not _is_running(task)


def as_failure(error: BaseException) -> Exception:
    """A function's own failure, as what only it has to be told of: an exception that ends no program."""
    if isinstance(error, Exception):
        return error
    what = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {error!r}"
    failure = RuntimeError(f"it {what}")
    failure.__cause__ = error
    return failure.with_traceback(error.__traceback__)


def _is_running(task: asyncio.Task[None] | None) -> bool:
    try:
        return task is not None and asyncio.current_task() is task
    except RuntimeError:  # no loop runs any more: it was dropped with all that it had
        return False
