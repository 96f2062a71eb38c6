"""Tasks (SEP-2663): durable before they are told, asked for by their principal, ended once, and over a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tailrace import Context, DefinitionError, LimitError, Service, ToolError
from tailrace.core.settings import Settings
from tailrace.errors import StoreError
from tailrace.protocols.mcp.task_state import timestamp
from tailrace.publish.publishers import MemoryPublisher
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.protocols.mcp.test_conversation import conversing
from tests.rigs.exchange import (
    DISK_FULL,
    FakeExchange,
    LegacySession,
    is_answer,
    modern_request,
    notification,
    post_modern,
    serving,
    text_of,
)
from tests.rigs.workshop import errors

EXTENSION = "io.modelcontextprotocol/tasks"
KNOWS = {"clientCapabilities": {"extensions": {EXTENSION: {}}}}
INVALID_PARAMS, METHOD_NOT_FOUND, INTERNAL_ERROR, LIMIT, MISSING = -32602, -32601, -32603, -32000, -32021
TASKS = "notifications/tasks"


class Mill:
    """A service whose tools may run as tasks, and wait at a gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[str] = []
        self.service = service = Service("mill", version="1.0.0")

        async def work(ctx: Context, key: str, step: str = "") -> str:
            self.seen.append(f"begin {key}")
            if step:
                await ctx.progress(1, 2, step)
                await ctx.log("info", step)
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.seen.append(f"cancelled {key}")
                raise
            self.seen.append(f"end {key}")
            return key

        service.tool(name="grind", task=True)(work)
        service.tool(name="again", task=True, on_crash="rerun")(work)
        service.tool(name="maybe", task="auto")(work)
        service.tool(name="only", task="required")(work)
        service.tool(name="plain")(work)

        @service.tool(task=True)
        async def refuse() -> None:
            raise ToolError("no flour")

        @service.tool(task=True)
        async def crash() -> None:
            raise RuntimeError("the stone broke")

        @service.tool(task=True)
        async def full() -> None:
            raise LimitError("stones", "all stones are turning")

        @service.tool(task=True, timeout=5.0)
        async def late() -> None:
            await asyncio.sleep(60)

        @service.tool(task=True)
        async def stubborn() -> str:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.seen.append("stubborn")
            return "done all the same"


class Client:
    """Asks one server over modern HTTP, as somebody who knows tasks."""

    def __init__(self, server: Server, principal: str = "", **meta: Any) -> None:
        self.server = server
        self.principal = principal
        self.meta = meta or KNOWS
        self.ids = 0

    def post(self, method: str, params: dict[str, Any]) -> FakeExchange:
        self.ids += 1
        message = modern_request(self.ids, method, params, **self.meta)
        return post_modern(self.server, message, principal=self.principal)

    def call(self, tool: str, **arguments: Any) -> FakeExchange:
        return self.post("tools/call", {"name": tool, "arguments": arguments})

    async def begin(self, tool: str, **arguments: Any) -> str:
        """Call a tool that has to become a task; its id."""
        answer = await self.call(tool, **arguments).json()
        assert answer["result"]["resultType"] == "task", answer
        return answer["result"]["taskId"]

    async def get(self, id: str) -> dict[str, Any]:
        answer = await self.post("tasks/get", {"taskId": id}).json()
        return answer.get("result") or answer["error"]

    async def cancel(self, id: str) -> dict[str, Any]:
        return await self.post("tasks/cancel", {"taskId": id}).json()

    async def until(self, id: str, status: str) -> dict[str, Any]:
        """Ask until the task stands so, a minute at most."""
        async with asyncio.timeout(60):
            while (found := await self.get(id))["status"] != status:
                assert found["status"] == "working", found
                await asyncio.sleep(0.01)
        return found

    def listen(self, *ids: str) -> FakeExchange:
        return self.post("subscriptions/listen", {"notifications": {"taskIds": list(ids)}})


# --- making one ---------------------------------------------------------------------------------------


