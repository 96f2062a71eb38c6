"""What FastMCP has and we have not says so where it is used, and what to use instead."""

from __future__ import annotations

from typing import Any

import pytest

import tailrace.fastmcp
from tailrace import DefinitionError, server
from tailrace.fastmcp import Audio, Context, FastMCP, Image, MCPServer
from tailrace.mcp import Client


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ({"middleware": [print]}, "tailrace.Service"),
        ({"auth": object()}, "asgi"),
        ({"on_duplicate": "replace"}, "remove_tool"),
        ({"on_duplicate_tools": "warn"}, "remove_tool"),
        ({"transforms": [1]}, "around"),
        ({"strict_input_validation": False}, "convert"),
        ({"wings": 2}, "no option wings="),
    ],
)
def test_an_option_of_the_service(options: dict[str, Any], instead: str) -> None:
    with pytest.raises(DefinitionError, match=instead):
        FastMCP("x", **options)


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ({"output_schema": {"type": "object"}}, "return annotation"),
        ({"structured_output": False}, "ToolResponse"),
        ({"version": "2"}, "another name"),
        ({"exclude_args": ["a"]}, "provide"),
        ({"wings": 2}, "no option 'wings'"),
    ],
)
def test_an_option_of_a_tool(options: dict[str, Any], instead: str) -> None:
    with pytest.raises(DefinitionError, match=instead):
        FastMCP("x").tool(**options)(lambda: 1)


def test_what_changes_nothing_is_let_pass() -> None:
    mcp = FastMCP("x", dependencies=["numpy"], debug=True, on_duplicate="error", auth=None)

    @mcp.tool(enabled=True, run_in_thread=True, output_schema=None, task=False)
    def one() -> int:
        return 1

    assert one() == 1
    assert list(mcp.tools) == ["one"]


ABSENT = ["run_async", "run_sse_async", "custom_route", "add_middleware", "completion", "from_openapi", "get_tools"]


@pytest.mark.parametrize("name", [*ABSENT, "call_tool", "import_server", "as_proxy", "session_manager", "settings"])
def test_a_method(name: str) -> None:
    assert not hasattr(FastMCP("x"), name)
    with pytest.raises(AttributeError, match=f"^{name} of FastMCP is not there; instead: "):
        getattr(FastMCP, name)


@pytest.mark.parametrize(("name", "instead"), [("Client", "tailrace.mcp"), ("Depends", "provide"), ("nothing", "no")])
def test_a_name_of_the_package(name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=instead):
        getattr(tailrace.fastmcp, name)


def test_a_generator_and_a_resource_without_a_uri() -> None:
    async def many() -> Any:
        yield 1

    with pytest.raises(DefinitionError, match=r"tailrace\.Service"):
        FastMCP("x").tool(many)
    with pytest.raises(DefinitionError, match="takes a URI"):
        FastMCP("x").resource(print)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="takes a function"):
        FastMCP("x").tool(object())


def test_a_picture_of_nothing_or_of_two_things() -> None:
    with pytest.raises(ValueError, match="either path= or data="):
        Image()
    with pytest.raises(ValueError, match="either path= or data="):
        Audio(path="a.wav", data=b"1")
    assert Audio(data=b"1").to_ours().mime_type == "audio/wav"


@pytest.mark.parametrize(
    ("transport", "given"), [(None, "stdio"), ("sse", "http"), ("http", "http"), ("streamable-http", "http")]
)
def test_the_transports(monkeypatch: pytest.MonkeyPatch, transport: Any, given: str) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(server, "run", lambda service, **flags: seen.append(flags))
    mcp = MCPServer("x", "Title", stateless_http=True, port=1)
    mcp.run(transport, show_banner=False, port=2, log_level="DEBUG", path="/mcp/", json_response=False)
    assert seen == [{"transport": given, "stateless": True, "port": 2, "log_level": "debug"}]


def test_where_the_constructor_says_to_listen_is_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(server, "run", lambda service, **flags: seen.append(flags))
    mcp = FastMCP("x", host="127.0.0.1", port=1)
    mcp.run()
    mcp.run("http")
    assert seen == [{"transport": "stdio"}, {"transport": "http", "host": "127.0.0.1", "port": 1}]


@pytest.mark.parametrize(
    ("flags", "instead"),
    [
        ({"path": "/api"}, "mount asgi"),
        ({"json_response": True}, "stream only where"),
        ({"middleware": [1]}, "async def"),
    ],
)
def test_a_flag_of_run(flags: dict[str, Any], instead: str) -> None:
    with pytest.raises(DefinitionError, match=instead):
        FastMCP("x").run("http", **flags)
    with pytest.raises(DefinitionError, match=instead):
        FastMCP("x").http_app(**flags)


def test_a_service_in_a_service() -> None:
    def one() -> int:
        return 1

    inner, outer = FastMCP("inner", tools=[one]), FastMCP("outer")
    outer.mount(inner, namespace="in")
    assert list(outer.tools) == ["in_one"]


def test_no_such_transport() -> None:
    with pytest.raises(DefinitionError, match="websocket"):
        FastMCP("x").run("websocket")


def test_an_application() -> None:
    app = FastMCP("x", host="0.0.0.0", port=80).streamable_http_app(stateless_http=True)
    assert callable(app)
    assert callable(app.lifespan)


async def test_a_word_that_the_context_does_not_have() -> None:
    mcp = FastMCP("x")

    @mcp.tool
    async def enable(ctx: Context) -> str:
        try:
            await ctx.enable_components(tags={"a"})
        except AttributeError as error:
            return str(error)
        return ""

    async with Client(mcp) as c:
        assert "no 'enable_components'" in (await c.call_tool("enable")).data


async def test_exceptions_stay_with_the_server_unless_it_is_said() -> None:
    mcp = FastMCP("x")

    @mcp.tool
    def bug() -> int:
        raise ValueError("a secret")

    async with Client(mcp) as c:
        result = await c.call_tool("bug")
    assert result.is_error
    assert "secret" not in result.content[0]["text"]
