"""Runs a service's session hooks: one after the other, each within its time, their faults contained."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.core.session import Session

__all__ = ["Hooks"]

logger = logging.getLogger("tailrace.hooks")


class Hooks:
    """The hooks of one service.

    Args:
        register: For a new session.
        unregister: For one that ends; runs exactly as often as `register` and `restore` together.
        restore: For one that comes back after a restart.
        seconds: What one hook may take; then it is cancelled.
    """

    def __init__(
        self,
        register: Sequence[Callable[..., Any]],
        unregister: Sequence[Callable[..., Any]],
        restore: Sequence[Callable[..., Any]],
        seconds: float,
    ) -> None:
        self._register = register
        self._unregister = unregister
        self._restore = restore
        self._seconds = seconds

    async def opened(self, session: Session) -> None:
        """Greet a session."""
        await self._run(self._restore if session.restored else self._register, session)

    async def ended(self, session: Session) -> None:
        """Bid it farewell."""
        await self._run(self._unregister, session)

    async def _run(self, hooks: Sequence[Callable[..., Any]], session: Session) -> None:
        for hook in hooks:
            try:
                async with asyncio.timeout(self._seconds):
                    if inspect.iscoroutinefunction(hook):
                        await hook(session)
                    else:
                        result = await session.tasks.in_thread(lambda hook=hook: hook(session))
                        if inspect.isawaitable(result):  # an async one in a plain wrapper
                            await result
            except TimeoutError:
                logger.error("session hook did not end within %.1fs hook=%s", self._seconds, hook.__qualname__)
            except (Exception, SystemExit):
                logger.exception("session hook failed hook=%s", hook.__qualname__)
