"""A session ends once, in bounded time, whatever its calls and hooks do; and so do all of them together (G2, G5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import Context, Service, Session
from tailrace.core.settings import Settings
from tailrace.core.tasks import Tasks
from tailrace.protocols.mcp import notifications
from tailrace.protocols.mcp.hooks import Hooks
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import LegacySession, SseSession, request, serving
from tests.rigs.workshop import Workshop, errors


async def never_ends() -> None:
    """What no cancellation ends, until the test's own end."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 300.0
    while loop.time() < end:
        try:
            await asyncio.sleep(end - loop.time())
        except asyncio.CancelledError:
            continue


def stubborn() -> Service:
    service = Service("stubborn")

    @service.tool
    async def stay(ctx: Context) -> str:
        await never_ends()
        return "too late"

    return service


# --- calls that do not end ------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_caller_of_a_call_that_does_not_end_is_answered_before_its_stream_ends(
    durable: bool, streaming: bool
) -> None:
    @virtual
    async def run() -> None:
        async with serving(
            stubborn(), MemoryStore(durable=durable), grace=5.0, hold=0.05 if streaming else 60.0
        ) as server:
            session = await LegacySession(server).start()
            post = session.call(1, "stay")
            await asyncio.sleep(1.0)
            assert post.replied is streaming
            before = asyncio.get_running_loop().time()
            assert await session.delete().status_code() == 200
            answer = await post.answer(1)
            assert "ended by its client" in answer["error"]["message"]
            if streaming:
                await post.end()
            assert 4.0 <= asyncio.get_running_loop().time() - before <= 6.0
            assert await session.post(request(2, "ping")).status_code() == 404
            assert server.statistics()["calls"]["running"] == 1, "it is counted as long as it runs"

    run()


@virtual
async def test_an_aborted_session_answers_its_callers_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(stubborn()) as server:
        session = await SseSession(server).start()
        assert await session.call(1, "stay").status_code() == 202
        await turns()
        living = server.endpoint.sessions.by_id[session.id]
        await living.abort("enough")
        assert "enough" in (await session.stream.answer(1))["error"]["message"]
        await session.stream.end()
        assert [record for record in caplog.records if "calls did not end" in record.getMessage()] == []


@virtual
async def test_whoever_waits_for_a_sessions_end_wakes_whoever_ends_it() -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        session = await SseSession(server).start()
        (living,) = shop.sessions

        async def wait() -> None:
            await living.closed

        waiting = [asyncio.create_task(wait()) for _ in range(10)]
        await turns()
        waiting.pop().cancel()
        living.close("one")
        living.close("two")
        await asyncio.wait_for(asyncio.gather(*waiting), 1.0)
        assert living.reason == "one"
        await living.closed
        await session.stream.end()


# --- hooks that do not end ------------------------------------------------------------------------


def test_a_hook_that_swallows_its_cancellation_holds_up_neither_the_beginning_nor_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @virtual
    async def run() -> None:
        shop = Workshop()

        @shop.service.on_register_session
        async def greet(session: Session) -> None:
            await never_ends()

        @shop.service.on_unregister_session
        async def part(session: Session) -> None:
            shop.note("parting", session)
            await never_ends()

        async with serving(shop.service, hook_time=5.0) as server:
            loop = asyncio.get_running_loop()
            before = loop.time()
            session = await LegacySession(server).start()
            assert 5.0 <= loop.time() - before < 6.0
            assert await session.delete().status_code() == 200
            (living,) = shop.sessions
            await living.closed
            assert loop.time() - before < 12.0
            assert shop.seen == ["register", "unregister", "parting"]
            assert [text for text in errors(caplog) if "did not end within 5.0s" in text] == errors(caplog)
            assert len(errors(caplog)) == 2

    run()


@virtual
async def test_a_lifespan_that_swallows_its_cancellation_does_not_hold_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, store = Service("clinging"), MemoryStore(durable=True)

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        yield
        await never_ends()

    loop = asyncio.get_running_loop()
    before = loop.time()
    async with serving(service, store, hook_time=5.0):
        pass
    assert loop.time() - before < 7.0
    assert any("lifespan" in text for text in errors(caplog))


@virtual
async def test_a_lifespan_is_left_in_the_task_that_entered_it() -> None:
    service, seen = Service("grouped"), list[Any]()

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:  # is left by whoever entered it, or breaks
            group.create_task(asyncio.sleep(1.0))
            yield
        seen.append("left")

    server = Server(service, Settings(drain=0.0), MemoryStore())
    await asyncio.create_task(server.start())
    await asyncio.create_task(server.stop())
    assert seen == ["left"]


