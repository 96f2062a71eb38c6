"""What a function returns, as its callers see it: the schema, and JSON that always fits it."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import pathlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import DefinitionError, TailraceError
from tailrace.schema import InvalidResult, Result, result_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Sum:
    """What adding gives."""

    total: int
    terms: list[int] = field(default_factory=list)


class Node(msgspec.Struct):
    name: str
    children: list[Node] = []


class Options(TypedDict):
    speed: int


class Point(NamedTuple):
    x: int
    y: int


class Picture:
    """Stands for a type of MCP content."""

    __tailrace_content__ = True


def result_for(hint: Any) -> Result:
    def fn(): ...

    fn.__annotations__["return"] = hint
    result = result_of(fn)
    if result.schema is not None:
        jsonschema_rs.Draft202012Validator(result.schema)
        assert result.schema["type"] == "object"
    return result


@pytest.mark.parametrize(
    ("hint", "value", "encoded"),
    [
        (str, "tea", {"result": "tea"}),
        (int, 2**70, {"result": 2**70}),
        (float, 1.5, {"result": 1.5}),
        (float, 2, {"result": 2}),
        (bool, True, {"result": True}),
        (None, None, {"result": None}),
        (list[int], [1, 2], {"result": [1, 2]}),
        (tuple[int, str], (1, "a"), {"result": [1, "a"]}),
        (set[int], {1}, {"result": [1]}),
        (set[int], [1, 1], {"result": [1]}),
        (dict[str, decimal.Decimal] | None, {"a": 1}, {"result": {"a": "1"}}),
        (int | None, None, {"result": None}),
        (Sum | None, Sum(1), {"result": {"total": 1, "terms": []}}),
        (Literal["a", "b"], "a", {"result": "a"}),
        (Colour, Colour.RED, {"result": "red"}),
        (Point, Point(1, 2), {"result": [1, 2]}),
        (bytes, b"ab", {"result": "YWI="}),
        (uuid.UUID, uuid.UUID(int=1), {"result": "00000000-0000-0000-0000-000000000001"}),
        (decimal.Decimal, decimal.Decimal("1.10"), {"result": "1.10"}),
        (datetime.date, datetime.date(2026, 11, 21), {"result": "2026-11-21"}),
        (pathlib.PurePosixPath, pathlib.PurePosixPath("a/b"), {"result": "a/b"}),
        (Annotated[int, msgspec.Meta(ge=1)], 3, {"result": 3}),
    ],
    ids=str,
)
def test_what_is_no_object_goes_out_wrapped(hint: Any, value: Any, encoded: Any) -> None:
    result = result_for(hint)
    assert result.wrapped
    assert result.schema is not None
    assert result.schema["required"] == ["result"]
    assert json.loads(result.encode(value)) == encoded
    jsonschema_rs.validate(result.schema, encoded)


@pytest.mark.parametrize(
    ("hint", "value", "encoded"),
    [
        (Sum, Sum(3, [1, 2]), {"total": 3, "terms": [1, 2]}),
        (Sum, {"total": 3}, {"total": 3}),
        (Node, Node("a", [Node("b")]), {"name": "a", "children": [{"name": "b", "children": []}]}),
        (Options, {"speed": 1}, {"speed": 1}),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[int, int], {1: 1}, {"1": 1}),
        (dict, {"a": [None]}, {"a": [None]}),
    ],
    ids=str,
)
def test_an_object_goes_out_as_it_is(hint: Any, value: Any, encoded: Any) -> None:
    result = result_for(hint)
    assert not result.wrapped
    assert result.schema is not None
    assert json.loads(result.encode(value)) == encoded
    jsonschema_rs.validate(result.schema, encoded)


def test_the_schema_of_an_object_needs_no_definitions_unless_it_contains_itself() -> None:
    assert result_for(Sum).schema == {
        "title": "Sum",
        "description": "What adding gives.",
        "type": "object",
        "properties": {
            "total": {"type": "integer"},
            "terms": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["total"],
    }
    schema = result_for(Node).schema
    assert schema is not None
    assert list(schema["$defs"]) == ["Node"]


def test_a_description_in_the_hint_is_in_the_schema() -> None:
    wrapped, whole = result_for(Annotated[int, "how many"]).schema, result_for(Annotated[Sum, "all of it"]).schema
    assert wrapped is not None
    assert wrapped["properties"]["result"] == {"type": "integer", "description": "how many"}
    assert whole is not None
    assert whole["description"] == "all of it"


@pytest.mark.parametrize("hint", [Any, object, Picture, list[Picture], Picture | str])
def test_content_and_anything_have_no_schema(hint: Any) -> None:
    assert result_for(hint).schema is None


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, {"result": None}),
        ([1], {"result": [1]}),
        ("x", {"result": "x"}),
        ({"a": 1}, {"a": 1}),
        (Sum(1), {"total": 1, "terms": []}),
    ],
)
def test_what_is_not_declared_is_wrapped_unless_it_is_an_object(value: Any, encoded: Any) -> None:
    def fn(): ...

    result = result_of(fn)
    assert result.schema is None
    assert json.loads(result.encode(value)) == encoded


@pytest.mark.parametrize(
    ("hint", "value", "says", "path"),
    [
        (int, "3", "at result: expected int, got str", "result"),
        (int, True, "at result: expected int, got bool", "result"),
        (int, None, "at result: expected int, got null", "result"),
        (float, float("nan"), "at result: expected float, got null", "result"),
        (None, 3, "at result: expected null, got int", "result"),
        (str, b"x" * 3, None, "result"),
        (list[int], [1, "2"], "at result[1]: expected int, got str", "result[1]"),
        (Sum, Sum("3"), "at result.total: expected int, got str", "result.total"),  # type: ignore[arg-type]
        (Sum, {}, "missing required field total", "result"),
        (Sum, None, "expected object, got null", "result"),
        (Node, Node("a", [Node(3)]), "at result.children[0].name: expected str, got int", "result.children[0].name"),  # type: ignore[arg-type]
        (Annotated[int, msgspec.Meta(ge=1)], 0, "expected int >= 1", "result"),
    ],
)
def test_a_result_that_does_not_fit_is_refused(hint: Any, value: Any, says: str | None, path: str) -> None:
    if says is None:
        assert result_for(hint).encode(value)  # bytes are text in JSON: base64
        return
    with pytest.raises(InvalidResult, match="the result does not fit its type") as refused:
        result_for(hint).encode(value)
    assert says in refused.value.message
    assert refused.value.path == path
    assert isinstance(refused.value, TailraceError)


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, "\ud800", endless(), 1j])
def test_a_result_without_a_json_form_is_refused(value: Any) -> None:
    def fn(): ...

    for result in (result_of(fn), result_for(list[Any])):
        with pytest.raises(InvalidResult, match="has no JSON form"):
            result.encode(value)


def test_an_asynchronous_generator_gives_the_list_of_its_items() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def sums() -> AsyncGenerator[Sum, None]:
        yield Sum(1)

    async def anything():
        yield 1

    schema = result_of(numbers).schema
    assert schema is not None
    assert schema["properties"]["result"] == {"type": "array", "items": {"type": "integer"}}
    assert json.loads(result_of(sums).encode([Sum(1)])) == {"result": [{"total": 1, "terms": []}]}
    assert result_of(anything).schema is None


def test_an_asynchronous_generator_says_what_it_yields() -> None:
    async def wrong() -> list[int]:  # type: ignore[misc]
        yield 1

    with pytest.raises(DefinitionError, match=r"wrong\(\) at .*returns AsyncIterator\[T\], not list\[int\]"):
        result_of(wrong)


def unsupported() -> complex: ...  # type: ignore[empty-body]
def two_objects() -> Sum | Node: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("fn", [unsupported, two_objects])
def test_a_return_type_without_a_json_form_is_refused(fn: Callable[..., Any]) -> None:
    with pytest.raises(DefinitionError, match=rf"{fn.__name__}\(\) at .*test_results.py:\d+: the return annotation"):
        result_of(fn)


HINTS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    str: st.text(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    list[int | None]: st.lists(st.integers() | st.none()),
    dict[str, list[str]]: st.dictionaries(st.text(), st.lists(st.text())),
    tuple[str, int]: st.tuples(st.text(), st.integers()),
    frozenset[int]: st.frozensets(st.integers()),
    Colour: st.sampled_from(Colour),
    Sum: st.builds(Sum, st.integers(), st.lists(st.integers())),
    Node: st.recursive(st.builds(Node, st.text()), lambda inner: st.builds(Node, st.text(), st.lists(inner))),
    datetime.datetime: st.datetimes(),
    decimal.Decimal: st.decimals(allow_nan=False, allow_infinity=False),
}
RESULTS = {hint: result_for(hint) for hint in HINTS}
VALIDATORS = {hint: jsonschema_rs.Draft202012Validator(result.schema) for hint, result in RESULTS.items()}


@given(st.data())
def test_whatever_is_encoded_fits_the_schema(data: st.DataObject) -> None:
    hint = data.draw(st.sampled_from(list(HINTS)))
    value = data.draw(st.one_of(*HINTS.values()))
    try:
        encoded = RESULTS[hint].encode(value)
    except InvalidResult:
        assert not isinstance(hint, type) or not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    else:
        VALIDATORS[hint].validate(json.loads(encoded))
