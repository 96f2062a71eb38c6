"""The `.proto` file as the lock of field numbers: what is kept, what is reserved, what is refused."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from tailrace import DefinitionError, FieldNumber, Service
from tailrace.schema.proto_parser import parse_proto
from tailrace.service.exporting import Export, export_proto
from tests.rigs.protoc import compiled

HERE = Path("orders.proto")


def service(fn: Callable[..., Any], *, package: str | None = "orders.v1", name: str = "orders") -> Service:
    svc = Service(name, package=package)
    svc.rpc(name="Place")(fn)
    return svc


def written(fn: Callable[..., Any], existing: str | None = None, **more: Any) -> str:
    export = exported(fn, existing, **more)
    assert not export.broken
    return export.text


def exported(fn: Callable[..., Any], existing: str | None = None, **more: Any) -> Export:
    return export_proto(service(fn, **more).methods, existing, HERE)


def numbers(text: str, message: str = "PlaceRequest") -> dict[str, int]:
    proto = parse_proto(text, "x.proto")
    (found,) = [one for one in proto.message_type if one.name == message]
    return {field.name: field.number for field in found.field}


async def first(item: str, qty: int = 1) -> int: ...


FIRST = written(first)


# --- what is kept -------------------------------------------------------------------------------


def test_the_first_file_has_the_numbers_of_the_declaration() -> None:
    assert numbers(FIRST) == {"item": 1, "qty": 2}


def test_a_file_that_is_right_is_written_as_it_is() -> None:
    assert written(first, FIRST) == FIRST


def test_numbers_are_kept_whatever_the_order_and_new_fields_get_new_ones() -> None:
    async def second(colour: str, qty: int, item: str = "") -> int: ...

    text = written(second, FIRST)
    assert numbers(text) == {"colour": 3, "qty": 2, "item": 1}
    assert written(second, text) == text


def test_what_is_removed_is_reserved_for_ever() -> None:
    async def less(item: str) -> int: ...

    async def more(item: str, colour: str) -> int: ...

    async def again(item: str, colour: str, qty: int) -> int: ...

    text = written(less, FIRST)
    assert "reserved 2;" in text
    assert 'reserved "qty";' in text
    text = written(more, text)
    assert numbers(text) == {"item": 1, "colour": 3}, "the last number is not given anew"
    (complaint,) = exported(again, text).broken
    assert complaint.startswith("PlaceRequest.qty was there before, and its name is reserved")


def test_a_message_may_be_called_otherwise() -> None:
    async def one(order: dataclasses.make_dataclass("Order", [("b", int), ("a", str)])) -> int: ...  # type: ignore[valid-type]

    async def other(order: dataclasses.make_dataclass("Purchase", [("a", str), ("b", int)])) -> int: ...  # type: ignore[valid-type]

    text = written(other, written(one))
    assert numbers(text, "Purchase") == {"b": 1, "a": 2}


def enumeration(*names: str) -> Any:
    return enum.Enum("Colour", {name: name.lower() for name in names})  # type: ignore[misc]


def int_enumeration(**members: int) -> Any:
    return enum.IntEnum("Colour", members)


def taking(kind: Any) -> Callable[..., Any]:
    async def place(x: Any) -> int: ...

    place.__annotations__["x"] = kind
    return place


def test_values_of_an_enum_keep_their_numbers_and_convert_by_them() -> None:
    text = written(taking(enumeration("RED", "BLUE")))
    colour = enumeration("GREEN", "BLUE")
    text = written(taking(colour), text)
    (found,) = parse_proto(text, "x").enum_type
    assert {value.name: value.number for value in found.value} == {
        "COLOUR_UNSPECIFIED": 0, "COLOUR_BLUE": 2, "COLOUR_GREEN": 3,
    }  # fmt: skip
    assert list(found.reserved_name) == ["COLOUR_RED"]
    assert (found.reserved_range[0].start, found.reserved_range[0].end) == (1, 1)


def test_numbers_that_the_program_gives_go_with_the_file() -> None:
    async def given(item: str, new: Annotated[int, FieldNumber(9)], qty: Annotated[int, FieldNumber(2)] = 1) -> int: ...

    async def next_one(item: str, qty: int, newer: str, new: Annotated[int, FieldNumber(9)]) -> int: ...

    text = written(given, FIRST)
    assert numbers(text) == {"item": 1, "new": 9, "qty": 2}
    assert numbers(written(next_one, text)) == {"item": 1, "qty": 2, "newer": 10, "new": 9}


def test_a_field_may_get_or_lose_its_default() -> None:
    async def required(item: str, qty: int) -> int: ...

    assert numbers(written(required, FIRST)) == {"item": 1, "qty": 2}
    assert numbers(written(first, written(required))) == {"item": 1, "qty": 2}


# --- what is refused ----------------------------------------------------------------------------


async def other_type(item: str, qty: str) -> int: ...
async def repeated(item: str, qty: list[int]) -> int: ...
async def renumbered(item: str, qty: Annotated[int, FieldNumber(7)] = 1) -> int: ...
async def stolen(item: str, new: Annotated[int, FieldNumber(2)]) -> int: ...
async def taken(item: str, qty: int, new: Annotated[int, FieldNumber(2)]) -> int: ...
async def other_result(item: str, qty: int) -> str: ...
async def result_stream(item: str, qty: int) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("fn", "complaint"),
    [
        (other_type, "PlaceRequest.qty was int64 and is string"),
        (repeated, "PlaceRequest.qty was int64 and is repeated int64"),
        (renumbered, "PlaceRequest.qty has the number 2 in the file, and 7 in Python"),
        (stolen, "PlaceRequest.new has the number 2, which is that of qty"),
        (other_result, "PlaceResponse.result was int64 and is string"),
        (result_stream, "the responses of Orders/Place were one and are a stream"),
    ],
)
def test_what_would_break_the_wire_is_refused(fn: Any, complaint: str) -> None:
    broken = exported(fn, FIRST).broken
    assert broken
    assert all(one.startswith(complaint) for one in broken)


def test_a_number_that_is_taken_is_refused_at_once() -> None:
    assert any("number 2" in one for one in exported(taken, FIRST).broken)


def test_a_reserved_number_is_refused() -> None:
    async def less(item: str) -> int: ...

    async def new(item: str, new: Annotated[int, FieldNumber(2)]) -> int: ...

    assert exported(new, written(less, FIRST)).broken == ["PlaceRequest.new has the number 2, which is reserved"]


def test_names_of_package_service_and_method_are_fixed() -> None:
    (complaint,) = exported(first, FIRST, package="orders.v2").broken
    assert complaint.startswith("the package was orders.v1 and is orders.v2")
    (complaint,) = exported(first, FIRST, name="shop").broken
    assert complaint.startswith("service Orders is gone")
    svc = Service("orders", package="orders.v1")
    svc.rpc(name="Order")(first)
    (complaint,) = export_proto(svc.methods, FIRST, HERE).broken
    assert complaint.startswith("method Orders/Place is gone")


def test_a_message_is_not_exchanged_for_another() -> None:
    line = dataclasses.make_dataclass("Line", [("a", int)])
    order = dataclasses.make_dataclass("Order", [("b", int)])

    def both(one: Any, other: Any) -> Callable[..., Any]:
        async def place(x: Any, y: Any) -> int: ...

        place.__annotations__.update(x=one, y=other)
        return place

    broken = exported(both(line, line), written(both(line, order))).broken
    assert broken == ["PlaceRequest.y was Order and is Line; give the new one another name"]


def test_maps_are_compared_by_key_and_value() -> None:
    text = written(taking(dict[str, int]))
    assert written(taking(dict[str, int]), text) == text
    for kind, told in (
        (dict[int, int], "map<int64, int64>"),
        (dict[str, str], "map<string, string>"),
        (list[int], "rep"),
    ):
        (complaint,) = exported(taking(kind), text).broken
        assert complaint.startswith(f"PlaceRequest.x was map<string, int64> and is {told}")


def test_values_that_are_numbers_are_fixed() -> None:
    text = written(taking(int_enumeration(NONE=0, RED=1)))
    assert written(taking(int_enumeration(NONE=0, RED=1)), text) == text
    (complaint,) = exported(taking(int_enumeration(NONE=0, RED=2)), text).broken
    assert complaint == "Colour.COLOUR_RED has the number 1 in the file, and 2 now"
    (complaint,) = exported(taking(int_enumeration(NONE=0, BLUE=1)), text).broken
    assert "COLOUR_BLUE has the number 1" in complaint


def test_a_file_that_cannot_be_read_is_not_written_over() -> None:
    with pytest.raises(DefinitionError, match=r"orders.proto cannot be read: orders.proto:1: "):
        exported(first, "hello")


# --- at run time --------------------------------------------------------------------------------


@dataclasses.dataclass
class Line:
    sku: str
    qty: int = 1


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclasses.dataclass
class Order:
    lines: list[Line]
    by_name: dict[str, Line]
    size: Size
    note: str | None = None
    parent: Order | None = None
    anything: Any = None
    either: int | str = 0


def test_the_file_compiles_and_is_what_the_running_service_has() -> None:
    svc = Service("orders", package="orders.v1")

    @svc.tool
    def place(order: Order, tags: list[str], count: int = 3) -> list[Order]: ...

    @svc.tool(read_only=True)
    async def watch(since: float) -> AsyncIterator[Order]:
        yield Order([], {}, Size.LARGE)

    @svc.rpc
    async def send(orders: AsyncIterator[Order]) -> None: ...

    text = export_proto(svc.methods, None, HERE).text
    by_protoc = {file.name: file for file in compiled(text, "given.proto").file}
    running = {file.name: file for file in svc.descriptor_set().file}
    mine, theirs = running["orders/v1/orders.proto"], by_protoc["given.proto"]
    theirs.name = mine.name
    for service in theirs.service:
        for method in service.method:
            if not method.options.ListFields():
                method.ClearField("options")
    assert mine == theirs


def test_a_method_may_be_called_as_a_message_is() -> None:
    svc = Service("orders", package="orders.v1")

    @svc.tool
    def order(item: str) -> Order: ...

    text = export_proto(svc.methods, None, HERE).text
    (file,) = [file for file in compiled(text).file if file.name == "given.proto"]
    assert file.service[0].method[0].output_type == ".orders.v1.Order"
    assert export_proto(svc.methods, text, HERE).text == text


def make(folder: Path, source: str) -> Service:
    file = folder / "orders.py"
    file.write_text(f"from tailrace import Service\n{source}")
    names: dict[str, Any] = {"__file__": str(file), "__name__": "orders"}
    exec(compile(file.read_text(), file, "exec"), names)
    return names["svc"]


SOURCE = """
svc = Service("orders", package="orders.v1", proto="orders.proto")
@svc.rpc(name="Place")
async def place(colour: str, qty: int, item: str = "") -> int: ...
"""


def test_a_running_service_has_the_numbers_of_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "orders.proto").write_text(FIRST)
    svc = make(tmp_path, SOURCE)
    method = svc.methods["orders.v1.Orders/Place"]
    assert {field.name: field.number for field in method.input.descriptor.fields} == {"colour": 3, "qty": 2, "item": 1}
    assert "orders.proto is behind" in caplog.text
    assert "PlaceRequest.colour" in caplog.text


def test_a_service_that_breaks_with_its_file_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "orders.proto").write_text(FIRST)
    svc = make(tmp_path, SOURCE.replace("qty: int", "qty: str"))
    with pytest.raises(DefinitionError, match=r"orders\.proto does not allow this: PlaceRequest\.qty was int64"):
        svc.attach(None)  # type: ignore[arg-type]


def test_a_service_without_the_file_it_names_does_not_start(tmp_path: Path) -> None:
    svc = make(tmp_path, SOURCE)
    with pytest.raises(DefinitionError, match=r"there is no .*orders.proto: write it with `tailrace gen proto`"):
        svc.attach(None)  # type: ignore[arg-type]


def test_an_enum_converts_by_the_numbers_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "orders.proto").write_text(written(taking(enumeration("RED", "BLUE"))))
    source = """
import enum
svc = Service("orders", package="orders.v1", proto="orders.proto")
Colour = enum.Enum("Colour", {"GREEN": "green", "BLUE": "blue"})
@svc.rpc(name="Place")
async def place(x: Colour) -> int: ...
"""
    method = make(tmp_path, source).methods["orders.v1.Orders/Place"]
    assert method.input.from_proto(b"\x08\x02")["x"].name == "BLUE"
    assert method.input.from_proto(b"\x08\x03")["x"].name == "GREEN"
    assert method.input.to_proto(method.input.from_proto(b"\x08\x02")) == b"\x08\x02"
