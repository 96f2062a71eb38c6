"""The tasks of one endpoint (2026-07-28, extension `io.modelcontextprotocol/tasks`, SEP-2663).

A task is committed before its client is told of it, and so is its end before anybody sees it. The table
knows of each task who, when and how it stands; its result is in the store. Two entries a task: a small
one that a start reads, and the result. Tasks of an earlier process life run again or end honestly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from tailrace.core.ports import PutEntry, Record
from tailrace.core.waiters import Waiters
from tailrace.errors import CallCancelled, LimitError, ProtocolError, RequestRefused, StoreError, StoreLost
from tailrace.protocols.mcp.task_making import TaskMaking
from tailrace.protocols.mcp.task_state import RESULT, TaskCancelled, ToolTask
from tailrace.wire import jsonrpc, mcp
from tailrace.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, encode_result
from tailrace.wire.tasks import declares_tasks, tasks_missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.protocols.mcp.legs import Question
    from tailrace.protocols.mcp.task_call import TaskCall
    from tailrace.wire.jsonrpc import Request

__all__ = ["TaskTable"]

logger = logging.getLogger("tailrace.mcp")

_MESSAGE = 1000  # characters of a status message
_EXPIRE_EVERY = 5.0  # seconds


class TaskTable:
    """Keeps tasks, and answers for them. All methods belong to the endpoint's event loop.

    Args:
        endpoint: Accepts the calls; has the limits, the store and the streams that listen.

    Attributes:
        making: Makes them of calls.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.journals = endpoint.journals
        self.settings = endpoint.settings
        self.tasks: dict[str, ToolTask] = {}
        self.bytes = 0
        self.wall = time.time
        self._principals: Counter[str] = Counter()
        self._said: dict[ToolTask, None] = {}  # whose message is new
        self._keyed: dict[tuple[str, str | None], ToolTask] = {}  # those of calls that run once, by principal and key
        self._unsettled = 0  # ends that are being committed
        self._idle = Waiters()
        self._next_expiry = 0.0
        self.making = TaskMaking(self)

    # --- what becomes of them ---

    def say(self, task: ToolTask, message: str) -> None:
        """It reports; whoever listens hears the newest of what it says, about twice a second."""
        if task.status == "working" and not task.ended:
            task.message = message[:_MESSAGE]
            task.updated = self.wall()
            self._said[task] = None

    def ended(self, task: ToolTask, call: TaskCall, payload: bytes | None) -> None:
        """Its call has ended. Whom the end of the server cut off stays open: the next process life settles it."""
        task.call = None
        error = call.cancelled_by
        if isinstance(error, TaskCancelled) or payload is None:
            return self.settle(task, "cancelled", message=str(error))
        if isinstance(error, CallCancelled):
            return None
        answer = jsonrpc.parse(payload)
        if isinstance(answer, jsonrpc.Response):
            return self.settle(task, "completed", bytes(answer.result))
        assert isinstance(answer, jsonrpc.ErrorResponse)
        fault: dict[str, Any] = {"code": answer.code, "message": answer.message}
        if answer.data:
            fault["data"] = answer.data
        return self.settle(task, "failed", mcp.encode(fault), message=answer.message)

    def settle(self, task: ToolTask, status: str, body: bytes = b"", *, message: str = "") -> None:
        """The one place where a task ends. The first end counts, and is committed before it is seen."""
        if task.ended:
            return
        task.ended = True
        self._unsettled += 1
        now = self.wall()
        task.expires = now + self.settings.task_ttl
        task.arguments = Raw(b"{}")
        self.bytes += len(body)
        task.size += len(body)
        message = message[:_MESSAGE] or task.message
        records: list[Record] = [task.entry(status=status, updated=now, message=message)]
        if body:
            records.append(PutEntry(RESULT, task.id, body, task.expires))

        def tell() -> None:
            task.status, task.updated, task.message = status, now, message
            self._said.pop(task, None)
            self.endpoint.listens.tell_task(task.id, lambda: self.told(task, body))

        def committed(error: StoreError | None) -> None:
            if error is None:
                tell()
            elif not isinstance(error, StoreLost):  # else whoever has the store now tells how it ended
                task.kept = body  # a crash would leave its outcome open
                self.journals.tell_from_memory(task, tell)
            self._unsettled -= 1
            if not self._unsettled:
                self._idle.wake()

        self.journals.write(records, committed)

    # --- what they ask ---

    async def ask(self, call: TaskCall, question: Question, timeout: float | None) -> Any:
        """Show a question in the task's state, and wait for its answer.

        Raises:
            LimitError, TimeoutError: As `Context.elicit`.
        """
        task, settings = call.place.task, self.settings
        if len(task.asked) >= settings.max_asked:
            raise LimitError("asked", f"{settings.max_asked} requests to this client wait for an answer already")
        key = task.key_of(question)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        task.asked[key] = question, answer
        self._turned(task)
        seconds = settings.ask_time if timeout is None else timeout
        try:
            await asyncio.wait([answer], timeout=seconds)
            if not answer.done():
                raise TimeoutError(f"{question.method} had no answer within {seconds:g} s")
            return answer.result()
        finally:
            if task.asked.pop(key, None) is not None:
                self._turned(task)

    def _update(self, task: ToolTask, responses: Mapping[str, Raw]) -> None:
        """Answers: all of them are taken, or none. Those to nothing that is asked do not count."""
        read: dict[str, Any] = {}
        for key, raw in responses.items():
            if key in task.asked:
                try:
                    read[key] = task.asked[key][0].read(raw)
                except RequestRefused as error:
                    raise ProtocolError(INVALID_PARAMS, f"inputResponses[{key!r}]: {error}") from None
        for key, value in read.items():
            _, answer = task.asked.pop(key)
            if not answer.done():
                answer.set_result(value)
        if read:
            self._turned(task)

    def _turned(self, task: ToolTask) -> None:
        """It waits for input, or does not any more."""
        if not task.ended:
            task.updated = self.wall()
            self._said[task] = None

    # --- asking for them ---

    async def answer(self, request: Request, params: Any, principal: str) -> bytes:
        """Answer `tasks/get`, `tasks/update` or `tasks/cancel`.

        Raises:
            ProtocolError: The client does not know tasks; there is no such task, or it is somebody else's.
        """
        if not declares_tasks(params.meta):
            raise tasks_missing()
        task = self.find(params.task_id, principal)
        if task is None:
            raise ProtocolError(INVALID_PARAMS, "no such task: it has expired, or was never yours")
        if request.method == "tasks/get":
            return encode_result(request.id, self.told(task, await self._outcome(task), "complete"))
        if request.method == "tasks/cancel":
            await self._cancel(task)
        if request.method == "tasks/update":
            self._update(task, params.input_responses)
        empty = {"resultType": "complete", "_meta": self.endpoint.modern.server_info}
        return encode_result(request.id, mcp.encode(empty))

    def find(self, id: str, principal: str) -> ToolTask | None:
        """The task, if it is this principal's and has not expired. A foreign one looks like none."""
        task = self.tasks.get(id)
        if task is None or task.principal != principal or self.wall() >= task.expires:
            return None
        return task

    async def notified(self, id: str, principal: str) -> bytes | None:
        """The parameters of a notification of the task as it is now; None where there is no such task."""
        task = self.find(id, principal)
        try:
            return self.told(task, await self._outcome(task)) if task is not None else None
        except ProtocolError:
            return None

    async def _cancel(self, task: ToolTask) -> None:
        """Cooperative: the wish is committed, so that a crash does not lose it; what came before it stays."""
        if task.ended or task.cancelling:
            return
        task.cancelling = True
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def committed(error: StoreError | None) -> None:
            if not written.done():
                written.set_result(None)

        self.journals.write([task.entry()], committed)  # before its end, which then stands behind it
        if task.call is not None:
            task.call.cancel(TaskCancelled("cancelled by its client"))
        await written

    async def _outcome(self, task: ToolTask) -> bytes | None:
        """The result of a completed task, the error of a failed one."""
        if task.kept is not None or task.outcome_name is None:
            return task.kept
        try:
            entry = await self.journals.store.entry(RESULT, task.id)
        except StoreError as error:
            logger.error("a task's result cannot be read: %s", error)  # its text names the file: not for clients
            text = "the task's result cannot be read; try again later"
            raise ProtocolError(INTERNAL_ERROR, text, {"retry": True}) from None
        if entry is None:
            raise ProtocolError(INVALID_PARAMS, "no such task: it has expired")
        return entry.data

    def told(
        self, task: ToolTask, outcome: bytes | None, result_type: str | None = None, *, replayed: bool = False
    ) -> bytes:
        """The state of a task, encoded. It lives `task_ttl` from its end on; while it works, from now on."""
        end = task.expires if task.ended else self.wall() + self.settings.task_ttl
        meta = {**self.endpoint.modern.server_info, "io.tailrace/replayed": True} if replayed else None
        more = {"result_type": result_type, "meta": meta or self.endpoint.modern.server_info} if result_type else None
        return task.told(outcome, end, self.settings.task_poll, more)

    # --- their table, and its entries in the store ---

    def check_room(self, principal: str) -> None:
        """Before one more is made.

        Raises:
            ProtocolError: -32000: there are too many, or their results take too much.
        """
        settings = self.settings
        limit = ""
        if len(self.tasks) >= settings.max_tasks:
            limit = f"{settings.max_tasks} tasks are kept on this server"
        elif self._principals[principal] >= settings.max_principal_tasks:
            limit = f"{settings.max_principal_tasks} of your tasks are kept"
        elif self.bytes >= settings.task_bytes:
            limit = "the results of tasks that are kept take too much room"
        if limit:
            text = f"{limit}; try again later"
            raise ProtocolError(mcp.LIMIT_REACHED, text, {"limit": "tasks"})

    @property
    def working(self) -> list[TaskCall]:
        """The calls of those that run."""
        return [task.call for task in self.tasks.values() if task.call is not None]

    def enter(self, task: ToolTask) -> None:
        """Keep it; nothing of it is stored by this."""
        self.tasks[task.id] = task
        if task.key is not None:
            self._keyed[task.principal, task.key] = task
        self._principals[task.principal] += 1
        self.bytes += task.size

    def keyed(self, principal: str, key: str | None) -> ToolTask | None:
        """The task of a call that runs once, by its key."""
        return self._keyed.get((principal, key)) if key is not None else None

    def remove(self, task: ToolTask) -> None:
        """Keep it no more. Idempotent; its entries in the store are the caller's affair."""
        if self.tasks.pop(task.id, None) is not None:
            self.bytes -= task.size
            self._said.pop(task, None)
            if self._keyed.get((task.principal, task.key)) is task:
                del self._keyed[task.principal, task.key]
            self._principals[task.principal] -= 1
            if not self._principals[task.principal]:
                del self._principals[task.principal]

    # --- the clock, and the end ---

    def sweep(self, now: float) -> None:
        """Twice a second: what they said; every few seconds: who has expired."""
        for task in list(self._said):
            self.endpoint.listens.tell_task(task.id, partial(self.told, task, None))
        self._said.clear()
        if now >= self._next_expiry:
            self._next_expiry = now + _EXPIRE_EVERY
            wall = self.wall()
            for task in [task for task in self.tasks.values() if task.expires <= wall]:
                self.remove(task)  # its entries in the store go by themselves

    async def settled(self) -> None:
        """Return when each task that has ended is told to have."""
        while self._unsettled:
            await self._idle.wait()

    def close(self) -> None:
        """Stop its timers."""
        self.making.close()
