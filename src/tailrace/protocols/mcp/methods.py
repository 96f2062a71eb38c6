"""The methods that run no user code: what the server is, and the lists of what it offers."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from tailrace.errors import ProtocolError
from tailrace.wire import mcp, tasks
from tailrace.wire.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND
from tailrace.wire.uri_templates import MAX_URI

if TYPE_CHECKING:
    from tailrace.service import Definition, Service

__all__ = ["LISTS", "Methods"]

LISTS = {  # the member of the result that holds the list
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
_LEGACY = frozenset({"ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", *LISTS})
_MODERN = frozenset({"server/discover", *LISTS})


class Methods:
    """Results of one service's plain methods, encoded; a list is made once and kept while nothing is added.

    Args:
        service: What is described.
        server_info: Its name and version.
        page: What one page of a list holds.
        ttl: Milliseconds for which a modern client may keep a list.
    """

    def __init__(self, service: Service, server_info: dict[str, Any], *, page: int, ttl: int = 60_000) -> None:
        self.service = service
        self.server_info = server_info
        self.page = page
        self.ttl = ttl
        self._pages: dict[tuple[str, bool, str | None], bytes] = {}
        self._revision = service.revision

    def result(self, method: str, params: Any, modern: bool) -> bytes:
        """The encoded result of `method`.

        Raises:
            ProtocolError: -32601 for a method this era does not have, -32602 for a bad cursor.
        """
        if method not in (_MODERN if modern else _LEGACY):
            raise ProtocolError(METHOD_NOT_FOUND, f"unknown method: {method[:128]!r}")
        if method in LISTS:
            return self._list(method, params.cursor, modern)
        if method == "server/discover":
            return self._discover()
        return b"{}"  # ping, and what the session takes note of

    def initialize_result(self, version: str) -> bytes:
        """The result of `initialize` (legacy lifecycle)."""
        result: dict[str, Any] = {
            "protocolVersion": version,
            "capabilities": self._capabilities(),
            "serverInfo": self.server_info,
        }
        if self.service.instructions:
            result["instructions"] = self.service.instructions
        return mcp.encode(result)

    def _discover(self) -> bytes:
        result: dict[str, Any] = {
            "supportedVersions": list(mcp.MODERN_VERSIONS),
            "capabilities": self._capabilities(),
        }
        if any(tool.task for tool in self.service.tools.values()):
            result["capabilities"]["extensions"] = {tasks.EXTENSION: {}}
        if self.service.instructions:
            result["instructions"] = self.service.instructions
        return mcp.encode(result | self._modern())

    def _capabilities(self) -> dict[str, Any]:
        """All of them always: what a service does not offer yet, it may offer while the session lasts."""
        return {
            "completions": {},
            "logging": {},
            "prompts": {"listChanged": True},
            "resources": {"subscribe": True, "listChanged": True},
            "tools": {"listChanged": True},
        }

    # --- lists ---

    def _list(self, method: str, cursor: str | None, modern: bool) -> bytes:
        if self._revision != self.service.revision:
            self._revision = self.service.revision
            self._pages.clear()
        key = (method, modern, cursor)
        page = self._pages.get(key)
        if page is None:
            # Raises for cursors that were made up: none of them is kept.
            page = self._page(method, self._offered(method), cursor, modern)
            if len(self._pages) > 256:
                self._pages.clear()
            self._pages[key] = page
        return page

    def _offered(self, method: str) -> dict[str, Definition]:
        service = self.service
        if method == "tools/list":
            return dict(service.tools)
        if method == "prompts/list":
            return dict(service.prompts)
        wanted = method == "resources/templates/list"
        return {uri: one for uri, one in list(service.resources.items()) if one.is_template is wanted}

    def _page(self, method: str, offered: dict[str, Definition], cursor: str | None, modern: bool) -> bytes:
        keys, start = list(offered), 0
        if cursor is not None:
            try:
                start = keys.index(_key_of(cursor)) + 1
            except ValueError:
                raise ProtocolError(INVALID_PARAMS, f"{method}: no such cursor") from None
        shown = keys[start : start + self.page]
        result: dict[str, Any] = {LISTS[method]: [Raw(offered[key].definition) for key in shown]}
        if start + self.page < len(keys):
            result["nextCursor"] = _cursor_of(shown[-1])
        return mcp.encode(result | self._modern() if modern else result)

    def _modern(self) -> dict[str, Any]:
        return {
            "resultType": "complete",
            "ttlMs": self.ttl,
            "cacheScope": "public",
            "_meta": {"io.modelcontextprotocol/serverInfo": self.server_info},
        }


def _cursor_of(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _key_of(cursor: str) -> str:
    """The name or URI in a cursor of ours; the decoder alone would take any number of spellings of it, of any length.

    Raises:
        ValueError: It is none.
    """
    if len(cursor) > _CURSOR:
        raise ValueError
    key = base64.urlsafe_b64decode(cursor.encode()).decode()
    if _cursor_of(key) != cursor:
        raise ValueError
    return key


_CURSOR = 6 * MAX_URI  # characters; names of tools have 128 at most
