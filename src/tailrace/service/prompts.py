"""Prompts: functions that write messages, and the completion of arguments (of prompts and of resource templates)."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from tailrace.errors import DefinitionError
from tailrace.schema import choices_of, place_of, read_signature
from tailrace.service.definitions import Definition, encode_definition, read_definition, scopes_of

if TYPE_CHECKING:
    from tailrace.schema import Arguments
    from tailrace.service.middleware import Middleware
    from tailrace.service.providers import Provided, Providers
    from tailrace.wire.content import Icon

__all__ = [
    "Completer",
    "Completion",
    "Completions",
    "Prompt",
    "PromptOptions",
    "make_prompt",
    "read_completions",
]

Completer: TypeAlias = Callable[..., Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What one argument can be.

    Attributes:
        name: The argument's.
        choices: All of it, where that is known; those that begin with what was typed are given.
        fn: Gives it otherwise: takes ``value``, and ``arguments`` (those given already) and a `Context` if it wants.
        takes_arguments: It wants the others.

    The others are as in `Definition`.
    """

    name: str
    choices: tuple[str, ...] | None = None
    fn: Completer = str
    takes_arguments: bool = False
    context_param: str | None = None
    is_async: bool = False
    is_generator: bool = False
    timeout: float | None = None
    provided: Provided = ()
    middleware: tuple[Middleware, ...] = ()


Completions: TypeAlias = Mapping[str, Completion]


class PromptOptions(TypedDict, total=False):
    """What ``@svc.prompt(...)`` takes; all of it is optional.

    Keys:
        name: As clients call it. Default: the function's name.
        title: For people. Default: none.
        description: Default: the docstring, without the part that describes the arguments.
        icons: Pictures that stand for it. Default: none.
        meta: Its `_meta`, JSON-able. Default: none.
        timeout: Seconds a call may take, above 0. Default: None, no limit of its own.
        complete: What an argument can be, as in `ResourceOptions`.
        scopes: What a token has to be good for, as in `ResourceOptions`.
    """

    name: str | None
    title: str | None
    description: str | None
    icons: Sequence[Icon]
    meta: Mapping[str, Any] | None
    timeout: float | None
    complete: Mapping[str, Sequence[str] | Completer]
    scopes: str | Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Definition):
    """One function that writes the messages of a prompt.

    Attributes:
        completions: What its arguments can be.

    The others are as in `PromptOptions`.
    """

    completions: Completions


def make_prompt(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    icons: Sequence[Icon] = (),
    meta: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    complete: Mapping[str, Sequence[str] | Completer] | None = None,
    scopes: str | Sequence[str] = (),
    providers: Providers | None = None,
) -> Prompt:
    """Make a prompt of a function; the options are those of `PromptOptions`.

    Raises:
        DefinitionError: It cannot work; names the function, its file and line.
    """
    common = read_definition(fn, description, providers)
    prompt = Prompt(
        name=name or fn.__name__,
        title=title,
        icons=tuple(icons),
        meta=meta,
        timeout=timeout,
        scopes=scopes_of(scopes),
        completions=read_completions(complete or {}, common["arguments"], common["place"]),
        **common,
    )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(f"{prompt.place}: a generator cannot be a prompt; return a list of messages")
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise DefinitionError(f"{prompt.place}: timeout is in seconds and above 0, got {timeout!r}")
    return dataclasses.replace(prompt, definition=_definition(prompt))


def read_completions(
    given: Mapping[str, Sequence[str] | Completer], arguments: Arguments, place: str
) -> Mapping[str, Completion]:
    """What there is to know of a definition's completions, with those that its types give by themselves.

    Raises:
        DefinitionError: A completion is for no argument, or is neither strings nor a function that can be called.
    """
    found: dict[str, Completion] = {}
    for name in arguments.names:
        if choices := choices_of(arguments, name):
            found[name] = Completion(name=name, choices=tuple(choices))
    for name, one in given.items():
        if name not in arguments.names:
            raise DefinitionError(f"{place}: complete= has {name!r}, which is no parameter of the function")
        found[name] = _completion(one, name, place)
    return MappingProxyType(found)


def _completion(given: Sequence[str] | Completer, name: str, place: str) -> Completion:
    if not callable(given):
        if isinstance(given, str) or not all(isinstance(one, str) for one in list[Any](given)):
            raise DefinitionError(f"{place}: complete[{name!r}] is a list of strings, or a function")
        return Completion(name=name, choices=tuple(given))
    signature = read_signature(given)
    names = [parameter.name for parameter in signature.parameters]
    if names not in (["value"], ["value", "arguments"]):
        raise DefinitionError(
            f"{place_of(given)}: a completion takes `value`, and `arguments` if it wants, got {', '.join(names)}"
        )
    return Completion(
        name=name,
        fn=given,
        takes_arguments=len(names) > 1,
        context_param=signature.context,
        is_async=inspect.iscoroutinefunction(given),
    )


def _definition(prompt: Prompt) -> bytes:
    required = prompt.arguments.schema.get("required", ())
    arguments: list[dict[str, Any]] = []
    for name, schema in prompt.arguments.schema.get("properties", {}).items():
        argument: dict[str, Any] = {"name": name, "required": name in required}
        for key in ("title", "description"):
            if isinstance(schema.get(key), str):
                argument[key] = schema[key]
        arguments.append(argument)
    return encode_definition(prompt, arguments=arguments or None)
