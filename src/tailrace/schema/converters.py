"""Python values to protobuf messages and back, by functions that are written and compiled once for each type.

A value becomes nested dicts that protobuf's C constructor takes; a message becomes plain Python data that msgspec
(or pydantic) makes the value of, with the checks of the type. The functions are source text that is made here,
as dataclasses do, because looking at each field's type for each value costs more than all the rest.
"""

from __future__ import annotations

import datetime
import keyword
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import msgspec

from tailrace.schema.allowance import Allowance
from tailrace.schema.compiling import Compiler
from tailrace.schema.json_converters import JsonConverters
from tailrace.schema.protobuf import InvalidMessage
from tailrace.schema.shapes import Enumeration, Field, Known, Node, Scalar, Shape
from tailrace.schema.types import encode_custom

__all__ = ["ALLOWANCE", "Converters"]

ALLOWANCE = Allowance()  # what reads messages asks it; who gives them one to read begins it

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_EXACT = 2**53  # integers up to it are exact in a double, which is all that google.protobuf.Value has


class Converters(Compiler):
    """The functions of all shapes of one file. A function is made when it is first asked for.

    Attributes:
        json: The same for JSON.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "datetime_of": _datetime_of,
                "duration_of": _duration_of,
                "items": _items,
                "is_none": _is_none,
                "missing": _missing,
                "plain_of": _plain_of,
                "struct_of": _struct_of,
                "take": ALLOWANCE.take,
                "value_of": _value_of,
            }
        )
        self._writers: dict[Shape, str] = {}
        self._readers: dict[Shape, str] = {}
        self.json = JsonConverters()

    def writer(self, shape: Shape) -> Callable[[Any], dict[str, Any]]:
        """From a value to the keyword arguments of the message's class. It raises whatever a misfit leads to."""
        return self.names[self._writer(shape)]

    def reader(self, shape: Shape) -> Callable[[Any], Any]:
        """From a message to plain data: a dict (a list for a row, the value itself for a wrapper)."""
        return self.names[self._reader(shape)]

    # --- values to messages ---

    def _writer(self, shape: Shape) -> str:
        name = self._writers.get(shape)
        if name is None:
            name = self._writers[shape] = f"write{len(self._writers)}"
            if shape.kind == "choice":
                self._choice_writer(shape, name)
            elif shape.kind == "inner":
                self.define(self._inner_writer(shape, name))
            else:
                self.define(self._object_writer(shape, name))
        return name

    def _object_writer(self, shape: Shape, name: str) -> list[str]:
        lines = [f"def {name}(v):"]
        parts: list[str] = []
        needed: list[str] = []
        for at, field in enumerate(shape.fields):
            x = f"x{at}"
            if shape.kind != "items":
                source = f"v.{field.attribute}"
            else:
                source = f"v.get({field.attribute!r})" if field.fallback else f"v[{field.attribute!r}]"
            lines.append(f"    {x} = {source}")
            if not (field.nullable or (field.fallback and shape.kind == "items") or _takes_none(field.type)):
                needed.append(f"{x} is None")
            parts.append(f"{field.name!r}: {self._field_out(field, x)}")
        if needed:
            lines.append(f"    if {' or '.join(needed)}: is_none(v, {shape.name!r})")
        return [*lines, f"    return {{{', '.join(parts)}}}"]

    def _inner_writer(self, shape: Shape, name: str) -> list[str]:
        if not shape.fields:
            return [f"def {name}(v):", f"    if v is not None: is_none(v, {shape.name!r})", "    return {}"]
        (field,) = shape.fields
        lines = [f"def {name}(v):"]
        if not field.nullable and not _takes_none(field.type):
            lines.append(f"    if v is None: is_none(v, {shape.name!r})")
        return [*lines, f"    return {{{field.name!r}: {self._field_out(field, 'v')}}}"]

    def _choice_writer(self, shape: Shape, name: str) -> None:
        """Which member a value belongs to is told by its class."""
        choices: list[tuple[type, Callable[[Any], dict[str, Any]]]] = []
        for field in shape.fields:
            source = f"lambda v: {{{field.name!r}: {self._out(field.type, 'v')}}}"
            member = self.function(source)
            choices += [(one, member) for one in field.type.types]
        by_type = dict(choices)

        def write(value: Any) -> dict[str, Any]:
            kind = cast("Any", type(value))
            member = by_type.get(kind)
            if member is None:
                member = next((member for one, member in choices if isinstance(value, one)), None)
            if member is None:
                raise InvalidMessage(f"{type(value).__name__} is none of {shape.name}")
            return member(value)

        self.names[name] = write

    def _field_out(self, field: Field, x: str) -> str:
        if field.map_key is not None:
            text = f"{{{self._out(field.map_key, 'k')}: {self._out(field.type, 'y')} for k, y in {x}.items()}}"
        elif field.label == "repeated":
            inner = self._out(field.type, "y")
            text = f"items({x})" if inner == "y" else f"[{inner} for y in items({x})]"
        else:
            text = self._out(field.type, x)
        if text == x or not (field.nullable or field.fallback) or _takes_none(field.type):
            return text
        return f"(None if {x} is None else {text})"

    def _out(self, node: Node, x: str) -> str:
        if isinstance(node, Scalar):
            return f"{node.write}({x})" if node.write else x
        if isinstance(node, Enumeration):
            return f"{self.constant({member: number for number, member in node.members.items()})}[{x}]"
        if isinstance(node, Known):
            return {"Value": f"value_of({x})", "Struct": f"struct_of({x})"}.get(node.name, x)
        return f"{self._writer(node)}({x})"

    # --- messages to plain data ---

    def _reader(self, shape: Shape) -> str:
        name = self._readers.get(shape)
        if name is None:
            name = self._readers[shape] = f"read{len(self._readers)}"
            if shape.kind == "choice":
                self._choice_reader(shape, name)
            elif shape.kind == "inner":
                self.define(self._inner_reader(shape, name))
            else:
                self.define(self._object_reader(shape, name))
        return name

    def _object_reader(self, shape: Shape, name: str) -> list[str]:
        always: list[str] = []
        lines: list[str] = []
        if shape.tag is not None:
            always.append(f"{shape.tag[0]!r}: {shape.tag[1]!r}")
        for field in shape.fields:
            text = self._field_in(field, _attribute(field))
            if (presence := self._presence(field)) is None:
                always.append(f"{field.key!r}: {text}")
            else:
                lines.append(f"    if {presence}: d[{field.key!r}] = {text}")
                if field.nullable and not field.fallback:
                    lines.append(f"    else: d[{field.key!r}] = None")
        lines = [f"def {name}(m):", f"    d = {{{', '.join(always)}}}", *lines]
        if shape.kind == "row":
            rows = ", ".join(f"d.get({field.key!r})" for field in shape.fields)
            return [*lines, f"    return [{rows}]"]
        return [*lines, "    return d"]

    def _presence(self, field: Field) -> str | None:
        """The condition under which a field has a value, or None where it always has."""
        if field.label in ("repeated", "map"):
            return f"len({_attribute(field)})" if field.nullable else None
        if field.label == "optional" or isinstance(field.type, (Shape, Known)):
            return f"m.HasField({field.name!r})"
        if isinstance(field.type, Enumeration) and 0 not in field.type.members:
            return _attribute(field)
        return None

    def _inner_reader(self, shape: Shape, name: str) -> list[str]:
        if not shape.fields:
            return [f"def {name}(m):", "    return None"]
        (field,) = shape.fields
        text = self._field_in(field, _attribute(field))
        presence = self._presence(field)
        if presence is None or (field.nullable and field.label in ("repeated", "map")):
            return [f"def {name}(m):", f"    return {text}" if presence is None else f"    return {text} or None"]
        if field.nullable or _takes_none(field.type):
            return [f"def {name}(m):", f"    return {text} if {presence} else None"]
        lines = [f"def {name}(m):", f"    if not ({presence}): missing({shape.name!r}, {field.name!r})"]
        return [*lines, f"    return {text}"]

    def _choice_reader(self, shape: Shape, name: str) -> None:
        members = {
            field.name: self.function(f"lambda m: {self._in(field.type, _attribute(field))}") for field in shape.fields
        }
        models = {
            field.name: field.type.hint
            for field in shape.fields
            if isinstance(field.type, Shape) and field.type.pydantic
        }

        def read(message: Any) -> Any:
            which = message.WhichOneof("value")
            if which is None:
                raise InvalidMessage(f"{shape.name} holds nothing")
            plain = members[which](message)
            return models[which].model_validate(plain) if which in models else plain

        self.names[name] = read

    def _field_in(self, field: Field, x: str) -> str:
        inner = self._in(field.type, "y")
        if field.map_key is not None:
            return f"dict({x})" if inner == "y" else f"{{k: {inner} for k, y in {_counted(field, x)}.items()}}"
        if field.label == "repeated":
            return f"list({x})" if inner == "y" else f"[{inner} for y in {_counted(field, x)}]"
        return self._in(field.type, x)

    def _in(self, node: Node, x: str) -> str:
        if isinstance(node, Scalar):
            return x
        if isinstance(node, Enumeration):
            plain = {number: member.value for number, member in node.members.items()}
            return f"{self.constant(_Plain(node.name, plain))}[{x}]"
        if isinstance(node, Known):
            return {
                "Timestamp": f"datetime_of({x})",
                "Duration": f"duration_of({x})",
                "Value": f"plain_of({x})",
                "Struct": f"{{k: plain_of(y) for k, y in take({x}.fields).items()}}",
            }[node.name]
        return f"{self._reader(node)}({x})"


