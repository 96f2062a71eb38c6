"""The clients through which a proxy talks to the server behind it: which one is whose, and when one is made or ended.

A modern server keeps nothing of its callers, so callers that can be asked the same things share a client. A legacy
server keeps a session, so each legacy session in front has one of its own behind; what has no session shares one, which
answers no questions: nobody would know whose they are. A server of both eras is spoken to in the modern one, except for
legacy sessions that can be asked something: its handlers may know only the legacy way to ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tailrace.core.context import Context, current
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.errors import CapabilityError, LimitError, ProtocolError, RequestRefused, TransportError

if TYPE_CHECKING:
    from tailrace.clients.mcp.client import Client
    from tailrace.clients.mcp.results import LogMessage

__all__ = ["Upstream", "Upstreams"]

T = TypeVar("T")

Key: TypeAlias = "tuple[str, ...] | str"  # what its callers can be asked, or whose session it is

_CLOSE = 6.0  # seconds for all clients together


class Upstream:
    """One client of the server behind, and the calls that use it now."""

    def __init__(self, make: Callable[..., Client], asks: tuple[str, ...]) -> None:
        self.running: list[Context] = []
        callbacks: dict[str, Any] = {
            "elicitation": self._elicit,
            "elicitation_url": self._elicit_url,
            "sampling": self._sample,
            "roots": self._roots,
        }
        chosen = {name: callback for name, callback in callbacks.items() if name in asks}
        self.client = make(on_log=self._log, log_level="debug", **chosen)

    @property
    def _asked(self) -> Context:
        """The call that a question belongs to. A modern server asks in the task of the call; of a legacy one it is not
        known, but all calls here are of one session, so whichever it is asks the same user."""
        if self.client.era == "modern":
            return current()
        if not self.running:
            raise CapabilityError("the server behind asks, and no call of this session runs")
        return self.running[-1]

    async def _elicit(self, message: str, schema: dict[str, Any]) -> Any:
        return await self._told(self._asked.elicit(message, schema))

    async def _elicit_url(self, message: str, url: str) -> Any:
        return await self._told(self._asked.elicit_url(message, url))

    async def _sample(self, params: dict[str, Any]) -> Any:
        asked = self._asked.sample(
            params["messages"],
            max_tokens=params["maxTokens"],
            system_prompt=params.get("systemPrompt"),
            temperature=params.get("temperature"),
            stop_sequences=params.get("stopSequences"),
            model_preferences=params.get("modelPreferences"),
            include_context=params.get("includeContext"),
            tools=params.get("tools"),
            tool_choice=params.get("toolChoice"),
        )
        return await self._told(asked)

    async def _roots(self) -> Any:
        return await self._told(self._asked.list_roots())

    async def _told(self, asked: Awaitable[T]) -> T:
        """What the client in front answers; that it refuses is said to a legacy server behind in the client's words."""
        try:
            return await asked
        except RequestRefused as error:
            if self.client.era == "modern":  # its call ends with this
                raise
            raise ProtocolError(error.code, str(error), error.details) from None

    def _log(self, message: LogMessage) -> None:
        """A record does not say of which call it is: among calls of strangers it is nobody's."""
        if self.running and (self.client.era == "legacy" or len(self.running) == 1):
            self.running[-1].log_nowait(message.level, message.data, message.logger)


