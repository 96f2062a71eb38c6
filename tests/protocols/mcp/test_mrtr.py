"""A modern client is asked by ending its call: it comes back with the answers, and the handler runs again (MRTR)."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import CapabilityError, Context, LimitError, Service, ToolError
from tailrace.protocols.mcp.framing import Seals
from tailrace.protocols.mcp.request_state import Answer, RequestState, open_state, seal_state
from tailrace.stores.memory import MemoryStore
from tests.core.support import virtual
from tests.protocols.mcp.test_conversation import conversing
from tests.rigs.exchange import FakeExchange, modern_request, post_modern, serving, text_of
from tests.rigs.workshop import errors

ABLE: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}


class Dialogue:
    """A modern client's side of one call: it makes each leg by hand."""

    def __init__(
        self,
        server: Any,
        name: str,
        arguments: Any = None,
        *,
        principal: str = "",
        able: Any = ABLE,
        **meta: Any,
    ) -> None:
        self.server, self.name, self.arguments = server, name, {} if arguments is None else arguments
        self.principal, self.able, self.meta, self.id = principal, able, meta, 0
        self.asked: dict[str, Any] = {}
        self.state: str | None = None

    def post(self, responses: Any = None, state: str | None = None, **params: Any) -> FakeExchange:
        self.id += 1
        more: dict[str, Any] = {"name": self.name, "arguments": self.arguments, **params}
        if responses is not None:
            more["inputResponses"] = responses
        if state is not None:
            more["requestState"] = state
        message = modern_request(self.id, "tools/call", more, clientCapabilities=self.able, **self.meta)
        return post_modern(self.server, message, principal=self.principal)

    async def leg(self, *answers: Any, state: str | None = None, **named: Any) -> Any:
        """One leg: the answers go to the questions in the order in which these were asked, or by key."""
        responses = dict(zip(self.asked, answers, strict=False)) | named if self.asked or named else None
        message = await self.post(responses, state or self.state).answer(self.id)
        if "result" in message and message["result"]["resultType"] == "input_required":
            self.asked, self.state = message["result"]["inputRequests"], message["result"]["requestState"]
        else:
            self.asked, self.state = {}, None
        return message


DEEP: Any = {"action": "accept", "content": {"value": [[[["x"]]]]}}


def accept(value: Any) -> Any:
    return {"action": "accept", "content": {"value": value}}


def said(text: str) -> Any:
    return {"role": "assistant", "content": {"type": "text", "text": text}, "model": "m"}


def asking(notes: list[str] | None = None) -> Service:
    """A service whose handlers ask."""
    service, seen = Service("asking"), notes if notes is not None else []

    @service.tool
    async def trip(ctx: Context, to: str = "sea") -> str:
        seen.append("begun")
        who = (await ctx.elicit(f"Who goes to the {to}?", str)).data
        mood = (await ctx.sample(f"Is {who} happy?")).text
        roots = await ctx.list_roots()
        seen.append("went")
        return f"{who} {mood} {[root.uri for root in roots]}"

    @service.tool
    async def both(ctx: Context) -> str:
        async def one(name: str) -> str:
            first = (await ctx.elicit(f"{name}, first?", int)).data
            return f"{first} {(await ctx.elicit(f'{name}, second?', int)).data}"

        return " and ".join(await asyncio.gather(one("left"), one("right")))

    @service.tool
    async def count(ctx: Context, upto: int) -> list[int]:
        return [(await ctx.elicit("And now?", int)).data for _ in range(upto)]

    @service.tool
    async def named(ctx: Context) -> str:
        return f"{(await ctx.elicit('A name?', str, key='user_name')).data}"

    @service.tool
    async def fickle(ctx: Context) -> str:
        seen.append("asked")
        return f"{(await ctx.elicit(f'For the {len(seen)}. time?', int, key='fickle')).data}"

    return service


def sealed(state: str) -> bytes:
    return base64.urlsafe_b64decode(state + "=" * (-len(state) % 4))


# --- legs -----------------------------------------------------------------------------------------


