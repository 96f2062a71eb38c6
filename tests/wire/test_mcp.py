"""MCP's rules on the wire: versions, parameters, and the modern era's envelope and headers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from tailrace.errors import ProtocolError
from tailrace.wire import content, jsonrpc, mcp

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
MODERN = "2026-07-28"


def params(method: str, **given: Any) -> Any:
    return mcp.decode_params(method, json.dumps(given).encode())


def refused(method: str, raw: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        mcp.decode_params(method, raw)
    return caught.value


# --- versions -----------------------------------------------------------------------------------


def test_five_versions_are_spoken_one_of_them_without_a_handshake() -> None:
    assert mcp.ALL_VERSIONS == ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", MODERN)
    assert mcp.MODERN_VERSIONS == (MODERN,)
    assert not set(mcp.LEGACY_VERSIONS) & set(mcp.MODERN_VERSIONS)
    assert mcp.ASSUMED_VERSION == "2025-03-26"


@pytest.mark.parametrize("version", mcp.LEGACY_VERSIONS)
def test_initialize_is_answered_with_the_clients_version(version: str) -> None:
    assert mcp.negotiate(version) == version


@pytest.mark.parametrize("version", [MODERN, "2099-01-01", "", "2025-11-25 "])
def test_a_version_without_handshake_or_unknown_is_answered_with_the_newest_legacy_one(version: str) -> None:
    assert mcp.negotiate(version) == "2025-11-25"


def test_the_refusal_of_a_version_names_those_that_are_spoken() -> None:
    error = mcp.unsupported_version("1.0")
    assert error.code == mcp.UNSUPPORTED_VERSION == -32022
    assert "'1.0'" in error.message
    assert error.data["requested"] == "1.0"
    assert MODERN in error.data["supported"]


def test_the_refusal_of_a_version_repeats_little_of_it() -> None:
    error = mcp.unsupported_version("9" * 10_000)
    assert len(json.dumps([error.message, error.data])) < 400


def test_the_log_levels_are_those_of_syslog_in_their_order() -> None:
    assert mcp.LOG_LEVELS == ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
    for level in mcp.LOG_LEVELS:
        assert params("logging/setLevel", level=level).level == level


# --- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"{}", jsonrpc.EMPTY], ids=["absent", "empty", "raw"])
def test_absent_params_count_as_an_empty_object(raw: bytes) -> None:
    found = mcp.decode_params("tools/list", raw)
    assert found == mcp.Params()
    assert found.cursor is None
    assert found.meta.protocol_version is UNSET


def test_params_are_decoded_from_a_parsed_request() -> None:
    request = jsonrpc.parse(
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"n": 1}}}'
    )
    assert isinstance(request, jsonrpc.Request)
    found = mcp.decode_params(request.method, request.params)
    assert isinstance(found, mcp.CallParams)
    assert found.name == "a"
    assert isinstance(found.arguments, Raw)
    assert bytes(found.arguments) == b'{"n": 1}'


def test_arguments_that_were_not_sent_are_told_from_empty_ones() -> None:
    assert params("tools/call", name="a").arguments is UNSET
    assert bytes(params("tools/call", name="a", arguments={}).arguments) == b"{}"


def test_initialize_has_version_capabilities_and_client() -> None:
    found = params(
        "initialize",
        protocolVersion="2025-06-18",
        capabilities={"roots": {"listChanged": True}},
        clientInfo={"name": "c", "title": "C", "version": "1", "icons": []},
    )
    assert found == mcp.InitializeParams(
        "2025-06-18", {"roots": {"listChanged": True}}, mcp.Implementation("c", "1", "C")
    )


def test_capabilities_left_out_are_not_shared_between_clients() -> None:
    first, second = params("initialize", protocolVersion="a"), params("initialize", protocolVersion="b")
    first.capabilities["x"] = 1
    assert second.capabilities == {}


def test_a_cancellation_names_the_request_exactly() -> None:
    late = mcp.decode_cancelled(b'{"requestId":1%030d,"reason":"late"}' % 0)
    assert late == mcp.CancelledParams(10**30, "late")
    assert mcp.decode_cancelled(b'{"requestId":"1"}') == mcp.CancelledParams("1")
    for bad in (b"", b"{}", b'{"requestId":null}', b'{"requestId":1.0}', b'{"requestId":"\xff"}', b"[" * 100_000):
        assert mcp.decode_cancelled(bad) is None


def test_a_page_is_asked_for_by_its_cursor() -> None:
    assert params("tools/list", cursor="next").cursor == "next"


META: dict[str, tuple[str, Any]] = {
    VERSION: ("protocol_version", MODERN),
    CAPABILITIES: ("client_capabilities", {"sampling": {}}),
    "io.modelcontextprotocol/clientInfo": ("client_info", {"name": "c"}),
    "io.modelcontextprotocol/logLevel": ("log_level", "info"),
    "progressToken": ("progress_token", "t"),
    "io.tailrace/idempotencyKey": ("idempotency_key", "k"),
    "traceparent": ("traceparent", "00-1-2-01"),
    "tracestate": ("tracestate", "a=1"),
    "baggage": ("baggage", "b=2"),
}


@pytest.mark.parametrize("method", ["tools/call", "tools/list", "initialize", "logging/setLevel", "prompts/get"])
@pytest.mark.parametrize("key", META)
def test_every_request_may_carry_the_known_meta(method: str, key: str) -> None:
    field, value = META[key]
    found = params(method, name="a", protocolVersion="v", level="info", _meta={key: value, "com.example/x": [1]})
    assert getattr(found.meta, field) == value
    others = {other for other, _ in META.values()} - {field}
    assert all(getattr(found.meta, other) is UNSET for other in others)


@pytest.mark.parametrize("token", [0, -1, 2**70, "", "t"])
def test_a_progress_token_is_kept_exactly(token: int | str) -> None:
    found = params("tools/call", name="a", _meta={"progressToken": token}).meta.progress_token
    assert found == token
    assert type(found) is type(token)


@pytest.mark.parametrize(
    ("method", "raw", "part"),
    [
        ("tools/call", b"{}", "`name`"),
        ("tools/call", b'{"name":1}', "$.name"),
        ("tools/call", b'{"name":"a","_meta":[]}', "$._meta"),
        ("tools/call", b'{"name":"a","_meta":{"progressToken":1.0}}', "$._meta.progressToken"),
        ("tools/call", b'{"name":"a","_meta":{"progressToken":true}}', "$._meta.progressToken"),
        ("tools/list", b'{"_meta":{"' + VERSION.encode() + b'":5}}', VERSION),
        ("tools/list", b'{"_meta":{"' + CAPABILITIES.encode() + b'":[]}}', CAPABILITIES),
        ("tools/list", b'{"cursor":5}', "$.cursor"),
        ("tools/list", b"[]", "object"),
        ("initialize", b"", "`protocolVersion`"),
        ("initialize", b'{"protocolVersion":1}', "$.protocolVersion"),
        ("logging/setLevel", b'{"level":"loud"}', "$.level"),
        ("x", b"{", "truncated"),
    ],
)
def test_a_refusal_of_params_names_the_field(method: str, raw: bytes, part: str) -> None:
    error = refused(method, raw)
    assert error.code == jsonrpc.INVALID_PARAMS
    assert error.message.startswith(f"invalid params of {method}: ")
    assert part in error.message


def test_params_nested_without_end_are_refused() -> None:
    error = refused("tools/call", b'{"name":"a","arguments":' + b"[" * 1_000_000)
    assert error.code == jsonrpc.INVALID_PARAMS
    assert "nested too deeply" in error.message


def test_a_refusal_repeats_little_of_the_method() -> None:
    assert len(refused("m" * 10_000, b"[]").message) < 300


# --- what goes out ------------------------------------------------------------------------------


def test_a_legacy_result_has_nothing_of_the_modern_era() -> None:
    result = mcp.ToolResult([content.Text("hi")])
    assert mcp.encode(result) == b'{"content":[{"type":"text","text":"hi"}]}'


def test_a_modern_result_says_its_type_and_server() -> None:
    result = mcp.ToolResult([], Raw(b'{"a":1}'), True, "complete", {"k": "v"})
    assert json.loads(mcp.encode(result)) == {
        "content": [],
        "structuredContent": {"a": 1},
        "isError": True,
        "resultType": "complete",
        "_meta": {"k": "v"},
    }


def test_structured_content_of_null_is_sent() -> None:
    assert mcp.encode(mcp.ToolResult([], Raw(b"null"))) == b'{"content":[],"structuredContent":null}'


def test_progress_leaves_out_what_was_not_given() -> None:
    assert json.loads(mcp.progress_params(7, 1, None, None)) == {"progressToken": 7, "progress": 1}
    assert json.loads(mcp.progress_params("t", 0.5, 3, "half")) == {
        "progressToken": "t",
        "progress": 0.5,
        "total": 3,
        "message": "half",
    }


def test_progress_of_nothing_yet_is_sent() -> None:
    assert json.loads(mcp.progress_params(0, 0, 0, "")) == {
        "progressToken": 0,
        "progress": 0,
        "total": 0,
        "message": "",
    }


def test_a_log_message_has_level_data_and_perhaps_a_logger() -> None:
    assert json.loads(mcp.log_params("info", {"a": 1}, None)) == {"level": "info", "data": {"a": 1}}
    assert json.loads(mcp.log_params("info", None, "db")) == {"level": "info", "data": None, "logger": "db"}


# --- the modern envelope ------------------------------------------------------------------------


def meta(**given: Any) -> mcp.Meta:
    return mcp.Meta(**{"protocol_version": MODERN, "client_capabilities": {}, **given})


def test_version_and_capabilities_are_all_that_a_modern_request_needs() -> None:
    assert mcp.check_modern_meta(meta()) == MODERN
    assert mcp.check_modern_meta(meta(client_info={"name": "c"}, log_level="debug")) == MODERN


@pytest.mark.parametrize(("field", "key"), [("protocol_version", VERSION), ("client_capabilities", CAPABILITIES)])
def test_a_modern_request_without_a_required_key_is_refused(field: str, key: str) -> None:
    with pytest.raises(ProtocolError, match=key) as caught:
        mcp.check_modern_meta(meta(**{field: UNSET}))
    assert caught.value.code == jsonrpc.INVALID_PARAMS


@pytest.mark.parametrize("version", ["2025-11-25", "2099-01-01", ""])
def test_meta_may_only_name_a_modern_version(version: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        mcp.check_modern_version(mcp.check_modern_meta(meta(protocol_version=version)))
    assert caught.value.code == mcp.UNSUPPORTED_VERSION
    assert caught.value.data == {"supported": list(mcp.MODERN_VERSIONS), "requested": version}
    mcp.check_modern_version(mcp.check_modern_meta(meta(protocol_version=MODERN)))


def test_what_a_version_that_nobody_speaks_requires_is_not_asked_for() -> None:
    with pytest.raises(ProtocolError) as caught:
        mcp.check_modern_meta(meta(protocol_version="2099-01-01", client_capabilities=UNSET))
    assert (caught.value.code, caught.value.data["requested"]) == (mcp.UNSUPPORTED_VERSION, "2099-01-01")


# --- the modern headers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("tools/call", "name"),
        ("prompts/get", "name"),
        ("resources/read", "uri"),
        ("tasks/get", "taskId"),
        ("tasks/update", "taskId"),
        ("tasks/cancel", "taskId"),
        ("tools/list", None),
        ("server/discover", None),
        ("subscriptions/listen", None),
    ],
)
def test_mcp_name_repeats_what_the_request_is_about(method: str, field: str | None) -> None:
    assert mcp.header_name_field(method) == field


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", b'{"name":"place"}', "place"),
        ("prompts/get", b'{"name":"greet"}', "greet"),
        ("resources/read", b'{"uri":"orders://7"}', "orders://7"),
        ("tasks/get", b'{"taskId":"t1"}', "t1"),
        ("tools/list", b"{}", None),
    ],
)
def test_the_name_is_read_from_the_parameters(method: str, params: bytes, name: str | None) -> None:
    assert mcp.header_name(method, mcp.decode_params(method, params)) == name


def headers(**changes: list[str]) -> Callable[[bytes], list[str]]:
    """The headers of a tools/call of "place", with `changes` by the last word of a header's name."""
    given = {"version": [MODERN], "method": ["tools/call"], "name": ["place"], **changes}
    return lambda key: given[key.decode().rsplit("-", 1)[-1]] if key.islower() else []


