"""Tasks of earlier process lives: what has ended is there, and what was working runs again or ends honestly."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from tailrace.errors import ProtocolError
from tailrace.protocols.mcp.once import Claim
from tailrace.protocols.mcp.task_call import OnceTaskCall, TaskCall, TaskReply
from tailrace.protocols.mcp.task_state import STATE, ToolTask, restored, unknown_outcome
from tailrace.wire import jsonrpc, mcp

if TYPE_CHECKING:
    from tailrace.errors import StoreError
    from tailrace.protocols.mcp.tasks import TaskTable
    from tailrace.service import Tool

__all__ = ["TaskRecovery"]

logger = logging.getLogger("tailrace.mcp")


class TaskRecovery:
    """Fills the table at the start."""

    def __init__(self, table: TaskTable) -> None:
        self.table = table
        self.endpoint = table.endpoint

    async def recover(self) -> None:
        """At the start: the tasks of earlier process lives; those that were working run again or end.

        Raises:
            StoreError: The store cannot be read.
        """
        after = ""
        while page := await self.table.journals.store.entries(STATE, after=after):
            for entry in page:
                try:
                    self._restore(restored(entry.key, entry.data, entry.expires))
                except msgspec.MsgspecError as error:  # one bad entry must not keep the others waiting
                    logger.error("a stored task cannot be read: %s", error)
            after = page[-1].key

    def _restore(self, task: ToolTask) -> None:
        self.table.enter(task)
        if task.ended:
            return
        if task.outcome is not None:
            self.table.settle(task, "completed", task.outcome)
        elif task.cancelling:
            self.table.settle(task, "cancelled", message="cancelled by its client; the server was stopped meanwhile")
        elif not (self._rerun(task) if task.key is None else self._ask_again(task, task.key)):
            self.table.settle(task, "completed", unknown_outcome(self.endpoint.modern))

    def _rerun(self, task: ToolTask) -> bool:
        """Run it again if its tool allows that, once at most: that is committed before it starts."""
        tool: Tool | None = self.endpoint.service.tools.get(task.tool)
        if tool is None or tool.on_crash != "rerun" or task.reran:
            return False
        call = self._again(task, tool, TaskCall)
        if call is None:
            return False
        task.reran = call.reran = True

        def committed(error: StoreError | None) -> None:
            if error is None:
                call.start()
            else:
                call.cancel(error)

        self.table.journals.write([task.entry()], committed)
        return True

    def _ask_again(self, task: ToolTask, key: str) -> bool:
        """A task whose call runs once waits for it again, under its key: what came of the run, the ledger knows.

        If it knows nothing, the crash came before the run, which begins now; or so long ago that it is forgotten.
        """
        tool: Tool | None = self.endpoint.service.tools.get(task.tool)
        once, claim = self.endpoint.once, Claim(task.principal, key, task.fingerprint)
        if tool is None or (
            once.known(claim) is None and self.table.wall() > task.created + self.endpoint.settings.once_ttl
        ):
            return False
        call = self._again(task, tool, partial(OnceTaskCall, once=once, claim=claim, restored=True))
        if call is not None:
            call.start()
        return call is not None

    def _again(self, task: ToolTask, tool: Tool, kind: Callable[..., TaskCall]) -> TaskCall | None:
        """The call of a task of an earlier process life; None if there is no room for it."""
        trace = UNSET if task.trace is None else task.trace
        meta = mcp.Meta(client_capabilities=task.capabilities, traceparent=trace)
        reply = TaskReply(self.table, task, None)
        params = mcp.CallParams(tool.name, task.arguments, meta)
        request = jsonrpc.Request(task.id, "tools/call", jsonrpc.EMPTY)
        try:
            call = self.endpoint.requests.accept(
                request, params, None, reply, self.endpoint.modern, by_id=False, kind=kind
            )
        except ProtocolError as error:
            logger.warning("a task of the last process life is not run again: %s", error)
            return None
        call.principal = task.principal
        reply.call = task.call = call
        return call
