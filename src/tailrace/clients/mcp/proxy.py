"""A `Service` that stands before another MCP server: what that offers is offered, what is asked is asked there.

Definitions pass through as they came, schemas untouched; arguments are checked by the server behind. Which client a
call goes through is left to `upstreams`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tailrace.clients.mcp.upstreams import Upstreams
from tailrace.errors import ProtocolError, ToolError, TransportError
from tailrace.schema import Arguments, InvalidArguments, Result
from tailrace.service import Completion, Prompt, Resource, Service, Tool
from tailrace.wire.content import PromptResponse, ResourceContents, ToolResponse
from tailrace.wire.jsonrpc import METHOD_NOT_FOUND
from tailrace.wire.param_headers import ParamHeader, param_headers
from tailrace.wire.uri_templates import UriTemplate

if TYPE_CHECKING:
    from tailrace.clients.mcp.client import Client
    from tailrace.clients.mcp.offers import ResourceContent
    from tailrace.core.context import Context
    from tailrace.core.session import Session
    from tailrace.service import Definition
    from tailrace.service.catalog import Kind

__all__ = ["make_proxy"]

logger = logging.getLogger("tailrace.proxy")

T = TypeVar("T")

_CONTEXT = "tailrace.context"  # the keyword under which a handler gets its `Context`; no JSON argument is called so
_ONCE = "io.tailrace/once"
_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
_MAX_PAGES = 1000
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before a server that cannot be listened to is tried again
_KINDS: tuple[Kind, ...] = ("tools", "resources", "prompts")


def make_proxy(make: Callable[..., Client], *, name: str, max_upstreams: int, one_era: bool = False) -> Service:
    """A service that passes everything on.

    Args:
        make: Makes a client of the server behind; takes the callbacks of `Client`.
        name: The service's.
        max_upstreams: Clients of the server behind at once.
        one_era: `make` makes clients of one era only, whatever it is asked for.
    """
    return _Proxy(make, name, max_upstreams, one_era).service


class _Proxy:
    def __init__(self, make: Callable[..., Client], name: str, limit: int, one_era: bool) -> None:
        self.service = service = Service(name)
        self._upstreams = Upstreams(partial(make, on_notification=self._notified), limit, one_era=one_era)
        self._completes = False
        service.lifespan(self._live)
        service.on_unregister_session(self._ended)

    # --- life ---

    async def _live(self, service: Service) -> AsyncIterator[None]:
        upstreams = self._upstreams
        upstreams.open()
        try:
            client = await upstreams.plain()
            service.instructions = service.instructions or client.instructions
            await self._refresh_all(client)
            watching = upstreams.tasks.start(self._watch(), name="tailrace-proxy-watch")
            try:
                yield
            finally:
                watching.cancel()
        finally:
            await upstreams.close()

    async def _ended(self, session: Session) -> None:
        self._upstreams.forget(session.id)

    async def _watch(self) -> None:
        """Follow what the server behind offers; connect again where it has gone, and take over what has changed."""
        failures = 0
        while True:
            try:
                client = await self._upstreams.plain()
                async with client.listen(tools=True, resources=True, prompts=True) as changes:
                    await self._refresh_all(client)
                    failures = 0
                    async for change in changes:
                        if change.kind != "resource":
                            await self._refresh_one(client, change.kind)
            except ProtocolError as error:
                logger.info("the server behind tells no changes: %s", error)
                return
            except (TransportError, TimeoutError, OSError) as error:
                logger.warning("the server behind cannot be listened to: %s", error)
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1

    def _notified(self, method: str, params: Any) -> None:
        if method == "notifications/resources/updated" and isinstance(params, dict):
            self.service.resource_updated(str(params.get("uri")))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]

    # --- what it offers ---

    async def _refresh_all(self, client: Client) -> None:
        self._completes = "completions" in client.capabilities
        for kind in _KINDS:
            await self._refresh_one(client, kind)

    async def _refresh_one(self, client: Client, kind: Kind) -> None:
        """A list that the server behind cannot give stays as it is known; the others are none the worse."""
        try:
            await self._refresh(client, kind)
        except ProtocolError as error:
            logger.warning("the server behind does not list its %s: %s", kind, error)

    async def _refresh(self, client: Client, kind: Kind) -> None:
        found: dict[str, Definition] = {}
        lists = {
            "tools": (("tools/list", "tools", self._tool),),
            "prompts": (("prompts/list", "prompts", self._prompt),),
        }
        resources = (
            ("resources/list", "resources", self._resource),
            ("resources/templates/list", "resourceTemplates", self._resource),
        )
        for method, key, make in lists.get(kind, resources):
            for item in await _all_pages(client, method, key):
                try:
                    one = make(item)
                except (KeyError, TypeError, ValueError) as error:
                    logger.warning("the server behind offers what cannot be offered here (%s): %s", method, error)
                else:
                    found[one.uri if isinstance(one, Resource) else one.name] = one
        known: Mapping[str, Definition] = getattr(self.service, kind)
        gone = [key for key in known if key not in found]
        new = {key: one for key, one in found.items() if key not in known or known[key].definition != one.definition}
        if gone or new:
            self.service.take_over(kind, gone, new)

    def _tool(self, item: dict[str, Any]) -> Tool:
        name: str = item["name"]
        schema: dict[str, Any] = item.get("inputSchema") or {"type": "object"}
        meta: dict[str, Any] = item.get("_meta") or {}
        hints: dict[str, Any] = item.get("annotations") or {}
        once = meta.get(_ONCE) or True
        whole = {key: part for key, part in item.items() if key != "execution"}

        async def call(**given: Any) -> ToolResponse:
            ctx = given.pop(_CONTEXT)
            async with self._behind(ctx) as client:
                result = await client.call_tool(name, given, progress=ctx.progress, timeout=math.inf)
            return ToolResponse(
                [msgspec.Raw(msgspec.json.encode(block)) for block in result.content],
                result.structured_content,
                result.is_error,
                _without_server(result.meta),
            )

        return Tool(
            **self._common(item, schema, call),
            definition=msgspec.json.encode(whole | {"_meta": {**meta, _ONCE: once}}),
            result=Result(None, False, msgspec.json.encode),
            once=once,
            on_crash="rerun" if hints.get("readOnlyHint") is True else "interrupt",
            task=False,
            rpc=False,
            read_only=hints.get("readOnlyHint"),
            idempotent=hints.get("idempotentHint"),
            destructive=hints.get("destructiveHint"),
            open_world=hints.get("openWorldHint"),
            param_headers=_headers(schema),
        )

    def _resource(self, item: dict[str, Any]) -> Resource:
        uri = item["uriTemplate"] if "uriTemplate" in item else item["uri"]
        template = _WholeUri(uri) if "uriTemplate" in item else None
        names = template.names if template is not None else ()

        async def read(**given: Any) -> list[ResourceContents]:
            async with self._behind(given.pop(_CONTEXT)) as client:
                result = await client.read_resource(given.get("uri", uri), timeout=math.inf)
            return [_contents(part) for part in result.contents]

        return Resource(
            **self._common(item, {"type": "object", "properties": {key: {} for key in names}}, read),
            definition=msgspec.json.encode(item),
            uri=uri,
            template=template,
            mime_type=item.get("mimeType"),
            size=item.get("size"),
            annotations=None,
            completions=self._completions({"type": "ref/resource", "uri": uri}, names) if names else {},
            max_age=0.0,
            shared=False,
        )

    def _prompt(self, item: dict[str, Any]) -> Prompt:
        name: str = item["name"]
        arguments: list[dict[str, Any]] = item.get("arguments") or []
        names: list[str] = [one["name"] for one in arguments]

        async def get(**given: Any) -> PromptResponse:
            async with self._behind(given.pop(_CONTEXT)) as client:
                result = await client.get_prompt(name, given, timeout=math.inf)
            messages = [msgspec.Raw(msgspec.json.encode(message)) for message in result.messages]
            return PromptResponse(messages, result.description, _without_server(result.meta))

        return Prompt(
            **self._common(item, {"type": "object", "properties": {key: {"type": "string"} for key in names}}, get),
            definition=msgspec.json.encode(item),
            completions=self._completions({"type": "ref/prompt", "name": name}, names),
        )

    def _completions(self, ref: dict[str, Any], names: Any) -> Mapping[str, Completion]:
        return MappingProxyType({name: self._completion(ref, name) for name in names} if self._completes else {})

    def _completion(self, ref: dict[str, Any], name: str) -> Completion:
        async def complete(value: str, arguments: dict[str, str], **given: Any) -> Any:
            async with self._behind(given.pop(_CONTEXT)) as client:
                found = await client.complete(ref, {"name": name, "value": value}, arguments, timeout=math.inf)
            return msgspec.to_builtins(found)

        return Completion(name=name, fn=complete, takes_arguments=True, context_param=_CONTEXT, is_async=True)

    def _common(self, item: dict[str, Any], schema: dict[str, Any], fn: Callable[..., Any]) -> dict[str, Any]:
        return {
            "name": item["name"],
            "title": item.get("title"),
            "description": item.get("description") or "",
            "fn": fn,
            "place": f"{item['name']!r} of the server behind {self.service.name!r}",
            "arguments": _Passed(schema),
            "context_param": _CONTEXT,
            "is_async": True,
            "meta": item.get("_meta"),
        }

    @asynccontextmanager
    async def _behind(self, ctx: Context) -> AsyncGenerator[Client]:
        """The client for a call. What the server behind says is said here; that it is away is said in plain words."""
        try:
            async with self._upstreams.of(ctx) as client:
                yield client
        except (TransportError, TimeoutError) as error:
            raise ToolError(f"the server behind did not answer: {error}") from None


class _Passed(Arguments):
    """Arguments that are passed on as they come; the server behind checks them."""

    __slots__ = ()

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__(schema, msgspec.defstruct("Passed", []), [])

    def decode(self, raw: bytes | msgspec.Raw | None) -> dict[str, Any]:
        """Any object; see `Arguments.decode`."""
        try:
            value = msgspec.json.decode(raw or b"{}", type=dict[str, Any] | None)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArguments(f"the arguments are no JSON object: {error}", "") from None
        return value or {}


class _WholeUri(UriTemplate):
    """A template of which the URI as a whole is wanted, not its parts."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(text, any_path=True)

    def match(self, uri: str) -> dict[str, str | list[str]] | None:
        """The URI, if it is one of the template."""
        return None if super().match(uri) is None else {"uri": uri}


def _contents(part: ResourceContent) -> ResourceContents:
    plain = {key: value for key, value in msgspec.to_builtins(part).items() if value is not None}
    return msgspec.convert(plain, ResourceContents)


def _without_server(meta: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A result's `_meta`, but for which server it is of."""
    return {key: value for key, value in (meta or {}).items() if key != _SERVER_INFO} or None


def _headers(schema: dict[str, Any]) -> tuple[ParamHeader, ...]:
    try:
        return param_headers(schema)
    except ValueError as error:
        logger.warning("the server behind has an x-mcp-header that is not valid: %s", error)
        return ()


async def _all_pages(client: Client, method: str, key: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        try:
            page = await client.request(method, {"cursor": cursor} if cursor is not None else None)
        except ProtocolError as error:
            if error.code != METHOD_NOT_FOUND:
                raise
            return items
        items += page.get(key) or []
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    return items
