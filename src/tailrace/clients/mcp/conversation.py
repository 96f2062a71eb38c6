"""Requests over one link: each has an id, a time limit, and an end that the server hears of.

It knows what the two eras ask of every message; how an era is agreed on is left to `handshake`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from msgspec.json import Decoder

from tailrace.clients.mcp.answering import Answers, Elicitation, ElicitationUrl, Roots, Sampling
from tailrace.clients.mcp.calls import Call, Calls, Progress
from tailrace.clients.mcp.links.http import HttpRefused
from tailrace.clients.mcp.links.link import Link, Outgoing
from tailrace.clients.observing import Observer, current_trace
from tailrace.core.meter import Operation
from tailrace.wire import jsonrpc, mcp

if TYPE_CHECKING:
    from msgspec import Raw

    from tailrace.clients.mcp.changes import Changes
    from tailrace.clients.mcp.oauth import Authorizer
    from tailrace.clients.mcp.results import LogMessage
    from tailrace.clients.observing import Observed
    from tailrace.core.tasks import Tasks
    from tailrace.wire.jsonrpc import RequestId

__all__ = ["Conversation"]

T = TypeVar("T")

_MAX_REPLIES = 16  # answers to the server's own requests that are under way at once
_MAX_AUTHORIZATIONS = 4  # for one request: refresh, authorize, ask for more scopes, and that once more
_NAMED = {"tools/call": "gen_ai.tool.name", "prompts/get": "gen_ai.prompt.name"}
_SAY_LIMIT = 5.0  # seconds for what nobody waits for: a cancellation, an answer to the server


class _Result(Struct, rename="camel"):
    is_error: bool = False


_decode_error = Decoder(_Result).decode


class Conversation:
    """One client's side of the talk with one server. One event loop uses it; calls may run at the same time.

    Args:
        link: The way to the server.
        tasks: Run what the conversation does on its own.
        client_info: Name and version that the server is told.
        capabilities: What each request of the modern era declares.
        log_level: Least level of log messages that the server is asked for in the modern era; None: none.
        on_log, on_notification, on_warning, max_message: See `Calls`.
        elicitation, elicitation_url, sampling, roots: See `Client`.
        authorizer: Deals with refusals for who asks; None: nobody does.
    """

    def __init__(
        self,
        link: Link,
        tasks: Tasks,
        *,
        client_info: tuple[str, str],
        capabilities: Mapping[str, Any],
        log_level: str | None,
        on_log: Callable[[LogMessage], object] | None,
        on_notification: Callable[[str, Any], object] | None,
        on_warning: Callable[[str], object],
        max_message: int,
        elicitation: Elicitation | None = None,
        elicitation_url: ElicitationUrl | None = None,
        sampling: Sampling | None = None,
        roots: Roots | None = None,
        authorizer: Authorizer | None = None,
    ) -> None:
        self.link = link
        self._observer = Observer()
        self._authorizer = authorizer
        self.version: str | None = None
        self._answers = Answers(
            tasks,
            self._reply,
            elicitation=elicitation,
            elicitation_url=elicitation_url,
            sampling=sampling,
            roots=roots,
        )
        self.client_info = {"name": client_info[0], "version": client_info[1]}
        self.calls = Calls(
            asked=self._asked,
            taken_back=self._answers.cancel,
            on_log=on_log,
            on_notification=self._notified,
            on_warning=on_warning,
            max_message=max_message,
        )
        self._on_notification = on_notification
        self.listeners: set[Changes] = set()
        self.calls.on_lost = self._lost
        self.legacy_capabilities = self._answers.capabilities
        self._capabilities = {**capabilities, **self.legacy_capabilities}
        self._tasks = tasks
        self.log_level = log_level
        self._replies = 0

    async def open(self) -> None:
        """Connect the link."""
        await self._authorized(lambda: self.link.open(self.calls, self._tasks))

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float,
        meta: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Raw:
        """Send a request and wait for its result.

        When the limit passes, or the awaiting task is cancelled, the server is told (except of
        `initialize`, which must not be cancelled), and nothing waits for its reaction.

        Args:
            timeout: Seconds for all of it; `math.inf`: no limit.
            headers: Sent with it where each request has headers and the era knows them.

        Raises:
            ProtocolError: The server answered with an error.
            TransportError: It was not sent, or the connection broke before the answer came.
            TimeoutError: The limit passed.
        """
        observed, meta = self._observe(method, params, meta)
        if observed is None:
            return await self._authorized(
                lambda: self._request_once(method, params, timeout, meta, progress, headers),
            )
        error: BaseException | None = None
        try:
            result = await self._authorized(
                lambda: self._request_once(method, params, timeout, meta, progress, headers),
            )
        except BaseException as failure:
            error = failure
            raise
        else:
            if method == "tools/call" and _decode_error(result).is_error:
                observed.end("the tool failed", "tool_error")
            return result
        finally:
            observed.end(error)

    async def notify(self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float) -> None:
        """Send a notification.

        Args:
            timeout: Seconds until the server has taken it.

        Raises:
            TransportError: It did not take it.
            TimeoutError: The limit passed.
        """

        async def send() -> None:
            async with asyncio.timeout(None if timeout == math.inf else timeout):
                await self.link.send(self._notification(method, params))

        await self._authorized(send)

    async def respond(self, questions: Mapping[str, Any], left: float) -> dict[str, Any]:
        """The answers to a modern server's questions, by their keys; raises as `Answers.respond`.

        Args:
            left: Seconds for the callbacks.

        Raises:
            TimeoutError: They did not end in that time.
        """
        limit = asyncio.timeout(None if left == math.inf else left)
        try:
            async with limit:
                return await self._answers.respond(questions)
        except TimeoutError:
            if not limit.expired():
                raise
            text = "the server's questions were not answered within the call's time; wait longer by timeout="
            raise TimeoutError(text) from None

    def cancel_task(self, id: str) -> None:
        """Tell the server, soon, that nobody waits for a task any more."""
        telling = partial(self.request, "tasks/cancel", {"taskId": id}, timeout=_SAY_LIMIT)
        self._tasks.start(self._say(telling), name="tailrace-client-cancel")

    # --- one request ---

    def _observe(
        self, method: str, params: Mapping[str, Any] | None, meta: Mapping[str, Any] | None
    ) -> tuple[Observed | None, Mapping[str, Any] | None]:
        """Begin the span of a request, if anybody wants it, and let the server know where it belongs (SEP-414); a trace
        that the program names itself stays."""
        target = str((params or {}).get("name", "")) if method in _NAMED else ""
        attributes = {"mcp.method.name": method}
        if target:
            attributes[_NAMED[method]] = target
        name = f"{method} {target}" if target else method
        observed = self._observer.begin(name, Operation("mcp", method, target), attributes)
        values = current_trace() if observed is None else observed.values
        if values and "traceparent" not in (meta or {}) and "traceparent" not in (params or {}).get("_meta", {}):
            meta = {**values, **(meta or {})}
        return observed, meta

    async def _request_once(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        timeout: float,
        meta: Mapping[str, Any] | None,
        progress: Progress | None,
        headers: Mapping[str, str] | None,
    ) -> Raw:
        call = self.calls.start(method, progress)
        try:
            message = self._request(call, method, params, meta, progress is not None, headers)
            async with asyncio.timeout(None if timeout == math.inf else timeout):
                await self.link.send(message)
                return await call.outcome()
        except TimeoutError:
            self._give_up(call, "timed out")
            option = "connect_timeout" if method in ("initialize", "server/discover") else "timeout"
            raise TimeoutError(f"{method} had no answer within {timeout:g} s; wait longer by {option}=") from None
        except asyncio.CancelledError:
            self._give_up(call, "cancelled by the caller")
            raise
        finally:
            self.calls.end(call)

    async def _authorized(self, send: Callable[[], Awaitable[T]]) -> T:
        """Send; where that is refused for who asks, authorize and send again. How long the user takes for it is no part
        of anybody's time limit."""
        authorizer = self._authorizer
        if authorizer is None:
            return await send()
        tried: set[str] = set()
        for _ in range(_MAX_AUTHORIZATIONS):
            generation = authorizer.generation
            try:
                return await send()
            except HttpRefused as refused:
                if not await authorizer.satisfy(refused, generation, tried):
                    raise
        return await send()

    # --- messages ---

    def _request(
        self,
        call: Call,
        method: str,
        params: Mapping[str, Any] | None,
        meta: Mapping[str, Any] | None,
        progress: bool,
        headers: Mapping[str, str] | None,
    ) -> Outgoing:
        whole = dict(params or {})
        extra = {**whole.get("_meta", {}), **(meta or {}), **self._envelope()}
        if progress:
            extra["progressToken"] = call.id
        if extra:
            whole["_meta"] = extra
        field = mcp.header_name_field(method)
        return Outgoing(
            data=jsonrpc.encode_request(call.id, method, mcp.encode(whole) if whole else None),
            id=call.id,
            method=method,
            name=str(whole.get(field, "")) if field is not None else None,
            version=self.version,
            headers=headers,
        )

    def _notification(self, method: str, params: Mapping[str, Any] | None) -> Outgoing:
        data = jsonrpc.encode_notification(method, mcp.encode(params) if params else None)
        return Outgoing(data=data, method=method, version=self.version)

    def _envelope(self) -> dict[str, Any]:
        """What each request of the modern era carries (2026-07-28, basic: `_meta`)."""
        if self.version not in mcp.MODERN_VERSIONS:
            return {}
        envelope: dict[str, Any] = {
            "io.modelcontextprotocol/protocolVersion": self.version,
            "io.modelcontextprotocol/clientCapabilities": self._capabilities,
            "io.modelcontextprotocol/clientInfo": self.client_info,
        }
        if self.log_level is not None:
            envelope["io.modelcontextprotocol/logLevel"] = self.log_level
        return envelope

    def _notified(self, method: str, params: Any) -> None:
        for listener in tuple(self.listeners):
            listener.tell(method, params)
        if self._on_notification is not None:
            self._on_notification(method, params)

    def _lost(self, error: Exception) -> None:
        """Nothing comes any more: whoever listens hears why."""
        for listener in tuple(self.listeners):
            listener.lose(error)

    # --- what nobody waits for ---

    def _give_up(self, call: Call, reason: str) -> None:
        if call.method != "initialize" and self.calls.waits_for(call.id):
            notice = self._notification("notifications/cancelled", {"requestId": call.id, "reason": reason})
            self._tasks.start(self._say(partial(self.link.cancel, call.id, notice)), name="tailrace-client-cancel")

    def _asked(self, id: RequestId, method: str, params: Raw) -> None:
        if self.version in mcp.MODERN_VERSIONS:
            self.calls.warn("the server sent a request, which has no place in the modern era; it gets no answer")
        else:
            self._answers.ask(id, method, params)

    def _reply(self, data: bytes) -> None:
        if self._replies >= _MAX_REPLIES:
            self.calls.warn("the server sends more requests than are answered at once; one gets no answer")
        else:
            self._replies += 1
            message = Outgoing(data=data, version=self.version)
            self._tasks.start(self._say(partial(self.link.send, message), is_reply=True), name="tailrace-client-reply")

    async def _say(self, send: Callable[[], Coroutine[Any, Any, object]], *, is_reply: bool = False) -> None:
        try:
            async with asyncio.timeout(_SAY_LIMIT):
                await send()
        except Exception as error:
            self.calls.warn(f"the server could not be told: {error}")
        finally:
            self._replies -= is_reply
