"""A message that is small on the wire and huge in Python is refused before it is made."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from google.protobuf import struct_pb2

from tailrace.schema import allowance
from tailrace.schema.allowance import InvalidMessage
from tailrace.schema.messages import message_type


@dataclasses.dataclass
class Point:
    x: float = 0.0


@dataclasses.dataclass
class Row:
    points: list[Point]


@dataclasses.dataclass
class Table:
    rows: list[Row] = dataclasses.field(default_factory=list[Row])
    named: dict[str, Point] = dataclasses.field(default_factory=dict[str, Point])
    anything: Any = None
    note: str = ""
    numbers: list[int] = dataclasses.field(default_factory=list[int])


TABLE = message_type(Table)


@pytest.fixture(autouse=True)
def a_hundred_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "MANY", 100)
    monkeypatch.setattr(allowance, "_SHARE", 1_000_000)


def table(rows: int, points: int) -> Table:
    return Table([Row([Point()] * points)] * rows)


def test_what_is_shipped_lets_4_mib_of_points_pass_and_no_4_mib_of_nothing() -> None:
    for size, parts, passes in ((4_194_304, 209_715, True), (4_194_304, 2_097_152, False)):
        own = allowance.Allowance()
        own.left = max(262_144, size // 16)  # what `begin` gives where nobody has patched it
        try:
            own.take(range(parts))
        except InvalidMessage:
            assert not passes
        else:
            assert passes


@pytest.mark.parametrize(("rows", "points"), [(1, 99), (50, 1), (9, 10)])
def test_as_many_as_are_allowed_are_read(rows: int, points: int) -> None:
    given = table(rows, points)
    assert TABLE.from_proto(TABLE.to_proto(given)) == given


@pytest.mark.parametrize(("rows", "points"), [(101, 0), (10, 10), (1, 101)])
def test_of_all_lists_together_one_more_is_refused(rows: int, points: int) -> None:
    with pytest.raises(InvalidMessage, match="too many parts"):
        TABLE.from_proto(TABLE.to_proto(table(rows, points)))


def test_each_message_begins_anew_after_one_that_was_refused() -> None:
    with pytest.raises(InvalidMessage):
        TABLE.from_proto(TABLE.to_proto(table(101, 0)))
    for _ in range(3):
        TABLE.from_proto(TABLE.to_proto(table(60, 0)))


def test_parts_that_have_bytes_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "_SHARE", 16)
    given = Table(rows=[Row([])] * 150, note="x" * 16 * 200)
    assert TABLE.from_proto(TABLE.to_proto(given)) == given


def test_the_values_of_a_map_are_counted() -> None:
    encoded = TABLE.to_proto(Table(named={f"{n}": Point() for n in range(101)}))
    with pytest.raises(InvalidMessage, match="too many parts"):
        TABLE.from_proto(encoded)


@pytest.mark.parametrize("anything", [[None] * 101, {str(n): None for n in range(101)}, [[None] * 60, [None] * 60]])
def test_what_may_be_anything_is_counted(anything: Any) -> None:
    encoded = TABLE.to_proto(Table(anything=anything))
    with pytest.raises(InvalidMessage, match="too many parts"):
        TABLE.from_proto(encoded)


def test_scalars_are_not_counted() -> None:
    given = Table(numbers=[1] * 1000)
    assert TABLE.from_proto(TABLE.to_proto(given)) == given
    assert TABLE.from_json(TABLE.to_json(given)) == given


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "points", "fine"), [(49, 0, True), (50, 0, False), (1, 96, True), (1, 97, False)])
def test_in_json_objects_and_lists_are_counted(rows: int, points: int, fine: bool) -> None:
    given = table(rows, points)
    encoded = json.dumps({"rows": [{"points": [{}] * points}] * rows}).encode()
    if fine:
        assert TABLE.from_json(encoded) == given
        return
    with pytest.raises(InvalidMessage, match="too many parts"):
        TABLE.from_json(encoded)


def test_json_of_too_many_objects_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.schema.messages._decode", None)
    with pytest.raises(InvalidMessage, match="too many parts"):
        TABLE.from_json(json.dumps({"rows": [{}] * 101}, separators=(",", ":")).encode())


@pytest.mark.parametrize("text", ["{" * 3000, '"{[' * 1000, "\\{" * 1500])
def test_what_stands_in_a_string_is_no_object(text: str) -> None:
    assert TABLE.from_json(json.dumps({"note": text}).encode()).note == text


@pytest.mark.parametrize("end", [b'"', b'"\\', b'"a\\"', b'"\\\\'])
def test_a_string_without_an_end_is_no_json(end: bytes) -> None:
    with pytest.raises(InvalidMessage):
        TABLE.from_json(b'{"note":' + b" " * 200 + end)


def test_google_s_module_reads_an_eighth_of_it() -> None:
    generated = message_type(struct_pb2.ListValue)
    fine, much = b"[" + b"{}," * 9 + b"{}]", b"[" + b"{}," * 12 + b"{}]"
    assert len(generated.from_json(fine).values) == 10
    with pytest.raises(InvalidMessage, match="too many parts"):
        generated.from_json(much)
    with pytest.raises(InvalidMessage, match="too many parts"):
        generated.from_json(b"[" + b"1," * 100 + b"1]")
