"""A call that runs once asks on its way: its key stays open until the handler ran to a result; no leg is charged."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.protocols.mcp.test_asking import legacy, reply
from tests.protocols.mcp.test_mrtr import Dialogue, accept
from tests.protocols.mcp.test_mrtr_tasks import ABLE as TASKS_TOO
from tests.protocols.mcp.test_mrtr_tasks import asked, update
from tests.protocols.mcp.test_tasks import Client, end_at_once
from tests.rigs.exchange import serving, text_of

KEY = "io.tailrace/idempotencyKey"


class Till:
    """A service that asks, and then charges, once for a key."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.service = service = Service("till")

        async def pay(ctx: Context, item: str = "tea") -> str:
            self.did.append("run")
            held = await ctx.step("hold", self.hold, item)
            said = (await ctx.elicit(f"Buy {item}?", str, key="buy")).data
            self.did.append(f"charge {item}")
            await self.gate.wait()
            return f"{said} {held}"

        service.tool(name="pay", once=True)(pay)
        service.tool(name="pay_rerun", once=True, on_crash="rerun")(pay)
        service.tool(name="pay_auto", once=True, task="auto")(pay)
        service.tool(name="pay_task", once=True, task=True)(pay)

    def hold(self, item: str) -> str:
        self.did.append("hold")
        return "held"

    def count(self, what: str) -> int:
        return self.did.count(what)


def keyed(server: Any, key: str = "k", tool: str = "pay", arguments: Any = None, **more: Any) -> Dialogue:
    return Dialogue(server, tool, arguments, **more, **{KEY: key})


@virtual
async def test_a_key_is_charged_only_when_the_handler_ran_to_a_result() -> None:
    till = Till()
    async with serving(till.service) as server:
        call = keyed(server)
        first = (await call.leg())["result"]
        assert first["resultType"] == "input_required"
        state = call.state
        assert text_of(await call.leg(accept("yes"))) == "yes held"
        assert till.did == ["run", "hold", "run", "charge tea"]
        again = await call.leg(buy=accept("no"), state=state)
        assert text_of(again) == "yes held"
        assert again["result"]["_meta"]["io.tailrace/replayed"] is True
        assert text_of(await keyed(server).leg()) == "yes held"
        assert till.count("charge tea") == 1


@virtual
async def test_between_two_legs_the_key_is_taken_for_its_call_and_no_other() -> None:
    till = Till()
    async with serving(till.service) as server:
        call = keyed(server)
        await call.leg()
        other = await keyed(server, arguments={"item": "gold"}).leg()
        assert other["error"]["code"] == -32602
        assert "other arguments" in other["error"]["message"]
        anew = keyed(server)
        assert (await anew.leg())["result"]["resultType"] == "input_required"
        assert till.count("hold") == 1
        assert text_of(await anew.leg(accept("new"))) == "new held"
        assert text_of(await call.leg(accept("old"))) == "new held"
        assert till.count("charge tea") == 1


async def test_legs_that_race_with_one_key_are_charged_once() -> None:
    till = Till()
    async with serving(till.service) as server:
        calls = [keyed(server) for _ in range(3)]
        for call in calls:
            await call.leg()
        till.gate.clear()
        posts = [call.post({"buy": accept(f"{n}")}, call.state) for n, call in enumerate(calls)]
        await turns(100)
        till.gate.set()
        assert {text_of(await post.answer(2)) for post in posts} == {"0 held"}
        assert till.count("charge tea") == 1


async def test_one_that_attached_to_a_leg_that_asks_goes_on_with_its_own_answers() -> None:
    till = Till()
    async with serving(till.service) as server:
        before = keyed(server)
        await before.leg()
        first, second = keyed(server).post(), before.post({"buy": accept("b")}, before.state)
        assert (await first.answer(1))["result"]["resultType"] == "input_required"
        assert text_of(await second.answer(2)) == "b held"
        assert till.count("charge tea") == 1


