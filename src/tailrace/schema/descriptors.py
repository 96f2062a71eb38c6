"""Shapes as protobuf descriptors, and descriptors as message classes, in a pool of their own.

The draft of a file numbers fields in order of declaration; a lock (`schema.lock`) may number it anew before
the classes are made. A pool belongs to one service, so two services may each have an ``Order``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tailrace.schema.protobuf import google
from tailrace.schema.shapes import Enumeration, Known, Scalar, Shape

if TYPE_CHECKING:
    from tailrace.schema.protobuf_types import Shapes
    from tailrace.schema.shapes import Field, Node

__all__ = ["Pool", "camel_case", "draft", "with_dependencies"]

_KNOWN_FILES = {"Timestamp": "timestamp", "Duration": "duration", "Value": "struct", "Struct": "struct"}
_TYPES = {"double": 1, "int64": 3, "bool": 8, "string": 9, "bytes": 12}  # FieldDescriptorProto.Type
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3  # FieldDescriptorProto.Label


def camel_case(name: str) -> str:
    """A field's name in JSON, as protoc derives it: ``big_number`` is ``bigNumber``."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def draft(shapes: Shapes, package: str | None, file: str) -> Any:
    """A ``FileDescriptorProto`` of all messages and enums, without services.

    Args:
        shapes: What it is to hold.
        package: Its package, or None.
        file: Its name, e.g. ``orders/v1/orders.proto``.
    """
    proto = google("descriptor_pb2").FileDescriptorProto(name=file, package=package or "", syntax="proto3")
    prefix = f".{package}." if package else "."
    known: set[str] = set()
    for shape in shapes.messages.values():
        _add_message(proto.message_type.add(name=shape.name), shape, prefix, known)
    for enumeration in shapes.enums.values():
        _add_enum(proto.enum_type.add(name=enumeration.name), enumeration)
    proto.dependency.extend(sorted(f"google/protobuf/{_KNOWN_FILES[name]}.proto" for name in known))
    unique = list(dict.fromkeys(proto.dependency))
    del proto.dependency[:]
    proto.dependency.extend(unique)
    return proto


class Pool:
    """Where the descriptors of one service live, and the classes that are made of them."""

    def __init__(self) -> None:
        self._pool: Any = google("descriptor_pool").DescriptorPool()
        self._files: set[str] = set()

    def add(self, file: Any, dependencies: Iterable[Any] = ()) -> None:
        """Add a ``FileDescriptorProto``, after the files it imports.

        Args:
            file: The file.
            dependencies: ``FileDescriptor`` objects of files it imports that are not protobuf's own.
        """
        for name in file.dependency:
            if name.startswith("google/protobuf/") and name not in self._files:
                module = google(name.removeprefix("google/protobuf/").removesuffix(".proto") + "_pb2")
                self._copy(module.DESCRIPTOR)
        for descriptor in dependencies:
            self._copy(descriptor)
        self._pool.AddSerializedFile(file.SerializeToString())

    def _copy(self, descriptor: Any) -> None:
        if descriptor.name not in self._files:
            for dependency in descriptor.dependencies:
                self._copy(dependency)
            self._files.add(descriptor.name)
            self._pool.AddSerializedFile(descriptor.serialized_pb)

    def message(self, full_name: str) -> Any:
        """The class of a message."""
        return google("message_factory").GetMessageClass(self._pool.FindMessageTypeByName(full_name))

    def file(self, name: str) -> Any:
        """The ``FileDescriptor`` of a file."""
        return self._pool.FindFileByName(name)


def with_dependencies(files: Iterable[Any]) -> Any:
    """A ``FileDescriptorSet`` of ``FileDescriptor`` objects and all that they import, imports first."""
    descriptor_pb2 = google("descriptor_pb2")
    found: dict[str, Any] = {}

    def visit(file: Any) -> None:
        if file.name not in found:
            for dependency in file.dependencies:
                visit(dependency)
            found.setdefault(file.name, descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb))

    for file in files:
        visit(file)
    return descriptor_pb2.FileDescriptorSet(file=found.values())


# --- drafting -------------------------------------------------------------------------------------


def _add_message(proto: Any, shape: Shape, prefix: str, known: set[str]) -> None:
    if shape.kind == "choice":
        proto.oneof_decl.add(name="value")
    for field, number in zip(shape.fields, _numbers(shape.fields), strict=True):
        added = proto.field.add(name=field.name, number=number, label=_OPTIONAL, json_name=camel_case(field.name))
        if field.map_key is not None:
            entry = _add_entry(proto, field, prefix, known)
            added.label, added.type = _REPEATED, _MESSAGE
            added.type_name = f"{prefix}{shape.name}.{entry}"
            continue
        _set_type(added, field.type, prefix, known)
        if field.label == "repeated":
            added.label = _REPEATED
        elif shape.kind == "choice":
            added.oneof_index = 0
        elif field.label == "optional":
            added.proto3_optional = True
    for added in proto.field:
        if added.proto3_optional:
            added.oneof_index = len(proto.oneof_decl)
            proto.oneof_decl.add(name="_" + added.name)


def _add_entry(proto: Any, field: Field, prefix: str, known: set[str]) -> str:
    """The message that stands for a pair of a map."""
    name = camel_case("_" + field.name) + "Entry"
    entry = proto.nested_type.add(name=name)
    entry.options.map_entry = True
    for number, (part, node) in enumerate((("key", field.map_key), ("value", field.type)), 1):
        added = entry.field.add(name=part, number=number, label=_OPTIONAL, json_name=part)
        assert node is not None
        _set_type(added, node, prefix, known)
    return name


def _set_type(added: Any, node: Node, prefix: str, known: set[str]) -> None:
    if isinstance(node, Scalar):
        added.type = _TYPES[node.proto]
    elif isinstance(node, Known):
        known.add(node.name)
        added.type, added.type_name = _MESSAGE, f".google.protobuf.{node.name}"
    else:
        added.type = _ENUM if isinstance(node, Enumeration) else _MESSAGE
        added.type_name = prefix + node.name


def _add_enum(proto: Any, enumeration: Enumeration) -> None:
    for name, number in enumeration.values:
        proto.value.add(name=name, number=number)


def _numbers(fields: Sequence[Field]) -> list[int]:
    """The numbers that were given, and for the other fields the next ones that are free."""
    given = {field.number for field in fields}
    numbers: list[int] = []
    number = 0
    for field in fields:
        if field.number is not None:
            numbers.append(field.number)
            continue
        number += 1
        while number in given:
            number += 1
        numbers.append(number)
    return numbers
