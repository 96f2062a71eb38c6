"""One accepted unit of work. It belongs to a session or to the server, never to a connection.

A call is entered into its owner's table before any user code runs, runs in its own task, ends
exactly once, and leaves its answer with a `Reply`. What the answer looks like is the protocol's.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.core.context import Context
from tailrace.core.headers import NO_HEADERS, RequestHeaders
from tailrace.core.meter import ANSWERED, Ending
from tailrace.core.outgoing import Collected, Leaving
from tailrace.core.steps import check_name, run_here
from tailrace.errors import AnswerWritten, CallCancelled, CapabilityError, DeadlineExceeded

if TYPE_CHECKING:
    from tailrace.core.asked import ClientInfo, ElicitResult, Root, SampleResult
    from tailrace.core.meter import Meter, Operation
    from tailrace.core.outgoing import Message, Outbox
    from tailrace.core.ports import Record
    from tailrace.core.rpc import RpcInfo
    from tailrace.core.session import Session
    from tailrace.core.tasks import Tasks
    from tailrace.core.trace import Span

__all__ = ["Call", "CallState", "Reply"]

logger = logging.getLogger("tailrace.calls")


_TURN = 64  # reports of a handler after which it gives way


class Reply(Protocol):
    """Where a call's frames go: a session's log, or the exchange that brought the call."""

    def notify(self, call: Call, payload: bytes) -> None:
        """Send a notification of this call, before its answer. Never waits, never raises."""
        ...

    def answer(self, call: Call, payload: bytes | None) -> None:
        """The call has ended; None where nothing is to be sent. Called exactly once; must not raise."""
        ...

    async def room(self) -> None:
        """Wait while the connected reader is too far behind."""
        ...

    async def room_for(self, size: int) -> bool:
        """May an answer of `size` bytes be kept? Waits for a reader that makes room, within a limit. Asked for large
        answers only, right before they are given."""
        ...

    @property
    def gone(self) -> bool:
        """Nobody is connected who would read the answer now."""
        ...

    def records(self, call: Any) -> Sequence[Record]:
        """What the store is to hold of the call as it is now; nothing where it holds nothing of it."""
        ...

    def carries(self, call: Any) -> bool:
        """Will `call.leaving` be committed together with the answer? Else what the call publishes has to be safe
        before. Asked right before `answer`: nothing happens in between."""
        ...


class CallState(Enum):
    """`ACCEPTED` (owned, no user code has run) -> `RUNNING` -> `ENDED`."""

    ACCEPTED = 0
    RUNNING = 1
    ENDED = 2


class Call(ABC):
    """An accepted call; subclasses say what running it means.

    Attributes:
        accepted_at: When, where that is measured; by a clock of its own, as the loop's may only tick each millisecond.
        key: What tells it from the other calls of its owner.
        number: Unique within its session over all process lives; names it in the journal.
        journalled: The journal holds its acceptance.
        cancelled_by: What it was cancelled with. Its context's error may be another: a handler can end that by itself.
        request_id: The id its client gave it.
        session: The session that owns it; None where the server does.
        tasks: Where it runs and is counted.
        reply: Where its frames go.
        context: What its handler is given; once it has ended without an error, the empty one.
        collected: What it wants published, if anything.
        leaving: What of that goes with its answer (see `Reply.carries`).
        decided: Its outcome is being committed: a cancellation comes too late now.
        principal: Whose it is; ``""`` is nobody's.
        span: Of the call as a whole, where somebody traces.
        failure: Why its answer is an error, for the span.
        failure_code: The same, as its protocol has it (see `Ending`); ``""`` where there is none.
        steps: The names of its handler's steps, if it has any.
        task: Where it runs, while it does.
    """

    __slots__ = (
        "_deadline_timer",
        "_reports",
        "accepted_at",
        "cancelled_by",
        "collected",
        "context",
        "decided",
        "failure",
        "failure_code",
        "journalled",
        "key",
        "leaving",
        "number",
        "principal",
        "reply",
        "request_id",
        "session",
        "span",
        "state",
        "steps",
        "task",
        "tasks",
    )

    def __init__(
        self, key: Hashable, number: int, request_id: int | str, session: Session | None, tasks: Tasks, reply: Reply
    ) -> None:
        self.key = key
        self.number = number
        self.journalled = False
        self.principal = ""
        self.request_id = request_id
        self.session = session
        self.tasks = tasks
        self.reply = reply
        self.context = Context(call=self)
        self.state = CallState.ACCEPTED
        self.task: asyncio.Task[None] | None = None
        self.cancelled_by: Exception | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._reports = 0
        self.collected: Collected | None = None
        self.leaving: Leaving | None = None
        self.decided = False
        self.span: Span | None = None
        self.failure: str | None = None
        self.failure_code = ""
        self.accepted_at = 0.0
        self.steps: set[str] | None = None

    @property
    def public_session(self) -> Session | None:
        """The session that a handler may see."""
        return self.session

    @property
    def rpc(self) -> RpcInfo | None:
        """What a handler sees of the call where it came over RPC."""
        return None

    @property
    def headers(self) -> RequestHeaders:
        """Those of the HTTP request that brought it, in this process life; none where there was none."""
        return NO_HEADERS

    @property
    def paused(self) -> bool:
        """It has ended without an outcome, and comes back: that is no failure of it."""
        return False

    @property
    def operation(self) -> Operation | None:
        """What is measured of it; None: nothing, because another call stands for it."""
        return None

    @property
    def client(self) -> ClientInfo | None:
        """What its client says of itself, where there is one that does."""
        return None

    @property
    def label(self) -> str:
        """For people: which call this is."""
        return f"request {str(self.request_id)[:64]!r}"

    # --- what a protocol brings ---

    @abstractmethod
    async def run(self) -> bytes | None:
        """Run the handler and give the encoded answer. Failures of the handler are answers, too."""

    @abstractmethod
    def aborted(self, error: Exception) -> bytes | None:
        """The encoded answer of a call that was cancelled, or None where none is due. Must not raise."""

    def outlived(self, payload: bytes | None, error: Exception) -> bytes | None:
        """The handler caught its cancellation, and answered. The call was over all the same."""
        return self.aborted(error)

    @abstractmethod
    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """Send progress to the caller, if it asked for it."""

    @abstractmethod
    def log(self, level: str, data: Any, logger: str | None) -> None:
        """Send a log record to the caller, if it wants it."""

    async def elicit(self, message: str, schema: Any, timeout: float | None, key: str | None) -> ElicitResult:
        """Ask the caller's user (see `Context.elicit`)."""
        raise CapabilityError("this kind of call cannot ask its client")

    async def elicit_url(self, message: str, url: str, timeout: float | None, key: str | None) -> ElicitResult:
        """Send the caller's user to a page (see `Context.elicit_url`)."""
        raise CapabilityError("this kind of call cannot ask its client")

    async def sample(self, params: Mapping[str, Any], timeout: float | None, key: str | None) -> SampleResult:
        """Ask the caller's model (see `Context.sample`)."""
        raise CapabilityError("this kind of call cannot ask its client")

    async def list_roots(self, timeout: float | None, key: str | None) -> list[Root]:
        """Ask where the caller lets the server work (see `Context.list_roots`)."""
        raise CapabilityError("this kind of call cannot ask its client")

    async def step(self, name: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a part of the handler that is not to run again (see `Context.step`); this kind of call never does."""
        self.take_step(name)
        return await run_here(self.tasks, fn, args)

    def take_step(self, name: str) -> None:
        """Note that its handler has a step of this name.

        Raises:
            ValueError: It has one already, or the name is none.
            LimitError: It has too many.
        """
        if self.steps is None:
            self.steps = set()
        check_name(name, self.steps)

    # --- its life ---

    def start(self) -> None:
        """Run it in a task of its own. It must have been accepted by its owner; a cancelled one ends at once."""
        if self.state is CallState.ACCEPTED and self.task is None:
            self.task = self.tasks.run_call(self, self._run())

    def cancel(self, error: Exception) -> None:
        """End it early: its context ends with `error`, its task is cancelled. Only the first time counts."""
        if self.state is CallState.ENDED or self.cancelled_by is not None or self.decided:
            return
        self.cancelled_by = error
        self.context.cancel(error)
        if self.task is None:
            self._finish(self.aborted(error))
        elif self.state is CallState.RUNNING:
            self.task.cancel()
        # else: its task has not begun. Cancelling that would skip `_run` as a whole; it looks at the context first.

    def outlive(self) -> None:
        """The server owns it from now on: its session's end is its end no more."""
        if self.session is not None:
            self.session.release(self)
            self.session = None

    def abandon(self, error: Exception) -> None:
        """Its task does not end although it was cancelled: its caller is answered all the same. It stays counted
        where it runs until it does end; what it says then is heard by nobody."""
        if not self.over:
            self._answer(self.aborted(error))

    def set_timeout(self, seconds: float, error: Exception) -> None:
        """Cancel it with `error` after `seconds`."""
        loop = asyncio.get_running_loop()
        self.context.deadline = loop.time() + seconds
        self._deadline_timer = loop.call_later(seconds, self.expire, error, context=contextvars.Context())

    def expire(self, error: Exception) -> None:
        """Its time is over."""
        self.cancel(error)

    async def room(self) -> None:
        """Wait while the caller's connection is too far behind; now and then let the others have their turn.

        A handler that does nothing but report would else never give way, and could not be cancelled.
        """
        self._reports += 1
        if not self._reports % _TURN:
            await asyncio.sleep(0)
        if self.state is not CallState.ENDED:
            await self.reply.room()

    def say(self, send: Callable[..., None], *args: Any) -> None:
        """Call `send` (`progress` or `log`), unless the call has ended: nothing follows an answer."""
        if self.state is not CallState.ENDED:
            send(*args)

    def spawn(
        self,
        context: Context,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        name: str | None,
        timeout: float | None,
        on_error: Callable[[Exception], Any] | None,
    ) -> None:
        """Start detached work with `context`'s values (see `Context.spawn`)."""
        self.tasks.spawn(context.detach(), fn, args, name=name, timeout=timeout, on_error=on_error)

    @property
    def over(self) -> bool:
        """Its outcome is decided: nothing can be added to it."""
        return self.decided or self.state is CallState.ENDED

    def collect(self, outbox: Outbox, message: Message, *, skip_if_gone: bool) -> None:
        """Keep a message until the call has succeeded (see `Context.publish`).

        Raises:
            LimitError: It has published too much already.
        """
        if self.collected is None:
            self.collected = Collected(outbox)
        self.collected.add(message, skip_if_gone=skip_if_gone)

    async def _run(self) -> None:
        self.context.enter_here()
        if self.cancelled_by is not None:  # between `start` and its first step
            return self._finish(self.aborted(self.cancelled_by))
        self.state = CallState.RUNNING
        payload: bytes | None = None
        try:
            payload = await (self.run() if self.span is None else self._run_traced(self.span))
        except asyncio.CancelledError:
            error = self.cancelled_by or self.context.error or CallCancelled("the call's task was cancelled")
            payload = self.aborted(error)
            raise
        except Exception:  # not the handler's, whose failures are answers; its client is answered all the same
            logger.exception("a call could not be answered request_id=%r", self.request_id)
            payload = self.aborted(CallCancelled("internal error"))
        else:
            if self.context.error is not None:
                payload = self.outlived(payload, self.context.error)
        finally:
            self._finish(payload)

    async def _run_traced(self, span: Span) -> bytes | None:
        run = span.tracer.begin("internal", f"run {self.label.partition(' ')[0]}", span.values, {})
        error: BaseException | str | None = None
        try:
            with span.tracer.current(run):
                payload = await self.run()
            error = self.failure
            return payload
        except BaseException as failure:
            error = failure
            raise
        finally:
            run.end(None if self.paused else error, self.failure_code)

    def _finish(self, payload: bytes | None) -> None:
        """Its task has ended, or there will be none."""
        self.tasks.release(self)
        if self.state is not CallState.ENDED:
            self._answer(payload)
        # It lets go of its task and (unless someone may ask why it was cancelled) of its context, which hold it as
        # well: 13 objects a call would be left to the cycle collector.
        self.task = None
        if self.context.error is None:
            self.context.cancel(AnswerWritten())
            self.context = Context.background()

    def _answer(self, payload: bytes | None) -> None:
        """The one place where a call ends: out of its owner's table, then the answer."""
        self.state = CallState.ENDED
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        if self.session is not None:
            self.session.release(self)
        if self.span is not None:
            self.span.end(None if self.paused else self.cancelled_by or self.failure, self.failure_code)
        if self.tasks.meter is not None:
            self._measure(self.tasks.meter)
        self.reply.answer(self, payload)

    def _measure(self, meter: Meter) -> None:
        operation = self.operation
        if operation is not None:
            meter.call_ended(operation, self._ending(), perf_counter() - self.accepted_at)

    def _ending(self) -> Ending:
        if self.paused:
            return Ending("paused", "")
        if self.cancelled_by is not None:
            return Ending("timeout" if isinstance(self.cancelled_by, DeadlineExceeded) else "cancelled", "")
        return ANSWERED if self.failure is None else Ending("error", self.failure_code)
