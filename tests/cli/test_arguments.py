"""Words on the command line become arguments of the types that the tool's schema asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.cli.arguments import ArgumentError, parse_arguments

FILES = {
    "letter.txt": "dear all\n",
    "all.json": '{"item": "milk", "qty": 7}',
    "-": "from a pipe",
    "lines": '[{"n": 1}]',
}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "item": {"type": "string"},
        "qty": {"type": "integer"},
        "weight": {"type": "number"},
        "dry": {"type": "boolean"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "limit": {"type": ["integer", "null"]},
        "colour": {"enum": ["red", "green", 3]},
        "kind": {"const": "big"},
        "tag": {"type": "array", "items": {"type": "string"}},
        "sizes": {"type": "array", "items": {"type": "integer"}},
        "to": {"$ref": "#/$defs/Address"},
        "maybe": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}]},
        "extra": {"type": "object", "additionalProperties": {"type": "integer"}},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "flag": {"anyOf": [{"type": "boolean"}, {"type": "integer"}]},
        "any": {},
        "dotted.name": {"type": "integer"},
    },
    "$defs": {
        "Address": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "zip": {"type": "integer"}, "next": {"$ref": "#/$defs/Address"}},
        }
    },
}


def parse(*words: str, schema: dict[str, Any] = SCHEMA) -> dict[str, Any]:
    def read(name: str) -> str:
        if name not in FILES:
            raise ArgumentError(f"cannot read {name!r}")
        return FILES[name]

    return parse_arguments(words, schema, read)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("item=5", {"item": "5"}),
        ("item=", {"item": ""}),
        ("item=a=b", {"item": "a=b"}),
        ("item=true", {"item": "true"}),
        ("qty=5", {"qty": 5}),
        ("qty=-5", {"qty": -5}),
        ("qty=123456789012345678901234567890", {"qty": 123456789012345678901234567890}),
        ("weight=5", {"weight": 5}),
        ("weight=1e3", {"weight": 1000.0}),
        ("dry=true", {"dry": True}),
        ("dry=No", {"dry": False}),
        ("dry=1", {"dry": True}),
        ("note=hello", {"note": "hello"}),
        ("note=null", {"note": None}),
        ("limit=null", {"limit": None}),
        ("limit=3", {"limit": 3}),
        ("colour=red", {"colour": "red"}),
        ("colour=3", {"colour": 3}),
        ("kind=big", {"kind": "big"}),
        ("tag=a", {"tag": ["a"]}),
        ('tag=["a", "b"]', {"tag": ["a", "b"]}),
        ("sizes=4", {"sizes": [4]}),
        ("to.city=Ghent", {"to": {"city": "Ghent"}}),
        ("to.city=9000", {"to": {"city": "9000"}}),
        ("to.zip=9000", {"to": {"zip": 9000}}),
        ("to.next.next.zip=1", {"to": {"next": {"next": {"zip": 1}}}}),
        ("maybe.zip=1", {"maybe": {"zip": 1}}),
        ("maybe=null", {"maybe": None}),
        ('to={"city": "Ghent"}', {"to": {"city": "Ghent"}}),
        ("extra.a=1", {"extra": {"a": 1}}),
        ("either=7", {"either": 7}),
        ("either=seven", {"either": "seven"}),
        ("flag=1", {"flag": 1}),
        ("flag=yes", {"flag": True}),
        ("any=5", {"any": 5}),
        ("any=five", {"any": "five"}),
        ("unknown=5", {"unknown": 5}),
        ("dotted.name=5", {"dotted.name": 5}),
        ("qty:=[1]", {"qty": [1]}),
        ("item=@letter.txt", {"item": "dear all\n"}),
        ("item=@-", {"item": "from a pipe"}),
        ("any:=@lines", {"any": [{"n": 1}]}),
        ('item:="@letter.txt"', {"item": "@letter.txt"}),
        ("@all.json", {"item": "milk", "qty": 7}),
        ('{"item": "tea"}', {"item": "tea"}),
    ],
)
def test_a_word_becomes_a_typed_argument(word: str, value: dict[str, Any]) -> None:
    got = parse(word)
    assert got == value
    assert json.dumps(got) == json.dumps(value)  # True is not 1 here, nor 5 5.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tea"], "is no argument"),
        (["=tea"], "is no argument"),
        ([":=1"], "is no argument"),
        (["qty=five"], "qty=five: expected an integer"),
        (["qty=1.5"], "expected an integer"),
        (["qty="], "expected an integer"),
        (["weight=nan"], "expected a number"),
        (["weight=heavy"], "expected a number"),
        (["dry=maybe"], "expected true or false"),
        (["colour=blue"], 'expected "red" or "green" or 3'),
        (["limit=x"], "expected an integer or null"),
        (["sizes=x"], "expected an integer"),
        (["tag=[1"], "not valid JSON"),
        (["to=Ghent"], "not valid JSON"),
        (["to=5"], "expected a JSON object"),
        (["qty:=five"], "not valid JSON"),
        (["{"], "not valid JSON"),
        (["@nowhere"], "cannot read 'nowhere'"),
        (["qty=1", "qty=2"], "'qty' is given twice"),
        (["@all.json", "qty=2"], "'qty' is given twice"),
        (["any=1", "any.b=2"], "was given another value before"),
        (["to..city=x"], "is no name of an argument"),
    ],
)
def test_a_word_that_does_not_fit_is_refused_with_its_reason(words: list[str], said: str) -> None:
    with pytest.raises(ArgumentError, match="(?s)" + said.replace("(", r"\(")):
        parse(*words)


def test_a_list_is_given_one_by_one_and_nested_values_meet() -> None:
    assert parse("tag=a", "tag=b", "to.city=Ghent", "to.zip=9000", '{"qty": 2}') == {
        "tag": ["a", "b"],
        "to": {"city": "Ghent", "zip": 9000},
        "qty": 2,
    }


def test_a_schema_that_refers_to_itself_for_ever_is_survived() -> None:
    loop = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert parse("a=1", schema=loop) == {"a": 1}


@given(st.lists(st.text(max_size=12), max_size=4))
def test_any_words_give_arguments_or_a_clear_error(words: list[str]) -> None:
    try:
        json.dumps(parse(*words))
    except ArgumentError as error:
        said = str(error)
    else:
        said = "understood"
    assert said
