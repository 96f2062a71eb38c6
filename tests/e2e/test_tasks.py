"""Tasks and listening streams over real processes: `kill -9`, SIGTERM, our client and FastMCP's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from mcp import Client as OfficialClient
from mcp import StdioServerParameters

from tailrace.mcp import Client
from tests.e2e import installing
from tests.e2e.installing import DRIVERS, Missing
from tests.e2e.witness import Witness
from tests.rigs.ports import free_port
from tests.rigs.rawmcp import Reply, eventually, exchange, modern_headers, modern_meta, request
from tests.rigs.server import ServerProcess, running_async, tailrace_command

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("served_by", ["listener", "uvicorn"], indirect=True),
]
TASKS = Path(__file__).parent / "fixtures" / "tasks.py"
KNOWS = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}
LIMIT = 60.0  # seconds
GRACE = 25.0  # seconds beyond --drain: 2, and what a busy machine needs


def start(tmp_path: Path, witness: Witness, *flags: str, port: int = 0) -> Any:
    command = tailrace_command(TASKS, *flags, port=port, store=f"sqlite:{tmp_path / 'store.db'}")
    return running_async(command, tmp_path / "log", env=witness.env)


async def post(url: str, id: int | str, method: str, **params: Any) -> Reply:
    message = request(id, method, {**params, "_meta": {**modern_meta(), **KNOWS}})
    headers = modern_headers(method, params.get("name") or params.get("taskId"))
    return await exchange(url + "/mcp", "POST", headers, json.dumps(message).encode())


async def begin(url: str, tool: str, key: str) -> str:
    """Make a task; its id."""
    reply = await post(url, key, "tools/call", name=tool, arguments={"key": key})
    created = (await reply.answer(key))["result"]
    assert created["resultType"] == "task", created
    return created["taskId"]


async def get(url: str, id: str) -> dict[str, Any]:
    answer = await (await post(url, 1, "tasks/get", taskId=id)).answer(1)
    return answer.get("result") or answer["error"]


async def until_ended(url: str, id: str) -> dict[str, Any]:
    async with asyncio.timeout(LIMIT):
        while (found := await get(url, id))["status"] == "working":
            await asyncio.sleep(0.02)
    return found


async def kill(server: ServerProcess) -> None:
    await asyncio.to_thread(server.kill)


# --- kill -9 ------------------------------------------------------------------------------------------


async def test_tasks_survive_kill_9_each_with_an_honest_end(witness: Witness, tmp_path: Path) -> None:
    port = free_port()
    async with start(tmp_path, witness, port=port) as server:
        url = server.url
        ids = {key: await begin(url, tool, key) for key, tool in {"a": "gate", "b": "gate", "c": "again"}.items()}
        ids["d"] = await begin(url, "gate", "d")
        await witness.sees("start a", "start b", "start c", "start d")
        witness.open("a")
        done = await until_ended(url, ids["a"])
        assert (await post(url, 1, "tasks/cancel", taskId=ids["d"])).head.status == 200
        cancelled = await until_ended(url, ids["d"])
        await kill(server)
    async with start(tmp_path, witness, port=port) as server:
        assert await get(url, ids["a"]) == done, "what was seen stays"
        assert await get(url, ids["d"]) == cancelled
        assert cancelled["status"] == "cancelled"
        interrupted = await until_ended(url, ids["b"])
        assert interrupted["status"] == "completed"
        assert interrupted["result"]["isError"] is True
        assert interrupted["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
        witness.open("all")
        again = await until_ended(url, ids["c"])
        assert again["result"]["structuredContent"] == {"result": "c"}
        assert server.records() == [], server.stderr_tail()
    assert [witness.count(f"start {key}") for key in "abcd"] == [1, 1, 2, 1]


async def test_no_task_that_was_told_of_is_lost_however_the_server_is_killed(witness: Witness, tmp_path: Path) -> None:
    """Ten kills while tasks are being made: each one that a client knows the id of is there afterwards."""
    told: dict[str, str] = {}
    port = free_port()
    for life in range(10):
        async with start(tmp_path, witness, port=port) as server:

            async def make(worker: int, url: str = server.url, life: int = life) -> None:
                for number in range(1000):
                    key = f"{life}-{worker}-{number}"
                    told[await begin(url, "gate", key)] = key

            makers = [asyncio.ensure_future(make(worker)) for worker in range(4)]
            enough = 10 * (life + 1)
            await eventually(lambda enough=enough: len(told) >= enough, "tasks are made")
            await kill(server)
            await asyncio.gather(*makers, return_exceptions=True)
    witness.open("all")
    async with start(tmp_path, witness, port=port) as server:
        for id, key in told.items():
            found = await until_ended(server.url, id)
            assert found["status"] == "completed", (key, found)
            assert witness.count(f"start {key}") <= 1
            if not found["result"].get("isError"):
                assert witness.count(f"end {key}") == 1
        assert server.records() == [], server.stderr_tail()


async def test_our_client_does_not_notice_that_the_server_was_killed(witness: Witness, tmp_path: Path) -> None:
    port = free_port()
    async with start(tmp_path, witness, port=port) as server:
        client = Client(server.url, timeout=200, reconnect=90)
        await client.__aenter__()
        calling = asyncio.ensure_future(client.call_tool("again", {"key": "a"}))
        await witness.sees("start a")
        await kill(server)
    async with start(tmp_path, witness, port=port):
        await eventually(lambda: witness.count("start a") == 2, "it runs again")
        witness.open("a")
        assert (await calling).data == "a"
        await client.aclose()


# --- SIGTERM ------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(url: str, **wanted: Any) -> AsyncIterator[Reply]:
    reply = await post(url, "l", "subscriptions/listen", notifications=wanted)
    assert reply.head.status == 200, await reply.text()
    try:
        yield reply
    finally:
        reply.close()


async def test_sigterm_ends_a_listening_stream_with_its_result(witness: Witness, tmp_path: Path) -> None:
    async with (
        start(tmp_path, witness, "--drain", "5") as server,
        listening(server.url, toolsListChanged=True) as reply,
    ):
        messages = reply.stream.messages()
        assert (await anext(messages))["method"] == "notifications/subscriptions/acknowledged"
        await (await post(server.url, 1, "tools/call", name="add", arguments={"title": "new"})).answer(1)
        assert (await anext(messages))["method"] == "notifications/tools/list_changed"
        server.signal(signal.SIGTERM)
        last = [message async for message in messages][-1]
        assert (last["id"], last["result"]["resultType"]) == ("l", "complete")
        assert not reply.stream.cut, "the stream ends in order"
        assert await asyncio.to_thread(server.wait, 5 + GRACE) == 0
        assert server.records() == [], server.stderr_tail()


async def test_sigterm_with_a_stream_that_nobody_reads_and_a_task_that_does_not_end(
    witness: Witness, tmp_path: Path
) -> None:
    port = free_port()
    async with (
        start(tmp_path, witness, "--drain", "1", port=port) as server,
        listening(server.url, toolsListChanged=True),
    ):
        id = await begin(server.url, "gate", "a")
        await witness.sees("start a")
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 1 + GRACE) == 0
    async with start(tmp_path, witness, port=port) as server:
        found = await until_ended(server.url, id)
        assert found["result"]["_meta"]["io.tailrace/outcome"] == "unknown"


async def test_a_task_that_ends_within_the_drain_is_told_to_who_listens(witness: Witness, tmp_path: Path) -> None:
    async with start(tmp_path, witness, "--drain", "40") as server:
        id = await begin(server.url, "gate", "a")
        async with listening(server.url, taskIds=[id]) as reply:
            messages = reply.stream.messages()
            assert (await anext(messages))["params"]["notifications"] == {"taskIds": [id]}
            assert (await anext(messages))["params"]["status"] == "working"
            server.signal(signal.SIGTERM)
            await witness.sees("start a")
            witness.open("a")
            found = [message async for message in messages]
            ended = [one["params"] for one in found if one.get("method") == "notifications/tasks"][-1]
            assert ended["status"] == "completed"
            assert ended["result"]["structuredContent"] == {"result": "a"}
            assert found[-1]["id"] == "l"
        assert await asyncio.to_thread(server.wait, 40 + GRACE) == 0


# --- other people's clients ---------------------------------------------------------------------------


async def test_the_official_client_sees_the_end_of_its_stream_as_a_good_one(witness: Witness, tmp_path: Path) -> None:
    async with start(tmp_path, witness, "--drain", "5") as server:
        async with (
            asyncio.timeout(LIMIT),
            OfficialClient(server.url + "/mcp") as client,
            client.listen(tools_list_changed=True) as stream,
        ):
            assert stream.honored.tools_list_changed
            await client.call_tool("add", {"title": "new"})
            await anext(stream)
            server.signal(signal.SIGTERM)
            assert [event async for event in stream] == []  # raises where the end is no good one
        assert await asyncio.to_thread(server.wait, 5 + GRACE) == 0


async def test_over_stdio_the_official_client_sees_the_end_of_its_stream_as_a_good_one(
    witness: Witness, tmp_path: Path, served_by: None
) -> None:
    pid = tmp_path / "pid"
    run = f"import os, pathlib, runpy, sys; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); sys.argv[1:] = "
    run += f"['run', {str(TASKS)!r}, '--stdio']; runpy.run_module('tailrace', run_name='__main__')"
    place = StdioServerParameters(command=sys.executable, args=["-c", run], env=witness.env)
    async with (
        asyncio.timeout(LIMIT),
        OfficialClient(place) as client,
        client.listen(tools_list_changed=True) as stream,
    ):
        await client.call_tool("add", {"title": "new"})
        await anext(stream)
        os.kill(int(pid.read_text()), signal.SIGTERM)
        assert [event async for event in stream] == []


async def fastmcp(url: str, *steps: list[Any], needs: Callable[[str, str], NoReturn]) -> list[Any]:
    """What FastMCP's client of tasks says of each step."""
    try:
        python = await asyncio.to_thread(installing.python_with, "fastmcp_tasks")
    except Missing as missing:
        needs(*missing.args)
    asked = json.dumps({"url": url + "/mcp", "do": steps})
    driver = await asyncio.create_subprocess_exec(
        str(python), str(DRIVERS / "python" / "tasks4.py"), asked,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(150):
            out, err = await driver.communicate()
    finally:
        if driver.returncode is None:
            driver.kill()
            await driver.wait()
    assert driver.returncode == 0, err.decode()[-3000:]
    return [json.loads(line) for line in out.splitlines()]


async def test_fastmcps_client_sees_tasks(
    witness: Witness, tmp_path: Path, needs: Callable[[str, str], NoReturn]
) -> None:
    witness.open("a")
    async with start(tmp_path, witness) as server:
        begun, done, followed, refused, failed, late, cancelled = await fastmcp(
            server.url,
            ["begin", "gate", {"key": "a"}],
            ["wait", 0],
            ["call", "gate", {"key": "a"}],
            ["call", "refuse", {}],
            ["call", "full", {}],
            ["begin", "gate", {"key": "never"}],
            ["cancel", 5],
            needs=needs,
        )
        assert begun["status"] == "working"
        assert done == followed == {"isError": False, "content": {"result": "a"}}
        assert refused["isError"]
        assert failed["isError"]
        assert late["id"] != begun["id"]
        assert cancelled == {"status": "cancelled"}
        assert witness.count("cancelled never") == 1
        assert server.records() == [], server.stderr_tail()


async def test_fastmcps_client_gets_what_ran_again_after_kill_9(
    witness: Witness, tmp_path: Path, needs: Callable[[str, str], NoReturn]
) -> None:
    port = free_port()
    async with start(tmp_path, witness, port=port) as server:
        [begun] = await fastmcp(server.url, ["begin", "again", {"key": "a"}], needs=needs)
        await witness.sees("start a")
        await kill(server)
    witness.open("a")
    async with start(tmp_path, witness, port=port) as server:
        assert (await until_ended(server.url, begun["id"]))["result"]["structuredContent"] == {"result": "a"}
