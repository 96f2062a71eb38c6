"""Answers that a modern server lets its clients keep for a while (`ttlMs`; 2026-07-28, caching): lists, and resources.

A notification that something changed ends that earlier. What is kept is one client's own, so it does not matter whom
the server would let it be shown to (`cacheScope`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from tailrace.wire.mcp import encode

__all__ = ["KEPT_METHODS", "Kept"]

KEPT_METHODS = frozenset({"tools/list", "resources/list", "resources/templates/list", "prompts/list", "resources/read"})
_ENDED_BY = {
    "notifications/tools/list_changed": ("tools/list",),
    "notifications/resources/list_changed": ("resources/list", "resources/templates/list"),
    "notifications/prompts/list_changed": ("prompts/list",),
}
_LONGEST = 86_400.0  # seconds, whatever a server says


class _Hints(Struct, rename="camel"):
    ttl_ms: float = 0
    result_type: str = "complete"


class Kept:
    """The answers of one server.

    Args:
        limit: How many; the one that was used longest ago goes first.
        max_bytes: Of one; larger ones are not kept.
        clock: Seconds that never go back.
    """

    def __init__(
        self, *, limit: int = 256, max_bytes: int = 1_048_576, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._clock = clock
        self._answers: OrderedDict[tuple[str, bytes], tuple[Raw, float]] = OrderedDict()

    def find(self, method: str, params: Mapping[str, Any] | None) -> Raw | None:
        """The answer to the same request, if it may still be used."""
        key = (method, encode(params or {}))
        answer, until = self._answers.get(key, (None, 0.0))
        if answer is None:
            return None
        if self._clock() >= until:
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        return answer

    def keep(self, method: str, params: Mapping[str, Any] | None, answer: Raw) -> None:
        """Keep an answer for as long as it says."""
        try:
            hints = msgspec.json.decode(answer, type=_Hints)
        except (msgspec.MsgspecError, RecursionError):
            return
        if hints.ttl_ms <= 0 or hints.result_type != "complete" or len(bytes(answer)) > self._max_bytes:
            return
        until = self._clock() + min(hints.ttl_ms / 1000, _LONGEST)
        self._answers[method, encode(params or {})] = answer.copy(), until
        while len(self._answers) > self._limit:
            self._answers.popitem(last=False)

    def forget(self, method: str) -> None:
        """Drop all answers of a method."""
        for key in [key for key in self._answers if key[0] == method]:
            del self._answers[key]

    def notified(self, method: str, params: Any) -> None:
        """The server says that something changed."""
        for ended in _ENDED_BY.get(method, ()):
            self.forget(ended)
        if method == "notifications/resources/updated" and isinstance(params, dict):
            uri: Any = cast("dict[str, Any]", params).get("uri")
            self._answers.pop(("resources/read", encode({"uri": uri})), None)
