"""Streamable HTTP: one path for both eras, routed by what each request says of its version.

Legacy (2025-03-26 to 2025-11-25): POST, GET and DELETE with `Mcp-Session-Id`. Modern (2026-07-28):
POST alone, each on its own. The handlers are plain functions; what has to wait is a task of the house.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import UNSET, Raw

from tailrace.errors import ProtocolError
from tailrace.protocols.mcp.failures import encode_failure
from tailrace.protocols.mcp.framing import tag_of
from tailrace.protocols.mcp.http import accepts, answer_later, is_json, not_allowed, parse_body, refuse, status_of
from tailrace.protocols.mcp.listen_parts import listen_everywhere
from tailrace.protocols.mcp.reply import JSON, ExchangeReply
from tailrace.protocols.mcp.requests import KEPT
from tailrace.protocols.mcp.task_state import ToolTask
from tailrace.wire import mcp, sse, tasks
from tailrace.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Batch,
    ErrorResponse,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    encode_error,
    encode_result,
)
from tailrace.wire.param_headers import check_param_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tailrace.core.exchange import Exchange
    from tailrace.core.session import Session
    from tailrace.protocols.mcp.call import McpCall
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.service import Tool

__all__ = ["Streamable"]

_ALLOW = b"GET, POST, DELETE"
_LATER = frozenset({INTERNAL_ERROR, mcp.LIMIT_REACHED})  # of initialize: what may go well another time
_VERSION = frozenset({b"mcp-protocol-version"})
_DOUBLED = ProtocolError(INVALID_REQUEST, "the header MCP-Protocol-Version is given more than once")


class Streamable:
    """The handler of `/mcp`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def handle(self, exchange: Exchange) -> None:
        """Any request to the path."""
        try:
            if exchange.method == "POST":
                self._post(exchange)
            elif exchange.method == "GET":
                self._get(exchange)
            elif exchange.method == "DELETE":
                self._delete(exchange)
            else:
                not_allowed(exchange, _ALLOW)
        except ProtocolError as error:
            refuse(exchange, max(400, mcp.http_status(error)), error)

    # --- POST ---

    def _post(self, exchange: Exchange) -> None:
        head: _Head | None = exchange.verdicts.get("streamable")
        if head is None:
            if not accepts(exchange, "application/json", "text/event-stream"):
                error = ProtocolError(INVALID_REQUEST, "Accept must admit application/json and text/event-stream")
                return refuse(exchange, 406, error)
            if not is_json(exchange):
                return None
            version, session = exchange.header(b"mcp-protocol-version"), exchange.header(b"mcp-session-id")
            if exchange.doubled(_VERSION):
                session = None  # the long way, which refuses it
            exchange.verdicts["streamable"] = head = _Head(version, session)
        message = parse_body(exchange, self.endpoint.settings.max_batch)
        if message is None:
            return None
        version = head.version
        if isinstance(message, Request):
            try:
                params = mcp.decode_params(message.method, message.params, any_era=True)
            except ProtocolError as error:
                return self._bad_params(exchange, message, error, version)
            if version in mcp.MODERN_VERSIONS or params.meta.protocol_version is not UNSET:
                return self._modern_request(exchange, message, params)
            if version is not None and version not in mcp.LEGACY_VERSIONS:
                return refuse(exchange, 400, mcp.unsupported_version(version), message.id)
            if message.method == "initialize":
                return self._initialize(exchange, message, params)
            if message.method == "server/discover":  # a modern request that forgot its envelope
                return self._modern_request(exchange, message, params)
            return self._in_session(exchange, message, params)
        if version in mcp.MODERN_VERSIONS:
            return self._modern_other(exchange, message)
        if version is not None and version not in mcp.LEGACY_VERSIONS:
            return refuse(exchange, 400, mcp.unsupported_version(version))
        return self._in_session(exchange, message, None)

    def _bad_params(self, exchange: Exchange, request: Request, error: ProtocolError, version: str | None) -> None:
        """Refused by status where there is no session; in one the version and the session are looked at first."""
        alone = version in mcp.MODERN_VERSIONS or request.method == "initialize" or self.endpoint.settings.stateless
        if alone or exchange.header(b"mcp-session-id") is None:
            if version is not None and version not in mcp.ALL_VERSIONS:
                error = mcp.unsupported_version(version)
            return refuse(exchange, 400, error, request.id)
        return self._with_session(exchange, lambda _: refuse(exchange, 200, error, request.id))

    # --- POST, modern ---

    def _modern_request(self, exchange: Exchange, request: Request, params: Any) -> None:
        endpoint = self.endpoint
        try:
            version = mcp.check_modern_meta(params.meta)
            name = mcp.header_name(request.method, params)
            if exchange.verdicts.get("routing") != (said := (request.method, version, name)):
                mismatch = mcp.check_modern_headers(*said, exchange.header_values)
                if mismatch is not None:
                    raise mismatch
                exchange.verdicts["routing"] = said
            mcp.check_modern_version(version)
            tool = None
            if request.method == "tools/call":
                tool = endpoint.requests.find_tool(params.name, None, exchange.principal)
                if tool is not None and tool.param_headers:
                    self._check_param_headers(exchange, params, tool)
            elif request.method == "subscriptions/listen":
                return self._subscribe(exchange, request, params)
            elif request.method in tasks.METHODS:
                if endpoint.elsewhere is not None and endpoint.elsewhere(exchange, params.task_id):
                    return None
                answering = partial(endpoint.task_table.answer, request, params, exchange.principal)
                work = self._answer_task(exchange, request, answering)
                return answer_later(endpoint.tasks, exchange, work, "tailrace-task-answer")
            body = endpoint.requests.inline(request, params, None, endpoint.modern, exchange)
            if body is not None:
                return exchange.respond(200, JSON, body)
            reply = ExchangeReply(endpoint, exchange, None, 1, cancels=True)
            task_call = None
            if tool is not None and tool.task:
                task_call = endpoint.task_table.making.accept(
                    request, params, None, reply, exchange.principal, by_id=False, origin=exchange
                )
            if isinstance(task_call, ToolTask):
                telling = partial(endpoint.task_table.making.tell, request, task_call)
                work = self._answer_task(exchange, request, telling)
                return answer_later(endpoint.tasks, exchange, work, "tailrace-task-answer")
            call = task_call or endpoint.requests.accept(
                request, params, None, reply, endpoint.modern, by_id=False, origin=exchange
            )
        except ProtocolError as error:
            return refuse(exchange, mcp.http_status(error), error, request.id)
        reply.add(call)
        endpoint.waiting[reply] = endpoint.now()
        return call.start() if task_call is None else endpoint.task_table.making.start(task_call)

    def _subscribe(self, exchange: Exchange, request: Request, params: mcp.ListenParams) -> None:
        """Where the tasks are that it names, or here if it names none."""
        endpoint, watched = self.endpoint, params.notifications.task_ids
        if watched and endpoint.elsewhere is not None:
            if len({tag_of(id) for id in watched}) > 1:
                work = listen_everywhere(endpoint, exchange, request, params)
                return answer_later(endpoint.tasks, exchange, work, "tailrace-listen")
            if endpoint.elsewhere(exchange, watched[0]):
                return None
        return endpoint.listens.open_exchange(exchange, request, params)

    async def _answer_task(
        self, exchange: Exchange, request: Request, answering: Callable[[], Awaitable[bytes]]
    ) -> None:
        try:
            body = await answering()
        except ProtocolError as error:
            return refuse(exchange, mcp.http_status(error), error, request.id)
        return exchange.respond(200, JSON, body)

    def _check_param_headers(self, exchange: Exchange, params: mcp.CallParams, tool: Tool) -> None:
        """Arguments that the tool wants to be repeated in headers are the same there, or the call is refused."""
        arguments = params.arguments if isinstance(params.arguments, Raw) else b""
        mismatch = check_param_headers(tool.param_headers, bytes(arguments), exchange.header_values)
        if mismatch is not None:
            raise mismatch

    def _modern_other(self, exchange: Exchange, message: Message | Batch) -> None:
        if isinstance(message, Notification):
            return exchange.respond(202, ())
        what = "a batch" if isinstance(message, Batch) else "a response"
        return refuse(exchange, 400, ProtocolError(INVALID_REQUEST, f"{what} cannot be posted in this version"))

    # --- POST, legacy ---

    def _initialize(self, exchange: Exchange, request: Request, params: mcp.InitializeParams) -> None:
        endpoint = self.endpoint
        if exchange.doubled(_VERSION):
            return refuse(exchange, 400, _DOUBLED, request.id)
        if endpoint.settings.stateless:
            version = mcp.negotiate(params.protocol_version)
            return exchange.respond(200, JSON, encode_result(request.id, endpoint.methods.initialize_result(version)))
        if exchange.header(b"mcp-session-id") is not None:
            error = ProtocolError(INVALID_REQUEST, "this session is initialized already")
            return refuse(exchange, 400, error, request.id)
        try:
            session = endpoint.home.new("streamable", exchange.principal)
        except ProtocolError as error:
            return refuse(exchange, 503, error, request.id)
        answer_later(endpoint.tasks, exchange, self._greet(exchange, session, request, params), "tailrace-initialize")
        return None

    async def _greet(
        self, exchange: Exchange, session: Session, request: Request, params: mcp.InitializeParams
    ) -> None:
        try:
            body = await self.endpoint.home.initialize(session, request, params)
        except ProtocolError as error:
            session.close("its initialize was refused")  # nobody has its id
            return refuse(exchange, 503 if error.code in _LATER else 400, error, request.id)
        return exchange.respond(200, [*JSON, (b"mcp-session-id", session.id.encode())], body)

    def _in_session(self, exchange: Exchange, message: Message | Batch, params: Any) -> None:
        if self.endpoint.settings.stateless:
            return self._legacy(exchange, None, message, params)
        id = exchange.verdicts["streamable"].session
        session = self.endpoint.home.find(id, exchange.principal) if id is not None else None
        if session is not None and session.record.transport == "streamable":
            return self._legacy(exchange, session, message, params)
        return self._with_session(exchange, lambda session: self._legacy(exchange, session, message, params))

    def _legacy(self, exchange: Exchange, session: Session | None, message: Message | Batch, params: Any) -> None:
        """A message of a session (or of nobody's, in stateless mode)."""
        if isinstance(message, Request):
            return self._legacy_request(exchange, session, message, params)
        if isinstance(message, Batch):
            stated = exchange.header(b"mcp-protocol-version") or mcp.ASSUMED_VERSION
            version = session.record.version if session is not None else stated
            if version != "2025-03-26":
                error = ProtocolError(INVALID_REQUEST, f"batches are not part of version {version}")
                return refuse(exchange, 400, error)
            return self._batch(exchange, session, message)
        self._take(session, message)
        return exchange.respond(202, ())

    def _legacy_request(self, exchange: Exchange, session: Session | None, request: Request, params: Any) -> None:
        endpoint = self.endpoint
        try:
            body = endpoint.requests.inline(request, params, session, endpoint.legacy, exchange)
            if body is not None:
                return self._respond(exchange, session, request, body)
            reply = ExchangeReply(endpoint, exchange, session, 1, primed=_primed(session))
            call = endpoint.requests.accept(
                request, params, session, reply, endpoint.legacy, by_id=False, keep_answer=True, origin=exchange
            )
        except ProtocolError as error:
            return refuse(exchange, status_of(error), error, request.id)
        reply.add(call)
        endpoint.hold.add(reply)
        return call.start()

    def _respond(self, exchange: Exchange, session: Session | None, request: Request, body: bytes) -> None:
        if request.method in KEPT and self.endpoint.home.journal_of(session) is not None:
            respond = partial(exchange.respond, 200, JSON, body)  # answered when it is stored
            self.endpoint.journals.write([], lambda error: respond())
        else:
            exchange.respond(200, JSON, body)

    def _batch(self, exchange: Exchange, session: Session | None, batch: Batch) -> None:
        """2025-03-26: an array. What has a call is started once all have been looked at."""
        endpoint = self.endpoint
        expected = sum(1 for message in batch.messages if isinstance(message, (Request, Malformed)))
        if not expected:
            for message in batch.messages:
                self._take(session, message)
            return exchange.respond(202, ())
        reply = ExchangeReply(endpoint, exchange, session, expected, batch=True)
        calls: list[McpCall] = []
        answers: list[bytes] = []
        for message in batch.messages:
            if isinstance(message, Request):
                try:
                    if message.method == "initialize":
                        raise ProtocolError(INVALID_REQUEST, "initialize must not be part of a batch")
                    params = mcp.decode_params(message.method, bytes(message.params))
                    body = endpoint.requests.inline(message, params, session, endpoint.legacy, exchange)
                    if body is not None:
                        answers.append(body)
                        continue
                    call = endpoint.requests.accept(
                        message,
                        params,
                        session,
                        reply,
                        endpoint.legacy,
                        by_id=False,
                        keep_answer=True,
                        origin=exchange,
                        batch=expected > 1,
                    )
                    reply.add(call)
                    calls.append(call)
                except ProtocolError as error:
                    answers.append(encode_failure(message.id, error))
            elif isinstance(message, Malformed):
                answers.append(encode_error(message.id, message.code, message.message))
            else:
                self._take(session, message)
        if calls:
            endpoint.hold.add(reply)
        for body in answers:
            reply.answer_now(body)
        for call in calls:
            call.start()
        return None

    def _take(self, session: Session | None, message: Message) -> None:
        """A notification or a response: nothing is answered."""
        if isinstance(message, Notification):
            self.endpoint.notifications.notified(message, session)
        elif isinstance(message, (Response, ErrorResponse)):
            self.endpoint.asking.answered(message, session)

    # --- GET and DELETE ---

    def _get(self, exchange: Exchange) -> None:
        if exchange.header(b"mcp-protocol-version") in mcp.MODERN_VERSIONS or self.endpoint.settings.stateless:
            return not_allowed(exchange, b"POST")
        if not accepts(exchange, "text/event-stream"):
            return refuse(exchange, 406, ProtocolError(INVALID_REQUEST, "Accept must admit text/event-stream"))
        return self._with_session(exchange, lambda session: self._listen(exchange, session))

    def _listen(self, exchange: Exchange, session: Session) -> None:
        """The session's own stream, or (with Last-Event-ID) any stream of it from where the client was cut off."""
        endpoint = self.endpoint
        log, after, missing = session.log, session.log.delivered, None
        last_id = exchange.header(b"last-event-id")
        if last_id is not None:
            try:
                place = endpoint.seals.open(last_id, exchange.principal)
                if place.handle != session.handle:
                    raise ValueError("the event id belongs to another session")
                log = session.streams[place.stream] if place.stream else session.log
            except (ValueError, KeyError) as error:
                text = str(error) if isinstance(error, ValueError) else "the stream is not kept any more"
                return refuse(exchange, 404, ProtocolError(INVALID_REQUEST, text))
            after = endpoint.streams.resume_after(place, log)
            missing = log.missing(after)
        framing = endpoint.streams.framing(session, log.stream)
        retry = endpoint.settings.retry
        if _primed(session):
            # Else what is cut before its first event is lost. On a resume, too: the TypeScript clients forget the id
            # that they came with, and ask for the session's own stream instead.
            first = sse.event(b"", id=framing.event_id(after), retry=retry)
        else:
            first = b"retry: %d\n: open\n\n" % retry
        writer = endpoint.streams.writer(log.attach(after), framing)
        exchange.on_gone = partial(endpoint.streams.left, session, writer.cursor)
        return exchange.stream(200, endpoint.streams.headers(session, missing), writer.run, first)

    def _delete(self, exchange: Exchange) -> None:
        if exchange.header(b"mcp-protocol-version") in mcp.MODERN_VERSIONS or self.endpoint.settings.stateless:
            return not_allowed(exchange, b"POST")

        def end(session: Session) -> None:
            session.close("ended by its client", grace=self.endpoint.settings.grace)
            exchange.respond(200, ())

        return self._with_session(exchange, end)

    # --- finding the session ---

    def _with_session(self, exchange: Exchange, then: Callable[[Session], None]) -> None:
        """Go on in the request's session: a living one at once, a stored one when it is back."""
        version = exchange.header(b"mcp-protocol-version")
        if version is not None and version not in mcp.LEGACY_VERSIONS:
            return refuse(exchange, 400, mcp.unsupported_version(version))
        if exchange.doubled(_VERSION):
            return refuse(exchange, 400, _DOUBLED)
        id = exchange.header(b"mcp-session-id")
        if id is None:
            return refuse(exchange, 400, ProtocolError(INVALID_REQUEST, "Mcp-Session-Id is missing: initialize first"))
        session = self.endpoint.home.find(id, exchange.principal)
        if session is None or session.record.transport != "streamable":
            answer_later(self.endpoint.tasks, exchange, self._restored(exchange, id, then), "tailrace-restore")
            return None
        return then(session)

    async def _restored(self, exchange: Exchange, id: str, then: Callable[[Session], None]) -> None:
        try:
            session = await self.endpoint.recovery.restore(exchange.principal, id)
        except ProtocolError as error:
            return refuse(exchange, 503, error)
        if session is None or session.record.transport != "streamable":
            error = ProtocolError(METHOD_NOT_FOUND, "no such session: it has ended, or was never here; initialize anew")
            return refuse(exchange, 404, ProtocolError(INVALID_REQUEST, error.message))
        if exchange.gone:
            return None
        return then(session)


class _Head(NamedTuple):
    """What there is to know of a POST's head, which takes both kinds of reply and says that its body is JSON."""

    version: str | None
    session: str | None


def _primed(session: Session | None) -> bool:
    """Its client knows events without data, which only carry an id to resume from (2025-11-25)."""
    return session is not None and session.record.version >= "2025-11-25"
