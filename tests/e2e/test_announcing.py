"""The described handler against a real Kafka: it does its task, answers, and publishes, whatever its client does.

It is asked as FastAPI code through `tailrace.asgi.Background` on uvicorn, and as a tool over MCP; what it published is
read back by a consumer, with the correlation id and the trace of its request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.e2e.conftest import FIXTURES
from tests.rigs.kafka import Broker, consumed, headers, items
from tests.rigs.rawhttp import RawConnection
from tests.rigs.rawmcp import Reply, Streamable, call, exchange, send, text_of
from tests.rigs.server import UVICORN_READY, ServerProcess, running_async, tailrace_command, uvicorn_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FIXTURE = FIXTURES / "announcing.py"
TRACED = [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"), ("tracestate", "shop=1"), ("x-correlation-id", "other")]
CORRELATED = [("x-correlation-id", "order-of-monday")]


class Door:
    """One way to the handler: requests that are sent, and their answers."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server = server
        self._folder = folder

    async def ask(self, item: str, **arguments: str) -> RawConnection:
        """Send a request, and wait until its task is at work."""
        connection = await self.send(item, arguments)
        async with asyncio.timeout(60):
            while not (self._folder / f"{item}.begun").exists():
                await asyncio.sleep(0.005)
        return connection

    async def leave(self, connection: RawConnection) -> None:
        """Reset a connection, and wait until the server knows: what it answers afterwards it has heard afterwards."""
        connection.abort()
        for _ in range(3):
            reply = await exchange(self.server.url + "/", "GET", [])
            reply.close()

    def let(self, item: str, what: str = "open") -> None:
        """Let a task end, or its publishing begin."""
        (self._folder / f"{item}.{what}").touch()

    async def order(self, item: str, **arguments: str) -> bool:
        """A whole request; did it succeed?"""
        self.let(item)
        connection = await self.ask(item, **arguments)
        try:
            return await self.succeeded(connection, item)
        finally:
            connection.close()

    async def open(self, tracing: list[tuple[str, str]]) -> Door:
        raise NotImplementedError

    async def send(self, item: str, arguments: dict[str, str]) -> RawConnection:
        raise NotImplementedError

    async def succeeded(self, connection: RawConnection, item: str) -> bool:
        raise NotImplementedError


class Web(Door):
    """FastAPI."""

    async def open(self, tracing: list[tuple[str, str]]) -> Door:
        self._headers = tracing
        return self

    async def send(self, item: str, arguments: dict[str, str]) -> RawConnection:
        return await send(f"{self.server.url}/tasks/{item}?{urlencode(arguments)}", "POST", self._headers, b"")

    async def succeeded(self, connection: RawConnection, item: str) -> bool:
        head = await connection.read_head()
        body = await connection.read_all()
        assert head.status in (200, 500), body
        return head.status == 200 and json.loads(body) == {"item": item}


class Tool(Door):
    """A tool, in a session of Streamable HTTP."""

    async def open(self, tracing: list[tuple[str, str]]) -> Door:
        self._headers = tracing
        self._session = await Streamable(self.server.url).open()
        return self

    async def send(self, item: str, arguments: dict[str, str]) -> RawConnection:
        message = json.dumps(call(item, "task", {"item": item, **arguments})).encode()
        return await send(self._session.url, "POST", [*self._session.headers(), *self._headers], message)

    async def succeeded(self, connection: RawConnection, item: str) -> bool:
        answer = await Reply(connection, await connection.read_head()).answer(item)
        return json.loads(text_of(answer)) == {"item": item} if not answer["result"].get("isError") else False


