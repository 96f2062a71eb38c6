"""Requests between two members through a real Valkey: whole and streamed, through cuts, and through its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from tailrace.core.exchange import Exchange, Sink
from tailrace.stores.valkey_inbox import ValkeyInbox
from tests.rigs.exchange import FakeExchange
from tests.rigs.valkey import Valkey
from tests.transports.relaying import Member

LIMIT = 60.0  # seconds in which what comes has to come
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@asynccontextmanager
async def pair(server: Valkey, *, timeout: float = 30, retry_for: float = 30) -> AsyncIterator[tuple[Member, Member]]:
    """Two members; they take a loaded machine for no reason to be gone, nor Valkey for one that does not answer."""
    here, there = (
        Member(ValkeyInbox(server.url, name, lease=60, timeout=timeout, retry_for=retry_for, close_timeout=1), name)
        for name in ("here", "there")
    )
    await here.start()
    await there.start()
    try:
        yield here, there
    finally:
        await here.stop()
        await there.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


def open_relays(*members: Member) -> int:
    return sum(one.relay.statistics()[side] for one in members for side in ("asked", "served"))


async def test_many_requests_at_once_get_each_their_own_reply(server: Valkey) -> None:
    async with pair(server) as (here, there):
        there.handle = lambda exchange: exchange.respond(200, [], exchange.body)
        bodies = [b"%d" % number + b"x" * (number * 3000) for number in range(200)]
        asked = [FakeExchange("POST", "/mcp", body) for body in bodies]
        for exchange in asked:
            here.relay.forward(exchange, "there")
        for exchange, body in zip(asked, bodies, strict=True):
            await asyncio.wait_for(exchange.status_code(), LIMIT)
            assert exchange.reply_body == body
        await until(lambda: not open_relays(here, there))


async def test_a_stream_and_an_upload_go_through_cuts_whole(server: Valkey) -> None:
    async with pair(server) as (here, there):
        frames = [b"%06d" % number * 1000 for number in range(600)]

        async def writer(sink: Sink) -> None:
            for frame in frames:
                await sink.write(frame)
            await sink.end()

        async def read(exchange: Exchange) -> None:
            assert exchange.source is not None
            parts: list[bytes] = []
            while data := await exchange.source.read():
                parts.append(data)
            exchange.respond(200, [], b"".join(parts))

        def handle(exchange: Exchange) -> None:
            if exchange.source is None:
                exchange.stream(200, [], writer)
            else:
                there.tasks.start(read(exchange), name="read")

        there.handle = handle
        down, up = FakeExchange("GET", "/sse"), FakeExchange("POST", "/p.S/M", b"", streams=True)
        here.relay.forward(down, "there")
        here.relay.forward(up, "there")
        for number, frame in enumerate(frames):
            up.feed(frame)
            if number % 100 == 0:
                await asyncio.sleep(0.01)
                server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        up.feed_end()
        assert await asyncio.wait_for(up.status_code(), LIMIT) == 200
        await asyncio.wait_for(down.end(), LIMIT)
        assert up.reply_body == down.sink.written == b"".join(frames)
        await until(lambda: not open_relays(here, there))


async def test_a_client_that_goes_is_gone_at_the_other_member(server: Valkey) -> None:
    async with pair(server) as (here, there):
        asked = FakeExchange("POST", "/mcp", b"x" * MIB)
        here.relay.forward(asked, "there")
        await until(lambda: there.seen)
        assert there.seen[0].body == asked.body
        asked.disconnect()
        await until(lambda: there.seen[0].gone)
        await until(lambda: not open_relays(here, there))


async def test_the_end_of_valkey_ends_what_is_under_way_with_an_error() -> None:
    with Valkey() as server:
        async with pair(server, timeout=2, retry_for=0.5) as (here, there):
            waiting, streamed = FakeExchange("POST", "/mcp"), FakeExchange("GET", "/sse")

            async def writer(sink: Sink) -> None:
                while True:
                    await sink.write(b"event")
                    await asyncio.sleep(0.01)

            there.handle = lambda exchange: exchange.stream(200, [], writer) if exchange.method == "GET" else None
            here.relay.forward(waiting, "there")
            here.relay.forward(streamed, "there")
            await until(lambda: streamed.sink.written and len(there.seen) == 2)
            server.kill()
            await until(lambda: there.seen[1].gone)
            late = FakeExchange("POST", "/mcp")
            there.relay.forward(late, "here")
            assert late.status == 503
            server.start()
            await until(lambda: waiting.status == 502 and streamed.gone)
            assert not streamed.sink.ended
            await until(lambda: not open_relays(here, there))
            there.handle = lambda exchange: exchange.respond(200, [], b"works again")

            async def again() -> bool:
                asked = FakeExchange("POST", "/mcp")
                here.relay.forward(asked, "there")
                return await asyncio.wait_for(asked.status_code(), LIMIT) == 200

            async with asyncio.timeout(LIMIT):
                while not await again():
                    await asyncio.sleep(0.05)
