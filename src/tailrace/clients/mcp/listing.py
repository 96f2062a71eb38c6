"""What a client remembers of the tools it listed: how a result was wrapped, and what a call repeats in headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.wire.mcp import encode
from tailrace.wire.param_headers import ParamHeader, param_headers, write_param_headers

if TYPE_CHECKING:
    from tailrace.clients.mcp.results import ToolInfo

__all__ = ["Listing"]


class Listing:
    """The tools of one server, as they were listed last.

    Args:
        on_warning: Told of each tool that is left out.
    """

    def __init__(self, on_warning: Callable[[str], object]) -> None:
        self._on_warning = on_warning
        self._schemas: dict[str, dict[str, Any] | None] = {}
        self._headers: dict[str, tuple[ParamHeader, ...]] = {}
        self._once: set[str] = set()

    def take(self, tools: list[ToolInfo], *, with_headers: bool) -> list[ToolInfo]:
        """Remember the tools; gives those that can be called.

        Args:
            with_headers: Modern HTTP, where a tool whose `x-mcp-header` is not valid must be dropped (2026-07-28,
                server/tools).
        """
        self._schemas = {tool.name: tool.output_schema for tool in tools}
        self._once = {tool.name for tool in tools if (tool.meta or {}).get("io.tailrace/once")}
        self._headers = {}
        return [tool for tool in tools if self._usable(tool)] if with_headers else tools

    def output_schema(self, name: str) -> dict[str, Any] | None:
        """Of a tool that was listed."""
        return self._schemas.get(name)

    def knows(self, name: str) -> bool:
        """Whether the tool was listed."""
        return name in self._schemas

    def runs_once(self, name: str) -> bool:
        """Whether the tool that was listed runs once a key."""
        return name in self._once

    def headers(self, name: str, arguments: Mapping[str, Any]) -> dict[str, str]:
        """The headers `Mcp-Param-*` of a call."""
        known = self._headers.get(name)
        return write_param_headers(known, msgspec.json.decode(encode(arguments))) if known else {}

    def _usable(self, tool: ToolInfo) -> bool:
        try:
            self._headers[tool.name] = param_headers(tool.input_schema)
        except ValueError as error:
            self._on_warning(f"the tool {tool.name[:128]!r} is left out: {error}")
            return False
        return True
