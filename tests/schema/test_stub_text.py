"""Typed clients as source: of typed Python with its messages, of `.proto` files over generated code."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import inspect
import sys
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import Service
from tailrace.schema.messages import message_type
from tailrace.schema.proto_parser import parse_proto
from tailrace.schema.stub_text import module_of, render_stubs
from tailrace.service.exporting import export_stubs
from tests.rigs.protoc import ELIZA, generated


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Order:
    item: str
    colour: Colour
    at: datetime.datetime
    took: datetime.timedelta
    free: Any
    more: dict[str, Any]
    by_name: dict[str, int]
    either: int | str
    qty: int = 3
    note: str | None = None
    parts: list[Order] = dataclasses.field(default_factory=list)


DAY = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
PART = Order("b", Colour.RED, DAY, datetime.timedelta(), None, {}, {}, 5)
ORDER = Order("a", Colour.BLUE, DAY, datetime.timedelta(seconds=3), [1], {"b": 2}, {"c": 3}, "x", parts=[PART])


def module(source: str, name: str) -> Any:
    made = types.ModuleType(name)
    sys.modules[name] = made  # where dataclasses and type hints look
    exec(compile(source, name, "exec"), made.__dict__)
    return made


class Recorder:
    """Stands for a client: gives what it was asked for."""

    def __getattr__(self, kind: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            return (kind, args, options)

        async def unary(*args: Any, **options: Any) -> Any:
            return call(*args, **options)

        return unary if kind == "unary" else call


@pytest.fixture
def svc() -> Service:
    svc = Service("orders", package="orders.v1")

    @svc.tool
    def place(order: Order) -> Order: ...

    @svc.tool(read_only=True)
    def lookup(key: str) -> int: ...

    @svc.rpc
    async def watch(request: Order) -> AsyncIterator[Order]:
        yield request

    @svc.rpc
    async def load(orders: AsyncIterator[Order]) -> None: ...

    @svc.rpc
    async def talk(orders: AsyncIterator[Order]) -> AsyncIterator[Order]:
        yield ORDER

    return svc


async def test_each_method_is_called_by_its_kind_path_and_types(svc: Service) -> None:
    stubs = module(export_stubs(svc.methods), "stubs_by_kind")
    client = stubs.OrdersClient(Recorder())
    order, options = {"request": stubs.Order, "response": stubs.Order}, {"timeout": 3.0}
    assert await client.place("m", idempotency_key="k", **options) == (
        "unary",
        ("orders.v1.Orders/Place", "m"),
        {"idempotency_key": "k", "request": stubs.PlaceRequest, "response": stubs.Order, **options},
    )
    assert (await client.lookup("m"))[2]["get"] is True
    assert client.watch("m", **options) == ("server_stream", ("orders.v1.Orders/Watch", "m"), {**order, **options})
    assert client.talk() == ("bidi", ("orders.v1.Orders/Talk",), order)
    kind, _, types = client.load()
    assert (kind, types["response"]) == ("client_stream", stubs.LoadResponse)
    assert inspect.signature(client.watch).return_annotation == "ServerStream[Order, Order]"


def test_the_dataclasses_have_the_same_wire_as_the_services_types(svc: Service) -> None:
    stubs = module(export_stubs(svc.methods), "stubs_on_the_wire")
    theirs, ours = message_type(stubs.Order), message_type(Order)
    assert {field.name: field.number for field in theirs.descriptor.fields} == {
        field.name: field.number for field in ours.descriptor.fields
    }
    value = theirs.from_proto(ours.to_proto(ORDER))
    assert (value.colour, value.qty, value.free, value.parts[0].colour) == (stubs.Colour.BLUE, 3, [1], stubs.Colour.RED)
    assert ours.from_proto(theirs.to_proto(value)) == ORDER
    assert ours.from_json(theirs.to_json(value)) == ORDER
    assert theirs.to_json(value) == ours.to_json(ORDER)


async def test_generated_messages_are_taken_from_their_modules() -> None:
    generated("tailrace_tests_eliza", ELIZA)
    file = parse_proto(ELIZA, "tailrace_tests_eliza.proto")
    stubs = module(render_stubs([file], None, {}, [file]), "stubs_of_eliza")
    code: Any = sys.modules["tailrace_tests_eliza_pb2"]
    client = stubs.ElizaServiceClient(Recorder())
    assert await client.say("m") == (
        "unary",
        ("tailrace.tests.eliza.v1.ElizaService/Say", "m"),
        {"get": True, "request": code.SayRequest, "response": code.SayResponse},
    )
    assert client.introduce_all("m")[0] == "server_stream"


async def test_a_service_may_have_both() -> None:
    code: Any = generated("tailrace_tests_eliza", ELIZA)
    svc = Service("both", package="both.v1")

    async def say(request: Any) -> Order: ...

    say.__annotations__["request"] = code.SayRequest
    svc.rpc(say)
    stubs = module(export_stubs(svc.methods), "stubs_of_both")
    _, _, types = await stubs.BothClient(Recorder()).say("m")
    assert (types["request"], types["response"]) == (code.SayRequest, stubs.Order)


def test_a_message_of_another_file_is_asked_for_by_name() -> None:
    file = parse_proto(
        'syntax = "proto3";\nimport "other.proto";\nservice S { rpc A(other.M) returns (other.M); }', "s.proto"
    )
    with pytest.raises(LookupError, match=r"other\.M"):
        render_stubs([file], None, {}, [file])


@pytest.mark.parametrize(
    ("file", "module"),
    [("a.proto", "a_pb2"), ("a/b-c.proto", "a.b_c_pb2"), ("google/protobuf/any.proto", "google.protobuf.any_pb2")],
)
def test_modules_are_where_protoc_puts_them(file: str, module: str) -> None:
    assert module_of(file) == module
