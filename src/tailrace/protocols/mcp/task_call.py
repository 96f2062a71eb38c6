"""A call that is, or may become, a task (SEP-2663): its frames go to its request, or to its task.

Until the task is committed it is a plain call, and its request waits: a disconnect cancels it. From then on it
belongs to the server, the request has its answer, and nothing but `tasks/cancel` ends it early.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from tailrace.errors import CallCancelled
from tailrace.protocols.mcp.legs import Moved
from tailrace.protocols.mcp.once import OnceCall
from tailrace.protocols.mcp.tool_call import ToolCall

if TYPE_CHECKING:
    from tailrace.core.call import Call
    from tailrace.core.ports import Record
    from tailrace.protocols.mcp.legs import Leg, Question
    from tailrace.protocols.mcp.reply import ExchangeReply, SessionReply
    from tailrace.protocols.mcp.task_state import ToolTask
    from tailrace.protocols.mcp.tasks import TaskTable

__all__ = ["Joined", "OnceTaskCall", "Stage", "TaskCall", "TaskReply"]


class Stage(Enum):
    """`PLAIN` (its request waits) -> `CREATING` (the task is being committed) -> `TASK`; or back to `PLAIN`."""

    PLAIN = 0
    CREATING = 1
    TASK = 2


class Joined(CallCancelled):
    """Another request with its key has become a task: that is the answer to this one as well.

    Args:
        told: The encoded result that says so.
    """

    def __init__(self, told: bytes) -> None:
        super().__init__("the call is a task")
        self.told = told


class TaskReply:
    """Where the frames of such a call go (fulfils `core.call.Reply`).

    Args:
        table: Told of what the task says and how it ends.
        inner: The reply of its request; None for a task of an earlier process life.

    Attributes:
        settled: For the delay line: it is not waited for any more.
    """

    __slots__ = ("call", "inner", "settled", "stage", "table", "task")

    def __init__(self, table: TaskTable, task: ToolTask, inner: ExchangeReply | SessionReply | None) -> None:
        self.table = table
        self.task = task
        self.inner = inner
        self.call: TaskCall
        self.stage = Stage.PLAIN if inner is not None else Stage.TASK
        self.settled = False

    def notify(self, call: Call, payload: bytes) -> None:
        """To the request while it waits. A task has no notifications of its kind (SEP-2663, status notifications)."""
        if self.stage is not Stage.TASK and self.inner is not None:
            self.inner.notify(call, payload)

    def answer(self, call: Call, payload: bytes | None) -> None:
        """The call has ended."""
        self.settled = True
        if self.stage is Stage.TASK:
            return self.table.ended(self.task, self.call, payload)
        if self.stage is Stage.CREATING:  # before anybody was told of a task
            self.stage = Stage.PLAIN
            self.table.making.drop(self.task)
        assert self.inner is not None
        return self.inner.answer(call, payload)

    async def room(self) -> None:
        """Wait while the request's reader is too far behind; a task waits for nobody."""
        if self.stage is not Stage.TASK and self.inner is not None:
            await self.inner.room()

    async def room_for(self, size: int) -> bool:
        """What a task answers goes into the store, which has its own limits."""
        return self.stage is Stage.TASK or self.inner is None or await self.inner.room_for(size)

    @property
    def gone(self) -> bool:
        """Nobody waits for the answer. A task's is asked for later."""
        return self.stage is not Stage.TASK and self.inner is not None and self.inner.gone

    def records(self, call: Call) -> Sequence[Record]:
        """Its entry, with the outcome that is being committed: it does not run again."""
        return () if self.stage is Stage.PLAIN else (self.task.entry(),)

    def carries(self, call: Call) -> bool:
        """Only while it is a plain call of a request's."""
        return self.stage is Stage.PLAIN and self.inner is not None and self.inner.carries(call)

    def due(self) -> None:
        """It has run for long enough: make a task of it, unless there is no room for one."""
        self.settled = True
        self.table.making.convert(self.call)


class TaskCall(ToolCall):
    """A tool's call that is, or may become, a task."""

    __slots__ = ()

    @property
    def place(self) -> TaskReply:
        """Its reply."""
        assert isinstance(self.reply, TaskReply)
        return self.reply

    @property
    def can_pause(self) -> bool:
        """While it is a plain call: a task is asked by its own methods."""
        return self.place.stage is Stage.PLAIN

    @property
    def paused(self) -> bool:
        """It goes on as the task of another request."""
        return super().paused or isinstance(self.cancelled_by, Joined)

    def aborted(self, error: Exception) -> bytes | None:
        """As any call's, or with the task that it has turned out to be."""
        return self.result(error.told) if isinstance(error, Joined) else super().aborted(error)

    @property
    def identity(self) -> str | None:
        """The task's, which it may have from the legs before it."""
        return f"call {self.place.task.identity}"

    def legged(self) -> Leg:
        """As any call's."""
        leg = super().legged()
        leg.identity = self.place.task.identity
        return leg

    async def settled(self) -> None:
        """Return once it is a task, or none."""
        await self.place.table.making.decided(self)

    async def ask(self, question: Question, timeout: float | None) -> Any:
        """As a plain call, while it is one; a task waits for its answer (SEP-2663, `tasks/update`)."""
        while True:
            await self.settled()
            if self.place.stage is Stage.TASK:
                return await self.place.table.ask(self, question, timeout)
            try:
                return await super().ask(question, timeout)
            except Moved:
                continue

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """What a task reports becomes its status message."""
        super().progress(done, total, message)
        place = self.place
        if place.stage is Stage.TASK and self.context.error is None:
            place.table.say(place.task, message if message is not None else _described(done, total))

    def log(self, level: str, data: Any, logger: str | None) -> None:
        """Log records go to the request while it waits; tasks have none."""
        if self.place.stage is not Stage.TASK:
            super().log(level, data, logger)


class OnceTaskCall(TaskCall, OnceCall):
    """The same with an idempotency key: the task waits for the key's one run, as every request with that key does."""

    __slots__ = ()


def _described(done: float, total: float | None) -> str:
    return f"{done:g}" if total is None else f"{done:g} of {total:g}"
