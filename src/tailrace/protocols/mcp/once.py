"""Calls that run once (`once=True`): their keys, what counts as the same call, and one run for all who ask (G1b).

Each request stays a call of its own (`OnceCall`): it has its id, its stream, its end. The handler runs
in a call of the server's (`OnceRun`), to which requests attach and from which they leave; nobody's
connection is its connection. What is remembered, and for how long, is `core.ledger`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tailrace.core.context import Context
from tailrace.core.ledger import Entry, EntryState, KeyReused, Ledger, Orphan
from tailrace.core.session import ANSWER_ROOM
from tailrace.errors import (
    CallCancelled,
    CapabilityError,
    ClientGone,
    DeadlineExceeded,
    LimitError,
    ProtocolError,
    StoreError,
    ToolError,
)
from tailrace.protocols.mcp.call import McpCall, encode_failure, no_room
from tailrace.protocols.mcp.keys import fingerprint_of, idempotency_key
from tailrace.protocols.mcp.legs import InputRequired, Moved
from tailrace.protocols.mcp.tool_call import ToolCall
from tailrace.schema import InvalidArguments
from tailrace.wire import mcp
from tailrace.wire.content import Text
from tailrace.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, encode_result

if TYPE_CHECKING:
    from tailrace.core.call import Call
    from tailrace.core.exchange import Exchange
    from tailrace.core.ports import Record
    from tailrace.core.session import Session
    from tailrace.core.tasks import Tasks
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.protocols.mcp.legs import Question
    from tailrace.service import Tool

__all__ = ["Claim", "Once", "OnceCall", "OnceRun"]

logger = logging.getLogger("tailrace.mcp")

_MEMORY = 48 * 1024 * 1024  # bytes of entries that the memory store has room for
_RESULT, _ERROR, _UNKNOWN = b"r", b"e", b"u"  # how a remembered answer begins: what follows is JSON
_ASKED, _PAUSED = b"q", b"p"  # how one begins that is not remembered: a question, or an error; the key stays open

_CRASHED = "The server was stopped while the call with this key was running; whether it took effect is unknown."
_CANCELLED = "The call with this key was cancelled while it was running; whether it took effect is unknown."


class Claim(NamedTuple):
    """What a request asks to run once.

    Attributes:
        principal: Whose the key is.
        key: As the client gave it.
        fingerprint: Of the tool and the arguments.
    """

    principal: str
    key: str
    fingerprint: bytes


class _Detail(Struct, frozen=True, omit_defaults=True):
    """What another process life has to know of a run that a crash interrupted."""

    tool: str
    request_id: int | str
    arguments: Raw | UnsetType = UNSET  # only where it may run again
    reran: bool = False


class _Error(Struct, frozen=True, omit_defaults=True):
    code: int
    message: str
    data: Any = None


_decode_detail = msgspec.json.Decoder(_Detail).decode
_decode_error = msgspec.json.Decoder(_Error).decode


class Outcome(NamedTuple):
    """What a request gets.

    Attributes:
        answer: The run's, or the remembered one.
        replayed: It was there before the request came.
        own: The request began the run.
    """

    answer: bytes
    replayed: bool
    own: bool


class Abandoned(CallCancelled):
    """The last who waited for a run has cancelled, or its session has ended."""


class Once:
    """The calls of one endpoint that run once."""

    def __init__(self, endpoint: Endpoint) -> None:
        settings, journals = endpoint.settings, endpoint.journals
        self.endpoint = endpoint
        self.ledger = Ledger(
            journals.store,
            journals.write,
            ttl=settings.once_ttl,
            max_entries=settings.max_once,
            max_principal=settings.max_once_principal,
            max_bytes=settings.max_once_bytes if journals.durable else min(settings.max_once_bytes, _MEMORY),
        )

    async def recover(self) -> None:
        """At the start: what a crash interrupted runs again where its tool allows it, else its outcome is unknown."""
        for orphan in await self.ledger.load():
            try:
                detail = _decode_detail(orphan.detail)
            except msgspec.MsgspecError:
                detail = _Detail("", 0)
            if not self._rerun(orphan, detail):
                self.ledger.finish(orphan.entry, _UNKNOWN + _unknown(_CRASHED))

    def claimed(
        self, tool: Tool, params: mcp.CallParams, session: Session | None, exchange: Exchange | None, *, batch: bool
    ) -> Claim | None:
        """What a request for a `once` tool claims; None if it shows no key.

        Raises:
            ProtocolError: -32602 for keys that differ, cannot be keys, or stand for another call; -32000 where
                nothing more can be remembered.
        """
        try:
            arguments: Any = msgspec.json.decode(params.arguments) if isinstance(params.arguments, Raw) else {}
            key = idempotency_key(tool, arguments, params.meta, exchange, batch=batch)
            if key is None:
                return None
            fingerprint = fingerprint_of(tool.name, arguments)
        except (msgspec.MsgspecError, RecursionError):
            raise ProtocolError(INVALID_PARAMS, "the arguments cannot be compared: nested too deeply") from None
        who = session.principal if session is not None else exchange.principal if exchange is not None else ""
        claim = Claim(who, key, fingerprint)
        try:
            if self.ledger.find(*claim) is None:
                self.ledger.check_room(who)
        except KeyReused as error:
            raise ProtocolError(INVALID_PARAMS, str(error)) from None
        except LimitError as error:
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None
        return claim

    def known(self, claim: Claim) -> Entry | None:
        """What is remembered of a key, if anything; one that stands for another call was refused by `claimed`."""
        try:
            return self.ledger.find(*claim)
        except KeyReused:
            return None

    async def outcome(self, call: OnceCall) -> Outcome:
        """The answer to a request.

        The first request of a key starts a run; those that come while it goes on attach to it.

        Raises:
            KeyReused: The key stands for another call.
            InvalidArguments: They would not reach the handler; the key stays free.
            LimitError: A cap is reached.
            StoreError: The claim could not be committed, or the answer cannot be read.
            CallCancelled: The server ends before the run does.
        """
        entry = self.ledger.find(*call.claim)
        if entry is not None and entry.state is EntryState.ENDED:
            return Outcome(await self.ledger.answer(entry), True, False)
        if entry is None or entry.state is EntryState.OPEN:
            call.target.arguments.decode(call.arguments if isinstance(call.arguments, Raw) else None)
            entry = self._begin(call)
        run: OnceRun | None = entry.owner
        if run is None:  # it was abandoned: there is an error
            return Outcome(await self.ledger.answer(entry), False, False)
        run.listeners[call] = None
        try:
            return Outcome(await self.ledger.answer(entry), False, run.first is call)
        except asyncio.CancelledError:
            run.leave(call)
            raise
        finally:
            run.listeners.pop(call, None)

    def ended(self, run: OnceRun, payload: bytes | None) -> None:
        """A run has ended, and this is what is to be remembered; None: nothing, the process ends before the run did."""
        if run.entry is None:  # its claim was refused
            return
        if payload is None:
            self.ledger.abandon(run.entry, CallCancelled("the server is shutting down"))
        elif payload[:1] in (_ASKED, _PAUSED):
            self.ledger.pause(run.entry, payload, self.endpoint.settings.state_time)
        elif run.began:
            run.finished = True
            self.ledger.finish(run.entry, payload, run.leaving)
        else:
            self.ledger.drop(run.entry, payload)

    # --- inside ---

    def _begin(self, call: OnceCall) -> Entry:
        """Claim the key, and start the run once that is committed. There is no `await` between `find` and here."""
        run = OnceRun(self, call.number, call.request_id, call.claim.principal, call.target, call.arguments, call.meta)
        run.first, run.origin = call, call.public_session
        run.context = Context(call.context.detach(), call=run)  # its values
        tasks = self.endpoint.tasks
        tasks.admit(run)
        try:
            run.entry = self.ledger.claim(*call.claim, self._detail(run), partial(self._committed, run), run)
        except LimitError:
            tasks.release(run)
            raise
        return run.entry

    def _committed(self, run: OnceRun, error: StoreError | None) -> None:
        if error is None:
            run.start()
        else:
            run.cancel(error)

    def _detail(self, run: OnceRun) -> bytes:
        again = run.target.on_crash == "rerun" and not run.reran
        arguments = run.arguments if again else UNSET
        return mcp.encode(_Detail(run.target.name, run.request_id, arguments, run.reran))

    def _rerun(self, orphan: Orphan, detail: _Detail) -> bool:
        """Run an interrupted call again if its tool allows it, once at most: that is committed before it starts."""
        tool = self.endpoint.service.tools.get(detail.tool)
        if tool is None or tool.on_crash != "rerun" or detail.reran:
            return False
        principal, number = orphan.entry.principal, next(self.endpoint.numbers)
        run = OnceRun(self, number, detail.request_id, principal, tool, detail.arguments, mcp.NO_META)
        run.context.set_values(self.endpoint.requests.values(mcp.NO_META, None))
        run.reran = run.began = True
        run.entry = orphan.entry
        try:
            self.endpoint.tasks.admit(run)
        except LimitError as error:
            logger.warning("a call of the last process life is not run again: %s", error)
            return False
        self.ledger.rerun(orphan, self._detail(run), partial(self._committed, run), run)
        return True


class OnceCall(ToolCall):
    """One request for a call that runs once: it waits for the run's answer, and gives it its own id and era."""

    __slots__ = ("claim", "once", "restored")

    def __init__(self, *args: Any, once: Once, claim: Claim, restored: bool = False, **more: Any) -> None:
        super().__init__(*args, **more)
        self.once = once
        self.claim = claim
        self.restored = restored  # of an earlier process life: the answer is the first that it gets

    @property
    def once_key(self) -> tuple[str, float] | None:
        """The key under which it runs once, and when that was stored (wall clock)."""
        return self.claim.key, time.time()

    async def run(self) -> bytes | None:
        """Wait for the answer; only a cancellation of this request comes out."""
        try:
            answer, replayed, own = await self.once.outcome(self)
            while answer[:1] in (_ASKED, _PAUSED) and not (own or replayed):  # the client of another request is asked
                answer, replayed, own = await self.once.outcome(self)
        except KeyReused as error:
            return self.error(INVALID_PARAMS, str(error))
        except InvalidArguments as error:
            return self.refusal(ToolError(error.message))
        except LimitError as error:
            return self.error(mcp.LIMIT_REACHED, error.message, {"limit": error.limit})
        except StoreError as error:
            logger.error("the store fails: %s", error)  # its text names the file: not for clients
            return self.error(INTERNAL_ERROR, "the store fails; try again later")
        except CallCancelled as error:
            return self.aborted(error)
        rendered = self._render(answer, replayed and not self.restored)
        if len(rendered) > ANSWER_ROOM and not await self.reply.room_for(len(rendered)):
            full = no_room(rendered)
            return self.error(mcp.LIMIT_REACHED, full.message, {"limit": full.limit})
        return rendered

    def _render(self, answer: bytes, replayed: bool) -> bytes:
        """A remembered answer in this request's words; equal ones are equal but for the id and what `_meta` says."""
        kind, payload = answer[:1], answer[1:]
        if kind in (_ERROR, _PAUSED):
            error = _decode_error(payload)
            if error.code == mcp.CAPABILITY_MISSING:
                self.status = 400
            return encode_failure(self.request_id, ProtocolError(error.code, error.message, error.data))
        dialect = self.dialect
        meta: dict[str, Any] = {} if dialect.server_info is UNSET else dict(dialect.server_info)
        if kind == _UNKNOWN:
            meta["io.tailrace/outcome"] = "unknown"
        if replayed:
            meta["io.tailrace/replayed"] = True
        more: dict[str, Any] = {"_meta": meta} if meta else {}
        if dialect.result_type is not UNSET:
            more["resultType"] = "input_required" if kind == _ASKED else dialect.result_type
        if more:
            payload = payload[:-1] + b"," + mcp.encode(more)[1:]
        return encode_result(self.request_id, payload)


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
            return _ASKED + mcp.encode({"inputRequests": error.requests, "requestState": error.state})
        if isinstance(error, ProtocolError):
            return _PAUSED + mcp.encode(_Error(error.code, error.message, error.data))
        if isinstance(error, StoreError):
            return None
        if not self.began:
            return super().aborted(error)
        if self._once.endpoint.ending and not isinstance(error, Abandoned):
            return None
        return _UNKNOWN + _unknown(_CANCELLED)

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
        return _PAUSED + mcp.encode(
            _Error(mcp.CAPABILITY_MISSING, error.message, {"requiredCapabilities": error.required})
        )

    def refusal(self, error: ToolError) -> bytes:
        """As the tool says; where nobody is left who could be asked, the next request with the key is."""
        if isinstance(error, CapabilityError) and self.asked is self:
            return _PAUSED + mcp.encode(_Error(mcp.LIMIT_REACHED, "the client has gone before it could be asked"))
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
        return _RESULT + payload

    def error(self, code: int, message: str, data: Any = None) -> bytes:
        """To be remembered."""
        return _ERROR + mcp.encode(_Error(code, message, data))

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


def _unknown(text: str) -> bytes:
    return mcp.encode(mcp.ToolResult([Text(text)], is_error=True))
