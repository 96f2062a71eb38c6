"""Arguments that are small on the wire and would cost minutes, or gigabytes, in Python are refused before that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import jsonschema_rs
import pytest
from pydantic import BaseModel, Field

from tailrace.schema import InvalidArguments, arguments_of
from tailrace.schema.given import checker


class Point(BaseModel):
    x: int
    y: int


def test_millions_of_misfits_are_counted_and_not_listed() -> None:
    def place(points: list[Point]) -> None: ...

    arguments = arguments_of(place)
    with pytest.raises(InvalidArguments) as refused:
        arguments.decode(b'{"points":[%s1]}' % (b"1," * 20_000))
    assert refused.value.message == "argument 'points': 20001 things in it do not fit"
    assert refused.value.path == "points"
    with pytest.raises(InvalidArguments, match=r"'points\[0\]': expected object, got int; .*; and 1995 more$"):
        arguments.decode(b'{"points":[%s1]}' % (b"1," * 1_999))


def test_of_a_schema_that_was_given_the_first_misfit_is_told_and_no_list_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = jsonschema_rs.validator_for

    class FirstOnly:
        def __init__(self, schema: Any, **options: Any) -> None:
            self.validate = real(schema, **options).validate  # `iter_errors` makes all of them before it gives one

    monkeypatch.setattr(jsonschema_rs, "validator_for", FirstOnly)
    rows = {"type": "array", "items": {"type": "object", "required": ["a"]}}
    check = checker({"type": "object", "properties": {"rows": rows}})
    assert check({"rows": [{}, {}]}) == ("argument 'rows[0]': \"a\" is a required property", "rows[0]")
    assert check({"rows": [{"a": 1}]}) is None


COLLIDING = [number * (2**61 - 1) for number in range(5, 5_005)]  # their hash is 0


@dataclass
class Chosen:
    ids: frozenset[int]


def colliding(hint: Any) -> bytes:
    """They as a value of the type."""
    if hint is Chosen:
        return json.dumps({"given": {"ids": COLLIDING}}).encode()
    value = [dict.fromkeys(map(str, COLLIDING), "")] if hint == list[dict[int, str]] else COLLIDING
    return json.dumps({"given": value}).encode()


HINTS = [set[int], list[dict[int, str]], Chosen, Annotated[set[int], Field(min_length=1)]]


@pytest.mark.parametrize("hint", HINTS, ids=["set", "keys", "field", "pydantic"])
def test_numbers_whose_hashes_collide_are_not_put_into_sets_by_the_thousand(hint: Any) -> None:
    def place(given: Any) -> None: ...

    place.__annotations__["given"] = hint
    with pytest.raises(InvalidArguments, match="more than 4,096 numbers of 20 digits"):
        arguments_of(place).decode(colliding(hint))


def test_many_numbers_of_usual_size_are_put_into_sets_and_large_ones_into_lists() -> None:
    def place(ids: set[int] = set(), all: list[int] = []) -> None: ...  # noqa: B006

    def listed(all: list[int], names: dict[str, int]) -> None: ...

    ids = [2**63 - 1 - number for number in range(10_000)]
    assert arguments_of(place).decode(json.dumps({"ids": ids}).encode()) == {"ids": set(ids), "all": []}
    assert arguments_of(listed).decode(json.dumps({"all": COLLIDING, "names": {}}).encode())["all"] == COLLIDING
