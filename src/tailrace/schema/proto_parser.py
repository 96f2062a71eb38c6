"""A reader of ``.proto`` files: as much of proto3 as `proto_text` writes, and what people add to it by hand.

Generated code is not what it is for (protoc makes that): it reads the file that keeps a service's field numbers,
and the few definitions that the server brings along. Compilers are no run-time dependency, and none of the
libraries that a user installs can parse the language. Options are read over, but for ``idempotency_level``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tailrace.schema.descriptors import camel_case
from tailrace.schema.protobuf import google

__all__ = ["ProtoSyntaxError", "parse_proto"]

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<word>[A-Za-z_.][A-Za-z0-9_.]*)|(?P<number>-?(?:0[xX][0-9a-fA-F]+|[0-9]+))|(?P<sign>[{}()\[\]<>=;,:\-])""",
    re.DOTALL,
)
_SCALARS = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "fixed64": 6, "fixed32": 7, "bool": 8, "string": 9,
    "bytes": 12, "uint32": 13, "sfixed32": 15, "sfixed64": 16, "sint32": 17, "sint64": 18,
}  # fmt: skip
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3
_MAX_FIELD, _MAX_ENUM = 2**29 - 1, 2**31 - 1
_DEPTH = 32  # of nested messages


class ProtoSyntaxError(ValueError):
    """A ``.proto`` file cannot be read; the text names file and line."""


