"""What a tool returns besides plain values: pictures, sound, resources, alone and mixed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import (
    Audio,
    EmbeddedResource,
    Image,
    ResourceContents,
    ResourceLink,
    Service,
    Text,
    ToolError,
    ToolResponse,
)
from tests.rigs.exchange import LegacySession, modern_request, post_modern, serving
from tests.rigs.workshop import errors

svc = Service("gallery")
PNG = {"type": "image", "data": "cG5n", "mimeType": "image/png"}
NOTE = {"type": "resource", "resource": {"uri": "a:b", "text": "note"}}


@svc.tool
async def picture() -> Image:
    return Image(b"png", "image/png")


@svc.tool
def from_a_thread() -> Audio:
    return Audio(b"wav", "audio/wav")


@svc.tool
async def mixed() -> list[str | Image | EmbeddedResource]:
    return ["look:", Image(b"png", "image/png"), EmbeddedResource(ResourceContents("a:b", "note"))]


@svc.tool
async def undeclared():
    return (Text("words"), None, {"a": 1}, [ResourceLink("a:b", "b"), "more"])


@svc.tool
async def maybe(some: bool) -> Image | None:
    return Image(b"png", "image/png") if some else None


@svc.tool
async def plain() -> Any:
    return ["no", "blocks"]


@svc.tool
async def slides() -> AsyncIterator[str | Text | Image]:
    yield "one"
    yield Text("two")
    yield Image(b"png", "image/png")


@svc.tool
async def wrong() -> Image:
    return Image(b"png", "image/png", meta={"a": object()})


@svc.tool
async def whole(failing: bool = False) -> ToolResponse:
    return ToolResponse(["text", Image(b"png", "image/png")], {"n": 1}, failing, {"com.example/a": 1})


@svc.tool
async def bare_list() -> ToolResponse:
    return ToolResponse(structured=[1, 2])


@svc.tool
async def refusing() -> Image:
    raise ToolError("no picture today")


@pytest.mark.parametrize(
    ("tool", "arguments", "content"),
    [
        ("picture", {}, [PNG]),
        ("from_a_thread", {}, [{"type": "audio", "data": "d2F2", "mimeType": "audio/wav"}]),
        ("mixed", {}, [{"type": "text", "text": "look:"}, PNG, NOTE]),
        (
            "undeclared",
            {},
            [
                {"type": "text", "text": "words"},
                {"type": "text", "text": '{"a":1}'},
                {"type": "resource_link", "uri": "a:b", "name": "b"},
                {"type": "text", "text": "more"},
            ],
        ),
        ("maybe", {"some": True}, [PNG]),
        ("maybe", {"some": False}, []),
    ],
)
async def test_blocks_come_as_they_are_and_without_structured_content(
    tool: str, arguments: dict[str, Any], content: list[Any]
) -> None:
    async with serving(svc) as server:
        post = post_modern(server, modern_request(1, "tools/call", {"name": tool, "arguments": arguments}))
        result = (await post.json())["result"]
        assert result["content"] == content
        assert "structuredContent" not in result
        assert "isError" not in result


async def test_a_list_without_blocks_is_structured_as_it_would_be_if_it_were_declared() -> None:
    async with serving(svc) as server:
        post = post_modern(server, modern_request(1, "tools/call", {"name": "plain", "arguments": {}}))
        result = (await post.json())["result"]
        assert result["content"] == [{"type": "text", "text": '["no","blocks"]'}]
        assert result["structuredContent"] == {"result": ["no", "blocks"]}


def test_a_tool_that_returns_blocks_has_no_output_schema() -> None:
    assert [name for name, tool in svc.tools.items() if "outputSchema" in json.loads(tool.definition)] == []


async def test_a_generator_says_what_it_yields_except_for_the_bytes() -> None:
    async with serving(svc) as server:
        session = await LegacySession(server).start()
        post = session.call(1, "slides", {}, progress="p")
        answer = await post.answer(1)
        reports = [message for message in post.messages if message.get("method") == "notifications/progress"]
        assert [report["params"].get("message") for report in reports] == ["one", "two", None]
        assert answer["result"]["content"] == [
            {"type": "text", "text": "one"},
            {"type": "text", "text": "two"},
            PNG,
        ]


async def test_what_has_no_json_form_is_the_programs_fault(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(svc) as server:
        post = post_modern(server, modern_request(1, "tools/call", {"name": "wrong"}))
        result = (await post.json())["result"]
        assert result["isError"]
        assert "error id" in result["content"][0]["text"]
        assert len(errors(caplog)) == 1


async def test_a_tool_that_refuses_says_so_in_text() -> None:
    async with serving(svc) as server:
        post = post_modern(server, modern_request(1, "tools/call", {"name": "refusing"}))
        assert (await post.json())["result"]["content"] == [{"type": "text", "text": "no picture today"}]


async def test_a_tool_may_say_all_of_its_result() -> None:
    async with serving(svc) as server:
        result = (await post_modern(server, modern_request(1, "tools/call", {"name": "whole"})).json())["result"]
        assert result["content"] == [{"type": "text", "text": "text"}, PNG]
        assert result["structuredContent"] == {"n": 1}
        assert result["_meta"].pop("com.example/a") == 1
        assert list(result["_meta"]) == ["io.modelcontextprotocol/serverInfo"]
        session = await LegacySession(server).start()
        result = (await session.call(1, "whole", {"failing": True}).json())["result"]
        assert result["isError"]
        assert result["_meta"] == {"com.example/a": 1}
        result = (await session.call(2, "bare_list").json())["result"]
        assert (result["content"], result["structuredContent"]) == ([], {"result": [1, 2]})
