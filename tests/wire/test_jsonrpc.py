"""JSON-RPC: whatever the bytes, a message or the words that say what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.wire import jsonrpc
from tailrace.wire.jsonrpc import (
    EMPTY,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_DEPTH,
    PARSE_ERROR,
    Batch,
    ErrorResponse,
    Malformed,
    Notification,
    Request,
    Response,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    parse,
)

HEAD = b'{"jsonrpc":"2.0",'
LONG = b"x" * 255


def members(**given: Any) -> bytes:
    """A message with these members beside the right version."""
    return json.dumps({"jsonrpc": "2.0", **given}).encode()


# --- well-formed messages -----------------------------------------------------------------------


def test_a_request_keeps_its_params_raw() -> None:
    message = parse(b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params": {"name" : "place"} }')
    assert isinstance(message, Request)
    assert (message.id, message.method) == (7, "tools/call")
    assert bytes(message.params) == b'{"name" : "place"}'


def test_a_request_without_params_has_the_empty_ones() -> None:
    message = parse(HEAD + b'"id":"a","method":"ping"}')
    assert isinstance(message, Request)
    assert message.params is EMPTY
    assert len(message.params) == 0


def test_a_message_with_method_and_no_id_is_a_notification() -> None:
    message = parse(HEAD + b'"method":"notifications/initialized","params":{}}')
    assert isinstance(message, Notification)
    assert message.method == "notifications/initialized"
    assert bytes(message.params) == b"{}"


@pytest.mark.parametrize("result", [b"{}", b"null", b"[1]", b'"x"', b"false"])
def test_a_response_may_have_any_result(result: bytes) -> None:
    message = parse(HEAD + b'"id":1,"result":' + result + b"}")
    assert isinstance(message, Response)
    assert (message.id, bytes(message.result)) == (1, result)


def test_an_error_response_has_code_message_and_data() -> None:
    message = parse(HEAD + b'"id":"q","error":{"code":-32602,"message":"no","data":[1, 2]}}')
    assert isinstance(message, ErrorResponse)
    assert (message.id, message.code, message.message) == ("q", INVALID_PARAMS, "no")
    assert bytes(message.data) == b"[1, 2]"


@pytest.mark.parametrize("id", [b'"id":null,', b""], ids=["null", "absent"])
def test_an_error_response_may_lack_its_id(id: bytes) -> None:
    message = parse(HEAD + id + b'"error":{"code":1,"message":"unreadable"}}')
    assert message == ErrorResponse(None, 1, "unreadable", EMPTY)


@pytest.mark.parametrize(
    "id",
    [
        0,
        -1,
        2**53 + 1,
        2**63,
        2**64,
        -(2**64) - 1,
        10**30 + 1,
        10**255 - 1,
        1 - 10**255,
        "",
        "0",
        "a" * 255,
        "é" * 255,
        "\n",
    ],
    ids=lambda id: f"{type(id).__name__}-{len(str(id))}-{str(id)[:6]!r}",
)
def test_ids_are_kept_exactly(id: int | str) -> None:
    message = parse(members(id=id, method="ping"))
    assert isinstance(message, Request)
    assert message.id == id
    assert type(message.id) is type(id)
    answer = parse(encode_result(id, b"{}"))
    assert isinstance(answer, Response)
    assert answer.id == id
    assert type(answer.id) is type(id)


def test_white_space_and_unknown_members_make_no_difference() -> None:
    message = parse(b'\r\n\t {"x":[{"id":9}], "jsonrpc":"2.0",\n"id":1,"trace":null,"method":"ping"} \r\n')
    assert message == Request(1, "ping", EMPTY)


def test_of_a_member_given_twice_the_last_counts() -> None:
    message = parse(HEAD + b'"id":1,"method":"a","id":2,"method":"b"}')
    assert message == Request(2, "b", EMPTY)


def test_escaped_names_are_the_same_names() -> None:
    message = parse(HEAD + b'"i\\u0064":1,"m\\u0065thod":"p\\u0069ng"}')
    assert message == Request(1, "ping", EMPTY)


def test_every_kind_of_buffer_is_read() -> None:
    data = HEAD + b'"method":"a"}'
    assert parse(memoryview(data)) == parse(memoryview(bytearray(data))) == parse(data) == Notification("a", EMPTY)


def test_text_that_is_not_ascii_is_read() -> None:
    message = parse('{"jsonrpc":"2.0","id":"ü","method":"größe","params":{"a":"\U0001f980\\ud83e\\udd80"}}'.encode())
    assert isinstance(message, Request)
    assert (message.id, message.method) == ("ü", "größe")
    assert msgspec.json.decode(message.params) == {"a": "\U0001f980\U0001f980"}


# --- malformed messages, each told apart --------------------------------------------------------

NOT_JSON = [
    ("nothing", b"", "is empty"),
    ("white-space", b" \r\n\t", "is empty"),
    ("truncated", b'{"jsonrpc":"2.0","id":1', "truncated"),
    ("truncated-string", b'{"jsonrpc":"2', "truncated"),
    ("garbage", b"GET / HTTP/1.1", "not JSON: invalid character (byte 0)"),
    ("trailing-garbage", HEAD + b'"id":1,"method":"a"} x', "trailing characters"),
    ("two-messages", HEAD + b'"id":1,"method":"a"}\n{}', "trailing characters"),
    ("trailing-nul", HEAD + b'"id":1,"method":"a"}\0', "trailing characters"),
    ("trailing-comma", HEAD + b'"id":1,}', "trailing comma"),
    ("scalar-and-garbage", b"1 x", "trailing characters"),
    ("batch-and-garbage", b"[] x", "trailing characters"),
    ("open-batch", b"[{}", "truncated"),
    ("single-quotes", b"{'a':1}", "byte 1"),
    ("comment", b"{} // x", "trailing characters"),
    ("nan", HEAD + b'"method":"a","params":{"a":NaN}}', "invalid character"),
    ("infinity", HEAD + b'"method":"a","params":{"a":-Infinity}}', "invalid character"),
    ("leading-zero", HEAD + b'"id":01,"method":"a"}', "invalid number"),
    ("raw-line-break-in-string", HEAD + b'"method":"a","params":{"a":"x\ny"}}', "invalid character"),
    ("raw-nul-in-string", HEAD + b'"method":"a\0"}', "invalid character"),
    ("utf-8-mark", b"\xef\xbb\xbf" + HEAD + b'"method":"a"}', "byte order mark"),
    ("utf-16", '{"id":1}'.encode("utf-16"), "not UTF-8: byte 0"),
    ("utf-16-without-mark", '{"id":1}'.encode("utf-16-le"), "not JSON"),
    ("latin-1", HEAD + b'"method":"a","params":{"a":"\xe9"}}', "not UTF-8: byte 45"),
    ("latin-1-in-a-key", HEAD + b'"\xe9":1,"method":"a"}', "not UTF-8: byte 18"),
    ("overlong", HEAD + b'"method":"\xc0\xaf"}', "not UTF-8"),
    ("encoded-surrogate", HEAD + b'"method":"\xed\xa0\x80"}', "not UTF-8"),
    ("cut-character", HEAD + b'"method":"a"}\xe2\x82', "not UTF-8"),
    ("lone-high-surrogate", HEAD + b'"method":"\\ud800"}', "half a surrogate pair"),
    (
        "lone-high-surrogate-and-text",
        HEAD + b'"method":"a","params":{"a":"\\uDBFF and more text"}}',
        "half a surrogate",
    ),
    ("lone-low-surrogate", HEAD + b'"method":"a","params":{"a":"\\udc00"}}', "half a surrogate pair"),
    ("high-surrogate-twice", HEAD + b'"id":"\\ud83e\\ud83e\\udd80","method":"a"}', "half a surrogate pair"),
    ("escaped-backslash-before-surrogate-text", HEAD + b'"id":"\\\\ud800",}', "trailing comma"),
    ("pair-before-the-fault", HEAD + b'"id":"\\ud83e\\udd80",}', "trailing comma"),
    ("bad-escape", HEAD + b'"method":"\\x41"}', "invalid escaped character"),
    ("number-out-of-range-and-truncated", HEAD + b'"id":1e999', "truncated"),
]

NOT_A_MESSAGE: list[tuple[str, bytes, str, int | str | None]] = [
    ("string", b'"x"', "must be an object", None),
    ("number", b"1", "must be an object", None),
    ("huge-number", b"1" * 5000, "must be an object", None),
    ("null", b"null", "must be an object", None),
    ("no-version", b'{"id":1,"method":"a"}', "lacks the member jsonrpc", 1),
    ("empty-object", b"{}", "lacks the member jsonrpc", None),
    ("version-1", b'{"jsonrpc":"1.0","id":"a","method":"a"}', 'jsonrpc other than "2.0"', "a"),
    ("version-number", b'{"jsonrpc":2.0,"id":1,"method":"a"}', 'jsonrpc other than "2.0"', 1),
    ("version-array", b'{"jsonrpc":["2.0"],"id":1,"method":"a"}', 'jsonrpc other than "2.0"', 1),
    ("version-and-id", b'{"jsonrpc":null,"id":1.5,"method":"a"}', 'jsonrpc other than "2.0"', None),
    ("version-out-of-range", b'{"jsonrpc":1e999,"id":1,"method":"a"}', "number out of range for its jsonrpc", 1),
    ("id-null", HEAD + b'"id":null,"method":"a"}', "not null", None),
    ("id-true", HEAD + b'"id":true,"method":"a"}', "not a boolean", None),
    ("id-fraction", HEAD + b'"id":1.5,"method":"a"}', "not a fraction", None),
    ("id-integral-fraction", HEAD + b'"id":1.0,"method":"a"}', "not a fraction", None),
    ("id-exponent", HEAD + b'"id":1e2,"method":"a"}', "not a fraction", None),
    ("id-object", HEAD + b'"id":{"a":1},"method":"a"}', "not an object", None),
    ("id-array", HEAD + b'"id":[1],"method":"a"}', "not an array", None),
    ("id-long", HEAD + b'"id":"' + LONG + b'x","method":"a"}', "longer than 255 characters", None),
    ("id-of-256-digits", HEAD + b'"id":1' + b"0" * 255 + b',"method":"a"}', "more than 255 digits", None),
    ("id-of-256-digits-negative", HEAD + b'"id":-1' + b"0" * 255 + b',"method":"a"}', "more than 255 digits", None),
    ("id-of-5000-digits", HEAD + b'"id":' + b"1" * 5000 + b',"method":"a"}', "the id is a number out of range", None),
    ("id-out-of-range", HEAD + b'"id":1e999,"method":"a"}', "the id is a number out of range", None),
    ("response-id-null", HEAD + b'"id":null,"result":{}}', "not null", None),
    ("response-id-absent", HEAD + b'"result":{}}', "lacks the member id", None),
    ("error-id-true", HEAD + b'"id":true,"error":{"code":1,"message":"m"}}', "not a boolean", None),
    ("error-and-method-id-null", HEAD + b'"id":null,"method":"a","error":{}}', "not null", None),
    ("method-number", HEAD + b'"id":1,"method":5}', "method must be a string", 1),
    ("method-null", HEAD + b'"id":1,"method":null}', "method must be a string", 1),
    ("method-out-of-range", HEAD + b'"id":"i","method":1e999}', "out of range for its jsonrpc or method", "i"),
    ("method-out-of-range-id-array", HEAD + b'"id":[],"method":1e999}', "out of range for its jsonrpc or method", None),
    ("method-empty", HEAD + b'"id":1,"method":""}', "method is empty", 1),
    ("params-array", HEAD + b'"id":1,"method":"a","params":[1]}', "params must be an object", 1),
    ("params-null", HEAD + b'"id":1,"method":"a","params":null}', "params must be an object", 1),
    ("params-string", HEAD + b'"method":"a","params":"{"}', "params must be an object", None),
    ("method-and-result", HEAD + b'"id":1,"method":"a","result":{}}', "both method and result", 1),
    ("method-and-error", HEAD + b'"id":1,"method":"a","error":{}}', "both method and error", 1),
    ("result-and-error", HEAD + b'"id":1,"result":{},"error":null}', "both result and error", 1),
    ("neither", HEAD + b'"id":1}', "neither method nor result nor error", 1),
    ("neither-nor-id", HEAD + b'"params":{}}', "neither method nor result nor error", None),
    ("error-string", HEAD + b'"id":1,"error":"no"}', "error must be an object", 1),
    ("error-null", HEAD + b'"id":1,"error":null}', "error must be an object", 1),
    ("code-string", HEAD + b'"id":1,"error":{"code":"1","message":"m"}}', "code must be an integer", 1),
    ("code-fraction", HEAD + b'"id":1,"error":{"code":1.0,"message":"m"}}', "code must be an integer", 1),
    ("code-true", HEAD + b'"id":1,"error":{"code":true,"message":"m"}}', "code must be an integer", 1),
    ("code-absent", HEAD + b'"id":1,"error":{"message":"m"}}', "error lacks the member code", 1),
    ("code-out-of-range", HEAD + b'"id":1,"error":{"code":1e999,"message":"m"}}', "error has a number out of range", 1),
    ("error-message-number", HEAD + b'"id":1,"error":{"code":1,"message":1}}', "message must be a string", 1),
    ("error-message-absent", HEAD + b'"id":1,"error":{"code":1}}', "error lacks the member message", 1),
    ("empty-batch", b" [ ] ", "batch is empty", None),
]


@pytest.mark.parametrize(("data", "part"), [row[1:] for row in NOT_JSON], ids=[row[0] for row in NOT_JSON])
def test_bytes_that_are_not_json_are_a_parse_error(data: bytes, part: str) -> None:
    message = parse(data)
    assert isinstance(message, Malformed)
    assert (message.code, message.id) == (PARSE_ERROR, None)
    assert part in message.message


@pytest.mark.parametrize(
    ("data", "part", "id"), [row[1:] for row in NOT_A_MESSAGE], ids=[row[0] for row in NOT_A_MESSAGE]
)
def test_json_that_is_no_message_is_an_invalid_request(data: bytes, part: str, id: int | str | None) -> None:
    message = parse(data)
    assert isinstance(message, Malformed)
    assert (message.code, message.id) == (INVALID_REQUEST, id)
    assert type(message.id) is type(id)
    assert part in message.message


def test_a_refusal_never_repeats_the_peers_text() -> None:
    for _, data, *_ in [*NOT_JSON, *NOT_A_MESSAGE]:
        message = parse(data.replace(b'"a"', b'"zebra"').replace(b'"m"', b'"zebra"'))
        assert not isinstance(message, Malformed) or "zebra" not in message.message


# --- nesting ------------------------------------------------------------------------------------


def nested(depth: int, filling: bytes = b"") -> bytes:
    """A request whose deepest bracket stands at `depth`, the envelope's being the first."""
    inner = depth - 2
    brackets = b'{"a":[' * (inner // 2) + b"[" * (inner % 2) + filling + b"]" * (inner % 2) + b"]}" * (inner // 2)
    return HEAD + b'"id":1,"method":"a","params":{"a":' + (brackets or b"1") + b"}}"


def test_nesting_is_accepted_up_to_the_limit() -> None:
    data = nested(MAX_DEPTH)
    assert data.count(b"[") + data.count(b"{") == MAX_DEPTH
    assert isinstance(parse(data), Request)


@pytest.mark.parametrize(
    "data",
    [
        nested(MAX_DEPTH + 1),
        nested(100_000),
        b"[" * 1_000_000,
        b'{"":' * 300_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        HEAD + b'"id":' + b"[" * 5000 + b"]" * 5000 + b"}",
        HEAD + b'"x":"' + b"[" * 5000 + b'","y":' + b"[" * 5000 + b"]" * 5000 + b"}",
        HEAD + b'"x":' + b"[]," * 5000 + b"[" * 5000,
        b"[" + b'"[[",' * 5000 + b"[" * 600 + b"]" * 601,
    ],
    ids=[
        "one-more",
        "deep",
        "open-arrays",
        "open-objects",
        "arrays",
        "id",
        "after-brackets-in-a-string",
        "after-flat",
        "after-strings",
    ],
)
def test_nesting_beyond_the_limit_is_refused(data: bytes) -> None:
    message = parse(data)
    assert isinstance(message, Malformed)
    assert (message.code, message.id) == (PARSE_ERROR, None)
    assert "nested more than 512 levels deep" in message.message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "[{" * 40_000,
        '"[' * 5000,
        '\\"[' * 5000,
        "\\[\\" * 5000,
        "]" * 5000,
        "\\",
    ],
    ids=["brackets", "many-blocks", "quotes", "backslash-quotes", "backslashes", "closing", "one-backslash"],
)
def test_brackets_in_strings_are_no_nesting(text: str) -> None:
    message = parse(members(id=1, method="a", params={text: [[], text, [text]] * 300}))
    assert isinstance(message, Request)
    assert msgspec.json.decode(message.params) == {text: [[], text, [text]] * 300}


