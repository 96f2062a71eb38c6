"""The border to google's protobuf: its modules, loaded when they are first asked for, and its faults in our words.

An MCP-only service never loads it (60 ms of start). It has no types of its own, so nothing beyond this border and
the files that build descriptors tells more of its objects than `Any`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.schema.allowance import InvalidMessage, check_json

__all__ = ["InvalidMessage", "from_json", "from_proto", "google", "is_generated", "to_json", "to_proto"]

_DEPTH = 100  # of nested messages, as the binary format's own limit


def google(module: str) -> Any:
    """A module of ``google.protobuf``, by its name in there."""
    return importlib.import_module(f"google.protobuf.{module}")


def is_generated(hint: Any) -> bool:
    """Whether `hint` is a message class of google's protobuf, as protoc generates them. Loads nothing."""
    loaded = sys.modules.get("google.protobuf.message")
    return loaded is not None and isinstance(hint, type) and issubclass(hint, loaded.Message)


def from_proto(cls: Any) -> Callable[[bytes], Any]:
    """A reader of the binary form: bytes to a message of `cls`."""
    parse: Callable[[bytes], Any] = cls.FromString
    fault: type[Exception] = google("message").DecodeError
    name: str = cls.DESCRIPTOR.full_name

    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except fault:
            raise InvalidMessage(f"the message is no {name} in binary form") from None

    return read


def to_proto(cls: Any) -> Callable[[Any], bytes]:
    """A writer of the binary form: a message of `cls` to bytes."""
    fault: type[Exception] = google("message").EncodeError

    def write(message: Any) -> bytes:
        if not isinstance(message, cls):
            raise _other_type(cls, message)
        try:
            return message.SerializeToString()
        except fault as error:
            raise InvalidMessage(str(error)) from None

    return write


def from_json(cls: Any) -> Callable[[bytes], Any]:
    """A reader of protobuf's JSON form; unknown members are passed over, as every Connect implementation does."""
    json_format = google("json_format")
    parse: Callable[..., Any] = json_format.ParseDict
    pool = cls.DESCRIPTOR.file.pool
    name: str = cls.DESCRIPTOR.full_name
    decode = msgspec.json.decode

    def read(data: bytes) -> Any:
        check_json(data, slowly=True)
        try:
            plain = decode(data)
            if type(plain) is not dict and not name.startswith("google.protobuf."):
                raise InvalidMessage(f"the message is no {name}: a JSON object was expected")
            message = cls()
            return parse(plain, message, ignore_unknown_fields=True, descriptor_pool=pool, max_recursion_depth=_DEPTH)
        except json_format.ParseError as error:
            raise InvalidMessage(f"the message is no {name}: {_cut(error)}") from None
        except (msgspec.DecodeError, UnicodeError) as error:
            raise InvalidMessage(f"the message is not JSON: {_cut(error)}") from None
        except RecursionError:
            raise InvalidMessage("the message is nested too deeply") from None
        except (TypeError, ValueError, AttributeError) as error:  # JSON of a kind that `ParseDict` did not think of
            raise error if isinstance(error, InvalidMessage) else InvalidMessage(f"the message is no {name}") from None

    return read


def to_json(cls: Any) -> Callable[[Any], bytes]:
    """A writer of protobuf's JSON form: names in lowerCamelCase, fields without a value left out."""
    json_format = google("json_format")
    dump: Callable[..., Any] = json_format.MessageToDict
    pool = cls.DESCRIPTOR.file.pool
    encode = msgspec.json.encode

    def write(message: Any) -> bytes:
        if not isinstance(message, cls):
            raise _other_type(cls, message)
        try:
            return encode(dump(message, descriptor_pool=pool))
        except (json_format.SerializeToJsonError, ValueError, TypeError) as error:  # an unknown type in an Any
            raise InvalidMessage(f"the message has no JSON form: {_cut(error)}") from None

    return write


def _other_type(cls: Any, message: Any) -> InvalidMessage:
    return InvalidMessage(f"expected {cls.DESCRIPTOR.full_name}, got {type(message).__name__}")


def _cut(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 300 else text[:300] + "..."
