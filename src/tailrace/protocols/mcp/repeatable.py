"""Which requests may be handled twice, by two processes of a service, and have done no more than once.

Asked of a request whose worker was lost while it had it: nobody knows whether it had begun. Of the rest that is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from tailrace.errors import ProtocolError
from tailrace.protocols.mcp.keys import idempotency_key
from tailrace.protocols.mcp.methods import LISTS
from tailrace.wire import jsonrpc, mcp

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.service import Service

__all__ = ["is_repeatable"]

_READS = frozenset({"ping", "server/discover", "tasks/get", *LISTS})


def is_repeatable(service: Service, exchange: Exchange) -> bool:
    """Whether a request only reads, only notifies, or is a call with a key of a tool that runs once.

    No POST is over HTTP+SSE: its answer comes on the session's stream, which may have it already.
    """
    if exchange.method == "GET":
        return True
    if exchange.method != "POST" or not exchange.path.startswith("/mcp") or exchange.source is not None:
        return False
    message = jsonrpc.parse(exchange.body)
    if isinstance(message, jsonrpc.Notification):
        return True
    if not isinstance(message, jsonrpc.Request):
        return False
    return message.method in _READS or (message.method == "tools/call" and _has_key(service, exchange, message))


def _has_key(service: Service, exchange: Exchange, request: jsonrpc.Request) -> bool:
    try:
        params = mcp.decode_params(request.method, request.params)
        tool = service.tools.get(params.name)
        if tool is None or not tool.once:
            return False
        arguments: Any = msgspec.json.decode(params.arguments) if isinstance(params.arguments, Raw) else {}
        return idempotency_key(tool, arguments, params.meta, exchange) is not None
    except (ProtocolError, msgspec.MsgspecError, RecursionError):
        return False  # it is refused, whoever handles it
