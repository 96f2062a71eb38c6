"""`ctx.publish`: with the call's success or not at all, in one write with its record, in every era."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tailrace import Context, Service, ToolError, current
from tailrace.core.ports import Committed, PutEntry, Record, Store
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
        async def stubborn(ctx: Context) -> str:
            self.runs += 1
            await ctx.publish("orders", "of a call that is over")
            with suppress(asyncio.CancelledError):
                await self.gate.wait()
            return "all the same"

        @service.tool(once="key")
        async def keyed(ctx: Context, key: str) -> str:
            self.runs += 1
            await ctx.publish("orders", key)
            return key

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
    async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
            while await store.entries("outbox"):
                await asyncio.sleep(0.01)
    (message,) = shop.publisher.messages
    assert (message.topic, message.key, message.value) == ("orders", b"tea", b'{"item":"tea"}')


class Silent(MemoryPublisher):
    """A broker that takes what it is given, and says nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.given = asyncio.Event()
        self.speaks = asyncio.Event()

    async def publish(self, messages: Sequence[Any]) -> Sequence[Exception | None]:
        self.given.set()
        await self.speaks.wait()
        return await super().publish(messages)


@ERAS
async def test_an_answer_waits_for_no_broker(store: Store, era: str) -> None:
    shop = Shop()
    shop.publisher = broker = Silent()
    async with open_shop(shop, store) as server:
        assert text_of(await ask(server, era, "order", {"item": "tea"})) == "ordered tea"
        async with asyncio.timeout(60):
            await broker.given.wait()
        assert text_of(await ask(server, era, "order", {"item": "rice"})) == "ordered rice"
        assert not broker.messages
        broker.speaks.set()
        await until(lambda: len(shop.published) == 2)


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


@pytest.mark.parametrize("era", ["sse", "streamable"])
async def test_a_handler_that_does_not_heed_its_cancellation_publishes_nothing(store: Store, era: str) -> None:
    shop = Shop()
    async with open_shop(shop, store) as server:
        session = await (SseSession if era == "sse" else LegacySession)(server).start()
        exchange = (
            session.call(7, "stubborn", {})
            if isinstance(session, SseSession)
            else session.post(call(7, "stubborn", {}))
        )
        await until(lambda: shop.runs)
        session.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
        await until(lambda: not server.tasks.calls)
        assert exchange is not None
        await ask(server, "modern", "order", {"item": "sentinel"})
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
    """Fails to take, or later to commit, whatever holds a message; keeps the writes it was given."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.failing = ""
        self.writes: list[list[str]] = []
        self._lost: set[int] = set()

    def write(self, records: Sequence[Record]) -> int:
        kinds = [type(record).__name__ for record in records]
        self.writes.append(kinds)
        fails = self.failing and any(isinstance(record, PutEntry) and record.kind == "outbox" for record in records)
        if fails and self.failing == "write":
            raise DISK_FULL
        ticket = super().write([] if fails else records)
        if fails:
            self._lost.add(ticket)
        return ticket

    def when(self, ticket: int, committed: Committed) -> None:
        super().when(ticket, lambda error: committed(DISK_FULL if ticket in self._lost else error))


@pytest.mark.parametrize("failing", ["write", "commit"])
@pytest.mark.parametrize("slow", [False, True])
@ERAS
async def test_a_call_whose_messages_cannot_be_committed_fails(
    era: str, slow: bool, failing: str, tmp_path: Path
) -> None:
    shop, store = Shop(), Failing(tmp_path / "shop.db")
    async with open_shop(shop, store) as server:
        store.failing = failing
        asking = asyncio.ensure_future(ask(server, era, "order", {"item": "tea", "wait": slow}))
        await until(lambda: shop.runs)
        if slow:  # over Streamable HTTP it is journalled by then
            await asyncio.sleep(0.1)
            shop.gate.set()
        answer = await asking
        assert answer["error"]["code"] == -32603
        assert "could not be stored" in answer["error"]["message"]
        store.failing = ""
        await ask(server, "modern", "order", {"item": "sentinel"})
        await until(lambda: shop.published)
        assert shop.published == [b'{"item":"sentinel"}']


@pytest.mark.parametrize("failing", ["write", "commit"])
async def test_a_call_with_a_key_whose_messages_cannot_be_committed_has_failed_for_good(
    failing: str, tmp_path: Path
) -> None:
    shop, store = Shop(), Failing(tmp_path / "shop.db")
    async with open_shop(shop, store) as server:
        store.failing = failing
        answers = [await ask(server, "modern", "keyed", {"key": "k1"}) for _ in range(2)]
        assert [answer["error"]["code"] for answer in answers] == [-32603] * 2
        store.failing = ""
        assert (await ask(server, "modern", "keyed", {"key": "k1"}))["error"]["code"] == -32603
        assert text_of(await ask(server, "modern", "keyed", {"key": "k2"})) == "k2"
        await until(lambda: shop.published)
        assert shop.published == [b"k2"]
        assert shop.runs == 2


async def test_the_messages_of_a_call_with_a_key_are_written_together_with_its_answer(tmp_path: Path) -> None:
    shop, store = Shop(), Failing(tmp_path / "shop.db")
    async with open_shop(shop, store) as server:
        assert text_of(await ask(server, "modern", "keyed", {"key": "k1"})) == "k1"
        await until(lambda: shop.published)
    assert ["PutEntry"] * 3 in store.writes  # the key's two, and the message


async def test_messages_are_written_together_with_the_record_of_the_call(tmp_path: Path) -> None:
    shop, store = Shop(), Failing(tmp_path / "shop.db")
    async with open_shop(shop, store) as server:
        await ask(server, "sse", "order", {"item": "tea"})
    assert ["AppendEvent", "EndCall", "PutEntry"] in store.writes


class Stopped(SqliteStore):
    """Forgets every write after the one with the messages: a crash right behind it. Nobody hears of that one either."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.crashed = False

    def write(self, records: Sequence[Record]) -> int:
        if self.crashed:
            raise StoreError("crashed")
        ticket = super().write(records)
        self.crashed = any(type(record).__name__ == "PutEntry" for record in records)
        return ticket

    def when(self, ticket: int, committed: Committed) -> None:
        if not self.crashed:
            super().when(ticket, committed)


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