@virtual
async def test_a_cancelled_start_leaves_the_lifespan() -> None:
    service, seen = Service("slow"), list[str]()

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        try:
            await asyncio.sleep(3600.0)
            yield
        finally:
            seen.append("left")

    server = Server(service, Settings(drain=0.0), MemoryStore())
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(1.0)
    starting.cancel()
    before = asyncio.get_running_loop().time()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert asyncio.get_running_loop().time() - before < 1.0
    assert seen == ["left"]
    await server.stop()


# --- all at once ----------------------------------------------------------------------------------


class Stoppable:
    """As much of a session as hooks see."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self.restored = False


async def test_plain_hooks_of_more_sessions_than_there_are_threads_all_run(caplog: pytest.LogCaptureFixture) -> None:
    shop = Workshop()
    ended: list[str] = []

    @shop.service.on_unregister_session
    def part(session: Session) -> None:
        time.sleep(0.02)
        ended.append(session.id)

    async with serving(shop.service, drain=20.0) as server:
        for _ in range(600):  # more than run and wait in the threads
            await LegacySession(server).start()
    assert len(set(ended)) == len(ended) == 600
    assert errors(caplog) == []


async def test_a_plain_hook_waits_for_a_thread_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    shop = Workshop()
    async with serving(shop.service) as server:
        seen: list[str] = []
        hooks = Hooks([lambda session: seen.append("run")], [], [], 0.001)
        places = [hooks._threads.acquire() for _ in range(32)]  # pyright: ignore[reportPrivateUsage]
        await asyncio.gather(*places)
        await hooks.opened(Stoppable(server.tasks))  # type: ignore[arg-type]
        assert seen == []
        assert "no thread was free" in errors(caplog)[0]


@virtual
async def test_the_hooks_at_shutdown_may_take_what_is_left_of_the_drain() -> None:
    shop = Workshop()

    @shop.service.on_unregister_session
    async def part(session: Session) -> None:
        await asyncio.sleep(4.0)
        shop.note("parted", session)

    async with serving(shop.service, drain=10.0) as server:
        for _ in range(3):
            await LegacySession(server).start()
    assert shop.seen.count("parted") == 3


@virtual
async def test_shutdown_waits_for_the_sessions_that_were_evicted_and_are_still_ending() -> None:
    shop = Workshop()
    seconds = iter((3.0, 0.0, 0.0))

    @shop.service.on_unregister_session
    async def part(session: Session) -> None:
        await asyncio.sleep(next(seconds))
        shop.note("parted", session)

    async with serving(shop.service, drain=10.0, max_sessions=1) as server:
        for _ in range(3):
            await LegacySession(server).start()
    assert shop.seen.count("register") == shop.seen.count("unregister") == shop.seen.count("parted") == 3


@virtual
async def test_a_full_table_in_which_nobody_is_idle_is_not_looked_through_for_each_newcomer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = 0
    busy = Session.busy.fget
    assert busy is not None

    def counted(session: Session) -> bool:
        nonlocal looked
        looked += 1
        return busy(session)

    async with serving(max_sessions=50) as server:
        living = [await SseSession(server).start() for _ in range(50)]
        monkeypatch.setattr(Session, "busy", property(counted))
        for _ in range(100):
            refused = SseSession(server).get()
            assert await refused.status_code() == 503
        assert looked <= 50, f"{looked} looks for 100 newcomers"
        living[7].stream.disconnect()
        await asyncio.sleep(float(refused.headers["retry-after"]))
        await SseSession(server).open()
        assert living[7].id not in server.endpoint.sessions.by_id


# --- to everybody ---------------------------------------------------------------------------------


@virtual
async def test_a_broadcast_gives_way_and_waits_for_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "_TURN", 100)
    async with serving(drain=5.0) as server:
        listening = [await SseSession(server).start() for _ in range(350)]
        for session in listening[::2]:
            session.stream.sink.open.clear()
        steps = 0

        async def count() -> None:
            nonlocal steps
            while True:
                await asyncio.sleep(0)
                steps += 1

        others = asyncio.create_task(count())
        await server.broadcast("notifications/test", {"n": 1})
        assert steps >= 2, "others had their turn meanwhile"
        others.cancel()
        for session in listening[1::2]:
            await session.stream.message("notifications/test")
        for session in listening[::2]:
            session.stream.sink.open.set()
            await session.stream.message("notifications/test")
