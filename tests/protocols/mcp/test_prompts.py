"""Prompts: their arguments and messages; and what arguments can be (completion)."""

from __future__ import annotations

import enum
from typing import Any, Literal

import pytest

from tailrace import (
    Context,
    EmbeddedResource,
    Image,
    PromptMessage,
    PromptResponse,
    ResourceContents,
    Service,
    ToolError,
)
from tests.core.support import virtual
from tests.rigs.exchange import LegacySession, modern_request, post_modern, request, serving
from tests.rigs.workshop import errors

INVALID_PARAMS, INTERNAL_ERROR, NOT_FOUND = -32602, -32603, -32002


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


def study() -> Service:
    svc = Service("study")

    @svc.prompt
    async def hello() -> str:
        """Greets.

        At length.
        """
        return "Say hello."

    @svc.prompt(title="A review")
    def review(code: str, lines: int = 3, size: Size = Size.SMALL) -> list[Any]:
        """Reviews code.

        Args:
            code: What to review.
        """
        return [f"Review {lines} {size.value} lines:", PromptMessage(code, "assistant")]

    @svc.prompt
    async def picture() -> list[Any]:
        return [Image(b"png", "image/png"), EmbeddedResource(ResourceContents("a:b", "note"))]

    @svc.prompt
    async def plain() -> dict[str, Any]:
        return {"role": "assistant", "content": "as the wire has it"}

    @svc.prompt
    async def refusing() -> str:
        raise ToolError("not today")

    @svc.prompt
    async def broken() -> str:
        raise RuntimeError("secret")

    def cities(value: str, arguments: dict[str, str]) -> list[str]:
        known = {"de": ["Berlin", "Bremen"], "fr": ["Paris"]}
        return [one for one in known.get(arguments.get("country", ""), []) if one.startswith(value)]

    async def numbers(ctx: Context, value: str) -> list[str]:
        assert ctx.call is not None
        return [f"{value}{n}" for n in range(250)]

    @svc.prompt(complete={"country": ["de", "fr", "fi"], "city": cities, "street": numbers})
    async def travel(country: str, city: str, street: str, how: Literal["rail", "road"] = "rail", fast: bool = True):
        return f"{country} {city} {street} {how} {fast}"

    @svc.resource("maps://{country}/{scale}", complete={"country": ["de", "fr"]})
    async def maps(country: str, scale: Size) -> str:
        return ""

    return svc


async def get(name: str, arguments: dict[str, Any] | None = None) -> Any:
    async with serving(study()) as server:
        session = await LegacySession(server).start()
        params = {"name": name} if arguments is None else {"name": name, "arguments": arguments}
        answer = await session.post(request(1, "prompts/get", params)).json()
        return answer.get("result") or answer["error"]


def text(role: str, words: str) -> dict[str, Any]:
    return {"role": role, "content": {"type": "text", "text": words}}


@virtual
async def test_prompts_are_listed_with_their_arguments() -> None:
    async with serving(study()) as server:
        session = await LegacySession(server).start()
        prompts = (await session.post(request(1, "prompts/list")).json())["result"]["prompts"]
        assert prompts[0] == {"name": "hello", "description": "Greets.\n\nAt length."}
        assert prompts[1] == {
            "name": "review",
            "title": "A review",
            "description": "Reviews code.",
            "arguments": [
                {"name": "code", "required": True, "description": "What to review."},
                {"name": "lines", "required": False},
                {"name": "size", "required": False},
            ],
        }


@virtual
@pytest.mark.parametrize(
    ("name", "arguments", "messages"),
    [
        ("hello", None, [text("user", "Say hello.")]),
        ("review", {"code": "x = 1"}, [text("user", "Review 3 small lines:"), text("assistant", "x = 1")]),
        (
            "review",
            {"code": "5", "lines": "5", "size": "large"},
            [text("user", "Review 5 large lines:"), text("assistant", "5")],
        ),
        (
            "picture",
            {},
            [
                {"role": "user", "content": {"type": "image", "data": "cG5n", "mimeType": "image/png"}},
                {"role": "user", "content": {"type": "resource", "resource": {"uri": "a:b", "text": "note"}}},
            ],
        ),
        ("plain", {}, [text("assistant", "as the wire has it")]),
    ],
)
async def test_a_prompt_writes_its_messages(name: str, arguments: dict[str, Any] | None, messages: list[Any]) -> None:
    assert (await get(name, arguments))["messages"] == messages


