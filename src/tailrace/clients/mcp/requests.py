"""What a client asks for beside tools: resources, prompts, completions, log levels, subscriptions; typed, page by page.

It is written on top of one method that sends a request; connections, eras and tools are left to `Client`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

from tailrace.clients.mcp.offers import (
    CompleteResult,
    Completion,
    PromptInfo,
    PromptPage,
    PromptResult,
    ReadResult,
    ResourceInfo,
    ResourcePage,
    ResourceTemplateInfo,
    TemplatePage,
)
from tailrace.clients.mcp.results import ToolInfo, ToolPage, decode
from tailrace.clients.mcp.rounds import ask_in_rounds
from tailrace.errors import DefinitionError, LimitError, ProtocolError
from tailrace.wire.jsonrpc import INTERNAL_ERROR
from tailrace.wire.mcp import LOG_LEVELS

if TYPE_CHECKING:
    from tailrace.clients.mcp.calls import Progress
    from tailrace.clients.mcp.conversation import Conversation
    from tailrace.clients.mcp.handshake import Era

__all__ = ["Requests", "left"]

_MAX_PAGES = 1000


class _Page(Protocol):
    @property
    def next_cursor(self) -> str | None: ...


P = TypeVar("P", bound=_Page)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Listed(Generic[P, T]):
    """What comes in pages, and how they are read."""

    method: str
    page: type[P]
    items: Callable[[P], Sequence[T]]


_RESOURCES = _Listed("resources/list", ResourcePage, lambda page: page.resources)
_TEMPLATES = _Listed("resources/templates/list", TemplatePage, lambda page: page.resource_templates)
_PROMPTS = _Listed("prompts/list", PromptPage, lambda page: page.prompts)
_TOOLS = _Listed("tools/list", ToolPage, lambda page: page.tools)


class Requests(ABC):
    """The requests of a client. Each takes ``timeout``: seconds, `math.inf` for no limit, None for the client's own.

    It is for the whole of what is asked for, however many requests that takes: all pages of a list, all rounds of a
    question. Only what is iterated over has it for each page, because the time between two pages is the caller's.

    All of them raise as `Client.call_tool` does: `ProtocolError`, `TransportError`, `TimeoutError`.
    """

    # --- resources ---

    async def list_resources(self, *, timeout: float | None = None) -> list[ResourceInfo]:
        """All resources, over all pages (1,000 at most)."""
        return await self._all(_RESOURCES, timeout)

    def iter_resources(self, *, timeout: float | None = None) -> AsyncGenerator[ResourceInfo]:
        """The resources one by one; a page is asked for when its turn comes."""
        return self._iterate(_RESOURCES, lambda: timeout)

    async def list_resource_templates(self, *, timeout: float | None = None) -> list[ResourceTemplateInfo]:
        """All templates of resources, over all pages (1,000 at most)."""
        return await self._all(_TEMPLATES, timeout)

    def iter_resource_templates(self, *, timeout: float | None = None) -> AsyncGenerator[ResourceTemplateInfo]:
        """The templates one by one; a page is asked for when its turn comes."""
        return self._iterate(_TEMPLATES, lambda: timeout)

    async def read_resource(self, uri: str, *, timeout: float | None = None) -> ReadResult:
        """What a resource holds."""
        raw = await self._ask_whole("resources/read", {"uri": uri}, timeout)
        return decode("resources/read", raw, ReadResult)

    # --- prompts and completion ---

    async def list_prompts(self, *, timeout: float | None = None) -> list[PromptInfo]:
        """All prompts, over all pages (1,000 at most)."""
        return await self._all(_PROMPTS, timeout)

    def iter_prompts(self, *, timeout: float | None = None) -> AsyncGenerator[PromptInfo]:
        """The prompts one by one; a page is asked for when its turn comes."""
        return self._iterate(_PROMPTS, lambda: timeout)

    async def get_prompt(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> PromptResult:
        """A prompt with its arguments filled in.

        Args:
            arguments: Strings; what is none goes as its JSON, which servers that parse arguments understand.
        """
        params: dict[str, Any] = {"name": name}
        if arguments:
            params["arguments"] = {key: _text(value) for key, value in arguments.items()}
        return decode("prompts/get", await self._ask_whole("prompts/get", params, timeout), PromptResult)

    async def complete(
        self,
        ref: str | Mapping[str, Any],
        argument: Mapping[str, str],
        context_arguments: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> Completion:
        """What an argument of a prompt, or of a resource's template, may be completed to.

        Args:
            ref: A template, e.g. ``orders://{id}``, or a prompt's name; or a reference as the specification writes it.
            argument: ``{"name": …, "value": …}``, with what was typed so far.
            context_arguments: What the other arguments were filled in with (since 2025-06-18).
        """
        params: dict[str, Any] = {"ref": _reference(ref), "argument": dict(argument)}
        if context_arguments:
            params["context"] = {"arguments": dict(context_arguments)}
        raw = await self._request("completion/complete", params, timeout=timeout)
        return decode("completion/complete", raw, CompleteResult).completion

    # --- tools, page by page; `Client.list_tools` remembers what it lists ---

    def iter_tools(self, *, timeout: float | None = None) -> AsyncGenerator[ToolInfo]:
        """The tools one by one, all that the server names; a page is asked for when its turn comes."""
        return self._iterate(_TOOLS, lambda: timeout)

    # --- the log ---

    async def set_logging_level(self, level: str, *, timeout: float | None = None) -> None:
        """The least level of log messages that `on_log` is told of from now on.

        The legacy era sets it for the session, the modern one says it with each request.

        Raises:
            DefinitionError: There is no such level.
        """
        if level not in LOG_LEVELS:
            raise DefinitionError(f"the level {level!r} is none of {', '.join(LOG_LEVELS)}")
        if self.era == "legacy":
            await self._request("logging/setLevel", {"level": level}, timeout=timeout)
        else:
            self._open().log_level = level

    # --- inside ---

    @property
    @abstractmethod
    def era(self) -> Era:
        """``modern`` or ``legacy``."""

    @abstractmethod
    def _open(self) -> Conversation: ...

    @abstractmethod
    def _limit(self, timeout: float | None) -> float: ...

    @abstractmethod
    async def _request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None,
        meta: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> msgspec.Raw: ...

    async def _ask_whole(self, method: str, params: Mapping[str, Any], timeout: float | None) -> msgspec.Raw:
        """A request whose answer may be that the server wants to know more first."""
        until = self._until(timeout)

        async def ask(more: Mapping[str, Any]) -> msgspec.Raw:
            return await self._request(method, {**params, **more}, timeout=left(until))

        kind, raw = await ask_in_rounds(ask, self._open(), method, until)
        if kind != "complete":
            raise ProtocolError(INTERNAL_ERROR, f"{method} was answered {kind!r}, which this client did not offer")
        return raw

    async def _all_tools(self, timeout: float | None) -> list[ToolInfo]:
        return await self._all(_TOOLS, timeout)

    async def _all(self, listed: _Listed[P, T], timeout: float | None) -> list[T]:
        """All pages, within one limit."""
        until = self._until(timeout)
        return [one async for one in self._iterate(listed, lambda: left(until))]

    async def _iterate(self, listed: _Listed[P, T], limit: Callable[[], float | None]) -> AsyncGenerator[T]:
        """One by one; `limit` is asked at each page how long that may take."""
        method, cursor = listed.method, None
        for _ in range(_MAX_PAGES):
            params = {"cursor": cursor} if cursor is not None else None
            page = decode(method, await self._request(method, params, timeout=limit()), listed.page)
            for item in listed.items(page):
                yield item
            if page.next_cursor is None:
                return
            cursor = page.next_cursor
        raise LimitError("pages", f"{method} has more than {_MAX_PAGES} pages: the server's paging may not end")

    def _until(self, timeout: float | None) -> float:
        """Loop time at which this limit has passed."""
        return asyncio.get_running_loop().time() + self._limit(timeout)


def left(until: float) -> float:
    """Seconds until this loop time, in a number that people can read in a message."""
    return max(0.0, round(until - asyncio.get_running_loop().time(), 3))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _reference(ref: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(ref, str):
        return dict(ref)
    return {"type": "ref/resource", "uri": ref} if "://" in ref else {"type": "ref/prompt", "name": ref}
