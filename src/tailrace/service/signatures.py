"""A function's signature as a method: who streams, what the request is, what the response.

The rules, in one place. Of a function with ``@svc.rpc``:

- An asynchronous generator streams its responses; ``AsyncIterator[T]`` as a parameter is a stream of requests.
- One parameter whose type is a message (generated, a dataclass, a Struct, a TypedDict, a pydantic model) and
  that has no default is the request itself. Else the parameters are the fields of a request of their own.
- A result that is a message is the response itself. Anything else is wrapped as the field ``result``.

A tool's parameters are always fields, as they are over MCP. Nothing here loads protobuf.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_origin

from tailrace.errors import DefinitionError
from tailrace.schema.arguments import Arguments, arguments_of
from tailrace.schema.hints import MISSING, Signature, parts_of, read_signature
from tailrace.schema.protobuf import is_generated
from tailrace.schema.protobuf_types import Shapes, is_message
from tailrace.service.naming import pascal_case

if TYPE_CHECKING:
    from tailrace.service.definitions import Tool
    from tailrace.service.methods import Kind

__all__ = ["Definition", "check_form", "define", "define_tool", "is_async", "item_of", "kind_of"]

Form: TypeAlias = Literal["generated", "message", "fields", "wrapped"]

_KINDS: dict[tuple[bool, bool], Kind] = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi",
}
_ITERATORS = (AsyncIterator, AsyncIterable, AsyncGenerator)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function that is to be a method: read and checked. Its descriptors are made with those of all the others.

    Attributes:
        request: How the request comes to be; ``fields``: of `arguments`.
        request_hint: Its type, unless it is made of `arguments`.
        arguments: The function's arguments, where the request is made of them.
        request_param: The parameter that takes the request, or the stream of requests; None for `arguments`.
        response: How the response comes to be; ``wrapped``: as the field ``result``.
        response_hint: Its type.

    The others are as in `Method`.
    """

    name: str
    kind: Kind
    fn: Callable[..., Any]
    place: str
    context_param: str | None
    request: Form
    request_hint: Any
    arguments: Arguments | None
    request_param: str | None
    response: Form
    response_hint: Any
    timeout: float | None
    once: bool | str
    read_only: bool | None
    tool: Tool | None = None

    def check(self) -> None:
        """Whether its types have a protobuf form.

        Raises:
            DefinitionError: One has none; names the place.
        """
        self.shape(Shapes())

    def shape(self, shapes: Shapes) -> tuple[Any, Any]:
        """Request and response: each a `Shape` that is added to `shapes`, or a generated class.

        Raises:
            DefinitionError: One has no protobuf form; `shapes` may then hold parts of it.
        """
        place = self.place
        request = response = None
        if self.request == "message":
            request = shapes.message(self.request_hint, f"{place}: parameter {self.request_param!r}")
        if self.response == "message":
            response = shapes.message(self.response_hint, f"{place}: the return annotation")
        if self.arguments is not None:
            names = (f"{self.name}Request", f"{self.name}Arguments")
            request = shapes.arguments(self.arguments.parameters, place, *names)
        if self.response == "wrapped":
            names = (f"{self.name}Response", f"{self.name}Result")
            response = shapes.wrapper(self.response_hint, f"{place}: the return annotation", *names)
        return request or self.request_hint, response or self.response_hint


def define(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    once: bool | str = False,
    read_only: bool | None = None,
    timeout: float | None = None,
) -> Definition:
    """Read a function of ``@svc.rpc``; the options are those of `RpcOptions`.

    Raises:
        DefinitionError: It cannot work; names the function, its file and line.
    """
    signature = read_signature(fn)
    place = signature.place
    name = pascal_case(fn.__name__) if name is None else name
    if not _NAME.fullmatch(name):
        raise DefinitionError(f"{place}: {name!r} is no name of a method; give another one by name=")
    check_form(fn, signature)
    request, hint, param, arguments, streams = _request(fn, signature)
    response, response_hint = _response(fn, signature)
    definition = Definition(
        name=name,
        kind=kind_of(streams, inspect.isasyncgenfunction(fn)),
        fn=fn,
        place=place,
        context_param=signature.context,
        request=request,
        request_hint=hint,
        arguments=arguments,
        request_param=param,
        response=response,
        response_hint=response_hint,
        timeout=checked_timeout(timeout, place),
        once=once,
        read_only=read_only,
    )
    check_once(once, definition.kind, place)
    definition.check()
    return definition


