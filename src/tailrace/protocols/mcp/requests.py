"""A client's request becomes an answer, where no user code runs, or a call that has an owner.

What the call then does is `call`'s; when it starts, and how its reply is shaped, are its transport's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET, UnsetType

from tailrace.core.access import Access, InsufficientScope
from tailrace.core.headers import headers_of
from tailrace.core.meter import ANSWERED, Operation
from tailrace.core.outgoing import OUTBOX
from tailrace.core.trace import read_trace
from tailrace.errors import LimitError, ProtocolError
from tailrace.protocols.mcp.call import McpCall
from tailrace.protocols.mcp.failures import DuplicateId
from tailrace.protocols.mcp.legs import leg_of
from tailrace.protocols.mcp.methods import LISTS
from tailrace.protocols.mcp.once import OnceCall
from tailrace.protocols.mcp.reading import find_resource, find_target
from tailrace.protocols.mcp.tool_call import ToolCall
from tailrace.protocols.mcp.tracing import begin_span
from tailrace.service.viewing import Viewer
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, MAX_ID, Request, encode_result

if TYPE_CHECKING:
    from tailrace.core.call import Reply
    from tailrace.core.exchange import Exchange
    from tailrace.core.session import Session
    from tailrace.protocols.mcp.dialect import Dialect
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.service import Tool

__all__ = ["CALLS", "KEPT", "Requests"]

CallT = TypeVar("CallT", bound=McpCall)

CALLS = frozenset({"tools/call", "resources/read", "prompts/get", "completion/complete"})  # those run user code
KEPT = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})  # their session is stored
_TOKEN_LIMIT = 10**MAX_ID


class Requests:
    """The requests to one endpoint.

    Args:
        endpoint: What is offered, where calls run, and the limits.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._tools = endpoint.service.tools  # a live view
        self._calls = CALLS | LISTS.keys() if endpoint.service.middleware else CALLS

    def inline(
        self, request: Request, params: Any, session: Session | None, dialect: Dialect, origin: Exchange | None = None
    ) -> bytes | None:
        """The encoded answer of a method that runs no user code; None for one that does, which is a call.

        Raises:
            InsufficientScope: The token of the request is not good for what it wants to hear of.
            ProtocolError: Unknown method, bad parameters.
        """
        if request.method in self._calls:
            return None
        if session is not None and not session.record.version and not dialect.modern and request.method != "ping":
            raise ProtocolError(INVALID_REQUEST, "initialize first (or name the version in _meta, from 2026-07-28 on)")
        tasks = self.endpoint.tasks
        began = perf_counter() if tasks.meter is not None else 0.0
        principal = session.principal if session is not None else origin.principal if origin is not None else ""
        viewer = Viewer(principal, session)
        result = self.endpoint.methods.result(request.method, params, viewer, modern=dialect.modern)
        if request.method in KEPT:
            self._keep(request.method, params, viewer, origin)
        if tasks.meter is not None:
            tasks.meter.call_ended(Operation("mcp", request.method, ""), ANSWERED, perf_counter() - began)
        return encode_result(request.id, result)

    def _keep(self, method: str, params: Any, viewer: Viewer, origin: Exchange | None) -> None:
        """What the session is to remember of a request.

        Raises:
            InsufficientScope: It may not read what it wants to hear of.
            ProtocolError: It cannot.
        """
        session = viewer.session
        if method == "logging/setLevel":
            if session is not None:
                session.record.level = params.level
        else:
            if method == "resources/subscribe":
                resource = find_resource(self.endpoint.service.offered(viewer), params.uri, modern=False).resource
                if origin is not None and not origin.covers(resource.scopes):
                    raise InsufficientScope(resource.scopes)
            self.endpoint.subscriptions.change(session, method, params.uri)
        if session is not None:
            self.endpoint.home.save(session)

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
        endpoint = self.endpoint
        make: Callable[..., CallT] = kind
        principal = session.principal if session is not None else origin.principal if origin is not None else ""
        if request.method == "tools/call":
            arguments, target = params.arguments, self.find_tool(params.name, session, principal)
            if target is None:
                raise ProtocolError(INVALID_PARAMS, f"unknown tool: {params.name[:128]!r}")
            if target.scopes and origin is not None and not origin.covers(target.scopes):
                raise InsufficientScope(target.scopes)
        else:
            offered = endpoint.service.offered(Viewer(principal, session if not dialect.modern else None))
            found = find_target(offered, request.method, params, modern=dialect.modern)
            make, target, arguments, scopes = found  # type: ignore[assignment] - a McpCall, as asked
            if scopes and origin is not None and not origin.covers(scopes):
                raise InsufficientScope(scopes)
        if params.meta is not mcp.NO_META:
            _check_token(params.meta.progress_token)
        number = next(endpoint.numbers)
        if dialect.modern:
            level: str | None = params.meta.log_level if params.meta.log_level is not UNSET else "none"
        else:
            level = session.record.level if session is not None else None
        if make is ToolCall and target.once:
            claim = endpoint.once.claimed(target, params, session, origin, batch=batch)
            if claim is not None:
                make = partial(OnceCall, once=endpoint.once, claim=claim)  # type: ignore[assignment] - a McpCall, as asked
        call = make(
            request.id if by_id else number,
            number,
            request.id,
            session,
            endpoint.tasks,
            reply,
            target=target,
            arguments=arguments,
            meta=params.meta,
            dialect=dialect,
            level=level,
            max_result=endpoint.settings.max_result,
            asking=endpoint.asking,
            principal=principal,
            keep_answer=keep_answer,
        )
        if dialect.modern and call.LEGS and (params.request_state is not UNSET or params.input_responses is not UNSET):
            call.leg = leg_of(call, params)
        if origin is not None:
            call.kept_headers = headers_of(origin)
        values = self.values(params.meta, origin)
        if values:
            call.context.set_values(values)
        try:
            if endpoint.draining:
                raise LimitError("draining", "the server is shutting down; try again in a moment")
            endpoint.retention.check(session)
            if session is not None:
                session.accept(call)
            else:
                endpoint.tasks.admit(call)
        except LimitError as error:
            self.endpoint.tasks.refuse(error.limit)
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None
        except KeyError:
            raise DuplicateId(request.id) from None
        if endpoint.tasks.tracer is not None:
            begin_span(endpoint.tasks.tracer, call)
        return call

    def find_tool(self, name: str, session: Session | None, principal: str) -> Tool | None:
        """The tool that somebody may call."""
        if not self.endpoint.service.is_selective:
            return self._tools.get(name)
        return self.endpoint.service.offered(Viewer(principal, session)).tools.get(name)

    def check_room(self, session: Session) -> None:
        """Before an answer is made that the session's stream has to keep.

        Raises:
            ProtocolError: It holds too much that nobody has read.
        """
        try:
            self.endpoint.retention.check(session)
        except LimitError as error:
            self.endpoint.tasks.refuse(error.limit)
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None

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
        if self.endpoint.outbox is not None:
            values[OUTBOX] = self.endpoint.outbox
        return values


def _check_token(token: int | str | UnsetType) -> None:
    """It is repeated in every progress notification, each of which is kept: so it is limited as an id is."""
    if token is UNSET:
        return
    if len(token) > MAX_ID if isinstance(token, str) else abs(token) >= _TOKEN_LIMIT:
        raise ProtocolError(INVALID_PARAMS, f"the progressToken is longer than {MAX_ID} characters")
