"""One service, ``test.v1.Test``, on four servers: Tailrace's own, grpcio's asyncio one, connectrpc's and connect-go.

``Echo`` answers; ``Three`` streams three messages; ``Join`` and ``Talk`` take streams; ``Never``, ``Silent``, ``Ticks``
and ``Huge`` end only when they are told that their client left. How many of those run, and were told, can be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import uvicorn
from connectrpc.code import Code as ConnectCode
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.wrappers_pb2 import StringValue

from tailrace import Code, RpcError, Service
from tailrace.connect import Client
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.transports.http.listener import Listener
from tests.e2e.installing import CACHE, DRIVERS, find_go, once_into, run_step

PACKAGE = "test.v1.Test"
WAYS = {  # protocol and HTTP version
    "tailrace": [("connect", "1.1"), ("connect", "2"), ("grpc", "2"), ("grpc-web", "1.1"), ("grpc-web", "2")],
    "connect-go": [("connect", "1.1"), ("connect", "2"), ("grpc", "2"), ("grpc-web", "1.1"), ("grpc-web", "2")],
    "grpcio": [("grpc", "2")],
    "connectrpc": [("connect", "1.1"), ("grpc-web", "1.1")],  # on uvicorn
}
State = Callable[[], Awaitable[tuple[int, int]]]


class Counts:
    def __init__(self) -> None:
        self.running = 0
        self.told = 0

    @contextlib.contextmanager
    def counted(self) -> Any:
        self.running += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.told += 1
            raise
        finally:
            self.running -= 1

    async def state(self) -> tuple[int, int]:
        return self.running, self.told


class Test:
    """The handlers, in the message class of the library at hand."""

    __test__ = False

    def __init__(self, counts: Counts, text: Any, failure: Exception) -> None:
        self.counts = counts
        self.text = text
        self.failure = failure

    async def echo(self, request: Any, context: Any = None) -> Any:
        if request.value == "fail":
            raise self.failure
        return self.text(value=request.value)

    async def never(self, request: Any, context: Any = None) -> Any:
        with self.counts.counted():
            await asyncio.Event().wait()

    async def three(self, request: Any, context: Any = None) -> AsyncIterator[Any]:
        for number in range(3):
            yield self.text(value=f"{request.value} {number}")

    async def silent(self, request: Any, context: Any = None) -> AsyncIterator[Any]:
        with self.counts.counted():
            await asyncio.Event().wait()
            yield self.text()

    async def ticks(self, request: Any, context: Any = None) -> AsyncIterator[Any]:
        with self.counts.counted():
            while True:
                yield self.text(value="tick")
                await asyncio.sleep(0.01)

    async def huge(self, request: Any, context: Any = None) -> AsyncIterator[Any]:
        with self.counts.counted():
            while True:
                yield self.text(value="x" * 60_000)
                await asyncio.sleep(0)

    async def join(self, requests: AsyncIterator[Any], context: Any = None) -> Any:
        return self.text(value=" ".join([request.value async for request in requests]))

    async def talk(self, requests: AsyncIterator[Any], context: Any = None) -> AsyncIterator[Any]:
        with self.counts.counted():
            async for request in requests:
                yield self.text(value=request.value)


STREAMED = ("three", "silent", "ticks", "huge")


@contextlib.asynccontextmanager
async def tailrace_server() -> AsyncIterator[tuple[str, State]]:
    counts = Counts()
    test = Test(counts, StringValue, RpcError(Code.FAILED_PRECONDITION, "as asked"))
    service = Service("test", package="test.v1")

    @service.rpc
    async def echo(request: StringValue) -> StringValue:
        return await test.echo(request)

    @service.rpc
    async def never(request: StringValue) -> StringValue:
        return await test.never(request)

    @service.rpc
    async def three(request: StringValue) -> AsyncIterator[StringValue]:
        async for one in test.three(request):
            yield one

    @service.rpc
    async def silent(request: StringValue) -> AsyncIterator[StringValue]:
        with counts.counted():
            await asyncio.Event().wait()
            yield StringValue()

    @service.rpc
    async def ticks(request: StringValue) -> AsyncIterator[StringValue]:
        with counts.counted():
            while True:
                yield StringValue(value="tick")
                await asyncio.sleep(0.01)

    @service.rpc
    async def huge(request: StringValue) -> AsyncIterator[StringValue]:
        with counts.counted():
            while True:
                yield StringValue(value="x" * 60_000)
                await asyncio.sleep(0)

    @service.rpc
    async def join(requests: AsyncIterator[StringValue]) -> StringValue:
        return await test.join(requests)

    @service.rpc
    async def talk(requests: AsyncIterator[StringValue]) -> AsyncIterator[StringValue]:
        with counts.counted():
            async for request in requests:
                yield StringValue(value=request.value)

    listening = _listen()
    server = Server(service, Settings(drain=0.0), MemoryStore())
    await server.start()
    listener = Listener(server, [listening])
    await listener.start()
    try:
        yield _url(listening), counts.state
    finally:
        await server.end_sessions(0.2)
        await listener.close(0.2)
        await server.stop()


@contextlib.asynccontextmanager
async def grpcio_server() -> AsyncIterator[tuple[str, State]]:
    counts = Counts()

    class Aborts(Test):
        async def echo(self, request: Any, context: Any = None) -> Any:
            if request.value == "fail":
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
            return self.text(value=request.value)

    test = Aborts(counts, StringValue, RuntimeError())
    coding: Any = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    handlers = {name.title(): grpc.unary_stream_rpc_method_handler(getattr(test, name), **coding) for name in STREAMED}
    handlers["Echo"] = grpc.unary_unary_rpc_method_handler(test.echo, **coding)
    handlers["Never"] = grpc.unary_unary_rpc_method_handler(test.never, **coding)
    handlers["Join"] = grpc.stream_unary_rpc_method_handler(test.join, **coding)
    handlers["Talk"] = grpc.stream_stream_rpc_method_handler(test.talk, **coding)
    server = grpc.aio.server()
    server.add_registered_method_handlers(PACKAGE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}", counts.state
    finally:
        await server.stop(0.2)


@contextlib.asynccontextmanager
async def connectrpc_server() -> AsyncIterator[tuple[str, State]]:
    from protobuf.wkt import StringValue as Text  # this library's own

    counts = Counts()
    test = Test(counts, Text, ConnectError(ConnectCode.FAILED_PRECONDITION, "as asked"))

    def method(name: str, kind: StreamType) -> Any:
        return MethodInfo(
            name=name.title(), service_name=PACKAGE, input=Text, output=Text, stream_type=kind,
            idempotency_level=IdempotencyLevel.UNKNOWN,
        )  # fmt: skip

    made: dict[str, Any] = {
        name: Endpoint.unary(method(name, StreamType.UNARY), getattr(test, name)) for name in ("echo", "never")
    }
    made |= {
        name: Endpoint.server_stream(method(name, StreamType.SERVER_STREAM), getattr(test, name)) for name in STREAMED
    }
    made["join"] = Endpoint.client_stream(method("join", StreamType.CLIENT_STREAM), test.join)
    made["talk"] = Endpoint.bidi_stream(method("talk", StreamType.BIDI_STREAM), test.talk)

    class Application(ConnectASGIApplication[Any]):
        @property
        def path(self) -> str:
            return f"/{PACKAGE}"

    app: Any = Application(
        service=test, endpoints=lambda _: {f"/{PACKAGE}/{name.title()}": one for name, one in made.items()}
    )
    listening = _listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server._serve([listening]))  # `serve` would take the signals
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield _url(listening), counts.state
    finally:
        server.should_exit = server.force_exit = True
        await serving


@contextlib.asynccontextmanager
async def connect_go_server() -> AsyncIterator[tuple[str, State]]:
    program = await asyncio.to_thread(connect_go)
    process = await asyncio.create_subprocess_exec(
        program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            url = f"http://127.0.0.1:{int(await process.stdout.readline())}"

        async def state() -> tuple[int, int]:
            async with Client(url) as client:
                said = await client.unary(f"{PACKAGE}/State", StringValue(), response=StringValue)
            running, told = said.value.split()
            return int(running), int(told)

        yield url, state
    finally:
        process.stdin.close()
        await process.wait()


SERVERS = {
    "tailrace": tailrace_server,
    "connect-go": connect_go_server,
    "grpcio": grpcio_server,
    "connectrpc": connectrpc_server,
}


def connect_go() -> Any:
    """The program of `drivers/connectgo`, built once; raises `Missing`."""
    source = DRIVERS / "connectgo"

    def build(folder: Any) -> None:
        env = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
        run_step("go", [find_go(), "build", "-trimpath", "-o", f"{folder}/", "."], cwd=source, env=env)

    version = "".join((source / name).read_text() for name in ("main.go", "go.mod", "go.sum"))
    assert CACHE
    return once_into("connectgo", version, build) / "connectgo"


def _listen() -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


def _url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"
