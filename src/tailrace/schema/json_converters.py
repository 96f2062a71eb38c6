"""Protobuf's JSON of Python values and back, without protobuf: for what is plain, which nearly all messages are.

google's JSON module is written in Python and takes longer than the rest of a call. These functions know the plain
cases: names in lowerCamelCase, values of the very type. For anything else they raise `NotPlain`, and the
message goes the long way, which alone says what is right and what is refused.
"""

from __future__ import annotations

import base64
import datetime
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, cast

from tailrace.schema.compiling import Compiler
from tailrace.schema.descriptors import camel_case
from tailrace.schema.shapes import Enumeration, Field, Known, Node, Scalar, Shape

__all__ = ["JsonConverters", "NotPlain"]

_EXACT = 2**53  # integers up to it are exact in a double
_INT64 = 2**63
_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3}(?:[0-9]{3})?)?Z", re.ASCII)
_ZEROS = {"string": "''", "int64": "0", "double": "0.0", "bool": "False", "bytes": "b''"}
_LISTS = (list, tuple, set, frozenset)


class NotPlain(ValueError):
    """A message is to go the long way."""


class JsonConverters(Compiler):
    """The functions of all shapes of one file. A function is made when it is first asked for."""

    def __init__(self) -> None:
        super().__init__(
            {
                "MISSING": object(),
                "no": _no,
                "items": _items,
                "pairs": _pairs,
                "read_bool": _bool,
                "read_bytes": _read_bytes,
                "read_double": _read_double,
                "read_int64": _read_int64,
                "read_string": _string,
                "read_Struct": _struct,
                "read_Timestamp": _read_timestamp,
                "read_Value": _read_value,
                "write_bool": _bool,
                "write_bytes": _write_bytes,
                "write_double": _write_double,
                "write_int64": _write_int64,
                "write_string": _string,
                "write_Struct": _struct,
                "write_Timestamp": _write_timestamp,
                "write_Value": _plain,
            }
        )
        self._readers: dict[Shape, str] = {}
        self._writers: dict[Shape, str] = {}

    def reader(self, shape: Shape) -> Callable[[Any], Any]:
        """From decoded JSON to plain data, as `Converters.reader` gives it."""
        return self.names[self._reader(shape)]

    def writer(self, shape: Shape) -> Callable[[Any], Any]:
        """From a value to what is to be encoded as JSON."""
        return self.names[self._writer(shape)]

    # --- reading ---

    def _reader(self, shape: Shape) -> str:
        name = self._readers.get(shape)
        if name is None:
            name = self._readers[shape] = f"read{len(self._readers)}"
            if shape.kind == "choice":
                self._choice_reader(shape, name)
            else:
                self.define(self._object_reader(shape, name))
        return name

    def _object_reader(self, shape: Shape, name: str) -> list[str]:
        lines = [f"def {name}(d):", "    if type(d) is not dict: no()", "    g = d.get"]
        tag = "" if shape.tag is None else f"{shape.tag[0]!r}: {shape.tag[1]!r}"
        lines.append(f"    p = {{{tag}}}")
        for field in shape.fields:
            lines += self._read_field(shape, field)
        if shape.kind == "row":
            rows = ", ".join(f"p.get({field.key!r})" for field in shape.fields)
            return [*lines, f"    return [{rows}]"]
        if shape.kind == "inner":
            return [*lines, f"    return p[{shape.fields[0].key!r}]" if shape.fields else "    return None"]
        return [*lines, "    return p"]

    def _read_field(self, shape: Shape, field: Field) -> list[str]:
        key, camel = field.key, camel_case(field.name)
        lines = [f"    if {field.name!r} in d: no()"] if camel != field.name else []  # the other spelling, or both
        text = self._field_in(field)
        if isinstance(field.type, Known) and field.type.name == "Value" and field.label == "one":
            lines.append(f"    x = g({camel!r}, MISSING)")
            lines.append(f"    if x is not MISSING: p[{key!r}] = {text}")
            return lines
        lines.append(f"    x = g({camel!r})")
        absent = self._absent(field)
        if shape.kind == "inner" and absent is None:
            absent = "None" if field.nullable else "no()"
        if field.nullable and field.label in ("repeated", "map"):
            lines.append(f"    if x: p[{key!r}] = {text}")
            kind = "list" if field.label == "repeated" else "dict"
            lines.append(f"    elif x is not None and type(x) is not {kind}: no()")
        else:
            lines.append(f"    if x is not None: p[{key!r}] = {text}")
        if absent is not None:
            lines.append(f"    else: p[{key!r}] = {absent}")
        return lines

    def _absent(self, field: Field) -> str | None:
        """What stands for an absent field, or None where nothing does."""
        if field.nullable:
            return None if field.fallback else "None"
        if field.label in ("repeated", "map"):
            return "[]" if field.label == "repeated" else "{}"
        if field.label == "one" and isinstance(field.type, Scalar):
            return _ZEROS[field.type.proto]
        if field.label == "one" and isinstance(field.type, Enumeration) and 0 in field.type.members:
            return self.constant(field.type.members[0].value)
        return None

    def _field_in(self, field: Field) -> str:
        if field.map_key is not None:
            keys = {"string": "k", "int64": "read_int64(k)", "bool": "no()"}[field.map_key.proto]
            return f"{{{keys}: {self._in(field.type, 'y')} for k, y in pairs(x)}}"
        if field.label == "repeated":
            return f"[{self._in(field.type, 'y')} for y in (x if type(x) is list else no())]"
        return self._in(field.type, "x")

    def _in(self, node: Node, x: str) -> str:
        if isinstance(node, Scalar):
            return f"read_{node.proto}({x})"
        if isinstance(node, Enumeration):
            names = dict(node.values)
            plain = {name: node.members[number].value for name, number in names.items() if number in node.members}
            return f"{self.constant(plain)}[{x}]"
        if isinstance(node, Known):
            return f"read_{node.name}({x})" if f"read_{node.name}" in self.names else "no()"
        return f"{self._reader(node)}({x})"

    def _choice_reader(self, shape: Shape, name: str) -> None:
        members: dict[str, Callable[[Any], Any]] = {}
        models: dict[str, Any] = {}
        for field in shape.fields:
            members[camel_case(field.name)] = self.function(f"lambda x: {self._in(field.type, 'x')}")
            if hasattr(hint := getattr(field.type, "hint", None), "model_validate"):
                models[camel_case(field.name)] = hint

        def read(value: Any) -> Any:
            if type(value) is not dict or len(cast("dict[str, Any]", value)) != 1:
                raise NotPlain
            ((which, inner),) = cast("dict[str, Any]", value).items()
            if inner is None:
                raise NotPlain
            plain = members[which](inner)
            return models[which].model_validate(plain) if which in models else plain

        self.names[name] = read

    # --- writing ---

    def _writer(self, shape: Shape) -> str:
        name = self._writers.get(shape)
        if name is None:
            name = self._writers[shape] = f"write{len(self._writers)}"
            if shape.kind == "choice":
                self._choice_writer(shape, name)
            else:
                self.define(self._object_writer(shape, name))
        return name

    def _object_writer(self, shape: Shape, name: str) -> list[str]:
        lines = [f"def {name}(v):", "    j = {}"]
        if shape.kind == "inner" and not shape.fields:
            lines.append("    if v is not None: no()")
        for field in shape.fields:
            if shape.kind == "inner":
                source = "v"
            elif shape.kind != "items":
                source = f"v.{field.attribute}"
            else:
                source = f"v.get({field.attribute!r})" if field.fallback else f"v[{field.attribute!r}]"
            lines.append(f"    x = {source}")
            lines += self._write_field(shape, field)
        return [*lines, "    return j"]

    def _write_field(self, shape: Shape, field: Field) -> list[str]:
        target = f"j[{camel_case(field.name)!r}]"
        if isinstance(field.type, Known) and field.type.name == "Value" and field.label == "one":
            return [f"    {target} = write_Value(x)"]
        may_be_none = field.nullable or (shape.kind == "items" and field.fallback)
        none = [] if may_be_none else ["    if x is None: no()"]
        text = self._field_out(field)
        if field.label in ("repeated", "map"):
            return [*none, f"    if x: {target} = {text}", "    elif x is not None: items(x)"]
        if field.label == "optional" or isinstance(field.type, (Shape, Known)):
            return [*none, f"    if x is not None: {target} = {text}"]
        if isinstance(field.type, Enumeration):
            zero = field.type.members.get(0)
            if zero is None:
                return [*none, f"    {target} = {text}"]
            default = next(name for name, number in field.type.values if number == 0)
            return [*none, f"    x = {text}", f"    if x != {default!r}: {target} = x"]
        zero = {"int64": "'0'", "double": "0.0"}.get(field.type.proto)
        test = f"x != {zero}" if zero is not None else "x"
        return [*none, f"    x = {text}", f"    if {test}: {target} = x"]

    def _field_out(self, field: Field) -> str:
        if field.map_key is not None:
            keys = {"string": "write_string(k)", "int64": "write_int64(k)", "bool": "no()"}[field.map_key.proto]
            if field.map_key.write:
                keys = self._out(field.map_key, "k")
            return f"{{{keys}: {self._out(field.type, 'y')} for k, y in x.items()}}"
        if field.label == "repeated":
            return f"[{self._out(field.type, 'y')} for y in items(x)]"
        return self._out(field.type, "x")

    def _out(self, node: Node, x: str) -> str:
        if isinstance(node, Scalar):
            if node.write == "str":
                return f"(str({x}) if isinstance({x}, {self.constant(node.types)}) else no())"
            return "no()" if node.write else f"write_{node.proto}({x})"
        if isinstance(node, Enumeration):
            names = {number: name for name, number in node.values}
            return f"{self.constant({member: names[number] for number, member in node.members.items()})}[{x}]"
        if isinstance(node, Known):
            return f"write_{node.name}({x})" if f"write_{node.name}" in self.names else "no()"
        return f"{self._writer(node)}({x})"

    def _choice_writer(self, shape: Shape, name: str) -> None:
        by_type: dict[type, Callable[[Any], Any]] = {}
        for field in shape.fields:
            member = self.function(f"lambda v: {{{camel_case(field.name)!r}: {self._out(field.type, 'v')}}}")
            by_type.update(dict.fromkeys(field.type.types, member))

        def write(value: Any) -> Any:
            return by_type[cast("Any", type(value))](value)

        self.names[name] = write


