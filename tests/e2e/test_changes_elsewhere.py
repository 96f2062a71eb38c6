"""What changes in one process is told by the other to its clients (the official one, both eras), over a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.rigs.server import running_async, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:resources/subscribe is removed"),  # the older client needs it
]

CHANGING = Path(__file__).parent / "fixtures" / "changing.py"


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


async def until(true: Any) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.02)


async def test_what_changes_in_one_process_is_told_by_the_other(valkey: Valkey, tmp_path: Path) -> None:
    heard: dict[str, list[str]] = {"legacy": [], "auto": []}

    async def hear(message: Any) -> None:
        heard["legacy"].append(type(message).__name__)

    command = tailrace_command(CHANGING, store=valkey.url)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running_async(command, tmp_path / "one"))
        other = await stack.enter_async_context(running_async(command, tmp_path / "other"))
        legacy = await stack.enter_async_context(Client(f"{other.url}/mcp", mode="legacy", message_handler=hear))
        await legacy.subscribe_resource("note://one")
        modern = await stack.enter_async_context(Client(f"{other.url}/mcp", mode="auto", cache=None))
        stream = await stack.enter_async_context(
            modern.listen(tools_list_changed=True, resource_subscriptions=["note://one"])
        )
        here = await stack.enter_async_context(Client(f"{one.url}/mcp", mode="auto", cache=None))

        async def listen() -> None:
            async for event in stream:
                heard["auto"].append(type(event).__name__)

        listening = asyncio.ensure_future(listen())
        await here.call_tool("touch", {})
        await here.call_tool("grow", {})
        await until(lambda: len(heard["auto"]) >= 2 and len(heard["legacy"]) >= 2)
        listening.cancel()
        assert {"ResourceUpdatedNotification", "ToolListChangedNotification"} <= set(heard["legacy"]), heard
        assert len(set(heard["auto"])) == 2, heard
        assert other.records() == [], other.stderr_tail()
