"""The public door to the MCP client: `from tailrace.mcp import Client`.

Here a `Service` of this process may be the target as well; it is reached in memory, without a socket.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tailrace.clients.mcp import (
    Change,
    Changes,
    Completion,
    Link,
    LogMessage,
    OAuth,
    PromptArgument,
    PromptInfo,
    PromptMessage,
    PromptResult,
    ReadResult,
    ResourceContent,
    ResourceInfo,
    ResourceTemplateInfo,
    StdioCommand,
    ToolInfo,
    ToolResult,
)
from tailrace.clients.mcp import Client as _Client
from tailrace.clients.mcp import ClientGroup as _ClientGroup
from tailrace.clients.mcp.proxy import make_proxy
from tailrace.errors import DefinitionError

if TYPE_CHECKING:
    from tailrace.service import Service

__all__ = [
    "Change",
    "Changes",
    "Client",
    "ClientGroup",
    "Completion",
    "Link",
    "LogMessage",
    "OAuth",
    "PromptArgument",
    "PromptInfo",
    "PromptMessage",
    "PromptResult",
    "ReadResult",
    "ResourceContent",
    "ResourceInfo",
    "ResourceTemplateInfo",
    "StdioCommand",
    "ToolInfo",
    "ToolResult",
    "proxy",
]


class Client(_Client):
    __doc__ = _Client.__doc__

    async def _link_to_service(self, service: Service) -> Link:
        from tailrace.server import connect  # late: most clients never need a server

        return await connect(service)


class ClientGroup(_ClientGroup):
    __doc__ = _ClientGroup.__doc__

    def __init__(self, servers: Mapping[str, Any] | str | os.PathLike[str], **options: Any) -> None:
        super().__init__(servers, client=Client, **options)


def proxy(
    target: str | Sequence[str] | StdioCommand | Service,
    *,
    name: str | None = None,
    max_upstreams: int = 1000,
    **options: Any,
) -> Service:
    """A service that stands before any MCP server: its tools, resources, templates, prompts and completions, as they
    are and as they change, with progress, log, questions to the client, cancellation and errors passed on.

    It connects when it is served, and again where the server behind goes away. A legacy server behind gets a session
    for each legacy session in front; a modern one, which has none, shares few clients (one that speaks both gets a
    legacy session for each whose client can be asked something: `era` settles it for all). Every tool takes an
    idempotency key: a retry with the same key does not reach the server behind.

    Args:
        target: A URL, a command as a list, a `StdioCommand`, or a `Service`.
        name: Of the service; default: the URL's host, the program, or the service's name.
        max_upstreams: Clients of the server behind at once; above it, calls of further sessions are refused.
        options: Of `Client`: `headers`, `auth`, `era`, `transport`, `connect_timeout`, `reconnect`, …

    Raises:
        DefinitionError: The target or an option cannot work.
    """
    if isinstance(target, Link):
        raise DefinitionError("a Link is opened once, and a proxy opens several: give a URL, a command or a Service")
    if max_upstreams < 1:
        raise DefinitionError(f"max_upstreams is 1 or more, got {max_upstreams}")
    Client(target, **options)  # refuses what cannot work, before anything is served

    def make(**callbacks: Any) -> Client:
        return Client(target, **{**options, **callbacks})

    one_era = options.get("era", "auto") != "auto"
    return make_proxy(make, name=name or _name_of(target), max_upstreams=max_upstreams, one_era=one_era)


def _name_of(target: str | Sequence[str] | StdioCommand | Service) -> str:
    if isinstance(target, str):
        return urlsplit(target).hostname or target
    if isinstance(target, StdioCommand):
        return os.path.basename(target.command)
    return os.path.basename(target[0]) if isinstance(target, Sequence) else target.name
