"""Streaming calls as programs hold them. Leaving a stream's block is bounded, whatever the server does (G5).

    async with client.server_stream("orders.v1.Orders/Watch", Watch(), response=Event) as events:
        async for event in events:
            ...

Leaving the block ends the call: at once, if the server has not ended it (it is told: `break`, an exception, a
cancellation). `aclose` ends it gracefully first, inside limits of time and bytes; `close_nowait` never waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tailrace.clients.connect.call import Call, Messages
from tailrace.clients.connect.rawstream import RawStream
from tailrace.errors import StreamEnded

if TYPE_CHECKING:
    from tailrace.wire.metadata import Metadata

__all__ = ["BidiStream", "ClientStream", "ServerStream", "StreamBase"]

Request = TypeVar("Request")
Response = TypeVar("Response")
Opens = Callable[[Call], Awaitable[tuple[Messages, RawStream]]]


class StreamBase(Generic[Request, Response]):
    """What all streaming calls have. Use it as ``async with``, once.

    One task receives and one sends at a time; any task may close.

    Args:
        call: The call.
        opens: Starts it, through the interceptors.
    """

    def __init__(self, call: Call, opens: Opens) -> None:
        self._call = call
        self._opens = opens
        self._messages: Messages | None = None
        self._raw: RawStream | None = None
        self._early = False  # closed before it was opened

    async def __aenter__(self) -> Self:
        """Send the request's head (and the message, of a server stream); the answer is not waited for.

        Raises:
            RpcError: The deadline has passed, or the client is closed.
        """
        if self._raw is not None or self._early:
            raise RuntimeError("a stream is used once: make a new one")
        self._messages, self._raw = await self._opens(self._call)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the call: at once, if it has not ended; else the answer's last bytes are waited for, 1 s at most."""
        await self._opened().leave(error)

    # --- what came beside the messages ---

    @property
    def headers(self) -> Metadata:
        """The answer's, once it has begun (`open`, or the first message); empty before."""
        return self._call.answer_headers

    @property
    def trailers(self) -> Metadata:
        """The answer's, once it has ended; empty before."""
        return self._call.answer_trailers

    @property
    def call(self) -> Call:
        """The call."""
        return self._call

    async def open(self) -> Metadata:
        """Wait until the server has begun to answer; gives its headers. Servers may begin with the first message only.

        Raises:
            RpcError: It refused, or cannot be reached; the deadline passed; the stream was closed.
        """
        await self._opened().open()
        return self.headers

    # --- ending ---

    async def aclose(self, timeout: float | None = None, max_bytes: int | None = None) -> None:
        """End it gracefully: send no more, read the answer to its end so that the connection can be used again, and
        reset it once a limit is reached. Whoever receives is told at once that it is closed. Idempotent.

        Args:
            timeout: Seconds; by default the call's `close_timeout` (30). 0: as `close_nowait`.
            max_bytes: Of the answer, at most; by default the call's `close_max_bytes` (1 MiB).
        """
        if self._raw is None:
            return self.close_nowait()
        await self._raw.aclose(timeout, max_bytes)

    def close_nowait(self) -> None:
        """End it now: the stream is reset (HTTP/1.1: its connection closed), the server learns of it at once, and
        whoever waits raises `RpcError` with CANCELED. Never waits; idempotent."""
        if self._raw is None:
            self._early = True
        else:
            self._raw.close_nowait()

    @property
    def closed(self) -> bool:
        """Nothing of it is left on the connection."""
        return self._early or (self._raw is not None and self._raw.closed)

    # --- for those who derive ---

    def _opened(self) -> RawStream:
        if self._raw is None:
            raise RuntimeError("a stream is opened by its block: async with client.server_stream(...) as stream")
        return self._raw

    def _through(self) -> Messages:
        self._opened()
        assert self._messages is not None
        return self._messages


class _Receives(StreamBase[Request, Response], AsyncIterator[Response]):
    async def receive(self) -> Response | None:
        """The next message, or None once the server has ended the stream well. A wait that is cancelled (as by
        `asyncio.timeout`) loses nothing.

        Raises:
            RpcError: How the call ended, if not well; CANCELED: it was closed here; DEADLINE_EXCEEDED (then it is a
                `TimeoutError` as well).
        """
        message: Any = await self._through().receive()
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Response:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message


class _Sends(StreamBase[Request, Response]):
    async def send(self, message: Request) -> None:
        """Send one message: returns when the connection has room for it, no later than the call's end.

        Raises:
            StreamEnded: The server has ended the call, or takes no more; `receive` tells how.
            RpcError: It ended otherwise (see `receive`), or the message is longer than `send_max_bytes`.
            ValueError: A value in it does not fit its type.
            RuntimeError: After `close_send`.
        """
        await self._through().send(message)

    async def close_send(self) -> None:
        """There are no more messages. Idempotent; does not wait for the server."""
        await self._through().close_send()


class ServerStream(_Receives[Request, Response]):
    """One message out, many in."""


class BidiStream(_Receives[Request, Response], _Sends[Request, Response]):
    """Many messages out and in, at the same time (over HTTP/2; with some servers not over HTTP/1.1)."""


class ClientStream(_Sends[Request, Response]):
    """Many messages out, one in."""

    def __init__(self, call: Call, opens: Opens) -> None:
        super().__init__(call, opens)
        self._answered: Response | None = None

    async def send(self, message: Request) -> None:
        """Send one message, as `BidiStream.send`; where the server has refused the call, its `RpcError` is raised."""
        try:
            await super().send(message)
        except StreamEnded:
            self._answered = await self._opened().receive_only(self._through())  # or why there is none
            raise

    async def close_and_receive(self) -> Response:
        """There are no more messages: gives the server's answer.

        Raises:
            RpcError: How the call ended, if not well.
        """
        if self._answered is not None:
            return self._answered
        await self.close_send()
        answered: Any = await self._opened().receive_only(self._through())
        self._answered = answered
        return answered