@virtual
@pytest.mark.parametrize(
    ("name", "arguments", "code", "says"),
    [
        ("absent", {}, INVALID_PARAMS, "unknown prompt: 'absent'"),
        ("review", {}, INVALID_PARAMS, "code"),
        ("review", {"code": "x", "lines": "many"}, INVALID_PARAMS, "argument 'lines': expected int, got str"),
        ("review", {"code": "x", "size": "huge"}, INVALID_PARAMS, "size"),
        ("review", {"code": "x", "more": "y"}, INVALID_PARAMS, "more"),
        ("review", {"code": 5}, INVALID_PARAMS, "invalid params of prompts/get"),
        ("refusing", {}, INTERNAL_ERROR, "not today"),
    ],
)
async def test_a_prompt_that_cannot_be_written_is_an_error(
    name: str, arguments: dict[str, Any], code: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = await get(name, arguments)
    assert error["code"] == code
    assert says in error["message"]
    assert errors(caplog) == []


@virtual
async def test_a_prompt_may_say_all_of_its_result() -> None:
    svc = Service("study")

    @svc.prompt
    async def letter() -> PromptResponse:
        """A letter."""
        return PromptResponse(["Dear", PromptMessage("Yours", "assistant")], "Two words.", {"example/tone": "warm"})

    @svc.prompt
    async def note() -> PromptResponse:
        """A note."""
        return PromptResponse("Short.")

    async with serving(svc) as server:
        whole = (await post_modern(server, modern_request(1, "prompts/get", {"name": "letter"})).json())["result"]
        assert [message["content"]["text"] for message in whole["messages"]] == ["Dear", "Yours"]
        assert whole["description"] == "Two words."
        assert whole["_meta"].pop("example/tone") == "warm"
        assert list(whole["_meta"]) == ["io.modelcontextprotocol/serverInfo"]
        session = await LegacySession(server).start()
        legacy = (await session.post(request(2, "prompts/get", {"name": "letter"})).json())["result"]
        assert legacy["_meta"] == {"example/tone": "warm"}
        plain = (await session.post(request(3, "prompts/get", {"name": "note"})).json())["result"]
        assert (plain["description"], "_meta" in plain) == ("A note.", False)


@virtual
async def test_a_fault_of_the_prompt_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    error = await get("broken")
    assert error["code"] == INTERNAL_ERROR
    assert "secret" not in error["message"]
    assert len(errors(caplog)) == 1


async def test_a_modern_prompt_is_complete_and_one_that_is_not_there_400() -> None:
    async with serving(study()) as server:
        result = (await post_modern(server, modern_request(1, "prompts/get", {"name": "hello"})).json())["result"]
        assert result["resultType"] == "complete"
        assert "ttlMs" not in result
        absent = post_modern(server, modern_request(1, "prompts/get", {"name": "absent"}))
        assert (await absent.json())["error"]["code"] == INVALID_PARAMS
        assert await absent.status_code() == 400


# --- completion ---------------------------------------------------------------------------------

TRAVEL = {"type": "ref/prompt", "name": "travel"}
MAPS = {"type": "ref/resource", "uri": "maps://{country}/{scale}"}


async def complete(ref: Any, name: str, value: str, **given: str) -> Any:
    async with serving(study()) as server:
        session = await LegacySession(server).start()
        params: dict[str, Any] = {"ref": ref, "argument": {"name": name, "value": value}}
        if given:
            params["context"] = {"arguments": given}
        answer = await session.post(request(1, "completion/complete", params)).json()
        return answer["result"]["completion"] if "result" in answer else answer["error"]


@virtual
@pytest.mark.parametrize(
    ("ref", "name", "value", "given", "values"),
    [
        (TRAVEL, "country", "F", {}, ["fr", "fi"]),
        (TRAVEL, "city", "B", {"country": "de"}, ["Berlin", "Bremen"]),
        (TRAVEL, "city", "", {}, []),
        (TRAVEL, "how", "r", {}, ["rail", "road"]),
        (TRAVEL, "fast", "t", {}, ["true"]),
        (MAPS, "country", "", {}, ["de", "fr"]),
        (MAPS, "scale", "s", {}, ["small"]),
    ],
)
async def test_an_argument_is_completed(ref: Any, name: str, value: str, given: dict[str, str], values: Any) -> None:
    found = await complete(ref, name, value, **given)
    assert found == {"values": values, "total": len(values), "hasMore": False}


@virtual
async def test_a_completion_names_a_hundred_values_and_says_that_there_are_more() -> None:
    found = await complete(TRAVEL, "street", "x")
    assert (len(found["values"]), found["total"], found["hasMore"]) == (100, 250, True)


@virtual
async def test_of_what_nobody_knows_nothing_is_named() -> None:
    assert await complete({"type": "ref/prompt", "name": "review"}, "code", "x") == {
        "values": [],
        "total": 0,
        "hasMore": False,
    }


@virtual
@pytest.mark.parametrize(
    ("ref", "name", "code"),
    [
        ({"type": "ref/prompt", "name": "absent"}, "x", INVALID_PARAMS),
        ({"type": "ref/resource", "uri": "absent://{x}"}, "x", NOT_FOUND),
        ({"type": "ref/tool", "name": "travel"}, "x", INVALID_PARAMS),
        (TRAVEL, "absent", INVALID_PARAMS),
    ],
)
async def test_a_completion_of_what_is_not_there_is_refused(ref: Any, name: str, code: int) -> None:
    assert (await complete(ref, name, ""))["code"] == code
