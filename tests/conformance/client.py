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

import pyqwest

from tailrace.mcp import Client, OAuth

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
CONTEXT: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
MODERN = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2025-11-25") >= "2026-07-28"


CIMD = "https://conformance-test.local/client-metadata.json"


async def authorize(url: str) -> str:
    """The user's part: the suite's authorization server sends everybody back at once."""
    transport = pyqwest.HTTPTransport(follow_redirects=False)
    async with pyqwest.Client(transport).stream("GET", url) as response:
        return response.headers["location"]


def oauth() -> OAuth:
    """What the scenario's client has: credentials from the context, or the address of its metadata."""
    if "client-credentials" in SCENARIO:
        return OAuth(
            grant="client_credentials",
            client_id=CONTEXT["client_id"],
            client_secret=CONTEXT.get("client_secret"),
            private_key=CONTEXT.get("private_key_pem"),
            algorithm=CONTEXT.get("signing_algorithm", "ES256"),
        )
    return OAuth(
        client_id=CONTEXT.get("client_id"),
        client_secret=CONTEXT.get("client_secret"),
        issuer=CONTEXT.get("issuer"),
        client_metadata_url=CIMD,
        redirect=authorize,
        redirect_uri="http://localhost:3000/callback",
    )


def connect(url: str, **options: Any) -> Client:
    """A client of the era that is asked for."""
    if SCENARIO.startswith("auth/"):
        options["auth"] = oauth()
    options["connect_timeout"] = 45.0  # the suite starts all scenarios at once
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


async def request_state(url: str) -> None:
    """While one call is asked, another one is made: nothing of the first is in it."""

    async def confirm(message: str, schema: Any) -> Any:
        await client.call_tool("test_mrtr_unrelated")
        return {"confirmed": True}

    async with connect(url, elicitation=confirm) as client:
        for name in ("test_mrtr_echo_state", "test_mrtr_no_state", "test_mrtr_no_result_type"):
            await client.call_tool(name)


SCENARIOS: dict[str, Callable[[str], Awaitable[None]]] = {
    "initialize": initialize,
    "sse-retry": sse_retry,
    "elicitation-sep1034-client-defaults": elicitation_defaults,
    "sep-2322-client-request-state": request_state,
    "http-standard-headers": standard_headers,
    "http-custom-headers": custom_headers,
    "http-invalid-tool-headers": invalid_tool_headers,
    "json-schema-ref-no-deref": initialize,
    "json-schema-2020-12-preservation": schema_preserved,
}

if __name__ == "__main__":
    asyncio.run(SCENARIOS.get(SCENARIO, list_and_call)(sys.argv[-1]))
