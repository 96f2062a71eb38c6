"""Messages on a stream: any chunking gives the same ones, and a long one is refused before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import Code, RpcError
from tailrace.wire.envelopes import COMPRESSED, END_STREAM, Envelope, EnvelopeReader, envelope

MESSAGES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=20)


def read(data: bytes, cuts: Sequence[int], limit: int = 100) -> list[Envelope]:
    """All messages of `data`, fed in pieces that end at `cuts`."""
    reader = EnvelopeReader(limit)
    found: list[Envelope] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        reader.feed(data[start:end])
        while (message := reader.next()) is not None:
            found.append(message)
    assert not reader.partial
    return found


@given(MESSAGES, st.lists(st.integers(0, 1000)))
def test_any_chunking_gives_the_same_messages(messages: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(envelope(*message) for message in messages)
    assert [(one.flags, one.data) for one in read(data, cuts)] == messages
    assert [(one.flags, one.data) for one in read(data, range(len(data)))] == messages


def test_an_envelope_is_a_flag_the_length_and_the_data() -> None:
    assert envelope(COMPRESSED, b"tea") == b"\x01\x00\x00\x00\x03tea"
    assert envelope(END_STREAM, b"") == b"\x02\x00\x00\x00\x00"


def test_a_message_over_the_limit_is_refused_at_its_prefix_and_behind_those_before_it() -> None:
    reader = EnvelopeReader(3)
    reader.feed(envelope(0, b"tea") + envelope(0, b"teas")[:5])
    assert reader.next() == Envelope(0, b"tea")
    for _ in range(2):
        with pytest.raises(RpcError, match="at most 3") as caught:
            reader.next()
        assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_what_is_unfinished_at_the_end_is_seen() -> None:
    reader = EnvelopeReader(10)
    assert not reader.partial
    reader.feed(b"\0\0\0\0\2t")
    assert reader.next() is None
    assert reader.partial
    reader.feed(b"e")
    assert reader.next() == Envelope(0, b"te")
    assert not reader.partial


def test_what_was_given_out_is_let_go() -> None:
    reader = EnvelopeReader(1000)
    for _ in range(1000):
        reader.feed(envelope(0, bytes(1000))[:900])
        assert reader.next() is None
        reader.feed(bytes(105))
        assert reader.next() is not None
    assert len(reader._held) <= 1005


def test_a_message_that_no_prefix_can_announce_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 2**32

    with pytest.raises(RpcError, match="4 GiB"):
        envelope(0, Huge())
