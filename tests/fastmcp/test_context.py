"""The words of FastMCP's context, on a call of ours."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace import ResourceNotFound
from tailrace.fastmcp import Context, FastMCP
from tailrace.mcp import Client

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_who_and_where(era: Any) -> None:
    mcp = FastMCP("x", version=2)
    seen: dict[str, Any] = {}

    @mcp.tool
    async def look(ctx: Context) -> None:
        seen.update(id=ctx.session_id, client=ctx.client_id, request=ctx.request_context, service=ctx.fastmcp)
        seen["lifespan"] = ctx.lifespan_context

    async with Client(mcp, era=era) as c:
        await c.call_tool("look")
    assert (seen["id"] is None) == (era == "modern")
    assert seen["client"] is None
    assert seen["service"] is mcp
    assert seen["lifespan"] == {}
    assert seen["request"].request_id is not None


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_values_are_kept_and_forgotten(era: Any) -> None:
    mcp = FastMCP("x")

    @mcp.tool
    async def keep(ctx: Context) -> list[Any]:
        await ctx.set_state("a", 1)
        await ctx.set_state("b", 2, serializable=False)
        kept = [await ctx.get_state("a"), await ctx.get_state("b"), await ctx.get_state("c")]
        await ctx.delete_state("a")
        await ctx.delete_state("b")
        return [*kept, await ctx.get_state("a"), await ctx.get_state("b")]

    async with Client(mcp, era=era) as c:
        assert (await c.call_tool("keep")).data == [1, 2, None, None, None]


async def test_resources_are_read_whatever_their_functions_are() -> None:
    mcp = FastMCP("x")

    @mcp.resource("a://bytes")
    def some_bytes(ctx: Context) -> bytes:
        return ctx.fastmcp.name.encode()

    @mcp.resource("a://{n}/double")
    async def double(n: int) -> dict[str, int]:
        return {"double": 2 * n}

    @mcp.resource("a://hidden")
    def hidden() -> str:
        return "nobody's"

    @mcp.filter
    def shown(definition: Any, viewer: Any) -> bool:
        return definition.name != "hidden"

    @mcp.tool
    async def read(uri: str, ctx: Context) -> str:
        try:
            (part,) = await ctx.read_resource(uri)
        except ResourceNotFound as error:
            return str(error)
        return f"{part.content!r} {part.mime_type}"

    async with Client(mcp) as c:
        assert (await c.call_tool("read", {"uri": "a://bytes"})).data == "b'x' application/octet-stream"
        assert (await c.call_tool("read", {"uri": "a://4/double"})).data == "'{\"double\":8}' application/json"
        assert "no resource 'a://hidden'" in (await c.call_tool("read", {"uri": "a://hidden"})).data
        assert "no resource 'a://nothing'" in (await c.call_tool("read", {"uri": "a://nothing"})).data
