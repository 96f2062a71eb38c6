"""bench.v1.Bench of the RPC benchmark through connectrpc-py, as an ASGI application (`app`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from protobuf.wkt import Int64Value, StringValue


class Bench:
    async def echo(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=request.value)

    async def many(self, request: Int64Value, context: Any) -> AsyncIterator[StringValue]:
        said = "x" * 32
        for _ in range(request.value):
            yield StringValue(value=said)

    async def chat(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield StringValue(value=request.value)


def method(name: str, kind: StreamType, input: Any = StringValue) -> Any:
    return MethodInfo(
        name=name, service_name="bench.v1.Bench", input=input, output=StringValue, stream_type=kind,
        idempotency_level=IdempotencyLevel.UNKNOWN,
    )  # fmt: skip


def endpoints(bench: Bench) -> dict[str, Any]:
    return {
        "/bench.v1.Bench/Echo": Endpoint.unary(method("Echo", StreamType.UNARY), bench.echo),
        "/bench.v1.Bench/Many": Endpoint.server_stream(
            method("Many", StreamType.SERVER_STREAM, Int64Value), bench.many
        ),
        "/bench.v1.Bench/Chat": Endpoint.bidi_stream(method("Chat", StreamType.BIDI_STREAM), bench.chat),
    }


class Application(ConnectASGIApplication):
    @property
    def path(self) -> str:
        return "/bench.v1.Bench"


app = Application(service=Bench(), endpoints=endpoints)
