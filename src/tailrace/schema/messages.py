"""What stands between a method and the bytes of its messages: a `MessageType` for each type, made once.

Server and client use it alike. The messages of a service in typed Python have descriptors of their own
(`schema.descriptors`); classes that protoc generated are used as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tailrace.errors import DefinitionError
from tailrace.schema import protobuf
from tailrace.schema.protobuf import InvalidMessage

__all__ = ["InvalidMessage", "MessageType", "generated_type", "message_type"]


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

    Args:
        hint: A class that protoc generated; a dataclass, msgspec.Struct or pydantic model.

    Raises:
        DefinitionError: It has no protobuf form.
    """
    if protobuf.is_generated(hint):
        return generated_type(hint)
    raise DefinitionError(f"{hint!r} has no protobuf form")


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
