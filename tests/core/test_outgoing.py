"""What a call publishes is kept with it until it has succeeded; detached work publishes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tailrace.core.context import Context
from tailrace.core.outgoing import OUTBOX, Collected, Leaving, Message, Outbox
from tailrace.core.ports import DropEntry, PutEntry, Record
from tailrace.errors import CallCancelled, LimitError, StoreError
from tests.core.support import Work, make_tasks, virtual

MESSAGE = Message("id", "orders", None, b"1", (), 0.0)


class Box(Outbox):
    def __init__(self) -> None:
        self.written: list[Message] = []
        self.made_for: list[Context] = []
        self.delivered_to: list[Message] = []

    def message(
        self, context: Context, topic: str, value: Any, key: str | bytes | None, headers: Mapping[str, str | bytes]
    ) -> Message:
        self.made_for.append(context)
        lines = tuple((name, value.encode() if isinstance(value, str) else value) for name, value in headers.items())
        return Message("id", topic, key.encode() if isinstance(key, str) else key, value, lines, 0.0)

    async def write(self, messages: Sequence[Message], along: Sequence[Record] = ()) -> None:
        self.written += messages

    def entries(self, messages: Sequence[Message]) -> Sequence[PutEntry]:
        return [PutEntry("outbox", message.id, message.value, 1e11) for message in messages]

    def delivered(self) -> Sequence[DropEntry]:
        return [DropEntry("outbox", "earlier")]

    def committed(self, messages: Sequence[Message], entries: Sequence[PutEntry]) -> None:
        assert [entry.key for entry in entries] == [message.id for message in messages]
        self.delivered_to += messages


def publishing(box: Box) -> Context:
    context = Context()
    context.set_values({OUTBOX: box})
    return context


@virtual
async def test_a_call_collects_and_what_is_skipped_depends_on_the_client() -> None:
    box = Box()

    async def work(call: Work) -> bytes:
        call.context.set_values({OUTBOX: box})
        await call.context.publish("always", b"1", headers={"h": "v"})
        call.context.with_value("more", 1).publish_nowait("perhaps", b"2", if_gone="skip")
        return b"done"

    call = Work(make_tasks(), work).accepted()
    call.start()
    assert call.task is not None
    await call.task
    assert box.written == []
    assert call.collected is not None
    assert [message.topic for message in call.collected.take(gone=True)] == ["always"]
    assert call.collected.take(gone=False) == []


def test_with_the_client_there_nothing_is_skipped() -> None:
    collected = Collected(Box())
    message = Message("id", "t", None, b"", (), 0.0)
    collected.add(message, skip_if_gone=True)
    assert collected.take(gone=False) == [message]


@virtual
async def test_outside_of_a_running_call_a_message_is_written_at_once() -> None:
    box = Box()
    context = publishing(box)
    await context.detach().publish("t", b"1")
    assert [message.value for message in box.written] == [b"1"]
    with pytest.raises(RuntimeError, match="needs a running call"):
        context.publish_nowait("t", b"2")


@virtual
async def test_after_the_outcome_of_a_call_a_message_is_written_at_once() -> None:
    box = Box()
    call = Work(make_tasks()).accepted()
    call.context.set_values({OUTBOX: box})
    call.decided = True
    await call.context.publish("t", b"1")
    assert len(box.written) == 1


@virtual
async def test_a_call_whose_outcome_is_decided_is_not_cancelled() -> None:
    gate = asyncio.Event()

    async def work(call: Work) -> bytes:
        call.decided = True
        await gate.wait()
        return b"done"

    call = Work(make_tasks(), work).accepted()
    call.start()
    await asyncio.sleep(0)
    call.cancel(CallCancelled("too late"))
    gate.set()
    assert call.task is not None
    await call.task
    assert call.answers == [b"done"]


@virtual
async def test_without_an_outbox_and_with_a_wrong_word_it_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="--publish"):
        await Context().publish("t", b"")
    with pytest.raises(ValueError, match="if_gone is publish or skip"):
        await publishing(Box()).publish("t", b"", if_gone="maybe")  # type: ignore[arg-type]


def test_a_call_publishes_so_much_and_no_more() -> None:
    message = Message("id", "t", None, b"x", (), 0.0)
    many = Collected(Box())
    for _ in range(1000):
        many.add(message, skip_if_gone=False)
    with pytest.raises(LimitError, match="1000 messages"):
        many.add(message, skip_if_gone=False)
    large = Collected(Box())
    large.add(Message("id", "t", None, bytes(4 * 1024 * 1024), (), 0.0), skip_if_gone=False)
    with pytest.raises(LimitError) as refused:
        large.add(message, skip_if_gone=False)
    assert refused.value.limit == "outbox"


@virtual
async def test_a_message_is_made_of_all_that_was_given_for_the_context_it_was_given_in() -> None:
    box = Box()
    detached = publishing(box)
    await detached.publish("t", b"1", key="k", headers={"h": "v"})
    call = Work(make_tasks()).accepted()
    call.context.set_values({OUTBOX: box})
    call.context.publish_nowait("u", b"2", key=b"l", headers={"i": b"w"})
    assert box.made_for == [detached, call.context]
    assert call.collected is not None
    assert call.collected.outbox is box
    assert box.written == [Message("id", "t", b"k", b"1", (("h", b"v"),), 0.0)]
    assert call.collected.take(gone=True) == [Message("id", "u", b"l", b"2", (("i", b"w"),), 0.0)]
    call.cancel(CallCancelled("enough"))


@pytest.mark.parametrize("error", [None, StoreError("the disk is full")])
def test_what_leaves_with_an_answer_is_delivered_once_that_is_safe(error: StoreError | None) -> None:
    box = Box()
    leaving = Leaving(box, [MESSAGE], lambda error: f"failed: {error}".encode())
    assert [type(record) for record in leaving.records()] == [PutEntry, DropEntry]
    assert box.delivered_to == []
    assert leaving.settled(error) == (None if error is None else b"failed: the disk is full")
    assert box.delivered_to == ([MESSAGE] if error is None else [])
