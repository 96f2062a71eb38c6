"""Tasks and listening streams: whatever happens at once, each task ends once, and what was told of it stays true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import combinations
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tests.protocols.mcp.test_tasks import INVALID_PARAMS, Client
from tests.rigs.exchange import FakeExchange
from tests.schedules.exploring import MORE, exhaust, in_order, race

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 180)]
Record = Callable[[str, object], None]
TERMINAL = ("completed", "cancelled", "failed")
DELAYS = 3 if MORE else 2


class Mill:
    """One server life after another over one durable store, one tool at a gate, and all that was told of its task."""

    def __init__(self, tool: str = "grind") -> None:
        self.tool = tool
        self.store = MemoryStore(durable=True)
        self.gate = asyncio.Event()
        self.runs = 0
        self.told: list[str] = []  # states, in the order in which they were told
        self.id = ""
        self.service = service = Service("mill")

        async def work(ctx: Context) -> str:
            self.runs += 1
            assert self.tool != "grind" or await self.store.entries("task"), "it runs, and no task is committed"
            await self.gate.wait()
            return "flour"

        service.tool(name="grind", task=True)(work)
        service.tool(name="maybe", task="auto")(work)

    async def start(self) -> None:
        self.server = Server(self.service, Settings(drain=1.0, task_hold=0.0, task_ttl=100.0), self.store)
        await self.server.start()
        self.client = Client(self.server)

    async def begin(self) -> None:
        self.id = await self.client.begin(self.tool)
        await asyncio.sleep(0.1)

    # --- what happens ---

    async def end(self) -> None:
        self.gate.set()

    async def cancel(self) -> None:
        assert (await self.client.cancel(self.id))["result"]["resultType"] == "complete"

    async def get(self) -> None:
        for _ in range(2):
            found = await self.client.get(self.id)
            assert "status" in found, f"it was there, and is not: {found}"
            self.told.append(found["status"])

    async def stop(self) -> None:
        await self.server.stop()

    # --- after ---

    async def final(self) -> dict[str, Any]:
        """How the task ended, as it is told, twice and again after a restart."""
        await asyncio.sleep(5)
        found = await self.client.get(self.id)
        assert found["status"] in TERMINAL, f"it does not end: {found}"
        assert await self.client.get(self.id) == found
        await self.server.stop()
        await self.start()
        assert await self.client.get(self.id) == found, "a restart changes its end"
        await self.server.stop()
        return found

    def check_told(self, final: str) -> None:
        ends = [state for state in self.told if state != "working"]
        assert ends == [final] * len(ends), f"told {self.told}, and in the end {final}"
        assert self.told == ["working"] * (len(self.told) - len(ends)) + ends, f"it went back: {self.told}"


async def _ends(names: tuple[str, ...]) -> None:
    in_order()
    mill = Mill()
    await mill.start()
    await mill.begin()
    stream = mill.client.listen(mill.id)
    await stream.event_count(2)
    await race(*(getattr(mill, name) for name in names))
    if not {"end", "cancel"} & set(names):
        mill.gate.set()
    await asyncio.sleep(5)
    told = [one["params"]["status"] for one in stream.messages[1:] if one.get("method") == "notifications/tasks"]
    final = await mill.final()
    mill.check_told(final["status"])
    assert told[-1] == final["status"], f"who listens heard {told}"
    assert sum(state in TERMINAL for state in told) == 1, f"it ended twice: {told}"
    assert ("result" in final) is (final["status"] == "completed")
    if "cancel" not in names:
        assert final["status"] == "completed"
    assert mill.runs == 1


@pytest.mark.parametrize("names", [*combinations(("end", "cancel", "get"), 2), ("end", "cancel", "get")], ids="-".join)
def test_a_task_ends_once_and_stays_so(names: tuple[str, ...], record_property: Record) -> None:
    record_property("schedules", exhaust(partial(_ends, names), delays=DELAYS))


async def _expires() -> None:
    in_order()
    mill = Mill()
    await mill.start()
    mill.gate.set()
    await mill.begin()
    await asyncio.sleep(5)
    table = mill.server.endpoint.task_table
    later = table.wall() + 1000
    found: list[dict[str, Any]] = []

    async def expire() -> None:
        table.wall = lambda: later
        await asyncio.sleep(0)
        table.sweep(asyncio.get_running_loop().time() + 100)

    async def ask() -> None:
        found.extend([await mill.client.get(mill.id) for _ in range(3)])

    await race(expire, ask)
    for state in found:
        gone = state.get("code") == INVALID_PARAMS
        assert gone or text_in(state) == "flour", state
    assert table.tasks == {}
    await mill.server.stop()


def test_a_task_that_expires_is_there_whole_or_not_at_all(record_property: Record) -> None:
    record_property("schedules", exhaust(_expires, delays=DELAYS))


def text_in(state: dict[str, Any]) -> str:
    return state["result"]["content"][0]["text"]


async def _created(tool: str, name: str, crash: bool) -> None:
    """A call that becomes a task, while the server stops (or is killed), or its client goes."""
    in_order()
    mill = Mill(tool)
    await mill.start()
    posts: list[FakeExchange] = []

    async def ask() -> None:
        posts.append(mill.client.call(tool))

    async def other() -> None:
        await asyncio.sleep(0)
        if name == "disconnect":
            if posts:
                posts[0].disconnect()
        elif crash:
            mill.store.crash()
            await mill.server.stop()
        else:
            await mill.server.stop()

    await race(ask, other)
    await asyncio.sleep(5)
    [post] = posts
    known = None
    if post.replied and not post.gone and post.status == 200:
        answer = await post.json()
        known = answer["result"]["taskId"] if answer.get("result", {}).get("resultType") == "task" else None
    if name == "disconnect":
        left = len(mill.server.endpoint.task_table.tasks)
        assert len(mill.server.tasks.calls) == left, "a call is left without a task, or a task without a call"
        await mill.server.stop()
    runs = mill.runs
    await mill.start()
    mill.gate.set()
    await asyncio.sleep(5)
    entries = await mill.store.entries("task")
    if known is not None:
        found = await mill.client.get(known)
        assert found.get("status") == "completed", f"a task that was told of is lost: {found}"
    elif tool == "grind" and name == "stop" and not crash:
        assert (entries, runs) == ([], 0), "it was refused, and has begun"
    assert mill.runs == runs, "it ran again"
    await mill.server.stop()


@pytest.mark.parametrize("tool", ["grind", "maybe"])
@pytest.mark.parametrize("name", ["stop", "crash", "disconnect"])
def test_a_task_that_was_told_of_is_there(tool: str, name: str, record_property: Record) -> None:
    scenario = partial(_created, tool, "stop" if name == "crash" else name, name == "crash")
    record_property("schedules", exhaust(scenario, delays=DELAYS))


async def _listening(names: tuple[str, ...]) -> None:
    in_order()
    mill = Mill()
    await mill.start()
    await mill.begin()
    before = mill.client.listen(mill.id)
    await before.event_count(2)
    streams = [before]

    async def notify() -> None:
        await mill.service.broadcast("notifications/tools/list_changed")
        mill.gate.set()

    async def leave() -> None:
        await asyncio.sleep(0)
        before.disconnect()

    async def listen() -> None:
        streams.append(mill.client.listen(mill.id))

    happens: dict[str, Callable[[], Awaitable[None]]] = {
        "notify": notify, "leave": leave, "listen": listen, "stop": mill.stop,
    }  # fmt: skip
    await race(*(happens[name] for name in names))
    mill.gate.set()
    await asyncio.sleep(5)
    await mill.server.stop()
    await asyncio.sleep(1)
    for stream in streams:
        messages = stream.messages
        if not stream.is_stream:
            assert stream.status == 503, "a stream is refused for no reason"
            continue
        if messages:
            assert messages[0]["method"] == "notifications/subscriptions/acknowledged", messages[0]
        if stream is before and "leave" in names:
            continue
        assert stream.sink.ended, "the stream does not end"
        assert "result" in messages[-1], f"it ended without its result: {messages[-1]}"
        told = [one["params"]["status"] for one in messages if one.get("method") == "notifications/tasks"]
        assert told[-1] == "completed" or "stop" in names, f"who listens heard {told}"
        assert told == sorted(told, key=["working", "completed"].index), f"it went back: {told}"
    assert len(mill.server.endpoint.listens) == 0
    assert mill.server.endpoint.listens._watching == {}


@pytest.mark.parametrize("names", [*combinations(("notify", "leave", "listen", "stop"), 2)], ids="-".join)
def test_a_stream_that_listens_begins_and_ends_in_order(names: tuple[str, ...], record_property: Record) -> None:
    record_property("schedules", exhaust(partial(_listening, names), delays=DELAYS))
