"""HTTP/2 flow control, both ways: a slow end holds up its own stream, nothing is kept that has no bound, and
whoever takes nothing for too long is let go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.core.exchange import Exchange, Sink
from tailrace.errors import TransportError
from tailrace.transports.http.h2_out import GATHERED
from tailrace.transports.http.h2_table import CREDIT
from tests.rigs.rawh2 import END_HEADERS, END_STREAM, HEADERS, Stream, connected, frame
from tests.transports.http.rig import PLAIN, Served, serving

MIB = 1024 * 1024
WIDE = {4: 2**31 - 1}  # streams' windows that never close


class Endless:
    """A writer that counts what was taken from it."""

    def __init__(self, part: int = 16_384, most: int = 200 * MIB) -> None:
        self.written = 0
        self.error: BaseException | None = None
        self._part = b"x" * part
        self._most = most

    async def __call__(self, sink: Sink) -> None:
        try:
            while self.written < self._most:
                await sink.write(self._part)
                self.written += len(self._part)
            await sink.end()
        except BaseException as error:
            self.error = error
            raise


async def settled(served: Served, value: Any) -> Any:
    """`value()` once it has not changed for some turns."""
    last, same = value(), 0
    while same < 25:
        await asyncio.sleep(0.002)
        same, last = (same + 1, last) if value() == last else (0, value())
    return last


# --- replies ----------------------------------------------------------------------------------------


async def test_a_stream_that_is_not_read_waits_while_others_are_served() -> None:
    """200 MB for a client that reads nothing of them: its window is all that is ever sent."""
    async with serving() as served, connected(served.address, credit=False, keep=False) as client:
        endless = served.rig.writer = Endless()
        unread = client.request("/stream")
        await client.until(lambda: unread.received == 65_535)
        client.window(0, 10 * MIB)
        for number in range(20):
            assert (await client.ask("/echo", b"%d" % number)).received == len(b"%d" % number)
        assert await settled(served, lambda: endless.written) <= 65_535 + 16_384
        client.window(unread.number, 100_000)
        await client.until(lambda: unread.received == 165_535)
        assert not unread.ended


async def test_the_first_of_a_stream_goes_with_its_head_where_there_is_room_for_it() -> None:
    async def send_more(sink: Sink) -> None:
        await sink.write(b" and more")
        await sink.end()

    def kill_before_its_writer(exchange: Exchange) -> None:
        exchange.stream(200, PLAIN, send_more, b"first")
        exchange.task.cancel()  # type: ignore[attr-defined]

    async with serving() as served, connected(served.address) as client:
        served.rig.other = kill_before_its_writer
        cut = client.request("/")
        await client.until(lambda: cut.received == 5)
    async with serving() as served, connected(served.address, settings={4: 0}) as client:
        served.rig.other = lambda exchange: exchange.stream(200, PLAIN, send_more, b"first")
        stream = client.request("/")
        await client.until(lambda: stream.fields)
        assert stream.received == 0
        client.window(stream.number, 100)
        await client.until(lambda: stream.ended)
        assert stream.data == b"first and more"


async def test_a_connection_that_is_not_read_bounds_what_is_kept_whatever_windows_it_gives() -> None:
    async with serving() as served, connected(served.address, settings=WIDE, keep=False) as client:
        client.window(0, 2**31 - 1 - 65_535)
        writers = [Endless() for _ in range(5)]
        for writer in writers:
            served.rig.writer = writer
            client.request("/stream")
            await served.until(lambda: writer.written)  # noqa: B023  (awaited)
        client.paused.clear()
        (connection,) = served.listener._connections
        transport: Any = connection._transport  # type: ignore[attr-defined]
        await settled(served, lambda: sum(writer.written for writer in writers))
        assert transport.get_write_buffer_size() < 2 * GATHERED
        client.paused.set()
        before = sum(writer.written for writer in writers)
        await served.until(lambda: sum(writer.written for writer in writers) > before + 10 * MIB)


async def test_streams_take_turns() -> None:
    async with serving() as served, connected(served.address, settings=WIDE, keep=False) as client:
        client.window(0, 2**31 - 1 - 65_535)
        served.rig.writer = Endless(part=1 * MIB)
        streams = [client.request("/stream") for _ in range(4)]
        await client.until(lambda: sum(stream.received for stream in streams) > 20 * MIB)
        received = [stream.received for stream in streams]
        assert max(received) - min(received) < 2 * MIB, received


async def test_a_reply_that_is_whole_and_too_large_for_the_windows_comes_in_parts() -> None:
    body = bytes(range(256)) * 4 * 1024
    async with serving() as served, connected(served.address, credit=False) as client:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, body, [(b"done", b"yes")])
        stream = client.request("/")
        await client.until(lambda: stream.received == 65_535)
        assert (await client.ask("/healthz", b"", method="HEAD")).status == 200
        client.window(0, len(body))
        client.window(stream.number, len(body))
        assert (await client.reply(stream)).data == body
        assert "content-length" not in stream.head
        assert stream.trailers == {"done": "yes"}


async def test_replies_that_nobody_reads_have_a_cap_over_all_connections() -> None:
    body = bytes(100_000)
    async with serving(unread=350_000) as served:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, body)
        async with connected(served.address, credit=False) as one, connected(served.address, credit=False) as two:
            streams = [client.request("/") for client in (one, two, one)]
            await served.until(lambda: len(served.rig.exchanges) == 3)
            assert served.listener.unread == 300_000
            assert await two.was_reset(two.request("/")) == 11
            for client in (one, two):
                client.window(0, 300_000)
            for client, stream in zip((one, two, one), streams, strict=True):
                client.window(stream.number, 300_000)
                assert (await client.reply(stream)).received == 100_000
            await served.until(lambda: served.listener.unread == 0)
    async with serving(unread=350_000) as served:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, bytes(8 * MIB))
        async with connected(served.address, settings=WIDE, credit=False) as client:
            client.window(0, 2**31 - 1 - 65_535)
            client.paused.clear()
            client.request("/")
            await served.until(lambda: served.rig.exchanges and not served.listener._connections)
            assert served.listener.unread == 0


async def test_a_window_that_shrinks_below_nothing_is_obeyed() -> None:
    async with serving() as served, connected(served.address, credit=False) as client:
        client.window(0, 10 * MIB)
        served.rig.writer = Endless()
        stream = client.request("/stream")
        await client.until(lambda: stream.received == 65_535)
        client.settle({4: 10})
        client.window(stream.number, 65_000)
        await client.ponged()
        assert stream.received == 65_535
        client.window(stream.number, 1_000)
        await client.until(lambda: stream.received == 65_535 + 475)
        client.settle({4: 1_010})
        await client.until(lambda: stream.received == 65_535 + 1_475)


async def test_frames_are_as_large_as_the_client_takes_them() -> None:
    async with serving() as served, connected(served.address, settings={5: 32_768, **WIDE}) as client:
        client.window(0, MIB)
        served.rig.writer = Endless(part=32_768, most=65_536)
        stream = await client.ask("/stream")
        assert (stream.received, stream.frames) == (65_536, 2)


async def test_small_parts_of_one_turn_are_one_frame() -> None:
    async def tiny(sink: Sink) -> None:
        for number in range(5000):
            await sink.write(b"%04d" % number)
        await sink.end()

    async with serving() as served, connected(served.address) as client:
        served.rig.writer = tiny
        streams = [client.request("/stream") for _ in range(3)]
        for stream in streams:
            assert (await client.reply(stream)).data == b"".join(b"%04d" % number for number in range(5000))
            assert stream.frames <= 3


async def test_who_takes_nothing_of_a_stream_for_too_long_loses_that_stream() -> None:
    async with serving(stall=0.1) as served, connected(served.address, credit=False, keep=False) as client:
        endless = served.rig.writer = Endless()
        client.window(0, 10 * MIB)
        unread = client.request("/stream")
        assert await client.was_reset(unread) == 8
        assert (await client.ask("/echo", b"goes on")).received == 7
        await served.until(lambda: endless.error is not None)
        (gone,) = served.rig.gone
        assert "took nothing" in str(gone.gone_by)
        assert served.listener.statistics()["expired"] == 1


async def test_who_takes_nothing_of_the_connection_for_too_long_loses_it() -> None:
    async with serving(stall=0.1) as served, connected(served.address, settings=WIDE, credit=False) as client:
        served.rig.writer = Endless()
        client.request("/stream")
        assert (await client.end())[1] == 3
    async with serving(stall=0.1) as served, connected(served.address, settings=WIDE, keep=False) as client:
        client.window(0, 2**31 - 1 - 65_535)
        served.rig.writer = Endless()
        client.request("/stream")
        client.paused.clear()
        await served.until(lambda: served.rig.gone)
        await served.until(lambda: served.listener.statistics()["connections"] == 0)


async def test_a_turn_that_is_given_up_goes_to_the_next() -> None:
    async with serving() as served, connected(served.address, settings=WIDE, credit=False, keep=False) as client:
        served.rig.writer = Endless()
        streams = [client.request("/stream") for _ in range(3)]
        await client.until(lambda: sum(stream.received for stream in streams) == 65_535)
        client.reset(streams[0])
        await client.ponged()
        for stream in streams[1:]:
            client.reset(stream)
            client.window(0, 1)
        client.window(0, MIB)
        served.rig.writer = Endless(most=300_000)
        last = client.request("/stream")
        await client.until(lambda: last.ended)
        await served.until(lambda: len(served.rig.gone) == 4)


async def test_who_does_not_read_our_answers_is_not_read_either() -> None:
    """Replies' heads have no window: what a client asks for and does not take is bounded by not looking at more."""
    async with serving() as served, connected(served.address, keep=False) as client:
        await client.ask()
        client.paused.clear()
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/")]
        block = client.block(head, plain=True)
        served.rig.other = lambda exchange: exchange.respond(200, [(b"x-fill", b"z" * 4000)])

        async def flood() -> None:
            for number in range(3, 100_000, 2):
                client.streams[number] = Stream(number)
                client.send(frame(HEADERS, END_HEADERS | END_STREAM, number, block))
                await client.writer.drain()

        flooding = asyncio.ensure_future(flood())
        (connection,) = served.listener._connections
        transport: Any = connection._transport  # type: ignore[attr-defined]
        await served.until(lambda: not connection._reading)  # type: ignore[attr-defined]
        assert transport.get_write_buffer_size() < 2 * MIB
        handled = await settled(served, lambda: len(served.rig.exchanges))
        client.paused.set()
        await served.until(lambda: len(served.rig.exchanges) > handled)
        flooding.cancel()
        await asyncio.wait([flooding])


