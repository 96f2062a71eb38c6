"""One `tools/call`: the arguments by the tool's schema, the result as content and structured content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from msgspec import UNSET, Raw

from tailrace.errors import DeadlineExceeded, StepError, ToolError
from tailrace.protocols.mcp.call import McpCall
from tailrace.protocols.mcp.invoking import invoke
from tailrace.schema import InvalidArguments, InvalidResult, encode_value
from tailrace.wire import mcp
from tailrace.wire.content import BLOCKS, Text, ToolResponse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tailrace.service import Tool

__all__ = ["ToolCall"]

TOOL_ERROR = "tool_error"  # as the semantic conventions call a result that `isError`
_BLOCKS = (*BLOCKS, Raw)  # a block that is JSON already, of a proxy
_UNKNOWN = {"io.tailrace/outcome": "unknown"}


class ToolCall(McpCall):
    """A tool's call."""

    __slots__ = ()

    METHOD: ClassVar[str] = "tools/call"
    target: Tool

    @property
    def reruns(self) -> bool:
        """As its tool says."""
        return self.target.on_crash == "rerun"

    async def work(self) -> bytes:
        """Run the tool."""
        tool = self.target
        try:
            arguments = tool.arguments.decode(self.arguments if isinstance(self.arguments, Raw) else None)
        except InvalidArguments as error:
            raise ToolError(error.message) from None
        if not tool.is_async or tool.provided or self.asking.middleware or tool.middleware:
            return self._encode(await invoke(self, tool, arguments))
        if tool.context_param is not None:
            arguments[tool.context_param] = self.context
        if tool.timeout is not None:
            self.set_timeout(tool.timeout, DeadlineExceeded(f"{tool.name} did not end within {tool.timeout:g} s"))
        return self._encode(await tool.fn(**arguments))

    def _encode(self, value: Any) -> bytes:
        result = self.target.result
        if result.schema is not None:
            structured = result.encode(value)
            bare = structured[len(b'{"result":') : -1] if result.wrapped else structured
            text = value if isinstance(value, str) else bare.decode()
            payload = self._tool_result([Text(text)], Raw(structured))
        elif isinstance(value, ToolResponse):
            payload = self._response(value)
        else:
            payload = self._undeclared(value)
        return self.check_size(payload)

    def _undeclared(self, value: Any) -> bytes:
        """A value whose type is not declared: content as it is, anything else as text and structured."""
        if value is None or self.target.result.content or _has_blocks(value):
            return self._tool_result(_content(value))
        encoded = encode_value(value)
        text = value if isinstance(value, str) else encoded.decode()
        return self._tool_result([Text(text)], Raw(_object(encoded)))

    def _response(self, given: ToolResponse) -> bytes:
        content: list[Any] = _content(given.content)
        if given.is_error:
            self.failure = content[0].text if content and isinstance(content[0], Text) else "the tool failed"
            self.failure_code = TOOL_ERROR
        structured = UNSET if given.structured is None else Raw(_object(encode_value(given.structured)))
        return self._tool_result(content, structured, is_error=given.is_error, more=given.meta)

    def refusal(self, error: ToolError) -> bytes:
        """What the tool itself says to its caller."""
        if isinstance(error, StepError) and error.unknown:
            self.failure, self.failure_code = error.message, TOOL_ERROR
            return self.result(self._tool_result([Text(error.message)], is_error=True, more=_UNKNOWN))
        if error.data is None:
            return self._failure(str(error.message))
        try:
            data = encode_value(error.data)
        except InvalidResult:
            return self.bug("the data of a ToolError has no JSON form")
        return self._failure(str(error.message), Raw(_object(data)))

    def _failure(self, text: str, structured: Any = UNSET) -> bytes:
        self.failure, self.failure_code = text, TOOL_ERROR
        return self.result(self._tool_result([Text(text)], structured, is_error=True))

    def _tool_result(
        self,
        content: list[Any],
        structured: Any = UNSET,
        *,
        is_error: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> bytes:
        dialect = self.dialect
        meta: Any = dialect.server_info
        if more is not None:
            meta = more if meta is UNSET else {**meta, **more}
        return mcp.encode(mcp.ToolResult(content, structured, is_error, dialect.result_type, meta))


def _object(encoded: bytes) -> bytes:
    """MCP wants an object as structured content."""
    return encoded if encoded[:1] == b"{" else b'{"result":' + encoded + b"}"


def _has_blocks(value: Any) -> bool:
    """It is a block, or a list with some."""
    if isinstance(value, (list, tuple)):
        return any(isinstance(member, _BLOCKS) for member in cast("Sequence[Any]", value))
    return isinstance(value, _BLOCKS)


def _content(value: Any) -> list[Any]:
    """Content blocks of a result that declares no type: blocks as they are, also among other things in a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [Text(value)]
    if isinstance(value, _BLOCKS):
        return [value]
    if isinstance(value, (list, tuple)):
        members: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType] - a list of anything
        if _has_blocks(members):
            return [block for member in members for block in _content(member)]
    return [Text(encode_value(value).decode())]
