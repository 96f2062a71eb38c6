"""A call that a modern server made a task of (SEP-2663): asked for until it has ended, as if it were a plain call."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, Struct

from tailrace.clients.mcp.links.http import HttpRefused
from tailrace.clients.mcp.results import decode
from tailrace.errors import CallCancelled, ProtocolError, TransportError
from tailrace.wire.jsonrpc import INTERNAL_ERROR
from tailrace.wire.tasks import EXTENSION, TaskState

if TYPE_CHECKING:
    from tailrace.clients.mcp.conversation import Conversation

__all__ = ["CAPABILITIES", "follow", "pause_of", "task_of"]

CAPABILITIES: dict[str, Any] = {"extensions": {EXTENSION: {}}}
_POLL_LIMIT = 30.0  # seconds that one look at a task may take
_FASTEST, _USUAL, _SLOWEST = 0.02, 1.0, 60.0  # seconds between two looks, whatever the server asks for


class _ResultType(Struct, rename="camel"):
    result_type: str = "complete"


class _Fault(Struct):
    code: int
    message: str
    data: Any = None


def task_of(raw: Raw) -> TaskState | None:
    """The task that a result of `tools/call` tells of; None where it is the result itself.

    Raises:
        ProtocolError: It is neither.
    """
    if decode("tools/call", raw, _ResultType).result_type != "task":
        return None
    return decode("tools/call", raw, TaskState)


async def follow(conversation: Conversation, id: str, pause: float, *, timeout: float, reconnect: float) -> Raw:
    """Look at a task until it has ended; its result. Whoever gives up has the server cancel it.

    Args:
        pause: Seconds until the first look.
        timeout: Seconds for all of it; `math.inf`: no limit.
        reconnect: Seconds for which a server that answers nothing is asked again: a task survives its restart.

    Raises:
        ProtocolError: It failed, or asks for what this client does not give; there is no such task.
        CallCancelled: It was cancelled.
        TransportError: The server is away.
        TimeoutError: The limit passed.
    """
    try:
        async with asyncio.timeout(None if timeout == math.inf else timeout):
            while True:
                await asyncio.sleep(pause)
                state = await _look(conversation, id, reconnect)
                if state.status != "working":
                    return _outcome(state)
                pause = pause_of(state)
    except TimeoutError:
        conversation.cancel_task(id)
        raise TimeoutError(f"the task did not end within {timeout:g} s; wait longer by timeout=") from None
    except (asyncio.CancelledError, _Asks):
        conversation.cancel_task(id)
        raise


def pause_of(state: TaskState) -> float:
    """Seconds until the next look, as the server asks for."""
    wanted = state.poll_interval_ms
    return _USUAL if wanted is UNSET else min(max(wanted / 1000, _FASTEST), _SLOWEST)


async def _look(conversation: Conversation, id: str, reconnect: float) -> TaskState:
    """One look, however often it takes to get through: it changes nothing, so it can be repeated."""
    clock = asyncio.get_running_loop().time
    since = clock()
    while True:
        try:
            raw = await conversation.request("tasks/get", {"taskId": id}, timeout=_POLL_LIMIT)
            return decode("tasks/get", raw, TaskState)
        except HttpRefused:
            raise
        except (TransportError, TimeoutError) as error:
            if conversation.calls.error is not None or clock() - since >= reconnect:
                raise TransportError(f"the server does not say how task {id} stands: {error}") from error
        await asyncio.sleep(_USUAL)


class _Asks(ProtocolError):
    """The task waits for input."""


def _outcome(state: TaskState) -> Raw:
    if state.status == "completed" and state.result is not UNSET:
        return state.result
    if state.status == "failed" and state.error is not UNSET:
        try:
            fault = msgspec.json.decode(state.error, type=_Fault)
        except msgspec.MsgspecError as error:
            raise ProtocolError(INTERNAL_ERROR, f"the task's error is not valid: {error}") from None
        raise ProtocolError(fault.code, fault.message, fault.data)
    if state.status == "cancelled":
        raise CallCancelled("the task was cancelled" if state.status_message is UNSET else state.status_message)
    if state.status == "input_required":
        raise _Asks(INTERNAL_ERROR, "the task asks for input, which this client does not give")
    raise ProtocolError(INTERNAL_ERROR, f"the task's state is not valid: {state.status[:64]!r} without an outcome")
