"""One task: what is known of it, what is stored of it, and how it is told (SEP-2663). Who changes it is `tasks`."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tailrace.core.ports import PutEntry
from tailrace.errors import CallCancelled
from tailrace.protocols.mcp.legs import named, numbered
from tailrace.protocols.mcp.request_state import digest_of
from tailrace.wire import mcp
from tailrace.wire.content import Text
from tailrace.wire.tasks import TERMINAL, TaskState

if TYPE_CHECKING:
    from tailrace.protocols.mcp.dialect import Dialect
    from tailrace.protocols.mcp.legs import Question
    from tailrace.protocols.mcp.task_call import TaskCall

__all__ = [
    "RESULT",
    "STATE",
    "TaskCancelled",
    "ToolTask",
    "capabilities_of",
    "restored",
    "timestamp",
    "unknown_outcome",
]

STATE, RESULT = "task", "task-result"  # kinds of entries: a start reads the small ones only
_NEVER = 1e11  # wall clock: what has not ended does not expire
_OVERHEAD = 1024  # bytes that a task takes beside its arguments and its result
_CAPABILITIES = 4096  # bytes of what is kept of a client's capabilities
_NAMES = {"completed": "result", "failed": "error"}


class TaskCancelled(CallCancelled):
    """Its client cancelled the task."""


class ToolTask:
    """One task; only its table changes it. Times are wall-clock seconds.

    Attributes:
        id: 128 random bits, and no secret: it is worth something to its principal only.
        principal: Whose it is.
        tool: What it runs.
        arguments: Of the call; empty once it has ended.
        trace: The request's `traceparent`, for a second run.
        status: ``working``, or one of the terminal states, which is final.
        message: What it said last.
        created, updated: When.
        key: The idempotency key of its call (`once`), under which it is found again; None without one.
        fingerprint: Of that call.
        expires: Set when it ends.
        ended: Its end is decided, and may still be on its way into the store.
        cancelling: Its client asked for its end.
        reran: It runs for the second time: a third one is not tried.
        size: Bytes it takes, about.
        kept: A result that could not be stored.
        outcome: What an earlier process life had decided, and not told.
        call: What runs it.
        capabilities: What its client said that it can be asked.
        identity: Of its call, over all runs of its handler.
        asked: Its questions that wait for answers, by their keys.
    """

    __slots__ = (
        "_times",
        "arguments",
        "asked",
        "call",
        "cancelling",
        "capabilities",
        "created",
        "ended",
        "expires",
        "fingerprint",
        "id",
        "identity",
        "kept",
        "key",
        "message",
        "outcome",
        "principal",
        "reran",
        "size",
        "status",
        "tool",
        "trace",
        "updated",
    )

    def __init__(self, id: str, principal: str, tool: str, arguments: Raw, trace: str | None, now: float) -> None:
        self.id = id
        self.principal = principal
        self.tool = tool
        self.arguments = arguments
        self.trace = trace
        self.created = self.updated = now
        self.status = "working"
        self.message = ""
        self.ended = self.cancelling = self.reran = False
        self.expires = _NEVER
        self.size = len(arguments) + _OVERHEAD
        self.kept: bytes | None = None
        self.outcome: bytes | None = None
        self.key: str | None = None
        self.fingerprint = b""
        self.call: TaskCall | None = None
        self.capabilities: dict[str, Any] = {}
        self.identity = id
        self.asked: dict[str, tuple[Question, asyncio.Future[Any]]] = {}
        self._times: Counter[str] = Counter()

    def key_of(self, question: Question) -> str:
        """The key of a question; it has not been used in the task's life (SEP-2663)."""
        base = question.key or named(question.method, digest_of(question.method, question.params))
        return numbered(f"again-{base}" if self.reran else base, self._times)

    @property
    def outcome_name(self) -> str | None:
        """What it has besides its state: a ``result``, an ``error``, or nothing."""
        return _NAMES.get(self.status)

    def entry(self, *, status: str | None = None, updated: float | None = None, message: str = "") -> PutEntry:
        """What is stored of it, as it is now or as it will stand."""
        stored = StoredTask(
            principal=self.principal,
            tool=self.tool,
            status=status or self.status,
            created=self.created,
            updated=self.updated if updated is None else updated,
            message=message,
            arguments=self.arguments,
            trace=self.trace,
            cancelling=self.cancelling,
            reran=self.reran,
            size=self.size,
            key=self.key,
            fingerprint=self.fingerprint,
            outcome=self.call.outcome if self.call is not None else UNSET,
            capabilities=self.capabilities,
            identity=self.identity if self.identity != self.id else None,
        )
        return PutEntry(STATE, self.id, mcp.encode(stored), self.expires)

    def told(self, outcome: bytes | None, end: float, poll: float, more: dict[str, Any] | None = None) -> bytes:
        """How the wire has it.

        Args:
            outcome: Its encoded result or error.
            end: Until when it is there at least.
            poll: Seconds between two looks at it.
            more: What a result has besides.
        """
        inlined: dict[str, Any] = {}
        if self.outcome_name is not None and outcome is not None:
            inlined[self.outcome_name] = Raw(outcome)
        asks = bool(self.asked) and not self.ended
        if asks:
            inlined["input_requests"] = {key: question.request for key, (question, _) in self.asked.items()}
        state = TaskState(
            self.id,
            "input_required" if asks else self.status,
            timestamp(self.created),
            timestamp(self.updated),
            max(1, round((end - self.created) * 1000)),
            poll_interval_ms=max(1, round(poll * 1000)),
            status_message=self.message or UNSET,
            **inlined,
            **(more or {}),
        )
        return mcp.encode(state)


