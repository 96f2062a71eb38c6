"""One client stops to read: memory stays flat, its other calls are answered, it is dropped in time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.witness import Witness
from tests.rigs.rawmcp import HttpSse, Reply, Streamable, call, eventually, modern_call, modern_post, text_of
from tests.rigs.server import ServerProcess, running_async

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.parametrize("served_by", ["listener", "uvicorn"], indirect=True),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
STALL = 2.0  # seconds
SERVE = f"""
import os
from tests.e2e.fixtures.calls import svc
svc.run("http", port=0, stall={STALL}, server=os.environ["TAILRACE_SERVER"])
"""
COUNT, SIZE = 3200, 65_536  # 200 MB
GROWTH = 16_000  # KB


@pytest.fixture
async def server(served_by: None, witness: Witness, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with running_async([sys.executable, "-c", SERVE], tmp_path / "log", env=witness.env) as process:
        yield process
        assert process.records() == [], f"ERROR records:\n{process.stderr_tail()}"


def memory(server: ServerProcess, field: str = "VmRSS") -> int:
    """KB of it."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(f"no {field}")


async def warm_up(server: ServerProcess, witness: Witness) -> None:
    """One that reads takes some of it, so that what is measured is what stalling costs."""
    client = await Streamable(server.url).open()
    reply = await client.post(call("warm", "burst", {"key": "warm", "count": 200, "size": SIZE}))
    assert "result" in await reply.answer("warm")
    reply.close()
    await client.delete()


async def begin(server: ServerProcess, witness: Witness, way: str) -> tuple[Streamable | HttpSse | None, Reply]:
    """A session (if there is one), and the connection of a call in it whose client stops to read."""
    arguments = {"key": "big", "count": COUNT, "size": SIZE}
    if way == "sse":
        session = await HttpSse(server.url).open()
        assert await session.post(call("big", "burst", arguments)) == 202
        assert session.reply is not None
        return session, session.reply
    if way == "streamable":
        streamable = await Streamable(server.url).open()
        return streamable, await streamable.post(call("big", "burst", arguments))
    message = modern_call("big", "burst", arguments)
    message["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = "info"
    return None, await modern_post(server.url, message)


@pytest.mark.parametrize("way", ["sse", "streamable", "modern"])
async def test_200_mb_for_a_client_that_does_not_read(server: ServerProcess, way: str, witness: Witness) -> None:
    await warm_up(server, witness)
    before = memory(server)
    began = asyncio.get_running_loop().time()
    session, reply = await begin(server, witness, way)
    reply.connection.stop_reading()
    await witness.sees("start big")
    if isinstance(session, Streamable):  # HTTP+SSE has one stream a session: its answers wait there
        for id in range(20):
            answer = await session.call(id, "add", {"terms": [id, 1]})
            assert answer["result"]["structuredContent"]["total"] == id + 1
    if isinstance(session, HttpSse):
        assert await session.post(call("other", "gate", {"key": "other"})) == 202
        witness.open("other")
        await witness.sees("end other")
    ended = "end big" in witness.lines()  # on a busy machine the limit may be over by now
    assert not ended or asyncio.get_running_loop().time() > began + STALL, "the call waits for its reader"
    outcome = "cancelled big" if way == "modern" else "end big"
    await eventually(lambda: outcome in witness.lines(), f"{outcome}: its handler is told", limit=60.0)
    grown = memory(server, "VmHWM") - before
    assert grown < GROWTH, f"{COUNT * SIZE} bytes for one that does not read: memory grew by {grown} KB"
    if isinstance(session, HttpSse):
        last = session.last_event_id
        await session.resume(last)
        assert session.reply is not None
        assert session.reply.head.get("tailrace-resume") == "gap"
        assert text_of(await session.answer("other")) == "other"
        assert "result" in await session.answer("big")
        session.close()
    reply.abort()
    await asyncio.sleep(0)
