"""Files written for FastMCP and the official SDK, as programs of their own; the official Python client is served."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import mcp.types as types
import pytest
from mcp import Client, StdioServerParameters

from tests.rigs.fastmcp_files import moved
from tests.rigs.server import running_async

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
LIMIT = 100.0  # seconds, the start of a program among them
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])


def told(result: Any) -> str:
    return "".join(block.text for block in result.content)


async def fill_in(context: Any, params: Any) -> types.ElicitResult:
    if params.message == "Where to?":
        return types.ElicitResult(action="accept", content={"city": "Oslo", "nights": 2})
    (field,) = params.requested_schema["properties"].values()
    return types.ElicitResult(action="accept", content={"value": ["bag"] if field["type"] == "array" else "window"})


async def describe(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    assert params.system_prompt == "You are a guide."
    return types.CreateMessageResult(
        role="assistant", content=types.TextContent(type="text", text="Cold."), model="parrot"
    )


@ERAS
async def test_over_stdio(tmp_path: Path, era: Any) -> None:
    target = StdioServerParameters(command=sys.executable, args=[str(moved("weather", tmp_path))], env=dict(os.environ))
    with anyio.fail_after(LIMIT):
        async with Client(target, mode=era) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["add", "forecast", "cities", "summary"]
            report = await client.call_tool("forecast", {"city": "Oslo", "days": 2})
            assert report.structured_content == {"city": "Oslo", "celsius": 3.5, "warnings": []}
            wrong = await client.call_tool("forecast", {"city": "Atlantis"})
            assert wrong.is_error
            assert told(wrong) == "unknown city: Atlantis"
            (now,) = (await client.read_resource("weather://oslo/now")).contents
            assert now.text == "3.5 degrees"  # type: ignore[union-attr]
            prompt = await client.get_prompt("pack", {"city": "Oslo"})
            assert prompt.messages[0].content.text == "What do I pack for 2 days in Oslo?"  # type: ignore[union-attr]


@ERAS
async def test_a_file_for_its_own_sdk(tmp_path: Path, era: Any) -> None:
    target = StdioServerParameters(command=sys.executable, args=[str(moved("notes", tmp_path))], env=dict(os.environ))
    with anyio.fail_after(LIMIT):
        async with Client(target, mode=era) as client:
            written = await client.call_tool("write", {"name": "second", "text": "there"})
            assert written.structured_content == {"result": 2}
            (picture,) = (await client.call_tool("dot", {})).content
            assert picture.mime_type == "image/png"  # type: ignore[union-attr]
            review = await client.get_prompt("review", {"text": "it"})
            assert [one.role for one in review.messages] == ["user", "user", "assistant"]


@ERAS
async def test_over_http_and_asked(tmp_path: Path, era: Any) -> None:
    command = [sys.executable, str(moved("trip", tmp_path))]
    async with running_async(command, tmp_path / "log") as server:
        with anyio.fail_after(LIMIT):
            async with Client(
                f"{server.url}/mcp", mode=era, elicitation_callback=fill_in, sampling_callback=describe
            ) as client:
                assert told(await client.call_tool("book", {})) == "Oslo for 2"
                assert told(await client.call_tool("seat", {})) == "window with bag"
                assert told(await client.call_tool("describe", {"city": "Oslo"})) == "Cold."
        assert server.records() == [], server.stderr_tail()


@ERAS
async def test_options_over_http(tmp_path: Path, era: Any) -> None:
    async with running_async([sys.executable, str(moved("shop", tmp_path))], tmp_path / "log") as server:
        with anyio.fail_after(LIMIT):
            async with Client(f"{server.url}/mcp", mode=era) as client:
                assert (await client.call_tool("price_of", {"item": "tea"})).structured_content == {"result": 3}
                assert told(await client.call_tool("price_of", {"item": "gold"})) == "we have no gold"
                assert told(await client.call_tool("report", {})) == "three teas"
        assert server.records() == [], server.stderr_tail()