class StoredTask(Struct, frozen=True, omit_defaults=True):
    """The small entry of a task."""

    principal: str
    tool: str
    status: str
    created: float
    updated: float
    message: str = ""
    arguments: Raw = Raw(b"{}")
    trace: str | None = None
    cancelling: bool = False
    reran: bool = False
    size: int = 0
    key: str | None = None
    fingerprint: bytes = b""
    outcome: Raw | UnsetType = UNSET  # its result, committed together with what it published: it does not run again
    capabilities: dict[str, Any] = {}
    identity: str | None = None  # where it is another than its id


_decode_stored = msgspec.json.Decoder(StoredTask).decode


def restored(id: str, data: bytes, expires: float) -> ToolTask:
    """A task of an earlier process life.

    Raises:
        MsgspecError: The entry cannot be read.
    """
    stored = _decode_stored(data)
    task = ToolTask(id, stored.principal, stored.tool, stored.arguments, stored.trace, stored.created)
    task.updated, task.status, task.message = stored.updated, stored.status, stored.message
    task.cancelling, task.reran, task.size = stored.cancelling, stored.reran, stored.size
    task.capabilities, task.identity = stored.capabilities, stored.identity or id
    task.key, task.fingerprint = stored.key, stored.fingerprint
    if stored.outcome is not UNSET:
        task.outcome = bytes(stored.outcome)
    if task.status in TERMINAL:
        task.ended, task.expires = True, expires
    return task


def capabilities_of(meta: mcp.Meta) -> dict[str, Any]:
    """What of a request's capabilities a task has to know, also in another process life."""
    declared = {} if meta.client_capabilities is UNSET else meta.client_capabilities
    kept = {name: declared[name] for name in ("elicitation", "sampling", "roots") if name in declared}
    return kept if len(mcp.encode(kept)) <= _CAPABILITIES else {name: {} for name in kept}


def timestamp(seconds: float) -> str:
    """A wall-clock time as ISO 8601, in UTC and to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unknown_outcome(dialect: Dialect) -> bytes:
    """The result of a task that a crash interrupted: an error of the tool's, as none of the protocol's has happened."""
    text = "The server was stopped while this task was working; whether it took effect is unknown."
    meta = {**dialect.server_info, "io.tailrace/outcome": "unknown"}
    return mcp.encode(mcp.ToolResult([Text(text)], is_error=True, result_type=dialect.result_type, meta=meta))
