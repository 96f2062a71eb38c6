"""FastMCP's client, 4.x."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import plan
from fastmcp import Client
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport


class Connected:
    """A connected client."""

    def __init__(self, client: Client[Any]) -> None:
        self.client = client
        self.protocol = client.protocol_version
        self.server = client.server_info.name if client.server_info is not None else None

    async def list(self) -> list[dict[str, Any]]:
        tools = await self.client.list_tools()  # all pages
        return [{"name": one.name, "input": one.input_schema, "output": one.output_schema} for one in tools]

    async def call(
        self, name: str, arguments: dict[str, Any], on_progress: plan.OnProgress | None = None
    ) -> plan.Answer:
        result = await self.client.call_tool(name, arguments, progress_handler=on_progress, raise_on_error=False)
        text = "".join(getattr(part, "text", "") for part in result.content)
        return plan.Answer(bool(result.is_error), result.structured_content, text)


@asynccontextmanager
async def connect(options: plan.Options) -> AsyncIterator[Connected]:
    async with Client(place(options), mode=options.era) as client:
        yield Connected(client)


def place(options: plan.Options) -> Any:
    if options.transport == "stdio":
        command, *args = options.target
        return StdioTransport(command, args, env=dict(options.env), keep_alive=False)
    return SSETransport(options.target) if options.transport == "sse" else StreamableHttpTransport(options.target)


plan.main(connect)
