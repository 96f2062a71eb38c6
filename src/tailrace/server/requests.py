"""What comes in: each request is judged (may it come from there, and who asks?), then handed to who answers it.

The judgement itself is the transports' (`guard`, `bearer`); the answers are the protocols', and the way to another
member of the service is the cluster's.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

from tailrace.errors import ProtocolError
from tailrace.protocols.mcp.http import answer_later, not_allowed, refuse
from tailrace.server.health import READING
from tailrace.wire.jsonrpc import INVALID_REQUEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tailrace.core.exchange import Exchange, Handler
    from tailrace.core.tasks import Tasks
    from tailrace.protocols.connect.endpoint import RpcEndpoint
    from tailrace.transports.authorization import ResourceServer
    from tailrace.transports.bearer import Bearer, Refusal
    from tailrace.transports.guard import Guard

__all__ = ["Requests"]

logger = logging.getLogger("tailrace.server")

_NOTHING = "nothing is here; MCP is at {0}/mcp (Streamable HTTP) and {0}/sse (HTTP+SSE)"
_METADATA = ((b"content-type", b"application/json"), (b"cache-control", b"max-age=3600"))


class Requests:
    """The requests of one server.

    Args:
        guard: Knows the hosts and origins that are allowed.
        bearer: Tells who asks; None: everybody may, and is nobody.
        rpc: Answers what has no path of its own.
        tasks: Where tokens are verified.
        open_routes: Handlers by path, for everybody: nobody asks for a token there.

    Attributes:
        routes: Handlers by path.
        take_in: Handles what it knows and has no path of its own either, and says whether it did; None: nobody.
    """

    def __init__(
        self, guard: Guard, bearer: Bearer | None, rpc: RpcEndpoint, tasks: Tasks, open_routes: dict[str, Handler]
    ) -> None:
        self.routes = dict(open_routes)
        self.take_in: Callable[[Exchange], bool] | None = None
        self._open = frozenset(open_routes)
        self._guard = guard
        self._bearer = bearer
        self._rpc = rpc
        self._tasks = tasks

    def handle(self, exchange: Exchange) -> None:
        """Judge one request, and route it; the reply comes now or later."""
        verdict = self._guard.check(exchange)
        if verdict is not None:
            return self.refuse(exchange, *verdict)
        if exchange.method == "OPTIONS" and self._rpc.preflight(exchange):
            return None
        bearer = self._bearer
        if bearer is None or exchange.path in self._open:
            return self.route(exchange)
        resource = bearer.resource
        if resource is not None and resource.serves(exchange.path):
            return _describe(exchange, resource)
        refusal = bearer.check(exchange)
        if inspect.isawaitable(refusal):
            answer_later(self._tasks, exchange, self._verify(exchange, refusal, bearer), "tailrace-verify")
            return None
        return self._admit(exchange, refusal, bearer)

    async def _verify(self, exchange: Exchange, refusal: Awaitable[Refusal | None], bearer: Bearer) -> None:
        self._admit(exchange, await refusal, bearer)

    def _admit(self, exchange: Exchange, refusal: Refusal | None, bearer: Bearer) -> None:
        if exchange.gone:  # while the token was verified
            return None
        if refusal is None:
            return self.route(exchange)
        error = ProtocolError(INVALID_REQUEST, refusal.text)
        headers = [*bearer.challenge(exchange, refusal), *self._rpc.cors(exchange)]
        return refuse(exchange, refusal.status, error, headers=headers)

    def route(self, exchange: Exchange) -> None:
        """Hand over a request whose sender is known."""
        handler = self.routes.get(exchange.path)
        try:
            if handler is not None:
                return handler(exchange)
            if self.take_in is not None and self.take_in(exchange):
                return None
            if not self._rpc.handle(exchange):
                self.refuse(exchange, 404, _NOTHING.format(exchange.prefix))
            return None
        except Exception:
            logger.exception("a request could not be handled path=%s", exchange.path[:256])
            if not exchange.replied:
                self.refuse(exchange, 500, "internal error")
            return None

    def refuse(self, exchange: Exchange, status: int, message: str) -> None:
        """Reply with an error that concerns no protocol."""
        if not self._rpc.refuse(exchange, status, message):
            refuse(exchange, status, ProtocolError(INVALID_REQUEST, message))


def _describe(exchange: Exchange, resource: ResourceServer) -> None:
    """The metadata that tells clients where to get a token (RFC 9728)."""
    if exchange.method not in READING:
        return not_allowed(exchange, b"GET, HEAD")
    return exchange.respond(200, _METADATA, resource.metadata(exchange))
