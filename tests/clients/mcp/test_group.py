"""Several servers as one, and the files that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailrace import Service
from tailrace.clients.mcp import StdioCommand
from tailrace.clients.mcp.group import read_servers
from tailrace.errors import DefinitionError
from tailrace.mcp import Client, ClientGroup


def service(name: str) -> Service:
    made = Service(name)

    @made.tool(name="whose")
    async def whose() -> str:
        return name

    return made


async def test_tools_are_called_under_the_names_of_their_servers() -> None:
    async with ClientGroup({"a": service("first"), "a_b": service("second")}, timeout=60.0) as group:
        assert [tool.name for tool in await group.list_tools()] == ["a_whose", "a_b_whose"]
        assert (await group.call_tool("a_whose")).data == "first"
        assert (await group.call_tool("a_b_whose")).data == "second"
        assert isinstance(group["a"], Client)
        assert (list(group), len(group)) == (["a", "a_b"], 2)
        with pytest.raises(DefinitionError, match="names begin"):
            await group.call_tool("c_whose")
        with pytest.raises(DefinitionError, match="no server lists"):
            await group.read_resource("x://1")
        assert await group.list_prompts() == []


async def test_resources_are_read_and_prompts_got_where_they_were_listed() -> None:
    first, second = service("first"), service("second")

    @first.resource("one://x")
    async def one() -> str:
        return "of the first"

    @second.resource("two://x")
    async def two() -> str:
        return "of the second"

    @second.prompt
    async def greet(name: str) -> str:
        return f"hello {name}"

    async with ClientGroup({"a": first, "b": second}) as group:
        assert (await group.read_resource("two://x")).text == "of the second"
        assert {resource.uri for resource in await group.list_resources()} == {"one://x", "two://x"}
        assert [prompt.name for prompt in await group.list_prompts()] == ["b_greet"]
        assert "hello ann" in (await group.get_prompt("b_greet", {"name": "ann"})).messages[0].text


async def test_one_server_that_is_not_there_fails_the_whole() -> None:
    with pytest.raises(Exception, match="cannot start"):
        async with ClientGroup({"a": service("first"), "b": ["/no/such/program"]}):
            pass


def test_a_file_names_commands_and_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "secret")
    monkeypatch.delenv("ABSENT", raising=False)
    file = tmp_path / "mcp.json"
    said = {
        "mcpServers": {
            "local": {"command": "python", "args": ["-m", "x", "${ABSENT:-y}"], "env": {"K": "${KEY}"}, "cwd": "/tmp"},
            "far": {"url": "https://a.example/mcp", "headers": {"Authorization": "Bearer ${env:KEY}"}},
            "old": {"url": "https://a.example/events", "type": "sse"},
        }
    }
    file.write_text(json.dumps(said))
    assert read_servers(file) == {
        "local": (StdioCommand(command="python", args=["-m", "x", "y"], env={"K": "secret"}, cwd="/tmp"), {}),
        "far": ("https://a.example/mcp", {"headers": {"Authorization": "Bearer secret"}}),
        "old": ("https://a.example/events", {"transport": "sse"}),
    }


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"mcpServers": {}}', '{"mcpServers": {"a": {}}}', '{"a": 1}'])
def test_a_file_that_names_no_servers_is_refused(text: str, tmp_path: Path) -> None:
    file: Any = tmp_path / "mcp.json"
    file.write_text(text)
    with pytest.raises(DefinitionError):
        read_servers(str(file))
    with pytest.raises(DefinitionError, match="cannot be read"):
        read_servers(tmp_path / "absent.json")
