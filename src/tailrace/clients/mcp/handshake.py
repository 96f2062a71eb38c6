"""How client and server agree on an era and a version.

The modern era is asked for first, by `server/discover`; whoever does not know it is greeted by the
legacy `initialize` (2026-07-28, versioning: dual-era clients).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from tailrace.clients.mcp.links.http import HttpRefused
from tailrace.clients.mcp.results import decode
from tailrace.errors import ProtocolError
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import INTERNAL_ERROR
from tailrace.wire.mcp import Implementation

if TYPE_CHECKING:
    from tailrace.clients.mcp.conversation import Conversation

__all__ = ["Era", "Server", "agree"]

Era = Literal["modern", "legacy"]

_RECOGNISED = frozenset({mcp.HEADER_MISMATCH, mcp.CAPABILITY_MISSING, mcp.UNSUPPORTED_VERSION})
_SAME_IN_BOTH = frozenset({401, 403, 421, 429, 503})  # statuses that say nothing about the era


class Server(Struct, frozen=True):
    """What the server said of itself."""

    era: Era
    version: str
    info: Implementation
    capabilities: dict[str, Any]
    instructions: str | None


class _Initialized(Struct, rename="camel"):
    protocol_version: str
    capabilities: dict[str, Any] = {}
    server_info: Implementation = Implementation()
    instructions: str | None = None


class _DiscoverMeta(Struct, frozen=True):
    server_info: Implementation = msgspec.field(default=Implementation(), name="io.modelcontextprotocol/serverInfo")


class _Discovered(Struct, rename="camel"):
    supported_versions: list[str]
    capabilities: dict[str, Any] = {}
    instructions: str | None = None
    server_info: Implementation | None = None
    meta: _DiscoverMeta = msgspec.field(default=_DiscoverMeta(), name="_meta")


async def agree(
    conversation: Conversation,
    era: Literal["auto", "modern", "legacy"],
    *,
    timeout: float,
    known: Era | None = None,
) -> Server:
    """Shake hands; afterwards `conversation` and its link know the version.

    Args:
        era: Which eras to try.
        timeout: Seconds for each of the two attempts; of `auto`, the first has half of it, because some legacy servers
            never answer it.
        known: What `auto` found lately: tried first, and believed only if the server goes along.

    Raises:
        ProtocolError: There is no version that both speak, or the server refuses.
        TransportError: The connection broke.
        TimeoutError: The limit passed.
    """
    server, unanswered = None, False
    if era == "auto" and known == "legacy":
        server = await _greet_again(conversation, timeout)
    if server is None and (era == "modern" or (era == "auto" and not conversation.link.legacy_only)):
        try:
            server = await _discover(conversation, timeout if "modern" in (era, known) else timeout / 2, era)
        except TimeoutError:
            if era == "modern":
                raise
            conversation.version, unanswered = None, True
    if server is None:
        server = await (_greet_late if unanswered else _initialize)(conversation, timeout)
    conversation.version = server.version
    if server.era == "legacy":
        await conversation.notify("notifications/initialized", timeout=timeout)
    conversation.link.establish(server.version)
    return server


async def _greet_again(conversation: Conversation, timeout: float) -> Server | None:
    """Greet a server that was legacy when it was last asked; None: it refuses, so it is to be probed again."""
    try:
        return await _initialize(conversation, timeout)
    except HttpRefused as error:
        if error.status in _SAME_IN_BOTH:
            raise
    except ProtocolError:
        pass
    return None


async def _discover(conversation: Conversation, timeout: float, era: str) -> Server | None:
    """Ask a modern server; None: greet it in the legacy way."""
    conversation.version = mcp.MODERN_VERSIONS[-1]
    try:
        try:
            raw = await conversation.request("server/discover", timeout=timeout)
        except ProtocolError as error:
            known = _modern_that(error)
            if known is None:
                raise
            conversation.version = known  # asked for by name: once more (2026-07-28, versioning)
            raw = await conversation.request("server/discover", timeout=timeout)
        found = decode("server/discover", raw, _Discovered)
    except (ProtocolError, HttpRefused) as error:
        if era == "modern" or not _may_be_legacy(error):
            raise
        conversation.version = None
        return None
    version = next((known for known in reversed(mcp.MODERN_VERSIONS) if known in found.supported_versions), None)
    if version is not None:
        info = found.server_info or found.meta.server_info
        return Server("modern", version, info, found.capabilities, found.instructions)
    if era == "modern" or not set(found.supported_versions) & set(mcp.LEGACY_VERSIONS):
        raise _no_common_version(found.supported_versions)
    conversation.version = None
    return None


def _modern_that(error: ProtocolError) -> str | None:
    """The modern version that the server asks for in its refusal, where it is one of ours."""
    supported = _supported(error) if error.code == mcp.UNSUPPORTED_VERSION else []
    return next((known for known in reversed(mcp.MODERN_VERSIONS) if known in supported), None)


def _supported(error: ProtocolError) -> list[str]:
    supported: Any = error.data.get("supported") if isinstance(error.data, dict) else None  # pyright: ignore
    return [str(one) for one in supported] if isinstance(supported, list) else []  # pyright: ignore


def _may_be_legacy(error: Exception) -> bool:
    """Whether `initialize` may succeed where `server/discover` failed like this: only what is surely modern may not."""
    if isinstance(error, HttpRefused):
        return error.status not in _SAME_IN_BOTH
    if isinstance(error, ProtocolError) and error.code in _RECOGNISED:
        return bool(set(_supported(error)) & set(mcp.LEGACY_VERSIONS))
    return True


async def _initialize(conversation: Conversation, timeout: float) -> Server:
    params = {
        "protocolVersion": mcp.LATEST_LEGACY,
        "capabilities": conversation.legacy_capabilities,
        "clientInfo": conversation.client_info,
    }
    answer = decode("initialize", await conversation.request("initialize", params, timeout=timeout), _Initialized)
    if answer.protocol_version not in mcp.LEGACY_VERSIONS:
        raise _no_common_version([answer.protocol_version])
    return Server("legacy", answer.protocol_version, answer.server_info, answer.capabilities, answer.instructions)


async def _greet_late(conversation: Conversation, timeout: float) -> Server:
    """Greet a server that has not answered `server/discover`: it may not know it, or not have read it yet. One that
    was slow to start reads both then, has settled on the modern era by the first, and refuses the second."""
    try:
        return await _initialize(conversation, timeout)
    except ProtocolError:
        server = await _discover(conversation, timeout, "auto")
        if server is None:
            raise
        return server


def _no_common_version(offered: list[str]) -> ProtocolError:
    return ProtocolError(
        INTERNAL_ERROR,
        f"no common version of MCP: the server speaks {', '.join(offered)[:200]}, we {', '.join(mcp.ALL_VERSIONS)}",
    )
