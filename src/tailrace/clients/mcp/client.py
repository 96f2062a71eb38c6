"""The MCP client: connect to a server wherever it is, list its tools, call them, and be done in time."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from tailrace import __version__
from tailrace.clients.mcp.changes import Changes
from tailrace.clients.mcp.connecting import Connecting, Target
from tailrace.clients.mcp.kept import KEPT_METHODS, Kept
from tailrace.clients.mcp.listing import Listing
from tailrace.clients.mcp.tasks import CAPABILITIES
from tailrace.clients.mcp.tool_calls import ToolCalls
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.errors import DefinitionError, ProtocolError, TransportError
from tailrace.wire.mcp import LOG_LEVELS, Implementation

if TYPE_CHECKING:
    from tailrace.clients.mcp.answering import Elicitation, ElicitationUrl, Roots, Sampling
    from tailrace.clients.mcp.calls import Progress
    from tailrace.clients.mcp.conversation import Conversation
    from tailrace.clients.mcp.handshake import Era, Server
    from tailrace.clients.mcp.links import Link
    from tailrace.clients.mcp.oauth import OAuth
    from tailrace.clients.mcp.results import LogMessage
    from tailrace.service import Service

__all__ = ["Client", "Target"]

logger = logging.getLogger("tailrace.client")


class Client(ToolCalls):
    """A client of one MCP server. Use it as ``async with Client(target) as c:``, once, on one event loop.

    Calls may run at the same time. Cancelling a call, or its time limit, ends it at the server too.

    Args:
        target: A URL; a command as a list, or a `StdioCommand`; a `Link`. A URL without a path means ``/mcp``,
            and one that ends with ``/sse`` HTTP+SSE. (`tailrace.mcp.Client` takes a `Service` as well.)
        headers: Sent with every HTTP request, to this server only.
        auth: What HTTP requests authorize themselves with: a token; an async function that gives one for each request;
            an `OAuth`, which has one given by the server's authorization server. To this server only.
        era: Which era of the protocol to use; ``auto`` prefers the modern one.
        transport: Which HTTP transport to use; ``auto`` prefers Streamable HTTP.
        client_info: Name and version that the server is told.
        tasks: Tell modern servers that calls may become tasks (SEP-2663): those are followed until they have ended,
            over the server's restarts as well.
        timeout: Seconds that a call may take, unless it says otherwise; `math.inf`: no limit.
        connect_timeout: Seconds for each step of connecting.
        close_timeout: Seconds that the end may take.
        on_log: A plain function told of the server's log messages.
        log_level: The least level that the server is asked for, if there is an `on_log`.
        on_notification: A plain function told of each other notification's method and parameters.
        on_warning: A plain function told of what is odd, e.g. that a resumed stream lacks events; without it,
            that is logged under ``tailrace.client``.
        max_message: Bytes of one message from the server; default 64 MiB.
        reconnect: Seconds for which a server that went away is tried again before the calls fail: to resume broken
            streams, and to send what could not be sent at all; 0: never. A call's own time limit goes on meanwhile.
        cache: Keep lists and resources for as long as a modern server says (`ttlMs`), or until it says that they
            changed, which it tells those who `listen`.
        elicitation: Called with a message and a JSON Schema when a tool asks the user; gives what was filled in, None
            to decline, or an `ElicitResult`. Async or plain, as the next three.
        elicitation_url: Called with a message and a URL that the user is to open; true once that is done, or None.
        sampling: Called with the request's params when a tool asks the model; gives a string, or a `SampleResult`.
        roots: Where the server may work: a list of URIs, paths or `Root`, or a function that gives one.

    Raises:
        DefinitionError: An option, or the target, cannot work.
    """

    def __init__(
        self,
        target: Target,
        *,
        headers: Mapping[str, str] | None = None,
        auth: str | OAuth | Callable[[], Awaitable[str]] | None = None,
        era: Literal["auto", "modern", "legacy"] = "auto",
        transport: Literal["auto", "streamable", "sse"] = "auto",
        client_info: tuple[str, str] = ("tailrace", __version__),
        tasks: bool = True,
        timeout: float = 60.0,
        connect_timeout: float = 10.0,
        close_timeout: float = 5.0,
        on_log: Callable[[LogMessage], object] | None = None,
        log_level: str = "info",
        on_notification: Callable[[str, Any], object] | None = None,
        on_warning: Callable[[str], object] | None = None,
        max_message: int = 67_108_864,
        reconnect: float = 30.0,
        cache: bool = False,
        elicitation: Elicitation | None = None,
        elicitation_url: ElicitationUrl | None = None,
        sampling: Sampling | None = None,
        roots: Roots | None = None,
    ) -> None:
        for name, callback in (("on_log", on_log), ("on_notification", on_notification), ("on_warning", on_warning)):
            if inspect.iscoroutinefunction(callback):
                raise DefinitionError(f"{name} has to be a plain function: it is called between two reads")
        if log_level not in LOG_LEVELS:
            raise DefinitionError(f"log_level {log_level!r} is none of {', '.join(LOG_LEVELS)}")
        self._timeout = timeout
        self._close_timeout = close_timeout
        self._connect_timeout = connect_timeout
        self._on_log = on_log
        self._log_level = log_level
        self._on_notification = on_notification
        self._on_warning = on_warning if on_warning is not None else logger.warning
        self._reconnect = reconnect
        self._kept = Kept() if cache else None
        self._connecting = Connecting(
            target,
            headers=headers or {},
            auth=auth,
            era=era,
            transport=transport,
            connect_timeout=connect_timeout,
            close_timeout=close_timeout,
            max_message=max_message,
            reconnect=reconnect,
            link_to_service=self._link_to_service,
            conversation={
                "client_info": client_info,
                "capabilities": CAPABILITIES if tasks else {},
                "log_level": log_level if on_log is not None else None,
                "on_log": on_log,
                "on_notification": on_notification if self._kept is None else self._notified,
                "on_warning": self._on_warning,
                "elicitation": elicitation,
                "elicitation_url": elicitation_url,
                "sampling": sampling,
                "roots": roots,
            },
        )
        self._tasks: Tasks | None = None
        self._listing = Listing(self._on_warning)
        self._closing: asyncio.Future[None] | None = None
        self._subscribed: dict[str, Changes] = {}

    # --- life ---

    async def __aenter__(self) -> Self:
        """Connect and shake hands; what was begun is ended if that fails.

        Raises:
            TransportError: The server cannot be reached.
            ProtocolError: It refuses, or speaks no version that this client does.
            TimeoutError: It does not answer within `connect_timeout`.
        """
        if self._tasks is not None or self._closing is not None:
            raise DefinitionError("a Client is used once: make a new one")
        self._tasks = Tasks(Threads(size=1, waiting=1, name="tailrace-client"))
        try:
            await self._connecting.connect(self._tasks)
            await self._ask_for_log()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the session and let go of everything, within `close_timeout`. Idempotent; all who call it wait for it.

        Calls in flight fail with a `TransportError`. If this is cancelled, what remains is cut off at once.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self._closing = asyncio.get_running_loop().create_future()
        try:
            await self._end()
        finally:
            self._closing.set_result(None)

    # --- what the server said of itself ---

    @property
    def era(self) -> Era:
        """``modern`` or ``legacy``."""
        return self._met().era

    @property
    def protocol_version(self) -> str:
        """The version that both speak."""
        return self._met().version

    @property
    def server_info(self) -> Implementation:
        """Name and version of the server; empty where it did not say."""
        return self._met().info

    @property
    def instructions(self) -> str | None:
        """How the server wants to be used, or None."""
        return self._met().instructions

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the server can do, as it said."""
        return self._met().capabilities

    @property
    def session_id(self) -> str | None:
        """The session's id; None where there is no session, as in the modern era."""
        return self._open().link.session_id

    @property
    def gaps(self) -> int:
        """How many times a resumed stream lacked events."""
        conversation = self._connecting.conversation
        return conversation.calls.gaps if conversation is not None else 0

    @property
    def is_lost(self) -> bool:
        """The connection is broken for good, or the client closed: every call fails."""
        conversation = self._connecting.conversation
        return self._closing is not None or (conversation is not None and conversation.calls.error is not None)

    # --- what it hears, and whatever else can be said ---

    def listen(
        self, *, tools: bool = False, resources: bool = False, prompts: bool = False, uris: Sequence[str] = ()
    ) -> Changes:
        """Listen for changes: ``async with c.listen(tools=True) as changes:``, then ``async for change in changes:``.

        It works in both eras. Where the stream breaks, it is opened again for `reconnect` seconds, and everything that
        was listened for counts as changed, for nobody knows what was missed.

        Args:
            tools, resources, prompts: Which lists.
            uris: Which resources.
        """
        given: dict[Any, bool] = {"tools": tools, "resources": resources, "prompts": prompts}
        kinds = [kind for kind, wanted in given.items() if wanted]
        if not kinds and not uris:
            raise DefinitionError("say what to listen for: tools=, resources=, prompts= or uris=")
        assert self._tasks is not None
        return Changes(
            self._open(),
            self._tasks,
            modern=self.era == "modern",
            kinds=kinds,
            uris=uris,
            timeout=self._connect_timeout,
            reconnect=self._reconnect,
        )

    async def subscribe_resource(self, uri: str) -> None:
        """Have `on_notification` told (``notifications/resources/updated``) when a resource changes, in either era."""
        if uri not in self._subscribed:
            changes = self.listen(uris=[uri])
            self._subscribed[uri] = changes
            try:
                await changes.__aenter__()
            except BaseException:
                if self._subscribed.get(uri) is changes:  # else it was taken back meanwhile
                    del self._subscribed[uri]
                raise

    async def unsubscribe_resource(self, uri: str) -> None:
        """Take that back."""
        changes = self._subscribed.pop(uri, None)
        if changes is not None:
            await changes.aclose()

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return once the server has answered; the modern era has no ping, so it is asked to describe itself."""
        await self._request("ping" if self.era == "legacy" else "server/discover", timeout=timeout)

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Any:
        """Send any request; gives its result as plain JSON values. Raises as `call_tool` does."""
        return msgspec.json.decode(await self._request(method, params, timeout=timeout))

    async def notify(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> None:
        """Send any notification, and wait until the server has taken it."""
        await self._open().notify(method, params, timeout=self._timeout if timeout is None else timeout)

    # --- inside ---

    async def _request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None,
        meta: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> msgspec.Raw:
        conversation, limit = self._open(), self._limit(timeout)
        kept = self._kept if method in KEPT_METHODS else None
        known = kept.find(method, params) if kept is not None else None
        if known is not None:
            return known
        answer = await conversation.request(
            method, params, timeout=limit, meta=meta, progress=progress, headers=headers
        )
        if kept is not None:
            kept.keep(method, params, answer)
        return answer

    def _limit(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _open(self) -> Conversation:
        if self._closing is not None:
            raise TransportError("the client is closed")
        if self._connecting.conversation is None:
            raise DefinitionError("the client is not connected: use it as `async with Client(target) as c:`")
        return self._connecting.conversation

    def _met(self) -> Server:
        if self._connecting.server is None:
            raise DefinitionError("the client is not connected: use it as `async with Client(target) as c:`")
        return self._connecting.server

    def _notified(self, method: str, params: Any) -> None:
        if self._kept is not None:
            self._kept.notified(method, params)
        if self._on_notification is not None:
            self._on_notification(method, params)

    async def _ask_for_log(self) -> None:
        """The legacy era sets the level once for the session."""
        if self._on_log is None or self.era == "modern" or "logging" not in self.capabilities:
            return
        try:
            await self._request("logging/setLevel", {"level": self._log_level}, timeout=self._connect_timeout)
        except ProtocolError as error:
            self._on_warning(f"the server does not take the log level: {error}")

    async def _link_to_service(self, service: Service) -> Link:
        """For the public door, which may know the server."""
        raise DefinitionError(f"a target of type {type(service).__name__} needs tailrace.mcp.Client")

    async def _end(self) -> None:
        """The link first, because a child process has to be read from until it ends; then what is left of the tasks."""
        tasks, conversation = self._tasks, self._connecting.conversation
        if tasks is None:
            return
        try:
            if conversation is not None:
                conversation.calls.lose(TransportError("the client was closed"))
                await conversation.link.close(self._close_timeout * 0.8)
        except (TransportError, TimeoutError) as error:
            self._on_warning(f"the connection did not end in order: {error}")
        finally:
            await tasks.close(self._close_timeout * 0.2)
            if self._connecting.authorizer is not None:
                await self._connecting.authorizer.aclose()
