"""MCP's own rules on top of JSON-RPC: versions, error codes, `_meta`, headers, and the shapes of what goes out.

Two eras share these names. *Legacy* (2024-11-05 to 2025-11-25) opens with `initialize` and has
sessions; *modern* (2026-07-28) carries its version and capabilities in each request's `_meta` and
repeats them in HTTP headers. Nothing here decides what a request does: that is `protocols.mcp`.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tailrace.errors import ProtocolError
from tailrace.wire.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, RequestId

__all__ = [
    "ALL_VERSIONS",
    "ASSUMED_VERSION",
    "CAPABILITY_MISSING",
    "HEADER_MISMATCH",
    "LATEST_LEGACY",
    "LEGACY_VERSIONS",
    "LIMIT_REACHED",
    "LOG_LEVELS",
    "MODERN_VERSIONS",
    "RESOURCE_NOT_FOUND",
    "UNSUPPORTED_VERSION",
    "CallParams",
    "CancelledParams",
    "CompleteParams",
    "Implementation",
    "InitializeParams",
    "ListenParams",
    "Meta",
    "Params",
    "PromptParams",
    "ReadParams",
    "SetLevelParams",
    "SubscriptionFilter",
    "ToolResult",
    "check_modern_headers",
    "check_modern_meta",
    "check_modern_version",
    "decode_cancelled",
    "decode_header_value",
    "decode_params",
    "encode",
    "encode_header_value",
    "header_name",
    "header_name_field",
    "http_status",
    "log_params",
    "negotiate",
    "progress_params",
    "unsupported_version",
]

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)
ALL_VERSIONS = LEGACY_VERSIONS + MODERN_VERSIONS
LATEST_LEGACY = LEGACY_VERSIONS[-1]
ASSUMED_VERSION = "2025-03-26"  # of a request without MCP-Protocol-Version (transports, 2025-06-18)

LIMIT_REACHED = -32000
RESOURCE_NOT_FOUND = -32002  # legacy; since 2026-07-28 it is INVALID_PARAMS (SEP-2164)
HEADER_MISMATCH = -32020
CAPABILITY_MISSING = -32021
UNSUPPORTED_VERSION = -32022

LogLevel: TypeAlias = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


# --- versions -----------------------------------------------------------------------------------


def negotiate(requested: str) -> str:
    """The version that answers `initialize`: the client's if we speak it, else our newest legacy one."""
    return requested if requested in LEGACY_VERSIONS else LATEST_LEGACY


def unsupported_version(requested: str, supported: Sequence[str] = ALL_VERSIONS) -> ProtocolError:
    """The error for a version that is not spoken (here) (2026-07-28, versioning)."""
    return ProtocolError(
        UNSUPPORTED_VERSION,
        f"unsupported protocol version {requested[:64]!r}",
        {"supported": list(supported), "requested": requested[:64]},
    )


# --- what comes in: parameters, decoded once ----------------------------------------------------


class Meta(Struct, frozen=True, gc=False):
    """A request's `_meta`: the keys that mean something here. Others are ignored, as the specification asks."""

    protocol_version: str | UnsetType = msgspec.field(default=UNSET, name="io.modelcontextprotocol/protocolVersion")
    client_capabilities: dict[str, Any] | UnsetType = msgspec.field(
        default=UNSET, name="io.modelcontextprotocol/clientCapabilities"
    )
    client_info: dict[str, Any] | UnsetType = msgspec.field(default=UNSET, name="io.modelcontextprotocol/clientInfo")
    log_level: LogLevel | UnsetType = msgspec.field(default=UNSET, name="io.modelcontextprotocol/logLevel")
    progress_token: RequestId | UnsetType = msgspec.field(default=UNSET, name="progressToken")
    idempotency_key: str | UnsetType = msgspec.field(default=UNSET, name="io.tailrace/idempotencyKey")
    traceparent: str | UnsetType = UNSET
    tracestate: str | UnsetType = UNSET
    baggage: str | UnsetType = UNSET


NO_META = Meta()


class Params(Struct, frozen=True):
    """Parameters of a request that needs no more than `_meta` and a paging cursor."""

    meta: Meta = msgspec.field(default=NO_META, name="_meta")
    cursor: str | None = None


class PromptParams(Struct, frozen=True):
    """Parameters of `prompts/get`; the name may be missing, which the headers are compared with first."""

    name: str = ""
    arguments: dict[str, str] = {}
    meta: Meta = msgspec.field(default=NO_META, name="_meta")
    input_responses: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name="inputResponses")
    request_state: str | UnsetType = msgspec.field(default=UNSET, name="requestState")


class ReadParams(Struct, frozen=True):
    """Parameters of `resources/read`, and of `resources/subscribe` and `resources/unsubscribe`."""

    uri: str = ""
    meta: Meta = msgspec.field(default=NO_META, name="_meta")
    input_responses: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name="inputResponses")
    request_state: str | UnsetType = msgspec.field(default=UNSET, name="requestState")


class Reference(Struct, frozen=True):
    """Whose argument is to be completed: a prompt (by name), or a resource template (by URI)."""

    type: Literal["ref/prompt", "ref/resource"]
    name: str = ""
    uri: str = ""


