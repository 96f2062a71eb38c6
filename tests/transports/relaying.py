"""Two members of a service in one process, for the tests of the relay: what one receives, the other handles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tailrace.core.exchange import Exchange
from tailrace.core.ports import Inbox
from tailrace.core.timers import Sweeper
from tailrace.stores.memory_inbox import MemoryInbox, MemoryPost
from tailrace.transports.relay import Relay
from tests.core.support import make_tasks

__all__ = ["Member", "refuse", "two_members"]


def refuse(exchange: Exchange, status: int, message: str) -> None:
    exchange.respond(status, [(b"content-type", b"text/plain")], message.encode())


class Member:
    """One process: `handle` is what it does with requests of others, `seen` holds them."""

    inbox: Any  # tests reach into it

    def __init__(self, inbox: Inbox, name: str, **options: Any) -> None:
        self.name = name
        self.inbox = inbox
        self.tasks = make_tasks()
        self.sweeper = Sweeper()
        self.seen: list[Exchange] = []
        self.handle: Callable[[Exchange], None] = lambda exchange: None
        options.setdefault("refuse", refuse)
        self.relay = Relay(self.inbox, self.tasks, self.sweeper, self._take, **options)

    def _take(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        self.handle(exchange)

    async def start(self) -> None:
        await self.inbox.open()
        self.relay.start()

    async def stop(self) -> None:
        self.relay.close()
        await self.inbox.close()
        self.sweeper.close()
        await self.tasks.close(1.0)

    async def crash(self) -> None:
        """It is gone without a word."""
        self.sweeper.close()
        self.inbox.send = lambda to, piece: None
        await self.stop()


async def two_members(**options: Any) -> tuple[Member, Member]:
    """`here` has the clients, `there` the sessions."""
    post = MemoryPost()
    here = Member(MemoryInbox(post, "here"), "here", **options)
    there = Member(MemoryInbox(post, "there"), "there", **options)
    await here.start()
    await there.start()
    return here, there
