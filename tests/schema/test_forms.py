"""A form that a user fills in, made of a type: flat, or refused."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

from tailrace.errors import DefinitionError
from tailrace.schema.forms import Form


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Struct(msgspec.Struct):
    name: str
    colour: Colour = Colour.RED


class Model(pydantic.BaseModel):
    name: str
    age: int | None = None


class Typed(TypedDict):
    name: str


@dataclasses.dataclass
class Nested:
    inner: Typed


@dataclasses.dataclass
class Many:
    names: list[str]


@pytest.mark.parametrize(
    ("kind", "content", "value"),
    [
        (Struct, {"name": "a", "colour": "blue"}, Struct("a", Colour.BLUE)),
        (Model, {"name": "a"}, Model(name="a")),
        (Typed, {"name": "a"}, {"name": "a"}),
        (bool, {"value": True}, True),
        (int, {"value": 3}, 3),
        (Literal["a", "b"], {"value": "b"}, "b"),
        (list[Colour], {"value": ["red", "blue"]}, [Colour.RED, Colour.BLUE]),
        (list[Literal["a", "b"]], {"value": ["b"]}, ["b"]),
        (None, {}, {}),
        ({"type": "object", "properties": {"x": {"type": "string"}}}, {"x": "y"}, {"x": "y"}),
    ],
)
def test_what_was_filled_in_comes_as_the_type(kind: Any, content: Any, value: Any) -> None:
    form = Form(kind)
    assert form.read(content) == value
    assert form.schema["type"] == "object"
    kinds = {field["type"] for field in form.schema["properties"].values()}
    assert kinds <= {"string", "number", "integer", "boolean", "array"}


@pytest.mark.parametrize("kind", [Nested, Many, list[int], dict])
def test_what_is_not_flat_is_refused(kind: Any) -> None:
    with pytest.raises(DefinitionError, match="a form has"):
        Form(kind)


CHOICE = {"properties": {"size": {"type": "string", "enum": ["small", "large"]}}, "required": ["size"]}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (Struct, {}),
        (Model, {"age": 1}),
        (int, {"value": "x"}),
        (bool, {}),
        (list[Colour], {"value": ["green"]}),
        (CHOICE, {"size": "huge"}),
        (CHOICE, {}),
    ],
)
def test_what_does_not_fit_is_a_value_error(kind: Any, content: Any) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Form(kind).read(content)


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(DefinitionError, match="not usable"):
        Form({"properties": {"x": {"type": "nothing"}}})


def test_a_choice_of_several_says_what_there_is() -> None:
    field = Form(list[Colour]).schema["properties"]["value"]
    assert field == {"type": "array", "items": {"type": "string", "title": "Colour", "enum": ["blue", "red"]}}
