"""The names that programs of others rely on, each used as it was promised, in a file like theirs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from click.testing import CliRunner

from tailrace import Context, Service, Session, ToolError, current
from tailrace.cli import main
from tailrace.testing import connected

STATISTICS = {"sessions", "calls", "streams", "detached", "log_bytes", "store", "outbox"}
COMMANDS = ["run", "demo", "ls", "call", "check", "outbox", "gen", "install", "bench"]
FLAGS = [
    "--stdio",
    "--host",
    "--port",
    "--uds",
    "--store",
    "--publish",
    "--workers",
    "--server",
    "--drain",
    "--shutdown-delay",
    "--keep-alive",
    "--session-idle",
    "--max-sessions",
    "--max-body",
    "--allow-host",
    "--allow-origin",
    "--auth-token",
    "--insecure",
    "--tls-cert",
    "--tls-key",
    "--reload",
    "--log-level",
    "--store-wait",
    "--stateless",
    "--log-format",
]


@dataclasses.dataclass
class Order:
    item: str
    qty: int


class Shop:
    """One service with all that can be defined, and what it heard."""

    def __init__(self) -> None:
        self.svc = svc = Service("orders", version="1.0.0", instructions="Order.", package="orders.v1", middleware=[])
        self.heard: list[str] = []
        self.mailed = asyncio.Event()
        svc.tool(self.place)
        svc.tool(name="renamed", title="T", description="D", once="request_id", read_only=False, idempotent=True,
                 destructive=False, timeout=5.0, on_crash="interrupt", task=False, rpc=False)(self.keyed)  # fmt: skip
        svc.tool()(self.plain)
        svc.tool(self.many)
        svc.tool(self.facts)
        svc.resource("orders://{id}")(self.order)
        svc.prompt(self.ask)
        svc.rpc(self.echo)
        svc.on_register_session(self.registered)
        svc.on_unregister_session(self.unregistered)
        svc.on_restore_session(self.registered)
        svc.lifespan(self.lifespan)

    async def place(self, ctx: Context, item: str, qty: int = 1) -> Order:
        """Place an order."""
        await ctx.progress(1, 3, "checking stock")
        await ctx.log("info", {"item": item})
        ctx.spawn(self.mail, item)
        ctx.spawn(self.mail, item, name="mail", timeout=5.0, on_error=lambda error: None)
        order = Order(item, qty)
        await ctx.publish("orders", order, key=item)
        await ctx.publish("orders", order, key=item, headers={"a": "b"}, if_gone="skip")
        return order

    async def mail(self, item: str) -> None:
        assert current().correlation_id
        self.mailed.set()

    async def keyed(self, request_id: str) -> list[str]:
        return [request_id]

    def plain(self, a: int, ctx: Context) -> int:
        ctx.progress_nowait(1, 2, "half")
        ctx.log_nowait("info", "from a thread")
        return a

    async def many(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def facts(self, ctx: Context) -> list[str]:
        """What of it is not as it was promised."""
        wrong: list[str] = []
        now = asyncio.get_running_loop().time()
        derived = ctx.with_value("k", 1)
        ended, cancel = ctx.with_cancel()
        cancel()
        await ended.wait_cancelled()
        detached = ctx.with_value("k", 1).with_timeout(5).detach()
        for holds, said in [
            (current() is ctx, "current"),
            ((ctx.deadline, ctx.cancelled, ctx.error) == (None, False, None), "a call without limits"),
            (ctx.call is not None and ctx.request_id is not None and bool(ctx.correlation_id), "the call"),
            ((derived.value("k"), ctx.value("k")) == (1, None), "value"),
            (ended.cancelled and isinstance(ended.error, Exception), "with_cancel"),
            ((ctx.with_timeout(5).deadline or 0) > now, "with_timeout"),
            (ctx.with_deadline(now + 5).deadline == now + 5, "with_deadline"),
            ((detached.value("k"), detached.deadline, detached.cancelled) == (1, None, False), "detach"),
            ((Context.background().deadline, Context.background().error) == (None, None), "background"),
            (ctx.report_progress.__func__ is ctx.progress.__func__, "report_progress"),  # type: ignore[attr-defined]
        ]:
            if not holds:
                wrong.append(said)
        for tell in (ctx.debug, ctx.info, ctx.warning, ctx.error_log):
            await tell("said")
        if ctx.session is not None:
            ctx.session.state["n"] = 1
            ctx.session.notify("notifications/x", {"id": ctx.session.id})
            await ctx.session.notify("notifications/x")
        return wrong

    async def order(self, id: str) -> dict[str, str]:
        return {"id": id}

    def ask(self, topic: str) -> str:
        return f"about {topic}"

    async def echo(self, order: Order) -> Order:
        return order

    async def registered(self, session: Session) -> None:
        self.heard.append(f"register {session.id}")

    def unregistered(self, session: Session) -> None:
        self.heard.append(f"unregister {session.id}")

    async def lifespan(self, service: Service) -> AsyncIterator[None]:
        self.heard.append("up")
        yield
        self.heard.append("down")


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_file_that_uses_each_promised_name_runs(era: Any) -> None:
    shop = Shop()
    async with connected(shop.svc, era=era) as client:
        placed = await client.call_tool("place", {"item": "tea"}, progress=client.recorder.progress, timeout=30.0)
        assert (placed.data, placed.structured_content) == ({"item": "tea", "qty": 1}, {"item": "tea", "qty": 1})
        assert (placed.content, placed.is_error) == ([{"type": "text", "text": '{"item":"tea","qty":1}'}], False)
        assert client.recorder.steps == [(1, 3, "checking stock")]
        assert len(await client.server.publisher.received(2)) == 2
        async with asyncio.timeout(60):
            await shop.mailed.wait()
        assert (await client.call_tool("renamed", {"request_id": "1"}, idempotency_key=None)).data == ["1"]
        assert (await client.call_tool("plain", {"a": 1})).structured_content == {"result": 1}
        assert (await client.call_tool("many", {"count": 3})).data == [0, 1, 2]
        assert (await client.call_tool("facts")).data == []
        assert (await client.read_resource("orders://7")).contents[0].text == '{"id":"7"}'
        assert (await client.get_prompt("ask", {"topic": "tea"})).messages[0].content["text"] == "about tea"
        assert set(shop.svc.statistics()) >= STATISTICS
        await shop.svc.broadcast("notifications/x", {"a": 1})
    assert list(shop.svc.methods) == ["orders.v1.Orders/Echo", *(f"orders.v1.Orders/{name}" for name in METHODS)]
    assert (shop.heard[0], shop.heard[-1]) == ("up", "down")
    sessions = [line.split() for line in shop.heard[1:-1]]
    assert [word for word, _ in sessions] == (["register", "unregister"] if era == "legacy" else [])


METHODS = ("Place", "Plain", "Many", "Facts")  # a tool is a method as well, unless rpc=False


async def test_the_error_of_a_tool_is_its_text_and_its_data() -> None:
    svc = Service("shop")

    @svc.tool
    async def refuse() -> str:
        raise ToolError("sold out", data={"left": 0})

    async with connected(svc) as client:
        refused = await client.call_tool("refuse")
    assert (refused.is_error, refused.content[0]["text"], refused.data) == (True, "sold out", {"left": 0})


def test_the_command_line_has_each_promised_command_and_flag() -> None:
    every = CliRunner().invoke(main, ["--help"]).output
    assert [name for name in COMMANDS if f"  {name} " not in every] == []
    run = CliRunner().invoke(main, ["run", "--help"]).output
    assert [flag for flag in FLAGS if f"{flag} " not in run] == []
    unseen = [flag for flag in FLAGS if "TAILRACE_" + flag[2:].replace("-", "_").upper() not in run]
    assert unseen == []
