"""What costs a client nothing is bounded: it is told to calm down and let go, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import pytest

from tailrace.transports.http.h2_floods import CONTINUATIONS, CONTROLS, FAULTS, RESETS
from tests.rigs.rawh2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PRIORITY,
    SETTINGS,
    Client,
    Stream,
    connected,
    frame,
)
from tests.transports.http.rig import Served, serving

CALM = 11
GET = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/echo")]


async def calmed(served: Served, client: Client, message: str) -> None:
    """The client is let go for this reason, and somebody else is not."""
    _, code, text = await client.end()
    assert (code, message in text) == (CALM, True), text
    assert served.listener.statistics()["floods"] == 1
    async with connected(served.address) as other:
        assert (await other.ask("/echo", b"served")).data == b"served"
    await served.until(lambda: len(served.rig.gone) + served.rig.ended >= len(served.rig.exchanges))


async def send_all(client: Client, count: int, say: Callable[[int], bytes]) -> None:
    for at in range(0, count, 100):
        client.send(b"".join(say(number) for number in range(at, min(at + 100, count))))
        try:
            await client.writer.drain()
        except ConnectionError:
            return


async def test_rapid_reset() -> None:
    async with serving() as served, connected(served.address) as client:
        block = client.block([(":path", "/held"), *GET[:3]], plain=True)

        def say(number: int) -> bytes:
            stream = 2 * number + 1
            client.streams[stream] = Stream(stream)
            return frame(HEADERS, END_HEADERS | END_STREAM, stream, block) + frame(3, 0, stream, struct.pack(">I", 8))

        await send_all(client, RESETS + 200, say)
        await calmed(served, client, "reset")
        assert len(served.rig.exchanges) < RESETS + 50


async def test_resets_that_we_are_made_to_send() -> None:
    """Each stream is opened properly, and then broken: MadeYouReset."""
    async with serving() as served, connected(served.address) as client:
        block = client.block([(":path", "/held"), *GET[:3]], plain=True)

        def say(number: int) -> bytes:
            stream = 2 * number + 1
            client.streams[stream] = Stream(stream)
            return frame(HEADERS, END_HEADERS | END_STREAM, stream, block) + frame(8, 0, stream, bytes(4))

        await send_all(client, FAULTS + 100, say)
        await calmed(served, client, "break the protocol")


async def test_requests_that_are_no_good() -> None:
    async with serving() as served, connected(served.address) as client:
        block = client.block([*GET, ("Upper", "x")], plain=True)

        def say(number: int) -> bytes:
            stream = 2 * number + 1
            client.streams[stream] = Stream(stream)
            return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)

        await send_all(client, FAULTS + 100, say)
        await calmed(served, client, "break the protocol")


async def test_more_requests_than_are_served_at_once_again_and_again() -> None:
    async with serving(max_streams=5) as served, connected(served.address) as client:
        for _ in range(FAULTS + 50):
            client.request("/held", b"")
        await calmed(served, client, "break the protocol")


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        ("PING", frame(6, 0, 0, b"12345678")),
        ("PING", frame(6, ACK, 0, b"12345678")),
        ("SETTINGS", frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 70_000))),
        ("SETTINGS", frame(SETTINGS, ACK, 0)),
        ("WINDOW_UPDATE", frame(8, 0, 0, struct.pack(">I", 1))),
        ("WINDOW_UPDATE", frame(8, 0, 1, struct.pack(">I", 1))),
        ("PRIORITY", frame(PRIORITY, 0, 1, bytes(5))),
        ("unknown", frame(77, 0, 0, b"?")),
        ("empty DATA", frame(DATA, 0, 1)),
        ("empty DATA", frame(DATA, PADDED, 1, b"\x01\0")),
        ("RST_STREAM", frame(3, 0, 3, bytes(4))),
    ],
)
async def test_frames_that_carry_nothing(what: str, sent: bytes) -> None:
    async with serving() as served, connected(served.address, keep=False) as client:
        served.rig.other = lambda exchange: None
        client.request("/open", None, end=False)
        await client.ask()
        await send_all(client, CONTROLS + 500, lambda number: sent)
        await calmed(served, client, what)


async def test_a_client_that_works_may_say_as_much_as_its_work_needs() -> None:
    async with serving() as served, connected(served.address) as client:
        for number in range(CONTROLS // 4 + 100):
            stream = client.request("/echo", b"a")
            for _ in range(8):
                client.window(0, 1)
            if not number % 50:
                await client.reply(stream)
        assert (await client.ask("/echo", b"served")).data == b"served"
        assert served.listener.statistics()["floods"] == 0


async def test_with_time_a_client_may_do_more() -> None:
    async with serving() as served, connected(served.address) as client:
        await client.ask()
        for _ in range(2):
            await send_all(client, CONTROLS - 50, lambda number: frame(PRIORITY, 0, 1, bytes(5)))
            await client.ponged()
            served.listener.clock += 60.0  # a minute passes; nobody's time is over in it
        assert (await client.ask("/echo", b"served")).data == b"served"
        assert served.listener.statistics()["floods"] == 0


@pytest.mark.parametrize("part", [b"", b"\x82"])
async def test_a_head_that_never_ends(part: bytes) -> None:
    async with serving() as served, connected(served.address) as client:
        client.send(frame(HEADERS, 0, 1, b"\x82"))
        await send_all(client, CONTINUATIONS + 10, lambda number: frame(CONTINUATION, 0, 1, part))
        await calmed(served, client, "CONTINUATION")


async def test_a_head_that_is_too_large() -> None:
    async with serving() as served, connected(served.address) as client:
        client.send(frame(HEADERS, 0, 1, b"\x82" * 16_384))
        await send_all(client, 5, lambda number: frame(CONTINUATION, 0, 1, b"\x82" * 16_384))
        await calmed(served, client, "over 65536 bytes")


async def test_a_block_that_unpacks_to_much_more_is_answered_and_not_kept() -> None:
    """An HPACK bomb: a long field is put into the table once, and named by one byte thousands of times."""
    async with serving() as served, connected(served.address) as client:
        bomb = client.block(GET, plain=True) + b"\x40\x01a\x7f\xa1\x1d" + b"x" * 3872 + b"\xbe" * 12_000
        stream = client.streams[1] = Stream(1)
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, bomb))
        assert (await client.reply(stream)).status == 431
        assert (await client.ask("/echo", b"next", number=3)).data == b"next"
        again = client.streams[5] = client.request("/open", b"", number=5, end=False)
        served.rig.other = lambda exchange: None
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 5, b"\xbe" * 12_000))  # as trailers
        assert await client.was_reset(again) in (1, CALM)


async def test_settings_that_make_windows_overflow() -> None:
    async with serving() as served, connected(served.address) as client:
        stream = client.request("/held")
        client.window(stream.number, 2**31 - 1 - 65_535)
        await client.ponged()
        client.settle({4: 65_536})
        assert (await client.end())[1] == 3
        await served.until(lambda: served.rig.gone)


async def test_what_was_on_its_way_when_we_reset_is_no_fault() -> None:
    async with serving(stall=0.1) as served, connected(served.address, credit=False) as client:

        async def endless(sink: object) -> None:
            while True:
                await sink.write(b"x" * 16_384)  # type: ignore[attr-defined]

        served.rig.other = lambda exchange: exchange.stream(200, (), endless)
        client.window(0, 1024 * 1024)
        stream = client.request("/open", b"a", end=False)
        assert await client.was_reset(stream) == 8
        client.data(stream, b"was on its way")
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream.number, client.block([("a", "b")])))
        client.window(stream.number, 1)
        client.reset(stream)
        assert (await client.ask("/echo", b"next")).data == b"next"
        await asyncio.sleep(0)
        assert served.listener.statistics()["refused"] == 0