def test_many_brackets_side_by_side_are_no_nesting() -> None:
    params = {"a": [{"b": [[], {}]}] * 5000}
    message = parse(members(id=1, method="a", params=params))
    assert isinstance(message, Request)
    assert msgspec.json.decode(message.params) == params
    assert isinstance(parse(nested(MAX_DEPTH - 1, b"[]," * 5000 + b"[]")), Request)


@given(
    st.recursive(
        st.text('[]{}"\\,:a') | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner),
        max_leaves=30,
    ),
    st.sampled_from([1, MAX_DEPTH - 40, MAX_DEPTH - 20, MAX_DEPTH]),
)
def test_the_depth_is_counted_exactly(value: Any, around: int) -> None:
    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    wide = "[]," * 600
    text = json.dumps(value)
    data = ("[" * around + wide + text + "]" * around).encode()
    refused = parse(data) == Malformed(PARSE_ERROR, "the message is nested more than 512 levels deep", None)
    assert refused == (around + max(1, depth(value)) > MAX_DEPTH)


def test_a_stack_that_is_nearly_full_is_no_reason_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(data: bytes) -> Any:
        raise RecursionError

    monkeypatch.setattr(jsonrpc, "_decode_envelope", exhausted)
    message = parse(HEAD + b'"method":"a"}')
    assert isinstance(message, Malformed)
    assert "nested" in message.message


