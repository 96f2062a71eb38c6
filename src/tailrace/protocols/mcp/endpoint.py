"""What all of MCP's transports share: methods and their answers, sessions and their journal.

One `Endpoint` serves one service. Transports (`streamable`, `sse`, `stdio`) parse and route; here a
request becomes a call or an answer, a session begins, and a stored one is brought back.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from tailrace.core.log import Cursor, Log
from tailrace.core.ports import DropSession, DropStream, EndCall, Kind, PutSession
from tailrace.core.session import Lifecycle, Session, Sessions
from tailrace.core.tasks import DelayLine, Sweeper, Tasks
from tailrace.core.writer import Writer
from tailrace.errors import LimitError, ProtocolError, StoreError
from tailrace.protocols.mcp.call import Dialect, DuplicateId, McpCall, PeerCancelled, StoredCallData
from tailrace.protocols.mcp.framing import Seals, SseFraming
from tailrace.protocols.mcp.journal import Journals, SessionJournal
from tailrace.protocols.mcp.methods import Methods
from tailrace.protocols.mcp.reply import SSE, SessionReply
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    Notification,
    Request,
    encode_notification,
    encode_result,
)

if TYPE_CHECKING:
    from tailrace.core.call import Reply
    from tailrace.core.exchange import Headers
    from tailrace.core.ports import StoredSession
    from tailrace.core.settings import Settings
    from tailrace.core.writer import Framing
    from tailrace.protocols.mcp.hooks import Hooks
    from tailrace.protocols.mcp.reply import ExchangeReply
    from tailrace.service import Service

__all__ = ["Endpoint", "Record"]

logger = logging.getLogger("tailrace.mcp")

_SAVE_EVERY = 300.0  # seconds: how old the store's "last used" of a session may get
_CLEAN_EVERY = 600.0
_EPOCH = 32  # stream and call numbers are epoch << 32 | n: never used twice, whatever the store forgot


class Record(Struct):
    """What MCP keeps of a legacy session; stored as JSON."""

    transport: str  # "streamable", "sse", "stdio"
    version: str = ""
    client: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    capabilities: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    level: str | None = None
    initialized: bool = False
    state: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


_decode_record = msgspec.json.Decoder(Record).decode
_decode_call = msgspec.json.Decoder(StoredCallData).decode


class Endpoint:
    """Serves one service over MCP (fulfils `core.session.Home`).

    Args:
        service: What is served.
        settings: Its limits.
        tasks: Where calls run.
        sweeper: The house's clock.
        journals: The store.
        hooks: The service's session hooks.
        seals: Event ids.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        tasks: Tasks,
        sweeper: Sweeper,
        journals: Journals,
        hooks: Hooks,
        seals: Seals,
    ) -> None:
        self.service = service
        self.settings = settings
        self.tasks = tasks
        self.sweeper = sweeper
        self.journals = journals
        self.hooks = hooks
        self.seals = seals
        self.now = tasks.loop.time
        self._tools = service.tools  # a live view
        self.sessions = Sessions(
            limit=settings.max_sessions,
            idle=settings.session_idle,
            infancy=settings.session_infancy,
            unborn=lambda session: not session.record.initialized,
        )
        server_info: dict[str, Any] = {"name": service.name, "version": service.version}
        if service.title:
            server_info["title"] = service.title
        self.legacy = Dialect(modern=False, server_info=server_info)
        self.modern = Dialect(modern=True, server_info=server_info)
        self.methods = Methods(service, server_info, page=settings.page)
        self.hold = DelayLine(settings.hold)
        self.waiting: dict[ExchangeReply, float] = {}  # modern calls whose reply may still be JSON, and since when
        self._patience = settings.keep_alive or 15.0
        self.draining = False
        self._numbers = itertools.count((seals.epoch << _EPOCH) + 1)
        self._loading = 0  # sessions being read from the store
        self._ended: set[str] = set()  # those that ended meanwhile: what was read of them is the past
        self._next_expiry = 0.0
        self._next_cleaning = 0.0
        self._log_bytes = 0  # as of the last sweep
        sweeper.add(self)

    # --- requests ---

    def inline(self, request: Request, params: Any, session: Session | None, dialect: Dialect) -> bytes | None:
        """The encoded answer of a method that runs no user code; None for `tools/call`.

        Raises:
            ProtocolError: Unknown method, bad parameters.
        """
        if request.method == "tools/call":
            return None
        result = self.methods.result(request.method, params, dialect.modern)
        if request.method == "logging/setLevel" and session is not None:
            session.record.level = params.level
            self.save(session)
        return encode_result(request.id, result)

    def accept(
        self,
        request: Request,
        params: mcp.CallParams,
        session: Session | None,
        reply: Reply,
        dialect: Dialect,
        *,
        by_id: bool,
        keep_answer: bool = False,
    ) -> McpCall:
        """Make a call of a `tools/call` request and have its owner accept it. It has not started yet.

        Args:
            request: The request.
            params: Its parameters.
            session: Its owner; None for the server itself.
            reply: Where its frames go.
            dialect: How its answer is written.
            by_id: The request id is its only address (HTTP+SSE, stdio), so a second one in flight is refused.
            keep_answer: Answer it also when its client cancels it.

        Raises:
            DuplicateId: The id is in flight.
            ProtocolError: No such tool; a cap is reached.
        """
        tool = self._tools.get(params.name)
        if tool is None:
            raise ProtocolError(INVALID_PARAMS, f"unknown tool: {params.name[:128]!r}")
        number = next(self._numbers)
        if dialect.modern:
            level: str | None = params.meta.log_level if params.meta.log_level is not UNSET else "none"
        else:
            level = session.record.level if session is not None else None
        call = McpCall(
            request.id if by_id else number,
            number,
            request.id,
            session,
            self.tasks,
            reply,
            tool=tool,
            params=params,
            dialect=dialect,
            level=level,
            max_result=self.settings.max_result,
            keep_answer=keep_answer,
        )
        self._set_values(call)
        try:
            if self.draining:
                raise LimitError("draining", "the server is shutting down; try again in a moment")
            if session is not None:
                self._check_log(session)
                session.accept(call)
            else:
                self.tasks.admit(call)
        except LimitError as error:
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None
        except KeyError:
            raise DuplicateId(request.id) from None
        return call

    def notified(self, message: Notification, session: Session | None) -> None:
        """A notification from the client. Unknown ones are ignored, as JSON-RPC wants it."""
        if session is None:
            return
        if message.method == "notifications/cancelled":
            try:
                params = mcp.decode_params(message.method, bytes(message.params))
            except ProtocolError:
                return
            found = [call for call in session.calls.values() if call.request_id == params.request_id]
            if len(found) == 1:  # an ambiguous one cancels none
                found[0].cancel(PeerCancelled((params.reason or "cancelled by the client")[:1000]))
        elif message.method == "notifications/initialized" and not session.record.initialized:
            session.record.initialized = True
            self.save(session)

    # --- sessions ---

    def new_session(self, transport: str, principal: str) -> Session:
        """Enter a new session; nothing of it is stored, and no hook has run.

        Raises:
            ProtocolError: Too many are open.
        """
        session = self._session(secrets.token_urlsafe(24), os.urandom(9), principal, Record(transport))
        try:
            if self.draining:
                raise LimitError("draining", "the server is shutting down; try again in a moment")
            self.sessions.add(session)
        except LimitError as error:
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None
        return session

    async def initialize(self, session: Session, request: Request, params: mcp.InitializeParams) -> bytes:
        """Answer `initialize`: negotiate, commit the session, greet it. The answer is encoded; errors raise.

        Raises:
            ProtocolError: It was initialized before; the store does not commit.
        """
        record: Record = session.record
        if record.version:
            raise ProtocolError(INVALID_REQUEST, "this session is initialized already")
        record.version = mcp.negotiate(params.protocol_version)
        record.client = msgspec.to_builtins(params.client_info)
        record.capabilities = params.capabilities
        if session.log.journal is not None:
            try:
                await self.journals.commit([self._put(session)])
            except StoreError:
                session.close("the session could not be stored")
                raise ProtocolError(INTERNAL_ERROR, "the session could not be stored; try again later") from None
        await session.open()
        return encode_result(request.id, self.methods.initialize_result(record.version))

    def find(self, id: str, principal: str) -> Session | None:
        """The living session with this id, if it belongs to `principal`."""
        session = self.sessions.by_id.get(id)
        if session is None or session.principal != principal or session.lifecycle is not Lifecycle.OPEN:
            return None
        session.touched = self.now()
        return session

    async def restore(self, principal: str, id: str | None = None, *, handle: bytes | None = None) -> Session | None:
        """Bring a stored session back to life; None where there is none, or it is somebody else's.

        Raises:
            ProtocolError: Too many are open; the store cannot be read.
        """
        if not self.journals.durable:
            return None
        known = self.sessions.by_id.get(id) if id is not None else self.sessions.by_handle.get(handle or b"")
        if known is not None:  # it is ending: what the store still has of it is the past
            mine = known.principal == principal and known.lifecycle is Lifecycle.OPEN
            return known if mine else None
        self._loading += 1
        try:
            stored = await self.journals.store.load(id, handle=handle)
            ended = stored is not None and stored.session in self._ended
        except StoreError as error:
            raise ProtocolError(INTERNAL_ERROR, f"the session cannot be read: {error}") from None
        finally:
            self._loading -= 1
            if not self._loading:
                self._ended.clear()
        if stored is None or ended or stored.principal != principal:
            return None
        living = self.sessions.by_id.get(stored.session)
        if living is not None:  # another request was faster
            return living if living.lifecycle is Lifecycle.OPEN else None
        session = self._revive(stored)
        await session.open()
        return session if session.lifecycle is Lifecycle.OPEN else None

    async def recover(self) -> None:
        """At the start: every call that was accepted and not answered is answered now, or runs again."""
        if self.journals.durable:
            for id in await self.journals.store.unfinished():
                stored = await self.journals.store.load(id)
                if stored is not None and id not in self.sessions.by_id:
                    session = self._revive(stored)
                    await session.open()

    def journal_of(self, session: Session | None) -> SessionJournal | None:
        """Where the session is journalled; None for those that are not."""
        return session.log.journal if session is not None else None  # type: ignore[return-value]

    def save(self, session: Session) -> None:
        """Store the session's record as it is now."""
        if session.log.journal is not None and session.record.version:
            session.saved = self.now()
            self.journals.write([self._put(session)])

    # --- streams ---

    def call_log(self, session: Session | None) -> Log:
        """A new stream for a POST's calls; a session keeps it for a resume, nobody keeps it without one."""
        settings = self.settings
        if session is None:
            return Log(ring=settings.ring, kept=0)
        number = next(self._numbers)
        log = Log(number, ring=settings.ring, kept=settings.kept, journal=self.journal_of(session))
        session.streams[number] = log
        return log

    def drop_log(self, session: Session, log: Log) -> None:
        """Forget a stream of a session."""
        if session.streams.pop(log.stream, None) is not None:
            journal = self.journal_of(session)
            if journal is not None:
                self.journals.write([DropStream(session.id, log.stream)])

    def retire(self, session: Session | None, log: Log) -> None:
        """A call's stream has ended: keep it for a resume, and drop older ones that were delivered if there are
        too many bytes of them."""
        if session is None:
            return
        session.retire(log)
        if session.finished_bytes > self.settings.session_log // 2 or len(session.finished) > self.settings.finished:
            self._drop_delivered(session)

    def left(self, session: Session, cursor: Cursor) -> None:
        """A connection of the session is gone; the session is not."""
        cursor.stop()
        session.touched = self.now()

    def framing(self, session: Session, stream: int) -> SseFraming:
        """SSE with the ids of this stream."""
        return SseFraming(self.seals.seal(session.handle, stream, session.principal))

    def writer(self, cursor: Cursor, framing: Framing, head: bytes = b"") -> Writer:
        """The writer of one SSE connection."""
        retry = b"retry: %d\n\n" % self.settings.retry
        return Writer(
            cursor, framing, self.sweeper, keep_alive=self.settings.keep_alive, head=head, farewell=lambda: retry
        )

    def stream_headers(self, session: Session | None, missing: int | None = None) -> Headers:
        """The head of an SSE reply; `missing` is told on a resume."""
        headers = list(SSE)
        if session is not None and session.record.transport == "streamable":
            headers.append((b"mcp-session-id", session.id.encode()))
        if missing is not None:
            headers.append((b"tailrace-resume", b"gap" if missing else b"complete"))
        return headers

    # --- core.session.Home ---

    async def opened(self, session: Session) -> None:
        """Run the hooks that greet a session."""
        await self.hooks.opened(session)

    async def ended(self, session: Session, reason: str) -> None:
        """Run the hooks that bid it farewell."""
        await self.hooks.ended(session)

    def forget(self, session: Session, *, keep: bool) -> None:
        """Out of the table and, unless `keep`, out of the store."""
        self.sessions.remove(session)
        if self._loading:
            self._ended.add(session.id)
        journal = self.journal_of(session)
        if journal is not None and not keep:
            self.journals.write([DropSession(session.id)])

    def suspend(self, session: Session) -> None:
        """The store keeps what it has; nothing more goes in."""
        self._save_state(session)
        for log in (session.log, *session.streams.values()):
            log.journal = None

    def notification(self, method: str, params: Any) -> bytes:
        """Encode a server's notification."""
        return encode_notification(method, None if params is None else mcp.encode(params))

    def close(self) -> None:
        """Stop its timers."""
        self.sweeper.discard(self)
        self.hold.close()
        self.waiting.clear()

    # --- the clock ---

    def sweep(self, now: float) -> None:
        """Twice a second: modern calls that become streams; every few seconds: what has expired."""
        for reply, since in list(self.waiting.items()):
            if now - since >= self._patience:
                reply.due()
        if now < self._next_expiry:
            return
        self._next_expiry = now + 5.0
        self.sessions.expire(now)
        before = now - self.settings.answer_time
        total = 0
        for session in self.sessions.by_id.values():
            session.log.expire(before)
            while session.finished and session.finished[0][1] < before:
                self._drop_finished(session, session.finished[0])
            if session.touched > session.saved and now - session.saved > _SAVE_EVERY:
                self.save(session)
            total += session.log.bytes + session.finished_bytes
        self._log_bytes = total
        if self.journals.durable and now >= self._next_cleaning:
            self._next_cleaning = now + _CLEAN_EVERY
            self.tasks.start(self._clean_store(), name="tailrace-clean-store")

    # --- inside ---

    def _session(
        self, id: str, handle: bytes, principal: str, record: Record, *, last: int = 0, restored: bool = False
    ) -> Session:
        journal = SessionJournal(id, self.journals) if self.journals.durable and record.transport != "stdio" else None
        log = Log(ring=self.settings.ring, kept=self.settings.kept, journal=journal, last=last)
        session = Session(
            id,
            handle,
            principal,
            tasks=self.tasks,
            home=self,
            log=log,
            record=record,
            max_calls=self.settings.max_session_calls,
            restored=restored,
        )
        session.state = record.state
        return session

    def _put(self, session: Session) -> PutSession:
        session.record.state = session.state
        return PutSession(session.id, session.handle, session.principal, mcp.encode(session.record), time.time())

    def _save_state(self, session: Session) -> None:
        try:
            if session.state and len(mcp.encode(session.state)) > self.settings.state:
                raise ValueError(f"it is over {self.settings.state} bytes")
            self.save(session)
        except (TypeError, ValueError) as error:
            logger.error("session.state is not stored: %s", error)

    def _check_log(self, session: Session) -> None:
        """Refuse new work rather than let answers pile up that nobody reads."""
        if session.log.bytes + session.finished_bytes > self.settings.session_log:
            self._drop_delivered(session)
            if session.log.bytes + session.finished_bytes > self.settings.session_log:
                raise LimitError("log", "this session holds too many answers that nobody has read")
        if self._log_bytes > self.settings.server_log:
            raise LimitError("log", "this server holds too many answers that nobody has read")

    def _drop_delivered(self, session: Session) -> None:
        for entry in list(session.finished):
            if session.finished_bytes <= self.settings.session_log // 4 and (
                len(session.finished) <= self.settings.finished // 2
            ):
                return
            log = entry[0]
            if log.reader is None and log.delivered >= log.last:
                self._drop_finished(session, entry)

    def _drop_finished(self, session: Session, entry: tuple[Log, float]) -> None:
        session.finished.remove(entry)  # the oldest nearly always: found at once
        session.finished_bytes -= entry[0].bytes
        self.drop_log(session, entry[0])

    async def _clean_store(self) -> None:
        """Stored sessions that nobody came back for end like idle ones; no hook has greeted them in this life."""
        oldest = time.time() - self.settings.session_idle - _SAVE_EVERY
        for id, touched in await self.journals.store.sessions():
            if touched >= oldest:
                break  # oldest first
            if id not in self.sessions.by_id:
                self.journals.write([DropSession(id)])

    def _set_values(self, call: McpCall) -> None:
        meta = call.meta
        if meta.traceparent is not UNSET:
            values: dict[str, Any] = {"traceparent": meta.traceparent}
            if len(parts := meta.traceparent.split("-")) > 1:
                values["correlation_id"] = parts[1]
            call.context.set_values(values)

    # --- a stored session comes back ---

    def _revive(self, stored: StoredSession) -> Session:
        record = _decode_record(stored.data)
        session = self._session(
            stored.session, stored.handle, stored.principal, record, last=stored.last.get(0, 0), restored=True
        )
        self.sessions.add(session)
        journal = self.journal_of(session)
        now = self.now()
        for stream, last in stored.last.items():
            if stream:
                session.streams[stream] = Log(
                    stream, ring=self.settings.ring, kept=self.settings.kept, journal=journal, last=last
                )
        for event in stored.events:
            log = session.streams[event.stream] if event.stream else session.log
            log.restore(event.seq, event.payload, Kind(event.kind), now)
        unfinished = {call.stream for call in stored.calls}
        for stream, log in session.streams.items():
            if stream not in unfinished:
                log.end()
                session.retire(log)
        for call in stored.calls:
            self._settle(session, call.call, call.stream, _decode_call(call.data))
        return session

    def _settle(self, session: Session, number: int, stream: int, data: StoredCallData) -> None:
        """A call that a crash interrupted: answer that its outcome is unknown, or run it again."""
        log = session.streams.get(stream) if stream else session.log
        if log is None:  # nothing of its stream was written before the crash
            log = session.streams[stream] = Log(stream, ring=self.settings.ring, journal=self.journal_of(session))
        tool = self._tools.get(data.tool)
        if tool is not None and tool.on_crash == "rerun":
            meta = mcp.Meta(progress_token=data.progress_token) if data.progress_token is not None else mcp.NO_META
            reply = SessionReply(session, self.journal_of(session), log, then=self.retire if stream else None)
            call = McpCall(
                data.request_id if not stream else number,
                number,
                data.request_id,
                session,
                self.tasks,
                reply,
                tool=tool,
                params=mcp.CallParams(data.tool, data.arguments, meta),
                dialect=self.legacy,
                level=session.record.level,
                max_result=self.settings.max_result,
            )
            call.journalled = True
            try:
                session.accept(call)
            except (LimitError, KeyError) as error:
                logger.warning("a call of the last process life is not run again: %s", error)
            else:
                call.start()
                return
        result = mcp.ToolResult(
            [mcp.TextContent("The server was stopped while this call was running; whether it took effect is unknown.")],
            is_error=True,
            meta={"io.tailrace/outcome": "unknown"},
        )
        journal = self.journal_of(session)
        if journal is not None:
            journal.along(EndCall(session.id, number))
        log.append(encode_result(data.request_id, mcp.encode(result)), Kind.ANSWER, self.now())
        if stream:
            log.end()
            self.retire(session, log)
