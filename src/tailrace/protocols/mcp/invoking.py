"""The run of a user's function: inside of the middleware, with what is provided, in a thread if it is a plain one."""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from tailrace.errors import DeadlineExceeded, ToolError
from tailrace.schema import encode_value
from tailrace.service.middleware import Invocation, around
from tailrace.service.providers import provide
from tailrace.wire.content import BLOCKS, Text

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tailrace.protocols.mcp.call import McpCall
    from tailrace.service import Completion, Definition

__all__ = ["invoke"]


async def invoke(call: McpCall, target: Definition | Completion, arguments: dict[str, Any]) -> Any:
    """Run the target's function with what is provided, inside of the middleware."""
    if target.timeout is not None:
        call.set_timeout(target.timeout, DeadlineExceeded(f"{target.name} did not end within {target.timeout:g} s"))
    layers = (*call.asking.middleware, *target.middleware)
    if not layers:
        return await _provide(call, target, arguments)

    def handle(invocation: Invocation) -> Awaitable[Any]:
        return _provide(call, target, dict(invocation.arguments))

    invocation = Invocation(call.METHOD, call.target.name, arguments)
    return await around(layers, call.context, invocation, handle)


async def _provide(call: McpCall, target: Definition | Completion, arguments: dict[str, Any]) -> Any:
    if not target.provided:
        return await _run_function(call, target, arguments)
    async with AsyncExitStack() as stack:
        arguments.update(await provide(stack, target.provided, call.context, call.in_thread))
        return await _run_function(call, target, arguments)


async def _run_function(call: McpCall, target: Definition | Completion, arguments: dict[str, Any]) -> Any:
    """Whatever kind it is of; a plain one in a thread."""
    if target.context_param is not None:
        arguments[target.context_param] = call.context
    if target.is_async:
        return await target.fn(**arguments)
    if target.is_generator:
        return await _collect(call, target.fn(**arguments))
    value = await call.in_thread(partial(target.fn, **arguments))
    return await value if inspect.isawaitable(value) else value


async def _collect(call: McpCall, items: Any) -> list[Any]:
    """An async generator's items are progress; its collected list is the answer."""
    collected: list[Any] = []
    size = 0
    try:
        async for item in items:
            collected.append(item)
            text = encode_value(item)
            size += len(text)
            if size > call.max_result:
                raise ToolError(f"the result is over {call.max_result} bytes")
            call.progress(len(collected), None, _message(item, text))
            await call.room()
    finally:
        await items.aclose()
    return collected


def _message(item: Any, encoded: bytes) -> str | None:
    """What is said of an item that a generator yields; of a picture nothing, its bytes are in the answer."""
    if isinstance(item, BLOCKS):
        return item.text if isinstance(item, Text) else None
    return item if isinstance(item, str) else encoded.decode()
