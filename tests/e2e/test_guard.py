"""`tailrace guard` before a server of the official SDK: one word, and its calls outlive connections and retries."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tailrace.mcp import Client
from tests.rigs.server import ROOT, ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SERVER = '''
import os
from mcp.server.mcpserver import MCPServer

server = MCPServer("stranger", instructions="Be kind.")
lent = 0

@server.tool()
def lend(book: str) -> str:
    """Lends a book."""
    global lent
    lent += 1
    return f"{book} lent {lent}"

@server.tool()
def pid() -> int:
    return os.getpid()

@server.resource("library://{name}")
def page(name: str) -> str:
    return name

if __name__ == "__main__":
    server.run()
'''


@pytest.fixture(params=["object", "command"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    file = tmp_path / "stranger.py"
    file.write_text(SERVER)
    behind = [f"{file}:server"] if request.param == "object" else []
    program = [] if request.param == "object" else ["--", sys.executable, str(file)]
    command = [sys.executable, "-m", "tailrace", "guard", *behind, "--port", "0", "--store", "memory", *program]
    process = ServerProcess(command, tmp_path / "guard.log", env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"})
    try:
        process.wait_ready(60)
        yield process
    finally:
        process.close()


async def test_a_stranger_is_served_a_retry_runs_once_and_its_process_ends_with_the_guard(
    guarded: ServerProcess,
) -> None:
    async with asyncio.timeout(160):
        async with Client(guarded.url, era="legacy") as client:
            assert client.instructions == "Be kind."
            assert [one.name for one in await client.list_tools()] == ["lend", "pid"]
            first = await client.call_tool("lend", {"book": "Emma"}, idempotency_key="k")
            again = await client.call_tool("lend", {"book": "Emma"}, idempotency_key="k")
            assert first.text == again.text == "Emma lent 1"
            assert (await client.read_resource("library://hours")).text == "hours"
            child = int((await client.call_tool("pid")).text)
        async with Client(guarded.url, era="modern") as client:
            await client.list_tools()
        assert await asyncio.to_thread(guarded.stop) == 0
        assert not psutil.pid_exists(child)
        assert guarded.records() == []
