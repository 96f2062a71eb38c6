"""Python types as protobuf sees them, by rules that are told in docs/messages.md.

msgspec reads the types, pydantic's models are read field by field; protobuf itself is not loaded, so that what
has no protobuf form is refused where it is defined, at no cost.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import uuid
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, cast, get_origin

import msgspec
from msgspec import inspect as mi

from tailrace.errors import DefinitionError
from tailrace.schema.hints import MISSING, Parameter, is_pydantic
from tailrace.schema.models import Factory
from tailrace.schema.protobuf_hints import info_of, is_model, number_of, numbers_of, plain
from tailrace.schema.protobuf_names import IDENTIFIER, NoForm, check_fields, class_name, name_of, shown, snake_case
from tailrace.schema.shapes import Enumeration, Field, Known, Label, Node, Scalar, Shape

__all__ = ["Shapes", "is_message"]

_INT32 = range(-(2**31), 2**31)
_SCALARS: dict[type, Scalar] = {
    mi.BoolType: Scalar("bool", (bool,)),
    mi.IntType: Scalar("int64", (int,)),
    mi.FloatType: Scalar("double", (float,)),
    mi.StrType: Scalar("string", (str,)),
    mi.BytesType: Scalar("bytes", (bytes,)),
    mi.ByteArrayType: Scalar("bytes", (bytearray,), "bytes"),
    mi.DateType: Scalar("string", (datetime.date,), "str"),
    mi.TimeType: Scalar("string", (datetime.time,), "str"),
    mi.UUIDType: Scalar("string", (uuid.UUID,), "str"),
    mi.DecimalType: Scalar("string", (decimal.Decimal,), "str"),
}
_PATH = Scalar("string", (pathlib.PurePath,), "str")
_KNOWN: dict[type, Known] = {
    mi.DateTimeType: Known("Timestamp", (datetime.datetime,)),
    mi.TimeDeltaType: Known("Duration", (datetime.timedelta,)),
    mi.AnyType: Known("Value", (object,)),
}
_STRUCT = Known("Struct", (dict,))
_LISTS = (mi.ListType, mi.VarTupleType, mi.SetType, mi.FrozenSetType)
_CLASSES = (mi.DataclassType, mi.StructType, mi.TypedDictType, mi.NamedTupleType)
_LIST_TYPES: dict[type, type] = {mi.VarTupleType: tuple, mi.SetType: set, mi.FrozenSetType: frozenset}


@dataclasses.dataclass(slots=True)
class _Position:
    type: Node
    label: Label = "one"
    map_key: Scalar | None = None
    nullable: bool = False
    python: type = object  # of a list or mapping: what it is in Python


def is_message(hint: Any) -> bool:
    """Whether a type is a message as it is: a dataclass, msgspec.Struct, TypedDict, NamedTuple or pydantic model."""
    try:
        info = plain(info_of(hint))
    except Exception:
        return False
    return isinstance(info, _CLASSES) or (isinstance(info, mi.CustomType) and is_model(info.cls))


class Shapes:
    """The messages and enums of one .proto file, each made once, by name.

    Args:
        reserved: Names that are not theirs, but the service's; a class that has one is called ``…Message``.
    """

    def __init__(self, reserved: frozenset[str] = frozenset()) -> None:
        self.reserved = reserved
        self.messages: dict[str, Shape] = {}
        self.enums: dict[str, Enumeration] = {}
        self._by_type: dict[Any, Shape | Enumeration] = {}

    def copy(self) -> Shapes:
        """To go back to, where a type turns out to have no form when others of it are there already."""
        other = Shapes(self.reserved)
        other.messages, other.enums, other._by_type = dict(self.messages), dict(self.enums), dict(self._by_type)
        return other

    def message(self, hint: Any, what: str) -> Shape:
        """The message of a type for which `is_message` holds.

        Args:
            hint: The type.
            what: Names its place, for the error.

        Raises:
            DefinitionError: It has no protobuf form.
        """
        try:
            node = self._single(info_of(hint))
        except (NoForm, TypeError, NameError) as error:
            raise _refusal(what, error) from None
        assert isinstance(node, Shape)
        return node

    def wrapper(self, hint: Any, what: str, *names: str) -> Shape:
        """A message with the one field ``result``, for a type that is no message; of None, without a field.

        Args:
            hint: The type.
            what: Names its place, for the error.
            names: What the message may be called; the first that no type of the program's own has.

        Raises:
            DefinitionError: The type has no protobuf form.
        """
        hint = Any if hint is MISSING or hint is object else hint
        shape = Shape("", hint, "inner", pydantic=is_pydantic(hint))
        try:
            if hint is not None and hint is not type(None):
                position = self._position(info_of(hint))
                field = Field("result", "", "", position.type, position.label, position.map_key, position.nullable)
                if position.nullable and position.label == "one":
                    field.label = _optional(position.type)
                shape.fields.append(field)
            shape.name = self._free(names)
            return self._new(shape, None, what)
        except (NoForm, TypeError, NameError) as error:
            raise _refusal(what, error) from None

    def arguments(self, parameters: Iterable[Parameter], place: str, *names: str) -> Shape:
        """A message with a field for each parameter of a function.

        Args:
            parameters: The parameters.
            place: Names the function, for the error.
            names: As for `wrapper`.

        Raises:
            DefinitionError: A parameter has no protobuf form.
        """
        shape = Shape("", None, "items")
        what = place
        try:
            for parameter in parameters:
                what = f"{place}: parameter {parameter.name!r}"
                info = info_of(Any if parameter.hint is object else parameter.hint)
                default = parameter.default
                if isinstance(default, Factory):
                    default = default.make()
                self._add(shape, parameter.name, parameter.json_name, info, default, number_of(parameter.hint))
            what = place
            shape.name = self._free(names)
            check_fields(shape, shape.name)
            return self._new(shape, None, what)
        except (NoForm, TypeError, NameError) as error:
            raise _refusal(what, error) from None

    def _free(self, names: Sequence[str]) -> str:
        taken = {*self.messages, *self.enums, *self.reserved}
        return next((name for name in names if name not in taken), names[-1])

    def _called(self, hint: Any) -> str:
        name = class_name(hint)
        return f"{name}Message" if name in self.reserved else name

    # --- types ---

    def _single(self, info: mi.Type) -> Node:
        """A type as one item of a list, a map or a choice: what has no form of its own there gets a message."""
        position = self._position(info)
        if position.label == "one" and not position.nullable:
            return position.type
        name, label = name_of(position.type), position.label
        if label == "map":
            name = f"{name_of(cast('Scalar', position.map_key))}{name}Map"
        else:
            name = f"{name}List" if label == "repeated" else f"Optional{name}"
        label = label if label in ("repeated", "map") else _optional(position.type)
        if position.nullable and label in ("repeated", "map"):
            raise NoForm("a list of lists (or maps) that may be None; use a dataclass for the inner one")
        known = self._by_type.get(name)
        if known is not None:
            return known
        field = Field("values" if label != "optional" else "value", "", "", position.type, label, position.map_key)
        field.nullable = position.nullable
        return self._new(Shape(name, None, "inner", (position.python,), [field]), name, name)

    def _position(self, info: mi.Type) -> _Position:
        info = plain(info)
        kind = type(info)
        if kind in _SCALARS:
            return _Position(_SCALARS[kind])
        if kind in _KNOWN:
            return _Position(_KNOWN[kind])
        if isinstance(info, mi.UnionType):
            return self._union(info)
        if isinstance(info, _LISTS):
            return _Position(self._single(info.item_type), "repeated", python=_LIST_TYPES.get(kind, list))
        if isinstance(info, mi.DictType):
            return self._mapping(info)
        if isinstance(info, mi.LiteralType):
            return _literal(info)
        if isinstance(info, mi.EnumType):
            return _Position(self._enum(info.cls))
        if isinstance(info, _CLASSES):
            return _Position(self._class(info))
        if isinstance(info, mi.CustomType):
            return _Position(self._custom(info.cls))
        if isinstance(info, mi.TupleType):
            raise NoForm("a tuple of several types; use a dataclass or a NamedTuple")
        if isinstance(info, mi.NoneType):
            raise NoForm("None alone")
        raise NoForm(f"{kind.__name__.removesuffix('Type')}")

    def _union(self, info: mi.UnionType) -> _Position:
        rest = [one for one in info.types if not isinstance(one, mi.NoneType)]
        nullable = len(rest) < len(info.types)
        if len(rest) == 1:
            position = self._position(rest[0])
            position.nullable |= nullable
            return position
        members = [self._single(one) for one in rest]
        name = "Or".join(name_of(member) for member in members)
        known = self._by_type.get(name)
        if known is None:
            fields = [Field(snake_case(name_of(member)), "", "", member, "optional") for member in members]
            for field in fields:
                if isinstance(field.type, Scalar):
                    field.name = f"{field.type.proto}_value"
            shape = Shape(name, None, "choice", tuple(t for member in members for t in member.types), fields)
            check_fields(shape, name)
            known = self._new(shape, name, name)
        return _Position(known, nullable=nullable)

    def _mapping(self, info: mi.DictType) -> _Position:
        key, value = plain(info.key_type), plain(info.value_type)
        if isinstance(value, mi.AnyType) and isinstance(key, (mi.AnyType, mi.StrType)):
            return _Position(_STRUCT)
        node = self._single(key)
        if not isinstance(node, Scalar) or node.proto not in ("string", "int64", "bool"):
            raise NoForm(f"a map with keys of {name_of(node)}; keys are strings, integers or booleans")
        return _Position(self._single(value), "map", node, python=dict)

    def _enum(self, cls: type[enum.Enum]) -> Enumeration:
        known = self._by_type.get(cls)
        if isinstance(known, Enumeration):
            return known
        if issubclass(cls, enum.Flag):
            raise NoForm(f"the flags {cls.__name__}; use a list of an Enum")
        prefix = snake_case(cls.__name__).upper() + "_"
        members = list(cls)
        numeric = all(isinstance(member.value, int) and member.value in _INT32 for member in members)
        numbers = [cast("int", member.value) if numeric else at for at, member in enumerate(members, 1)]
        values = [(prefix + member.name.upper(), number) for number, member in zip(numbers, members, strict=True)]
        values.sort(key=lambda value: value[1] != 0)  # proto3: the first is 0
        if not values or values[0][1] != 0:
            values.insert(0, (prefix + "UNSPECIFIED", 0))
        for name, _ in values:
            if not IDENTIFIER.fullmatch(name):
                raise NoForm(f"{cls.__name__}: {name!r} is no name in protobuf")
        made = Enumeration(self._called(cls), (cls,), values, dict(zip(numbers, members, strict=True)), numeric)
        self._claim(made.name, cls)
        self.enums[made.name] = self._by_type[cls] = made
        return made

    def _class(self, info: Any) -> Shape:
        hint: Any = info.cls
        known = self._by_type.get(hint)
        if isinstance(known, Shape):
            return known
        origin: Any = get_origin(hint) or hint
        shape = Shape(self._called(hint), hint, "object", (origin,), pydantic=is_pydantic(hint))
        if getattr(info, "tag", None) is not None:
            shape.tag = (info.tag_field, info.tag)
        if isinstance(info, mi.NamedTupleType) or getattr(info, "array_like", False):
            shape.kind = "row"
        if isinstance(info, mi.TypedDictType):
            shape.kind, shape.types = "items", (dict,)
        self._new(shape, hint, shape.name)  # before its fields: it may be among them
        numbers = numbers_of(origin)
        for field in info.fields:
            default = MISSING
            if field.default is not msgspec.NODEFAULT:
                default = field.default
            elif field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            elif not field.required:
                default = _ABSENT
            self._field(shape, field.name, field.encode_name, field.type, default, numbers.get(field.name))
        check_fields(shape, shape.name)
        return shape

    def _custom(self, cls: Any) -> Node:
        if issubclass(cls, pathlib.PurePath):
            return _PATH
        if cls is object:
            return _KNOWN[mi.AnyType]
        known = self._by_type.get(cls)
        if known is not None:
            return known
        if not is_model(cls):
            raise NoForm(f"{cls.__name__}; use a dataclass, a msgspec.Struct or a builtin type")
        shape = Shape(self._called(cls), cls, "object", (cls,), pydantic=True)
        self._new(shape, cls, shape.name)
        for name, field in cls.model_fields.items():
            hint: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            default = (
                MISSING if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
            )
            key = field.validation_alias if isinstance(field.validation_alias, str) else field.alias or name
            self._field(shape, name, key, info_of(hint), default, number_of(hint))
        check_fields(shape, shape.name)
        return shape

    # --- fields ---

    def _field(self, shape: Shape, name: str, key: str, info: mi.Type, default: Any, number: int | None) -> None:
        try:
            self._add(shape, name, key, info, default, number)
        except NoForm as error:
            raise NoForm(f"field {name!r} of {shape.name}: {error}") from None

    def _add(self, shape: Shape, name: str, key: str, info: mi.Type, default: Any, number: int | None) -> None:
        position = self._position(info)
        field = Field(
            name, name, key, position.type, position.label, position.map_key, position.nullable, number=number
        )
        field.fallback = default is not MISSING
        if position.nullable and default not in (MISSING, None, _ABSENT):
            raise NoForm(f"absent can mean None or the default {default!r}, and not both; leave one of them out")
        if shape.kind == "row" and default not in (MISSING, None):
            raise NoForm("a field of a row has no default but None; use a dataclass")
        if position.label == "one":
            if position.nullable or field.fallback:
                field.label = _optional(position.type)
        elif default not in (MISSING, None, _ABSENT) and len(default) > 0:
            raise NoForm(f"an empty list (or map) is the same as none, so its default is empty, not {default!r}")
        shape.fields.append(field)

    def _new(self, shape: Shape, key: Any, what: str) -> Shape:
        self._claim(shape.name, key if key is not None else what)
        self.messages[shape.name] = shape
        if key is not None:
            self._by_type[key] = shape
        return shape

    def _claim(self, name: str, owner: Any) -> None:
        if not IDENTIFIER.fullmatch(name):
            raise NoForm(f"{name!r} is no name in protobuf")
        if name in self.messages or name in self.enums:
            other = next((key for key, known in self._by_type.items() if known.name == name), None)
            raise NoForm(f"two messages would be called {name}: of {shown(other)} and {shown(owner)}; rename one")


# Stands for "may be left out" of a TypedDict's key, which has no default.
_ABSENT: Any = object()


def _literal(info: mi.LiteralType) -> _Position:
    values = [value for value in info.values if value is not None]
    nullable = len(values) < len(info.values)
    for kind, scalar in ((str, mi.StrType), (int, mi.IntType)):
        if values and all(type(value) is kind for value in values):
            return _Position(_SCALARS[scalar], nullable=nullable)
    raise NoForm("a Literal of values that are neither all strings nor all integers")


def _optional(node: Node) -> Label:
    return "one" if isinstance(node, (Shape, Known)) else "optional"  # a message has presence as it is


def _refusal(what: str, error: Exception) -> DefinitionError:
    return DefinitionError(f"{what} has no protobuf form: {error}")
