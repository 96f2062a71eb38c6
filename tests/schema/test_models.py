"""pydantic models and constraints work in hints as users of pydantic expect, with the same messages as all others."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import jsonschema_rs
import msgspec
import pydantic
import pytest
from pydantic import BaseModel, Field, PositiveInt

from tailrace import DefinitionError
from tailrace.schema import InvalidArguments, InvalidResult, arguments_of, result_of


class Line(BaseModel):
    item: str
    qty: Annotated[int, Field(ge=1)] = 1


class Order(BaseModel):
    """An order."""

    lines: list[Line] = Field(description="What to buy")
    kind: str = Field("std", alias="type")


class Strict(BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    n: int

    @pydantic.field_validator("n")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("Must be even")
        return value


class Holder(msgspec.Struct):
    n: int


def place(
    order: Order,
    qty: Annotated[int, Field(ge=1, le=9, description="how many")] = 1,
    count: PositiveInt = 1,
    from_: str = Field("here", alias="from", description="where from"),
    tags: list[str] = Field(default_factory=list),  # noqa: B008
    note: str = Field(None, description="a note"),
    strict: Strict | None = None,
    holder: Holder | None = None,
    inside: Annotated[int, Field(default=7)] = 7,
): ...


ARGUMENTS = arguments_of(place)


def complaint(value: Any) -> str:
    with pytest.raises(InvalidArguments) as refused:
        ARGUMENTS.decode(json.dumps(value).encode())
    return refused.value.message


def test_the_schema_says_what_the_models_say() -> None:
    jsonschema_rs.Draft202012Validator(ARGUMENTS.schema)
    properties = ARGUMENTS.schema["properties"]
    assert list(properties) == ["order", "qty", "count", "from", "tags", "note", "strict", "holder", "inside"]
    assert properties["order"] == {"$ref": "#/$defs/Order"}
    assert properties["qty"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
        "description": "how many",
        "default": 1,
    }
    assert properties["count"]["exclusiveMinimum"] == 0
    assert properties["from"] == {"type": "string", "default": "here", "description": "where from"}
    assert properties["note"]["description"] == "a note"
    assert properties["note"]["default"] is None
    assert ARGUMENTS.schema["required"] == ["order"]
    assert set(ARGUMENTS.schema["$defs"]) == {"Order", "Line", "Strict", "Holder"}


def test_arguments_become_models_and_defaults_are_filled_in() -> None:
    given = {"order": {"lines": [{"item": "tea"}], "type": "x"}, "from": "there", "holder": {"n": 1}}
    jsonschema_rs.validate(ARGUMENTS.schema, given)
    assert ARGUMENTS.decode(json.dumps(given).encode()) == {
        "order": Order(lines=[Line(item="tea")], type="x"),
        "qty": 1,
        "count": 1,
        "from_": "there",
        "tags": [],
        "note": None,
        "strict": None,
        "holder": Holder(1),
        "inside": 7,
    }


def test_a_default_factory_makes_a_new_default_for_each_call() -> None:
    first = ARGUMENTS.decode(b'{"order": {"lines": []}}')["tags"]
    assert ARGUMENTS.decode(b'{"order": {"lines": []}}')["tags"] is not first


FITS = {"order": {"lines": []}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": {}}, "argument 'order': missing required field 'lines'"),
        ({"order": []}, "argument 'order': expected object, got array"),
        ({"order": {"lines": 3}}, "argument 'order.lines': expected array, got int"),
        ({"order": {"lines": [{"item": 1}]}}, "argument 'order.lines[0].item': expected str, got int"),
        ({"order": {"lines": [{"item": "a", "qty": 0}]}}, "argument 'order.lines[0].qty': expected int >= 1"),
        ({"qty": 10}, "argument 'qty': expected int <= 9"),
        ({"qty": "many"}, "argument 'qty': expected int, got str"),
        ({"count": 0}, "argument 'count': expected int > 0"),
        ({"from": 3}, "argument 'from': expected str, got int"),
        ({"strict": {"n": 3}}, "argument 'strict.n': must be even"),
        ({"strict": {"n": 2, "m": 1}}, "argument 'strict': unknown field 'm'"),
        ({"holder": {"n": "x"}}, "argument 'holder.n': expected int, got str"),
        ({"form": "x"}, "unknown argument 'form'; did you mean 'from'?"),
        ({"order": {"lines": [{}, {}]}}, None),
        ({"order": {"lines": [{}] * 9}}, None),
    ],
)
def test_a_complaint_reads_as_any_other(change: dict[str, Any], message: str | None) -> None:
    given = complaint({**FITS, **change})
    if message is None:
        assert given.startswith("argument 'order.lines[0]': missing required field 'item'; argument 'order.lines[1]'")
        assert given.endswith("and 4 more") == (len(change["order"]["lines"]) > 5)
    else:
        assert given == message
        assert not jsonschema_rs.is_valid(ARGUMENTS.schema, {**FITS, **change}) or "even" in message


def test_a_missing_argument_is_named() -> None:
    assert complaint({}) == "missing required argument 'order'"


def test_no_warning_comes_from_reading_a_function() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments_of(place)


# --- results ------------------------------------------------------------------------------------


def test_a_model_goes_out_by_its_aliases_and_fits_its_schema() -> None:
    def fn() -> Order: ...

    result = result_of(fn)
    assert not result.wrapped
    assert result.schema is not None
    for value in (Order(lines=[Line(item="a")]), {"lines": [{"item": "a"}]}):
        encoded = json.loads(result.encode(value))
        assert encoded == {"lines": [{"item": "a", "qty": 1}], "type": "std"}
        jsonschema_rs.validate(result.schema, encoded)


def test_a_list_of_models_goes_out_wrapped() -> None:
    def fn() -> list[Line]: ...

    result = result_of(fn)
    assert result.schema is not None
    encoded = json.loads(result.encode([Line(item="a")]))
    assert encoded == {"result": [{"item": "a", "qty": 1}]}
    jsonschema_rs.validate(result.schema, encoded)


def test_a_model_that_is_not_declared_goes_out_all_the_same() -> None:
    def fn(): ...

    assert json.loads(result_of(fn).encode(Order(lines=[]))) == {"lines": [], "type": "std"}


def test_a_result_that_does_not_fit_is_refused() -> None:
    def fn() -> Order: ...

    changed = Order(lines=[])
    changed.lines = 3  # type: ignore[assignment]
    for value, says in [
        ({"lines": 3}, "at result.lines: expected array, got int"),
        (None, "at result: expected object, got null"),
        (changed, "at result: "),
    ]:
        with pytest.raises(InvalidResult, match=says):
            result_of(fn).encode(value)


# --- definitions --------------------------------------------------------------------------------


def test_types_of_the_same_name_are_told_apart() -> None:
    def theirs() -> Any:
        class Holder(BaseModel):
            m: int

        return Holder

    model = theirs()

    def fn(a: Holder, b: model, c: list[model]): ...  # type: ignore[valid-type]

    schema = arguments_of(fn).schema
    validator = jsonschema_rs.Draft202012Validator(schema)
    assert len(schema["$defs"]) == 2
    assert validator.is_valid({"a": {"n": 1}, "b": {"m": 1}, "c": [{"m": 1}]})
    assert not validator.is_valid({"a": {"n": 1}, "b": {"n": 1}, "c": []})


def test_what_pydantic_cannot_read_is_refused_with_its_place() -> None:
    class Button(BaseModel):
        press: Callable[[], None]

    def mixed(a: dict[str, Line | Holder]): ...
    def calls(a: Line, b: Button): ...

    with pytest.raises(DefinitionError, match=r"mixed\(\) at .*test_models.py:\d+: parameter 'a': "):
        arguments_of(mixed)
    with pytest.raises(DefinitionError, match=r"calls\(\) at .*test_models.py:\d+: "):
        arguments_of(calls)


def test_pydantic_is_not_loaded_where_it_is_not_used() -> None:
    program = (
        "import sys\n"
        "from tailrace import Service\n"
        "svc = Service('s')\n"
        "@svc.tool\n"
        "def add(a: int) -> int: return a\n"
        "svc.tools['add'].bind(b'{\"a\": 1}')\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
