"""Dependencies by type: who takes a parameter of a provided type gets what its provider gives, for this one call."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args, get_origin

from tailrace.errors import DefinitionError
from tailrace.schema import MISSING, Signature, read_signature

if TYPE_CHECKING:
    from tailrace.core.context import Context

__all__ = ["Provided", "Provider", "Providers", "provide"]

_PLAIN = frozenset({str, int, float, bool, bytes, list, dict, set, tuple, object, type(None), Any})
_ITERATORS = (AsyncIterator, AsyncIterable, AsyncGenerator)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One function that gives a value of a type.

    Attributes:
        type: Of what it gives.
        fn: The function; where `managed`, it gives an asynchronous context manager, which is left after the call.
        place: Its name, file and line, for messages.
        context_param: The parameter that takes the `Context`, or None.
        needs: Its own parameters that are provided.
        is_async: It is a coroutine function. A plain one is run in a thread.
        managed: What it gives has an end.
    """

    type: Any
    fn: Callable[..., Any]
    place: str
    context_param: str | None
    needs: Provided
    is_async: bool
    managed: bool


Provided: TypeAlias = tuple[tuple[str, Provider], ...]  # parameters, and who provides them


class Providers:
    """The providers of one service, by type."""

    def __init__(self) -> None:
        self._by_type: dict[Any, Provider] = {}

    def add(self, fn: Callable[..., Any], known: Iterable[Callable[..., Any]]) -> None:
        """Provide what `fn` gives.

        Args:
            fn: Its return annotation says the type.
            known: Functions that were read before, none of which may take that type from its caller.

        Raises:
            DefinitionError: It cannot work; names the function, its file and line.
        """
        provider = self._read(fn)
        if provider.type in self._by_type:
            raise DefinitionError(f"{provider.place}: {self._by_type[provider.type].place} provides the same type")
        for other in known:
            signature = read_signature(other)
            if any(_bare(parameter.hint) == provider.type for parameter in signature.parameters):
                raise DefinitionError(f"{provider.place}: define it above {signature.place}, which takes what it gives")
        self._by_type[provider.type] = provider

    def of(self, signature: Signature) -> Provided:
        """The parameters of a function that are provided."""
        if not self._by_type:
            return ()
        return tuple(
            (parameter.name, self._by_type[_bare(parameter.hint)])
            for parameter in signature.parameters
            if _hashable(_bare(parameter.hint)) and _bare(parameter.hint) in self._by_type
        )

    def _read(self, fn: Callable[..., Any]) -> Provider:
        signature = read_signature(fn)
        place, kind, managed = signature.place, signature.returns, False
        generator = inspect.isasyncgenfunction(fn)
        if inspect.isgeneratorfunction(fn):
            raise DefinitionError(f"{place}: a plain generator cannot provide; make it `async def`")
        if generator or get_origin(kind) in _ITERATORS or get_origin(kind) is AbstractAsyncContextManager:
            managed, kind = True, (get_args(kind) or (MISSING,))[0]
        kind = _bare(kind)
        if kind is MISSING or not _hashable(kind) or kind in _PLAIN or get_origin(kind) is not None:
            raise DefinitionError(
                f"{place}: what it provides is told by its return annotation, a type of its own "
                "(a class, or typing.NewType of a plain one)"
            )
        needs = self.of(signature)
        missing = {parameter.name for parameter in signature.parameters if parameter.default is MISSING}
        if missing := sorted(missing - {name for name, _ in needs}):
            raise DefinitionError(f"{place}: nobody provides its parameter {missing[0]!r}")
        return Provider(
            type=kind,
            fn=contextlib.asynccontextmanager(fn) if generator else fn,
            place=place,
            context_param=signature.context,
            needs=needs,
            is_async=inspect.iscoroutinefunction(fn),
            managed=managed,
        )


async def provide(
    stack: AsyncExitStack,
    provided: Provided,
    context: Context,
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> Mapping[str, Any]:
    """The arguments that are provided; each provider is asked once, and those that it needs before it.

    Args:
        stack: Ends what has an end, the last first.
        provided: What is wanted.
        context: Of the call.
        in_thread: Runs a plain function.
    """
    values: dict[Any, Any] = {}

    async def value_of(provider: Provider) -> Any:
        if provider.type not in values:
            arguments = {name: await value_of(needed) for name, needed in provider.needs}
            if provider.context_param is not None:
                arguments[provider.context_param] = context
            if provider.managed:
                value = await stack.enter_async_context(provider.fn(**arguments))
            elif provider.is_async:
                value = await provider.fn(**arguments)
            else:
                value = await in_thread(lambda: provider.fn(**arguments))
            values[provider.type] = value
        return values[provider.type]

    return {name: await value_of(provider) for name, provider in provided}


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _hashable(hint: Any) -> bool:
    try:
        hash(hint)
    except TypeError:
        return False
    return True