async def test_a_call_of_a_client_that_knows_tasks_becomes_one() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        post = Client(server).call("grind", key="a")
        assert await post.status_code() == 200
        created = (await post.json())["result"]
        assert created["resultType"] == "task"
        assert created["status"] == "working"
        assert 3_600_000 <= created["ttlMs"] < 3_660_000
        assert created["pollIntervalMs"] == 500
        assert created["createdAt"] == created["lastUpdatedAt"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", created["createdAt"])
        assert created["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "mill"
        assert not {"result", "error", "inputRequests", "statusMessage"} & set(created)
        assert len(created["taskId"]) >= 22, "128 bits"


async def test_its_result_is_what_the_call_would_have_answered() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server)
        plain = client.call("plain", key="a")
        id = await client.begin("grind", key="a")
        working = await client.get(id)
        assert (working["status"], working["resultType"]) == ("working", "complete")
        mill.gate.set()
        done = await client.until(id, "completed")
        assert done["result"] == (await plain.json())["result"]
        assert done["taskId"] == id
        assert "error" not in done
        assert (await client.get(id)) == done, "it is final"


@pytest.mark.parametrize("tool", ["grind", "maybe"])
async def test_a_client_that_does_not_know_tasks_gets_a_plain_answer(tool: str) -> None:
    mill = Mill()
    mill.gate.set()
    async with serving(mill.service) as server:
        answer = await Client(server, clientCapabilities={"extensions": {}}).call(tool, key="a").json()
        assert answer["result"]["resultType"] == "complete"
        assert text_of(answer) == "a"


async def test_a_tool_that_requires_a_task_is_refused_to_whom_does_not_know_them() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        post = Client(server, clientCapabilities={}).call("only", key="a")
        assert await post.status_code() == 400
        error = (await post.json())["error"]
        assert error["code"] == MISSING
        assert error["data"] == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        assert mill.seen == []
        assert await Client(server).begin("only", key="a")


async def test_an_older_version_has_a_session_and_calls_plainly() -> None:
    mill = Mill()
    mill.gate.set()
    async with serving(mill.service) as server:
        session = await LegacySession(server).start()
        for tool in ("grind", "maybe", "only"):
            assert text_of(await session.call(1, tool, {"key": "a"}).answer(1)) == "a"
        refused = await session.post(
            {"jsonrpc": "2.0", "id": 2, "method": "tasks/get", "params": {"taskId": "x"}}
        ).json()
        assert refused["error"]["code"] == METHOD_NOT_FOUND


async def test_tools_that_are_no_tasks_stay_what_they_are() -> None:
    mill = Mill()
    mill.gate.set()
    async with serving(mill.service) as server:
        assert text_of(await Client(server).call("plain", key="a").json()) == "a"
        unknown = await Client(server).call("nothing").json()
        assert unknown["error"]["code"] == INVALID_PARAMS


async def test_the_extension_is_offered_where_a_tool_has_tasks() -> None:
    for service, offered in ((Mill().service, {EXTENSION: {}}), (Service("none"), None)):
        async with serving(service) as server:
            found = (await Client(server).post("server/discover", {}).json())["result"]["capabilities"]
            assert found.get("extensions") == offered
            assert "tasks" not in found


@pytest.mark.parametrize("task", ["always", 1.5, None])
def test_task_is_one_of_four(task: Any) -> None:
    service = Service("s")
    with pytest.raises(DefinitionError, match="task is True, False, 'auto' or 'required'"):

        @service.tool(task=task)
        async def tool() -> None: ...


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (1_795_000_000.25, "2026-11-18T11:06:40.250Z")]
)
def test_times_are_iso_8601_in_utc(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


# --- task="auto" --------------------------------------------------------------------------------------


@virtual
async def test_auto_answers_directly_what_ends_soon_with_all_it_said() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server, **KNOWS, progressToken="p", logLevel="debug")
        post = client.call("maybe", key="a", step="grinding")
        await asyncio.sleep(0.4)
        mill.gate.set()
        assert text_of(await post.answer(1)) == "a"
        methods = [message.get("method") for message in post.messages]
        assert methods == ["notifications/progress", "notifications/message", None]
        assert server.endpoint.task_table.tasks == {}


@virtual
async def test_auto_makes_a_task_of_what_takes_longer() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server)
        id = await client.begin("maybe", key="a")
        assert mill.seen == ["begin a"]
        mill.gate.set()
        assert text_of(await client.until(id, "completed")) == "a"
        assert mill.seen == ["begin a", "end a"]


@virtual
async def test_auto_may_have_become_a_stream_before_it_becomes_a_task() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        post = Client(server, **KNOWS, progressToken="p").call("maybe", key="a", step="grinding")
        created = (await post.answer(1))["result"]
        await post.end()
        assert created["resultType"] == "task"
        assert post.messages[0]["method"] == "notifications/progress"


@virtual
async def test_auto_stays_a_call_where_there_is_no_room_for_a_task() -> None:
    mill = Mill()
    async with serving(mill.service, max_tasks=1) as server:
        client = Client(server)
        await client.begin("grind", key="a")
        post = client.call("maybe", key="b")
        await asyncio.sleep(2)
        mill.gate.set()
        assert text_of(await post.json()) == "b"


@virtual
async def test_auto_stays_a_call_where_the_store_does_not_commit(caplog: pytest.LogCaptureFixture) -> None:
    mill, store = Mill(), MemoryStore()
    async with serving(mill.service, store) as server:
        post = Client(server).call("maybe", key="a")
        store.fail_commits(DISK_FULL)
        await asyncio.sleep(2)
        store.fail_commits(None)
        mill.gate.set()
        assert text_of(await post.json()) == "a"
        assert server.endpoint.task_table.tasks == {}
    assert len(errors(caplog)) == 1


# --- durable before it is told ----------------------------------------------------------------------


async def test_nothing_runs_and_nobody_is_told_before_the_task_is_committed() -> None:
    mill, store = Mill(), SlowStore()
    async with serving(mill.service, store) as server:
        post = Client(server).call("grind", key="a")
        await turns()
        assert (post.replied, mill.seen) == (False, [])
        store.go_on()
        id = (await post.json())["result"]["taskId"]
        assert await store.entry("task", id) is not None
        await turns()
        assert mill.seen == ["begin a"]


async def test_a_task_that_cannot_be_stored_is_refused_and_does_not_run(caplog: pytest.LogCaptureFixture) -> None:
    mill, store = Mill(), MemoryStore()
    async with serving(mill.service, store) as server:
        store.fail_commits(DISK_FULL)
        post = Client(server).call("grind", key="a")
        error = (await post.json())["error"]
        assert (error["code"], "not begun" in error["message"], error["data"]) == (
            INTERNAL_ERROR,
            True,
            {"retry": True},
        )
        store.fail_commits(None)
        assert (mill.seen, server.endpoint.task_table.tasks) == ([], {})
        assert server.tasks.calls == {}
    assert len(errors(caplog)) == 1


