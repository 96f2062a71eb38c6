"""A call with a key runs once (G1b): attached to, replayed, refused; in every era, and over a restart."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from tailrace import Context, LimitError, Service, ToolError
from tailrace.core.context import current
from tailrace.core.ledger import Ledger
from tailrace.core.ports import DropEntry
from tailrace.core.settings import Settings
from tailrace.errors import DefinitionError
from tailrace.mcp import Client
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    DISK_FULL,
    FakeExchange,
    LegacySession,
    SseSession,
    call,
    kill,
    modern_headers,
    modern_request,
    notification,
    send,
    serving,
    text_of,
)
from tests.rigs.workshop import errors

KEY = "io.tailrace/idempotencyKey"
BOTH = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]


class Till:
    """A service whose `pay` runs once a key; it waits for its gate, and every run is noted."""

    def __init__(self, **options: Any) -> None:
        self.runs: list[str] = []
        self.ended: list[str] = []
        self.contexts: list[Context] = []
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.service = service = Service("till")

        @service.tool(once=True, **options)
        async def pay(ctx: Context, item: str, sum: float = 1) -> str:
            self.runs.append(item)
            self.contexts.append(ctx)
            await ctx.progress(1, 2, f"paying {item}")
            await ctx.log("info", f"paying {item}")
            try:
                await self.gates[item].wait()
            except asyncio.CancelledError:
                self.ended.append(f"cancelled {item}")
                raise
            if item == "fake":
                raise ToolError("no such thing", {"item": item})
            if item == "bug":
                raise ValueError("a bug")
            await ctx.progress(2, 2)
            self.ended.append(item)
            return f"{item} {sum:g} #{len(self.runs)}"

        @service.tool(once=True)
        async def refund(item: str) -> str:
            self.runs.append(f"refund {item}")
            return "refunded"

        @service.tool(once="request_id")
        async def order(item: str, request_id: str | None = None) -> str:
            self.runs.append(item)
            return f"{item} #{len(self.runs)}"

        @service.tool(once=True)
        def stamp(item: str) -> str:
            self.runs.append(item)
            if item == "spawns":
                raise LimitError("detached", "too much")
            return f"stamped {item}"

        @service.tool(once=True, timeout=5.0)
        async def slow(item: str) -> str:
            self.runs.append(item)
            await asyncio.sleep(60)
            return item

    def open(self, *items: str) -> None:
        for item in items:
            self.gates[item].set()


def post(
    server: Server, id: int, tool: str, arguments: Any, key: str | None = None, *more: tuple[str, str], who: str = ""
) -> FakeExchange:
    """A modern call."""
    meta = {KEY: key} if key is not None else {}
    message = modern_request(id, "tools/call", {"name": tool, "arguments": arguments}, **meta)
    headers = [*modern_headers(message).items(), *more]
    return send(server, FakeExchange("POST", "/mcp", message, headers, principal=who))


def keyed(id: int, tool: str, arguments: Any, key: str, **meta: Any) -> Any:
    """A legacy call."""
    message = call(id, tool, arguments)
    message["params"]["_meta"] = {KEY: key, **meta}
    return message


def meta_of(answer: Any) -> dict[str, Any]:
    return answer["result"].get("_meta", {})


def replayed(answer: Any) -> bool:
    return meta_of(answer).get("io.tailrace/replayed", False)


def outcome(answer: Any) -> str | None:
    return meta_of(answer).get("io.tailrace/outcome")


# --- attached to, and replayed --------------------------------------------------------------------


@virtual
async def test_requests_with_one_key_are_one_run_and_each_gets_its_own_answer() -> None:
    till = Till()
    async with serving(till.service) as server:
        posts = [post(server, id, "pay", {"item": "tea"}, "k") for id in range(1, 51)]
        await turns()
        till.open("tea")
        answers = [await exchange.answer(id) for id, exchange in enumerate(posts, 1)]
        assert till.runs == ["tea"]
        assert [answer["id"] for answer in answers] == list(range(1, 51))
        assert {str(answer["result"]) for answer in answers} == {str(answers[0]["result"])}
        assert text_of(answers[0]) == "tea 1 #1"
        assert not replayed(answers[0])


@virtual
async def test_without_a_key_equal_calls_are_calls_of_their_own() -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service) as server:
        posts = [post(server, id, "pay", {"item": "tea"}) for id in range(1, 51)]
        texts = {text_of(await exchange.answer(id)) for id, exchange in enumerate(posts, 1)}
        assert len(till.runs) == 50
        assert len(texts) == 50


@virtual
async def test_what_has_ended_is_replayed_and_marked() -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service) as server:
        first = await post(server, 1, "pay", {"item": "tea"}, "k").answer(1)
        again = await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)
        assert till.runs == ["tea"]
        assert (replayed(first), replayed(again)) == (False, True)
        assert again["result"]["structuredContent"] == first["result"]["structuredContent"]
        assert again["result"]["resultType"] == "complete"
        assert "io.modelcontextprotocol/serverInfo" in meta_of(again)


@virtual
async def test_every_way_in_attaches_to_the_same_run_and_answers_in_its_own_words() -> None:
    till = Till()
    async with serving(till.service) as server:
        session, sse = await LegacySession(server).start(), await SseSession(server).start()
        modern = post(server, 1, "pay", {"item": "tea"}, "k")
        legacy = session.post(keyed(2, "pay", {"item": "tea"}, "k"))
        assert await sse.post(keyed(3, "pay", {"item": "tea"}, "k")).status_code() == 202
        await turns()
        till.open("tea")
        answers = [await modern.answer(1), await legacy.answer(2), await sse.stream.answer(3)]
        assert till.runs == ["tea"]
        assert {text_of(answer) for answer in answers} == {"tea 1 #1"}
        assert ["resultType" in answer["result"] for answer in answers] == [True, False, False]
        assert "_meta" not in answers[1]["result"]
        late = await session.post(keyed(4, "pay", {"item": "tea"}, "k")).answer(4)
        assert meta_of(late) == {"io.tailrace/replayed": True}


@virtual
async def test_everybody_attached_hears_of_progress_under_its_own_token() -> None:
    till = Till()
    async with serving(till.service) as server:
        session = await LegacySession(server).start()
        one = session.post(keyed(1, "pay", {"item": "tea"}, "k", progressToken="a"))
        two = session.post(keyed(2, "pay", {"item": "tea"}, "k", progressToken="b"))
        await turns()
        till.open("tea")
        await one.answer(1)
        await two.answer(2)
        heard = [
            [(m["params"]["progressToken"], m["params"]["progress"]) for m in x.messages if "progress" in str(m)]
            for x in (one, two)
        ]
        assert heard[0] == [("a", 1), ("a", 2)]
        assert heard[1][-1] == ("b", 2)
        assert one.messages[-1]["id"] == 1, "the answer is the last"


@virtual
async def test_stateless_requests_and_batches_attach_too() -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service, stateless=True) as server:
        batch = [keyed(1, "pay", {"item": "tea"}, "k"), keyed(2, "pay", {"item": "tea"}, "k")]
        exchange = send(server, FakeExchange("POST", "/mcp", batch, BOTH))
        answers = [await exchange.answer(1), await exchange.answer(2)]
        alone = await send(server, FakeExchange("POST", "/mcp", keyed(3, "pay", {"item": "tea"}, "k"), BOTH)).answer(3)
        assert till.runs == ["tea"]
        assert {text_of(answer) for answer in [*answers, alone]} == {"tea 1 #1"}


async def test_a_client_in_memory_gives_its_key() -> None:
    till = Till()
    till.open("tea")
    async with Client(till.service) as client:
        calls = (client.call_tool("pay", {"item": "tea"}, idempotency_key="k") for _ in range(5))
        results = await asyncio.gather(*calls)
        assert {result.data for result in results} == {"tea 1 #1"}
        assert till.runs == ["tea"]
        assert (await client.call_tool("pay", {"item": "tea"}, idempotency_key="k")).meta["io.tailrace/replayed"]


# --- keys -----------------------------------------------------------------------------------------


@virtual
async def test_the_key_may_be_an_argument_a_meta_entry_or_a_header() -> None:
    till = Till()
    async with serving(till.service) as server:
        header = ("idempotency-key", "k")
        posts = [
            post(server, 1, "order", {"item": "tea", "request_id": "k"}),
            post(server, 2, "order", {"item": "tea", "request_id": "k"}, "k", header),
            post(server, 3, "order", {"item": "tea", "request_id": "k"}, None, ("idempotency-key", '"k"')),
        ]
        assert {text_of(await exchange.answer(id)) for id, exchange in enumerate(posts, 1)} == {"tea #1"}
        assert text_of(await post(server, 4, "order", {"item": "tea"}, "m").answer(4)) == "tea #2"
        again = post(server, 5, "order", {"item": "tea"}, None, ("idempotency-key", "m"))
        assert text_of(await again.answer(5)) == "tea #2"
        null = {"item": "tea", "request_id": None}
        for id in (6, 7):
            await post(server, id, "order", null).answer(id)
        assert len(till.runs) == 4, "null is no key"


@pytest.mark.parametrize(
    ("arguments", "key", "headers", "text"),
    [
        ({"item": "tea", "request_id": "a"}, "b", (), "differ"),
        ({"item": "tea", "request_id": "a"}, None, ("b",), "differ"),
        ({"item": "tea"}, "a", ("b",), "differ"),
        ({"item": "tea", "request_id": ""}, None, (), "1 to 255 bytes"),
        ({"item": "tea"}, "", (), "1 to 255 bytes"),
        ({"item": "tea"}, None, ("",), "1 to 255 bytes"),
        ({"item": "tea"}, "x" * 256, (), "1 to 255 bytes"),
        ({"item": "tea"}, "ü" * 128, (), "1 to 255 bytes"),
    ],
)
@virtual
async def test_keys_that_differ_or_cannot_be_one_are_refused(
    arguments: Any, key: str | None, headers: tuple[str, ...], text: str
) -> None:
    till = Till()
    async with serving(till.service) as server:
        more = [("idempotency-key", value) for value in headers]
        exchange = post(server, 1, "order", arguments, key, *more)
        error = (await exchange.answer(1))["error"]
        assert (exchange.status, error["code"]) == (400, -32602)
        assert text in error["message"]
        assert till.runs == []


@virtual
async def test_the_longest_key_is_taken() -> None:
    till = Till()
    async with serving(till.service) as server:
        assert "result" in await post(server, 1, "order", {"item": "tea"}, "x" * 255).answer(1)


@virtual
async def test_a_header_names_no_member_of_a_batch() -> None:
    till = Till()
    async with serving(till.service, stateless=True) as server:
        headers = [*BOTH, ("idempotency-key", "k")]
        batch = [call(1, "refund", {"item": "a"}), call(2, "refund", {"item": "b"})]
        exchange = send(server, FakeExchange("POST", "/mcp", batch, headers))
        assert [(await exchange.answer(id))["error"]["code"] for id in (1, 2)] == [-32602, -32602]
        single = send(server, FakeExchange("POST", "/mcp", [call(3, "refund", {"item": "a"})], headers))
        assert text_of(await single.answer(3)) == "refunded"
        assert till.runs == ["refund a"]


@virtual
async def test_tools_that_do_not_run_once_take_no_notice_of_keys() -> None:
    service, runs = Service("plain"), list[int]()

    @service.tool
    async def add() -> int:
        runs.append(1)
        return len(runs)

    async with serving(service) as server:
        for id in (1, 2):
            await post(server, id, "add", {}, "k", ("idempotency-key", "other")).answer(id)
        assert len(runs) == 2


# --- the same key, another call -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("pay", {"item": "coffee", "sum": 12345678901234567890}),
        ("pay", {"item": "tea", "sum": 12345678901234567891}),
        ("pay", {"item": "tea", "sum": 1.2345678901234567e19}),
        ("pay", {"item": "tea"}),
        ("refund", {"item": "tea"}),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
@virtual
async def test_another_call_under_the_same_key_is_refused(tool: str, arguments: Any, ended: bool) -> None:
    till = Till()
    async with serving(till.service) as server:
        first = post(server, 1, "pay", {"item": "tea", "sum": 12345678901234567890}, "k")
        await turns()
        if ended:
            till.open("tea")
            await first.answer(1)
        exchange = post(server, 2, tool, arguments, "k")
        error = (await exchange.answer(2))["error"]
        assert (exchange.status, error["code"]) == (400, -32602)
        assert "another tool, or with other arguments" in error["message"]
        assert till.runs == ["tea"]


@pytest.mark.parametrize(
    "spelling",
    [
        b'{"sum": 2, "item": "tea"}',
        b'{"item":"\\u0074ea","sum":2.0}',
        b'{ "item" : "tea", "sum" : 2e0 }',
    ],
)
@virtual
async def test_arguments_are_compared_by_what_they_say(spelling: bytes) -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service) as server:
        await post(server, 1, "pay", {"item": "tea", "sum": 2}, "k").answer(1)
        message = modern_request(2, "tools/call", {"name": "pay", "arguments": "HERE"}, **{KEY: "k"})
        headers = list(modern_headers(message).items())
        exchange = FakeExchange("POST", "/mcp", message, headers)
        exchange.body = exchange.body.replace(b'"HERE"', spelling)
        assert replayed(await send(server, exchange).answer(2))


@virtual
async def test_two_other_calls_that_race_for_one_key_are_not_one() -> None:
    till = Till()
    till.open("tea", "coffee")
    async with serving(till.service) as server:
        posts = [post(server, 1, "pay", {"item": "tea"}, "k"), post(server, 2, "pay", {"item": "coffee"}, "k")]
        answers = [await exchange.answer(id) for id, exchange in enumerate(posts, 1)]
        assert till.runs == ["tea"]
        assert answers[1]["error"]["code"] == -32602


@virtual
async def test_a_key_is_its_principals() -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service) as server:
        ann = await post(server, 1, "pay", {"item": "tea"}, "k", who="ann").answer(1)
        bob = await post(server, 2, "pay", {"item": "tea"}, "k", who="bob").answer(2)
        other = await post(server, 3, "refund", {"item": "tea"}, "k", who="carl").answer(3)
        assert [text_of(answer) for answer in (ann, bob)] == ["tea 1 #1", "tea 1 #2"]
        assert "result" in other
        session = await LegacySession(server, principal="ann").start()
        assert replayed(await session.post(keyed(4, "pay", {"item": "tea"}, "k")).answer(4))


# --- failures are answers -------------------------------------------------------------------------


@pytest.mark.parametrize("item", ["fake", "bug"])
@virtual
async def test_a_failure_is_an_answer_and_is_replayed(item: str, caplog: pytest.LogCaptureFixture) -> None:
    till = Till()
    till.open(item)
    async with serving(till.service) as server:
        first = await post(server, 1, "pay", {"item": item}, "k").answer(1)
        again = await post(server, 2, "pay", {"item": item}, "k").answer(2)
        assert first["result"]["isError"]
        assert text_of(again) == text_of(first)
        assert again["result"].get("structuredContent") == first["result"].get("structuredContent")
        assert replayed(again)
        assert till.runs == [item]
        assert len(errors(caplog)) == (item == "bug")


@virtual
async def test_arguments_that_never_reach_the_tool_leave_the_key_free() -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service) as server:
        wrong = await post(server, 1, "pay", {"item": 7}, "k").answer(1)
        assert wrong["result"]["isError"]
        right = await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)
        assert text_of(right) == "tea 1 #1"
        assert not replayed(right)


@virtual
async def test_a_call_that_took_too_long_is_not_begun_again() -> None:
    till = Till()
    async with serving(till.service) as server:
        first = await post(server, 1, "slow", {"item": "tea"}, "k").answer(1)
        again = await post(server, 2, "slow", {"item": "tea"}, "k").answer(2)
        assert "did not end within 5 s" in text_of(first)
        assert text_of(again) == text_of(first)
        assert till.runs == ["tea"]


async def test_a_plain_function_runs_once_in_its_thread() -> None:
    till = Till()
    async with serving(till.service) as server:
        posts = [post(server, id, "stamp", {"item": "tea"}, "k") for id in range(1, 6)]
        assert {text_of(await x.answer(id)) for id, x in enumerate(posts, 1)} == {"stamped tea"}
        assert till.runs == ["tea"]
        for id in (6, 7):  # a limit that its own code ran into: by then it had begun
            error = (await post(server, id, "stamp", {"item": "spawns"}, "s").answer(id))["error"]
            assert error["data"] == {"limit": "detached"}
        assert till.runs == ["tea", "spawns"]


async def test_a_function_for_which_there_is_no_thread_has_not_begun_and_its_key_is_free() -> None:
    till = Till()
    async with serving(till.service) as server:
        full = LimitError("threads", "all threads are busy")
        run, server.tasks.threads.run = server.tasks.threads.run, _failing(full)  # type: ignore[method-assign]
        error = (await post(server, 1, "stamp", {"item": "tea"}, "k").answer(1))["error"]
        assert error["data"] == {"limit": "threads"}
        server.tasks.threads.run = run  # type: ignore[method-assign]
        assert text_of(await post(server, 2, "stamp", {"item": "tea"}, "k").answer(2)) == "stamped tea"
        assert till.runs == ["tea"]


def _failing(error: Exception) -> Callable[..., Any]:
    async def run(fn: Any) -> Any:
        raise error

    return run


# --- full -----------------------------------------------------------------------------------------


@virtual
async def test_a_full_ledger_refuses_new_keys_in_every_way_in() -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service, max_once=1) as server:
        session, sse = await LegacySession(server).start(), await SseSession(server).start()
        await post(server, 1, "pay", {"item": "tea"}, "k").answer(1)
        refused = [
            post(server, 2, "pay", {"item": "tea"}, "new"),
            session.post(keyed(2, "pay", {"item": "tea"}, "new")),
            sse.post(keyed(2, "pay", {"item": "tea"}, "new")),
        ]
        for exchange in refused:
            assert await exchange.status_code() == 503
            error = (await exchange.json())["error"]
            assert (error["code"], error["data"]) == (-32000, {"limit": "ledger"})
            assert exchange.headers["retry-after"]
        assert replayed(await post(server, 3, "pay", {"item": "tea"}, "k").answer(3)), "nothing old was forgotten"
        assert text_of(await post(server, 4, "pay", {"item": "tea"}).answer(4)) == "tea 1 #2"
        assert till.runs == ["tea", "tea"]


@virtual
async def test_a_run_takes_a_place_among_the_calls_and_one_too_many_leaves_its_key_free() -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service, max_calls=1) as server:
        error = (await post(server, 1, "pay", {"item": "tea"}, "k").answer(1))["error"]
        assert error["data"] == {"limit": "calls"}
        assert len(server.endpoint.once.ledger) == 0
        assert till.runs == []


@virtual
async def test_statistics_count_the_keys() -> None:
    till = Till()
    till.open("tea")
    async with serving(till.service) as server:
        await post(server, 1, "pay", {"item": "tea"}, "k").answer(1)
        assert server.statistics()["calls"]["keys"] == 1


# --- connections, cancellations, sessions -----------------------------------------------------------


@virtual
async def test_over_modern_http_a_disconnect_ends_nothing_and_the_handler_is_told() -> None:
    till = Till()
    async with serving(till.service) as server:
        first = post(server, 1, "pay", {"item": "tea"}, "k")
        await turns()
        first.disconnect()
        await turns()
        [context] = till.contexts
        assert context.cancelled
        await asyncio.wait_for(context.wait_cancelled(), 1)
        again = post(server, 2, "pay", {"item": "tea"}, "k")
        await turns()
        till.open("tea")
        answer = await again.answer(2)
        assert text_of(answer) == "tea 1 #1"
        assert not replayed(answer)
        assert (till.runs, till.ended) == (["tea"], ["tea"])
        assert not first.replied


@virtual
async def test_an_answer_that_nobody_waited_for_is_replayed() -> None:
    till = Till()
    async with serving(till.service) as server:
        first = post(server, 1, "pay", {"item": "tea"}, "k")
        await turns()
        first.disconnect()
        till.open("tea")
        await turns()
        assert till.ended == ["tea"]
        assert replayed(await post(server, 2, "pay", {"item": "tea"}, "k").answer(2))


@virtual
async def test_a_timeout_still_ends_what_nobody_waits_for() -> None:
    till = Till()
    async with serving(till.service) as server:
        first = post(server, 1, "slow", {"item": "tea"}, "k")
        await turns()
        first.disconnect()
        await asyncio.sleep(6)
        assert not server.tasks.calls
        assert "did not end within 5 s" in text_of(await post(server, 2, "slow", {"item": "tea"}, "k").answer(2))


@virtual
async def test_a_handler_is_not_told_of_one_that_left_while_others_wait() -> None:
    till = Till()
    async with serving(till.service) as server:
        first, second = (post(server, id, "pay", {"item": "tea"}, "k") for id in (1, 2))
        await turns()
        first.disconnect()
        await turns()
        assert not till.contexts[0].cancelled
        till.open("tea")
        assert text_of(await second.answer(2)) == "tea 1 #1"


@virtual
async def test_a_legacy_client_that_cancels_ends_the_run_and_its_outcome_is_unknown() -> None:
    till = Till()
    async with serving(till.service) as server:
        session = await LegacySession(server).start()
        session.post(keyed(1, "pay", {"item": "tea"}, "k"))
        await turns()
        session.cancel(1)
        await turns()
        assert till.ended == ["cancelled tea"]
        again = await session.post(keyed(2, "pay", {"item": "tea"}, "k")).answer(2)
        assert again["result"]["isError"]
        assert outcome(again) == "unknown"
        assert replayed(again)
        assert "whether it took effect is unknown" in text_of(again)
        assert till.runs == ["tea"]


@virtual
async def test_one_who_cancels_takes_nothing_from_another_who_waits() -> None:
    till = Till()
    async with serving(till.service) as server:
        one, two = await LegacySession(server).start(), await LegacySession(server).start()
        one.post(keyed(1, "pay", {"item": "tea"}, "k"))
        other = two.post(keyed(1, "pay", {"item": "tea"}, "k"))
        await turns()
        one.cancel(1)
        await turns()
        till.open("tea")
        assert text_of(await other.answer(1)) == "tea 1 #1"
        assert till.ended == ["tea"]


@virtual
async def test_one_who_went_away_from_a_modern_exchange_may_come_back_though_another_cancels() -> None:
    till = Till()
    async with serving(till.service) as server:
        gone = post(server, 1, "pay", {"item": "tea"}, "k")
        session = await LegacySession(server).start()
        session.post(keyed(1, "pay", {"item": "tea"}, "k"))
        await turns()
        gone.disconnect()
        session.cancel(1)
        await turns()
        till.open("tea")
        assert text_of(await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)) == "tea 1 #1"


@virtual
async def test_a_cancelled_handler_that_answers_all_the_same_has_a_known_outcome() -> None:
    service = Service("stubborn")

    @service.tool(once=True)
    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done all the same"
        return "done"

    async with serving(service) as server:
        session = await LegacySession(server).start()
        session.post(keyed(1, "work", {}, "k"))
        await turns()
        session.cancel(1)
        await turns()
        answer = await session.post(keyed(2, "work", {}, "k")).answer(2)
        assert text_of(answer) == "done all the same"


@virtual
async def test_a_session_that_ends_ends_its_run() -> None:
    till = Till()
    async with serving(till.service) as server:
        session = await LegacySession(server).start()
        exchange = session.post(keyed(1, "pay", {"item": "tea"}, "k"))
        await turns()
        assert await session.delete().status_code() == 200
        assert (await exchange.answer(1))["error"]["code"] == -32000
        await turns()
        assert till.ended == ["cancelled tea"]
        assert not server.tasks.calls


@virtual
async def test_a_request_that_is_cancelled_before_its_run_began_leaves_the_key_free() -> None:
    till = Till()
    till.open("tea")
    store = MemoryStore()
    async with serving(till.service, store) as server:
        session = await LegacySession(server).start()
        session.post(keyed(1, "pay", {"item": "tea"}, "k"))
        while not server.endpoint.once.ledger:
            await asyncio.sleep(0)
        session.cancel(1)  # its entry is not committed yet
        await turns()
        assert till.runs == []
        assert text_of(await session.post(keyed(2, "pay", {"item": "tea"}, "k")).answer(2)) == "tea 1 #1"


@virtual
async def test_the_handler_has_the_session_of_the_first_who_asked_and_its_values() -> None:
    service = Service("looks")
    seen: list[Any] = []

    @service.tool(once=True)
    async def look(ctx: Context) -> str:
        assert current() is ctx
        seen.append((ctx.session and ctx.session.id, ctx.request_id, ctx.correlation_id))
        return "seen"

    async with serving(service) as server:
        session = await LegacySession(server).start()
        trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        await session.post(keyed(7, "look", {}, "k", traceparent=trace)).answer(7)
        await post(server, 8, "look", {}, "m", ("traceparent", trace.replace("a", "c"))).answer(8)
        assert seen == [(session.id, 7, "a" * 32), (None, 8, "c" * 32)]


# --- a failing store --------------------------------------------------------------------------------


@virtual
async def test_a_claim_that_cannot_be_committed_runs_nothing() -> None:
    till = Till()
    till.open("tea")
    store = MemoryStore(durable=True)
    async with serving(till.service, store) as server:
        store.fail_commits(DISK_FULL)
        error = (await post(server, 1, "pay", {"item": "tea"}, "k").answer(1))["error"]
        assert error["code"] == -32603
        assert error["data"] == {"retry": True}, "our client asks again then"
        assert till.runs == []
        store.fail_commits(None)
        assert text_of(await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)) == "tea 1 #1"
        assert not server.tasks.calls


@virtual
async def test_an_answer_that_cannot_be_committed_is_given() -> None:
    till = Till()
    store = MemoryStore(durable=True)
    async with serving(till.service, store) as server:
        first = post(server, 1, "pay", {"item": "tea"}, "k")
        await turns()
        store.fail_commits(DISK_FULL)
        till.open("tea")
        assert text_of(await first.answer(1)) == "tea 1 #1"
        assert replayed(await post(server, 2, "pay", {"item": "tea"}, "k").answer(2))
        store.fail_commits(None)


@virtual
async def test_an_answer_that_could_not_be_committed_is_committed_later_and_outlives_a_crash() -> None:
    till, store = Till(), MemoryStore(durable=True)
    server = Server(till.service, Settings(drain=0.0), store)
    await server.start()
    first = post(server, 1, "pay", {"item": "tea"}, "k")
    await turns()
    store.fail_commits(DISK_FULL)
    till.open("tea")
    await first.answer(1)
    store.fail_commits(None)
    await asyncio.sleep(10)
    await kill(server, store)
    async with serving(till.service, store) as server:
        answer = await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)
        assert (text_of(answer), outcome(answer), replayed(answer)) == ("tea 1 #1", None, True)


# --- another process life -------------------------------------------------------------------------


@virtual
async def test_the_entry_is_committed_before_the_handler_begins_and_the_answer_before_it_is_sent() -> None:
    till = Till()
    store = MemoryStore(durable=True)
    async with serving(till.service, store) as server:
        exchange = post(server, 1, "pay", {"item": "tea"}, "k")
        while not till.runs:
            await asyncio.sleep(0)
        [head] = await store.entries("once")
        till.open("tea")
        while not till.ended:
            await asyncio.sleep(0)
        while not exchange.replied:
            stored = [entry.key[:2] for entry in await store.entries("once")]
            await asyncio.sleep(0)
        assert stored == ["a:", "h:"]
        assert head.key.startswith("h:")


@pytest.mark.parametrize("way", ["modern", "legacy", "sse"])
@virtual
async def test_an_answer_is_replayed_by_the_next_process(way: str) -> None:
    till, store = Till(), MemoryStore(durable=True)
    till.open("tea")
    async with serving(till.service, store) as server:
        await post(server, 1, "pay", {"item": "tea"}, "k").answer(1)
    async with serving(till.service, store) as server:
        if way == "modern":
            answer = await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)
        elif way == "legacy":
            answer = await (await LegacySession(server).start()).post(keyed(2, "pay", {"item": "tea"}, "k")).answer(2)
        else:
            sse = await SseSession(server).start()
            sse.post(keyed(2, "pay", {"item": "tea"}, "k"))
            answer = await sse.stream.answer(2)
        assert text_of(answer) == "tea 1 #1"
        assert replayed(answer)
        assert till.runs == ["tea"]


async def crashed(till: Till, store: MemoryStore, ask: Callable[[Server], Any]) -> Any:
    """A process life that is killed while a run goes on."""
    server = Server(till.service, Settings(drain=0.0), store)
    await server.start()
    asked = ask(server)
    if asyncio.iscoroutine(asked):
        asked = await asked
    await turns()
    await asyncio.sleep(1)
    await kill(server, store)
    return asked


@virtual
async def test_a_run_that_was_killed_is_unknown_and_never_begun_again() -> None:
    till, store = Till(), MemoryStore(durable=True)
    await crashed(till, store, lambda server: post(server, 1, "pay", {"item": "tea"}, "k"))
    assert till.runs == ["tea"]
    for id in (2, 3):  # the second time in yet another life
        async with serving(till.service, store) as server:
            answer = await post(server, id, "pay", {"item": "tea"}, "k").answer(id)
            assert answer["result"]["isError"]
            assert (outcome(answer), replayed(answer)) == ("unknown", True)
            assert "whether it took effect is unknown" in text_of(answer)
            assert "error" in await post(server, 9, "pay", {"item": "coffee"}, "k").answer(9)
    assert till.runs == ["tea"]


@virtual
async def test_a_run_that_was_killed_runs_again_once_if_its_tool_allows_it() -> None:
    till, store = Till(on_crash="rerun"), MemoryStore(durable=True)
    await crashed(till, store, lambda server: post(server, 1, "pay", {"item": "tea"}, "k"))
    async with serving(till.service, store) as server:
        again = post(server, 2, "pay", {"item": "tea"}, "k")
        await turns()
        assert till.runs == ["tea", "tea"]
        till.open("tea")
        assert text_of(await again.answer(2)) == "tea 1 #2"
    async with serving(till.service, store) as server:
        answer = await post(server, 3, "pay", {"item": "tea"}, "k").answer(3)
        assert text_of(answer) == "tea 1 #2"
        assert till.runs == ["tea", "tea"]


@virtual
async def test_a_run_that_is_killed_twice_is_unknown() -> None:
    till, store = Till(on_crash="rerun"), MemoryStore(durable=True)
    await crashed(till, store, lambda server: post(server, 1, "pay", {"item": "tea"}, "k"))
    await crashed(till, store, lambda server: None)
    assert till.runs == ["tea", "tea"]
    async with serving(till.service, store) as server:
        assert outcome(await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)) == "unknown"
    assert till.runs == ["tea", "tea"]


@virtual
async def test_a_run_is_not_run_again_where_its_tool_is_gone_or_there_is_no_room() -> None:
    till, store = Till(on_crash="rerun"), MemoryStore(durable=True)
    await crashed(till, store, lambda server: post(server, 1, "pay", {"item": "tea"}, "k"))
    async with serving(till.service, store, max_calls=0) as server:
        assert len(server.endpoint.once.ledger) == 1
    async with serving(till.service, store) as server:
        assert outcome(await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)) == "unknown"
    other = Service("other")
    await crashed(till, store, lambda server: post(server, 1, "pay", {"item": "tea"}, "m"))
    async with serving(other, store):
        pass
    async with serving(till.service, store) as server:
        assert outcome(await post(server, 2, "pay", {"item": "tea"}, "m").answer(2)) == "unknown"


@virtual
async def test_a_shutdown_leaves_what_it_interrupts_to_the_next_life() -> None:
    till, store = Till(), MemoryStore(durable=True)
    async with serving(till.service, store) as server:
        exchange = post(server, 1, "pay", {"item": "tea"}, "k")
        await turns()
    answer = await exchange.answer(1)
    assert answer["error"]["code"] == -32000
    assert "shutting down" in answer["error"]["message"]
    assert till.ended == ["cancelled tea"]
    async with serving(till.service, store) as server:
        assert outcome(await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)) == "unknown"
        assert till.runs == ["tea"]


@virtual
async def test_what_may_run_again_is_left_to_the_next_life_by_a_shutdown() -> None:
    till, store = Till(on_crash="rerun"), MemoryStore(durable=True)
    async with serving(till.service, store) as server:
        post(server, 1, "pay", {"item": "tea"}, "k")
        await turns()
    till.open("tea")
    async with serving(till.service, store) as server:
        assert text_of(await post(server, 2, "pay", {"item": "tea"}, "k").answer(2)) == "tea 1 #2"


async def ask_over_sse(server: Server) -> SseSession:
    session = await SseSession(server).start()
    assert await session.post(keyed(1, "pay", {"item": "tea"}, "k")).status_code() == 202
    return session


@virtual
async def test_a_legacy_request_that_a_crash_interrupted_gets_the_outcome_of_its_key() -> None:
    till, store = Till(), MemoryStore(durable=True)
    session = await crashed(till, store, ask_over_sse)
    async with serving(till.service, store) as server:
        again = SseSession(server)
        await again.open(session.stream.last_id)
        answer = await again.stream.answer(1)
        assert outcome(answer) == "unknown"
        assert till.runs == ["tea"]


@virtual
async def test_a_legacy_request_whose_run_had_ended_gets_its_answer() -> None:
    """The crash came between the answer's commit in the ledger, and its event in the stream."""
    till, store = Till(), MemoryStore(durable=True)
    session = await crashed(till, store, ask_over_sse)
    await _settle_as_answered(store)
    async with serving(till.service, store) as server:
        again = SseSession(server)
        await again.open(session.stream.last_id)
        answer = await again.stream.answer(1)
        assert text_of(answer) == "from before"
        assert not replayed(answer), "to this request it is the first answer"
        assert till.runs == ["tea"]


