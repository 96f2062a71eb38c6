"""What a service listens to: the lives of its sessions, and what their clients say without asking.

How hooks are run, and within which limits, is the protocol's.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, overload

from tailrace.errors import DefinitionError
from tailrace.schema import place_of
from tailrace.service.catalog import decorate

__all__ = ["Hooks", "Listening", "check_takes"]

F = TypeVar("F", bound=Callable[..., Any])

_OWN = ("notifications/cancelled", "notifications/initialized")  # what the protocol itself listens to


@dataclasses.dataclass(frozen=True, slots=True)
class Hooks:
    """The functions to call with a `Session` as its life goes on, each list in order of definition."""

    register: list[Callable[[Any], Any]] = dataclasses.field(default_factory=list[Callable[[Any], Any]])
    unregister: list[Callable[[Any], Any]] = dataclasses.field(default_factory=list[Callable[[Any], Any]])
    restore: list[Callable[[Any], Any]] = dataclasses.field(default_factory=list[Callable[[Any], Any]])
    notified: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=dict[str, Callable[..., Any]])

    def extend(self, other: Hooks) -> None:
        """Call those of another service as well, behind these."""
        self.register.extend(other.register)
        self.unregister.extend(other.unregister)
        self.restore.extend(other.restore)
        self.notified.update(other.notified)


def check_takes(fn: Callable[..., Any], what: str, count: int) -> None:
    """Refuse a function that cannot be called with what it will be called with.

    Raises:
        DefinitionError: It takes other arguments.
    """
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # one written in C, which does not say
        return
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        raise DefinitionError(f"{place_of(fn)} is called with {what}: {error}") from None


class Listening:
    """The decorators that add hooks to a service."""

    def _all_hooks(self) -> Iterable[Hooks]:
        """Those to which one is added: the service's own, and those of the services it is mounted in."""
        raise NotImplementedError

    @overload
    def on_register_session(self, fn: F, /) -> F: ...
    @overload
    def on_register_session(self, /) -> Callable[[F], F]: ...
    def on_register_session(self, fn: Any = None, /) -> Any:
        """Call `fn`, async or plain, with each new `Session`, exactly once in this process."""
        return decorate(fn, lambda hook: self._listen("register", hook), instead="")

    @overload
    def on_unregister_session(self, fn: F, /) -> F: ...
    @overload
    def on_unregister_session(self, /) -> Callable[[F], F]: ...
    def on_unregister_session(self, fn: Any = None, /) -> Any:
        """Call `fn`, async or plain, with each `Session` that ends, once for each that was registered."""
        return decorate(fn, lambda hook: self._listen("unregister", hook), instead="")

    @overload
    def on_restore_session(self, fn: F, /) -> F: ...
    @overload
    def on_restore_session(self, /) -> Callable[[F], F]: ...
    def on_restore_session(self, fn: Any = None, /) -> Any:
        """Call `fn`, async or plain, with each `Session` that a restarted server takes up again."""
        return decorate(fn, lambda hook: self._listen("restore", hook), instead="")

    def on_notification(self, method: str) -> Callable[[F], F]:
        """Call ``fn(session, params)``, async or plain, when a client of a legacy version sends this notification, e.g.
        ``notifications/roots/list_changed``; `params` is a dictionary. Each call is a task of its own, within the time
        of a hook; 64 at once on a server, more are dropped with a warning. What the protocol itself listens to
        (``cancelled``, ``initialized``) does not come here.

        Raises:
            DefinitionError: Somebody listens to it already; or it is no method.
        """
        if not isinstance(method, str):  # pyright: ignore[reportUnnecessaryIsInstance] - @svc.on_notification, bare
            example = "@svc.on_notification('notifications/roots/list_changed')"
            raise DefinitionError(f"@svc.on_notification takes a method, as in {example}, got {method!r}")

        def define(fn: Callable[..., Any]) -> None:
            check_takes(fn, "the Session and the parameters, as in fn(session, params)", 2)
            where = list(self._all_hooks())
            if method in _OWN or any(method in hooks.notified for hooks in where):
                raise DefinitionError(f"{place_of(fn)}: {method} is listened to already")
            for hooks in where:
                hooks.notified[method] = fn

        return decorate(None, define)

    def _listen(self, event: Literal["register", "unregister", "restore"], hook: Callable[..., Any]) -> None:
        check_takes(hook, "the Session, as in fn(session)", 1)
        for hooks in self._all_hooks():
            getattr(hooks, event).append(hook)
