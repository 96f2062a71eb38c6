"""What a service offers over RPC: one frozen `Method` for each function, whichever way it was defined.

A function becomes a method by ``@svc.rpc``, by ``@svc.tool`` (unless ``rpc=False``), or as the
implementation of a service that a ``.proto`` file defines (``svc.implement``). How a method is run, and how
its messages travel, is left to the protocol.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args, get_origin

from tailrace.errors import DefinitionError
from tailrace.schema.hints import MISSING, Parameter, Signature, read_signature
from tailrace.schema.protobuf import google, is_generated

if TYPE_CHECKING:
    from tailrace.schema.messages import MessageType
    from tailrace.service.definitions import Tool

__all__ = ["Kind", "Method", "Methods", "RpcOptions", "implement", "make_method"]

Kind: TypeAlias = Literal["unary", "client_stream", "server_stream", "bidi"]

_KINDS: dict[tuple[bool, bool], Kind] = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi",
}
_ITERATORS = (AsyncIterator, AsyncIterable, AsyncGenerator)
_NO_SIDE_EFFECTS = 1  # google.protobuf.MethodOptions.IdempotencyLevel


class RpcOptions(TypedDict, total=False):
    """What ``@svc.rpc(...)`` takes; all of it is optional.

    Keys:
        name: The method's name. Default: the function's, in the style of protobuf (``place_order``: ``PlaceOrder``).
        once: True: a retry with the same ``Idempotency-Key`` runs once. A string: the field that holds the key.
        read_only: It changes nothing: a Connect client may GET it.
        timeout: Seconds a call may take, above 0. Default: None, no limit but the caller's.
    """

    name: str | None
    once: bool | str
    read_only: bool | None
    timeout: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One function that programs call over RPC.

    Attributes:
        path: ``package.Service/Method``, without the slash in front.
        service: Full name of its service, e.g. ``orders.v1.Orders``.
        name: Of the method alone.
        kind: Who streams: nobody, the client, the server, or both.
        input: Type of the request messages.
        output: Type of the response messages.
        bind: A request message's value to keyword arguments; not for streams of requests.
        fn: The function as it was written.
        place: Its name, file and line, for messages.
        context_param: The parameter that takes the `Context`, or None.
        stream_param: The parameter that takes the iterator of requests, or None where the client does not stream.
        is_async: It is a coroutine function. A plain one is run in a thread.
        is_generator: It is an asynchronous generator: its items are the responses.
        timeout: Seconds, or None.
        once: As in `RpcOptions`.
        read_only: As in `RpcOptions`.
        tool: The tool that it is as well, or None.
    """

    path: str
    service: str
    name: str
    kind: Kind
    input: MessageType
    output: MessageType
    bind: Callable[[Any], dict[str, Any]]
    fn: Callable[..., Any]
    place: str
    context_param: str | None
    stream_param: str | None
    is_async: bool
    is_generator: bool
    timeout: float | None = None
    once: bool | str = False
    read_only: bool | None = None
    tool: Tool | None = None


