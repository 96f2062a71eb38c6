"""Files written for FastMCP and the official SDK run here with nothing changed but their imports; by our own client."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from tailrace import ElicitResult
from tailrace.mcp import Client
from tests.rigs.fastmcp_files import imported

pytestmark = pytest.mark.timeout(120)
ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])


@pytest.fixture
def weather(tmp_path: Path) -> Any:
    return imported("weather", tmp_path)  # outside of the loop: importing reads files


@pytest.fixture
def notes(tmp_path: Path) -> Any:
    return imported("notes", tmp_path)


@pytest.fixture
def trip(tmp_path: Path) -> Any:
    return imported("trip", tmp_path)


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    return imported("shop", tmp_path)


def told(result: Any) -> str:
    return "".join(part["text"] for part in result.content)


@ERAS
async def test_the_tutorials_server(weather: Any, era: Any) -> None:
    records: list[Any] = []
    steps: list[Any] = []
    async with Client(weather.mcp, era=era, on_log=records.append, log_level="debug") as c:
        assert c.instructions == "Ask for a city's weather."
        tools = {one.name: one for one in await c.list_tools()}
        assert list(tools) == ["add", "forecast", "cities", "summary"]
        days = tools["forecast"].input_schema["properties"]["days"]
        assert (days["maximum"], days["description"]) == (5, "How far")
        assert "ctx" not in tools["forecast"].input_schema["properties"]
        assert tools["cities"].description == "All cities"
        assert (await c.call_tool("add", {"a": 1, "b": 2})).data == 3
        report = await c.call_tool(
            "forecast", {"city": "Oslo", "days": 2}, progress=lambda *given: steps.append(given[:3])
        )
        assert report.data == {"city": "Oslo", "celsius": 3.5, "warnings": []}
        assert steps == [(1, 2, "day 1"), (2, 2, "day 2")]
        wrong = await c.call_tool("forecast", {"city": "Atlantis"})
        assert wrong.is_error
        assert told(wrong) == "unknown city: Atlantis"
        assert (await c.call_tool("cities")).data == ["cairo", "oslo"]
        assert (await c.call_tool("summary")).data == '["cairo","oslo"]; 3.5 degrees text/plain'
        assert (await c.read_resource("weather://cairo/now")).contents[0].text == "31.0 degrees"
        assert (await c.read_resource("files://a/b.txt")).contents[0].text == "the file a/b.txt"
        prompt = await c.get_prompt("pack", {"city": "Oslo", "days": "3"})
        assert prompt.messages[0].content["text"] == "What do I pack for 3 days in Oslo?"
    levels = [(record.level, record.data) for record in records]
    assert ("info", "asked for Oslo") in levels
    assert ("error", {"msg": "no such city", "extra": {"city": "Atlantis"}}) in levels


@ERAS
async def test_a_server_for_the_official_sdk(notes: Any, era: Any) -> None:
    async with Client(notes.mcp, era=era) as c:
        assert (await c.call_tool("write", {"name": "second", "text": "there"})).data == 2
        assert (await c.read_resource("note://second")).contents[0].text == "there"
        (picture,) = (await c.call_tool("dot")).content
        assert picture == {"type": "image", "mimeType": "image/png", "data": b64encode(b"\x89PNG").decode()}
        text, first, second = (await c.call_tool("mixed")).content
        assert (text["text"], first["mimeType"], second["mimeType"]) == ("two of them", "image/png", "image/jpeg")
        messages = (await c.get_prompt("review", {"text": "it"})).messages
        assert [one.role for one in messages] == ["user", "user", "assistant"]
        kept = notes.mcp.lifespan_value
    assert not kept.is_open


def fill_in(message: str, schema: Any) -> Any:
    """As a user would."""
    if message == "Where to?":
        return {"city": "Oslo", "nights": 2}
    (field,) = schema["properties"].values()
    if field["type"] == "array":
        assert [one["title"] for one in field["items"]["anyOf"]] == ["A meal", "A bag"]
        return {"value": ["bag"]}
    return {"value": "window" if "window" in field["enum"] else "no"}


@ERAS
async def test_a_server_that_asks(trip: Any, era: Any) -> None:
    def model(params: Any) -> str:
        assert params["systemPrompt"] == "You are a guide."
        assert params["modelPreferences"] == {"hints": [{"name": "small"}]}
        assert [one["content"]["text"] for one in params["messages"]] == ["Describe Oslo", "Be brief"]
        return "Cold."

    async with Client(trip.mcp, era=era, elicitation=fill_in, sampling=model) as c:
        assert (await c.call_tool("book")).data == "Oslo for 2"
        assert (await c.call_tool("seat")).data == "window with bag"
        assert (await c.call_tool("sure")).data is False
        assert (await c.call_tool("describe", {"city": "Oslo"})).data == "Cold."
        assert (await c.call_tool("count")).data == 1
        assert (await c.call_tool("count")).data == (2 if era == "legacy" else 1)


@pytest.mark.parametrize(("action", "answer"), [("decline", "declined"), ("cancel", "cancelled")])
async def test_a_user_who_does_not_answer(trip: Any, action: Any, answer: str) -> None:
    async def refuse(message: str, schema: Any) -> Any:
        return ElicitResult(action)

    async with Client(trip.mcp, elicitation=refuse) as c:
        assert (await c.call_tool("book")).data == answer
        assert (await c.call_tool("seat")).data == "none"


@ERAS
async def test_a_server_with_options(shop: Any, era: Any) -> None:
    async with Client(shop.mcp, era=era) as c:
        tools = {one.name: one for one in await c.list_tools()}
        price = tools["price_of"]
        assert price.annotations == {"title": "Price", "readOnlyHint": True, "openWorldHint": False}
        assert price.meta == {"team": "shop", "fastmcp": {"tags": ["prices"]}}
        assert (await c.call_tool("price_of", {"item": "tea"})).data == 3
        wrong = await c.call_tool("price_of", {"item": "gold"})
        assert told(wrong) == "we have no gold"
        report = await c.call_tool("report")
        assert (told(report), report.structured_content, report.meta["by"]) == ("three teas", {"tea": 3}, "Shop")
        (label,) = (await c.call_tool("label")).content
        assert (label["mimeType"], b64decode(label["data"])) == ("image/svg+xml", b"<svg/>")
        assert (await c.call_tool("take_money", {"amount": 4})).data == 4
        assert (await c.call_tool("take_money", {"amount": 4})).data == 8
        (logo,) = await c.list_resources()
        assert (logo.name, logo.title) == ("logo", "The logo")
        assert (await c.read_resource("shop://logo")).contents[0].blob == b64encode(b"logo").decode()
        messages = (await c.get_prompt("advertise", {"item": "tea"})).messages
        assert [one.role for one in messages] == ["user", "assistant"]
