"""The ways to a server: Streamable HTTP, HTTP+SSE, a child process, or plain functions in this process."""

from tailrace.clients.mcp.links.link import Link, Outgoing, Receiver
from tailrace.clients.mcp.links.memory import MemoryLink
from tailrace.clients.mcp.links.sse import SseLink
from tailrace.clients.mcp.links.stdio import StdioCommand, StdioLink
from tailrace.clients.mcp.links.streamable import StreamableLink

__all__ = ["Link", "MemoryLink", "Outgoing", "Receiver", "SseLink", "StdioCommand", "StdioLink", "StreamableLink"]
