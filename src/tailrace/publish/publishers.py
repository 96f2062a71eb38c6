"""Where messages go: the protocol that a publisher fulfils, and two that need no broker.

A publisher is told messages and says of each whether the broker has it. When to try again, in which order, and
what is given up is the relay's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tailrace.errors import DefinitionError, TailraceError

if TYPE_CHECKING:
    from tailrace.core.outgoing import Message

__all__ = ["LogPublisher", "MemoryPublisher", "Publisher", "Rejected", "make_publisher"]

logger = logging.getLogger("tailrace.publish")

_KEPT = 10_000  # messages that the memory publisher remembers
_SHOWN = 200  # characters of a value in the log


class Rejected(TailraceError):
    """The broker refuses this message itself (too large, not allowed, no such topic): it is tried again a few times
    only, and then kept as a dead letter. Any other exception means that the broker cannot be reached."""


class Publisher(Protocol):
    """Delivers messages; one relay uses it, from one event loop.

    Attributes:
        name: For the log and `statistics()`; without secrets.
    """

    name: str

    async def open(self) -> None:
        """Connect; any exception: try again later."""
        ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        """Deliver, and say for each message None (the broker has it, durably) or why not.

        No two messages of one call share a topic and a key. It may be cancelled: what is then under way may arrive
        or not, and is told again.
        """
        ...

    async def close(self) -> None:
        """Disconnect, within a few seconds; whatever was not said to be delivered is delivered again."""
        ...


class LogPublisher:
    """Writes messages to the log: for development."""

    name = "log:"

    async def open(self) -> None:
        """Nothing to connect to."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        """One INFO record each."""
        for message in messages:
            logger.info(
                "published topic=%s key=%r message_id=%s value=%s",
                message.topic,
                message.key,
                message.id,
                message.value[:_SHOWN].decode(errors="replace"),
            )
        return [None] * len(messages)

    async def close(self) -> None:
        """Nothing to close."""


class MemoryPublisher:
    """Keeps messages in a list: for tests.

    Attributes:
        messages: What was published, the newest last; at most 10,000.
    """

    name = "memory:"

    def __init__(self) -> None:
        self.messages: deque[Message] = deque(maxlen=_KEPT)

    async def open(self) -> None:
        """Nothing to connect to."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        """Take all."""
        self.messages.extend(messages)
        return [None] * len(messages)

    async def close(self) -> None:
        """The messages stay."""


def make_publisher(text: str | Publisher) -> Publisher:
    """A publisher from ``kafka://HOST:PORT[,HOST:PORT]``, ``kafkas://`` (TLS), ``log:``, ``memory:``, or one itself.

    Raises:
        DefinitionError: It is none of these.
    """
    if not isinstance(text, str):
        return text
    if text == "log:":
        return LogPublisher()
    if text == "memory:":
        return MemoryPublisher()
    if text.startswith(("kafka://", "kafkas://")):
        from tailrace.publish.kafka import KafkaPublisher

        return KafkaPublisher.from_url(text)
    raise DefinitionError(f"no such publisher: {text!r}; give kafka://HOST:PORT, log: or memory:")
