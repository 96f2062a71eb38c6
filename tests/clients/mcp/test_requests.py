"""Resources, prompts, completions and log levels: what is asked for, page by page, and what it becomes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.clients.mcp import Client, PromptInfo, ResourceInfo
from tailrace.errors import DefinitionError, LimitError, ProtocolError
from tests.core.support import virtual

from .test_calls import Peer

NOTHING: dict[str, Any] = {"tools": [], "resources": [], "resourceTemplates": [], "prompts": []}


def saying(results: dict[str, Any]) -> Callable[[Peer, dict[str, Any]], None]:
    """Answers each method with its result, or with what a function makes of the parameters."""

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if "id" not in message:
            return
        result = results[message["method"]]
        peer.say({"id": message["id"], "result": result(message["params"]) if callable(result) else result})

    return answer


def pages(key: str, *items: list[dict[str, Any]]) -> Callable[[dict[str, Any]], Any]:
    def page(params: dict[str, Any]) -> Any:
        number = int(params.get("cursor", 0))
        more = {"nextCursor": str(number + 1)} if number + 1 < len(items) else {}
        return {key: items[number], **more}

    return page


def slowly(result: dict[str, Any], *, seconds: float) -> Callable[[Peer, dict[str, Any]], None]:
    """Answers everything with this, after a while."""

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if "id" in message:
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, peer.say, {"id": message["id"], "result": result})

    return answer


async def test_lists_go_over_all_pages() -> None:
    peer = Peer(
        answer=saying(
            {
                "resources/list": pages(
                    "resources", [{"uri": "a://1", "name": "one", "mimeType": "text/plain"}], [], [{"uri": "a://2"}]
                ),
                "resources/templates/list": {"resourceTemplates": [{"uriTemplate": "a://{id}", "name": "any"}]},
                "prompts/list": pages(
                    "prompts", [{"name": "p", "arguments": [{"name": "x", "required": True}]}], [{"name": "q"}]
                ),
            }
        )
    )
    async with Client(peer.link) as c:
        resources = await c.list_resources()
        assert [(one.uri, one.name, one.mime_type) for one in resources] == [
            ("a://1", "one", "text/plain"),
            ("a://2", "", None),
        ]
        assert [one.uri_template for one in await c.list_resource_templates()] == ["a://{id}"]
        prompts = await c.list_prompts()
        assert [(one.name, [(a.name, a.required) for a in one.arguments]) for one in prompts] == [
            ("p", [("x", True)]),
            ("q", []),
        ]


async def test_a_page_is_asked_for_when_its_turn_comes() -> None:
    peer = Peer(answer=saying({"resources/list": pages("resources", [{"uri": "a://1"}], [{"uri": "a://2"}])}))
    async with Client(peer.link) as c:
        found = c.iter_resources()
        assert await anext(found) == ResourceInfo("a://1")
        assert len(peer.asked("resources/list")) == 1
        assert await anext(found) == ResourceInfo("a://2")
        assert len(peer.asked("resources/list")) == 2
        assert [one async for one in found] == []


@pytest.mark.parametrize("listing", ["list_tools", "list_resources", "list_resource_templates", "list_prompts"])
def test_the_limit_of_a_list_is_for_all_its_pages(listing: str) -> None:
    @virtual
    async def run() -> None:
        peer = Peer(answer=slowly({**NOTHING, "nextCursor": "more"}, seconds=4.0))
        async with Client(peer.link) as c:
            began = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError):
                await getattr(c, listing)(timeout=10.0)
            assert asyncio.get_running_loop().time() - began == pytest.approx(10.0)

    run()


@virtual
async def test_the_limit_of_what_is_iterated_over_is_for_each_page() -> None:
    peer = Peer(answer=slowly({**NOTHING, "prompts": [{"name": "p"}], "nextCursor": "more"}, seconds=4.0))
    async with Client(peer.link) as c:
        found = c.iter_prompts(timeout=10.0)
        for _ in range(3):
            assert (await anext(found)).name == "p"
            await asyncio.sleep(3600)  # this time is the caller's
        await found.aclose()


@pytest.mark.parametrize("method", ["read_resource", "get_prompt"])
def test_the_limit_of_a_request_is_for_all_rounds_of_questions(method: str) -> None:
    @virtual
    async def run() -> None:
        peer = Peer(answer=slowly({"resultType": "input_required", "requestState": "s"}, seconds=4.0))
        async with Client(peer.link) as c:
            began = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError):
                await getattr(c, method)("a", timeout=10.0)
            assert asyncio.get_running_loop().time() - began == pytest.approx(10.0)

    run()


async def test_pages_without_an_end_are_not_followed() -> None:
    peer = Peer(answer=saying({"prompts/list": {"prompts": [], "nextCursor": "again"}}))
    async with Client(peer.link) as c:
        with pytest.raises(LimitError, match="1000 pages"):
            await c.list_prompts()


async def test_a_resource_is_text_or_bytes() -> None:
    contents = [{"uri": "a://1", "text": "said"}, {"uri": "a://1", "blob": "AAH/", "mimeType": "image/png"}]
    peer = Peer(answer=saying({"resources/read": {"contents": contents, "ttlMs": 5}}))
    async with Client(peer.link) as c:
        read = await c.read_resource("a://1")
    assert read.text == "said"
    assert [part.data for part in read.contents] == [b"said", b"\0\1\xff"]
    assert (read.ttl_ms, read.contents[1].mime_type) == (5, "image/png")
    assert peer.asked("resources/read")[0]["params"]["uri"] == "a://1"


async def test_arguments_of_a_prompt_are_strings() -> None:
    messages = [
        {"role": "user", "content": {"type": "text", "text": "hello"}},
        {"role": "user", "content": {"type": "image"}},
    ]
    peer = Peer(answer=saying({"prompts/get": {"messages": messages, "description": "d"}}))
    async with Client(peer.link) as c:
        prompt = await c.get_prompt("p", {"a": "as is", "b": [1, 2]})
        await c.get_prompt("p")
    assert [(one.role, one.text) for one in prompt.messages] == [("user", "hello"), ("user", "")]
    with_arguments, without = (asked["params"] for asked in peer.asked("prompts/get"))
    assert with_arguments["arguments"] == {"a": "as is", "b": "[1,2]"}
    assert "arguments" not in without


async def test_what_a_client_did_not_offer_is_no_result() -> None:
    peer = Peer(answer=saying({"prompts/get": {"resultType": "else", "messages": []}}))
    async with Client(peer.link) as c:
        with pytest.raises(ProtocolError, match="'else'"):
            await c.get_prompt("p")


@pytest.mark.parametrize(
    ("ref", "sent"),
    [
        ("a://{id}", {"type": "ref/resource", "uri": "a://{id}"}),
        ("greet", {"type": "ref/prompt", "name": "greet"}),
        ({"type": "ref/prompt", "name": "a://b"}, {"type": "ref/prompt", "name": "a://b"}),
    ],
)
async def test_a_completion_names_what_it_is_for(ref: Any, sent: Any) -> None:
    peer = Peer(answer=saying({"completion/complete": {"completion": {"values": ["ab"], "total": 3, "hasMore": True}}}))
    async with Client(peer.link) as c:
        found = await c.complete(ref, {"name": "id", "value": "a"}, {"other": "x"})
    assert (found.values, found.total, found.has_more) == (["ab"], 3, True)
    params = peer.asked("completion/complete")[0]["params"]
    assert (params["ref"], params["argument"]) == (sent, {"name": "id", "value": "a"})
    assert params["context"] == {"arguments": {"other": "x"}}


async def test_the_log_level_is_set_for_the_session_or_said_with_each_request() -> None:
    legacy = Peer(era="legacy", answer=saying({"prompts/list": {"prompts": []}}))
    async with Client(legacy.link, era="legacy") as c:
        await c.set_logging_level("error")
    assert legacy.asked("logging/setLevel")[0]["params"]["level"] == "error"

    modern = Peer(answer=saying({"prompts/list": {"prompts": [{"name": "p"}]}}))
    async with Client(modern.link) as c:
        await c.set_logging_level("error")
        assert await c.list_prompts() == [PromptInfo("p")]
        with pytest.raises(DefinitionError, match="loud"):
            await c.set_logging_level("loud")
    assert modern.asked("prompts/list")[0]["params"]["_meta"]["io.modelcontextprotocol/logLevel"] == "error"


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ({}, {"name": "John", "age": 30}),
        ({"age": 5}, {"name": "John", "age": 5}),
        ("odd", "odd"),
    ],
)
async def test_what_is_not_filled_in_of_a_form_has_its_default(said: Any, got: Any) -> None:
    schema = {"type": "object", "properties": {"name": {"default": "John"}, "age": {"default": 30}, "mail": {}}}
    answers: list[Any] = []

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if message.get("method") == "tools/call":
            peer.say(
                {"id": "e1", "method": "elicitation/create", "params": {"message": "m", "requestedSchema": schema}}
            )
        elif message.get("id") == "e1":
            answers.append(message["result"]["content"])
            call = peer.asked("tools/call")[0]
            peer.say({"id": call["id"], "result": {"content": []}})

    peer = Peer(era="legacy", answer=answer)
    async with Client(peer.link, era="legacy", elicitation=lambda message, schema: said) as c:
        await c.call_tool("asks")
    assert answers == [got]
