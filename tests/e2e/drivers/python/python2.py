"""The official Python client, 2.x, as a process of its own; `../../python_client.py` has it within the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import plan
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client


class Connected:
    """A connected client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.protocol = client.protocol_version
        self.server = client.server_info.name if client.server_info is not None else None

    async def list(self) -> list[dict[str, Any]]:
        tools: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self.client.list_tools(cursor=cursor)
            tools += [{"name": one.name, "input": one.input_schema, "output": one.output_schema} for one in page.tools]
            cursor = page.next_cursor
            if cursor is None:
                return tools

    async def call(
        self, name: str, arguments: dict[str, Any], on_progress: plan.OnProgress | None = None
    ) -> plan.Answer:
        result: Any = await self.client.call_tool(name, arguments, progress_callback=on_progress)
        text = "".join(getattr(part, "text", "") for part in result.content)
        return plan.Answer(bool(result.is_error), result.structured_content, text)


@asynccontextmanager
async def connect(options: plan.Options) -> AsyncIterator[Connected]:
    async with Client(place(options), mode=options.era, cache=None) as client:
        yield Connected(client)


def place(options: plan.Options) -> Any:
    if options.transport == "stdio":
        command, *args = options.target
        return StdioServerParameters(command=command, args=args, env=dict(options.env))
    return sse_client(options.target) if options.transport == "sse" else options.target


plan.main(connect)
