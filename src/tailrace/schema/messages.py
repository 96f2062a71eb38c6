"""What stands between a method and the bytes of its messages: a `MessageType` for each type, made once.

Server and client use it alike. The messages of a service in typed Python have descriptors of their own
(`schema.descriptors`); classes that protoc generated are used as they are.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.schema import models, protobuf
from tailrace.schema.allowance import check_json
from tailrace.schema.complaints import Complaint, problems_of_pydantic, shorten
from tailrace.schema.converters import ALLOWANCE, Converters
from tailrace.schema.descriptors import Pool, draft
from tailrace.schema.protobuf import InvalidMessage, is_generated
from tailrace.schema.protobuf_types import Shapes, is_message
from tailrace.schema.types import decode_custom, encode_custom

if TYPE_CHECKING:
    from tailrace.schema.shapes import Shape

__all__ = ["InvalidMessage", "MessageType", "generated_type", "message_type", "shaped_type"]


class MessageType:
    """One type of message: values to bytes and back, as protobuf and as protobuf's JSON.

    Attributes:
        full_name: Of the protobuf message, e.g. ``orders.v1.Order``.
        descriptor: google's ``Descriptor`` of it.
        from_proto: Bytes to a value; raises `InvalidMessage` with a text for the caller.
        from_json: The same from JSON; members it does not know are passed over.
        to_proto: A value to bytes; raises `InvalidMessage` where the value does not fit the type.
        to_json: The same as JSON, with lowerCamelCase names.
    """

    __slots__ = ("descriptor", "from_json", "from_proto", "full_name", "to_json", "to_proto")

    def __init__(
        self,
        descriptor: Any,
        *,
        from_proto: Callable[[bytes], Any],
        from_json: Callable[[bytes], Any],
        to_proto: Callable[[Any], bytes],
        to_json: Callable[[Any], bytes],
    ) -> None:
        self.full_name: str = descriptor.full_name
        self.descriptor = descriptor
        self.from_proto = from_proto
        self.from_json = from_json
        self.to_proto = to_proto
        self.to_json = to_json

    def __repr__(self) -> str:
        return f"<MessageType {self.full_name}>"


def message_type(hint: Any) -> MessageType:
    """The message type of a Python type, made once and kept.

    A type that is no message by itself (``int``, ``list[Order]``, ``Order | None``) is wrapped as a method's result
    is: in a message with the one field ``result``.

    Args:
        hint: A class that protoc generated; a dataclass, msgspec.Struct, TypedDict or pydantic model; or any type
            that a method may return.

    Raises:
        DefinitionError: It has no protobuf form.
    """
    return generated_type(hint) if is_generated(hint) else _python_type(hint)


@lru_cache(maxsize=1024)
def generated_type(cls: Any) -> MessageType:
    """The message type of a class that protoc generated; its values are the class's messages."""
    return MessageType(
        cls.DESCRIPTOR,
        from_proto=protobuf.from_proto(cls),
        from_json=protobuf.from_json(cls),
        to_proto=protobuf.to_proto(cls),
        to_json=protobuf.to_json(cls),
    )


@lru_cache(maxsize=1024)
def _python_type(hint: Any) -> MessageType:
    shapes = Shapes()
    if is_message(hint):
        shape = shapes.message(hint, str(getattr(hint, "__qualname__", hint)))
    else:
        shape = shapes.wrapper(hint, str(hint), "Result", "ResultMessage")
    file, pool = draft(shapes, None, "message.proto"), Pool()
    pool.add(file)
    return shaped_type(shape, pool.message(shape.name), Converters())


def shaped_type(
    shape: Shape, cls: Any, converters: Converters, finish: Callable[[Any], Any] | None = None
) -> MessageType:
    """The message type of a shape.

    Args:
        shape: Of a Python type, or of a function's arguments.
        cls: The class made of its descriptor.
        converters: Those of its file.
        finish: Makes the value of plain data; None: it is made of the shape's own type.
    """
    read, write = converters.reader(shape), converters.writer(shape)
    read_json, write_json = converters.json.reader(shape), converters.json.writer(shape)
    finish = finish or _maker(shape)
    parse, parse_json = cls.FromString, protobuf.from_json(cls)
    broken = protobuf.google("message").DecodeError
    dump_json = protobuf.to_json(cls)

    def message_of(value: Any) -> Any:
        try:
            return cls(**write(value))
        except _MISFITS:  # it may still be what the type is made of: a dict for a dataclass, for example
            pass
        try:
            return cls(**write(finish(_plain(value))))
        except _MISFITS as error:
            raise InvalidMessage(f"expected {shape.name}, got {type(value).__name__}: {_words(error)}") from None

    def to_proto(value: Any) -> bytes:
        return message_of(value).SerializeToString()

    def value_of(message: Any) -> Any:
        try:
            return finish(read(message))
        except _MISFITS as error:
            raise error if isinstance(error, InvalidMessage) else InvalidMessage(_words(error)) from None

    def from_proto(data: bytes) -> Any:
        ALLOWANCE.begin(len(data))
        try:
            return finish(read(parse(data)))
        except broken:
            raise InvalidMessage(f"the message is no {cls.DESCRIPTOR.full_name} in binary form") from None
        except _MISFITS as error:
            raise error if isinstance(error, InvalidMessage) else InvalidMessage(_words(error)) from None

    def from_json(data: bytes) -> Any:
        check_json(data)
        try:
            plain = read_json(_decode(data))
        except _NOT_PLAIN:
            ALLOWANCE.begin(len(data))
            return value_of(parse_json(data))
        try:
            return finish(plain)
        except _MISFITS as error:
            raise InvalidMessage(_words(error)) from None

    def to_json(value: Any) -> bytes:
        try:
            return _encode(write_json(value))
        except _NOT_PLAIN:
            return dump_json(message_of(value))

    return MessageType(
        cls.DESCRIPTOR,
        from_proto=from_proto,
        from_json=from_json,
        to_proto=to_proto,
        to_json=to_json,
    )


# --- values of Python types ---------------------------------------------------------------------

_MISFITS = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError, Complaint)
_NOT_PLAIN = (*_MISFITS, msgspec.MsgspecError)
_decode, _encode = msgspec.json.decode, msgspec.json.encode
_BUILTIN = (datetime.datetime, datetime.timedelta, bytes, bytearray)


def _maker(shape: Shape) -> Callable[[Any], Any]:
    """From plain data to a value of the shape's type, checked as the type says."""
    hint = shape.hint
    if hint in (str, int, float, bool, bytes, Any, None):
        return _as_it_is
    if shape.pydantic:
        return models.result_adapter(hint, shape.name).validate_python

    def make(plain: Any) -> Any:
        return msgspec.convert(plain, hint, dec_hook=decode_custom)

    return make


def _as_it_is(plain: Any) -> Any:
    return plain


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=_BUILTIN, enc_hook=encode_custom)


def _words(error: Exception) -> str:
    """A misfit in our words: where it is, what was expected."""
    if isinstance(error, Complaint):
        return error.message
    if "pydantic" in type(error).__module__:
        return shorten(problems_of_pydantic(error, "message")[0][0][1], _LIMIT)
    text, at, path = str(error).replace("`", "").partition(" - at $")
    text = shorten(text[:1].lower() + text[1:], _LIMIT)
    return f"field {path.lstrip('.')!r}: {text}" if at and path else text


_LIMIT = 300  # characters
