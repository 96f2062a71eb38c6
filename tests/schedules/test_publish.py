"""A message reaches its broker whatever comes first: the answer, the publish, or the client's leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from tailrace import Context, Service, current
from tailrace.core.settings import Settings
from tailrace.publish.publishers import MemoryPublisher
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tests.rigs.exchange import modern_request, post_modern
from tests.schedules.exploring import MORE, exhaust, in_order, racing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
Record = Callable[[str, object], None]


async def answer_and_publish(seen: set[str], *, leaves: bool) -> None:
    """One call; its detached work publishes, and so does the call itself."""
    in_order()
    order: list[str] = []
    publisher = MemoryPublisher()
    service = Service("shop")

    async def later() -> None:
        await asyncio.sleep(0)
        await current().publish("late", "detached")
        order.append("published")

    @service.tool
    async def work(ctx: Context) -> str:
        ctx.spawn(later)
        await ctx.publish("own", "with the call")
        await asyncio.sleep(0)
        return "done"

    server = Server(service, Settings(drain=5.0), MemoryStore(), None, publisher)
    await server.start()

    async def read() -> None:
        await exchange.status_code()
        order.append("answered")

    async def leave() -> None:
        for _ in range(6):
            await asyncio.sleep(0)
        exchange.disconnect()
        order.append("left")

    async with racing():
        exchange = post_modern(server, modern_request(1, "tools/call", {"name": "work", "arguments": {}}))
        ending = asyncio.ensure_future(leave() if leaves else read())
        await asyncio.sleep(1.0)
    await ending
    await server.stop()
    topics = sorted(message.topic for message in publisher.messages)
    if leaves:  # which may cancel the call before its handler began
        assert topics in (["late", "own"], ["late"], []), topics
        assert bool(topics) == ("published" in order), f"detached work did not publish: {order}"
    else:
        assert topics == ["late", "own"], f"{topics} {order}"
    seen.add(" before ".join(dict.fromkeys(order)))


def test_whatever_comes_first_it_is_published(record_property: Record) -> None:
    seen: set[str] = set()
    record_property("schedules", exhaust(partial(answer_and_publish, seen, leaves=False), delays=2))
    assert {"answered before published", "published before answered"} <= seen


def test_a_client_that_leaves_does_not_take_detached_work_along(record_property: Record) -> None:
    seen: set[str] = set()
    record_property("schedules", exhaust(partial(answer_and_publish, seen, leaves=True), delays=2))
    assert any("left" in order for order in seen)