@virtual
async def test_an_answer_that_does_not_fit_and_a_capability_that_is_missing_leave_the_key_open() -> None:
    till = Till()
    async with serving(till.service) as server:
        unable = keyed(server, able={})
        post = unable.post()
        assert await post.status_code() == 400
        assert (await post.answer(1))["error"]["data"] == {"requiredCapabilities": {"elicitation": {}}}
        call = keyed(server)
        await call.leg()
        state = call.state
        assert (await call.leg(buy=7))["error"]["code"] == -32602
        assert text_of(await call.leg(buy=accept("ok"), state=state)) == "ok held"
        assert till.count("charge tea") == till.count("hold") == 1


@virtual
async def test_an_open_key_is_free_once_its_time_has_passed() -> None:
    till = Till()
    async with serving(till.service, state_time=60.0) as server:
        ledger = server.endpoint.once.ledger
        now = ledger._clock()
        ledger._clock = lambda: now
        await keyed(server).leg()
        assert len(ledger) == 1
        now += 61.0
        ledger.expire()
        assert len(ledger) == 0
        assert (await keyed(server, arguments={"item": "gold"}).leg())["result"]["resultType"] == "input_required"


@pytest.mark.parametrize("tool", ["pay", "pay_rerun"])
async def test_a_key_is_still_open_after_a_crash_between_two_legs(tool: str) -> None:
    till, store = Till(), MemoryStore(durable=True)
    async with serving(till.service, store) as server:
        call = keyed(server, tool=tool)
        await call.leg()
        await end_at_once(server, store)
    async with serving(till.service, store) as server:
        call.server = server
        other = await keyed(server, tool=tool, arguments={"item": "gold"}).leg()
        assert other["error"]["code"] == -32602
        assert text_of(await call.leg(accept("yes"))) == "yes held"
        assert till.did == ["run", "hold", "run", "charge tea"]