# --- bodies -----------------------------------------------------------------------------------------


async def opened(served: Served, count: int = 1) -> list[Exchange]:
    await served.until(lambda: len(served.rig.exchanges) >= count)
    return served.rig.exchanges


async def test_a_body_that_nobody_reads_holds_up_its_sender_and_no_other_stream() -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: None
        unread = [client.request("/open", None, end=False) for _ in range(8)]
        for stream in unread:
            await client.upload(stream, b"x" * 256 * 1024, end=False)
        await client.ponged()
        assert [client.credit(stream.number) for stream in unread] == [0] * 8
        assert client.credit(0) >= CREDIT // 2
        stream = client.request("/echo", None, end=False)
        await client.upload(stream, b"y" * MIB)
        assert (await client.reply(stream)).received == MIB
        for exchange in await opened(served, 8):
            if exchange.source is not None:
                assert len(await exchange.source.read()) == 256 * 1024
        await client.until(lambda: all(client.credit(stream.number) == 256 * 1024 for stream in unread))


async def test_a_body_of_single_bytes_is_kept_in_as_many_bytes() -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: None
        stream = client.request("/open", None, end=False)
        for _ in range(5000):
            client.data(stream, b"z")
        await client.ponged()
        source: Any = (await opened(served))[0].source
        assert source.held == 5000
        assert await source.read() == b"z" * 5000


