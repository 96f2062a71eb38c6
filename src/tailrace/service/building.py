"""A service's definitions as methods: the descriptors of all their messages are made together, as one file."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tailrace.errors import DefinitionError
from tailrace.schema.converters import Converters
from tailrace.schema.descriptors import Pool, draft, with_dependencies
from tailrace.schema.messages import MessageType, generated_type, shaped_type
from tailrace.schema.proto_lock import Comparison, apply_lock
from tailrace.schema.protobuf_types import Shapes
from tailrace.schema.shapes import Shape
from tailrace.service.methods import Method
from tailrace.service.naming import snake_case
from tailrace.service.signatures import Definition, define_tool

if TYPE_CHECKING:
    from tailrace.service.methods import Methods

__all__ = ["Built", "Plan", "Shaped", "build", "plan"]

_NO_SIDE_EFFECTS = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """What was made of a service's definitions.

    Attributes:
        methods: All but those of services that were implemented.
        left_out: Tools that are no methods: where each is, and why.
        files: ``FileDescriptor`` objects that hold all services, for reflection.
        own: The ``FileDescriptorProto`` of what was defined in Python, or None where nothing was.
    """

    methods: list[Method]
    left_out: list[tuple[str, str]]
    files: list[Any]
    own: Any

    def descriptor_set(self) -> Any:
        """A ``FileDescriptorSet`` of all files and what they import."""
        return with_dependencies(self.files)


@dataclasses.dataclass(frozen=True, slots=True)
class Shaped:
    """A definition with what its messages are: each a `Shape`, or a generated class."""

    definition: Definition
    input: Any
    output: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made of the definitions: all there is to a ``.proto`` file.

    Attributes:
        proto: The ``FileDescriptorProto``, numbered as the lock says; None where nothing was defined in Python.
        shaped: Each method with its messages.
        imports: ``FileDescriptor`` objects of generated code, by name.
        left_out: As in `Built`.
        comparison: With the lock, if there is one.
    """

    proto: Any
    shaped: list[Shaped]
    imports: dict[str, Any]
    left_out: list[tuple[str, str]]
    comparison: Comparison | None


def plan(methods: Methods, lock: Any) -> Plan:
    """Describe all messages and number their fields.

    Args:
        methods: The definitions.
        lock: The ``FileDescriptorProto`` that keeps the numbers, or None.
    """
    shapes, shaped, left_out = _shape(methods)
    if not shaped:
        return Plan(None, [], {}, left_out, None)
    generated = {side for one in shaped for side in (one.input, one.output) if not isinstance(side, Shape)}
    imports = {cls.DESCRIPTOR.file.name: cls.DESCRIPTOR.file for cls in generated}
    proto = draft(shapes, methods.package, _file_name(methods, imports))
    proto.dependency.extend(name for name in sorted(imports) if name not in proto.dependency)
    known = _known_service(methods.full_name, imports)
    if known is None:
        _add_service(proto, methods, shaped)
    else:
        proto.dependency.extend({known.file.name} - set(proto.dependency))
    return Plan(proto, shaped, imports, left_out, None if lock is None else apply_lock(proto, shapes, lock))


def build(methods: Methods) -> Built:
    """Make the methods of all that was defined.

    Raises:
        DefinitionError: Generated messages and those of Python types contradict each other; or the ``.proto`` file
            that keeps the numbers is not there, or cannot be kept to.
    """
    planned = plan(methods, None if methods.lock is None else methods.lock.read())
    if planned.proto is None:
        return Built([], planned.left_out, list(methods.files.values()), None)
    if methods.lock is not None and planned.comparison is not None:
        methods.lock.check(planned.comparison)
    pool = Pool()
    try:
        pool.add(planned.proto, planned.imports.values())
    except TypeError as error:
        raise DefinitionError(f"the messages of {methods.full_name} contradict each other: {error}") from None
    types = _Types(pool, Converters(), methods.package)
    made = [_method(methods.full_name, one, types) for one in planned.shaped]
    files = [*methods.files.values(), pool.file(planned.proto.name)]
    return Built(made, planned.left_out, files, planned.proto)


