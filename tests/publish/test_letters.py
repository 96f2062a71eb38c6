"""Refused messages of an outbox that is at work: counted as they lie in the store, put back, and dropped."""

from __future__ import annotations

import logging

import pytest

from tailrace.core.outgoing import Message
from tailrace.core.ports import Store
from tailrace.errors import StoreError
from tailrace.publish.letters import Letter, discard_letters, letters, revive_letters
from tailrace.publish.outbox import StoreOutbox
from tailrace.publish.publishers import Rejected
from tailrace.stores.memory import MemoryStore
from tests.core.support import make_tasks, turns, virtual
from tests.publish.test_relay import Broker, message


async def outbox_over(store: Store, broker: Broker) -> StoreOutbox:
    """One more life of the process that owns the store."""
    outbox = StoreOutbox(store, await store.next_epoch(), broker, make_tasks())
    await outbox.open()
    return outbox


async def refused(*texts: str) -> tuple[Store, list[Message]]:
    """A store in which an earlier life has left these, refused."""
    store = MemoryStore()
    await store.open()
    messages = [message(text) for text in texts]
    outbox = await outbox_over(store, Broker(lambda one: Rejected("too large")))
    await outbox.write(messages)
    assert await outbox.relay.drain(600)
    assert (outbox.statistics()["dead"], outbox.waiting) == (len(texts), 0)
    await outbox.close()
    return store, messages


async def in_store(store: Store) -> list[Letter]:
    return [letter async for letter in letters(store, dead=True)]


@virtual
async def test_what_an_earlier_life_gave_up_is_counted_until_it_is_put_back_or_dropped() -> None:
    store, (one, two, _) = await refused("one", "two", "three")
    broker = Broker()
    outbox = await outbox_over(store, broker)
    assert outbox.statistics()["dead"] == 3
    assert await revive_letters(outbox, {one.id, "unknown"}) == 1
    assert outbox.statistics()["dead"] == 2
    assert await discard_letters(outbox, {two.id, "unknown"}) == 1
    assert outbox.statistics()["dead"] == len(await in_store(store)) == 1
    assert await outbox.relay.drain(60)
    assert broker.got == [one]
    await outbox.close()


@virtual
async def test_of_those_that_were_to_be_dropped_only_what_was_committed_is_not_counted_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, messages = await refused("one", "two", "three")
    outbox = await outbox_over(store, Broker())
    flush, flushed = store.flush, 0

    async def failing() -> None:
        nonlocal flushed
        flushed += 1
        if flushed == 2:
            raise StoreError("the disk is full")
        await flush()

    monkeypatch.setattr(store, "flush", failing)
    with pytest.raises(StoreError, match="full"):
        await discard_letters(outbox, {one.id for one in messages})
    assert outbox.statistics()["dead"] == 2
    monkeypatch.undo()
    await outbox.close()


@virtual
async def test_at_the_end_only_messages_that_wait_are_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tailrace.publish")
    store, broker = MemoryStore(durable=True), Broker()
    broker.down = ConnectionError("nobody there")
    await store.open()
    outbox = await outbox_over(store, broker)
    await turns()
    await outbox.drain(5)
    assert [one.getMessage() for one in caplog.records if "for the next start" in one.message] == []
    await outbox.write([message("left")])
    await outbox.drain(5)
    (said,) = (one.getMessage() for one in caplog.records if "for the next start" in one.message)
    assert said.endswith("count=1")
    await outbox.close()
