"""The doors of a test: `connected` and `running` as context managers, `client_of` and `server_of` as fixtures.

A fixture is made of what `client_of` gives by the framework that is there; this module imports none:
``client = pytest.fixture(client_of(svc))``, with anyio or pytest-asyncio
(in its strict mode ``pytest_asyncio.fixture``).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from tailrace.testing.server import RunningService

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tailrace.service import Service
    from tailrace.testing.client import MemoryClient

__all__ = ["client_of", "connected", "running", "server_of"]


def running(service: Service, **options: Any) -> RunningService:
    """Run `service` in memory: ``async with running(svc, drain=1) as server:``.

    Args:
        service: What is served.
        options: As of `RunningService`.
    """
    return RunningService(service, **options)


def connected(
    service: Service, *, server: Mapping[str, Any] | None = None, **options: Any
) -> AbstractAsyncContextManager[MemoryClient]:
    """Run `service` in memory with one client: ``async with connected(svc, era="legacy") as client:``.

    Args:
        service: What is served.
        server: Options of the server, as of `RunningService`; it is `client.server`.
        options: As of `tailrace.mcp.Client`: ``era=``, ``timeout=``, ``elicitation=``, ``sampling=``, ``roots=``…
    """
    return _connected(service, dict(server or {}), options)


@contextlib.asynccontextmanager
async def _connected(service: Service, server: dict[str, Any], options: dict[str, Any]) -> AsyncGenerator[MemoryClient]:
    async with RunningService(service, **server) as running, running.client(**options) as client:
        yield client


def client_of(
    service: Service | Callable[[], Service], *, server: Mapping[str, Any] | None = None, **options: Any
) -> Callable[[], AsyncGenerator[MemoryClient]]:
    """What a fixture is made of that gives each test a client of its own: ``client = pytest.fixture(client_of(svc))``.

    Args:
        service: What is served, or a function that makes it, for each test anew.
        server: As in `connected`.
        options: As in `connected`.
    """

    async def client() -> AsyncGenerator[MemoryClient]:
        async with connected(_made(service), server=server, **options) as one:
            yield one

    return client


def server_of(service: Service | Callable[[], Service], **options: Any) -> Callable[[], AsyncGenerator[RunningService]]:
    """The same for a `RunningService`, where a test wants several clients or a restart.

    Args:
        service: As in `client_of`.
        options: As of `RunningService`.
    """

    async def server() -> AsyncGenerator[RunningService]:
        async with RunningService(_made(service), **options) as one:
            yield one

    return server


def _made(service: Service | Callable[[], Service]) -> Service:
    from tailrace.service import Service

    return service if isinstance(service, Service) else service()
