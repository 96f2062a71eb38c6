"""A FastMCP server of a team that likes options."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastmcp import Context, FastMCP
from fastmcp.prompts import Message
from fastmcp.tools import ToolResult
from fastmcp.utilities.types import Image
from pydantic import Field


@asynccontextmanager
async def lifespan(server: FastMCP):
    yield {"prices": {"tea": 3}}


mcp = FastMCP("Shop", lifespan=lifespan, mask_error_details=False, on_duplicate="error")
HERE = Path(__file__).parent


@mcp.tool(
    name="price_of",
    title="Price",
    annotations={"title": "Price", "readOnlyHint": True, "openWorldHint": False},
    tags={"prices"},
    meta={"team": "shop"},
    timeout=5.0,
)
async def price(item: Annotated[str, Field(min_length=1)], ctx: Context | None = None) -> int:
    assert ctx is not None
    prices = ctx.lifespan_context["prices"]
    if item not in prices:
        raise ValueError(f"we have no {item}")
    return prices[item]


@mcp.tool
async def report(ctx: Context) -> ToolResult:
    await asyncio.sleep(0)
    return ToolResult(content="three teas", structured_content={"tea": 3}, meta={"by": ctx.fastmcp.name})


@mcp.tool
def label() -> Image:
    (HERE / "label.svg").write_text("<svg/>")
    return Image(path=HERE / "label.svg")


class Till:
    def __init__(self) -> None:
        self.total = 0

    def take(self, amount: int) -> int:
        """Put money into the till."""
        self.total += amount
        return self.total


mcp.tool(Till().take, name="take_money")


@mcp.resource("shop://logo", name="logo", title="The logo", annotations={"priority": 0.5, "audience": ["user"]})
def logo() -> bytes:
    return b"logo"


@mcp.prompt(name="advertise", tags={"text"})
async def advert(item: str) -> list[Message]:
    return [Message(f"Advertise {item}."), Message("Gladly.", role="assistant")]


if __name__ == "__main__":
    mcp.run(transport="http", host="127.0.0.1", port=0, log_level="INFO")
