"""What a server may not do on HTTP/2 ends what it is about, a stream or the connection, and nothing else."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.clients.connect.h2 import H2Link
from tailrace.clients.connect.h2_pipe import Broken, H2Pipe, PeerReset
from tailrace.clients.connect.upload import Upload
from tailrace.wire import h2_frames
from tailrace.wire.h2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    ErrorCode,
    frame,
    goaway,
    header_frames,
    window_update,
)
from tailrace.wire.hpack import encode

HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
HELLO = h2_frames.settings({})


class Wire(asyncio.Transport):
    """What was written, as frames; it takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.closed = False
        self.on_close: Callable[[], object] = lambda: None

    def write(self, data: Any) -> None:
        self.data += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.on_close()

    abort = close

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """Kind, flags, stream, payload of all that came behind the client's first words."""
        found, at = [], len(h2_frames.PREFACE)
        while at < len(self.data):
            word, flags, number = h2_frames.HEAD.unpack_from(self.data, at)
            end = at + h2_frames.HEAD_SIZE + (word >> 8)
            found.append((word & 0xFF, flags, number, bytes(self.data[at + h2_frames.HEAD_SIZE : end])))
            at = end
        return found


class Rig:
    """A connection with nobody at its other end but the test."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.gone: list[H2Link] = []
        self.again: list[H2Pipe] = []
        self.link = H2Link(lambda: None, self.gone.append, self._again)
        self.link.connection_made(self.wire)

    def _again(self, pipe: H2Pipe) -> bool:
        self.again.append(pipe)
        return False

    def request(self, body: bytes | Upload | None = b"") -> H2Pipe:
        pipe = H2Pipe(self.link.start, lambda pipe: None, HEAD, body)
        pipe.open()
        return pipe

    def say(self, *data: bytes) -> None:
        self.link.data_received(b"".join(data))


def head(number: int, *fields: tuple[bytes, bytes], flags: int = 0) -> bytes:
    return header_frames(number, encode(fields or [(b":status", b"200")]), flags, 16_384)


async def read(pipe: H2Pipe) -> bytes:
    await pipe.opened
    body = b""
    while part := await pipe.read():
        body += part
    return body


@pytest.mark.parametrize(
    "said",
    [
        [frame(DATA, 0, 1, b"x")],
        [head(1, (b"a", b"b"))],
        [head(1, (b":status", b"2x0"))],
        [head(1, (b":status", b"99"))],
        [head(1, (b":status", b"200"), (b"Upper", b"x"))],
        [head(1, (b":status", b"100"), flags=END_STREAM)],
        [head(1, (b":status", b"200"), (b"content-length", b"2")), frame(DATA, END_STREAM, 1, b"x")],
        [head(1, (b":status", b"200"), (b"content-length", b"2")), frame(DATA, 0, 1, b"xyz")],
        [head(1, (b":status", b"200"), (b"content-length", b"-2"))],
        [head(1, (b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2"))],
        [head(1), head(1, (b"a", b"b"))],
        [head(1), head(1, (b":status", b"200"), flags=END_STREAM)],
        [window_update(1, 2**31 - 1)],
        [head(1), *[frame(DATA, 0, 1, bytes(16_384))] * 65],
        [frame(HEADERS, END_HEADERS, 1, b"\x88\x40\x01a\x7f\xb9\x16" + b"x" * 3000 + b"\xbe" * 30)],
    ],
)
async def test_a_fault_of_one_stream_ends_that_one_only(said: list[bytes]) -> None:
    rig = Rig()
    rig.say(HELLO)
    broken, other = rig.request(), rig.request()
    rig.say(*said)
    with pytest.raises(Broken, match="HTTP/2 is broken"):
        await read(broken)
    assert [(kind, number) for kind, _, number, _ in rig.wire.frames() if kind == RST_STREAM] == [(RST_STREAM, 1)]
    rig.say(head(3), frame(DATA, END_STREAM, 3, b"fine"))
    assert await read(other) == b"fine"
    assert rig.link.idle
    assert not rig.gone


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ([frame(DATA, 0, 99, b"x")], ErrorCode.PROTOCOL_ERROR),
        ([frame(DATA, 0, 2, b"x")], ErrorCode.PROTOCOL_ERROR),
        ([frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff")], ErrorCode.COMPRESSION_ERROR),
        ([frame(HEADERS, 0, 1, b"x")] + [frame(9, 0, 1, b"")] * 70, ErrorCode.ENHANCE_YOUR_CALM),
        ([frame(HEADERS, 0, 1, bytes(16_000))] + [frame(9, 0, 1, bytes(16_000))] * 5, ErrorCode.ENHANCE_YOUR_CALM),
        ([window_update(0, 2**31 - 1)], ErrorCode.FLOW_CONTROL_ERROR),
        ([window_update(1, 2**30), h2_frames.settings({4: 2**31 - 1})], ErrorCode.FLOW_CONTROL_ERROR),
    ],
)
async def test_a_fault_of_the_connection_ends_all_and_is_told_the_server(said: list[bytes], code: ErrorCode) -> None:
    rig = Rig()
    rig.say(HELLO)
    pipes = [rig.request(), rig.request()]
    rig.say(*said)
    for pipe in pipes:
        with pytest.raises(Broken, match="HTTP/2 is broken"):
            await pipe.opened
    kind, _, _, payload = rig.wire.frames()[-1]
    assert (kind, int.from_bytes(payload[4:8], "big")) == (7, code)
    assert rig.wire.closed
    assert rig.gone == [rig.link]


async def test_what_comes_on_a_stream_that_was_let_go_does_no_harm() -> None:
    rig = Rig()
    rig.say(HELLO)
    gone, other = rig.request(), rig.request()
    gone.drop()
    table = b"\x40\x01a\x01b"  # goes into the table, whoever reads the fields
    rig.say(frame(HEADERS, END_HEADERS, 1, b"\x88" + table), frame(DATA, 0, 1, b"late"), window_update(1, 5))
    rig.say(frame(RST_STREAM, 0, 1, b"\0\0\0\x08"))
    rig.say(frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x88\xbe"))
    await other.opened
    assert other.headers == [(b"a", "b")]


async def test_an_informational_answer_is_not_the_answer() -> None:
    rig = Rig()
    rig.say(HELLO)
    pipe = rig.request()
    rig.say(head(1, (b":status", b"103"), (b"link", b"x")))
    assert not pipe.opened.done()
    rig.say(head(1, (b":status", b"204"), (b"content-length", b"7"), flags=END_STREAM))
    await pipe.opened
    assert (pipe.status, await pipe.read()) == (204, b"")


async def test_windows_of_streams_follow_the_settings_and_bodies_the_windows() -> None:
    rig = Rig()
    rig.say(h2_frames.settings({4: 10, 5: 16_384}))
    pipe = rig.request(b"0123456789abcdef")
    sent = [payload for kind, _, _, payload in rig.wire.frames() if kind == DATA]
    assert sent == [b"0123456789"]
    rig.say(h2_frames.settings({4: 4}))  # six less than nothing
    rig.say(window_update(1, 8))
    assert [payload for kind, _, _, payload in rig.wire.frames() if kind == DATA] == [b"0123456789", b"ab"]
    rig.say(window_update(1, 100))
    assert [(flags, payload) for kind, flags, _, payload in rig.wire.frames() if kind == DATA][2:] == [
        (END_STREAM, b"cdef")
    ]
    assert not pipe.sending


async def test_read_bytes_and_padding_open_the_window_again_now_and_then() -> None:
    rig = Rig()
    rig.say(HELLO)
    pipe = rig.request()
    rig.say(head(1))
    for _ in range(64):
        rig.say(frame(DATA, 0x8, 1, b"\xff" + b"x" * 8_000 + bytes(255)))
        await pipe.read()
    await asyncio.sleep(0)
    given = [payload for kind, _, number, payload in rig.wire.frames() if kind == 8 and number == 1]
    assert 1 <= len(given) <= 3
    assert sum(int.from_bytes(size, "big") for size in given) <= 64 * 8_256


async def test_a_smaller_table_is_acknowledged_in_the_next_block() -> None:
    rig = Rig()
    rig.say(h2_frames.settings({1: 0}))
    rig.request()
    rig.request()
    blocks = [payload for kind, _, _, payload in rig.wire.frames() if kind == HEADERS]
    assert [block[:1] == b"\x20" for block in blocks] == [True, False]


async def test_one_request_waits_for_the_servers_settings() -> None:
    rig = Rig()
    assert rig.link.room
    rig.request()
    assert not rig.link.room
    rig.say(h2_frames.settings({3: 2}))
    assert rig.link.room
    rig.request()
    assert not rig.link.room
    rig.say(h2_frames.settings({3: 1}), frame(SETTINGS, 1, 0))
    assert not rig.link.room
    rig.say(head(1, flags=END_STREAM), head(3, flags=END_STREAM))
    assert rig.link.room


async def test_a_goaway_sends_what_was_not_looked_at_elsewhere() -> None:
    rig = Rig()
    rig.say(HELLO)
    kept, left = rig.request(), rig.request()
    rig.say(goaway(1, 0))
    assert rig.again == [left]
    with pytest.raises(PeerReset):
        await left.opened
    rig.say(head(1, flags=END_STREAM))
    await kept.opened
    assert rig.wire.closed


async def test_a_reset_behind_a_whole_answer_gives_up_what_is_still_to_be_sent() -> None:
    rig = Rig()
    rig.say(HELLO)
    upload = Upload()
    pipe = rig.request(upload)
    rig.say(head(1, flags=END_STREAM), frame(RST_STREAM, 0, 1, b"\0\0\0\0"))
    await pipe.opened
    assert await pipe.read() == b""
    assert upload._gone
    assert rig.link.idle


async def test_a_failure_that_nobody_asks_for_is_not_reported_as_lost() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    rig = Rig()
    rig.request()
    rig.request().read()
    rig.link.connection_lost(ConnectionResetError("by peer"))
    del rig
    gc.collect()
    assert reported == []
