"""Our RPC client and real servers: calls work; however one is left, its handler is told and nothing stays (G5)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import pytest

from tailrace.connect import Client, Code, RpcDeadlineExceeded, RpcError
from tests.clients.connect.support import StringValue, eventually, sockets, text, within
from tests.e2e.installing import Missing
from tests.e2e.rpc_servers import PACKAGE, SERVERS, WAYS, State
from tests.rigs.proxy import Plan, running_proxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
EACH = [pytest.param(name, *way, id=f"{name}-{way[0]}-{way[1]}") for name, ways in WAYS.items() for way in ways]
each = pytest.mark.parametrize(("server", "protocol", "version"), EACH, indirect=["server"])


@pytest.fixture
async def server(
    request: pytest.FixtureRequest, needs: Callable[[str, str], NoReturn]
) -> AsyncIterator[tuple[str, State]]:
    try:
        async with SERVERS[request.param]() as running:
            yield running
    except Missing as missing:
        needs(*missing.args)
    if request.param == "grpcio":
        gc.collect()  # the end of its threads is waited for here, not where its objects go by chance


def stream(client: Client, name: str, **options: Any) -> Any:
    return client.server_stream(f"{PACKAGE}/{name}", text("go"), response=StringValue, **options)


async def consume(client: Client, name: str, **options: Any) -> None:
    async with stream(client, name, **options) as events:
        async for _ in events:
            pass


async def runs(state: State, count: int) -> None:
    until = asyncio.get_running_loop().time() + 60.0
    while (found := await state())[0] != count:
        assert asyncio.get_running_loop().time() < until, f"{count} handlers should run: {found}"
        await asyncio.sleep(0.005)


async def end_once_it_runs(state: State, limit: asyncio.Timeout) -> None:
    await runs(state, 1)
    limit.reschedule(asyncio.get_running_loop().time())


async def outlive_a_deadline(state: State, client: Client, name: str) -> None:
    """The deadline is that of a call that has begun: on a busy machine the first one may be too short for that."""
    _, before = await state()
    for deadline in (0.2, 1.0, 5.0, 25.0):
        with pytest.raises(RpcDeadlineExceeded):
            async with within(deadline):
                await consume(client, name, timeout=deadline)
        await runs(state, 0)
        if (await state())[1] > before:
            return


@each
async def test_all_kinds_of_calls_work(
    server: tuple[str, State], protocol: Any, version: Any, request: pytest.FixtureRequest
) -> None:
    url, state = server
    async with Client(url, protocol=protocol, http_version=version) as client:
        assert (await client.unary(f"{PACKAGE}/Echo", text("hi"), response=StringValue)).value == "hi"
        with pytest.raises(RpcError, match="as asked") as error:
            await client.unary(f"{PACKAGE}/Echo", text("fail"), response=StringValue)
        assert error.value.code is Code.FAILED_PRECONDITION
        with pytest.raises(RpcError) as error:
            await client.unary(f"{PACKAGE}/Missing", text("hi"), response=StringValue)
        assert error.value.code is Code.UNIMPLEMENTED
        async with stream(client, "Three") as events:
            assert [one.value async for one in events] == ["go 0", "go 1", "go 2"]
        async with client.client_stream(f"{PACKAGE}/Join", response=StringValue) as joining:
            for word in ("a", "b", "c"):
                await joining.send(text(word))
            assert (await joining.close_and_receive()).value == "a b c"
        async with client.bidi(f"{PACKAGE}/Talk", response=StringValue) as talk:
            if version == "1.1" and "connect-go" in request.node.name:
                with pytest.raises(RpcError, match="HTTP 505"):  # it serves that over HTTP/2 only
                    await talk.receive()
                return
            if version == "2":
                for number in range(3):
                    await talk.send(text(str(number)))
                    answer = await talk.receive()
                    assert answer is not None
                    assert answer.value == str(number)
            else:  # not every server answers an HTTP/1.1 request that has not ended
                for number in range(3):
                    await talk.send(text(str(number)))
            await talk.close_send()
            rest = [one.value async for one in talk]
            assert rest == ([] if version == "2" else ["0", "1", "2"])
        await runs(state, 0)


@each
@pytest.mark.parametrize("name", ["Silent", "Ticks", "Huge"])
@pytest.mark.parametrize("way", ["leave", "nowait", "close", "cancel", "timeout", "deadline", "client"])
async def test_however_a_stream_is_left_its_handler_is_told(
    server: tuple[str, State], protocol: Any, version: Any, name: str, way: str
) -> None:
    url, state = server
    _, before = await state()
    async with Client(url, protocol=protocol, http_version=version) as client:
        task = asyncio.create_task(consume(client, name))
        if way in ("leave", "nowait", "close"):
            task.cancel()
            async with within(1), stream(client, name) as events:
                await runs(state, 1)
                if way == "nowait":
                    events.close_nowait()
                elif way == "close":
                    await events.aclose(timeout=0.2)
        elif way == "timeout":
            task.cancel()
            limit = asyncio.timeout(None)
            with pytest.raises(TimeoutError) as error:
                async with limit:
                    await asyncio.gather(end_once_it_runs(state, limit), consume(client, name))
            assert type(error.value) is TimeoutError
        elif way == "deadline":
            task.cancel()
            await outlive_a_deadline(state, client, name)
        else:
            await runs(state, 1)
            if way == "cancel":
                task.cancel()
            else:
                await client.close()
            async with within(0):
                await asyncio.wait([task])
            assert task.cancelled() if way == "cancel" else isinstance(task.exception(), RpcError)
        await runs(state, 0)
        assert client.statistics() == {"open": 0}
    _, after = await state()
    assert after > before


@each
async def test_a_unary_call_that_is_given_up_is_told(server: tuple[str, State], protocol: Any, version: Any) -> None:
    url, state = server
    async with Client(url, protocol=protocol, http_version=version) as client:
        with pytest.raises(RpcDeadlineExceeded):
            await client.unary(f"{PACKAGE}/Never", text("x"), response=StringValue, timeout=0.2)
        await runs(state, 0)
        task = asyncio.ensure_future(client.unary(f"{PACKAGE}/Never", text("x"), response=StringValue))
        await runs(state, 1)
        task.cancel()
        async with within(0):
            await asyncio.wait([task])
        assert task.cancelled()
        await runs(state, 0)


@pytest.mark.parametrize(
    ("server", "protocol", "version"), [one for one in EACH if one.values[2] == "2"], indirect=["server"]
)
async def test_a_conversation_that_is_left_is_told(server: tuple[str, State], protocol: Any, version: Any) -> None:
    url, state = server
    async with Client(url, protocol=protocol, http_version=version) as client:
        async with within(0), client.bidi(f"{PACKAGE}/Talk", response=StringValue) as talk:
            await talk.send(text("hi"))
            await talk.receive()
            await runs(state, 1)
        await runs(state, 0)
        async with within(0), client.bidi(f"{PACKAGE}/Talk", response=StringValue) as talk:
            await talk.send(text("hi"))
            await talk.aclose()  # in order: the handler sees the end of its messages
        await runs(state, 0)
        async with within(0), client.bidi(f"{PACKAGE}/Talk", response=StringValue):
            pass  # before anything was sent
        await runs(state, 0)


@each
async def test_a_stalled_network_keeps_nobody(server: tuple[str, State], protocol: Any, version: Any) -> None:
    url, state = server
    async with (
        running_proxy(int(url.rpartition(":")[2]), lambda _: Plan(cut_after=400_000, fault="black-hole")) as proxy,
        Client(proxy.url, protocol=protocol, http_version=version) as client,
    ):
        with pytest.raises(RpcDeadlineExceeded):
            async with within(1):
                await consume(client, "Huge", timeout=1.0)
        async with within(1), stream(client, "Huge") as events:
            await asyncio.sleep(0.1)
            await events.aclose(timeout=0.2)
        async with within(0), stream(client, "Huge") as events:
            await asyncio.sleep(0.1)
            events.close_nowait()
    await runs(state, 0)


@each
async def test_descriptors_tasks_and_handlers_return_to_where_they_were(
    server: tuple[str, State], protocol: Any, version: Any
) -> None:
    url, state = server
    async with Client(url, protocol=protocol, http_version=version) as client:
        async with stream(client, "Three") as events:
            assert len([one async for one in events]) == 3
        tasks, before = len(asyncio.all_tasks()), sockets()
        for number in range(20):
            async with stream(client, ("Ticks", "Silent", "Huge")[number % 3]) as events:
                if number % 2:
                    events.close_nowait()
                elif number % 3 != 1:
                    await events.receive()
        await runs(state, 0)
        await eventually(lambda: sockets() <= before + 2, "sockets are as many as before")  # idle connections
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 2, "tasks are as many as before")
