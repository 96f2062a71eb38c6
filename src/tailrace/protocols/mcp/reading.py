"""Calls that read: `resources/read`, `prompts/get`, `completion/complete`.

They run code of the user's as tools do, so they are calls as tools' are: each has its task, its context, its limits,
and is journalled before it is promised (the 202 of HTTP+SSE). After a crash they run again, once at most, for they
only read. What fails in them is an error of the protocol's: these methods have no `isError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tailrace.errors import CapabilityError, ProtocolError, ResourceNotFound, ToolError
from tailrace.protocols.mcp.call import McpCall
from tailrace.protocols.mcp.invoking import invoke
from tailrace.protocols.mcp.methods import LISTS, all_of
from tailrace.schema import InvalidArguments, InvalidResult, decode_strings, encode_value
from tailrace.service.middleware import Invocation, around
from tailrace.wire import mcp
from tailrace.wire.content import BLOCKS, PromptMessage, PromptResponse, ResourceContents, Text
from tailrace.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.protocols.mcp.legs import Question
    from tailrace.protocols.mcp.records import StoredCallData
    from tailrace.service import Completion, Offered, Prompt, Resource

__all__ = ["CompleteCall", "PromptCall", "ReadCall", "find_resource", "find_target", "not_found", "stored_params"]

_MOST = 100  # values of one completion (MCP, completion)


class _Reading(McpCall):
    """What these calls have in common: how they fail."""

    __slots__ = ()

    def refusal(self, error: ToolError) -> bytes:
        """An error of the handler's own, in its own words."""
        data = getattr(error, "data", None)
        try:
            return self.error(INTERNAL_ERROR, str(error), None if data is None else Raw(encode_value(data)))
        except InvalidResult:
            return self.bug("the data of a ToolError has no JSON form")

    def _failure(self, text: str) -> bytes:
        return self.error(INTERNAL_ERROR, text)

    def _encode(self, parts: dict[str, Any]) -> bytes:
        if self.dialect.modern:
            said: Any = self.dialect.server_info
            parts |= {"resultType": "complete", "_meta": {**parts["_meta"], **said} if "_meta" in parts else said}
        return self.check_size(mcp.encode(parts))


# --- resources ----------------------------------------------------------------------------------


class ReadTarget(NamedTuple):
    """A resource, at one URI.

    Attributes:
        name: The URI.
        resource: What stands there.
        values: The variables of its template.
    """

    name: str
    resource: Resource
    values: Mapping[str, str | Sequence[str]]
    journal: bool = True


class ReadCall(_Reading):
    """Reads a resource."""

    __slots__ = ()

    METHOD: ClassVar[str] = "resources/read"
    target: ReadTarget

    async def work(self) -> bytes:
        """Run the resource's function."""
        uri, resource, values, _ = self.target
        value = await invoke(self, resource, _decode(resource, values))
        if value is None:
            raise ResourceNotFound
        result: dict[str, Any] = {"contents": _contents(uri, value, resource.mime_type)}
        if self.dialect.modern:
            result["ttlMs"] = round(resource.max_age * 1000)
            result["cacheScope"] = "public" if resource.shared else "private"
        return self._encode(result)

    def refusal(self, error: ToolError) -> bytes:
        """Nothing there is an error with a code of its own."""
        if isinstance(error, ResourceNotFound):
            fault = not_found(self.target.name, self.dialect.modern, error.message)
            return self.error(fault.code, fault.message, fault.data)
        return super().refusal(error)


def not_found(uri: str, modern: bool, message: str = "there is no such resource") -> ProtocolError:
    """The error for a URI at which nothing stands; its code has changed with 2026-07-28 (SEP-2164)."""
    return ProtocolError(INVALID_PARAMS if modern else mcp.RESOURCE_NOT_FOUND, message, {"uri": uri[:1000]})


