"""gRPC's own forms: time-outs, the status in trailers, and gRPC-Web's trailers in a message of the body.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and PROTOCOL-WEB.md. Messages are in `envelopes`,
content types and statuses in `rpc`.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from tailrace.errors import Code, RpcError
from tailrace.wire.envelopes import TRAILERS, envelope
from tailrace.wire.metadata import Fields, Metadata, decode_binary, encode_binary
from tailrace.wire.rpc import Detail, details_of, to_any

__all__ = [
    "STATUS",
    "WELL",
    "Base64Reader",
    "Status",
    "decode_message",
    "decode_status",
    "decode_web_trailers",
    "encode_base64",
    "encode_message",
    "encode_status",
    "encode_web_trailers",
    "format_timeout",
    "parse_timeout",
    "read_status",
    "status_trailers",
]

STATUS: Final = b"grpc-status"
_MESSAGE: Final = b"grpc-message"
_DETAILS: Final = b"grpc-status-details-bin"
WELL: Final = ((STATUS, b"0"),)  # the trailers of a call that ended well and has none of its own
_OWN = frozenset({STATUS, _MESSAGE, _DETAILS})
_CODE_OF_NUMBER = {str(int(code)): code for code in Code}


# --- time-outs ----------------------------------------------------------------------------------

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST = 99_999_999


def parse_timeout(value: str | None) -> float | None:
    """Seconds, from `grpc-timeout`; None where there is none.

    Raises:
        RpcError: INVALID_ARGUMENT: it is not at most eight digits and a unit.
    """
    if value is None:
        return None
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise RpcError(Code.INVALID_ARGUMENT, f"grpc-timeout is not at most eight digits and a unit: {value[:32]!r}")
    return int(found[1]) * _UNITS[found[2]]


def format_timeout(seconds: float) -> str:
    """`grpc-timeout` for this many seconds, in the finest unit that can say it, rounded down."""
    seconds = max(0.0, seconds)
    for unit, factor in (("n", 1e9), ("u", 1e6), ("m", 1e3), ("S", 1.0)):
        if seconds * factor <= _MOST:
            return f"{int(seconds * factor)}{unit}"
    return f"{min(_MOST, int(seconds / 3600))}H"


# --- the status ---------------------------------------------------------------------------------

_ESCAPED = re.compile(rb"[^ -$&-~]")  # all but printable ASCII without the per cent sign


def encode_message(text: str) -> bytes:
    """`grpc-message`: UTF-8, what is not printable ASCII as ``%XX``."""
    return _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], text.encode("utf-8", "replace"))


def decode_message(value: str) -> str:
    """The text of a `grpc-message`; what is badly escaped stays as it is."""
    return unquote_to_bytes(value.encode("latin-1", "replace")).decode("utf-8", "replace")


class Status(Struct, frozen=True):
    """``google.rpc.Status``: what `grpc-status-details-bin` carries."""

    code: int
    message: str
    details: tuple[Detail, ...] = ()


def status_trailers(error: RpcError | None = None, trailers: Metadata | None = None) -> Fields:
    """The trailers of a call that ended with `error` (None: well), and its own ones.

    Raises:
        TypeError: A detail is no protobuf message.
    """
    if error is None:
        fields: Fields = [*WELL]
    else:
        fields = [(STATUS, b"%d" % error.code), (_MESSAGE, encode_message(str(error.message)))]
        if error.details:
            status = Status(int(error.code), str(error.message), tuple(details_of(error.details)))
            fields.append((_DETAILS, encode_binary(encode_status(status)).encode("ascii")))
    if trailers is not None:
        fields += trailers.encode()
    return fields


def read_status(fields: Iterable[tuple[bytes, str]]) -> tuple[bool, RpcError | None, Metadata]:
    """What trailers (or the headers of an answer without a body) say.

    Returns:
        Whether they have a status at all; the error, None if it says that all is well; all other fields, which are
        the error's metadata, too.
    """
    fields = list(fields)
    own = {name: value for name, value in fields if name in _OWN}
    trailers = Metadata.read(field for field in fields if field[0] not in _OWN)
    number = own.get(STATUS)
    if number is None:
        return False, None, trailers
    if number == "0":
        return True, None, trailers
    message = decode_message(own.get(_MESSAGE, ""))
    code = _CODE_OF_NUMBER.get(number)
    if code is None:
        code, message = Code.UNKNOWN, message or f"grpc-status is {number[:16]!r}"
    details: tuple[Detail, ...] = ()
    if _DETAILS in own:
        try:
            details = decode_status(decode_binary(own[_DETAILS])).details
        except ValueError:
            details = ()  # the error matters more
    metadata = {name: trailers.all(name) for name in trailers}
    return True, RpcError(code, message, [to_any(detail) for detail in details], metadata), trailers


# --- google.rpc.Status: three fields, and no class for it, which a program may have registered itself ----------------

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def encode_status(status: Status) -> bytes:
    """Its protobuf form."""
    parts = [b"\x08" + _encode_varint(status.code) if status.code else b""]
    if status.message:
        parts.append(_encode_field(2, status.message.encode("utf-8", "replace")))
    parts += [
        _encode_field(3, _encode_field(1, detail.type_url.encode()) + _encode_field(2, detail.value))
        for detail in status.details
    ]
    return b"".join(parts)


def decode_status(data: bytes) -> Status:
    """From its protobuf form; fields that are not known are passed over.

    Raises:
        ValueError: It is damaged.
    """
    code, message, details = 0, "", list[Detail]()
    for number, value in _decode_fields(data):
        if number == 1 and isinstance(value, int):
            code = value & 0xFFFF_FFFF
        elif number == 2 and isinstance(value, bytes):
            message = value.decode("utf-8", "replace")
        elif number == 3 and isinstance(value, bytes):
            parts = {inner: part for inner, part in _decode_fields(value) if isinstance(part, bytes)}
            details.append(Detail(parts.get(1, b"").decode("utf-8", "replace").rpartition("/")[2], parts.get(2, b"")))
    return Status(code, message, tuple(details))


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _encode_field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _encode_varint(len(value)) + value


def _decode_fields(data: bytes) -> Iterable[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _decode_varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            number, at = _decode_varint(data, at)
            yield key >> 3, number
            continue
        if kind == _BYTES:
            size, at = _decode_varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + size > len(data):
            raise ValueError("a field is cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _decode_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number is cut off")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number has more than ten bytes")


# --- gRPC-Web -----------------------------------------------------------------------------------


def encode_web_trailers(fields: Fields) -> bytes:
    """The last message of an answer: its trailers."""
    return envelope(TRAILERS, b"".join([b"%b: %b\r\n" % field for field in fields]))


def decode_web_trailers(data: bytes) -> list[tuple[bytes, str]]:
    """The trailers in the data of a message with the flag `TRAILERS`; names in lower case.

    Raises:
        RpcError: INTERNAL: a line is no field.
    """
    fields: list[tuple[bytes, str]] = []
    for line in data.replace(b"\r\n", b"\n").split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name.strip().lower(), value.strip().decode("latin-1")))
        elif line:
            raise RpcError(Code.INTERNAL, f"a line of the trailers is no field: {line[:64]!r}")
    return fields


def encode_base64(data: bytes) -> bytes:
    """A part of an answer whose body is base64 (``grpc-web-text``); parts may follow each other, padded."""
    return b64encode(data)


class Base64Reader:
    """Reads a body that is base64, in whole or in padded parts, whatever chunks it comes in."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What the next bytes stand for; at most three are kept for the next time.

        Raises:
            RpcError: INVALID_ARGUMENT: they are no base64.
        """
        data = self._held + data
        whole = len(data) - len(data) % 4
        self._held = data[whole:]
        try:
            if b"=" not in data:
                return b64decode(data[:whole], validate=True)
            quads = (data[at : at + 4] for at in range(0, whole, 4))
            return b"".join([b64decode(quad, validate=True) for quad in quads])
        except Base64Error as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"the body is no base64: {error}") from None

    @property
    def partial(self) -> bool:
        """Something is kept that is not complete."""
        return bool(self._held)
