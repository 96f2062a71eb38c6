"""Tailrace's bench.v1.Bench in the RPC benchmark: `python -m tailrace run bench/peers/tailrace_rpc.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from tailrace import Service

svc = Service("bench", version="1.0.0", package="bench.v1")


@svc.rpc
async def echo(request: StringValue) -> StringValue:
    return StringValue(value=request.value)


@svc.rpc
async def many(request: Int64Value) -> AsyncIterator[StringValue]:
    said = "x" * 32
    for _ in range(request.value):
        yield StringValue(value=said)


@svc.rpc
async def chat(requests: AsyncIterator[StringValue]) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield StringValue(value=request.value)
