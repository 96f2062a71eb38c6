"""Compression: whole messages there and back, and never more bytes than the limit says."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import Code, RpcError
from tailrace.wire.compression import (
    CODECS,
    IDENTITY,
    accepted,
    choose,
    compress,
    decompress,
    find_codecs,
    load,
)

NAMES = pytest.mark.parametrize("name", ["gzip", "br", "zstd"])
MIB = 1024 * 1024


def refusal(name: str, data: bytes, limit: int = MIB) -> Code:
    with pytest.raises(RpcError) as caught:
        decompress(name, data, limit)
    return caught.value.code


def test_all_three_are_there_where_the_extra_is_installed() -> None:
    assert list(CODECS) == ["gzip", "br", "zstd"]
    assert accepted() == "gzip, br, zstd"


def test_without_the_extra_gzip_is_there_alone() -> None:
    assert list(find_codecs(None, None)) == ["gzip"]
    assert load("tailrace.no_such_module", "tailrace_is_no_such") is None
    assert load("tailrace.no_such_module", "zlib") is zlib


def test_a_brotli_that_cannot_be_bounded_is_not_used() -> None:
    class Old:
        Decompressor = object

    assert list(find_codecs(Old, None)) == ["gzip"]


@NAMES
@given(data=st.binary(max_size=4096), times=st.integers(1, 50))
def test_what_is_compressed_comes_back(name: str, data: bytes, times: int) -> None:
    data *= times
    assert decompress(name, compress(name, data), len(data)) == data


def test_identity_is_the_data_itself_within_the_limit() -> None:
    assert compress(IDENTITY, b"tea") == b"tea"
    assert decompress(IDENTITY, b"tea", 3) == b"tea"
    assert refusal(IDENTITY, b"teas", 3) is Code.RESOURCE_EXHAUSTED


@NAMES
@pytest.mark.parametrize("size", [0, 1, 100, 70_000])
def test_the_limit_is_exact(name: str, size: int) -> None:
    data = bytes(size)
    packed = compress(name, data)
    assert decompress(name, packed, size) == data
    if size:
        assert refusal(name, packed, size - 1) is Code.RESOURCE_EXHAUSTED


@NAMES
def test_a_bomb_is_refused_without_being_unpacked(name: str) -> None:
    bomb = compress(name, bytes(256 * MIB))
    assert len(bomb) < MIB
    tracemalloc.start()
    try:
        assert refusal(name, bomb, 1000) is Code.RESOURCE_EXHAUSTED
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_a_frame_that_wants_a_huge_window_is_refused() -> None:
    zstd = load("compression.zstd", "backports.zstd")
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.enable_long_distance_matching: 1}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(b"tea" * 10, compressor.FLUSH_BLOCK) + compressor.flush()  # its length is unknown
    assert refusal("zstd", packed) is Code.INVALID_ARGUMENT


@NAMES
@given(data=st.binary(max_size=200))
def test_anything_that_is_no_message_is_invalid(name: str, data: bytes) -> None:
    with contextlib.suppress(RpcError):  # and nothing else
        decompress(name, data, MIB)


@NAMES
def test_a_message_that_is_cut_off_or_followed_by_more_is_invalid(name: str) -> None:
    packed = compress(name, b"tea for two" * 20)
    assert refusal(name, packed[:-1]) is Code.INVALID_ARGUMENT
    assert refusal(name, packed + b"x") is Code.INVALID_ARGUMENT
    assert refusal(name, packed + packed) is Code.INVALID_ARGUMENT
    assert decompress(name, b"", 0) == b""
    assert refusal(name, b"not compressed at all") is Code.INVALID_ARGUMENT


def test_an_unknown_compression_is_unimplemented_and_the_known_ones_are_named() -> None:
    with pytest.raises(RpcError, match="gzip, br, zstd, identity") as caught:
        decompress("snappy" * 100, b"", 1)
    assert caught.value.code is Code.UNIMPLEMENTED
    assert len(str(caught.value)) < 200


def test_gzip_is_what_others_read_and_write() -> None:
    assert gzip.decompress(compress("gzip", b"tea")) == b"tea"
    assert decompress("gzip", gzip.compress(b"tea"), 3) == b"tea"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "identity"),
        ("", "identity"),
        ("identity", "identity"),
        ("snappy", "identity"),
        ("gzip", "gzip"),
        ("snappy, ZSTD ,gzip", "zstd"),
        ("br;q=0.5", "br"),
        ("gzip;q=0, br", "br"),
        ("gzip; q=0.000", "identity"),
    ],
)
def test_the_first_of_the_peers_list_that_is_there_is_chosen(accept: str | None, chosen: str) -> None:
    assert choose(accept) == chosen
