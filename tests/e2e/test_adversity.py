"""A bad line on every way of asking: byte by byte, late, in pieces of any size, and cut in the middle of a request."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.plans import CALLS
from tests.e2e.witness import Witness
from tests.rigs.proxy import Fault, Plan, running_proxy
from tests.rigs.rawhttp import Cut, Stalled
from tests.rigs.rawmcp import (
    HttpSse,
    Streamable,
    call,
    is_answer,
    modern_call,
    modern_headers,
    modern_meta,
    modern_post,
)
from tests.rigs.rawmcp import send as send_request
from tests.rigs.server import ServerProcess, running, tailrace_command

ON_BOTH = pytest.mark.parametrize("served_by", ["listener", "uvicorn"], indirect=True)
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), ON_BOTH]
COUNT = 30
BURST = {"key": "a", "count": COUNT, "size": 64}
LINES = {
    "byte by byte": Plan(piece=1),
    "in pieces of any size": Plan(piece=50, chance=7),
    "late": Plan(piece=200, delay=0.005),
}
Message = dict[str, Any]


@pytest.fixture
def server(witness: Witness, tmp_path: Path) -> Iterator[ServerProcess]:
    """`tailrace run` of the calls that are watched; a bad line is no error of the server."""
    command = tailrace_command(CALLS, store=f"sqlite:{tmp_path / 'store.db'}")
    with running(command, tmp_path / "log", env=witness.env) as process:
        yield process
        assert process.records() == [], process.stderr_tail()


async def over_sse(url: str) -> list[Message]:
    client = await HttpSse(url).open()
    assert await client.post(call("a", "burst", BURST)) == 202
    await client.answer("a")
    client.close()
    return client.messages


async def over_streamable(url: str) -> list[Message]:
    client = await Streamable(url).open()
    reply = await client.post(call("a", "burst", BURST))
    found = [message async for message in reply.stream.messages()]
    reply.close()
    return found


async def over_modern(url: str) -> list[Message]:
    message = modern_call("a", "burst", BURST)
    message["params"]["_meta"] = {**modern_meta(), "io.modelcontextprotocol/logLevel": "info"}
    reply = await modern_post(url, message)
    found = [message async for message in reply.stream.messages()]
    reply.close()
    return found


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("ask", [over_sse, over_streamable, over_modern])
async def test_a_bad_line_changes_nothing(
    ask: Callable[[str], Awaitable[list[Message]]], line: str, server: ServerProcess, witness: Witness
) -> None:
    async with running_proxy(server.port, lambda _: LINES[line]) as proxy:
        messages = await ask(proxy.url)
    numbers = [m["params"]["data"]["n"] for m in messages if m.get("method") == "notifications/message"]
    assert numbers == list(range(COUNT))
    assert is_answer(messages[-1], "a")
    assert witness.count("start a") == 1


@pytest.mark.parametrize("fault", ["rst", "fin", "half-close"])
@pytest.mark.parametrize("era", ["sse", "streamable", "modern"])
async def test_a_request_that_is_cut_anywhere_has_not_been_made(
    era: str, fault: Fault, server: ServerProcess, witness: Witness
) -> None:
    sse, http = await HttpSse(server.url).open(), await Streamable(server.url).open()
    message = modern_call(1, "gate", {"key": "cut"}) if era == "modern" else call(1, "gate", {"key": "cut"})
    headers = [("Content-Type", "application/json")] if era == "sse" else http.headers()
    if era == "modern":
        headers = modern_headers("tools/call", "gate")
    target = sse.endpoint.removeprefix(server.url) if era == "sse" else "/mcp"
    body = json.dumps(message).encode()
    async with running_proxy(server.port) as proxy:
        refused = await send_request(proxy.url + target, "POST", headers, b"{}")
        await refused.read_head()
        size = proxy.connections[0].up - 2 + len(body) + len(str(len(body))) - 1
        for cut in range(1, size, 23):
            proxy.plan = lambda _, cut=cut: Plan(cut_up_after=cut, fault=fault)
            connection = await send_request(proxy.url + target, "POST", headers, body)
            try:
                head = await connection.read_head(5.0)
                assert head.status >= 400, f"cut after {cut} of {size} bytes: HTTP {head.status}"
            except (Cut, Stalled, OSError):
                pass
            connection.abort()
            assert proxy.connections[-1].struck, f"{cut} of {size} bytes were never sent"
    witness.open("all")
    answer = await http.call(2, "gate", {"key": "whole"})
    assert "result" in answer
    assert [line for line in witness.lines() if line.startswith("start")] == ["start whole"]
    sse.close()
