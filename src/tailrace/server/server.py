"""One running service in one event loop: it starts, drains and stops, in this order, each once.

What comes in is judged and routed by `requests`, what is kept lives in a `partition`, and other processes of the same
service are `cluster`'s. This only builds them, opens them in order and closes them in the reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.clients.exit import settle_at_exit
from tailrace.console.recorder import Recorder
from tailrace.core.meter import Meter, Meters
from tailrace.core.threads import Threads
from tailrace.core.timers import Sweeper
from tailrace.core.watching import make_tasks
from tailrace.errors import CallCancelled, DefinitionError, StoreError
from tailrace.protocols.connect.endpoint import RpcEndpoint
from tailrace.protocols.mcp.stdio import Conversation
from tailrace.publish.shared import SharedPublisher
from tailrace.server.cluster import Cluster
from tailrace.server.health import Health
from tailrace.server.letters import Letters
from tailrace.server.lifespan import Lifespan
from tailrace.server.partition import Partition
from tailrace.server.requests import Requests
from tailrace.server.sealing import secrets_of_environment
from tailrace.server.statistics import Past, statistics_of
from tailrace.telemetry import Times, make_instruments, make_tracer
from tailrace.transports.guard import Guard

if TYPE_CHECKING:
    from tailrace.core.ports import Membership, Store
    from tailrace.core.session import Session
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.publish import Publisher
    from tailrace.publish.outbox import StoreOutbox
    from tailrace.service import Service
    from tailrace.transports.bearer import Bearer

__all__ = ["Server"]

logger = logging.getLogger("tailrace.server")


class Server:
    """One service, served in one event loop.

    Args:
        service: What is served.
        settings: Limits and times.
        store: Where sessions, streams and calls are kept; None: in partitions of the membership's.
        bearer: Tells who asks over HTTP; None: everybody may, and is nobody.
        publisher: Where what is published goes; None: `publish` raises.
        membership: Of the processes that serve this together; None: it is the only one.

    Attributes:
        cluster: The others, where there are any.
        partitions: What it owns.
        past: What partitions have counted that it owned before.
        home: That of them which takes all that is in none yet: new sessions, modern calls, RPC.
        rpc: What serves Connect and gRPC; there once it starts, like `requests`.
        requests: Where what comes in goes.
        times: How long its calls took, where that is measured (`measure`).
        listener: What accepts its connections, once there is one that counts them.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        store: Store | None,
        bearer: Bearer | None = None,
        publisher: Publisher | None = None,
        membership: Membership | None = None,
    ) -> None:
        if (store is None) == (membership is None):
            raise DefinitionError("a server has a store, or a membership that gives it some")
        self.service = service
        self.settings = settings
        self.bearer = bearer
        self.publisher = publisher
        self._shared = None if publisher is None else SharedPublisher(publisher)
        self.ready = False
        self.cluster: Cluster | None = None
        self.partitions: list[Partition] = []
        self.past = Past()
        self.home: Partition
        self.recorder: Recorder | None = None
        self.times: Times | None = None
        self.listener: Listening | None = None
        self.rpc: RpcEndpoint
        self.requests: Requests
        self._store = store
        self._membership = membership
        self._tasks: Tasks | None = None
        self._sweeper: Sweeper | None = None
        self._starting: asyncio.Future[None] | None = None
        self._drain_began = 0.0  # loop time
        self._draining = _Once(self._drain)
        self._stopping = _Once(self._stop)
        self._exits = AsyncExitStack()

    @property
    def tasks(self) -> Tasks:
        """Where its tasks run.

        Raises:
            DefinitionError: It has not started.
        """
        if self._tasks is None:
            raise DefinitionError("the server has not started")
        return self._tasks

    @property
    def store(self) -> Store:
        """Its home's; before the start, the one that it was given."""
        return self.home.store if self._store is None else self._store

    @property
    def store_name(self) -> str:
        """How people know its store: without the partition, which is another one in each process."""
        tag = self.store.partition
        return self.store.name.removesuffix(f"#{tag}") if tag else self.store.name

    @property
    def endpoint(self) -> Endpoint:
        """MCP's, of its home."""
        return self.home.endpoint

    @property
    def outbox(self) -> StoreOutbox | None:
        """Its home's; None where nothing is published."""
        return self.home.outbox

    # --- its life ---

    def record(self, numbers: Iterator[int] | None = None) -> None:
        """Keep what happens for the console, from the start on. Without it, nothing of that costs anything.

        Args:
            numbers: What calls are shown with (see `Recorder`).

        Raises:
            DefinitionError: It has started.
        """
        if self._starting is not None:
            raise DefinitionError("a server is recorded from its start on: say so before")
        self.recorder = Recorder(numbers=numbers)

    def measure(self) -> Times:
        """Keep how long calls take for `/metrics`, from the start on. Idempotent.

        Raises:
            DefinitionError: It has started without.
        """
        if self.times is None:
            if self._starting is not None:
                raise DefinitionError("a server is measured from its start on: say so before")
            self.times = Times()
        return self.times

    async def start(self) -> None:
        """Open the store, enter the service's lifespan, settle what a crash left behind, then be ready.

        Several may call it; all wait for the same start, and get its error. If that was cancelled, one of those
        who wait begins anew.

        Raises:
            StoreError: The store cannot be had.
            DefinitionError: It was stopped before.
        """
        if self._stopping.begun:
            raise DefinitionError("this server was stopped, and is not started again: make a new one")
        while (starting := self._starting) is not None:
            await asyncio.wait([starting])
            if not starting.cancelled():
                return starting.result()
        self._starting = starting = asyncio.get_running_loop().create_future()
        try:
            try:
                await self._start()
            except BaseException:
                await self._undo_start()
                raise
        except asyncio.CancelledError:
            self._starting = None
            starting.cancel()
            raise
        except BaseException as error:
            starting.set_exception(error)
            starting.exception()  # whoever else waits gets it; nobody has to
            raise
        return starting.set_result(None)

    async def _start(self) -> None:
        settings = self.settings
        self._tasks = tasks = make_tasks(
            Threads(size=settings.max_threads),
            self.recorder,
            max_calls=settings.max_calls,
            max_detached=settings.max_detached,
        )
        tasks.tracer = make_tracer()
        meters: list[Meter] = [meter for meter in (self.times, make_instruments()) if meter is not None]
        if meters:
            tasks.meter = meters[0] if len(meters) == 1 else Meters(meters)
        self.rpc = rpc = RpcEndpoint(self.service, settings, tasks, lambda: self._hindrance() is None)
        guard = Guard(settings.allow_hosts, settings.allow_origins)
        self.requests = requests = Requests(guard, self.bearer, rpc, tasks, Health(self._hindrance, self._notes).routes)
        # Asked for each request: bound here, so that nothing stands between a transport and who answers.
        self.streams, self.handle = rpc.streams, requests.handle
        self.handle_admitted, self.refuse = requests.route, requests.refuse
        self._sweeper = sweeper = Sweeper()
        self._exits.callback(sweeper.close)
        if self._membership is not None:
            self._exits.push_async_callback(self._membership.leave)
            await self._membership.join()
        self._exits.push_async_callback(self._close_partitions)
        if self._membership is None:
            await self._move_in()  # first of all: another process may hold the store
        else:
            self.cluster = cluster = Cluster(self, self._membership, sweeper)
            self._exits.callback(cluster.close)
            Letters(self, cluster.relay)
        if self.bearer is not None:
            settle_at_exit()  # a verifier may be an HTTP client
            self._exits.push_async_callback(self.bearer.aclose)
        lifespan = Lifespan(self.service.enter_lifespan(), tasks, settings.hook_time)
        self._exits.push_async_callback(lifespan.leave)
        await lifespan.enter()
        if self._membership is not None:
            await self._move_in()  # not before: others send an owner what is asked of its sessions, and wait for it
        self.service.attach(self)
        self._exits.callback(self.service.detach, self)
        home = await self._revive(self.home, self.home.recover)
        self.settle_in(home)
        if self.cluster is None:
            requests.routes |= home.routes
        else:
            requests.routes |= dict.fromkeys(home.routes, self.cluster.router.route)
            requests.take_in = self.cluster.router.take_in
            await self.cluster.start()
        self.ready = True

    async def _move_in(self) -> None:
        """Own a partition, and begin to deliver what waits in its outbox."""
        self.home = home = await self._first_partition()
        self.partitions.append(home)
        await self._revive(home, home.open)

    async def _first_partition(self) -> Partition:
        store = await self._open_store()
        try:
            return await self.partition(store)
        except StoreError:
            if self._membership is None:
                raise
        return await self.partition(await self._membership.take(new=True))  # what was left in that one can wait

    async def _revive(self, home: Partition, step: Callable[[], Awaitable[None]]) -> Partition:
        """Do a step of its home's recovery; a member that cannot has another home then."""
        if self.cluster is None:
            await step()
        else:
            self.home = home = await self.cluster.ownership.revived(home, step)
        return home

    async def _close_partitions(self) -> None:
        for partition in list(self.partitions):
            await partition.close()

    async def _open_store(self) -> Store:
        if self._store is not None:
            await self._store.open(wait=self.settings.store_wait)
            return self._store
        assert self._membership is not None
        return await self._membership.take()

    async def partition(self, store: Store) -> Partition:
        """What an opened store holds; nothing of it runs yet. The store is closed if it cannot be read.

        Raises:
            StoreError: It cannot.
        """
        assert self._sweeper is not None
        sealing = secrets_of_environment()
        try:
            if self._membership is not None and not sealing:
                sealing = await self._membership.secrets()
        except BaseException:
            await store.close()
            raise
        publisher = None if self._shared is None else self._shared.share()
        return await Partition.of(store, self.service, self.settings, self.tasks, self._sweeper, publisher, sealing)

    async def let_go(self, partition: Partition) -> None:
        """Close a partition, which is none of its own any more. What it has counted stays. Idempotent."""
        if partition in self.partitions:
            self.partitions.remove(partition)
            self.past.add(partition)
        try:
            await partition.close()
        finally:
            self.past.settle(partition)

    def settle_in(self, home: Partition) -> None:
        """New sessions, modern calls and RPC belong here from now on."""
        self.home = home
        self.rpc.outbox, self.rpc.ledger = home.outbox, home.endpoint.once.ledger

    async def _undo_start(self) -> None:
        await self.end_sessions()
        if self._tasks is not None:
            await self._tasks.close(0.4)
            self._tasks = None
        await self._exits.aclose()
        self.partitions.clear()

    async def drain(self) -> None:
        """Stop to be ready, go on accepting for `shutdown_delay`, then wait for running work within `drain`.
        Idempotent; all callers wait for the one end."""
        self.ready = False
        if self._tasks is not None:
            self.rpc.methods.health.changed()
            await self._draining()

    async def _drain(self) -> None:
        if self.settings.shutdown_delay:
            await asyncio.sleep(self.settings.shutdown_delay)
        self.rpc.draining = True
        if self.cluster is not None:
            await self.cluster.leave()
        for partition in self.partitions:
            partition.endpoint.draining = True
        self.rpc.end_watching()
        self._drain_began = self.tasks.loop.time()
        await self.tasks.drain(self.settings.drain)

    async def end_sessions(self, limit: float = 0.8) -> None:
        """Cancel what still runs, and end all sessions and streams; a durable store keeps them. Idempotent.

        Args:
            limit: Seconds for all of it; what is left of the drain's time comes on top, for the sessions' hooks.
        """
        if self._tasks is None:
            return
        for partition in self.partitions:
            partition.endpoint.ending = True
        with contextlib.suppress(TimeoutError):  # a store that hangs
            async with asyncio.timeout(limit / 2):
                for partition in list(self.partitions):  # one may be lost meanwhile
                    await partition.endpoint.task_table.settled()
        reason = "the server is shutting down"
        closing = [end for partition in self.partitions for end in partition.end(reason, limit / 2)]
        for call in list(self.tasks.calls):
            if call.session is None:
                call.cancel(CallCancelled(reason))
        limit += max(0.0, self._drain_began + self.settings.drain - self.tasks.loop.time())
        try:
            async with asyncio.timeout(limit):
                for completion in closing:
                    await completion
        except TimeoutError:
            logger.error(
                "sessions did not end within %.1fs count=%d",
                limit,
                sum(len(partition.endpoint.sessions) for partition in self.partitions),
            )
        if self.cluster is not None:
            await self.cluster.hand_over()

    async def _empty_outbox(self) -> None:
        """Deliver what waits, for what is left of the drain's time; no more of it comes."""
        for outbox in [partition.outbox for partition in self.partitions]:
            if outbox is not None:
                spent = self.tasks.loop.time() - self._drain_began
                await outbox.drain(max(0.5, self.settings.drain - spent))

    async def stop(self) -> None:
        """Drain, end all sessions, flush and close the store. Idempotent; all callers wait for the one end."""
        await self._stopping()

    async def _stop(self) -> None:
        if self._starting is not None:
            await asyncio.wait([self._starting])
        await self.drain()
        await self.end_sessions()
        if self._tasks is not None:
            await self._empty_outbox()
            await self._tasks.close(0.4)
        await self._exits.aclose()

    def _hindrance(self) -> str | None:
        """Why it takes no requests; None: it does."""
        if not self.ready:
            return "draining"
        return None if self.store.failure is None else "the store fails"

    def _notes(self) -> str:
        stuck = 0 if self.cluster is None else self.cluster.ownership.stuck
        return f"{stuck} partitions cannot be restored" if stuck else ""

    # --- for the service ---

    async def broadcast(self, method: str, params: Any) -> None:
        """Send a notification to every session that was initialized, and to the streams that asked for its kind."""
        if self.cluster is not None:
            self.cluster.news.broadcast(method, params)
        for partition in list(self.partitions):
            await partition.endpoint.notifications.broadcast(method, params)

    def updated(self, uri: str) -> None:
        """What stands at `uri` has changed, said in whatever thread."""
        self.tasks.on_loop(self._updated, uri)

    def changed(self, kind: str, session: Session | None = None) -> None:
        """A list of what the service offers has changed, for everybody or for one session, in whatever thread."""
        self.tasks.on_loop(self._changed, kind, session)

    def _updated(self, uri: str) -> None:
        if self.cluster is not None:
            self.cluster.news.updated(uri)
        for partition in self.partitions:
            partition.endpoint.notifications.updated(uri)

    def _changed(self, kind: str, session: Session | None) -> None:
        if self.cluster is not None and session is None:
            self.cluster.news.changed(kind)
        for partition in self.partitions:
            partition.endpoint.notifications.changed(kind, session)

    def statistics(self) -> Mapping[str, Mapping[str, Any]]:
        """Numbers for people (see `Service.statistics`)."""
        return statistics_of(self)

    def converse(self) -> Conversation:
        """A conversation over a pair of pipes, or in memory."""
        return Conversation(self.endpoint)


class Listening(Protocol):
    """What accepts connections, and counts them."""

    def statistics(self) -> Mapping[str, int]:
        """Numbers for people."""
        ...


class _Once:
    """Work that is done once: by the first who asks, while the others wait for its end."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._ended: asyncio.Future[None] | None = None

    @property
    def begun(self) -> bool:
        return self._ended is not None

    async def __call__(self) -> None:
        if self._ended is not None:
            await asyncio.wait([self._ended])
            return
        self._ended = asyncio.get_running_loop().create_future()
        try:
            await self._work()
        finally:
            self._ended.set_result(None)
