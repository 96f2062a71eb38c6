"""What a service offers, one frozen record for each function: read from it once, refused at once if it cannot work.

Here is what tools, resources and prompts have in common, and the tools; `resources` and `prompts` have the others.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

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

if TYPE_CHECKING:
    from tailrace.service.middleware import Middleware
    from tailrace.service.providers import Provided, Providers
    from tailrace.wire.content import Icon

__all__ = [
    "Definition",
    "Tool",
    "ToolOptions",
    "check_tool_name",
    "encode_definition",
    "make_tool",
    "read_definition",
    "scopes_of",
]

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")  # MCP 2025-11-25, server/tools, "Tool Names"


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
        icons: Pictures that stand for it. Default: none.
        meta: Its `_meta`, JSON-able. Default: none.
        scopes: What a token has to be good for to call it over HTTP, where the server's `auth=` knows scopes.
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
    icons: Sequence[Icon]
    meta: Mapping[str, Any] | None
    scopes: str | Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What there is to know of a function that is offered, whatever as; never changed afterwards.

    Attributes:
        name: As clients call it.
        title: For people, or None.
        description: For the agent.
        fn: The function as it was written.
        place: Its name, file and line, for messages.
        arguments: How its arguments come out of JSON.
        context_param: The parameter that takes the `Context`, or None.
        is_async: It is a coroutine function. A plain one is run in a thread.
        is_generator: It is an asynchronous generator.
        timeout: Seconds a call may take, or None.
        journal: Its calls survive a crash, given a durable store.
        icons: Pictures that stand for it.
        meta: Its `_meta`.
        definition: How MCP lists it, as JSON.
        provided: Its parameters that do not come from the caller, with their providers.
        scopes: What a token has to be good for to use it.
        middleware: What stands around its calls beside the service's, for it was mounted.
    """

    name: str
    title: str | None
    description: str
    fn: Callable[..., Any]
    place: str
    arguments: Arguments
    context_param: str | None
    is_async: bool
    is_generator: bool = False
    timeout: float | None = None
    journal: bool = True
    icons: tuple[Icon, ...] = ()
    meta: Mapping[str, Any] | None = None
    definition: bytes = b""
    provided: Provided = ()
    scopes: tuple[str, ...] = ()
    middleware: tuple[Middleware, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tool(Definition):
    """One function that agents and programs call; made by ``@svc.tool``.

    Attributes:
        result: How its return value becomes JSON.
        param_headers: The arguments that a modern client repeats in HTTP headers (``x-mcp-header`` in the schema).

    The others are as in `ToolOptions`.
    """

    result: Result
    once: bool | str
    on_crash: Literal["interrupt", "rerun"]
    task: bool | Literal["auto", "required"]
    rpc: bool
    read_only: bool | None
    idempotent: bool | None
    destructive: bool | None
    open_world: bool | None
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
    icons: Sequence[Icon] = (),
    meta: Mapping[str, Any] | None = None,
    scopes: str | Sequence[str] = (),
    providers: Providers | None = None,
) -> Tool:
    """Make a tool of a function; the options are those of `ToolOptions`. Parameters of a type that `providers` have do
    not come from the caller.

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
        scopes=scopes_of(scopes),
        read_only=read_only,
        idempotent=idempotent,
        destructive=destructive,
        open_world=open_world,
        icons=tuple(icons),
        meta=meta,
        **read_definition(fn, description, providers, input_schema),
    )
    _check_tool(tool)
    return dataclasses.replace(tool, definition=_definition(tool), param_headers=_param_headers(tool))


# --- reading and checking -----------------------------------------------------------------------


def read_definition(
    fn: Callable[..., Any],
    description: str | None,
    providers: Providers | None = None,
    input_schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a `Definition` takes from the function itself.

    Raises:
        DefinitionError: It cannot work; names the function, its file and line.
    """
    signature = read_signature(fn)
    provided = providers.of(signature) if providers is not None else ()
    arguments = arguments_of(fn, skip=frozenset(name for name, _ in provided), given=input_schema)
    return {
        "fn": fn,
        "place": place_of(fn),
        "arguments": arguments,
        "description": description if description is not None else _described(fn, arguments),
        "context_param": signature.context,
        "provided": provided,
        "is_async": inspect.iscoroutinefunction(fn),
    }


def _described(fn: Callable[..., Any], arguments: Arguments) -> str:
    return parse_docstring(fn.__doc__, arguments.names).description


def _check_tool(tool: Tool) -> None:
    place, once = tool.place, tool.once
    check_tool_name(tool.name, place)
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


def check_tool_name(name: str, place: str) -> None:
    """Refuse what is no name of a tool.

    Raises:
        DefinitionError: It is none.
    """
    if not _TOOL_NAME.fullmatch(name):
        raise DefinitionError(f"{place}: tool name {name!r} is not 1 to 128 of A-Z a-z 0-9 _ . -; give name=")


def _is_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" or any(_is_text(one) for one in schema.get("anyOf", ()))


def _definition(tool: Tool) -> bytes:
    # The once mark is there so that a client knows that it may ask again.
    meta = {**(tool.meta or {}), **({"io.tailrace/once": tool.once} if tool.once else {})}
    return encode_definition(
        dataclasses.replace(tool, meta=meta),
        inputSchema=tool.arguments.schema,
        outputSchema=tool.result.schema,
        annotations=tool.annotations(),
    )


def scopes_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Scopes as they may be given: several, or a string with blanks between.

    Raises:
        DefinitionError: They are something else.
    """
    try:
        scopes = tuple(given.split() if isinstance(given, str) else given)
    except TypeError:
        scopes = (None,)
    if not all(isinstance(scope, str) for scope in scopes):
        raise DefinitionError(f"scopes= is a list of strings, or one with blanks between, got {given!r}")
    return cast("tuple[str, ...]", scopes)


def encode_definition(one: Definition, **parts: Any) -> bytes:
    """How MCP lists it; parts that are None are left out.

    Raises:
        DefinitionError: A part has no JSON form.
    """
    whole = {"name": one.name, "title": one.title, "description": one.description or None, **parts}
    whole |= {"icons": one.icons or None, "_meta": one.meta or None}
    try:
        return msgspec.json.encode({name: part for name, part in whole.items() if part is not None})
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{one.place}: it cannot be listed: {error}") from None


def _param_headers(tool: Tool) -> tuple[ParamHeader, ...]:
    try:
        return param_headers(tool.arguments.schema)
    except ValueError as error:
        raise DefinitionError(f"{tool.place}: {error}") from None
