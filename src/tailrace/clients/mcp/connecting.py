"""The way to a server: which transport, which link, which era; and who may be told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from tailrace.clients.address import read_address
from tailrace.clients.mcp.conversation import Conversation
from tailrace.clients.mcp.eras import ERAS
from tailrace.clients.mcp.handshake import Server, agree
from tailrace.clients.mcp.links import Link, SseLink, StdioCommand, StdioLink, StreamableLink
from tailrace.clients.mcp.links.http import HttpRefused
from tailrace.clients.mcp.oauth import Authorization, GivenToken, OAuth
from tailrace.errors import DefinitionError, ProtocolError, TransportError

if TYPE_CHECKING:
    from tailrace.clients.mcp.oauth import Authorizer
    from tailrace.core.tasks import Tasks
    from tailrace.service import Service

__all__ = ["Connecting", "Target"]

Target: TypeAlias = "str | Sequence[str] | StdioCommand | Link | Service"

_LISTEN_LIMIT = 0.5  # seconds for the stream on which a server may ask; some answer its GET only with the first event
_NOT_STREAMABLE = frozenset({400, 404, 405, 406, 415, 501})  # statuses of a POST to a server that speaks HTTP+SSE only


class Connecting:
    """How one client gets to its server; used once. The first arguments are `Client`'s.

    Args:
        link_to_service: Gives the link to a service of this process.
        conversation: Further arguments of `Conversation`.

    Attributes:
        conversation: With the server; None before there is a link.
        server: What it said of itself; None before hands were shaken.
        authorizer: Of HTTP requests, if there is one.

    Raises:
        DefinitionError: The target, or what goes with it, cannot work.
    """

    def __init__(
        self,
        target: Target,
        *,
        headers: Mapping[str, str],
        auth: str | OAuth | Callable[[], Awaitable[str]] | None,
        era: Literal["auto", "modern", "legacy"],
        transport: Literal["auto", "streamable", "sse"],
        connect_timeout: float,
        close_timeout: float,
        max_message: int,
        reconnect: float,
        link_to_service: Callable[[Service], Awaitable[Link]],
        conversation: Mapping[str, Any],
    ) -> None:
        self._target = _check_target(target)
        self._headers = headers
        self._auth = auth
        if auth is not None and (not isinstance(target, str) or any(n.lower() == "authorization" for n in headers)):
            raise DefinitionError("auth= is for a URL, and instead of a header Authorization")
        for option, value, known in (("era", era, _ERAS), ("transport", transport, _TRANSPORTS)):
            if value not in known:
                raise DefinitionError(f"{option}={value!r} is none of {', '.join(known)}")
        self._era: Literal["auto", "modern", "legacy"] = era
        self._transport = transport
        self._connect_timeout = connect_timeout
        self._close_timeout = close_timeout
        self._max_message = max_message
        self._reconnect = reconnect
        self._link_to_service = link_to_service
        self._options = conversation
        self.conversation: Conversation | None = None
        self.server: Server | None = None
        self.authorizer: Authorizer | None = None

    async def connect(self, tasks: Tasks) -> None:
        """Connect and shake hands; raises as `Client.__aenter__`. What was begun is the caller's to end."""
        target = self._target
        if isinstance(target, str) and self._auth is not None:
            auth = self._auth
            self.authorizer = Authorization(auth, target, tasks) if isinstance(auth, OAuth) else GivenToken(auth)
        if not isinstance(target, str):
            await self._meet(await self._link_to(target), tasks)
        elif self._transport == "sse" or (self._transport == "auto" and urlsplit(target).path.endswith("/sse")):
            await self._meet(self._http_link(SseLink, _address(target, "/sse")), tasks)
        else:
            try:
                await self._meet(self._http_link(StreamableLink, _address(target, "/mcp")), tasks)
            except HttpRefused as error:
                if self._transport != "auto" or self._era == "modern" or error.status not in _NOT_STREAMABLE:
                    raise
                await self._meet_by_sse(_address(target, "/sse"), error, tasks)

    async def _meet_by_sse(self, url: str, refused: HttpRefused, tasks: Tasks) -> None:
        """The oldest transport, after the newer one was refused (2025-03-26, transports: backwards compatibility)."""
        conversation, self.conversation = self.conversation, None
        assert conversation is not None
        await conversation.link.close(self._close_timeout)
        try:
            await self._meet(self._http_link(SseLink, url), tasks)
        except HttpRefused as error:
            raise TransportError(f"no MCP server found. Streamable HTTP: {refused}. HTTP+SSE: {error}") from error

    async def _meet(self, link: Link, tasks: Tasks) -> None:
        self.conversation = Conversation(
            link, tasks, max_message=self._max_message, authorizer=self.authorizer, **self._options
        )
        await self.conversation.open()
        self.server = await self._agree(self.conversation)
        if isinstance(link, StreamableLink) and self.server.era == "legacy" and self.conversation.legacy_capabilities:
            await link.wait_listening(_LISTEN_LIMIT)

    async def _link_to(self, target: Sequence[str] | StdioCommand | Link | Service) -> Link:
        if isinstance(target, Sequence):
            target = StdioCommand(command=target[0], args=target[1:])
        if isinstance(target, StdioCommand):
            return StdioLink(target, max_message=self._max_message)
        return target if isinstance(target, Link) else await self._link_to_service(target)

    def _http_link(self, kind: type[StreamableLink | SseLink], url: str) -> Link:
        return kind(
            url,
            self._headers,
            connect_timeout=self._connect_timeout,
            max_message=self._max_message,
            reconnect=self._reconnect,
            bearer=self.authorizer.token if self.authorizer is not None else None,
        )

    async def _agree(self, conversation: Conversation) -> Server:
        """Shake hands, with what is known of the server's era; what comes of it is known to the clients to come."""
        place = _place(self._target) if self._era == "auto" and not conversation.link.legacy_only else None
        if place is None:
            return await agree(conversation, self._era, timeout=self._connect_timeout)
        try:
            server = await agree(conversation, "auto", timeout=self._connect_timeout, known=ERAS.find(place))
        except (ProtocolError, HttpRefused, TimeoutError):
            ERAS.forget(place)
            raise
        ERAS.learn(place, server.era)
        return server


_ERAS = ("auto", "modern", "legacy")
_TRANSPORTS = ("auto", "streamable", "sse")


def _place(target: Target) -> Hashable:
    """What tells this server from others; None for one that no other client can have as its target."""
    if isinstance(target, str):
        return _address(target, "/mcp")
    if isinstance(target, StdioCommand):
        return (target.command, *target.args), target.cwd
    return tuple(target) if isinstance(target, Sequence) else None


def _check_target(target: Target) -> Target:
    if isinstance(target, str):
        if read_address(target) is None:
            raise DefinitionError(f"{target!r} is no http:// or https:// URL; a command is given as a list of strings")
    elif isinstance(target, Sequence):
        if not target or not target[0] or not all(isinstance(word, str) for word in target):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError("a command is a list of strings, the program first")
    elif isinstance(target, (int, float, Mapping, PathLike, type(None))):
        raise DefinitionError(f"a target is a URL, a command as a list, a StdioCommand or a Service, got {target!r}")
    return target


def _address(url: str, path: str) -> str:
    """The URL, with a path where it has none."""
    parts = urlsplit(url)
    return url if parts.path not in ("", "/") else parts._replace(path=path).geturl()
