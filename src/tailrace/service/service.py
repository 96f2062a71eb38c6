"""A service: what a program offers, for whom, with what around it, and the servers that serve it.

A decorator reads a function once, refuses at once what cannot work, records it, and hands the
function back as it was. Nothing here runs a function or knows a protocol; `run` and `asgi` reach
up to the server only when they are called.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, cast, overload

from tailrace.errors import DefinitionError
from tailrace.schema import place_of
from tailrace.service.catalog import Catalog, Kind, check_options, decorate
from tailrace.service.exporting import lock_of
from tailrace.service.hooks import Hooks, Listening, check_takes
from tailrace.service.methods import Methods, RpcOptions
from tailrace.service.mounting import KINDS, Mount, check_mountable
from tailrace.service.running import RunningServer, statistics_of
from tailrace.service.viewing import Filter, Offered, View, Viewer

if TYPE_CHECKING:
    from tailrace.core.session import Session
    from tailrace.service.definitions import Definition
    from tailrace.service.interceptors import Interceptor
    from tailrace.service.middleware import Middleware
    from tailrace.wire.content import Icon

__all__ = ["Service"]

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class Service(Catalog, Listening):
    """A named set of tools, resources and prompts, reached over MCP and RPC alike.

    Args:
        name: As peers see it; not empty.
        version: As peers see it.
        title: For people, or None.
        instructions: For the agent, on how to use the service, or None.
        package: The protobuf package of RPC paths, e.g. ``orders.v1``, or None.
        proto: The ``.proto`` file whose field numbers its messages have, as ``tailrace gen proto`` keeps it; a relative
            path is seen from the file in which the service is defined. None: numbered in order of declaration.
        middleware: Functions around every call and every list over MCP, outermost first:
            ``async def middleware(ctx, invocation, next): return await next(invocation)``; see `Invocation`.
        icons: Pictures that stand for it.
        website_url: Where people read about it, or None.
        interceptors: Functions around every call over RPC, outermost first:
            ``async def interceptor(ctx, request, next): return await next(request)``.

    Raises:
        DefinitionError: `name` is empty, `package` is not made of dotted identifiers, or another option is none.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.0",
        title: str | None = None,
        instructions: str | None = None,
        package: str | None = None,
        proto: str | os.PathLike[str] | None = None,
        middleware: Sequence[Middleware] = (),
        interceptors: Sequence[Interceptor] = (),
        icons: Sequence[Icon] = (),
        website_url: str | None = None,
    ) -> None:
        if not isinstance(name, str) or not name.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"a service needs a name that is not empty, got {name!r}")
        if package is not None and not _PACKAGE.fullmatch(package):
            raise DefinitionError(f"service {name!r}: package {package!r} is not dotted identifiers, as in 'orders.v1'")
        texts = {"version": version, "title": title, "instructions": instructions, "website_url": website_url}
        for option, text in texts.items():
            if not (isinstance(text, str) or (text is None and option != "version")):
                raise DefinitionError(f"service {name!r}: {option}= is a string, got {text!r}")
        super().__init__(self._tell)
        self.name = name
        self.version = version
        self.title = title
        self.instructions = instructions
        self.package = package
        self.middleware = _functions(name, "middleware", middleware)
        self.interceptors = _functions(name, "interceptors", interceptors)
        self.icons = tuple(icons)
        self.website_url = website_url
        self.filters: list[Filter] = []
        self._own: dict[str, Catalog] = {}  # what sessions have of their own, by their ids
        self.hooks = Hooks()
        self.mounts: list[Mount] = []
        self.mounted_in: list[Mount] = []
        lock = None if proto is None else lock_of(proto, inspect.currentframe())
        self._methods = Methods(name, package, self._tools, lock)
        self._lifespan: Callable[[Service], AbstractAsyncContextManager[Any]] | None = None
        self._servers: list[RunningServer] = []

    def __repr__(self) -> str:
        return f"<Service {self.name!r} {self.version}, {len(self._tools)} tools>"

    # --- what it offers, beside what `Catalog` has ---

    @property
    def methods(self) -> Methods:
        """The RPC methods by path (``orders.v1.Orders/Place``): a live view, for it is made when it is looked into."""
        return self._methods

    @overload
    def rpc(self, fn: F, /) -> F: ...
    @overload
    def rpc(self, /, **options: Unpack[RpcOptions]) -> Callable[[F], F]: ...
    def rpc(self, fn: Any = None, /, **options: Any) -> Any:
        """Offer a function over RPC only; works bare and called, and gives the function back.

        An asynchronous generator is a stream of responses; a parameter annotated ``AsyncIterator[T]`` takes a
        stream of requests.

        Args:
            fn: The function: async, plain (run in a thread), or an asynchronous generator.
            options: See `RpcOptions`.

        Raises:
            DefinitionError: It cannot work; names the function, its file and line.
        """

        from tailrace.service.signatures import define as define_method

        def define(function: Callable[..., Any]) -> None:
            check_options(function, options, "rpc", RpcOptions.__optional_keys__)
            self._methods.define(define_method(function, **options))

        return decorate(fn, define)

    def implement(
        self, descriptor: Any, implementation: Any, *, once: Iterable[str] = (), timeout: float | None = None
    ) -> None:
        """Offer an object's methods as a service that a ``.proto`` file defines.

        A method of the file is found under its own name or in snake case (``PlaceOrder``, ``place_order``); the ones
        that are not found are answered UNIMPLEMENTED. What the file calls ``NO_SIDE_EFFECTS`` is read-only.

        Args:
            descriptor: The service in generated code, e.g. ``orders_pb2.DESCRIPTOR.services_by_name["Orders"]``.
            implementation: Any object; its functions take the message, or the iterator of messages, and, where they
                like, the `Context`.
            once: Names of methods of which a retry with the same ``Idempotency-Key`` runs once.
            timeout: Seconds a call may take, above 0. Default: None, no limit but the caller's.

        Raises:
            DefinitionError: A function does not go with the file, or none of its methods is there.
        """
        from tailrace.service.implementing import implement

        methods = implement(descriptor, implementation, once=frozenset(once), timeout=timeout)
        self._methods.implement(methods, descriptor.file)

    def descriptor_set(self) -> Any:
        """All RPC services of it as a protobuf ``FileDescriptorSet``, with what they import: for tools, reflection."""
        return self._methods.built.descriptor_set()

    def _tell(self, kind: Kind, session: Session | None = None) -> None:
        if kind == "tools" and session is None:
            self._methods.changed()
        if session is None:
            for mount in self.mounted_in:
                mount.refresh(kind)
        for running in tuple(self._servers):
            running.changed(kind, session)

    # --- other services within it ---

    def mount(self, other: Service, prefix: str = "") -> None:
        """Offer what another service offers as well: its tools and prompts as ``prefix_name``, its resources under
        their own URIs, with their completions. What comes and goes there comes and goes here, and clients are told.

        Its middleware stands around its calls within that of this service, and knows them by their own names; its
        filters hide here what they hide there; its hooks are called for this service's sessions, and its lifespan runs
        within this one's. Its tools are RPC methods of this service, unless it has interceptors: those do not come
        with it, nor do its `rpc` functions, nor what it has for single sessions.

        Args:
            other: A service; it may be served by itself as well. Each stands once in all that is served together.
            prefix: Of ``A-Za-z0-9_.-``; empty: names stay as they are.

        Raises:
            DefinitionError: A name or URI is taken; it is mounted here already; both listen to the same notification;
                or it has a lifespan, and this service is being served.
        """
        check_mountable(other, self)
        mount = Mount(other, self, prefix)
        for kind in KINDS:
            for one in getattr(other, kind).values():
                mount.admit(kind, one)
        where = list(self._outward())
        for method in other.hooks.notified:
            if any(method in one.hooks.notified for one in where):
                raise DefinitionError(f"both {self.name!r} and {other.name!r} listen to {method}")
        self.mounts.append(mount)
        other.mounted_in.append(mount)
        for one in where:
            one.hooks.extend(other.hooks)
        for fn in tuple(other.filters):  # before there is something to be seen
            self.filter(mount.filtered(fn))
        for kind in KINDS:
            mount.refresh(kind)

    def take_over(self, kind: Kind, gone: Iterable[str], new: Mapping[str, Definition]) -> None:
        """What a mounted service offers has changed; for `Mount`."""
        known: dict[str, Any] = {"tools": self._tools, "resources": self._resources, "prompts": self._prompts}[kind]
        for key in gone:
            del known[key]
        known.update(new)
        self._note(kind)

    @property
    def is_served(self) -> bool:
        """Some server serves it, by itself or within another service."""
        return bool(self._reached())

    def _reached(self) -> list[RunningServer]:
        """All servers of it, and of those it is mounted in."""
        return [server for one in self._outward() for server in one._servers]

    def _outward(self) -> Iterator[Service]:
        """It, and all those it is mounted in."""
        yield self
        for mount in self.mounted_in:
            yield from mount.into._outward()

    def _add(self, kind: Kind, known: dict[str, Any], key: str, new: Any) -> None:
        if key not in known:
            for mount in self.mounted_in:
                mount.admit(kind, new)
        super()._add(kind, known, key, new)

    def _remove(self, kind: Kind, known: dict[str, Any], key: str) -> None:
        for mount in self.mounts:
            if mount.has(kind, key):
                raise DefinitionError(f"{key!r} comes from the mounted service {mount.service.name!r}: remove it there")
        super()._remove(kind, known, key)

    # --- for whom, and with what ---

    @overload
    def provide(self, fn: F, /) -> F: ...
    @overload
    def provide(self, /) -> Callable[[F], F]: ...
    def provide(self, fn: Any = None, /) -> Any:
        """Give what `fn` returns to every tool, resource and prompt that has a parameter of that type: the parameter
        is no argument then. It stands above those that use it.

        Args:
            fn: Async, plain (run in a thread), or an asynchronous generator (or anything that gives an asynchronous
                context manager), which is ended after the call. It may take a `Context`, and what others provide. It
                is called once for each call that needs it.

        Raises:
            DefinitionError: It is no function; its return annotation is no type of its own; something defined before
                takes that type.
        """

        def define(function: Callable[..., Any]) -> None:
            known = [*self._tools.values(), *self._resources.values(), *self._prompts.values()]
            self._providers.add(function, [one.fn for one in known])

        return decorate(fn, define, instead="")

    @overload
    def filter(self, fn: Filter, /) -> Filter: ...
    @overload
    def filter(self, /) -> Callable[[Filter], Filter]: ...
    def filter(self, fn: Any = None, /) -> Any:
        """Show something only to those for whom `fn(definition, viewer)` is true; for all others it is not there:
        neither listed nor found. A plain, quick function; several have to agree. One that raises hides.
        """
        return decorate(fn, self._hide, instead="")

    def _hide(self, fn: Filter) -> None:
        self.filters.append(fn)
        for mount in self.mounted_in:
            mount.into.filter(mount.filtered(fn))

    def for_session(self, session: Session) -> Catalog:
        """What one session has beside what everybody has, and instead where the name is the same: add to it with its
        `tool`, `resource` and `prompt`, take away with `remove_tool` and the like. The session alone is told of
        changes. It is gone with the session, and after a restart (`on_restore_session` can add it again).
        """
        own = self._own.get(session.id)
        if own is None:
            own = self._own[session.id] = Catalog(partial(self._tell, session=session), self._providers)
        return own

    def forget_session(self, id: str) -> None:
        """A session has ended; for the server."""
        self._own.pop(id, None)

    @property
    def is_selective(self) -> bool:
        """Not everybody sees the same."""
        return bool(self.filters or self._own)

    def offered(self, viewer: Viewer) -> Offered:
        """What a viewer can ask for; for the server."""
        own = self._own.get(viewer.session.id) if viewer.session is not None and self._own else None
        return self if own is None and not self.filters else View(self, own, self.filters, viewer)

    # --- its life, and its sessions' ---

    def _all_hooks(self) -> Iterable[Hooks]:
        return [one.hooks for one in self._outward()]

    @overload
    def lifespan(self, fn: F, /) -> F: ...
    @overload
    def lifespan(self, /) -> Callable[[F], F]: ...
    def lifespan(self, fn: Any = None, /) -> Any:
        """Enter what `fn(service)` gives before the service serves, and leave it afterwards.

        Args:
            fn: Gives an async context manager, or is an asynchronous generator that yields once.

        Raises:
            DefinitionError: There is one already, or it is a function that cannot give what is wanted.
        """
        return decorate(fn, self._live, instead="")

    def _live(self, fn: Callable[..., Any]) -> None:
        if self._lifespan is not None:
            raise DefinitionError(f"{place_of(fn)}: there is a lifespan already: {place_of(self._lifespan)}")
        if inspect.isgeneratorfunction(fn) or inspect.iscoroutinefunction(fn):
            raise DefinitionError(f"{place_of(fn)}: a lifespan is `async def` and yields once")
        check_takes(fn, "the Service, as in fn(service)", 1)
        if inspect.isasyncgenfunction(fn):
            generator = cast("Callable[[Service], AsyncGenerator[Any]]", fn)
            self._lifespan = contextlib.asynccontextmanager(generator)
        else:
            self._lifespan = fn

    def enter_lifespan(self) -> AbstractAsyncContextManager[Any]:
        """A fresh context manager around one run of the service; for the server."""
        return self._lifespans() if self.mounts else self._own_lifespan()

    def _own_lifespan(self) -> AbstractAsyncContextManager[Any]:
        if self._lifespan is None:
            return contextlib.nullcontext()
        given: Any = self._lifespan(self)
        if not hasattr(given, "__aenter__"):
            raise DefinitionError(
                f"{place_of(self._lifespan)}: a lifespan gives an async context manager, or yields once; got {given!r}"
            )
        return given

    @contextlib.asynccontextmanager
    async def _lifespans(self) -> AsyncGenerator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._own_lifespan())
            for mount in tuple(self.mounts):
                await stack.enter_async_context(mount.service.enter_lifespan())
            yield

    @property
    def has_lifespan(self) -> bool:
        """It has one of its own."""
        return self._lifespan is not None

    # --- serving ---

    def run(self, transport: Literal["stdio", "http"] = "stdio", **flags: Any) -> None:
        """Serve until told to stop.

        Args:
            transport: ``stdio`` or ``http``.
            flags: As on the command line, with underscores: ``host=``, ``port=``, ``store=``, ``drain=``…; and
                ``auth=`` as in `asgi`.
        """
        from tailrace import server

        server.run(self, transport=transport, **flags)

    def asgi(self, **options: Any) -> Any:
        """An ASGI application that serves this service, to be mounted or run by any ASGI server.

        Args:
            options: As in `run`. ``auth=`` is ``async (token: str) -> str | None`` and gives the principal (1 to 255
                characters) that a bearer token belongs to, None for one that is not valid; it gets 5 seconds. Or it is
                a `tailrace.auth.ResourceServer`.
                ``auth_token=`` is a token, or several, that are valid, instead.
        """
        from tailrace import server

        return server.asgi(self, **options)

    async def broadcast(self, method: str, params: Any = None) -> None:
        """Send a notification to every session of every server of this service; without a server, to nobody.

        Clients of 2026-07-28, which have no session, hear what they asked for by ``subscriptions/listen``:
        ``notifications/…/list_changed`` and ``notifications/resources/updated``; the latter goes to those sessions
        only that subscribed to the resource.

        Args:
            method: E.g. ``notifications/tools/list_changed``.
            params: JSON-able, or None.
        """
        for running in self._reached():
            await running.broadcast(method, params)

    def resource_updated(self, uri: str) -> None:
        """Tell those who subscribed to a resource that it has changed; from any thread, and without waiting.

        They are told within half a second, once for several changes of one resource.

        Args:
            uri: Of the resource; where it is one of a template's, the very URI.
        """
        for running in self._reached():
            running.updated(uri)

    def statistics(self) -> dict[str, dict[str, Any]]:
        """What goes on now: ``sessions, calls, streams, detached, log_bytes, store, outbox``, each a small object.

        Numbers of several servers are added up; without a server all are zero.
        """
        return statistics_of(self._reached())

    def attach(self, server: RunningServer) -> None:
        """Count `server` among those that serve this service; for the server, when it starts.

        Raises:
            DefinitionError: Its RPC methods contradict each other.
        """
        self._methods.prepare()
        self._servers.append(server)

    def detach(self, server: RunningServer) -> None:
        """Forget `server`, when it has stopped. Idempotent."""
        if server in self._servers:
            self._servers.remove(server)


def _functions(service: str, option: str, given: Any) -> tuple[Any, ...]:
    functions = tuple(cast("Sequence[Any]", given)) if isinstance(given, (list, tuple)) else (None,)
    if not all(callable(one) for one in functions):
        raise DefinitionError(f"service {service!r}: {option}= is a list of functions, got {given!r}")
    return functions
