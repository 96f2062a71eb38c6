"""An object's functions as the methods of a service that a ``.proto`` file defines."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from tailrace.errors import DefinitionError
from tailrace.schema.hints import MISSING, Signature, read_signature
from tailrace.schema.protobuf import google, is_generated
from tailrace.service.methods import Method
from tailrace.service.naming import snake_case
from tailrace.service.signatures import check_form, check_once, checked_timeout, item_of, kind_of

__all__ = ["implement"]

_NO_SIDE_EFFECTS = 1  # google.protobuf.MethodOptions.IdempotencyLevel


def implement(descriptor: Any, implementation: Any, *, once: frozenset[str], timeout: float | None) -> list[Method]:
    """The methods of a service that a ``.proto`` file defines; see `Service.implement`.

    Raises:
        DefinitionError: A function does not go with its method, or nothing is implemented.
    """
    if not hasattr(descriptor, "methods") or not hasattr(descriptor, "full_name"):
        raise DefinitionError(
            f"implement() takes a service's descriptor, as in orders_pb2.DESCRIPTOR.services_by_name['Orders'], "
            f"got {descriptor!r}"
        )
    found: list[Method] = []
    for defined in descriptor.methods:
        fn = getattr(implementation, defined.name, None) or getattr(implementation, snake_case(defined.name), None)
        if fn is not None:
            found.append(_implemented(descriptor, defined, fn, once=defined.name in once, timeout=timeout))
    if not found:
        names = ", ".join(defined.name for defined in descriptor.methods)
        raise DefinitionError(f"{implementation!r} has none of the methods of {descriptor.full_name}: {names}")
    if unknown := sorted(once - {defined.name for defined in descriptor.methods}):
        raise DefinitionError(f"once= names {unknown[0]!r}, which is no method of {descriptor.full_name}")
    return found


def _implemented(service: Any, defined: Any, fn: Callable[..., Any], *, once: bool, timeout: float | None) -> Method:
    from tailrace.schema.messages import generated_type

    signature = _with_context(read_signature(fn))
    place, path = signature.place, f"{service.full_name}/{defined.name}"
    if len(signature.parameters) != 1:
        raise DefinitionError(f"{place}: {path} takes one message (and the Context)")
    request = signature.parameters[0]
    class_of = google("message_factory").GetMessageClass
    input, output = class_of(defined.input_type), class_of(defined.output_type)
    client, server = bool(defined.client_streaming), bool(defined.server_streaming)
    check_form(fn, signature)
    if inspect.isasyncgenfunction(fn) is not server:
        how = "an asynchronous generator" if server else "a function that returns one message"
        raise DefinitionError(f"{place}: {path} is to be {how}, as the .proto says")
    if client and not inspect.iscoroutinefunction(fn) and not server:
        raise DefinitionError(f"{place}: who reads a stream of requests is `async def`")
    check_once(once, kind_of(client, server), place)
    _check_hint(request.hint, input, client, f"{place}: parameter {request.name!r} of {path}")
    _check_hint(signature.returns, output, server, f"{place}: the result of {path}")

    def bind(value: Any) -> dict[str, Any]:
        return {request.name: value}

    return Method(
        path=path,
        service=service.full_name,
        name=defined.name,
        kind=kind_of(client, server),
        input=generated_type(input),
        output=generated_type(output),
        bind=bind,
        fn=fn,
        place=place,
        context_param=signature.context,
        stream_param=request.name if client else None,
        is_async=inspect.iscoroutinefunction(fn),
        is_generator=server,
        timeout=checked_timeout(timeout, place),
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
    given, item = item_of(hint)
    if given is not streams or (is_generated(item) and item is not expected):
        name = f"AsyncIterator[{expected.__name__}]" if streams else expected.__name__
        raise DefinitionError(f"{what} is {name}, as the .proto says, not {hint}")
