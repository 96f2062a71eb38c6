"""What a function takes, as its callers see it: the schema, the arguments it is called with, and the complaints."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import pathlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import Context, DefinitionError, TailraceError
from tailrace.schema import Arguments, InvalidArguments, arguments_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(msgspec.Struct):
    item: str
    qty: Annotated[int, msgspec.Meta(ge=1)] = 1


@dataclass
class Order:
    lines: list[Line]
    colour: Colour = Colour.RED
    notes: list[str] = field(default_factory=list)


class Options(TypedDict):
    speed: int
    name: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("Must be even")


def complaint(arguments: Arguments, value: Any) -> str:
    """The message that `value` gets, after checking that the schema refuses it too where it can."""
    with pytest.raises(InvalidArguments) as refused:
        arguments.decode(value if isinstance(value, bytes) else json.dumps(value).encode())
    return refused.value.message


def property_of(hint: Any) -> dict[str, Any]:
    def fn(x): ...

    fn.__annotations__["x"] = hint
    schema = arguments_of(fn).schema
    jsonschema_rs.meta.validate(schema)
    return schema["properties"]["x"]


# --- the schema ---------------------------------------------------------------------------------


def test_the_schema_lists_arguments_in_order_of_declaration_and_refuses_others() -> None:
    def place(item: str, zeal: float, qty: int = 1, *, also: bool = False): ...

    schema = arguments_of(place).schema
    assert schema == {
        "type": "object",
        "properties": {
            "item": {"type": "string"},
            "zeal": {"type": "number"},
            "qty": {"type": "integer", "default": 1},
            "also": {"type": "boolean", "default": False},
        },
        "required": ["item", "zeal"],
        "additionalProperties": False,
    }
    assert list(schema["properties"]) == ["item", "zeal", "qty", "also"]


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    def now(): ...

    arguments = arguments_of(now)
    assert arguments.schema == {"type": "object", "properties": {}, "additionalProperties": False}
    assert arguments.decode(b"{}") == {}
    assert complaint(arguments, {"a": 1}) == "unknown argument 'a'"


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Any, {}),
        (object, {}),
        (None, {"type": "null"}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Literal["b", "a"], {"enum": ["a", "b"]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (bytes, {"type": "string", "contentEncoding": "base64"}),
        (datetime.date, {"type": "string", "format": "date"}),
        (uuid.UUID, {"type": "string", "format": "uuid"}),
        (decimal.Decimal, {"type": "string", "format": "decimal"}),
        (pathlib.Path, {"type": "string", "format": "path"}),
        (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
        (Annotated[int, msgspec.Meta(ge=1, lt=9)], {"type": "integer", "minimum": 1, "exclusiveMaximum": 9}),
        (
            Annotated[str, msgspec.Meta(extra_json_schema={"x-mcp-header": "Region"})],
            {"type": "string", "x-mcp-header": "Region"},
        ),
    ],
    ids=str,
)
def test_a_type_has_its_schema(hint: Any, expected: dict[str, Any]) -> None:
    assert property_of(hint) == expected


@pytest.mark.parametrize("hint", [Order, Line, Options, Point, Colour, list[Order], dict[str, Line], Order | None])
def test_the_schema_of_a_made_type_is_valid_and_complete(hint: Any) -> None:
    property_of(hint)  # a reference that leads nowhere makes the validator fail:

    def fn(x: Any): ...

    fn.__annotations__["x"] = hint
    jsonschema_rs.Draft202012Validator(arguments_of(fn).schema)


def test_an_unannotated_parameter_takes_anything() -> None:
    def fn(x): ...

    assert arguments_of(fn).schema["properties"] == {"x": {}}
    assert arguments_of(fn).decode(b'{"x": [1, null]}') == {"x": [1, None]}


def test_descriptions_come_from_the_docstring_unless_the_hint_has_one() -> None:
    def fn(a: int, b: Annotated[int, "from the hint"], c: Order, d: Annotated[str, "text"] | None = None):
        """Do it.

        Args:
            a: From the docstring.
            b: Not seen.
            c: The order.
        """

    properties = arguments_of(fn).schema["properties"]
    assert [one["description"] for one in properties.values()] == [
        "From the docstring.",
        "from the hint",
        "The order.",
        "text",
    ]


def test_a_default_without_a_json_form_stays_out_of_the_schema() -> None:
    nothing: Any = object()

    def fn(a: Any = nothing, b: Order = Order([]), c: Colour = Colour.BLUE): ...  # noqa: B008

    arguments = arguments_of(fn)
    assert "default" not in arguments.schema["properties"]["a"]
    assert arguments.schema["properties"]["b"]["default"] == {"lines": [], "colour": "red", "notes": []}
    assert arguments.schema["properties"]["c"]["default"] == "blue"
    assert arguments.decode(b"{}")["a"] is nothing


# --- decoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [None, b"", b"{}", b"null", b" null ", msgspec.Raw(b"{}"), msgspec.Raw(b"null")])
def test_no_arguments_can_be_said_in_several_ways(raw: Any) -> None:
    def fn(a: int = 1): ...

    assert arguments_of(fn).decode(raw) == {"a": 1}


def test_arguments_arrive_as_the_types_they_are_declared_with() -> None:
    def fn(order: Order, when: datetime.datetime, point: Point, path: pathlib.PurePosixPath, options: Options): ...

    arguments = arguments_of(fn)
    given = {
        "order": {"lines": [{"item": "tea"}], "colour": "blue"},
        "when": "2026-11-21T10:00:00Z",
        "point": [3],
        "path": "a/b",
        "options": {"speed": 3},
    }
    jsonschema_rs.validate(arguments.schema, given)
    assert arguments.decode(msgspec.Raw(json.dumps(given).encode())) == {
        "order": Order([Line("tea", 1)], Colour.BLUE, []),
        "when": datetime.datetime(2026, 11, 21, 10, tzinfo=datetime.UTC),
        "point": Point(3, 0),
        "path": pathlib.PurePosixPath("a/b"),
        "options": {"speed": 3},
    }


def test_big_integers_stay_exact() -> None:
    def fn(n: int, any): ...

    assert arguments_of(fn).decode(b'{"n": 123456789012345678901, "any": 9007199254740993}') == {
        "n": 123456789012345678901,
        "any": 9007199254740993,
    }


def test_a_mutable_default_is_new_for_each_call() -> None:
    def fn(tags: list[str] = ["a"]): ...  # noqa: B006

    arguments = arguments_of(fn)
    arguments.decode(None)["tags"].append("b")
    assert arguments.decode(None) == {"tags": ["a"]}


def test_a_default_of_none_admits_none() -> None:
    def fn(a: str = None, b: Annotated[int, msgspec.Meta(ge=1)] = None, c: None = None): ...  # noqa: RUF013

    arguments = arguments_of(fn)
    assert arguments.decode(b'{"a": null, "b": null, "c": null}') == {"a": None, "b": None, "c": None}
    assert complaint(arguments, {"b": 0}) == "argument 'b': expected int >= 1"


def test_the_context_is_no_argument() -> None:
    def first(ctx: Context, a: int): ...
    def last(a: int, *, ctx: Context | None = None): ...
    def skipped(a: int, owner: object): ...

    for arguments in (arguments_of(first), arguments_of(last), arguments_of(skipped, skip=frozenset({"owner"}))):
        assert arguments.names == ("a",)
        assert arguments.decode(b'{"a": 1}') == {"a": 1}
        assert "unknown argument" in complaint(arguments, {"a": 1, "ctx": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ORDERS = st.fixed_dictionaries(
    {"order": st.fixed_dictionaries({"lines": st.lists(st.fixed_dictionaries({"item": st.text(), "qty": JSON}))})},
    optional={"mode": JSON | st.sampled_from(["fast", "slow"]), "limit": JSON, "tags": st.lists(JSON, max_size=2)},
)


def buy(order: Order, mode: Literal["fast", "slow"] = "fast", limit: int | None = None, tags: list[str] = []): ...  # noqa: B006


BUY = arguments_of(buy)
BUY_SCHEMA = jsonschema_rs.Draft202012Validator(BUY.schema)


@given(JSON | ORDERS)
def test_what_the_schema_refuses_is_refused_and_what_is_taken_the_schema_admits(value: Any) -> None:
    refusal = refused(json.dumps(value).encode())
    if refusal is None:
        assert value is None or BUY_SCHEMA.is_valid(value)
    else:
        assert not BUY_SCHEMA.is_valid(value) or holds_a_whole_float(value)
        assert len(refusal) < 1000


def refused(raw: bytes) -> str | None:
    try:
        BUY.decode(raw)
    except InvalidArguments as error:
        return error.message
    return None


def holds_a_whole_float(value: Any) -> bool:
    """JSON Schema calls 1.0 an integer; here it is a float, as a client that writes it so means it."""
    if isinstance(value, list | dict):
        return any(map(holds_a_whole_float, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_complained_about(raw: bytes) -> None:
    assert refused(raw) != ""


# --- complaints ---------------------------------------------------------------------------------


def place(item: str, qty: Annotated[int, msgspec.Meta(ge=1)] = 1, order: Order | None = None): ...


@pytest.mark.parametrize(
    ("given_value", "message", "path"),
    [
        ({}, "missing required argument 'item'", "item"),
        ({"itm": "tea"}, "unknown argument 'itm'; did you mean 'item'?", "itm"),
        ({"item": "tea", "zzz": 1}, "unknown argument 'zzz'", "zzz"),
        ({"item": 1}, "argument 'item': expected str, got int", "item"),
        ({"item": "tea", "qty": "3"}, "argument 'qty': expected int, got str", "qty"),
        ({"item": "tea", "qty": 0}, "argument 'qty': expected int >= 1", "qty"),
        ({"item": "tea", "qty": True}, "argument 'qty': expected int, got bool", "qty"),
        ({"item": "tea", "order": {}}, "argument 'order': missing required field 'lines'", "order.lines"),
        ({"item": "tea", "order": 3}, "argument 'order': expected object | null, got int", "order"),
        (
            {"item": "tea", "order": {"lines": [{"item": "a"}, {"item": "b", "qty": "x"}]}},
            "argument 'order.lines[1].qty': expected int, got str",
            "order.lines[1].qty",
        ),
        (
            {"item": "tea", "order": {"lines": [], "colour": "green"}},
            "argument 'order.colour': expected one of 'blue', 'red', got 'green'",
            "order.colour",
        ),
        ([], "arguments must be an object, got array", ""),
        ("tea", "arguments must be an object, got str", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_complaint_names_the_argument_and_what_was_expected(given_value: Any, message: str, path: str) -> None:
    arguments = arguments_of(place)
    assert complaint(arguments, given_value) == message
    assert not jsonschema_rs.is_valid(arguments.schema, given_value)
    with pytest.raises(InvalidArguments) as refused:
        arguments.decode(json.dumps(given_value).encode())
    assert refused.value.path == path
    assert isinstance(refused.value, TailraceError)


def test_broken_json_is_complained_about() -> None:
    arguments = arguments_of(place)
    assert complaint(arguments, b'{"item":').startswith("arguments are not valid JSON")
    assert complaint(arguments, b'{"item":"\xff"}').startswith("arguments are not valid JSON")
    assert complaint(arguments, b'{"item":"a"} x').startswith("arguments are not valid JSON")


def test_deep_nesting_is_complained_about() -> None:
    def fn(x): ...

    assert complaint(arguments_of(fn), b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}") == (
        "arguments are nested too deeply"
    )


def test_a_complaint_repeats_only_a_little_of_what_was_sent() -> None:
    def fn(c: Colour = Colour.RED, d: dict[str, int] = {}): ...  # noqa: B006

    arguments = arguments_of(fn)
    assert len(complaint(arguments, {"x" * 10_000: 1})) < 200
    assert len(complaint(arguments, {"c": "x" * 10_000})) < 200
    assert len(complaint(arguments, {"d": {"x" * 10_000: "y"}})) < 200
    assert len(complaint(arguments, {"x - at `$.d`" * 1000: 1})) < 400


def test_choices_are_listed_also_inside_lists_tuples_and_dicts() -> None:
    def fn(
        many: list[Colour] = [],  # noqa: B006
        pair: tuple[int, Colour] = (1, Colour.RED),
        named: dict[str, Literal["x"]] = {},  # noqa: B006
        mixed: Literal["auto"] | int = "auto",
    ): ...

    arguments = arguments_of(fn)
    assert complaint(arguments, {"many": ["q"]}) == "argument 'many[0]': expected one of 'blue', 'red', got 'q'"
    assert complaint(arguments, {"pair": [1, "q"]}) == "argument 'pair[1]': expected one of 'blue', 'red', got 'q'"
    assert complaint(arguments, {"named": {"k": "q"}}) == "argument 'named[...]': expected 'x', got 'q'"
    assert complaint(arguments, {"mixed": "q"}) == "argument 'mixed': expected one of 'auto', int, got 'q'"


def test_a_key_that_does_not_fit_is_named_as_a_key() -> None:
    def fn(counts: dict[int, int]): ...

    assert complaint(arguments_of(fn), {"counts": {"x": 1}}) == "argument 'counts': expected int, got str as a key"


def test_what_a_type_itself_refuses_is_the_complaint() -> None:
    def fn(even: Even, path: pathlib.Path = pathlib.Path()): ...

    arguments = arguments_of(fn)
    assert complaint(arguments, {"even": {"number": 3}}) == "argument 'even': must be even"
    assert complaint(arguments, {"even": {"number": 2}, "path": 1}) == "argument 'path': expected str, got int"


# --- definitions that cannot work ---------------------------------------------------------------


def star(*items: int): ...
def double_star(**items: int): ...
def positional(a: int, /): ...
def unsupported(a: int, b: complex): ...
def two_objects(a: Line | Order): ...
def two_contexts(a: Context, b: Context): ...
def nonsense(a: Annotated[str, msgspec.Meta(ge=1)]): ...


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (star, "*items has no name"),
        (double_star, "**items has no schema"),
        (positional, "parameter 'a' is positional-only"),
        (unsupported, "parameter 'b': type complex has no JSON form"),
        (two_objects, "parameter 'a': Type unions may not contain more than one dict-like type"),
        (two_contexts, "'a' and 'b' both take the Context"),
        (nonsense, "parameter 'a': Can only set `ge` on a numeric type"),
    ],
)
def test_a_definition_that_cannot_work_is_refused_with_its_place(fn: Callable[..., Any], says: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        arguments_of(fn)
    assert says in str(refused.value)
    assert f"{fn.__name__}() at " in str(refused.value)
    assert f"test_arguments.py:{fn.__code__.co_firstlineno}" in str(refused.value)


def test_a_whole_number_with_a_fraction_of_zero_is_an_integer() -> None:
    """As JSON Schema has it, which is what clients are shown."""

    def takes(n: int, x: float, text: str, many: list[int], any: Any = None) -> None: ...

    arguments = arguments_of(takes)
    raw = b'{"n":1.0,"x":2.0,"text":"3.0, \\"4.0,","many":[-5.00, 6],"any":7.5}'
    assert arguments.decode(raw) == {"n": 1, "x": 2.0, "text": '3.0, "4.0,', "many": [-5, 6], "any": 7.5}
    assert arguments.decode(msgspec.Raw(raw))["n"] == 1
    for wrong in (b"1.5", b'"1.0"', b"1.01", b"true"):
        with pytest.raises(InvalidArguments, match="argument 'n': expected int"):
            arguments.decode(b'{"n":%b,"x":2,"text":"a","many":[1.0]}' % wrong)
