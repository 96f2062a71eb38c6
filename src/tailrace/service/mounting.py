"""A service within another: what it offers stands there as well, under a prefix, and follows what it becomes.

Each definition is copied under its new name; calls, schemas, limits and scopes stay what they are. What stands around
a service comes with it: its middleware, filters, hooks and lifespan. `Service.mount` is the only door.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tailrace.errors import DefinitionError
from tailrace.service.definitions import Definition, Tool, check_tool_name
from tailrace.service.prompts import Prompt
from tailrace.service.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.core.context import Context
    from tailrace.service import Service
    from tailrace.service.catalog import Kind
    from tailrace.service.middleware import Invocation, Middleware
    from tailrace.service.viewing import Filter, Viewer

__all__ = ["KINDS", "Mount", "check_mountable"]

KINDS: tuple[Kind, ...] = ("tools", "resources", "prompts")
logger = logging.getLogger("tailrace.service")

_PREFIX = re.compile(r"[A-Za-z0-9_.\-]*")


class _Copy(NamedTuple):
    original: Definition
    copy: Definition


class Mount:
    """One service within another.

    Args:
        service: What is mounted.
        into: Where.
        prefix: Before the names of tools and prompts, with an underscore; empty: none.

    Raises:
        DefinitionError: The prefix cannot be one of a name.
    """

    def __init__(self, service: Service, into: Service, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise DefinitionError(f"a prefix is made of A-Z a-z 0-9 _ . -, got {prefix!r}")
        self.service = service
        self.into = into
        self.prefix = prefix
        self._copies: dict[Kind, dict[str, _Copy]] = {kind: {} for kind in KINDS}

    def admit(self, kind: Kind, original: Definition) -> None:
        """Refuse what has no place where it would stand, also further out.

        Raises:
            DefinitionError: Its name or URI is taken there, or has become too long.
        """
        copy = self._copied(original)
        key = _key(copy)
        known: Mapping[str, Definition] = getattr(self.into, kind)
        if key in known:
            one = kind.removesuffix("s")
            raise DefinitionError(
                f"{one} {key!r} of the service {self.into.name!r} is defined twice: {known[key].place} and, "
                f"mounted from {self.service.name!r}, {copy.place}"
            )
        for outer in self.into.mounted_in:
            outer.admit(kind, copy)

    def refresh(self, kind: Kind) -> bool:
        """Take over what has come and gone; true where something has."""
        wanted: dict[str, Definition] = {_key(one): one for one in list(getattr(self.service, kind).values())}
        copies = self._copies[kind]
        gone = [key for key, one in copies.items() if wanted.get(_key(one.original)) is not one.original]
        for key in gone:
            del copies[key]
        kept = {_key(one.original) for one in copies.values()}
        new = {key: one for key, one in wanted.items() if key not in kept}
        standing: Mapping[str, Definition] = getattr(self.into, kind)
        added: dict[str, _Copy] = {}
        for one in new.values():
            copy = self._copied(one)
            if _key(copy) in standing and _key(copy) not in gone:  # `admit` was not asked: it came from a proxy
                logger.warning("%s is left out: %r has one of this name", copy.place, self.into.name)
            else:
                added[_key(copy)] = _Copy(one, copy)
        copies.update(added)
        if gone or added:
            self.into.take_over(kind, gone, {key: one.copy for key, one in added.items()})
        return bool(gone or added)

    def has(self, kind: Kind, key: str) -> bool:
        """Whether it stands there by way of this."""
        return key in self._copies[kind]

    def filtered(self, shows: Filter) -> Filter:
        """A filter of the mounted service, for where it is mounted: asked of what is its own, under its own name."""

        def shown(definition: Definition, viewer: Viewer) -> bool:
            found = self._copies[_kind(definition)].get(_key(definition))
            return found is None or found.copy is not definition or shows(found.original, viewer)

        return shown

    # --- copies ---

    def _copied(self, one: Definition) -> Definition:
        if isinstance(one, Resource):
            return dataclasses.replace(one, **self._around(one, None))
        name = f"{self.prefix}_{one.name}" if self.prefix else one.name
        more = self._around(one, one.name)
        if isinstance(one, Tool):
            check_tool_name(name, one.place)
            # Interceptors do not come with it, so what they guard is not there without them.
            more["rpc"] = one.rpc and not self.service.interceptors
        return dataclasses.replace(one, name=name, definition=_renamed(one.definition, name), **more)

    def _around(self, one: Definition, name: str | None) -> dict[str, Any]:
        """What stands around it from now on: the mounted service's middleware, and what stood there before."""
        layers = self.service.middleware
        if not layers:
            return {}
        more: dict[str, Any] = {"middleware": (*(_layer(layer, name) for layer in layers), *one.middleware)}
        if isinstance(one, (Prompt, Resource)):
            more["completions"] = MappingProxyType({
                key: dataclasses.replace(
                    completion,
                    middleware=(*(_layer(layer, f"{one.name}.{key}") for layer in layers), *completion.middleware),
                )
                for key, completion in one.completions.items()
            })  # fmt: skip
        return more


def _layer(middleware: Middleware, name: str | None) -> Middleware:
    """The middleware of a mounted service knows names as they are there."""

    async def layer(ctx: Context, invocation: Invocation, next: Callable[[Invocation], Awaitable[Any]]) -> Any:
        outside = invocation.name

        def onward(invocation: Invocation) -> Awaitable[Any]:
            return next(msgspec.structs.replace(invocation, name=outside))

        return await middleware(ctx, msgspec.structs.replace(invocation, name=name or outside), onward)

    return layer


def _renamed(definition: bytes, name: str) -> bytes:
    parts = msgspec.json.decode(definition, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(parts | {"name": name})


def _key(one: Definition) -> str:
    return one.uri if isinstance(one, Resource) else one.name


def _kind(one: Definition) -> Kind:
    if isinstance(one, Resource):
        return "resources"
    return "tools" if isinstance(one, Tool) else "prompts"


# --- which may be mounted -----------------------------------------------------------------------


def check_mountable(service: Service, into: Service) -> None:
    """Each service stands once in all that is served together: its hooks and its lifespan run once.

    Raises:
        DefinitionError: It would stand there twice, or within itself; or its lifespan would come too late.
    """
    coming = list(_all_within(service))
    for root in _outermost(into):
        for one in _all_within(root):
            if one in coming:
                raise DefinitionError(f"service {one.name!r} would be mounted twice in {root.name!r}, or within itself")
    if into.is_served and any(one.has_lifespan for one in coming):
        raise DefinitionError(f"service {service.name!r} has a lifespan: mount it before {into.name!r} is served")


def _all_within(service: Service) -> Iterator[Service]:
    yield service
    for mount in service.mounts:
        yield from _all_within(mount.service)


def _outermost(service: Service) -> Iterator[Service]:
    if not service.mounted_in:
        yield service
    for mount in service.mounted_in:
        yield from _outermost(mount.into)