def _counted(field: Field, x: str) -> str:
    """A list or map, of whose messages there may not be too many."""
    return f"take({x})" if isinstance(field.type, (Shape, Known)) else x


def _attribute(field: Field) -> str:
    return f"getattr(m, {field.name!r})" if keyword.iskeyword(field.name) else f"m.{field.name}"


# --- what the compiled functions call -------------------------------------------------------------


class _Plain(dict[int, Any]):
    """The plain values of an enum by number."""

    def __init__(self, name: str, values: Mapping[int, Any]) -> None:
        super().__init__(values)
        self.name = name

    def __missing__(self, number: int) -> NoReturn:
        raise InvalidMessage(f"{number} is no {self.name}")


def _takes_none(node: Node) -> bool:
    return isinstance(node, Known) and node.name == "Value"


def _is_none(value: Any, name: str) -> NoReturn:
    raise TypeError(f"a value of {name} is None, or is to be")


def _missing(name: str, field: str) -> NoReturn:
    raise InvalidMessage(f"{name} has no {field}")


def _items(value: Any) -> Any:
    if isinstance(value, (str, bytes, Mapping)):
        raise TypeError("expected a list")
    return value


def _datetime_of(message: Any) -> datetime.datetime:
    try:
        return _EPOCH + datetime.timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    except OverflowError:
        raise InvalidMessage("a timestamp is out of range") from None