async def test_an_end_is_seen_once_it_is_committed() -> None:
    mill, store = Mill(), SlowStore()
    store.go_on()
    async with serving(mill.service, store) as server:
        client = Client(server)
        id = await client.begin("grind", key="a")
        store.wait()
        mill.gate.set()
        await turns()
        assert mill.seen == ["begin a", "end a"]
        assert server.endpoint.task_table.tasks[id].status == "working"
        store.go_on()
        assert (await client.until(id, "completed"))["result"]


async def test_an_end_that_cannot_be_stored_is_told_from_memory(caplog: pytest.LogCaptureFixture) -> None:
    mill, store = Mill(), MemoryStore()
    async with serving(mill.service, store) as server:
        client = Client(server)
        id = await client.begin("grind", key="a")
        store.fail_commits(DISK_FULL)
        mill.gate.set()
        assert text_of(await client.until(id, "completed")) == "a"
        store.fail_commits(None)
    assert len(errors(caplog)) == 1


class SlowStore(MemoryStore):
    """Commits only while it may."""

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__(durable=durable)
        self.held: list[Callable[[], None]] | None = []

    def wait(self) -> None:
        self.held = []

    def go_on(self) -> None:
        held, self.held = self.held or [], None
        for commit in held:
            commit()

    def _commit(self) -> None:
        if self.held is None or self._loop is None:
            super()._commit()
        else:
            self.held.append(super()._commit)

    async def close(self) -> None:
        self.held = None
        await super().close()


# --- connections --------------------------------------------------------------------------------------


async def test_a_disconnect_does_not_touch_a_task() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server)
        post = client.call("grind", key="a")
        id = (await post.json())["result"]["taskId"]
        post.disconnect()
        await turns()
        mill.gate.set()
        assert (await client.until(id, "completed"))["status"] == "completed"


@virtual
async def test_a_disconnect_behind_the_stream_that_told_of_it_does_not_touch_a_task() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server, **KNOWS, progressToken="p")
        post = client.call("maybe", key="a", step="x")
        post.sink.open.clear()
        await asyncio.sleep(2)
        [id] = server.endpoint.task_table.tasks
        post.disconnect()
        await asyncio.sleep(2)
        mill.gate.set()
        assert (await client.until(id, "completed"))["status"] == "completed"


@pytest.mark.parametrize("tool", ["grind", "maybe"])
async def test_a_client_that_goes_before_it_knows_its_task_cancels_the_call(tool: str) -> None:
    mill, store = Mill(), SlowStore()
    async with serving(mill.service, store) as server:
        post = Client(server).call(tool, key="a")
        await turns()
        post.disconnect()
        store.go_on()
        await turns()
        assert mill.seen in ([], ["begin a", "cancelled a"])
        assert (server.endpoint.task_table.tasks, server.tasks.calls) == ({}, {})
        assert await store.entries("task") == []


# --- who may ask --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_nobody_but_its_principal_finds_a_task(method: str) -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        id = await Client(server, "alice").begin("grind", key="a")
        answers = []
        for principal, asked in (("mallory", id), ("", id), ("alice", "A" * 22), ("alice", "")):
            post = Client(server, principal).post(method, {"taskId": asked, "inputResponses": {}})
            assert await post.status_code() == 400
            answers.append((await post.json())["error"])
        assert answers == [answers[0]] * 4, "a foreign task looks like none"
        assert answers[0]["code"] == INVALID_PARAMS
        await turns()
        assert mill.seen == ["begin a"]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_whom_does_not_know_tasks_is_told_what_is_missing(method: str) -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        post = Client(server, clientCapabilities={}).post(method, {"taskId": "x"})
        assert await post.status_code() == 400
        assert (await post.json())["error"]["code"] == MISSING


@pytest.mark.parametrize("method", ["tasks/list", "tasks/result"])
async def test_methods_of_the_experimental_tasks_are_unknown(method: str) -> None:
    async with serving(Mill().service) as server:
        post = Client(server).post(method, {})
        assert await post.status_code() == 404
        assert (await post.json())["error"]["code"] == METHOD_NOT_FOUND


async def test_the_header_names_the_task_or_is_not_there() -> None:
    async with serving(Mill().service) as server:
        message = modern_request(1, "tasks/get", {"taskId": "x"}, **KNOWS)
        for changed, more in (({"mcp-name": "y"}, []), ({}, [("Mcp-Name", "x")])):
            assert (await post_modern(server, message, changed, *more).json())["error"]["code"] == -32020
        missing = await post_modern(server, message, {"mcp-name": None}).json()  # as FastMCP's client does
        assert missing["error"]["code"] == INVALID_PARAMS


async def test_an_update_of_a_task_that_asks_for_nothing_is_acknowledged() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server)
        id = await client.begin("grind", key="a")
        answer = await client.post("tasks/update", {"taskId": id, "inputResponses": {"k": {"action": "accept"}}}).json()
        assert answer["result"]["resultType"] == "complete"
        assert set(answer["result"]) == {"resultType", "_meta"}


