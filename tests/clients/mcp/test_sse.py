"""HTTP+SSE against scripted servers: the endpoint, resuming, and servers that cannot resume."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.clients.mcp import Client
from tailrace.errors import LimitError, TransportError

from .fake_http import INITIALIZED, Exchange, progress, result, serving


class SseServer:
    """Plays one session, which outlives its connections if `ids` is true: what is said is kept, and replayed."""

    def __init__(self, *, ids: bool = True) -> None:
        self.ids = ids
        self.log: list[Any] = []
        self.said = asyncio.Event()
        self.endpoint = "/messages/?session_id=abc"
        self.resume = "complete"
        self.called = asyncio.Event()
        self.connection: Exchange | None = None
        self.calls: list[dict[str, Any]] = []

    def say(self, message: Any) -> None:
        self.log.append(message)
        self.said.set()

    async def script(self, x: Exchange) -> None:
        match x.rpc:
            case "GET":
                await self.stream(x)
                return
            case "initialize":
                self.say({"jsonrpc": "2.0", "id": x.message["id"], "result": INITIALIZED})
            case "tools/call":
                self.calls.append(x.message)
                self.called.set()
        assert x.path == self.endpoint
        await x.reply(202)

    async def stream(self, x: Exchange) -> None:
        place = int(x.headers.get("last-event-id", "0"))
        await x.stream(**({"tailrace_resume": self.resume} if place else {}))
        await x.event(self.endpoint.encode(), event="endpoint", id=str(place) if self.ids and place else None)
        self.connection = x
        while not x.left.is_set():
            if place == len(self.log):
                self.said.clear()
                await self.said.wait()
                continue
            place += 1
            await x.event(self.log[place - 1], id=str(place) if self.ids else None)

    async def cut_after(self, *messages: Any) -> None:
        """Say these, and break the connection once they were sent."""
        for message in messages:
            self.say(message)
        while self.said.is_set():
            await asyncio.sleep(0)
        assert self.connection is not None
        self.connection.cut()


async def test_a_stream_that_breaks_is_resumed_and_every_event_comes_exactly_once() -> None:
    play = SseServer()
    seen: list[float] = []
    async with serving(play.script) as server, Client(f"{server.url}/sse") as c:
        assert (c.era, c.session_id) == ("legacy", "abc")
        call = asyncio.create_task(c.call_tool("any", progress=lambda done, *_: seen.append(done)))
        await play.called.wait()
        id = play.calls[0]["id"]
        for done in range(1, 6):
            await play.cut_after(progress(id, 2 * done), progress(id, 2 * done + 1))
        play.say(result(id, "whole"))
        assert (await call).data == "whole"
        assert seen == list(range(2, 12))
        assert c.gaps == 0
        assert len(server.asked("tools/call")) == 1


async def test_a_gap_is_counted() -> None:
    play = SseServer()
    play.resume = "gap"
    async with serving(play.script) as server, Client(f"{server.url}/sse", on_warning=lambda _: None) as c:
        call = asyncio.create_task(c.call_tool("any"))
        await play.called.wait()
        await play.cut_after(progress(1, 1))
        play.say(result(play.calls[0]["id"]))
        await call
        assert c.gaps == 1


async def test_a_server_that_restarts_is_waited_for_and_a_call_made_meanwhile_waits_too() -> None:
    play = SseServer()
    async with serving(play.script) as server, Client(f"{server.url}/sse") as c:
        call = asyncio.create_task(c.call_tool("first"))
        await play.called.wait()
        await server.stop()
        play.called.clear()
        second = asyncio.create_task(c.call_tool("second"))
        await asyncio.sleep(0)
        await server.start()
        play.say(result(play.calls[0]["id"], "one"))
        assert (await call).data == "one"
        await play.called.wait()
        play.say(result(play.calls[1]["id"], "two"))
        assert (await second).data == "two"


async def test_a_server_that_begins_a_new_session_fails_the_calls_and_says_so() -> None:
    play = SseServer()
    async with serving(play.script) as server, Client(f"{server.url}/sse") as c:
        call = asyncio.create_task(c.call_tool("any"))
        await play.called.wait()
        play.endpoint = "/messages/?session_id=other"
        await play.cut_after(progress(1, 1))
        with pytest.raises(TransportError, match="began a new session instead of resuming"):
            await call
        with pytest.raises(TransportError, match="began a new session"):
            await c.call_tool("any")


async def test_a_server_whose_events_have_no_ids_cannot_resume() -> None:
    play = SseServer(ids=False)
    async with serving(play.script) as server, Client(f"{server.url}/sse") as c:
        call = asyncio.create_task(c.call_tool("any"))
        await play.called.wait()
        await play.cut_after(progress(1, 1))
        with pytest.raises(TransportError, match="had no ids, so this server cannot resume"):
            await call
        assert len(server.asked("GET")) == 1


async def test_a_server_that_stays_away_fails_the_calls_in_bounded_time() -> None:
    play = SseServer()
    async with serving(play.script) as server, Client(f"{server.url}/sse", reconnect=0.3) as c:
        call = asyncio.create_task(c.call_tool("any"))
        await play.called.wait()
        await server.stop()
        with pytest.raises(TransportError, match="did not come back within"):
            await call
        await server.start()


async def test_a_session_that_is_gone_fails_the_calls() -> None:
    play = SseServer()

    async def script(x: Exchange) -> None:
        if "last-event-id" in x.headers:
            await x.error(404, -32001)
        else:
            await play.script(x)

    async with serving(script) as server, Client(f"{server.url}/sse") as c:
        call = asyncio.create_task(c.call_tool("any"))
        await play.called.wait()
        await play.cut_after(progress(1, 1))
        with pytest.raises(TransportError, match="HTTP 404"):
            await call


async def test_an_endpoint_on_another_server_is_refused() -> None:
    play = SseServer()
    play.endpoint = "http://localhost:1/messages"
    async with serving(play.script) as server:
        with pytest.raises(TransportError, match="endpoint on another server"):
            async with Client(f"{server.url}/sse", headers={"Authorization": "secret"}):
                pass


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("nothing", "no endpoint event within 0.3 s"),
        ("end", "ended its stream before the endpoint event"),
        ("404", "HTTP 404"),
        ("page", "was refused with HTTP 200"),
        ("cut", "broke"),
    ],
)
async def test_a_server_that_is_none_is_told_at_once(answer: str, says: str) -> None:
    async def script(x: Exchange) -> None:
        match answer:
            case "nothing":
                await x.stream()
                await x.wait_left()
            case "end":
                await x.stream()
                await x.end()
            case "404":
                await x.reply(404)
            case "page":
                await x.reply(200, b"<html>", content_type="text/html")
            case "cut":
                x.cut()

    async with serving(script) as server:
        with pytest.raises(TransportError, match=says):
            async with Client(f"{server.url}/sse", connect_timeout=0.3 if answer == "nothing" else 60):
                pass


async def test_a_message_that_the_server_does_not_take_fails_its_call() -> None:
    play = SseServer()

    async def script(x: Exchange) -> None:
        if x.rpc == "tools/call":
            await x.reply(404)
        else:
            await play.script(x)

    async with serving(script) as server, Client(f"{server.url}/sse") as c:
        with pytest.raises(TransportError, match="does not know this session any more"):
            await c.call_tool("any")


async def test_a_message_over_the_limit_breaks_the_connection() -> None:
    play = SseServer()
    async with serving(play.script) as server, Client(f"{server.url}/sse", max_message=10_000) as c:
        call = asyncio.create_task(c.call_tool("any"))
        await play.called.wait()
        play.say(result(play.calls[0]["id"], "x" * 20_000))
        with pytest.raises(TransportError, match="max_message=") as caught:
            await call
        assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, LimitError)


async def test_a_cancelled_call_is_told_to_the_server() -> None:
    play = SseServer()
    cancelled = asyncio.Event()

    async def script(x: Exchange) -> None:
        if x.rpc == "notifications/cancelled":
            assert x.message["params"]["requestId"] == play.calls[0]["id"]
            cancelled.set()
        await play.script(x)

    async with serving(script) as server, Client(f"{server.url}/sse") as c:
        call = asyncio.create_task(c.call_tool("any"))
        await play.called.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(60):
            await cancelled.wait()


async def test_closing_leaves_the_stream() -> None:
    play = SseServer()
    async with serving(play.script) as server:
        async with Client(f"{server.url}/sse"):
            pass
        async with asyncio.timeout(60):
            await server.asked("GET")[0].left.wait()


async def test_a_message_whose_post_breaks_may_have_run() -> None:
    play = SseServer()

    async def script(x: Exchange) -> None:
        if x.rpc == "tools/call":
            x.cut()
        else:
            await play.script(x)

    async with serving(script) as server, Client(f"{server.url}/sse") as c:
        with pytest.raises(TransportError, match="it may have run"):
            await c.call_tool("any")
