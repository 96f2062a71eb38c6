"""Every place where other clients block or leak (specs/rpc.md), in three protocols, over HTTP/1.1 and HTTP/2 (G5).

The servers are hostile and by hand; how long the default limits are is tested in virtual time (tests/core/test_stream).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tailrace.connect import Code, RpcDeadlineExceeded, RpcError
from tailrace.wire import connect, grpc
from tests.clients.connect.support import (
    PATH,
    SPOKEN,
    Spoken,
    StringValue,
    at_its_deadline,
    each_early,
    each_way,
    eventually,
    served,
    sockets,
    text,
    told,
    within,
)
from tests.rigs.peers import Request
from tests.rigs.proxy import Plan, running_proxy

pytestmark = pytest.mark.timeout(60)
HOSTILE = ["silent", "head_only", "one_then_silent", "trickle", "endless"]
hostile = pytest.mark.parametrize("how", HOSTILE)


def watch(client: Any, **options: Any) -> Any:
    return client.server_stream(PATH, text("go"), response=StringValue, **options)


def bidi(client: Any, **options: Any) -> Any:
    return client.bidi(PATH, response=StringValue, **options)


# --- leaving, closing, cancelling, timing out: whatever the server does -------------------------------


@each_way
@hostile
@pytest.mark.parametrize("opens", [watch, bidi])
async def test_leaving_the_block_ends_the_call_at_once(spoken: Spoken, how: str, opens: Any) -> None:
    async with served(spoken, getattr(spoken, how)) as (client, peer):
        async with within(0), opens(client):
            request = await peer.request()
        await told(request, spoken)


@each_way
@hostile
@pytest.mark.parametrize("opens", [watch, bidi])
async def test_closing_without_waiting_ends_the_call_at_once(spoken: Spoken, how: str, opens: Any) -> None:
    async with served(spoken, getattr(spoken, how)) as (client, peer), opens(client) as stream:
        request = await peer.request()
        stream.close_nowait()
        assert stream.closed
        await told(request, spoken)
        with pytest.raises(RpcError, match="the stream was closed") as error:
            await stream.receive()
        assert error.value.code is Code.CANCELED


@each_way
@hostile
@pytest.mark.parametrize("opens", [watch, bidi])
async def test_closing_gracefully_returns_inside_its_limit(spoken: Spoken, how: str, opens: Any) -> None:
    async with served(spoken, getattr(spoken, how)) as (client, peer), opens(client) as stream:
        request = await peer.request()
        async with within(0.2):
            await stream.aclose(timeout=0.2)
        assert stream.closed
        await told(request, spoken)


@each_way
@hostile
async def test_the_limit_of_closing_can_be_the_calls_or_the_clients(spoken: Spoken, how: str) -> None:
    async with served(spoken, getattr(spoken, how), close_timeout=0.1) as (client, peer):
        async with within(0.1), watch(client) as stream:
            await peer.request(0)
            await stream.aclose()
        async with within(0.2), watch(client, close_timeout=0.2) as stream:
            await peer.request(1)
            await stream.aclose()
        for request in peer.requests:
            await told(request, spoken)


@each_way
async def test_closing_what_is_huge_ends_at_its_bytes_with_the_default_limits(spoken: Spoken) -> None:
    async with served(spoken, spoken.endless) as (client, peer), watch(client) as stream:
        await stream.receive()
        async with within(0):  # 30 s is not what ends it
            await stream.aclose()
        await told(await peer.request(), spoken)


@each_way
async def test_closing_can_be_given_fewer_bytes(spoken: Spoken) -> None:
    async with served(spoken, spoken.trickle, close_max_bytes=100) as (client, peer), watch(client) as stream:
        await stream.receive()
        async with within(0):
            await stream.aclose()
        await told(await peer.request(), spoken)


@each_way
@hostile
async def test_a_cancelled_task_ends_the_call_at_once_and_stays_cancelled(spoken: Spoken, how: str) -> None:
    async def consume(client: Any) -> None:
        async with watch(client) as stream:
            async for _ in stream:
                pass

    async with served(spoken, getattr(spoken, how)) as (client, peer):
        task = asyncio.create_task(consume(client))
        request = await peer.request()
        task.cancel()
        async with within(0):
            await asyncio.wait([task])
        assert task.cancelled()
        await told(request, spoken)


@each_way
@hostile
async def test_a_stream_that_a_task_of_a_group_reads_ends_with_that_task(spoken: Spoken, how: str) -> None:
    """The recipe of docs/rpc-client.md: one reads, another has its reasons to end it."""

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    async with served(spoken, getattr(spoken, how)) as (client, peer):
        async with within(0), watch(client) as stream, asyncio.TaskGroup() as group:
            reading = group.create_task(read(stream))
            request = await peer.request()
            reading.cancel()
        assert reading.cancelled()
        await told(request, spoken)


@each_way
@hostile
async def test_a_cancelled_close_ends_the_call_at_once_and_stays_cancelled(spoken: Spoken, how: str) -> None:
    async def close(client: Any) -> None:
        async with watch(client) as stream:
            await peer.request()
            closing.set()
            await stream.aclose()

    closing = asyncio.Event()
    slow = how if how != "endless" else "trickle"
    async with served(spoken, getattr(spoken, slow)) as (client, peer):
        task = asyncio.create_task(close(client))
        await closing.wait()
        await asyncio.sleep(0)
        task.cancel()
        async with within(0):
            await asyncio.wait([task])
        assert task.cancelled()
        await told(await peer.request(), spoken)


@each_way
@hostile
async def test_asyncios_timeout_raises_a_timeout_error_and_nothing_else(spoken: Spoken, how: str) -> None:
    async def consume(client: Any) -> None:
        async with asyncio.timeout(None) as limit, watch(client) as stream:
            await peer.request()
            limit.reschedule(asyncio.get_running_loop().time() + 0.05)
            async for _ in stream:
                pass

    async with served(spoken, getattr(spoken, how)) as (client, peer):
        with pytest.raises(TimeoutError) as error:
            await consume(client)
        assert type(error.value) is TimeoutError
        await told(await peer.request(), spoken)


@each_way
@hostile
async def test_a_deadline_ends_the_call_and_is_told_apart(spoken: Spoken, how: str) -> None:
    async with served(spoken, getattr(spoken, how)) as (client, peer):

        async def consume(seconds: float) -> None:
            async with watch(client, timeout=seconds) as stream:
                async for _ in stream:
                    pass

        error = await at_its_deadline(peer, consume)
        assert error.code is Code.DEADLINE_EXCEEDED
        assert isinstance(error, TimeoutError)
        await told(await peer.request(), spoken)


@each_way
@hostile
@pytest.mark.parametrize("opens", [watch, bidi])
async def test_closing_the_client_ends_open_streams(spoken: Spoken, how: str, opens: Any) -> None:
    async def consume(client: Any) -> None:
        async with opens(client) as stream:
            async for _ in stream:
                pass

    async with served(spoken, getattr(spoken, how)) as (client, peer):
        task = asyncio.create_task(consume(client))
        request = await peer.request()
        async with within(0):
            await client.close()
            await asyncio.wait([task])
        error = task.exception()
        assert isinstance(error, RpcError)
        assert (error.code, str(error)) == (Code.CANCELED, "the client was closed")
        await told(request, spoken, closed=True)


@each_way
async def test_break_ends_the_call_while_the_stream_is_still_referenced(spoken: Spoken) -> None:
    async with served(spoken, spoken.trickle) as (client, peer):
        async with watch(client) as stream:
            async for _ in stream:
                break
        await told(await peer.request(), spoken)
        assert stream.closed


@each_way
async def test_an_exception_ends_the_call_and_stays_itself(spoken: Spoken) -> None:
    class Own(Exception):
        pass

    async def consume(client: Any) -> None:
        async with watch(client) as stream:
            async for _ in stream:
                raise Own

    async with served(spoken, spoken.trickle) as (client, peer):
        with pytest.raises(Own):
            await consume(client)
        await told(await peer.request(), spoken)


@each_way
async def test_a_wait_that_times_out_inside_the_block_loses_no_message(spoken: Spoken) -> None:
    gate = asyncio.Event()

    async def late(request: Request) -> None:
        await spoken.begin(request)
        await gate.wait()
        await spoken.message(request, "one")
        await spoken.end(request)

    async with served(spoken, late) as (client, _), watch(client) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.receive()
        gate.set()
        assert [one.value async for one in stream] == ["one"]


# --- the tail -----------------------------------------------------------------------------------------


@each_early  # gRPC says it with HTTP's trailers, which are the body's end
async def test_the_end_is_known_before_the_body_ends_and_leaving_is_bounded(spoken: Spoken) -> None:
    async def ends_and_stays(request: Request) -> None:
        await spoken.begin(request)
        await spoken.message(request, "one")
        await spoken.end_message(request)
        await asyncio.Event().wait()

    async with served(spoken, ends_and_stays, close_timeout=0.1) as (client, peer):
        async with within(0.1), watch(client) as stream:
            assert [one.value async for one in stream] == ["one"]
            assert await stream.receive() is None
        await told(await peer.request(), spoken)


@each_early
async def test_what_follows_the_end_is_bounded_too(spoken: Spoken) -> None:
    async def ends_and_goes_on(request: Request) -> None:
        await spoken.begin(request)
        await spoken.end_message(request)
        while True:
            await request.data(bytes(65_536))
            await asyncio.sleep(0)

    async with served(spoken, ends_and_goes_on) as (client, peer):
        async with within(1), watch(client) as stream:
            assert await stream.receive() is None
        await told(await peer.request(), spoken)


async def no_trailers(spoken: Spoken, request: Request) -> None:
    await request.whole()
    await spoken.begin(request)
    await spoken.message(request, "one")
    await asyncio.Event().wait()


async def more_messages(spoken: Spoken, request: Request) -> None:
    await request.whole()
    await spoken.begin(request)
    while True:
        await spoken.message(request, "one")
        await asyncio.sleep(0.01)


async def unary(client: Any, **options: Any) -> Any:
    return await client.unary(PATH, text("go"), response=StringValue, **options)


async def collected(client: Any, **options: Any) -> Any:
    async with client.client_stream(PATH, response=StringValue, **options) as stream:
        await stream.send(text("go"))
        return await stream.close_and_receive()


Makes = Callable[..., Awaitable[Any]]


# A unary Connect call has no messages but its body.
each_stream = pytest.mark.parametrize(
    ("spoken", "makes"),
    [(one, makes) for one in SPOKEN for makes in (unary, collected) if (one.protocol, makes) != ("connect", unary)],
    ids=lambda one: one.__name__ if callable(one) else repr(one),
)


@each_stream
async def test_a_missing_end_after_the_only_message_is_waited_for_as_long_as_a_close(
    spoken: Spoken, makes: Makes
) -> None:
    async with served(spoken, lambda request: no_trailers(spoken, request)) as (client, peer):
        with pytest.raises(RpcError, match=r"did not end its answer within 0\.1 s") as error:
            await makes(client, close_timeout=0.1, timeout=20.0)
        assert error.value.code is Code.INTERNAL
        await told(await peer.request(), spoken)


@each_stream
async def test_a_second_message_where_there_is_to_be_one_is_refused(spoken: Spoken, makes: Makes) -> None:
    async with served(spoken, lambda request: more_messages(spoken, request)) as (client, peer):
        with pytest.raises(RpcError, match="more than one message") as error:
            await makes(client)
        assert error.value.code is Code.UNIMPLEMENTED
        await told(await peer.request(), spoken)


@each_way
@pytest.mark.parametrize("makes", [unary, collected])
@pytest.mark.parametrize("how", ["silent", "head_only"])
async def test_a_call_that_is_never_answered_ends_at_its_deadline(spoken: Spoken, makes: Makes, how: str) -> None:
    async def answer(request: Request) -> None:
        if how == "head_only":
            await spoken.begin(request, unary=makes is unary)
        await asyncio.Event().wait()

    async with served(spoken, answer) as (client, peer):
        await at_its_deadline(peer, lambda seconds: makes(client, timeout=seconds))
        await told(await peer.request(), spoken)


@each_way
@pytest.mark.parametrize("makes", [unary, collected])
@pytest.mark.parametrize("how", ["silent", "head_only"])
async def test_a_call_that_is_cancelled_stays_cancelled(spoken: Spoken, makes: Makes, how: str) -> None:
    async def answer(request: Request) -> None:
        if how == "head_only":
            await spoken.begin(request, unary=makes is unary)
        await asyncio.Event().wait()

    async with served(spoken, answer) as (client, peer):
        task = asyncio.ensure_future(makes(client))
        request = await peer.request()
        task.cancel()
        async with within(0):
            await asyncio.wait([task])
        assert task.cancelled()
        await told(request, spoken)


@pytest.mark.parametrize("http2", [False, True])
async def test_an_unending_unary_body_ends_at_the_deadline_or_at_its_bytes(http2: bool) -> None:
    spoken = Spoken("connect", http2)

    async def unending(request: Request) -> None:
        await spoken.begin(request, unary=True)
        while True:
            await request.data(bytes(10_000))
            await asyncio.sleep(0.001)

    async with served(spoken, unending) as (client, peer):
        with pytest.raises(RpcDeadlineExceeded):
            await unary(client, timeout=0.5)
        with pytest.raises(RpcError, match="more than 100000 bytes") as error:
            await unary(client, read_max_bytes=100_000)
        assert error.value.code is Code.RESOURCE_EXHAUSTED
        for request in peer.requests:
            await told(request, spoken)


@each_way
async def test_a_unary_call_has_a_deadline_if_it_is_given_none(spoken: Spoken) -> None:
    for seconds in (1.0, 10.0, 30.0):
        async with served(spoken, spoken.silent, timeout=seconds) as (client, peer):
            with pytest.raises(RpcDeadlineExceeded):
                await unary(client)
            left = told_deadline(peer.requests[0]) if peer.requests else 0.0
            assert left <= seconds
            if left > seconds / 10:  # else a busy machine took the time before the request was written
                await told(peer.requests[0], spoken)
                return
    raise AssertionError("no request told of its deadline")


def told_deadline(request: Request) -> float:
    asked = {name: request.headers.get(name) for name in ("connect-timeout-ms", "grpc-timeout")}
    left = connect.parse_timeout(asked["connect-timeout-ms"]) or grpc.parse_timeout(asked["grpc-timeout"])
    assert left is not None
    return left


# --- sending ------------------------------------------------------------------------------------------


@each_way
async def test_a_send_to_a_server_that_reads_nothing_ends_with_the_call(spoken: Spoken) -> None:
    """The proxy lets nothing through; the client's own window fills up, and `send` waits."""
    async with served(spoken, spoken.silent) as (_, peer), running_proxy(peer.port) as proxy:
        proxy.plan = lambda _: Plan(cut_up_after=200_000, fault="black-hole")
        client = type(spoken)(spoken.protocol, spoken.http2)

        async def flood(stream: Any) -> None:
            while True:
                await stream.send(text("x" * 100_000))

        async with client.client(proxy, timeout=30) as c:  # type: ignore[arg-type]
            with pytest.raises(RpcDeadlineExceeded):
                async with c.bidi(PATH, response=StringValue, timeout=0.3) as stream:
                    await flood(stream)
            async with c.bidi(PATH, response=StringValue) as stream:
                task = asyncio.create_task(flood(stream))
                await asyncio.sleep(0.2)
                assert not task.done()
                stream.close_nowait()
                async with within(0):
                    await asyncio.wait([task])
                assert isinstance(task.exception(), RpcError)
            async with c.bidi(PATH, response=StringValue) as stream:
                task = asyncio.create_task(flood(stream))
                await asyncio.sleep(0.2)
                task.cancel()
                async with within(0):
                    await asyncio.wait([task])
                assert task.cancelled()
        for request in peer.requests:
            request.left.set()  # nothing reaches the server any more: that it was told cannot be seen here


