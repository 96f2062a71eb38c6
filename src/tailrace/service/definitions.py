"""What a service offers, one frozen record for each function: read from it once, refused at once if it cannot work."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

import msgspec

from tailrace.errors import DefinitionError
from tailrace.schema import (
    Arguments,
    Result,
    arguments_of,
    parse_docstring,
    place_of,
    read_signature,
    result_of,
)
from tailrace.wire.param_headers import ParamHeader, param_headers

__all__ = ["Prompt", "Resource", "Tool", "ToolOptions", "make_prompt", "make_resource", "make_tool"]

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")  # MCP 2025-11-25, server/tools, "Tool Names"
_VARIABLE = re.compile(r"\{([A-Za-z_]\w*)\}", re.ASCII)


class ToolOptions(TypedDict, total=False):
    """What ``@svc.tool(...)`` takes; all of it is optional.

    Keys:
        name: As clients call it: 1 to 128 of ``A-Za-z0-9_.-``. Default: the function's name.
        title: For people. Default: none.
        description: Default: the docstring, without the part that describes the arguments.
        input_schema: JSON Schema of the arguments, shown to clients as it is and checked on every call; the function
            has a parameter for each of its properties. Default: made of the type hints.
        once: True: a retry with the same key runs once. A string: the argument that holds the key.
        read_only: It changes nothing (MCP's ``readOnlyHint``).
        idempotent: Calling it again with the same arguments changes nothing more.
        destructive: It may delete or overwrite.
        open_world: It talks to the world outside of the service.
        timeout: Seconds a call may take, above 0. Default: None, no limit of its own.
        on_crash: ``interrupt`` answers an unfinished call with an error after a crash, ``rerun`` runs it
            again. Default: ``rerun`` where it is read-only, else ``interrupt``.
        task: It may run as an MCP task, for clients of 2026-07-28 that know tasks. True: always. ``auto``: if it is not
            through within half a second. ``required``: as True, and other clients of that version are refused.
            For clients of older versions, whose sessions outlive connections, it is a call. Default: False.
        rpc: It is an RPC method as well. Default: True.
        journal: Its calls survive a crash, given a durable store. Default: True.
    """

    name: str | None
    title: str | None
    description: str | None
    input_schema: Mapping[str, Any] | None
    once: bool | str
    read_only: bool | None
    idempotent: bool | None
    destructive: bool | None
    open_world: bool | None
    timeout: float | None
    on_crash: Literal["interrupt", "rerun"] | None
    task: bool | Literal["auto", "required"]
    rpc: bool
    journal: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One function that agents and programs call; made by ``@svc.tool``, never changed afterwards.

    Attributes:
        fn: The function as it was written.
        place: Its name, file and line, for messages.
        arguments: How its arguments come out of JSON.
        result: How its return value becomes JSON.
        context_param: The parameter that takes the `Context`, or None.
        is_async: It is a coroutine function. A plain one is run in a thread.
        is_generator: It is an asynchronous generator.
        definition: MCP's ``Tool`` object as JSON, as ``tools/list`` gives it.
        param_headers: The arguments that a modern client repeats in HTTP headers (``x-mcp-header`` in the schema).

    The others are as in `ToolOptions`.
    """

    name: str
    title: str | None
    description: str
    fn: Callable[..., Any]
    place: str
    arguments: Arguments
    result: Result
    context_param: str | None
    is_async: bool
    is_generator: bool
    timeout: float | None
    once: bool | str
    on_crash: Literal["interrupt", "rerun"]
    task: bool | Literal["auto", "required"]
    rpc: bool
    journal: bool
    read_only: bool | None
    idempotent: bool | None
    destructive: bool | None
    open_world: bool | None
    definition: bytes = b""
    param_headers: tuple[ParamHeader, ...] = ()

    def bind(self, raw: bytes | msgspec.Raw | None) -> dict[str, Any]:
        """Decode a call's arguments into keyword arguments; raises as `Arguments.decode` does."""
        return self.arguments.decode(raw)

    def annotations(self) -> dict[str, Any] | None:
        """MCP's ``ToolAnnotations``: what was said of the tool and nothing else; None where nothing was."""
        hints = {
            "title": self.title,
            "readOnlyHint": self.read_only,
            "destructiveHint": self.destructive,
            "idempotentHint": self.idempotent,
            "openWorldHint": self.open_world,
        }
        return {name: value for name, value in hints.items() if value is not None} or None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One function that gives what stands at a URI, or at each URI of a template."""

    uri: str
    is_template: bool
    name: str
    title: str | None
    description: str
    mime_type: str | None
    fn: Callable[..., Any]
    place: str
    arguments: Arguments
    context_param: str | None
    is_async: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One function that writes the messages of a prompt."""

    name: str
    title: str | None
    description: str
    fn: Callable[..., Any]
    place: str
    arguments: Arguments
    context_param: str | None
    is_async: bool


def make_tool(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    input_schema: Mapping[str, Any] | None = None,
    once: bool | str = False,
    read_only: bool | None = None,
    idempotent: bool | None = None,
    destructive: bool | None = None,
    open_world: bool | None = None,
    timeout: float | None = None,
    on_crash: Literal["interrupt", "rerun"] | None = None,
    task: bool | Literal["auto", "required"] = False,
    rpc: bool = True,
    journal: bool = True,
) -> Tool:
    """Make a tool of a function; the options are those of `ToolOptions`.

    Raises:
        DefinitionError: It cannot work; names the function, its file and line.
    """
    tool = Tool(
        name=name if name is not None else getattr(fn, "__name__", ""),
        title=title,
        result=result_of(fn),
        is_generator=inspect.isasyncgenfunction(fn),
        timeout=timeout,
        once=once,
        on_crash=on_crash or ("rerun" if read_only else "interrupt"),
        task=task,
        rpc=rpc,
        journal=journal,
        read_only=read_only,
        idempotent=idempotent,
        destructive=destructive,
        open_world=open_world,
        **_read(fn, description, input_schema),
    )
    _check_tool(tool)
    return dataclasses.replace(tool, definition=_definition(tool), param_headers=_param_headers(tool))


def make_resource(
    fn: Callable[..., Any],
    uri: str,
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    mime_type: str | None = None,
) -> Resource:
    """Make a resource of a function; see `Service.resource`.

    Raises:
        DefinitionError: It cannot work; names the function, its file and line.
    """
    common = _read(fn, description)
    resource = Resource(
        uri=uri, is_template="{" in uri, name=name or fn.__name__, title=title, mime_type=mime_type, **common
    )
    _check_uri(resource)
    return resource


def make_prompt(
    fn: Callable[..., Any], *, name: str | None = None, title: str | None = None, description: str | None = None
) -> Prompt:
    """Make a prompt of a function; see `Service.prompt`.

    Raises:
        DefinitionError: It cannot work; names the function, its file and line.
    """
    return Prompt(name=name or fn.__name__, title=title, **_read(fn, description))


# --- reading and checking -----------------------------------------------------------------------


def _read(
    fn: Callable[..., Any], description: str | None, input_schema: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What tools, resources and prompts have in common."""
    arguments = arguments_of(fn, given=input_schema)
    return {
        "fn": fn,
        "place": place_of(fn),
        "arguments": arguments,
        "description": description if description is not None else _described(fn, arguments),
        "context_param": read_signature(fn).context,
        "is_async": inspect.iscoroutinefunction(fn),
    }


def _described(fn: Callable[..., Any], arguments: Arguments) -> str:
    return parse_docstring(fn.__doc__, arguments.names).description


def _check_tool(tool: Tool) -> None:
    place, once = tool.place, tool.once
    if not _TOOL_NAME.fullmatch(tool.name):
        raise DefinitionError(f"{place}: tool name {tool.name!r} is not 1 to 128 of A-Z a-z 0-9 _ . -; give name=")
    if inspect.isgeneratorfunction(tool.fn):
        raise DefinitionError(f"{place}: a plain generator cannot be a tool; make it `async def`")
    if tool.timeout is not None and not (tool.timeout > 0 and math.isfinite(tool.timeout)):
        raise DefinitionError(f"{place}: timeout is in seconds and above 0, got {tool.timeout!r}")
    if tool.on_crash not in ("interrupt", "rerun"):
        raise DefinitionError(f"{place}: on_crash is 'interrupt' or 'rerun', got {tool.on_crash!r}")
    if tool.task not in (False, True, "auto", "required"):
        raise DefinitionError(f"{place}: task is True, False, 'auto' or 'required', got {tool.task!r}")
    if tool.read_only and tool.destructive:
        raise DefinitionError(f"{place}: a tool cannot be both read_only and destructive")
    if isinstance(once, str) and not _is_text(tool.arguments.schema.get("properties", {}).get(once, {})):
        raise DefinitionError(f"{place}: once={once!r} must name an argument that is a str (or `str | None`)")


def _is_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" or any(_is_text(one) for one in schema.get("anyOf", ()))


def _definition(tool: Tool) -> bytes:
    parts = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description or None,
        "inputSchema": tool.arguments.schema,
        "outputSchema": tool.result.schema,
        "annotations": tool.annotations(),
        "_meta": {"io.tailrace/once": tool.once} if tool.once else None,  # so that a client knows that it may ask again
    }
    return msgspec.json.encode({name: part for name, part in parts.items() if part is not None})


def _param_headers(tool: Tool) -> tuple[ParamHeader, ...]:
    try:
        return param_headers(tool.arguments.schema)
    except ValueError as error:
        raise DefinitionError(f"{tool.place}: {error}") from None


def _check_uri(resource: Resource) -> None:
    uri, place = resource.uri, resource.place
    if "://" not in uri:
        raise DefinitionError(f"{place}: a resource has a URI, as in @svc.resource('orders://{{id}}'), got {uri!r}")
    variables = _VARIABLE.findall(uri)
    literal = _VARIABLE.sub("", uri)
    if "{" in literal or "}" in literal or len(set(variables)) != len(variables):
        raise DefinitionError(f"{place}: in {uri!r} only one {{name}} for each parameter is understood")
    unknown = sorted(set(variables) - set(resource.arguments.names))
    missing = sorted(set(resource.arguments.schema.get("required", ())) - set(variables))
    if unknown:
        raise DefinitionError(f"{place}: {uri!r} has {unknown[0]!r}, which is no parameter of the function")
    if missing:
        raise DefinitionError(f"{place}: {uri!r} has no {{{missing[0]}}}, which the function requires")
