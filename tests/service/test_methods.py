"""What a program says to be reached over RPC, and the methods that the service then has."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

import tailrace
from tailrace import Context, DefinitionError, Service
from tailrace.schema.messages import InvalidMessage, message_type
from tailrace.service.naming import pascal_case, snake_case
from tests.rigs.protoc import ELIZA, generated

eliza: Any = generated("tailrace_tests_eliza", ELIZA)
SayRequest: Any = eliza.SayRequest
SayResponse: Any = eliza.SayResponse
DEFINED: Any = eliza.DESCRIPTOR.services_by_name["ElizaService"]
PREFIX = "tailrace.tests.eliza.v1.ElizaService/"


@pytest.fixture
def svc() -> Service:
    return Service("eliza-service", package="chat.v1")


# --- @svc.rpc -----------------------------------------------------------------------------------


def test_a_function_of_generated_messages_is_a_method(svc: Service) -> None:
    @svc.rpc
    async def say(ctx: Context, request: SayRequest) -> SayResponse:
        return SayResponse(sentence=request.sentence)

    (method,) = svc.methods.values()
    assert (method.path, method.service, method.name) == ("chat.v1.ElizaService/Say", "chat.v1.ElizaService", "Say")
    assert (method.kind, method.context_param, method.stream_param) == ("unary", "ctx", None)
    assert (method.is_async, method.is_generator, method.fn) == (True, False, say)
    assert method.input.full_name == "tailrace.tests.eliza.v1.SayRequest"
    assert method.output.full_name == "tailrace.tests.eliza.v1.SayResponse"
    message = SayRequest(sentence="hi")
    assert method.bind(message) == {"request": message}
    assert svc.methods.get("chat.v1.ElizaService/Say") is method
    assert svc.methods.get("chat.v1.ElizaService/Other") is None


def test_the_signature_says_who_streams(svc: Service) -> None:
    @svc.rpc
    async def server(request: SayRequest) -> AsyncIterator[SayResponse]:
        yield SayResponse()

    @svc.rpc
    async def client(requests: AsyncIterator[SayRequest]) -> SayResponse:
        return SayResponse()

    @svc.rpc
    async def both(ctx: Context, requests: AsyncIterator[SayRequest]) -> AsyncIterator[SayResponse]:
        yield SayResponse()

    methods = svc.methods.values()
    assert [method.kind for method in methods] == ["server_stream", "client_stream", "bidi"]
    assert [method.stream_param for method in methods] == [None, "requests", "requests"]
    assert [method.is_generator for method in methods] == [True, False, True]
    assert all(method.input.full_name.endswith("SayRequest") for method in methods)


def test_rpc_takes_options(svc: Service) -> None:
    @svc.rpc(name="SAY", once=True, read_only=True, timeout=3.0)
    def say(request: SayRequest) -> SayResponse:
        return SayResponse()

    method = svc.methods["chat.v1.ElizaService/SAY"]
    assert (method.once, method.read_only, method.timeout, method.is_async) == (True, True, 3.0, False)


def test_a_service_without_a_package_has_methods_too() -> None:
    svc = Service("orders")

    @svc.rpc
    async def place_order(request: SayRequest) -> SayResponse: ...

    assert list(svc.methods) == ["Orders/PlaceOrder"]


def test_rpc_refuses_what_cannot_work(svc: Service) -> None:
    def plain_generator(request: SayRequest) -> AsyncIterator[SayResponse]:
        yield SayResponse()

    async def no_iterator(request: SayRequest) -> AsyncIterator[SayResponse]: ...

    async def undeclared_stream(request: SayRequest) -> SayResponse:
        yield SayResponse()

    def reads_in_a_thread(requests: AsyncIterator[SayRequest]) -> SayResponse: ...

    async def two(a: SayRequest, b: SayRequest) -> SayResponse: ...

    async def fine(a: SayRequest) -> SayResponse: ...

    for function, complaint in [
        (plain_generator, "plain generator"),
        (no_iterator, "asynchronous generator"),
        (undeclared_stream, "asynchronous generator"),
        (reads_in_a_thread, "async def"),
        (two, r"two\(\) at .*"),
    ]:
        with pytest.raises(DefinitionError, match=complaint):
            svc.rpc(function)
    with pytest.raises(DefinitionError, match="timeout is in seconds"):
        svc.rpc(timeout=0)(fine)
    with pytest.raises(DefinitionError, match="no option 'title' of @rpc"):
        svc.rpc(title="x")(fine)  # type: ignore[call-arg]
    assert not svc.methods
    svc.rpc(fine)
    with pytest.raises(DefinitionError, match="defined twice"):
        svc.rpc(fine)

    async def streams(requests: AsyncIterator[SayRequest]) -> SayResponse: ...

    with pytest.raises(DefinitionError, match="once= is for methods with one message each way"):
        svc.rpc(once=True)(streams)


# --- svc.implement ------------------------------------------------------------------------------


class Eliza:
    async def Say(self, ctx: Context, request: SayRequest) -> SayResponse:
        return SayResponse(sentence=request.sentence)

    async def introduce_all(self, request, context):
        yield SayResponse()

    async def Converse(self, requests: AsyncIterator[SayRequest]) -> AsyncIterator[SayResponse]:
        async for request in requests:
            yield SayResponse(sentence=request.sentence)


def test_an_object_implements_a_service_of_a_proto_file(svc: Service) -> None:
    svc.implement(DEFINED, Eliza(), once=["Say"], timeout=9)
    methods = {path.removeprefix(PREFIX): method for path, method in svc.methods.items()}
    assert {name: method.kind for name, method in methods.items()} == {
        "Say": "unary",
        "IntroduceAll": "server_stream",
        "Converse": "bidi",
    }, "what is not there is no method: it is answered UNIMPLEMENTED"
    assert [method.read_only for method in methods.values()] == [True, None, None], "NO_SIDE_EFFECTS"
    assert [method.once for method in methods.values()] == [True, False, False]
    assert [method.context_param for method in methods.values()] == ["ctx", "context", None]
    assert all(method.timeout == 9 for method in methods.values())
    assert methods["IntroduceAll"].bind(1) == {"request": 1}


def test_an_implementation_goes_with_its_file(svc: Service) -> None:
    class NoGenerator:
        async def introduce_all(self, request): ...

    class OtherMessage:
        async def say(self, request: SayResponse) -> SayResponse: ...

    class OtherResult:
        async def say(self, request: SayRequest) -> SayRequest: ...

    class OneMessage:
        async def collect(self, request: SayRequest) -> SayResponse: ...

    class Three:
        async def say(self, request, more, context): ...

    for implementation, complaint in [
        (NoGenerator(), "IntroduceAll is to be an asynchronous generator"),
        (OtherMessage(), "parameter 'request' of .*Say is SayRequest"),
        (OtherResult(), "result of .*Say is SayResponse"),
        (OneMessage(), r"Collect is AsyncIterator\[SayRequest\]"),
        (Three(), "takes one message"),
        (object(), "none of the methods"),
    ]:
        with pytest.raises(DefinitionError, match=complaint):
            svc.implement(DEFINED, implementation)
    with pytest.raises(DefinitionError, match="takes a service's descriptor"):
        svc.implement(eliza, Eliza())
    with pytest.raises(DefinitionError, match="'Sy'"):
        svc.implement(DEFINED, Eliza(), once=["Sy"])
    with pytest.raises(DefinitionError, match="once= is for methods with one message each way, this one is bidi"):
        svc.implement(DEFINED, Eliza(), once=["Converse"])


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("python", "protobuf"), [("place", "Place"), ("place_order", "PlaceOrder"), ("a.b-c", "ABC"), ("getURL", "GetURL")]
)
def test_names_are_protobufs(python: str, protobuf: str) -> None:
    assert pascal_case(python) == protobuf


@pytest.mark.parametrize(
    ("protobuf", "python"),
    [("Say", "say"), ("IntroduceAll", "introduce_all"), ("GetURL", "get_url")],
)
def test_names_of_a_file_are_found_in_pythons_style(python: str, protobuf: str) -> None:
    assert snake_case(protobuf) == python


# --- typed Python -------------------------------------------------------------------------------


@dataclasses.dataclass
class Order:
    item: str
    qty: int


@dataclasses.dataclass
class Event:
    text: str


@pytest.fixture
def orders() -> Service:
    svc = Service("orders", package="orders.v1")

    @svc.tool(timeout=9, once="item", read_only=False)
    async def place(ctx: Context, item: str, qty: int = 1) -> Order:
        """Place an order."""
        return Order(item, qty)

    @svc.tool(rpc=False)
    def hidden() -> None: ...

    @svc.rpc
    async def watch(request: Order) -> AsyncIterator[Event]:
        yield Event("")

    @svc.rpc
    async def total(orders: AsyncIterator[Order]) -> int:
        return 0

    return svc


def test_a_tool_is_a_method_with_its_arguments_as_fields(orders: Service) -> None:
    method = orders.methods["orders.v1.Orders/Place"]
    assert (method.kind, method.timeout, method.once, method.read_only) == ("unary", 9, "item", False)
    assert method.tool is orders.tools["place"]
    assert method.input.full_name == "orders.v1.PlaceRequest"
    assert method.output.full_name == "orders.v1.Order"
    assert {field.name: field.number for field in method.input.descriptor.fields} == {"item": 1, "qty": 2}

    @dataclasses.dataclass
    class Place:
        item: str
        qty: int = 1

    data = message_type(Place).to_proto(Place("tea"))
    assert method.bind(method.input.from_proto(data)) == {"item": "tea", "qty": 1}
    assert method.bind(method.input.from_json(b'{"item": "tea", "qty": "3"}')) == {"item": "tea", "qty": 3}
    assert method.bind(method.input.from_proto(b"")) == {"item": "", "qty": 1}, "the default stands for what is absent"
    assert method.input.from_proto(method.input.to_proto({"item": "a"})) == {"item": "a", "qty": 1}
    assert message_type(Order).from_proto(method.output.to_proto(Order("tea", 2))) == Order("tea", 2)


def test_methods_are_those_of_rpc_and_of_the_tools(orders: Service) -> None:
    assert {path: method.kind for path, method in orders.methods.items()} == {
        "orders.v1.Orders/Watch": "server_stream",
        "orders.v1.Orders/Total": "client_stream",
        "orders.v1.Orders/Place": "unary",
    }
    watch = orders.methods["orders.v1.Orders/Watch"]
    assert watch.bind(Order("a", 1)) == {"request": Order("a", 1)}, "one parameter that is a message is the request"
    total = orders.methods["orders.v1.Orders/Total"]
    assert (total.stream_param, total.output.full_name) == ("orders", "orders.v1.TotalResponse")
    assert message_type(int).from_proto(total.output.to_proto(3)) == 3


def test_the_methods_are_a_live_view(orders: Service) -> None:
    methods = orders.methods
    assert len(methods) == 3

    @orders.tool
    def late(n: list[int]) -> list[Order]: ...

    method = methods["orders.v1.Orders/Late"]
    assert method.output.from_proto(method.output.to_proto([Order("a", 1)])) == [Order("a", 1)]


def test_arguments_are_checked_as_over_mcp() -> None:
    svc = Service("s")
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}, "required": ["n"]}

    @svc.tool
    def ranged(n: Annotated[int, msgspec.Meta(ge=1)], m: Annotated[int, pydantic.Field(le=5)] = 2) -> None: ...

    @svc.tool(input_schema=schema)
    def given(n: int) -> None: ...

    method = svc.methods["S/Ranged"]
    assert method.bind(method.input.from_json(b'{"n": 1}')) == {"n": 1, "m": 2}
    for message, complaint in [(b'{"n": 0}', "'n': expected int >= 1, got 0|'n'"), (b'{"n": 1, "m": 6}', "'m'")]:
        with pytest.raises(InvalidMessage, match=complaint):
            method.input.from_json(message)
    method = svc.methods["S/Given"]
    assert method.input.from_json(b'{"n": 3}') == {"n": 3}
    with pytest.raises(InvalidMessage, match="n"):
        method.input.from_json(b'{"n": 4}')


def test_a_tool_without_a_protobuf_form_is_no_method_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    svc = Service("s")

    @svc.tool
    def odd(pair: tuple[int, str]) -> None: ...

    @svc.tool
    def picture() -> tailrace.Image: ...

    @svc.tool
    def place_it() -> None: ...

    @svc.tool(name="placeIt")
    def twice() -> None: ...

    @svc.tool(once=True)
    async def bits() -> AsyncIterator[int]:
        yield 1

    with caplog.at_level(logging.INFO, "tailrace.service"):
        assert list(svc.methods) == ["S/PlaceIt"]
        svc.tool(name="more")(place_it)
        assert list(svc.methods) == ["S/PlaceIt", "S/More"]
    records = [record.getMessage() for record in caplog.records]
    assert len(records) == 4
    parts = ["parameter 'pair'", "content of MCP", "another method PlaceIt", "once= is for methods with one message"]
    for text, part in zip(records, parts, strict=True):
        assert text.startswith("a tool is no RPC method: ")
        assert part in text


def test_rpc_comes_before_a_tool_of_its_name() -> None:
    svc = Service("s")

    @svc.tool
    def place(item: str) -> str: ...

    @svc.rpc(name="Place")
    async def place_rpc(item: str) -> str: ...

    assert svc.methods["S/Place"].fn is place_rpc


def test_rpc_refuses_types_without_a_form_at_definition() -> None:
    svc = Service("s")

    async def odd(pair: tuple[int, str]) -> None: ...

    async def odd_items(numbers: AsyncIterator[int]) -> None: ...

    async def stream_and_more(orders: AsyncIterator[Order], n: int) -> None: ...

    async def odd_result() -> complex: ...

    for function, complaint in [
        (odd, r"odd\(\) at .*: parameter 'pair' has no protobuf form: .*dataclass"),
        (odd_items, "items of a stream of requests are messages"),
        (stream_and_more, "only parameter"),
        (odd_result, "the return annotation"),
    ]:
        with pytest.raises(DefinitionError, match=complaint):
            svc.rpc(function)
    assert not svc.methods


def test_messages_of_a_programs_own_may_be_called_as_requests_are() -> None:
    svc = Service("s")
    request = dataclasses.make_dataclass("PlaceRequest", [("item", str)])

    def place(request: Any) -> None: ...

    place.__annotations__["request"] = request
    svc.tool(place)
    method = svc.methods["S/Place"]
    assert method.input.full_name == "PlaceArguments"
    assert method.input.from_json(b'{"request": {"item": "a"}}') == {"request": request("a")}


def test_a_class_may_be_called_as_the_service_is() -> None:
    svc = Service("order")

    @svc.tool
    def place(item: str) -> Order: ...

    assert svc.methods["Order/Place"].output.full_name == "OrderMessage"


def test_services_have_messages_of_their_own(orders: Service) -> None:
    other = Service("orders", package="orders.v1")

    @other.tool
    def place(other: int) -> None: ...

    assert set(orders.methods["orders.v1.Orders/Place"].input.descriptor.fields_by_name) == {"item", "qty"}
    assert set(other.methods["orders.v1.Orders/Place"].input.descriptor.fields_by_name) == {"other"}


def test_the_descriptor_set_has_all_services_and_what_they_import(orders: Service) -> None:
    @orders.rpc
    async def say(request: SayRequest) -> SayResponse: ...

    orders.implement(DEFINED, Eliza())
    files = {file.name: file for file in orders.descriptor_set().file}
    assert list(files) == ["google/protobuf/any.proto", "tailrace_tests_eliza.proto", "orders/v1/orders.proto"]
    (service,) = files["orders/v1/orders.proto"].service
    assert {(m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming) for m in service.method} == {
        ("Watch", ".orders.v1.Order", ".orders.v1.Event", False, True),
        ("Total", ".orders.v1.Order", ".orders.v1.TotalResponse", True, False),
        ("Say", f".{PREFIX[:-13]}SayRequest", f".{PREFIX[:-13]}SayResponse", False, False),
        ("Place", ".orders.v1.PlaceRequest", ".orders.v1.Order", False, False),
    }


def test_generated_code_that_has_the_service_is_its_descriptor() -> None:
    svc = Service("ElizaService", package="tailrace.tests.eliza.v1")

    @svc.rpc
    async def say(request: SayRequest) -> SayResponse: ...

    assert list(svc.methods) == [f"{PREFIX}Say"]
    with_service = [file.name for file in svc.descriptor_set().file if file.service]
    assert with_service == ["tailrace_tests_eliza.proto"]


def test_an_mcp_only_service_does_not_load_protobuf() -> None:
    program = """
import sys
import tailrace
svc = tailrace.Service("s")
@svc.tool
def place(item: str) -> str: return item
svc.attach(None)
for path in ("mcp", "messages/", ".well-known/a", "a.B/C", ""):
    assert svc.methods.get(path) is None
assert not [name for name in sys.modules if name.startswith("google.protobuf")]
assert list(svc.methods) == ["S/Place"]
assert "google.protobuf.message" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
