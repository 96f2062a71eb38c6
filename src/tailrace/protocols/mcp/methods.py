"""The methods that run no user code: what the server is, and what tools it has."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from tailrace.errors import ProtocolError
from tailrace.wire import mcp, tasks
from tailrace.wire.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND

if TYPE_CHECKING:
    from tailrace.service import Service

__all__ = ["Methods"]

_LEGACY = frozenset({"ping", "tools/list", "logging/setLevel"})
_MODERN = frozenset({"server/discover", "tools/list"})


class Methods:
    """Results of one service's plain methods, encoded; a list is made once and kept while nothing is added.

    Args:
        service: What is described.
        server_info: Its name and version.
        page: Tools in one page.
        ttl: Milliseconds for which a modern client may keep a list.
    """

    def __init__(self, service: Service, server_info: dict[str, Any], *, page: int, ttl: int = 60_000) -> None:
        self.service = service
        self.server_info = server_info
        self.page = page
        self.ttl = ttl
        self._pages: dict[tuple[bool, str | None, int], bytes] = {}

    def result(self, method: str, params: Any, modern: bool) -> bytes:
        """The encoded result of `method`.

        Raises:
            ProtocolError: -32601 for a method this era does not have, -32602 for a bad cursor.
        """
        if method not in (_MODERN if modern else _LEGACY):
            raise ProtocolError(METHOD_NOT_FOUND, f"unknown method: {method[:128]!r}")
        if method == "tools/list":
            return self._tools(params.cursor, modern)
        if method == "server/discover":
            return self._discover()
        return b"{}"  # ping; logging/setLevel, which the session takes note of

    def initialize_result(self, version: str) -> bytes:
        """The result of `initialize` (legacy lifecycle)."""
        result: dict[str, Any] = {
            "protocolVersion": version,
            "capabilities": {"logging": {}, "tools": {"listChanged": True}},
            "serverInfo": self.server_info,
        }
        if self.service.instructions:
            result["instructions"] = self.service.instructions
        return mcp.encode(result)

    def _discover(self) -> bytes:
        result: dict[str, Any] = {
            "supportedVersions": list(mcp.MODERN_VERSIONS),
            "capabilities": {"logging": {}, "tools": {"listChanged": True}},
        }
        if any(tool.task for tool in self.service.tools.values()):
            result["capabilities"]["extensions"] = {tasks.EXTENSION: {}}
        if self.service.instructions:
            result["instructions"] = self.service.instructions
        return mcp.encode(result | self._modern())

    def _tools(self, cursor: str | None, modern: bool) -> bytes:
        tools = list(self.service.tools.values())
        key = (modern, cursor, len(tools))
        if key not in self._pages:
            page = self._tools_page(tools, cursor, modern)  # raises for cursors that were made up: none of them is kept
            if len(self._pages) > 256:
                self._pages.clear()
            self._pages[key] = page
        return self._pages[key]

    def _tools_page(self, tools: list[Any], cursor: str | None, modern: bool) -> bytes:
        start = 0
        if cursor is not None:
            names = [tool.name for tool in tools]
            try:
                start = names.index(_name_of(cursor)) + 1
            except ValueError:
                raise ProtocolError(INVALID_PARAMS, "tools/list: no such cursor") from None
        shown = tools[start : start + self.page]
        result: dict[str, Any] = {"tools": [Raw(tool.definition) for tool in shown]}
        if start + self.page < len(tools):
            result["nextCursor"] = _cursor_of(shown[-1].name)
        return mcp.encode(result | self._modern() if modern else result)

    def _modern(self) -> dict[str, Any]:
        return {
            "resultType": "complete",
            "ttlMs": self.ttl,
            "cacheScope": "public",
            "_meta": {"io.modelcontextprotocol/serverInfo": self.server_info},
        }


def _cursor_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _name_of(cursor: str) -> str:
    """The name in a cursor of ours; the decoder alone would take any number of spellings of it, of any length.

    Raises:
        ValueError: It is none.
    """
    if len(cursor) > _CURSOR:
        raise ValueError
    name = base64.urlsafe_b64decode(cursor.encode()).decode()
    if _cursor_of(name) != cursor:
        raise ValueError
    return name


_CURSOR = 256  # characters; names of tools have 128 at most
