"""The official Python client is asked: elicitation, sampling and roots, by its own callbacks, in both eras."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp.types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client

from tailrace.mcp import Client as OwnClient
from tests.e2e.node_client import drive_node
from tests.rigs.ports import free_port
from tests.rigs.rawmcp import Reply, Streamable, call, is_answer
from tests.rigs.rawmcp import text_of as text_of_raw
from tests.rigs.server import ServerProcess, running, running_async, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
ASKING = Path(__file__).parent / "fixtures" / "asking.py"
LIMIT = 100.0  # seconds


@asynccontextmanager
async def serving(tmp_path: Path, store: str, port: int = 0) -> AsyncIterator[ServerProcess]:
    env = {"ASKING_EFFECTS": str(tmp_path / "effects")}
    async with running_async(tailrace_command(ASKING, store=store, port=port), tmp_path / "log", env=env) as server:
        yield server
        assert server.records() == [], server.stderr_tail()


async def fill_in(context: Any, params: Any) -> types.ElicitResult:
    if "value" in (fields := params.requested_schema["properties"]):
        return types.ElicitResult(
            action="accept", content={"value": True if fields["value"]["type"] == "boolean" else "ann"}
        )
    assert params.message == "Which seats?"
    assert set(params.requested_schema["properties"]) == {"name", "seats", "window"}
    return types.ElicitResult(action="accept", content={"name": "ann", "seats": 2})


async def answer(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    if params.max_tokens == 1024:
        block = types.TextContent(type="text", text="hurrah")
        return types.CreateMessageResult(role="assistant", content=block, model="parrot")
    assert params.max_tokens == 50
    assert params.system_prompt == "Be brief."
    text = params.messages[0].content.text  # type: ignore[union-attr]
    return types.CreateMessageResult(
        role="assistant", content=types.TextContent(type="text", text=text.upper()), model="parrot"
    )


async def list_roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///work", name="work")])  # type: ignore[arg-type]


CALLBACKS: Any = {
    "elicitation_callback": fill_in,
    "sampling_callback": answer,
    "list_roots_callback": list_roots,
}


def text_of(result: Any) -> str:
    return "".join(block.text for block in result.content)


async def check(client: Client) -> None:
    with anyio.fail_after(LIMIT):
        assert text_of(await client.call_tool("book", {})) == "accept: ann 2"
        assert text_of(await client.call_tool("summarize", {"text": "tea"})) == "parrot: SUMMARIZE: TEA"
        assert (await client.call_tool("roots", {})).structured_content == {"result": ["file:///work"]}
        ordered = await client.call_tool("order", {"item": "tea"})
        assert text_of(ordered) == "reserve tea, ann, hurrah, send tea"


def effects(tmp_path: Path) -> list[str]:
    return (tmp_path / "effects").read_text().splitlines()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("transport", ["streamable", "sse"])
async def test_the_official_client_answers_over_http(transport: str, store: str, tmp_path: Path) -> None:
    async with serving(tmp_path, "memory" if store == "memory" else f"sqlite:{tmp_path / 'store.db'}") as server:
        place: Any = sse_client(server.url + "/sse") if transport == "sse" else server.url + "/mcp"
        async with Client(place, mode="legacy", read_timeout_seconds=LIMIT, **CALLBACKS) as client:
            await check(client)
    assert effects(tmp_path) == ["reserve tea", "send tea"]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_the_official_client_answers_leg_by_leg(store: str, tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "memory" if store == "memory" else f"sqlite:{tmp_path / 'store.db'}") as server,
        Client(server.url + "/mcp", mode="2026-07-28", read_timeout_seconds=LIMIT, **CALLBACKS) as client,
    ):
        await check(client)
    assert effects(tmp_path) == ["reserve tea", "send tea"]


async def test_one_handler_asks_a_client_of_2025_06_18_and_one_of_2026_07_28(tmp_path: Path) -> None:
    answers = {
        "elicitation/create": {"action": "accept", "content": {"value": "ann"}},
        "sampling/createMessage": {
            "role": "assistant",
            "model": "parrot",
            "content": {"type": "text", "text": "hurrah"},
        },
    }
    async with serving(tmp_path, f"sqlite:{tmp_path / 'store.db'}") as server:
        capabilities: dict[str, Any] = {"elicitation": {}, "sampling": {}}
        old = await Streamable(server.url, "2025-06-18", capabilities=capabilities).open()
        reply = await old.post(call("order", "order", {"item": "tea"}))
        asked: list[str] = []
        while not is_answer(message := await next_message(reply), "order"):
            asked.append(message["method"])
            (await old.post({"jsonrpc": "2.0", "id": message["id"], "result": answers[message["method"]]})).close()
            if message["method"] == "elicitation/create":
                answers["elicitation/create"] = {"action": "accept", "content": {"value": True}}  # to the next: whether
        reply.close()
        assert sorted(asked) == ["elicitation/create", "elicitation/create", "sampling/createMessage"]
        assert text_of_raw(message) == "reserve tea, ann, hurrah, send tea"
        async with Client(server.url + "/mcp", mode="2026-07-28", read_timeout_seconds=LIMIT, **CALLBACKS) as client:
            assert text_of(await client.call_tool("order", {"item": "tea"})) == "reserve tea, ann, hurrah, send tea"
    assert effects(tmp_path) == ["reserve tea", "send tea"] * 2


async def next_message(reply: Reply) -> Any:
    """The next one of a stream, events without data left out."""
    while (event := await reply.stream.next()) is not None:
        if event.data:
            return json.loads(event.data)
    raise AssertionError("the stream ended without an answer")


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_the_official_client_answers_over_stdio(mode: Any) -> None:
    place = StdioServerParameters(
        command=sys.executable, args=["-m", "tailrace", "run", str(ASKING), "--stdio"], env=dict(os.environ)
    )
    async with Client(place, mode=mode, read_timeout_seconds=LIMIT, **CALLBACKS) as client:
        await check(client)


@pytest.mark.parametrize("era", ["legacy", "auto"])
def test_the_official_typescript_client_answers_in_both_eras(era: str, node: Path, tmp_path: Path) -> None:
    env = {"ASKING_EFFECTS": str(tmp_path / "effects")}
    with running(tailrace_command(ASKING), tmp_path / "log", env=env) as server:
        plan = {"ask": {"name": "order", "arguments": {"item": "tea"}}}
        report = drive_node(node, "client", "streamable", server.url + "/mcp", era, plan)
        assert report.get("ask") == "reserve tea, ann, hurrah, send tea", report
        assert report["protocol"] == ("2026-07-28" if era == "auto" else "2025-11-25")
        assert server.records() == [], server.stderr_tail()
    assert effects(tmp_path) == ["reserve tea", "send tea"]


async def test_a_kill_between_two_legs_is_not_noticed(tmp_path: Path) -> None:
    """Each time the client is asked, its server is killed, and another one started over the same store."""
    store = f"sqlite:{tmp_path / 'store.db'}"
    servers: list[Any] = []
    port = free_port()

    async def start() -> ServerProcess:
        servers.append(serving(tmp_path, store, port))
        return await servers[-1].__aenter__()

    async def fill_in_slowly(context: Any, params: Any) -> types.ElicitResult:
        nonlocal server
        await anyio.to_thread.run_sync(server.kill)
        server = await start()
        return await fill_in(context, params)

    server = await start()
    try:
        callbacks = {**CALLBACKS, "elicitation_callback": fill_in_slowly}
        async with Client(server.url + "/mcp", mode="2026-07-28", read_timeout_seconds=LIMIT, **callbacks) as client:
            with anyio.fail_after(120.0):
                ordered = await client.call_tool("order", {"item": "tea"})
            assert text_of(ordered) == "reserve tea, ann, hurrah, send tea"
    finally:
        for one in servers:
            await one.__aexit__(None, None, None)
    assert len(servers) == 3
    assert effects(tmp_path) == ["reserve tea", "send tea"]


async def test_the_official_client_without_callbacks_is_not_asked(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "memory") as server,
        Client(server.url + "/mcp", mode="legacy", read_timeout_seconds=LIMIT) as client,
    ):
        result = await client.call_tool("book", {})
        assert result.is_error
        assert "elicitation" in text_of(result)


@pytest.mark.parametrize(("path", "era"), [("/mcp", "legacy"), ("/sse", "legacy"), ("/mcp", "modern")])
async def test_our_own_client_answers_over_http(path: str, era: Any, tmp_path: Path) -> None:
    callbacks: Any = {
        "elicitation": lambda message, schema: {"name": "bob"},
        "sampling": lambda params: "short",
        "roots": [tmp_path],
    }
    async with (
        serving(tmp_path, f"sqlite:{tmp_path / 'store.db'}") as server,
        OwnClient(server.url + path, era=era, **callbacks) as client,
    ):
        assert (await client.call_tool("book")).data == "accept: bob 1"
        assert (await client.call_tool("summarize", {"text": "tea"})).data == "unknown: short"
        assert (await client.call_tool("roots")).data == [tmp_path.as_uri()]
