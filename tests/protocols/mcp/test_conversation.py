"""stdio's conversation: lines in, lines out, both eras on one pipe, and an orderly end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import (
    MODERN,
    RecordingSink,
    call,
    initialize,
    is_answer,
    modern_request,
    notification,
    request,
    serving,
    text_of,
)
from tests.rigs.workshop import Workshop, errors

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
UNSUPPORTED_VERSION = -32022


class Pipes:
    """The client's ends of both pipes."""

    def __init__(self) -> None:
        self.sink = RecordingSink()
        self.taken = 0  # lines that the server took
        self._lines: asyncio.Queue[Any] = asyncio.Queue()

    async def lines(self) -> AsyncIterator[Any]:
        while (line := await self._lines.get()) is not None:
            self.taken += 1
            yield line

    def say(self, message: Any) -> None:
        self._lines.put_nowait(message if isinstance(message, bytes) else json.dumps(message).encode())

    def say_overlong(self) -> None:
        self._lines.put_nowait(object())

    def close(self) -> None:
        self._lines.put_nowait(None)

    @property
    def heard(self) -> list[Any]:
        assert self.sink.written == b"" or self.sink.written.endswith(b"\n")
        return [json.loads(line) for line in self.sink.written.splitlines()]

    async def hear(self, wanted: Callable[[Any], bool]) -> Any:
        while True:
            for message in self.heard:
                if wanted(message):
                    return message
            self.sink.changed.clear()
            await self.sink.changed.wait()

    async def answer(self, id: int | str) -> Any:
        return await self.hear(lambda message: is_answer(message, id))

    async def ask(self, message: Any) -> Any:
        self.say(message)
        return await self.answer(message["id"])

    async def initialize(self, version: str = "2025-11-25") -> None:
        await self.ask(initialize(version))
        self.say(notification("notifications/initialized"))


@asynccontextmanager
async def conversing(
    service: Service | None = None, **settings: Any
) -> AsyncIterator[tuple[Pipes, asyncio.Task[None]]]:
    async with serving(service or Workshop().service, **settings) as server:
        pipes = Pipes()
        running = asyncio.ensure_future(server.converse().run(pipes.lines(), pipes.sink))
        yield pipes, running
        pipes.close()
        await running


# --- both eras ------------------------------------------------------------------------------------


@virtual
async def test_a_legacy_conversation_and_modern_requests_share_one_process() -> None:
    shop = Workshop()

    @shop.service.tool
    async def has_session(ctx: Context) -> bool:
        return ctx.session is not None

    async with conversing(shop.service) as (pipes, _):
        modern = await pipes.ask(modern_request("m1", "tools/call", {"name": "has_session"}))
        assert modern["result"]["resultType"] == "complete"
        assert modern["result"]["structuredContent"] == {"result": False}, "no session, although the pipe has one"
        await pipes.initialize()
        legacy = await pipes.ask(call(1, "has_session"))
        assert legacy["result"]["structuredContent"] == {"result": True}
        assert "resultType" not in legacy["result"]
        modern = await pipes.ask(modern_request("m2", "server/discover"))
        assert modern["result"]["supportedVersions"] == [MODERN]
    assert shop.seen == ["register", "unregister"]


@virtual
async def test_a_process_that_was_never_initialized_calls_no_hook() -> None:
    shop = Workshop()
    async with conversing(shop.service) as (pipes, _):
        await pipes.ask(modern_request(1, "tools/list"))
    assert shop.seen == []


@virtual
async def test_modern_requests_are_checked_without_headers() -> None:
    async with conversing() as (pipes, _):
        for id, message, code in (
            (1, request(1, "server/discover"), INVALID_PARAMS),
            (2, modern_request(2, "tools/list", clientCapabilities=None), INVALID_PARAMS),
            (3, modern_request(3, "tools/list", protocolVersion="2099-01-01"), UNSUPPORTED_VERSION),
            (4, modern_request(4, "ping"), METHOD_NOT_FOUND),
            (5, call(5, "echo", {"text": "a"}), INVALID_REQUEST),
        ):
            pipes.say(message)
            assert (await pipes.answer(id))["error"]["code"] == code


