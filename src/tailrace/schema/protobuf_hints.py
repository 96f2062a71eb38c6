"""Type hints, read for protobuf: what msgspec says of them, beside it pydantic's models, and their field numbers."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from msgspec import inspect as mi

from tailrace.schema.shapes import FieldNumber

__all__ = ["info_of", "is_model", "number_of", "numbers_of", "plain"]


def info_of(hint: Any) -> mi.Type:
    """What msgspec says of a type; it knows no unions of pydantic's models, which pydantic does."""
    try:
        return mi.type_info(hint)
    except TypeError:
        origin, inner = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return info_of(inner[0])
        if origin in (Union, types.UnionType) and all(is_model(one) or one is types.NoneType for one in inner):
            return mi.UnionType(tuple(info_of(one) for one in inner))
        if origin in (list, Sequence):
            return mi.ListType(info_of(inner[0]))
        if origin in (dict, Mapping):
            return mi.DictType(info_of(inner[0]), info_of(inner[1]))
        raise


def plain(info: mi.Type) -> mi.Type:
    while isinstance(info, mi.Metadata):
        info = info.type
    return info


def is_model(cls: Any) -> bool:
    return hasattr(cls, "model_fields") and hasattr(cls, "model_validate")


def number_of(hint: Any) -> int | None:
    """The number that ``Annotated[T, FieldNumber(n)]`` gives."""
    if get_origin(hint) is not Annotated:
        return None
    return next((extra.number for extra in get_args(hint)[1:] if isinstance(extra, FieldNumber)), None)


def numbers_of(cls: Any) -> dict[str, int]:
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # msgspec resolved them already, with names that are local to where they stand
        hints = dict[str, Any](getattr(cls, "__annotations__", {}))
    return {name: number for name, hint in hints.items() if (number := number_of(hint)) is not None}
