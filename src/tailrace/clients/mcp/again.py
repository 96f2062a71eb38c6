"""Asking again under a new request id, where that is safe: a call with a key, of a tool that says it runs once.

Whether the first request arrived, nobody knows when its connection breaks; the key makes both one call.
How long an outage is borne is the links' `Patience`; the key itself is only passed through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from tailrace.clients.mcp.links.http import HttpRefused, Patience, Place, Unreachable
from tailrace.errors import ProtocolError, TransportError
from tailrace.wire.jsonrpc import INTERNAL_ERROR
from tailrace.wire.mcp import LIMIT_REACHED

if TYPE_CHECKING:
    from msgspec import Raw

__all__ = ["ask_until_answered", "may_pass"]


async def ask_until_answered(
    ask: Callable[[], Awaitable[Raw]],
    runs_once: Callable[[], Awaitable[bool]],
    *,
    seconds: float,
    wanted: Callable[[], bool] = lambda: True,
) -> Raw:
    """Ask, and ask again while the connection breaks or the server restarts.

    Args:
        ask: One request; each has an id of its own.
        runs_once: Whether the server says so of the tool; asked once, and only after a request was lost.
        seconds: How long it is tried again, from the first loss on; 0: never.
        wanted: Whether an answer can still be received.

    Raises:
        TransportError: It was lost, and asking again is not safe, or was in vain.
        ProtocolError: The server refuses.
    """
    patience, place = Patience(seconds), Place()
    safe = False
    while True:
        try:
            return await ask()
        except (TransportError, ProtocolError) as error:
            lost = error
        while True:
            if not wanted() or not may_pass(lost) or not await patience.wait(place):
                raise lost
            try:
                safe = safe or await runs_once()
            except (TransportError, ProtocolError) as error:
                if not may_pass(error):
                    raise lost from error
                continue  # still away
            break
        if not safe:
            raise lost


def may_pass(error: TransportError | ProtocolError) -> bool:
    """Whether the same request may be answered a little later."""
    if isinstance(error, ProtocolError):
        given: Any = error.data
        data = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        if error.code == LIMIT_REACHED:
            return data.get("limit") == "draining"
        return error.code == INTERNAL_ERROR and data.get("retry") is True  # the store fails
    if isinstance(error, HttpRefused):
        return error.may_pass
    return not isinstance(error, Unreachable)  # the link was patient already