# --- ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "said"), [("refuse", "no flour"), ("crash", "internal error"), ("late", "within 5 s")]
)
def test_a_tools_failure_is_a_completed_task_whose_result_says_so(
    tool: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    @virtual
    async def test() -> None:
        async with serving(Mill().service) as server:
            client = Client(server)
            done = await client.until(await client.begin(tool), "completed")
            assert done["result"]["isError"] is True
            assert said in text_of(done)
            assert done["result"]["resultType"] == "complete"

    test()
    assert len(errors(caplog)) == (tool == "crash")


async def test_arguments_that_do_not_fit_are_a_completed_task_too() -> None:
    async with serving(Mill().service) as server:
        client = Client(server)
        done = await client.until(await client.begin("grind", kee="a"), "completed")
        assert done["result"]["isError"] is True


async def test_a_protocol_error_is_a_failed_task() -> None:
    async with serving(Mill().service) as server:
        client = Client(server)
        failed = await client.until(await client.begin("full"), "failed")
        assert failed["error"] == {"code": LIMIT, "message": "all stones are turning", "data": {"limit": "stones"}}
        assert failed["statusMessage"] == "all stones are turning"
        assert "result" not in failed


async def test_a_cancelled_task_says_so_and_stays_so() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server)
        id = await client.begin("grind", key="a")
        await turns()
        answer = await client.cancel(id)
        assert answer["result"] == {"resultType": "complete", "_meta": answer["result"]["_meta"]}
        found = await client.until(id, "cancelled")
        assert "result" not in found
        assert "error" not in found
        assert found["statusMessage"] == "cancelled by its client"
        assert mill.seen == ["begin a", "cancelled a"]
        mill.gate.set()
        assert (await client.cancel(id))["result"]["resultType"] == "complete", "again is no error"
        assert await client.get(id) == found


async def test_a_task_that_does_not_mind_is_cancelled_all_the_same() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server)
        id = await client.begin("stubborn")
        await turns()
        await client.cancel(id)
        await client.until(id, "cancelled")
        assert mill.seen == ["stubborn"]


async def test_a_cancel_that_comes_too_late_changes_nothing() -> None:
    mill, store = Mill(), SlowStore()
    store.go_on()
    async with serving(mill.service, store) as server:
        client = Client(server)
        id = await client.begin("grind", key="a")
        mill.gate.set()
        store.wait()
        await turns()  # it has ended, and its end is not committed
        cancel = client.post("tasks/cancel", {"taskId": id})
        await turns()
        store.go_on()
        assert (await cancel.json())["result"]["resultType"] == "complete"
        assert (await client.get(id))["status"] == "completed"


async def test_notifications_cancelled_does_not_touch_a_task() -> None:
    mill = Mill()
    async with conversing(mill.service) as (pipes, _):
        created = await pipes.ask(
            modern_request("c", "tools/call", {"name": "grind", "arguments": {"key": "a"}}, **KNOWS)
        )
        pipes.say(notification("notifications/cancelled", {"requestId": "c"}))
        mill.gate.set()
        id = created["result"]["taskId"]
        while True:
            found = await pipes.ask(modern_request(f"g{len(pipes.heard)}", "tasks/get", {"taskId": id}, **KNOWS))
            if found["result"]["status"] != "working":
                break
        assert found["result"]["status"] == "completed"


# --- how long -----------------------------------------------------------------------------------------


@virtual
async def test_a_task_is_kept_for_its_time_from_its_end_on_and_then_vanishes() -> None:
    mill = Mill()
    async with serving(mill.service, task_ttl=100.0) as server:
        table, client = server.endpoint.task_table, Client(server)
        begun = table.wall()
        id = await client.begin("grind", key="a")
        table.wall = lambda: begun + 1000
        assert (await client.get(id))["ttlMs"] >= 1_099_000, "it works, and does not expire meanwhile"
        await asyncio.sleep(10)
        mill.gate.set()
        found = await client.until(id, "completed")
        assert 1_099_000 <= found["ttlMs"] <= 1_101_000
        table.wall = lambda: begun + 1099
        assert (await client.get(id))["status"] == "completed"
        table.wall = lambda: begun + 1101
        assert (await client.get(id))["code"] == INVALID_PARAMS
        await asyncio.sleep(10)
        assert (table.tasks, table.bytes, table._principals) == ({}, 0, {})


@pytest.mark.parametrize("limit", [{"max_tasks": 2}, {"max_principal_tasks": 2}, {"task_bytes": 2048}])
async def test_tasks_over_a_limit_are_refused(limit: dict[str, int]) -> None:
    mill = Mill()
    async with serving(mill.service, **limit) as server:
        client = Client(server, "alice")
        await client.begin("grind", key="a")
        await client.begin("grind", key="b")
        post = client.call("grind", key="c")
        assert await post.status_code() == 503
        error = (await post.json())["error"]
        assert (error["code"], error["data"]) == (LIMIT, {"limit": "tasks"})
        bob = Client(server, "bob").call("grind", key="d")
        assert await bob.status_code() == (200 if "max_principal_tasks" in limit else 503)


# --- who listens --------------------------------------------------------------------------------------


@virtual
async def test_who_listens_hears_how_it_stands_and_how_it_ends() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server, "alice")
        id = await client.begin("grind", key="a", step="turning")
        stream = client.listen(id, "no-such-task", id)
        await stream.event_count(2)
        acknowledged, first = stream.messages
        assert acknowledged["params"]["notifications"] == {"taskIds": [id]}
        assert (first["method"], first["params"]["status"]) == (TASKS, "working")
        assert first["params"]["statusMessage"] == "turning"
        mill.gate.set()
        last = await stream.message(lambda one: one.get("params", {}).get("status") == "completed")
        told = dict(last["params"])
        assert told.pop("_meta") == {"io.modelcontextprotocol/subscriptionId": 2}
        asked = await client.get(id)
        assert told == {name: value for name, value in asked.items() if name not in ("resultType", "_meta")}


