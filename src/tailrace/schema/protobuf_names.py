"""Names in protobuf: what a Python type is called there, and which names cannot be told apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args, get_origin

from tailrace.schema.shapes import Scalar

if TYPE_CHECKING:
    from tailrace.schema.shapes import Node, Shape

__all__ = ["IDENTIFIER", "NoForm", "check_fields", "class_name", "name_of", "shown", "snake_case"]

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class NoForm(Exception):
    """A type has no protobuf form: why."""


def check_fields(shape: Shape, what: str) -> None:
    """Names that protobuf, or its JSON, could not tell apart; numbers that are given twice."""
    names: dict[str, str] = {}
    numbers: dict[int, str] = {}
    for field in shape.fields:
        if not IDENTIFIER.fullmatch(field.name):
            raise NoForm(f"{field.name!r} of {what} is no name in protobuf")
        other = names.setdefault(field.name.replace("_", "").lower(), field.name)
        if other != field.name:
            raise NoForm(f"{other!r} and {field.name!r} of {what} are the same name in protobuf's JSON")
        if field.number is not None and numbers.setdefault(field.number, field.name) != field.name:
            raise NoForm(f"{numbers[field.number]!r} and {field.name!r} of {what} have the same field number")


def name_of(node: Node) -> str:
    return node.proto.capitalize() if isinstance(node, Scalar) else node.name


def class_name(hint: Any) -> str:
    """``Page[Order]`` is called ``PageOrder``."""
    origin = get_origin(hint)
    if origin is None:
        return hint.__name__
    return origin.__name__ + "".join(class_name(one).capitalize() for one in get_args(hint))


def snake_case(name: str) -> str:
    """``PlaceOrder`` as ``place_order``, ``GetURL`` as ``get_url``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def shown(owner: Any) -> str:
    return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else str(owner)
