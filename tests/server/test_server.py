"""A server's life: a start that leaves nothing behind when it fails, an orderly end that comes once and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import Context, Service, Session
from tailrace.core.settings import Settings
from tailrace.errors import DefinitionError, StoreError
from tailrace.server import Server, connect, make_settings, make_store
from tailrace.stores.memory import MemoryStore
from tailrace.stores.sqlite import SqliteStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    FakeExchange,
    LegacySession,
    SseSession,
    initialize,
    modern_request,
    post_modern,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop, errors

JSON = [("content-type", "application/json")]


def make(service: Service | None = None, store: MemoryStore | None = None, **settings: Any) -> Server:
    return Server(service or Service("x"), Settings(**settings), store or MemoryStore())


def now() -> float:
    return asyncio.get_running_loop().time()


class Steps:
    """A service with a lifespan, and a store, that say in order what happens to them."""

    def __init__(self) -> None:
        self.happened = happened = list[str]()
        self.service = Service("steps")

        class Store(MemoryStore):
            async def open(self, *, wait: float = 30.0) -> None:
                await super().open(wait=wait)
                happened.append("store opened")

            async def close(self) -> None:
                await super().close()
                happened.append("store closed")

        self.store = Store(durable=True)

        @self.service.lifespan
        async def life(service: Service) -> AsyncIterator[None]:
            happened.append("lifespan entered")
            yield
            happened.append("lifespan left")

        @self.service.on_unregister_session
        async def ended(session: Session) -> None:
            happened.append("session ended")

        @self.service.tool
        async def work() -> str:
            await asyncio.sleep(1)
            happened.append("call ended")
            return "done"

        @self.service.tool
        async def leave_behind(ctx: Context) -> str:
            ctx.spawn(self.later)
            return "done"

    async def later(self) -> None:
        await asyncio.sleep(2)
        self.happened.append("detached ended")


# --- the start ------------------------------------------------------------------------------------


@virtual
async def test_several_starts_are_one() -> None:
    steps = Steps()
    server = make(steps.service, steps.store)
    await asyncio.gather(*(server.start() for _ in range(5)))
    await server.start()
    assert steps.happened == ["store opened", "lifespan entered"]
    assert server.ready
    await server.stop()


@virtual
async def test_a_store_that_cannot_be_had_fails_every_start_and_leaves_nothing_open() -> None:
    steps, store = Steps(), MemoryStore()
    await store.open()
    server = make(steps.service, store)
    outcomes = await asyncio.gather(*(server.start() for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(outcomes[0])] * 3
    assert isinstance(outcomes[0], StoreError)
    with pytest.raises(StoreError):
        await server.start()
    assert steps.happened == []
    assert not server.ready
    with pytest.raises(DefinitionError, match="has not started"):
        _ = server.tasks
    await server.stop()


@virtual
async def test_a_lifespan_that_fails_lets_the_store_go() -> None:
    steps, service = Steps(), Service("x")

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        raise ValueError("no configuration")
        yield

    server = make(service, steps.store)
    with pytest.raises(ValueError, match="no configuration"):
        await server.start()
    assert steps.happened == ["store opened", "store closed"]
    assert service.statistics()["sessions"]["open"] == 0
    await server.stop()
    assert steps.happened == ["store opened", "store closed"]


@virtual
async def test_a_recovery_that_fails_undoes_all_that_had_begun() -> None:
    steps = Steps()

    class Store(type(steps.store)):  # type: ignore[misc]
        async def unfinished(self) -> list[str]:
            raise StoreError("damaged")

    server = make(steps.service, Store(durable=True))
    with pytest.raises(StoreError, match="damaged"):
        await server.start()
    assert steps.happened == ["store opened", "lifespan entered", "lifespan left", "store closed"]
    await steps.service.broadcast("notifications/x")
    await server.stop()


@virtual
async def test_a_start_that_is_cancelled_is_undone_and_begun_again_by_who_waits_for_it() -> None:
    steps, gate = Steps(), asyncio.Event()
    entered: list[int] = []
    service = Service("x")

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        entered.append(1)
        await gate.wait()
        yield

    server = make(service, steps.store)
    first = asyncio.ensure_future(server.start())
    others = [asyncio.ensure_future(server.start()) for _ in range(3)]
    await turns()
    first.cancel()
    await turns()
    gate.set()
    await asyncio.gather(*others)
    assert len(entered) == 2
    assert steps.happened == ["store opened", "store closed", "store opened"]
    assert server.ready
    await server.stop()


# --- the end --------------------------------------------------------------------------------------


@virtual
async def test_the_end_comes_in_order() -> None:
    """Running work first, then sessions and their hooks, then what the service holds, the store last."""
    steps = Steps()
    server = make(steps.service, steps.store)
    await server.start()
    session = await LegacySession(server).start()
    await session.call(1, "leave_behind").answer(1)
    working = session.call(2, "work")
    await turns()
    steps.happened.clear()
    await server.stop()
    order = ["call ended", "detached ended", "session ended", "lifespan left", "store closed"]
    assert steps.happened == order
    assert text_of(await working.answer(2)) == "done"
    assert steps.store._loop is None


@virtual
async def test_all_who_stop_it_wait_for_the_one_end() -> None:
    steps = Steps()
    server = make(steps.service, steps.store)
    await server.start()
    (await LegacySession(server).start()).call(1, "work")
    await turns()
    await asyncio.gather(*(server.stop() for _ in range(5)))
    assert steps.happened.count("lifespan left") == 1
    assert steps.happened[-1] == "store closed"
    begin = now()
    await server.stop()
    assert now() == begin


@virtual
async def test_a_stop_without_a_start_and_one_during_it() -> None:
    await make().stop()
    steps, service, gate = Steps(), Service("x"), asyncio.Event()

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        await gate.wait()
        yield

    server = make(service, steps.store)
    starting = asyncio.ensure_future(server.start())
    await turns()
    stopping = asyncio.ensure_future(server.stop())
    await turns()
    gate.set()
    await starting
    await stopping
    assert steps.happened == ["store opened", "store closed"]
    assert not server.ready


@virtual
async def test_what_was_stopped_is_not_started_again() -> None:
    server = make()
    await server.start()
    await server.stop()
    with pytest.raises(DefinitionError, match="was stopped"):
        await server.start()


@virtual
async def test_while_it_drains_new_work_is_refused_and_running_work_ends() -> None:
    shop = Workshop()
    async with serving(shop.service, drain=25) as server:
        session, sse = await LegacySession(server).start(), await SseSession(server).start()
        running = session.call(1, "work", {"key": "a"})
        await turns()
        draining = asyncio.ensure_future(server.drain())
        await turns()
        assert send(server, FakeExchange("GET", "/readyz")).status == 503
        assert send(server, FakeExchange("GET", "/healthz")).status == 200
        for refused in (
            session.call(2, "echo", {"text": "x"}),
            sse.call(2, "echo", {"text": "x"}),
            post_modern(server, modern_request(2, "tools/call", {"name": "echo", "arguments": {"text": "x"}})),
            send(server, FakeExchange("POST", "/mcp", initialize("2025-11-25"), JSON)),
            send(server, FakeExchange("GET", "/sse")),
        ):
            assert await refused.status_code() == 503
            assert (await refused.json())["error"]["data"] == {"limit": "draining"}
        assert not draining.done()
        shop.open("a")
        await draining
        assert text_of(await running.answer(1)) == "a"


@virtual
async def test_during_the_shutdown_delay_it_is_not_ready_and_still_accepts() -> None:
    shop = Workshop()
    async with serving(shop.service, shutdown_delay=5) as server:
        draining = asyncio.ensure_future(server.drain())
        await asyncio.sleep(4)
        assert send(server, FakeExchange("GET", "/readyz")).status == 503
        session = await LegacySession(server).start()
        assert text_of(await session.call(1, "echo", {"text": "x"}).answer(1)) == "x"
        await draining


@virtual
async def test_delay_and_drain_are_waited_for_once(caplog: pytest.LogCaptureFixture) -> None:
    """A process drains before it closes its sockets, and then stops: work that never ends must not cost it twice."""
    service = Service("stuck")

    async def never() -> None:
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                if gate.is_set():
                    raise

    gate = asyncio.Event()

    @service.tool
    async def leave_behind(ctx: Context) -> str:
        ctx.spawn(never)
        return "done"

    server = make(service, drain=25, shutdown_delay=3)
    await server.start()
    session = await LegacySession(server).start()
    await session.call(1, "leave_behind").answer(1)
    begin = now()
    await server.drain()
    await server.end_sessions()
    await server.stop()
    assert now() - begin <= 25 + 3 + 2
    assert any("detached work dropped name=never" in text for text in errors(caplog))
    gate.set()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await turns()


@virtual
async def test_calls_that_outlive_the_drain_are_answered_where_nothing_is_kept() -> None:
    shop = Workshop()
    server = make(shop.service, drain=1)
    await server.start()
    session, sse = await LegacySession(server).start(), await SseSession(server).start()
    streamed = session.call(1, "work", {"key": "a"})
    await sse.call(1, "work", {"key": "b"}).status_code()
    modern = post_modern(server, modern_request(1, "tools/call", {"name": "work", "arguments": {"key": "c"}}))
    await turns()
    begin = now()
    await server.stop()
    assert now() - begin < 3
    for stream in (streamed, sse.stream, modern):
        assert "shutting down" in (await stream.answer(1))["error"]["message"]
    await streamed.end()
    await sse.stream.end()


@virtual
async def test_a_lifespan_that_never_ends_does_not_hold_the_end(caplog: pytest.LogCaptureFixture) -> None:
    steps, service = Steps(), Service("x")

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    server = make(service, steps.store, hook_time=5)
    await server.start()
    begin = now()
    await server.stop()
    assert now() - begin == 5
    assert steps.happened == ["store opened", "store closed"]
    assert errors(caplog) == ["the service's lifespan did not end within 5.0s"]


@virtual
async def test_a_lifespan_that_fails_at_its_end_lets_the_store_go() -> None:
    steps, service = Steps(), Service("x")

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        yield
        raise ValueError("cannot let go")

    server = make(service, steps.store)
    await server.start()
    with pytest.raises(ValueError, match="cannot let go"):
        await server.stop()
    assert steps.happened == ["store opened", "store closed"]


@virtual
async def test_a_hook_that_never_ends_does_not_hold_the_end(caplog: pytest.LogCaptureFixture) -> None:
    service = Service("x")

    @service.on_unregister_session
    async def stuck(session: Session) -> None:
        await asyncio.Event().wait()

    server = make(service, drain=1)
    await server.start()
    await LegacySession(server).start()
    begin = now()
    await server.stop()
    assert now() - begin < 3


# --- routes ---------------------------------------------------------------------------------------


async def test_paths() -> None:
    async with serving() as server:
        for path, status in (
            ("/healthz", 200),
            ("/readyz", 200),
            ("/mcp", 400),
            ("/mcp/", 400),
            ("/messages", 405),
            ("/", 404),
            ("/mcp/x", 404),
            ("/metrics", 404),
        ):
            assert send(server, FakeExchange("GET", path)).status == status, path


async def test_host_and_origin_are_checked_on_every_path() -> None:
    async with serving() as server:
        for path in ("/mcp", "/sse", "/messages/", "/healthz", "/readyz", "/nothing"):
            foreign = send(server, FakeExchange("GET", path, None, [("host", "evil.example")]))
            assert foreign.status == 421
            page = send(server, FakeExchange("GET", path, None, [("origin", "http://evil.example")]))
            assert page.status == 403
            assert "error" in await page.json()


async def test_a_fault_of_ours_is_a_500_and_one_record(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:

        def broken(exchange: FakeExchange) -> None:
            raise RuntimeError("a secret")

        monkeypatch.setitem(server.requests.routes, "/mcp", broken)
        reply = send(server, FakeExchange("GET", "/mcp"))
        assert reply.status == 500
        assert b"secret" not in reply.reply_body
        assert len(errors(caplog)) == 1
        assert send(server, FakeExchange("GET", "/healthz")).status == 200


# --- what it tells --------------------------------------------------------------------------------


@virtual
async def test_statistics_have_their_seven_sections() -> None:
    sections = ["sessions", "calls", "streams", "detached", "log_bytes", "store", "outbox"]
    shop = Workshop()
    assert list(shop.service.statistics()) == sections
    async with serving(shop.service, MemoryStore(durable=True)) as server:
        sse = await SseSession(server).start()
        session = await LegacySession(server).start()
        call = session.call(1, "work", {"key": "a"})
        await call.event_count(1)
        found = shop.service.statistics()
        assert list(found) == sections
        assert list(server.statistics()) == sections
        sessions = {"open": 2, "opened": 2, "restored": 0, "closed": 0, "resumed": 0, "gaps": 0}
        assert found["sessions"] == sessions
        assert found["calls"] == {"running": 1, "accepted": 1, "ended": 0, "tasks": 0, "keys": 0, "refused": 0}
        assert found["streams"] == {"open": 2}
        assert found["detached"] == {"running": 0, "started": 0, "failed": 0, "dropped": 0, "names": []}
        assert found["log_bytes"]["held"] > 0
        assert (found["store"]["name"], found["store"]["up"]) == ("memory", True)
        assert found["store"]["commits"] > 0
        assert found["store"]["lag"] == 0
        shop.open("a")
        await call.answer(1)
        sse.stream.disconnect()
        session.delete()
        await turns()
        found = server.statistics()
        assert (found["calls"]["running"], found["calls"]["ended"]) == (0, 1)
        assert found["streams"] == {"open": 0}
        assert found["sessions"] == {**sessions, "open": 1, "closed": 1}
    assert shop.service.statistics()["sessions"]["open"] == 0


@virtual
async def test_a_broadcast_reaches_every_session_that_was_initialized() -> None:
    shop = Workshop()
    async with serving(shop.service) as one, serving(shop.service) as other:
        streams = [(await LegacySession(one).start()).get(), (await SseSession(other).start()).stream]
        silent = SseSession(one)
        await silent.open()
        await shop.service.broadcast("notifications/tools/list_changed")
        await shop.service.broadcast("notifications/message", {"level": "info", "data": 1})
        for stream in streams:
            await stream.message("notifications/tools/list_changed")
            assert (await stream.message("notifications/message"))["params"] == {"level": "info", "data": 1}
        await turns()
        assert silent.stream.messages == [], "nothing comes before its initialize"
        silent.stream.disconnect()


# --- its options ----------------------------------------------------------------------------------


def test_options_become_settings() -> None:
    settings = make_settings({"drain": 3, "allow_host": ["a"], "allow_origins": ["https://b"], "keep_alive": None})
    assert (settings.drain, settings.allow_hosts, settings.allow_origins) == (3, ("a",), ("https://b",))
    assert settings.keep_alive == Settings().keep_alive
    with pytest.raises(DefinitionError, match=r"no such option: drian, nonsense; did you mean drain"):
        make_settings({"drian": 3, "nonsense": 1})


def test_stores_by_name(tmp_path: Any) -> None:
    own = MemoryStore()
    assert make_store(own) is own
    assert isinstance(make_store(None), MemoryStore)
    assert not make_store("memory").durable
    assert isinstance(make_store(f"sqlite:{tmp_path}/x"), SqliteStore)
    assert make_store("valkey://u:secret@h/3", "orders").name == "valkey://h:6379/3"
    for bad in ("sqlite", "sqlite:", "postgres:x", ""):
        with pytest.raises(DefinitionError, match="no such store"):
            make_store(bad)


async def test_a_link_in_memory_is_a_server_of_its_own_that_ends_with_it() -> None:
    shop = Workshop()
    link = await connect(shop.service)
    assert shop.service.statistics()["store"]["name"] == "memory"
    await link.close(1.0)
    assert shop.service.statistics()["store"]["name"] == "none"


@virtual
async def test_a_farewell_may_take_what_the_drain_left_of_its_time() -> None:
    service = Service("slow-farewell")
    said: list[str] = []

    @service.on_unregister_session
    async def leaving(session: Session) -> None:
        await asyncio.sleep(4.0)  # more than a server without a drain would give
        said.append(session.id)

    server = Server(service, make_settings({"drain": 20.0}), make_store("memory"))
    await server.start()
    session = server.endpoint.home.new("streamable", "")
    await session.open()
    await server.stop()
    assert said == [session.id]