@virtual
async def test_a_handler_asks_three_things_and_runs_to_its_end_once() -> None:
    notes: list[str] = []
    async with serving(asking(notes)) as server:
        call = Dialogue(server, "trip")
        first = (await call.leg())["result"]
        assert first["resultType"] == "input_required"
        ((key, question),) = first["inputRequests"].items()
        assert question["method"] == "elicitation/create"
        assert question["params"]["message"] == "Who goes to the sea?"
        assert key.startswith("elicitation-")
        second = (await call.leg(accept("ann")))["result"]
        ((_, question),) = second["inputRequests"].items()
        assert question["params"]["messages"][0]["content"]["text"] == "Is ann happy?"
        assert [one["method"] for one in (await call.leg(said("yes")))["result"]["inputRequests"].values()] == [
            "roots/list"
        ]
        last = await call.leg({"roots": [{"uri": "file:///a"}]})
        assert last["result"]["resultType"] == "complete"
        assert text_of(last) == "ann yes ['file:///a']"
        assert notes == ["begun"] * 4 + ["went"]
        assert server.endpoint.tasks.calls == {}


@virtual
async def test_what_is_asked_at_once_goes_out_at_once_and_each_part_gets_its_own_answers() -> None:
    async with serving(asking()) as server:
        call = Dialogue(server, "both")
        await call.leg()
        texts = [one["params"]["message"] for one in call.asked.values()]
        assert texts == ["left, first?", "right, first?"]
        await call.leg(accept(1), accept(2))
        assert [one["params"]["message"] for one in call.asked.values()] == ["left, second?", "right, second?"]
        assert text_of(await call.leg(accept(3), accept(4))) == "1 3 and 2 4"


@virtual
async def test_of_two_questions_the_one_without_an_answer_is_asked_again() -> None:
    async with serving(asking()) as server:
        call = Dialogue(server, "both")
        await call.leg()
        left, right = call.asked
        await call.leg(**{right: accept(2), "unknown": 7})
        messages = {key: one["params"]["message"] for key, one in call.asked.items()}
        assert messages[left] == "left, first?"
        assert "right, second?" in messages.values()
        assert right not in messages


@virtual
async def test_the_same_question_asked_often_gets_its_answers_in_order() -> None:
    async with serving(asking()) as server:
        call = Dialogue(server, "count", {"upto": 3})
        await call.leg()
        keys: list[str] = []
        for number in range(3):
            keys += call.asked
            answer = await call.leg(accept(number))
        assert answer["result"]["structuredContent"]["result"] == [0, 1, 2]
        assert len(set(keys)) == 3


@virtual
async def test_an_answer_to_another_question_is_not_taken_for_one_to_this() -> None:
    async with serving(asking()) as server:
        call = Dialogue(server, "fickle")
        await call.leg()
        assert call.asked["fickle"]["params"]["message"] == "For the 1. time?"
        await call.leg(fickle=accept(1))
        assert call.asked["fickle"]["params"]["message"] == "For the 2. time?"


@virtual
async def test_a_question_with_a_name_is_answered_by_it_also_before_it_was_asked() -> None:
    async with serving(asking()) as server:
        call = Dialogue(server, "named")
        assert text_of(await call.leg(user_name=accept("ann"), other=accept(1))) == "ann"


@virtual
async def test_it_works_over_a_pipe_beside_others() -> None:
    async with conversing(asking()) as (pipes, running):

        async def heard(id: int) -> Any:
            while not (found := [one for one in pipes.heard if one.get("id") == id]):
                await asyncio.sleep(0.01)
            return found[0]

        able = {"clientCapabilities": ABLE}
        pipes.say(modern_request(1, "tools/call", {"name": "named", "arguments": {}}, **able))
        asked = (await heard(1))["result"]
        answers = {"inputResponses": {"user_name": accept("bob")}, "requestState": asked["requestState"]}
        pipes.say(modern_request(2, "tools/call", {"name": "named", "arguments": {}, **answers}, **able))
        assert text_of(await heard(2)) == "bob"
        pipes.close()
        await running


@virtual
async def test_another_server_over_the_same_store_runs_the_next_leg() -> None:
    store = MemoryStore()
    async with serving(asking(), store) as server:
        call = Dialogue(server, "trip")
        await call.leg()
        secrets = await store.secrets()

    async def the_same() -> list[bytes]:
        return secrets

    other = MemoryStore()
    other.secrets = the_same  # type: ignore[method-assign]
    async with serving(asking(), other) as server:
        call.server = server
        assert (await call.leg(accept("ann")))["result"]["resultType"] == "input_required"


