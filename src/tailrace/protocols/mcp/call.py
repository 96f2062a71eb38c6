"""One call of the user's code: arguments in, the handler's run, the result out, in the words of its version.

What is called (its *target*: a tool, a resource, a prompt, a completion) has a class of its own, which knows its
arguments, its result and its failures: `tool_call`, `reading`. Here is what all of them have in common; how the
user's function is run is `invoking`'s.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Raw, UnsetType

from tailrace.core.headers import NO_HEADERS, RequestHeaders
from tailrace.core.interrupts import is_foreign
from tailrace.core.meter import Operation
from tailrace.core.outgoing import Leaving
from tailrace.core.session import ANSWER_ROOM
from tailrace.errors import (
    CallCancelled,
    CapabilityError,
    DeadlineExceeded,
    LimitError,
    ProtocolError,
    StoreError,
    ToolError,
)
from tailrace.protocols.mcp.asking_call import AskingCall
from tailrace.protocols.mcp.failures import PeerCancelled, encode_failure, no_room
from tailrace.protocols.mcp.legs import InputRequired
from tailrace.protocols.mcp.records import StoredCallData
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import INTERNAL_ERROR, encode_notification, encode_result

if TYPE_CHECKING:
    from tailrace.core.call import Reply
    from tailrace.core.outgoing import Collected
    from tailrace.core.session import Session
    from tailrace.core.tasks import Tasks
    from tailrace.protocols.mcp.asking import Asking
    from tailrace.protocols.mcp.asking_call import Target
    from tailrace.protocols.mcp.dialect import Dialect

__all__ = ["McpCall"]

logger = logging.getLogger("tailrace.tools")

_LARGE = 1024 * 1024  # bytes of one SSE event that the official Python client takes
_LEVELS = {level: rank for rank, level in enumerate(mcp.LOG_LEVELS)}
_UNNAMED = ("resources/read", "completion/complete")  # what they are about is the client's to say


class _NotPublished(StoreError):
    """What the call publishes could not be committed; not to be taken for an error of the tool's own."""


