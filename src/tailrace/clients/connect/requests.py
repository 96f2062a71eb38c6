"""How a call is asked: the headers and the body of its request, per protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from tailrace import __version__
from tailrace.core.context import Context
from tailrace.errors import Code, DefinitionError, RpcError
from tailrace.schema.allowance import InvalidMessage
from tailrace.schema.messages import message_type
from tailrace.wire import connect, grpc
from tailrace.wire.compression import IDENTITY, compress
from tailrace.wire.envelopes import COMPRESSED, envelope
from tailrace.wire.rpc import Protocol, content_type_of

if TYPE_CHECKING:
    from tailrace.clients.connect.call import Call

__all__ = ["Codec", "decoder_of", "encode", "get_query", "pack", "request_headers", "trace_headers", "wrap"]

Codec = Literal["proto", "json"]
_read_object = msgspec.json.Decoder(dict[str, Any]).decode
_AGENT = f"tailrace/{__version__}"


def encode(message: Any, request: Any, codec: Codec, limit: int | None) -> bytes:
    """A request's message as bytes, before compression.

    Args:
        message: Its value; bytes are taken for a message that is encoded already.
        request: Its type; None: the value's own.
        codec: ``proto`` or ``json``.
        limit: The most bytes that it may have, or None.

    Raises:
        RpcError: RESOURCE_EXHAUSTED: it has more than `limit` bytes.
        ValueError: A value in it does not fit its type.
        DefinitionError: Its type has no protobuf form; it is a dict, and the form is binary.
    """
    if isinstance(message, bytes):
        data = message
    elif request is dict or (request is None and isinstance(message, dict)):
        data = _encode_dict(cast("dict[str, Any]", message), codec)
    else:
        kind = message_type(type(message) if request is None else request)
        data = kind.to_proto(message) if codec == "proto" else kind.to_json(message)
    if limit is not None and len(data) > limit:
        raise RpcError(
            Code.RESOURCE_EXHAUSTED,
            f"the message has {len(data)} bytes; at most {limit} are sent: allow more by send_max_bytes=",
        )
    return data


def decoder_of(response: Any, codec: Codec) -> Callable[[bytes], Any]:
    """What makes messages of bytes; `bytes` leaves them as they are.

    Raises:
        DefinitionError: The type has no protobuf form.
    """
    if response is bytes:
        return bytes
    if response is dict and codec == "json":
        return _decode_dict
    kind = message_type(response)
    return kind.from_proto if codec == "proto" else kind.from_json


def _encode_dict(message: dict[str, Any], codec: Codec) -> bytes:
    """A dict is the message as JSON writes it. In the binary form fields have numbers, which it does not know."""
    if codec != "json":
        raise DefinitionError(
            "a dict says nothing of its fields' numbers: give a message or a dataclass, a type as request=, "
            "or the client codec='json'"
        )
    return msgspec.json.encode(message)


def _decode_dict(data: bytes) -> Any:
    """The message as JSON has it; one that is a method's dict in the usual wrapper, without that."""
    try:
        message: Any = _read_object(data or b"{}")
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidMessage(f"the message is no JSON object: {error}") from None
    inner: Any = message.get("result") if len(message) == 1 else None
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else message


def wrap(data: bytes, compression: str, least: int) -> bytes:
    """One message of a stream, compressed if it is not too short for that."""
    if compression == IDENTITY or len(data) < least:
        return envelope(0, data)
    return envelope(COMPRESSED, compress(compression, data))


def pack(data: bytes, compression: str, least: int) -> tuple[bytes, str]:
    """The message of a unary Connect call, and how it is compressed."""
    if compression == IDENTITY or len(data) < least:
        return data, IDENTITY
    return compress(compression, data), compression


def get_query(codec: Codec, data: bytes, compression: str) -> str:
    """The query of a call by GET."""
    return connect.encode_get(codec, data, compression)


def request_headers(
    call: Call, protocol: Protocol, codec: Codec, *, stream: bool, left: float | None, compression: str
) -> list[tuple[str, str]]:
    """All headers of a request.

    Args:
        call: The call.
        protocol: Which of the three.
        codec: ``proto`` or ``json``.
        stream: Its body is a sequence of messages (always so in gRPC).
        left: Seconds until its deadline, or None.
        compression: Of the body, as it is.
    """
    headers = [("user-agent", _AGENT)] if "user-agent" not in call.headers else []
    headers += call.headers.texts()
    accept = ", ".join(call.options.accept_compression) or IDENTITY
    if protocol == "connect":
        if call.get:  # no content, and what may vary is in the query
            headers.append(("accept-encoding", accept))
        elif stream:
            headers += [("connect-protocol-version", connect.VERSION), ("connect-accept-encoding", accept)]
            headers.append(("accept-encoding", IDENTITY))  # of the body as a whole
        else:
            headers += [("connect-protocol-version", connect.VERSION), ("accept-encoding", accept)]
        if left is not None:
            headers.append(("connect-timeout-ms", connect.format_timeout(left)))
        if compression != IDENTITY and not call.get:
            headers.append(("connect-content-encoding" if stream else "content-encoding", compression))
    else:
        headers.append(("grpc-accept-encoding", accept))
        if protocol == "grpc":
            headers.append(("te", "trailers"))
        else:
            headers.append(("x-grpc-web", "1"))
        if left is not None:
            headers.append(("grpc-timeout", grpc.format_timeout(left)))
        if compression != IDENTITY:
            headers.append(("grpc-encoding", compression))
    if not call.get:
        headers.append(("content-type", content_type_of(protocol, codec, stream=stream)))
    return headers


def trace_headers(context: Context) -> dict[str, str]:
    """What ties a call to the one that it is made in: its trace, and its correlation id."""
    if context is Context.background():
        return {}
    found = {name: context.value(name) for name in ("traceparent", "tracestate")}
    headers = {name: value for name, value in found.items() if isinstance(value, str)}
    if "traceparent" not in headers and context.correlation_id is not None:
        headers["x-correlation-id"] = context.correlation_id
    return headers
