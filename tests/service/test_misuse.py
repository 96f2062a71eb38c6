"""What cannot work is refused where it is written, in words that say what to do instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.errors import DefinitionError
from tailrace.testing import connected


def place(item: str) -> str:
    return item


def without_annotation(ctx, item: str) -> str:  # type: ignore[no-untyped-def]
    return item


class Shop:
    def place(self, item: str) -> str:
        return item


def plain_lifespan(service: Service) -> Generator[None]:
    yield


async def lifespan_without_yield(service: Service) -> None:
    pass


MISUSES: dict[str, tuple[Callable[[Service], Any], str]] = {
    "a version that is a number": (lambda svc: Service("shop", version=1), "version= is a string, got 1"),  # type: ignore[arg-type]
    "no version": (lambda svc: Service("shop", version=None), "version= is a string, got None"),  # type: ignore[arg-type]
    "instructions as a list": (lambda svc: Service("shop", instructions=["a"]), "instructions= is a string"),  # type: ignore[arg-type]
    "a middleware alone": (lambda svc: Service("shop", middleware=print), "middleware= is a list of functions"),  # type: ignore[arg-type]
    "a middleware that is none": (lambda svc: Service("shop", middleware=[5]), "middleware= is a list of functions"),  # type: ignore[list-item]
    "interceptors alike": (lambda svc: Service("shop", interceptors=[5]), "interceptors= is a list of functions"),  # type: ignore[list-item]
    "a name in place of the function": (lambda svc: svc.tool("place"), "give a name as name="),
    "an option misspelt": (lambda svc: svc.tool(readonly=True)(place), "did you mean 'read_only'"),
    "an option of others": (lambda svc: svc.tool(tags={"a"})(place), "are description, destructive"),
    "a description that is a number": (lambda svc: svc.tool(description=3)(place), "description= is a string, got 3"),
    "a time as a string": (lambda svc: svc.tool(timeout="3")(place), "timeout= is a number of seconds, got '3'"),
    "a time of a prompt alike": (lambda svc: svc.prompt(timeout="3")(place), "timeout= is a number of seconds"),
    "once= that is a number": (lambda svc: svc.tool(once=5)(place), "once= is True, False or the name of an argument"),
    "a mark that is a string": (lambda svc: svc.tool(read_only="yes")(place), "read_only= is True or False"),
    "a method of a class": (lambda svc: svc.tool(Shop.place), "is a method of a class"),
    "a context without its annotation": (lambda svc: svc.tool(without_annotation), "write ctx: Context"),
    "a resource without a URI": (lambda svc: svc.resource(place), "takes a URI"),  # type: ignore[arg-type]
    "a listener without its notification": (lambda svc: svc.on_notification(place), "takes a method, as in"),  # type: ignore[arg-type]
    "a hook that is no function": (lambda svc: svc.on_register_session(5), "the decorator takes a function, got 5"),
    "a hook that takes nothing": (lambda svc: svc.on_register_session(lambda: None), "is called with the Session"),
    "a listener that takes too little": (
        lambda svc: svc.on_notification("notifications/x")(lambda session: None),
        "is called with the Session and the parameters",
    ),
    "a lifespan that takes nothing": (lambda svc: svc.lifespan(lambda: None), "is called with the Service"),
    "a scope that is a number": (lambda svc: svc.tool(scopes=3)(place), "scopes= is a list of strings"),
    "scopes that are numbers": (lambda svc: svc.tool(scopes=[3])(place), "scopes= is a list of strings"),
    "a lifespan that is plain": (lambda svc: svc.lifespan(plain_lifespan), "is `async def` and yields once"),
    "a lifespan without yield": (lambda svc: svc.lifespan(lifespan_without_yield), "is `async def` and yields once"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_what_cannot_work_is_refused_where_it_is_written(case: str) -> None:
    use, words = MISUSES[case]
    with pytest.raises(DefinitionError) as caught:
        use(Service("shop"))
    assert words in str(caught.value)


def test_a_method_of_an_object_is_a_function_like_others() -> None:
    svc = Service("shop")
    svc.tool(Shop().place)
    assert list(svc.tools["place"].arguments.names) == ["item"]


async def test_a_lifespan_that_gives_no_context_manager_is_named_when_it_is_entered() -> None:
    svc = Service("shop")
    svc.lifespan(lambda service: 5)
    with pytest.raises(DefinitionError, match="a lifespan gives an async context manager, or yields once; got 5"):
        async with connected(svc):
            pass


async def test_hooks_and_the_lifespan_are_given_bare_or_called() -> None:
    svc = Service("shop")
    heard: list[str] = []

    @svc.lifespan()
    async def lifespan(service: Service) -> AsyncIterator[None]:
        heard.append("up")
        yield
        heard.append("down")

    @svc.on_register_session()
    async def register(session: Any) -> None:
        heard.append("register")

    @svc.on_unregister_session()
    def unregister(session: Any) -> None:
        heard.append("unregister")

    @svc.on_restore_session()
    def restore(session: Any) -> None:
        heard.append("restore")

    @svc.tool()
    async def who(ctx: Context) -> bool:
        return ctx.session is not None

    async with connected(svc, era="legacy") as client:
        assert (await client.call_tool("who")).data is True
    assert heard == ["up", "register", "unregister", "down"]
    assert [callable(one) for one in (lifespan, register, unregister, restore, who)] == [True] * 5


async def test_providers_and_filters_are_given_bare_or_called() -> None:
    svc = Service("shop")

    class Till:
        """What is provided."""

    @svc.provide()
    def till() -> Till:
        return Till()

    @svc.filter()
    def shown(definition: Any, viewer: Any) -> bool:
        return definition.name != "hidden"

    @svc.tool
    async def pay(till: Till) -> bool:
        return isinstance(till, Till)

    @svc.tool
    async def hidden() -> None: ...

    async with connected(svc) as client:
        assert [tool.name for tool in await client.list_tools()] == ["pay"]
        assert (await client.call_tool("pay")).data is True
    assert [callable(one) for one in (till, shown)] == [True, True]
    for decorator in (svc.provide, svc.filter):
        with pytest.raises(DefinitionError, match="takes a function, got 5"):
            decorator(5)  # type: ignore[call-overload]
