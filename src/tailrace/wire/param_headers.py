"""`Mcp-Param-*`: arguments of a tool that a client repeats in HTTP headers, for what stands in between to route by.

A property of the tool's `inputSchema` asks for it by `x-mcp-header` (2026-07-28, transports: custom
headers). The client writes such a header, and the server refuses a call where it and the body differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct

from tailrace.errors import ProtocolError
from tailrace.wire.jsonrpc import INVALID_PARAMS
from tailrace.wire.mcp import HEADER_MISMATCH, decode_header_value, encode_header_value

__all__ = ["ParamHeader", "check_param_headers", "param_headers", "write_param_headers"]

_KEYWORD = "x-mcp-header"
_KINDS = ("string", "integer", "boolean")  # of a number, each language writes its own decimals
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_WHOLE = re.compile(r"(-?[0-9]{1,400})(\.0+)?")

# JSON Schema 2020-12: where schemas stand within a schema. Elsewhere (`default`, `enum`, …) there is data.
_ONE = (
    *("items", "contains", "unevaluatedItems", "additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("not", "if", "then", "else", "contentSchema"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("patternProperties", "dependentSchemas", "$defs", "definitions")


class ParamHeader(Struct, frozen=True):
    """One argument that is repeated in a header.

    Attributes:
        title: The header's name, e.g. ``Mcp-Param-Region``.
        key: The same in lower case, as a server finds it.
        path: The argument's name; further ones within objects.
        kind: Its type: ``string``, ``integer`` or ``boolean``.
    """

    title: str
    key: bytes
    path: tuple[str, ...]
    kind: str


def param_headers(schema: Mapping[str, Any]) -> tuple[ParamHeader, ...]:
    """Find what a tool's `inputSchema` wants to be repeated.

    Raises:
        ValueError: It asks for what the specification forbids, so that HTTP clients drop the tool: a name that is
            empty, no token, or given twice; a property of another type, or one that is not reached by names alone.
    """
    found: dict[bytes, ParamHeader] = {}
    for path, place in _places(schema):
        if _KEYWORD not in place:
            continue
        token, kind = place[_KEYWORD], place.get("type")
        if not path:
            raise ValueError(f"{_KEYWORD} {token!r} belongs to a property that no chain of `properties` leads to")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ValueError(f"{_KEYWORD} {token!r} of {path[-1]!r} cannot be part of a header's name")
        if kind not in _KINDS:
            raise ValueError(f"{_KEYWORD} is for string, integer and boolean, and {path[-1]!r} is of type {kind!r}")
        header = ParamHeader("Mcp-Param-" + token, b"mcp-param-" + token.lower().encode(), path, kind)
        if header.key in found:
            raise ValueError(f"{_KEYWORD} {token!r} is given to {path[-1]!r} and to {found[header.key].path[-1]!r}")
        found[header.key] = header
    return tuple(found.values())


def write_param_headers(headers: Sequence[ParamHeader], arguments: Mapping[str, Any]) -> dict[str, str]:
    """What a client sends with these arguments; absent ones and nulls have no header."""
    written = ((header, _text(_value(arguments, header.path))) for header in headers)
    return {header.title: encode_header_value(text) for header, text in written if text is not None}


def check_param_headers(
    headers: Sequence[ParamHeader], arguments: bytes, given: Callable[[bytes], list[str]]
) -> ProtocolError | None:
    """Compare the headers of a call with its body.

    Args:
        headers: Those of the tool.
        arguments: The body's arguments, raw; ``b""`` for none.
        given: All values of a header, by its lower-case name.

    Returns:
        What to refuse the call with (HTTP 400), or None.
    """
    try:
        values = msgspec.json.decode(arguments or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ProtocolError(INVALID_PARAMS, "the arguments are not valid JSON")
    for header in headers:
        problem = _problem(header, _value(values, header.path), given(header.key))
        if problem is not None:
            return ProtocolError(HEADER_MISMATCH, f"the header {header.title} {problem}")
    return None


def _problem(header: ParamHeader, value: Any, given: list[str]) -> str | None:
    text = _text(value)
    if len(given) > 1:
        return "is given more than once"
    if text is None:
        return "has no argument in the request's body" if given else None
    if not given:
        return "is missing"
    try:
        said = decode_header_value(given[0])
    except ValueError as error:
        return str(error)
    if said == text or (header.kind == "integer" and _same_number(said, text)):
        return None
    return "differs from the request's body"


def _same_number(one: str, other: str) -> bool:
    """``42`` and ``42.0`` are the same argument to JSON Schema."""
    first, second = _WHOLE.fullmatch(one), _WHOLE.fullmatch(other)
    return first is not None and second is not None and int(first[1]) == int(second[1])


def _text(value: Any) -> str | None:
    """A value as a header says it; None where there is none, or it is none that a header can say."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) else None


def _value(arguments: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(arguments, Mapping):
            return None
        arguments = cast("Mapping[str, Any]", arguments).get(name)
    return arguments


def _places(root: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every schema within a schema, with the names that lead to it; () where other things than names do."""
    waiting: list[tuple[tuple[str, ...] | None, Any]] = [((), root)]
    while waiting:
        path, schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        place = cast("dict[str, Any]", schema)
        yield path or (), place
        for name, below in _members(place.get("properties")):
            waiting.append((None if path is None else (*path, name), below))
        waiting += [(None, place[keyword]) for keyword in _ONE if keyword in place]
        for keyword in _LISTS:
            listed = place.get(keyword)
            waiting += [(None, below) for below in cast("list[Any]", listed)] if isinstance(listed, list) else []
        for keyword in _MAPS:
            waiting += [(None, below) for _, below in _members(place.get(keyword))]


def _members(value: Any) -> list[tuple[str, Any]]:
    return list(cast("dict[str, Any]", value).items()) if isinstance(value, dict) else []