def define_tool(tool: Tool) -> Definition:
    """Read a tool as a method.

    Raises:
        DefinitionError: It cannot be one.
    """
    signature = read_signature(tool.fn)
    response, response_hint = _response(tool.fn, signature)
    if any(getattr(part, "__tailrace_content__", False) is True for part in parts_of(response_hint)):
        raise DefinitionError(f"{tool.place}: what it returns is content of MCP")
    name = pascal_case(tool.name)
    if not _NAME.fullmatch(name):
        raise DefinitionError(f"{tool.place}: {name!r} is no name of a method")
    check_once(tool.once, kind_of(False, tool.is_generator), tool.place)
    return Definition(
        name=name,
        kind=kind_of(False, tool.is_generator),
        fn=tool.fn,
        place=tool.place,
        context_param=tool.context_param,
        request="fields",
        request_hint=None,
        arguments=tool.arguments,
        request_param=None,
        response=response,
        response_hint=response_hint,
        timeout=tool.timeout,
        once=tool.once,
        read_only=tool.read_only,
        tool=tool,
    )


def kind_of(client: bool, server: bool) -> Kind:
    """Who streams, in one word."""
    return _KINDS[client, server]


def item_of(hint: Any) -> tuple[bool, Any]:
    """Whether a type is a stream, and of what."""
    return (True, get_args(hint)[0]) if get_origin(hint) in _ITERATORS else (False, hint)


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether it runs on the loop; what does not, runs in a thread."""
    return inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)


def check_form(fn: Callable[..., Any], signature: Signature) -> None:
    """Refuse what cannot be called as a method, whatever its types are."""
    if inspect.isgeneratorfunction(fn):
        raise DefinitionError(f"{signature.place}: a plain generator cannot be a method; make it `async def`")
    streams = [one for one in signature.parameters if item_of(one.hint)[0]]
    if streams and not is_async(fn):
        raise DefinitionError(f"{signature.place}: who reads a stream of requests is `async def`")
    if streams and len(signature.parameters) > 1:
        others = "a stream of requests is the only parameter (beside the Context): put the rest into its messages"
        raise DefinitionError(f"{signature.place}: {others}")


def check_once(once: bool | str, kind: Kind, place: str) -> None:
    """Refuse a promise that is not kept: what a stream sent before its end is not remembered."""
    if once and kind != "unary":
        raise DefinitionError(f"{place}: once= is for methods with one message each way, this one is {kind}")


def checked_timeout(timeout: float | None, place: str) -> float | None:
    """A method's `timeout`, if it can be one."""
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise DefinitionError(f"{place}: timeout is in seconds and above 0, got {timeout!r}")
    return timeout


def _request(fn: Callable[..., Any], signature: Signature) -> tuple[Form, Any, str | None, Arguments | None, bool]:
    if len(signature.parameters) == 1:
        (parameter,) = signature.parameters
        streams, item = item_of(parameter.hint)
        if is_generated(item):
            return "generated", item, parameter.name, None, streams
        if is_message(item) and parameter.default is MISSING:
            return "message", item, parameter.name, None, streams
        if streams:
            what = "the items of a stream of requests are messages: use a dataclass"
            raise DefinitionError(f"{signature.place}: parameter {parameter.name!r}: {what}")
    return "fields", None, None, arguments_of(fn), False


def _response(fn: Callable[..., Any], signature: Signature) -> tuple[Form, Any]:
    streams, item = item_of(signature.returns)
    if inspect.isasyncgenfunction(fn) and signature.returns is MISSING:
        streams = True
    if streams is not inspect.isasyncgenfunction(fn):
        what = "an asynchronous generator (`async def` with `yield`) returns AsyncIterator[T], and nothing else does"
        raise DefinitionError(f"{signature.place}: {what}")
    if is_generated(item):
        return "generated", item
    return ("message" if is_message(item) else "wrapped"), item