# --- batches ------------------------------------------------------------------------------------


def test_a_batch_keeps_the_order_of_its_messages() -> None:
    batch = parse(
        b'[{"jsonrpc":"2.0","id":2,"method":"b"},{"jsonrpc":"2.0","method":"n"},'
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}]'
    )
    assert batch == Batch((Request(2, "b", EMPTY), Notification("n", EMPTY), ErrorResponse(1, 1, "m", EMPTY)))


def test_a_bad_member_leaves_the_others_of_its_batch_alone() -> None:
    batch = parse(
        b'[1, [], [{"jsonrpc":"2.0","method":"n"}], {"id":5}, {"jsonrpc":"2.0","id":1e999,"method":"a"},'
        b' {"jsonrpc":"2.0","id":1,"method":"a"}]'
    )
    assert isinstance(batch, Batch)
    assert batch.messages == (
        Malformed(INVALID_REQUEST, "the message must be an object", None),
        Malformed(INVALID_REQUEST, "a batch must not hold a batch", None),
        Malformed(INVALID_REQUEST, "a batch must not hold a batch", None),
        Malformed(INVALID_REQUEST, "the message lacks the member jsonrpc", 5),
        Malformed(INVALID_REQUEST, "the id is a number out of range", None),
        Request(1, "a", EMPTY),
    )