@virtual
@pytest.mark.parametrize("method", ["initialize", "logging/setLevel", "ping"])
async def test_a_method_that_the_modern_era_removed_is_unknown_to_a_modern_request(method: str) -> None:
    async with conversing() as (pipes, _):
        assert (await pipes.ask(modern_request("m", method)))["error"]["code"] == METHOD_NOT_FOUND


@virtual
async def test_initialize_twice_is_refused() -> None:
    async with conversing() as (pipes, _):
        await pipes.initialize()
        assert (await pipes.ask(initialize("2025-11-25", "again")))["error"]["code"] == INVALID_REQUEST


@virtual
async def test_progress_comes_before_its_answer_and_calls_run_side_by_side() -> None:
    shop = Workshop()
    async with conversing(shop.service) as (pipes, _):
        await pipes.initialize()
        pipes.say(call(1, "work", {"key": "a", "progress": 2}, progress="t"))
        assert text_of(await pipes.ask(call(2, "echo", {"text": "quick"}))) == "quick"
        shop.open("a")
        await pipes.answer(1)
        mine = [message for message in pipes.heard if message.get("id") == 1 or "method" in message]
        assert [message.get("method") for message in mine] == ["notifications/progress"] * 2 + [None]


# --- ids ------------------------------------------------------------------------------------------


@virtual
async def test_an_id_in_flight_is_refused_without_disturbing_the_first() -> None:
    shop = Workshop()
    async with conversing(shop.service) as (pipes, _):
        await pipes.initialize()
        pipes.say(call(1, "work", {"key": "a"}))
        pipes.say(call(1, "work", {"key": "b"}))
        refused = await pipes.hear(lambda message: "error" in message)
        assert refused["error"]["code"] == INVALID_REQUEST
        assert refused.get("id") is None
        shop.open("a")
        assert text_of(await pipes.answer(1)) == "a"
        assert "begin b" not in shop.seen


@virtual
async def test_cancelled_ends_the_call_without_an_answer() -> None:
    shop = Workshop()
    async with conversing(shop.service) as (pipes, _):
        await pipes.initialize()
        pipes.say(call(1, "work", {"key": "a"}))
        pipes.say(modern_request(2, "tools/call", {"name": "work", "arguments": {"key": "b"}}))
        await turns()
        for id in (1, 2):
            pipes.say(notification("notifications/cancelled", {"requestId": id}))
        await turns()
        assert shop.seen[-2:] == ["cancelled a", "cancelled b"]
        await pipes.ask(request(3, "ping"))
        assert {message.get("id") for message in pipes.heard} == {"init", 3}


# --- broken lines and batches ---------------------------------------------------------------------


@virtual
async def test_broken_lines_are_answered_and_the_conversation_goes_on() -> None:
    async with conversing(max_body=1000) as (pipes, _):
        for line in (b"{", b"\xff", b"[]", b'{"jsonrpc":"2.0","id":5}'):
            pipes.say(line)
        pipes.say_overlong()
        assert (await pipes.ask(request(1, "ping")))["result"] == {}
        failures = [message for message in pipes.heard if "error" in message]
        assert [one["error"]["code"] for one in failures] == [PARSE_ERROR] * 2 + [INVALID_REQUEST] * 3
        assert failures[3]["id"] == 5
        assert "1000 bytes" in failures[4]["error"]["message"]


@virtual
async def test_batches_belong_to_2025_03_26_and_are_answered_one_by_one() -> None:
    async with conversing() as (pipes, _):
        batch = [call(1, "echo", {"text": "a"}), request(2, "ping"), notification("notifications/whatever")]
        pipes.say(batch)
        refused = await pipes.hear(lambda message: "error" in message)
        assert refused["error"]["code"] == INVALID_REQUEST
        await pipes.initialize("2025-03-26")
        pipes.say(batch)
        assert text_of(await pipes.answer(1)) == "a"
        assert (await pipes.answer(2))["result"] == {}
        assert all(isinstance(message, dict) for message in pipes.heard)


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_batches_are_refused_in_later_versions(version: str) -> None:
    @virtual
    async def run() -> None:
        async with conversing() as (pipes, _):
            await pipes.initialize(version)
            pipes.say([request(1, "ping")])
            assert version in (await pipes.hear(lambda message: "error" in message))["error"]["message"]

    run()