# --- what the compiled functions call -------------------------------------------------------------


def _no() -> NoReturn:
    raise NotPlain


def _items(value: Any) -> Any:
    kind = cast("Any", type(value))
    return value if kind in _LISTS or kind is dict else _no()


def _pairs(value: Any) -> Any:
    return cast("dict[str, Any]", value).items() if type(value) is dict else _no()


def _string(value: Any) -> str:
    return value if type(value) is str else _no()


def _bool(value: Any) -> bool:
    return value if type(value) is bool else _no()


def _read_int64(value: Any) -> int:
    if type(value) is str and _INTEGER.fullmatch(value):
        value = int(value)
    return value if type(value) is int and -_INT64 <= value < _INT64 else _no()


def _write_int64(value: Any) -> str:
    return str(value) if type(value) is int and -_INT64 <= value < _INT64 else _no()


def _read_double(value: Any) -> float:
    if type(value) is int and -_EXACT <= value <= _EXACT:
        return float(value)
    return value if type(value) is float and math.isfinite(value) else _no()


def _write_double(value: Any) -> float:
    if type(value) is not float or not math.isfinite(value) or (value == 0.0 and math.copysign(1.0, value) < 0):
        raise NotPlain
    return value


def _read_bytes(value: Any) -> bytes:
    return base64.b64decode(value, validate=True) if type(value) is str else _no()


