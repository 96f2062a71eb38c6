"""One service file, one port: an agent over MCP and a program over RPC, in the same call at the same time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from mcp import Client

from tests.e2e.conftest import FIXTURES
from tests.rigs.protoc import generated
from tests.rigs.server import ServerProcess, running_async, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
MEETING = FIXTURES / "meeting.py"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with running_async(tailrace_command(MEETING), tmp_path / "log") as server:
        yield server
        assert server.records() == [], server.stderr_tail()


async def exported() -> str:
    """The .proto that a program's author gets."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "gen", "proto", str(MEETING), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30.0):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_an_mcp_client_and_a_grpc_client_meet(server: ServerProcess, era: Any) -> None:
    code: Any = generated("meeting_of_the_tests", await exported())
    async with (
        Client(f"{server.url}/mcp", mode=era) as agent,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        meet = channel.unary_unary(
            "/meeting.v1.Meeting/Meet",
            request_serializer=code.MeetRequest.SerializeToString,
            response_deserializer=code.Met.FromString,
        )
        waiting = asyncio.ensure_future(agent.call_tool("meet", {"me": "agent"}))
        program = await meet(code.MeetRequest(me="program"), timeout=30.0)
        answer = await waiting
        assert (program.me, list(program.others)) == ("program", ["agent"])
        assert answer.structured_content == {"me": "agent", "others": ["program"]}
