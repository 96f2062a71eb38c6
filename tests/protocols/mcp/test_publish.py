"""`ctx.publish`: with the call's success or not at all, in one write with its record, in every era."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tailrace import Context, Service, ToolError, current
from tailrace.core.ports import Record, Store
from tailrace.core.settings import Settings
from tailrace.errors import StoreError
from tailrace.publish.publishers import MemoryPublisher
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.stores.sqlite import SqliteStore
from tests.rigs.exchange import DISK_FULL, LegacySession, SseSession, call, modern_request, post_modern, text_of


class Shop:
    """A service that publishes, and the publisher it goes to."""

    def __init__(self) -> None:
        self.publisher = MemoryPublisher()
        self.runs = 0
        self.gate = asyncio.Event()
        self.went_wrong: list[Exception] = []
        self.service = service = Service("shop")

        @service.tool
        async def order(ctx: Context, item: str, if_gone: str = "publish", wait: bool = False) -> str:
            self.runs += 1
            await ctx.publish("orders", {"item": item}, key=item, if_gone=if_gone)  # type: ignore[arg-type]
            if wait:
                await self.gate.wait()
            return f"ordered {item}"

        @service.tool
        async def fail(ctx: Context, how: str) -> str:
            await ctx.publish("orders", "never")
            if how == "tool":
                raise ToolError("sold out")
            if how == "bug":
                raise KeyError("bug")
            return 3  # type: ignore[return-value]

        @service.tool
        def plain(ctx: Context) -> str:
            ctx.publish_nowait("orders", "from a thread")
            return "ok"

        @service.tool
        async def later(ctx: Context) -> str:
            async def mail() -> None:
                try:
                    await current().publish("mails", "detached")
                except Exception as error:
                    self.went_wrong.append(error)

            ctx.spawn(mail)
            return "ok"

        @service.tool
        async def flood(ctx: Context, count: int) -> str:
            for n in range(count):
                await ctx.publish("orders", n)
            return "ok"

    @property
    def published(self) -> list[bytes]:
        return [message.value for message in self.publisher.messages]


@asynccontextmanager
async def open_shop(shop: Shop, store: Store | None = None, **settings: Any) -> AsyncIterator[Server]:
    settings.setdefault("drain", 0.0)
    server = Server(shop.service, Settings(**settings), store or MemoryStore(), None, shop.publisher)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(server: Server, era: str, tool: str, arguments: dict[str, Any]) -> Any:
    """One call, in a session of its own where the era has sessions; its answer."""
    if era == "modern":
        exchange = post_modern(server, modern_request(7, "tools/call", {"name": tool, "arguments": arguments}))
        return await exchange.answer(7)
    if era == "sse":
        session = await SseSession(server).start()
        session.call(7, tool, arguments)
        return await session.stream.answer(7)
    streamable = await LegacySession(server).start()
    return await streamable.post(call(7, tool, arguments)).answer(7)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "shop.db")


ERAS = pytest.mark.parametrize("era", ["modern", "sse", "streamable"])


@ERAS
async def test_a_call_that_succeeds_publishes(store: Store, era: str) -> None:
    shop = Shop()
    async with open_shop(shop, store) as server:
        answer = await ask(server, era, "order", {"item": "tea"})
        assert text_of(answer) == "ordered tea"
        await until(lambda: shop.published)
        await until(lambda: server.statistics()["outbox"]["waiting"] == 0)
        assert await store.entries("outbox") == []
    (message,) = shop.publisher.messages
    assert (message.topic, message.key, message.value) == ("orders", b"tea", b'{"item":"tea"}')


@ERAS
@pytest.mark.parametrize("how", ["tool", "bug", "result"])
async def test_a_call_that_fails_publishes_nothing(store: Store, era: str, how: str) -> None:
    shop = Shop()
    async with open_shop(shop, store) as server:
        answer = await ask(server, era, "fail", {"how": how})
        assert answer["result"]["isError"] is True
        await ask(server, era, "order", {"item": "sentinel"})
        await until(lambda: shop.published)
        assert shop.published == [b'{"item":"sentinel"}']


async def test_a_call_that_is_cancelled_publishes_nothing() -> None:
    shop = Shop()
    async with open_shop(shop) as server:
        exchange = post_modern(
            server, modern_request(1, "tools/call", {"name": "order", "arguments": {"item": "tea", "wait": True}})
        )
        await until(lambda: shop.runs)
        exchange.disconnect()
        await until(lambda: not server.tasks.calls)
        await ask(server, "modern", "order", {"item": "sentinel"})
        await until(lambda: shop.published)
        assert shop.published == [b'{"item":"sentinel"}']


@pytest.mark.parametrize(("if_gone", "published"), [("publish", [b'{"item":"tea"}']), ("skip", [])])
async def test_a_client_that_has_gone_may_matter(if_gone: str, published: list[bytes]) -> None:
    shop = Shop()
    async with open_shop(shop) as server:
        session = await LegacySession(server).start()
        exchange = session.post(call(7, "order", {"item": "tea", "if_gone": if_gone, "wait": True}))
        await until(lambda: shop.runs)
        exchange.disconnect()
        shop.gate.set()
        await until(lambda: not server.tasks.calls)
        await ask(server, "modern", "order", {"item": "sentinel"})
        await until(lambda: b'{"item":"sentinel"}' in shop.published)
        assert shop.published == [*published, b'{"item":"sentinel"}']


async def test_plain_functions_publish_as_well() -> None:
    shop = Shop()
    async with open_shop(shop) as server:
        assert text_of(await ask(server, "modern", "plain", {})) == "ok"
        await until(lambda: shop.published)
        assert shop.published == [b"from a thread"]


async def test_detached_work_publishes_at_once() -> None:
    shop = Shop()
    async with open_shop(shop) as server:
        await ask(server, "modern", "later", {})
        await until(lambda: shop.published or shop.went_wrong)
        assert shop.published == [b"detached"]


async def test_one_call_cannot_flood_the_outbox() -> None:
    shop = Shop()
    async with open_shop(shop) as server:
        answer = await ask(server, "modern", "flood", {"count": 1001})
        assert answer["error"]["data"] == {"limit": "outbox"}
        await ask(server, "modern", "order", {"item": "sentinel"})
        await until(lambda: shop.published)
        assert shop.published == [b'{"item":"sentinel"}']


async def test_a_full_outbox_refuses_what_more_is_published() -> None:
    shop = Shop()

    async def away() -> None:
        raise ConnectionError("no broker")

    shop.publisher.open = away  # type: ignore[method-assign]
    async with open_shop(shop, max_outbox=2) as server:
        for item in ("a", "b"):
            assert text_of(await ask(server, "modern", "order", {"item": item})) == f"ordered {item}"
        answer = await ask(server, "modern", "order", {"item": "c"})
        assert answer["error"]["data"] == {"limit": "outbox"}
        assert server.statistics()["outbox"]["waiting"] == 2


async def test_without_a_publisher_publishing_is_an_error_that_tells_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(Shop().service, Settings(drain=0.0), MemoryStore())
    await server.start()
    answer = await ask(server, "modern", "order", {"item": "tea"})
    assert answer["result"]["isError"] is True
    assert "start the server with --publish" in caplog.text
    await server.stop()


class Failing(SqliteStore):
    """Fails to commit whatever holds a message; keeps the writes it was given."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.failing = False
        self.writes: list[list[str]] = []

    def write(self, records: Sequence[Record]) -> int:
        kinds = [type(record).__name__ for record in records]
        self.writes.append(kinds)
        if self.failing and "PutEntry" in kinds:
            raise DISK_FULL
        return super().write(records)


