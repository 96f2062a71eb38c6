"""What a server tells of itself: grpcurl, buf and grpcio's own clients find its services and call them by that."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e import rpc_tools
from tests.e2e.conftest import FIXTURES
from tests.e2e.installing import Missing
from tests.rigs.server import ServerProcess, running_async, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
MEETING = FIXTURES / "meeting.py"
SERVICES = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
            "meeting.v1.Meeting"]  # fmt: skip


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with running_async(tailrace_command(MEETING, "--drain", "100"), tmp_path / "log") as server:
        yield server
        assert server.records() == [], server.stderr_tail()


@pytest.fixture
async def grpcurl(server: ServerProcess, needs: Callable[[str, str], NoReturn]) -> Any:
    try:
        tool = await asyncio.to_thread(rpc_tools.grpcurl)
    except Missing as missing:
        needs(*missing.args)

    async def run(*words: str, data: str = "") -> str:
        arguments = ["-plaintext", *(["-d", data] if data else []), f"127.0.0.1:{server.port}", *words]
        code, out, err = await rpc_tools.run(tool, *arguments)
        assert (code, err) == (0, ""), err
        return out

    return run


async def test_grpcurl_lists_describes_and_calls(grpcurl: Any) -> None:
    assert (await grpcurl("list")).split() == SERVICES
    assert (await grpcurl("list", "meeting.v1.Meeting")).split() == [
        f"meeting.v1.Meeting.{name}" for name in ("Count", "Echo", "Meet", "Total")
    ]
    assert "optional int64 parties = 2;" in await grpcurl("describe", "meeting.v1.MeetRequest")
    answer = await grpcurl("meeting.v1.Meeting/Meet", data='{"me": "a", "parties": 1}')
    assert rpc_tools.documents(answer) == [{"me": "a"}]


async def test_grpcurl_streams_all_three_ways(grpcurl: Any) -> None:
    counted = await grpcurl("meeting.v1.Meeting/Count", data='{"to": 3}')
    assert rpc_tools.documents(counted) == [{}, {"result": "1"}, {"result": "2"}]
    two = '{"me": "a", "others": ["b"]} {"me": "c", "others": ["d", "e"]}'
    assert rpc_tools.documents(await grpcurl("meeting.v1.Meeting/Total", data=two)) == [{"result": "3"}]
    assert rpc_tools.documents(await grpcurl("meeting.v1.Meeting/Echo", data=two)) == rpc_tools.documents(two)


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpcweb"])
async def test_buf_finds_the_methods_and_calls_them(
    server: ServerProcess, protocol: str, needs: Callable[[str, str], NoReturn]
) -> None:
    try:
        tool = rpc_tools.buf()
    except Missing as missing:
        needs(*missing.args)
    h2 = ["--http2-prior-knowledge"]
    code, out, err = await rpc_tools.run(tool, "curl", *h2, "--list-methods", server.url)
    assert (code, err) == (0, "")
    assert "meeting.v1.Meeting/Meet" in out.split()
    url = f"{server.url}/meeting.v1.Meeting/Meet"
    code, out, err = await rpc_tools.run(
        tool, "curl", *h2, "--protocol", protocol, "-d", '{"me": "a", "parties": 1}', url
    )
    assert (code, err) == (0, "")
    assert rpc_tools.documents(out) == [{"me": "a"}]


def by_reflection(port: int) -> tuple[list[str], Any]:
    """What grpcio's reflection client makes of it: the names of the services, and the answer of a call."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        method = DescriptorPool(database).FindServiceByName("meeting.v1.Meeting").methods_by_name["Meet"]
        request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/meeting.v1.Meeting/Meet",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return list(database.get_services()), call(request(me="a", parties=1), timeout=30.0)


async def test_grpcios_reflection_client_makes_classes_of_it(server: ServerProcess) -> None:
    services, answer = await asyncio.to_thread(by_reflection, server.port)
    assert services == SERVICES
    assert (answer.me, list(answer.others)) == ("a", [])


async def test_grpcios_health_client_checks_and_watches_a_drain(server: ServerProcess) -> None:
    status = health_pb2.HealthCheckResponse
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "meeting.v1.Meeting"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30.0)
            assert answer.status == status.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=30.0)
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="meeting.v1.Meeting"), timeout=100.0)
        assert (await watch.read()).status == status.SERVING
        server.signal(signal.SIGTERM)
        assert (await watch.read()).status == status.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as end:
            await watch.read()
        assert end.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.to_thread(server.wait, 60.0) == 0, "a watcher holds no drain up"