@pytest.fixture(params=[Web, Tool], ids=["fastapi", "tool"])
async def door(broker: Broker, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    env = {"ANNOUNCING": str(tmp_path), "TAILRACE_PUBLISH": f"kafka://{broker.address}"}
    if request.param is Web:
        command, ready = uvicorn_command(FIXTURE, "app"), UVICORN_READY
        async with running_async(command, tmp_path / "log", env=env, ready=ready) as server:
            yield await Web(server, tmp_path).open(TRACED)
    else:
        command = tailrace_command(FIXTURE, store=f"sqlite:{tmp_path}/tool.db")
        async with running_async(command, tmp_path / "log", env=env) as server:
            yield await Tool(server, tmp_path).open(TRACED)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """One for each test."""
    return "".join(char if char.isalnum() else "-" for char in request.node.name)[-100:]


def check_traced(message: Any) -> None:
    found = headers(message)
    assert found["correlation-id"] == TRACE
    assert found["traceparent"].split("-")[1] == TRACE
    assert found["tracestate"] == "shop=1"
    assert len(found["message-id"]) == 32


async def test_a_handler_that_answers_publishes_under_its_requests_trace(
    broker: Broker, door: Door, topic: str
) -> None:
    assert await door.order("tea", topic=topic)
    (message,) = await consumed(broker, topic, 1)
    assert items([message]) == ["tea"]
    check_traced(message)


async def test_without_a_trace_the_callers_own_correlation_id_is_published(
    broker: Broker, door: Door, topic: str
) -> None:
    await door.open(CORRELATED)
    assert await door.order("tea", topic=topic)
    (message,) = await consumed(broker, topic, 1)
    assert headers(message)["correlation-id"] == "order-of-monday"


@pytest.mark.parametrize(("if_gone", "expected"), [("publish", ["left", "stayed"]), ("skip", ["stayed"])])
async def test_a_client_that_leaves_while_the_task_is_at_work_changes_nothing_unless_that_was_asked_for(
    broker: Broker, door: Door, topic: str, if_gone: str, expected: list[str]
) -> None:
    connection = await door.ask("left", topic=topic, if_gone=if_gone)
    await door.leave(connection)
    door.let("left")
    assert await door.order("stayed", topic=topic, if_gone=if_gone)
    messages = await consumed(broker, topic, len(expected))
    assert sorted(items(messages)) == expected
    for message in messages:
        check_traced(message)


async def test_an_answer_that_is_written_first_does_not_cancel_what_is_published_then(
    broker: Broker, door: Door, topic: str
) -> None:
    assert await door.order("tea", topic=topic, how="spawn")  # the answer was read, to its end
    door.let("tea", "announce")
    (message,) = await consumed(broker, topic, 1)
    assert json.loads(message.value) == {"item": "tea", "error": "None", "deadline": "None", "cancelled": False}
    check_traced(message)


async def test_a_client_that_leaves_does_not_cancel_what_is_published_after_the_answer(
    broker: Broker, door: Door, topic: str
) -> None:
    connection = await door.ask("tea", topic=topic, how="spawn")
    await door.leave(connection)
    door.let("tea")
    await asyncio.sleep(0.2)  # it would be answered now
    door.let("tea", "announce")
    (message,) = await consumed(broker, topic, 1)
    assert json.loads(message.value) == {"item": "tea", "error": "None", "deadline": "None", "cancelled": False}
    check_traced(message)


async def test_a_broker_that_does_not_answer_holds_up_no_answer_and_has_the_message_when_it_does(
    broker: Broker, door: Door, topic: str
) -> None:
    assert await door.order("first", topic=topic)
    await consumed(broker, topic, 1)
    broker.pause()
    try:
        assert await door.order("slow", topic=topic)
        door.let("slower", "announce")
        assert await door.order("slower", topic=topic, how="spawn")
    finally:
        broker.resume()
    messages = await consumed(broker, topic, 3)
    assert sorted(items(messages)) == ["first", "slow", "slower"]
    for message in messages:
        check_traced(message)


@pytest.mark.parametrize("how", ["publish", "spawn"])
async def test_a_task_that_fails_is_answered_as_a_failure_and_publishes_nothing(
    broker: Broker, door: Door, topic: str, how: str
) -> None:
    door.let("bad", "announce")
    assert not await door.order("bad", topic=topic, how=how)  # FastAPI: 500
    door.let("good", "announce")
    assert await door.order("good", topic=topic, how=how)
    assert items(await consumed(broker, topic, 1)) == ["good"]