@virtual
async def test_who_listens_late_hears_of_the_end() -> None:
    mill = Mill()
    mill.gate.set()
    async with serving(mill.service) as server:
        client = Client(server)
        id = await client.begin("grind", key="a")
        await client.until(id, "completed")
        stream = client.listen(id)
        assert (await stream.message(TASKS))["params"]["result"]["content"] == [{"type": "text", "text": "a"}]


@virtual
async def test_progress_becomes_the_status_message_and_is_told_twice_a_second_at_most() -> None:
    service = Service("busy")
    go_on = asyncio.Event()

    @service.tool(task=True)
    async def busy(ctx: Context) -> None:
        await go_on.wait()
        for number in range(1000):
            await ctx.progress(number, 1000)
            await asyncio.sleep(0.002)

    async with serving(service) as server:
        client = Client(server)
        id = await client.begin("busy")
        stream = client.listen(id)
        await stream.event_count(2)
        go_on.set()
        await asyncio.sleep(10)
        messages = [one["params"].get("statusMessage") for one in stream.messages if one["method"] == TASKS]
        assert 4 <= len(messages) <= 8
        assert messages[1].endswith(" of 1000")
        methods = {one["method"] for one in stream.messages}
        assert methods == {TASKS, "notifications/subscriptions/acknowledged"}, "no progress, no log"


async def test_to_listen_to_tasks_one_has_to_know_them() -> None:
    async with serving(Mill().service) as server:
        stream = Client(server, clientCapabilities={}).listen("x")
        assert await stream.status_code() == 400
        assert (await stream.json())["error"]["code"] == MISSING


async def test_a_foreign_task_is_not_listened_to() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        id = await Client(server, "alice").begin("grind", key="a")
        stream = Client(server, "mallory").listen(id)
        await stream.event_count(1)
        mill.gate.set()
        await Client(server, "alice").until(id, "completed")
        await turns()
        assert [one["params"]["notifications"] for one in stream.messages] == [{}]


async def test_nothing_is_left_of_a_stream_that_listened() -> None:
    mill = Mill()
    async with serving(mill.service) as server:
        client = Client(server)
        id = await client.begin("grind", key="a")
        streams = [client.listen(id), client.listen(id)]
        for stream in streams:
            await stream.event_count(2)
            stream.disconnect()
        assert server.endpoint.listens._watching == {}


async def test_an_end_that_is_being_committed_at_shutdown_is_told_before_the_stream_ends() -> None:
    mill, store = Mill(), SlowStore()
    store.go_on()
    async with serving(mill.service, store) as server:
        client = Client(server)
        id = await client.begin("grind", key="a")
        stream = client.listen(id)
        await stream.event_count(2)
        store.wait()
        mill.gate.set()
        await turns()
        ending = asyncio.ensure_future(server.end_sessions())
        await turns()
        store.go_on()
        await stream.end()
        await ending
        assert [one.get("params", {}).get("status") for one in stream.messages[1:]] == ["working", "completed", None]


@virtual
async def test_a_store_that_hangs_does_not_keep_a_stream_from_its_end() -> None:
    mill, store = Mill(), SlowStore()
    store.go_on()
    async with serving(mill.service, store) as server:
        client = Client(server)
        stream = client.listen(await client.begin("grind", key="a"))
        await stream.event_count(2)
        store.wait()
        mill.gate.set()
        await turns()
        await server.end_sessions()
        await stream.end()
        assert stream.messages[-1]["result"]["resultType"] == "complete"


# --- over a restart -----------------------------------------------------------------------------------


async def end_at_once(server: Server, store: MemoryStore) -> None:
    """As kill -9 ends it: nothing of what follows is committed."""
    store.crash()
    await server.stop()


@pytest.mark.parametrize("how", ["in order", "killed"])
async def test_what_had_ended_is_still_there(how: str) -> None:
    mill, store = Mill(), MemoryStore(durable=True)
    mill.gate.set()
    async with serving(mill.service, store) as server:
        client = Client(server, "alice")
        ended = {
            id: await client.until(id, status)
            for id, status in (
                (await client.begin("grind", key="a"), "completed"),
                (await client.begin("full"), "failed"),
            )
        }
        mill.gate.clear()
        cancelled = await client.begin("grind", key="c")
        await client.cancel(cancelled)
        ended[cancelled] = await client.until(cancelled, "cancelled")
        if how == "killed":
            await end_at_once(server, store)
    async with serving(mill.service, store) as server:
        for id, before in ended.items():
            assert await Client(server, "alice").get(id) == before
            assert (await Client(server, "mallory").get(id))["code"] == INVALID_PARAMS
        assert server.endpoint.task_table.bytes > 3 * 1024


