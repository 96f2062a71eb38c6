"""What a call wants published: collected while it runs, and written to the outbox together with its end.

A failed call publishes nothing, so a message leaves its call only with the call's success. Detached work has
no end that could fail: its messages are written at once. How a message is encoded, kept and delivered is left
to `publish`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tailrace.errors import LimitError

if TYPE_CHECKING:
    from tailrace.core.context import Context
    from tailrace.core.ports import DropEntry, PutEntry, Record
    from tailrace.errors import StoreError

__all__ = ["OUTBOX", "Collected", "Leaving", "Message", "Outbox"]

OUTBOX = "io.tailrace/outbox"  # the value of a context under which its outbox is found

_MAX_MESSAGES = 1000  # of one call
_MAX_BYTES = 4 * 1024 * 1024


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One message on its way to a broker.

    Attributes:
        id: The same at every attempt, also after a crash: what a consumer tells doubles by.
        topic: Where it goes.
        key: Messages of one topic and key are delivered in the order in which they were committed; None: no order.
        value: Encoded.
        headers: Names and values, `message-id` and what traces the request among them.
        created: Wall clock, seconds.
    """

    id: str
    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    created: float


class Outbox(Protocol):
    """Keeps messages until a broker has them."""

    def message(
        self, context: Context, topic: str, value: Any, key: str | bytes | None, headers: Mapping[str, str | bytes]
    ) -> Message:
        """Encode a message, with the headers that trace it back to `context`.

        Raises:
            LimitError: Too many wait for the broker.
            ValueError: It cannot be encoded, or is too large.
        """
        ...

    async def write(self, messages: Sequence[Message], along: Sequence[Record] = ()) -> None:
        """Commit messages and the records that they depend on, all or none; then deliver them.

        Raises:
            StoreError: They are not safe.
        """
        ...

    def entries(self, messages: Sequence[Message]) -> Sequence[PutEntry]:
        """The records of messages that somebody else commits; at once, for their numbers are those of the commits."""
        ...

    def delivered(self) -> Sequence[DropEntry]:
        """What may be forgotten of earlier messages, at the cost of no commit of its own: write it, and it is."""
        ...

    def committed(self, messages: Sequence[Message], entries: Sequence[PutEntry]) -> None:
        """He did: deliver them."""
        ...


class Collected:
    """The messages of one call, until it ends.

    Attributes:
        outbox: Where they go.
    """

    __slots__ = ("_bytes", "_messages", "outbox")

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._messages: list[tuple[Message, bool]] = []
        self._bytes = 0

    def add(self, message: Message, *, skip_if_gone: bool) -> None:
        """Take one more.

        Raises:
            LimitError: The call has published 1,000 messages, or 4 MiB.
        """
        self._bytes += len(message.value)
        if len(self._messages) >= _MAX_MESSAGES or self._bytes > _MAX_BYTES:
            raise LimitError("outbox", f"one call publishes at most {_MAX_MESSAGES} messages and {_MAX_BYTES} bytes")
        self._messages.append((message, skip_if_gone))

    def take(self, *, gone: bool) -> list[Message]:
        """Those that are to be published, given whether the client is gone; none is left."""
        messages = [message for message, skip in self._messages if not (skip and gone)]
        self._messages.clear()
        return messages


class Leaving:
    """The messages of a call that has succeeded, on their way into the write that carries its answer: so both are
    safe at the cost of one commit, or neither is.

    Args:
        outbox: Where they go.
        messages: One at least.
        unpublished: Gives the answer to give instead, where the write fails.
    """

    __slots__ = ("_entries", "_messages", "_outbox", "_unpublished")

    def __init__(self, outbox: Outbox, messages: Sequence[Message], unpublished: Callable[[StoreError], bytes]) -> None:
        self._outbox = outbox
        self._messages = messages
        self._unpublished = unpublished
        self._entries: Sequence[PutEntry] = ()

    def records(self) -> Sequence[Record]:
        """What is to be written, now."""
        self._entries = self._outbox.entries(self._messages)
        return [*self._entries, *self._outbox.delivered()]

    def settled(self, error: StoreError | None) -> bytes | None:
        """The outcome of that write; gives the answer to give instead, if it failed."""
        if error is not None:
            return self._unpublished(error)
        self._outbox.committed(self._messages, self._entries)
        return None
