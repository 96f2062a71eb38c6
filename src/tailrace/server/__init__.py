"""The composition root: the only place that knows the service, the store, the protocols and the transports.

A `Server` is one running service in one event loop. `run` makes a process of it, `asgi` an application,
`connect` a link for a client in the same process; `make_server` reads what all of these may be told.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from tailrace.errors import DefinitionError
from tailrace.server.options import make_membership, make_server, make_settings, make_store
from tailrace.server.server import Server
from tailrace.transports.asgi import AsgiApp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.clients.mcp.links import MemoryLink
    from tailrace.core.ports import Store
    from tailrace.publish import Publisher
    from tailrace.service import Service

_HTTP_ONLY = frozenset({"host", "port", "uds", "server", "tls_cert", "tls_key", "insecure"})

__all__ = ["Server", "asgi", "connect", "make_membership", "make_server", "make_settings", "make_store", "run"]


def asgi(
    service: Service,
    *,
    store: str | Store | None = None,
    auth: object = None,
    auth_token: str | Sequence[str] | None = None,
    publish: str | Publisher | None = None,
    **options: Any,
) -> AsgiApp:
    """An ASGI application of `service` (see `Service.asgi`).

    Args:
        service: What is served.
        store: ``memory`` (default, not durable), ``sqlite:PATH``, ``valkey://HOST:PORT/DB`` or a store.
        auth: ``async (token) -> principal or None``: whose a bearer token is; or a `tailrace.auth.ResourceServer`.
        auth_token: The tokens that are valid, instead of `auth`.
        publish: Where `ctx.publish` goes: ``kafka://HOST:PORT``, ``log:``, ``memory:`` or a `Publisher`.
        options: Any field of `Settings`; flags' names work, too.
    """
    return AsgiApp(make_server(service, options, store=store, auth=auth, auth_token=auth_token, publish=publish))


def run(service: Service, *, transport: str = "stdio", **flags: Any) -> None:
    """Serve in this process until a signal or the end of input (see `Service.run`).

    Raises:
        DefinitionError: The flags contradict each other, or async code is running here already.
    """
    from tailrace.server.process import run_process

    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise DefinitionError(
            "run() has an event loop of its own, and one is running here already: call it outside of async code, "
            "or give svc.asgi() to the server that you have"
        )
    if transport == "stdio" and "target" not in flags:  # the command line looks at its words itself
        for name in _HTTP_ONLY & flags.keys():
            raise DefinitionError(f"{name}= is about HTTP, and stdio is the default: say transport='http'")
    run_process(service, transport=transport, **flags)


async def connect(service: Service, *, publish: str | Publisher | None = None, **options: Any) -> MemoryLink:
    """A link to a server of its own for `service`, in this process and loop; closing it stops the server."""
    from tailrace.server.inmemory import open_link

    return await open_link(make_server(service, options, publish=publish))
