"""A `Service` whose decorators, constructor and `run` take what FastMCP's take.

A function is defined as it would be on a `Service`, inside of a wrapper that gives it the `Context` of this package
and turns what it returns into ours. What has no counterpart is refused where it is used.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import msgspec

from tailrace.errors import DefinitionError, TailraceError, ToolError
from tailrace.fastmcp.context import Context
from tailrace.fastmcp.values import to_ours
from tailrace.schema import place_of, read_signature
from tailrace.service import Service
from tailrace.wire.content import Annotations, Icon

__all__ = ["FastMCP", "MCPServer"]

_HINTS = {
    "title": "title",
    "readOnlyHint": "read_only",
    "destructiveHint": "destructive",
    "idempotentHint": "idempotent",
    "openWorldHint": "open_world",
}
_REFUSED = {
    "app": "name the ui:// resource in meta=",
    "auth": "give scopes= here, and auth= to run() or asgi()",
    "exclude_args": "give the parameter's type a provider with @mcp.provide",
    "json_response": "an answer is a stream only where there is something to tell before it",
    "middleware": "write it as `async def middleware(ctx, invocation, next)` for tailrace.Service(middleware=[...])",
    "on_duplicate": "a second definition under one name is refused; take the first away with remove_tool(name)",
    "output_schema": "it is made of the return annotation",
    "providers": "define the functions here",
    "security": "paths that lead out of their folder are not found; any_path=True lets them through",
    "serializer": "return the text",
    "strict_input_validation": "pydantic's types convert (Annotated[int, Field()]), others take what they say",
    "structured_output": "return a tailrace.ToolResponse",
    "transforms": "write a function around the function",
    "transport_security": "settings.allow_hosts and allow_origins: --allow-host, --allow-origin",
    "version": "give the tool another name",
}
_DEFAULTS: dict[str, Any] = {  # what changes nothing
    "enabled": True,
    "json_response": False,
    "mask_error_details": True,
    "on_duplicate": "error",
    "run_in_thread": True,
    "strict_input_validation": True,
    "structured_output": True,
    "task": False,
}
_RUN = frozenset({"host", "port", "log_level", "stateless_http"})  # the constructor of the older ones took them
_SEVERAL = re.compile(r"\{(\w+)\*\}")
_PATHS = {"path": ("/mcp", "/sse"), "streamable_http_path": ("/mcp",), "sse_path": ("/sse",)}


class _Absent:
    """A method of FastMCP's that is not there."""

    def __init__(self, instead: str) -> None:
        self._instead = instead
        self._name = ""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        if self._name:  # one for several names: each is told by its own
            another = _Absent(self._instead)
            another._name = name
            setattr(owner, name, another)
        else:
            self._name = name

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        raise AttributeError(
            f"{self._name} of FastMCP is not there; instead: {self._instead} "
            "(see 'Migrating from FastMCP' in the documentation)"
        )


