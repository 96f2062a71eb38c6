"""A FastMCP server that asks: forms, choices, the client's model; and keeps something for the session."""

from dataclasses import dataclass
from typing import Literal

from fastmcp import Context, FastMCP
from fastmcp.server.elicitation import AcceptedElicitation, CancelledElicitation, DeclinedElicitation

mcp: FastMCP = FastMCP(name="Trip", version="2.1")


@dataclass
class Booking:
    city: str
    nights: int = 1


@mcp.tool
async def book(ctx: Context) -> str:
    """Book a room."""
    answer = await ctx.elicit("Where to?", response_type=Booking)
    match answer:
        case AcceptedElicitation(data=booking):
            return f"{booking.city} for {booking.nights}"
        case DeclinedElicitation():
            return "declined"
        case CancelledElicitation():
            return "cancelled"


@mcp.tool
async def seat(ctx: Context) -> str:
    """Choose a seat."""
    result = await ctx.elicit("Which seat?", ["aisle", "window"])
    if result.action != "accept":
        return "none"
    extras = await ctx.elicit("What else?", [{"meal": {"title": "A meal"}, "bag": {"title": "A bag"}}])
    return f"{result.data} with {', '.join(extras.data)}"


@mcp.tool
async def sure(ctx: Context) -> bool:
    result = await ctx.elicit("Sure?", Literal["yes", "no"])
    return result.action == "accept" and result.data == "yes"


@mcp.tool
async def describe(city: str, ctx: Context) -> str:
    """Have the client's model describe a city."""
    answer = await ctx.sample(
        [f"Describe {city}", "Be brief"], "You are a guide.", temperature=0.2, max_tokens=50, model_preferences="small"
    )
    return answer.text


@mcp.tool
async def count(ctx: Context) -> int:
    seen = (await ctx.get_state("seen") or 0) + 1
    await ctx.set_state("seen", seen)
    return seen


if __name__ == "__main__":
    mcp.run(transport="streamable-http", host="127.0.0.1", port=0, show_banner=False)
