"""Reading ahead of an application: in order, bounded, and not where the client waits to be told to send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace.server.ahead import ReadAhead
from tests.core.support import make_tasks


class Source:
    """A server's side of one request: messages, and then what comes next."""

    def __init__(self, *bodies: bytes, error: Exception | None = None) -> None:
        self._messages: list[Any] = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
        self._error = error
        self.left = asyncio.Event()
        self.taken = 0
        self.gone = 0

    async def receive(self) -> Any:
        if self._messages:
            self.taken += 1
            return self._messages.pop(0)
        if self._error is not None:
            raise self._error
        await self.left.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        self.gone += 1


@asynccontextmanager
async def ahead_of(source: Source, limit: int = 10) -> AsyncGenerator[ReadAhead]:
    tasks = make_tasks()
    ahead = ReadAhead(tasks, source.receive, source.leave, limit=limit)
    yield ahead
    ahead.end()
    await tasks.close()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_body_comes_in_order_and_then_the_disconnect_again_and_again() -> None:
    source = Source(b"one", b"two")
    async with ahead_of(source) as ahead:
        ahead.start()
        assert [(await ahead.read())["body"] for _ in range(2)] == [b"one", b"two"]
        source.left.set()
        assert [(await ahead.read())["type"] for _ in range(2)] == ["http.disconnect"] * 2
    assert source.gone == 1


async def test_no_more_is_read_than_the_limit_until_the_application_reads() -> None:
    source = Source(b"12345", b"12345", b"12345")
    async with ahead_of(source, limit=10) as ahead:
        ahead.start()
        await turns()
        assert source.taken == 2
        await ahead.read()
        await turns()
        assert source.taken == 3


async def test_nothing_is_read_before_the_application_reads_unless_it_was_started() -> None:
    source = Source(b"one")
    async with ahead_of(source) as ahead:
        await turns()
        assert source.taken == 0
        assert (await ahead.read())["body"] == b"one"


async def test_after_the_answer_nobody_has_left_and_nobody_waits() -> None:
    source = Source()
    async with ahead_of(source) as ahead:
        reading = asyncio.ensure_future(ahead.read())
        await turns()
        ahead.end()
        assert (await reading)["type"] == "http.disconnect"
        source.left.set()
        await turns()
        assert (await ahead.read())["type"] == "http.disconnect"
    assert source.gone == 0


async def test_an_end_before_the_first_step_leaves_nobody_waiting() -> None:
    source = Source()
    async with ahead_of(source) as ahead:
        ahead.start()
        ahead.end()
        assert (await ahead.read())["type"] == "http.disconnect"


async def test_an_error_of_the_servers_is_the_applications() -> None:
    source = Source(b"one", error=OSError("broken"))
    async with ahead_of(source) as ahead:
        ahead.start()
        assert (await ahead.read())["body"] == b"one"
        with pytest.raises(OSError, match="broken"):
            await ahead.read()
    assert source.gone == 0
