"""A modern server that has a question answers with it: the client answers that, and asks again (2026-07-28, MRTR).

The state that the server gives along goes back as it is, with that one request and no other; nobody looks into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Raw, Struct, UnsetType

from tailrace.clients.mcp.results import decode
from tailrace.errors import ProtocolError
from tailrace.wire.jsonrpc import INTERNAL_ERROR

if TYPE_CHECKING:
    from tailrace.clients.mcp.conversation import Conversation

__all__ = ["MAX_ROUNDS", "ask_in_rounds"]

MAX_ROUNDS = 64  # requests that one call may take
_PAUSE = 0.25  # seconds until a server is asked again that wants nothing to be answered


class _Result(Struct, rename="camel"):
    result_type: str = "complete"
    input_requests: dict[str, Any] = {}
    request_state: str | UnsetType = UNSET


async def ask_in_rounds(
    ask: Callable[[Mapping[str, Any]], Awaitable[Raw]], conversation: Conversation, method: str, until: float
) -> tuple[str, Raw]:
    """Ask until the server has no question any more; the type of the result, and the result.

    Args:
        ask: Makes the request, with these further parameters.
        conversation: Knows who answers.
        method: Of the request.
        until: Loop time until when the questions are to be answered.

    Raises:
        TimeoutError: They were not.
        ProtocolError: The server asks for what this client does not give, or does not stop asking.
        Exception: What a callback raised.
    """
    clock = asyncio.get_running_loop().time
    more: dict[str, Any] = {}
    for _ in range(MAX_ROUNDS):
        raw = await ask(more)
        result = decode(method, raw, _Result)
        if result.result_type != "input_required":
            return result.result_type, raw
        if not result.input_requests and result.request_state is UNSET:
            raise ProtocolError(INTERNAL_ERROR, f"the server's answer to {method} asks for input, and for none")
        more = {}
        if result.input_requests:
            more["inputResponses"] = await conversation.respond(result.input_requests, until - clock())
        else:
            await asyncio.sleep(_PAUSE)
        if result.request_state is not UNSET:
            more["requestState"] = result.request_state
    raise ProtocolError(INTERNAL_ERROR, f"the server has asked {MAX_ROUNDS} times, and still has a question")
