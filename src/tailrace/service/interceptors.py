"""What stands around every call over RPC: an async function that calls the next one, and may look and change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from tailrace.core.context import Context

__all__ = ["Interceptor", "Next"]

# Takes the request, gives the response. Of a method to which the client streams, the request is the asynchronous
# iterator of its messages; of one that streams, the response is the asynchronous iterator of its.
Next: TypeAlias = Callable[[Any], Awaitable[Any]]

# ``async def interceptor(ctx, request, next): return await next(request)``
Interceptor: TypeAlias = Callable[[Context, Any, Next], Awaitable[Any]]
