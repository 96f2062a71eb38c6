"""A server with a hundred pieces of detached work gets SIGTERM: what ends within the drain has ended, and each of the
others is reported by its name, with its age and the correlation id of its request."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import FIXTURES
from tests.rigs.rawmcp import Reply, Streamable, call, eventually, exchange, send
from tests.rigs.server import UVICORN_READY, ServerProcess, running_async, tailrace_command, uvicorn_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DRAIN = 5.0  # seconds, as the fixture has it for FastAPI
FIXTURE = FIXTURES / "detached.py"
DROPPED = re.compile(r"detached work dropped name=(\S+) age=([\d.]+)s correlation_id=(\S+)")
PIECES = [f"{number:02}" for number in range(100)]
IN_TIME, TOO_LONG = PIECES[:50], PIECES[50:]


def trace(item: str) -> str:
    return f"{int(item) + 1:032x}"


async def spawn(server: ServerProcess, session: Streamable | None, item: str) -> None:
    """A request that leaves a piece of work behind, under a trace of its own."""
    traced = [("traceparent", f"00-{trace(item)}-00f067aa0ba902b7-01")]
    if session is None:
        reply = await exchange(f"{server.url}/work/{item}", "POST", traced, b"")
        assert reply.head.status == 200, await reply.text()
        reply.close()
    else:
        body = json.dumps(call(item, "work", {"item": item})).encode()
        connection = await send(session.url, "POST", [*session.headers(), *traced], body)
        answer = await Reply(connection, await connection.read_head()).answer(item)
        assert not answer["result"].get("isError"), answer
        connection.close()


@asynccontextmanager
async def served(kind: str, tmp_path: Path) -> AsyncGenerator[tuple[ServerProcess, Streamable | None]]:
    env = {"DETACHED": str(tmp_path)}
    if kind == "fastapi":
        command = uvicorn_command(FIXTURE, "app")
        async with running_async(command, tmp_path / "log", env=env, ready=UVICORN_READY) as server:
            yield server, None
    else:
        command = tailrace_command(FIXTURE, "--drain", f"{DRAIN:g}")
        async with running_async(command, tmp_path / "log", env=env) as server:
            yield server, await Streamable(server.url).open()


@pytest.mark.parametrize("kind", ["tool", "fastapi"])
async def test_of_a_hundred_pieces_each_has_ended_in_time_or_is_reported_by_name(kind: str, tmp_path: Path) -> None:
    async with served(kind, tmp_path) as (server, session):
        for item in PIECES:
            await spawn(server, session, item)
        await eventually(lambda: len(list(tmp_path.glob("*.begun"))) == len(PIECES), "all pieces are at work")
        server.process.terminate()
        await asyncio.sleep(0.3)  # it drains now; the pieces that can, end in the midst of that
        for item in IN_TIME:
            (tmp_path / f"{item}.open").touch()
        code = await asyncio.to_thread(server.wait, 60.0)
    assert code == 0 if kind == "tool" else code in (0, -15)  # uvicorn raises the signal again when it is done
    assert sorted(path.stem for path in tmp_path.glob("*.done")) == IN_TIME
    found = DROPPED.findall(server.stderr())
    assert sorted(name for name, _, _ in found) == [f"piece-{item}" for item in TOO_LONG]
    for name, age, correlation_id in found:
        assert correlation_id == trace(name.removeprefix("piece-"))
        assert DRAIN - 0.5 <= float(age) <= 60.0
    if kind == "tool":  # FastAPI's program has set up no logging: there the message is all there is
        assert len(server.records("ERROR")) == len(TOO_LONG)