def parse_proto(text: str, name: str) -> Any:
    """Read a file.

    Args:
        text: What is in it.
        name: Its name, for the descriptor and for errors.

    Returns:
        A ``FileDescriptorProto``, as protoc makes it but for options and comments.

    Raises:
        ProtoSyntaxError: It is no proto3 file, or has what is not read here (groups, extensions, proto2, editions).
    """
    return _Parser(text, name).file()


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._tokens = list(_tokens(text, name))
        self._at = 0
        self._proto: Any = google("descriptor_pb2").FileDescriptorProto(name=name)
        self._kinds: dict[str, int] = {}  # of what is defined in the file, by full name
        self._references: list[tuple[Any, str, str, str, int]] = []  # whose, which attribute, what, scope, line

    # --- tokens ---

    @property
    def _next(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _line(self) -> int:
        return self._tokens[min(self._at, len(self._tokens) - 1)][0] if self._tokens else 1

    def _error(self, text: str, line: int | None = None) -> ProtoSyntaxError:
        return ProtoSyntaxError(f"{self._name}:{line or self._line()}: {text}")

    def _take(self) -> str:
        token = self._next
        if not token:
            raise self._error("the file ends in the middle")
        self._at += 1
        return token

    def _expect(self, *wanted: str) -> str:
        token = self._next
        if token not in wanted:
            raise self._error(f"expected {' or '.join(map(repr, wanted))}, found {token!r}")
        return self._take()

    def _accept(self, wanted: str) -> bool:
        found = self._next == wanted
        self._at += found
        return found

    def _identifier(self) -> str:
        token = self._take()
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", token):
            self._at -= 1
            raise self._error(f"expected a name, found {token!r}")
        return token

    def _integer(self) -> int:
        token = self._take()
        try:
            return int(token, 0)
        except ValueError:
            self._at -= 1
            raise self._error(f"expected a number, found {token!r}") from None

    def _string(self) -> str:
        token = self._take()
        if token[0] not in "\"'":
            self._at -= 1
            raise self._error(f"expected a string, found {token!r}")
        return token[1:-1]

    # --- the file ---

    def file(self) -> Any:
        proto = self._proto
        while self._next:
            word = self._take()
            if word == "syntax":
                self._expect("=")
                if (syntax := self._string()) != "proto3":
                    raise self._error(f"this is {syntax!r}, and only proto3 is read here")
                proto.syntax = syntax
                self._expect(";")
            elif word == "package":
                proto.package = self._take()
                self._expect(";")
            elif word == "import":
                if self._next in ("public", "weak"):
                    raise self._error(f"import {self._next} is not read here")
                proto.dependency.append(self._string())
                self._expect(";")
            elif word == "option":
                self._option()
            elif word == "message":
                self._message(proto.message_type.add(), self._scope(), 0)
            elif word == "enum":
                self._enum(proto.enum_type.add(), self._scope())
            elif word == "service":
                self._service(proto.service.add())
            elif word != ";":
                self._at -= 1
                raise self._error(f"expected a message, an enum or a service, found {word!r}")
        if proto.syntax != "proto3":
            raise self._error('syntax = "proto3"; is missing', 1)
        self._resolve()
        return proto

    def _scope(self) -> str:
        return f".{self._proto.package}" if self._proto.package else ""

    def _option(self) -> tuple[str, str]:
        """``option name = value;``, of which the last words are told."""
        words: list[str] = []
        depth = 0
        while depth or self._next != ";":
            token = self._take()
            depth += token in "{[("
            depth -= token in "}])"
            words.append(token)
        self._expect(";")
        return (words[0], words[-1]) if words else ("", "")

    def _brackets(self) -> None:
        """``[deprecated = true]``: read over."""
        if self._accept("["):
            depth = 1
            while depth:
                token = self._take()
                depth += token == "["
                depth -= token == "]"

    # --- messages ---

    def _message(self, message: Any, scope: str, depth: int) -> None:
        if depth > _DEPTH:
            raise self._error("messages are nested too deeply")
        message.name = self._identifier()
        scope = f"{scope}.{message.name}"
        self._define(scope, _MESSAGE)
        self._expect("{")
        while not self._accept("}"):
            word = self._take()
            if word == "message":
                self._message(message.nested_type.add(), scope, depth + 1)
            elif word == "enum":
                self._enum(message.enum_type.add(), scope)
            elif word == "oneof":
                self._oneof(message, scope)
            elif word == "option":
                self._option()
            elif word == "reserved":
                self._reserved(message, _MAX_FIELD, exclusive=True)
            elif word == "map" and self._next == "<":
                self._map(message, scope)
            elif word in ("extensions", "extend", "group", "required"):
                raise self._error(f"{word!r} is not read here")
            elif word != ";":
                self._field(message, word, scope)
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name="_" + field.name)
        self._check_unique(message.name, [(field.name, field.number) for field in message.field])

    def _field(self, message: Any, word: str, scope: str, oneof: int | None = None) -> None:
        field = message.field.add(label=_OPTIONAL)
        if word in ("optional", "repeated"):
            if oneof is not None:
                raise self._error(f"a field of a oneof is not {word}")
            field.label = _REPEATED if word == "repeated" else _OPTIONAL
            field.proto3_optional = word == "optional"
            if not field.proto3_optional:
                field.ClearField("proto3_optional")
            word = self._take()
        if oneof is not None:
            field.oneof_index = oneof
        self._set_type(field, word, scope)
        self._name_and_number(field)

    def _name_and_number(self, field: Any) -> None:
        field.name = self._identifier()
        field.json_name = camel_case(field.name)
        self._expect("=")
        line = self._line()
        number = self._integer()
        if not 1 <= number <= _MAX_FIELD:
            raise self._error(f"{number} is no field number", line)
        field.number = number
        self._brackets()
        self._expect(";")

    def _map(self, message: Any, scope: str) -> None:
        self._expect("<")
        key = self._take()
        if key not in _SCALARS or key in ("double", "float", "bytes"):
            raise self._error(f"a map has no keys of {key!r}")
        self._expect(",")
        value = self._take()
        self._expect(">")
        field = message.field.add(label=_REPEATED, type=_MESSAGE)
        self._name_and_number(field)
        entry = message.nested_type.add(name=camel_case("_" + field.name) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_OPTIONAL, type=_SCALARS[key], json_name="key")
        self._set_type(entry.field.add(name="value", number=2, label=_OPTIONAL, json_name="value"), value, scope)
        field.type_name = f"{scope}.{entry.name}"

    def _oneof(self, message: Any, scope: str) -> None:
        index = len(message.oneof_decl)
        message.oneof_decl.add(name=self._identifier())
        self._expect("{")
        while not self._accept("}"):
            word = self._take()
            if word == "option":
                self._option()
            elif word != ";":
                self._field(message, word, scope, oneof=index)

    def _reserved(self, message: Any, most: int, *, exclusive: bool) -> None:
        while True:
            if self._next[:1] in ("'", '"'):
                message.reserved_name.append(self._string())
            else:
                start = end = self._integer()
                if self._accept("to"):
                    end = most if self._accept("max") else self._integer()
                message.reserved_range.add(start=start, end=end + exclusive)
            if self._expect(",", ";") == ";":
                return

    def _enum(self, enum: Any, scope: str) -> None:
        enum.name = self._identifier()
        self._define(f"{scope}.{enum.name}", _ENUM)
        self._expect("{")
        while not self._accept("}"):
            if self._accept("option"):
                self._option()
            elif self._accept("reserved"):
                self._reserved(enum, _MAX_ENUM, exclusive=False)
            elif not self._accept(";"):
                name = self._identifier()
                self._expect("=")
                enum.value.add(name=name, number=self._integer())
                self._brackets()
                self._expect(";")
        if not enum.value or enum.value[0].number != 0:
            raise self._error(f"the first value of {enum.name} is not 0")

    # --- services ---

    def _service(self, service: Any) -> None:
        service.name = self._identifier()
        self._expect("{")
        while not self._accept("}"):
            word = self._take()
            if word == "rpc":
                self._rpc(service.method.add())
            elif word == "option":
                self._option()
            elif word != ";":
                self._at -= 1
                raise self._error(f"expected 'rpc', found {word!r}")

    def _rpc(self, method: Any) -> None:
        method.name = self._identifier()
        if self._message_type(method, "input_type"):
            method.client_streaming = True
        self._expect("returns")
        if self._message_type(method, "output_type"):
            method.server_streaming = True
        if not self._accept("{"):
            self._expect(";")
            return
        while not self._accept("}"):
            if not self._accept(";"):
                self._expect("option")
                name, value = self._option()
                if name == "idempotency_level":
                    levels = google("descriptor_pb2").MethodOptions.IdempotencyLevel
                    method.options.idempotency_level = levels.Value(value)

    def _message_type(self, method: Any, attribute: str) -> bool:
        self._expect("(")
        word = self._take()
        streams = word == "stream" and self._next != ")"
        self._refer(method, attribute, self._take() if streams else word, self._scope())
        self._expect(")")
        return streams

    # --- names ---

    def _define(self, full_name: str, kind: int) -> None:
        if full_name in self._kinds:
            raise self._error(f"{full_name[1:]} is defined twice")
        self._kinds[full_name] = kind

    def _set_type(self, field: Any, word: str, scope: str) -> None:
        if word in _SCALARS:
            field.type = _SCALARS[word]
        else:
            self._refer(field, "type_name", word, scope)

    def _refer(self, owner: Any, attribute: str, name: str, scope: str) -> None:
        if not re.fullmatch(r"\.?[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name, re.ASCII):
            self._at -= 1
            raise self._error(f"expected a type, found {name!r}")
        self._references.append((owner, attribute, name, scope, self._line()))

    def _resolve(self) -> None:
        """Names as protobuf finds them: from the innermost scope out; what is not in the file is imported."""
        for owner, attribute, name, scope, line in self._references:
            full = name if name.startswith(".") else self._found(name, scope)
            kind = self._kinds.get(full)
            if kind is None and not self._proto.dependency:
                raise self._error(f"there is no {name!r}", line)
            setattr(owner, attribute, full)
            if attribute == "type_name":
                owner.type = kind or _MESSAGE

    def _found(self, name: str, scope: str) -> str:
        while True:
            if f"{scope}.{name}" in self._kinds:
                return f"{scope}.{name}"
            if not scope:
                return f".{name}"
            scope = scope.rpartition(".")[0]

    def _check_unique(self, message: str, fields: list[tuple[str, int]]) -> None:
        for at, what in enumerate(("name", "number")):
            given = [field[at] for field in fields]
            for one in given:
                if given.count(one) > 1:
                    raise self._error(f"two fields of {message} have the {what} {one}")


def _tokens(text: str, name: str) -> Iterator[tuple[int, str]]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ProtoSyntaxError(f"{name}:{line}: unexpected {text[at]!r}")
        if match.lastgroup != "skip":
            yield line, match[0]
        line += match[0].count("\n")
        at = match.end()