class Upstreams:
    """The clients of one proxy, from `open` to `close`.

    Args:
        make: Makes a client; takes the callbacks.
        limit: Clients at most; a call that needs one more is refused.
        one_era: The era is settled by whoever made the proxy.
    """

    def __init__(self, make: Callable[..., Client], limit: int, *, one_era: bool = False) -> None:
        self._make = make
        self._limit = limit
        self._modern_only = one_era
        self._known: dict[Key, asyncio.Task[Upstream | Exception]] = {}
        self._tasks: Tasks | None = None

    @property
    def tasks(self) -> Tasks:
        """Where the proxy's own work runs."""
        if self._tasks is None:
            raise TransportError("the proxy is not served")
        return self._tasks

    def open(self) -> None:
        """Begin; nothing is connected for it."""
        self._tasks = Tasks(Threads(size=1, waiting=1, name="tailrace-proxy"))

    async def close(self) -> None:
        """End all clients, at the same time, within 6 seconds."""
        tasks, self._tasks = self._tasks, None
        known, self._known = list(self._known.values()), {}
        if tasks is not None:
            ending = [tasks.start(_close(one), name="tailrace-proxy-close") for one in known]
            if ending:
                await asyncio.wait(ending, timeout=_CLOSE)
            await tasks.close(0.5)

    async def plain(self) -> Client:
        """The client that lists, and that answers no questions.

        Raises:
            Exception: The server behind cannot be reached, as `Client` says it.
        """
        return (await self._get((), ())).client

    @asynccontextmanager
    async def of(self, ctx: Context) -> AsyncGenerator[Client]:
        """The client for a call, which counts as running on it meanwhile.

        Raises:
            Exception: The server behind cannot be reached, as `Client` says it; too many clients are open.
        """
        asks = _asks(ctx.client.capabilities if ctx.client is not None else {})
        if (await self.plain()).era == "modern":
            upstream = await self._of_both_eras(ctx.session.id, asks) if asks and ctx.session is not None else None
            upstream = upstream or await self._get(asks, asks)
        elif ctx.session is not None:
            upstream = await self._get(ctx.session.id, asks, era="legacy")  # known by now: nothing is tried first
        else:
            upstream = await self._get((), ())
        upstream.running.append(ctx)
        try:
            yield upstream.client
        finally:
            upstream.running.remove(ctx)

    async def _of_both_eras(self, id: str, asks: tuple[str, ...]) -> Upstream | None:
        """A legacy session of a server that speaks the modern era as well; None: it speaks that alone."""
        if self._modern_only:
            return None
        try:
            return await self._get(id, asks, era="legacy")
        except ProtocolError:
            self._known.pop(id, None)
            self._modern_only = True
            return None

    def forget(self, id: str) -> None:
        """A session in front has ended, so the one behind ends too."""
        task = self._known.pop(id, None)
        if task is not None and self._tasks is not None:
            self._tasks.start(_close(task), name="tailrace-proxy-close")

    async def _get(self, key: Key, asks: tuple[str, ...], **options: Any) -> Upstream:
        tasks, task = self.tasks, self._known.get(key)
        if task is not None and task.done() and _is_lost(task):
            del self._known[key]
            tasks.start(_close(task), name="tailrace-proxy-close")
            task = None
        if task is None:
            if len(self._known) >= self._limit:
                raise LimitError("upstreams", f"{self._limit} sessions with the server behind are open already")
            task = self._known[key] = tasks.start(self._connect(asks, options), name="tailrace-proxy-connect")
        found = await asyncio.shield(task)  # others wait for the same one
        if isinstance(found, Exception):
            raise found
        return found

    async def _connect(self, asks: tuple[str, ...], options: Mapping[str, Any]) -> Upstream | Exception:
        upstream = Upstream(partial(self._make, **options), asks)
        try:
            await upstream.client.__aenter__()
        except Exception as error:
            return error
        return upstream


def _is_lost(task: asyncio.Task[Upstream | Exception]) -> bool:
    found = None if task.cancelled() else task.result()
    return not isinstance(found, Upstream) or found.client.is_lost


async def _close(task: asyncio.Task[Upstream | Exception]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CLOSE)
    found = task.result() if task.done() and not task.cancelled() else None
    if isinstance(found, Upstream):
        await found.client.aclose()


def _asks(capabilities: Mapping[str, Any]) -> tuple[str, ...]:
    """What a client in front can be asked, as callbacks of the client behind."""
    forms: Any = capabilities.get("elicitation")
    found = [name for name in ("sampling", "roots") if capabilities.get(name) is not None]
    if forms is not None:
        found += ["elicitation"] if not forms or "form" in forms else []
        found += ["elicitation_url"] if "url" in forms else []
    return tuple(sorted(found))
