"""Effects of a handler that asks: in `ctx.step` they happen once over all its legs, runs and process lives."""

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
from tests.rigs.exchange import DISK_FULL, serving, text_of
from tests.rigs.workshop import errors


class Shop:
    """A service that charges before it asks."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.service = service = Service("shop")

        async def buy(ctx: Context, item: str, ask: bool = True) -> str:
            self.did.append(f"run {item}")
            paid = await ctx.step("charge", self.charge, item)
            said = (await ctx.elicit(f"Send {item}?", str, key="send")).data if ask else "yes"
            sent = await ctx.step("send", self.send, item)
            return f"{paid['charged']} {said} {sent}"

        service.tool(name="buy")(buy)
        service.tool(name="buy_later", task=True, on_crash="rerun")(buy)
        service.tool(name="buy_again", on_crash="rerun")(buy)

    async def charge(self, item: str) -> Any:
        self.did.append(f"charge {item}")
        await self.gate.wait()
        return {"charged": item}

    def send(self, item: str) -> str:
        self.did.append(f"send {item}")
        return "sent"


async def test_what_is_done_before_a_question_is_done_once() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        call = Dialogue(server, "buy", {"item": "tea"})
        await call.leg()
        state = call.state
        assert text_of(await call.leg(accept("ok"))) == "tea ok sent"
        again = await call.leg(send=accept("yes"), state=state)  # the answer was lost: it makes the last leg again
        assert text_of(again) == "tea yes sent"
        assert shop.did == ["run tea", "charge tea", "run tea", "send tea", "run tea"]
        other = Dialogue(server, "buy", {"item": "tea"})
        await other.leg()
        assert shop.did[-2:] == ["run tea", "charge tea"]


async def test_two_legs_that_race_with_one_state_share_each_step() -> None:
    shop = Shop()
    async with serving(shop.service) as server:
        call = Dialogue(server, "buy", {"item": "tea"})
        await call.leg()
        posts = [call.post({"send": accept(word)}, call.state) for word in ("a", "b", "c")]
        answers = [await post.answer(id) for id, post in enumerate(posts, 2)]
        assert [text_of(answer) for answer in answers] == ["tea a sent", "tea b sent", "tea c sent"]
        assert shop.did.count("charge tea") == shop.did.count("send tea") == 1


async def test_a_step_that_goes_on_when_its_client_leaves_is_waited_for_by_the_next_leg() -> None:
    shop = Shop()
    service = shop.service

    @service.tool
    async def slow(ctx: Context) -> str:
        said, paid = await asyncio.gather(ctx.elicit("?", str, key="q"), ctx.step("charge", shop.charge, "x"))
        return f"{said.data} {paid}"

    async with serving(service) as server:
        shop.gate.clear()
        call = Dialogue(server, "slow")
        await call.leg()
        post = call.post({"q": accept("a")}, call.state)
        await turns()
        post.leave()
        await turns()
        post = call.post({"q": accept("b")}, call.state)
        await turns()
        assert server.endpoint.tasks.detached
        shop.gate.set()
        assert text_of(await post.answer(call.id)) == "b {'charged': 'x'}"
        assert shop.did == ["charge x"]


async def test_a_call_that_never_asks_leaves_no_record_of_its_steps() -> None:
    shop, store = Shop(), MemoryStore()
    async with serving(shop.service, store) as server:
        assert text_of(await Dialogue(server, "buy", {"item": "tea", "ask": False}).leg()) == "tea yes sent"
        await store.flush()
        assert await store.count("step") == 0
        await Dialogue(server, "buy", {"item": "tea"}).leg()
        assert await store.count("step") == 1


async def test_the_next_leg_may_come_after_a_crash_and_a_step_that_it_cut_off_is_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop, store = Shop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        call = Dialogue(server, "buy", {"item": "tea"})
        await call.leg()
        await end_at_once(server, store)
    async with serving(shop.service, store) as server:
        call.server = server
        assert text_of(await call.leg(accept("ok"))) == "tea ok sent"
        assert shop.did == ["run tea", "charge tea", "run tea", "send tea"]
        shop.gate.clear()
        service = shop.service

        @service.tool
        async def late(ctx: Context) -> str:
            await ctx.elicit("?", str, key="q")
            return f"{await ctx.step('charge', shop.charge, 'late')}"

        cut = Dialogue(server, "late")
        await cut.leg()
        cut.post({"q": accept("a")}, cut.state)
        await turns()
        await end_at_once(server, store)
    shop.gate.set()
    async with serving(shop.service, store) as server:
        cut.server = server
        answer = await cut.leg(q=accept("a"), state=cut.state)
        assert answer["result"]["isError"] is True
        assert answer["result"]["_meta"]["io.tailrace/outcome"] == "unknown"
        assert "whether it took effect is unknown" in text_of(answer)
        assert shop.did.count("charge late") == 1
    assert [one for one in errors(caplog) if "detached work dropped" not in one] == []


@virtual
async def test_a_result_that_could_not_be_recorded_is_recorded_later() -> None:
    shop, store = Shop(), MemoryStore(durable=True)

    @shop.service.tool
    async def pay(ctx: Context) -> str:
        paid = await ctx.step("charge", shop.charge, "tea")
        return f"{paid['charged']} {(await ctx.elicit('Sure?', str)).data}"

    async with serving(shop.service, store) as server:
        shop.gate.clear()
        call = Dialogue(server, "pay")
        leg = asyncio.ensure_future(call.leg())
        await turns()
        store.fail_commits(DISK_FULL)
        shop.gate.set()
        await leg
        store.fail_commits(None)
        await asyncio.sleep(10)
        assert text_of(await call.leg(accept("ok"))) == "tea ok"
        assert shop.did == ["charge tea"]


async def test_a_task_that_runs_again_after_a_crash_does_its_steps_once() -> None:
    shop, store = Shop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        client = Client(server, **TASKS_TOO)
        id = await client.begin("buy_later", item="tea")
        await asked(client, id)
        await end_at_once(server, store)
    async with serving(shop.service, store) as server:
        client = Client(server, **TASKS_TOO)
        (key,) = await asked(client, id)
        await update(client, id, {key: accept("ok")})
        assert text_of(await client.until(id, "completed")) == "tea ok sent"
    assert shop.did == ["run tea", "charge tea", "run tea", "send tea"]


@pytest.mark.parametrize("tool", ["buy", "buy_again"])
async def test_in_a_session_the_same_handler_asks_in_one_run(tool: str) -> None:
    shop, store = Shop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await legacy(server)
        post = session.call(1, tool, {"item": "tea"})
        request = await post.message("elicitation/create")
        assert await session.post(reply(request["id"], accept("ok"))).status_code() == 202
        assert text_of(await post.answer(1)) == "tea ok sent"
        assert shop.did == ["run tea", "charge tea", "send tea"]
        await store.flush()
        assert await store.count("step") == 0


@virtual
async def test_a_session_call_that_runs_again_after_a_crash_does_its_steps_once() -> None:
    shop, store = Shop(), MemoryStore(durable=True)
    async with serving(shop.service, store) as server:
        session = await legacy(server)
        post = session.call(1, "buy_again", {"item": "tea"})
        await post.message("elicitation/create")
        await store.flush()
        await end_at_once(server, store)
    async with serving(shop.service, store) as server:
        session.server = server
        while len(server.endpoint.asking) == 0:
            await asyncio.sleep(0.01)
        assert shop.did == ["run tea", "charge tea", "run tea"]
