"""A handler asks the client of its call: elicitation, sampling, roots.

What is asked, and what counts as an answer, is the same in both eras; how a question gets there is not. In a legacy
session the request is an event of the call's own stream, so it waits for a client that was cut off as an answer does,
and a resume brings it again while nobody has answered it. Its id cannot be guessed; an answer counts that comes from
the same session, once. It ends with its call: what is not answered by then is cancelled. A request of an earlier
process life is forgotten at the restart: a late answer to it is taken and dropped, and a call that runs again asks
again. In the modern era the call ends with its questions, and runs again: see `legs`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

from tailrace.core.asked import ElicitResult, Root, SampleResult
from tailrace.core.ports import Kind
from tailrace.core.session import ANSWER_ROOM
from tailrace.core.steps import Steps
from tailrace.errors import CallCancelled, CapabilityError, LimitError, RequestRefused
from tailrace.protocols.mcp.legs import Question
from tailrace.protocols.mcp.reply import ExchangeReply, SessionReply
from tailrace.schema.forms import Form
from tailrace.wire import mcp
from tailrace.wire.content import BLOCKS
from tailrace.wire.jsonrpc import (
    INVALID_PARAMS,
    ErrorResponse,
    Response,
    encode_notification,
    encode_request,
)

if TYPE_CHECKING:
    from tailrace.core.session import Session
    from tailrace.protocols.mcp.asking_call import AskingCall
    from tailrace.protocols.mcp.endpoint import Endpoint

__all__ = ["Asking", "cancelled_note"]

T = TypeVar("T")


class _Elicited(Struct):
    action: Literal["accept", "decline", "cancel"]
    content: dict[str, Any] | None = None


class _Sampled(Struct, rename="camel"):
    role: str
    content: dict[str, Any] | list[dict[str, Any]]
    model: str
    stop_reason: str | None = None


class _Root(Struct):
    uri: str
    name: str | None = None


class _Roots(Struct):
    roots: list[_Root]


class _Pending(NamedTuple):
    """A request that waits for its answer."""

    call: AskingCall
    session: Session
    answer: asyncio.Future[Raw]


class Asking:
    """The requests of one endpoint's handlers that wait for answers.

    Attributes:
        steps: What of them is not to run again.
        middleware: What stands around them.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        settings, journals = endpoint.settings, endpoint.journals
        self.middleware = endpoint.service.middleware
        self.steps = Steps(
            journals.store,
            journals.write,
            endpoint.tasks,
            ttl=settings.dialogue_time,
            max_result=settings.max_step,
            max_entries=settings.max_steps,
        )
        self._pending: dict[str, _Pending] = {}
        self._counts: dict[Session, int] = {}

    def __len__(self) -> int:
        return len(self._pending)

    # --- what handlers call ---

    async def elicit(
        self, call: AskingCall, message: str, schema: Any, timeout: float | None, key: str | None
    ) -> ElicitResult:
        """See `Context.elicit`."""
        capability = _capability(call, "elicitation")
        if capability and "form" not in capability:
            raise CapabilityError(
                "the client of this call shows no forms (it declared elicitation by URL only)",
                {"elicitation": {"form": {}}},
            )
        form = Form(schema)

        def read(raw: bytes | Raw) -> ElicitResult:
            result = _decoded("elicitation/create", raw, _Elicited)
            if result.action != "accept":
                return ElicitResult(result.action)
            try:
                return ElicitResult("accept", form.read(result.content or {}))
            except (ValueError, RecursionError) as error:
                text = f"the client's answer does not fit the form: {error}"
                raise RequestRefused(INVALID_PARAMS, text) from None

        params = {"message": message, "requestedSchema": form.schema}
        return await call.ask(Question("elicitation/create", params, read, key), timeout)

    async def elicit_url(
        self, call: AskingCall, message: str, url: str, timeout: float | None, key: str | None
    ) -> ElicitResult:
        """See `Context.elicit_url`."""
        if "url" not in _capability(call, "elicitation", {"url": {}}):
            raise CapabilityError(
                "the client of this call opens no pages (it declared no elicitation by URL)",
                {"elicitation": {"url": {}}},
            )
        params = {"mode": "url", "message": message, "url": url}
        if not call.asks_modern:  # 2025-11-25 tells the pages apart by it, and has no other use for it here
            params["elicitationId"] = secrets.token_urlsafe(16)
        return await call.ask(Question("elicitation/create", params, _read_action, key), timeout)

    async def sample(
        self, call: AskingCall, params: Mapping[str, Any], timeout: float | None, key: str | None
    ) -> SampleResult:
        """See `Context.sample`."""
        capability = _capability(call, "sampling")
        whole = {name: value for name, value in params.items() if value is not None}
        if "tools" in whole and "tools" not in capability:
            raise CapabilityError(
                "the client of this call samples without tools (it declared no sampling.tools)",
                {"sampling": {"tools": {}}},
            )
        whole["messages"] = _messages(params["messages"])
        return await call.ask(Question("sampling/createMessage", whole, _read_sampled, key), timeout)

    async def list_roots(self, call: AskingCall, timeout: float | None, key: str | None) -> list[Root]:
        """See `Context.list_roots`."""
        _capability(call, "roots")
        return await call.ask(Question("roots/list", {}, _read_roots, key), timeout)

    # --- what transports tell ---

    def answered(self, message: Response | ErrorResponse, session: Session | None) -> None:
        """A response has come. One that nobody waits for, or that another session was asked for, is dropped."""
        pending = self._pending.get(message.id) if isinstance(message.id, str) else None
        if pending is None or pending.session is not session or pending.answer.done():
            return
        if isinstance(message, Response):
            pending.answer.set_result(message.result)
        else:
            data = msgspec.json.decode(message.data) if message.data else None
            pending.answer.set_exception(RequestRefused(message.code, message.message[:1000], data))

    def undeliverable(self, call: AskingCall) -> None:
        """The call has no stream any more on which its requests could go out."""
        for pending in list(self._pending.values()):
            if pending.call is call and not pending.answer.done():
                pending.answer.set_exception(LimitError("store", "the request could not be stored, and was not sent"))

    # --- legacy sessions ---

    async def ask(self, call: AskingCall, question: Question, timeout: float | None) -> Any:
        """Send a request on the call's stream, and wait for its answer.

        Raises:
            CallCancelled, LimitError, RequestRefused, TimeoutError: As `Context.elicit` has it.
        """
        session, settings, method = call.session, self.endpoint.settings, question.method
        if session is None or not isinstance(call.reply, (ExchangeReply, SessionReply)):
            raise CapabilityError("this call has no client of its own that could be asked")
        count = self._counts.get(session, 0)
        if count >= settings.max_asked:
            raise LimitError("asked", f"{settings.max_asked} requests to this client wait for an answer already")
        id = secrets.token_urlsafe(16)
        payload = encode_request(id, method, mcp.encode(question.params) if question.params else None)
        self._counts[session] = count + 1
        seconds = settings.ask_time if timeout is None else timeout
        try:
            if len(payload) > ANSWER_ROOM and not await call.reply.room_for(len(payload)):
                raise LimitError("log", "the request does not fit beside what its client has not read")
            pending = self._pending[id] = _Pending(call, session, asyncio.get_running_loop().create_future())
            place = None if call.over or call.context.error is not None else call.reply.request(payload)
            if place is None:
                if pending.answer.done():  # a full store refuses at once, before there is anything to wait for
                    pending.answer.result()
                raise CallCancelled("the call has ended, and cannot ask its client any more")
            log, seq = place
            try:
                async with asyncio.timeout(seconds):
                    result = await pending.answer
            except BaseException as error:
                log.resolve(seq)
                if not isinstance(error, RequestRefused):
                    log.append(cancelled_note(id, _reason(call, error)), Kind.NOTIFICATION, self.endpoint.now())
                if isinstance(error, TimeoutError):
                    raise TimeoutError(f"{method} had no answer within {seconds:g} s") from None
                raise
            log.resolve(seq)
        finally:
            self._pending.pop(id, None)
            self._counts[session] -= 1
            if not self._counts[session]:
                del self._counts[session]
        return question.read(result)


