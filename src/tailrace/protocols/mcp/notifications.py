"""Notifications, both ways: what a client says without asking, and what all of them, or those who asked, are told.

What one session is told goes into its own stream (`core.session`); the modern streams that listen are `listen`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.core.ports import Kind
from tailrace.protocols.mcp.failures import PeerCancelled
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import Notification, encode_notification

if TYPE_CHECKING:
    from tailrace.core.session import Session
    from tailrace.protocols.mcp.endpoint import Endpoint

__all__ = ["Notifications", "notification"]

logger = logging.getLogger("tailrace.mcp")

# Sessions that broadcasts reach, one after the other, before they give way: about 10 ms. In shorter turns fewer
# notifications are joined into one write (at 100, a delivery costs six times as much).
_TURN = 8192
_HOOKED = 64


class Notifications:
    """The notifications of one endpoint.

    Args:
        endpoint: Its sessions, and those who listen.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._told = 0  # sessions, of broadcasts
        self._changed: set[str] = set()  # lists of which clients are to be told
        self._updated: dict[str, None] = {}  # resources of which clients are to be told
        self._hooked = 0  # notifications of clients that a hook is being told of

    # --- from clients ---

    def notified(self, message: Notification, session: Session | None) -> None:
        """A notification from the client. Unknown ones are ignored, as JSON-RPC wants it."""
        if session is None:
            return
        if message.method == "notifications/cancelled":
            params = mcp.decode_cancelled(bytes(message.params))
            if params is None:
                return
            found = [call for call in session.calls.values() if call.request_id == params.request_id]
            self.endpoint.listens.cancelled(session, params.request_id)
            if len(found) == 1:  # an ambiguous one cancels none
                found[0].cancel(PeerCancelled((params.reason or "cancelled by the client")[:1000]))
        elif message.method == "notifications/initialized" and not session.record.initialized:
            session.record.initialized = True
            self.endpoint.home.save(session)
        elif (hook := self.endpoint.service.hooks.notified.get(message.method)) is not None and session.record.version:
            if self._hooked >= _HOOKED:
                logger.warning(
                    "a notification is dropped: %d of them are being told of method=%s", _HOOKED, message.method
                )
                return
            self._hooked += 1
            params = msgspec.json.decode(message.params or b"{}")
            self.endpoint.tasks.start(self._tell_hook(hook, session, params), name="tailrace-notified")

    async def _tell_hook(self, hook: Callable[..., Any], session: Session, params: dict[str, Any]) -> None:
        try:
            await self.endpoint.hooks.notified(hook, session, params)
        finally:
            self._hooked -= 1

    # --- to clients ---

    async def broadcast(self, method: str, params: Any) -> None:
        """Send a notification to every initialized session, and to the modern streams that asked for its kind; that a
        resource has changed, to those who subscribed to it. Waits for no reader; now and then the others have their
        turn."""
        endpoint, payload = self.endpoint, notification(method, params)
        now = endpoint.now()
        about_one = method == "notifications/resources/updated"
        for session in endpoint.subscriptions.of(params) if about_one else list(endpoint.sessions.by_id.values()):
            if session.record.version:
                session.log.append(payload, Kind.NOTIFICATION, now)
            self._told += 1
            if not self._told % _TURN:
                await asyncio.sleep(0)
        endpoint.listens.broadcast(method, params)

    def updated(self, uri: str) -> None:
        """What stands at `uri` has changed; those who subscribed to it are told soon, once for all changes of a
        moment."""
        self._updated[uri] = None

    def changed(self, kind: str, session: Session | None = None) -> None:
        """The list of `kind` (``tools``, …) has changed, for everybody or for one session; clients are told soon, once
        for all changes of a moment."""
        if session is None:
            self._changed.add(kind)
        elif self.endpoint.sessions.by_id.get(session.id) is session and session.record.version:
            payload = notification(f"notifications/{kind}/list_changed", None)
            session.log.append(payload, Kind.NOTIFICATION, self.endpoint.now())

    def sweep(self) -> None:
        """Twice a second: tell what has changed since."""
        while self._changed:
            news = self.broadcast(f"notifications/{self._changed.pop()}/list_changed", None)
            self.endpoint.tasks.start(news, name="tailrace-broadcast")
        if self._updated:
            updated, self._updated = self._updated, {}
            self.endpoint.tasks.start(self._tell_updated(updated), name="tailrace-broadcast")

    async def _tell_updated(self, uris: Iterable[str]) -> None:
        for uri in uris:
            await self.broadcast("notifications/resources/updated", {"uri": uri})


def notification(method: str, params: Any) -> bytes:
    """Encode a server's notification."""
    return encode_notification(method, None if params is None else mcp.encode(params))
