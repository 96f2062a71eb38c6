"""What a server asks of its client: the user, the model, the places where it may work.

A request of a legacy server is answered by a callback of the program's, in a task of its own; the server may take it
back. A modern server's questions come with its answer, and are answered in the task of the call. Without a callback the
client does not declare that it can be asked, and says so where it is asked all the same.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
from msgspec import Raw, Struct

from tailrace.core.asked import ElicitResult, Root, SampleResult
from tailrace.errors import ProtocolError
from tailrace.wire import jsonrpc, mcp
from tailrace.wire.jsonrpc import INTERNAL_ERROR, METHOD_NOT_FOUND, RequestId

if TYPE_CHECKING:
    from tailrace.core.tasks import Tasks

__all__ = ["Answers", "Elicitation", "ElicitationUrl", "Roots", "Sampling"]

logger = logging.getLogger("tailrace.client")

Elicitation: TypeAlias = Callable[[str, dict[str, Any]], Any]
ElicitationUrl: TypeAlias = Callable[[str, str], Any]
Sampling: TypeAlias = Callable[[dict[str, Any]], Any]
Roots: TypeAlias = "Sequence[str | Path | Root] | Callable[[], Any]"

_MAX_ASKED = 16  # requests of the server that are being answered at once


class _Elicit(Struct, rename="camel"):
    message: str
    requested_schema: dict[str, Any] = {}
    mode: str = "form"
    url: str = ""


class _Question(Struct):
    method: str
    params: dict[str, Any] = {}


class Answers:
    """Answers the requests of one server.

    Args:
        tasks: Where callbacks run.
        reply: Sends one encoded response, soon.
        elicitation, elicitation_url, sampling, roots: See `Client`.
    """

    def __init__(
        self,
        tasks: Tasks,
        reply: Callable[[bytes], None],
        *,
        elicitation: Elicitation | None,
        elicitation_url: ElicitationUrl | None,
        sampling: Sampling | None,
        roots: Roots | None,
    ) -> None:
        self._tasks = tasks
        self._reply = reply
        self._elicitation = elicitation
        self._elicitation_url = elicitation_url
        self._sampling = sampling
        self._roots = roots
        self._running: dict[RequestId, asyncio.Task[None]] = {}

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the client declares."""
        given = {"elicitation": self._elicitation, "sampling": self._sampling, "roots": self._roots}
        declared: dict[str, Any] = {name: {} for name, callback in given.items() if callback is not None}
        if self._elicitation_url is not None:
            declared["elicitation"] = {"url": {}} | ({"form": {}} if self._elicitation is not None else {})
        return declared

    def ask(self, id: RequestId, method: str, params: Raw) -> None:
        """A request of the server has come."""
        work = self._work(method)
        if method == "ping":
            self._reply(jsonrpc.encode_result(id, b"{}"))
        elif work is None:
            text = f"this client does not answer {method[:128]}"
            self._reply(jsonrpc.encode_error(id, METHOD_NOT_FOUND, text))
        elif id in self._running or len(self._running) >= _MAX_ASKED:
            self._reply(jsonrpc.encode_error(id, INTERNAL_ERROR, "this client answers too many requests already"))
        else:
            task = self._running[id] = self._tasks.start(self._answer(id, work, params), name="tailrace-client-answer")
            task.add_done_callback(lambda _: self._running.pop(id, None))

    def cancel(self, id: RequestId) -> None:
        """The server waits no longer for this one."""
        task = self._running.get(id)
        if task is not None:
            task.cancel()

    async def respond(self, questions: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a modern server's questions, one after the other; what a callback raises comes out.

        Raises:
            ProtocolError: It asks for what this client does not give, or in no form that there is.
        """
        responses: dict[str, Any] = {}
        for key, given in questions.items():
            try:
                question = msgspec.convert(given, _Question) if isinstance(given, Mapping) else None
                work = self._work(question.method) if question is not None else None
                if question is None or work is None:
                    what = "what is no request" if question is None else question.method[:128]
                    raise ProtocolError(
                        METHOD_NOT_FOUND, f"the server asks for {what}, which this client does not give"
                    )
                responses[key] = await work(Raw(mcp.encode(question.params)))
            except msgspec.ValidationError as error:
                raise ProtocolError(INTERNAL_ERROR, f"the server's question is not valid: {error}") from None
        return responses

    # --- inside ---

    def _work(self, method: str) -> Callable[[Raw], Any] | None:
        """What answers a request of this kind."""
        able = self._elicitation is not None or self._elicitation_url is not None
        return {
            "elicitation/create": self._elicit if able else None,
            "sampling/createMessage": self._sample if self._sampling is not None else None,
            "roots/list": self._list_roots if self._roots is not None else None,
        }.get(method)

    async def _answer(self, id: RequestId, work: Callable[[Raw], Any], params: Raw) -> None:
        try:
            result = mcp.encode(await work(params))
        except msgspec.ValidationError as error:
            return self._reply(jsonrpc.encode_error(id, jsonrpc.INVALID_PARAMS, str(error)))
        except ProtocolError as error:  # the callback refuses, in words that are meant for the server
            return self._reply(jsonrpc.encode_error(id, error.code, error.message, error.data))
        except Exception:  # the callback's own; its text is nobody else's business
            logger.exception("an answer to the server failed")
            return self._reply(jsonrpc.encode_error(id, INTERNAL_ERROR, "the client could not answer"))
        return self._reply(jsonrpc.encode_result(id, result))

    async def _elicit(self, params: Raw) -> Any:
        asked = msgspec.json.decode(params or b"{}", type=_Elicit)
        if asked.mode == "url":
            return await self._elicit_url(asked)
        if self._elicitation is None:
            raise msgspec.ValidationError("this client shows no forms")
        said = await _called(self._elicitation, asked.message, asked.requested_schema)
        if said is None:
            said = ElicitResult("decline")
        elif not isinstance(said, ElicitResult):
            said = ElicitResult("accept", said)
        result: dict[str, Any] = {"action": said.action}
        return result | {"content": _filled(asked.requested_schema, said.data)} if said.accepted else result

    async def _elicit_url(self, asked: _Elicit) -> Any:
        if self._elicitation_url is None:
            raise msgspec.ValidationError("this client opens no pages")
        said = await _called(self._elicitation_url, asked.message, asked.url)
        if isinstance(said, ElicitResult):
            return {"action": said.action}
        return {"action": "accept" if said else "decline"}

    async def _sample(self, params: Raw) -> Any:
        assert self._sampling is not None
        said = await _called(self._sampling, msgspec.json.decode(params))
        if isinstance(said, str):
            said = SampleResult("assistant", {"type": "text", "text": said}, "unknown", "endTurn")
        if not isinstance(said, SampleResult):
            return said
        result: dict[str, Any] = {"role": said.role, "content": said.content, "model": said.model}
        return result | {"stopReason": said.stop_reason} if said.stop_reason is not None else result

    async def _list_roots(self, params: Raw) -> Any:
        said: Any = await _called(self._roots) if callable(self._roots) else self._roots
        return {"roots": [_root(one) for one in cast("Sequence[Any]", said)]}


async def _called(callback: Callable[..., Any], *args: Any) -> Any:
    said = callback(*args)
    return await said if inspect.isawaitable(said) else said


def _filled(schema: dict[str, Any], said: Any) -> Any:
    """What was filled in, and the form's defaults for the rest (SEP-1034)."""
    fields: Any = schema.get("properties")
    if not isinstance(fields, dict) or not (said is None or isinstance(said, Mapping)):
        return said
    filled: dict[str, Any] = {}
    for name, field in cast("dict[str, Any]", fields).items():
        if isinstance(field, dict) and "default" in field:
            filled[name] = field["default"]
    return filled | dict(cast("Mapping[str, Any]", said or {}))


def _root(given: str | Path | Root | Mapping[str, Any]) -> Any:
    if isinstance(given, Path):
        return {"uri": given.as_uri(), "name": given.name}
    if isinstance(given, str):
        return {"uri": given}
    if isinstance(given, Root):
        return {"uri": given.uri} | ({"name": given.name} if given.name is not None else {})
    return given