async def _settle_as_answered(store: MemoryStore) -> None:
    await store.open()

    def write(records: Any, then: Any) -> None:
        store.when(store.write(records), then or (lambda error: None))

    ledger = Ledger(store, write)
    [orphan] = await ledger.load()
    ledger.finish(orphan.entry, b'r{"content":[{"type":"text","text":"from before"}]}')
    await store.close()


@virtual
async def test_a_legacy_request_that_had_not_claimed_its_key_begins_now() -> None:
    till, store = Till(), MemoryStore(durable=True)
    session = await crashed(till, store, ask_over_sse)
    await store.open()
    for entry in await store.entries("once"):
        store.write([DropEntry("once", entry.key)])
    await store.close()
    till.open("tea")
    async with serving(till.service, store) as server:
        again = SseSession(server)
        await again.open(session.stream.last_id)
        assert text_of(await again.stream.answer(1)) == "tea 1 #2"


@virtual
async def test_a_legacy_request_that_is_older_than_the_ledgers_memory_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    till, store = Till(), MemoryStore(durable=True)
    session = await crashed(till, store, ask_over_sse)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 90_000)
    till.open("tea")
    async with serving(till.service, store) as server:
        again = SseSession(server)
        await again.open(session.stream.last_id)
        answer = await again.stream.answer(1)
        assert outcome(answer) == "unknown"
        assert till.runs == ["tea"]


