"""A JSON Schema that the program wrote itself, instead of leaving it to the type hints: compiled once, then checked.

It is shown to clients word for word, so it may say what hints cannot: conditions, compositions,
anchors, a dialect. References that lead out of it are refused and never fetched (MCP, JSON Schema usage).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import jsonschema_rs
import msgspec

from tailrace.errors import DefinitionError
from tailrace.schema.complaints import complaint_of_jsonschema

__all__ = ["Check", "checker", "compile_schema"]

Check = Callable[[Any], "tuple[str, str] | None"]  # a value; what is wrong with it and its path, or None


def compile_schema(schema: Mapping[str, Any], place: str) -> tuple[dict[str, Any], Check]:
    """Take a copy of a schema of an object, and make what checks a value against it.

    Args:
        schema: JSON Schema; of 2020-12 unless its ``$schema`` says otherwise.
        place: Names the function, for the error.

    Raises:
        DefinitionError: It is no valid schema of an object, is of an unknown dialect, or refers to another document.
    """
    try:
        plain = cast("dict[str, Any]", msgspec.json.decode(msgspec.json.encode(schema)))
        if not isinstance(schema, Mapping) or plain.get("type") != "object":  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError('it needs "type": "object" at its root')
        return plain, checker(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise DefinitionError(f"{place}: input_schema is not usable: {str(error).partition(chr(10))[0]}") from None


def checker(schema: dict[str, Any]) -> Check:
    """What checks a value against a schema.

    Raises:
        ValueError: It is none, of an unknown dialect, or refers to another document.
    """
    validator = jsonschema_rs.validator_for(schema, retriever=_refuse)

    def check(value: Any) -> tuple[str, str] | None:
        try:
            validator.validate(value)  # `iter_errors` finds all of them first: of a million, in seconds and gigabytes
        except jsonschema_rs.ValidationError as error:
            return complaint_of_jsonschema(error)
        return None

    return check


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"it refers to {uri}, which is not fetched")
