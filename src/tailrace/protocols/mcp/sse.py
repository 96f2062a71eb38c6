"""HTTP+SSE (2024-11-05): `GET /sse` is the session's stream, `POST /messages/` its way in.

A message is accepted (validated, owned by the session, committed where the store is durable) *before*
the 202 goes out; from then on no connection's end is its end. The stream can be resumed, which the
specification of that version does not know: clients that do not, lose nothing by it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from tailrace.core.access import InsufficientScope
from tailrace.core.ports import Kind, PutCall
from tailrace.core.session import Lifecycle
from tailrace.errors import ProtocolError
from tailrace.protocols.mcp.failures import DuplicateId, encode_failure
from tailrace.protocols.mcp.http import accepts, answer_later, is_json, not_allowed, parse_body, refuse
from tailrace.protocols.mcp.reply import SessionReply
from tailrace.wire import mcp, sse
from tailrace.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Batch,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.core.exchange import Exchange
    from tailrace.core.session import Session
    from tailrace.errors import StoreError
    from tailrace.protocols.mcp.call import McpCall
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.protocols.mcp.framing import EventId

__all__ = ["HttpSse"]


class HttpSse:
    """The handlers of `/sse` and `/messages/`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    # --- GET /sse ---

    def stream(self, exchange: Exchange) -> None:
        """Open a session's stream, or resume it by `Last-Event-ID`."""
        if exchange.method != "GET":
            return not_allowed(exchange, b"GET")
        if not accepts(exchange, "text/event-stream"):
            return refuse(exchange, 406, ProtocolError(INVALID_REQUEST, "Accept must admit text/event-stream"))
        last_id = exchange.header(b"last-event-id")
        if last_id is None:
            try:
                session = self.endpoint.home.new("sse", exchange.principal)
            except ProtocolError as error:
                return refuse(exchange, 503, error)
            return self._open(exchange, session)
        try:
            place = self.endpoint.seals.open(last_id, exchange.principal)
        except ValueError as error:
            return refuse(exchange, 404, ProtocolError(INVALID_REQUEST, str(error)))
        session = self.endpoint.sessions.by_handle.get(place.handle)
        if session is not None and session.record.transport == "sse" and self._is_open(session, exchange.principal):
            return self._open(exchange, session, place, last_id)
        answer_later(self.endpoint.tasks, exchange, self._resume(exchange, place, last_id), "tailrace-restore")
        return None

    def _is_open(self, session: Session, principal: str) -> bool:
        return self.endpoint.home.find(session.id, principal) is session

    async def _resume(self, exchange: Exchange, place: EventId, last_id: str) -> None:
        try:
            session = await self.endpoint.recovery.restore(exchange.principal, handle=place.handle)
        except ProtocolError as error:
            return refuse(exchange, 503, error)
        if session is None or session.record.transport != "sse":
            return refuse(exchange, 404, ProtocolError(INVALID_REQUEST, "the session of this event id has ended"))
        if exchange.gone:
            return None
        return self._open(exchange, session, place, last_id)

    def _open(self, exchange: Exchange, session: Session, place: EventId | None = None, last_id: str = "") -> None:
        endpoint = self.endpoint
        framing = endpoint.streams.framing(session, 0)
        url = f"{quote(exchange.prefix)}/messages/?session_id={session.id}"
        after, missing, id = 0, None, framing.event_id(0)
        if place is not None:
            after, id = endpoint.streams.resume_after(place, session.log), last_id.encode()
            missing = session.log.missing(after)
        first = sse.event(url.encode(), event=b"endpoint", id=id, retry=endpoint.settings.retry)
        writer = endpoint.streams.writer(session.log.attach(after), framing)
        exchange.on_gone = partial(endpoint.streams.left, session, writer.cursor)
        exchange.stream(200, endpoint.streams.headers(session, missing), writer.run, first)

    # --- POST /messages/ ---

    def message(self, exchange: Exchange) -> None:
        """Take one message of a session."""
        if exchange.method != "POST":
            return not_allowed(exchange, b"POST")
        id = exchange.verdicts.get("session_id")
        if id is None:
            ids = parse_qs(exchange.query.decode("latin-1")).get("session_id", [])
            if len(ids) != 1:
                problem = "is in the query more than once" if ids else "is missing from the query"
                return refuse(exchange, 400, ProtocolError(INVALID_REQUEST, f"session_id {problem}"))
            exchange.verdicts["session_id"] = id = ids[0]
        session = self.endpoint.home.find(id, exchange.principal)
        if session is None or session.record.transport != "sse":
            answer_later(self.endpoint.tasks, exchange, self._restored(exchange, id), "tailrace-restore")
            return None
        return self._message(exchange, session)

    async def _restored(self, exchange: Exchange, id: str) -> None:
        try:
            session = await self.endpoint.recovery.restore(exchange.principal, id)
        except ProtocolError as error:
            return refuse(exchange, 503, error)
        if session is None or session.record.transport != "sse":
            error = ProtocolError(INVALID_REQUEST, "no such session: it has ended, or was never here")
            return refuse(exchange, 404, error)
        return self._message(exchange, session)

    def _message(self, exchange: Exchange, session: Session) -> None:
        if not exchange.verdicts.get("is_json"):
            if not is_json(exchange):
                return None
            exchange.verdicts["is_json"] = True
        message = parse_body(exchange, self.endpoint.settings.max_batch)
        if message is None:
            return None
        if isinstance(message, Request):
            return self._request(exchange, session, message)
        if isinstance(message, Batch):
            return refuse(exchange, 400, ProtocolError(INVALID_REQUEST, "batches are not part of this transport"))
        return self._other(exchange, session, message)

    def _other(self, exchange: Exchange, session: Session, message: Message) -> None:
        if isinstance(message, Notification):
            self.endpoint.notifications.notified(message, session)
        elif isinstance(message, (Response, ErrorResponse)):
            self.endpoint.asking.answered(message, session)
        exchange.respond(202, (), b"Accepted")

    def _request(self, exchange: Exchange, session: Session, request: Request) -> None:
        endpoint = self.endpoint
        try:
            endpoint.requests.check_room(session)  # whatever comes of it, its answer has to be kept until it is read
        except ProtocolError as error:
            return refuse(exchange, 503, error, request.id)
        try:
            params = mcp.decode_params(request.method, request.params)
            if self._goes_on(exchange, session, request):
                later = self._assumed(exchange, session, request)
                answer_later(endpoint.tasks, exchange, later, "tailrace-initialize")
                return None
            if request.method == "initialize":
                greet = self._greet(exchange, session, request, params)
                answer_later(endpoint.tasks, exchange, greet, "tailrace-initialize")
                return None
            body = endpoint.requests.inline(request, params, session, endpoint.legacy, exchange)
            if body is not None:
                return self._answer(exchange, session, body)
            if not session.record.version:
                raise ProtocolError(INVALID_REQUEST, "initialize first")
            reply = SessionReply(endpoint.retention, session, endpoint.home.journal_of(session))
            call = endpoint.requests.accept(
                request, params, session, reply, endpoint.legacy, by_id=True, origin=exchange
            )
        except DuplicateId as error:
            return refuse(exchange, 400, error)
        except InsufficientScope as error:
            return refuse(exchange, 403, error, request.id)
        except ProtocolError as error:
            if error.code == mcp.LIMIT_REACHED:
                return refuse(exchange, 503, error, request.id)
            return self._answer(exchange, session, encode_failure(request.id, error))
        return self._accepted(exchange, session, call)

    def _accepted(self, exchange: Exchange, session: Session, call: McpCall) -> None:
        """The session owns the call: 202 and start, at once or as soon as that is durable."""
        journal = self.endpoint.home.journal_of(session)
        if journal is None or not call.target.journal:
            exchange.respond(202, (), b"Accepted")
            return call.start()
        call.journalled = True

        def committed(error: StoreError | None) -> None:
            if error is None:
                exchange.respond(202, (), b"Accepted")
                return call.start()
            call.journalled = False
            refuse(exchange, 503, ProtocolError(INTERNAL_ERROR, "the call could not be stored"), call.request_id)
            return call.cancel(error)  # and on the stream, for clients that do not read the body of a refused POST

        journal.journals.write([PutCall(session.id, call.number, 0, call.stored())], committed)
        return None

    @staticmethod
    def _goes_on(exchange: Exchange, session: Session, request: Request) -> bool:
        """Its client has been through `initialize`, but not in this session: it says which version was agreed on.

        The TypeScript client, whose stream was cut, asks for it again without `Last-Event-ID`, gets a new session, and
        goes on in it. Which one it had cannot be known (two programs may share a token), so that one's answers stay
        where they are; but nothing speaks against serving it anew.
        """
        if request.method == "initialize" or (session.greeted and not session.opening):
            return False
        return exchange.header(b"mcp-protocol-version") in mcp.LEGACY_VERSIONS

    async def _assumed(self, exchange: Exchange, session: Session, request: Request) -> None:
        try:
            await self.endpoint.home.assume(session, exchange.header(b"mcp-protocol-version") or "")
        except ProtocolError as error:
            return refuse(exchange, 503, error, request.id)
        if session.lifecycle is not Lifecycle.OPEN:
            return refuse(exchange, 404, ProtocolError(INVALID_REQUEST, "the session has ended"), request.id)
        return self._request(exchange, session, request)

    async def _greet(self, exchange: Exchange, session: Session, request: Request, params: Any) -> None:
        try:
            body = await self.endpoint.home.initialize(session, request, params)
        except ProtocolError as error:
            if error.code == INTERNAL_ERROR:
                return refuse(exchange, 503, error, request.id)
            body = encode_failure(request.id, error)
        return self._answer(exchange, session, body)

    def _answer(self, exchange: Exchange, session: Session, body: bytes) -> None:
        """An answer that needed no call: into the stream, then the 202."""
        endpoint = self.endpoint
        session.log.append(body, Kind.ANSWER, endpoint.now())
        self._after_commit(session, lambda: exchange.respond(202, (), b"Accepted"))

    def _after_commit(self, session: Session, then: Callable[[], None]) -> None:
        """Everything the session has written so far is safe before `then` is called (or cannot be made so)."""
        if self.endpoint.home.journal_of(session) is None:
            then()
        else:
            self.endpoint.journals.write([], lambda error: then())
