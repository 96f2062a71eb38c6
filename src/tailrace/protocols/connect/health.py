"""gRPC's health checking: ``grpc.health.v1.Health`` says whether the server, and each service in it, serves.

It says what ``/readyz`` says: not serving once a drain has begun, or while the store fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from tailrace.core.waiters import Waiters
from tailrace.errors import Code, RpcError
from tailrace.schema.descriptors import Pool
from tailrace.schema.proto_parser import parse_proto
from tailrace.service.implementing import implement

if TYPE_CHECKING:
    from tailrace.service.methods import Method

__all__ = ["HEALTH_SERVICE", "Health"]

HEALTH_SERVICE = "grpc.health.v1.Health"
_LOOK_AGAIN = 5.0  # seconds after which a watcher looks by itself: nobody tells when a store fails, or works again
_MAX_LISTED = 100

# After grpc/health/v1/health.proto of the gRPC authors.
_PROTO = """
syntax = "proto3";
package grpc.health.v1;

service Health {
  rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
  rpc List(HealthListRequest) returns (HealthListResponse);
  rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse);
}
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
message HealthListRequest {}
message HealthListResponse { map<string, HealthCheckResponse> statuses = 1; }
"""
_FILE = "grpc/health/v1/health.proto"
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


class Health:
    """The service, and who watches it.

    Args:
        serving: Whether the server serves.
        services: Full names of the services that are there, as they are at the time.
    """

    def __init__(self, serving: Callable[[], bool], services: Callable[[], frozenset[str]]) -> None:
        self._serving = serving
        self._services = services
        self._waiters = Waiters()
        self._ending = False
        self._response: Any = None
        self._list_response: Any = None

    def methods(self) -> list[Method]:
        """Its methods; made when somebody asks."""
        pool = Pool()
        pool.add(parse_proto(_PROTO, _FILE))
        self._response = pool.message("grpc.health.v1.HealthCheckResponse")
        self._list_response = pool.message("grpc.health.v1.HealthListResponse")
        service = pool.file(_FILE).services_by_name["Health"]
        return implement(service, self, once=frozenset(), timeout=None)

    def changed(self) -> None:
        """The server begins or ceases to serve."""
        self._waiters.wake()

    def end(self) -> None:
        """The server drains: watchers are told that it does not serve, and their streams end, for they hold it up."""
        self._ending = True
        self._waiters.wake()

    # --- its methods, as the .proto names them ---

    async def Check(self, request: Any) -> Any:
        """Whether a service serves; an empty name means the server."""
        status = self._status(request.service)
        if status == _SERVICE_UNKNOWN:
            raise RpcError(Code.NOT_FOUND, f"there is no service {request.service[:200]!r}")
        return self._response(status=status)

    async def List(self, request: Any) -> Any:
        """All of them at once."""
        names = ["", *sorted(self._services())]
        if len(names) > _MAX_LISTED:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"there are more than {_MAX_LISTED} services")
        return self._list_response(statuses={name: self._response(status=self._status(name)) for name in names})

    async def Watch(self, request: Any) -> AsyncIterator[Any]:
        """The status now, and each time it changes."""
        told: int | None = None
        while True:
            status = self._status(request.service)
            if status != told:
                told = status
                yield self._response(status=status)
                continue  # it may have changed while that was sent
            if self._ending:
                raise RpcError(Code.UNAVAILABLE, "the server is shutting down")
            await self._change()

    async def _change(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_AGAIN):
                await self._waiters.wait()
        except TimeoutError:
            return

    def _status(self, service: str) -> int:
        if service and service not in self._services():
            return _SERVICE_UNKNOWN
        return _SERVING if self._serving() and not self._ending else _NOT_SERVING