async def test_a_crash_in_the_last_leg_leaves_its_outcome_unknown() -> None:
    till, store = Till(), MemoryStore(durable=True)
    async with serving(till.service, store) as server:
        call = keyed(server)
        await call.leg()
        till.gate.clear()
        call.post({"buy": accept("yes")}, call.state)
        await turns(100)
        assert till.count("charge tea") == 1
        await end_at_once(server, store)
    till.gate.set()
    async with serving(till.service, store) as server:
        call.server = server
        answer = await call.leg(buy=accept("yes"), state=call.state)
        assert answer["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
        assert till.count("charge tea") == 1


async def test_a_run_that_a_crash_cut_off_asks_again_and_does_its_steps_once() -> None:
    till, store = Till(), MemoryStore(durable=True)
    async with serving(till.service, store) as server:
        call = keyed(server, tool="pay_rerun")
        await call.leg()
        till.gate.clear()
        call.post({"buy": accept("yes")}, call.state)
        await turns(100)
        await end_at_once(server, store)
    till.gate.set()
    async with serving(till.service, store) as server:
        await turns(100)  # it runs again by itself, finds nobody to ask, and leaves the key open
        call.server = server
        assert text_of(await call.leg(buy=accept("yes"), state=call.state)) == "yes held"
        assert till.count("hold") == 1


async def test_in_a_session_the_run_asks_the_client_that_began_it() -> None:
    till = Till()
    async with serving(till.service) as server:
        session = await legacy(server)
        message: Any = {"name": "pay", "arguments": {}, "_meta": {KEY: "k"}}
        post = session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": message})
        request = await post.message("elicitation/create")
        second = session.post({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": message})
        await turns()
        assert await session.post(reply(request["id"], accept("yes"))).status_code() == 202
        assert text_of(await post.answer(1)) == text_of(await second.answer(2)) == "yes held"
        assert till.did == ["run", "hold", "charge tea"]


async def test_if_the_client_that_is_asked_leaves_another_one_is_asked() -> None:
    till = Till()
    async with serving(till.service) as server:
        sessions = [await legacy(server) for _ in range(2)]
        message: Any = {"name": "pay", "arguments": {}, "_meta": {KEY: "k"}}
        posts: list[Any] = []
        for session in sessions:
            posts.append(session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": message}))
            await turns()
        await posts[0].message("elicitation/create")
        sessions[0].cancel(1)
        request = await posts[1].message("elicitation/create")
        assert await sessions[1].post(reply(request["id"], accept("second"))).status_code() == 202
        assert text_of(await posts[1].answer(1)) == "second held"
        assert till.did == ["run", "hold", "charge tea"]
        assert len(server.endpoint.asking) == 0


async def test_what_the_client_refuses_is_the_runs_to_handle() -> None:
    till = Till()
    async with serving(till.service) as server:
        session = await legacy(server)
        message: Any = {"name": "pay", "arguments": {}, "_meta": {KEY: "k"}}
        post = session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": message})
        request = await post.message("elicitation/create")
        refused = {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -1, "message": "the user is away"}}
        assert await session.post(refused).status_code() == 202
        answer = await post.answer(1)
        assert answer["result"]["isError"] is True
        assert "away" in text_of(answer)


async def test_a_legacy_request_that_attached_to_a_modern_leg_asks_for_itself() -> None:
    till = Till()
    async with serving(till.service) as server:
        session = await legacy(server)
        modern = keyed(server).post()
        message: Any = {"name": "pay", "arguments": {}, "_meta": {KEY: "k"}}
        post = session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": message})
        assert (await modern.answer(1))["result"]["resultType"] == "input_required"
        request = await post.message("elicitation/create")
        assert await session.post(reply(request["id"], accept("legacy"))).status_code() == 202
        assert text_of(await post.answer(1)) == "legacy held"
        assert till.count("hold") == till.count("charge tea") == 1


@pytest.mark.parametrize("tool", ["pay_task", "pay_auto"])
async def test_a_task_with_a_key_asks_as_tasks_do(tool: str) -> None:
    till = Till()
    till.gate.clear()
    async with serving(till.service) as server:
        client = Client(server, **TASKS_TOO, **{KEY: "k"})
        result = (await client.call(tool).json())["result"]
        if result["resultType"] == "input_required":
            assert tool == "pay_auto"
            params = {"name": tool, "arguments": {}, "requestState": result["requestState"]}
            answer = await client.post("tools/call", params | {"inputResponses": {"buy": accept("yes")}}).json()
            result = answer["result"]
            assert result["resultType"] == "task"
        else:
            (key,) = await asked(client, result["taskId"])
            await update(client, result["taskId"], {key: accept("yes")})
        till.gate.set()
        assert text_of(await client.until(result["taskId"], "completed")) == "yes held"
        assert till.count("charge tea") == till.count("hold") == 1


@virtual
async def test_a_client_that_leaves_after_its_answer_is_found_again_by_its_key() -> None:
    till = Till()
    async with serving(till.service) as server:
        call = keyed(server)
        await call.leg()
        till.gate.clear()
        post = call.post({"buy": accept("yes")}, call.state)
        await turns(100)
        post.leave()
        await turns(100)
        till.gate.set()
        assert text_of(await call.leg(buy=accept("no"), state=call.state)) == "yes held"
        assert till.count("charge tea") == 1


@virtual
async def test_a_result_that_comes_instead_of_the_end_of_a_leg_is_not_remembered() -> None:
    service = Service("stubborn")

    @service.tool(once=True)
    async def clings(ctx: Context) -> str:
        try:
            return f"{(await ctx.elicit('?', str, key='q')).data}"
        except asyncio.CancelledError:
            return "never heard"

    async with serving(service) as server:
        call = keyed(server, tool="clings")
        assert (await call.leg())["result"]["resultType"] == "input_required"
        assert text_of(await call.leg(accept("heard"))) == "heard"
