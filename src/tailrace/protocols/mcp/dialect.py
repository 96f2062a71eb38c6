"""What differs between the eras in a result."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

__all__ = ["Dialect"]


class Dialect:
    """What differs between the eras in a result, so that no handler has to ask.

    Attributes:
        modern: 2026-07-28 or later: `resultType` and `_meta` go with every result.
        server_info: `_meta` of every modern result.
    """

    __slots__ = ("modern", "result_type", "server_info")

    def __init__(self, modern: bool, server_info: dict[str, Any]) -> None:
        self.modern = modern
        self.result_type = "complete" if modern else UNSET
        self.server_info: Any = {"io.modelcontextprotocol/serverInfo": server_info} if modern else UNSET
