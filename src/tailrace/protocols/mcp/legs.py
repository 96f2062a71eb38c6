"""One leg of a call that asks its client on the way (2026-07-28, multi round-trip requests).

There is no way to send a request to a modern client. A handler that asks, and has no answer yet, is ended; the reply
carries its questions and a sealed state; the client comes back with the answers, and the handler is run again from its
beginning. A question is told by its digest, and the same question by how often it was asked before: so each gets its
own answer, in whatever order concurrent parts of a handler ask, and one that has changed meanwhile is asked again.
Nothing is kept here between two legs, so any server with the same secrets can run the next one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tailrace.errors import CallCancelled, LimitError, ProtocolError, RequestRefused
from tailrace.protocols.mcp.request_state import Answer, RequestState, binding_of, digest_of, open_state, seal_state
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import INVALID_PARAMS

if TYPE_CHECKING:
    from tailrace.protocols.mcp.asking_call import AskingCall
    from tailrace.protocols.mcp.endpoint import Endpoint

__all__ = ["InputRequired", "Leg", "Moved", "Question", "leg_of", "named", "numbered"]

# Turns of the loop after the first question: what a handler asks at the same time (`asyncio.gather`, a task group)
# goes out in one reply. What takes longer comes in a leg of its own.
_TURNS = 8


class Question(NamedTuple):
    """What a handler asks.

    Attributes:
        method: ``elicitation/create``, ``sampling/createMessage`` or ``roots/list``.
        params: As the wire has them.
        read: Makes of the client's result what the handler gets; raises `RequestRefused` for what does not fit.
        key: Its name in `inputRequests`, where its handler gave it one.
    """

    method: str
    params: Mapping[str, Any]
    read: Callable[[bytes | Raw], Any]
    key: str | None = None

    @property
    def request(self) -> dict[str, Any]:
        """As it stands in `inputRequests`."""
        return {"method": self.method, "params": self.params}


class _Asked(NamedTuple):
    """A question that waits for its leg's end."""

    question: Question
    digest: bytes
    moved: asyncio.Future[None]  # never has a result: the leg ends, or the question moves


class Moved(Exception):
    """The call is a task by now: the question is to be put there."""


class InputRequired(CallCancelled):
    """The leg has ended: its client is asked, and comes back.

    Attributes:
        requests: What it is asked, by key.
        state: What it brings back.
    """

    def __init__(self, requests: Mapping[str, Any], state: str) -> None:
        super().__init__("the client is asked first: the call runs again with its answers")
        self.requests = requests
        self.state = state

    def result(self, dialect: Any) -> bytes:
        """The encoded result."""
        return mcp.encode(
            {
                "resultType": "input_required",
                "inputRequests": self.requests,
                "requestState": self.state,
                "_meta": dialect.server_info,
            }
        )