@virtual
async def test_responses_are_ignored() -> None:
    async with conversing() as (pipes, _):
        pipes.say({"jsonrpc": "2.0", "id": 1, "result": {}})
        await pipes.ask(request(2, "ping"))
        assert len(pipes.heard) == 1


# --- the end --------------------------------------------------------------------------------------


@virtual
async def test_calls_that_end_soon_after_the_end_of_input_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    shop = Workshop()
    async with conversing(shop.service, eof_drain=1.5) as (pipes, running):
        await pipes.initialize()
        pipes.say(call(1, "work", {"key": "a"}))
        pipes.say(call(2, "work", {"key": "b"}))
        await turns()
        pipes.close()
        await asyncio.sleep(1)
        assert not running.done()
        shop.open("a")
        await running
        assert text_of(await pipes.answer(1)) == "a"
        assert "error" in await pipes.answer(2)
        assert pipes.sink.ended
    assert shop.seen[-3:] == ["end a", "cancelled b", "unregister"]
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "1 calls cancelled" in warning
    assert "work" in warning
    assert errors(caplog) == []


@virtual
async def test_the_end_of_input_ends_an_idle_conversation_at_once() -> None:
    async with conversing() as (pipes, running):
        await pipes.initialize()
        begin = asyncio.get_running_loop().time()
        pipes.close()
        await running
        assert asyncio.get_running_loop().time() == begin
        assert pipes.sink.ended


@virtual
async def test_a_dead_output_ends_the_conversation_and_its_calls() -> None:
    shop = Workshop()
    async with conversing(shop.service) as (pipes, running):
        await pipes.initialize()
        pipes.say(call(1, "work", {"key": "a"}))
        await turns()
        pipes.sink.broken = True
        pipes.say(request(2, "ping"))
        await running
        assert "cancelled a" in shop.seen
        assert shop.seen[-1] == "unregister"


@virtual
async def test_an_output_that_is_never_read_does_not_hold_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with conversing(eof_drain=1.5) as (pipes, running):
        await pipes.initialize()
        pipes.sink.open.clear()
        pipes.say(request(1, "ping"))
        await turns()
        begin = asyncio.get_running_loop().time()
        pipes.close()
        await running
        assert asyncio.get_running_loop().time() - begin < 5


@virtual
async def test_closing_the_session_ends_the_conversation() -> None:
    shop = Workshop()
    async with conversing(shop.service) as (pipes, running):
        await pipes.initialize()
        await turns()
        shop.sessions[0].close("enough")
        await running
        assert pipes.sink.ended


@virtual
async def test_nothing_more_is_read_while_too_many_answers_are_unwritten() -> None:
    async with conversing(unwritten=100_000) as (pipes, _):
        await pipes.initialize()
        await turns()
        pipes.sink.open.clear()
        before = pipes.taken
        for id in range(100):
            pipes.say(call(id, "echo", {"text": "x" * 5_000}))
            await turns()
        taken = pipes.taken - before
        assert 5 < taken < 60
        assert pipes.taken - before == taken
        pipes.sink.open.set()
        await pipes.answer(99)
        assert len({message["id"] for message in pipes.heard}) == 101, "and none is lost"


@virtual
async def test_nothing_of_a_conversation_is_stored() -> None:
    store = MemoryStore(durable=True)
    async with serving(Workshop().service, store) as server:
        pipes = Pipes()
        running = asyncio.ensure_future(server.converse().run(pipes.lines(), pipes.sink))
        await pipes.initialize()
        await pipes.ask(call(1, "echo", {"text": "a"}))
        pipes.close()
        await running
        assert store.statistics()["records"] == 0
