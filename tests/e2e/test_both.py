"""One service file, one port: an agent over MCP and a program over RPC, in the same call at the same time."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from mcp import Client

from tailrace import connect
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


async def exported(what: str = "proto") -> str:
    """What a program's author gets of `tailrace gen`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "gen", what, str(MEETING), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60.0):
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


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpc-web"])
@pytest.mark.parametrize("codec", ["proto", "json"])
async def test_the_typed_clients_call_their_service(server: ServerProcess, protocol: Any, codec: Any) -> None:
    stubs: Any = types.ModuleType("stubs_of_the_meeting")
    sys.modules[stubs.__name__] = stubs  # where dataclasses and type hints look
    exec(await exported("stubs"), stubs.__dict__)
    mets = [stubs.Met(me="a", others=["b"]), stubs.Met(me="c", others=["d", "e"])]
    async with connect.Client(server.url, protocol=protocol, codec=codec) as client:
        meeting = stubs.MeetingClient(client)
        me = f"{protocol} {codec}"
        met = await meeting.meet(stubs.MeetRequest(me=me, parties=1), timeout=30.0)
        assert (met.me, met.others) == (me, [])
        async with meeting.count(stubs.CountRequest(to=3), timeout=30.0) as stream:
            assert [one.result async for one in stream] == [0, 1, 2]
        async with meeting.total(timeout=30.0) as load:
            for one in mets:
                await load.send(one)
            assert (await load.close_and_receive()).result == 3
        if protocol == "grpc":
            async with meeting.echo(timeout=30.0) as talk:
                for one in mets:
                    await talk.send(one)
                    assert await talk.receive() == one
                await talk.close_send()
                assert await talk.receive() is None
