"""The door for files that were written for FastMCP: ``from tailrace.fastmcp import FastMCP, Context``.

`FastMCP` is a `Service` whose decorators, constructor and `run` take what FastMCP's and the official SDK's take; what
has no counterpart here says so where it is used, and what to use instead. New code is written for `tailrace.Service`.
"""

from __future__ import annotations

from typing import Any

from tailrace.errors import ProtocolError, ResourceNotFound, ToolError
from tailrace.fastmcp.context import AcceptedElicitation, CancelledElicitation, Context, DeclinedElicitation
from tailrace.fastmcp.service import FastMCP, MCPServer
from tailrace.fastmcp.values import AssistantMessage, Audio, Image, Message, ToolResult, UserMessage

__all__ = [
    "AcceptedElicitation",
    "AssistantMessage",
    "Audio",
    "CancelledElicitation",
    "Context",
    "DeclinedElicitation",
    "FastMCP",
    "Image",
    "MCPServer",
    "Message",
    "ProtocolError",
    "ResourceNotFound",
    "ToolError",
    "ToolResult",
    "UserMessage",
]

_ELSEWHERE = {
    "Client": "from tailrace.mcp import Client",
    "CurrentContext": "annotate a parameter with Context",
    "Depends": "give the type a provider with @mcp.provide",
    "FastMCPApp": "serve a resource ui://… and name it in the tool's meta=",
    "Elicit": "await ctx.elicit(...) in the tool",
    "File": "return tailrace.EmbeddedResource",
    "Icon": "from tailrace import Icon",
    "ListRoots": "await ctx.list_roots() in the tool",
    "MCPError": "raise ProtocolError(code, message)",
    "McpError": "raise ProtocolError(code, message)",
    "PromptError": "raise ProtocolError(code, message)",
    "ResourceError": "raise ResourceNotFound or ProtocolError",
    "Resolve": "give the type a provider with @mcp.provide, and ask in the tool",
    "Sample": "await ctx.sample(...) in the tool",
    "get_context": "tailrace.current()",
}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        raise AttributeError(f"tailrace.fastmcp has no {name}; instead: {_ELSEWHERE[name]}")
    raise AttributeError(f"module 'tailrace.fastmcp' has no attribute {name!r}")
