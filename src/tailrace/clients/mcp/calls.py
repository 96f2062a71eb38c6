"""The one demultiplexer: what arrives is given to the call, or the callback, that it is for.

Progress waits for its call in a short queue and is told by the caller's own task, so that a slow
callback holds up nobody else, and one that calls the server again cannot lock itself out.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct

from tailrace.clients.mcp.results import LogMessage
from tailrace.errors import ProtocolError, TransportError
from tailrace.wire import jsonrpc
from tailrace.wire.jsonrpc import RequestId

__all__ = ["Call", "Calls", "Progress"]

logger = logging.getLogger("tailrace.client")

Progress: TypeAlias = Callable[[float, float | None, str | None], object]


class _Report(Struct, frozen=True, rename="camel"):
    progress_token: RequestId
    progress: int | float
    total: int | float | None = None
    message: str | None = None


class _Cancelled(Struct, frozen=True, rename="camel"):
    request_id: RequestId


class Call:
    """One request whose answer is awaited.

    Args:
        id: Its request id, and its progress token.
        method: For people.
        progress: Told of each report, or None.
        max_bytes: Of reports that wait for a slow callback; the oldest are dropped first.
        max_reports: The same, counted.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_reports", "_outcome", "_progress", "_reports", "_wake", "id", "method")

    def __init__(
        self, id: RequestId, method: str, progress: Progress | None, *, max_bytes: int, max_reports: int = 1024
    ) -> None:
        self.id = id
        self.method = method
        self._progress = progress
        self._max_bytes = max_bytes
        self._max_reports = max_reports
        self._reports: deque[tuple[_Report, int]] = deque()
        self._bytes = 0
        self._outcome: Raw | Exception | None = None
        self._wake = asyncio.Event()

    def report(self, report: _Report, size: int) -> bool:
        """Queue one report; False if an older one had to go for it."""
        if self._progress is None or self._outcome is not None:
            return True
        self._reports.append((report, size))
        self._bytes += size
        self._wake.set()
        whole = True
        while len(self._reports) > self._max_reports or (self._bytes > self._max_bytes and len(self._reports) > 1):
            self._bytes -= self._reports.popleft()[1]
            whole = False
        return whole

    def settle(self, outcome: Raw | Exception) -> None:
        """The answer, or why there is none; the first one counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._wake.set()

    async def outcome(self) -> Raw:
        """Wait for the answer, and tell the reports meanwhile; all of them come before it.

        Raises:
            ProtocolError: The answer is an error.
            TransportError: There will be none.
        """
        while True:
            while self._reports:
                report, size = self._reports.popleft()
                self._bytes -= size
                await self._tell(report)
            if self._outcome is not None:
                break
            self._wake.clear()
            await self._wake.wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    async def _tell(self, report: _Report) -> None:
        assert self._progress is not None
        try:
            told = self._progress(report.progress, report.total, report.message)
            if inspect.isawaitable(told):
                await told
        except Exception:  # a display that fails is no reason to lose the answer
            logger.exception("progress callback failed method=%s", self.method)


class Calls:
    """The calls of one client that wait for answers, and the callbacks for what belongs to none.

    Args:
        asked: Answers one request of the server, soon.
        taken_back: Told of a request of the server whose answer it does not want any more.
        on_log: Told of log messages, or None.
        on_notification: Told of every other notification, with its method and parameters, or None.
        on_warning: Told of what is odd.
        max_message: Bytes of progress reports that may wait for one call's callback.
    """

    def __init__(
        self,
        *,
        asked: Callable[[RequestId, str, Raw], None],
        taken_back: Callable[[RequestId], None],
        on_log: Callable[[LogMessage], object] | None,
        on_notification: Callable[[str, Any], object] | None,
        on_warning: Callable[[str], object],
        max_message: int,
    ) -> None:
        self.gaps = 0
        self.error: Exception | None = None  # why nothing can be sent any more
        self.on_lost: Callable[[Exception], object] | None = None  # told of that
        self._calls: dict[RequestId, Call] = {}
        self._ids = itertools.count(1)
        self._asked = asked
        self._taken_back = taken_back
        self._on_log = on_log
        self._on_notification = on_notification
        self._on_warning = on_warning
        self._max_message = max_message

    def start(self, method: str, progress: Progress | None) -> Call:
        """A new call, with an id that no other has had; `end` it.

        Raises:
            TransportError: The connection is lost.
        """
        if self.error is not None:
            raise TransportError(str(self.error)) from self.error
        call = Call(next(self._ids), method, progress, max_bytes=self._max_message)
        self._calls[call.id] = call
        return call

    def end(self, call: Call) -> None:
        """Nobody waits for it any more. Idempotent."""
        self._calls.pop(call.id, None)

    # --- what links tell ---

    def waits_for(self, id: RequestId) -> bool:
        """Whether the request's answer is still awaited."""
        return id in self._calls

    def fail(self, id: RequestId, error: Exception) -> None:
        """No answer will come to this request."""
        call = self._calls.pop(id, None)
        if call is not None:
            call.settle(error)

    def lose(self, error: Exception) -> None:
        """The link is broken for good; the first reason counts."""
        if self.error is None:
            self.error = error
        for id in list(self._calls):
            self.fail(id, TransportError(str(error)))
        if self.on_lost is not None:
            self.on_lost(self.error)

    def report_gap(self, where: str) -> None:
        """A resumed stream lacks events."""
        self.gaps += 1
        self.warn(f"{where}, but the server no longer has all events: some notifications are missing")

    def warn(self, text: str) -> None:
        """Say what is odd."""
        self._guard(self._on_warning, text)

    def receive(self, data: bytes) -> None:
        """One message or batch, whatever it is."""
        message = jsonrpc.parse(data)
        if isinstance(message, jsonrpc.Batch):
            for member in message.messages:
                self._dispatch(member, len(data))
        else:
            self._dispatch(message, len(data))

    # --- inside ---

    def _dispatch(self, message: jsonrpc.Message, size: int) -> None:
        match message:
            case jsonrpc.Response(id, result):
                self._settle(id, result)
            case jsonrpc.ErrorResponse(id, code, text, data):
                self._settle(id, ProtocolError(code, text, _decode(data)))
            case jsonrpc.Notification(method, params):
                self._notify(method, params, size)
            case jsonrpc.Request(id, method, params):
                self._asked(id, method, params)
            case jsonrpc.Malformed(_, text):
                self.warn(f"the server sent what is no message: {text}")

    def _settle(self, id: RequestId | None, outcome: Raw | ProtocolError) -> None:
        call = self._calls.pop(id, None) if id is not None else None
        if call is not None:
            call.settle(outcome)
        elif isinstance(outcome, ProtocolError) and id is None:
            self.warn(f"the server says, of no request: {outcome.message} ({outcome.code})")

    def _notify(self, method: str, params: Raw, size: int) -> None:
        try:
            if method == "notifications/progress" and self._report(params, size):
                return
            if method == "notifications/cancelled":
                self._taken_back(msgspec.json.decode(params, type=_Cancelled).request_id)
            if method == "notifications/message" and self._on_log is not None:
                self._guard(self._on_log, msgspec.json.decode(params, type=LogMessage))
            elif self._on_notification is not None:
                self._guard(self._on_notification, method, _decode(params))
        except msgspec.MsgspecError as error:
            self.warn(f"{method} of the server is not valid: {error}")

    def _report(self, params: Raw, size: int) -> bool:
        report = msgspec.json.decode(params, type=_Report)
        call = self._calls.get(report.progress_token)
        if call is None:
            return False
        if not call.report(report, size):
            self.warn(f"the progress callback of {call.method} is too slow: the oldest report was dropped")
        return True

    def _guard(self, callback: Callable[..., object], *args: object) -> None:
        try:
            callback(*args)
        except Exception:  # it is the user's; the stream goes on
            logger.exception("callback failed callback=%r", callback)


def _decode(raw: Raw) -> Any:
    return msgspec.json.decode(raw) if raw else None
