"""Types as JSON Schema, by msgspec, with the few types added that it does not know.

Schemas leave here valid under 2020-12, with all references into ``#/$defs/``.
"""

from __future__ import annotations

import pathlib
import sys
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, cast, get_args, get_origin

import msgspec

from tailrace.errors import DefinitionError
from tailrace.schema.hints import MISSING

__all__ = ["decode_custom", "description_of", "encode_custom", "merge_schemas", "schemas_of", "to_plain"]

_REFERENCE = "#/$defs/"


def schemas_of(hints: Sequence[tuple[str, Any]], place: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Make the schemas of several types, and the definitions they share.

    Args:
        hints: What each type belongs to (for the error), and the type.
        place: Names the function, for the error.

    Raises:
        DefinitionError: A type has no JSON form.
    """
    for what, hint in hints:  # one at a time, to say which it is
        try:
            msgspec.json.schema_components([hint], schema_hook=_custom_schema)
            msgspec.json.Decoder(hint, dec_hook=decode_custom)
        except Exception as error:
            raise DefinitionError(f"{place}: {what}: {_why(hint, error)}") from error
    schemas, definitions = msgspec.json.schema_components(
        [hint for _, hint in hints], schema_hook=_custom_schema, ref_template=_REFERENCE + "{name}"
    )
    return list(schemas), definitions


def description_of(hint: Any, schema: dict[str, Any]) -> str | None:
    """What a hint says in words: ``Annotated[T, "text"]``, ``Doc("text")``, or a constraint's own description.

    Args:
        hint: A type.
        schema: Its schema; not searched beyond the type itself and, for a union, its members.
    """
    if get_origin(hint) is Annotated:
        for extra in get_args(hint)[1:]:
            text = extra if isinstance(extra, str) else getattr(extra, "documentation", None)
            if isinstance(text, str):
                return text
    if isinstance(text := schema.get("description"), str):
        return text
    inner = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    found = [description_of(one, {}) for one in inner] + [one.get("description") for one in schema.get("anyOf", ())]
    return next((text for text in found if text), None)


def merge_schemas(
    schemas: dict[str, dict[str, Any]], definitions: dict[str, Any], known: dict[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Add `definitions` to those `known`; where two differ under one name, the new one is renamed."""
    renamed: dict[str, str] = {}
    for name, schema in definitions.items():
        new = name
        while new in known and known[new] != schema:
            new += "_"
        if new != name:
            renamed[_REFERENCE + name] = _REFERENCE + new
        known = {**known, new: schema}
    if renamed:
        own = {renamed.get(_REFERENCE + name, name).removeprefix(_REFERENCE) for name in definitions}
        known = {name: _redirect(schema, renamed) if name in own else schema for name, schema in known.items()}
        schemas = {name: _redirect(schema, renamed) for name, schema in schemas.items()}
    return schemas, known


def to_plain(value: Any) -> Any:
    """A default as JSON-able data, or `MISSING` where it has no JSON form (a sentinel, for example)."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=encode_custom))
    except Exception:
        return MISSING


def encode_custom(value: Any) -> Any:
    """The JSON-able form of a value that msgspec does not know; msgspec's `enc_hook`."""
    if isinstance(value, pathlib.PurePath):
        return str(value)
    dump = getattr(value, "model_dump", None)
    if dump is not None and "pydantic" in sys.modules:
        return dump(mode="json", by_alias=True)
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")


def decode_custom(cls: type, value: Any) -> Any:
    """Make a value of a type that msgspec does not know; msgspec's `dec_hook`."""
    if issubclass(cls, pathlib.PurePath):
        if not isinstance(value, str):
            raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
        return cls(value)
    raise NotImplementedError(f"type {cls.__name__} has no JSON form")


def _custom_schema(cls: type) -> dict[str, Any]:
    if issubclass(cls, pathlib.PurePath):
        return {"type": "string", "format": "path"}
    raise NotImplementedError


def _redirect(schema: Any, renamed: dict[str, str]) -> Any:
    if isinstance(schema, list):
        return [_redirect(value, renamed) for value in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    redirected = {key: _redirect(value, renamed) for key, value in cast("dict[str, Any]", schema).items()}
    if isinstance(redirected.get("$ref"), str):
        redirected["$ref"] = renamed.get(redirected["$ref"], redirected["$ref"])
    return redirected


def _why(hint: Any, error: Exception) -> str:
    text = str(error)
    if "schema_hook" in text or isinstance(error, NotImplementedError):
        instead = "a dataclass, a TypedDict, a pydantic model, a msgspec.Struct or a builtin type"
        return f"type {_name(hint)} has no JSON form; use {instead}"
    if isinstance(error, NameError):
        return f"{text} (in a field of {_name(hint)}): types used in annotations must be importable from their module"
    return text


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
