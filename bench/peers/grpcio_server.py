"""bench.v1.Bench of the RPC benchmark through grpcio's asyncio server: `grpcio_server.py PORT`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop
from google.protobuf.wrappers_pb2 import Int64Value, StringValue


async def echo(request: StringValue, context: Any) -> StringValue:
    return StringValue(value=request.value)


async def many(request: Int64Value, context: Any) -> AsyncIterator[StringValue]:
    said = "x" * 32
    for _ in range(request.value):
        yield StringValue(value=said)


async def chat(requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield StringValue(value=request.value)


def _coding(input: Any = StringValue) -> dict[str, Any]:
    return {"request_deserializer": input.FromString, "response_serializer": StringValue.SerializeToString}


async def main() -> None:
    server = grpc.aio.server()
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo, **_coding()),
        "Many": grpc.unary_stream_rpc_method_handler(many, **_coding(Int64Value)),
        "Chat": grpc.stream_stream_rpc_method_handler(chat, **_coding()),
    }
    server.add_registered_method_handlers("bench.v1.Bench", handlers)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


uvloop.run(main())