# --- the state that it carries --------------------------------------------------------------------


@virtual
async def test_a_state_that_was_tampered_with_is_refused_and_no_code_runs() -> None:
    notes: list[str] = []
    async with serving(asking(notes)) as server:
        call = Dialogue(server, "trip")
        await call.leg()
        state, raw = call.state or "", sealed(call.state or "")
        flipped = base64.urlsafe_b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).rstrip(b"=").decode()
        for bad in (state + "x", state[:-8], "", "?", "é", flipped, state + "=", "A" * 100):
            post = call.post({}, bad)
            assert await post.status_code() == 400
            assert (await post.answer(call.id))["error"]["code"] == -32602
        assert notes == ["begun"]


@virtual
async def test_a_state_is_its_principals_its_requests_and_expires() -> None:
    async with serving(asking(), state_time=60.0) as server:
        now = 1000.0
        server.endpoint.wall = lambda: now
        call = Dialogue(server, "trip", {"to": "sea"}, principal="ann")
        await call.leg()
        state = call.state
        assert state is not None

        async def code(other: Dialogue) -> int:
            return (await other.post({}, state).answer(other.id)).get("error", {}).get("code", 0)

        assert await code(Dialogue(server, "trip", {"to": "sea"}, principal="bob")) == -32602
        assert await code(Dialogue(server, "trip", {"to": "hills"}, principal="ann")) == -32602
        assert await code(Dialogue(server, "named", {}, principal="ann")) == -32602
        assert await code(Dialogue(server, "trip", {"to": "sea"}, principal="ann", able=ABLE)) == 0
        now = 1059.9
        assert await code(call) == 0
        now = 1060.0
        assert await code(call) == -32602


@virtual
async def test_all_legs_of_a_call_together_have_a_limit_in_time_and_number() -> None:
    async with serving(asking(), state_time=60.0, dialogue_time=100.0, max_rounds=3) as server:
        now = 1000.0
        server.endpoint.wall = lambda: now
        call = Dialogue(server, "count", {"upto": 9})
        await call.leg()
        now = 1059.0
        await call.leg(accept(1))
        now = 1100.0
        assert "expired" in (await call.leg(accept(2)))["error"]["message"]
        now, call = 1000.0, Dialogue(server, "count", {"upto": 9})
        await call.leg()
        for number in range(2):
            await call.leg(accept(number))
        assert (await call.leg(accept(3)))["error"] == {
            "code": -32000,
            "message": "the call has asked 3 times, and still has a question",
            "data": {"limit": "rounds"},
        }


@virtual
async def test_a_client_that_says_too_much_is_refused_with_the_limits_name() -> None:
    async with serving(asking(), max_state=2000) as server:
        call = Dialogue(server, "trip")
        await call.leg()
        error = (await call.leg(accept("x" * 2000)))["error"]
        assert (error["code"], error["data"]) == (-32000, {"limit": "request_state"})


@virtual
async def test_the_state_holds_no_more_than_the_client_has_said() -> None:
    async with serving(asking()) as server:
        call = Dialogue(server, "trip", {"to": "hills"}, principal="ann")
        await call.leg()
        raw = sealed(call.state or "")
        assert b"hills" not in raw
        assert b"ann" not in raw
        await call.leg(accept("carol"))
        assert b"carol" in sealed(call.state or "")


@virtual
async def test_a_state_outlives_one_rotation_of_the_secrets_and_no_second() -> None:
    principal = "ann"
    state = RequestState("i", b"b", 1.0, 2.0, 1, {"k": Answer(b"d", b"{}")}, {})
    sealed_text = seal_state(Seals([b"old"], 1), state, principal)
    assert open_state(Seals([b"new", b"old"], 2), sealed_text, principal) == state
    for secrets in ([b"newer", b"new"], [b"new"]):
        with pytest.raises(ValueError, match="not made by this server"):
            open_state(Seals(secrets, 3), sealed_text, principal)


@given(st.text())
def test_whatever_is_no_state_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        open_state(Seals([b"secret"], 1), text, "")


