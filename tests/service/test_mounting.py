"""A service within another: names, what stands around it, what comes and goes, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import Context, DefinitionError, ProtocolError, Service, Session
from tailrace.mcp import Client
from tailrace.service import Invocation, Viewer


def library(**options: Any) -> Service:
    svc = Service("library", **options)

    @svc.tool(meta={"shelf": 1})
    async def lend(id: int) -> dict[str, int]:
        """Lends a book."""
        return {"lent": id}

    @svc.resource("library://books/{id}", complete={"id": ["1", "12", "2"]})
    async def book(id: int) -> str:
        return f"book {id}"

    @svc.prompt(complete={"title": ["Emma", "Walden"]})
    async def review(title: str) -> str:
        return f"Review {title}."

    return svc


def town(*inside: Service, prefix: str = "lib") -> Service:
    svc = Service("town")

    @svc.tool
    async def mayor() -> str:
        return "Ada"

    for one in inside:
        svc.mount(one, prefix)
    return svc


async def test_all_that_is_mounted_is_offered_and_called_under_the_prefix() -> None:
    async with Client(town(library())) as client:
        tools = await client.list_tools()
        assert [one.name for one in tools] == ["mayor", "lib_lend"]
        assert tools[1].description == "Lends a book."
        assert (await client.call_tool("lib_lend", {"id": 3})).structured_content == {"lent": 3}
        assert (await client.read_resource("library://books/7")).contents[0].text == "book 7"
        assert [one.name for one in await client.list_prompts()] == ["lib_review"]
        assert "Review Emma." in str(await client.get_prompt("lib_review", {"title": "Emma"}))
        assert (await client.complete("lib_review", {"name": "title", "value": "w"})).values == ["Walden"]
        assert (await client.complete("library://books/{id}", {"name": "id", "value": "1"})).values == ["1", "12"]
        with pytest.raises(ProtocolError, match="lend"):
            await client.call_tool("lend", {"id": 3})


async def test_without_a_prefix_names_stay_and_mounts_may_be_nested() -> None:
    inner = library()
    outer = Service("country")
    outer.mount(town(inner, prefix=""), "town")
    assert list(outer.tools) == ["town_mayor", "town_lend"]
    assert list(inner.tools) == ["lend"]


async def test_what_comes_and_goes_there_comes_and_goes_here_and_clients_are_told() -> None:
    inner = library()
    outer = Service("country")
    outer.mount(town(inner), "town")
    async with Client(outer) as client, client.listen(tools=True, resources=True) as changes:
        inner.remove_tool("lend")

        @inner.tool
        async def ask() -> str:
            return "asked"

        async with asyncio.timeout(60):
            assert (await anext(changes)).kind == "tools"
        assert [one.name for one in await client.list_tools()] == ["town_mayor", "town_lib_ask"]
        assert (await client.call_tool("town_lib_ask")).text == "asked"


async def test_a_resource_that_has_changed_is_told_by_the_service_it_is_mounted_in() -> None:
    inner = library()
    async with Client(town(inner)) as client, client.listen(uris=["library://books/1"]) as changes:
        inner.resource_updated("library://books/1")
        async with asyncio.timeout(60):
            assert (await anext(changes)).uri == "library://books/1"


async def test_its_middleware_stands_around_its_own_calls_only_and_knows_their_own_names() -> None:
    seen: list[tuple[str, str]] = []

    async def note(ctx: Context, invocation: Invocation, next: Any) -> Any:
        seen.append((invocation.method, invocation.name))
        return await next(invocation)

    async with Client(town(library(middleware=[note]))) as client:
        await client.call_tool("mayor")
        await client.call_tool("lib_lend", {"id": 1})
        await client.get_prompt("lib_review", {"title": "Emma"})
        await client.read_resource("library://books/7")
    assert seen == [("tools/call", "lend"), ("prompts/get", "review"), ("resources/read", "library://books/7")]


async def test_what_its_filters_hide_there_is_hidden_here_however_late_they_come() -> None:
    inner = library()

    @inner.filter
    def no_books(one: Any, viewer: Viewer) -> bool:
        return one.name != "book"

    outer = town(inner)

    @inner.filter
    def no_lending(one: Any, viewer: Viewer) -> bool:
        return one.name not in ("lend", "mayor")  # its own names; what is not its own it is not asked about

    async with Client(outer) as client:
        assert [one.name for one in await client.list_tools()] == ["mayor"]
        assert [one.name for one in await client.list_prompts()] == ["lib_review"]
        with pytest.raises(ProtocolError):
            await client.read_resource("library://books/7")
        with pytest.raises(ProtocolError):
            await client.call_tool("lib_lend", {"id": 1})


async def test_its_lifespan_runs_within_the_outer_one_and_its_hooks_are_called() -> None:
    told: list[str] = []
    inner, outer = library(), Service("town")

    @inner.on_register_session
    async def hello(session: Session) -> None:
        told.append("early hook")

    @outer.lifespan
    async def around(service: Service) -> AsyncIterator[None]:
        told.append("outer")
        yield
        told.append("outer ends")

    @inner.lifespan
    async def within(service: Service) -> AsyncIterator[None]:
        assert service is inner
        told.append("inner")
        yield
        told.append("inner ends")

    outer.mount(inner, "lib")

    @inner.on_register_session
    async def later(session: Session) -> None:
        told.append("late hook")

    async with Client(outer, era="legacy") as client:
        await client.ping()
    assert told == ["outer", "inner", "early hook", "late hook", "inner ends", "outer ends"]


def test_names_that_are_taken_are_refused_and_nothing_is_changed() -> None:
    outer, inner = town(), library()

    @outer.tool(name="lib_lend")
    async def other() -> None: ...

    with pytest.raises(DefinitionError, match=r"tool 'lib_lend' of the service 'town' is defined twice.*'library'"):
        outer.mount(inner, "lib")
    assert list(outer.prompts) == []
    outer.mount(inner, "books")

    with pytest.raises(DefinitionError, match="books_lend"):
        outer.tool(name="books_lend")(other)
    outer.tool(name="books_give")(other)
    with pytest.raises(DefinitionError, match="books_give"):
        inner.tool(name="give")(other)
    assert list(inner.tools) == ["lend"]
    with pytest.raises(DefinitionError, match=r"resource 'library://books/\{id\}' of the service 'town'"):
        outer.mount(library(), "second")


def test_a_service_stands_once_in_all_that_is_served_together_and_never_within_itself() -> None:
    outer, inner = town(), library()
    outer.mount(inner, "a")
    with pytest.raises(DefinitionError, match="mounted twice"):
        outer.mount(inner, "b")
    with pytest.raises(DefinitionError, match="within itself"):
        inner.mount(outer, "c")
    with pytest.raises(DefinitionError, match="within itself"):
        inner.mount(inner, "c")
    side = Service("side")
    outer.mount(side, "d")
    with pytest.raises(DefinitionError, match="mounted twice in 'town'"):
        side.mount(inner, "e")


def test_a_prefix_that_is_none_a_name_too_long_and_a_removal_from_outside_are_refused() -> None:
    outer, inner = town(), library()
    with pytest.raises(DefinitionError, match="a prefix"):
        outer.mount(inner, "a b")
    with pytest.raises(DefinitionError, match="1 to 128"):
        outer.mount(inner, "x" * 125)
    outer.mount(inner, "lib")
    with pytest.raises(DefinitionError, match="remove it there"):
        outer.remove_tool("lib_lend")


def test_two_that_listen_to_the_same_notification_are_refused() -> None:
    outer, inner = town(), library()
    for one in (outer, inner):

        @one.on_notification("notifications/roots/list_changed")
        async def changed(session: Session, params: Any) -> None: ...

    with pytest.raises(DefinitionError, match="listen to notifications/roots"):
        outer.mount(inner)


async def test_a_lifespan_cannot_come_after_the_start_but_other_services_can() -> None:
    outer, late, plain = town(), Service("late"), library()

    @late.lifespan
    async def within(service: Service) -> AsyncIterator[None]:
        yield

    async with Client(outer) as client:
        with pytest.raises(DefinitionError, match="mount it before 'town' is served"):
            outer.mount(late)
        outer.mount(plain, "lib")
        assert [one.name for one in await client.list_tools()] == ["mayor", "lib_lend"]


def test_its_tools_are_rpc_methods_unless_interceptors_guard_them() -> None:
    async def guard(ctx: Context, request: Any, next: Any) -> Any:
        return await next(request)

    assert "Town/LibLend" in town(library()).methods
    assert "Town/LibLend" not in town(library(interceptors=[guard])).methods
