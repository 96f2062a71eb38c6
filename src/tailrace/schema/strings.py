"""Arguments that come as strings: those of prompts, and the variables in a resource's URI.

MCP knows nothing but strings there, a function says what it wants. Where its type is not a string's, the string is
read as JSON: ``5``, ``true``, ``[1,2]``. What is none stays a string, and is complained about as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

if TYPE_CHECKING:
    from tailrace.schema.arguments import Arguments

__all__ = ["choices_of", "decode_strings"]


def decode_strings(arguments: Arguments, given: Mapping[str, str | Sequence[str]]) -> dict[str, Any]:
    """Keyword arguments of strings; defaults are filled in.

    Args:
        arguments: What the function takes.
        given: By name; a list for a variable that is one.

    Raises:
        InvalidArguments: They do not fit.
    """
    properties: Mapping[str, Any] = arguments.schema.get("properties", {})
    definitions: Mapping[str, Any] = arguments.schema.get("$defs", {})
    values = {name: _value(properties.get(name, {}), definitions, value) for name, value in given.items()}
    return arguments.decode(msgspec.json.encode(values))


def choices_of(arguments: Arguments, name: str) -> list[str]:
    """What an argument can be, where its type says so (`Literal`, an `Enum`, a bool); else nothing."""
    schema = arguments.schema
    found = _choices(schema.get("properties", {}).get(name, {}), schema.get("$defs", {}))
    return [one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in found if one is not None]


def _value(schema: Any, definitions: Mapping[str, Any], given: str | Sequence[str]) -> Any:
    if not isinstance(given, str):
        parts = _parts(schema, definitions)
        items: Any = next((part["items"] for part in parts if "items" in part), None)
        return [_value(items, definitions, one) for one in given]
    if _admits_text(schema, definitions):
        return given
    for text in (given, given.lower()):  # True, as Python prints it, is true
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            continue
    return given


def _parts(schema: Any, definitions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A schema and its alternatives, references followed."""
    if not isinstance(schema, dict):
        return []
    found = cast("dict[str, Any]", schema)
    reference = found.get("$ref")
    if isinstance(reference, str):
        found = {**definitions.get(reference.removeprefix("#/$defs/"), {}), **found}
    return [found, *(part for one in found.get("anyOf", ()) for part in _parts(one, definitions))]


def _admits_text(schema: Any, definitions: Mapping[str, Any]) -> bool:
    parts = _parts(schema, definitions)
    for part in parts:
        kind = part.get("type")
        if kind == "string" or (isinstance(kind, list) and "string" in kind):
            return True
        if any(isinstance(one, str) for one in part.get("enum", ())) or isinstance(part.get("const"), str):
            return True
    return not any({"type", "enum", "const", "anyOf", "oneOf", "allOf"} & part.keys() for part in parts)


def _choices(schema: Any, definitions: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for part in _parts(schema, definitions):
        found += part.get("enum", ())
        if "const" in part:
            found.append(part["const"])
        if part.get("type") == "boolean":
            found += [True, False]
    return found
