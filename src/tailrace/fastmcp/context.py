"""The `Context` of functions that were written for FastMCP: its words, on the context of the call.

It differs from `tailrace.Context` where the same name means two things (`error`, `log`, `elicit`, `sample`); all that
it does not have itself is that context's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from tailrace.errors import ResourceNotFound
from tailrace.schema import decode_strings, encode_value
from tailrace.service.viewing import Viewer

if TYPE_CHECKING:
    from tailrace.core.context import Context as Inner
    from tailrace.fastmcp.service import FastMCP
    from tailrace.service.resources import Resource

__all__ = ["AcceptedElicitation", "CancelledElicitation", "Context", "DeclinedElicitation", "ReadContents"]

_LEVELS = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})


@dataclasses.dataclass(frozen=True)
class AcceptedElicitation:
    """The user filled the form in: `data`."""

    data: Any = None
    action: Literal["accept"] = "accept"


@dataclasses.dataclass(frozen=True)
class DeclinedElicitation:
    """The user said no."""

    action: Literal["decline"] = "decline"
    data: None = None


@dataclasses.dataclass(frozen=True)
class CancelledElicitation:
    """The user said nothing."""

    action: Literal["cancel"] = "cancel"
    data: None = None


@dataclasses.dataclass(frozen=True)
class ReadContents:
    """One part of what `Context.read_resource` found: text, or bytes."""

    content: str | bytes
    mime_type: str | None = None


class ReadResult(list[ReadContents]):
    """What `Context.read_resource` found: the parts themselves for the official SDK, under `contents` for FastMCP."""

    @property
    def contents(self) -> list[ReadContents]:
        """The parts."""
        return self


@dataclasses.dataclass(frozen=True)
class RequestContext:
    """What ``ctx.request_context`` has here: what the lifespan gave, the session, the request's id."""

    lifespan_context: Any
    session: Any
    request_id: int | str | None