class McpCall(AskingCall):
    """A call of something that the service offers.

    Attributes:
        status: Of the HTTP reply, where its answer is all of that.
        level: The least severe log record the client wants, as a rank; None for all of them, -1 for none.
        reran: It runs again after a crash.
        outcome: Its result, once that is decided and what it publishes is being committed.
        keep_answer: Answer also when the client cancelled it (its POST waits for some reply).
        kept_headers: Of the HTTP request that brought it.
    """

    __slots__ = (
        "keep_answer",
        "kept_headers",
        "level",
        "max_result",
        "outcome",
        "reran",
        "status",
    )

    def __init__(
        self,
        key: Hashable,
        number: int,
        request_id: int | str,
        session: Session | None,
        tasks: Tasks,
        reply: Reply,
        *,
        target: Target,
        arguments: Raw | UnsetType,
        meta: mcp.Meta,
        dialect: Dialect,
        level: str | None,
        max_result: int,
        asking: Asking,
        principal: str,
        keep_answer: bool = False,
    ) -> None:
        super().__init__(key, number, request_id, session, tasks, reply)
        self.target = target
        self.arguments = arguments
        self.meta = meta
        self.dialect = dialect
        self.asking = asking
        self.leg = None
        self.level = level
        self.max_result = max_result
        self.principal = principal
        self.keep_answer = keep_answer
        self.kept_headers = NO_HEADERS
        self.status = 200
        self.reran = False
        self.outcome: Raw | UnsetType = UNSET

    @property
    def public_session(self) -> Session | None:
        """Modern calls have no session to show, also where one process has a conversation (stdio)."""
        return None if self.dialect.modern else self.session

    @property
    def headers(self) -> RequestHeaders:
        """Those of its request."""
        return self.kept_headers

    @property
    def once_key(self) -> tuple[str, float] | None:
        """The key under which it runs once, and the wall clock."""
        return None

    @property
    def operation(self) -> Operation | None:
        """Its method, and its target's name; a URI is the client's, and its own series for each were too many."""
        return Operation("mcp", self.METHOD, "" if self.METHOD in _UNNAMED else self.target.name)

    @property
    def label(self) -> str:
        """For people: which call this is."""
        return f"{self.target.name} (request {str(self.request_id)[:64]!r})"

    # --- what its target brings ---

    async def work(self) -> bytes:
        """Decode the arguments, run the handler, encode its result.

        Raises:
            ToolError: What its caller is to be told.
            ProtocolError: The same, as an error of the protocol's with its own code.
        """
        raise NotImplementedError

    def refusal(self, error: ToolError) -> bytes:
        """The answer that says what the handler itself says to its caller."""
        raise NotImplementedError

    def _failure(self, text: str) -> bytes:
        """The answer of a call that did not succeed."""
        raise NotImplementedError

    # --- running ---

    async def run(self) -> bytes | None:
        """Run the handler. Whatever it does, there is an answer; only a cancellation of the call comes out."""
        try:
            result = await self.work()
            answer = self.result(result)
            if len(answer) > ANSWER_ROOM and not await self.reply.room_for(len(answer)):
                raise no_room(answer)
            if self.collected is not None and not self._is_lost:
                await self._publish(self.collected, result)
            return answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.cancelled_by is not None or (task is not None and task.cancelling()):
                raise
            return self.bug("the handler was cancelled from inside")
        except ToolError as error:
            if isinstance(error, CapabilityError) and error.required and self.asks_modern:
                return self.lacking(error)
            return self.refusal(error)
        except ProtocolError as error:
            return self.error(error.code, error.message, error.data)
        except CallCancelled as error:  # the server ends, and its threads take nothing any more
            return self.aborted(error)
        except _NotPublished as error:
            return self.unpublished(error)
        except LimitError as error:
            self.tasks.refuse(error.limit)
            return self.error(mcp.LIMIT_REACHED, error.message, {"limit": error.limit})
        except BaseException as error:  # also SystemExit, and those of test frameworks: an accepted call is answered
            if is_foreign(error, self.task):
                raise
            return self.bug("the handler raised an exception")

    async def _publish(self, collected: Collected, result: bytes) -> None:
        """Commit what it publishes, in one write with its answer, or with its own record: a crash leaves both, or
        neither. From here on it has succeeded, and is not cancelled any more.
        """
        messages = collected.take(gone=self.reply.gone)
        if not messages:
            return
        self.decided = True
        if self.reply.carries(self):
            self.leaving = Leaving(collected.outbox, messages, self.unpublished)
            return
        self.outcome = Raw(result)
        records = self.reply.records(self)
        try:
            await collected.outbox.write(messages, records)
        except StoreError as error:
            self.outcome = UNSET
            raise _NotPublished(str(error)) from None

    @property
    def _is_lost(self) -> bool:
        """It was cancelled: whatever its handler made of that, it is answered so (see `outlived`)."""
        return self.context.error is not None

    def unpublished(self, error: StoreError) -> bytes:
        """The answer of a call whose messages could not be committed."""
        logger.error("messages could not be committed, so the call failed %s error=%s", self._named, error)
        return self.error(INTERNAL_ERROR, "what the call publishes could not be stored")

    async def in_thread(self, fn: Callable[[], Any]) -> Any:
        """Run a plain function."""
        return await self.tasks.in_thread(fn)

    # --- what goes out ---

    def result(self, payload: bytes) -> bytes:
        """The answer with an encoded result."""
        return encode_result(self.request_id, payload)

    def error(self, code: int, message: str, data: Any = None) -> bytes:
        """The answer with an error."""
        self.failure, self.failure_code = message, str(code)
        return encode_failure(self.request_id, ProtocolError(code, message, data))

    def lacking(self, error: CapabilityError) -> bytes:
        """The answer to a client that has to declare more than it does (2026-07-28: missing capability)."""
        self.status = 400
        return self.error(mcp.CAPABILITY_MISSING, error.message, {"requiredCapabilities": error.required})

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """`notifications/progress`, if the request carried a token."""
        if not (math.isfinite(done) and (total is None or math.isfinite(total))):
            raise ValueError(f"progress must be finite numbers, got {done!r} of {total!r}")
        token = self.meta.progress_token
        if token is not UNSET and self.context.error is None:
            params = mcp.progress_params(token, done, total, message)
            self.reply.notify(self, encode_notification("notifications/progress", params))

    def log(self, level: str, data: Any, logger: str | None) -> None:
        """`notifications/message`, if the client wants records of this level."""
        rank = _LEVELS.get(level)
        if rank is None:
            raise ValueError(f"no such log level: {level!r}; there are {', '.join(mcp.LOG_LEVELS)}")
        if self.level is not None and rank < _LEVELS.get(self.level, len(_LEVELS)):
            return
        if self.context.error is None:
            params = mcp.log_params(level, data, logger)
            self.reply.notify(self, encode_notification("notifications/message", params))

    def stored(self) -> bytes:
        """The journal's record of it: enough to answer it, or run it again, in another process life."""
        arguments = self.arguments if isinstance(self.arguments, Raw) else Raw(b"{}")
        token = None if self.meta.progress_token is UNSET else self.meta.progress_token
        record = StoredCallData(
            self.request_id, self.target.name, arguments, token, self.once_key, self.reran, self.outcome, self.METHOD
        )
        return mcp.encode(record)

    def aborted(self, error: Exception) -> bytes | None:
        """A timeout is the tool's failure; a cancellation is answered only where something waits for it."""
        if isinstance(error, DeadlineExceeded):
            return self._failure(str(error))
        if isinstance(error, InputRequired):
            return self.result(error.result(self.dialect))
        if isinstance(error, ProtocolError):
            return self.error(error.code, error.message, error.data)
        if isinstance(error, PeerCancelled) and not self.keep_answer:
            return None
        if isinstance(error, StoreError):
            return self.error(INTERNAL_ERROR, "the call could not be stored, and was not begun", {"retry": True})
        return self.error(mcp.LIMIT_REACHED, f"the call was cancelled: {error}")

    def bug(self, what: str) -> bytes:
        """A fault of the program's: the client learns an id, the log has the rest under the same one."""
        error_id = secrets.token_hex(4)
        logger.exception("%s %s error_id=%s request_id=%r", what, self._named, error_id, self.request_id)
        kind, _, name = self._named.partition("=")
        return self._failure(f"internal error in {kind} {name} (error id {error_id})")

    @property
    def _named(self) -> str:
        """For log records."""
        return f"{_KINDS.get(self.METHOD, 'method')}={self.target.name}"

    def check_size(self, payload: bytes) -> bytes:
        """The encoded result, if it may be answered.

        Raises:
            ToolError: It is over the limit.
        """
        if len(payload) > self.max_result:
            raise ToolError(f"the result has {len(payload)} bytes; at most {self.max_result} can be answered")
        if len(payload) > _LARGE:
            logger.warning("result over 1 MiB: some clients refuse it %s bytes=%d", self._named, len(payload))
        return payload


_KINDS = {
    "tools/call": "tool",
    "resources/read": "resource",
    "prompts/get": "prompt",
    "completion/complete": "completion",
}
