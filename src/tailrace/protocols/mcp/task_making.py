"""How a call becomes a task (SEP-2663): with its beginning, or where it takes its time, or not at all.

Nobody is told of a task before it is committed. What becomes of it then is the table's (`tasks`).
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Raw

from tailrace.core.ledger_entry import EntryState
from tailrace.core.ports import DropEntry
from tailrace.core.timers import DelayLine
from tailrace.core.waiters import Waiters
from tailrace.errors import ProtocolError, StoreError
from tailrace.protocols.mcp.task_call import Joined, OnceTaskCall, Stage, TaskCall, TaskReply
from tailrace.protocols.mcp.task_state import STATE, ToolTask, capabilities_of
from tailrace.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, encode_result
from tailrace.wire.tasks import declares_tasks, tasks_missing

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.core.session import Session
    from tailrace.protocols.mcp.once import Claim
    from tailrace.protocols.mcp.reply import ExchangeReply, SessionReply
    from tailrace.protocols.mcp.tasks import TaskTable
    from tailrace.wire import mcp
    from tailrace.wire.jsonrpc import Request

__all__ = ["TaskMaking"]


class TaskMaking:
    """Makes tasks of an endpoint's calls.

    Args:
        table: Keeps those that are made.
    """

    def __init__(self, table: TaskTable) -> None:
        self.table = table
        self.endpoint = table.endpoint
        self.journals = table.journals
        self._hold = DelayLine(table.settings.task_hold)
        self._creating = Waiters()

    def accept(
        self,
        request: Request,
        params: mcp.CallParams,
        session: Session | None,
        inner: ExchangeReply | SessionReply,
        principal: str,
        *,
        by_id: bool,
        origin: Exchange | None = None,
    ) -> TaskCall | ToolTask | None:
        """Accept a call of a tool that may run as a task. None where it is a plain call, of this client or at all; the
        task, where there is one for the call's idempotency key: `tell` it.

        Args:
            request, params, session, by_id, origin: As for `Requests.accept`.
            inner: The reply of the request.
            principal: Whose task it will be.

        Raises:
            ProtocolError: The tool cannot do without a task, and the client does not know them; a cap is reached; the
                idempotency key stands for another call.
        """
        tool = self.endpoint.requests.find_tool(params.name, None, principal)
        if tool is None or not tool.task:
            return None
        if not declares_tasks(params.meta):
            if tool.task == "required":
                raise tasks_missing()
            return None
        once, kind, claim = self.endpoint.once, TaskCall, None
        if tool.once and (claim := once.claimed(tool, params, session, origin, batch=False)) is not None:
            same = self._same(claim)
            if same is not None:
                return same
            entry = once.known(claim)
            if entry is not None and entry.state is EntryState.ENDED:
                return None  # its answer outlived its task, if there was one: it is replayed
            kind = partial(OnceTaskCall, once=once, claim=claim)
        if tool.task != "auto":
            self.table.check_room(principal)
        arguments = params.arguments if isinstance(params.arguments, Raw) else Raw(b"{}")
        id = self.endpoint.seals.name(secrets.token_urlsafe(16))
        task = ToolTask(id, principal, tool.name, arguments, None, self.table.wall())
        if claim is not None:
            task.key, task.fingerprint = claim.key, claim.fingerprint
        reply = TaskReply(self.table, task, inner)
        call = self.endpoint.requests.accept(
            request, params, session, reply, self.endpoint.modern, by_id=by_id, kind=kind, origin=origin
        )
        reply.call = task.call = call
        task.capabilities = capabilities_of(params.meta)
        if call.leg is not None and not call.leg.first:
            task.identity = call.leg.identity
        task.trace = call.context.value("traceparent")
        return call

    def start(self, call: TaskCall) -> None:
        """Begin: with the task, or (``task="auto"``) with the call, which becomes one if it is not through soon."""
        if call.target.task == "auto":
            call.start()
            self._hold.add(call.place)
        else:
            self._create(call)

    def convert(self, call: TaskCall) -> None:
        """A call that takes its time becomes a task: one of its own, or the one that its key has got meanwhile. It
        stays what it is where there is no room for one."""
        task = call.place.task
        same = self.table.keyed(task.principal, task.key)
        if same is not None:
            self.endpoint.tasks.start(self._join(call, same), name="tailrace-task-answer")
            return
        try:
            self.table.check_room(task.principal)
        except ProtocolError:
            return
        self._create(call)

    async def _join(self, call: TaskCall, task: ToolTask) -> None:
        """Two requests with one key wait for one run, and the other one's has become a task."""
        if task.call is not None:
            await self.decided(task.call)
        if task.id in self.table.tasks:
            call.cancel(Joined(self.table.told(task, None, "task", replayed=True)))
        elif not call.over:  # it came to nothing
            self.convert(call)

    def _create(self, call: TaskCall) -> None:
        place = call.place
        place.stage = Stage.CREATING
        self.table.enter(place.task)
        self.journals.write([place.task.entry()], partial(self._created, call))

    def _created(self, call: TaskCall, error: StoreError | None) -> None:
        place = call.place
        self._creating.wake()
        if place.stage is not Stage.CREATING:  # it has ended, and there is no task
            return
        if error is not None:
            place.stage = Stage.PLAIN
            self.table.remove(place.task)
            if call.task is None:
                call.cancel(error)
            return  # a running one is a plain call again
        if call.cancelled_by is not None:  # its client has gone meanwhile: it is ending as a plain call
            place.stage = Stage.PLAIN
            return self.drop(place.task)
        assert place.inner is not None
        place.stage = Stage.TASK
        place.inner.release(call)
        call.outlive()
        place.inner.answer(call, encode_result(call.request_id, self.table.told(place.task, None, "task")))
        call.start()

    def drop(self, task: ToolTask) -> None:
        """It came to nothing: its call has ended before it was there."""
        self.table.remove(task)
        self._creating.wake()
        self.journals.write([DropEntry(STATE, task.id)])

    def _same(self, claim: Claim) -> ToolTask | None:
        """The task that an idempotency key stands for."""
        task = self.table.keyed(claim.principal, claim.key)
        if task is None or self.table.wall() >= task.expires:
            return None
        if task.fingerprint != claim.fingerprint:
            text = "the idempotency key stands for a task of another tool, or with other arguments"
            raise ProtocolError(INVALID_PARAMS, text)
        return task

    async def tell(self, request: Request, task: ToolTask) -> bytes:
        """Answer a `tools/call` with a task that is there already, as soon as that is committed.

        Raises:
            ProtocolError: It is not going to be.
        """
        if task.call is not None:
            await self.decided(task.call)
        if task.id not in self.table.tasks:
            raise ProtocolError(INTERNAL_ERROR, "the task with this idempotency key came to nothing: try again")
        return encode_result(request.id, self.table.told(task, None, "task", replayed=True))

    async def decided(self, call: TaskCall) -> None:
        """Return once it is a task, or none."""
        while call.place.stage is Stage.CREATING:
            await self._creating.wait()

    def close(self) -> None:
        """Stop its timer."""
        self._hold.close()