# --- prompts and resources ------------------------------------------------------------------------


@virtual
async def test_prompts_and_resources_ask_too_and_a_state_is_for_one_of_them() -> None:
    service = Service("reading")

    @service.prompt
    async def greet(ctx: Context, tone: str) -> str:
        return f"{tone}: {(await ctx.elicit('Who?', str, key='who')).data}"

    @service.resource("notes://{name}")
    async def note(ctx: Context, name: str) -> str:
        return f"{name}: {(await ctx.elicit('Which page?', int, key='page')).data}"

    async with serving(service) as server:

        async def ask(id: int, method: str, params: Any, **more: Any) -> Any:
            message = modern_request(id, method, params | more, clientCapabilities=ABLE)
            return await post_modern(server, message).answer(id)

        prompt = {"name": "greet", "arguments": {"tone": "loud"}}
        first = (await ask(1, "prompts/get", prompt))["result"]
        assert first["inputRequests"]["who"]["params"]["message"] == "Who?"
        more: Any = {"requestState": first["requestState"], "inputResponses": {"who": accept("ann")}}
        last = (await ask(2, "prompts/get", prompt, **more))["result"]
        assert last["messages"][0]["content"]["text"] == "loud: ann"
        other = {"name": "greet", "arguments": {"tone": "soft"}}
        assert (await ask(3, "prompts/get", other, **more))["error"]["code"] == -32602
        place = {"uri": "notes://a"}
        first = (await ask(4, "resources/read", place))["result"]
        more = {"requestState": first["requestState"], "inputResponses": {"page": accept(7)}}
        assert (await ask(5, "resources/read", place, **more))["result"]["contents"][0]["text"] == "a: 7"
        assert (await ask(6, "resources/read", {"uri": "notes://b"}, **more))["error"]["code"] == -32602
        unable = post_modern(server, modern_request(7, "resources/read", place))
        assert await unable.status_code() == 400
        assert (await unable.answer(7))["error"]["code"] == -32021


