"""What a program says to be reached over RPC, and the methods that the service then has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import Context, DefinitionError, Service
from tailrace.service.methods import pascal_case, snake_case
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
    svc.implement(DEFINED, Eliza(), once=["IntroduceAll"], timeout=9)
    methods = {path.removeprefix(PREFIX): method for path, method in svc.methods.items()}
    assert {name: method.kind for name, method in methods.items()} == {
        "Say": "unary",
        "IntroduceAll": "server_stream",
        "Converse": "bidi",
    }, "what is not there is no method: it is answered UNIMPLEMENTED"
    assert [method.read_only for method in methods.values()] == [True, None, None], "NO_SIDE_EFFECTS"
    assert [method.once for method in methods.values()] == [False, True, False]
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