class Context:
    """What a function gets that annotates a parameter with it; FastMCP's words.

    What is not described here is that of `tailrace.Context`: `session`, `request_id`, `report_progress`, `debug`,
    `info`, `warning`, `elicit_url`, `list_roots`, `step`, `publish`, …
    """

    __tailrace_context__: ClassVar[bool] = True

    def __init__(self, inner: Inner, service: FastMCP) -> None:
        self._inner = inner
        self._service = service
        self._values: dict[str, Any] = {}

    def __class_getitem__(cls, _: Any) -> type[Context]:
        return cls  # Context[Session, Lifespan] of the official SDK

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._inner, name)
        except AttributeError:
            text = f"the Context of tailrace.fastmcp has no {name!r}; see 'Migrating from FastMCP' in the documentation"
            raise AttributeError(text) from None

    # --- who and where ---

    @property
    def fastmcp(self) -> FastMCP:
        """The service."""
        return self._service

    mcp_server = fastmcp

    @property
    def lifespan_context(self) -> Any:
        """What the lifespan yielded; an empty dict where there is none."""
        return self._service.lifespan_value

    @property
    def request_context(self) -> RequestContext:
        """The lifespan's value, the session and the request's id."""
        return RequestContext(self.lifespan_context, self._inner.session, self._inner.request_id)

    @property
    def session_id(self) -> str | None:
        """The session's; None for a client of 2026-07-28, which has none."""
        return self._inner.session.id if self._inner.session is not None else None

    @property
    def client_id(self) -> str | None:
        """The OAuth client of the request's token, where there is one."""
        return self._inner.access.client_id if self._inner.access is not None else None

    # --- telling ---

    async def log(
        self, message: Any, level: Any = None, logger_name: str | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Send a log record: ``log("text", level="info")`` of FastMCP, ``log("info", data)`` of the SDK.

        Args:
            message: What it says; or the level, where the second argument is none.
            level: The level (default: info); or what it says.
            logger_name: The name of the record's source.
            extra: What else belongs to it.
        """
        if level is not None and not (isinstance(level, str) and level in _LEVELS):
            message, level = level, message
        data = {"msg": message, "extra": dict(extra)} if extra else message
        await self._inner.log(level or "info", data, logger_name)

    async def debug(self, message: Any, logger_name: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """`log` at level debug."""
        await self.log(message, "debug", logger_name, extra)

    async def info(self, message: Any, logger_name: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """`log` at level info."""
        await self.log(message, "info", logger_name, extra)

    async def warning(
        self, message: Any, logger_name: str | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        """`log` at level warning."""
        await self.log(message, "warning", logger_name, extra)

    async def error(self, message: Any, logger_name: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """`log` at level error (in `tailrace.Context`, `error` says why the call ended)."""
        await self.log(message, "error", logger_name, extra)

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """As `tailrace.Context.progress`."""
        await self._inner.progress(progress, total, message)

    # --- asking ---

    async def elicit(
        self, message: str, response_type: Any = None, schema: Any = None
    ) -> AcceptedElicitation | DeclinedElicitation | CancelledElicitation:
        """Ask the user; see `tailrace.Context.elicit` for what it raises, and for handlers that run again.

        Args:
            message: What the user reads.
            response_type: A type; a list of strings or a dict of titles, one of which is chosen; a list that holds
                such a one, of which several are chosen; None for a mere yes or no.
            schema: The same, by the official SDK's name.
        """
        kind, unwrap = _form(response_type if response_type is not None else schema)
        answer = await self._inner.elicit(message, kind)
        if answer.action == "accept":
            return AcceptedElicitation(answer.data["value"] if unwrap else answer.data)
        return DeclinedElicitation() if answer.action == "decline" else CancelledElicitation()

    async def sample(
        self,
        messages: Any,
        system_prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int = 512,
        model_preferences: str | Sequence[str] | Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Any:
        """Ask the client's model; the answer has `text`. See `tailrace.Context.sample`, which takes `others`.

        Args:
            messages: A string, a message as JSON, or a list of these.
            system_prompt: What the client may put before it.
            temperature: As models have it.
            max_tokens: The most that it may answer.
            model_preferences: The name of a model, several, or the object of the protocol.
            others: Further arguments of `tailrace.Context.sample`.
        """
        if isinstance(model_preferences, str):
            model_preferences = [model_preferences]
        if model_preferences is not None and not isinstance(model_preferences, Mapping):
            model_preferences = {"hints": [{"name": name} for name in model_preferences]}
        if isinstance(messages, (list, tuple)):
            messages = [
                {"role": "user", "content": {"type": "text", "text": one}} if isinstance(one, str) else one
                for one in cast("Sequence[Any]", messages)
            ]
        return await self._inner.sample(
            messages,
            system_prompt=system_prompt,
            temperature=temperature,
            max_tokens=max_tokens,
            model_preferences=model_preferences,
            **others,
        )

    # --- values of the session ---

    async def set_state(self, key: str, value: Any, *, serializable: bool = True) -> None:
        """Keep a value with the session (JSON-able), or, where there is none or it is not `serializable`, for this
        call."""
        session = self._inner.session
        if session is None or not serializable:
            self._values[key] = value
        else:
            session.state[key] = value

    async def get_state(self, key: str) -> Any:
        """The value that was kept under `key`, or None."""
        session = self._inner.session
        return self._values.get(key, session.state.get(key) if session is not None else None)

    async def delete_state(self, key: str) -> None:
        """Keep it no more."""
        self._values.pop(key, None)
        if self._inner.session is not None:
            self._inner.session.state.pop(key, None)

    # --- resources ---

    async def read_resource(self, uri: Any) -> ReadResult:
        """What stands at a URI of this service; filters count, middleware does not. (A decorator gives the function
        back as it was: calling that is simpler.)

        Args:
            uri: Of the resource; where it is one of a template's, the very URI.

        Raises:
            ResourceNotFound: Nothing.
        """
        resource, values = self._find(str(uri))
        arguments = decode_strings(resource.arguments, values)
        if resource.context_param is not None:
            arguments[resource.context_param] = self._inner
        if resource.is_async:
            value = await resource.fn(**arguments)
        elif self._inner.call is not None:
            value = await self._inner.call.tasks.in_thread(partial(resource.fn, **arguments))
        else:
            value = resource.fn(**arguments)
        return ReadResult(_contents(value, resource.mime_type))

    def _find(self, uri: str) -> tuple[Resource, dict[str, Any]]:
        offered = self._service.offered(Viewer(self._inner.principal, self._inner.session)) or self._service
        for resource in list(offered.resources.values()):
            if resource.template is None:
                if resource.uri == uri:
                    return resource, {}
            elif (values := resource.template.match(uri)) is not None:
                return resource, values
        raise ResourceNotFound(f"there is no resource {uri[:1000]!r}")


# --- forms and contents -------------------------------------------------------------------------


def _form(kind: Any) -> tuple[Any, bool]:
    """What `tailrace.Context.elicit` takes, and whether the answer stands in a field `value`."""
    if not isinstance(kind, (list, dict)) or "properties" in kind:
        return cast("Any", kind), False
    return {"type": "object", "properties": {"value": _choice(kind)}, "required": ["value"]}, True


def _choice(kind: Any) -> dict[str, Any]:
    if isinstance(kind, dict):
        titles = cast("dict[str, Any]", kind)
        return {"type": "string", "oneOf": [{"const": one, "title": about["title"]} for one, about in titles.items()]}
    if len(kind) == 1 and isinstance(kind[0], (list, dict)):
        one = _choice(kind[0])
        items = {"anyOf": one["oneOf"]} if "oneOf" in one else one
        return {"type": "array", "items": items}
    return {"type": "string", "enum": list(kind)}


def _contents(value: Any, mime_type: str | None) -> list[ReadContents]:
    if isinstance(value, str):
        return [ReadContents(value, mime_type or "text/plain")]
    if isinstance(value, bytes):
        return [ReadContents(value, mime_type or "application/octet-stream")]
    return [ReadContents(encode_value(value).decode(), mime_type or "application/json")]
