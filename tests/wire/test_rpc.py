"""What the three protocols share: content types, statuses, details."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as ProtobufAny
from google.protobuf.wrappers_pb2 import StringValue

from tailrace.errors import Code
from tailrace.wire.rpc import (
    CODE_OF_NAME,
    CONTENT_TYPES,
    NAME_OF_CODE,
    ContentType,
    Detail,
    code_of_status,
    content_type_of,
    detail_of,
    details_of,
    read_content_type,
    status_of_code,
    to_any,
)


def test_telemetry_knows_two_systems() -> None:
    systems = {kind.protocol: kind.system for kind in CONTENT_TYPES.values()}
    assert systems == {"connect": "connectrpc", "grpc": "grpc", "grpc-web": "grpc"}


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpc-web"])
@pytest.mark.parametrize("codec", ["proto", "json"])
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_written_is_what_is_read(protocol: str, codec: str, stream: bool) -> None:
    kind = read_content_type(content_type_of(protocol, codec, stream=stream))  # type: ignore[arg-type]
    assert kind is not None
    assert (kind.protocol, kind.codec, kind.base64) == (protocol, codec, False)
    assert kind.stream == (stream or protocol != "connect")


def test_grpc_without_a_codec_is_proto() -> None:
    assert CONTENT_TYPES["application/grpc"] == ContentType("application/grpc", "grpc", "proto", stream=True)
    assert CONTENT_TYPES["application/grpc-web-text"].base64


@pytest.mark.parametrize(
    ("value", "codec"),
    [
        ("application/json; charset=utf-8", "json"),
        ('Application/JSON;charset="UTF-8"', "json"),
        ("application/proto ;", "proto"),
        ("application/json; charset=latin-1", None),
        ("application/xml", None),
        ("", None),
        (None, None),
    ],
)
def test_case_and_a_charset_of_utf8_make_no_difference(value: str | None, codec: str | None) -> None:
    kind = read_content_type(value)
    assert (kind and kind.codec) == codec


def test_every_code_has_a_name_and_a_status() -> None:
    assert all(CODE_OF_NAME[NAME_OF_CODE[code]] is code and 400 <= status_of_code(code) <= 599 for code in Code)
    assert NAME_OF_CODE[Code.CANCELED] == "canceled"
    assert status_of_code(Code.RESOURCE_EXHAUSTED) == 429


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, Code.INTERNAL), (401, Code.UNAUTHENTICATED), (404, Code.UNIMPLEMENTED), (503, Code.UNAVAILABLE),
     (418, Code.UNKNOWN), (200, Code.UNKNOWN)],
)  # fmt: skip
def test_a_bare_status_means_a_code(status: int, code: Code) -> None:
    assert code_of_status(status) is code


def test_a_detail_is_a_message_or_an_any_of_one() -> None:
    message = StringValue(value="tea")
    packed = ProtobufAny()
    packed.Pack(message)
    detail = Detail("google.protobuf.StringValue", message.SerializeToString())
    assert details_of([message, packed, detail]) == [detail, detail, detail]
    assert to_any(detail) == packed


def test_what_is_no_message_is_no_detail() -> None:
    with pytest.raises(TypeError, match="not str"):
        detail_of("tea")
