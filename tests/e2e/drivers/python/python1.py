"""The official Python client, 1.x (legacy versions only)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import plan
from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client


class Connected:
    """A session that has shaken hands."""

    def __init__(self, session: ClientSession, hello: Any) -> None:
        self.session = session
        self.protocol = hello.protocolVersion
        self.server = hello.serverInfo.name

    async def list(self) -> list[dict[str, Any]]:
        tools: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self.session.list_tools(cursor)
            tools += [
                {"name": tool.name, "input": tool.inputSchema, "output": tool.outputSchema} for tool in page.tools
            ]
            cursor = page.nextCursor
            if cursor is None:
                return tools

    async def call(
        self, name: str, arguments: dict[str, Any], on_progress: plan.OnProgress | None = None
    ) -> plan.Answer:
        result = await self.session.call_tool(name, arguments, progress_callback=on_progress)
        text = "".join(getattr(part, "text", "") for part in result.content)
        return plan.Answer(bool(result.isError), result.structuredContent, text)


@asynccontextmanager
async def connect(options: plan.Options) -> AsyncIterator[Connected]:
    async with transport(options) as (read, write, *_), ClientSession(read, write) as session:
        yield Connected(session, await session.initialize())


def transport(options: plan.Options) -> Any:
    if options.transport == "stdio":
        command, *args = options.target
        return stdio_client(StdioServerParameters(command=command, args=args, env=dict(options.env)))
    return sse_client(options.target) if options.transport == "sse" else streamable_http_client(options.target)


plan.main(connect)
