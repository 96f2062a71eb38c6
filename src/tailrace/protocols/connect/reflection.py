"""Server reflection, v1 and v1alpha: what tools ask to learn a server's services (grpcurl, buf curl, Postman).

The service is written as protobuf text and made when somebody asks; its handler is a method as any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from tailrace.errors import Code
from tailrace.schema.descriptors import Pool
from tailrace.schema.proto_parser import parse_proto
from tailrace.service.implementing import implement

if TYPE_CHECKING:
    from tailrace.service.methods import Method

__all__ = ["REFLECTION_SERVICES", "Index", "reflection_methods"]

_VERSIONS = ("v1", "v1alpha")
REFLECTION_SERVICES = tuple(f"grpc.reflection.{version}.ServerReflection" for version in _VERSIONS)

# After grpc/reflection/v1/reflection.proto of the gRPC authors, whose names and numbers every client knows.
_PROTO = """
syntax = "proto3";
package grpc.reflection.VERSION;

service ServerReflection {
  rpc ServerReflectionInfo(stream ServerReflectionRequest) returns (stream ServerReflectionResponse);
}
message ServerReflectionRequest {
  string host = 1;
  oneof message_request {
    string file_by_filename = 3;
    string file_containing_symbol = 4;
    ExtensionRequest file_containing_extension = 5;
    string all_extension_numbers_of_type = 6;
    string list_services = 7;
  }
}
message ExtensionRequest {
  string containing_type = 1;
  int32 extension_number = 2;
}
message ServerReflectionResponse {
  string valid_host = 1;
  ServerReflectionRequest original_request = 2;
  oneof message_response {
    FileDescriptorResponse file_descriptor_response = 4;
    ExtensionNumberResponse all_extension_numbers_response = 5;
    ListServiceResponse list_services_response = 6;
    ErrorResponse error_response = 7;
  }
}
message FileDescriptorResponse { repeated bytes file_descriptor_proto = 1; }
message ExtensionNumberResponse { string base_type_name = 1; repeated int32 extension_number = 2; }
message ListServiceResponse { repeated ServiceResponse service = 1; }
message ServiceResponse { string name = 1; }
message ErrorResponse { int32 error_code = 1; string error_message = 2; }
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Index:
    """What can be asked for, of a set of files.

    Attributes:
        services: Full names.
        files: The files by name, serialized.
        imports: The names of the files that each imports.
        symbols: The name of the file in which a full name is defined.
        extensions: The file of each extension, by the type it extends and its number.
    """

    services: tuple[str, ...]
    files: dict[str, bytes]
    imports: dict[str, tuple[str, ...]]
    symbols: dict[str, str]
    extensions: dict[tuple[str, int], str]

    @classmethod
    def of(cls, files: Any) -> Index:
        """Look through a ``FileDescriptorSet``."""
        index = cls(
            services=tuple(
                ".".join(filter(None, (file.package, service.name))) for file in files.file for service in file.service
            ),
            files={file.name: file.SerializeToString() for file in files.file},
            imports={file.name: tuple(file.dependency) for file in files.file},
            symbols={},
            extensions={},
        )
        for file in files.file:
            index.symbols.update((symbol, file.name) for symbol in _symbols(file))
            for extension in _extensions(file):
                index.extensions[extension.extendee.lstrip("."), extension.number] = file.name
        return index

    def with_imports(self, name: str) -> Iterator[str]:
        """The file `name`, then what it imports, each once."""
        found: dict[str, None] = {}
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one in self.files and one not in found:
                found[one] = None
                waiting.extend(self.imports[one])
        return iter(found)


def reflection_methods(index: Callable[[], Index]) -> list[Method]:
    """The methods of both versions.

    Args:
        index: Gives what is to be told, as it is at the time.
    """
    methods: list[Method] = []
    for version in _VERSIONS:
        name = f"grpc/reflection/{version}/reflection.proto"
        pool = Pool()
        pool.add(parse_proto(_PROTO.replace("VERSION", version), name))
        file = pool.file(name)
        response = pool.message(f"grpc.reflection.{version}.ServerReflectionResponse")
        service = file.services_by_name["ServerReflection"]
        methods += implement(service, _Reflection(index, response), once=frozenset(), timeout=None)
    return methods


class _Reflection:
    """One version of the service."""

    def __init__(self, index: Callable[[], Index], response: Any) -> None:
        self._index = index
        self._response = response

    async def server_reflection_info(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        sent: set[str] = set()  # on this stream: a client keeps what it was given
        async for request in requests:
            yield self._response(valid_host=request.host, original_request=request, **self._answer(request, sent))

    def _answer(self, request: Any, sent: set[str]) -> dict[str, Any]:
        index = self._index()
        which = request.WhichOneof("message_request")
        asked: Any = getattr(request, which) if which else ""
        if which == "list_services":
            return {"list_services_response": {"service": [{"name": name} for name in sorted(index.services)]}}
        if which == "all_extension_numbers_of_type":
            if asked not in index.symbols:
                return _error(Code.NOT_FOUND, f"there is no type {asked[:200]!r}")
            numbers = sorted(number for base, number in index.extensions if base == asked)
            return {"all_extension_numbers_response": {"base_type_name": asked, "extension_number": numbers}}
        if which == "file_by_filename":
            name = asked if asked in index.files else None
        elif which == "file_containing_symbol":
            name = index.symbols.get(asked.lstrip("."))
        elif which == "file_containing_extension":
            name = index.extensions.get((asked.containing_type, asked.extension_number))
        else:
            return _error(Code.INVALID_ARGUMENT, "the request asks for nothing that is known")
        if name is None:
            return _error(Code.NOT_FOUND, f"there is nothing for {str(asked)[:200]!r}")
        # The file that was asked for goes in any case, what it imports only once.
        names = [one for one in index.with_imports(name) if one == name or one not in sent]
        sent.update(names)
        return {"file_descriptor_response": {"file_descriptor_proto": [index.files[one] for one in names]}}


def _error(code: Code, message: str) -> dict[str, Any]:
    return {"error_response": {"error_code": int(code), "error_message": message}}


def _symbols(file: Any) -> Iterator[str]:
    prefix = f"{file.package}." if file.package else ""
    for message in file.message_type:
        yield from _in_message(message, prefix)
    for enum in file.enum_type:
        yield from _in_enum(enum, prefix)
    for service in file.service:
        yield prefix + service.name
        for method in service.method:
            yield f"{prefix}{service.name}.{method.name}"
    for extension in file.extension:
        yield prefix + extension.name


def _in_message(message: Any, prefix: str) -> Iterator[str]:
    name = prefix + message.name
    yield name
    for parts in (message.field, message.oneof_decl, message.extension):
        for part in parts:
            yield f"{name}.{part.name}"
    for nested in message.nested_type:
        yield from _in_message(nested, f"{name}.")
    for enum in message.enum_type:
        yield from _in_enum(enum, f"{name}.")


def _in_enum(enum: Any, prefix: str) -> Iterator[str]:
    yield prefix + enum.name
    for value in enum.value:
        yield prefix + value.name  # a value stands beside its enum


def _extensions(file: Any) -> Iterator[Any]:
    yield from file.extension
    waiting = list(file.message_type)
    while waiting:
        message = waiting.pop()
        yield from message.extension
        waiting.extend(message.nested_type)
