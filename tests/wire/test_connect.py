"""Connect's own forms: what is written is what is read, and damage is an error of the right kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import Code, RpcError
from tailrace.wire.connect import (
    GetRequest,
    decode_end,
    decode_error,
    encode_end,
    encode_error,
    encode_get,
    format_timeout,
    parse_get,
    parse_timeout,
)
from tailrace.wire.metadata import Metadata
from tailrace.wire.rpc import detail_of

DEEP = b"[" * 100_000


# --- time-outs ----------------------------------------------------------------------------------


@given(st.integers(0, 9_999_999_999))
def test_a_timeout_comes_back_to_the_millisecond(milliseconds: int) -> None:
    assert parse_timeout(str(milliseconds)) == milliseconds / 1000
    assert abs(int(format_timeout(milliseconds / 1000)) - milliseconds) <= 1


def test_a_timeout_has_ten_digits_at_most() -> None:
    assert parse_timeout(None) is None
    assert format_timeout(1e12) == "9999999999"
    assert format_timeout(-1) == "0"
    for value in ("", "-1", "1.5", "12345678901", "1s", "\u0663"):
        with pytest.raises(RpcError, match="connect-timeout-ms") as caught:
            parse_timeout(value)
        assert caught.value.code is Code.INVALID_ARGUMENT


# --- errors -------------------------------------------------------------------------------------


@given(st.sampled_from(list(Code)), st.text(min_size=1), st.lists(st.text(max_size=5), max_size=3))
def test_an_error_comes_back_with_its_details(code: Code, message: str, texts: list[str]) -> None:
    message = message.encode("utf-8", "replace").decode()
    details = [StringValue(value=text.encode("utf-8", "replace").decode()) for text in texts]
    error = decode_error(encode_error(RpcError(code, message, details)), Code.DATA_LOSS)
    assert error is not None
    assert (error.code, error.message) == (code, message)
    assert [detail_of(any) for any in error.details] == [detail_of(detail) for detail in details]


def test_an_errors_json_is_as_the_protocol_says() -> None:
    text = json.loads(encode_error(RpcError(Code.INVALID_ARGUMENT, "no tea", [StringValue(value="x")])))
    assert text == {
        "code": "invalid_argument",
        "message": "no tea",
        "details": [{"type": "google.protobuf.StringValue", "value": "CgF4"}],
    }


@pytest.mark.parametrize("data", [b"", b"tea", b"[]", b"null", b"\xff", DEEP])
def test_what_is_no_error_is_none(data: bytes) -> None:
    assert decode_error(data, Code.UNKNOWN) is None


@pytest.mark.parametrize("name", ["null", '"tea"', "7"])
def test_an_error_without_a_code_that_is_known_has_the_statuss(name: str) -> None:
    error = decode_error(b'{"code": %b, "message": 3}' % name.encode(), Code.UNAVAILABLE, Metadata({"x": ["1", "2"]}))
    assert error is not None
    assert (error.code, error.message, error.metadata) == (Code.UNAVAILABLE, "unavailable", {"x": ["1", "2"]})


def test_details_that_make_no_sense_are_passed_over() -> None:
    details: Any = [1, {}, {"type": "a.B"}, {"type": "a.B", "value": "!"}, {"type": "x.y/a.B", "value": "AA=="}]
    error = decode_error(json.dumps({"code": "aborted", "details": details}).encode(), Code.UNKNOWN)
    assert error is not None
    assert [(any.type_url, any.value) for any in error.details] == [("type.googleapis.com/a.B", b"\0")]
    assert decode_error(b'{"code": "aborted", "details": 1}', Code.UNKNOWN) is not None


# --- the end of a stream ------------------------------------------------------------------------


def test_a_stream_ends_well_or_with_an_error_and_with_its_trailers() -> None:
    assert encode_end() == b"{}"
    assert decode_end(b"{}") == (None, Metadata())
    trailers = Metadata({"x-one": ["1", "2"], "x-raw-bin": b"\0"})
    error, found = decode_end(encode_end(None, trailers))
    assert error is None
    assert dict(found) == dict(trailers)
    assert found.all("x-one") == ["1", "2"]
    error, found = decode_end(encode_end(RpcError(Code.ABORTED, "no"), trailers))
    assert error is not None
    assert (error.code, error.message) == (Code.ABORTED, "no")
    assert error.metadata == {"x-one": ["1", "2"], "x-raw-bin": [b"\0"]}


def test_an_error_of_a_stream_without_a_known_code_is_unknown() -> None:
    error, _ = decode_end(b'{"error": {"message": "x"}, "metadata": {"X-A": ["1", 2], "b": "c"}}')
    assert error is not None
    assert (error.code, error.metadata) == (Code.UNKNOWN, {"x-a": ["1"]})


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", DEEP, b'{"error": 1}'])
def test_what_is_no_end_is_an_error(data: bytes) -> None:
    with pytest.raises(RpcError) as caught:
        decode_end(data)
    assert caught.value.code is Code.INTERNAL


# --- GET ----------------------------------------------------------------------------------------


@given(st.sampled_from(["proto", "json"]), st.binary(max_size=50), st.sampled_from(["identity", "gzip", "br"]))
def test_a_get_comes_back(codec: str, message: bytes, compression: str) -> None:
    query = encode_get(codec, message, compression)
    assert parse_get(query.encode("ascii")) == GetRequest(codec, message, compression, "1")


def test_a_get_that_a_person_writes_is_read() -> None:
    assert parse_get(b"encoding=json&message=%7B%22a%22%3A+1%7D") == GetRequest("json", b'{"a": 1}')
    assert parse_get(b"message={}&encoding=json&compression=&message=x") == GetRequest("json", b"{}")
    assert parse_get(b"encoding=proto&base64=1&message=AA==&connect=1") == GetRequest("proto", b"\0", version="1")


@pytest.mark.parametrize(
    "query", [b"", b"message=x", b"encoding=json", b"encoding=proto&base64=1&message=A", b"a=1&" * 65, b"\xff=1"]
)
def test_what_is_no_get_is_invalid(query: bytes) -> None:
    with pytest.raises(RpcError) as caught:
        parse_get(query)
    assert caught.value.code is Code.INVALID_ARGUMENT
