"""Our client answers what a modern server asks, by its callbacks, and asks again: calls, tasks, and any server's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace import Context, ElicitResult, ProtocolError, Service
from tailrace.clients.mcp.client import Client as BareClient
from tailrace.clients.mcp.rounds import MAX_ROUNDS
from tailrace.mcp import Client
from tests.clients.mcp.test_calls import Peer
from tests.core.support import virtual
from tests.protocols.mcp.test_mrtr import asking
from tests.protocols.mcp.test_mrtr_tasks import curious

FORM = {"method": "elicitation/create", "params": {"message": "Sure?", "requestedSchema": {"type": "object"}}}


def fill_in(message: str, schema: dict[str, Any]) -> Any:
    return {"value": "ann" if schema["properties"]["value"]["type"] == "string" else len(message)}


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_the_same_handler_and_the_same_callbacks_work_in_both_eras(era: Any) -> None:
    notes: list[str] = []
    options: Any = {"elicitation": fill_in, "sampling": lambda params: "yes", "roots": ["file:///a"]}
    async with Client(asking(notes), era=era, **options) as client:
        assert client.era == era
        assert (await client.call_tool("trip")).data == "ann yes ['file:///a']"
        assert (await client.call_tool("both")).data == "12 13 and 13 14"
        assert (await client.call_tool("count", {"upto": 3})).data == [8, 8, 8]
    assert notes == ["begun"] * (4 if era == "modern" else 1) + ["went"]


@virtual
async def test_a_task_is_answered_each_question_once() -> None:
    async with Client(curious(), elicitation=fill_in) as client:
        assert (await client.call_tool("ask", {"times": 3})).data == "ann ann ann"
        assert (await client.call_tool("both")).data == "ann ann"
        assert (await client.call_tool("late")).data == "ann ann"


@virtual
async def test_a_user_who_declines_and_one_who_opens_a_page() -> None:
    service = Service("pages")

    @service.tool
    async def form(ctx: Context) -> str:
        return (await ctx.elicit("?", str)).action

    @service.tool
    async def page(ctx: Context) -> str:
        return (await ctx.elicit_url("Sign in", "https://example.org/in")).action

    opened: list[Any] = []

    async def opens(message: str, url: str) -> bool:
        opened.append((message, url))
        return True

    for era in ("modern", "legacy"):
        answers: Any = [(None, "decline"), (ElicitResult("cancel"), "cancel")]
        for said, action in answers:
            async with Client(service, era=era, elicitation=lambda message, schema: said) as client:  # type: ignore[arg-type] # noqa: B023
                assert (await client.call_tool("form")).data == action
        async with Client(service, era=era, elicitation_url=opens) as client:  # type: ignore[arg-type]
            assert (await client.call_tool("page")).data == "accept"
        url_only: Any = {"era": era, "elicitation_url": lambda message, url: None}
        async with Client(service, **url_only) as client:
            assert (await client.call_tool("page")).data == "decline"
            if era == "modern":
                with pytest.raises(ProtocolError) as refused:
                    await client.call_tool("form")
                assert refused.value.data == {"requiredCapabilities": {"elicitation": {"form": {}}}}
            else:
                assert (await client.call_tool("form")).is_error
    assert opened == [("Sign in", "https://example.org/in")] * 2


# --- any server -------------------------------------------------------------------------------------


def answering(*results: dict[str, Any]) -> Peer:
    left = list(results)

    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if "id" in message:
            peer.say({"id": message["id"], "result": left.pop(0) if len(left) > 1 else left[0]})

    return Peer(answer=answer)


DONE = {"content": [{"type": "text", "text": "done"}]}


@virtual
async def test_the_state_goes_back_as_it_is_once_and_only_if_there_is_one() -> None:
    state = '{"odd": "ÿ\\u0000 state"}'
    peer = answering(
        {"resultType": "input_required", "inputRequests": {"a": FORM}, "requestState": state},
        {"resultType": "input_required", "inputRequests": {"b": FORM}},
        {"resultType": "input_required", "requestState": "only"},
        DONE,
    )
    async with BareClient(peer.link, elicitation=lambda message, schema: {"ok": True}) as client:
        assert (await client.call_tool("t", {"x": 1})).text == "done"
        assert (await client.call_tool("t")).text == "done"
    asked = [one["params"] for one in peer.asked("tools/call")]
    assert [one.get("requestState") for one in asked] == [None, state, None, "only", None]
    said = {"action": "accept", "content": {"ok": True}}
    assert [one.get("inputResponses") for one in asked] == [None, {"a": said}, {"b": said}, None, None]
    assert all(one["arguments"] == {"x": 1} for one in asked[:4])
    ids = [one["id"] for one in peer.asked("tools/call")]
    assert len(set(ids)) == len(ids)


@virtual
async def test_prompts_and_resources_are_asked_in_rounds_too() -> None:
    first = {"resultType": "input_required", "inputRequests": {"a": FORM}, "requestState": "s"}
    async with BareClient(answering(first, {"messages": []}).link, elicitation=lambda m, s: {}) as client:
        assert (await client.get_prompt("p")).messages == []
    async with BareClient(answering(first, {"contents": []}).link, elicitation=lambda m, s: {}) as client:
        assert (await client.read_resource("a://b")).contents == []


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"inputRequests": {"a": {"method": "sampling/createMessage", "params": {}}}}, "sampling/createMessage, which"),
        ({"inputRequests": {"a": 7}}, "what is no request"),
        ({"inputRequests": {"a": {"params": {}}}}, "not valid"),
        ({"inputRequests": {"a": {"method": "elicitation/create", "params": {}}}}, "not valid"),
        (
            {"inputRequests": {"a": {"method": "elicitation/create", "params": {"message": "?", "mode": "url"}}}},
            "pages",
        ),
        ({"inputRequests": []}, "not valid"),
        ({}, "and for none"),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_the_servers(result: Any, text: str) -> None:
    @virtual
    async def run() -> None:
        peer = answering({"resultType": "input_required", **result})
        async with BareClient(peer.link, elicitation=lambda message, schema: {}) as client:
            with pytest.raises(ProtocolError, match=text):
                await client.call_tool("t")
            assert len(peer.asked("tools/call")) == 1

    run()


@virtual
async def test_a_server_that_never_stops_asking_is_left() -> None:
    peer = answering({"resultType": "input_required", "requestState": "s"})
    async with BareClient(peer.link) as client:
        with pytest.raises(ProtocolError, match="still has a question"):
            await client.call_tool("t")
        assert len(peer.asked("tools/call")) == MAX_ROUNDS


@virtual
async def test_what_a_callback_raises_and_the_time_that_it_takes_are_the_callers() -> None:
    async def slow(message: str, schema: Any) -> Any:
        await asyncio.sleep(100)

    def broken(message: str, schema: Any) -> Any:
        raise KeyError("mine")

    async with Client(asking(), elicitation=broken) as client:
        with pytest.raises(KeyError, match="mine"):
            await client.call_tool("named")
    async with Client(curious(), elicitation=broken) as client:
        with pytest.raises(KeyError, match="mine"):
            await client.call_tool("ask")
    async with Client(asking(), elicitation=slow) as client:
        with pytest.raises(TimeoutError, match="not answered within"):
            await client.call_tool("named", timeout=5)
