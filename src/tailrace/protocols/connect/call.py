"""One call of a method: messages in, the handler's run, messages and an end out."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import secrets
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.core.call import Call
from tailrace.core.headers import RequestHeaders, headers_of
from tailrace.core.interrupts import is_foreign
from tailrace.core.meter import Operation
from tailrace.errors import (
    CallCancelled,
    CapabilityError,
    ClientGone,
    Code,
    DeadlineExceeded,
    LimitError,
    RpcError,
    StoreError,
    ToolError,
)
from tailrace.protocols.connect.info import Info
from tailrace.protocols.connect.inlet import Inlet
from tailrace.protocols.connect.outlet import Outlet
from tailrace.schema.protobuf import InvalidMessage
from tailrace.service.providers import provide
from tailrace.wire import connect
from tailrace.wire.compression import decompress
from tailrace.wire.rpc import details_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from tailrace.core.exchange import Exchange
    from tailrace.core.ports import Record
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks
    from tailrace.protocols.connect.opening import Opening
    from tailrace.service import Interceptor, Method, Next

__all__ = ["Home", "RpcCall", "RpcReply", "error_of"]

logger = logging.getLogger("tailrace.rpc")


class Home(Protocol):
    """What a call needs to know of the endpoint it came to."""

    settings: Settings
    tasks: Tasks

    @property
    def interceptors(self) -> Sequence[Interceptor]:
        """The service's."""
        ...

    @property
    def draining(self) -> bool:
        """The server is shutting down."""
        ...


class RpcReply:
    """The exchange that brought a call, as the way back (fulfils `core.call.Reply`).

    Attributes:
        exchange: The request.
        outlet: Of a streamed answer, once its head is sent.
    """

    __slots__ = ("exchange", "outlet")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.outlet: Outlet | None = None

    def notify(self, call: Call, payload: bytes) -> None:
        """RPC has no notifications."""

    def answer(self, call: Any, payload: bytes | None) -> None:
        """The call has ended: with these frames, or with its error."""
        exchange, info, form = self.exchange, call.info, call.opening.form
        exchange.on_gone = None
        if exchange.source is not None:
            exchange.source.stop()
        trailers = None if info is None else info.response_trailers
        if self.outlet is not None:
            self.outlet.finish(*form.end(call.error, trailers))
        elif not exchange.gone:
            headers = None if info is None else info.response_headers
            form.reply(exchange, payload or b"", call.error, headers, trailers)

    async def room(self) -> None:
        """Nothing is sent beside the messages."""

    async def room_for(self, size: int) -> bool:
        """The answer's size is checked as it is made."""
        return True

    @property
    def gone(self) -> bool:
        """The client is gone."""
        return self.exchange.gone

    def records(self, call: Any) -> Sequence[Record]:
        """Nothing is stored of a call."""
        return ()

    def carries(self, call: Any) -> bool:
        """What it publishes is committed before its answer."""
        return False


