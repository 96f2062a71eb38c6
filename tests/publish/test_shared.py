"""A publisher that several relays share: opened once at a time, closed with the last of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tailrace.core.outgoing import Message
from tailrace.publish.shared import SharedPublisher

pytestmark = pytest.mark.timeout(60)


class Broker:
    name = "broker"

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()

    async def open(self) -> None:
        self.happened.append("open")
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        return [None] * len(messages)

    async def close(self) -> None:
        self.happened.append("close")


async def test_who_comes_while_it_is_opened_waits_and_the_last_one_closes_it() -> None:
    broker = Broker()
    shared = SharedPublisher(broker)
    one, two = shared.share(), shared.share()
    assert one.name == "broker"
    opening = [asyncio.ensure_future(share.open()) for share in (one, two)]
    await asyncio.sleep(0)
    broker.gate.set()
    await asyncio.gather(*opening)
    await one.close()
    await one.close()
    assert broker.happened == ["open"]
    assert await two.publish([]) == []
    await two.close()
    await two.close()
    assert broker.happened == ["open", "close"]
    await one.open()
    assert broker.happened == ["open", "close", "open"]


async def test_who_waited_for_an_attempt_that_failed_makes_one_of_its_own() -> None:
    broker = Broker()
    broker.failures.append(ConnectionError("away"))
    shared = SharedPublisher(broker)
    one, two = shared.share(), shared.share()
    opening = [asyncio.ensure_future(share.open()) for share in (one, two)]
    await asyncio.sleep(0)
    broker.gate.set()
    results = await asyncio.gather(*opening, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError, type(None)]
    assert broker.happened == ["open", "open"]
    await one.close()
    assert broker.happened == ["open", "open"]
    await two.close()
    assert broker.happened == ["open", "open", "close"]


async def test_what_was_begun_and_given_up_is_closed_and_what_never_began_is_not() -> None:
    broker = Broker()
    shared = SharedPublisher(broker)
    one = shared.share()
    await one.close()
    assert broker.happened == []
    opening = asyncio.ensure_future(one.open())
    await asyncio.sleep(0)
    await shared.share().close()  # another one, which has nothing of it
    assert broker.happened == ["open"]
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await one.close()
    assert broker.happened == ["open", "close"]
