"""gRPC's own forms: what is written is what is read, and damage never hides an error."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.errors import Code, RpcError
from tailrace.wire.envelopes import TRAILERS, EnvelopeReader
from tailrace.wire.grpc import (
    Base64Reader,
    Status,
    decode_message,
    decode_status,
    decode_web_trailers,
    encode_base64,
    encode_message,
    encode_status,
    encode_web_trailers,
    format_timeout,
    parse_timeout,
    read_status,
    status_trailers,
)
from tailrace.wire.metadata import Fields, Metadata
from tailrace.wire.rpc import Detail, detail_of

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def as_read(fields: Fields) -> list[tuple[bytes, str]]:
    return [(name, value.decode("latin-1")) for name, value in fields]


# --- time-outs ----------------------------------------------------------------------------------


@given(st.floats(0, 1e9))
def test_a_timeout_comes_back_never_longer_and_nearly_as_long(seconds: float) -> None:
    text = format_timeout(seconds)
    again = parse_timeout(text)
    assert again is not None
    assert len(text) <= 9
    assert again <= seconds * (1 + 1e-9)
    assert again >= seconds - max(3600 if seconds > 99_999_999 else 0, seconds * 1e-4, 1e-9)


def test_timeouts_have_eight_digits_and_a_unit() -> None:
    assert [parse_timeout(text) for text in ("1H", "2M", "3S", "4m", "5u", "6n")] == pytest.approx(
        [3600, 120, 3, 4e-3, 5e-6, 6e-9], rel=1e-9
    )
    assert parse_timeout(None) is None
    assert format_timeout(-1) == "0n"
    assert format_timeout(1e15) == "99999999H"
    for value in ("", "1", "S", "123456789S", "-1S", "1.5S", "1 S", "1s"):
        with pytest.raises(RpcError, match="grpc-timeout") as caught:
            parse_timeout(value)
        assert caught.value.code is Code.INVALID_ARGUMENT


# --- the status ---------------------------------------------------------------------------------


@given(TEXTS)
def test_a_message_comes_back(text: str) -> None:
    encoded = encode_message(text)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert decode_message(encoded.decode("ascii")) == text


def test_a_message_is_escaped_as_grpc_does_and_bad_escapes_stay() -> None:
    assert encode_message("100% \u2615\n") == b"100%25 %E2%98%95%0A"
    assert decode_message("50% off%2") == "50% off%2"


@given(st.sampled_from(list(Code)), TEXTS.filter(bool), st.lists(TEXTS, max_size=3))
def test_an_error_comes_back_with_details_and_trailers(code: Code, message: str, texts: list[str]) -> None:
    details = [StringValue(value=text) for text in texts]
    trailers = Metadata({"x-one": ["1", "2"]})
    known, error, found = read_status(as_read(status_trailers(RpcError(code, message, details), trailers)))
    assert known
    assert error is not None
    assert (error.code, error.message, error.metadata) == (code, message, {"x-one": ["1", "2"]})
    assert [detail_of(any) for any in error.details] == [detail_of(detail) for detail in details]
    assert dict(found) == {"x-one": "1"}


def test_zero_is_well_and_nothing_is_no_status() -> None:
    assert status_trailers() == [(b"grpc-status", b"0")]
    assert read_status([(b"grpc-status", "0"), (b"x", "1")]) == (True, None, Metadata({"x": "1"}))
    assert read_status([(b"x", "1")]) == (False, None, Metadata({"x": "1"}))


@pytest.mark.parametrize("number", ["17", "-1", "tea", "", "99999999999999999999", "\u0663"])
def test_a_status_that_is_no_code_is_an_unknown_error(number: str) -> None:
    known, error, _ = read_status([(b"grpc-status", number), (b"grpc-status-details-bin", "!")])
    assert known
    assert error is not None
    assert (error.code, error.details) == (Code.UNKNOWN, ())
    _, error, _ = read_status([(b"grpc-status", number), (b"grpc-message", "tea")])
    assert error is not None
    assert error.message == "tea"


STATUSES = st.builds(
    Status,
    st.integers(0, 2**31 - 1),
    TEXTS,
    st.lists(st.builds(Detail, st.from_regex("[a-z]{1,4}[.][A-Z]{1,3}", fullmatch=True), st.binary()), max_size=3).map(
        tuple
    ),
)


@given(STATUSES)
def test_a_status_comes_back(status: Status) -> None:
    assert decode_status(encode_status(status)) == status


def test_a_status_is_what_protobuf_makes_of_it() -> None:
    pb2 = pytest.importorskip("google.rpc.status_pb2")
    message = pb2.Status(code=5, message="no tea")
    message.details.add().Pack(StringValue(value="x" * 300))
    status = decode_status(message.SerializeToString())
    assert (status.code, status.message) == (5, "no tea")
    assert encode_status(status) == message.SerializeToString(deterministic=True)


@given(st.binary(max_size=60))
@example(b"\x0d\0\0\0\0\x09\0\0\0\0\0\0\0\0\x1a\x02\x08\x01")
@example(b"\x10\x01\x0a\0")
@example(b"\x0b")
@example(b"\x12\x05x")
@example(b"\x80")
@example(b"\x08" + b"\x80" * 11)
def test_a_damaged_status_is_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):  # and nothing else
        decode_status(data)


# --- gRPC-Web -----------------------------------------------------------------------------------


def test_trailers_of_the_web_come_back() -> None:
    fields = status_trailers(RpcError(Code.NOT_FOUND, "no tea"), Metadata({"x": "1"}))
    reader = EnvelopeReader(1000)
    reader.feed(encode_web_trailers(fields))
    message = reader.next()
    assert message is not None
    assert message.flags == TRAILERS
    assert decode_web_trailers(message.data) == as_read(fields)
    assert decode_web_trailers(b"Grpc-Status:0\n") == [(b"grpc-status", "0")]
    with pytest.raises(RpcError, match="no field") as caught:
        decode_web_trailers(b"tea\r\n")
    assert caught.value.code is Code.INTERNAL


@given(st.lists(st.binary(min_size=1, max_size=10), max_size=5), st.lists(st.integers(0, 100)))
def test_base64_in_padded_parts_and_any_chunking_comes_back(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(encode_base64(part) for part in parts)
    reader = Base64Reader()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    assert b"".join(reader.feed(data[start:end]) for start, end in pairwise(edges)) == b"".join(parts)
    assert not reader.partial


@pytest.mark.parametrize("data", [b"!!!!", b"A===", b"AA=A"])
def test_what_is_no_base64_is_invalid(data: bytes) -> None:
    with pytest.raises(RpcError) as caught:
        Base64Reader().feed(data)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_cut_off_base64_is_seen() -> None:
    reader = Base64Reader()
    assert reader.feed(b"AAAAA") == b"\0\0\0"
    assert reader.partial
