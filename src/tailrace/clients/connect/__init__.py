"""The client of Connect, gRPC and gRPC-Web (`tailrace.connect` is its public door)."""

from __future__ import annotations

from tailrace.clients.connect.call import Call, Interceptor, Messages
from tailrace.clients.connect.client import Client
from tailrace.clients.connect.handles import BidiMethod, ClientStreamMethod, ServerStreamMethod, UnaryMethod
from tailrace.clients.connect.options import CallOptions, Retries
from tailrace.clients.connect.streams import BidiStream, ClientStream, ServerStream

__all__ = [
    "BidiMethod",
    "BidiStream",
    "Call",
    "CallOptions",
    "Client",
    "ClientStream",
    "ClientStreamMethod",
    "Interceptor",
    "Messages",
    "Retries",
    "ServerStream",
    "ServerStreamMethod",
    "UnaryMethod",
]
