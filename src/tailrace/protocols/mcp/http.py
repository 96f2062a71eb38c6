"""What the HTTP forms of MCP share: error bodies, `Accept`, the body's parse."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tailrace.core.access import InsufficientScope
from tailrace.errors import ProtocolError
from tailrace.protocols.mcp.failures import encode_failure
from tailrace.protocols.mcp.reply import JSON
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Batch,
    Malformed,
    Message,
    RequestId,
    encode_error,
    parse,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from tailrace.core.exchange import Exchange, Headers
    from tailrace.core.tasks import Tasks

__all__ = ["accepts", "answer_later", "is_json", "not_allowed", "parse_body", "refuse"]

_DRAINING = {"limit": "draining"}  # what a refusal says of a server that shuts down


def refuse(
    exchange: Exchange, status: int, error: ProtocolError, id: RequestId | None = None, *, headers: Headers = ()
) -> None:
    """Reply with an HTTP error that carries a JSON-RPC error, so that every kind of client learns why."""
    if exchange.put_off is not None and error.data == _DRAINING and exchange.put_off(exchange):
        return
    headers = [*JSON, *headers]
    if isinstance(error, InsufficientScope) and exchange.challenge is not None:
        status = 403
        headers.append((b"www-authenticate", exchange.challenge(exchange, error.scopes)))
    if status == 503:
        headers.append((b"retry-after", b"1"))
    exchange.respond(status, headers, encode_failure(id, error))


def answer_later(tasks: Tasks, exchange: Exchange, work: Coroutine[Any, Any, None], name: str) -> None:
    """Start the work that will reply; should it be cancelled (the server ends) or fail, this replies in its stead."""

    def ended(task: asyncio.Task[None]) -> None:
        if exchange.replied or exchange.gone:
            return
        if task.cancelled():
            refuse(exchange, 503, ProtocolError(INTERNAL_ERROR, "the server is shutting down; try again in a moment"))
        elif task.exception() is not None:
            refuse(exchange, 500, ProtocolError(INTERNAL_ERROR, "internal error"))

    tasks.start(work, name=name).add_done_callback(ended)


def not_allowed(exchange: Exchange, allow: bytes) -> None:
    """405: the path is right, the method is not."""
    body = encode_error(None, INVALID_REQUEST, f"method {exchange.method[:32]} is not allowed here")
    exchange.respond(405, [*JSON, (b"allow", allow)], body)


def accepts(exchange: Exchange, *kinds: str) -> bool:
    """Does `Accept` admit all of these media types? Absent, it admits anything (RFC 9110, 12.5.1)."""
    value = exchange.header(b"accept")
    if value is None:
        return True
    if value in _BOTH:
        return True
    lines = exchange.header_values(b"accept")  # several are one list: RFC 9110, 5.3
    parts = [part.partition(";") for line in lines for part in line.split(",")]
    given = {kind.strip().lower() for kind, _, parameters in parts if not _UNWANTED.search(parameters)}
    return all(kind in given or "*/*" in given or kind.partition("/")[0] + "/*" in given for kind in kinds)


_BOTH = frozenset({"application/json, text/event-stream", "text/event-stream, application/json"})
_UNWANTED = re.compile(r"(?:^|;)\s*q\s*=\s*0(?:\.0*)?\s*(?:;|$)", re.IGNORECASE)  # RFC 9110, 12.4.2


def is_json(exchange: Exchange) -> bool:
    """Does the head say that the body is JSON? If not, it was refused, which this then did (415)."""
    kind = exchange.header(b"content-type")
    if kind != "application/json" and (kind or "").partition(";")[0].strip().lower() != "application/json":
        refuse(exchange, 415, ProtocolError(INVALID_REQUEST, "the content-type must be application/json"))
        return False
    coding = exchange.header(b"content-encoding")
    if coding is not None and coding.lower() != "identity":
        refuse(exchange, 415, ProtocolError(INVALID_REQUEST, "the body must come without a content-encoding"))
        return False
    return True


def parse_body(exchange: Exchange, max_batch: int) -> Message | Batch | None:
    """The POST's body; None if it was refused, which this then did (400)."""
    message = parse(exchange.body, max_batch=max_batch)
    if isinstance(message, Malformed):
        refuse(exchange, 400, ProtocolError(message.code, message.message), message.id)
        return None
    return message


def status_of(error: ProtocolError) -> int:
    """The HTTP status of a refusal in a legacy session: only what is not about the method itself is one."""
    return 503 if error.code == mcp.LIMIT_REACHED else 200
