"""Legs of one call that meet: one state brought twice, a client that leaves, a shutdown; as calls, and under a key.

Whatever the schedule: each step runs once at most, over two process lives; under a key the handler gets behind its
question once at most; a leg that is answered has its result or a question; and the state is good for one more leg.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tests.rigs.exchange import FakeExchange, modern_request, post_modern, text_of
from tests.schedules.exploring import MORE, exhaust, in_order, race

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
Record = Callable[[str, object], None]
KEY = {"io.tailrace/idempotencyKey": "k"}
ABLE = {"clientCapabilities": {"elicitation": {}}}
ANSWER = {"q": {"action": "accept", "content": {"value": "yes"}}}


class Shop:
    """Server after server over one store, with a tool that charges, asks, and sends."""

    def __init__(self, once: bool) -> None:
        self.store = MemoryStore(durable=True)
        self.meta = ABLE | KEY if once else ABLE
        self.charged = self.sent = self.past = 0
        self.ids = iter(range(1, 1000))
        self.legs: list[tuple[int, FakeExchange]] = []
        self.stopped = False
        self.state = ""
        self.service = service = Service("shop")

        @service.tool(once=once)
        async def buy(ctx: Context) -> str:
            await ctx.step("charge", self.charge)
            said = (await ctx.elicit("?", str, key="q")).data
            self.past += 1
            assert not once or self.past == 1, "the handler gets behind its question twice"
            await ctx.step("send", self.send)
            return f"{said}"

    async def charge(self) -> None:
        self.charged += 1
        await asyncio.sleep(0)
        assert self.charged == 1, "it is charged twice"

    async def send(self) -> None:
        self.sent += 1
        await asyncio.sleep(0)
        assert self.sent == 1, "it is sent twice"

    async def start(self) -> None:
        self.server = Server(self.service, Settings(drain=2.0, grace=0.5, keep_alive=0.0), self.store)
        self.stopped = False
        await self.server.start()

    def post(self, **params: Any) -> tuple[int, FakeExchange]:
        id = next(self.ids)
        message = modern_request(id, "tools/call", {"name": "buy", "arguments": {}, **params}, **self.meta)
        return id, post_modern(self.server, message)

    async def ask(self) -> None:
        """The first leg."""
        id, exchange = self.post()
        self.state = (await exchange.answer(id))["result"]["requestState"]

    # --- what may happen ---

    async def leg(self) -> None:
        self.legs.append(self.post(inputResponses=ANSWER, requestState=self.state))

    async def anew(self) -> None:
        """Its client does not know of the first leg: the reply to it was lost."""
        self.legs.append(self.post())

    async def leave(self) -> None:
        self.legs[0][1].disconnect()

    async def shutdown(self) -> None:
        self.stopped = True
        await self.server.stop()


async def meet(names: tuple[str, ...], *, once: bool) -> None:
    in_order()
    shop = Shop(once)
    await shop.start()
    await shop.ask()
    assert shop.charged == 1
    await shop.leg()
    await race(*(getattr(shop, name) for name in names))
    crashed = shop.stopped
    if crashed:
        await shop.server.stop()
        await shop.start()
    else:
        assert await shop.server.tasks.drain(60.0), "a call did not end"
    for id, exchange in shop.legs:
        if not exchange.gone:
            check(await asyncio.wait_for(exchange.answer(id), 60.0), crashed)
    await shop.leg()
    id, exchange = shop.legs[-1]
    check(await asyncio.wait_for(exchange.answer(id), 60.0), crashed)
    assert shop.charged == 1
    assert shop.sent == 1 or crashed
    await shop.server.stop()


def check(answer: dict[str, Any], crashed: bool) -> None:
    if "error" in answer:  # the server ended
        assert crashed, answer
        assert answer["error"]["code"] == -32000, answer
    elif answer["result"].get("isError"):
        assert crashed, answer
        assert answer["result"]["_meta"]["io.tailrace/outcome"] == "unknown", answer
    elif answer["result"]["resultType"] == "complete":
        assert text_of(answer) == "yes"
    else:
        assert list(answer["result"]["inputRequests"]) == ["q"]


@pytest.mark.parametrize("names", [*combinations(("leg", "leave", "shutdown"), 2), ("leg", "leg")], ids="-".join)
def test_legs_meet(names: tuple[str, ...], record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, names, once=False), delays=3 if MORE else 2))


@pytest.mark.parametrize("names", [*combinations(("leg", "anew", "leave", "shutdown"), 2)], ids="-".join)
def test_legs_meet_under_a_key(names: tuple[str, ...], record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, names, once=True), delays=3 if MORE else 2))
