"""A call on its connection: messages out and in, and every way in which it ends. Interceptors are around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tailrace.clients.connect.answers import make_answer
from tailrace.clients.connect.failures import failure, rpc_error
from tailrace.clients.connect.requests import Codec, encode, get_query, pack, request_headers, wrap
from tailrace.clients.connect.upload import Upload
from tailrace.core.stream import State, Stream
from tailrace.errors import CallCancelled, Code, RpcError, StreamEnded
from tailrace.schema.messages import InvalidMessage

if TYPE_CHECKING:
    from tailrace.clients.connect.call import Call, Messages
    from tailrace.clients.connect.http import Answering, Connections
    from tailrace.wire.rpc import Protocol

__all__ = ["RawStream", "Way"]

_TAIL_LIMIT = 1.0  # seconds for the body to end once its last message is there; the close's own limit, if that is less


class Way:
    """What all calls of one client have in common.

    Args:
        http: Its connections.
        base_url: Before the path of each call.
        protocol: Which of the three.
        codec: How messages are written.
        open: The streams that are open.
    """

    __slots__ = ("base_url", "codec", "http", "open", "protocol")

    def __init__(self, http: Connections, base_url: str, protocol: Protocol, codec: Codec) -> None:
        self.http = http
        self.base_url = base_url
        self.protocol: Protocol = protocol
        self.codec: Codec = codec
        self.open: dict[RawStream, None] = {}


class RawStream:
    """One call. One task sends and one receives at a time; any may close.

    Args:
        way: What it goes over.
        call: What it is.
        decode: Makes its messages of bytes.
    """

    def __init__(self, way: Way, call: Call, decode: Callable[[bytes], Any]) -> None:
        self._way = way
        self._call = call
        self._decode = decode
        self._unary = way.protocol == "connect" and call.kind == "unary"
        self._one = call.kind in ("unary", "server_stream")  # message in the request
        self._answer = make_answer(
            way.protocol,
            way.codec,
            call.options.accept_compression,
            call.options.read_max_bytes,
            stream=not self._unary,
        )
        self._upload = None if self._one else Upload()
        self._begun = False
        self._pipe: Answering | None = None
        self._stream: Stream | None = None
        self._reason: Exception | None = None  # why it was closed before it was sent
        way.open[self] = None

    @property
    def closed(self) -> bool:
        """Nothing more happens."""
        return self._reason is not None if self._stream is None else self._stream.state is State.CLOSED

    # --- out ---

    def start(self) -> None:
        """Send the head of a request whose messages follow.

        Raises:
            RpcError: The deadline passed, or it was closed.
        """
        if self._stream is None and self._upload is not None:
            self._upload.stream = self._send_request(self._upload, self._call.options.send_compression)

    async def send(self, message: Any) -> None:
        """Send one message; see `Messages.send`."""
        options = self._call.options
        data = encode(message, self._call.request, self._way.codec, options.send_max_bytes)
        least = options.compress_min_bytes
        if self._upload is not None:
            self.start()
            if self._answer.ended:
                raise StreamEnded("the server ended the call: receive() tells how")
            try:
                await self._upload.send(wrap(data, options.send_compression, least))
            except Exception as error:
                told = failure(error, expired=self._expired())
                if told is error:
                    raise
                raise told from error
        elif self._stream is not None:
            raise RuntimeError(f"a {self._call.kind} call sends one message")
        elif self._unary:
            body, compression = pack(data, options.send_compression, least)
            self._send_request(body, compression)
        else:
            self._send_request(wrap(data, options.send_compression, least), options.send_compression)

    async def close_send(self) -> None:
        """There are no more; see `Messages.close_send`."""
        if self._upload is not None:
            self.start()
            self._upload.close()

    # --- in ---

    async def open(self) -> None:
        """Wait until the server has begun to answer.

        Raises:
            RpcError: It refused, or cannot be reached; the deadline passed; it was closed.
        """
        stream = self._sent()
        try:
            await stream.open()
            self._begin()
        except Exception as error:
            self._fail(error)
            raise

    async def receive(self) -> Any:
        """The next message; None at the end; see `Messages.receive`."""
        stream, answer = self._sent(), self._answer
        try:
            while True:
                data = answer.next()
                if data is not None:
                    return self._decode(data)
                if answer.ended:
                    self._end()
                    return None
                piece = await stream.read()
                self._begin()
                if piece:
                    answer.feed(piece)
                else:
                    assert self._pipe is not None
                    answer.finish(self._pipe.trailers)
        except Exception as error:
            self._fail(error)
            raise

    async def receive_only(self, messages: Messages | None = None) -> Any:
        """The one message of an answer that has one, and its end, for which it waits `close_timeout` at most.

        Args:
            messages: Through which it is received; by default this.

        Raises:
            RpcError: As `receive`; UNIMPLEMENTED: there is none, or more than one.
        """
        messages = messages or self
        message = await messages.receive()
        if message is None:
            raise self._refuse(Code.UNIMPLEMENTED, "the server answered without a message")
        limit = self._call.options.close_timeout
        timer = asyncio.get_running_loop().call_later(limit, self._late, limit)
        try:
            if await messages.receive() is not None:
                raise self._refuse(Code.UNIMPLEMENTED, "the server answered with more than one message")
        finally:
            timer.cancel()
        return message

    # --- the end ---

    async def leave(self, error: BaseException | None) -> None:
        """Its user is done: what has ended is given a moment for the connection's sake, what has not is dropped.

        Args:
            error: With which the user left, or None.
        """
        if self._stream is None or not self._answer.ended or not (error is None or isinstance(error, RpcError)):
            self.close_nowait()
        else:
            await self.aclose(min(_TAIL_LIMIT, self._call.options.close_timeout))

    async def aclose(self, timeout: float | None = None, max_bytes: int | None = None) -> None:
        """End it gracefully inside both limits; see `core.stream.Stream.aclose`."""
        if self._stream is None:
            return self.close_nowait()
        self._finish_upload()
        await self._stream.aclose(timeout, max_bytes)

    def close_nowait(self, reason: Exception | None = None) -> None:
        """End it at once; see `core.stream.Stream.close_nowait`."""
        if self._stream is not None:
            self._stream.close_nowait(reason)
        elif self._reason is None:
            self._reason = reason or CallCancelled("the stream was closed")
            self._forget()

    # --- inside ---

    def _sent(self) -> Stream:
        self.start()
        if self._stream is None:
            raise failure(self._reason) if self._reason is not None else RuntimeError("nothing was sent yet")
        return self._stream

    def _send_request(self, body: bytes | Upload, compression: str) -> Stream:
        call, way, loop = self._call, self._way, asyncio.get_running_loop()
        left = None if call.deadline is None else call.deadline - loop.time()
        if self._reason is not None:
            raise failure(self._reason)
        if left is not None and left <= 0:
            raise self._refuse(Code.DEADLINE_EXCEEDED, "the deadline passed before the call was sent")
        call.attempts += 1
        url = f"{way.base_url}/{call.path}"
        method = "POST"
        if call.get and isinstance(body, bytes):
            whole = f"{url}?{get_query(way.codec, body, compression)}"
            call.get = len(whole) <= call.options.get_max_url_bytes
            url, method = (whole, "GET") if call.get else (url, method)
        headers = request_headers(
            call, way.protocol, way.codec, stream=not self._unary, left=left, compression=compression
        )
        self._pipe = way.http.request(method, url, headers, None if method == "GET" else body)
        self._stream = Stream(
            self._pipe,
            deadline=call.deadline,
            close_timeout=call.options.close_timeout,
            close_max_bytes=call.options.close_max_bytes,
            on_closed=self._closed,
        )
        return self._stream

    def _begin(self) -> None:
        if self._begun or self._pipe is None:
            return
        self._begun = True
        call = self._call
        call.status = self._pipe.status
        try:
            self._answer.begin(call.status, self._pipe.headers)
        finally:
            call.answer_headers = self._answer.headers

    def _end(self) -> None:
        self._call.answer_headers = self._answer.headers
        self._call.answer_trailers = self._answer.trailers
        if self._answer.error is not None:
            raise self._answer.error

    def _fail(self, error: Exception) -> None:
        """End the call because of `error`, and raise what its program is to know of it, where that is another one."""
        if isinstance(error, RuntimeError):  # misuse ends nothing
            return
        if isinstance(error, InvalidMessage):
            told: Exception = rpc_error(Code.INTERNAL, f"the server's message cannot be read: {error}")
        else:
            told = failure(error, expired=self._expired())
        if error is not self._answer.error:  # the server's own word; the body's end may still come
            self.close_nowait(told)
        if told is not error:
            raise told from error

    def _refuse(self, code: Code, message: str) -> RpcError:
        error = rpc_error(code, message)
        self.close_nowait(error)
        return error

    def _late(self, limit: float) -> None:
        self._refuse(Code.INTERNAL, f"the server did not end its answer within {limit:g} s of its message")

    def _expired(self) -> bool:
        deadline = self._call.deadline
        return deadline is not None and asyncio.get_running_loop().time() >= deadline

    def _finish_upload(self) -> None:
        if self._upload is not None:
            self._upload.close()

    def _closed(self, stream: Stream) -> None:
        self._finish_upload()
        self._forget()

    def _forget(self) -> None:
        self._way.open.pop(self, None)
        if (observed := self._call.observed) is not None:
            observed.end(self._outcome())

    def _outcome(self) -> Exception | None:
        """Why the call failed; None: it did not."""
        if self._answer.ended or self._answer.error is not None:
            return self._answer.error
        reason = self._reason if self._stream is None else self._stream.reason
        return failure(reason) if reason is not None else None
