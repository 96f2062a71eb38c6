"""A call that a modern server made a task of (SEP-2663): asked for until it has ended, as if it were a plain call."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, Struct

from tailrace.clients.mcp.again import may_pass
from tailrace.clients.mcp.links.http import HttpRefused
from tailrace.clients.mcp.results import decode
from tailrace.errors import CallCancelled, ProtocolError, TransportError
from tailrace.wire.jsonrpc import INTERNAL_ERROR
from tailrace.wire.tasks import EXTENSION, TaskState

if TYPE_CHECKING:
    from tailrace.clients.mcp.conversation import Conversation

__all__ = ["CAPABILITIES", "follow", "pause_of"]

CAPABILITIES: dict[str, Any] = {"extensions": {EXTENSION: {}}}
_POLL_LIMIT = 30.0  # seconds that one look at a task may take
_FASTEST, _USUAL, _SLOWEST = 0.02, 1.0, 60.0  # seconds between two looks, whatever the server asks for


class _Fault(Struct):
    code: int
    message: str
    data: Any = None


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
    answered: set[str] = set()  # a key stands for one question all the task's life
    try:
        async with asyncio.timeout(None if timeout == math.inf else timeout):
            while True:
                await asyncio.sleep(pause)
                state = await _look(conversation, id, reconnect)
                if state.status == "input_required":
                    await _respond(conversation, state, answered, reconnect)
                elif state.status != "working":
                    return _outcome(state)
                pause = pause_of(state)
    except TimeoutError:
        conversation.cancel_task(id)
        raise TimeoutError(f"the task did not end within {timeout:g} s; wait longer by timeout=") from None
    except (asyncio.CancelledError, _NoAnswer) as error:
        conversation.cancel_task(id)
        if isinstance(error, _NoAnswer):
            raise error.reason from None
        raise


def pause_of(state: TaskState) -> float:
    """Seconds until the next look, as the server asks for."""
    wanted = state.poll_interval_ms
    return _USUAL if wanted is UNSET else min(max(wanted / 1000, _FASTEST), _SLOWEST)


async def _look(conversation: Conversation, id: str, reconnect: float) -> TaskState:
    return decode("tasks/get", await _insist(conversation, "tasks/get", {"taskId": id}, reconnect), TaskState)


async def _insist(conversation: Conversation, method: str, params: dict[str, Any], reconnect: float) -> Raw:
    """One request of a task, however often it takes to get through: twice does no more than once."""
    clock = asyncio.get_running_loop().time
    since = clock()
    while True:
        try:
            return await conversation.request(method, params, timeout=_POLL_LIMIT)
        except (TransportError, ProtocolError, TimeoutError) as error:
            if isinstance(error, HttpRefused) and not error.may_pass:
                raise
            if isinstance(error, ProtocolError) and not may_pass(error):
                raise
            if conversation.calls.error is not None or clock() - since >= reconnect:
                text = f"the server does not say how task {params['taskId']} stands: {error}"
                raise TransportError(text) from error
        await asyncio.sleep(_USUAL)


class _NoAnswer(Exception):
    """The task waits for input that it will not get."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


async def _respond(conversation: Conversation, state: TaskState, answered: set[str], reconnect: float) -> None:
    """Answer what the task asks, each question once."""
    asked = state.input_requests
    if asked is UNSET or not asked:
        raise _NoAnswer(ProtocolError(INTERNAL_ERROR, "the task asks for input, and does not say for which"))
    new = {key: question for key, question in asked.items() if key not in answered}
    if not new:
        return
    try:
        responses = await conversation.respond(new, math.inf)  # the task's own limit is around it
    except Exception as error:  # the callback's own, or there is none
        raise _NoAnswer(error) from error
    await _insist(conversation, "tasks/update", {"taskId": state.task_id, "inputResponses": responses}, reconnect)
    answered.update(responses)


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
    raise ProtocolError(INTERNAL_ERROR, f"the task's state is not valid: {state.status[:64]!r} without an outcome")
