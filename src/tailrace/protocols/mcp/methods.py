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
    from collections.abc import Mapping

    from tailrace.service import Definition, Offered, Service, Viewer

__all__ = ["LISTS", "Methods", "all_of"]

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

    def __init__(self, service: Service, server_info: dict[str, Any], *, page: int, ttl: int) -> None:
        self.service = service
        self.server_info = server_info
        self._size = page
        self.ttl = ttl
        self._pages: dict[tuple[str, bool, str | None], bytes] = {}
        self._revision = service.revision

    def result(self, method: str, params: Any, viewer: Viewer, *, modern: bool) -> bytes:
        """The encoded result of `method`.

        Raises:
            ProtocolError: -32601 for a method this era does not have, -32602 for a bad cursor.
        """
        if method not in (_MODERN if modern else _LEGACY):
            raise ProtocolError(METHOD_NOT_FOUND, f"unknown method: {method[:128]!r}")
        if method in LISTS:
            return self._list(method, params.cursor, viewer, modern)
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

    def _list(self, method: str, cursor: str | None, viewer: Viewer, modern: bool) -> bytes:
        if self.service.is_selective:
            offered = self.service.offered(viewer)
            return self.page(method, _encoded(all_of(method, offered)), cursor, modern=modern, shared=False)
        if self._revision != self.service.revision:
            self._revision = self.service.revision
            self._pages.clear()
        key = (method, modern, cursor)
        page = self._pages.get(key)
        if page is None:
            # Raises for cursors that were made up: none of them is kept.
            page = self.page(method, _encoded(all_of(method, self.service)), cursor, modern=modern, shared=True)
            if len(self._pages) > 256:
                self._pages.clear()
            self._pages[key] = page
        return page

    def page(self, method: str, whole: dict[str, bytes], cursor: str | None, *, modern: bool, shared: bool) -> bytes:
        """One page of a list.

        Args:
            method: Which list.
            whole: All of it, encoded, by what tells one from another.
            cursor: Where it begins, or None.
            modern: In the words of 2026-07-28.
            shared: It is the same for everybody.

        Raises:
            ProtocolError: There is no such cursor.
        """
        keys, start = list(whole), 0
        if cursor is not None:
            try:
                start = keys.index(_key_of(cursor)) + 1
            except ValueError:
                raise ProtocolError(INVALID_PARAMS, f"{method}: no such cursor") from None
        shown = keys[start : start + self._size]
        result: dict[str, Any] = {LISTS[method]: [Raw(whole[key]) for key in shown]}
        if start + self._size < len(keys):
            result["nextCursor"] = _cursor_of(shown[-1])
        return mcp.encode(result | self._modern(shared) if modern else result)

    def _modern(self, shared: bool = True) -> dict[str, Any]:
        return {
            "resultType": "complete",
            "ttlMs": self.ttl,
            "cacheScope": "public" if shared else "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": self.server_info},
        }


def all_of(method: str, offered: Offered) -> Mapping[str, Definition]:
    """What a list is made of, by name, URI or template."""
    if method == "tools/list":
        return dict(offered.tools)
    if method == "prompts/list":
        return dict(offered.prompts)
    wanted = method == "resources/templates/list"
    return {uri: one for uri, one in list(offered.resources.items()) if one.is_template is wanted}


def _encoded(whole: Mapping[str, Definition]) -> dict[str, bytes]:
    return {key: one.definition for key, one in whole.items()}


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
