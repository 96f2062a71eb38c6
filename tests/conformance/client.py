"""The client that the conformance suite drives: one process for each scenario, the server's URL its last argument.

The suite says in the environment which scenario it plays, in which version, and what the client has to know for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from tailrace.mcp import Client

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
CONTEXT: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
MODERN = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2025-11-25") >= "2026-07-28"


def connect(url: str, **options: Any) -> Client:
    """A client of the era that is asked for."""
    return Client(url, era="modern" if MODERN else "legacy", client_info=("conformance", "1.0.0"), **options)


async def list_and_call(url: str) -> None:
    """What most scenarios want to see: the tools listed, each called."""
    async with connect(url) as client:
        for tool in await client.list_tools():
            await client.call_tool(tool.name, {"a": 5, "b": 3} if tool.name == "add_numbers" else {})


async def initialize(url: str) -> None:
    async with connect(url) as client:
        await client.list_tools()


async def sse_retry(url: str) -> None:
    """With roots to be asked for, the client listens before it calls; the suite takes any later GET for a reconnect."""
    async with connect(url, roots=[]) as client:
        for tool in await client.list_tools():
            await client.call_tool(tool.name)


async def elicitation_defaults(url: str) -> None:
    """Nothing is filled in, so the form's defaults are what the server gets."""
    async with connect(url, elicitation=lambda message, schema: {}) as client:
        for tool in await client.list_tools():
            await client.call_tool(tool.name)


async def standard_headers(url: str) -> None:
    async with connect(url) as client:
        for tool in await client.list_tools():
            await client.call_tool(tool.name)
        for resource in await client.list_resources():
            await client.read_resource(resource.uri)
        for prompt in await client.list_prompts():
            await client.get_prompt(prompt.name)


async def custom_headers(url: str) -> None:
    async with connect(url) as client:
        await client.list_tools()
        for call in CONTEXT["toolCalls"]:
            await client.call_tool(call["name"], call["arguments"])


async def invalid_tool_headers(url: str) -> None:
    async with connect(url) as client:
        for tool in await client.list_tools():
            await client.call_tool(tool.name, {"region": "us-west1"})


async def schema_preserved(url: str) -> None:
    async with connect(url) as client:
        tools = {tool.name: tool for tool in await client.list_tools()}
        seen = tools["json_schema_2020_12_tool"].input_schema
        await client.call_tool("json_schema_echo", {"schema": seen})


SCENARIOS: dict[str, Callable[[str], Awaitable[None]]] = {
    "initialize": initialize,
    "sse-retry": sse_retry,
    "elicitation-sep1034-client-defaults": elicitation_defaults,
    "http-standard-headers": standard_headers,
    "http-custom-headers": custom_headers,
    "http-invalid-tool-headers": invalid_tool_headers,
    "json-schema-ref-no-deref": initialize,
    "json-schema-2020-12-preservation": schema_preserved,
}

if __name__ == "__main__":
    asyncio.run(SCENARIOS.get(SCENARIO, list_and_call)(sys.argv[-1]))
