"""One key, and everything that may happen around its run at one moment: a duplicate, the end, a cancel, a shutdown.

Whatever the schedule: the handler runs once at most, over two process lives; it begins when its entry is safe; an
answer is safe before it is sent; and who asks afterwards gets what came of the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import pytest

from tailrace import Service
from tailrace.core.exchange import Headers
from tailrace.core.settings import Settings
from tailrace.server import Server
from tests.rigs.exchange import FakeExchange, LegacySession, call, modern_headers, modern_request, send, text_of
from tests.schedules.conversation import WatchedStore
from tests.schedules.exploring import MORE, exhaust, in_order, race

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
Record = Callable[[str, object], None]
KEY = {"io.tailrace/idempotencyKey": "k"}
BEFORE = ("asking", "running")


class Watched(FakeExchange):
    """Looks, at the moment of its reply, whether what it says is safe."""

    def __init__(self, till: Till, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._till = till

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        if b'"done"' in body:
            assert self._till.stored("a:"), "an answer is sent uncommitted"
        super().respond(status, headers, body, trailers)


class Till:
    """Server after server over one store, with one tool that runs once."""

    def __init__(self) -> None:
        self.store = WatchedStore(durable=True)
        self.gate = asyncio.Event()
        self.executed = self.finished = 0
        self.ids = iter(range(1, 1000))
        self.asked: list[tuple[int, FakeExchange]] = []
        self.stopped = False
        self.service = service = Service("till")

        @service.tool(once=True)
        async def pay() -> str:
            assert self.stored("h:"), "the handler starts before its entry is committed"
            self.executed += 1
            assert self.executed == 1, "the handler runs twice"
            await self.gate.wait()
            self.finished += 1
            return "done"

    def stored(self, prefix: str) -> bool:
        page = self.store._entries.page("once", "", 10, 0.0)  # pyright: ignore[reportPrivateUsage]
        return any(entry.key.startswith(prefix) for entry in page)

    async def start(self) -> None:
        self.server = Server(self.service, Settings(drain=2.0, grace=0.5, keep_alive=0.0), self.store)
        self.stopped = False
        await self.server.start()

    def ask(self) -> FakeExchange:
        """A request of 2026-07-28."""
        id = next(self.ids)
        message = modern_request(id, "tools/call", {"name": "pay", "arguments": {}}, **KEY)
        exchange = Watched(self, "POST", "/mcp", message, list(modern_headers(message).items()))
        self.asked.append((id, exchange))
        return send(self.server, exchange)


class Asker:
    """The first who asks, and what may happen, by name."""

    def __init__(self, till: Till) -> None:
        self.till = till
        self.duplicates: list[tuple[int, FakeExchange]] = []

    async def open(self) -> None:
        """Get to where it can ask."""

    def ask(self) -> None:
        self.first = self.till.ask()

    async def leave(self) -> None:
        self.first.disconnect()

    async def duplicate(self) -> None:
        self.till.ask()

    async def end(self) -> None:
        self.till.gate.set()

    async def shutdown(self) -> None:
        self.till.stopped = True
        await self.till.server.stop()


class Legacy(Asker):
    """It has a session, which owns its request; leaving is cancelling."""

    async def open(self) -> None:
        self.session = await LegacySession(self.till.server).start()

    def ask(self) -> None:
        message = call(0, "pay")
        message["params"]["_meta"] = KEY
        self.first = self.session.post(message)

    async def leave(self) -> None:
        self.session.cancel(0)

    async def close(self) -> None:
        self.session.delete()


async def meet(kind: type[Asker], names: tuple[str, ...], *, mode: str) -> None:
    in_order()
    till = Till()
    await till.start()
    asker = kind(till)
    await asker.open()
    asker.ask()
    while mode == "running" and not till.executed:
        await asyncio.sleep(0)
    await race(*(getattr(asker, name) for name in names))
    till.gate.set()
    if till.stopped:
        await till.server.stop()
        await till.start()
    else:
        assert await till.server.tasks.drain(60.0), "a call did not end"
    for id, exchange in till.asked:
        if not exchange.gone:
            answer = await asyncio.wait_for(exchange.answer(id), 60.0)
            if "result" in answer and not answer["result"].get("isError"):
                assert text_of(answer) == "done"
                assert till.finished == 1
    await check_after(till)
    await till.server.stop()


async def check_after(till: Till) -> None:
    """Who asks now gets what came of it; if nothing was begun, it is now."""
    id = next(till.ids)
    message = modern_request(id, "tools/call", {"name": "pay", "arguments": {}}, **KEY)
    exchange = Watched(till, "POST", "/mcp", message, list(modern_headers(message).items()))
    answer = await asyncio.wait_for(send(till.server, exchange).answer(id), 60.0)
    assert till.executed == 1
    if till.finished:
        assert text_of(answer) == "done", "the answer of a run that ended is lost"
    else:
        assert answer["result"]["_meta"]["io.tailrace/outcome"] == "unknown"


@pytest.mark.parametrize("mode", BEFORE)
@pytest.mark.parametrize("names", [*combinations(("duplicate", "leave", "end", "shutdown"), 2)], ids="-".join)
def test_ends_meet(names: tuple[str, ...], mode: str, record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, Asker, names, mode=mode), delays=3 if MORE else 2))


@pytest.mark.parametrize("mode", BEFORE)
@pytest.mark.parametrize(
    "names",
    [*combinations(("duplicate", "leave", "close", "end", "shutdown"), 2)],
    ids="-".join,
)
def test_ends_meet_in_a_session(names: tuple[str, ...], mode: str, record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, Legacy, names, mode=mode), delays=3 if MORE else 2))


@pytest.mark.parametrize("names", [("duplicate", "duplicate", "end"), ("duplicate", "leave", "end")], ids="-".join)
@pytest.mark.parametrize("kind", [Asker, Legacy])
def test_three_meet(kind: type[Asker], names: tuple[str, ...], record_property: Record) -> None:
    scenario = partial(meet, kind, names, mode="asking")
    record_property("schedules", exhaust(scenario, delays=3 if MORE else 2))
