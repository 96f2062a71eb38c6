"""What a client gets: tools, results of calls, log messages; decoded once, and as plain as can be."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tailrace.errors import ProtocolError
from tailrace.wire.jsonrpc import INTERNAL_ERROR

__all__ = ["LogMessage", "ToolInfo", "ToolResult", "decode"]

T = TypeVar("T")


class ToolInfo(Struct, frozen=True, rename="camel"):
    """One tool of the server.

    Attributes:
        input_schema: JSON Schema of the arguments.
        output_schema: JSON Schema of the structured content, or None.
        annotations: The server's hints (``readOnlyHint`` and the like), to be believed as far as the server is.
    """

    name: str
    title: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class ToolResult(Struct, frozen=True, kw_only=True):
    """What a call gave.

    Attributes:
        data: The structured content; where the server had to wrap a plain value as ``{"result": value}``, the value.
        structured_content: The same as it came; None where there is none.
        content: The blocks for the model, e.g. ``{"type": "text", "text": "…"}``.
        is_error: The tool failed, and `content` says how.
        meta: The result's `_meta`.
    """

    data: Any
    structured_content: Any
    content: list[dict[str, Any]]
    is_error: bool
    meta: dict[str, Any]

    @property
    def text(self) -> str:
        """The text blocks of `content`, one after the other, on lines of their own."""
        return "\n".join(block.get("text", "") for block in self.content if block.get("type") == "text")


class LogMessage(Struct, frozen=True):
    """One log message of the server."""

    level: str
    data: Any = None
    logger: str | None = None


class ToolPage(Struct, frozen=True, rename="camel"):
    """One page of `tools/list`."""

    tools: list[ToolInfo]
    next_cursor: str | None = None


class _CallResult(Struct, rename="camel"):
    result_type: str = "complete"
    content: list[dict[str, Any]] = []
    structured_content: Any | UnsetType = UNSET
    is_error: bool = False
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


def decode(method: str, raw: Raw, kind: type[T]) -> T:
    """The result of `method` as a `kind`.

    Raises:
        ProtocolError: It does not have the shape that the specification gives it.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(INTERNAL_ERROR, f"the server's answer to {method} is not valid: {error}") from None


def decode_tool_result(raw: Raw, output_schema: dict[str, Any] | None) -> ToolResult:
    """The result of `tools/call`.

    Args:
        output_schema: The tool's, where it is known; it decides whether a value was wrapped.
    """
    result = decode("tools/call", raw, _CallResult)
    if (kind := result.result_type) != "complete":
        raise ProtocolError(INTERNAL_ERROR, f"the tool answered {kind!r}, which this client did not offer to handle")
    content: Any = None if result.structured_content is UNSET else result.structured_content
    return ToolResult(
        data=content["result"] if _is_wrapped(content, output_schema) else content,
        structured_content=content,
        content=result.content,
        is_error=result.is_error,
        meta=result.meta or {},
    )


def _is_wrapped(content: Any, schema: dict[str, Any] | None) -> bool:
    """Whether the content is a plain value in the usual wrapper, an object with the single key ``result``."""
    if not isinstance(content, dict) or set(content) != {"result"}:  # pyright: ignore[reportUnknownArgumentType]
        return False
    properties = schema.get("properties") if schema is not None else None
    return not isinstance(properties, dict) or set(properties) == {"result"}  # pyright: ignore[reportUnknownArgumentType]
