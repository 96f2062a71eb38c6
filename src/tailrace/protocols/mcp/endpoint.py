"""One service over MCP: what its transports share, in rooms that each have one thing to do.

Transports (`streamable`, `sse`, `stdio`) parse and route. `requests` makes calls and answers of what they bring,
`notifications` speaks and listens without being asked, `sessions` is where conversations live, `streams` how they
are read; `retention` says what is kept of them, `recovery` how they come back from the store.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.core.timers import DelayLine, Sweeper
from tailrace.protocols.mcp.asking import Asking
from tailrace.protocols.mcp.dialect import Dialect
from tailrace.protocols.mcp.listen import Listens
from tailrace.protocols.mcp.methods import Methods
from tailrace.protocols.mcp.notifications import Notifications
from tailrace.protocols.mcp.once import Once
from tailrace.protocols.mcp.recovery import Recovery
from tailrace.protocols.mcp.requests import Requests
from tailrace.protocols.mcp.retention import Retention
from tailrace.protocols.mcp.sessions import SessionHome
from tailrace.protocols.mcp.streams import Streams
from tailrace.protocols.mcp.subscriptions import Subscriptions
from tailrace.protocols.mcp.tasks import TaskTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.core.exchange import Exchange
    from tailrace.core.outgoing import Outbox
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks
    from tailrace.protocols.mcp.framing import Seals
    from tailrace.protocols.mcp.hooks import Hooks
    from tailrace.protocols.mcp.journal import Journals
    from tailrace.protocols.mcp.reply import ExchangeReply
    from tailrace.service import Service

__all__ = ["Endpoint"]

_EPOCH = 32  # stream and call numbers are epoch << 32 | n: never used twice, whatever the store forgot


class Endpoint:
    """Serves one service over MCP.

    Args:
        service: What is served.
        settings: Its limits.
        tasks: Where calls run.
        sweeper: The house's clock.
        journals: The store.
        hooks: The service's session hooks.
        seals: Event ids.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        tasks: Tasks,
        sweeper: Sweeper,
        journals: Journals,
        hooks: Hooks,
        seals: Seals,
    ) -> None:
        self.service = service
        self.settings = settings
        self.tasks = tasks
        self.sweeper = sweeper
        self.journals = journals
        self.hooks = hooks
        self.seals = seals
        self.outbox: Outbox | None = None  # where calls publish to
        self.elsewhere: Callable[[Exchange, str], bool] | None = None  # has another partition what this id names?
        self.now = tasks.loop.time
        self.wall = time.time
        server_info: dict[str, Any] = {"name": service.name, "version": service.version}
        for key, said in (("title", service.title), ("icons", service.icons), ("websiteUrl", service.website_url)):
            if said:
                server_info[key] = msgspec.to_builtins(said)
        self.legacy = Dialect(modern=False, server_info=server_info)
        self.modern = Dialect(modern=True, server_info=server_info)
        self.methods = Methods(service, server_info, page=settings.page, ttl=round(settings.list_ttl * 1000))
        self.hold = DelayLine(settings.hold)
        self.waiting: dict[ExchangeReply, float] = {}  # modern calls whose reply may still be JSON, and since when
        self._patience = settings.keep_alive or 15.0
        self.draining = False  # no new work is taken
        self.ending = False  # and no stored session is brought back: all of them end now
        self.numbers = itertools.count((seals.epoch << _EPOCH) + 1)  # of calls and of their streams
        self.home = SessionHome(self)
        self.sessions = self.home.sessions
        self.requests = Requests(self)
        self.notifications = Notifications(self)
        self.streams = Streams(settings, sweeper, seals, self.now)
        self.retention = Retention(self)
        self.once = Once(self)
        self.recovery = Recovery(self)
        self.asking = Asking(self)
        self.listens = Listens(self)
        self.subscriptions = Subscriptions(settings.max_watched, self.retention.said)
        self.task_table = TaskTable(self)
        self._next_expiry = 0.0
        sweeper.add(self)

    def close(self) -> None:
        """Stop its timers."""
        self.sweeper.discard(self)
        self.hold.close()
        self.task_table.close()
        self.waiting.clear()

    # --- the clock ---

    def sweep(self, now: float) -> None:
        """Twice a second: modern calls that become streams; every few seconds: what has expired."""
        for reply, since in list(self.waiting.items()):
            if now - since >= self._patience:
                reply.due()
        if self.journals.store.failure is not None:  # one that only writes saw to which nobody listens
            self.journals.note(self.journals.store.failure)
        self.notifications.sweep()
        self.task_table.sweep(now)
        if now < self._next_expiry:
            return
        self._next_expiry = now + 5.0
        self.home.sweep(now)
        self.retention.expire(now)
        self.once.ledger.settle()
        self.once.ledger.expire()
        self.asking.steps.settle()
        self.recovery.sweep(now)