def check(header: Callable[[bytes], list[str]], name: str | None = "place") -> ProtocolError | None:
    return mcp.check_modern_headers("tools/call", MODERN, name, header)


def test_headers_that_repeat_the_body_pass() -> None:
    assert check(headers()) is None


def test_an_encoded_header_is_compared_decoded() -> None:
    encoded = mcp.encode_header_value("größe")
    assert encoded.startswith("=?base64?")
    assert check(headers(name=[encoded]), name="größe") is None
    assert check(headers(name=[mcp.encode_header_value("groß")]), name="größe") is not None


def test_mcp_name_counts_only_where_the_method_has_one() -> None:
    assert check(headers(name=[]), name=None) is None
    assert check(headers(name=["other"]), name=None) is None


@pytest.mark.parametrize(
    ("word", "title"), [("version", "MCP-Protocol-Version"), ("method", "Mcp-Method"), ("name", "Mcp-Name")]
)
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (lambda right: [], "is missing"),
        (lambda right: [right, right], "is given more than once"),
        (lambda right: [right + "x"], "differs from the request's body"),
        (lambda right: [right.upper().replace("-", "_")], "differs from the request's body"),
        (lambda right: [""], "differs from the request's body"),
        (lambda right: [right + "\x00"], "has characters that must be encoded"),
        (lambda right: [right + "é"], "has characters that must be encoded"),
        (lambda right: ["=?base64?####?="], "is not valid base64 of UTF-8"),
    ],
    ids=["missing", "twice", "longer", "other-case", "empty", "nul", "latin-1", "not-base64"],
)
def test_a_header_that_disagrees_with_the_body_is_refused(
    word: str, title: str, values: Callable[[str], list[str]], problem: str
) -> None:
    (right,) = headers()(f"mcp-{word}".encode())
    error = check(headers(**{word: values(right)}))
    assert error is not None
    assert error.code == mcp.HEADER_MISMATCH == -32020
    assert error.message.startswith(f"the header {title} ")
    assert problem in error.message
    assert mcp.http_status(error) == 400


