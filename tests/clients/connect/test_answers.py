"""What the bytes of an answer say, and what is said of those that say nothing: pure, without a connection."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.clients.connect.answers import Answer, make_answer
from tailrace.connect import Code, RpcError
from tailrace.wire.compression import compress
from tailrace.wire.envelopes import COMPRESSED, END_STREAM, TRAILERS, envelope

ACCEPT = ("gzip", "br")
KINDS: dict[str, tuple[Any, bool]] = {
    "unary": ("connect", False),
    "connect": ("connect", True),
    "grpc": ("grpc", True),
    "grpc-web": ("grpc-web", True),
}
TYPES = {
    "unary": b"application/proto",
    "connect": b"application/connect+proto",
    "grpc": b"application/grpc+proto",
    "grpc-web": b"application/grpc-web+proto",
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, limit: int = 1000) -> Answer:
    protocol, stream = KINDS[kind]
    return make_answer(protocol, "proto", ACCEPT, limit, stream=stream)


def head(kind: str, **headers: str) -> list[tuple[bytes, str]]:
    more = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return [(b"content-type", TYPES[kind].decode()), *more]


def begun(kind: str, **headers: str) -> Answer:
    answer = make(kind)
    answer.begin(200, head(kind, **headers))
    return answer


def code_of(act: Any, *given: Any) -> Code:
    with pytest.raises(RpcError) as error:
        act(*given)
    return error.value.code


@each_kind
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (429, Code.UNAVAILABLE),
        (502, Code.UNAVAILABLE),
        (302, Code.UNKNOWN),
        (500, Code.UNKNOWN),
    ],
)
def test_an_http_error_that_is_no_rpcs_has_the_code_of_its_status(kind: str, status: int, code: Code) -> None:
    answer = make(kind)
    assert code_of(answer.begin, status, [(b"content-type", "text/html"), (b"x-one", "1")]) is code
    assert answer.headers["x-one"] == "1"


@each_kind
def test_an_answer_of_another_type_is_refused(kind: str) -> None:
    assert code_of(make(kind).begin, 200, []) is Code.UNKNOWN
    assert code_of(make(kind).begin, 200, [(b"content-type", "text/html")]) is Code.UNKNOWN
    other = "grpc" if kind != "grpc" else "connect"
    assert code_of(make(kind).begin, 200, head(other)) is Code.UNKNOWN
    json = [(b"content-type", TYPES[kind].decode().replace("proto", "json"))]
    assert code_of(make(kind).begin, 200, json) is Code.INTERNAL


@each_kind
def test_a_compression_that_was_not_offered_is_refused(kind: str) -> None:
    name = {"unary": "content-encoding", "connect": "connect-content-encoding"}.get(kind, "grpc-encoding")
    for given in ("zstd", "nonsense"):
        assert code_of(make(kind).begin, 200, head(kind, **{name: given})) is Code.INTERNAL
    for given in ("identity", "", "br"):
        make(kind).begin(200, head(kind, **{name: given}))


@pytest.mark.parametrize("kind", ["connect", "grpc", "grpc-web"])
def test_a_message_that_is_compressed_without_saying_how_is_refused(kind: str) -> None:
    answer = begun(kind)
    answer.feed(envelope(COMPRESSED, compress("gzip", b"x")))
    assert code_of(answer.next) is Code.INTERNAL


@pytest.mark.parametrize("kind", ["connect", "grpc", "grpc-web"])
def test_a_message_that_cannot_be_decompressed_is_the_servers_fault(kind: str) -> None:
    name = "connect_content_encoding" if kind == "connect" else "grpc_encoding"
    answer = begun(kind, **{name: "gzip"})
    answer.feed(envelope(COMPRESSED, b"no gzip"))
    assert code_of(answer.next) is Code.INTERNAL
    answer = begun(kind, **{name: "gzip"})
    answer.feed(envelope(COMPRESSED, b""))  # nothing is nothing, compressed or not
    assert answer.next() == b""


@pytest.mark.parametrize("kind", ["connect", "grpc", "grpc-web"])
def test_flags_that_nobody_knows_are_refused(kind: str) -> None:
    for flags in (0x04, 0x40, TRAILERS if kind == "connect" else END_STREAM):
        answer = begun(kind)
        answer.feed(envelope(flags, b""))
        assert code_of(answer.next) is Code.INTERNAL


@pytest.mark.parametrize("kind", ["connect", "grpc", "grpc-web"])
@pytest.mark.parametrize("body", [b"", envelope(0, b"one"), envelope(0, b"one")[:6], b"\0"])
def test_a_stream_that_ends_without_saying_how_is_broken(kind: str, body: bytes) -> None:
    answer = begun(kind)
    answer.feed(body)
    while answer.next() is not None:
        pass
    assert code_of(answer.finish, []) is Code.INTERNAL
    assert not answer.ended


def test_an_end_that_is_none_is_broken() -> None:
    connect = begun("connect")
    connect.feed(envelope(END_STREAM, b"[]"))
    assert code_of(connect.next) is Code.INTERNAL
    for block in (b"x: y\r\n", b"nonsense"):
        web = begun("grpc-web")
        web.feed(envelope(TRAILERS, block))
        assert code_of(web.next) is Code.INTERNAL


def test_what_follows_the_end_is_passed_over() -> None:
    answer = begun("grpc-web")
    answer.feed(envelope(TRAILERS, b"grpc-status: 0\r\nx-one: 1\r\n"))
    assert answer.next() is None
    assert (answer.ended, answer.error, answer.trailers["x-one"]) == (True, None, "1")
    answer.feed(envelope(0, b"more"))
    assert answer.next() is None
    answer.finish([])


def test_a_grpc_answer_may_be_all_trailers() -> None:
    answer = begun("grpc", grpc_status="5", grpc_message="no", x_one="1")
    answer.finish([])
    assert answer.error is not None
    assert (answer.error.code, answer.error.metadata["x-one"]) == (Code.NOT_FOUND, ["1"])
    assert list(answer.headers) == []


def test_a_status_among_the_headers_means_nothing_before_a_body_or_trailers() -> None:
    answer = begun("grpc", grpc_status="5", x_one="1")
    answer.feed(envelope(0, b"one"))
    assert answer.headers["x-one"] == "1"
    assert answer.next() == b"one"
    assert code_of(answer.finish, []) is Code.INTERNAL
    answer = begun("grpc", grpc_status="5")
    answer.finish([(b"grpc-status", "0")])
    assert (answer.ended, answer.error) == (True, None)


def test_an_error_is_worth_more_than_a_message_that_was_cut_off() -> None:
    answer = begun("grpc")
    answer.feed(b"\0")
    answer.finish([(b"grpc-status", "8")])
    assert answer.error is not None
    assert answer.error.code is Code.RESOURCE_EXHAUSTED


def test_a_unary_error_without_json_has_the_code_of_its_status() -> None:
    for body, code in ((b"", Code.UNAVAILABLE), (b"[]", Code.UNAVAILABLE), (b'{"code":"aborted"}', Code.ABORTED)):
        answer = make("unary")
        answer.begin(503, [(b"content-type", "application/json")])
        answer.feed(body)
        answer.finish([])
        assert answer.error is not None
        assert answer.error.code is code


def test_a_unary_answer_is_bounded_as_it_comes_and_decompressed() -> None:
    answer = begun("unary")
    assert code_of(answer.feed, bytes(1001)) is Code.RESOURCE_EXHAUSTED
    answer = begun("unary", content_encoding="gzip")
    answer.feed(compress("gzip", bytes(1001)))
    assert code_of(answer.finish, []) is Code.RESOURCE_EXHAUSTED
    answer = begun("unary", content_encoding="gzip")
    answer.feed(compress("gzip", b"fine"))
    answer.finish([])
    assert (answer.next(), answer.next(), answer.ended) == (b"fine", None, True)


def test_both_headers_and_trailers_go_with_an_error() -> None:
    answer = make("connect")
    answer.begin(200, [*head("connect"), (b"x-one", "1"), (b"x-both", "h"), (b"x-bin", "AAE=")])
    answer.feed(envelope(END_STREAM, b'{"error":{"code":"aborted"},"metadata":{"x-both":["t"],"x-two":["2"]}}'))
    assert answer.next() is None
    assert answer.error is not None
    assert answer.error.metadata == {"x-one": ["1"], "x-both": ["h", "t"], "x-bin": [b"\0\1"], "x-two": ["2"]}
