"""The bridge to pydantic, used only for parameters and results whose types come from it.

pydantic is imported inside functions: a program that does not use it never loads it.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast, get_args, get_origin

from tailrace.errors import DefinitionError
from tailrace.schema.hints import MISSING, Parameter

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["Factory", "adapter", "result_adapter", "schemas", "unfold_default"]


@dataclasses.dataclass(frozen=True, slots=True)
class Factory:
    """A default that is made anew for each call."""

    make: Callable[[], Any]


def unfold_default(parameter: Parameter) -> Parameter:
    """Take ``x: int = Field(1, ge=1)`` for what it means: a default, constraints, another name in JSON."""
    if "pydantic" not in sys.modules:
        return parameter
    from pydantic.fields import FieldInfo

    hint, default = parameter.hint, parameter.default
    if isinstance(default, FieldInfo):
        inner: Any = Optional[hint] if default.default is None else hint  # noqa: UP045 - the hint is no literal
        hint, default = Annotated[inner, default], MISSING
    if get_origin(hint) is not Annotated:
        return parameter
    alias: str | None = None
    for field in (extra for extra in get_args(hint)[1:] if isinstance(extra, FieldInfo)):
        if default is MISSING and not field.is_required():
            made = cast("Callable[[], Any] | None", field.default_factory)
            default = field.default if made is None else Factory(made)
        alias = field.validation_alias if isinstance(field.validation_alias, str) else field.alias or alias
    return Parameter(parameter.name, hint, default, alias)


def adapter(parameter: Parameter, place: str) -> TypeAdapter[Any]:
    """Make the validator of one parameter.

    Raises:
        DefinitionError: pydantic cannot make a schema of its type.
    """
    return _adapter(parameter.hint, f"{place}: parameter {parameter.name!r}")


def result_adapter(hint: Any, place: str) -> TypeAdapter[Any]:
    """Make the serialiser of a return type.

    Raises:
        DefinitionError: pydantic cannot make a schema of it.
    """
    return _adapter(hint, f"{place}: the return annotation")


def schemas(
    adapters: dict[str, TypeAdapter[Any]], mode: Any, place: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Make the schemas of several adapters, and the definitions they share.

    Args:
        adapters: By name.
        mode: ``validation`` for what comes in, ``serialization`` for what goes out.
        place: Names the function, for the error.

    Raises:
        DefinitionError: A type has no JSON Schema.
    """
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema

    try:
        by_key, shared = TypeAdapter.json_schemas([(name, mode, one) for name, one in adapters.items()])
    except PydanticInvalidForJsonSchema as error:
        raise DefinitionError(f"{place}: {error.message}") from error
    return {name: dict(by_key[name, mode]) for name in adapters}, dict(shared.get("$defs", {}))


def _adapter(hint: Any, what: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError
    from pydantic.warnings import UnsupportedFieldAttributeWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)  # an alias is ours to honour
            return TypeAdapter(hint)
    except (PydanticUserError, TypeError) as error:
        raise DefinitionError(f"{what}: {str(error).splitlines()[0]}") from error
