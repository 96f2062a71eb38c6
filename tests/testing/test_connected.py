"""`connected`, `running` and the clients in memory: what the tests of users stand on."""

from __future__ import annotations

import asyncio

import pytest

from tailrace import Context, Service, TransportError
from tailrace.errors import DefinitionError, ProtocolError, StoreError
from tailrace.testing import (
    FaultyStore,
    MemoryStore,
    RecordingPublisher,
    client_of,
    connected,
    running,
    server_of,
    virtual_time,
)


def make_service() -> Service:
    svc = Service("orders")
    svc.placed = []  # type: ignore[attr-defined]

    @svc.tool
    async def add(ctx: Context, a: int, b: int) -> int:
        """Add two numbers."""
        await ctx.progress(1, 2, "adding")
        await ctx.log("warning", {"a": a})
        return a + b

    @svc.tool(once="key")
    async def place(ctx: Context, item: str, key: str) -> int:
        """Place an order."""
        svc.placed.append(item)  # type: ignore[attr-defined]
        await ctx.publish("orders", {"item": item})
        return len(svc.placed)  # type: ignore[attr-defined]

    @svc.tool
    async def forever() -> str:
        """Never end."""
        await asyncio.Event().wait()
        return "unreachable"

    return svc


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_client_in_memory_speaks_the_era_that_it_was_told(era: str) -> None:
    async with connected(make_service(), era=era) as client:
        assert client.era == era
        result = await client.call_tool("add", {"a": 1, "b": 2}, progress=client.recorder.progress)
        assert result.data == 3
        assert client.recorder.steps == [(1, 2, "adding")]
        await client.recorder.until(lambda heard: heard.logs)
        assert (client.recorder.logs[0].level, client.recorder.logs[0].data) == ("warning", {"a": 1})


async def test_callbacks_of_the_test_are_told_as_well_as_the_recorder() -> None:
    logs: list[object] = []
    async with connected(make_service(), on_log=logs.append) as client:
        await client.call_tool("add", {"a": 1, "b": 2})
        assert logs == client.recorder.logs != []


async def test_notifications_are_recorded() -> None:
    svc = make_service()
    async with connected(svc, era="legacy") as client:
        await svc.broadcast("notifications/custom", {"n": 1})
        await client.recorder.until(lambda heard: heard.notifications)
        assert client.recorder.notifications == [("notifications/custom", {"n": 1})]


@virtual_time
async def test_waiting_for_what_is_never_told_ends() -> None:
    async with connected(make_service()) as client:
        with pytest.raises(TimeoutError):
            await client.recorder.until(lambda heard: heard.notifications)


async def test_statistics_and_limits_are_those_of_the_server() -> None:
    async with connected(make_service(), server={"max_session_calls": 1}, era="legacy") as client:
        await client.call_tool("add", {"a": 1, "b": 2})
        assert client.server.statistics()["calls"]["accepted"] == 1
        first = asyncio.ensure_future(client.call_tool("forever"))
        while client.server.statistics()["calls"]["running"] == 0:
            await asyncio.sleep(0)
        with pytest.raises(ProtocolError, match="1"):
            await client.call_tool("forever")
        first.cancel()
        await asyncio.wait([first])


async def test_one_service_has_several_clients_and_the_end_of_one_is_not_the_others() -> None:
    async with running(make_service()) as server, server.client() as one:
        async with server.client() as other:
            assert (await other.call_tool("add", {"a": 1, "b": 2})).data == 3
        assert (await one.call_tool("add", {"a": 2, "b": 2})).data == 4


async def test_what_is_published_is_seen_in_order() -> None:
    async with connected(make_service()) as client:
        for number, item in enumerate(["tea", "milk"]):
            await client.call_tool("place", {"item": item, "key": str(number)})
        first, second = await client.server.publisher.received(2)
        assert (first.topic, first.value) == ("orders", b'{"item":"tea"}')
        assert second.value == b'{"item":"milk"}'


@virtual_time
async def test_a_broker_that_is_away_gets_what_was_published_when_it_is_back() -> None:
    async with connected(make_service()) as client:
        publisher = client.server.publisher
        publisher.fail(ConnectionError("no broker"))
        await client.call_tool("place", {"item": "tea", "key": "1"})
        with pytest.raises(TimeoutError):
            await publisher.received()
        publisher.fail(None)
        assert len(await publisher.received(timeout=600)) == 1


async def test_who_publishes_elsewhere_is_told_so() -> None:
    async with running(make_service(), publish="log:") as server:
        with pytest.raises(DefinitionError, match="elsewhere"):
            _ = server.publisher


@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_a_retry_after_the_end_of_a_process_runs_nothing_twice(end: str) -> None:
    svc = make_service()
    async with running(svc) as server:
        async with server.client() as client:
            assert (await client.call_tool("place", {"item": "tea", "key": "1"})).data == 1
            if end == "kill":
                await server.kill()
                await server.start()
            else:
                await server.restart()
            with pytest.raises(TransportError):
                await client.call_tool("add", {"a": 1, "b": 2})
        async with server.client() as client:
            again = await client.call_tool("place", {"item": "tea", "key": "1"})
            assert again.data == 1
            assert again.meta["io.tailrace/replayed"] is True
    assert svc.placed == ["tea"]  # type: ignore[attr-defined]


async def test_a_kill_loses_what_was_not_committed_and_fails_the_calls_in_flight() -> None:
    store = MemoryStore(durable=True)
    async with running(make_service(), store=store) as server, server.client() as client:
        call = asyncio.ensure_future(client.call_tool("forever"))
        while server.statistics()["calls"]["running"] == 0:
            await asyncio.sleep(0)
        await server.kill()
        with pytest.raises(TransportError):
            await call
        with pytest.raises(DefinitionError, match="does not run"):
            server.statistics()


