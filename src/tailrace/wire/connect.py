"""Connect's own forms: time-outs, errors and end-stream messages as JSON, and the query of a GET.

https://connectrpc.com/docs/protocol. Envelopes are in `envelopes`, content types and statuses in `rpc`.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote, unquote_to_bytes

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tailrace.errors import Code, RpcError
from tailrace.wire.compression import IDENTITY
from tailrace.wire.metadata import Metadata, decode_binary, encode_binary
from tailrace.wire.rpc import CODE_OF_NAME, NAME_OF_CODE, Detail, details_of, to_any

__all__ = [
    "VERSION",
    "GetRequest",
    "decode_end",
    "decode_error",
    "encode_end",
    "encode_error",
    "encode_get",
    "format_timeout",
    "parse_get",
    "parse_timeout",
]

VERSION: Final = "1"  # of `connect-protocol-version`; a GET says it as ``connect=v1``

_encode = msgspec.json.Encoder().encode


# --- time-outs ----------------------------------------------------------------------------------

_TIMEOUT_DIGITS = 10
_LONGEST = 10**_TIMEOUT_DIGITS - 1


def parse_timeout(value: str | None) -> float | None:
    """Seconds, from `connect-timeout-ms`; None where there is none.

    Raises:
        RpcError: INVALID_ARGUMENT: it is no number of at most ten digits.
    """
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= _TIMEOUT_DIGITS):
        raise RpcError(Code.INVALID_ARGUMENT, f"connect-timeout-ms is no number of milliseconds: {value[:32]!r}")
    return int(value) / 1000


def format_timeout(seconds: float) -> str:
    """`connect-timeout-ms` for this many seconds; the longest it can say is 115 days."""
    return str(min(_LONGEST, max(0, int(seconds * 1000))))


# --- errors -------------------------------------------------------------------------------------


class _WireDetail(Struct, frozen=True, omit_defaults=True):
    type: str
    value: str


class _WireError(Struct, frozen=True, omit_defaults=True):
    code: str
    message: str = ""
    details: list[_WireDetail] = []


def encode_error(error: RpcError) -> bytes:
    """The JSON of an error, as the body of a unary answer has it.

    Raises:
        TypeError: A detail is no protobuf message.
    """
    return _encode(_wire_error(error))


def _wire_error(error: RpcError) -> _WireError:
    details = [_WireDetail(detail.type, encode_binary(detail.value)) for detail in details_of(error.details)]
    return _WireError(NAME_OF_CODE[error.code], str(error.message), details)


def decode_error(data: bytes, fallback: Code, metadata: Metadata | None = None) -> RpcError | None:
    """The error in the body of a unary answer; None if there is none in it.

    Args:
        data: The body.
        fallback: Its code, where it names none that is known.
        metadata: Goes with it.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return _read_error(value, fallback, metadata)


def _read_error(value: Any, fallback: Code, metadata: Metadata | None) -> RpcError | None:
    fields = _object(value)
    if fields is None:
        return None
    name, message, details = fields.get("code"), fields.get("message"), fields.get("details")
    code = CODE_OF_NAME.get(name, fallback) if isinstance(name, str) else fallback
    return RpcError(
        code,
        message if isinstance(message, str) else "",
        [to_any(detail) for detail in map(_read_detail, _list(details)) if detail],
        _values(metadata),
    )


def _read_detail(value: Any) -> Detail | None:
    """One detail; what makes no sense is passed over, as the error matters more."""
    fields = _object(value) or {}
    name, data = fields.get("type"), fields.get("value")
    if not (isinstance(name, str) and isinstance(data, str)):
        return None
    try:
        return Detail(name.rpartition("/")[2], decode_binary(data))
    except ValueError:
        return None


def _object(value: Any) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _values(metadata: Metadata | None) -> Mapping[str, Any]:
    return {} if metadata is None else {name: metadata.all(name) for name in metadata}


# --- the end of a stream ------------------------------------------------------------------------


class _WireEnd(Struct, frozen=True, omit_defaults=True):
    error: _WireError | UnsetType = UNSET
    metadata: dict[str, list[str]] = {}


