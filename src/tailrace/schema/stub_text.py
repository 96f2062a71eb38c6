"""Typed clients as Python source: a class for each service, over `tailrace.connect.Client`.

Messages of generated code are taken from its modules. Messages of typed Python are written as dataclasses with the
numbers of their fields, so that a client needs neither the server's code nor a compiler.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["module_of", "render_stubs"]

_SCALARS = {1: "float", 3: "int", 8: "bool", 9: "str", 12: "bytes"}  # those that `descriptors` writes
_KNOWN = {
    ".google.protobuf.Timestamp": "datetime.datetime",
    ".google.protobuf.Duration": "datetime.timedelta",
    ".google.protobuf.Value": "Any",
    ".google.protobuf.Struct": "dict[str, Any]",
}
_MESSAGE, _ENUM, _REPEATED = 11, 14, 3
_NO_SIDE_EFFECTS = 1


def module_of(file: str) -> str:
    """The module that protoc makes of a file: ``orders/v1/orders.proto`` is ``orders.v1.orders_pb2``."""
    return file.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"


def render_stubs(services: Iterable[Any], own: Any, modules: Mapping[str, str], known: Iterable[Any]) -> str:
    """The source of a module with a client for each service.

    Args:
        services: ``FileDescriptorProto`` objects of which the services are written.
        own: That of which the messages are written as dataclasses, or None.
        modules: Where generated code is that is not where protoc puts it: modules by the names of files.
        known: All files in which messages are, to find their modules.

    Raises:
        LookupError: A message is in none of the files; its argument is the full name.
    """
    return _Stubs(list(services), own, modules, list(known)).render()


class _Stubs:
    def __init__(self, services: list[Any], own: Any, modules: Mapping[str, str], known: list[Any]) -> None:
        self._services = services
        self._own = own
        self._places = {name: place for file in known for name, place in _messages(file)}
        self._modules = modules
        self._imports: set[str] = set()
        self._prefix = "" if own is None else f".{own.package}." if own.package else "."

    def render(self) -> str:
        body = [line for file in self._services for service in file.service for line in self._client(file, service)]
        if self._own is not None:
            for message in self._own.message_type:
                body += self._message(message)
            for enum in self._own.enum_type:
                body += self._enum(enum)
        names = ", ".join(
            ".".join(filter(None, (file.package, service.name))) for file in self._services for service in file.service
        )
        text = "\n".join(body)
        return "\n".join([*self._head(names, text), text]) + "\n"

    def _head(self, names: str, body: str) -> Iterator[str]:
        yield f'"""Typed clients of {names}. Written by `tailrace gen stubs`: not to be changed by hand."""'
        yield "# ruff: noqa"
        yield ""
        yield "from __future__ import annotations"
        yield ""
        plain = [name for name in ("dataclasses", "datetime", "enum") if f"{name}." in body]
        yield from (f"import {name}" for name in plain)
        typing = [name for name in ("Annotated", "Any", "Unpack") if re.search(rf"\b{name}\b", body)]
        yield f"from typing import {', '.join(typing)}"
        yield ""
        if "FieldNumber(" in body:
            yield "from tailrace import FieldNumber"
        streams = [name for name in ("BidiStream", "ClientStream", "ServerStream") if f"{name}[" in body]
        yield f"from tailrace.connect import {', '.join(sorted(['CallOptions', 'Client', *streams]))}"
        if self._imports:
            yield ""
            for module in sorted(self._imports):
                package, _, name = module.rpartition(".")
                yield f"from {package} import {name}" if package else f"import {name}"

    # --- services ---

    def _client(self, file: Any, service: Any) -> Iterator[str]:
        full_name = ".".join(filter(None, (file.package, service.name)))
        yield ""
        yield ""
        yield f"class {service.name}Client:"
        yield f'    """Calls {full_name}."""'
        yield ""
        yield "    def __init__(self, client: Client) -> None:"
        yield "        self.client = client"
        for method in service.method:
            yield ""
            yield from self._method(full_name, method)

    def _method(self, service: str, method: Any) -> Iterator[str]:
        name, path = _python(_snake(method.name)), f"{service}/{method.name}"
        request, response = self._class(method.input_type), self._class(method.output_type)
        options = "**options: Unpack[CallOptions]"
        types = f"request={request}, response={response}, **options"
        if method.client_streaming:
            kind, call = ("BidiStream", "bidi") if method.server_streaming else ("ClientStream", "client_stream")
            yield f"    def {name}(self, {options}) -> {kind}[{request}, {response}]:"
            yield f'        return self.client.{call}("{path}", {types})'
        elif method.server_streaming:
            yield f"    def {name}(self, message: {request}, {options}) -> ServerStream[{request}, {response}]:"
            yield f'        return self.client.server_stream("{path}", message, {types})'
        elif method.options.idempotency_level == _NO_SIDE_EFFECTS:
            yield f"    async def {name}(self, message: {request}, {options}) -> {response}:"
            yield f'        return await self.client.unary("{path}", message, get=True, {types})'
        else:
            yield f"    async def {name}("
            yield f"        self, message: {request}, *, idempotency_key: str | None = None, {options}"
            yield f"    ) -> {response}:"
            yield "        return await self.client.unary("
            yield f'            "{path}", message, idempotency_key=idempotency_key, {types}'
            yield "        )"

    def _class(self, full_name: str) -> str:
        """A message's class, as the module that is written calls it."""
        if self._own is not None and full_name.startswith(self._prefix):
            short = full_name.removeprefix(self._prefix)
            if any(message.name == short for message in self._own.message_type):
                return short
        if full_name not in self._places:
            raise LookupError(full_name[1:])
        file, inside = self._places[full_name]
        module = self._modules.get(file, module_of(file))
        self._imports.add(module)
        return f"{module.rpartition('.')[2]}.{inside}"

    # --- messages of typed Python ---

    def _message(self, message: Any) -> Iterator[str]:
        yield ""
        yield ""
        yield "@dataclasses.dataclass(kw_only=True)"
        yield f"class {message.name}:"
        if not message.field:
            yield "    pass"
        entries = {nested.name: nested for nested in message.nested_type}
        for field in message.field:
            hint, default = self._hint(field, entries)
            yield f"    {_python(field.name)}: Annotated[{hint}, FieldNumber({field.number})]{default}"

    def _hint(self, field: Any, entries: Mapping[str, Any]) -> tuple[str, str]:
        entry = entries.get(field.type_name.rpartition(".")[2])
        if entry is not None and field.label == _REPEATED:
            key, value = (self._type(part) for part in entry.field)
            return f"dict[{key}, {value}]", " = dataclasses.field(default_factory=lambda: {})"
        hint = self._type(field)
        if field.label == _REPEATED:
            return f"list[{hint}]", " = dataclasses.field(default_factory=lambda: [])"
        if field.type == _MESSAGE or field.HasField("oneof_index"):
            return (hint if hint == "Any" else f"{hint} | None"), " = None"
        return hint, ""

    def _type(self, field: Any) -> str:
        if field.type in (_MESSAGE, _ENUM):
            return _KNOWN.get(field.type_name) or field.type_name.removeprefix(self._prefix)
        return _SCALARS[field.type]

    def _enum(self, enum: Any) -> Iterator[str]:
        yield ""
        yield ""
        yield f"class {enum.name}(enum.IntEnum):"
        prefix = _snake(enum.name).upper() + "_"
        for value in enum.value:
            yield f"    {value.name.removeprefix(prefix)} = {value.number}"


def _messages(file: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each message of a file: its full name, the file, and its name in the module."""
    prefix = f".{file.package}." if file.package else "."
    waiting = [(message, message.name) for message in file.message_type]
    while waiting:
        message, inside = waiting.pop()
        yield prefix + inside, (file.name, inside)
        waiting += [(nested, f"{inside}.{nested.name}") for nested in message.nested_type]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _python(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name