async def test_only_a_memory_store_can_be_killed(tmp_path: object) -> None:
    async with running(make_service(), store=f"sqlite:{tmp_path}/s.db") as server:
        with pytest.raises(DefinitionError, match="memory store"):
            await server.kill()
        await server.restart()


async def test_a_service_is_started_once_and_stopped_as_often_as_one_likes() -> None:
    async with running(make_service()) as server:
        with pytest.raises(DefinitionError, match="runs already"):
            await server.start()
        await server.stop()
        await server.stop()


@virtual_time
async def test_a_client_that_disconnects_has_its_calls_cancelled_after_the_drain() -> None:
    seen: list[str] = []
    svc = Service("shop")

    @svc.tool
    async def work(ctx: Context) -> str:
        """Work until nobody wants it."""
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(f"cancelled: {ctx.cancelled}")
        return "unreachable"

    async with running(svc) as server, server.client() as client:
        call = asyncio.ensure_future(client.call_tool("work"))
        while not seen:
            await asyncio.sleep(0)
        await client.disconnect()
        with pytest.raises(TransportError, match="disconnected"):
            await call
        assert seen == ["begun", "cancelled: True"]
        async with server.client() as other:
            assert [tool.name for tool in await other.list_tools()] == ["work"]


@virtual_time
async def test_a_client_that_reads_nothing_is_given_up_after_the_stall_and_hurts_nobody() -> None:
    async with running(make_service(), stall=3) as server, server.client() as slow, server.client() as other:
        slow.stop_reading()
        call = asyncio.ensure_future(slow.call_tool("add", {"a": 1, "b": 2}))
        assert (await other.call_tool("add", {"a": 1, "b": 1})).data == 2
        with pytest.raises(TransportError, match="server has ended"):
            await call


@virtual_time
async def test_a_client_that_reads_on_in_time_gets_its_answer() -> None:
    async with connected(make_service(), server={"stall": 3}) as client:
        client.stop_reading()
        call = asyncio.ensure_future(client.call_tool("add", {"a": 1, "b": 2}))
        await asyncio.sleep(2)
        assert not call.done()
        client.resume_reading()
        assert (await call).data == 3


# --- the store that fails ------------------------------------------------------------------------


async def place(store: FaultyStore) -> list[bool | str]:
    """Place three orders; what became of each."""
    svc, outcome = make_service(), []
    async with connected(svc, server={"store": store}, era="legacy") as client:
        for number in range(3):
            if number == 1:
                store.fail_write()
            try:
                result = await client.call_tool("place", {"item": "tea", "key": str(number)})
            except ProtocolError:
                outcome.append("refused")
            else:
                outcome.append(result.is_error)
    return [*outcome, len(svc.placed)]  # type: ignore[attr-defined]


async def test_a_write_that_fails_refuses_its_call_and_no_other() -> None:
    store = FaultyStore()
    outcome = await place(store)
    assert outcome == [False, "refused", False, 2]


@pytest.mark.parametrize("commit", [True, False])
async def test_the_write_that_was_named_fails_and_those_around_it_do_not(commit: bool) -> None:
    store = FaultyStore()
    await store.open()
    store.fail_write(2, count=2, commit=commit, error=StoreError("disk full"))
    failed: list[str] = []
    for _ in range(5):
        try:
            store.write([])
            await store.flush()
        except StoreError as error:
            failed.append(str(error).rpartition(": ")[2])
        else:
            failed.append("")
    assert failed == ["", "disk full", "disk full", "", ""]
    assert store.writes == 5
    assert store.failure is None
    await store.close()


# --- as fixtures ---------------------------------------------------------------------------------

client = pytest.fixture(client_of(make_service, era="modern"))
server = pytest.fixture(server_of(make_service))
shared = make_service()
of_one = pytest.fixture(client_of(shared))


async def test_a_fixture_gives_a_client(client) -> None:  # type: ignore[no-untyped-def]
    assert client.era == "modern"
    assert (await client.call_tool("add", {"a": 1, "b": 2})).data == 3


async def test_a_fixture_of_a_service_serves_that(of_one) -> None:  # type: ignore[no-untyped-def]
    assert of_one.server.service is shared


async def test_a_fixture_gives_a_server(server) -> None:  # type: ignore[no-untyped-def]
    assert isinstance(server.publisher, RecordingPublisher)
    async with server.client() as client:
        assert (await client.call_tool("add", {"a": 1, "b": 2})).data == 3


ANYIO = """
    import pytest
    from tailrace import Service
    from tailrace.testing import client_of

    svc = Service("shop")

    @svc.tool
    async def brew(tea: str) -> str:
        return tea

    client = pytest.fixture(client_of(svc))

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.mark.anyio
    async def test_brew(client):
        assert (await client.call_tool("brew", {"tea": "sencha"})).data == "sencha"
"""


def test_the_fixture_works_with_anyio_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ANYIO)
    foreign = ("randomly", "cacheprovider", "xdist", "asyncio", "cov")
    result = pytester.runpytest_subprocess(*(argument for name in foreign for argument in ("-p", f"no:{name}")))
    result.assert_outcomes(passed=1)


def test_no_test_framework_is_imported(pytester: pytest.Pytester) -> None:
    program = "import sys, tailrace.testing; sys.exit('pytest' in sys.modules or 'anyio' in sys.modules)"
    import sys

    assert pytester.run(sys.executable, "-c", program).ret == 0