def _shape(methods: Methods) -> tuple[Shapes, list[Shaped], list[tuple[str, str]]]:
    shapes, shaped = Shapes(frozenset({methods.full_name.rpartition(".")[2]})), list[Shaped]()
    left_out: list[tuple[str, str]] = []
    names = {definition.name for definition in methods.definitions.values()}
    for definition in methods.definitions.values():
        shaped.append(Shaped(definition, *definition.shape(shapes)))
    for tool in tuple(methods.tools.values()):
        if not tool.rpc:
            continue
        before = shapes.copy()
        try:
            if not methods.full_name.isascii() or not methods.full_name.rpartition(".")[2].isidentifier():
                raise DefinitionError(f"{tool.place}: the service has a name of which none in protobuf can be made")
            definition = define_tool(tool)
            if definition.name in names:
                raise DefinitionError(f"{tool.place}: there is another method {definition.name}")
            shaped.append(Shaped(definition, *definition.shape(shapes)))
            names.add(definition.name)
        except DefinitionError as error:
            shapes = before
            left_out.append((tool.place, str(error)))
    return shapes, shaped, left_out


def _file_name(methods: Methods, imports: dict[str, Any]) -> str:
    package, _, service = methods.full_name.rpartition(".")
    stem = "/".join([*filter(None, package.split(".")), snake_case(service)])
    return f"{stem}.proto" if f"{stem}.proto" not in imports else f"{stem}_methods.proto"


def _known_service(full_name: str, imports: dict[str, Any]) -> Any:
    """The service's descriptor in the generated code whose messages it uses, if it is there."""
    for file in imports.values():
        try:
            return file.pool.FindServiceByName(full_name)
        except KeyError:
            continue
    return None


def _add_service(own: Any, methods: Methods, shaped: list[Shaped]) -> None:
    prefix = f".{methods.package}." if methods.package else "."
    service = own.service.add(name=methods.full_name.rpartition(".")[2])
    for one in shaped:
        added = service.method.add(name=one.definition.name)
        for attribute, side in (("input_type", one.input), ("output_type", one.output)):
            own_type = isinstance(side, Shape)
            setattr(added, attribute, prefix + side.name if own_type else "." + side.DESCRIPTOR.full_name)
        added.client_streaming = one.definition.kind in ("client_stream", "bidi")
        added.server_streaming = one.definition.kind in ("server_stream", "bidi")
        if not added.client_streaming:
            added.ClearField("client_streaming")
        if not added.server_streaming:
            added.ClearField("server_streaming")
        if one.definition.read_only:
            added.options.idempotency_level = _NO_SIDE_EFFECTS


class _Types:
    """The message types of one service, each made once."""

    def __init__(self, pool: Pool, converters: Converters, package: str | None) -> None:
        self._pool = pool
        self._converters = converters
        self._prefix = f"{package}." if package else ""
        self._made: dict[Shape, MessageType] = {}

    def of(self, side: Any, finish: Callable[[Any], Any] | None = None) -> MessageType:
        """The message type of a shape, or of a generated class."""
        if not isinstance(side, Shape):
            return generated_type(side)
        if side not in self._made:
            cls = self._pool.message(self._prefix + side.name)
            self._made[side] = shaped_type(side, cls, self._converters, finish)
        return self._made[side]


def _method(service: str, one: Shaped, types: _Types) -> Method:
    definition = one.definition
    param, arguments = definition.request_param, definition.arguments

    def bind(value: Any) -> dict[str, Any]:
        return value if param is None else {param: value}

    return Method(
        path=f"{service}/{definition.name}",
        service=service,
        name=definition.name,
        kind=definition.kind,
        input=types.of(one.input, None if arguments is None else arguments.converter()),
        output=types.of(one.output),
        bind=bind,
        fn=definition.fn,
        place=definition.place,
        context_param=definition.context_param,
        stream_param=param if definition.kind in ("client_stream", "bidi") else None,
        is_async=inspect.iscoroutinefunction(definition.fn),
        is_generator=inspect.isasyncgenfunction(definition.fn),
        timeout=definition.timeout,
        once=definition.once,
        read_only=definition.read_only,
        tool=definition.tool,
    )
