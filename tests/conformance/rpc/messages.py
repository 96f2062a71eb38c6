"""The messages of Connect's conformance suite, as classes made from its descriptors; and how programs talk to it."""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

from google.protobuf import any_pb2, empty_pb2, struct_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass

from tests.conformance.rpc.runner import DESCRIPTORS, parts

__all__ = ["PACKAGE", "message", "read_message", "service", "write_message"]

PACKAGE = "connectrpc.conformance.v1"
_KNOWN = (any_pb2, empty_pb2, struct_pb2)  # of google's own package: they are registered already


def _load() -> Any:
    path = os.environ.get(DESCRIPTORS) or parts().descriptors
    with open(path, "rb") as file:
        files = FileDescriptorSet.FromString(file.read()).file
    pool = Default()
    for one in files:
        if not one.name.startswith("google/protobuf/"):
            pool.AddSerializedFile(one.SerializeToString())
    return pool


_pool = _load()


def message(name: str) -> Any:
    """The class of a message, e.g. ``UnaryRequest``."""
    return GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def service() -> Any:
    """The descriptor of ``ConformanceService``."""
    return _pool.FindServiceByName(f"{PACKAGE}.ConformanceService")


def read_message(stream: BinaryIO, cls: Any) -> Any:
    """The next message that the runner sends; None at the end."""
    prefix = stream.read(4)
    if len(prefix) < 4:
        return None
    return cls.FromString(stream.read(struct.unpack(">I", prefix)[0]))


def write_message(stream: BinaryIO, value: Any) -> None:
    """Send the runner a message."""
    data = value.SerializeToString()
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()
