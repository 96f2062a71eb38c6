"""Requests to `/{package.Service}/{Method}`: found, read, accepted and started as calls; or refused in their form."""

from __future__ import annotations

import itertools
import logging
import re
from typing import TYPE_CHECKING, Any

from tailrace.core.access import Access, InsufficientScope
from tailrace.core.outgoing import OUTBOX, Outbox
from tailrace.core.trace import read_trace
from tailrace.errors import CallCancelled, Code, DeadlineExceeded, LimitError, RpcError
from tailrace.protocols.connect.call import RpcCall, error_of
from tailrace.protocols.connect.once import OnceCall
from tailrace.protocols.connect.opening import (
    Forms,
    Opening,
    Refused,
    cors_of,
    kind_of,
    preflight,
    read_opening,
)
from tailrace.protocols.connect.reflection import REFLECTION_SERVICES
from tailrace.protocols.connect.served import ServedMethods
from tailrace.service.viewing import Viewer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.core.exchange import Exchange, Headers
    from tailrace.core.ledger import Ledger
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks
    from tailrace.core.trace import Tracer
    from tailrace.service import Service, Tool

__all__ = ["RpcEndpoint"]

logger = logging.getLogger("tailrace.rpc")

_STREAMED = frozenset({"client_stream", "bidi"})
_REFUSALS = {
    408: Code.DEADLINE_EXCEEDED,
    413: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_FULL_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)  # of a protobuf service in a package


