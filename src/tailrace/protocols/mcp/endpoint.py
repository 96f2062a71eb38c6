"""What all of MCP's transports share: methods and their answers, sessions and their journal.

One `Endpoint` serves one service. Transports (`streamable`, `sse`, `stdio`) parse and route; here a
request becomes a call or an answer, and a session begins. What is kept of it is `retention`'s, how it
comes back from the store `recovery`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from tailrace.core.access import Access, InsufficientScope
from tailrace.core.log import Cursor, Log
from tailrace.core.outgoing import OUTBOX, Outbox
from tailrace.core.ports import DropSession, Kind, PutSession
from tailrace.core.session import Lifecycle, Session, Sessions
from tailrace.core.tasks import DelayLine, Sweeper, Tasks
from tailrace.core.trace import read_trace
from tailrace.core.writer import Writer
from tailrace.errors import LimitError, ProtocolError, StoreError
from tailrace.protocols.mcp.asking import Asking
from tailrace.protocols.mcp.call import Dialect, DuplicateId, McpCall, PeerCancelled
from tailrace.protocols.mcp.framing import EventId, Seals, SseFraming
from tailrace.protocols.mcp.journal import Journals, SessionJournal
from tailrace.protocols.mcp.legs import leg_of
from tailrace.protocols.mcp.listen import Listens
from tailrace.protocols.mcp.methods import LISTS, Methods
from tailrace.protocols.mcp.once import Once, OnceCall
from tailrace.protocols.mcp.reading import find_resource, find_target
from tailrace.protocols.mcp.records import Record, put_session, state_changed
from tailrace.protocols.mcp.recovery import Recovery
from tailrace.protocols.mcp.reply import SSE
from tailrace.protocols.mcp.retention import Retention
from tailrace.protocols.mcp.subscriptions import Subscriptions
from tailrace.protocols.mcp.tasks import TaskTable
from tailrace.protocols.mcp.tool_call import ToolCall
from tailrace.service.viewing import Viewer
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_ID,
    Notification,
    Request,
    encode_notification,
    encode_result,
)

if TYPE_CHECKING:
    from tailrace.core.call import Reply
    from tailrace.core.exchange import Exchange, Headers
    from tailrace.core.settings import Settings
    from tailrace.core.trace import Tracer
    from tailrace.core.writer import Framing
    from tailrace.protocols.mcp.hooks import Hooks
    from tailrace.protocols.mcp.reply import ExchangeReply
    from tailrace.service import Service, Tool

__all__ = ["CALLS", "KEPT", "Endpoint", "Record"]

logger = logging.getLogger("tailrace.mcp")

CallT = TypeVar("CallT", bound=McpCall)

CALLS = frozenset({"tools/call", "resources/read", "prompts/get", "completion/complete"})  # those run user code
KEPT = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})  # their session is stored
SAVE_EVERY = 300.0  # seconds: how old the store's "last used" of a session may get
_TOKEN_LIMIT = 10**MAX_ID
# Sessions that broadcasts reach, one after the other, before they give way: about 10 ms. In shorter turns fewer
# notifications are joined into one write (at 100, a delivery costs six times as much).
_TURN = 8192
_HOOKED = 64
_EPOCH = 32  # stream and call numbers are epoch << 32 | n: never used twice, whatever the store forgot


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
        self.outbox: Outbox | None = None  # where calls publish to
        self.now = tasks.loop.time
        self.wall = time.time
        self.tools = service.tools  # a live view
        self.calls = CALLS | LISTS.keys() if service.middleware else CALLS
        self.sessions = Sessions(
            limit=settings.max_sessions,
            idle=settings.session_idle,
            infancy=settings.session_infancy,
            unborn=lambda session: not session.record.initialized and session.record.transport != "stdio",
        )
        server_info: dict[str, Any] = {"name": service.name, "version": service.version}
        for key, said in (("title", service.title), ("icons", service.icons), ("websiteUrl", service.website_url)):
            if said:
                server_info[key] = msgspec.to_builtins(said)
        self.legacy = Dialect(modern=False, server_info=server_info)
        self.modern = Dialect(modern=True, server_info=server_info)
        self.methods = Methods(service, server_info, page=settings.page, ttl=round(settings.list_ttl * 1000))
        self.hold = DelayLine(settings.hold)
        self.waiting: dict[ExchangeReply, float] = {}  # modern calls whose reply may still be JSON, and since when
        self._patience = settings.keep_alive or 15.0
        self.draining = False  # no new work is taken
        self.ending = False  # and no stored session is brought back: all of them end now
        self.numbers = itertools.count((seals.epoch << _EPOCH) + 1)  # of calls and of their streams
        self.retention = Retention(self)
        self.once = Once(self)
        self.recovery = Recovery(self)
        self.asking = Asking(self)
        self.listens = Listens(self)
        self.subscriptions = Subscriptions(settings.max_watched)
        self.task_table = TaskTable(self)
        self._told = 0  # sessions, of broadcasts
        self._changed: set[str] = set()  # lists of which clients are to be told
        self._hooked = 0  # notifications of clients that a hook is being told of
        self._updated: dict[str, None] = {}  # resources of which clients are to be told
        self._next_expiry = 0.0
        sweeper.add(self)

    # --- requests ---

    def inline(
        self, request: Request, params: Any, session: Session | None, dialect: Dialect, principal: str = ""
    ) -> bytes | None:
        """The encoded answer of a method that runs no user code; None for one that does, which is a call.

        Raises:
            ProtocolError: Unknown method, bad parameters.
        """
        if request.method in self.calls:
            return None
        if session is not None and not session.record.version and not dialect.modern and request.method != "ping":
            raise ProtocolError(INVALID_REQUEST, "initialize first (or name the version in _meta, from 2026-07-28 on)")
        viewer = Viewer(session.principal if session is not None else principal, session)
        result = self.methods.result(request.method, params, viewer, modern=dialect.modern)
        if request.method in KEPT:
            self._keep(request.method, params, viewer)
        return encode_result(request.id, result)

    def _keep(self, method: str, params: Any, viewer: Viewer) -> None:
        """What the session is to remember of a request.

        Raises:
            ProtocolError: It cannot.
        """
        session = viewer.session
        if method == "logging/setLevel":
            if session is not None:
                session.record.level = params.level
        else:
            if method == "resources/subscribe":
                find_resource(self.service.offered(viewer), params.uri, modern=False)
            self.subscriptions.change(session, method, params.uri)
        if session is not None:
            self.save(session)

    def accept(
        self,
        request: Request,
        params: Any,
        session: Session | None,
        reply: Reply,
        dialect: Dialect,
        *,
        by_id: bool,
        keep_answer: bool = False,
        kind: Callable[..., CallT] = ToolCall,
        origin: Exchange | None = None,
        batch: bool = False,
    ) -> CallT:
        """Make a call of a request for one of `CALLS`, and have its owner accept it. It has not started yet.

        Args:
            request: The request.
            params: Its parameters.
            session: Its owner; None for the server itself.
            reply: Where its frames go.
            dialect: How its answer is written.
            by_id: The request id is its only address (HTTP+SSE, stdio), so a second one in flight is refused.
            keep_answer: Answer it also when its client cancels it.
            kind: What a tool's call is besides.
            origin: The HTTP request that brought it, whose headers may say what it belongs to, and hold its key.
            batch: That brought others as well.

        Raises:
            DuplicateId: The id is in flight.
            InsufficientScope: The token of the request is not good for the tool.
            ProtocolError: No such tool, resource or prompt; a progress token over the limit; a cap is reached.
        """
        make: Callable[..., CallT] = kind
        principal = session.principal if session is not None else origin.principal if origin is not None else ""
        if request.method == "tools/call":
            arguments, target = params.arguments, self.find_tool(params.name, session, principal)
            if target is None:
                raise ProtocolError(INVALID_PARAMS, f"unknown tool: {params.name[:128]!r}")
            if target.scopes and origin is not None and not origin.covers(target.scopes):
                raise InsufficientScope(target.scopes)
        else:
            offered = self.service.offered(Viewer(principal, session if not dialect.modern else None))
            found = find_target(offered, request.method, params, modern=dialect.modern)
            make, target, arguments, scopes = found  # type: ignore[assignment] - a McpCall, as asked
            if scopes and origin is not None and not origin.covers(scopes):
                raise InsufficientScope(scopes)
        if params.meta is not mcp.NO_META:
            _check_token(params.meta.progress_token)
        number = next(self.numbers)
        if dialect.modern:
            level: str | None = params.meta.log_level if params.meta.log_level is not UNSET else "none"
        else:
            level = session.record.level if session is not None else None
        if make is ToolCall and target.once:
            claim = self.once.claimed(target, params, session, origin, batch=batch)
            if claim is not None:
                make = partial(OnceCall, once=self.once, claim=claim)  # type: ignore[assignment] - a McpCall, as asked
        call = make(
            request.id if by_id else number,
            number,
            request.id,
            session,
            self.tasks,
            reply,
            target=target,
            arguments=arguments,
            meta=params.meta,
            dialect=dialect,
            level=level,
            max_result=self.settings.max_result,
            asking=self.asking,
            principal=principal,
            keep_answer=keep_answer,
        )
        if dialect.modern and call.LEGS and (params.request_state is not UNSET or params.input_responses is not UNSET):
            call.leg = leg_of(call, params)
        values = self.values(params.meta, origin)
        if values:
            call.context.set_values(values)
        try:
            if self.draining:
                raise LimitError("draining", "the server is shutting down; try again in a moment")
            self.retention.check(session)
            if session is not None:
                session.accept(call)
            else:
                self.tasks.admit(call)
        except LimitError as error:
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None
        except KeyError:
            raise DuplicateId(request.id) from None
        if self.tasks.tracer is not None:
            self._trace(self.tasks.tracer, call)
        return call

    def find_tool(self, name: str, session: Session | None, principal: str) -> Tool | None:
        """The tool that somebody may call."""
        if not self.service.is_selective:
            return self.tools.get(name)
        return self.service.offered(Viewer(principal, session)).tools.get(name)

    def _trace(self, tracer: Tracer, call: McpCall) -> None:
        """Begin the call's span; what happens in the call belongs to it (semantic conventions for MCP)."""
        context = call.context
        call.span = tracer.begin(
            "server",
            f"{call.METHOD} {call.target.name}",
            context.own_values,
            {
                "mcp.method.name": call.METHOD,
                **_traced(call),
                "jsonrpc.request.id": str(call.request_id)[:128],
            },
        )
        context.set_values({**context.own_values, **call.span.values})

    def check_room(self, session: Session) -> None:
        """Before an answer is made that the session's stream has to keep.

        Raises:
            ProtocolError: It holds too much that nobody has read.
        """
        try:
            self.retention.check(session)
        except LimitError as error:
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None

    def notified(self, message: Notification, session: Session | None) -> None:
        """A notification from the client. Unknown ones are ignored, as JSON-RPC wants it."""
        if session is None:
            return
        if message.method == "notifications/cancelled":
            params = mcp.decode_cancelled(bytes(message.params))
            if params is None:
                return
            found = [call for call in session.calls.values() if call.request_id == params.request_id]
            self.listens.cancelled(session, params.request_id)
            if len(found) == 1:  # an ambiguous one cancels none
                found[0].cancel(PeerCancelled((params.reason or "cancelled by the client")[:1000]))
        elif message.method == "notifications/initialized" and not session.record.initialized:
            session.record.initialized = True
            self.save(session)
        elif (hook := self.service.hooks.notified.get(message.method)) is not None and session.record.version:
            if self._hooked >= _HOOKED:
                logger.warning(
                    "a notification is dropped: %d of them are being told of method=%s", _HOOKED, message.method
                )
                return
            self._hooked += 1
            params = msgspec.json.decode(message.params or b"{}")
            self.tasks.start(self._tell_hook(hook, session, params), name="tailrace-notified")

    async def _tell_hook(self, hook: Callable[..., Any], session: Session, params: dict[str, Any]) -> None:
        try:
            await self.hooks.notified(hook, session, params)
        finally:
            self._hooked -= 1

    async def broadcast(self, method: str, params: Any) -> None:
        """Send a notification to every initialized session, and to the modern streams that asked for its kind; that a
        resource has changed, to those who subscribed to it. Waits for no reader; now and then the others have their
        turn."""
        payload = self.notification(method, params)
        now = self.now()
        about_one = method == "notifications/resources/updated"
        for session in self.subscriptions.of(params) if about_one else list(self.sessions.by_id.values()):
            if session.record.version:
                session.log.append(payload, Kind.NOTIFICATION, now)
            self._told += 1
            if not self._told % _TURN:
                await asyncio.sleep(0)
        self.listens.broadcast(method, params)

    def updated(self, uri: str) -> None:
        """What stands at `uri` has changed; those who subscribed to it are told soon, once for all changes of a
        moment."""
        self._updated[uri] = None

    def changed(self, kind: str, session: Session | None = None) -> None:
        """The list of `kind` (``tools``, …) has changed, for everybody or for one session; clients are told soon, once
        for all changes of a moment."""
        if session is None:
            self._changed.add(kind)
        elif self.sessions.by_id.get(session.id) is session and session.record.version:
            payload = self.notification(f"notifications/{kind}/list_changed", None)
            session.log.append(payload, Kind.NOTIFICATION, self.now())

    # --- sessions ---

    def new_session(self, transport: str, principal: str) -> Session:
        """Enter a new session; nothing of it is stored, and no hook has run.

        Raises:
            ProtocolError: Too many are open.
        """
        session = self.make_session(secrets.token_urlsafe(24), os.urandom(9), principal, Record(transport))
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
            ProtocolError: It was initialized before; it says too much; the store does not commit.
        """
        record: Record = session.record
        if record.version:
            raise ProtocolError(INVALID_REQUEST, "this session is initialized already")
        if len(request.params) > self.settings.max_greeting:
            text = f"the params of initialize are over {self.settings.max_greeting} bytes"
            raise ProtocolError(INVALID_PARAMS, text)
        record.version = mcp.negotiate(params.protocol_version)
        record.client = msgspec.to_builtins(params.client_info)
        record.capabilities = params.capabilities
        if session.log.journal is not None:
            try:
                await self.journals.commit([put_session(session)])
            except StoreError:
                session.close("the session could not be stored")
                raise ProtocolError(INTERNAL_ERROR, "the session could not be stored; try again later") from None
        await session.open()
        if (put := self.changed_state(session)) is not None:  # by its hooks
            with contextlib.suppress(StoreError):  # which is logged; the next call tries again
                await self.journals.commit([put])
        return encode_result(request.id, self.methods.initialize_result(record.version))

    def find(self, id: str, principal: str) -> Session | None:
        """The living session with this id, if it belongs to `principal`; `Recovery.restore` waits for one that is
        being restored."""
        session = self.sessions.by_id.get(id)
        if session is None or session.principal != principal or session.lifecycle is not Lifecycle.OPEN:
            return None
        if session.restored and (session.opening or not session.greeted):
            return None
        session.touched = self.now()
        return session

    def journal_of(self, session: Session | None) -> SessionJournal | None:
        """Where the session is journalled; None for those that are not."""
        return session.log.journal if session is not None else None  # type: ignore[return-value]

    def save(self, session: Session) -> None:
        """Store the session's record as it is now."""
        journal = self.journal_of(session)
        if journal is not None and session.record.version:
            session.saved = self.now()
            state_changed(session, journal, self.settings.state)
            self.journals.write([put_session(session)])

    def changed_state(self, session: Session | None) -> PutSession | None:
        """The record to be stored, if a session's own values were changed since they were stored."""
        journal = self.journal_of(session)
        if journal is None or session is None or not session.record.version:
            return None
        return put_session(session) if state_changed(session, journal, self.settings.state) else None

    # --- streams ---

    def resume_after(self, place: EventId, log: Log) -> int:
        """Where a client that saw this event goes on in `log`.

        Of an earlier process life only what was durable counts: where a disk failed, a client may have seen
        events whose numbers were given again since.
        """
        return min(place.seq, log.last if place.epoch == self.seals.epoch else log.origin)

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
        self.retention.forget(session)
        self.subscriptions.left(session)
        self.service.forget_session(session.id)
        self.recovery.ended(session.id)
        journal = self.journal_of(session)
        if journal is not None and not keep:
            self.journals.write([DropSession(session.id)])

    def suspend(self, session: Session) -> None:
        """The store keeps what it has; nothing more goes in."""
        self.save(session)
        for log in (session.log, *session.streams.values()):
            log.journal = None

    def notification(self, method: str, params: Any) -> bytes:
        """Encode a server's notification."""
        return encode_notification(method, None if params is None else mcp.encode(params))

    def close(self) -> None:
        """Stop its timers."""
        self.sweeper.discard(self)
        self.hold.close()
        self.task_table.close()
        self.waiting.clear()

    # --- the clock ---

    def sweep(self, now: float) -> None:
        """Twice a second: modern calls that become streams; every few seconds: what has expired."""
        for reply, since in list(self.waiting.items()):
            if now - since >= self._patience:
                reply.due()
        if self.journals.store.failure is not None:  # one that only writes saw to which nobody listens
            self.journals.note(self.journals.store.failure)
        while self._changed:
            news = self.broadcast(f"notifications/{self._changed.pop()}/list_changed", None)
            self.tasks.start(news, name="tailrace-broadcast")
        if self._updated:
            updated, self._updated = self._updated, {}
            self.tasks.start(self._tell_updated(updated), name="tailrace-broadcast")
        self.task_table.sweep(now)
        if now < self._next_expiry:
            return
        self._next_expiry = now + 5.0
        self.sessions.expire(now)
        self.retention.expire(now)
        self.once.ledger.expire()
        for session in self.sessions.by_id.values():
            if session.touched > session.saved and now - session.saved > SAVE_EVERY:
                self.save(session)
        self.recovery.sweep(now)

    # --- inside ---

    async def _tell_updated(self, uris: Iterable[str]) -> None:
        for uri in uris:
            await self.broadcast("notifications/resources/updated", {"uri": uri})

    def make_session(
        self, id: str, handle: bytes, principal: str, record: Record, *, last: int = 0, restored: bool = False
    ) -> Session:
        """A session with its own stream; it is in no table, and nothing of it is stored."""
        journal = SessionJournal(id, self.journals) if self.journals.durable and record.transport != "stdio" else None
        budget = self.retention.session_budget()
        log = Log(ring=self.settings.ring, kept=self.settings.kept, journal=journal, last=last, budget=budget)
        session = Session(
            id,
            handle,
            principal,
            tasks=self.tasks,
            home=self,
            log=log,
            record=record,
            budget=budget,
            max_calls=self.settings.max_session_calls,
            restored=restored,
        )
        return session

    def values(self, meta: mcp.Meta, origin: Exchange | None) -> dict[Any, Any]:
        """What the context of a call holds from the start: its trace, where `_meta` comes before the headers, and
        the outbox."""
        values: dict[Any, Any] = {}
        if meta is not mcp.NO_META and meta.traceparent is not UNSET:
            state = None if meta.tracestate is UNSET else meta.tracestate
            given = {b"traceparent": meta.traceparent, b"tracestate": state}
            values.update(read_trace(given.get))
        if not values and origin is not None:
            traced = origin.verdicts.get("traced")
            if traced is None:  # a head that is known again mostly says nothing
                traced = origin.verdicts["traced"] = read_trace(origin.header)
            values.update(traced)
        if origin is not None and origin.access is not None:
            values[Access] = origin.access
        if self.outbox is not None:
            values[OUTBOX] = self.outbox
        return values


def _traced(call: McpCall) -> dict[str, str]:
    """What the semantic conventions for MCP want to know of a call's target."""
    if call.METHOD == "tools/call":
        return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.target.name}
    if call.METHOD == "resources/read":
        return {"mcp.resource.uri": call.target.name}
    return {"gen_ai.prompt.name": call.target.name} if call.METHOD == "prompts/get" else {}


def _check_token(token: int | str | UnsetType) -> None:
    """It is repeated in every progress notification, each of which is kept: so it is limited as an id is."""
    if token is UNSET:
        return
    if len(token) > MAX_ID if isinstance(token, str) else abs(token) >= _TOKEN_LIMIT:
        raise ProtocolError(INVALID_PARAMS, f"the progressToken is longer than {MAX_ID} characters")