class Methods(Mapping[str, Method]):
    """All methods of a service by path: a live view, put together when it is first looked into."""

    def __init__(self, service: str, package: str | None) -> None:
        self._service = service
        self._package = package
        self._table: dict[str, Method] = {}

    def __getitem__(self, path: str) -> Method:
        return self._table[path]

    def get(self, path: str, default: Any = None) -> Any:  # a look-up for each request: not by way of an exception
        return self._table.get(path, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def full_name(self) -> str:
        """Of the RPC service in which ``@svc.rpc`` and ``@svc.tool`` put their methods."""
        return ".".join(filter(None, (self._package, pascal_case(self._service))))

    def add(self, method: Method) -> None:
        """Offer one more.

        Raises:
            DefinitionError: There is one at its path.
        """
        known = self._table.get(method.path)
        if known is not None:
            raise DefinitionError(f"method {method.path!r} is defined twice: {known.place} and {method.place}")
        self._table[method.path] = method


def pascal_case(name: str) -> str:
    """``place_order`` or ``place-order`` as ``PlaceOrder``; what is in it already stays."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", name))


def snake_case(name: str) -> str:
    """``PlaceOrder`` as ``place_order``, ``GetURL`` as ``get_url``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def make_method(
    fn: Callable[..., Any],
    service: str,
    *,
    name: str | None = None,
    once: bool | str = False,
    read_only: bool | None = None,
    timeout: float | None = None,
) -> Method:
    """Make a method of a function whose annotations name its messages; the options are those of `RpcOptions`.

    Args:
        fn: The function.
        service: Full name of the service it belongs to.
        name: The method's name, or None for the function's.
        once: See `RpcOptions`.
        read_only: See `RpcOptions`.
        timeout: See `RpcOptions`.

    Raises:
        DefinitionError: It cannot work; names the function, its file and line.
    """
    from tailrace.schema.messages import message_type

    signature = read_signature(fn)
    place = signature.place
    if len(signature.parameters) != 1:
        raise DefinitionError(f"{place}: a method takes one message (and the Context)")
    request = signature.parameters[0]
    streams, item = _item(request.hint)
    _check_form(fn, signature)
    name = name or pascal_case(fn.__name__)
    response = _response(fn, signature)
    return Method(
        path=f"{service}/{name}",
        service=service,
        name=name,
        kind=_KINDS[streams, inspect.isasyncgenfunction(fn)],
        input=message_type(item),
        output=message_type(response),
        **_calling(fn, signature, request, streams),
        timeout=_checked_timeout(timeout, place),
        once=once,
        read_only=read_only,
    )


# --- services that a .proto file defines ----------------------------------------------------------


def implement(descriptor: Any, implementation: Any, *, once: frozenset[str], timeout: float | None) -> Iterator[Method]:
    """The methods of a service that a ``.proto`` file defines; see `Service.implement`.

    Raises:
        DefinitionError: A function does not go with its method, or nothing is implemented.
    """
    if not hasattr(descriptor, "methods") or not hasattr(descriptor, "full_name"):
        raise DefinitionError(
            f"implement() takes a service's descriptor, as in orders_pb2.DESCRIPTOR.services_by_name['Orders'], "
            f"got {descriptor!r}"
        )
    found = False
    for defined in descriptor.methods:
        fn = getattr(implementation, defined.name, None) or getattr(implementation, snake_case(defined.name), None)
        if fn is not None:
            found = True
            yield _implemented(descriptor, defined, fn, once=defined.name in once, timeout=timeout)
    if not found:
        names = ", ".join(defined.name for defined in descriptor.methods)
        raise DefinitionError(f"{implementation!r} has none of the methods of {descriptor.full_name}: {names}")
    if unknown := sorted(once - {defined.name for defined in descriptor.methods}):
        raise DefinitionError(f"once= names {unknown[0]!r}, which is no method of {descriptor.full_name}")


def _implemented(service: Any, defined: Any, fn: Callable[..., Any], *, once: bool, timeout: float | None) -> Method:
    from tailrace.schema.messages import generated_type

    signature = _with_context(read_signature(fn))
    place, path = signature.place, f"{service.full_name}/{defined.name}"
    if len(signature.parameters) != 1:
        raise DefinitionError(f"{place}: {path} takes one message (and the Context)")
    request = signature.parameters[0]
    class_of = google("message_factory").GetMessageClass
    input, output = class_of(defined.input_type), class_of(defined.output_type)
    _check_form(fn, signature)
    if inspect.isasyncgenfunction(fn) is not bool(defined.server_streaming):
        how = "an asynchronous generator" if defined.server_streaming else "a function that returns one message"
        raise DefinitionError(f"{place}: {path} is to be {how}, as the .proto says")
    _check_hint(request.hint, input, defined.client_streaming, f"{place}: parameter {request.name!r} of {path}")
    _check_hint(signature.returns, output, defined.server_streaming, f"{place}: the result of {path}")
    return Method(
        path=path,
        service=service.full_name,
        name=defined.name,
        kind=_KINDS[bool(defined.client_streaming), bool(defined.server_streaming)],
        input=generated_type(input),
        output=generated_type(output),
        **_calling(fn, signature, request, bool(defined.client_streaming)),
        timeout=_checked_timeout(timeout, place),
        once=once,
        read_only=True if defined.GetOptions().idempotency_level == _NO_SIDE_EFFECTS else None,
    )


def _with_context(signature: Signature) -> Signature:
    """A class that implements generated code's interface often has no annotations: the names say it then."""
    if signature.context is not None:
        return signature
    for parameter in signature.parameters:
        if parameter.name in ("ctx", "context") and parameter.hint is Any and len(signature.parameters) == 2:
            rest = tuple(one for one in signature.parameters if one is not parameter)
            return dataclasses.replace(signature, parameters=rest, context=parameter.name)
    return signature


def _check_hint(hint: Any, expected: type, streams: bool, what: str) -> None:
    """An annotation is not needed, for the .proto says it all; but one that contradicts it is a mistake."""
    if hint is MISSING or hint is Any:
        return
    given, item = _item(hint)
    if given is not bool(streams) or (is_generated(item) and item is not expected):
        name = f"AsyncIterator[{expected.__name__}]" if streams else expected.__name__
        raise DefinitionError(f"{what} is {name}, as the .proto says, not {hint}")


# --- functions and their messages -----------------------------------------------------------------


def _item(hint: Any) -> tuple[bool, Any]:
    """Whether a type is a stream, and of what."""
    return (True, get_args(hint)[0]) if get_origin(hint) in _ITERATORS else (False, hint)


def _response(fn: Callable[..., Any], signature: Signature) -> Any:
    streams, item = _item(signature.returns)
    if streams is not inspect.isasyncgenfunction(fn):
        what = "an asynchronous generator (`async def` with `yield`) returns AsyncIterator[T], and nothing else does"
        raise DefinitionError(f"{signature.place}: {what}")
    return item


def _check_form(fn: Callable[..., Any], signature: Signature) -> None:
    if inspect.isgeneratorfunction(fn):
        raise DefinitionError(f"{signature.place}: a plain generator cannot be a method; make it `async def`")
    if _item(signature.parameters[0].hint)[0] and not _is_async(fn):
        raise DefinitionError(f"{signature.place}: who reads a stream of requests is `async def`")


def _is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)


def _calling(fn: Callable[..., Any], signature: Signature, request: Parameter, streams: bool) -> dict[str, Any]:
    """How the function is called: what all methods have in common."""
    name = request.name

    def bind(value: Any) -> dict[str, Any]:
        return {name: value}

    return {
        "fn": fn,
        "place": signature.place,
        "bind": bind,
        "context_param": signature.context,
        "stream_param": name if streams else None,
        "is_async": inspect.iscoroutinefunction(fn),
        "is_generator": inspect.isasyncgenfunction(fn),
    }


def _checked_timeout(timeout: float | None, place: str) -> float | None:
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise DefinitionError(f"{place}: timeout is in seconds and above 0, got {timeout!r}")
    return timeout
