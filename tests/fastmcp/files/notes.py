"""A server for the official SDK, 2.x: a lifespan, its context, messages of both sides."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server.mcpserver import AssistantMessage, Context, Image, MCPServer, Message, UserMessage


@dataclass
class Notes:
    texts: dict[str, str] = field(default_factory=dict)
    is_open: bool = True


@asynccontextmanager
async def lifespan(server: MCPServer) -> AsyncIterator[Notes]:
    notes = Notes({"first": "hello"})
    try:
        yield notes
    finally:
        notes.is_open = False


mcp = MCPServer("Notes", "Notes of the tests", instructions="Keep notes.", lifespan=lifespan)


@mcp.tool(title="Write a note")
async def write(name: str, text: str, ctx: Context[Notes, Any]) -> int:
    notes = ctx.request_context.lifespan_context
    assert notes.is_open
    notes.texts[name] = text
    await ctx.log("notice", {"written": name})
    return len(notes.texts)


@mcp.tool()
def dot() -> Image:
    """A picture."""
    return Image(data=b"\x89PNG", format="png")


@mcp.tool()
def mixed() -> list[str | Image]:
    return ["two of them", Image(data=b"1"), Image(data=b"2", format="jpeg")]


@mcp.resource("note://{name}")
def read(name: str, ctx: Context) -> str:
    return ctx.request_context.lifespan_context.texts[name]


@mcp.prompt(title="Review")
def review(text: str) -> list[Message]:
    return [UserMessage("Review this:"), UserMessage(text), AssistantMessage("I shall.")]


if __name__ == "__main__":
    mcp.run(transport="stdio")
