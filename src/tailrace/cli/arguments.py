"""From words on the command line to a tool's arguments, typed by the tool's own input schema.

    item=tea qty=2            `qty` becomes a number because the schema says so
    to.city=Ghent             nested
    tag=a tag=b               a list, given one by one
    note=@letter.txt          the text of a file; `@-` is standard input
    lines:='[{"qty": 2}]'     raw JSON; `:=@file` reads it from a file
    '{"item": "tea"}'         all arguments at once; `@file` reads them from a file

A schema only helps to read the words. Whether the arguments are right, the server says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

__all__ = ["ArgumentError", "Schema", "alternatives", "is_object", "parse_arguments"]

Schema: TypeAlias = Mapping[str, Any]

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_DIGITS = {"1": True, "0": False}


class ArgumentError(ValueError):
    """A word cannot be understood, or does not fit the schema; the text says which and why."""


def parse_arguments(words: Sequence[str], schema: Schema, read: Callable[[str], str]) -> dict[str, Any]:
    """Build the arguments of one call; later words override nothing: a clash is an error.

    Args:
        words: As the shell gave them.
        schema: The tool's input schema. An argument it does not know is passed on as text (or as JSON, if it
            is some), so that the server can say what is wrong with it.
        read: Gives the text of a file by the name after an ``@``.

    Raises:
        ArgumentError: A word is of no known form, does not fit its type, or clashes with another.
    """
    result: dict[str, Any] = {}
    for word in words:
        if word.startswith(("{", "@")):
            text = read(word[1:]) if word.startswith("@") else word
            for key, value in _json_object(text, word).items():
                _put(result, (key,), value, word, repeat=False)
            continue
        name, raw, text = _divide(word)
        path = _path(name, schema)
        where = _schema_at(path, schema)
        if text.startswith("@"):
            text = read(text[1:])
        value = _json(text, word) if raw else _typed(text, where, schema, name)
        _put(result, path, value, word, repeat=_is_list(where, schema))
    return result


def is_object(value: object) -> TypeGuard[Schema]:
    """It is a JSON object, as read."""
    return isinstance(value, Mapping)


def alternatives(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The plain schemas that a schema stands for: references followed, unions and lists of types taken apart."""
    yield from _flat(schema, root, 8)


# --- words ----------------------------------------------------------------------------------------


def _divide(word: str) -> tuple[str, bool, str]:
    name, equals, text = word.partition("=")
    if not equals or not name.rstrip(":"):
        raise ArgumentError(f"{word!r} is no argument: give name=value, name:=JSON, a JSON object, or @file")
    return (name[:-1], True, text) if name.endswith(":") else (name, False, text)


def _path(name: str, schema: Schema) -> tuple[str, ...]:
    if name in schema.get("properties", {}):
        return (name,)  # a name that has dots itself
    path = tuple(name.split("."))
    if not all(path):
        raise ArgumentError(f"{name!r} is no name of an argument")
    return path


def _put(result: dict[str, Any], path: tuple[str, ...], value: Any, word: str, *, repeat: bool) -> None:
    inside = result
    for part in path[:-1]:
        below = inside.setdefault(part, {})
        if not isinstance(below, dict):
            raise ArgumentError(f"{word!r}: {part!r} was given another value before")
        inside = cast("dict[str, Any]", below)
    last = path[-1]
    if last not in inside:
        inside[last] = value
    elif repeat and isinstance(inside[last], list) and isinstance(value, list):
        inside[last] = [*inside[last], *value]
    else:
        raise ArgumentError(f"{word!r}: {'.'.join(path)!r} is given twice")


# --- schemas --------------------------------------------------------------------------------------


def _schema_at(path: tuple[str, ...], root: Schema) -> Schema:
    here = root
    for part in path:
        for option in _flat(here, root, 8):
            found = option.get("properties", {}).get(part, option.get("additionalProperties"))
            if is_object(found):
                here = found
                break
        else:
            return {}
    return here


def _flat(schema: Schema, root: Schema, depth: int) -> Iterator[Schema]:
    if depth == 0:  # a schema may refer to itself
        return
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield from _flat(_referred(reference, root), root, depth - 1)
        return
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            for option in schema[union]:
                yield from _flat(option, root, depth - 1)
            return
    types: Any = schema.get("type")
    if isinstance(types, list):
        for one in cast("list[Any]", types):
            yield {**schema, "type": one}
    else:
        yield schema


def _referred(reference: str, root: Schema) -> Schema:
    here: Any = root
    for part in reference.removeprefix("#/").split("/"):
        here = here.get(part.replace("~1", "/").replace("~0", "~")) if is_object(here) else None
    return here if is_object(here) else {}


def _is_list(schema: Schema, root: Schema) -> bool:
    return any(option.get("type") == "array" for option in alternatives(schema, root))


# --- values ---------------------------------------------------------------------------------------


def _typed(text: str, schema: Schema, root: Schema, name: str) -> Any:
    """Read a text as the first type of the schema that takes it: the narrow types first, text last."""
    options = list(alternatives(schema, root)) or [{}]
    kinds = {_kind(option) for option in options}
    for option in sorted(options, key=lambda option: _ORDER.index(_kind(option))):
        kind = _kind(option)
        if kind == "choice":
            for choice in option.get("enum", [option.get("const")]):
                if text == (choice if isinstance(choice, str) else json.dumps(choice)):
                    return choice
        elif kind == "array":
            items = option.get("items")
            if not text.startswith("["):
                return [_typed(text, items if is_object(items) else {}, root, name)]
            return _json(text, f"{name}={text}")
        elif kind == "object":
            return _json_object(text, f"{name}={text}")
        elif kind == "boolean" and not kinds & {"integer", "number"} and text in _DIGITS:
            return _DIGITS[text]
        else:
            value = _READERS[kind](text)
            if value is not _NO:
                return value
    raise ArgumentError(f"{name}={text}: expected {_expected(options)}")


_NO = object()  # the text is none of this type
_ORDER = ("choice", "null", "boolean", "integer", "number", "array", "object", "any", "string")


def _kind(option: Schema) -> str:
    if "enum" in option or "const" in option:
        return "choice"
    kind = option.get("type")
    return kind if kind in _ORDER else "any"


def _integer(text: str) -> Any:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,4000}", text) else _NO


def _number(text: str) -> Any:
    if (whole := _integer(text)) is not _NO:
        return whole
    try:
        value = float(text)
    except ValueError:
        return _NO
    return value if math.isfinite(value) else _NO


def _any(text: str) -> Any:
    try:
        return _loads(text)
    except ValueError:
        return text


_READERS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None if text == "null" else _NO,
    "boolean": lambda text: _WORDS.get(text.lower(), _NO),
    "integer": _integer,
    "number": _number,
    "any": _any,
    "string": lambda text: text,
}


def _expected(options: Sequence[Schema]) -> str:
    said: list[str] = []
    for option in options:
        if _kind(option) == "choice":
            said += [json.dumps(choice) for choice in option.get("enum", [option.get("const")])]
        else:
            said.append(
                {"integer": "an integer", "number": "a number", "boolean": "true or false"}.get(
                    _kind(option), _kind(option)
                )
            )
    return " or ".join(said)


def _loads(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _json(text: str, word: str) -> Any:
    try:
        return _loads(text)
    except ValueError as error:
        raise ArgumentError(f"{word!r} is not valid JSON: {error}") from None


def _json_object(text: str, word: str) -> dict[str, Any]:
    value = _json(text, word)
    if not isinstance(value, dict):
        raise ArgumentError(f"{word!r}: expected a JSON object")
    return cast("dict[str, Any]", value)
