"""A client of MCP servers: all five versions, over Streamable HTTP, HTTP+SSE, stdio, and in memory."""

from tailrace.clients.mcp.changes import Change, Changes
from tailrace.clients.mcp.client import Client, Target
from tailrace.clients.mcp.group import ClientGroup
from tailrace.clients.mcp.links import Link, MemoryLink, Outgoing, Receiver, StdioCommand
from tailrace.clients.mcp.oauth import OAuth
from tailrace.clients.mcp.offers import (
    Completion,
    PromptArgument,
    PromptInfo,
    PromptMessage,
    PromptResult,
    ReadResult,
    ResourceContent,
    ResourceInfo,
    ResourceTemplateInfo,
)
from tailrace.clients.mcp.results import LogMessage, ToolInfo, ToolResult

__all__ = [
    "Change",
    "Changes",
    "Client",
    "ClientGroup",
    "Completion",
    "Link",
    "LogMessage",
    "MemoryLink",
    "OAuth",
    "Outgoing",
    "PromptArgument",
    "PromptInfo",
    "PromptMessage",
    "PromptResult",
    "ReadResult",
    "Receiver",
    "ResourceContent",
    "ResourceInfo",
    "ResourceTemplateInfo",
    "StdioCommand",
    "Target",
    "ToolInfo",
    "ToolResult",
]
