"""The public door to the MCP client: `from tailrace.mcp import Client`.

Here a `Service` of this process may be the target as well; it is reached in memory, without a socket.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
