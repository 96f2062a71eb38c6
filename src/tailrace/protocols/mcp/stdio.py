"""One conversation over a pair of pipes (stdio), or in memory: lines in, lines out, all versions.

`initialize` makes a legacy session of it; modern requests stand for themselves. Both share one stream,
because the pipe is one: the request id is the only address, so one in flight is not used twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from tailrace.core.ports import Kind
from tailrace.core.writer import Writer
from tailrace.errors import CallCancelled, ProtocolError
from tailrace.protocols.mcp.failures import DuplicateId, encode_failure
from tailrace.protocols.mcp.framing import LineFraming
from tailrace.protocols.mcp.reply import SessionReply
from tailrace.protocols.mcp.task_state import ToolTask
from tailrace.wire import mcp, tasks
from tailrace.wire.jsonrpc import (
    INVALID_REQUEST,
    Batch,
    Malformed,
    Message,
    Notification,
    Request,
    encode_error,
    parse,
)

if TYPE_CHECKING:
    from tailrace.core.cursor import Cursor
    from tailrace.core.exchange import Sink
    from tailrace.protocols.mcp.endpoint import Endpoint

__all__ = ["Conversation"]

logger = logging.getLogger("tailrace.stdio")


class Conversation:
    """What one client says and hears over stdio.

    Args:
        endpoint: What answers.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.session = endpoint.home.new("stdio", "")
        self.session.log.kept = 0  # nobody can resume a pipe
        self._reply = SessionReply(endpoint.retention, self.session, None)
        self._waited: asyncio.Task[None] | None = None

    async def run(self, lines: AsyncIterator[bytes | Any], sink: Sink) -> None:
        """Serve until the input ends, the output is dead, or the session is closed.

        At the end of input, running calls get `Settings.eof_drain` seconds; what is left is cancelled and
        named in the log.

        Args:
            lines: The messages; anything but bytes stands for one that was too long.
            sink: The way out.
        """
        tasks, settings = self.endpoint.tasks, self.endpoint.settings
        cursor = self.session.log.attach(0)
        writer = Writer(cursor, LineFraming(), self.endpoint.sweeper, keep_alive=0)
        writing = tasks.start(writer.run(sink), name="tailrace-stdio-write")
        reading = tasks.start(self._read(lines, cursor), name="tailrace-stdio-read")
        closing = tasks.start(self.session.wait_closed(), name="tailrace-stdio-closed")
        try:
            await asyncio.wait((reading, writing, closing), return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            if not writing.done():
                await self._finish_calls(settings.eof_drain)
        finally:
            self.endpoint.listens.left(self.session)
            await self.session.close("the conversation is over", grace=settings.eof_drain)
            await tasks.settle((writing,), settings.eof_drain)
            for task in (reading, writing, closing):
                task.cancel()

    def receive(self, line: bytes | Any) -> None:
        """Take one line."""
        if not isinstance(line, bytes):
            limit = self.endpoint.settings.max_body
            return self._send(encode_error(None, INVALID_REQUEST, f"the message is longer than {limit} bytes"))
        message = parse(line, max_batch=self.endpoint.settings.max_batch)
        if not isinstance(message, Batch):
            return self._take(message)
        if self.session.record.version != "2025-03-26":
            version = self.session.record.version or "before initialize"
            return self._send(encode_error(None, INVALID_REQUEST, f"batches are not part of this version ({version})"))
        for one in message.messages:  # 2025-03-26; answers come one by one, which it allows
            self._take(one)
        return None

    async def _read(self, lines: AsyncIterator[bytes | Any], cursor: Cursor) -> None:
        limit = self.endpoint.settings.unwritten
        async for line in lines:
            self.receive(line)
            if self._waited is not None:  # what stands behind `initialize` in the pipe counts on its outcome
                await asyncio.wait([self._waited])
                self._waited = None
            if cursor.unread > limit:
                await cursor.log.room(limit)

    def _take(self, message: Message) -> None:
        if isinstance(message, Request):
            try:
                self._request(message)
            except DuplicateId as error:
                self._send(encode_failure(None, error))
            except ProtocolError as error:
                self._send(encode_failure(message.id, error))
        elif isinstance(message, Notification):
            self.endpoint.notifications.notified(message, self.session)
        elif isinstance(message, Malformed):
            self._send(encode_error(message.id, message.code, message.message))
        else:
            self.endpoint.asking.answered(message, self.session)

    def _request(self, request: Request) -> None:
        endpoint = self.endpoint
        params = mcp.decode_params(request.method, bytes(request.params), any_era=True)
        dialect = endpoint.legacy
        if request.method == "initialize" and params.meta.protocol_version is UNSET:
            self._waited = endpoint.tasks.start(self._initialize(request, params), name="tailrace-initialize")
            return
        if params.meta.protocol_version is not UNSET or request.method == "server/discover":
            mcp.check_modern_version(mcp.check_modern_meta(params.meta))
            dialect = endpoint.modern
        if endpoint.listens.has(self.session, request.id):
            raise DuplicateId(request.id)
        if dialect.modern and request.method == "subscriptions/listen":
            return endpoint.listens.open_session(self.session, request, params)
        if dialect.modern and request.method in tasks.METHODS:
            return self._answer_later(
                request, partial(endpoint.task_table.answer, request, params, self.session.principal)
            )
        body = endpoint.requests.inline(request, params, self.session, dialect)
        if body is not None:
            return self._send(body)
        if not dialect.modern and not self.session.record.version:
            raise ProtocolError(INVALID_REQUEST, "initialize first (or name the version in _meta, from 2026-07-28 on)")
        if dialect.modern and request.method == "tools/call":
            making = endpoint.task_table.making
            task_call = making.accept(request, params, self.session, self._reply, self.session.principal, by_id=True)
            if isinstance(task_call, ToolTask):
                return self._answer_later(request, partial(making.tell, request, task_call))
            if task_call is not None:
                return making.start(task_call)
        call = endpoint.requests.accept(request, params, self.session, self._reply, dialect, by_id=True)
        return call.start()

    def _answer_later(self, request: Request, answering: Callable[[], Awaitable[bytes]]) -> None:
        self._waited = self.endpoint.tasks.start(self._answer_task(request, answering), name="tailrace-task-answer")

    async def _answer_task(self, request: Request, answering: Callable[[], Awaitable[bytes]]) -> None:
        try:
            body = await answering()
        except ProtocolError as error:
            body = encode_failure(request.id, error)
        self._send(body)

    async def _initialize(self, request: Request, params: mcp.InitializeParams) -> None:
        try:
            body = await self.endpoint.home.initialize(self.session, request, params)
        except ProtocolError as error:
            body = encode_failure(request.id, error)
        self._send(body)

    def _send(self, body: bytes) -> None:
        self.session.log.append(body, Kind.ANSWER, self.endpoint.now())

    async def _finish_calls(self, seconds: float) -> None:
        working = self.endpoint.task_table.working
        running = [call.task for call in (*self.session.calls.values(), *working)]
        await self.endpoint.tasks.settle(running, seconds)
        if left := [*self.session.calls.values(), *self.endpoint.task_table.working]:
            logger.warning("input ended; %d calls cancelled that did not end within %.1fs: %s", len(left), seconds,
                           ", ".join(call.label for call in left)[:1000])  # fmt: skip
        for call in left:
            call.cancel(CallCancelled("the client closed the connection"))
