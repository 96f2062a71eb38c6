"""The relay: in order for each key, again until it is delivered, bounded, and honest about what it gave up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import pytest

from tailrace.core.context import Context
from tailrace.core.outgoing import Message
from tailrace.core.tasks import Tasks
from tailrace.errors import StoreError
from tailrace.publish import relay as relays
from tailrace.publish.encoding import make_message
from tailrace.publish.publishers import Rejected
from tailrace.publish.relay import Relay, Waiting
from tests.core.support import make_tasks, virtual


def message(value: object, *, key: str | None = None, topic: str = "orders") -> Message:
    return make_message(Context.background(), topic, value, key)


def own(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged here: asyncio tells of what other tests have left, whenever that is collected."""
    return [record for record in caplog.records if record.name.startswith("tailrace")]


class Shelf:
    """A source in memory."""

    def __init__(self, *messages: Message) -> None:
        self.waiting: dict[str, Message] = {}
        self._next = 1000
        self.buried: list[tuple[Message, int, str]] = []
        self.failing: StoreError | None = None
        self.most = 0  # read in one go
        self.reads = 0
        self.put(*messages)

    def put(self, *messages: Message) -> list[Waiting]:
        added = [Waiting(f"{number:06}", message) for number, message in enumerate(messages, self._next)]
        self._next += len(messages)
        self.waiting.update((waiting.place, waiting.message) for waiting in added)
        return added

    async def read(self, after: str, limit: int) -> Sequence[Waiting]:
        self.reads += 1
        await asyncio.sleep(0)
        page = [Waiting(place, self.waiting[place]) for place in sorted(self.waiting) if place > after][:limit]
        self.most = max(self.most, len(page))
        return page

    async def done(self, places: Sequence[str]) -> None:
        await asyncio.sleep(0)
        if self.failing is not None:
            raise self.failing
        for place in places:
            del self.waiting[place]

    async def bury(self, waiting: Waiting, attempts: int, error: str) -> None:
        self.buried.append((self.waiting.pop(waiting.place), attempts, error))


class Broker:
    """A publisher that does as `judge` says with each message, one after the other."""

    name = "test:"

    def __init__(self, judge: Callable[[Message], Exception | None] = lambda message: None) -> None:
        self.judge = judge
        self.got: list[Message] = []
        self.told: list[Message] = []
        self.most = 0  # told in one go
        self.batches = 0
        self.down: Exception | None = None
        self.opened = 0
        self.closed = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def open(self) -> None:
        if self.down is not None:
            raise self.down
        self.opened += 1

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        keys = [(message.topic, message.key) for message in messages if message.key is not None]
        assert len(keys) == len(set(keys)), "two of one key at a time have no order"
        self.told += messages
        self.most = max(self.most, len(messages))
        self.batches += 1
        await self.gate.wait()
        await asyncio.sleep(0.001)
        if self.down is not None:
            raise self.down
        outcomes = [self.judge(message) for message in messages]
        self.got += [message for message, outcome in zip(messages, outcomes, strict=True) if outcome is None]
        return outcomes

    async def close(self) -> None:
        self.closed += 1


def started(shelf: Shelf, broker: Broker) -> tuple[Relay, Tasks]:
    tasks = make_tasks()
    relay = Relay(shelf, broker, tasks)
    relay.start()
    return relay, tasks


async def ended(relay: Relay, tasks: Tasks) -> None:
    await relay.close()
    await tasks.close()


@virtual
async def test_what_waits_is_delivered_and_forgotten() -> None:
    messages = [message(n) for n in range(3)]
    shelf, broker = Shelf(*messages), Broker()
    relay, tasks = started(shelf, broker)
    assert await relay.drain(5)
    assert broker.got == messages
    assert not shelf.waiting
    assert relay.published == 3
    await ended(relay, tasks)
    assert broker.closed == 1


@virtual
async def test_one_that_comes_later_is_delivered_at_once_when_it_is_told_of() -> None:
    shelf, broker = Shelf(), Broker()
    relay, tasks = started(shelf, broker)
    assert await relay.drain(5)
    shelf.put(message("late"))
    began = tasks.loop.time()
    relay.nudge()
    while not broker.got:
        await asyncio.sleep(0.001)
    assert tasks.loop.time() - began < 0.1
    await ended(relay, tasks)


@virtual
async def test_what_is_offered_is_delivered_without_being_read_and_what_comes_close_together_in_one_batch() -> None:
    shelf, broker = Shelf(), Broker()
    relay, tasks = started(shelf, broker)
    assert await relay.drain(5)
    reads = shelf.reads
    messages = [message(n, key=str(n)) for n in range(20)]
    for one in messages:
        relay.offer(shelf.put(one))
        await asyncio.sleep(0.001)
    while len(broker.got) < 20:
        await asyncio.sleep(0.001)
    assert broker.got == messages
    assert shelf.reads == reads
    assert broker.batches <= 3
    await ended(relay, tasks)
    assert not shelf.waiting


