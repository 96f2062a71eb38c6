"""HPACK: what another library packs is unpacked, what is packed is unpacked by it, and what is malformed says so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jh2.hpack import Decoder as OtherDecoder
from jh2.hpack import Encoder as OtherEncoder

from tailrace.wire.hpack import TABLE_SIZE, Decoder, FieldsTooLarge, HpackError, content_length, encode

NAMES = st.sampled_from([b":path", b":status", b"content-type", b"x-a", b"x-b"]) | st.binary(min_size=1, max_size=12)
VALUES = st.sampled_from([b"", b"/", b"200", b"application/grpc", b"v" * 200]) | st.binary(max_size=40)
BLOCKS = st.lists(st.tuples(st.lists(st.tuples(NAMES, VALUES), max_size=12), st.booleans(), st.booleans()), max_size=8)
SIZES = st.sampled_from([None, None, None, 0, 60, 500, TABLE_SIZE])


def plain(pairs: Any) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in pairs]


@settings(max_examples=200, deadline=None)
@given(BLOCKS, st.lists(SIZES, min_size=8, max_size=8))
def test_what_another_encoder_packs_is_unpacked_block_by_block(blocks: Any, sizes: list[int | None]) -> None:
    theirs, ours = OtherEncoder(), Decoder(1 << 20)
    for (fields, huffman, secret), size in zip(blocks, sizes, strict=False):
        if size is not None:
            theirs.header_table_size = size
        before = ours.changes
        block = theirs.encode([(*field, secret) for field in fields], huffman=huffman)
        assert plain(ours.decode(block)) == plain(fields)
        if ours.changes == before:  # the same bytes mean the same again
            assert plain(ours.decode(block)) == plain(fields)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=20))
def test_what_we_pack_is_unpacked_by_another_and_changes_nothing(fields: list[tuple[bytes, bytes]]) -> None:
    block = encode(fields)
    theirs, ours = OtherDecoder(), Decoder(1 << 20)
    for _ in range(2):
        assert plain(theirs.decode(block, raw=True)) == fields
        assert ours.decode(block) == fields
    assert ours.changes == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_an_error_and_never_more_than_the_library_takes(data: bytes) -> None:
    try:
        fields = Decoder(1 << 20).decode(data)
    except HpackError:
        return
    theirs = OtherDecoder()
    assert plain(theirs.decode(data, raw=True)) == fields


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 16_384, 70_000])
def test_strings_of_any_length(length: int) -> None:
    fields = [(b"x" * max(1, length), b"y" * length)]
    assert Decoder(1 << 20).decode(encode(fields)) == fields
    assert plain(OtherDecoder(max_header_list_size=1 << 20).decode(encode(fields), raw=True)) == fields


@pytest.mark.parametrize("size", [0, 7, 10, 12_345_678])
def test_a_length_as_a_part_of_a_block(size: int) -> None:
    block = encode([(b":status", b"200")]) + content_length(size)
    assert Decoder(1 << 20).decode(block) == [(b":status", b"200"), (b"content-length", b"%d" % size)]


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # field 0
        b"\xbe",  # a field that the table does not have
        b"\xff\xff\xff\xff\xff\xff\xff",  # an index beyond all
        b"\x7f",  # cut off in an index
        b"\x40",  # cut off in front of a name
        b"\x00\x05ab",  # in a name
        b"\x40\x0a\xff\xff\xff\xff\xff\xff",  # in a length
        b"\x3f\xe2\x1f",  # a table of 4097 bytes
        b"\x3f",  # cut off in a size
        b"\x20\x20\x20\x82",  # three sizes
        b"\x82\x20",  # a size behind a field
        b"\x00\x84\xff\xff\xff\xff\x00",  # the end of strings, in a string
        b"\x00\x85\x07\xff\xff\xff\xff\x00",  # the same behind a character, so that it ends in the middle of a byte
        b"\x00\x84\x00\x00\x00\x00\x00",  # padded with zeros
        b"\x40\x82\xff\xff\x00",  # padded with more than seven bits
    ],
)
def test_a_malformed_block(block: bytes) -> None:
    with pytest.raises(HpackError):
        Decoder(1 << 20).decode(block)


def test_fields_over_the_limit_are_not_kept_but_the_table_is_right() -> None:
    theirs, ours = OtherEncoder(), Decoder(200)
    large = [(b"x-large", b"y" * 150), (b"x-last", b"z")]
    with pytest.raises(FieldsTooLarge):
        ours.decode(theirs.encode(large, huffman=False))
    assert ours.decode(theirs.encode(large[1:])) == large[1:]
    small = theirs.encode(large[:1])
    assert len(small) == 1
    assert ours.decode(small) == large[:1]


def test_a_field_larger_than_the_table_empties_it() -> None:
    theirs, ours = OtherEncoder(), Decoder(1 << 20)
    ours.decode(theirs.encode([(b"x-kept", b"a")]))
    large = [(b"x-large", b"y" * 5000)]
    assert ours.decode(theirs.encode(large)) == large
    with pytest.raises(HpackError):
        ours.decode(b"\xbe")


def test_strings_that_were_unpacked_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from tailrace.wire import hpack

    monkeypatch.setattr(hpack, "_KEPT", 10)
    hpack._unpacked.clear()
    for number in range(25):
        block = OtherEncoder().encode([(b"x", b"value%d" % number)], huffman=True)
        assert Decoder(1 << 20).decode(block) == [(b"x", b"value%d" % number)]
        assert len(hpack._unpacked) <= 10
