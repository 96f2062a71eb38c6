"""What changed at the server: lists of tools, resources and prompts, and single resources; the same in both eras.

The modern era has a request that stays open for it (`subscriptions/listen`), the legacy one tells every session of its
lists, and of resources that were subscribed to. A change that is not read yet is not told twice, so what waits is never
more than what can change. After a stream that broke, everything that was listened for counts as changed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from msgspec import Struct

from tailrace.clients.mcp.links.http import HttpRefused, Patience, Place
from tailrace.errors import ProtocolError, TransportError
from tailrace.wire.jsonrpc import METHOD_NOT_FOUND

if TYPE_CHECKING:
    from tailrace.clients.mcp.conversation import Conversation
    from tailrace.core.tasks import Tasks

__all__ = ["Change", "Changes"]

logger = logging.getLogger("tailrace.client")

_KINDS: dict[str, Literal["tools", "resources", "prompts"]] = {
    "notifications/tools/list_changed": "tools",
    "notifications/resources/list_changed": "resources",
    "notifications/prompts/list_changed": "prompts",
}
_UPDATED = "notifications/resources/updated"
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


class Change(Struct, frozen=True):
    """One change.

    Attributes:
        kind: Which list it is; ``resource``: what a resource holds.
        uri: Of that resource; None for lists.
    """

    kind: Literal["tools", "resources", "prompts", "resource"]
    uri: str | None = None


class Changes:
    """Listens between entering and leaving; iterate over it, in one task. Made by `Client.listen`.

    Args:
        conversation: With the server.
        tasks: Where it listens.
        modern: The era.
        kinds: Which lists.
        uris: Which resources.
        timeout: Seconds to begin, and to end.
        reconnect: Seconds for which a server that is away is tried again.
    """

    def __init__(
        self,
        conversation: Conversation,
        tasks: Tasks,
        *,
        modern: bool,
        kinds: Sequence[Literal["tools", "resources", "prompts"]],
        uris: Sequence[str],
        timeout: float,
        reconnect: float,
    ) -> None:
        self._conversation = conversation
        self._tasks = tasks
        self._modern = modern
        self._kinds = kinds
        self._uris = tuple(uris)
        self._wanted = frozenset([Change(kind) for kind in kinds] + [Change("resource", uri) for uri in uris])
        self._timeout = timeout
        self._reconnect = reconnect
        self._pending: dict[Change, None] = {}
        self._wake = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._nothing = False  # the server said that it tells none of these
        self._ended = False
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin; every change from here on is told.

        Raises:
            ProtocolError: The server refuses, or tells none of these.
            TransportError: The connection broke.
            TimeoutError: It did not begin in time.
        """
        self._conversation.listeners.add(self)
        try:
            if self._modern:
                self._task = self._tasks.start(self._listen(), name="tailrace-client-changes")
                async with asyncio.timeout(self._timeout):
                    await self._acknowledged.wait()
                if self._error is not None:
                    raise self._error
            else:
                for uri in self._uris:
                    await self._conversation.request("resources/subscribe", {"uri": uri}, timeout=self._timeout)
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Listen no more. Idempotent."""
        if self._ended and self not in self._conversation.listeners:
            return
        self._leave()
        if not self._modern:
            for uri in self._uris:
                try:
                    await self._conversation.request("resources/unsubscribe", {"uri": uri}, timeout=self._timeout)
                except (ProtocolError, TransportError, TimeoutError) as error:
                    logger.debug("a subscription was not ended in order: %s", error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        """The next change.

        Raises:
            TransportError: The server cannot be listened to any more.
        """
        while not self._pending:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        change = next(iter(self._pending))
        del self._pending[change]
        return change

    def tell(self, method: str, params: Any) -> None:
        """A notification came; it may be one of these."""
        if method == _ACKNOWLEDGED:
            granted: Any = cast("dict[str, Any]", params).get("notifications") if isinstance(params, dict) else None
            self._nothing = isinstance(granted, dict) and not any(cast("dict[str, Any]", granted).values())
            self._acknowledged.set()
        elif method in _KINDS:
            self._add(Change(_KINDS[method]))
        elif method == _UPDATED and isinstance(params, dict):
            self._add(Change("resource", str(cast("dict[str, Any]", params).get("uri"))))

    def lose(self, error: Exception) -> None:
        """The connection is lost for good."""
        self._error = self._error or error
        self._acknowledged.set()
        self._wake.set()

    # --- inside ---

    def _add(self, change: Change) -> None:
        if change in self._wanted:
            self._pending[change] = None
            self._wake.set()

    def _leave(self) -> None:
        self._conversation.listeners.discard(self)
        self._ended = True
        self._acknowledged.set()  # who closes it while it begins does not leave its beginner waiting
        self._wake.set()
        if self._task is not None:
            self._task.cancel()

    async def _listen(self) -> None:
        """Hold the request open; where it ends or breaks, begin anew, and take everything for changed."""
        asked = {f"{kind}ListChanged": True for kind in self._kinds}
        params = {"notifications": {**asked, **({"resourceSubscriptions": self._uris} if self._uris else {})}}
        patience, place = Patience(self._reconnect), Place()
        while not self._ended:
            try:
                await self._conversation.request("subscriptions/listen", params, timeout=math.inf)
                if self._nothing or not self._acknowledged.is_set():  # some send the acknowledgement behind the end
                    return self.lose(ProtocolError(METHOD_NOT_FOUND, "the server tells none of these changes"))
                patience.renew()
            except HttpRefused as error:
                if not error.may_pass:
                    return self.lose(error)
            except ProtocolError as error:
                return self.lose(error)
            except TransportError as error:
                if self._conversation.calls.error is not None:
                    return self.lose(error)
            if not self._acknowledged.is_set():
                return self.lose(TransportError("the server ended the stream of changes before it began"))
            if not await patience.wait(place):
                return self.lose(TransportError("the server cannot be listened to any more"))
            for change in self._wanted:
                self._add(change)
        return None