def test_a_batch_is_accepted_up_to_its_limit() -> None:
    member = HEAD + b'"method":"a"}'
    batch = parse(b"[" + b",".join([member] * 3) + b"]", max_batch=3)
    assert batch == Batch((Notification("a", EMPTY),) * 3)
    assert parse(b"[" + b",".join([member] * 4) + b"]", max_batch=3) == Malformed(
        INVALID_REQUEST, "the batch has more than 3 messages", None
    )


def test_a_batch_has_a_hundred_messages_at_most_unless_said_otherwise() -> None:
    member = HEAD + b'"method":"a"}'
    batch = parse(b"[" + b",".join([member] * 100) + b"]")
    assert isinstance(batch, Batch)
    assert len(batch.messages) == 100
    assert isinstance(parse(b"[" + b",".join([member] * 101) + b"]"), Malformed)
    assert isinstance(parse(b"[" + b",".join([member] * 101) + b"]", max_batch=200), Batch)


def test_a_limit_of_no_messages_refuses_every_batch() -> None:
    assert isinstance(parse(b"[" + HEAD + b'"method":"a"}]', max_batch=0), Malformed)


# --- never raises -------------------------------------------------------------------------------


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(b"[" * 100_000)
@example(b"-")
@example(b'"\\u')
@example(b'"\\ud800\\u')
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    assert isinstance(parse(data), Malformed | Batch)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": st.integers() | st.text(max_size=300) | JSON,
        "method": st.text(max_size=20) | JSON,
        "params": st.dictionaries(st.text(max_size=3), JSON, max_size=2) | JSON,
        "result": JSON,
        "error": st.fixed_dictionaries({}, optional={"code": JSON, "message": JSON, "data": JSON}) | JSON,
    },
)


