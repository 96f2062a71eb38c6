"""The official Python client sends headers of its own, and a tool sees them: over each way that has some."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.rigs.server import running_async, tailrace_command

ON_BOTH = pytest.mark.parametrize("served_by", ["listener", "uvicorn"], indirect=True)
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), ON_BOTH]

SEEN = Path(__file__).parent / "fixtures" / "seen.py"
MINE = {"X-Tenant": "acme", "Authorization": "Bearer s3cret"}


async def seen(place: Any, era: Any) -> Any:
    async with Client(place, mode=era, cache=None) as client:
        return (await client.call_tool("seen", {})).structured_content


async def test_a_tool_sees_the_headers_that_its_client_sends(tmp_path: Path) -> None:
    expected = {name.lower(): value for name, value in MINE.items()}
    async with running_async(tailrace_command(SEEN), tmp_path / "log") as server, AsyncExitStack() as stack:
        for era in ("legacy", "auto"):
            http = await stack.enter_async_context(create_mcp_http_client(headers=MINE))
            assert await seen(streamable_http_client(server.url + "/mcp", http_client=http), era) == expected
        assert await seen(sse_client(server.url + "/sse", headers=MINE), "legacy") == expected
        assert await seen(server.url + "/mcp", "auto") == {}
        assert server.records() == [], server.stderr_tail()


async def test_a_token_that_the_server_checks_is_not_among_them(tmp_path: Path) -> None:
    command = tailrace_command(SEEN, "--auth-token", "s3cret")
    async with running_async(command, tmp_path / "log") as server, create_mcp_http_client(headers=MINE) as http:
        assert await seen(streamable_http_client(server.url + "/mcp", http_client=http), "auto") == {"x-tenant": "acme"}
        assert server.records() == [], server.stderr_tail()
