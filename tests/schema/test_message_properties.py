"""Whatever bytes come in, a message type gives a value or `InvalidMessage`; whatever value went out comes back."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tailrace.schema import converters, messages, protobuf
from tailrace.schema.json_converters import NotPlain
from tailrace.schema.messages import InvalidMessage, MessageType, message_type
from tests.schema.test_python_messages import MANY, SCALARS, Choices, Defaults, Dog, Herd, Line, Many, Model, Scalars


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclasses.dataclass
class Leaf:
    text: str
    number: int
    ratio: float
    raw: bytes
    level: Level
    at: datetime.datetime
    took: datetime.timedelta
    free: Any
    names: list[str]
    by_name: dict[str, int]
    note: str | None = None
    count: int = 7
    leaves: list[Leaf] = dataclasses.field(default_factory=list)


EXTENSION = re.compile(rb'"\[[^"]*\]":')
INT64 = st.integers(-(2**63), 2**63 - 1)
EXACT = st.integers(-(2**53), 2**53)
PLAIN = st.recursive(
    st.none() | st.booleans() | EXACT | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
MOMENTS = st.datetimes(timezones=st.just(datetime.UTC))
SPANS = st.timedeltas(datetime.timedelta(days=-3_000_000), datetime.timedelta(days=3_000_000))
LEAVES = st.recursive(
    st.just([]),
    lambda inner: st.lists(
        st.builds(
            Leaf, st.text(), INT64, st.floats(allow_nan=False), st.binary(), st.sampled_from(Level), MOMENTS, SPANS,
            PLAIN, st.lists(st.text()), st.dictionaries(st.text(), INT64), st.none() | st.text(), INT64, inner,
        ),
        max_size=2,
    ),
    max_leaves=4,
)  # fmt: skip
KIND = message_type(list[Leaf])


@given(LEAVES)
def test_what_went_out_comes_back(leaves: list[Leaf]) -> None:
    assert KIND.from_proto(KIND.to_proto(leaves)) == leaves


@given(LEAVES)
def test_what_went_out_as_json_comes_back(leaves: list[Leaf]) -> None:
    assert KIND.from_json(KIND.to_json(leaves)) == leaves


KINDS = [message_type(hint) for hint in (Scalars, Many, Choices, Defaults, Herd, Model, list[Leaf], Any, None)]
SEEDS = [
    message_type(Scalars).to_proto(SCALARS),
    message_type(Many).to_proto(MANY),
    message_type(Choices).to_proto(Choices(Dog("x"), "y")),
    message_type(Line).to_proto(Line("a", 300)),
]


def read(parse: Callable[[bytes], Any], data: bytes) -> list[Any]:
    """The value, if it is one; a refusal says something."""
    refusal = ""
    try:
        return [parse(data)]
    except InvalidMessage as error:
        refusal = str(error)
    assert 5 < len(refusal) < 600
    return []


def typed(value: Any) -> Any:
    """A value with all its types, for comparing: 1 is not 1.0; the order of a dict means nothing."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [typed(inner) for inner in value]
    if dataclasses.is_dataclass(value):
        return type(value), {field.name: typed(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return type(value), repr(value)


def damaged(seed: bytes, at: int, new: bytes, cut: int) -> bytes:
    at = at % (len(seed) + 1)
    return seed[:at] + new + seed[at + cut :]


DAMAGED = st.builds(damaged, st.sampled_from(SEEDS), st.integers(0, 500), st.binary(max_size=4), st.integers(0, 5))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(data=st.binary() | DAMAGED)
def test_any_bytes_are_a_message_or_are_refused(kind: MessageType, data: bytes) -> None:
    for value in read(kind.from_proto, data):
        kind.from_proto(kind.to_proto(value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["result", "text", "number", "level", "at", "took", "raw", "free", "pet", "cat", "howMany",
                         "children", "lines", "byName", "names", "qty", "x"]) | st.text(max_size=3), inner, max_size=5
    ),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(data=JSON)
def test_any_json_is_a_message_or_is_refused(kind: MessageType, data: Any) -> None:
    for value in read(kind.from_json, msgspec.json.encode(data)):
        kind.to_proto(value)


# --- the short way and the long way -------------------------------------------------------------


class Never:
    """Functions that know nothing plain, so that every message goes the long way."""

    def reader(self, shape: Any) -> Any:
        return self.refuse

    writer = reader

    def refuse(self, value: Any) -> Any:
        raise NotPlain


class Only:
    """Stands for protobuf's own JSON, where a message is to do without."""

    def __call__(self, cls: Any) -> Any:
        def refuse(message: Any) -> Any:
            raise AssertionError("this went the long way")

        return refuse


HINTS: list[Any] = [Scalars, Many, Choices, Defaults, Herd, Model, list[Leaf], Any, None, int, dict[int, Line] | None]


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def the_long_way(hint: Any) -> MessageType:
    with patched(converters, "JsonConverters", Never):
        return messages._python_type.__wrapped__(hint)


def the_short_way(hint: Any) -> MessageType:
    with patched(protobuf, "from_json", Only()), patched(protobuf, "to_json", Only()):
        return messages._python_type.__wrapped__(hint)


@pytest.mark.parametrize("hint", HINTS, ids=str)
@given(data=JSON)
@example(data={"result": False})
@example(data={"result": ""})
def test_json_is_read_the_same_both_ways(hint: Any, data: Any) -> None:
    text = msgspec.json.encode(data)
    assume(not EXTENSION.search(text))  # such a member is refused the long way, and passed over the short way
    short, long = read(message_type(hint).from_json, text), read(LONG[str(hint)].from_json, text)
    assert typed(short) == typed(long)


@given(LEAVES)
def test_json_is_written_the_same_both_ways(leaves: list[Leaf]) -> None:
    long = LONG[str(list[Leaf])]
    assert msgspec.json.decode(KIND.to_json(leaves)) == msgspec.json.decode(long.to_json(leaves))
    assert long.from_json(KIND.to_json(leaves)) == KIND.from_json(long.to_json(leaves)) == leaves


@pytest.mark.parametrize(
    "value",
    [
        MANY,
        Line("a"),
        Choices(Dog("x"), 3),
        Choices(Dog("x"), "y", Dog()),
        Defaults(),
        Defaults(0, note="", tags=["a"]),
        Model(howMany=3, children=[Model(howMany=1)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_plain_goes_the_short_way(value: Any) -> None:
    kind = the_short_way(type(value))
    assert kind.from_json(kind.to_json(value)) == value


def test_what_is_left_to_protobuf_goes_the_long_way() -> None:
    kind = the_short_way(Scalars)  # it has a duration and a bytearray
    with pytest.raises(AssertionError, match="the long way"):
        kind.to_json(SCALARS)


LONG = {str(hint): the_long_way(hint) for hint in HINTS}
