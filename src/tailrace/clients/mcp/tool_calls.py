"""A client's calls of tools: asked once or, under a key, again; in rounds where the server asks back, and followed
where they become tasks.

It is written on top of one method that sends a request, as `requests` is; connections and eras are left to `Client`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tailrace.clients.mcp.again import ask_until_answered
from tailrace.clients.mcp.links import StreamableLink
from tailrace.clients.mcp.requests import Requests, left
from tailrace.clients.mcp.results import ToolInfo, ToolResult, decode, decode_tool_result
from tailrace.clients.mcp.rounds import ask_in_rounds
from tailrace.clients.mcp.tasks import follow, pause_of
from tailrace.errors import DefinitionError, ProtocolError
from tailrace.wire.mcp import HEADER_MISMATCH
from tailrace.wire.tasks import TaskState

if TYPE_CHECKING:
    import msgspec

    from tailrace.clients.mcp.calls import Progress
    from tailrace.clients.mcp.kept import Kept
    from tailrace.clients.mcp.listing import Listing

__all__ = ["ToolCalls"]


class ToolCalls(Requests):
    """The tools of a client's server: listed, called, waited for."""

    _listing: Listing
    _kept: Kept | None
    _reconnect: float
    _closing: asyncio.Future[None] | None

    async def list_tools(self, *, timeout: float | None = None) -> list[ToolInfo]:
        """All tools, over all pages (1,000 at most); over modern HTTP without those whose `x-mcp-header` is not valid.

        Args:
            timeout: Seconds for all of them; None: the client's.
        """
        tools = await self._all_tools(timeout)
        headed = self.era == "modern" and isinstance(self._open().link, StreamableLink)
        return self._listing.take(tools, with_headers=headed)

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        meta: Mapping[str, Any] | None = None,
        on_task: Callable[[str], object] | None = None,
    ) -> ToolResult:
        """Call a tool. One that fails gives a result whose `is_error` is true.

        A modern server may make a task of the call: it is followed until it has ended. If `timeout` passes meanwhile,
        or the call is cancelled, so is the task.

        Args:
            arguments: Anything that can become JSON.
            progress: Called with (done, total, message) for each report, plain or async, in the caller's task,
                never after the result; a slow one may miss the oldest of more than 1,024 reports.
            timeout: Seconds; None: the client's; `math.inf`: no limit.
            idempotency_key: A call with the same key (1 to 255 bytes) runs once, however often it is made, if the tool
                is a `once` tool of a Tailrace server. Over Streamable HTTP it is then asked for again by itself when
                the connection breaks or the server restarts, for `reconnect` seconds; a tool that does not say in the
                list that it runs once is not.
            meta: More entries for the request's `_meta`.
            on_task: A plain function told of the task's id, if there is one: with it, `task_result` gets the result in
                another process.

        Raises:
            ProtocolError: There is no such tool, or the server refuses the call.
            CallCancelled: The call's task was cancelled.
            TransportError: The connection broke before the answer came; the call may have run.
            TimeoutError: The limit passed; the server was told that nobody waits any more.
        """
        until = self._until(timeout)
        extra = dict(meta or {})
        if idempotency_key is not None:
            extra["io.tailrace/idempotencyKey"] = idempotency_key
        if not isinstance(arguments, Mapping | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"arguments are a dict of names and values, got {arguments!r:.200}")
        given = dict(arguments or {})
        safe = idempotency_key is not None and isinstance(self._open().link, StreamableLink)

        async def ask(more: Mapping[str, Any]) -> msgspec.Raw:
            leg = partial(self._ask, {"name": name, "arguments": given, **more}, extra, progress, until)
            if not safe:
                return await leg()
            runs_once = partial(self._runs_once, name, until)
            return await ask_until_answered(
                leg, runs_once, seconds=self._reconnect, wanted=lambda: self._closing is None
            )

        kind, raw = await ask_in_rounds(ask, self._open(), "tools/call", until)
        if kind == "task":
            task = decode("tools/call", raw, TaskState)
            if on_task is not None:
                on_task(task.task_id)
            raw = await self._follow(task.task_id, pause_of(task), left(until))
        return decode_tool_result(raw, self._listing.output_schema(name))

    async def task_result(self, task_id: str, *, timeout: float | None = None) -> ToolResult:
        """Wait for the result of a task, as `call_tool` would have given it; raises as that does."""
        limit = self._limit(timeout)
        return decode_tool_result(await self._follow(task_id, 0.0, limit), None)

    # --- inside ---

    async def _ask(
        self, params: Mapping[str, Any], meta: Mapping[str, Any], progress: Progress | None, until: float
    ) -> msgspec.Raw:
        """Make one request of a call."""
        name, given = params["name"], params["arguments"]
        headers = self._listing.headers(name, given)
        send = partial(self._request, "tools/call", params, meta=meta, progress=progress)
        try:
            return await send(timeout=left(until), headers=headers)
        except ProtocolError as error:
            if error.code != HEADER_MISMATCH:
                raise
            if self._kept is not None:
                self._kept.forget("tools/list")
            # 2026-07-28, transports: the tool may have changed, so look again
            await self.list_tools(timeout=left(until))
            again = self._listing.headers(name, given)
            if again == headers:
                raise
        return await send(timeout=left(until), headers=again)

    async def _runs_once(self, name: str, until: float) -> bool:
        """Whether the server says that calls of the tool with the same key are one."""
        if not self._listing.knows(name):
            await self.list_tools(timeout=left(until))
        return self._listing.runs_once(name)

    async def _follow(self, task_id: str, pause: float, limit: float) -> msgspec.Raw:
        return await follow(self._open(), task_id, pause, timeout=limit, reconnect=self._reconnect)
