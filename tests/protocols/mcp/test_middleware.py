"""Middleware: what stands around calls and lists, what it may change, and what becomes of its exceptions."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace import Context, Service, ToolError
from tailrace.service import Invocation
from tests.core.support import virtual
from tests.rigs.exchange import LegacySession, SseSession, modern_request, post_modern, request, serving, text_of
from tests.rigs.workshop import errors


def shop(*middleware: Any) -> Service:
    svc = Service("shop", middleware=middleware)

    @svc.tool
    async def price(item: str, qty: int = 1) -> int:
        return len(item) * qty

    @svc.tool
    def secret() -> str:
        return "secret"

    @svc.tool
    async def count(ctx: Context):
        for n in (1, 2):
            yield n

    @svc.resource("text://{id}")
    async def text(id: str) -> str:
        return id

    @svc.prompt
    async def ask(what: str) -> str:
        return what

    return svc


async def answer(session: LegacySession, method: str, **params: Any) -> Any:
    found = await session.post(request(1, method, params)).json()
    return found.get("result") or found["error"]


@virtual
async def test_every_call_and_every_list_passes_through_it_with_what_was_asked_for() -> None:
    seen: list[Any] = []

    async def note(ctx: Context, invocation: Invocation, next: Any) -> Any:
        seen.append((invocation.method, invocation.name, invocation.arguments))
        assert ctx.session is not None
        return await next(invocation)

    async with serving(shop(note)) as server:
        session = await LegacySession(server).start()
        await answer(session, "tools/call", name="price", arguments={"item": "tea"})
        await answer(session, "tools/call", name="secret")
        await answer(session, "resources/read", uri="text://a")
        await answer(session, "prompts/get", name="ask", arguments={"what": "why"})
        argument = {"name": "what", "value": "w"}
        await answer(session, "completion/complete", ref={"type": "ref/prompt", "name": "ask"}, argument=argument)
        for kind in ("tools", "resources", "resources/templates", "prompts"):
            await answer(session, f"{kind}/list")
    assert seen == [
        ("tools/call", "price", {"item": "tea", "qty": 1}),
        ("tools/call", "secret", {}),
        ("resources/read", "text://a", {"id": "a"}),
        ("prompts/get", "ask", {"what": "why"}),
        ("tools/list", "", {}),
        ("resources/list", "", {}),
        ("resources/templates/list", "", {}),
        ("prompts/list", "", {}),
    ]


@virtual
async def test_the_first_is_the_outermost_and_each_may_change_what_goes_in_and_comes_out() -> None:
    async def double(ctx: Context, invocation: Invocation, next: Any) -> Any:
        value = await next(Invocation(invocation.method, invocation.name, {**invocation.arguments, "qty": 2}))
        return value + 1

    async def tenfold(ctx: Context, invocation: Invocation, next: Any) -> Any:
        return await next(invocation) * 10

    async with serving(shop(double, tenfold)) as server:
        session = await LegacySession(server).start()
        result = await answer(session, "tools/call", name="price", arguments={"item": "tea"})
        assert result["structuredContent"] == {"result": 61}


@virtual
async def test_a_generators_items_are_collected_inside_of_it() -> None:
    async def total(ctx: Context, invocation: Invocation, next: Any) -> Any:
        return [sum(await next(invocation))]

    async with serving(shop(total)) as server:
        session = await LegacySession(server).start()
        assert text_of(await session.call(1, "count").json()) == "[3]"


@virtual
async def test_it_may_hide_what_is_listed_page_by_page() -> None:
    async def hide(ctx: Context, invocation: Invocation, next: Any) -> Any:
        listed = await next(invocation)
        return [one for one in listed if one["name"] != "secret"]

    async with serving(shop(hide), page=1) as server:
        session = await LegacySession(server).start()
        first = await answer(session, "tools/list")
        rest = await answer(session, "tools/list", cursor=first["nextCursor"])
        assert [one["name"] for one in first["tools"] + rest["tools"]] == ["price", "count"]
        assert "nextCursor" not in rest
        assert (await answer(session, "tools/list", cursor="made up"))["code"] == -32602
        modern = (await post_modern(server, modern_request(1, "tools/list")).json())["result"]
        assert (modern["cacheScope"], len(modern["tools"])) == ("private", 1)


@virtual
async def test_its_exceptions_are_answered_as_a_handlers_are(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(ctx: Context, invocation: Invocation, next: Any) -> Any:
        if invocation.name == "secret":
            raise ToolError("not for you")
        raise RuntimeError("a bug")

    async with serving(shop(refuse)) as server:
        session = await LegacySession(server).start()
        assert text_of(await session.call(1, "secret").json()) == "not for you"
        assert errors(caplog) == []
        assert "error id" in text_of(await session.call(2, "price", {"item": "x"}).json())
        assert "error id" in (await answer(session, "tools/list"))["message"]
        assert len(errors(caplog)) == 2


@virtual
async def test_it_may_answer_for_a_handler_that_failed() -> None:
    async def recover(ctx: Context, invocation: Invocation, next: Any) -> Any:
        try:
            return await next(invocation)
        except ZeroDivisionError:
            return -1

    svc = Service("shop", middleware=[recover])

    @svc.tool
    async def divide() -> int:
        return 1 // 0

    async with serving(svc) as server:
        session = await LegacySession(server).start()
        assert text_of(await session.call(1, "divide").json()) == "-1"


@virtual
async def test_lists_come_over_http_sse_as_well() -> None:
    async def through(ctx: Context, invocation: Invocation, next: Any) -> Any:
        return await next(invocation)

    async with serving(shop(through)) as server:
        session = await SseSession(server).start()
        assert await session.post(request(1, "tools/list")).status_code() == 202
        assert len((await session.stream.answer(1))["result"]["tools"]) == 3
