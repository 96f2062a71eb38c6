"""A task asks its client: by its state and `tasks/update`; before it is a task, as any call (SEP-2663, SEP-2322)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace import Context, LimitError, Service
from tailrace.core.settings import Settings
from tailrace.errors import StoreError
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.protocols.mcp.test_mrtr import accept
from tests.protocols.mcp.test_tasks import EXTENSION, TASKS, Client, end_at_once
from tests.rigs.exchange import serving, text_of

ABLE: Any = {"clientCapabilities": {"elicitation": {}, "sampling": {}, "extensions": {EXTENSION: {}}}}
ACTS = 0.6  # seconds that a call may take before it becomes a task


def curious(notes: list[str] | None = None) -> Service:
    """A service whose tasks ask."""
    service, seen = Service("curious"), notes if notes is not None else []

    async def ask(ctx: Context, times: int = 1, wait: float | None = None) -> str:
        seen.append("begun")
        try:
            said = [f"{(await ctx.elicit('Well?', str, timeout=wait)).data}" for _ in range(times)]
        except TimeoutError:
            return "nobody"
        return " ".join(said)

    @service.tool(task=True)
    async def both(ctx: Context) -> str:
        one, two = await asyncio.gather(ctx.elicit("One?", str), ctx.elicit("Two?", str))
        return f"{one.data} {two.data}"

    @service.tool(task=True)
    async def crowd(ctx: Context) -> str:
        try:
            await asyncio.gather(*(ctx.elicit(f"{number}?", str) for number in range(3)))
        except LimitError as error:
            return error.limit
        return "room for all"

    @service.tool(task="auto")
    async def late(ctx: Context, first: bool = True) -> str:
        before = f"{(await ctx.elicit('Before?', str)).data}" if first else ""
        await asyncio.sleep(2 * ACTS)
        return f"{before} {(await ctx.elicit('After?', str)).data}"

    service.tool(name="ask", task=True)(ask)
    service.tool(name="again", task=True, on_crash="rerun")(ask)
    return service


async def asked(client: Client, id: str, count: int = 1) -> dict[str, Any]:
    """What the task asks, once it asks that much."""
    while True:
        state = await client.get(id)
        if state["status"] == "input_required" and len(state["inputRequests"]) == count:
            return state["inputRequests"]
        assert state["status"] in ("working", "input_required"), state
        await asyncio.sleep(0.01)


async def update(client: Client, id: str, responses: Any) -> Any:
    return await client.post("tasks/update", {"taskId": id, "inputResponses": responses}).json()


@virtual
async def test_a_task_shows_its_question_until_it_is_answered_and_goes_on() -> None:
    notes: list[str] = []
    async with serving(curious(notes)) as server:
        client = Client(server, **ABLE)
        id = await client.begin("ask", times=2)
        keys: list[str] = []
        for word in ("yes", "and"):
            ((key, question),) = (await asked(client, id)).items()
            keys.append(key)
            assert question["method"] == "elicitation/create"
            assert question["params"]["message"] == "Well?"
            assert await update(client, id, {key: accept(word)}) == {
                "jsonrpc": "2.0",
                "id": client.ids,
                "result": {"resultType": "complete", "_meta": server.endpoint.modern.server_info},
            }
        assert text_of(await client.until(id, "completed")) == "yes and"
        assert len(set(keys)) == 2
        assert notes == ["begun"]


@virtual
async def test_of_several_questions_those_are_shown_that_wait() -> None:
    async with serving(curious()) as server:
        client = Client(server, **ABLE)
        id = await client.begin("both")
        one, two = await asked(client, id, 2)
        await update(client, id, {one: accept("a"), "unknown": 7})
        assert list(await asked(client, id)) == [two]
        await update(client, id, {one: accept("too late")})
        assert list(await asked(client, id)) == [two]
        await update(client, id, {two: accept("b")})
        assert text_of(await client.until(id, "completed")) == "a b"


@virtual
async def test_an_answer_that_does_not_fit_is_refused_and_nothing_of_it_is_taken() -> None:
    async with serving(curious()) as server:
        client = Client(server, **ABLE)
        id = await client.begin("both")
        one, two = await asked(client, id, 2)
        for bad in (7, {"action": "accept", "content": {"value": 1}}):
            post = client.post("tasks/update", {"taskId": id, "inputResponses": {one: accept("a"), two: bad}})
            assert await post.status_code() == 400
            assert (await post.json())["error"]["code"] == -32602
        assert list(await asked(client, id, 2)) == [one, two]


@virtual
async def test_nobody_else_answers_for_a_principal() -> None:
    async with serving(curious()) as server:
        client = Client(server, "ann", **ABLE)
        id = await client.begin("ask")
        (key,) = await asked(client, id)
        assert (await update(Client(server, "bob", **ABLE), id, {key: accept("no")}))["error"]["code"] == -32602
        assert list(await asked(client, id)) == [key]


@virtual
async def test_a_task_that_nobody_answers_stops_waiting_and_one_that_is_cancelled_ends() -> None:
    async with serving(curious()) as server:
        client = Client(server, **ABLE)
        id = await client.begin("ask", wait=5.0)
        await asked(client, id)
        await asyncio.sleep(5.0)
        await turns()
        assert text_of(await client.until(id, "completed")) == "nobody"
        id = await client.begin("ask")
        (key,) = await asked(client, id)
        await client.cancel(id)
        assert (await client.until(id, "cancelled")).get("inputRequests") is None
        assert "result" in await update(client, id, {key: accept("too late")})


@virtual
async def test_a_task_asks_so_many_things_at_once_and_no_more() -> None:
    async with serving(curious(), max_asked=2) as server:
        client = Client(server, **ABLE)
        id = await client.begin("crowd")
        assert text_of(await client.until(id, "completed")) == "asked"


@virtual
async def test_who_listens_hears_of_a_question() -> None:
    async with serving(curious()) as server:
        client = Client(server, **ABLE)
        id = await client.begin("ask")
        stream = client.listen(id)
        told = await stream.message(
            lambda one: one.get("method") == TASKS and one["params"]["status"] == "input_required"
        )
        ((key, _),) = told["params"]["inputRequests"].items()
        await update(client, id, {key: accept("heard")})
        last = await stream.message(lambda one: one.get("params", {}).get("status") == "completed")
        assert last["params"]["result"]["content"][0]["text"] == "heard"


@virtual
async def test_before_it_is_a_task_a_call_asks_as_any_other_and_afterwards_as_a_task() -> None:
    async with serving(curious()) as server:
        client = Client(server, **ABLE)
        first = (await client.call("late").json())["result"]
        assert first["resultType"] == "input_required"
        assert "taskId" not in first
        (key,) = first["inputRequests"]
        params = {"name": "late", "arguments": {}, "requestState": first["requestState"]}
        second = (await client.post("tools/call", params | {"inputResponses": {key: accept("x")}}).json())["result"]
        assert second["resultType"] == "task"
        assert not {"requestState", "inputRequests"} & second.keys()
        id = second["taskId"]
        (key,) = await asked(client, id)
        await update(client, id, {key: accept("y")})
        assert text_of(await client.until(id, "completed")) == "x y"


@pytest.mark.parametrize("delay", [0.0, 0.4999999, 0.5, 0.5000001])
def test_a_question_at_the_moment_at_which_its_call_becomes_a_task_is_asked_one_way_or_the_other(delay: float) -> None:
    service = Service("border")

    @service.tool(task="auto")
    async def border(ctx: Context) -> str:
        await asyncio.sleep(delay)
        return f"{(await ctx.elicit('?', str, key='q')).data}"

    @virtual
    async def run() -> None:
        async with serving(service) as server:
            assert server.endpoint.settings.task_hold == Settings().task_hold == 0.5
            client = Client(server, **ABLE)
            result = (await client.call("border").json())["result"]
            if result["resultType"] == "input_required":
                params = {"name": "border", "arguments": {}, "requestState": result["requestState"]}
                answer = await client.post("tools/call", params | {"inputResponses": {"q": accept("x")}}).json()
                result = answer["result"]
            if result["resultType"] == "task":
                id = result["taskId"]
                if (await client.get(id))["status"] != "completed":
                    while (await client.get(id))["status"] == "working":
                        await asyncio.sleep(0.01)
                    if (await client.get(id))["status"] == "input_required":
                        (key,) = await asked(client, id)
                        await update(client, id, {key: accept("x")})
                result = (await client.until(id, "completed"))["result"]
            assert result["content"][0]["text"] == "x"
            assert server.endpoint.tasks.calls == {}

    run()


@pytest.mark.parametrize("commits", [True, False])
def test_a_question_that_is_on_its_way_when_its_call_becomes_a_task_moves_there(
    commits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("moving")

    @service.tool(task="auto")
    async def move(ctx: Context) -> str:
        return f"{(await ctx.elicit('?', str, key='q')).data}"

    @virtual
    async def run() -> None:
        store = MemoryStore()
        async with serving(service, store, task_hold=0.0) as server:
            client = Client(server, **ABLE)
            if not commits:
                store.fail_commits(StoreError("the disk is full"))
            result = (await client.call("move").json())["result"]
            assert result["resultType"] == ("task" if commits else "input_required")
            if commits:
                assert list(await asked(client, result["taskId"])) == ["q"]
            else:
                assert list(result["inputRequests"]) == ["q"]

    run()


async def test_a_task_that_runs_again_after_a_crash_asks_again_under_a_new_key() -> None:
    notes: list[str] = []
    store = MemoryStore(durable=True)
    async with serving(curious(notes), store) as server:
        client = Client(server, **ABLE)
        id = await client.begin("again")
        (before,) = await asked(client, id)
        await end_at_once(server, store)
    async with serving(curious(notes), store) as server:
        client = Client(server, **ABLE)
        (key,) = await asked(client, id)
        assert key != before
        await update(client, id, {before: accept("old")})
        await update(client, id, {key: accept("new")})
        assert text_of(await client.until(id, "completed")) == "new"
    assert notes == ["begun", "begun"]