class FastMCP(Service):
    """A `Service` for files that were written for FastMCP.

    Args:
        name: As peers see it.
        instructions: For the agent, on how to use the service, or None.
        version: As peers see it.
        title: For people, or None.
        website_url: Where people read about it, or None.
        icons: Pictures that stand for it.
        lifespan: ``lifespan(mcp)`` gives an async context manager; what it yields is ``ctx.lifespan_context``.
        tools: Functions to offer as tools.
        mask_error_details: True (default here, other than there): what an exception says stays in the server's log,
            `ToolError` aside. False: the client reads it.
        options: ``host=``, ``port=``, ``log_level=``, ``stateless_http=`` for `run`; others are those of FastMCP, and
            are refused where there is no counterpart.

    Raises:
        DefinitionError: `name` is empty; an option has no counterpart.
    """

    def __init__(
        self,
        name: str | None = None,
        instructions: str | None = None,
        *,
        version: str | float | None = None,
        title: str | None = None,
        website_url: str | None = None,
        icons: Sequence[Any] | None = None,
        lifespan: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
        tools: Sequence[Callable[..., Any]] = (),
        mask_error_details: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            "FastMCP" if name is None else name,
            version=str(version or "0.0.0"),
            title=title,
            instructions=instructions,
            website_url=website_url,
            icons=_icons(icons or ()),
        )
        self.lifespan_value: Any = {}
        self._masks = mask_error_details is not False
        self._flags = {key: options.pop(key) for key in _RUN & options.keys()}
        options.pop("dependencies", None)  # for an installer
        options.pop("debug", None)
        _refuse(options, f"FastMCP({self.name!r})")
        if lifespan is not None:
            self._set_lifespan(lifespan)
        for tool in tools:
            self.tool(tool)

    def _set_lifespan(self, lifespan: Callable[[Any], AbstractAsyncContextManager[Any]]) -> None:
        @asynccontextmanager
        async def entered(service: Service) -> AsyncGenerator[None]:
            async with lifespan(service) as value:
                self.lifespan_value = value if value is not None else {}
                yield

        self.lifespan(entered)

    # --- decorators ---

    def tool(self, fn: Any = None, /, **options: Any) -> Any:
        """Offer a function as a tool: ``@mcp.tool``, ``@mcp.tool()``, ``@mcp.tool("name")``, ``mcp.tool(fn)``.

        Args:
            fn: The function, or the tool's name.
            options: FastMCP's ``name=``, ``title=``, ``description=``, ``annotations=``, ``tags=``, ``meta=``,
                ``icons=``, ``timeout=``, ``task=``; and those of `ToolOptions` that it does not have.

        Raises:
            DefinitionError: It cannot work, or an option has no counterpart.
        """
        fn, options = _named(fn, options)
        given = _plain(options.pop("annotations", None) or {})
        hints = {_HINTS[key]: value for key, value in given.items() if key in _HINTS and value is not None}
        options = {**hints, **_common(options, "@mcp.tool")}
        return self._decorator(fn, lambda function: super(FastMCP, self).tool(self._adapted(function), **options))

    def resource(self, uri: str, **options: Any) -> Any:
        """Offer a function as the resource at `uri`, or at each URI of a template: ``@mcp.resource("data://{id}")``.

        Args:
            uri: The URI or the template; ``{path*}`` is FastMCP's word for ``{+path}``.
            options: FastMCP's ``name=``, ``title=``, ``description=``, ``mime_type=``, ``annotations=``, ``tags=``,
                ``meta=``, ``icons=``; and those of `ResourceOptions` that it does not have.

        Raises:
            DefinitionError: It cannot work, or an option has no counterpart.
        """
        if not isinstance(uri, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError("@mcp.resource takes a URI, as in @mcp.resource('data://config')")
        options = _common(options, "@mcp.resource")
        if "annotations" in options:
            options["annotations"] = msgspec.convert(_plain(options["annotations"]), Annotations)
        where = _template(uri)
        return self._decorator(
            None, lambda function: super(FastMCP, self).resource(where, **options)(self._adapted(function))
        )

    def prompt(self, fn: Any = None, /, **options: Any) -> Any:
        """Offer a function as a prompt: ``@mcp.prompt``, ``@mcp.prompt()``, ``@mcp.prompt("name")``.

        Args:
            fn: The function, or the prompt's name.
            options: FastMCP's ``name=``, ``title=``, ``description=``, ``tags=``, ``meta=``, ``icons=``; and those of
                `PromptOptions` that it does not have.

        Raises:
            DefinitionError: It cannot work, or an option has no counterpart.
        """
        fn, options = _named(fn, options)
        options = _common(options, "@mcp.prompt")
        return self._decorator(fn, lambda function: super(FastMCP, self).prompt(self._adapted(function), **options))

    def add_tool(self, fn: Callable[..., Any], **options: Any) -> Any:
        """Offer a function as a tool; the options are those of `tool`."""
        return self.tool(fn, **options)

    def mount(self, other: Service, prefix: str | None = None, *, namespace: str | None = None) -> None:
        """As `Service.mount`; `namespace` is FastMCP's word for the prefix."""
        super().mount(other, namespace or prefix or "")

    def _decorator(self, fn: Any, define: Callable[[Callable[..., Any]], Any]) -> Any:
        def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
            if not callable(function):
                raise DefinitionError(f"the decorator takes a function, got {function!r}")
            define(function)
            return function

        return decorator if fn is None else decorator(fn)

    def _adapted(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` as a function of ours: it gets its own kind of context, and its result is turned into ours."""
        if inspect.isasyncgenfunction(fn):
            raise DefinitionError(f"{place_of(fn)}: an asynchronous generator belongs on a tailrace.Service")
        context = read_signature(fn).context

        def prepared(arguments: dict[str, Any]) -> dict[str, Any]:
            if context is not None and context in arguments:
                arguments[context] = Context(arguments[context], self)
            return arguments

        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def in_loop(**arguments: Any) -> Any:
                try:
                    return to_ours(await fn(**prepared(arguments)))
                except Exception as error:
                    if self._masks or isinstance(error, (TailraceError, TimeoutError)):
                        raise
                    raise ToolError(str(error) or type(error).__name__) from error

            return in_loop

        @functools.wraps(fn)
        def in_thread(**arguments: Any) -> Any:
            try:
                return to_ours(fn(**prepared(arguments)))
            except Exception as error:
                if self._masks or isinstance(error, (TailraceError, TimeoutError)):
                    raise
                raise ToolError(str(error) or type(error).__name__) from error

        return in_thread

    # --- serving ---

    def run(self, transport: Any = None, show_banner: bool | None = None, **flags: Any) -> None:
        """Serve until told to stop.

        Args:
            transport: ``stdio`` (default), or ``http``, ``streamable-http`` or ``sse``, which are one here: the server
                has ``/mcp`` and ``/sse``, each client takes what it knows.
            show_banner: Nothing; there is none.
            flags: FastMCP's ``host=``, ``port=``, ``log_level=``, ``stateless_http=``, and all of `Service.run`.

        Raises:
            DefinitionError: No such transport; a path other than ``/mcp`` and ``/sse``; a flag has no counterpart.
        """
        kinds = {None: "stdio", "stdio": "stdio", "http": "http", "streamable-http": "http", "sse": "http"}
        if transport not in kinds:
            raise DefinitionError(f"no such transport: {transport!r}; there are stdio and http")
        kind: Any = kinds[transport]
        own = self._flags if kind == "http" else {k: v for k, v in self._flags.items() if k not in ("host", "port")}
        super().run(kind, **_flags({**own, **flags}))

    def http_app(self, path: str | None = None, **options: Any) -> Any:
        """An ASGI application with ``/mcp`` and ``/sse``; `options` as in `run` and `Service.asgi`.

        Raises:
            DefinitionError: Another path; an option has no counterpart.
        """
        options.pop("transport", None)
        flags = _flags({**self._flags, "path": path, **options})
        return self.asgi(**{key: value for key, value in flags.items() if key not in ("host", "port", "log_level")})

    streamable_http_app = http_app
    sse_app = http_app

    # --- what is not there ---

    run_async = _Absent("run(), which has its own loop, or asgi() in a server of yours")
    run_stdio_async = run_http_async = run_streamable_http_async = run_sse_async = run_async
    custom_route = _Absent("mount asgi() in Starlette beside the route")
    add_middleware = _Absent("tailrace.Service(middleware=[...])")
    add_transform = _Absent("a function around the function")
    completion = _Absent("complete= of @mcp.prompt and @mcp.resource, where the argument stands")
    enable = disable = _Absent("@mcp.filter, or remove_tool(name)")
    from_openapi = from_fastapi = _Absent("write the tools that an agent needs, each calling the API")
    add_resource = _Absent("@mcp.resource(uri) on a function that returns it")
    add_resource_template = _Absent("@mcp.resource(template) on a function that returns it")
    add_prompt = _Absent("@mcp.prompt on a function that writes it")
    list_tools = get_tools = _Absent("mcp.tools, or tailrace.mcp.Client(mcp)")
    call_tool = read_resource = get_prompt = _Absent("tailrace.mcp.Client(mcp), which has it")
    import_server = _Absent("mcp.mount(other, namespace=...)")
    as_proxy = _Absent("tailrace.mcp.proxy(target)")
    session_manager = _Absent("lifespan=app.lifespan of the application around app = mcp.streamable_http_app()")
    settings = _Absent("host=, port= and the like of mcp.run(...)")


class MCPServer(FastMCP):
    """`FastMCP` by the official SDK's name since its version 2, whose second argument is the title."""

    def __init__(self, name: str | None = None, title: str | None = None, **options: Any) -> None:
        super().__init__(name, title=title, **options)


# --- options ------------------------------------------------------------------------------------


def _named(fn: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """``@mcp.tool("name")`` is ``@mcp.tool(name="name")``."""
    return (None, {"name": fn, **options}) if isinstance(fn, str) else (fn, options)


def _common(options: dict[str, Any], what: str) -> dict[str, Any]:
    """Options of a decorator as ours are."""
    options = {key: value for key, value in options.items() if value is not None}
    tags = options.pop("tags", None)
    if tags:
        options["meta"] = {**options.get("meta", {}), "fastmcp": {"tags": sorted(tags)}}
    if "icons" in options:
        options["icons"] = _icons(options["icons"])
    return _refuse(options, what)


def _refuse(options: dict[str, Any], what: str) -> dict[str, Any]:
    """`options` without those that change nothing.

    Raises:
        DefinitionError: One has no counterpart.
    """
    kept: dict[str, Any] = {}
    for key, value in options.items():
        name = "on_duplicate" if "duplicate" in key else key
        if value is None or (name in _DEFAULTS and value == _DEFAULTS[name]):
            continue
        if name in _REFUSED:
            raise DefinitionError(f"{what}: {key}= of FastMCP has no counterpart here; instead: {_REFUSED[name]}")
        if what.startswith("FastMCP"):
            raise DefinitionError(f"{what}: there is no option {key}=; see 'Migrating from FastMCP'")
        kept[key] = value
    return kept


def _flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags of `run` as ours are."""
    flags = {key: value for key, value in flags.items() if value is not None}
    for key, known in _PATHS.items():
        path = flags.pop(key, known[0])
        if path.rstrip("/") not in known:
            raise DefinitionError(f"{key}={path!r}: the paths are /mcp and /sse; mount asgi() under another one")
    if "stateless_http" in flags:
        flags["stateless"] = flags.pop("stateless_http")
    if "log_level" in flags:
        flags["log_level"] = flags["log_level"].lower()
    if "auth" in flags:
        return {**_refuse({key: value for key, value in flags.items() if key != "auth"}, "run"), "auth": flags["auth"]}
    return _refuse(flags, "run")


def _template(uri: str) -> str:
    """FastMCP writes ``{path*}`` for a variable of several segments, RFC 6570 ``{+path}``."""
    return _SEVERAL.sub(r"{+\1}", uri)


def _icons(given: Sequence[Any]) -> list[Icon]:
    return [one if isinstance(one, Icon) else msgspec.convert(_plain(one), Icon) for one in given]


def _plain(given: Any) -> dict[str, Any]:
    """A dict, or a model of the official SDK's, as JSON has it."""
    if isinstance(given, Mapping):
        return dict(cast("Mapping[str, Any]", given))
    return given.model_dump(mode="json", by_alias=True, exclude_none=True)
