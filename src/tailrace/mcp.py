"""The public door to the MCP client: `from tailrace.mcp import Client`.

Here a `Service` of this process may be the target as well; it is reached in memory, without a socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.clients.mcp import Client as _Client
from tailrace.clients.mcp import (
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

if TYPE_CHECKING:
    from tailrace.service import Service

__all__ = [
    "Client",
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
