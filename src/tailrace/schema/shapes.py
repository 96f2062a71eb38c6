"""What protobuf knows of Python types: messages, their fields, enums. Only the shape: no number, no descriptor.

`protobuf_types` reads it off the types; `descriptors` and `converters` are made of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

from tailrace.errors import DefinitionError

__all__ = ["Enumeration", "Field", "FieldNumber", "Known", "Label", "Node", "Scalar", "Shape"]

Label: TypeAlias = Literal["one", "optional", "repeated", "map"]

_LAST_NUMBER = 2**29 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class FieldNumber:
    """The protobuf field number of a field or an argument: ``Annotated[str, FieldNumber(3)]``.

    Args:
        number: 1 to 536870911, without 19000 to 19999, which are protobuf's own.
    """

    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= _LAST_NUMBER or 19000 <= self.number <= 19999:
            raise DefinitionError(f"a field number is 1 to {_LAST_NUMBER} and none of 19000 to 19999: {self.number}")


@dataclasses.dataclass(frozen=True, slots=True)
class Scalar:
    """A type that is one value on the wire.

    Attributes:
        proto: Its name in a .proto file.
        types: The Python types whose values it takes.
        write: The function that makes its wire value of such a value; empty where it is one.
    """

    proto: str
    types: tuple[type, ...]
    write: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A message that protobuf defines itself: ``Timestamp``, ``Duration``, ``Value``, ``Struct``."""

    name: str
    types: tuple[type, ...]


@dataclasses.dataclass(slots=True, eq=False)
class Enumeration:
    """An enum: its values by number, the first of which is 0.

    Attributes:
        name: In the .proto file.
        values: Names and numbers.
        members: The member of the Python enum for each number but an unspecified 0.
        numeric: The numbers are the values of the Python enum, not the order of its members.
    """

    name: str
    types: tuple[type, ...]
    values: list[tuple[str, int]]
    members: dict[int, Any]
    numeric: bool


@dataclasses.dataclass(slots=True, eq=False)
class Field:
    """One field of a message.

    Attributes:
        name: In the .proto file.
        attribute: Where its value is found in a Python value.
        key: Its name in what msgspec or pydantic makes a Python value of.
        type: Of the value, or of each item.
        label: ``one`` has no presence unless it is a message; ``optional`` has.
        map_key: Of a ``map``.
        nullable: None is a value; it is the same as absent.
        fallback: Absent, it is left to the type's default.
        number: If it was given.
    """

    name: str
    attribute: str
    key: str
    type: Node
    label: Label = "one"
    map_key: Scalar | None = None
    nullable: bool = False
    fallback: bool = False
    number: int | None = None


@dataclasses.dataclass(slots=True, eq=False)
class Shape:
    """A message.

    Attributes:
        name: In the .proto file.
        hint: The Python type, or None where it stands for no type of its own.
        kind: ``object`` and ``items`` (of a mapping) have their values by name; ``row`` is a named tuple; ``inner``
            wraps the value of its one field; ``choice`` holds exactly one of its fields.
        tag: Field and value that mark a tagged msgspec.Struct.
        pydantic: The type is pydantic's to make, or holds some that are.
    """

    name: str
    hint: Any
    kind: Literal["object", "items", "row", "inner", "choice"]
    types: tuple[type, ...] = ()
    fields: list[Field] = dataclasses.field(default_factory=list[Field])
    tag: tuple[str, Any] | None = None
    pydantic: bool = False


Node: TypeAlias = Scalar | Known | Enumeration | Shape