@virtual
async def test_what_is_offered_while_older_ones_are_still_to_be_read_keeps_its_place() -> None:
    older = [message(n, key="k") for n in range(3)]
    shelf, broker = Shelf(*older), Broker()
    relay, tasks = started(shelf, broker)
    fresh = message("fresh", key="k")
    relay.offer(shelf.put(fresh))
    assert await relay.drain(5)
    assert broker.got == [*older, fresh]
    await ended(relay, tasks)


@virtual
async def test_one_that_comes_while_the_source_is_being_read_is_not_left_for_the_next_look() -> None:
    shelf, broker = Shelf(), Broker()
    read = shelf.read
    late = message("late")

    async def slow_read(after: str, limit: int) -> Sequence[Waiting]:
        page = await read(after, limit)
        if not broker.got and not shelf.waiting:
            relay.offer(shelf.put(late))  # too late for this page
        return page

    shelf.read = slow_read  # type: ignore[method-assign]
    relay, tasks = started(shelf, broker)
    began = tasks.loop.time()
    while not broker.got:
        await asyncio.sleep(0.001)
    assert tasks.loop.time() - began < 0.5
    await ended(relay, tasks)


@virtual
async def test_under_a_steady_stream_of_offers_the_source_is_not_read_again_and_again() -> None:
    messages = [message(n) for n in range(1000)]
    shelf, broker = Shelf(*messages[:100]), Broker()
    read = shelf.read

    async def slow_read(after: str, limit: int) -> Sequence[Waiting]:
        page = await read(after, limit)
        await asyncio.sleep(0.02)  # several are offered meanwhile
        return page

    shelf.read = slow_read  # type: ignore[method-assign]
    relay, tasks = started(shelf, broker)
    for one in messages[100:]:
        relay.offer(shelf.put(one))
        await asyncio.sleep(0.001)
    assert await relay.drain(60)
    assert broker.got == messages
    assert shelf.reads < 15
    await ended(relay, tasks)


@virtual
async def test_more_than_fits_is_offered_and_all_of_it_arrives() -> None:
    shelf, broker = Shelf(), Broker()
    relay, tasks = started(shelf, broker)
    assert await relay.drain(5)
    broker.gate.clear()
    for n in range(3000):
        relay.offer(shelf.put(message(n)))
        if n % 500 == 0:
            await asyncio.sleep(0.1)
    assert len(relay._held) <= 1000
    broker.gate.set()
    assert await relay.drain(60)
    assert [one.value for one in broker.got] == [str(n).encode() for n in range(3000)]
    await ended(relay, tasks)


@virtual
async def test_messages_of_one_key_do_not_wait_for_the_next_batch() -> None:
    messages = [message(n, key="k") for n in range(100)]
    shelf, broker = Shelf(), Broker()
    relay, tasks = started(shelf, broker)
    assert await relay.drain(5)
    began = tasks.loop.time()
    relay.offer(shelf.put(*messages))
    while len(broker.got) < 100:
        await asyncio.sleep(0.001)
    assert broker.got == messages
    assert tasks.loop.time() - began < 1.0  # the broker's own time, and not 100 times the pause between two batches
    await ended(relay, tasks)


@virtual
async def test_one_that_nobody_told_of_is_found_all_the_same() -> None:
    shelf, broker = Shelf(), Broker()
    relay, tasks = started(shelf, broker)
    assert await relay.drain(5)
    shelf.put(message("silent"))
    await asyncio.sleep(3)
    assert len(broker.got) == 1
    await ended(relay, tasks)


@virtual
async def test_messages_of_one_key_keep_their_order_though_one_fails_in_between() -> None:
    failures = {"a1": 2}

    def judge(message: Message) -> Exception | None:
        left = failures.get(message.value.decode(), 0)
        failures[message.value.decode()] = left - 1
        return ConnectionError("a hiccup") if left > 0 else None

    shelf = Shelf(*(message(f"{key}{n}", key=key) for n in range(4) for key in "ab"))
    broker = Broker(judge)
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(60)
    values = [got.value.decode() for got in broker.got]
    assert [value for value in values if value[0] == "a"] == ["a0", "a1", "a2", "a3"]
    assert [value for value in values if value[0] == "b"] == ["b0", "b1", "b2", "b3"]
    assert not shelf.waiting
    await ended(relay, tasks)


@virtual
async def test_the_same_key_of_another_topic_is_another_line() -> None:
    shelf = Shelf(message("x", key="k", topic="bad"), message("y", key="k", topic="good"))
    broker = Broker(lambda message: Rejected("no") if message.topic == "bad" else None)
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(0.05)
    assert [got.topic for got in broker.got] == ["good"]
    await ended(relay, tasks)


