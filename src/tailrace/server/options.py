"""What a server is told: flags and names of stores become settings, a store or a membership, and a `Server` of them.

What the limits mean is told in `tailrace.core.settings`, what a process is told beyond them in `process`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tailrace.core.settings import Settings
from tailrace.errors import DefinitionError
from tailrace.publish.publishers import make_publisher
from tailrace.server.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.stores.sqlite import SqliteStore
from tailrace.transports.bearer import make_bearer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.core.ports import Membership, Store
    from tailrace.publish import Publisher
    from tailrace.service import Service

__all__ = ["make_membership", "make_server", "make_settings", "make_store"]


def make_settings(options: dict[str, Any]) -> Settings:
    """Settings from flags; those that are None keep their defaults.

    Raises:
        DefinitionError: There is no such option, or its value is none.
    """
    given = {_NAMES.get(name, name): value for name, value in options.items() if value is not None}
    kinds = {field.name: str(field.type).partition(" ")[0] for field in fields(Settings)}
    for name, harmless in _OF_THE_COMMAND_LINE.items():
        if given.pop(name, harmless) != harmless:
            raise DefinitionError(f"{name}= is of the command line: tailrace run FILE.py --{name}")
    if unknown := sorted(set(given) - set(kinds)):
        near = difflib.get_close_matches(unknown[0], [*_NAMES, *kinds], n=3)
        hint = f"did you mean {' or '.join(near)}? There" if near else "there"
        raise DefinitionError(f"no such option: {', '.join(unknown)}; {hint} are {', '.join(sorted(kinds))}")
    for name, value in given.items():
        fits, words = _KINDS.get(kinds[name], _ANY)
        if not fits(value):
            raise DefinitionError(f"{name}= is {words}, got {value!r}")
    for name in ("allow_hosts", "allow_origins"):
        if name in given:
            value = given[name]
            given[name] = (value,) if isinstance(value, str) else tuple(value)
    for host in given.get("allow_hosts", ()):
        if "/" in host or (host.count(":") == 1 and not host.startswith("[")):
            raise DefinitionError(f"{host!r} is no host that --allow-host takes: a name or an address, without a port")
    for origin in given.get("allow_origins", ()):
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
            raise DefinitionError(
                f"{origin!r} is no origin that --allow-origin takes: https://NAME, with its port if it has one"
            )
    return Settings(**given)


_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@]+/?")
_NAMES = {"allow_host": "allow_hosts", "allow_origin": "allow_origins"}
_OF_THE_COMMAND_LINE = {"workers": 1, "reload": False}  # they start processes of their own
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "float": (lambda value: type(value) in (int, float) and value >= 0, "a number of seconds, 0 or more"),
    "int": (lambda value: type(value) is int and value >= 0, "a whole number, 0 or more"),
    "bool": (lambda value: type(value) is bool, "True or False"),
}
_ANY: tuple[Callable[[Any], bool], str] = (lambda _: True, "")


def make_store(text: str | Store | None, service: str = "tailrace") -> Store:
    """A store from ``memory``, ``sqlite:PATH``, ``valkey://HOST:PORT/DB`` or a store itself.

    Args:
        text: Which.
        service: Whose keys they are in a store that many share.

    Raises:
        DefinitionError: It is none of these.
    """
    if text is None or text == "memory":
        return MemoryStore()
    if not isinstance(text, str):
        return text
    kind, _, path = text.partition(":")
    if kind == "sqlite" and path:
        return SqliteStore(path)
    if text.startswith(_VALKEY):
        from tailrace.stores.valkey import ValkeyStore

        return ValkeyStore(text, service=service)
    raise DefinitionError(f"no such store: {text!r}; give memory, sqlite:PATH or valkey://HOST:PORT/DB")


_VALKEY = ("valkey:", "valkeys:", "redis:", "rediss:")


def make_server(
    service: Service,
    options: dict[str, Any],
    *,
    store: str | Store | None = None,
    auth: object = None,
    auth_token: str | Sequence[str] | None = None,
    publish: str | Publisher | None = None,
) -> Server:
    """A server of `service`; see `Service.asgi` for what it may be told.

    Raises:
        DefinitionError: An option cannot work.
    """
    settings = make_settings(options)
    bearer = make_bearer(auth, auth_token, seconds=settings.auth_time, limit=settings.max_calls)
    publisher = None if publish is None else make_publisher(publish)
    if isinstance(store, str) and store.startswith(_VALKEY):
        return Server(service, settings, None, bearer, publisher, make_membership(store, service.name, settings.lease))
    return Server(service, settings, make_store(store, service.name), bearer, publisher)


def make_membership(url: str, service: str, lease: float = 5.0) -> Membership:
    """A membership of the processes that share a service in Valkey.

    Args:
        url: ``valkey://HOST:PORT/DB``.
        service: Whose partitions they are.
        lease: Seconds for which an ownership lasts unless it is renewed.

    Raises:
        DefinitionError: No such URL, or redis-py is not installed.
    """
    from tailrace.stores.valkey_membership import ValkeyMembership

    return ValkeyMembership(url, service=service, lease=lease)