def _capability(call: AskingCall, name: str, needed: Any = None) -> Any:
    capability = call.client_capabilities.get(name)
    if capability is None:
        raise CapabilityError(
            f"the client of this call cannot be asked: it declared no {name!r} capability", {name: needed or {}}
        )
    return capability


def _read_action(raw: bytes | Raw) -> ElicitResult:
    return ElicitResult(_decoded("elicitation/create", raw, _Elicited).action)


def _read_sampled(raw: bytes | Raw) -> SampleResult:
    result = _decoded("sampling/createMessage", raw, _Sampled)
    return SampleResult(result.role, result.content, result.model, result.stop_reason)


def _read_roots(raw: bytes | Raw) -> list[Root]:
    return [Root(root.uri, root.name) for root in _decoded("roots/list", raw, _Roots).roots]


def _decoded(method: str, raw: bytes | Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefused(INVALID_PARAMS, f"the client's answer to {method} is not valid: {error}") from None


def cancelled_note(id: str, reason: str) -> bytes:
    """Tells a client that nobody waits for its answer any more."""
    return encode_notification("notifications/cancelled", mcp.encode({"requestId": id, "reason": reason}))


def _reason(call: AskingCall, error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(call.context.error or "nobody waits for it any more")[:1000]


def _messages(given: Any) -> list[Any]:
    """Messages as the wire has them: a string or a content block is one of the user's."""
    many: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]  # pyright: ignore
    return [_message(one) for one in many]


def _message(one: Any) -> Any:
    if isinstance(one, str):
        return {"role": "user", "content": {"type": "text", "text": one}}
    return {"role": "user", "content": one} if isinstance(one, BLOCKS) else one