def _contents(uri: str, value: Any, mime_type: str | None) -> list[ResourceContents]:
    if isinstance(value, ResourceContents):
        return [value]
    if isinstance(value, str):
        return [ResourceContents(uri, value, mime_type=mime_type or "text/plain")]
    if isinstance(value, (bytes, bytearray)):
        return [ResourceContents(uri, blob=bytes(value), mime_type=mime_type or "application/octet-stream")]
    if isinstance(value, (list, tuple)):
        members: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType] - a list of anything
        if any(isinstance(member, (ResourceContents, bytes)) for member in members):
            return [part for member in members for part in _contents(uri, member, mime_type)]
    return [ResourceContents(uri, encode_value(value).decode(), mime_type=mime_type or "application/json")]


# --- prompts ------------------------------------------------------------------------------------


class PromptCall(_Reading):
    """Writes a prompt's messages."""

    __slots__ = ()

    METHOD: ClassVar[str] = "prompts/get"
    target: Prompt

    async def work(self) -> bytes:
        """Run the prompt's function."""
        prompt = self.target
        given = msgspec.json.decode(self.arguments, type=dict[str, str]) if isinstance(self.arguments, Raw) else {}
        value = await invoke(self, prompt, _decode(prompt, given))
        whole = value if isinstance(value, PromptResponse) else PromptResponse(value)
        result: dict[str, Any] = {"messages": _messages(whole.messages)}
        if description := prompt.description if whole.description is None else whole.description:
            result["description"] = description
        if whole.meta:
            result["_meta"] = whole.meta
        return self._encode(result)


