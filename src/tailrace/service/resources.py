"""Resources: functions that give what stands at a URI, or at each URI of a template."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from tailrace.errors import DefinitionError
from tailrace.service.definitions import Definition, encode_definition, read_definition, scopes_of
from tailrace.service.prompts import Completer, Completions, read_completions
from tailrace.wire.uri_templates import UriTemplate

if TYPE_CHECKING:
    from tailrace.service.providers import Providers
    from tailrace.wire.content import Annotations, Icon

__all__ = ["Resource", "ResourceOptions", "make_resource"]


class ResourceOptions(TypedDict, total=False):
    """What ``@svc.resource(uri, ...)`` takes beside the URI; all of it is optional.

    Keys:
        name: For programs. Default: the function's name.
        title: For people. Default: none.
        description: Default: the docstring.
        mime_type: Of what the function returns. Default: ``text/plain`` for a string, ``application/octet-stream`` for
            bytes, ``application/json`` for other values.
        size: In bytes, where it is known before it is read. Default: not said.
        annotations: For whom it is, and how important. Default: not said.
        icons: Pictures that stand for it. Default: none.
        meta: Its `_meta`, JSON-able. Default: none.
        timeout: Seconds a read may take, above 0. Default: None, no limit of its own.
        complete: What a variable of the template can be: by name a list of strings, or a function that is given what
            was typed and gives such a list. Default: what the parameter's type says (`Literal`, an `Enum`, a bool).
        max_age: Seconds for which a client of 2026-07-28 may keep what it read (``ttlMs``). Default: 0.
        shared: What is read is the same for everybody (``cacheScope: public``). Default: False.
        any_path: The variables' values may be paths that lead anywhere (``..``, absolute ones). Default: False, such a
            URI is not found.
        scopes: What a token has to be good for to read it over HTTP, where the server's `auth=` knows scopes. Default:
            nothing beside what every request needs.
    """

    name: str | None
    title: str | None
    description: str | None
    mime_type: str | None
    size: int | None
    annotations: Annotations | None
    icons: Sequence[Icon]
    meta: Mapping[str, Any] | None
    timeout: float | None
    complete: Mapping[str, Sequence[str] | Completer]
    max_age: float
    shared: bool
    any_path: bool
    scopes: str | Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Definition):
    """One function that gives what stands at a URI, or at each URI of a template.

    Attributes:
        uri: The URI, or the template as text.
        template: The template, or None.
        completions: What its variables can be.

    The others are as in `ResourceOptions`.
    """

    uri: str
    template: UriTemplate | None
    mime_type: str | None
    size: int | None
    annotations: Annotations | None
    completions: Completions
    max_age: float
    shared: bool

    @property
    def is_template(self) -> bool:
        """It stands for many URIs."""
        return self.template is not None


def make_resource(
    fn: Callable[..., Any],
    uri: str,
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    mime_type: str | None = None,
    size: int | None = None,
    annotations: Annotations | None = None,
    icons: Sequence[Icon] = (),
    meta: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    complete: Mapping[str, Sequence[str] | Completer] | None = None,
    max_age: float = 0.0,
    shared: bool = False,
    any_path: bool = False,
    scopes: str | Sequence[str] = (),
    providers: Providers | None = None,
) -> Resource:
    """Make a resource of a function; the options are those of `ResourceOptions`.

    Raises:
        DefinitionError: It cannot work; names the function, its file and line.
    """
    common = read_definition(fn, description, providers)
    place, arguments = common["place"], common["arguments"]
    resource = Resource(
        uri=uri,
        template=_template(uri, place, any_path),
        name=name or fn.__name__,
        title=title,
        mime_type=mime_type,
        size=size,
        annotations=annotations,
        icons=tuple(icons),
        meta=meta,
        timeout=timeout,
        completions=read_completions(complete or {}, arguments, place),
        max_age=max_age,
        shared=shared,
        scopes=scopes_of(scopes),
        **common,
    )
    _check(resource)
    return dataclasses.replace(resource, definition=_definition(resource))


def _template(uri: str, place: str, any_path: bool) -> UriTemplate | None:
    if ":" not in uri.partition("{")[0]:
        raise DefinitionError(f"{place}: a resource has a URI, as in @svc.resource('orders://{{id}}'), got {uri!r}")
    if "{" not in uri and "}" not in uri:
        return None
    try:
        return UriTemplate(uri, any_path=any_path)
    except ValueError as error:
        raise DefinitionError(f"{place}: {uri!r}: {error}") from None


def _check(resource: Resource) -> None:
    uri, place = resource.uri, resource.place
    if inspect.isgeneratorfunction(resource.fn) or inspect.isasyncgenfunction(resource.fn):
        raise DefinitionError(f"{place}: a generator cannot be a resource; return a list")
    if resource.timeout is not None and not (resource.timeout > 0 and math.isfinite(resource.timeout)):
        raise DefinitionError(f"{place}: timeout is in seconds and above 0, got {resource.timeout!r}")
    if not (resource.max_age >= 0 and math.isfinite(resource.max_age)):
        raise DefinitionError(f"{place}: max_age is in seconds and not below 0, got {resource.max_age!r}")
    variables = resource.template.names if resource.template is not None else ()
    unknown = sorted(set(variables) - set(resource.arguments.names))
    missing = sorted(set(resource.arguments.schema.get("required", ())) - set(variables))
    if unknown:
        raise DefinitionError(f"{place}: {uri!r} has {unknown[0]!r}, which is no parameter of the function")
    if missing:
        raise DefinitionError(f"{place}: {uri!r} has no {{{missing[0]}}}, which the function requires")


def _definition(resource: Resource) -> bytes:
    where = "uri" if resource.template is None else "uriTemplate"
    return encode_definition(
        resource,
        **{where: resource.uri},
        mimeType=resource.mime_type,
        size=resource.size,
        annotations=resource.annotations,
    )