# --- header values ------------------------------------------------------------------------------


@given(st.text())
@example("")
@example(" a")
@example("a\t")
@example("=?base64??=")
@example("=?base64?=")
@example("=?base64?QQ==?=")
def test_any_text_passes_through_a_header(text: str) -> None:
    value = mcp.encode_header_value(text)
    assert all(" " <= char <= "~" for char in value)
    assert value == value.strip()
    assert mcp.decode_header_value(value) == text


@pytest.mark.parametrize("text", ["place", "a b", "orders://1?x=2", "~!#", "=?utf-8?q?x?=", "=?base64?QQ==", "QQ==?="])
def test_visible_ascii_is_sent_as_it_is(text: str) -> None:
    assert mcp.encode_header_value(text) == mcp.decode_header_value(text) == text


@pytest.mark.parametrize("text", ["é", "a\nb", "a\r\nX: y", "\x7f", " a", "a ", "\t", "=?base64?QQ==?=", "\U0001f980"])
def test_everything_else_is_sent_as_base64(text: str) -> None:
    encoded = base64.b64encode(text.encode()).decode()
    assert mcp.encode_header_value(text) == f"=?base64?{encoded}?="


def test_the_mark_of_base64_is_lower_case() -> None:
    assert mcp.decode_header_value("=?BASE64?QQ==?=") == "=?BASE64?QQ==?="


