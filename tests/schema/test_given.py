"""A JSON Schema that the program wrote itself: shown as it is, checked on every call."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tailrace.errors import DefinitionError
from tailrace.schema import Arguments, InvalidArguments, arguments_of

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"street": {"$anchor": "street", "type": "string", "minLength": 2}},
    "properties": {
        "name": {"type": "string"},
        "address": {"type": "object", "properties": {"lines": {"type": "array", "items": {"$ref": "#street"}}}},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "required": ["name"],
    "anyOf": [{"required": ["phone"]}, {"required": ["email"]}],
}


async def contact(name: str, address: dict[str, Any] | None = None, phone: str = "", email: str = "") -> None:
    """Write down how somebody is reached."""


CONTACT = arguments_of(contact, given=SCHEMA)


def refused(arguments: Arguments, raw: bytes) -> tuple[str, str]:
    with pytest.raises(InvalidArguments) as caught:
        arguments.decode(raw)
    return caught.value.message, caught.value.path


def test_it_is_shown_word_for_word_and_nobody_can_change_it_afterwards() -> None:
    given = {"type": "object", "properties": {"a": {"type": "string", "x-own": 1}}}
    arguments = arguments_of(lambda a="": None, given=given)
    given["properties"] = {}
    assert arguments.schema == {"type": "object", "properties": {"a": {"type": "string", "x-own": 1}}}
    assert arguments.names == ("a",)


def test_what_fits_reaches_the_function_with_its_defaults() -> None:
    raw = b'{"name": "Ada", "phone": "1", "address": {"lines": ["here"]}}'
    expected = {"name": "Ada", "phone": "1", "email": "", "address": {"lines": ["here"]}}
    assert CONTACT.decode(raw) == expected


def test_what_hints_cannot_say_is_checked() -> None:
    message, path = refused(CONTACT, b'{"name": "Ada"}')
    assert message.startswith("arguments: ")
    assert "anyOf" in message
    assert path == ""
    message, path = refused(CONTACT, b'{"name": "Ada", "phone": "1", "address": {"lines": ["here", "x"]}}')
    assert message == "argument 'address.lines[1]': \"x\" is shorter than 2 characters"
    assert path == "address.lines[1]"


def test_what_the_peer_sent_is_not_repeated_at_length() -> None:
    message, _ = refused(CONTACT, b'{"name": "' + b"x" * 10_000 + b'"}')
    assert len(message) < 400


@pytest.mark.parametrize("raw", [None, b"", b"null"])
def test_no_arguments_are_an_empty_object(raw: bytes | None) -> None:
    optional = arguments_of(lambda a="": None, given={"type": "object", "properties": {"a": {"type": "string"}}})
    assert optional.decode(raw) == {"a": ""}


def test_no_arguments_are_checked_too() -> None:
    assert "name" in refused(CONTACT, b"")[0]
    assert "name" in refused(CONTACT, b"null")[0]


@pytest.mark.parametrize("raw", [b"[]", b'"text"', b"{", b'{"name": "\xff"}', b"[" * 100_000])
def test_what_is_no_object_of_json_is_refused(raw: bytes) -> None:
    assert "argument" in refused(CONTACT, raw)[0]


def test_what_the_schema_admits_beyond_the_parameters_does_not_reach_the_function() -> None:
    assert "extra" not in CONTACT.decode(b'{"name": "Ada", "phone": "1", "extra": 1}')


def test_the_hints_still_say_what_the_function_takes() -> None:
    arguments = arguments_of(lambda a: None, given={"type": "object", "properties": {"a": {}}, "required": ["a"]})
    assert arguments.decode(b'{"a": [1]}') == {"a": [1]}

    def whole(a: int) -> None: ...

    typed = arguments_of(whole, given={"type": "object", "properties": {"a": {}}, "required": ["a"]})
    assert refused(typed, b'{"a": "1"}') == ("argument 'a': expected int, got str", "a")


def test_a_model_of_pydantic_is_made_of_what_fits() -> None:
    class Point(BaseModel):
        x: int

    def draw(point: Point) -> None: ...

    inner = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 1}}}
    arguments = arguments_of(draw, given={"type": "object", "properties": {"point": inner}, "required": ["point"]})
    assert arguments.decode(b'{"point": {"x": 1}}') == {"point": Point(x=1)}
    assert refused(arguments, b'{"point": {"x": 0}}')[1] == "point.x"


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({}, '"type": "object"'),
        ({"type": "string"}, '"type": "object"'),
        (5, '"type": "object"'),
        ({"type": "object", "minProperties": "x"}, "not usable"),
        ({"type": "object", "$schema": "https://example.org/own"}, "Unknown meta-schema"),
        ({"type": "object", "$ref": "http://127.0.0.1:9/s.json"}, "not fetched"),
        ({"type": "object", "$ref": "file:///etc/hostname"}, "not fetched"),
        ({"type": "object", "$ref": "#/$defs/none"}, "does not exist"),
        ({"type": "object", "default": object()}, "not usable"),
        ({"type": "object", "properties": {"b": {}}}, "'b', which is no parameter"),
        ({"type": "object", "properties": {"a": {}}}, "does not require it"),
    ],
)
def test_what_cannot_work_is_refused_when_the_tool_is_defined(schema: Any, problem: str) -> None:
    def tool(a: str) -> None: ...

    with pytest.raises(DefinitionError, match=r"test_given\.py") as caught:
        arguments_of(tool, given=schema)
    assert problem in str(caught.value)
