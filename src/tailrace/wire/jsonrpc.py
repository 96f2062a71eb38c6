"""JSON-RPC 2.0 as MCP uses it: bytes to frozen messages, and back.

The envelope is decoded once; parameters, results and error data stay raw until someone who knows
their shape reads them. Whatever a peer sends becomes a value: broken messages are `Malformed`, which
says what is wrong and whom to tell. What the methods mean is left to `wire.mcp` and `protocols.mcp`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct

__all__ = [
    "EMPTY",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "MAX_DEPTH",
    "MAX_ID",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "Batch",
    "ErrorResponse",
    "Malformed",
    "Message",
    "Notification",
    "Request",
    "RequestId",
    "Response",
    "encode_error",
    "encode_notification",
    "encode_request",
    "encode_result",
    "parse",
]

RequestId: TypeAlias = int | str

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

MAX_DEPTH: Final = 512  # of nested objects and arrays, the envelope's own included
MAX_ID: Final = 255  # characters of an id, or digits of an integer one

EMPTY: Final = Raw()  # stands for params or data that were not sent; its length is 0


# --- what a message can be ----------------------------------------------------------------------


class Request(Struct, frozen=True, gc=False):
    """A call that wants an answer; `params` is an object, or `EMPTY` where none were sent."""

    id: RequestId
    method: str
    params: Raw


class Notification(Struct, frozen=True, gc=False):
    """A call that wants no answer; `params` is an object, or `EMPTY` where none were sent."""

    method: str
    params: Raw


class Response(Struct, frozen=True, gc=False):
    """The answer to a request; `result` is any JSON value."""

    id: RequestId
    result: Raw


class ErrorResponse(Struct, frozen=True, gc=False):
    """The refusal of a request; `id` is None where the peer could not read one, `data` `EMPTY` where none was sent."""

    id: RequestId | None
    code: int
    message: str
    data: Raw


class Malformed(Struct, frozen=True, gc=False):
    """Bytes that are no message; the fields are those of the error to answer with.

    `message` never repeats the peer's text. `id` is None where none could be read.
    """

    code: int
    message: str
    id: RequestId | None


Message: TypeAlias = Request | Notification | Response | ErrorResponse | Malformed


class Batch(Struct, frozen=True):
    """An array of at least one message, in its order; some may be `Malformed` (MCP 2025-03-26 only)."""

    messages: tuple[Message, ...]


# --- reading ------------------------------------------------------------------------------------


def parse(data: bytes | memoryview, *, max_batch: int = 100) -> Message | Batch:
    """Read one message, or one batch of them; never raises, whatever the bytes.

    The JSON is UTF-8 without byte order mark, nested at most `MAX_DEPTH` deep. Unknown members are
    ignored; of a member given twice the last counts (RFC 8259, section 4). Stricter than JSON-RPC,
    as MCP is: an id is a string or an integer, never null, and parameters are never an array. An
    error response may lack its id (MCP 2025-11-25, transports).

    Args:
        data: The whole message; its size is for the caller to limit. Raw members keep it alive.
        max_batch: Longest array accepted, in messages; a longer one is `Malformed` as a whole.
    """
    if type(data) is not bytes:
        data = bytes(data)
    if not data.isascii():
        try:
            data.decode()  # the decoder skips over raw members without looking at their encoding
        except UnicodeDecodeError as error:
            return Malformed(PARSE_ERROR, f"the message is not UTF-8: byte {error.start}", None)
    if len(data) > 2 * MAX_DEPTH and _is_too_deep(data):
        return _TOO_DEEP
    try:
        try:
            return _read(_decode_envelope(data))
        except msgspec.MsgspecError:
            return _read_unusual(data, max_batch)
    except RecursionError:  # the interpreter's stack was nearly full already
        return _TOO_DEEP


class _Envelope(Struct, gc=False):
    """All members a message can have, typed loosely so that each fault gets its own words."""

    jsonrpc: Any = UNSET
    id: Any = UNSET
    method: Any = UNSET
    params: Raw = EMPTY
    result: Raw = EMPTY
    error: Raw = EMPTY


class _Error(Struct, gc=False):
    """The members of `error`."""

    code: Any = UNSET
    message: Any = UNSET
    data: Raw = EMPTY


class _IdOnly(Struct, gc=False):
    """What is still wanted of a message that cannot be read otherwise."""

    id: Any = UNSET


_decode_envelope: Callable[[bytes], _Envelope] = msgspec.json.Decoder(_Envelope).decode
_decode_error: Callable[[bytes], _Error] = msgspec.json.Decoder(_Error).decode
_decode_id: Callable[[bytes], _IdOnly] = msgspec.json.Decoder(_IdOnly).decode
_decode_raw: Callable[[bytes], Raw] = msgspec.json.Decoder(Raw).decode

_TOO_DEEP: Final = Malformed(PARSE_ERROR, f"the message is nested more than {MAX_DEPTH} levels deep", None)
_ID_LIMIT: Final = 10**MAX_ID
_ARRAY: Final = ord("[")
_OBJECT: Final = ord("{")


def _read(envelope: _Envelope) -> Message:
    id: Any = envelope.id
    if envelope.jsonrpc != "2.0":
        problem = "lacks the member jsonrpc" if envelope.jsonrpc is UNSET else 'has a jsonrpc other than "2.0"'
        return _invalid(f"the message {problem}", id)
    method = envelope.method
    usable = abs(id) < _ID_LIMIT if type(id) is int else type(id) is str and len(id) <= MAX_ID
    if not usable and id is not UNSET and not _may_lack_id(envelope):
        return _invalid(_describe_id(id), None)
    if method is UNSET:
        return _read_answer(envelope)
    if envelope.result is not EMPTY or envelope.error is not EMPTY:
        return _invalid(f"the message has both method and {_answer_member(envelope)}", id)
    if type(method) is not str:
        return _invalid("the method must be a string", id)
    if not method:
        return _invalid("the method is empty", id)
    params = envelope.params
    if params is not EMPTY and memoryview(params)[0] != _OBJECT:
        return _invalid("the params must be an object", id)
    return Notification(method, params) if id is UNSET else Request(id, method, params)


def _read_answer(envelope: _Envelope) -> Message:
    id: Any = envelope.id
    if envelope.error is EMPTY:
        if envelope.result is EMPTY:
            return _invalid("the message has neither method nor result nor error", id)
        if id is UNSET:
            return _invalid("the response lacks the member id", None)
        return Response(id, envelope.result)
    if envelope.result is not EMPTY:
        return _invalid("the response has both result and error", id)
    return _read_error(envelope)


def _read_error(envelope: _Envelope) -> Message:
    id: Any = None if envelope.id is UNSET else envelope.id
    if memoryview(envelope.error)[0] != _OBJECT:
        return _invalid("the error must be an object", id)
    try:
        error = _decode_error(envelope.error)
    except msgspec.ValidationError:
        return _invalid("the error has a number out of range", id)
    if error.code is UNSET or error.message is UNSET:
        return _invalid(f"the error lacks the member {'code' if error.code is UNSET else 'message'}", id)
    if type(error.code) is not int:
        return _invalid("the error's code must be an integer", id)
    if type(error.message) is not str:
        return _invalid("the error's message must be a string", id)
    return ErrorResponse(id, error.code, error.message, error.data)


def _may_lack_id(envelope: _Envelope) -> bool:
    """Whether an id of null is right: in the refusal of a message whose id could not be read."""
    return envelope.id is None and envelope.method is UNSET and envelope.error is not EMPTY


def _answer_member(envelope: _Envelope) -> str:
    return "error" if envelope.result is EMPTY else "result"


def _describe_id(id: Any) -> str:
    if type(id) is str:
        return f"the id is longer than {MAX_ID} characters"
    if type(id) is int:
        return f"the id has more than {MAX_ID} digits"
    return f"the id must be a string or an integer, not {_JSON_NAMES[type(id)]}"


_JSON_NAMES: Final[dict[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    float: "a fraction",
    list: "an array",
    dict: "an object",
}


def _invalid(problem: str, id: Any) -> Malformed:
    """A message that is JSON, but not JSON-RPC; the id is passed on where it can be one."""
    usable = abs(id) < _ID_LIMIT if type(id) is int else type(id) is str and len(id) <= MAX_ID
    return Malformed(INVALID_REQUEST, problem, id if usable else None)


# --- what is not a single well-formed object ----------------------------------------------------


def _read_unusual(data: bytes, max_batch: int) -> Message | Batch:
    try:
        raw = _decode_raw(data)
    except msgspec.MsgspecError as error:
        return Malformed(PARSE_ERROR, _describe_syntax(data, str(error)), None)
    if memoryview(raw)[0] == _ARRAY:
        return _read_batch(raw, max_batch)
    return _describe_misfit(raw, "the message must be an object")


def _read_batch(raw: Raw, max_batch: int) -> Malformed | Batch:
    members = [member for member in _array_decoder(max_batch)(raw) if member is not EMPTY]
    if not members:
        return Malformed(INVALID_REQUEST, "the batch is empty", None)
    if len(members) > max_batch:
        return Malformed(INVALID_REQUEST, f"the batch has more than {max_batch} messages", None)
    return Batch(tuple(map(_read_member, members)))


def _read_member(raw: Raw) -> Message:
    try:
        return _read(_decode_envelope(raw))
    except msgspec.ValidationError:
        nested = memoryview(raw)[0] == _ARRAY
        return _describe_misfit(raw, "a batch must not hold a batch" if nested else "the message must be an object")


@lru_cache(maxsize=8)
def _array_decoder(max_batch: int) -> Callable[[bytes], tuple[Raw, ...]]:
    """A decoder that makes at most one member more than `max_batch`, and skips the rest without making objects."""
    fields = [(f"m{index}", Raw, EMPTY) for index in range(max_batch + 1)]
    decode = msgspec.json.Decoder(msgspec.defstruct("Members", fields, array_like=True)).decode
    return lambda raw: msgspec.structs.astuple(decode(raw))


def _describe_misfit(raw: Raw, otherwise: str) -> Malformed:
    """Why a JSON value did not fit the envelope: it is no object, or a number in it is out of range."""
    if memoryview(raw)[0] != _OBJECT:
        return Malformed(INVALID_REQUEST, otherwise, None)
    try:
        id = _decode_id(raw).id
    except msgspec.ValidationError:
        return Malformed(INVALID_REQUEST, "the id is a number out of range", None)
    return _invalid("the message has a number out of range for its jsonrpc or method", id)


def _describe_syntax(data: bytes, problem: str) -> str:
    if not data.strip(b" \t\r\n"):
        return "the message is empty"
    if data.startswith(b"\xef\xbb\xbf"):
        return "the message begins with a byte order mark"
    if _LONE_SURROGATE.search(data.replace(b"\\\\", b"")):
        return "the message has half a surrogate pair in a string"
    return f"the message is not JSON: {problem.removeprefix('JSON is malformed: ')}"


_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def _is_too_deep(data: bytes) -> bool:
    """Whether some bracket stands deeper than `MAX_DEPTH`, in linear time and without recursion.

    Most messages pass by their count of brackets alone. Of the others only brackets and quotes are
    kept, and counted block by block; only where that leaves doubt is each bracket looked at.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    structure = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_STRUCTURE).replace(b'""', b"")
    depth = in_string = 0
    for start in range(0, len(structure), _BLOCK):
        parts = structure[start : start + _BLOCK].split(b'"')
        brackets = b"".join(parts[in_string::2])
        opened = brackets.count(b"[") + brackets.count(b"{")
        if depth + opened > MAX_DEPTH:
            steps = memoryview(brackets.translate(_STEPS)).cast("b")
            if max(accumulate(steps, initial=depth)) > MAX_DEPTH:
                return True
        depth += 2 * opened - len(brackets)
        in_string ^= (len(parts) - 1) & 1
    return False


