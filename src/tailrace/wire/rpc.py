"""What Connect, gRPC and gRPC-Web have in common: content types, HTTP statuses, and details of errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from tailrace.errors import Code

__all__ = [
    "CODE_OF_NAME",
    "CONTENT_TYPES",
    "NAME_OF_CODE",
    "ContentType",
    "Detail",
    "Protocol",
    "code_of_status",
    "content_type_of",
    "detail_of",
    "details_of",
    "read_content_type",
    "status_of_code",
    "to_any",
]

Protocol: TypeAlias = Literal["connect", "grpc", "grpc-web"]


# --- content types ------------------------------------------------------------------------------


class ContentType(Struct, frozen=True):
    """What a request's `content-type` says.

    Attributes:
        text: As it is written.
        protocol: Which of the three.
        codec: ``proto`` or ``json``.
        stream: The body is a sequence of envelopes; else it is one message (Connect's unary calls).
        base64: The body as a whole is base64 (gRPC-Web, ``-text``).
    """

    text: str
    protocol: Protocol
    codec: str
    stream: bool
    base64: bool = False

    @property
    def system(self) -> str:
        """What the semantic conventions of OpenTelemetry call it."""
        return "connectrpc" if self.protocol == "connect" else "grpc"


def _content_types() -> Iterable[ContentType]:
    for codec in ("proto", "json"):
        yield ContentType(f"application/{codec}", "connect", codec, stream=False)
        yield ContentType(f"application/connect+{codec}", "connect", codec, stream=True)
        yield ContentType(f"application/grpc+{codec}", "grpc", codec, stream=True)
        yield ContentType(f"application/grpc-web+{codec}", "grpc-web", codec, stream=True)
        yield ContentType(f"application/grpc-web-text+{codec}", "grpc-web", codec, stream=True, base64=True)
    yield ContentType("application/grpc", "grpc", "proto", stream=True)
    yield ContentType("application/grpc-web", "grpc-web", "proto", stream=True)
    yield ContentType("application/grpc-web-text", "grpc-web", "proto", stream=True, base64=True)


CONTENT_TYPES: Final = MappingProxyType({kind.text: kind for kind in _content_types()})


def read_content_type(value: str | None) -> ContentType | None:
    """What it says, or None if that is nothing of an RPC. A charset is passed over where it is UTF-8."""
    known = CONTENT_TYPES.get(value or "")
    return known if known is not None or value is None else _read_parameters(value)


@lru_cache(maxsize=64)
def _read_parameters(value: str) -> ContentType | None:
    name, _, parameters = value.lower().partition(";")
    if parameters.replace(" ", "").replace('"', "") not in ("", "charset=utf-8", "charset=utf8"):
        return None
    return CONTENT_TYPES.get(name.strip())


def content_type_of(protocol: Protocol, codec: str, *, stream: bool) -> str:
    """How a request (and its answer) of this kind is labelled."""
    if protocol == "connect":
        return f"application/connect+{codec}" if stream else f"application/{codec}"
    return f"application/{protocol}+{codec}"


# --- codes and HTTP statuses --------------------------------------------------------------------

NAME_OF_CODE: Final = MappingProxyType({code: code.name.lower() for code in Code})
CODE_OF_NAME: Final = MappingProxyType({code.name.lower(): code for code in Code})

_STATUSES = {
    Code.CANCELED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}

_CODES = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def status_of_code(code: Code) -> int:
    """The HTTP status of a unary Connect error (Connect, "Error Codes")."""
    return _STATUSES[code]


def code_of_status(status: int) -> Code:
    """What an HTTP error without an RPC's own answer means (Connect, "HTTP to Error Code"; gRPC, "HTTP to gRPC Status
    Code Mapping"). Codes do not come back from their statuses: a 404 is a wrong address, no NOT_FOUND."""
    return _CODES.get(status, Code.UNKNOWN)


# --- details ------------------------------------------------------------------------------------

_PREFIX = "type.googleapis.com/"


class Detail(Struct, frozen=True, gc=False):
    """One detail of an error: a protobuf message and its type's full name, as in ``google.protobuf.Any``."""

    type: str
    value: bytes

    @property
    def type_url(self) -> str:
        """As ``Any`` has it."""
        return _PREFIX + self.type


def detail_of(message: Any) -> Detail:
    """A detail as it goes over the wire.

    Args:
        message: A protobuf message, a ``google.protobuf.Any``, or a `Detail`.

    Raises:
        TypeError: It is none of them.
    """
    if isinstance(message, Detail):
        return message
    descriptor = getattr(message, "DESCRIPTOR", None)
    if descriptor is None:
        raise TypeError(f"a detail of an error is a protobuf message, not {type(message).__name__}")
    if descriptor.full_name == "google.protobuf.Any":
        return Detail(str(message.type_url).rpartition("/")[2], bytes(message.value))
    return Detail(str(descriptor.full_name), bytes(message.SerializeToString()))


def details_of(messages: Sequence[Any]) -> list[Detail]:
    """All of an error's details as they go over the wire. Raises as `detail_of` does."""
    return [detail_of(message) for message in messages]


def to_any(detail: Detail) -> Any:
    """As a ``google.protobuf.Any``, for programs."""
    from google.protobuf.any_pb2 import Any as ProtobufAny  # 20 ms, for who never sees a detail

    return ProtobufAny(type_url=detail.type_url, value=detail.value)
