"""The client against the official SDK's server: every transport, both eras."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.clients.mcp import Client, LogMessage
from tailrace.errors import ProtocolError

from .fake_http import timed_out

SERVER = str(Path(__file__).with_name("official_server.py"))
STDIO = [sys.executable, SERVER, "stdio"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, SERVER, "http"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


HTTP = ["modern", "legacy", "sse"]
WAYS = [*HTTP, "stdio modern", "stdio legacy"]  # a child takes seconds to import the SDK: for what may differ there


def client(way: str, url: str, **options: Any) -> Client:
    options["connect_timeout"] = 60  # half of it for a child to start, on a busy machine
    match way:
        case "sse":
            return Client(f"{url}/sse", **options)
        case "stdio modern":
            return Client(STDIO, **options)
        case "stdio legacy":
            return Client(STDIO, era="legacy", **options)
        case _:
            return Client(url, era="auto" if way == "modern" else "legacy", **options)


@pytest.mark.parametrize("way", WAYS)
async def test_it_lists_and_calls(way: str, url: str) -> None:
    async with client(way, url) as c:
        assert c.era == ("modern" if "modern" in way else "legacy")
        assert c.protocol_version == ("2026-07-28" if "modern" in way else "2025-11-25")
        assert c.server_info.name == "official"
        assert c.instructions == "ask for sums"
        assert "tools" in c.capabilities
        assert (c.session_id is not None) == (way in ("legacy", "sse"))
        tools = {tool.name: tool for tool in await c.list_tools()}
        assert {"add", "double", "fail", "steps"} <= set(tools)
        assert tools["add"].description == "Add numbers."
        assert "terms" in tools["add"].input_schema["properties"]
        added = await c.call_tool("add", {"terms": [1, 2, 3]})
        assert added.data == {"total": 6, "terms": [1, 2, 3]} == added.structured_content
        assert not added.is_error
        doubled = await c.call_tool("double", {"number": 4})
        assert (doubled.data, doubled.structured_content, doubled.text) == (8, {"result": 8}, "8")
        await c.ping()


@pytest.mark.parametrize("way", WAYS)
async def test_progress_comes_in_order_and_before_the_answer(way: str, url: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def see(done: float, total: float | None, message: str | None) -> None:
        await asyncio.sleep(0)
        seen.append((done, total, message))

    async with client(way, url) as c:
        answer = await c.call_tool("steps", {"count": 20}, progress=see)
    assert answer.data == "done"
    assert seen == [(n, 20, f"step {n}") for n in range(1, 21)]


@pytest.mark.parametrize("way", HTTP)
async def test_a_tool_that_fails_gives_a_result_that_says_so(way: str, url: str) -> None:
    async with client(way, url) as c:
        answer = await c.call_tool("fail")
        assert answer.is_error
        assert "as asked" in answer.text or "fail" in answer.text


@pytest.mark.parametrize("way", HTTP)
async def test_an_unknown_method_is_a_protocol_error(way: str, url: str) -> None:
    async with client(way, url) as c:
        with pytest.raises(ProtocolError) as caught:
            await c.request("no/such/method")
        assert caught.value.code in (-32601, -32602)  # the SDK's legacy server says -32602
        assert (await c.call_tool("double", {"number": 1})).data == 2


@pytest.mark.parametrize("way", HTTP)
async def test_log_messages_reach_the_callback(way: str, url: str) -> None:
    logged: list[LogMessage] = []
    async with client(way, url, on_log=logged.append) as c:
        await c.call_tool("speak")
        async with asyncio.timeout(60):
            while not logged:  # a legacy server may send it on another stream than the answer
                await asyncio.sleep(0.01)
    assert logged[0].level == "info"
    assert logged[0].data == {"said": "something"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["cancelled", "timed out"])
async def test_a_call_that_nobody_waits_for_is_cancelled_at_the_server(way: str, end: str, url: str) -> None:
    async with client(way, url) as c:
        before = (await c.call_tool("cancellations")).data
        hanging = asyncio.Event()

        def hang(seconds: float) -> Any:
            return c.call_tool("hang", progress=lambda *_: hanging.set(), timeout=seconds)

        if end == "cancelled":
            call = asyncio.ensure_future(hang(60.0))
            await hanging.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            await timed_out(hang, hanging.is_set, 1.0)
        async with asyncio.timeout(60):
            while (await c.call_tool("cancellations")).data == before:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", HTTP)
async def test_many_calls_at_the_same_time_get_their_own_answers(way: str, url: str) -> None:
    async with client(way, url) as c:
        answers = await asyncio.gather(*(c.call_tool("double", {"number": n}) for n in range(50)))
    assert [answer.data for answer in answers] == [2 * n for n in range(50)]


async def test_a_streamable_address_that_speaks_only_sse_is_understood(url: str) -> None:
    async with Client(f"{url}/sse", transport="auto") as c:
        assert c.session_id
    async with Client(f"{url}/sse/?", era="auto") as c:  # no exact /sse: tried by POST first, which is refused
        assert (await c.call_tool("double", {"number": 3})).data == 6
