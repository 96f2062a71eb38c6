"""One store with one owner, and all that lives in it: sessions, streams, calls, tasks, keys and the outbox.

A server has one partition, its home; a member of a cluster takes over those of members that died. Opening one is
what a restart does, handing one over what a shutdown does: nothing is done for each session. Who may own it is the
store's to say, which requests come here the server's.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from tailrace.core.shared_ledger import BEGUN_KEYS
from tailrace.core.steps import BEGUN_STEPS
from tailrace.errors import CallCancelled
from tailrace.protocols.mcp.call import McpCall
from tailrace.protocols.mcp.endpoint import Endpoint
from tailrace.protocols.mcp.framing import Seals
from tailrace.protocols.mcp.hooks import Hooks
from tailrace.protocols.mcp.journal import Journals
from tailrace.protocols.mcp.sse import HttpSse
from tailrace.protocols.mcp.streamable import Streamable
from tailrace.protocols.mcp.task_recovery import TaskRecovery
from tailrace.protocols.mcp.task_state import RESULT, STATE
from tailrace.publish.outbox import DEAD, WAITING, StoreOutbox

if TYPE_CHECKING:
    from tailrace.core.call import Call
    from tailrace.core.exchange import Exchange, Handler
    from tailrace.core.ports import Store
    from tailrace.core.session import Completion
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks
    from tailrace.core.timers import Sweeper
    from tailrace.publish import Publisher
    from tailrace.service import Service

__all__ = ["Partition"]

_KINDS = (STATE, RESULT, WAITING, DEAD, BEGUN_KEYS, BEGUN_STEPS)  # of entries that a partition holds


class Partition:
    """What one store holds, as far as it is alive.

    Args:
        service: What is served.
        settings: Its limits.
        store: Opened already; `close` closes it.
        epoch: Of this opening of the store (`Store.next_epoch`).
        secrets: What ids are sealed with, the newest first.
        tasks: Where its calls run, beside those of others.
        sweeper: The house's clock.
        publisher: Where what is published goes; None: nowhere.

    Attributes:
        tag: Which one it is of several; empty where there is but one.
        endpoint: MCP.
        outbox: Where its calls publish to.
        routes: MCP's handlers, by path.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        store: Store,
        epoch: int,
        secrets: list[bytes],
        tasks: Tasks,
        sweeper: Sweeper,
        publisher: Publisher | None,
    ) -> None:
        self.store = store
        self.tag = store.partition
        self._tasks = tasks
        self._exits = AsyncExitStack()
        self._exits.push_async_callback(store.close)
        hooks = service.hooks
        self.endpoint = endpoint = Endpoint(
            service,
            settings,
            tasks,
            sweeper,
            Journals(store),
            Hooks(hooks.register, hooks.unregister, hooks.restore, settings.hook_time),
            Seals(secrets, epoch, store.partition),
        )
        self._exits.callback(endpoint.close)
        self.outbox: StoreOutbox | None = None
        if publisher is not None:
            self.outbox = endpoint.outbox = StoreOutbox(store, epoch, publisher, tasks, limit=settings.max_outbox)
            self._exits.push_async_callback(self.outbox.close)
        streamable, http_sse = Streamable(endpoint), HttpSse(endpoint)
        self.routes: dict[str, Handler] = {
            "/mcp": streamable.handle,
            "/mcp/": streamable.handle,
            "/sse": http_sse.stream,
            "/sse/": http_sse.stream,
            "/messages": http_sse.message,
            "/messages/": http_sse.message,
        }

    @classmethod
    async def of(
        cls,
        store: Store,
        service: Service,
        settings: Settings,
        tasks: Tasks,
        sweeper: Sweeper,
        publisher: Publisher | None,
        secrets: list[bytes] | None = None,
    ) -> Partition:
        """The partition in an opened store, which is closed if it cannot be read.

        Args:
            store, service, settings, tasks, sweeper, publisher: As for the class.
            secrets: What ids are sealed with; None: the store's own.

        Raises:
            StoreError: The store cannot be read.
        """
        try:
            epoch = await store.next_epoch()
            sealing = secrets or await store.secrets()
        except BaseException:
            await store.close()
            raise
        return cls(service, settings, store, epoch, sealing, tasks, sweeper, publisher)

    async def open(self) -> None:
        """Begin to deliver what waits in the outbox.

        Raises:
            StoreError: The store cannot be read.
        """
        if self.outbox is not None:
            await self.outbox.open()

    async def recover(self) -> None:
        """Settle what the last owner left unfinished.

        Raises:
            StoreError: The store cannot be read.
        """
        await self.endpoint.asking.steps.recover()
        await self.endpoint.once.recover()
        await self.endpoint.recovery.recover()
        await TaskRecovery(self.endpoint.task_table).recover()

    def end(self, reason: str, grace: float) -> list[Completion]:
        """Cancel what runs without a session, and end all sessions and streams; a durable store keeps them.

        Args:
            reason: For people.
            grace: Seconds that cancelled calls get to end.

        Returns:
            The ends of its sessions, to be waited for.
        """
        self.endpoint.listens.close(reason)
        for call in list(self._tasks.calls):
            if call.session is None and self.owns(call):
                call.cancel(CallCancelled(reason))
        return self.endpoint.sessions.close_all(reason, keep=self.store.durable, grace=grace)

    def owns(self, call: Call) -> bool:
        """Whether a call is kept here, if anywhere: MCP's, and the runs of RPC's keys."""
        if isinstance(call, McpCall):
            return call.asking.endpoint is self.endpoint
        return getattr(call, "ledger", None) is self.endpoint.once.ledger

    def handle(self, exchange: Exchange) -> None:
        """A request for MCP."""
        self.routes[exchange.path](exchange)

    def cut(self) -> None:
        """The store is lost: nothing new begins here, and those who read are sent to whoever has it now."""
        self.endpoint.draining = self.endpoint.ending = True
        self.stop_reading()

    def stop_reading(self) -> None:
        """The sessions' streams end for those who read them: they resume, wherever it goes on."""
        for session in list(self.endpoint.sessions.by_id.values()):
            for log in (session.log, *session.streams.values()):
                if log.reader is not None:
                    log.reader.stop()

    @property
    def is_idle(self) -> bool:
        """Nothing of it is alive."""
        endpoint = self.endpoint
        return not (
            endpoint.sessions.by_id
            or endpoint.sessions.evicted
            or endpoint.task_table.tasks
            or len(endpoint.listens)
            or (self.outbox is not None and self.outbox.waiting)
            or any(self.owns(call) for call in self._tasks.calls)
        )

    async def is_empty(self) -> bool:
        """Nothing is stored either.

        Raises:
            StoreError: The store cannot be read.
        """
        if await self.store.sessions():
            return False
        for kind in _KINDS:
            if await self.store.count(kind):
                return False
        return True

    async def close(self) -> None:
        """Stop to deliver, flush and close the store. Idempotent."""
        await self._exits.aclose()