async def test_what_is_dropped_makes_room_as_what_is_read_does() -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: exchange.source.stop() if exchange.source else None
        stream = client.request("/open", None, end=False)
        await client.upload(stream, b"x" * 3 * MIB, end=False)
        await client.ponged()
        (exchange,) = await opened(served)
        assert exchange.source is not None
        with pytest.raises(TransportError):
            await exchange.source.read()


@pytest.mark.parametrize("number", [0, 1])
async def test_more_than_there_is_credit_for_is_a_fault(number: int) -> None:
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: None
        streams = [client.request("/open", None, end=False) for _ in range(5)]
        if number:
            client.data(streams[0], b"x" * (256 * 1024 + 1))
            assert await client.was_reset(streams[0]) == 3
            assert (await client.ask()).status == 200
        else:
            await served.until(lambda: len(served.rig.exchanges) == 5)
            (connection,) = served.listener._connections
            connection._streams._held = 64 * MIB  # type: ignore[attr-defined]  # so much is held that no credit is given
            for stream in streams:
                client.data(stream, b"x" * 250_000)
            assert (await client.end())[1] == 3


async def test_credit_comes_back_once_what_was_held_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.transports.http.h2_table.HELD", 300_000)
    async with serving() as served, connected(served.address) as client:
        served.rig.other = lambda exchange: None
        streams = [client.request("/open", None, end=False) for _ in range(4)]
        for stream in streams:
            client.data(stream, b"x" * 250_000)
        await client.ponged()
        assert client.credit(0) < CREDIT // 2
        for exchange in await opened(served, 4):
            assert exchange.source is not None
            await exchange.source.read()
        await client.until(lambda: client.credit(0) >= CREDIT // 2)
        whole = [client.request("/echo", None, end=False) for _ in range(3)]
        for stream in whole:
            await client.upload(stream, b"y" * 200_000, end=False)
        for stream in whole:
            client.data(stream, end=True)
            assert (await client.reply(stream)).received == 200_000