@pytest.mark.parametrize("how", ["in order", "killed"])
async def test_what_was_working_ends_with_an_unknown_outcome(how: str) -> None:
    mill, store = Mill(), MemoryStore(durable=True)
    async with serving(mill.service, store) as server:
        id = await Client(server).begin("grind", key="a")
        await turns()
        if how == "killed":
            await end_at_once(server, store)
    mill.gate.set()
    async with serving(mill.service, store) as server:
        found = await Client(server).until(id, "completed")
        assert found["result"]["isError"] is True
        assert found["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
        assert found["taskId"] == id
    assert mill.seen.count("begin a") == 1


async def test_what_may_run_again_runs_once_more_at_most() -> None:
    mill, store = Mill(), MemoryStore(durable=True)
    async with serving(mill.service, store) as server:
        ids = [await Client(server).begin("again", key=key) for key in ("a", "b")]
        await turns()
        await end_at_once(server, store)
    async with serving(mill.service, store) as server:
        assert (await Client(server).get(ids[0]))["status"] == "working"
        await turns()
        assert mill.seen.count("begin a") == 2
        mill.gate.set()
        assert text_of(await Client(server).until(ids[0], "completed")) == "a"
        assert text_of(await Client(server).until(ids[1], "completed")) == "b"


async def test_a_third_run_is_not_tried() -> None:
    mill, store = Mill(), MemoryStore(durable=True)
    async with serving(mill.service, store) as server:
        id = await Client(server).begin("again", key="a")
        await turns()
        await end_at_once(server, store)
    async with serving(mill.service, store) as server:
        await turns()
        await end_at_once(server, store)
    async with serving(mill.service, store) as server:
        found = await Client(server).until(id, "completed")
        assert found["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
    assert mill.seen.count("begin a") == 2


async def test_a_wish_to_cancel_is_not_lost_in_a_crash() -> None:
    service, store = Service("deaf"), MemoryStore(durable=True)
    runs: list[str] = []
    gate = asyncio.Event()

    @service.tool(task=True, on_crash="rerun")
    async def deaf() -> None:
        runs.append("run")
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()

    async with serving(service, store) as server:
        id = await Client(server).begin("deaf")
        await turns()
        await Client(server).cancel(id)
        assert (await Client(server).get(id))["status"] == "working", "cooperative"
        store.crash()
        gate.set()
    async with serving(service, store) as server:
        assert (await Client(server).until(id, "cancelled"))["status"] == "cancelled"
    assert runs == ["run"]


async def test_a_task_whose_tool_is_gone_ends_with_an_unknown_outcome() -> None:
    mill, store = Mill(), MemoryStore(durable=True)
    async with serving(mill.service, store) as server:
        id = await Client(server).begin("again", key="a")
        await end_at_once(server, store)
    async with serving(Service("other"), store) as server:
        found = await Client(server).until(id, "completed")
        assert found["result"]["_meta"]["io.tailrace/outcome"] == "unknown"


async def test_a_damaged_entry_does_not_keep_the_others_waiting(caplog: pytest.LogCaptureFixture) -> None:
    from tailrace.core.ports import PutEntry

    mill, store = Mill(), MemoryStore(durable=True)
    mill.gate.set()
    async with serving(mill.service, store) as server:
        id = await Client(server).begin("grind", key="a")
        await Client(server).until(id, "completed")
        store.write([PutEntry("task", "!", b"{}", 1e11)])
    async with serving(mill.service, store) as server:
        assert (await Client(server).get(id))["status"] == "completed"
    assert len(errors(caplog)) == 1


async def test_the_trace_of_a_task_goes_on_in_its_second_run() -> None:
    service, store = Service("traced"), MemoryStore(durable=True)
    seen: list[str | None] = []
    gate = asyncio.Event()

    @service.tool(task=True, on_crash="rerun")
    async def traced(ctx: Context) -> None:
        seen.append(ctx.correlation_id)
        await gate.wait()

    trace = "0af7651916cd43dd8448eb211c80319c"
    async with serving(service, store) as server:
        await Client(server, **KNOWS, traceparent=f"00-{trace}-b7ad6b7169203331-01").begin("traced")
        await turns()
        await end_at_once(server, store)
    async with serving(service, store) as server:
        await turns()
        gate.set()
    assert seen == [trace, trace]


# --- together with publish ------------------------------------------------------------------------------


class CrashBehind(MemoryStore):
    """Takes nothing more once messages were written: a crash right behind their commit."""

    crashed = False

    def write(self, records: Any) -> int:
        if self.crashed:
            raise StoreError("crashed")
        ticket = super().write(records)
        self.crashed = any(getattr(record, "kind", None) not in (None, "task", "task-result") for record in records)
        return ticket


async def test_a_task_that_has_published_is_not_run_again_after_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    service, runs = Service("mail"), list[int]()

    @service.tool(task=True, on_crash="rerun")
    async def send(ctx: Context) -> str:
        runs.append(1)
        await ctx.publish("mails", "hello", key="k")
        return "sent"

    store, publisher = CrashBehind(durable=True), MemoryPublisher()
    server = Server(service, Settings(drain=0.0), store, publisher=publisher)
    await server.start()
    id = await Client(server).begin("send")
    while not store.crashed:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    await end_at_once(server, store)
    store.crashed = False
    store.write = lambda records: MemoryStore.write(store, records)  # type: ignore[method-assign]
    server = Server(service, Settings(drain=0.0), store, publisher=publisher)
    await server.start()
    try:
        assert text_of(await Client(server).until(id, "completed")) == "sent"
        assert runs == [1]
        assert {message.value for message in publisher.messages} <= {b'"hello"', b"hello"}
    finally:
        await server.stop()


# --- together with once -------------------------------------------------------------------------------

KEY = "io.tailrace/idempotencyKey"


class Shop:
    """A service whose calls run once for a key, as tasks."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.runs: list[str] = []
        self.service = service = Service("shop")

        async def order(ctx: Context, item: str) -> str:
            self.runs.append(item)
            await ctx.progress(1, 2, f"packing {item}")
            await self.gate.wait()
            return f"{item} {len(self.runs)}"

        service.tool(name="order", once=True, task=True)(order)
        service.tool(name="again", once=True, task=True, on_crash="rerun")(order)
        service.tool(name="maybe", once=True, task="auto")(order)
        service.tool(name="only", once=True, task="required")(order)


def keyed(server: Server, key: str, principal: str = "", **more: Any) -> Client:
    return Client(server, principal, **{**KNOWS, KEY: key, **more})


async def test_the_same_key_gives_the_same_task() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        alice = keyed(server, "k", "alice")
        first = (await alice.call("order", item="tea").json())["result"]
        second = (await alice.call("order", item="tea").json())["result"]
        assert second["taskId"] == first["taskId"]
        assert second["_meta"]["io.tailrace/replayed"] is True
        assert "io.tailrace/replayed" not in first["_meta"]
        assert await keyed(server, "k", "bob").begin("order", item="tea") != first["taskId"]
        assert await keyed(server, "other", "alice").begin("order", item="tea") != first["taskId"]
        assert await Client(server, "alice").begin("order", item="tea") != first["taskId"], "no key, no deduplication"
        await turns()
        assert len(shop.runs) == 4
        assert (await alice.get(first["taskId"]))["statusMessage"] == "packing tea"
        shop.gate.set()
        done = await alice.until(first["taskId"], "completed")
        assert text_of(done) == "tea 4"
        after = (await alice.call("order", item="tea").json())["result"]
        assert (after["taskId"], after["status"], after["resultType"]) == (first["taskId"], "completed", "task")
        assert "result" not in after


async def test_fifty_calls_with_one_key_are_one_task() -> None:
    shop, store = Shop(), SlowStore()
    async with serving(shop.service, store) as server:
        client = keyed(server, "k")
        posts = [client.call("only", item="tea") for _ in range(50)]
        await turns()
        assert not any(post.replied for post in posts), "the task is not committed"
        store.go_on()
        ids = {(await post.json())["result"]["taskId"] for post in posts}
        assert len(ids) == 1
        shop.gate.set()
        assert text_of(await client.until(ids.pop(), "completed")) == "tea 1"
        assert shop.runs == ["tea"]


async def test_a_task_that_could_not_be_stored_is_refused_to_all_who_asked_with_its_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop, store = Shop(), MemoryStore()
    async with serving(shop.service, store) as server:
        client = keyed(server, "k")
        store.fail_commits(DISK_FULL)
        posts = [client.call("order", item="tea") for _ in range(3)]
        for post in posts:
            assert (await post.json())["error"]["code"] == INTERNAL_ERROR
        store.fail_commits(None)
        assert await client.begin("order", item="tea"), "the key is free"
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("changed", [{"tool": "order", "item": "coffee"}, {"tool": "only", "item": "tea"}])
async def test_a_key_that_stands_for_another_task_is_refused(changed: dict[str, str]) -> None:
    shop, store = Shop(), SlowStore()
    async with serving(shop.service, store) as server:
        client = keyed(server, "k")
        first = client.call("order", item="tea")
        early = client.call(**changed)  # before anything is committed
        assert (await early.json())["error"]["code"] == INVALID_PARAMS
        store.go_on()
        assert (await first.json())["result"]["taskId"]
        await turns()
        assert (await client.call(**changed).json())["error"]["code"] == INVALID_PARAMS


async def test_a_client_without_tasks_attaches_to_the_run_of_a_task_and_the_other_way_round() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        id = await keyed(server, "a").begin("order", item="tea")
        await turns()
        plain = keyed(server, "a", clientCapabilities={}).call("order", item="tea")
        other = keyed(server, "b", clientCapabilities={}).call("order", item="milk")
        await turns()
        later = await keyed(server, "b").begin("order", item="milk")
        await turns()
        assert shop.runs == ["tea", "milk"]
        shop.gate.set()
        assert text_of(await plain.json()) == text_of(await keyed(server, "a").until(id, "completed"))
        assert text_of(await other.json()) == text_of(await keyed(server, "b").until(later, "completed"))
        assert shop.runs == ["tea", "milk"]


async def test_an_answer_that_outlives_its_task_is_replayed() -> None:
    shop = Shop()
    shop.gate.set()
    async with serving(shop.service, task_ttl=100.0) as server:
        client = keyed(server, "k")
        await client.until(await client.begin("order", item="tea"), "completed")
        begun = server.endpoint.task_table.wall()
        server.endpoint.task_table.wall = lambda: begun + 1000
        answer = await client.call("order", item="tea").json()
        assert answer["result"]["resultType"] == "complete"
        assert answer["result"]["_meta"]["io.tailrace/replayed"] is True
        assert text_of(answer) == "tea 1"
        assert shop.runs == ["tea"]


async def test_cancelling_a_task_whose_call_runs_once_ends_the_run() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        client = keyed(server, "k")
        id = await client.begin("order", item="tea")
        await turns()
        await client.cancel(id)
        await client.until(id, "cancelled")
        await turns()
        assert server.tasks.calls == {}
        again = (await client.call("order", item="tea").json())["result"]
        assert (again["taskId"], again["status"]) == (id, "cancelled"), "the key is taken: it runs once"


@virtual
@pytest.mark.parametrize("durable", [False, True])
async def test_a_retry_within_the_hold_of_auto_becomes_the_same_task(durable: bool) -> None:
    shop = Shop()
    async with serving(shop.service, MemoryStore(durable=durable)) as server:
        client = keyed(server, "k")
        calls = [client.call("maybe", item="tea") for _ in range(3)]
        await asyncio.sleep(2)
        told = [(await one.json())["result"] for one in calls]
        assert [one["resultType"] for one in told] == ["task"] * 3
        assert len({one["taskId"] for one in told}) == 1
        assert [one["_meta"].get("io.tailrace/replayed") for one in told] == [None, True, True]
        shop.gate.set()
        done = await client.until(told[0]["taskId"], "completed")
        assert done["result"]["content"][0]["text"] == "tea 1"
        assert shop.runs == ["tea"]
        assert server.tasks.calls == {}


@virtual
async def test_a_retry_within_the_hold_of_auto_stays_when_the_first_one_is_gone() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        client = keyed(server, "k")
        first, second = client.call("maybe", item="tea"), client.call("maybe", item="tea")
        await turns()
        first.disconnect()
        await asyncio.sleep(2)
        told = (await second.json())["result"]
        assert told["resultType"] == "task"
        shop.gate.set()
        await client.until(told["taskId"], "completed")
        assert shop.runs == ["tea"]


@virtual
async def test_a_retry_whose_first_request_could_not_become_a_task_tries_for_itself() -> None:
    shop, store = Shop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        client = keyed(server, "k")
        first = client.call("maybe", item="tea")
        await asyncio.sleep(0.2)
        second = client.call("maybe", item="tea")
        await asyncio.sleep(0.2)
        store.fail_commits(DISK_FULL)  # of the first one's task
        await asyncio.sleep(0.2)
        store.fail_commits(None)
        await asyncio.sleep(1)
        assert (await second.json())["result"]["resultType"] == "task"
        shop.gate.set()
        assert text_of(await first.json()) == "tea 1"
        assert shop.runs == ["tea"]


@pytest.mark.parametrize("how", ["in order", "killed"])
@pytest.mark.parametrize(("tool", "runs"), [("order", 1), ("again", 2)])
async def test_a_task_whose_call_runs_once_is_found_by_its_key_after_a_restart(tool: str, runs: int, how: str) -> None:
    shop, store = Shop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        id = await keyed(server, "k").begin(tool, item="tea")
        await turns()
        if how == "killed":
            await end_at_once(server, store)
    shop.gate.set()
    async with serving(shop.service, store) as server:
        client = keyed(server, "k")
        assert await client.begin(tool, item="tea") == id
        found = await client.until(id, "completed")
        assert found["result"].get("isError", False) is (runs == 1)
        assert found["result"]["_meta"].get("io.tailrace/outcome") == ("unknown" if runs == 1 else None)
        assert "io.tailrace/replayed" not in found["result"]["_meta"]
    async with serving(shop.service, store) as server:
        assert await keyed(server, "k").get(id) == found
    assert len(shop.runs) == runs


async def test_a_task_whose_key_is_forgotten_does_not_run_again() -> None:
    shop, store = Shop(), MemoryStore(durable=True)
    async with serving(shop.service, store, once_ttl=100.0) as server:
        server.endpoint.task_table.wall = lambda: 1e9  # long ago
        id = await keyed(server, "k").begin("again", item="tea")
        await end_at_once(server, store)
    async with serving(shop.service, store, once_ttl=100.0) as server:
        found = await keyed(server, "k").until(id, "completed")
        assert found["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
    assert shop.runs == []


# --- over stdio ---------------------------------------------------------------------------------------


async def test_over_stdio_a_task_frees_its_request_id_and_outlives_nothing_but_its_request() -> None:
    mill = Mill()
    async with conversing(mill.service) as (pipes, _):
        ask = modern_request(1, "tools/call", {"name": "grind", "arguments": {"key": "a"}}, **KNOWS)
        first, second = (await pipes.ask(ask))["result"], None
        pipes.say(ask)
        await pipes.hear(lambda _: len(pipes.heard) == 2)
        second = pipes.heard[1]["result"]
        assert first["taskId"] != second["taskId"]
        refused = await pipes.ask(modern_request(2, "tasks/get", {"taskId": "x"}, **KNOWS))
        assert refused["error"]["code"] == INVALID_PARAMS
        stated = await pipes.ask(modern_request(3, "tasks/get", {"taskId": first["taskId"]}, **KNOWS))
        assert stated["result"]["status"] == "working"
        await pipes.ask(modern_request(4, "tasks/cancel", {"taskId": first["taskId"]}, **KNOWS))
        pipes.say(
            modern_request("l", "subscriptions/listen", {"notifications": {"taskIds": [second["taskId"]]}}, **KNOWS)
        )
        mill.gate.set()
        done = await pipes.hear(lambda one: one.get("params", {}).get("status") == "completed")
        assert done["params"]["taskId"] == second["taskId"]


@virtual
async def test_over_stdio_the_end_of_input_leaves_tasks_little_time() -> None:
    mill = Mill()
    async with conversing(mill.service, eof_drain=1.5, drain=25.0) as (pipes, running):
        await pipes.ask(modern_request(1, "tools/call", {"name": "grind", "arguments": {"key": "a"}}, **KNOWS))
        begun = asyncio.get_running_loop().time()
        pipes.close()
        await running
        assert asyncio.get_running_loop().time() - begun < 4
    assert mill.seen == ["begin a", "cancelled a"]


@virtual
async def test_over_stdio_auto_becomes_a_task_too() -> None:
    mill = Mill()
    async with conversing(mill.service) as (pipes, _):
        ask = modern_request(1, "tools/call", {"name": "maybe", "arguments": {"key": "a"}}, **KNOWS)
        assert (await pipes.ask(ask))["result"]["resultType"] == "task"
        pipes.say({**ask, "id": 2})
        await asyncio.sleep(0.1)
        pipes.say(notification("notifications/cancelled", {"requestId": 2}))
        await asyncio.sleep(2)
        assert not any(is_answer(one, 2) for one in pipes.heard), json.dumps(pipes.heard)
        assert mill.seen == ["begin a", "begin a", "cancelled a"]
