"""Server reflection: what a client is told of a service's descriptors."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from tailrace import Service
from tailrace.protocols.connect.reflection import REFLECTION_SERVICES
from tailrace.protocols.connect.served import ServedMethods
from tailrace.schema.protobuf import google


@dataclasses.dataclass
class Order:
    item: str
    at: dict[str, Any]


@pytest.fixture
def svc() -> Service:
    svc = Service("orders", package="orders.v1")

    @svc.tool
    def place(item: str) -> Order: ...

    return svc


def served(svc: Service) -> ServedMethods:
    return ServedMethods(svc.methods, lambda: True)


async def ask(served: ServedMethods, *requests: dict[str, Any], version: str = "v1") -> list[Any]:
    method = served.get(f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    assert method is not None
    assert method.kind == "bidi"
    theirs = [reflection_pb2.ServerReflectionRequest(host="h", **request) for request in requests]

    async def coming() -> AsyncIterator[Any]:
        for one in theirs:
            yield method.input.from_proto(one.SerializeToString())  # type: ignore[union-attr]

    answers = [method.output.to_proto(one) async for one in method.fn(**{method.stream_param: coming()})]
    decoded = [reflection_pb2.ServerReflectionResponse.FromString(answer) for answer in answers]
    assert [one.original_request for one in decoded] == theirs
    assert {one.valid_host for one in decoded} == {"h"}
    return decoded


def names(response: Any) -> list[str]:
    return [
        FileDescriptorProto.FromString(data).name for data in response.file_descriptor_response.file_descriptor_proto
    ]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_all_services_are_listed(svc: Service, version: str) -> None:
    (answer,) = await ask(served(svc), {"list_services": "*"}, version=version)
    assert [service.name for service in answer.list_services_response.service] == [
        "grpc.health.v1.Health", *REFLECTION_SERVICES, "orders.v1.Orders",
    ]  # fmt: skip


@pytest.mark.parametrize("symbol", ["v1.Orders", "v1.Orders.Place", "v1.Order", "v1.Order.item"])
async def test_a_symbols_file_comes_with_what_it_imports(svc: Service, symbol: str) -> None:
    (answer,) = await ask(served(svc), {"file_containing_symbol": f"orders.{symbol}"})
    assert names(answer) == ["orders/v1/orders.proto", "google/protobuf/struct.proto"]


async def test_a_file_is_sent_once_on_a_stream_unless_it_is_asked_for(svc: Service) -> None:
    answers = await ask(
        served(svc),
        {"file_by_filename": "google/protobuf/struct.proto"},
        {"file_by_filename": "orders/v1/orders.proto"},
        {"file_by_filename": "orders/v1/orders.proto"},
    )
    assert [names(answer) for answer in answers] == [
        ["google/protobuf/struct.proto"], ["orders/v1/orders.proto"], ["orders/v1/orders.proto"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "request_", [
        {"file_by_filename": "other.proto"},
        {"file_containing_symbol": "orders.v1.Nothing"},
        {"file_containing_extension": {"containing_type": "a.B", "extension_number": 3}},
        {"all_extension_numbers_of_type": "a.B"},
    ],
)  # fmt: skip
async def test_what_is_not_there_is_not_found(svc: Service, request_: dict[str, Any]) -> None:
    (answer,) = await ask(served(svc), request_)
    assert answer.error_response.error_code == 5
    assert "there is no" in answer.error_response.error_message


async def test_a_request_for_nothing_is_an_error_of_its_own(svc: Service) -> None:
    (answer,) = await ask(served(svc), {})
    assert answer.error_response.error_code == 3


async def test_a_type_without_extensions_has_none(svc: Service) -> None:
    (answer,) = await ask(served(svc), {"all_extension_numbers_of_type": "orders.v1.Order"})
    assert answer.all_extension_numbers_response.base_type_name == "orders.v1.Order"
    assert not answer.all_extension_numbers_response.extension_number


async def test_what_is_added_later_is_told(svc: Service) -> None:
    methods = served(svc)
    await ask(methods, {"list_services": ""})

    @svc.tool
    def later() -> None: ...

    (answer,) = await ask(methods, {"file_containing_symbol": "orders.v1.Orders.Later"})
    assert names(answer)[0] == "orders/v1/orders.proto"


def test_the_definitions_are_those_of_grpc(svc: Service) -> None:
    methods = served(svc)
    method = methods.get(f"{REFLECTION_SERVICES[1]}/ServerReflectionInfo")
    assert method is not None
    ours, theirs = FileDescriptorProto(), FileDescriptorProto()
    method.input.descriptor.file.CopyToProto(ours)
    reflection_pb2.DESCRIPTOR.CopyToProto(theirs)
    theirs.ClearField("options")
    theirs.name = ours.name
    for message in ours.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert sorted(map(str, ours.message_type)) == sorted(map(str, theirs.message_type))
    assert ours.service == theirs.service


def test_only_paths_of_services_that_are_there_are_looked_for(svc: Service) -> None:
    methods = served(svc)
    for path in ("mcp", "messages/", "a.B/C", "", "grpc.health.v1.Health/Other", "orders.v1.Orders/Other"):
        assert methods.get(path) is None
        assert path not in methods
    assert "orders.v1.Orders/Place" in methods
    assert "grpc.health.v1.Health/Check" in methods
    assert google("message") is not None
