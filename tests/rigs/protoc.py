"""What protoc makes of a `.proto` file: generated classes, as a user of generated code has them, or the descriptors."""

from __future__ import annotations

import importlib
import importlib.resources
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

from google.protobuf.descriptor_pb2 import FileDescriptorSet

__all__ = ["ELIZA", "compiled", "generated"]

ELIZA = """
syntax = "proto3";
package tailrace.tests.eliza.v1;
import "google/protobuf/any.proto";
message SayRequest { string sentence = 1; int64 big_number = 2; optional bool loud = 3; }
message SayResponse {
  string sentence = 1;
  bytes raw = 2;
  google.protobuf.Any detail = 3;
  repeated SayRequest asked = 4;
}
service ElizaService {
  rpc Say(SayRequest) returns (SayResponse) { option idempotency_level = NO_SIDE_EFFECTS; }
  rpc IntroduceAll(SayRequest) returns (stream SayResponse) {}
  rpc Collect(stream SayRequest) returns (SayResponse) {}
  rpc Converse(stream SayRequest) returns (stream SayResponse) {}
}
"""


def compiled(text: str, name: str = "given.proto") -> FileDescriptorSet:
    """The descriptors of a `.proto` file and what it imports; AssertionError where protoc refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(text)
        _protoc(folder, "--include_imports", f"--descriptor_set_out={folder}/set", name)
        return FileDescriptorSet.FromString((Path(folder) / "set").read_bytes())


@cache
def generated(name: str, text: str) -> ModuleType:
    """The module that protoc generates for `name`.proto, imported; one text for each name in a process."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{name}.proto").write_text(text)
        _protoc(folder, f"--python_out={folder}", f"{name}.proto")
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            return importlib.import_module(f"{name}_pb2")
        finally:
            sys.path.remove(folder)


def _protoc(folder: str, *arguments: str) -> None:
    from grpc_tools import protoc

    known = str(importlib.resources.files("grpc_tools") / "_proto")
    assert protoc.main(["protoc", f"-I{folder}", f"-I{known}", *arguments]) == 0
