"""What is offered, by name: tools, resources and prompts, which come and go while servers run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar, Unpack, overload

from tailrace.errors import DefinitionError
from tailrace.schema import place_of
from tailrace.service.definitions import Tool, ToolOptions, make_tool
from tailrace.service.prompts import Prompt, PromptOptions, make_prompt
from tailrace.service.providers import Providers
from tailrace.service.resources import Resource, ResourceOptions, make_resource

__all__ = ["Catalog", "Kind", "check_options", "decorate"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", Tool, Resource, Prompt)

Kind: TypeAlias = Literal["tools", "resources", "prompts"]


class Catalog:
    """Tools, resources and prompts, with the decorators that add them.

    Args:
        changed: Called with the kind whenever one is added or removed, in whatever thread that happens.
        providers: Of parameters that do not come from the caller; default: its own.

    Attributes:
        revision: Another number after each change.
    """

    def __init__(self, changed: Callable[[Kind], None], providers: Providers | None = None) -> None:
        self._tools: dict[str, Tool] = {}
        self._resources: dict[str, Resource] = {}
        self._prompts: dict[str, Prompt] = {}
        self._changed = changed
        self._providers = providers if providers is not None else Providers()
        self.revision = 0

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by name, in order of definition; a live view."""
        return MappingProxyType(self._tools)

    @property
    def resources(self) -> Mapping[str, Resource]:
        """The resources by URI or template, in order of definition; a live view."""
        return MappingProxyType(self._resources)

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """The prompts by name, in order of definition; a live view."""
        return MappingProxyType(self._prompts)

    # --- adding ---

    @overload
    def tool(self, fn: F, /) -> F: ...
    @overload
    def tool(self, /, **options: Unpack[ToolOptions]) -> Callable[[F], F]: ...
    def tool(self, fn: Any = None, /, **options: Any) -> Any:
        """Offer a function as a tool; works bare and called, and gives the function back.

        A tool that is added while a server runs is announced to its clients (``tools/list_changed``).

        Args:
            fn: The function: async, plain (run in a thread), or an asynchronous generator.
            options: See `ToolOptions`.

        Raises:
            DefinitionError: It cannot work; names the function, its file and line.
        """

        def define(function: Callable[..., Any]) -> None:
            check_options(function, options, "tool", ToolOptions.__optional_keys__)
            tool = make_tool(function, providers=self._providers, **options)
            self._add("tools", self._tools, tool.name, tool)

        return decorate(fn, define)

    def resource(self, uri: str, /, **options: Unpack[ResourceOptions]) -> Callable[[F], F]:
        """Offer a function as a resource: what it returns stands at the URI.

        It returns a string, bytes, `ResourceContents`, a list of several of these, or any other value, which becomes
        JSON. Where nothing stands at a URI of a template, it raises `ResourceNotFound` (or returns None).

        Args:
            uri: Its URI, or a template (RFC 6570) with a variable for each of the function's parameters: ``{id}``,
                ``{+path}`` with slashes, ``{/path*}`` as a list, ``{?q,tag*}`` in the query.
            options: See `ResourceOptions`.

        Raises:
            DefinitionError: The URI has no scheme, the template cannot be read backwards, or its variables are not the
                function's parameters.
        """

        if not isinstance(uri, str):  # pyright: ignore[reportUnnecessaryIsInstance] - @svc.resource, bare
            raise DefinitionError(f"@svc.resource takes a URI, as in @svc.resource('orders://{{id}}'), got {uri!r}")

        def define(function: Callable[..., Any]) -> None:
            check_options(function, options, "resource", ResourceOptions.__optional_keys__)
            resource = make_resource(function, uri, providers=self._providers, **options)
            self._add("resources", self._resources, uri, resource)

        return decorate(None, define)

    @overload
    def prompt(self, fn: F, /) -> F: ...
    @overload
    def prompt(self, /, **options: Unpack[PromptOptions]) -> Callable[[F], F]: ...
    def prompt(self, fn: Any = None, /, **options: Any) -> Any:
        """Offer a function as a prompt; works bare and called.

        It returns a string or a block (one message of the user's), a `PromptMessage`, or a list of these. Its
        arguments come as strings; where a parameter's type is another, they are read as JSON.

        Args:
            fn: The function, async or plain.
            options: See `PromptOptions`.

        Raises:
            DefinitionError: It cannot work; names the function, its file and line.
        """

        def define(function: Callable[..., Any]) -> None:
            check_options(function, options, "prompt", PromptOptions.__optional_keys__)
            prompt = make_prompt(function, providers=self._providers, **options)
            self._add("prompts", self._prompts, prompt.name, prompt)

        return decorate(fn, define)

    # --- taking away ---

    def remove_tool(self, name: str) -> None:
        """Offer it no more; calls that run go on.

        Raises:
            KeyError: There is no such tool.
        """
        self._remove("tools", self._tools, name)

    def remove_resource(self, uri: str) -> None:
        """Offer it no more.

        Args:
            uri: As it was given to `resource`.

        Raises:
            KeyError: There is no such resource.
        """
        self._remove("resources", self._resources, uri)

    def remove_prompt(self, name: str) -> None:
        """Offer it no more.

        Raises:
            KeyError: There is no such prompt.
        """
        self._remove("prompts", self._prompts, name)

    # --- inside ---

    def _add(self, kind: Kind, known: dict[str, T], key: str, new: T) -> None:
        if key in known:
            one = kind.removesuffix("s")
            raise DefinitionError(f"{one} {key!r} is defined twice: {known[key].place} and {new.place}")
        known[key] = new
        self._note(kind)

    def _remove(self, kind: Kind, known: dict[str, Any], key: str) -> None:
        del known[key]
        self._note(kind)

    def _note(self, kind: Kind) -> None:
        self.revision += 1
        self._changed(kind)


_FORMS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(("name", "title", "description", "mime_type"), (str, "a string")),
    **dict.fromkeys(("read_only", "idempotent", "destructive", "open_world"), (bool, "True or False")),
    **dict.fromkeys(("rpc", "journal", "shared", "any_path"), (bool, "True or False")),
    **dict.fromkeys(("timeout", "max_age"), ((int, float), "a number of seconds")),
    "once": ((bool, str), "True, False or the name of an argument"),
}


def check_options(fn: Callable[..., Any], options: Mapping[str, Any], kind: str, known: frozenset[str]) -> None:
    """Refuse options that a decorator does not have, and values that are none of an option's."""
    for name in sorted(options.keys() - known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        hint = f"did you mean {near[0]!r}? There" if near else "there"
        raise DefinitionError(
            f"{place_of(fn)}: there is no option {name!r} of @{kind}; {hint} are {', '.join(sorted(known))}"
        )
    for name, value in options.items():
        kinds, words = _FORMS.get(name, (object, ""))
        if value is not None and not isinstance(value, kinds):
            raise DefinitionError(f"{place_of(fn)}: {name}= is {words}, got {value!r}")


def decorate(fn: Any, define: Callable[[Callable[..., Any]], None], *, instead: str = "; give a name as name=") -> Any:
    """Serve a decorator that is used bare (`fn` is the function) or called (`fn` is None)."""

    def decorator(function: F) -> F:
        if not callable(function):
            raise DefinitionError(f"the decorator takes a function, got {function!r}{instead}")
        define(function)
        return function

    return decorator if fn is None else decorator(fn)