@given(NEARLY | st.lists(NEARLY, max_size=3), st.integers(0, 400), st.binary(max_size=2))
def test_nearly_right_messages_never_raise(value: Any, at: int, planted: bytes) -> None:
    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    assert isinstance(parse(data), Request | Notification | Response | ErrorResponse | Malformed | Batch)
    parse(data[:at] + planted + data[at:])
    parse(data[:at])


@given(NEARLY)
def test_what_is_accepted_obeys_the_rules(value: dict[str, Any]) -> None:
    message = parse(json.dumps(value).encode("utf-8", "replace"))
    if isinstance(message, Malformed):
        return
    assert value["jsonrpc"] == "2.0"
    assert isinstance(message, Request | Notification) == ("method" in value)
    assert isinstance(message, Response | ErrorResponse) == (("result" in value) != ("error" in value))
    if isinstance(message, Request | Notification):
        assert message.method == value["method"] != ""
        assert isinstance(value.get("params", {}), dict)
    if not isinstance(message, Notification):
        assert message.id == value.get("id")
        assert type(message.id) is type(value.get("id"))


# --- writing ------------------------------------------------------------------------------------

IDS = st.integers(1 - 10**255, 10**255 - 1) | st.text(max_size=255)
NAMES = st.text(min_size=1, max_size=20)
OBJECTS = st.dictionaries(st.text(max_size=4), JSON, max_size=3)
INDENTED: list[Callable[[Any], bytes]] = [
    lambda value: json.dumps(value).encode(),
    lambda value: json.dumps(value, indent=1, ensure_ascii=False).encode(),
    lambda value: json.dumps(value, indent=1).replace("\n", "\r\n").encode(),
]


