"""Descriptors as the text of a ``.proto`` file, as `proto_parser` and every compiler reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

__all__ = ["render_proto"]

_SCALARS = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool", 9: "string",
    12: "bytes", 13: "uint32", 15: "sfixed32", 16: "sfixed64", 17: "sint32", 18: "sint64",
}  # fmt: skip
_REPEATED = 3
_MAX_FIELD, _MAX_ENUM = 2**29 - 1, 2**31 - 1
_NO_SIDE_EFFECTS = 1


def render_proto(proto: Any, head: str, comments: Mapping[str, str]) -> str:
    """The text of a file.

    Args:
        proto: A ``FileDescriptorProto`` of proto3.
        head: What stands above all, as a comment.
        comments: What stands above a method, by its name.
    """
    return "\n".join(_Writer(proto, comments).file(head)) + "\n"


class _Writer:
    def __init__(self, proto: Any, comments: Mapping[str, str]) -> None:
        self._proto = proto
        self._comments = comments
        self._prefix = f".{proto.package}." if proto.package else "."

    def file(self, head: str) -> Iterator[str]:
        yield from _comment(head, "")
        yield ""
        yield 'syntax = "proto3";'
        if self._proto.package:
            yield f"\npackage {self._proto.package};"
        if self._proto.dependency:
            yield ""
            for name in sorted(self._proto.dependency):
                yield f'import "{name}";'
        for service in self._proto.service:
            yield ""
            yield from self._service(service)
        for message in self._proto.message_type:
            yield ""
            yield from self._message(message, "")
        for enum in self._proto.enum_type:
            yield ""
            yield from self._enum(enum, "")

    def _service(self, service: Any) -> Iterator[str]:
        yield f"service {service.name} {{"
        hidden = {method.name for method in service.method}  # in here, such a name means the method to protoc
        for method in service.method:
            yield from _comment(self._comments.get(method.name, ""), "  ")
            sides = [
                ("stream " if streams else "") + self._name(type_name, hidden)
                for streams, type_name in (
                    (method.client_streaming, method.input_type),
                    (method.server_streaming, method.output_type),
                )
            ]
            end = ";"
            if method.options.idempotency_level == _NO_SIDE_EFFECTS:
                end = " {\n    option idempotency_level = NO_SIDE_EFFECTS;\n  }"
            yield f"  rpc {method.name}({sides[0]}) returns ({sides[1]}){end}"
        yield "}"

    def _message(self, message: Any, indent: str) -> Iterator[str]:
        if not (message.field or message.reserved_range or message.reserved_name or message.nested_type):
            yield f"{indent}message {message.name} {{}}"
            return
        yield f"{indent}message {message.name} {{"
        inner = indent + "  "
        yield from _reserved(message, inner, _MAX_FIELD, 1)
        entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
        for nested in message.nested_type:
            if not nested.options.map_entry:
                yield from self._message(nested, inner)
        for enum in message.enum_type:
            yield from self._enum(enum, inner)
        told: set[int] = set()
        for field in message.field:
            if not field.HasField("oneof_index") or field.proto3_optional:
                yield inner + self._field(field, entries)
            elif field.oneof_index not in told:
                told.add(field.oneof_index)
                yield f"{inner}oneof {message.oneof_decl[field.oneof_index].name} {{"
                for member in message.field:
                    if member.HasField("oneof_index") and member.oneof_index == field.oneof_index:
                        yield f"{inner}  {self._field(member, entries)}"
                yield f"{inner}}}"
        yield f"{indent}}}"

    def _field(self, field: Any, entries: Mapping[str, Any]) -> str:
        entry = entries.get(field.type_name.rpartition(".")[2]) if field.label == _REPEATED else None
        if entry is not None:
            kind = f"map<{self._type(entry.field[0])}, {self._type(entry.field[1])}>"
        else:
            label = "repeated " if field.label == _REPEATED else "optional " if field.proto3_optional else ""
            kind = label + self._type(field)
        return f"{kind} {field.name} = {field.number};"

    def _type(self, field: Any) -> str:
        return _SCALARS.get(field.type) or self._name(field.type_name)

    def _name(self, full_name: str, hidden: Set[str] = frozenset()) -> str:
        """Short for what is in the package, and never a name that is looked for in the wrong scope."""
        short = full_name.removeprefix(self._prefix)
        if short in hidden:
            return full_name
        if short != full_name and "." not in short:
            return short
        first = full_name[1:].partition(".")[0]
        return full_name if first in self._proto.package.split(".") else full_name[1:]

    def _enum(self, enum: Any, indent: str) -> Iterator[str]:
        yield f"{indent}enum {enum.name} {{"
        yield from _reserved(enum, indent + "  ", _MAX_ENUM, 0)
        for value in enum.value:
            yield f"{indent}  {value.name} = {value.number};"
        yield f"{indent}}}"


def _reserved(owner: Any, indent: str, most: int, exclusive: int) -> Iterator[str]:
    if owner.reserved_range:
        parts: list[str] = []
        for one in owner.reserved_range:
            end = one.end - exclusive
            last = "max" if end >= most else str(end)
            parts.append(str(one.start) if one.start == end else f"{one.start} to {last}")
        yield f"{indent}reserved {', '.join(parts)};"
    if owner.reserved_name:
        names = ", ".join(f'"{name}"' for name in owner.reserved_name)
        yield f"{indent}reserved {names};"


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in text.strip().splitlines():
        yield f"{indent}// {line}".rstrip()
