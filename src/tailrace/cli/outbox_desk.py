"""Where `tailrace outbox` gets at messages: a SQLite file whose server is stopped, or Valkey, whose servers may run.

In Valkey only who owns a partition may write to it. Reading needs no owner. To change something the owner is asked,
over its inbox; what nobody owns is taken for the moment, if no server is there that will take it.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click
import msgspec

from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.core.timers import Sweeper
from tailrace.errors import StoreBusy
from tailrace.publish.letters import Letter, drop_letters, letters, retry_letters

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.core.ports import Membership, Store
    from tailrace.stores.valkey_reader import ValkeyReader
    from tailrace.transports.relay import Relay

__all__ = ["Desk", "desk"]

_IN_USE = (
    "Its server is running, and has the messages to itself: stop it, then look again. What waits, and why, it says "
    "itself: in svc.statistics()['outbox'] and in its log."
)
_PATIENCE = 20.0  # seconds for the owners of all partitions
_ORPHANED = 10.0  # seconds in which servers that run take over what nobody owns
_ANSWER = 5.0  # seconds for one answer of an owner
_AGAIN = 0.3  # seconds until an owner is looked for once more
_AT_ONCE = 500  # messages of one request to an owner


class Desk(Protocol):
    """What can be done with messages."""

    def letters(self, *, dead: bool) -> AsyncGenerator[Letter]:
        """As `publish.letters.letters`, of all partitions."""
        ...

    async def retry(self, ids: set[str] | None) -> int:
        """Put refused ones back (None: all); how many it were."""
        ...

    async def drop(self, ids: set[str] | None) -> int:
        """Delete refused ones (None: all), or by id waiting ones, too; how many it were."""
        ...


@asynccontextmanager
async def desk(store: str, service: str | None) -> AsyncGenerator[Desk]:
    """The messages at a store, for the time of a block.

    Args:
        store: ``sqlite:PATH`` or ``valkey://HOST:PORT/DB``.
        service: Whose, in Valkey.

    Raises:
        click.ClickException: There is no such store, or it is in use.
    """
    if store.startswith("sqlite:"):
        async with _opened(store) as opened:
            yield _File(opened)
        return
    if service is None:
        raise click.UsageError("in Valkey many services can be: give --service NAME, as Service(NAME) has it.")
    from tailrace.stores.valkey_reader import ValkeyReader

    yield _Valkey(ValkeyReader(store, service), store, service)


# --- SQLite -----------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(text: str) -> AsyncGenerator[Store]:
    from tailrace.server import make_store

    path = Path(text.partition(":")[2])
    if not await asyncio.to_thread(path.exists):
        raise click.UsageError(f"there is no store at {path}.")
    store = make_store(text)
    try:
        await store.open(wait=1.0)
    except StoreBusy as busy:
        raise click.ClickException(f"{busy}\n{_IN_USE}") from None
    try:
        yield store
    finally:
        await store.close()


class _File:
    def __init__(self, store: Store) -> None:
        self._store = store

    def letters(self, *, dead: bool) -> AsyncGenerator[Letter]:
        return letters(self._store, dead=dead)

    async def retry(self, ids: set[str] | None) -> int:
        return await retry_letters(self._store, ids)

    async def drop(self, ids: set[str] | None) -> int:
        return await drop_letters(self._store, ids)


# --- Valkey -----------------------------------------------------------------------------------------


class _Valkey:
    def __init__(self, reader: ValkeyReader, url: str, service: str) -> None:
        self._reader = reader
        self._url = url
        self._service = service

    async def letters(self, *, dead: bool) -> AsyncGenerator[Letter]:
        for tag in await self._partitions():
            async with self._reader.shelf(tag) as shelf:
                async for letter in letters(shelf, dead=dead):
                    yield letter

    async def retry(self, ids: set[str] | None) -> int:
        return await self._act("retry", ids)

    async def drop(self, ids: set[str] | None) -> int:
        return await self._act("drop", ids)

    async def _partitions(self) -> dict[str, str]:
        found = await self._reader.partitions()
        if not found:
            raise click.ClickException(f"nothing is stored of a service {self._service!r} at {self._reader.name}")
        return found

    async def _chosen(self, act: str, ids: set[str] | None) -> dict[str, dict[str, bool]]:
        """By partition: the ids that are meant, and whether each was refused."""
        chosen: dict[str, dict[str, bool]] = {}
        for tag in await self._partitions():
            async with self._reader.shelf(tag) as shelf:
                async for letter in letters(shelf, dead=act == "retry" or ids is None):
                    if ids is None or letter.message.id in ids:
                        chosen.setdefault(tag, {})[letter.message.id] = letter.dead
        return chosen

    async def _act(self, act: str, ids: set[str] | None) -> int:
        chosen = await self._chosen(act, ids)
        if not chosen:
            return 0
        async with _visiting(self._url, self._service) as visitor:
            return sum([await self._at(visitor, act, tag, found) for tag, found in chosen.items()])

    async def _at(self, visitor: _Visitor, act: str, tag: str, found: dict[str, bool]) -> int:
        """Do it in one partition, by its owner, or as its owner."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        ids, count = list(found), 0
        while loop.time() < began + _PATIENCE:
            owners = await self._reader.partitions()
            owner = owners.get(tag)
            if owner is None:
                return count  # it is empty, and gone
            if owner:
                if waiting := [id for id, dead in found.items() if not dead]:
                    raise click.ClickException(
                        f"{waiting[0]} waits, and its server is about to deliver it: while that runs, only messages "
                        "that were refused can be dropped"
                    )
                while (done := await visitor.ask(owner, act, tag, ids[:_AT_ONCE])) is not None:
                    count += done
                    del ids[:_AT_ONCE]
                    if not ids:
                        return count
            elif not any(owners.values()) or loop.time() > began + _ORPHANED:
                store = await visitor.membership.adopt(tag)
                if store is not None:
                    try:
                        return count + await (retry_letters if act == "retry" else drop_letters)(store, set(ids))
                    finally:
                        await store.close()
            await asyncio.sleep(_AGAIN)
        why = visitor.error or "it did not answer"
        raise click.ClickException(f"the server that has the partition {tag}: {why}; look again what is there")


