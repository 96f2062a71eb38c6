"""What a program says with the decorators of a `Service`, and what the service then knows."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import FrozenInstanceError
from typing import Annotated, Any

import jsonschema_rs
import pytest

import tailrace
from tailrace import Context, DefinitionError, Service
from tailrace.schema import InvalidArguments


@pytest.fixture
def svc() -> Service:
    return Service("orders", version="1.0.0")


async def place(ctx: Context, item: str, qty: int = 1) -> dict[str, Any]:
    """Place an order.

    Args:
        item: What to buy.
    """
    return {"item": item, "qty": qty}


# --- tools --------------------------------------------------------------------------------------


def test_the_decorator_works_bare_and_called_and_gives_the_function_back(svc: Service) -> None:
    def other() -> None: ...

    assert svc.tool(place) is place
    assert svc.tool()(other) is other
    assert svc.tool(name="third", title="Third")(other) is other
    assert list(svc.tools) == ["place", "other", "third"]
    assert svc.tools["third"].fn is other


def test_a_schema_of_the_programs_own_is_what_tools_list_gives_and_what_calls_are_checked_against(svc: Service) -> None:
    schema = {"type": "object", "properties": {"item": {"type": "string", "pattern": "^[a-z]+$"}}, "required": ["item"]}

    @svc.tool(input_schema=schema, once="item")
    async def order(item: str) -> str:
        return item

    tool = svc.tools["order"]
    assert json.loads(tool.definition)["inputSchema"] == schema
    assert tool.bind(b'{"item": "tea"}') == {"item": "tea"}
    with pytest.raises(InvalidArguments, match="item"):
        tool.bind(b'{"item": "TEA"}')


def test_the_definition_is_what_tools_list_gives(svc: Service) -> None:
    svc.tool(title="Place", idempotent=True, destructive=False)(place)
    definition = json.loads(svc.tools["place"].definition)
    assert definition == {
        "name": "place",
        "title": "Place",
        "description": "Place an order.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "item": {"type": "string", "description": "What to buy."},
                "qty": {"type": "integer", "default": 1},
            },
            "required": ["item"],
            "additionalProperties": False,
        },
        "outputSchema": {"type": "object"},
        "annotations": {"title": "Place", "idempotentHint": True, "destructiveHint": False},
    }
    jsonschema_rs.meta.validate(definition["inputSchema"])


def test_what_was_not_said_is_not_in_the_definition(svc: Service) -> None:
    @svc.tool
    def plain(): ...

    assert svc.tools["plain"].annotations() is None
    assert set(json.loads(svc.tools["plain"].definition)) == {"name", "inputSchema"}


def test_a_description_may_be_given(svc: Service) -> None:
    svc.tool(description="Other words.")(place)
    assert svc.tools["place"].description == "Other words."


def test_the_kind_of_function_is_known(svc: Service) -> None:
    @svc.tool
    def plain() -> int: ...  # type: ignore[empty-body]

    @svc.tool
    async def stream(a: int, ctx: Context) -> AsyncIterator[int]:
        yield a

    svc.tool(place)
    kinds = {tool.name: (tool.is_async, tool.is_generator, tool.context_param) for tool in svc.tools.values()}
    assert kinds == {"plain": (False, False, None), "stream": (False, True, "ctx"), "place": (True, False, "ctx")}


def test_a_tool_binds_arguments(svc: Service) -> None:
    svc.tool(place)
    assert svc.tools["place"].bind(b'{"item": "tea"}') == {"item": "tea", "qty": 1}
    with pytest.raises(InvalidArguments, match="missing required argument 'item'"):
        svc.tools["place"].bind(None)


def test_a_tool_is_not_changed_after_its_definition(svc: Service) -> None:
    svc.tool(place)
    with pytest.raises(FrozenInstanceError):
        svc.tools["place"].name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        svc.tools["other"] = svc.tools["place"]  # type: ignore[index]


def test_a_read_only_tool_is_run_again_after_a_crash_unless_it_says_otherwise(svc: Service) -> None:
    svc.tool(place)
    svc.tool(name="read", read_only=True)(place)
    svc.tool(name="careful", read_only=True, on_crash="interrupt")(place)
    svc.tool(name="again", on_crash="rerun")(place)
    assert [tool.on_crash for tool in svc.tools.values()] == ["interrupt", "rerun", "interrupt", "rerun"]


def test_the_defaults_of_a_tool(svc: Service) -> None:
    svc.tool(place)
    tool = svc.tools["place"]
    assert (tool.timeout, tool.once, tool.task, tool.rpc, tool.journal) == (None, False, False, True, True)
    assert (tool.read_only, tool.idempotent, tool.destructive, tool.open_world) == (None, None, None, None)


def test_the_argument_that_holds_the_key_is_a_text(svc: Service) -> None:
    @svc.tool(once="request_id")
    def order(request_id: Annotated[str | None, "the same for a retry"] = None): ...

    assert svc.tools["order"].once == "request_id"
    for wrong in ("nothing", "number"):
        with pytest.raises(DefinitionError, match=f"once='{wrong}' must name an argument that is a str"):

            @svc.tool(name="wrong", once=wrong)
            def fn(number: int): ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "with space"}, "tool name 'with space' is not 1 to 128 of"),
        ({"name": ""}, "tool name '' is not"),
        ({"name": "x" * 129}, "is not 1 to 128 of"),
        ({"name": "ünï"}, "is not 1 to 128 of"),
        ({"name": "x\n"}, "is not 1 to 128 of"),
        ({"timeout": 0}, "timeout is in seconds and above 0, got 0"),
        ({"timeout": float("inf")}, "timeout is in seconds"),
        ({"timeout": float("nan")}, "timeout is in seconds"),
        ({"on_crash": "explode"}, "on_crash is 'interrupt' or 'rerun', got 'explode'"),
        ({"read_only": True, "destructive": True}, "both read_only and destructive"),
    ],
)
def test_an_option_that_cannot_work_is_refused_with_the_place(svc: Service, options: Any, says: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        svc.tool(**options)(place)
    assert says in str(refused.value)
    assert f"test_service.py:{place.__code__.co_firstlineno}" in str(refused.value)
    assert not svc.tools


def test_an_unknown_option_is_refused(svc: Service) -> None:
    with pytest.raises(DefinitionError, match=r"place\(\) at .*: there is no option 'onse'"):
        svc.tool(onse=True)(place)  # type: ignore[call-overload]


def test_names_of_128_characters_are_taken(svc: Service) -> None:
    svc.tool(name="A.b-9_" + "x" * 122)(place)
    assert len(svc.tools) == 1


def test_two_tools_of_one_name_are_refused_with_both_places(svc: Service) -> None:
    def first(): ...
    def second(): ...

    svc.tool(name="same")(first)
    with pytest.raises(DefinitionError, match=r"tool 'same' is defined twice: .*first\(\) at .* and .*second\(\) at "):
        svc.tool(name="same")(second)
    assert svc.tools["same"].fn is first


def test_what_is_no_function_is_refused(svc: Service) -> None:
    def numbers():
        yield 1

    with pytest.raises(DefinitionError, match="give a name as name="):
        svc.tool("place")  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match=r"numbers\(\) at .*: a plain generator cannot be a tool"):
        svc.tool(numbers)
    with pytest.raises(DefinitionError, match="tool name '<lambda>'"):
        svc.tool(lambda: 1)


# --- resources, prompts, rpc --------------------------------------------------------------------


def test_resources_are_recorded_by_their_uri(svc: Service) -> None:
    @svc.resource("orders://all", mime_type="application/json")
    def everything() -> str:
        """All orders."""
        return ""

    @svc.resource("orders://{user}/{number}", name="one")
    async def order(number: int, user: str, ctx: Context, full: bool = False) -> str: ...  # type: ignore[empty-body]

    whole, one = svc.resources["orders://all"], svc.resources["orders://{user}/{number}"]
    assert (whole.name, whole.description, whole.is_template, whole.mime_type) == (
        "everything",
        "All orders.",
        False,
        "application/json",
    )
    assert (one.name, one.is_template, one.context_param, one.is_async) == ("one", True, "ctx", True)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("orders", "has a URI"),
        ("orders://{id", "braces that are not closed"),
        ("orders://{id:3}", "the prefix modifier of 'id:3' cannot be undone"),
        ("orders://{id}/{id}", "'id' is there twice"),
        ("orders://{id}/{other}", "has 'other', which is no parameter"),
        ("orders://all", "has no {id}, which the function requires"),
    ],
)
def test_a_uri_that_does_not_fit_the_function_is_refused(svc: Service, uri: str, says: str) -> None:
    with pytest.raises(DefinitionError) as refused:

        @svc.resource(uri)
        def fn(id: str): ...

    assert says in str(refused.value)
    assert "test_service.py:" in str(refused.value)


def test_one_uri_is_defined_once(svc: Service) -> None:
    svc.resource("orders://all")(lambda: "")
    with pytest.raises(DefinitionError, match="resource 'orders://all' is defined twice"):
        svc.resource("orders://all")(lambda: "")


def test_prompts_are_recorded_bare_and_called(svc: Service) -> None:
    def review(code: str) -> str:
        """Review code."""
        return code

    assert svc.prompt(review) is review
    assert svc.prompt(name="second", title="Second")(review) is review
    assert list(svc.prompts) == ["review", "second"]
    assert svc.prompts["review"].description == "Review code."
    assert svc.prompts["second"].title == "Second"
    with pytest.raises(DefinitionError, match="prompt 'review' is defined twice"):
        svc.prompt(review)


# --- the service itself -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_a_service_has_a_name(name: Any) -> None:
    with pytest.raises(DefinitionError, match="needs a name"):
        Service(name)


@pytest.mark.parametrize("package", ["", "orders.", "1.2", "a b", "örders"])
def test_a_package_is_dotted_identifiers(package: str) -> None:
    with pytest.raises(DefinitionError, match="is not dotted identifiers"):
        Service("s", package=package)
    assert Service("s", package="orders.v1").package == "orders.v1"


def test_hooks_are_kept_in_order(svc: Service) -> None:
    def one(session: Any) -> None: ...
    async def two(session: Any) -> None: ...

    assert svc.on_register_session(one) is one
    svc.on_register_session(two)
    svc.on_unregister_session(two)
    svc.on_restore_session(one)
    assert (svc.hooks.register, svc.hooks.unregister, svc.hooks.restore) == ([one, two], [two], [one])


@pytest.mark.parametrize("wrapped", [True, False])
async def test_the_lifespan_is_entered_and_left(svc: Service, wrapped: bool) -> None:
    seen: list[Any] = []

    async def around(service: Service) -> AsyncGenerator[str]:
        seen.append(service)
        yield "state"
        seen.append("left")

    around_it: Callable[..., Any] = contextlib.asynccontextmanager(around) if wrapped else around
    assert svc.lifespan(around_it) is around_it
    for _ in range(2):  # each run of the service has its own
        async with svc.enter_lifespan() as state:
            assert state == "state"
    assert seen == [svc, "left", svc, "left"]
    with pytest.raises(DefinitionError, match=r"there is a lifespan already: .*around"):
        svc.lifespan(around)


async def test_without_a_lifespan_there_is_an_empty_one(svc: Service) -> None:
    async with svc.enter_lifespan() as state:
        assert state is None


class Running:
    def __init__(self, sessions: int) -> None:
        self.sent: list[Any] = []
        self.sessions = sessions

    async def broadcast(self, method: str, params: Any) -> None:
        self.sent.append((method, params))

    def statistics(self) -> dict[str, dict[str, Any]]:
        return {"sessions": {"open": self.sessions}, "store": {"name": "memory"}, "more": {"on": True}}


def test_statistics_have_the_same_keys_with_and_without_a_server(svc: Service) -> None:
    keys = ["sessions", "calls", "streams", "detached", "log_bytes", "store", "outbox"]
    assert list(svc.statistics()) == keys
    first, second = Running(2), Running(3)
    svc.attach(first)
    svc.attach(second)
    numbers = svc.statistics()
    assert list(numbers) == [*keys, "more"]
    assert numbers["sessions"] == {"open": 5}
    assert numbers["store"] == {"name": "memory"}
    assert numbers["more"] == {"on": True}
    svc.detach(first)
    svc.detach(first)
    assert svc.statistics()["sessions"] == {"open": 3}


async def test_a_broadcast_reaches_every_server(svc: Service) -> None:
    await svc.broadcast("notifications/x")
    servers = [Running(0), Running(0)]
    for server in servers:
        svc.attach(server)
    await svc.broadcast("notifications/x", {"a": 1})
    assert [server.sent for server in servers] == [[("notifications/x", {"a": 1})]] * 2


def test_running_is_handed_to_the_server(svc: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    server: Any = types.ModuleType("tailrace.server")
    server.run = lambda service, **flags: calls.append((service, flags))
    server.asgi = lambda service, **options: (service, options)
    monkeypatch.setitem(sys.modules, "tailrace.server", server)
    monkeypatch.setattr(tailrace, "server", server, raising=False)
    svc.run()
    svc.run("http", port=0)
    assert calls == [(svc, {"transport": "stdio"}), (svc, {"transport": "http", "port": 0})]
    assert svc.asgi(store="memory") == (svc, {"store": "memory"})


# --- the package's own names --------------------------------------------------------------------


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = (
        "import sys, tailrace\n"
        "assert not {'asyncio', 'msgspec', 'tailrace.service', 'tailrace.errors'} & set(sys.modules), sys.modules\n"
        "assert set(tailrace.__all__) <= set(dir(tailrace))\n"
        "from tailrace import *\n"
        "assert Service is tailrace.Service is sys.modules['tailrace.service'].Service\n"
        "assert Context.background() is current()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Servcie'"):
        _ = tailrace.Servcie  # type: ignore[attr-defined]