def test_half_a_mark_of_base64_is_plain_text() -> None:
    assert mcp.decode_header_value("=?base64?=") == "=?base64?="


@pytest.mark.parametrize(
    "value",
    ["QQ", "QQ=", "QQ===", "Q", "Q Q==", "QQ==QQ==", "-_==", "/w==", "7aCA", "é", "QQ==\n", "QR=="],
    ids=[
        "no-padding",
        "short-padding",
        "long-padding",
        "cut",
        "blank",
        "two-values",
        "url-alphabet",
        "not-utf-8",
        "surrogate",
        "latin-1",
        "line-break",
        "idle-bits",
    ],
)
def test_base64_that_is_not_exact_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="not valid base64 of UTF-8"):
        mcp.decode_header_value(f"=?base64?{value}?=")


@pytest.mark.parametrize("value", ["é", "a\0", "a\nb", "\x7f", "\x1f", "\u20ac"])
def test_a_plain_value_with_other_characters_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be encoded"):
        mcp.decode_header_value(value)


# --- HTTP status --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (jsonrpc.PARSE_ERROR, 400),
        (jsonrpc.INVALID_REQUEST, 400),
        (jsonrpc.METHOD_NOT_FOUND, 404),
        (jsonrpc.INVALID_PARAMS, 400),
        (jsonrpc.INTERNAL_ERROR, 200),
        (mcp.HEADER_MISMATCH, 400),
        (mcp.CAPABILITY_MISSING, 400),
        (mcp.UNSUPPORTED_VERSION, 400),
        (mcp.LIMIT_REACHED, 503),
        (1234, 200),
    ],
)
def test_each_error_code_has_its_http_status(code: int, status: int) -> None:
    assert mcp.http_status(ProtocolError(code, "m")) == status


def test_the_codes_are_those_of_the_specification() -> None:
    codes = (mcp.LIMIT_REACHED, mcp.HEADER_MISMATCH, mcp.CAPABILITY_MISSING, mcp.UNSUPPORTED_VERSION)
    assert codes == (-32000, -32020, -32021, -32022)


def test_what_is_public_is_there() -> None:
    assert all(hasattr(mcp, name) for name in mcp.__all__)


# --- methods that one era has ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["initialize", "logging/setLevel"])
def test_a_modern_request_to_a_removed_method_needs_none_of_its_parameters(method: str) -> None:
    raw = json.dumps({"_meta": {VERSION: MODERN}}).encode()
    assert mcp.decode_params(method, raw, any_era=True).meta.protocol_version == MODERN
    assert refused(method, raw).code == -32602


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"_meta": 5}', b'{"_meta": {"progressToken": 1}}'])
def test_a_legacy_request_needs_them_in_any_case(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"invalid params of logging/setLevel"):
        mcp.decode_params("logging/setLevel", raw, any_era=True)