# --- a network that stalls ----------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("way", ["aclose", "close_nowait", "leave", "cancel", "timeout"])
async def test_a_network_that_stalls_in_the_middle_of_a_stream_keeps_nobody(spoken: Spoken, way: str) -> None:
    async with served(spoken, spoken.endless) as (_, peer), running_proxy(peer.port) as proxy:
        proxy.plan = lambda _: Plan(cut_after=300_000, fault="black-hole")

        async def consume(stream: Any) -> None:
            async for _ in stream:
                pass

        async with spoken.client(proxy) as client:  # type: ignore[arg-type]
            timeout = 4.0 if way == "timeout" else None  # it has to stall before
            async with within(1), watch(client, timeout=timeout) as stream:
                task = asyncio.create_task(consume(stream))
                await eventually(lambda: bool(proxy.connections) and proxy.connections[0].struck, "the network stalls")
                if way == "aclose":
                    await stream.aclose(timeout=0.2)
                elif way == "close_nowait":
                    stream.close_nowait()
                elif way == "cancel":
                    task.cancel()
                if way != "leave":
                    await asyncio.wait([task])
            await asyncio.wait([task])
            assert client.statistics() == {"open": 0}
        error = None if task.cancelled() else task.exception()
        assert task.cancelled() is (way == "cancel")
        assert isinstance(error, RpcDeadlineExceeded if way == "timeout" else RpcError) or way == "cancel"
        await proxy.close()


