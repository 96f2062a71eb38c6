"""Messages of Python types: what they are in protobuf, values to bytes and back, and what is refused."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

from tailrace.errors import DefinitionError
from tailrace.schema.messages import InvalidMessage, MessageType, message_type
from tailrace.schema.shapes import FieldNumber

UTC = datetime.UTC
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    LARGE = 5
    NONE = 0


class Plain(enum.Enum):
    A = 3


@dataclasses.dataclass
class Line:
    sku: str
    qty: int = 1


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree] = dataclasses.field(default_factory=list)
    left: Tree | None = None


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag="hound"):
    name: str = "rex"


class Renamed(msgspec.Struct, rename="camel"):
    given_name: str


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Model(pydantic.BaseModel):
    count: Annotated[int, pydantic.Field(gt=0)] = pydantic.Field(alias="howMany")
    children: list[Model] = []


class Cow(pydantic.BaseModel):
    name: str


class Sheep(pydantic.BaseModel):
    name: str


class Herd(pydantic.BaseModel):
    animals: list[Cow | Sheep]


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


class Point(NamedTuple):
    x: float
    y: float
    label: str | None = None


@dataclasses.dataclass
class Scalars:
    flag: bool
    number: int
    ratio: float
    text: str
    raw: bytes
    changeable: bytearray
    at: datetime.datetime
    took: datetime.timedelta
    day: datetime.date
    hour: datetime.time
    key: uuid.UUID
    price: decimal.Decimal
    path: pathlib.PurePosixPath
    mode: Literal["r", "w"]
    level: Literal[1, 2]
    colour: Colour
    size: Size
    anything: Any


SCALARS = Scalars(
    flag=True,
    number=-(2**63),
    ratio=0.1,
    text="ä\0",
    raw=b"\xff\0",
    changeable=bytearray(b"x"),
    at=datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
    took=datetime.timedelta(seconds=-1.5),
    day=datetime.date(2024, 2, 29),
    hour=datetime.time(23, 59, 1),
    key=uuid.UUID(int=7),
    price=decimal.Decimal("1.50"),
    path=pathlib.PurePosixPath("/a/b"),
    mode="w",
    level=2,
    colour=Colour.BLUE,
    size=Size.NONE,
    anything={"a": [1, 2.5, None, True, "x", {}], "b": []},
)


@dataclasses.dataclass
class Many:
    names: list[str]
    lines: Sequence[Line]
    sizes: set[int]
    fixed: tuple[str, ...]
    by_name: dict[str, int]
    by_number: dict[int, Line]
    free: dict[str, Any]
    nested: list[list[int]]
    maybe: list[int | None]
    lists: dict[str, list[Line]]
    colours: list[Colour]
    days: list[datetime.date]
    pets: list[Cat | Dog]
    anything: list[Any]


MANY = Many(
    names=["a", ""],
    lines=[Line("x"), Line("y", 0)],
    sizes={3, 1},
    fixed=("a",),
    by_name={"": 0, "b": 2},
    by_number={-1: Line("z")},
    free={"deep": {"er": [1]}},
    nested=[[1, 2], []],
    maybe=[0, None, 3],
    lists={"k": [Line("q")], "none": []},
    colours=[Colour.BLUE, Colour.RED],
    days=[datetime.date(2020, 1, 1)],
    pets=[Dog(), Cat(9)],
    anything=[None, 1, {"a": 1}],
)


@dataclasses.dataclass
class Choices:
    pet: Cat | Dog
    either: int | str
    perhaps: Cat | Dog | None = None


@dataclasses.dataclass
class Defaults:
    qty: int = 7
    colour: Colour = Colour.BLUE
    line: Line = dataclasses.field(default_factory=lambda: Line("default"))
    note: str | None = None
    tags: list[str] = dataclasses.field(default_factory=list)
    more: list[str] | None = None


def fields_of(kind: MessageType) -> dict[str, int]:
    return {field.name: field.number for field in kind.descriptor.fields}


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Scalars, SCALARS),
        (Many, MANY),
        (Line, Line("a", 0)),
        (Tree, Tree(1, [Tree(2), Tree(3, [Tree(4)])], Tree(5))),
        (Choices, Choices(Dog("x"), 3)),
        (Choices, Choices(Cat(0), "three", Dog())),
        (Defaults, Defaults()),
        (Defaults, Defaults(0, Colour.RED, Line(""), "", ["a"], ["b"])),
        (Renamed, Renamed("x")),
        (Page[Line], Page([Line("a")])),
        (Model, Model(howMany=3, children=[Model(howMany=1)])),
        (Herd, Herd(animals=[Sheep(name="a"), Cow(name="a")])),
        (Typed, {"a": 1}),
        (Typed, {"a": 0, "b": ""}),
        (Point, Point(1.0, 2.0)),
        (int, 0),
        (str, "x"),
        (float, float("inf")),
        (bytes, b"\x00"),
        (list[Line], [Line("a")]),
        (list[int], []),
        (dict[str, Any], {"a": None}),
        (Line | None, None),
        (Line | None, Line("")),
        (int | None, 0),
        (int | None, None),
        (list[Line] | None, None),
        (Cat | Dog, Cat(3)),
        (Colour, Colour.RED),
        (datetime.datetime, datetime.datetime(2024, 1, 1, tzinfo=UTC)),
        (list[Model], [Model(howMany=3)]),
        (Any, [1, {"a": "b"}]),
        (None, None),
    ],
)
def test_a_value_comes_back_as_it_was(hint: Any, value: Any) -> None:
    kind = message_type(hint)
    for write, read in ((kind.to_proto, kind.from_proto), (kind.to_json, kind.from_json)):
        back = read(write(value))
        assert back == value
        assert type(back) is type(value)


def test_none_in_a_nullable_list_and_an_empty_one_are_the_same_on_the_wire() -> None:
    kind = message_type(Defaults)
    assert kind.from_proto(kind.to_proto(Defaults(more=[]))).more is None


# --- what it is in protobuf ---------------------------------------------------------------------


def test_fields_are_numbered_in_order_of_declaration() -> None:
    assert fields_of(message_type(Scalars)) == {
        field.name: at for at, field in enumerate(dataclasses.fields(Scalars), 1)
    }


def test_a_number_can_be_given() -> None:
    @dataclasses.dataclass
    class Numbered:
        first: str
        third: Annotated[str, FieldNumber(2)]
        second: Annotated[int, FieldNumber(9)] = 1
        fourth: str = ""

    assert fields_of(message_type(Numbered)) == {"first": 1, "third": 2, "second": 9, "fourth": 3}


def test_presence_is_where_absent_means_something() -> None:
    fields = message_type(Defaults).descriptor.fields_by_name
    assert {name: field.has_presence for name, field in fields.items()} == {
        "qty": True, "colour": True, "line": True, "note": True, "tags": False, "more": False,
    }  # fmt: skip
    assert not message_type(Line).descriptor.fields_by_name["sku"].has_presence


def test_enums_begin_with_zero() -> None:
    @dataclasses.dataclass
    class Enums:
        colour: Colour
        size: Size
        plain: Plain

    fields = message_type(Enums).descriptor.fields_by_name
    assert [(v.name, v.number) for v in fields["colour"].enum_type.values] == [
        ("COLOUR_UNSPECIFIED", 0), ("COLOUR_RED", 1), ("COLOUR_BLUE", 2),
    ]  # fmt: skip
    assert [(v.name, v.number) for v in fields["size"].enum_type.values] == [("SIZE_NONE", 0), ("SIZE_LARGE", 5)]
    assert [v.number for v in fields["plain"].enum_type.values] == [0, 3]


def test_a_union_is_a_oneof() -> None:
    descriptor = message_type(Choices).descriptor.fields_by_name["pet"].message_type
    assert descriptor.full_name == "CatOrDog"
    assert [field.name for field in descriptor.oneofs_by_name["value"].fields] == ["cat", "dog"]


def test_json_has_protobufs_names() -> None:
    assert json.loads(message_type(Many).to_json(MANY))["byNumber"] == {"-1": {"sku": "z", "qty": "1"}}
    assert message_type(Line).from_json(b'{"sku":"a","qty":3,"later":1}') == Line("a", 3)


def test_a_request_class_needs_only_the_same_fields() -> None:
    class Place(msgspec.Struct):
        sku: str
        qty: int = 1

    assert message_type(Line).from_proto(message_type(Place).to_proto(Place("a", 2))) == Line("a", 2)


# --- what comes in ------------------------------------------------------------------------------


def test_defaults_stand_for_what_is_absent() -> None:
    assert message_type(Defaults).from_proto(b"") == Defaults()
    assert message_type(Line).from_proto(b"") == Line("", 1), "a field without a default reads as protobuf's zero"


@pytest.mark.parametrize(
    ("hint", "data", "complaint"),
    [
        (Tree, b"\xff", "no Tree in binary form"),
        (Choices, b"", "missing required field pet"),
        (Choices, b"\x0a\x00", "CatOrDog holds nothing"),
        (Colour, b"", "Result has no result"),
        (Scalars, b"", "missing required field|invalid"),
        (Model, b"\x08\x00", "> 0"),
        (list[Colour], b"\x0a\x01\x07", "7 is no Colour"),
        (Annotated[int, msgspec.Meta(le=3)], b"\x08\x04", "<= 3"),
    ],
)
def test_a_message_that_does_not_fit_is_refused_in_words(hint: Any, data: bytes, complaint: str) -> None:
    with pytest.raises(InvalidMessage, match=complaint):
        message_type(hint).from_proto(data)


def test_a_timestamp_that_python_does_not_know_is_refused() -> None:
    for kind in (message_type(datetime.datetime), message_type(datetime.timedelta)):
        with pytest.raises(InvalidMessage, match="out of range"):
            kind.from_proto(b"\x0a\x0a\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f")


# --- what goes out ------------------------------------------------------------------------------


def test_what_a_type_is_made_of_will_do() -> None:
    kind = message_type(Line)
    assert kind.from_proto(kind.to_proto({"sku": "a"})) == Line("a")
    assert message_type(list[Line]).to_proto([{"sku": "a", "qty": 1}]) == message_type(list[Line]).to_proto([Line("a")])


@pytest.mark.parametrize(
    ("hint", "value", "complaint"),
    [
        (Line, None, "expected Line, got NoneType"),
        (Line, Line(None), "field 'sku': expected str, got null"),  # type: ignore[arg-type]
        (Line, Line(3), "field 'sku': expected str, got int"),  # type: ignore[arg-type]
        (Line, Line("a", 2**63), "out of range"),
        (Line, {"sku": "a", "qty": "x"}, "field 'qty': expected int, got str"),
        (list[str], "abc", "expected array"),
        (Colour, "green", "invalid"),
        (Cat | Dog, Line("a"), "expected Result, got Line"),
        (Any, 2**60, "not exact"),
        (dict[str, Any], {"a": 2**60}, "not exact"),
        (dict[str, Any], [1], "expected object"),
        (Any, object(), "expected Result"),
        (Model, {"howMany": 0}, "greater than|> 0"),
        (str, "\ud800", "expected Result, got str"),
        (None, 3, "expected Result, got int"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_words(hint: Any, value: Any, complaint: str) -> None:
    kind = message_type(hint)
    for write in (kind.to_proto, kind.to_json):
        with pytest.raises(InvalidMessage, match=complaint):
            write(value)


def test_what_is_nested_without_end_is_refused() -> None:
    tree = Tree(1)
    tree.left = tree
    with pytest.raises(InvalidMessage):
        message_type(Tree).to_proto(tree)


# --- what has no form ---------------------------------------------------------------------------


@dataclasses.dataclass
class NullOrDefault:
    x: int | None = 3


@dataclasses.dataclass
class FullList:
    x: list[int] = dataclasses.field(default_factory=lambda: [1])


@dataclasses.dataclass
class SameInJson:
    a_b: int
    aB: int


@dataclasses.dataclass
class SameNumber:
    a: Annotated[int, FieldNumber(4)]
    b: Annotated[int, FieldNumber(4)]


@dataclasses.dataclass
class Unicode:
    größe: int


class Flags(enum.Flag):
    A = 1


class Row(NamedTuple):
    x: int = 3


def other_line() -> Any:
    @dataclasses.dataclass
    class Line:
        other: int

    return Line


@pytest.mark.parametrize(
    ("hint", "complaint"),
    [
        (tuple[int, str], "dataclass or a NamedTuple"),
        (complex, "complex"),
        (object(), "no protobuf form"),
        (NullOrDefault, "field 'x' of NullOrDefault: absent can mean None or the default 3"),
        (FullList, "default is empty"),
        (SameInJson, "same name in protobuf's JSON"),
        (SameNumber, "same field number"),
        (Unicode, "no name in protobuf"),
        (dict[float, int], "keys of Double"),
        (list[list[int] | None], "list of lists"),
        (Row, "no default but None"),
        (Literal["a", 1], "neither all strings"),
        (msgspec.Raw, "Raw"),
    ],
)
def test_what_has_no_form_is_refused_with_the_reason(hint: Any, complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        message_type(hint)


def test_two_classes_of_one_name_are_refused() -> None:
    hint = dataclasses.make_dataclass("TwoLines", [("one", Line), ("other", other_line())])
    with pytest.raises(DefinitionError, match=r"two messages would be called Line: of .*Line and .*Line; rename one"):
        message_type(hint)


def test_flags_are_refused() -> None:
    with pytest.raises(DefinitionError, match="flags Flags"):
        message_type(Flags)


@pytest.mark.parametrize("number", [0, -1, 19000, 19999, 2**29])
def test_a_field_number_is_one_of_protobufs(number: int) -> None:
    with pytest.raises(DefinitionError, match="a field number is 1 to"):
        FieldNumber(number)
