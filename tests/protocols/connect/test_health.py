"""gRPC's health checking: the server's state and each service's, asked for and watched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2

from tailrace import Code, RpcError, Service
from tailrace.protocols.connect.served import ServedMethods
from tests.core.support import virtual

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


class Rig:
    def __init__(self) -> None:
        self.serves = True
        svc = Service("orders", package="orders.v1")
        self.served = ServedMethods(svc.methods, lambda: self.serves)

    def method(self, name: str) -> Any:
        return self.served.get(f"grpc.health.v1.Health/{name}")

    def request(self, name: str, service: str) -> Any:
        data = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        return self.method(name).input.from_proto(data)

    async def check(self, service: str = "") -> int:
        method = self.method("Check")
        data = method.output.to_proto(await method.fn(self.request("Check", service)))
        return health_pb2.HealthCheckResponse.FromString(data).status

    def watch(self, service: str = "") -> Any:
        return self.method("Watch").fn(self.request("Watch", service))


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("service", ["", "orders.v1.Orders", "grpc.health.v1.Health"])
async def test_a_service_serves_while_the_server_does(rig: Rig, service: str) -> None:
    assert await rig.check(service) == SERVING
    rig.serves = False
    assert await rig.check(service) == NOT_SERVING


async def test_a_service_that_is_not_there_is_not_found(rig: Rig) -> None:
    with pytest.raises(RpcError, match="there is no service 'x'") as refusal:
        await rig.check("x")
    assert refusal.value.code is Code.NOT_FOUND


async def test_all_are_listed(rig: Rig) -> None:
    method = rig.method("List")
    answer = await method.fn(method.input.from_proto(b""))
    statuses = health_pb2.HealthListResponse.FromString(method.output.to_proto(answer)).statuses
    assert {name: one.status for name, one in statuses.items()} == dict.fromkeys(
        ["", "grpc.health.v1.Health", "orders.v1.Orders", "grpc.reflection.v1.ServerReflection",
         "grpc.reflection.v1alpha.ServerReflection"], SERVING
    )  # fmt: skip


async def test_a_watcher_is_told_at_once_and_at_each_change(rig: Rig) -> None:
    watch = rig.watch("orders.v1.Orders")
    assert (await anext(watch)).status == SERVING
    following = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    rig.served.health.changed()  # nothing has changed: nothing is told
    await asyncio.sleep(0)
    assert not following.done()
    rig.serves = False
    rig.served.health.changed()
    assert (await following).status == NOT_SERVING
    await watch.aclose()


async def test_a_watcher_of_a_service_that_is_not_there_is_told_so_and_goes_on(rig: Rig) -> None:
    watch = rig.watch("x")
    assert (await anext(watch)).status == UNKNOWN
    await watch.aclose()


async def test_a_drain_tells_its_watchers_and_ends_their_streams(rig: Rig) -> None:
    watch = rig.watch()
    assert (await anext(watch)).status == SERVING
    rig.served.health.end()
    assert (await anext(watch)).status == NOT_SERVING
    with pytest.raises(RpcError) as end:
        async with asyncio.timeout(60):
            await anext(watch)
    assert end.value.code is Code.UNAVAILABLE


@virtual
async def test_a_watcher_looks_by_itself_where_nobody_tells() -> None:
    rig = Rig()
    watch = rig.watch()
    assert (await anext(watch)).status == SERVING
    rig.serves = False
    assert (await anext(watch)).status == NOT_SERVING
    await watch.aclose()


def test_the_definitions_are_those_of_grpc(rig: Rig) -> None:
    ours, theirs = FileDescriptorProto(), FileDescriptorProto()
    rig.method("Check").input.descriptor.file.CopyToProto(ours)
    health_pb2.DESCRIPTOR.CopyToProto(theirs)
    for file in (ours, theirs):
        file.name = ""
        file.ClearField("options")
        for message in file.message_type:
            for part in (message, *message.nested_type):
                for field in part.field:
                    field.ClearField("json_name")
    assert ours == theirs