def _write_bytes(value: Any) -> str:
    return base64.b64encode(value).decode() if type(value) is bytes else _no()


def _read_timestamp(value: Any) -> datetime.datetime:
    if type(value) is not str or not _TIMESTAMP.fullmatch(value):
        raise NotPlain
    return datetime.datetime.fromisoformat(value)


def _write_timestamp(value: Any) -> str:
    if type(value) is not datetime.datetime or value.tzinfo is not datetime.UTC or value.year < 1000:
        raise NotPlain
    part = "microseconds" if value.microsecond % 1000 else "milliseconds" if value.microsecond else "seconds"
    return value.isoformat(timespec=part)[:-6] + "Z"


def _read_value(value: Any) -> Any:
    """A ``google.protobuf.Value``, whose numbers are doubles; whole ones are integers again."""
    kind: Any = cast("Any", type(value))
    if kind is float:
        return int(value) if value.is_integer() and abs(value) <= _EXACT else value
    if kind is list:
        return [_read_value(one) for one in value]
    if kind is dict:
        return {key: _read_value(one) for key, one in value.items()}
    return _plain(value)


def _plain(value: Any) -> Any:
    """What is JSON as it is, and exact as a ``google.protobuf.Value``."""
    kind: Any = cast("Any", type(value))
    if value is None or kind is str or kind is bool:
        return value
    if kind is int and -_EXACT <= value <= _EXACT:
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is list:
        return [_plain(one) for one in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: _plain(one) for key, one in value.items()}
    raise NotPlain


def _struct(value: Any) -> Any:
    return _read_value(value) if type(value) is dict and all(type(key) is str for key in cast("Any", value)) else _no()