# --- stdio ------------------------------------------------------------------------------------------


@virtual
async def test_a_cancelled_notice_over_one_pipe_ends_the_run_also_of_the_modern_era() -> None:
    till = Till()
    async with serving(till.service) as server:
        conversation = server.converse()
        message = modern_request(1, "tools/call", {"name": "pay", "arguments": {"item": "tea"}}, **{KEY: "k"})
        conversation.receive(_line(message))
        await turns()
        conversation.receive(_line(notification("notifications/cancelled", {"requestId": 1})))
        await turns()
        assert till.ended == ["cancelled tea"]


@virtual
async def test_the_end_of_input_ends_the_run_in_time() -> None:
    till = Till()

    async def lines() -> Any:
        message = modern_request(1, "tools/call", {"name": "pay", "arguments": {"item": "tea"}}, **{KEY: "k"})
        yield _line(message)
        await turns()

    async with serving(till.service, drain=25.0) as server:
        sink = FakeExchange("GET", "/").sink
        before = asyncio.get_running_loop().time()
        await server.converse().run(lines(), sink)
        await server.stop()
        assert asyncio.get_running_loop().time() - before < 5
        assert till.ended == ["cancelled tea"]


def _line(message: Any) -> bytes:
    return json.dumps(message).encode()


# --- definitions --------------------------------------------------------------------------------------


def test_a_list_tells_which_tools_run_once() -> None:
    tools = Till().service.tools
    assert b'"_meta":{"io.tailrace/once":true}' in tools["pay"].definition
    assert b'"_meta":{"io.tailrace/once":"request_id"}' in tools["order"].definition


@pytest.mark.parametrize("name", ["nothing", "qty", ""])
def test_a_key_argument_must_be_a_text_that_is_there(name: str) -> None:
    with pytest.raises(DefinitionError, match="once="):

        @Service("x").tool(once=name)
        async def work(request_id: str, qty: int) -> str:
            return ""
