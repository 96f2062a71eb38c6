"""What stands around the calls over MCP: an async function that calls the next one, and may look and change.

Interceptors do the same over RPC (`interceptors`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.core.context import Context

__all__ = ["Invocation", "Middleware", "around"]


class Invocation(Struct, frozen=True):
    """What a client has asked for.

    Attributes:
        method: ``tools/call``, ``resources/read``, ``prompts/get``, ``completion/complete``, or one of the lists
            (``tools/list``, ``resources/list``, ``resources/templates/list``, ``prompts/list``).
        name: Of the tool or the prompt, the resource's URI, or what is completed; empty for a list.
        arguments: What the handler will be given, decoded and checked; empty for a list.
    """

    method: str
    name: str
    arguments: dict[str, Any]


# ``async def middleware(ctx, invocation, next): return await next(invocation)``. The result is what the handler
# returns; of a list, what is listed, as dictionaries.
Middleware: TypeAlias = Callable[["Context", Invocation, Callable[[Invocation], Awaitable[Any]]], Awaitable[Any]]


async def around(
    layers: Sequence[Middleware],
    context: Context,
    invocation: Invocation,
    innermost: Callable[[Invocation], Awaitable[Any]],
) -> Any:
    """Let the layers, outermost first, and then `innermost` have the invocation."""
    step = innermost
    for layer in reversed(layers):
        step = partial(_call, layer, context, step)
    return await step(invocation)


def _call(
    layer: Middleware, context: Context, next: Callable[[Invocation], Awaitable[Any]], invocation: Invocation
) -> Awaitable[Any]:
    return layer(context, invocation, next)