@ERAS
async def test_a_call_whose_messages_cannot_be_committed_fails(era: str, tmp_path: Path) -> None:
    shop, store = Shop(), Failing(tmp_path / "shop.db")
    async with open_shop(shop, store) as server:
        store.failing = True
        answer = await ask(server, era, "order", {"item": "tea"})
        assert answer["error"]["code"] == -32603
        assert "could not be stored" in answer["error"]["message"]
        assert shop.published == []


async def test_messages_are_written_together_with_the_record_of_the_call(tmp_path: Path) -> None:
    shop, store = Shop(), Failing(tmp_path / "shop.db")
    async with open_shop(shop, store) as server:
        await ask(server, "sse", "order", {"item": "tea"})
    assert ["PutEntry", "PutCall"] in store.writes


class Stopped(SqliteStore):
    """Forgets every write after the one with the messages: a crash right behind it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.crashed = False

    def write(self, records: Sequence[Record]) -> int:
        if self.crashed:
            raise StoreError("crashed")
        ticket = super().write(records)
        self.crashed = any(type(record).__name__ == "PutEntry" for record in records)
        return ticket


async def test_after_a_crash_between_the_commit_and_the_answer_the_answer_is_there_and_nothing_runs_twice(
    tmp_path: Path,
) -> None:
    shop, path = Shop(), tmp_path / "shop.db"

    async def away() -> None:
        raise ConnectionError("no broker")

    opened, shop.publisher.open = shop.publisher.open, away  # type: ignore[method-assign]
    async with open_shop(shop, Stopped(path)) as server:
        session = await SseSession(server).start()
        session.call(7, "order", {"item": "tea"})
        await until(lambda: server.store.crashed)  # type: ignore[attr-defined]
        place = (await session.stream.event_count(2))[-1].id
    shop.publisher.open = opened  # type: ignore[method-assign]
    async with open_shop(shop, SqliteStore(path)) as server:
        session.server = server
        await session.open(place)
        assert text_of(await session.stream.answer(7)) == "ordered tea"
        await until(lambda: shop.published)
        assert shop.published == [b'{"item":"tea"}']
        assert shop.runs == 1
