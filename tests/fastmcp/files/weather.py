"""A first FastMCP server: what every tutorial shows."""

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from pydantic import BaseModel, Field

mcp = FastMCP("Weather", instructions="Ask for a city's weather.")

CITIES = {"oslo": 3.5, "cairo": 31.0}


class Report(BaseModel):
    city: str
    celsius: float
    warnings: list[str] = Field(default_factory=list)


@mcp.tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@mcp.tool()
async def forecast(city: str, ctx: Context, days: int = Field(default=1, ge=1, le=5, description="How far")) -> Report:
    """What the weather will be."""
    await ctx.info(f"asked for {city}")
    await ctx.debug("looking it up", logger_name="weather")
    for day in range(days):
        await ctx.report_progress(day + 1, days, f"day {day + 1}")
    if city.lower() not in CITIES:
        await ctx.error("no such city", extra={"city": city})
        raise ToolError(f"unknown city: {city}")
    if city.lower() == "cairo":
        await ctx.warning("it is hot")
    return Report(city=city, celsius=CITIES[city.lower()])


@mcp.tool("cities", description="All cities", tags={"public", "list"}, annotations={"readOnlyHint": True})
def all_cities() -> list[str]:
    return sorted(CITIES)


@mcp.resource("weather://cities")
def city_list() -> list[str]:
    """The names of all cities."""
    return sorted(CITIES)


@mcp.resource("weather://{city}/now", mime_type="text/plain")
async def now(city: str) -> str:
    """The weather in a city."""
    return f"{CITIES[city]} degrees"


@mcp.resource("files://{path*}")
def file(path: str) -> str:
    return f"the file {path}"


@mcp.tool
async def summary(ctx: Context) -> str:
    """Read it all, as a client would."""
    names = (await ctx.read_resource("weather://cities")).contents[0]
    oslo = (await ctx.read_resource("weather://oslo/now")).contents[0]
    return f"{names.content}; {oslo.content} {oslo.mime_type}"


@mcp.prompt
def pack(city: str, days: int = 2) -> str:
    """What to pack."""
    return f"What do I pack for {days} days in {city}?"


if __name__ == "__main__":
    mcp.run()
