"""`Mcp-Param-*`: which arguments a schema wants repeated, what the client writes, what the server refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.wire.mcp import HEADER_MISMATCH
from tailrace.wire.param_headers import check_param_headers, param_headers, write_param_headers

INVALID_PARAMS = -32602
TEXT: dict[str, Any] = {"type": "string", "x-mcp-header": "Region"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": TEXT,
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        "where": {"type": "object", "properties": {"city": {"type": "string", "x-mcp-header": "City"}}},
        "other": {"type": "string", "default": {"x-mcp-header": "this is data"}},
        "any": True,
    },
}
HEADERS = param_headers(SCHEMA)


def check(arguments: Any, *given: tuple[str, str], raw: bytes | None = None) -> tuple[int, str] | None:
    def values(name: bytes) -> list[str]:
        return [value for key, value in given if key.lower().encode() == name]

    error = check_param_headers(HEADERS, json.dumps(arguments).encode() if raw is None else raw, values)
    return None if error is None else (error.code, error.message)


# --- what the schema asks for ---------------------------------------------------------------------


def test_properties_are_found_also_within_objects() -> None:
    found = {header.title: (header.key, header.path, header.kind) for header in HEADERS}
    assert found == {
        "Mcp-Param-Region": (b"mcp-param-region", ("region",), "string"),
        "Mcp-Param-Count": (b"mcp-param-count", ("count",), "integer"),
        "Mcp-Param-Dry": (b"mcp-param-dry", ("dry",), "boolean"),
        "Mcp-Param-City": (b"mcp-param-city", ("where", "city"), "string"),
    }


def test_a_property_may_have_the_name_of_the_keyword() -> None:
    assert param_headers({"type": "object", "properties": {"x-mcp-header": {"type": "string"}}}) == ()


@pytest.mark.parametrize("token", ["", "a b", "a:b", "é", "a\n", 5, None])
def test_what_cannot_be_part_of_a_name_is_refused(token: Any) -> None:
    with pytest.raises(ValueError, match="cannot be part"):
        param_headers({"properties": {"a": {"type": "string", "x-mcp-header": token}}})


@pytest.mark.parametrize("kind", ["number", "object", "array", "null", ["string", "null"], None])
def test_only_what_every_language_writes_alike_may_be_repeated(kind: Any) -> None:
    with pytest.raises(ValueError, match="is for string, integer and boolean"):
        param_headers({"properties": {"a": {"type": kind, "x-mcp-header": "A"}}})


def test_a_name_is_given_once_whatever_its_case() -> None:
    other = {"type": "string", "x-mcp-header": "REGION"}
    with pytest.raises(ValueError, match=r"'a' and to 'b'|'b' and to 'a'"):
        param_headers({"properties": {"a": TEXT, "b": other}})


@pytest.mark.parametrize(
    "schema",
    [
        TEXT,
        {"properties": {"a": {"type": "array", "items": TEXT}}},
        {"properties": {"a": {"anyOf": [TEXT, {"type": "null"}]}}},
        {"$defs": {"a": TEXT}},
        {"patternProperties": {"^a": TEXT}},
        {"if": {"properties": {"a": TEXT}}},
        {"allOf": [{"properties": {"a": TEXT}}]},
    ],
)
def test_only_a_chain_of_properties_leads_to_one(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no chain of `properties`"):
        param_headers(schema)


@pytest.mark.parametrize(
    "odd", [{"properties": 5}, {"allOf": 5}, {"$defs": []}, {"items": 5}, {"properties": {"a": 5}}]
)
def test_a_schema_that_is_none_asks_for_nothing(odd: dict[str, Any]) -> None:
    assert param_headers(odd) == ()


# --- what the client writes -----------------------------------------------------------------------


def test_each_argument_that_is_there_is_written() -> None:
    arguments = {"region": "eu west", "count": -3, "dry": True, "where": {"city": "Zürich"}, "other": "x"}
    assert write_param_headers(HEADERS, arguments) == {
        "Mcp-Param-Region": "eu west",
        "Mcp-Param-Count": "-3",
        "Mcp-Param-Dry": "true",
        "Mcp-Param-City": "=?base64?WsO8cmljaA==?=",
    }


def test_what_is_absent_null_or_unwritable_has_no_header() -> None:
    assert write_param_headers(HEADERS, {"region": None, "where": "nowhere", "dry": []}) == {}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "region": st.text() | st.none(),
            "count": st.integers(-(2**53) + 1, 2**53 - 1),
            "dry": st.booleans(),
            "where": st.fixed_dictionaries({"city": st.text()}),
        },
    )
)
def test_what_a_client_writes_the_server_takes(arguments: dict[str, Any]) -> None:
    assert check(arguments, *write_param_headers(HEADERS, arguments).items()) is None


# --- what the server refuses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "given", "problem"),
    [
        ({"region": "eu"}, [], "is missing"),
        ({"region": "eu"}, [("Mcp-Param-Region", "us")], "differs"),
        ({"region": "eu"}, [("Mcp-Param-Region", "EU")], "differs"),
        ({"region": "eu"}, [("Mcp-Param-Region", "eu"), ("mcp-param-region", "eu")], "more than once"),
        ({"region": "eu"}, [("Mcp-Param-Region", "=?base64?ZXU?=")], "not valid base64"),
        ({}, [("Mcp-Param-Region", "eu")], "no argument"),
        ({"region": None}, [("Mcp-Param-Region", "")], "no argument"),
        ([], [("Mcp-Param-Region", "eu")], "no argument"),
        ({"region": ["eu"]}, [("Mcp-Param-Region", "eu")], "no argument"),
        ({"count": 3}, [("Mcp-Param-Count", "4")], "differs"),
        ({"count": 3}, [("Mcp-Param-Count", "3.5")], "differs"),
        ({"count": 3.5}, [("Mcp-Param-Count", "3")], "differs"),
        ({"region": "1"}, [("Mcp-Param-Region", "1.0")], "differs"),
        ({"count": 3}, [("Mcp-Param-Count", "0" * 5000 + "3")], "differs"),
        ({"dry": True}, [("Mcp-Param-Dry", "True")], "differs"),
        ({"where": {"city": "Bonn"}}, [("Mcp-Param-City", "Köln")], "must be encoded"),
    ],
)
def test_a_header_that_is_not_as_the_body_is_refused(
    arguments: Any, given: list[tuple[str, str]], problem: str
) -> None:
    refused = check(arguments, *given)
    assert refused is not None
    assert refused[0] == HEADER_MISMATCH
    assert problem in refused[1]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ({"count": 42}, "42.0"),
        ({"count": 42.0}, "42"),
        ({"count": 0}, "-0"),
    ],
)
def test_numbers_are_compared_as_numbers(arguments: Any, given: str) -> None:
    assert check(arguments, ("Mcp-Param-Count", given)) is None


def test_a_header_that_nobody_asked_for_means_nothing() -> None:
    assert check({"other": "x"}, ("Mcp-Param-Other", "y")) is None


@pytest.mark.parametrize("raw", [b"{", b'{"region": "\xff"}', b"[" * 100_000 + b"]" * 100_000])
def test_arguments_that_cannot_be_read_are_no_mismatch(raw: bytes) -> None:
    refused = check(None, raw=raw)
    assert refused is not None
    assert refused[0] == INVALID_PARAMS
    assert check(None, raw=b"") is None