def one_line(data: bytes) -> bytes:
    assert b"\n" not in data
    assert b"\r" not in data
    return data


@given(IDS, NAMES, OBJECTS, st.sampled_from(INDENTED))
def test_a_request_comes_back_as_it_was(id: int | str, method: str, params: Any, encode: Any) -> None:
    message = parse(one_line(encode_request(id, method, encode(params))))
    assert isinstance(message, Request)
    assert (message.id, message.method, json.loads(bytes(message.params))) == (id, method, params)


@given(NAMES, OBJECTS, st.sampled_from(INDENTED))
def test_a_notification_comes_back_as_it_was(method: str, params: Any, encode: Any) -> None:
    message = parse(one_line(encode_notification(method, encode(params))))
    assert isinstance(message, Notification)
    assert (message.method, json.loads(bytes(message.params))) == (method, params)


@given(IDS, JSON, st.sampled_from(INDENTED))
def test_a_result_comes_back_as_it_was(id: int | str, result: Any, encode: Any) -> None:
    message = parse(one_line(encode_result(id, encode(result))))
    assert isinstance(message, Response)
    assert (message.id, json.loads(bytes(message.result))) == (id, result)


@given(IDS | st.none(), st.integers(-(2**70), 2**70), st.text(), JSON)
def test_an_error_comes_back_as_it_was(id: int | str | None, code: int, text: str, data: Any) -> None:
    message = parse(one_line(encode_error(id, code, text, data)))
    assert isinstance(message, ErrorResponse)
    assert (message.id, message.code, message.message) == (id, code, text)
    assert json.loads(bytes(message.data)) == data