class Leg:
    """What one request brings of answers, and what its handler asks.

    Args:
        endpoint: For the limits, the seals and the clock.
        principal: Whose request it is.
        binding: Of the request.
        responses: What the client has answered, by the questions' keys.
        state: What it was given to come back with.

    Attributes:
        identity: Names the call over all its legs.

    Raises:
        ProtocolError: -32602 for a state that was tampered with, has expired, or belongs to another request or
            principal.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        principal: str,
        binding: bytes,
        responses: dict[str, Raw] | UnsetType = UNSET,
        state: str | UnsetType = UNSET,
    ) -> None:
        self.endpoint = endpoint
        self.principal = principal
        self.binding = binding
        self._responses: dict[str, Raw] = {} if responses is UNSET else responses
        self._state: RequestState | None = None if state is UNSET else self._opened(state)
        self.identity = secrets.token_urlsafe(16) if self._state is None else self._state.identity
        self._answers: dict[str, Answer] = {} if self._state is None else dict(self._state.answers)
        self._times: Counter[str] = Counter()
        self._asked: dict[str, _Asked] = {}
        self._ending = False

    @property
    def first(self) -> bool:
        """There was none before."""
        return self._state is None

    # --- what a handler asks ---

    async def ask(self, call: AskingCall, question: Question) -> Any:
        """The answer, if the client has given it; else the leg ends here.

        Raises:
            LimitError: ``asked``: too many questions at once. ``rounds``: there were too many legs already.
        """
        digest = digest_of(question.method, question.params)
        base = question.key or named(question.method, digest)
        key = numbered(base, self._times)  # unique within the call; the same in each leg that asks the same
        answer = self._answer(key, digest)
        if answer is None:
            try:
                return await self._ask_client(call, key, question, digest)
            except Moved:
                self._times[base] -= 1  # it was not asked here
                raise
        try:
            return question.read(answer)
        except RequestRefused as error:
            call.cancel(ProtocolError(INVALID_PARAMS, f"inputResponses[{key!r}]: {error}"))
            return await _until_cancelled()

    async def _ask_client(self, call: AskingCall, key: str, question: Question, digest: bytes) -> Any:
        settings = self.endpoint.settings
        if len(self._asked) >= settings.max_asked:
            raise LimitError("asked", f"{settings.max_asked} requests to this client wait for an answer already")
        if self._state is not None and self._state.leg >= settings.max_rounds:
            raise LimitError("rounds", f"the call has asked {settings.max_rounds} times, and still has a question")
        pending = self._asked[key] = _Asked(question, digest, asyncio.get_running_loop().create_future())
        if not self._ending:
            self._ending = True
            call.tasks.start(self._end(call), name="tailrace-input-required")
        try:
            return await pending.moved
        finally:
            self._asked.pop(key, None)  # its handler does not want to know any more

    async def _end(self, call: AskingCall) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._ending = False
        if not self._asked or call.over:
            return
        if call.can_pause:
            return call.pause(self._conclusion(), self.endpoint.settings.grace)
        for asked in list(self._asked.values()):  # it has become a task meanwhile, which is asked in another way
            if not asked.moved.done():
                asked.moved.set_exception(Moved())

    def _conclusion(self) -> Exception:
        """With what the handler is ended."""
        settings, now, before = self.endpoint.settings, self.endpoint.wall(), self._state
        born = now if before is None else before.born
        state = RequestState(
            self.identity,
            self.binding,
            born,
            min(now + settings.state_time, born + settings.dialogue_time),
            1 if before is None else before.leg + 1,
            self._answers,
            {key: asked.digest for key, asked in self._asked.items()},
        )
        sealed = seal_state(self.endpoint.seals, state, self.principal)
        if len(sealed) > settings.max_state:
            text = f"what the client has answered so far makes a requestState of over {settings.max_state} bytes"
            return ProtocolError(mcp.LIMIT_REACHED, text, {"limit": "request_state"})
        return InputRequired({key: asked.question.request for key, asked in self._asked.items()}, sealed)

    # --- what the client has said ---

    def _answer(self, key: str, digest: bytes) -> bytes | None:
        known = self._answers.get(key)
        if known is not None and known.question == digest:
            return known.result
        self._answers.pop(key, None)  # of another question
        asked = None if self._state is None else self._state.asked.get(key)
        if key not in self._responses or (asked is not None and asked != digest):
            return None
        result = bytes(self._responses[key])
        self._answers[key] = Answer(digest, result)
        return result

    def _opened(self, text: str) -> RequestState:
        try:
            state = open_state(self.endpoint.seals, text, self.principal)
        except (ValueError, msgspec.MsgspecError):
            raise ProtocolError(INVALID_PARAMS, "the requestState is not of this server, or not yours") from None
        if state.binding != self.binding:
            raise ProtocolError(INVALID_PARAMS, "the requestState belongs to another request")
        if state.expires <= self.endpoint.wall():
            raise ProtocolError(INVALID_PARAMS, "the requestState has expired: begin anew")
        for key, raw in self._responses.items():
            if key in state.asked:
                state.answers[key] = Answer(state.asked[key], bytes(raw))
        return state


def leg_of(call: AskingCall, params: mcp.CallParams | mcp.PromptParams | mcp.ReadParams | None = None) -> Leg:
    """The leg that a call is.

    Args:
        call: Of the modern era.
        params: What came with it, if that says something of a leg before.

    Raises:
        ProtocolError: As `Leg`; the arguments cannot be compared with others.
    """
    try:
        binding = binding_of(call.METHOD, call.target.name, call.arguments)
    except (msgspec.MsgspecError, RecursionError):
        raise ProtocolError(INVALID_PARAMS, "the arguments cannot be compared: nested too deeply") from None
    if params is None:
        return Leg(call.asking.endpoint, call.principal, binding)
    return Leg(call.asking.endpoint, call.principal, binding, params.input_responses, params.request_state)


def named(method: str, digest: bytes) -> str:
    """The key of a question to which its handler gave none."""
    return f"{method.partition('/')[0]}-{digest.hex()[:12]}"


def numbered(base: str, times: Counter[str]) -> str:
    """The key of one more question with this name; `times` counts them."""
    times[base] += 1
    return base if times[base] == 1 else f"{base}-{times[base]}"


async def _until_cancelled() -> Any:
    """Its call is being ended."""
    await asyncio.get_running_loop().create_future()
