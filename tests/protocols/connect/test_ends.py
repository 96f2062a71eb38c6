"""Calls that end early: whoever ends them, the handler hears of it at once, and the client gets the right end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import Code, Context
from tailrace.errors import ClientGone, DeadlineExceeded, StreamReset
from tests.core.support import virtual
from tests.protocols.connect.support import PROTOCOLS, Order, Request, Shop, call, send
from tests.rigs.exchange import serving

KINDS = pytest.mark.parametrize(
    ("method", "stream", "fed"),
    [("Wait", False, False), ("WaitStream", True, False), ("WaitRequests", True, True), ("WaitBoth", True, True)],
)


def waiting(method: str, protocol: str, stream: bool, fed: bool, *headers: tuple[str, str]) -> Request:
    messages = () if fed else ({"item": "tea"},)
    return Request(f"/shop.v1.Shop/{method}", *messages, protocol=protocol, stream=stream, fed=fed, headers=headers)


async def until(what: Any) -> None:
    for _ in range(10_000):
        if what():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


# --- the client goes ----------------------------------------------------------------------------


@KINDS
@PROTOCOLS
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_goes_cancels_its_call_and_the_handler_is_told(
    protocol: str, method: str, stream: bool, fed: bool, reset: bool
) -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        request = send(server, waiting(method, protocol, stream, fed))
        await until(lambda: shop.seen)
        if reset:
            request.leave(StreamReset())
        else:
            request.disconnect()
        await until(lambda: not server.tasks.calls)
        assert shop.seen == ["begin", "CancelledError"] or (method == "WaitStream" and len(shop.seen) == 2)
        assert shop.context is not None
        assert type(shop.context.error) is (StreamReset if reset else ClientGone)
        assert server.statistics()["calls"]["running"] == 0


@PROTOCOLS
async def test_a_stream_whose_handler_is_between_two_messages_is_closed_as_well(protocol: str) -> None:
    shop = Shop()

    @shop.service.rpc
    async def endless(request: Order, ctx: Context) -> AsyncIterator[Order]:
        shop.context = ctx
        try:
            while True:
                yield request
        finally:
            shop.seen.append("closed")

    async with serving(shop.service, rpc_ahead=1000) as server:
        request = Request("/shop.v1.Shop/Endless", {"item": "tea"}, protocol=protocol, stream=True)
        request.sink.open.clear()  # the client does not read
        send(server, request)
        await until(lambda: shop.context is not None)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(server.tasks.calls) == 1
        request.disconnect()
        await until(lambda: not server.tasks.calls)
        assert shop.seen == ["closed"]


@PROTOCOLS
async def test_what_a_slow_reader_does_not_take_its_handler_waits_for(protocol: str) -> None:
    shop = Shop()
    made = 0

    @shop.service.rpc
    async def many(request: Order) -> AsyncIterator[Order]:
        nonlocal made
        for made in range(1000):
            yield Order("x" * 1000, made)

    async with serving(shop.service, rpc_ahead=10_000) as server:
        request = Request("/shop.v1.Shop/Many", {}, protocol=protocol, stream=True)
        request.sink.open.clear()
        send(server, request)
        for _ in range(200):
            await asyncio.sleep(0)
        assert made < 25  # what is being written, and as much ahead
        assert server.statistics()["streams"]["open"] == 1
        request.sink.open.set()
        answer = await request.done()
        assert (len(answer.messages), answer.error, answer.ended) == (1000, None, True)


async def test_work_that_a_call_detached_goes_on_when_its_client_has_gone() -> None:
    shop = Shop()
    sent: list[str | None] = []

    @shop.service.rpc
    async def detach(request: Order, ctx: Context) -> Order:
        async def mail() -> None:
            await shop.gate.wait()
            sent.append(ctx.correlation_id)

        ctx.spawn(mail)
        shop.seen.append("begin")
        await asyncio.Event().wait()
        return request

    async with serving(shop.service, drain=1.0) as server:
        headers = [("x-request-id", "trace-me")]
        request = send(server, Request("/shop.v1.Shop/Detach", {}, headers=headers))
        await until(lambda: shop.seen)
        request.disconnect()
        await until(lambda: not server.tasks.calls)
        shop.gate.set()
        await until(lambda: sent)
        assert sent == ["trace-me"]


# --- time ---------------------------------------------------------------------------------------


@KINDS
@PROTOCOLS
@virtual
async def test_a_deadline_ends_the_call_and_the_handler_is_told(
    protocol: str, method: str, stream: bool, fed: bool
) -> None:
    shop = Shop()
    header = ("connect-timeout-ms", "30") if protocol == "connect" else ("grpc-timeout", "30m")
    async with serving(shop.service) as server:
        request = send(server, waiting(method, protocol, stream, fed, header))
        await until(lambda: shop.context is not None)
        assert shop.context is not None
        assert shop.context.rpc is not None
        assert shop.context.rpc.timeout == pytest.approx(0.03)
        assert shop.context.deadline is not None
        answer = await request.done()
        assert (answer.code, answer.ended) == (Code.DEADLINE_EXCEEDED, True)
        assert isinstance(shop.context.error, DeadlineExceeded)
        assert shop.seen[1:] == ["CancelledError"]


@PROTOCOLS
async def test_the_servers_own_limit_of_time_holds_for_every_call(protocol: str) -> None:
    shop = Shop()
    header = ("connect-timeout-ms", "90000") if protocol == "connect" else ("grpc-timeout", "90S")
    async with serving(shop.service, rpc_time=0.02) as server:
        for headers in ((), (header,)):
            request = send(server, waiting("Wait", protocol, False, False, *headers))
            assert (await request.done()).code is Code.DEADLINE_EXCEEDED


async def test_the_limit_of_a_method_holds_too() -> None:
    shop = Shop()

    @shop.service.rpc(timeout=0.02)
    async def slow(request: Order) -> Order:
        await shop.gate.wait()
        return request

    async with serving(shop.service) as server:
        assert (await call(server, "/shop.v1.Shop/Slow", {})).code is Code.DEADLINE_EXCEEDED


@virtual
async def test_a_handler_that_does_not_heed_its_deadline_is_not_waited_for() -> None:
    shop = Shop()

    @shop.service.rpc
    async def stubborn(request: Order) -> Order:
        while not shop.gate.is_set():
            try:
                await shop.gate.wait()
            except asyncio.CancelledError:
                shop.seen.append("told")
        return request

    async with serving(shop.service, grace=0.02) as server:
        headers = [("connect-timeout-ms", "10")]
        answer = await call(server, "/shop.v1.Shop/Stubborn", {}, headers=headers)
        assert answer.code is Code.DEADLINE_EXCEEDED
        assert shop.seen == ["told"]
        assert len(server.tasks.calls) == 1  # it runs, and is counted, until it ends
        shop.gate.set()
        await until(lambda: not server.tasks.calls)


async def test_an_answer_that_a_handler_gives_after_its_deadline_is_not_heard() -> None:
    shop = Shop()

    @shop.service.rpc
    async def late(request: Order) -> Order:
        try:
            await shop.gate.wait()
        except asyncio.CancelledError:
            return request
        return request

    async with serving(shop.service) as server:
        answer = await call(server, "/shop.v1.Shop/Late", {}, headers=[("connect-timeout-ms", "10")])
        assert answer.code is Code.DEADLINE_EXCEEDED


# --- the server goes ----------------------------------------------------------------------------


@KINDS
@PROTOCOLS
async def test_a_shutdown_ends_calls_as_unavailable(protocol: str, method: str, stream: bool, fed: bool) -> None:
    shop = Shop()
    async with serving(shop.service, drain=0.05) as server:
        request = send(server, waiting(method, protocol, stream, fed))
        await until(lambda: shop.seen)
        stopping = asyncio.ensure_future(server.drain())
        await until(lambda: server.rpc.draining)
        late = await call(server, "/shop.v1.Shop/Place", {}, protocol=protocol)
        assert late.code is Code.UNAVAILABLE
        await stopping
        await server.end_sessions(0.2)
        answer = await request.done()
        assert (answer.code, answer.ended) == (Code.UNAVAILABLE, True)


async def test_a_call_that_ends_within_the_drain_is_answered() -> None:
    shop = Shop()
    async with serving(shop.service, drain=5.0) as server:
        request = send(server, waiting("Wait", "connect", False, False))
        await until(lambda: shop.seen)
        stopping = asyncio.ensure_future(server.stop())
        await until(lambda: server.rpc.draining)
        shop.gate.set()
        assert (await request.done()).error is None
        await stopping