_BLOCK: Final = 512  # brackets and quotes
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes


# --- writing ------------------------------------------------------------------------------------


def encode_result(id: RequestId, result: bytes) -> bytes:
    """The response to request `id`.

    Args:
        id: As the request had it; integers of any size stay exact.
        result: One encoded JSON value; line breaks between its tokens become spaces.
    """
    return _one_line(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode(id), result))


def encode_error(id: RequestId | None, code: int, message: str, data: Any = UNSET) -> bytes:
    """The error response to request `id`.

    Args:
        id: As the request had it; None, where it could not be read, becomes null.
        code: Of this module, of `wire.mcp`, or the application's own.
        message: One sentence; what UTF-8 cannot carry in it is replaced.
        data: Anything msgspec can encode (`Raw` for encoded JSON); left out when not given.

    Raises:
        TypeError: `data` cannot be encoded.
    """
    text = _encode(message.encode("utf-8", "replace").decode())
    head = b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":%b' % (_encode(id), code, text)
    return head + b"}}" if data is UNSET else _one_line(head + b',"data":' + _encode(data) + b"}}")


def encode_request(id: RequestId, method: str, params: bytes | None) -> bytes:
    """A request; `params` is an encoded object, or None (or nothing) to leave the member out."""
    head = b'{"jsonrpc":"2.0","id":' + _encode(id) + b',"method":' + _encode(method)
    return _one_line(head + b',"params":' + params + b"}") if params else head + b"}"


def encode_notification(method: str, params: bytes | None) -> bytes:
    """A notification; `params` is an encoded object, or None (or nothing) to leave the member out."""
    head = b'{"jsonrpc":"2.0","method":' + _encode(method)
    return _one_line(head + b',"params":' + params + b"}") if params else head + b"}"


_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


_LF: Final = 10  # as integers, which bytes are searched for several times faster than for other bytes
_CR: Final = 13


def _one_line(message: bytes) -> bytes:
    """The message without line breaks; in JSON they only stand between tokens, where a space does as well."""
    if _LF in message or _CR in message:
        return message.replace(b"\n", b" ").replace(b"\r", b" ")
    return message