class RpcCall(Call):
    """A call of a method.

    Attributes:
        method: What is called.
        opening: What the request's head says.
        info: What the handler sees of it, if it looked.
        error: How it ended, if not well.
    """

    __slots__ = ("_exits", "_items", "error", "home", "info", "method", "opening")

    reply: RpcReply

    def __init__(self, number: int, home: Home, opening: Opening, exchange: Exchange) -> None:
        super().__init__(number, number, number, None, home.tasks, RpcReply(exchange))
        self.home = home
        self.opening = opening
        self.method: Method = opening.method
        self.info: Info | None = None
        self.error: RpcError | None = None
        self._items: Any = None
        self._exits: AsyncExitStack | None = None

    @property
    def rpc(self) -> Info:
        """Headers and trailers."""
        if self.info is None:
            self.info = Info(self)
        return self.info

    @property
    def headers(self) -> RequestHeaders:
        """The request's, as text."""
        return headers_of(self.reply.exchange)

    @property
    def label(self) -> str:
        """For people: which call this is."""
        return self.method.path

    @property
    def operation(self) -> Operation | None:
        """Its method; Connect and gRPC are told apart, gRPC-Web is gRPC."""
        return Operation(self.opening.form.kind.system, self.method.path, "")

    # --- its life ---

    def cancel(self, error: Exception) -> None:
        """End it early. A handler that does not end within the grace is not waited for: its caller is answered."""
        super().cancel(error)
        if self.cancelled_by is error and not self.over:
            loop, grace = self.tasks.loop, self.home.settings.grace
            loop.call_later(grace, self.abandon, error, context=contextvars.Context())

    def left(self) -> None:
        """The client went away, or reset the stream: the handler is told at once."""
        self.cancel(self.reply.exchange.gone_by or ClientGone())

    def open(self) -> Outlet | None:
        """Send the head of a streamed answer, unless it is sent. Answers of one message are sent whole.

        Returns:
            Its way out; None where there is none.
        """
        reply, exchange = self.reply, self.reply.exchange
        if reply.outlet is None and self.method.is_generator and not (exchange.gone or self.over):
            reply.outlet = outlet = Outlet(self.home.settings.rpc_ahead)
            headers = None if self.info is None else self.info.response_headers
            exchange.stream(200, self.opening.form.start(headers), outlet.write)
        return reply.outlet

    async def run(self) -> bytes | None:
        """Run the handler. Whatever it does, there is an answer; only a cancellation of the call comes out."""
        try:
            work = self._stream() if self.method.is_generator else self._single()
            tool = self.method.tool
            frames = await (work if tool is None or not tool.provided else self._provided(work))
            if self.collected is not None:
                await self._publish()
            return frames
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.cancelled_by is not None or (task is not None and task.cancelling()):
                raise
            return self._bug("the method was cancelled from inside")
        except (ToolError, CallCancelled, LimitError) as error:
            if isinstance(error, LimitError):
                self.tasks.refuse(error.limit)
            return self._fail(error_of(error, draining=self.home.draining))
        except BaseException as error:  # also SystemExit, and those of test frameworks: an accepted call is answered
            if is_foreign(error, self.task):
                raise
            return self._bug("the method raised an exception")

    async def _provided(self, work: Awaitable[bytes]) -> bytes:
        """What its handler is provided with ends after it, of a stream after its last item."""
        async with AsyncExitStack() as self._exits:
            return await work

    async def _single(self) -> bytes:
        return self._frame(await self._handle(self._input()))

    async def _stream(self) -> bytes:
        """An async generator's items are messages: each is handed over, and waits for the connection to take it."""
        items = await self._handle(self._input())
        try:
            async for item in items:
                frame = self._frame(item)
                outlet = self.reply.outlet or self.open()
                if outlet is None:
                    raise ClientGone
                if not outlet.put(frame):
                    await outlet.room()
        finally:
            for one in (items, self._items):  # what an interceptor makes of it, and the handler's own
                if hasattr(one, "aclose"):
                    await one.aclose()
        return b""

    def _input(self) -> Any:
        """The request's message, or the iterator of its messages."""
        method = self.method
        if method.stream_param is None:
            return self._request()
        input = method.input
        decode = input.from_json if self.opening.form.kind.codec == "json" else input.from_proto
        return Inlet(self.reply.exchange, self.opening.form, decode)

    async def _handle(self, request: Any) -> Any:
        """Let the interceptors and then the handler have the request."""
        interceptors = self.home.interceptors
        if not interceptors:
            return await self._call(request)
        step: Any = self._call
        for interceptor in reversed(interceptors):
            step = partial(self._intercept, interceptor, step)
        return await step(request)

    async def _intercept(self, interceptor: Interceptor, next: Next, request: Any) -> Any:
        return await interceptor(self.context, request, next)

    async def _call(self, request: Any) -> Any:
        method = self.method
        arguments = method.bind(request) if method.stream_param is None else {method.stream_param: request}
        if method.context_param is not None:
            arguments[method.context_param] = self.context
        if method.tool is not None and method.tool.provided:
            assert self._exits is not None
            arguments.update(await provide(self._exits, method.tool.provided, self.context, self.tasks.in_thread))
        if method.is_async:
            return await method.fn(**arguments)
        if method.is_generator:
            self._items = method.fn(**arguments)
            return self._items
        value = await self.tasks.in_thread(partial(method.fn, **arguments))
        return await value if inspect.isawaitable(value) else value

    def _request(self) -> Any:
        """The request's one message.

        Raises:
            RpcError: It is none.
        """
        form, exchange, input = self.opening.form, self.reply.exchange, self.method.input
        try:
            if exchange.method == "GET":
                return self._get_request()
            data = form.message(exchange)
            return input.from_json(data) if form.kind.codec == "json" else input.from_proto(data)
        except InvalidMessage as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None

    def _get_request(self) -> Any:
        given = connect.parse_get(self.reply.exchange.query)
        required = self.home.settings.require_connect_header
        if given.version != connect.VERSION and (given.version is not None or required):
            raise RpcError(Code.INVALID_ARGUMENT, f"the parameter connect must be 'v{connect.VERSION}'")
        data = decompress(given.compression, given.message, self.home.settings.max_message)
        if given.codec == "json":
            return self.method.input.from_json(data)
        if given.codec == "proto":
            return self.method.input.from_proto(data)
        raise RpcError(Code.INVALID_ARGUMENT, f"unknown encoding {given.codec[:32]!r}: there are json and proto")

    def _frame(self, value: Any) -> bytes:
        """One message of the answer.

        Raises:
            RpcError: It is too long.
        """
        form, output = self.opening.form, self.method.output
        message = output.to_json(value) if form.kind.codec == "json" else output.to_proto(value)
        most = self.home.settings.max_result
        if len(message) > most:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"the message has {len(message)} bytes; at most {most} are sent")
        return form.frame(message)

    async def _publish(self) -> None:
        """Commit what it publishes. From here on it has succeeded, and is not cancelled any more."""
        collected = self.collected
        messages = collected.take(gone=self.reply.gone) if collected is not None else ()
        if collected is None or not messages:
            return
        self.decided = True
        try:
            await collected.outbox.write(messages, self.reply.records(self))
        except StoreError as error:
            logger.error("messages could not be committed, so the call failed method=%s error=%s", self.label, error)
            raise RpcError(Code.UNAVAILABLE, "what the call publishes could not be stored") from None

    # --- what a handler may ask for, and RPC has no way for ---

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """RPC has no progress: streams have messages."""

    def log(self, level: str, data: Any, logger: str | None) -> None:
        """Nor has it log records for the client."""

    # --- its end ---

    def aborted(self, error: Exception) -> bytes | None:
        """How a cancelled call ends."""
        return self._fail(error_of(error, draining=self.home.draining))

    def _fail(self, error: RpcError) -> None:
        try:
            details_of(error.details)
        except TypeError:
            return self._bug("a detail of an error is no protobuf message")
        self.error = error
        self.failure = str(error.message)
        self.failure_code = error.code.name
        return None

    def _bug(self, what: str) -> None:
        """A fault of the program's: the client learns an id, the log has the rest under the same one."""
        error_id = secrets.token_hex(4)
        logger.exception("%s method=%s error_id=%s", what, self.method.path, error_id)
        return self._fail(RpcError(Code.INTERNAL, f"internal error in {self.method.path} (error id {error_id})"))


def error_of(error: Exception, *, draining: bool = False) -> RpcError:
    """What a caller is told of this.

    Args:
        error: What the handler raised, or what its call was cancelled with.
        draining: The server is shutting down.
    """
    if isinstance(error, RpcError):
        return error
    if isinstance(error, CapabilityError):
        return RpcError(Code.FAILED_PRECONDITION, str(error.message))
    if isinstance(error, ToolError):
        return RpcError(Code.UNKNOWN, str(error.message))
    if isinstance(error, LimitError):
        code = Code.UNAVAILABLE if error.limit == "draining" else Code.RESOURCE_EXHAUSTED
        return RpcError(code, error.message)
    if isinstance(error, DeadlineExceeded):
        return RpcError(Code.DEADLINE_EXCEEDED, str(error))
    if isinstance(error, StoreError):
        return RpcError(Code.UNAVAILABLE, "the store fails; try again later")
    if draining and not isinstance(error, ClientGone):
        return RpcError(Code.UNAVAILABLE, f"the call was cancelled: {error}")
    return RpcError(Code.CANCELED, str(error))