# --- connections --------------------------------------------------------------------------------------


@each_way
async def test_a_connection_is_used_again_after_a_graceful_close(spoken: Spoken) -> None:
    async with served(spoken, spoken.two) as (client, peer):
        for _ in range(5):
            async with watch(client) as stream:
                await stream.aclose()
        for _ in range(5):
            async with watch(client) as stream:
                assert [one.value async for one in stream] == ["one", "two"]
        # Over HTTP/1.1 pyqwest takes a connection back a moment after the end: the next call may be faster.
        assert peer.connections == 1 if spoken.http2 else peer.connections < 8


@each_way
async def test_descriptors_tasks_and_streams_return_to_where_they_were(spoken: Spoken) -> None:
    async with served(spoken, spoken.trickle) as (client, peer):
        async with watch(client) as stream:
            await stream.receive()
        await eventually(lambda: peer.streams == 0, "the first stream is over")
        await eventually(lambda: peer.open == int(spoken.http2), "its connection is closed, if it was its own")
        before, tasks = sockets(), len(asyncio.all_tasks())
        for number in range(30):
            async with watch(client) as stream:
                await stream.receive()
                if number % 3 == 1:
                    stream.close_nowait()
                elif number % 3 == 2:
                    await stream.aclose(timeout=0.02)
        await eventually(lambda: peer.streams == 0, "no stream is left")
        await eventually(lambda: sockets() <= before, "sockets are as many as before")
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks, "tasks are as many as before")