class RpcEndpoint:
    """Serves one service's methods over Connect, gRPC and gRPC-Web.

    Args:
        service: What is served.
        settings: Limits.
        tasks: Where calls run.
        serving: Whether the server is ready (for health checks).

    Attributes:
        outbox: Where calls publish to.
        ledger: The keys of calls that run once.
        draining: No new work is taken.
    """

    def __init__(self, service: Service, settings: Settings, tasks: Tasks, serving: Callable[[], bool]) -> None:
        self.settings = settings
        self.tasks = tasks
        self.methods = ServedMethods(service.methods, serving)
        self.interceptors = service.interceptors
        self._service = service
        self.outbox: Outbox | None = None
        self.ledger: Ledger | None = None
        self.draining = False
        self._forms = Forms(settings)
        self._numbers = itertools.count(1)

    # --- what the server asks ---

    def streams(self, exchange: Exchange) -> bool:
        """Whether the body of this request is to be read as it comes."""
        method = self.methods.get(exchange.path[1:])
        return method is not None and method.kind in _STREAMED and exchange.method == "POST"

    def preflight(self, exchange: Exchange) -> bool:
        """Answer a browser's question whether it may call; False if this is none. No token goes with it."""
        if exchange.method != "OPTIONS":
            return False
        method = self.methods.get(exchange.path[1:])
        return method is not None and preflight(exchange, method)

    def cors(self, exchange: Exchange) -> Headers:
        """What lets a page read why it may not call a method (it has no token, say); nothing for other paths."""
        return cors_of(exchange) if exchange.path[1:] in self.methods else ()

    def handle(self, exchange: Exchange) -> bool:
        """Serve a request, or refuse it in its own form; False if it is nothing of an RPC."""
        opening: Opening | None = exchange.verdicts.get("rpc")
        if opening is None:
            method = self.methods.get(exchange.path[1:])
            if method is None:
                return self._unknown(exchange)
            try:
                opening = read_opening(exchange, method, self._forms)
            except Refused as refused:
                self._refuse(exchange, refused)
                return True
            except RpcError as error:
                self.fail(exchange, error)
                return True
            exchange.verdicts["rpc"] = opening
        self._accept(exchange, opening)
        return True

    def refuse(self, exchange: Exchange, status: int, message: str) -> bool:
        """Refuse what the transport found (a body over the limit, say) in the form of the request; False if that is
        for no method here, or has no form."""
        code = _REFUSALS.get(status)
        if code is None or self.methods.get(exchange.path[1:]) is None or kind_of(exchange) is None:
            return False
        self.fail(exchange, RpcError(code, message), status)
        return True

    def fail(self, exchange: Exchange, error: RpcError, status: int = 0) -> None:
        """Answer with an error, in the form of the request."""
        kind = kind_of(exchange)
        assert kind is not None
        self._forms.get(exchange, kind).reply(exchange, b"", error, status=status)

    def end_watching(self) -> None:
        """A drain begins: end the streams that clients hold open to learn of the server, for they would hold it up."""
        self.methods.health.end()
        for call in list(self.tasks.calls):
            if isinstance(call, RpcCall) and call.method.service in REFLECTION_SERVICES:
                call.cancel(CallCancelled("the server is shutting down"))

    @property
    def open_streams(self) -> int:
        """How many answers are being streamed."""
        return sum(isinstance(call, RpcCall) and call.reply.outlet is not None for call in self.tasks.calls)

    # --- inside ---

    def _accept(self, exchange: Exchange, opening: Opening) -> None:
        """Make a call of it; from here on the server owns it."""
        tool = opening.method.tool
        if tool is not None and self._service.filters and not self._is_offered(tool, exchange):
            return self.fail(exchange, self._missing(exchange), status=404)
        if tool is not None and not exchange.covers(tool.scopes):
            error = RpcError(Code.PERMISSION_DENIED, str(InsufficientScope(tool.scopes)))
            return opening.form.reply(exchange, b"", error)
        if opening.method.once and opening.method.kind == "unary" and self.ledger is not None:
            call: RpcCall = OnceCall(next(self._numbers), self, opening, exchange, ledger=self.ledger)
        else:
            call = RpcCall(next(self._numbers), self, opening, exchange)
        call.principal = exchange.principal
        try:
            if self.draining:
                raise LimitError("draining", "the server is shutting down; try again in a moment")
            self.tasks.admit(call)
        except LimitError as error:
            self.tasks.refuse(error.limit)
            return opening.form.reply(exchange, b"", error_of(error))
        values = self._values(exchange)
        if values:
            call.context.set_values(values)
        if self.tasks.tracer is not None:
            self._trace(self.tasks.tracer, call)
        seconds = self._seconds(opening)
        if seconds is not None:
            call.set_timeout(seconds, DeadlineExceeded(f"{call.method.path} did not end within {seconds:g} s"))
        exchange.on_gone = call.left
        return call.start()

    def _is_offered(self, tool: Tool, exchange: Exchange) -> bool:
        """The service's filters let the caller see it: what is hidden over MCP is not there over RPC."""
        return self._service.offered(Viewer(exchange.principal, None)).tools.get(tool.name) is tool

    def _seconds(self, opening: Opening) -> float | None:
        """How long it may take: the least of what the client, the method and the server say."""
        given = [
            limit for limit in (opening.timeout, opening.method.timeout, self.settings.rpc_time) if limit is not None
        ]
        return min(given) if given else None

    def _values(self, exchange: Exchange) -> dict[Any, Any]:
        """What the call's context holds from the start."""
        traced = exchange.verdicts.get("traced")
        if traced is None:
            traced = exchange.verdicts["traced"] = read_trace(exchange.header)
        values = traced if self.outbox is None else {**traced, OUTBOX: self.outbox}
        return values if exchange.access is None else {**values, Access: exchange.access}

    def _trace(self, tracer: Tracer, call: RpcCall) -> None:
        """Begin the call's span (semantic conventions for RPC)."""
        context, method = call.context, call.method
        attributes = {"rpc.system.name": call.opening.form.kind.system, "rpc.method": method.path}
        call.span = tracer.begin("server", method.path, context.own_values, attributes)
        context.set_values({**context.own_values, **call.span.values})

    def _unknown(self, exchange: Exchange) -> bool:
        kind = kind_of(exchange) if exchange.path.count("/") == 2 and exchange.method == "POST" else None
        if kind is None or (kind.text == "application/json" and not self._is_rpc_path(exchange.path)):
            return False
        self.fail(exchange, self._missing(exchange), status=404)
        return True

    @staticmethod
    def _missing(exchange: Exchange) -> RpcError:
        return RpcError(Code.UNIMPLEMENTED, f"there is no method {exchange.path[1:129]!r}")

    def _is_rpc_path(self, path: str) -> bool:
        """It is a method of a service that is here, or written as one: ``/package.Service/Method``."""
        service = path[1:].partition("/")[0]
        return _FULL_NAME.fullmatch(service) is not None or service in self.methods.services

    def _refuse(self, exchange: Exchange, refused: Refused) -> None:
        """With a status of HTTP, from which clients conclude, and a text for people."""
        head = [_TEXT, *refused.headers, *cors_of(exchange)]
        exchange.respond(refused.status, head, refused.message.encode() + b"\n")
