"""What a user is asked to fill in: a flat form, from a type (MCP, elicitation: requested schema).

Clients show such a form to people, so its fields are text, numbers, yes or no, and choices (one, or several of a list),
and nothing inside of another. A dataclass, a msgspec struct, a pydantic model or a `TypedDict` gives several fields, a
single type one field `value`; a JSON Schema is taken as it is, and what was filled in is checked against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from tailrace.errors import DefinitionError
from tailrace.schema.given import Check, checker
from tailrace.schema.hints import is_pydantic

__all__ = ["Form"]

_SIMPLE = frozenset({"string", "number", "integer", "boolean"})


class Form:
    """A form for `kind`.

    Args:
        kind: What the answer is to be; None for a mere yes or no.

    Raises:
        DefinitionError: It is not flat, or no schema.
    """

    def __init__(self, kind: Any) -> None:
        self._kind: Any = kind
        self._bare = False
        self._check: Check | None = None
        if kind is None or isinstance(kind, Mapping):
            given = cast("Mapping[str, Any]", kind or {})
            self.schema: dict[str, Any] = {"type": "object", "properties": {}, **given}
            try:
                self._check = checker(self.schema)
            except (TypeError, ValueError) as error:
                raise DefinitionError(f"a form's schema is not usable: {str(error).partition(chr(10))[0]}") from None
            return
        pydantic = is_pydantic(kind)
        if not pydantic and not _has_fields(kind):
            self._bare = True
            self._kind = msgspec.defstruct("Answer", [("value", kind)])
        raw = kind.model_json_schema() if pydantic else msgspec.json.schema(self._kind)
        definitions = raw.get("$defs", {})
        whole = _resolved(raw, definitions)
        fields = {name: _simple(name, field, definitions) for name, field in whole.get("properties", {}).items()}
        self.schema = {"type": "object", "properties": fields, "required": whole.get("required", [])}

    def read(self, content: Any) -> Any:
        """What the client sent, as the type that was asked for.

        Raises:
            ValueError: It does not fit.
        """
        if self._check is not None:
            if (wrong := self._check(content)) is not None:
                raise ValueError(" at ".join(wrong))
            return content
        if is_pydantic(self._kind):
            return self._kind.model_validate(content)
        value: Any = msgspec.convert(content, self._kind)  # its error is a ValueError
        return value.value if self._bare else value


def _has_fields(kind: Any) -> bool:
    return (
        hasattr(kind, "__dataclass_fields__")
        or hasattr(kind, "__struct_fields__")
        or (hasattr(kind, "__total__") and isinstance(kind, type))
    )


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = definitions[str(schema["$ref"]).rpartition("/")[2]]
    return schema


def _simple(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """One field; an optional one is simply not required."""
    choices = [_resolved(one, definitions) for one in schema.get("anyOf", [schema])]
    field = [one for one in choices if one.get("type") != "null"]
    if len(field) == 1:
        found = {
            **field[0],
            **{key: value for key, value in schema.items() if key in ("title", "description", "default")},
        }
        if found.get("default", 0) is None:
            del found["default"]
        if "enum" in found:
            found.setdefault("type", "string")
        if found.get("type") in _SIMPLE:
            return found
        if found.get("type") == "array" and "enum" in (items := _resolved(found.get("items", {}), definitions)):
            return {**found, "items": {"type": "string", **items}}
    raise DefinitionError(f"a form has text, numbers, booleans and choices only; field {name!r} is none of these")