@pytest.mark.parametrize("params", [None, b"", EMPTY], ids=["none", "no-bytes", "empty"])
def test_absent_params_are_left_out(params: bytes | None) -> None:
    assert encode_request(1, "ping", params) == b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    assert encode_notification("n", params) == b'{"jsonrpc":"2.0","method":"n"}'


def test_what_is_written_is_compact() -> None:
    assert encode_request("a", "m", b'{"x":1}') == b'{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":1}}'
    assert encode_notification("m", b"{}") == b'{"jsonrpc":"2.0","method":"m","params":{}}'
    assert encode_result(-3, b"{}") == b'{"jsonrpc":"2.0","id":-3,"result":{}}'
    assert encode_error(None, -32700, "no") == b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}'


def test_raw_members_are_passed_on_as_they_came() -> None:
    request = parse(HEAD + b'"id":1,"method":"m","params":{"n":1.10e0,"s":"\\u00e9"}}')
    assert isinstance(request, Request)
    assert encode_request(2, "m", request.params).endswith(b'"params":{"n":1.10e0,"s":"\\u00e9"}}')
    assert encode_result(2, request.params).endswith(b'"result":{"n":1.10e0,"s":"\\u00e9"}}')
    assert encode_error(2, 1, "m", request.params).endswith(b'"data":{"n":1.10e0,"s":"\\u00e9"}}}')


def test_data_of_none_is_not_the_same_as_no_data() -> None:
    assert encode_error(1, 2, "m", None).endswith(b'"message":"m","data":null}}')
    assert encode_error(1, 2, "m").endswith(b'"message":"m"}}')


@pytest.mark.parametrize("line_break", [b"\n", b"\r", b"\r\n"])
def test_each_kind_of_line_break_is_taken_out(line_break: bytes) -> None:
    broken = b"{" + line_break + b"}"
    for written in (encode_result(1, broken), encode_request(1, "m", broken), encode_notification("m", broken)):
        assert isinstance(parse(one_line(written)), Request | Notification | Response)


def test_raw_data_with_line_breaks_stays_on_one_line() -> None:
    error = parse(one_line(encode_error(1, 2, "m", msgspec.Raw(b'{\r\n"a": [\n1]}'))))
    assert isinstance(error, ErrorResponse)
    assert msgspec.json.decode(error.data) == {"a": [1]}


def test_a_text_that_utf_8_cannot_carry_is_still_answered_with() -> None:
    error = parse(encode_error(1, 2, "no file \udcff\nhere"))
    assert error == ErrorResponse(1, 2, "no file ?\nhere", EMPTY)


def test_data_that_cannot_be_encoded_is_the_callers_fault() -> None:
    with pytest.raises(TypeError):
        encode_error(1, 2, "m", object())