def encode_end(error: RpcError | None = None, trailers: Metadata | None = None) -> bytes:
    """The data of the last envelope (flag `END_STREAM`): how the stream ended, and its trailers.

    Raises:
        TypeError: A detail is no protobuf message.
    """
    metadata: dict[str, list[str]] = {}
    for name, value in () if trailers is None else trailers.texts():
        metadata.setdefault(name, []).append(value)
    return _encode(_WireEnd(UNSET if error is None else _wire_error(error), metadata))


def decode_end(data: bytes) -> tuple[RpcError | None, Metadata]:
    """How a stream ended (None: well), and its trailers; these are the error's metadata, too.

    Raises:
        RpcError: INTERNAL: the data is no end-stream message.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RpcError(Code.INTERNAL, f"the end-stream message is no JSON: {error}") from None
    fields = _object(value)
    if fields is None:
        raise RpcError(Code.INTERNAL, "the end-stream message is no JSON object")
    trailers = Metadata.read(_fields(fields.get("metadata")))
    found = fields.get("error")
    if found is None:
        return None, trailers
    error = _read_error(found, Code.UNKNOWN, trailers)
    if error is None:
        raise RpcError(Code.INTERNAL, "the error of the end-stream message is no JSON object")
    return error, trailers


def _fields(metadata: Any) -> list[tuple[bytes, str]]:
    """The `metadata` of an end-stream message as header fields; what is no list of text is passed over."""
    return [
        (name.lower().encode("latin-1", "replace"), value)
        for name, values in (_object(metadata) or {}).items()
        for value in _list(values)
        if isinstance(value, str)
    ]


# --- GET ----------------------------------------------------------------------------------------

_MAX_PARAMETERS = 64


class GetRequest(Struct, frozen=True):
    """A unary call without side effects, as its URL's query says it.

    Attributes:
        codec: ``proto`` or ``json``.
        message: The request's message, as it came.
        compression: Of the message.
        version: Of the protocol (``1``), or None where it is not said.
    """

    codec: str
    message: bytes
    compression: str = IDENTITY
    version: str | None = None


def encode_get(codec: str, message: bytes, compression: str = IDENTITY) -> str:
    """The query of a GET, without the question mark. The same call always gives the same, so that caches know it."""
    if codec == "json" and compression == IDENTITY:
        return f"connect=v{VERSION}&encoding=json&message={quote(message, safe='')}"
    text = urlsafe_b64encode(message).rstrip(b"=").decode("ascii")
    named = "" if compression == IDENTITY else f"&compression={compression}"
    return f"connect=v{VERSION}&base64=1{named}&encoding={codec}&message={text}"


def parse_get(query: bytes) -> GetRequest:
    """What the query of a GET says.

    Raises:
        RpcError: INVALID_ARGUMENT: it is no call.
    """
    parts = query.split(b"&", _MAX_PARAMETERS)
    if len(parts) > _MAX_PARAMETERS:
        raise RpcError(Code.INVALID_ARGUMENT, f"the query has more than {_MAX_PARAMETERS} parameters")
    pairs = (part.replace(b"+", b" ").partition(b"=") for part in reversed(parts))  # of several the first counts
    given = {unquote_to_bytes(name): unquote_to_bytes(value) for name, _, value in pairs}
    message = given.get(b"message")
    if message is None or b"encoding" not in given:
        raise RpcError(Code.INVALID_ARGUMENT, "a call by GET needs the parameters encoding and message")
    if given.get(b"base64") == b"1":
        try:
            text = message.rstrip(b"=")
            message = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        except Base64Error:
            raise RpcError(Code.INVALID_ARGUMENT, "the parameter message is no base64") from None
    version = given.get(b"connect")
    return GetRequest(
        given[b"encoding"].decode("latin-1"),
        message,
        given.get(b"compression", IDENTITY.encode()).decode("latin-1") or IDENTITY,
        None if version is None else version.decode("latin-1").removeprefix("v"),
    )
