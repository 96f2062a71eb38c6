"""The one run of a key (`once=True`): a call of the server's, to which requests attach and from which they leave.

Who may ask for it, and what a request makes of its outcome, is `once`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tailrace.errors import (
    CallCancelled,
    CapabilityError,
    ClientGone,
    DeadlineExceeded,
    ProtocolError,
    StoreError,
    ToolError,
)
from tailrace.protocols.mcp.legs import InputRequired, Moved
from tailrace.protocols.mcp.remembered import (
    ASKED,
    ERROR,
    PAUSED,
    RESULT,
    UNKNOWN,
    RememberedError,
    unknown,
)
from tailrace.protocols.mcp.tool_call import ToolCall
from tailrace.wire import mcp

if TYPE_CHECKING:
    from msgspec import Raw, UnsetType

    from tailrace.core.call import Call
    from tailrace.core.ledger_entry import Entry
    from tailrace.core.ports import Record
    from tailrace.core.session import Session
    from tailrace.core.tasks import Tasks
    from tailrace.protocols.mcp.call import McpCall
    from tailrace.protocols.mcp.legs import Question
    from tailrace.protocols.mcp.once import Once, OnceCall
    from tailrace.service import Tool

__all__ = ["Abandoned", "OnceRun"]

_CANCELLED = "The call with this key was cancelled while it was running; whether it took effect is unknown."


class Abandoned(CallCancelled):
    """The last who waited for a run has cancelled, or its session has ended."""


class OnceRun(ToolCall):
    """The one run of a key. It belongs to the server, and reports to whoever is attached.

    Attributes:
        entry: Of the ledger.
        listeners: The requests that wait for it, the oldest first.
        origin: The session of the first of them, for its handler.
        first: The request that began it; None for one of another process life.
        began: Code of its handler may have run, in this process life or in an earlier one.
        finished: It has an outcome, which the ledger keeps.
    """

    __slots__ = ("_asking", "_kept", "_once", "began", "entry", "finished", "first", "listeners", "origin")

    def __init__(
        self,
        once: Once,
        number: int,
        id: int | str,
        principal: str,
        tool: Tool,
        arguments: Raw | UnsetType,
        meta: mcp.Meta,
    ) -> None:
        endpoint = once.endpoint
        tasks: Tasks = endpoint.tasks
        super().__init__(
            number,
            number,
            id,
            None,
            tasks,
            self,
            target=tool,
            arguments=arguments,
            meta=meta,
            dialect=endpoint.legacy,  # the shortest form; what an era adds, each request adds for itself
            level=None,
            max_result=endpoint.settings.max_result,
            asking=endpoint.asking,
            principal=principal,
        )
        self._once = once
        self._asking: dict[asyncio.Task[Any], ToolCall] = {}  # questions, and whose client is asked
        self._kept = False  # somebody went away without a word, and may come back
        self.entry: Entry | None = None
        self.listeners: dict[OnceCall, None] = {}
        self.origin: Session | None = None
        self.first: OnceCall | None = None
        self.began = self.finished = False

    @property
    def operation(self) -> None:
        """The requests that wait for it are measured."""
        return

    @property
    def public_session(self) -> Session | None:
        """The session of the first request."""
        return self.origin

    def leave(self, listener: OnceCall) -> None:
        """A request does not wait any more.

        A client that is gone from a modern exchange leaves the run alone: it is declared uncancellable there. Who
        cancels, or ends its session, ends the run, unless somebody else waits for it, or may come back.
        """
        self.listeners.pop(listener, None)
        for asking, asked in self._asking.items():
            if asked is listener:
                asking.cancel()
        reason = listener.cancelled_by
        if isinstance(reason, ClientGone):
            self._kept = True
            if not self.listeners:
                self.context.cancel(reason)  # told, not ended
        elif not self.listeners and not self._kept and not self._once.endpoint.ending:
            self.cancel(Abandoned(str(reason or "cancelled")))

    # --- running ---

    async def run(self) -> bytes | None:
        """Run the tool."""
        if self.target.is_async or self.target.is_generator:
            self.began = True
        return await super().run()

    async def in_thread(self, fn: Callable[[], Any]) -> Any:
        """A plain function begins in its thread, if there is one for it."""

        def begin() -> Any:
            self.began = True
            return fn()

        return await super().in_thread(begin)

    @property
    def _is_lost(self) -> bool:
        return isinstance(self.cancelled_by, _PAUSES)

    def outlived(self, payload: bytes | None, error: Exception) -> bytes | None:
        """It answered although it was cancelled: then its outcome is known after all, unless it was to ask first."""
        return self.aborted(error) if isinstance(error, _PAUSES) else payload

    def aborted(self, error: Exception) -> bytes | None:
        """What is remembered of a run that was cancelled; None at the process's end: the next life settles it."""
        if isinstance(error, DeadlineExceeded):
            return self._failure(str(error))
        if isinstance(error, InputRequired):
            return ASKED + mcp.encode({"inputRequests": error.requests, "requestState": error.state})
        if isinstance(error, ProtocolError):
            return PAUSED + mcp.encode(RememberedError(error.code, error.message, error.data))
        if isinstance(error, StoreError):
            return None
        if not self.began:
            return super().aborted(error)
        if self._once.endpoint.ending and not isinstance(error, Abandoned):
            return None
        return UNKNOWN + unknown(_CANCELLED)

    # --- what is asked ---

    @property
    def asked(self) -> ToolCall:
        """The request whose client is asked: the one that began it, or another that is attached and has a client."""
        if self.first is not None and (self.first in self.listeners or self.first.dialect.modern):
            return self.first
        return next((one for one in self.listeners if one.session is not None or one.dialect.modern), self)

    @property
    def client_capabilities(self) -> Mapping[str, Any]:
        """Of the client that is asked."""
        return super().client_capabilities if self.asked is self else self.asked.client_capabilities

    @property
    def asks_modern(self) -> bool:
        """As the client that is asked."""
        return self.asked is not self and self.asked.asks_modern

    @property
    def can_pause(self) -> bool:
        """As the request that began it."""
        return self.first is None or self.first.can_pause

    async def ask(self, question: Question, timeout: float | None) -> Any:
        """Ask as the request would: by its session or its task; else the run ends, and its key stays open."""
        while True:
            asked = self.asked
            await asked.settled()
            if asked is self:
                return await super().ask(question, timeout)
            if not asked.asks_modern or not asked.can_pause:
                asking = self.tasks.start(_outcome(asked.ask(question, timeout)), name="tailrace-once-ask")
                self._asking[asking] = asked
                try:
                    await asyncio.wait([asking])
                finally:
                    del self._asking[asking]
                    asking.cancel()
                if asking.cancelled():  # who was asked has left: another one is
                    continue
                value, error = asking.result()
                if error is not None:
                    raise error
                return value
            if self.leg is None:
                self.leg = asked.legged()
            try:
                return await self.leg.ask(self, question)
            except Moved:
                continue

    def lacking(self, error: CapabilityError) -> bytes:
        """Who has to declare more may do so under the same key."""
        return PAUSED + mcp.encode(
            RememberedError(mcp.CAPABILITY_MISSING, error.message, {"requiredCapabilities": error.required})
        )

    def refusal(self, error: ToolError) -> bytes:
        """As the tool says; where nobody is left who could be asked, the next request with the key is."""
        if isinstance(error, CapabilityError) and self.asked is self:
            return PAUSED + mcp.encode(
                RememberedError(mcp.LIMIT_REACHED, "the client has gone before it could be asked")
            )
        return super().refusal(error)

    @property
    def identity(self) -> str | None:
        """The key's, for one call."""
        return f"once {self.entry.name} {self.entry.fingerprint.hex()}" if self.entry is not None else None

    def forget_steps(self) -> None:
        """Once its outcome is known, which is remembered."""
        if self.finished and self.steps and self.identity is not None:
            self.asking.steps.forget(self.identity, self.steps)

    # --- what goes out ---

    def result(self, payload: bytes) -> bytes:
        """To be remembered: without an id, in no era's words."""
        return RESULT + payload

    def error(self, code: int, message: str, data: Any = None) -> bytes:
        """To be remembered."""
        self.failure, self.failure_code = message, str(code)
        return ERROR + mcp.encode(RememberedError(code, message, data))

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """To everybody who waits, under the token of each."""
        for listener in self.listeners:
            listener.say(listener.progress, done, total, message)

    def log(self, level: str, data: Any, logger: str | None) -> None:
        """To everybody who waits, as far as each wants it."""
        for listener in self.listeners:
            listener.say(listener.log, level, data, logger)

    # --- core.call.Reply ---

    def notify(self, call: Call, payload: bytes) -> None:
        """Nothing comes this way: `progress` and `log` go to the requests."""

    def answer(self, call: Call, payload: bytes | None) -> None:
        """The run has ended."""
        self._once.ended(self, payload)

    @property
    def gone(self) -> bool:
        """None of those who wait is connected."""
        return all(listener.reply.gone for listener in self.listeners)

    def records(self, call: McpCall) -> Sequence[Record]:
        """What it publishes goes with its answer (see `carries`), or it has no entry."""
        return ()

    def carries(self, call: McpCall) -> bool:
        """The ledger commits its outcome."""
        return self.entry is not None and self.began

    async def room_for(self, size: int) -> bool:
        """The ledger keeps it; for each who waits, that request asks for itself."""
        return True

    async def room(self) -> None:
        """Wait for the only listener's reader; where there are several, none holds up the others."""
        if len(self.listeners) == 1:
            await next(iter(self.listeners)).reply.room()


async def _outcome(asking: Coroutine[Any, Any, Any]) -> tuple[Any, Exception | None]:
    """Whatever comes of it is its run's, and no failure of the house."""
    try:
        return await asking, None
    except Exception as error:
        return None, error


_PAUSES = (InputRequired, ProtocolError)  # what ends a run whose client comes back
