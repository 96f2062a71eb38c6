"""The official Python client (`mcp` 2.x) put through one plan over its transports; gives a report, judges nothing.

A plan names four calls, `structured`, `progress`, `error` and `cancel`, each `{"name": TOOL, "arguments": {...}}`. The
report has the same keys as that of `node/drive.mjs`, so that one set of checks serves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client

Transport: TypeAlias = Literal["streamable", "sse", "stdio"]
Era: TypeAlias = Literal["legacy", "auto"]
Plan: TypeAlias = Mapping[str, Mapping[str, Any]]
LIMIT = 100.0  # seconds for all of it


async def drive(
    transport: Transport, target: str | Sequence[str], era: Era, plan: Plan, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Connect, list, call four times, list again.

    Args:
        transport: How to reach the server.
        target: The URL of `/mcp` or `/sse`; over stdio the command.
        era: `legacy` shakes hands with initialize; `auto` asks `server/discover` first and falls back.
        plan: The four calls.
        env: The environment of a stdio server.
    """
    with anyio.fail_after(LIMIT):
        async with Client(_place(transport, target, env), mode=era, read_timeout_seconds=LIMIT, cache=None) as client:
            info = client.server_info
            report: dict[str, Any] = {
                "protocol": client.protocol_version,
                "server": info.name if info is not None else None,
                "tools": await _list(client),
            }
            report["structured"] = await _structured(client, plan["structured"])
            report["progress"] = await _progress(client, plan["progress"])
            report["error"] = await _error(client, plan["error"])
            report["cancelled"] = await _cancel(client, plan["cancel"])
            report["after"] = await _list(client)
            return report


def _place(transport: Transport, target: str | Sequence[str], env: Mapping[str, str] | None) -> Any:
    if transport == "stdio":
        return StdioServerParameters(command=target[0], args=list(target[1:]), env=dict(env or {}))
    assert isinstance(target, str)
    return sse_client(target) if transport == "sse" else target


async def _list(client: Client) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += [{"name": tool.name, "input": tool.input_schema, "output": tool.output_schema} for tool in page.tools]
        cursor = page.next_cursor
        if cursor is None:
            return tools


async def _structured(client: Client, step: Mapping[str, Any]) -> dict[str, Any]:
    result = await client.call_tool(step["name"], step["arguments"])  # checked against the outputSchema by the client
    return {"isError": bool(result.is_error), "content": result.structured_content, "text": _text(result)}


async def _progress(client: Client, step: Mapping[str, Any]) -> dict[str, Any]:
    seen: list[list[Any]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append([progress, total, message])

    result = await client.call_tool(step["name"], step["arguments"], progress_callback=on_progress)
    return {"seen": seen, "isError": bool(result.is_error)}


async def _error(client: Client, step: Mapping[str, Any]) -> dict[str, Any]:
    result = await client.call_tool(step["name"], step["arguments"])
    return {"isError": bool(result.is_error), "text": _text(result)}


async def _cancel(client: Client, step: Mapping[str, Any]) -> bool:
    """Cancel the call at its first progress: it runs for sure then. True when no answer came."""
    answered = False
    with anyio.CancelScope() as scope:

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            scope.cancel()

        await client.call_tool(step["name"], step["arguments"], progress_callback=on_progress)
        answered = True
    return not answered


def _text(result: Any) -> str:
    return "".join(getattr(part, "text", "") for part in result.content)