def _messages(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [_message(one) for one in value]  # pyright: ignore[reportUnknownVariableType] - a list of anything
    return [_message(value)]


def _message(one: Any) -> Any:
    if isinstance(one, Raw):  # JSON already, of a proxy
        return one
    if isinstance(one, dict):
        one = msgspec.convert(one, PromptMessage)
    if not isinstance(one, PromptMessage):
        one = PromptMessage(one if isinstance(one, (str, *BLOCKS)) else encode_value(one).decode())
    return PromptMessage(Text(one.content), one.role) if isinstance(one.content, str) else one


# --- completion ---------------------------------------------------------------------------------


class CompleteTarget(NamedTuple):
    """One argument of a prompt or a template.

    Attributes:
        name: What it is of, and which.
        completion: What it can be; None: nobody knows.
    """

    name: str
    completion: Completion | None
    journal: bool = True


class CompleteCall(_Reading):
    """Says what an argument can be."""

    __slots__ = ()

    METHOD: ClassVar[str] = "completion/complete"
    LEGS: ClassVar[bool] = False
    target: CompleteTarget

    async def ask(self, question: Question, timeout: float | None) -> Any:
        """Nobody is asked while somebody types."""
        raise CapabilityError("a completion cannot ask its client")

    async def work(self) -> bytes:
        """Ask the completion."""
        assert isinstance(self.arguments, Raw)
        params = msgspec.json.decode(self.arguments, type=mcp.CompleteParams)
        found = await self._found(self.target.completion, params)
        if isinstance(found, dict):  # as MCP has it already, of a proxy
            completion: Any = {name: value for name, value in found.items() if value is not None}
        else:
            completion = {"values": found[:_MOST], "total": len(found), "hasMore": len(found) > _MOST}
        return self._encode({"completion": completion})

    async def _found(self, completion: Completion | None, params: mcp.CompleteParams) -> list[str] | dict[str, Any]:
        typed = params.argument.value
        if completion is None:
            return []
        if completion.choices is not None:
            return [one for one in completion.choices if one.lower().startswith(typed.lower())]
        arguments: dict[str, Any] = {"value": typed}
        if completion.takes_arguments:
            arguments["arguments"] = dict(params.context.arguments)
        found: Any = await invoke(self, completion, arguments)
        return cast("dict[str, Any]", found) if isinstance(found, dict) else [str(one) for one in found or ()]


# --- lists, where there is middleware ---


class ListTarget(NamedTuple):
    """A list.

    Attributes:
        name: The method.
        offered: Of what it is made.
        cursor: Where the page begins.
    """

    name: str
    offered: Offered
    cursor: str | None
    journal: bool = False


class ListCall(_Reading):
    """Lists what the middleware lets pass."""

    __slots__ = ()

    LEGS: ClassVar[bool] = False
    target: ListTarget

    async def work(self) -> bytes:
        """Let the middleware have the list."""
        method, offered, cursor, _ = self.target

        async def listed(invocation: Invocation) -> list[Any]:
            return [msgspec.json.decode(one.definition) for one in all_of(method, offered).values()]

        whole = await around(self.asking.middleware, self.context, Invocation(method, "", {}), listed)
        key = {"resources/list": "uri", "resources/templates/list": "uriTemplate"}.get(method, "name")
        encoded = {str(one[key]): encode_value(one) for one in whole}
        endpoint = self.asking.endpoint
        return self.check_size(endpoint.methods.page(method, encoded, cursor, modern=self.dialect.modern, shared=False))

    @property
    def label(self) -> str:
        """For people: which call this is."""
        return f"{self.target.name} (request {str(self.request_id)[:64]!r})"


# --- finding them -------------------------------------------------------------------------------


def _decode(target: Resource | Prompt, given: Mapping[str, str | Sequence[str]]) -> dict[str, Any]:
    try:
        return decode_strings(target.arguments, given)
    except InvalidArguments as error:
        raise ProtocolError(INVALID_PARAMS, error.message) from None


class Found(NamedTuple):
    """What a request asks for.

    Attributes:
        kind: The class of the call.
        target: Its target.
        arguments: What tells it from other calls of the target.
        scopes: What a token has to be good for.
    """

    kind: type[McpCall]
    target: Any
    arguments: Raw | UnsetType
    scopes: tuple[str, ...] = ()


def find_target(offered: Offered, method: str, params: Any, *, modern: bool) -> Found:
    """What one of these methods asks for.

    Raises:
        ProtocolError: The target is not there.
    """
    if method in LISTS:
        return Found(ListCall, ListTarget(method, offered, params.cursor), UNSET)
    if method == "resources/read":
        target = find_resource(offered, params.uri, modern=modern)
        return Found(ReadCall, target, UNSET, target.resource.scopes)
    if method == "prompts/get":
        prompt = offered.prompts.get(params.name)
        if prompt is None:
            raise ProtocolError(INVALID_PARAMS, f"unknown prompt: {params.name[:128]!r}")
        return Found(PromptCall, prompt, Raw(mcp.encode(params.arguments)), prompt.scopes)
    asked = mcp.CompleteParams(params.ref, params.argument, params.context)
    target, scopes = _completed(offered, params, modern)
    return Found(CompleteCall, target, Raw(mcp.encode(asked)), scopes)


def stored_params(data: StoredCallData) -> Any:
    """The parameters of a stored call, for `find_target`.

    Raises:
        MsgspecError: They cannot be read.
    """
    if data.method == "resources/read":
        return mcp.ReadParams(data.tool)
    if data.method == "prompts/get":
        return mcp.PromptParams(data.tool, msgspec.json.decode(data.arguments, type=dict[str, str]))
    return msgspec.json.decode(data.arguments, type=mcp.CompleteParams)


def find_resource(offered: Offered, uri: str, *, modern: bool) -> ReadTarget:
    """What stands at a URI: a resource of its own, or the first template that has it.

    Raises:
        ProtocolError: Nothing.
    """
    resource = offered.resources.get(uri)
    if resource is not None and resource.template is None:
        return ReadTarget(uri, resource, {})
    for resource in list(offered.resources.values()):
        if resource.template is not None and (values := resource.template.match(uri)) is not None:
            return ReadTarget(uri, resource, values)
    raise not_found(uri, modern)


def _completed(offered: Offered, params: mcp.CompleteParams, modern: bool) -> tuple[CompleteTarget, tuple[str, ...]]:
    ref, argument = params.ref, params.argument.name
    if ref.type == "ref/prompt":
        definition: Prompt | Resource | None = offered.prompts.get(ref.name)
        if definition is None:
            raise ProtocolError(INVALID_PARAMS, f"unknown prompt: {ref.name[:128]!r}")
    else:
        definition = offered.resources.get(ref.uri)
        if definition is None:
            raise not_found(ref.uri, modern)
    if argument not in definition.arguments.names:
        raise ProtocolError(INVALID_PARAMS, f"{definition.name} has no argument {argument[:128]!r}")
    target = CompleteTarget(f"{definition.name}.{argument}", definition.completions.get(argument))
    return target, definition.scopes
