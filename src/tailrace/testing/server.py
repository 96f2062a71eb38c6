"""A service that runs in memory, with any number of clients, and can be restarted or killed over the same store."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tailrace.errors import DefinitionError
from tailrace.server import make_server
from tailrace.stores.memory import MemoryStore
from tailrace.testing.client import MemoryClient
from tailrace.testing.publisher import RecordingPublisher
from tailrace.testing.virtual_time import hold_while_busy

if TYPE_CHECKING:
    from typing import Self

    from tailrace.core.ports import Store
    from tailrace.publish import Publisher
    from tailrace.server import Server
    from tailrace.service import Service

__all__ = ["RunningService"]

_MARGIN = 5.0  # seconds beyond what a server may take to end a conversation


class RunningService:
    """A server of `service` in this event loop, as ``async with RunningService(svc) as server:``.

    Args:
        service: What is served.
        store: Where it keeps things; None: a durable memory store of its own, which survives `restart` and `kill`.
        publish: Where ``ctx.publish`` goes; None: into a `RecordingPublisher` of its own, `publisher`.
        settings: As the options of `Service.asgi`: ``drain=``, ``stall=``, ``max_calls=``…
    """

    def __init__(
        self,
        service: Service,
        *,
        store: str | Store | None = None,
        publish: str | Publisher | None = None,
        **settings: Any,
    ) -> None:
        self.service = service
        self.store: str | Store = store if store is not None else MemoryStore(durable=True)
        self._publisher: str | Publisher = publish if publish is not None else RecordingPublisher()
        self._settings = settings
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # --- life ---

    async def start(self) -> None:
        """Start it; what a former life left in the store is settled as after any start.

        Raises:
            DefinitionError: It runs already, or a setting cannot work.
            StoreError: The store cannot be had.
        """
        if self._server is not None:
            raise DefinitionError("the service runs already")
        server = make_server(self.service, dict(self._settings), store=self.store, publish=self._publisher)
        await server.start()
        hold_while_busy(server.tasks.threads)
        self._server = server

    async def stop(self) -> None:
        """Stop it as SIGTERM does: running calls get their drain, then connections end. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def restart(self) -> None:
        """Stop it in order, and start it again over the same store. Clients connect anew: ``server.client()``."""
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """End it as ``kill -9`` does, as far as its store can tell: what was not committed is lost, and nothing of
        what still runs is written any more. Running handlers are cancelled. `start` gives the next life.

        Raises:
            DefinitionError: It does not run, or its store is not a `MemoryStore`.
        """
        store = self.now.store
        if not isinstance(store, MemoryStore):
            raise DefinitionError("only a service over a memory store can be killed in memory")
        server, self._server = self.now, None
        store.crash()
        await server.end_sessions()
        await server.stop()

    # --- what a test asks it ---

    def client(self, **options: Any) -> MemoryClient:
        """A client of it, to be used as ``async with server.client() as client:``.

        Args:
            options: As of `tailrace.mcp.Client`: ``era=``, ``timeout=``, ``elicitation=``…
        """
        return MemoryClient(self, **options)

    @property
    def publisher(self) -> RecordingPublisher:
        """What was published, over all lives.

        Raises:
            DefinitionError: It publishes elsewhere.
        """
        if not isinstance(self._publisher, RecordingPublisher):
            raise DefinitionError("this service publishes elsewhere: ask there")
        return self._publisher

    def statistics(self) -> Mapping[str, Mapping[str, Any]]:
        """As `Service.statistics`, of this server: ``sessions, calls, streams, detached, log_bytes, store, outbox``."""
        return self.now.statistics()

    @property
    def now(self) -> Server:
        """The server of its present life.

        Raises:
            DefinitionError: It does not run.
        """
        if self._server is None:
            raise DefinitionError("the service does not run: start() it")
        return self._server

    @property
    def limit(self) -> float:
        """Seconds that the end of one conversation may take."""
        settings = self.now.settings
        return 3 * settings.eof_drain + settings.grace + _MARGIN