class Argument(Struct, frozen=True):
    """The argument that is to be completed, as far as it was typed."""

    name: str
    value: str


class Given(Struct, frozen=True):
    """The arguments that have a value already (since 2025-06-18)."""

    arguments: dict[str, str] = {}


class CompleteParams(Struct, frozen=True):
    """Parameters of `completion/complete`."""

    ref: Reference
    argument: Argument
    context: Given = Given()
    meta: Meta = msgspec.field(default=NO_META, name="_meta")


class TaskParams(Struct, frozen=True, rename="camel"):
    """Parameters of `tasks/get`, `tasks/update` and `tasks/cancel` that routing needs."""

    task_id: str = ""
    meta: Meta = msgspec.field(default=NO_META, name="_meta")
    input_responses: dict[str, Raw] = {}


class SubscriptionFilter(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The kinds of notifications that `subscriptions/listen` asks for, or that are granted to it."""

    tools_list_changed: bool = False
    prompts_list_changed: bool = False
    resources_list_changed: bool = False
    resource_subscriptions: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()


class ListenParams(Struct, frozen=True):
    """Parameters of `subscriptions/listen`."""

    notifications: SubscriptionFilter
    meta: Meta = msgspec.field(default=NO_META, name="_meta")


class CallParams(Struct, frozen=True):
    """Parameters of `tools/call`; the arguments stay raw until the tool's own decoder reads them, and so do the answers
    to what it has asked."""

    name: str
    arguments: Raw | UnsetType = UNSET
    meta: Meta = msgspec.field(default=NO_META, name="_meta")
    input_responses: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name="inputResponses")
    request_state: str | UnsetType = msgspec.field(default=UNSET, name="requestState")


class Implementation(Struct, frozen=True):
    """Who the other side says it is."""

    name: str = ""
    version: str = ""
    title: str | None = None


class InitializeParams(Struct, frozen=True, rename="camel"):
    """Parameters of `initialize` (legacy lifecycle)."""

    protocol_version: str
    capabilities: dict[str, Any] = {}
    client_info: Implementation = Implementation()
    meta: Meta = msgspec.field(default=NO_META, name="_meta")


class SetLevelParams(Struct, frozen=True):
    """Parameters of `logging/setLevel`."""

    level: LogLevel
    meta: Meta = msgspec.field(default=NO_META, name="_meta")


class CancelledParams(Struct, frozen=True, rename="camel"):
    """Parameters of `notifications/cancelled`."""

    request_id: RequestId
    reason: str | None = None


_PARAMS: dict[str, Callable[[bytes | Raw], Any]] = {
    method: msgspec.json.Decoder(kind).decode
    for method, kind in {
        "tools/call": CallParams,
        "prompts/get": PromptParams,
        "resources/read": ReadParams,
        "resources/subscribe": ReadParams,
        "resources/unsubscribe": ReadParams,
        "completion/complete": CompleteParams,
        "tasks/get": TaskParams,
        "tasks/update": TaskParams,
        "tasks/cancel": TaskParams,
        "subscriptions/listen": ListenParams,
        "initialize": InitializeParams,
        "logging/setLevel": SetLevelParams,
    }.items()
}
_cancelled_params = msgspec.json.Decoder(CancelledParams).decode
_any_params = msgspec.json.Decoder(Params).decode
_REMOVED = frozenset({"initialize", "logging/setLevel"})  # those of the above that 2026-07-28 does not have


def decode_params(method: str, raw: bytes | Raw, *, any_era: bool = False) -> Any:
    """Decode the parameters of `method`; absent ones (``b""``) count as an empty object.

    Args:
        any_era: Where the request's `_meta` names a version, a method that 2026-07-28 removed has no parameters of its
            own any more: it is to be refused as unknown, not for what it lacks.

    Raises:
        ProtocolError: -32602, saying which field is wrong.
    """
    try:
        return _PARAMS.get(method, _any_params)(raw or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        if any_era and method in _REMOVED and (params := _modern_params(raw)) is not None:
            return params
        raise ProtocolError(INVALID_PARAMS, f"invalid params of {method[:128]}: {str(error)[:256]}") from None
    except RecursionError:
        raise ProtocolError(INVALID_PARAMS, f"invalid params of {method[:128]}: nested too deeply") from None


def decode_cancelled(raw: bytes) -> CancelledParams | None:
    """The parameters of `notifications/cancelled`; None for what are none: a notification is not answered."""
    try:
        return _cancelled_params(raw or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _modern_params(raw: bytes | Raw) -> Params | None:
    try:
        params = _any_params(raw or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return params if params.meta.protocol_version is not UNSET else None


# --- what goes out ------------------------------------------------------------------------------


class ToolResult(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The result of `tools/call`. `result_type` and `meta` are set in the modern era."""

    content: list[Any]
    structured_content: Raw | UnsetType = UNSET
    is_error: bool = False
    result_type: str | UnsetType = UNSET
    meta: Any = msgspec.field(default=UNSET, name="_meta")


class _Progress(Struct, frozen=True, omit_defaults=True, gc=False):
    progressToken: RequestId
    progress: float
    total: float | None = None
    message: str | None = None


class _Log(Struct, frozen=True, omit_defaults=True):
    level: str
    data: Any
    logger: str | None = None


def progress_params(token: RequestId, done: float, total: float | None, message: str | None) -> bytes:
    """The parameters of `notifications/progress`."""
    return encode(_Progress(token, done, total, message))


def log_params(level: str, data: Any, logger: str | None) -> bytes:
    """The parameters of `notifications/message`."""
    return encode(_Log(level, data, logger))


# --- the modern era's envelope and headers ------------------------------------------------------


def check_modern_meta(meta: Meta) -> str:
    """The version a request names, once its `_meta` has what 2026-07-28 requires of every request.

    Raises:
        ProtocolError: -32602 where a required key is missing; -32022 where that is of a version that nobody speaks, of
            which is not known what it requires.
    """
    if meta.protocol_version is UNSET:
        raise ProtocolError(INVALID_PARAMS, "_meta lacks io.modelcontextprotocol/protocolVersion")
    if meta.client_capabilities is UNSET:
        check_modern_version(meta.protocol_version)
        raise ProtocolError(INVALID_PARAMS, "_meta lacks io.modelcontextprotocol/clientCapabilities")
    return meta.protocol_version


def check_modern_version(version: str) -> None:
    """Comes after the headers: a version that header and body agree on may still be one nobody speaks.

    Raises:
        ProtocolError: -32022, naming those that are spoken without a handshake.
    """
    if version not in MODERN_VERSIONS:
        raise unsupported_version(version, MODERN_VERSIONS)


def header_name_field(method: str) -> str | None:
    """The parameter that the header `Mcp-Name` repeats for `method`, or None where it has no such header."""
    return _NAME_FIELDS.get(method)


def header_name(method: str, params: Any) -> str | None:
    """The value of that parameter in decoded `params`."""
    field = _NAME_FIELDS.get(method)
    return getattr(params, "task_id" if field == "taskId" else field) if field is not None else None


_NAME_FIELDS: Mapping[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}


def check_modern_headers(
    method: str, version: str, name: str | None, header: Callable[[bytes], list[str]]
) -> ProtocolError | None:
    """Compare the routing headers with the body (2026-07-28, transports: request headers).

    Of the tasks extension's methods `Mcp-Name` may be missing: it serves who routes, and FastMCP's client sends none.

    Args:
        method: The body's method.
        version: The body's protocol version.
        name: The body's name, uri or taskId where the method has one, else None.
        header: All values of a header, by its lower-case name.

    Returns:
        What to refuse the request with (-32020, HTTP 400), or None.
    """
    expected = [(b"mcp-protocol-version", "MCP-Protocol-Version", version), (b"mcp-method", "Mcp-Method", method)]
    if name is not None and (method[:6] != "tasks/" or header(b"mcp-name")):
        expected.append((b"mcp-name", "Mcp-Name", name))
    for key, title, value in expected:
        given = header(key)
        if len(given) != 1:
            problem = "is missing" if not given else "is given more than once"
            return ProtocolError(HEADER_MISMATCH, f"the header {title} {problem}")
        try:
            same = decode_header_value(given[0]) == value
        except ValueError as error:
            return ProtocolError(HEADER_MISMATCH, f"the header {title} {error}")
        if not same:
            return ProtocolError(HEADER_MISMATCH, f"the header {title} differs from the request's body")
    return None


def encode_header_value(value: str) -> str:
    """Put any text into a header: visible ASCII as it is, everything else as ``=?base64?…?=``."""
    plain = all(" " <= char <= "~" for char in value) and value == value.strip(" ")
    if plain and not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    return f"=?base64?{binascii.b2a_base64(value.encode(), newline=False).decode()}?="


def decode_header_value(value: str) -> str:
    """Undo `encode_header_value`.

    Raises:
        ValueError: The value has characters that a header must not carry, or is not valid base64 of UTF-8.
    """
    if not (value.startswith("=?base64?") and value.endswith("?=") and len(value) >= 11):
        if not all(" " <= char <= "~" or char == "\t" for char in value):
            raise ValueError("has characters that must be encoded as =?base64?…?=")
        return value
    try:
        inside = value[9:-2].encode("ascii")
        raw = binascii.a2b_base64(inside, strict_mode=True)
        if binascii.b2a_base64(raw, newline=False) != inside:  # bits that say nothing: two spellings of one value
            raise ValueError
        return raw.decode()
    except ValueError:  # binascii.Error, UnicodeDecodeError and UnicodeEncodeError are ValueErrors
        raise ValueError("is not valid base64 of UTF-8") from None


def http_status(error: ProtocolError) -> int:
    """The HTTP status that goes with a JSON-RPC error in the modern era (2026-07-28, transports)."""
    return _STATUS.get(error.code, 200)


_STATUS: Mapping[int, int] = {
    -32700: 400,
    INVALID_REQUEST: 400,
    -32601: 404,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    CAPABILITY_MISSING: 400,
    UNSUPPORTED_VERSION: 400,
    LIMIT_REACHED: 503,
}
