"""A worker's answers to what the admin address is asked: over a socket that it has inherited from the supervisor.

Nobody else has the other end, so nothing is asked for here. Questions are answered one after the other; who asks does
not wait for long, and leaves a process that does not answer out. At the end of a process its last numbers are told.

On the wire: four bytes of length, then MessagePack: ``[number, question]``, and ``[number, answer, refusal]``, of which
one is null. A supervisor outlives the code that its workers run: a question that is not known is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec import Struct

from tailrace.console.questions import Answers, Question, Refusal
from tailrace.server.pages import answers_of

if TYPE_CHECKING:
    from tailrace.server import Server
    from tailrace.server.tallies import Family

__all__ = ["FAREWELL", "MAX_ANSWER", "Asked", "Control", "Numbers", "frame", "read_frame"]

logger = logging.getLogger("tailrace.server")

MAX_ANSWER = 32 * 1024 * 1024  # bytes
FAREWELL = 0  # the number of the last frame, for which nobody has asked: what this process has counted
_MAX_QUESTION = 64 * 1024
_CLOSE = 0.5  # seconds for the last frame


class Numbers(Struct, frozen=True, tag="numbers"):
    """What `/metrics` shows of a process."""


Asked: TypeAlias = Question | Numbers

_envelopes = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_questions = msgspec.msgpack.Decoder(Asked)


def frame(*said: Any) -> bytes:
    """A question, or an answer, with its number, as it travels."""
    body = msgspec.msgpack.encode(said)
    return len(body).to_bytes(4, "big") + body


async def read_frame(reader: asyncio.StreamReader, limit: int) -> bytes:
    """The next one.

    Raises:
        EOFError: The other side is gone, or sends more than `limit` bytes.
        OSError: The same.
    """
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > limit:
        raise EOFError("a frame that is too long")
    return await reader.readexactly(length)


class Control:
    """Answers for one worker.

    Args:
        running: The server. It has started when `open` is called.
        descriptor: The socket's.
    """

    def __init__(self, running: Server, descriptor: int) -> None:
        self._running = running
        self._socket = socket.socket(fileno=descriptor)
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answers: Answers | None = None
        self._families: Callable[[], list[Family]]

    async def open(self) -> None:
        """Begin to answer."""
        from tailrace.server.metrics import registry_of
        from tailrace.server.tallies import families_of

        running = self._running
        registry = registry_of(running, running.measure())
        self._families = lambda: families_of(registry)
        self._answers = answers_of(running)
        reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._task = running.tasks.start(self._serve(reader, self._writer), name="tailrace-control", lasting=True)

    async def close(self) -> None:
        """Tell the last numbers, and end. Idempotent."""
        task, self._task = self._task, None
        if task is None or self._writer is None:
            return
        task.cancel()
        families = self._answer(msgspec.Raw(msgspec.msgpack.encode(Numbers())))
        if not isinstance(families, Refusal):
            self._writer.write(frame(FAREWELL, families, None))
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await self._writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, OSError):  # the supervisor is gone, and so are we in a moment
            while True:
                number, asked = _envelopes.decode(await read_frame(reader, _MAX_QUESTION))
                answer = self._answer(asked)
                refused = isinstance(answer, Refusal)
                said = frame(number, None if refused else answer, answer if refused else None)
                if len(said) > MAX_ANSWER:
                    said = frame(number, None, Refusal(500, "the answer is too long"))
                writer.write(said)
                await writer.drain()

    def _answer(self, asked: msgspec.Raw) -> Any:
        try:
            question = _questions.decode(asked)
            if isinstance(question, Numbers):
                return self._families()
            return None if self._answers is None else self._answers.answer(question)
        except msgspec.ValidationError:
            return Refusal(501, "this worker does not know the question")
        except Exception:
            logger.exception("a question of the admin address failed")
            return Refusal(500, "internal error")
