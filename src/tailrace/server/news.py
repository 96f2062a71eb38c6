"""What all members of a service are told: broadcasts, resources that have changed, lists that have.

Each tells its own sessions and those who listen at it. What happens often within a moment is said once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tailrace.core.timers import Sweeper
    from tailrace.server.cluster import House
    from tailrace.transports.relay import Relay

__all__ = ["News"]

logger = logging.getLogger("tailrace.cluster")

_MOST = 1000  # resources that are told at once; what comes beyond is told at the next turn


class News:
    """The news of one member.

    Args:
        house: The server, with what it owns.
        relay: The way to the others, and from them.
        others: Who they are.
        sweeper: Says when changes are told.
    """

    def __init__(self, house: House, relay: Relay, others: Callable[[], Iterable[str]], sweeper: Sweeper) -> None:
        self._house = house
        self._relay = relay
        self._others = others
        self._sweeper = sweeper
        self._updated: dict[str, None] = {}
        self._changed: dict[str, None] = {}
        relay.on("broadcast", self._on_broadcast)
        relay.on("updated", self._on_updated)
        relay.on("changed", self._on_changed)
        sweeper.add(self)

    def close(self) -> None:
        """Tell nothing more."""
        self._sweeper.discard(self)

    # --- to the others ---

    def broadcast(self, method: str, params: Any) -> None:
        """A notification for everybody."""
        self._tell("broadcast", [method, params])

    def updated(self, uri: str) -> None:
        """What stands at `uri` has changed."""
        self._updated[uri] = None

    def changed(self, kind: str) -> None:
        """A list has changed for everybody."""
        self._changed[kind] = None

    def sweep(self, now: float) -> None:
        """Twice a second: tell what has changed since."""
        if self._changed:
            self._tell("changed", list(self._changed))
            self._changed.clear()
        if self._updated:
            told = list(self._updated)[:_MOST]
            self._tell("updated", told)
            for uri in told:
                del self._updated[uri]

    def _tell(self, kind: str, what: Any) -> None:
        payload = msgspec.json.encode(what)
        for member in self._others():
            try:
                self._relay.tell(member, kind, payload)
            except StoreError as error:
                logger.warning("a member could not be told kind=%s member=%s error=%s", kind, member, error)

    # --- from them ---

    def _on_broadcast(self, member: str, payload: bytes) -> None:
        method, params = msgspec.json.decode(payload, type=tuple[str, Any])
        for partition in self._house.partitions:
            news = partition.endpoint.notifications.broadcast(method, params)
            self._house.tasks.start(news, name="tailrace-broadcast")

    def _on_updated(self, member: str, payload: bytes) -> None:
        for uri in msgspec.json.decode(payload, type=list[str]):
            for partition in self._house.partitions:
                partition.endpoint.notifications.updated(uri)

    def _on_changed(self, member: str, payload: bytes) -> None:
        for kind in msgspec.json.decode(payload, type=list[str]):
            for partition in self._house.partitions:
                partition.endpoint.notifications.changed(kind)
