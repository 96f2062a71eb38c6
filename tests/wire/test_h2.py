"""Frames of HTTP/2: what is written is read again however it is cut, and what is malformed says so; fields likewise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tailrace.wire import h2_frames
from tailrace.wire.h2_fields import Malformed, check_field, read_pseudo
from tailrace.wire.h2_frames import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    WITH_PRIORITY,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    frame,
    goaway,
    header_frames,
    reset,
    window_update,
)
from tailrace.wire.h2_reader import Block, Reader
from tailrace.wire.hpack import Decoder


class Heard:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def on_fields(self, number: int, block: bytes, ended: bool) -> None:
        self.said.append(("fields", number, block, ended))

    def on_block(self, block: Block) -> None:
        self.said.append(("block", block.number, block.frames))

    def on_data(self, number: int, data: bytes, size: int, ended: bool) -> None:
        self.said.append(("data", number, data, size, ended))

    def on_reset(self, number: int, code: int) -> None:
        self.said.append(("reset", number, code))

    def on_window(self, number: int, size: int) -> None:
        self.said.append(("window", number, size))

    def on_fault(self, number: int, fault: StreamFault) -> None:
        self.said.append(("fault", number, fault.code))

    def on_settings(self, values: dict[int, int]) -> None:
        self.said.append(("settings", values))

    def on_ping(self, payload: bytes, answer: bool) -> None:
        self.said.append(("ping", payload, answer))

    def on_goaway(self, last: int, code: int) -> None:
        self.said.append(("goaway", last, code))

    def on_nothing(self, what: str) -> None:
        self.said.append(("nothing", what))


def reader(heard: Heard, *, preface: bool = False) -> Reader:
    return Reader(heard, heard, lambda: True, preface=preface)


ALL = [
    (h2_frames.settings({1: 0, 4: 5}), ("settings", {1: 0, 4: 5})),
    (frame(PING, 0, 0, b"12345678"), ("ping", b"12345678", False)),
    (header_frames(1, b"block", END_STREAM, 100), ("fields", 1, b"block", True)),
    (frame(DATA, 0, 3, b"abc"), ("data", 3, b"abc", 3, False)),
    (frame(DATA, 0x8 | END_STREAM, 3, b"\2abc\0\0"), ("data", 3, b"abc", 6, True)),
    (reset(5, 7), ("reset", 5, 7)),
    (window_update(7, 9), ("window", 7, 9)),
    (goaway(11, 2, "why"), ("goaway", 11, 2)),
    (frame(PRIORITY, 0, 1, b"\0\0\0\3\0"), ("nothing", "PRIORITY")),
    (frame(99, 0, 1, b"?"), ("nothing", "unknown")),
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 400)), st.booleans())
def test_frames_are_read_again_however_they_are_cut(cuts: list[int], preface: bool) -> None:
    heard = Heard()
    reading = reader(heard, preface=preface)
    data = (PREFACE if preface else b"") + b"".join(sent for sent, _ in ALL)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    for start, end in zip([0, *ends], ends, strict=False):
        reading.feed(data[start:end])
    assert heard.said == [told for _, told in ALL]
    assert reading.settled


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 20))
@example(b"abcdefg", 3)
def test_a_block_is_one_again_in_however_many_frames_it_was_sent(block: bytes, most: int) -> None:
    heard = Heard()
    reading = reader(heard)
    reading.feed(h2_frames.settings({}))
    reading.feed(header_frames(1, block, END_STREAM, most))
    assert heard.said[-1] == ("fields", 1, block, True)
    assert len(heard.said) == 1 + max(1, -(-len(block) // most))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2"), ErrorCode.PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, b"\0\0\0\0"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, 4, 2, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(DATA, 0, 1, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR),
    ],
)
def test_what_breaks_the_connection_says_how(sent: bytes, code: ErrorCode) -> None:
    reading = reader(Heard())
    reading.feed(h2_frames.settings({}))
    with pytest.raises(ConnectionFault) as caught:
        reading.feed(sent)
    assert caught.value.code is code


@pytest.mark.parametrize(
    "sent", [b"HTTP/1.1 400 Bad Request\r\n\r\n", frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 1, 0)]
)
def test_settings_come_first(sent: bytes) -> None:
    with pytest.raises(ConnectionFault):
        reader(Heard()).feed(sent)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.1", b"\0"])
def test_a_client_that_speaks_something_else_breaks_the_connection(sent: bytes) -> None:
    with pytest.raises(ConnectionFault, match="not the beginning") as caught:
        reader(Heard(), preface=True).feed(sent)
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


def test_a_stream_that_depends_on_itself_is_its_own_fault() -> None:
    heard = Heard()
    reading = reader(heard)
    reading.feed(h2_frames.settings({}) + frame(HEADERS, 4 | WITH_PRIORITY, 1, b"\0\0\0\1\0block"))
    reading.feed(frame(HEADERS, 4 | WITH_PRIORITY, 3, b"\0\0\0\1\0block"))
    assert heard.said[1:] == [("fault", 1, ErrorCode.PROTOCOL_ERROR), ("fields", 3, b"block", False)]


def test_a_long_string_is_decoded_and_not_kept() -> None:
    eight = int("00011" * 8, 2).to_bytes(5, "big")  # an `a` has five bits
    coded = eight * 20
    block = b"\x00\x01n" + bytes([0x80 | len(coded)]) + coded
    assert Decoder(10_000).decode(block) == [(b"n", b"a" * 160)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Upper", b"x"),
        (b"", b"x"),
        (b":late", b"x"),
        (b"a b", b"x"),
        (b"a", b" x"),
        (b"a", b"x\n"),
        (b"upgrade", b"h2c"),
    ],
)
def test_a_field_that_may_not_be_there_is_malformed(name: bytes, value: bytes) -> None:
    with pytest.raises(Malformed):
        check_field(name, value)
    check_field(b"a", b"")
    check_field(b"a", b"x y\xff")


def test_pseudo_header_fields_stand_first_each_once_and_are_known() -> None:
    known = frozenset({b":status"})
    assert read_pseudo([(b":status", b"200"), (b"a", b"b")], known) == ({b":status": b"200"}, 1)
    assert read_pseudo([(b":status", b"200")], known) == ({b":status": b"200"}, 1)
    for fields in ([(b":path", b"/")], [(b":status", b"200"), (b":status", b"200")]):
        with pytest.raises(Malformed):
            read_pseudo(fields, known)
