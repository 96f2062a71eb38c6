"""`.proto` files: read as protoc reads them, and written so that protoc reads them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tailrace.schema.proto_parser import ProtoSyntaxError, parse_proto
from tailrace.schema.proto_text import render_proto
from tests.rigs.protoc import ELIZA, compiled

EVERYTHING = """// a comment
syntax = "proto3";
package a.b;
import "google/protobuf/timestamp.proto";
option go_package = "x;y";
/* another
   one */
message M {
  reserved 3, 5 to 7, 1000 to max;
  reserved "foo", 'bar';
  option deprecated = true;
  message In { In self = 1; K k = 2; enum K { X = 0; reserved 3 to 4, 7; } }
  optional string a = 1 [deprecated = true];
  repeated In in = 2;
  map<string, In> m = 4;
  map<int32, google.protobuf.Timestamp> by_number = 9;
  oneof x { string p = 10; In.K q = 11; }
  google.protobuf.Timestamp t = 12;
  In.K kk = 13;
  .a.b.E e = 14;
  optional bool later = 0x0F;
}
enum E { option deprecated = true; ZERO = 0; NEG = -1; }
message Empty {};
service S {
  rpc A(M) returns (stream M) { option idempotency_level = NO_SIDE_EFFECTS; }
  rpc B(stream .a.b.M) returns (M.In);
  rpc C(google.protobuf.Timestamp) returns (Empty);
}
"""


def without_options(file: FileDescriptorProto) -> FileDescriptorProto:
    """protoc keeps options, which are read over here."""
    file.ClearField("options")
    for service in file.service:
        for method in service.method:
            if not method.options.ListFields():
                method.ClearField("options")
    for message in file.message_type:
        message.ClearField("options")
        for field in message.field:
            field.ClearField("options")
    for enum in file.enum_type:
        enum.ClearField("options")
    return file


@pytest.mark.parametrize("text", [EVERYTHING, ELIZA])
def test_a_file_is_read_as_protoc_reads_it(text: str) -> None:
    (expected,) = [file for file in compiled(text).file if file.name == "given.proto"]
    assert parse_proto(text, "given.proto") == without_options(expected)


@pytest.mark.parametrize("text", [EVERYTHING, ELIZA])
def test_what_is_written_is_read_again_by_us_and_by_protoc(text: str) -> None:
    proto = parse_proto(text, "given.proto")
    written = render_proto(proto, "Two lines\nat the top.", {"A": "What it does.", "Say": "Says."})
    assert written.startswith("// Two lines\n// at the top.\n")
    assert "  // What it does.\n  rpc A" in written or "  // Says.\n  rpc Say" in written
    assert parse_proto(written, "given.proto") == proto
    (by_protoc,) = [file for file in compiled(written).file if file.name == "given.proto"]
    assert by_protoc == proto


HEAD = 'syntax = "proto3";\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("message M {}", "x.proto:1: syntax"),
        ('syntax = "proto2";', "x.proto:1: this is 'proto2'"),
        (HEAD + "message M {", "x.proto:2: the file ends"),
        (HEAD + "message M { string a = 0; }", "0 is no field number"),
        (HEAD + "message M {\n string a = b; }", "x.proto:3: expected a number, found 'b'"),
        (HEAD + "message M { string a = 1; string b = 1; }", "two fields of M have the number 1"),
        (HEAD + "message M { string a = 1; string a = 2; }", "two fields of M have the name a"),
        (HEAD + "message M { Other a = 1; }", "there is no 'Other'"),
        (HEAD + "message M {} message M {}", "M is defined twice"),
        (HEAD + "message M { required int32 a = 1; }", "'required' is not read here"),
        (HEAD + "message M { oneof x { repeated int32 a = 1; } }", "not repeated"),
        (HEAD + "message M { map<double, int32> a = 1; }", "no keys of 'double'"),
        (HEAD + "message 3 {}", "expected a name, found '3'"),
        (HEAD + "enum E { A = 1; }", "first value of E is not 0"),
        (HEAD + "extend M {}", "expected a message, an enum or a service, found 'extend'"),
        (HEAD + "service S { stream X; }", "expected 'rpc', found 'stream'"),
        (HEAD + "service S { rpc A(M) gives (M); }", "expected 'returns', found 'gives'"),
        (HEAD + 'import public "x";', "import public is not read"),
        (HEAD + "import x;", "expected a string, found 'x'"),
        (HEAD + "message M { 3 a = 1; }", "expected a type, found '3'"),
        (HEAD + "message M %", "x.proto:2: unexpected '%'"),
        (HEAD + "message M { option a = {", "the file ends"),
        (HEAD + "message M {" * 50, "nested too deeply|a name"),
        ("", "syntax"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ProtoSyntaxError, match=complaint):
        parse_proto(text, "x.proto")


def test_names_that_would_be_found_in_the_wrong_scope_are_written_in_full() -> None:
    text = HEAD + 'package google.x;\nimport "google/protobuf/any.proto";\nmessage M { .google.protobuf.Any a = 1; }\n'
    proto: Any = parse_proto(text, "given.proto")
    written = render_proto(proto, "", {})
    assert ".google.protobuf.Any a" in written
    (by_protoc,) = [file for file in compiled(written).file if file.name == "given.proto"]
    assert by_protoc == proto