class _Visitor:
    """A member for the moment: it owns nothing, and says so to who sends it requests."""

    def __init__(self, membership: Membership, relay: Relay) -> None:
        self.membership = membership
        self._relay = relay
        self._numbers = itertools.count(secrets.randbits(32))
        self._awaited: dict[int, asyncio.Future[tuple[int, str]]] = {}
        self.error = ""  # what the last owner that was asked said

    async def ask(self, owner: str, act: str, tag: str, ids: list[str]) -> int | None:
        """How many the owner did; None: it is not the owner (any more), or did not answer in time."""
        from tailrace.server.letters import ASKED, Asked

        number = next(self._numbers)
        awaited = self._awaited[number] = asyncio.get_running_loop().create_future()
        try:
            self._relay.tell(owner, ASKED, msgspec.json.encode(Asked(number, act, tag, ids)))
            async with asyncio.timeout(_ANSWER):
                count, self.error = await awaited
        except TimeoutError:
            return None
        finally:
            del self._awaited[number]
        return None if self.error else count

    def hear(self, _: str, payload: bytes) -> None:
        """What an owner answers."""
        from tailrace.server.letters import Done

        done = msgspec.json.decode(payload, type=Done)
        awaited = self._awaited.get(done.number)
        if awaited is not None and not awaited.done():
            awaited.set_result((done.count, done.error))


@asynccontextmanager
async def _visiting(url: str, service: str) -> AsyncGenerator[_Visitor]:
    from tailrace.server import make_membership
    from tailrace.server.letters import DONE
    from tailrace.transports.relay import Relay

    membership = make_membership(url, service)
    tasks, sweeper = Tasks(Threads(size=1)), Sweeper()
    await membership.join()
    try:
        relay = Relay(membership.inbox, tasks, sweeper, _decline, refuse=_refuse)
        visitor = _Visitor(membership, relay)
        relay.on(DONE, visitor.hear)
        relay.start()
        try:
            yield visitor
        finally:
            relay.close()
    finally:
        sweeper.close()
        await membership.leave()
        await tasks.close(0.4)


def _decline(exchange: Exchange) -> None:
    from tailrace.transports.relay_served import RelayedExchange

    if isinstance(exchange, RelayedExchange):  # it is one: nobody else has this server's address
        exchange.decline()


def _refuse(exchange: Exchange, status: int, message: str) -> None:
    exchange.respond(status, (), message.encode())