def _duration_of(message: Any) -> datetime.timedelta:
    try:
        return datetime.timedelta(seconds=message.seconds, microseconds=math.trunc(message.nanos / 1000))
    except OverflowError:
        raise InvalidMessage("a duration is out of range") from None


def _value_of(value: Any) -> dict[str, Any]:
    """Any value as the keyword arguments of ``google.protobuf.Value``."""
    value = _exact(value)
    if value is None:
        return {"null_value": 0}
    if isinstance(value, list):
        return {"list_value": {"values": [_value_of(one) for one in cast("list[Any]", value)]}}
    kind = cast("Any", type(value))
    return {_MEMBERS[kind]: value}


def _struct_of(value: Any) -> dict[str, Any]:
    """What the constructor of ``google.protobuf.Struct`` takes: the dict, of plain values."""
    plain = _exact(value)
    if not isinstance(plain, dict):
        raise TypeError("expected a dict")
    return cast("dict[str, Any]", plain)


def _exact(value: Any) -> Any:
    """`value` as plain data, if a ``google.protobuf.Value`` can hold it as it is."""
    kind = cast("Any", type(value))
    if kind is int and not -_EXACT <= value <= _EXACT:
        raise InvalidMessage(f"{value} is not exact as a google.protobuf.Value; give the field a type")
    if value is None or (kind in _MEMBERS and kind is not dict):
        return value
    if kind is list:
        return [_exact(one) for one in cast("list[Any]", value)]
    if kind is dict and all(type(key) is str for key in cast("dict[Any, Any]", value)):
        return {key: _exact(one) for key, one in cast("dict[str, Any]", value).items()}
    return _exact(msgspec.to_builtins(value, enc_hook=encode_custom, str_keys=True))


_MEMBERS: dict[type, str] = {
    str: "string_value",
    bool: "bool_value",
    int: "number_value",
    float: "number_value",
    dict: "struct_value",
}


def _plain_of(message: Any) -> Any:
    """What a ``google.protobuf.Value`` holds; whole numbers are integers again."""
    kind = message.WhichOneof("kind")
    if kind == "number_value":
        number = message.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT else number
    if kind == "struct_value":
        return {key: _plain_of(one) for key, one in ALLOWANCE.take(message.struct_value.fields).items()}
    if kind == "list_value":
        return [_plain_of(one) for one in ALLOWANCE.take(message.list_value.values)]
    return getattr(message, kind) if kind in ("string_value", "bool_value") else None
