"""The public door to the RPC client: `from tailrace.connect import Client`."""

from __future__ import annotations

from tailrace.clients.connect import (
    BidiMethod,
    BidiStream,
    Call,
    CallOptions,
    Client,
    ClientStream,
    ClientStreamMethod,
    Interceptor,
    Messages,
    Retries,
    ServerStream,
    ServerStreamMethod,
    UnaryMethod,
)
from tailrace.errors import Code, RpcDeadlineExceeded, RpcError, StreamEnded
from tailrace.wire.metadata import Metadata

__all__ = [
    "BidiMethod",
    "BidiStream",
    "Call",
    "CallOptions",
    "Client",
    "ClientStream",
    "ClientStreamMethod",
    "Code",
    "Interceptor",
    "Messages",
    "Metadata",
    "Retries",
    "RpcDeadlineExceeded",
    "RpcError",
    "ServerStream",
    "ServerStreamMethod",
    "StreamEnded",
    "UnaryMethod",
]