# --- answers that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [12345, None, {}, {"action": "perhaps"}, {"action": "accept", "content": {"value": 3}}, {"action": "accept"}],
)
def test_an_answer_that_does_not_fit_is_refused_and_the_state_stays_good(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @virtual
    async def run() -> None:
        async with serving(asking()) as server:
            call = Dialogue(server, "named")
            await call.leg()
            state = call.state
            refused = await call.leg(user_name=answer)
            assert refused["error"]["code"] == -32602
            assert "user_name" in refused["error"]["message"]
            assert text_of(await call.leg(user_name=accept("ann"), state=state)) == "ann"
            assert errors(caplog) == []

    run()


@virtual
async def test_responses_that_are_no_object_are_refused() -> None:
    async with serving(asking()) as server:
        for bad in ([], "x", 1):
            call = Dialogue(server, "named")
            assert (await call.post(bad).answer(1))["error"]["code"] == -32602
        call = Dialogue(server, "named")
        assert (await call.post(inputResponses=None).answer(1))["error"]["code"] == -32602
        assert (await call.post(requestState=3).answer(2))["error"]["code"] == -32602


@virtual
async def test_a_user_who_declines_is_an_answer() -> None:
    async with serving(asking()) as server:
        call = Dialogue(server, "named")
        await call.leg()
        assert text_of(await call.leg(user_name={"action": "decline"})) == "None"


# --- what a client can do -------------------------------------------------------------------------


@virtual
async def test_each_request_is_asked_only_what_it_declares_itself() -> None:
    service = Service("able")

    @service.tool
    async def whichever(ctx: Context) -> str:
        try:
            return f"{(await ctx.elicit('?', str)).data}"
        except CapabilityError as error:
            return f"{(await ctx.sample(f'{error.required}')).text}"

    @service.tool
    async def page(ctx: Context) -> str:
        return (await ctx.elicit_url("Sign in", "https://example.org/in", key="page")).action

    @service.tool
    async def tooled(ctx: Context) -> str:
        return (await ctx.sample("?", tools=[{"name": "add", "inputSchema": {"type": "object"}}])).text

    async with serving(service) as server:
        sampling = Dialogue(server, "whichever", able={"sampling": {}})
        ((_, question),) = (await sampling.leg())["result"]["inputRequests"].items()
        assert question["method"] == "sampling/createMessage"
        assert question["params"]["messages"][0]["content"]["text"] == "{'elicitation': {}}"
        for name, able, needed in (
            ("page", {"elicitation": {}}, {"elicitation": {"url": {}}}),
            ("page", {}, {"elicitation": {"url": {}}}),
            ("tooled", {"sampling": {}}, {"sampling": {"tools": {}}}),
            ("whichever", {}, {"sampling": {}}),
        ):
            error = (await Dialogue(server, name, able=able).leg())["error"]
            assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": needed})
        urls = Dialogue(server, "page", able={"elicitation": {"url": {}}})
        await urls.leg()
        params = {"mode": "url", "message": "Sign in", "url": "https://example.org/in"}
        assert urls.asked["page"]["params"] == params
        assert text_of(await urls.leg({"action": "accept"})) == "accept"
        assert (await Dialogue(server, "tooled", able={"sampling": {"tools": {}}}).leg())["result"]["inputRequests"]


# --- how a leg ends -------------------------------------------------------------------------------


@virtual
async def test_a_leg_that_asks_tidies_up_publishes_nothing_and_answers_also_if_it_will_not_let_go() -> None:
    notes: list[Any] = []
    service = Service("endings")

    @service.tool
    async def tidy(ctx: Context) -> str:
        try:
            return f"{(await ctx.elicit('?', str)).data}"
        finally:
            notes.append((ctx.cancelled, str(ctx.error)))

    @service.tool
    async def stubborn(ctx: Context) -> str:
        try:
            await ctx.elicit("?", str)
        except asyncio.CancelledError:
            notes.append("held on")
            await asyncio.sleep(1000.0)
        return "never heard"

    @service.tool
    async def clumsy(ctx: Context) -> str:
        try:
            await ctx.elicit("?", str)
        except asyncio.CancelledError:
            raise ToolError("something else") from None
        return ""

    async with serving(service, grace=5.0) as server:
        await Dialogue(server, "tidy").leg()
        assert notes == [(True, "the client is asked first: the call runs again with its answers")]
        for name in ("stubborn", "clumsy"):
            assert (await Dialogue(server, name).leg())["result"]["resultType"] == "input_required"
        assert asyncio.get_running_loop().time() < 30


@virtual
async def test_a_question_that_its_handler_withdraws_is_not_asked() -> None:
    service = Service("withdrawn")

    @service.tool
    async def hasty(ctx: Context) -> str:
        question = asyncio.ensure_future(ctx.elicit("?", str))
        await asyncio.sleep(0)
        question.cancel()
        await asyncio.sleep(1.0)
        return "without"

    @service.tool
    async def crowd(ctx: Context) -> str:
        async def one(number: int) -> str:
            try:
                return f"{(await ctx.elicit(f'{number}?', str)).data}"
            except LimitError as error:
                return error.limit

        return " ".join(await asyncio.gather(*(one(number) for number in range(3))))

    async with serving(service, max_asked=2) as server:
        assert text_of(await Dialogue(server, "hasty").leg()) == "without"
        call = Dialogue(server, "crowd")
        await call.leg()
        assert len(call.asked) == 2


@virtual
async def test_progress_may_come_before_a_question() -> None:
    service = Service("talking")

    @service.tool
    async def talk(ctx: Context) -> str:
        await ctx.progress(1, 2)
        return f"{(await ctx.elicit('?', str, key='q')).data}"

    async with serving(service) as server:
        call = Dialogue(server, "talk", progressToken="t")
        post = call.post()
        assert (await post.message("notifications/progress"))["params"]["progress"] == 1
        assert (await post.answer(1))["result"]["resultType"] == "input_required"


@virtual
async def test_a_client_that_leaves_while_it_is_asked_cancels_its_leg_and_no_more() -> None:
    notes: list[str] = []
    async with serving(asking(notes)) as server:
        call = Dialogue(server, "trip")
        post = call.post()
        post.leave()
        while server.endpoint.tasks.calls:
            await asyncio.sleep(0.01)
        await call.leg()
        assert (await call.leg(accept("ann")))["result"]["resultType"] == "input_required"
