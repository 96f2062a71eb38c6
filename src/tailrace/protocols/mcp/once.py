"""Calls that run once (`once=True`): their keys, what counts as the same call, and one run for all who ask (G1b).

Each request stays a call of its own (`OnceCall`): it has its id, its stream, its end. The handler runs
in a call of the server's (`once_run`), to which requests attach and from which they leave; nobody's
connection is its connection. What is remembered, and for how long, is `core.ledger`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tailrace.core.context import Context
from tailrace.core.ledger import KeyReused, Ledger, Withheld
from tailrace.core.ledger_entry import Entry, EntryState, Orphan
from tailrace.core.session import ANSWER_ROOM
from tailrace.core.shared_ledger import SharedLedger
from tailrace.errors import (
    CallCancelled,
    EntryTaken,
    LimitError,
    ProtocolError,
    StoreError,
    StoreLost,
    ToolError,
)
from tailrace.protocols.mcp.failures import encode_failure, no_room
from tailrace.protocols.mcp.keys import fingerprint_of, idempotency_key
from tailrace.protocols.mcp.once_run import OnceRun
from tailrace.protocols.mcp.remembered import (
    ASKED,
    ERROR,
    PAUSED,
    UNKNOWN,
    decode_error,
    unknown,
)
from tailrace.protocols.mcp.reply import ExchangeReply
from tailrace.protocols.mcp.tool_call import ToolCall
from tailrace.schema import InvalidArguments
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, encode_result

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.core.session import Session
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.service import Tool

__all__ = ["Claim", "Once", "OnceCall"]

logger = logging.getLogger("tailrace.mcp")

_MEMORY = 48 * 1024 * 1024  # bytes of entries that the memory store has room for
_CRASHED = "The server was stopped while the call with this key was running; whether it took effect is unknown."


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


_decode_detail = msgspec.json.Decoder(_Detail).decode


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


class Once:
    """The calls of one endpoint that run once."""

    def __init__(self, endpoint: Endpoint) -> None:
        settings, journals = endpoint.settings, endpoint.journals
        self.endpoint = endpoint
        make = SharedLedger if journals.store.partition else Ledger
        self.ledger = make(
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
                self.ledger.finish(orphan.entry, UNKNOWN + unknown(_CRASHED))

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
            self.endpoint.tasks.refuse(error.limit)
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

        The first request of a key starts a run; those that come while it goes on attach to it. Where that is another
        process's, its answer is waited for.

        Raises:
            KeyReused: The key stands for another call.
            InvalidArguments: They would not reach the handler; the key stays free.
            LimitError: A cap is reached.
            StoreError: The claim could not be committed, or the answer cannot be read.
            CallCancelled: The server ends before the run does.
        """
        while True:
            try:
                return await self._outcome(call)
            except EntryTaken:
                found = await self.ledger.elsewhere(*call.claim)
                if found is not None:
                    return Outcome(*found, False)

    async def _outcome(self, call: OnceCall) -> Outcome:
        entry = self.ledger.find(*call.claim)
        if entry is not None and entry.state is EntryState.ENDED:
            self.ledger.replayed += 1
            return Outcome(await self.ledger.answer(entry), True, False)
        if entry is None or entry.state is EntryState.OPEN:
            call.target.arguments.decode(call.arguments if isinstance(call.arguments, Raw) else None)
            entry = self._begin(call)
        run: OnceRun | None = entry.owner
        if run is None:  # it was abandoned: there is an error
            return Outcome(await self.ledger.answer(entry), False, False)
        run.listeners[call] = None
        self.ledger.attached += run.first is not call
        try:
            answer = await self._answer(call, entry)
            call.failure, call.failure_code = run.failure, run.failure_code
            return Outcome(answer, False, run.first is call)
        except asyncio.CancelledError:
            run.leave(call)
            raise
        finally:
            run.listeners.pop(call, None)

    async def _answer(self, call: OnceCall, entry: Entry) -> bytes:
        while True:
            try:
                return await self.ledger.answer(entry)
            except Withheld:
                if not call.can_be_resumed:
                    raise

    def ended(self, run: OnceRun, payload: bytes | None) -> None:
        """A run has ended, and this is what is to be remembered; None: nothing, the process ends before the run did."""
        if run.entry is None:  # its claim was refused
            return
        if payload is None:
            self.ledger.abandon(run.entry, CallCancelled("the server is shutting down"))
        elif payload[:1] in (ASKED, PAUSED):
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
        run.kept_headers = call.kept_headers
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

    @property
    def can_be_resumed(self) -> bool:
        """Its answer is had without asking for it again: from a session's stream, or as a task's."""
        reply = self.reply
        return not isinstance(reply, ExchangeReply) or (reply.session is not None and reply.log is not None)

    async def run(self) -> bytes | None:
        """Wait for the answer; only a cancellation of this request comes out."""
        try:
            answer, replayed, own = await self.once.outcome(self)
            while answer[:1] in (ASKED, PAUSED) and not (own or replayed):  # the client of another request is asked
                answer, replayed, own = await self.once.outcome(self)
        except KeyReused as error:
            return self.error(INVALID_PARAMS, str(error))
        except InvalidArguments as error:
            return self.refusal(ToolError(error.message))
        except LimitError as error:
            return self.error(mcp.LIMIT_REACHED, error.message, {"limit": error.limit})
        except StoreError as error:
            if not isinstance(error, Withheld):  # that it fails was said when the answer could not be stored
                logger.error("the store fails: %s", error)  # its text names the file: not for clients
            return self.error(INTERNAL_ERROR, "the store fails; try again later", {"retry": True})
        except CallCancelled as error:
            return self.aborted(error)
        rendered = self._render(answer, replayed and not self.restored)
        if len(rendered) > ANSWER_ROOM and not await self.reply.room_for(len(rendered)):
            full = no_room(rendered)
            return self.error(mcp.LIMIT_REACHED, full.message, {"limit": full.limit})
        return rendered

    def aborted(self, error: Exception) -> bytes | None:
        """Where another has taken over, it knows what became of the key, or that nothing has begun: ask once more."""
        if type(error) is CallCancelled and isinstance(self.once.endpoint.journals.store.failure, StoreLost):
            return self.error(INTERNAL_ERROR, f"the call was cancelled: {error}", {"retry": True})
        return super().aborted(error)

    def _render(self, answer: bytes, replayed: bool) -> bytes:
        """A remembered answer in this request's words; equal ones are equal but for the id and what `_meta` says."""
        kind, payload = answer[:1], answer[1:]
        if kind in (ERROR, PAUSED):
            error = decode_error(payload)
            if error.code == mcp.CAPABILITY_MISSING:
                self.status = 400
            return encode_failure(self.request_id, ProtocolError(error.code, error.message, error.data))
        dialect = self.dialect
        meta: dict[str, Any] = {} if dialect.server_info is UNSET else dict(dialect.server_info)
        if kind == UNKNOWN:
            meta["io.tailrace/outcome"] = "unknown"
        if replayed:
            meta["io.tailrace/replayed"] = True
        more: dict[str, Any] = {"_meta": meta} if meta else {}
        if dialect.result_type is not UNSET:
            more["resultType"] = "input_required" if kind == ASKED else dialect.result_type
        if more:
            payload = payload[:-1] + b"," + mcp.encode(more)[1:]
        return encode_result(self.request_id, payload)