@virtual
async def test_while_the_broker_is_away_nothing_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    shelf, broker = Shelf(message("kept")), Broker()
    broker.down = ConnectionError("nobody there")
    relay, tasks = started(shelf, broker)
    with caplog.at_level("INFO", "tailrace.publish"):
        await asyncio.sleep(24 * 3600)
        assert shelf.waiting
        assert "nobody there" in relay.trouble
        broker.down = None
        await asyncio.sleep(30)
    assert len(broker.got) == 1
    assert not shelf.waiting
    assert not shelf.buried
    assert relay.trouble == ""
    said = [record.getMessage().split(" publisher")[0] for record in own(caplog)]
    assert said == ["messages cannot be delivered; they wait", "messages are delivered again"]
    await ended(relay, tasks)


@virtual
async def test_a_broker_that_goes_away_in_between_gets_the_same_message_again() -> None:
    first = message("one")
    shelf, broker = Shelf(first), Broker()
    broker.gate.clear()
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(0.1)
    broker.down = ConnectionError("cut")
    broker.gate.set()
    await asyncio.sleep(0.1)
    broker.down = None
    await asyncio.sleep(30)
    assert {told.id for told in broker.told} == {first.id}
    assert [got.id for got in broker.got] == [first.id]
    await ended(relay, tasks)


@virtual
async def test_what_the_broker_refuses_becomes_a_dead_letter_and_those_behind_it_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = message("bad", key="k"), message("good", key="k")
    shelf = Shelf(bad, good)
    broker = Broker(lambda message: Rejected("too large") if message.id == bad.id else None)
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(600)
    assert shelf.buried == [(bad, 10, "too large")]
    assert broker.got == [good]
    assert [record.levelname for record in own(caplog)] == ["ERROR"]
    assert bad.id in caplog.text
    await ended(relay, tasks)


@virtual
async def test_memory_is_bounded_whatever_waits() -> None:
    shelf, broker = Shelf(*(message(n) for n in range(3000))), Broker()
    broker.gate.clear()
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(1)
    assert len(relay._held) == relays._HELD
    assert shelf.most <= relays._PAGE
    assert broker.most <= relays._BATCH
    broker.gate.set()
    assert await relay.drain(60)
    assert len(broker.got) == 3000
    await ended(relay, tasks)


@virtual
async def test_large_messages_are_held_by_their_bytes() -> None:
    shelf, broker = Shelf(*(message("x" * 1_000_000) for _ in range(40))), Broker()
    broker.gate.clear()
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(1)
    assert relay._bytes <= relays._HELD_BYTES + relays._LARGE_PAGE * 1_000_000
    broker.gate.set()
    assert await relay.drain(60)
    assert len(broker.got) == 40
    assert relay._bytes == 0
    await ended(relay, tasks)


@virtual
async def test_a_source_that_cannot_forget_is_asked_again_and_nothing_is_doubled() -> None:
    shelf, broker = Shelf(message("once")), Broker()
    shelf.failing = StoreError("the disk is full")
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(20)
    assert len(broker.told) == 1
    assert "disk is full" in relay.trouble
    shelf.failing = None
    await asyncio.sleep(20)
    assert len(broker.told) == 1
    assert not shelf.waiting
    await ended(relay, tasks)


@virtual
async def test_draining_does_not_wait_for_a_broker_that_is_away() -> None:
    shelf, broker = Shelf(message("left")), Broker()
    broker.down = ConnectionError("nobody there")
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(1)
    began = tasks.loop.time()
    assert not await relay.drain(25)
    assert tasks.loop.time() - began < 1
    assert shelf.waiting
    await ended(relay, tasks)


@virtual
async def test_draining_is_bounded_with_a_publisher_that_says_nothing() -> None:
    shelf, broker = Shelf(message("stuck")), Broker()
    broker.gate.clear()
    relay, tasks = started(shelf, broker)
    began = tasks.loop.time()
    assert not await relay.drain(3)
    assert tasks.loop.time() - began < 3.1
    await ended(relay, tasks)
    assert shelf.waiting
    assert not tasks._own


@virtual
async def test_a_publisher_that_says_nothing_for_long_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    shelf, broker = Shelf(message("stuck")), Broker()
    broker.gate.clear()
    relay, tasks = started(shelf, broker)
    await asyncio.sleep(10)
    assert relay.trouble == "the broker does not answer"
    broker.gate.set()
    await asyncio.sleep(10)
    assert relay.trouble == ""
    assert not shelf.waiting
    await ended(relay, tasks)


@virtual
async def test_a_relay_that_never_started_is_drained_and_closed() -> None:
    tasks = make_tasks()
    relay = Relay(Shelf(), Broker(), tasks)
    assert await relay.drain(1)
    await relay.close()
