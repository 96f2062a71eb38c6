"""A call's values, deadline and cancellation: three lives that a connection must not tie together.

A `Context` is what a handler is given. Contexts form a tree: a derived one ends when its parent
ends; a *detached* one keeps the parent's values and nothing else, so that work which outlives the
answer still has its correlation id, and is not cancelled because the answer was fast.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import secrets
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from tailrace.core.access import Access
from tailrace.core.headers import NO_HEADERS, RequestHeaders
from tailrace.core.outgoing import OUTBOX
from tailrace.core.questions import Questions
from tailrace.core.waiters import Waiters
from tailrace.errors import CallCancelled, DeadlineExceeded

if TYPE_CHECKING:
    from tailrace.core.asked import ClientInfo
    from tailrace.core.call import Call
    from tailrace.core.outgoing import Message, Outbox
    from tailrace.core.rpc import RpcInfo
    from tailrace.core.session import Session

__all__ = ["Context", "current"]

_current: contextvars.ContextVar[Context] = contextvars.ContextVar("tailrace.context")


def current() -> Context:
    """The context of the running call or detached work; outside of both, `Context.background()`."""
    return _current.get(_BACKGROUND)


class Context(Questions):
    """The values, the deadline and the cancellation of one call, and the call's way to its peer.

    Attributes:
        call: The call this context belongs to, or None (background and detached work).
        deadline: Loop time (``asyncio`` loop's clock, seconds) at which it ends by itself, or None.
        error: Why it ended (`CallCancelled`, `DeadlineExceeded`), or None while it has not.
    """

    __slots__ = (
        "__weakref__",
        "_children",
        "_parent",
        "_timer",
        "_values",
        "_waiters",
        "call",
        "deadline",
        "error",
    )

    def __init__(self, parent: Context | None = None, *, call: Call | None = None) -> None:
        self._parent = parent  # for values only; cancellation comes down through `_children`
        self._values: dict[Any, Any] | None = None
        self._children: weakref.WeakSet[Context] | None = None
        self._waiters: Waiters | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.call = call
        self.deadline: float | None = None
        self.error: Exception | None = None

    @staticmethod
    def background() -> Context:
        """The empty context: no values, no deadline, never cancelled."""
        return _BACKGROUND

    # --- what it says ---

    @property
    def cancelled(self) -> bool:
        """It has ended; `error` says why."""
        return self.error is not None

    def value(self, key: Any, default: Any = None) -> Any:
        """The value that was set under `key` here or in a parent."""
        context: Context | None = self
        while context is not None:
            if context._values is not None and key in context._values:
                return context._values[key]
            context = context._parent
        return default

    async def wait_cancelled(self) -> None:
        """Return once the context has ended; never, for one that cannot end."""
        if self.error is None:
            if self._waiters is None:
                self._waiters = Waiters()
            await self._waiters.wait()

    @property
    def session(self) -> Session | None:
        """The session the call belongs to; None in the modern era and outside of calls."""
        return self.call.public_session if self.call is not None else None

    @property
    def request_id(self) -> int | str | None:
        """The request's own id as its client gave it; None outside of calls."""
        return self.call.request_id if self.call is not None else None

    @property
    def client(self) -> ClientInfo | None:
        """Who calls over MCP, as it says itself; None where nobody does, or several do."""
        return self.call.client if self.call is not None else None

    @property
    def rpc(self) -> RpcInfo | None:
        """Headers, trailers and the like of a call over RPC; None over MCP and outside of calls."""
        return self.call.rpc if self.call is not None else None

    @property
    def headers(self) -> RequestHeaders:
        """The header fields of the HTTP request that brought the call: a read-only mapping, names in any case, the
        first value of each (`all(name)` has all).

        Empty over stdio, where there are none, and in a run after a crash, for they are never stored. Detached work
        has them without `Authorization`, `Proxy-Authorization` and `Cookie`, and so has a call that one worker
        took and another one runs. An `Authorization` that this server has checked is not among them: see `access`.
        """
        return self.call.headers if self.call is not None else self.value(RequestHeaders, NO_HEADERS)

    @property
    def access(self) -> Access | None:
        """What the token of the call's request allows: its scopes, claims, client; None where there was none that says
        so, and after a crash."""
        return self.value(Access)

    @property
    def principal(self) -> str:
        """Who asks, as the server's authentication said; ``""`` is nobody."""
        if self.call is not None and self.call.principal:
            return self.call.principal
        access = self.access
        return access.principal if access is not None else ""

    @property
    def correlation_id(self) -> str | None:
        """What ties together the records of one request across services: its trace's id, what its headers say
        (`x-correlation-id`, `x-request-id`), or one that is made here; None outside of calls."""
        found: str | None = self.value("correlation_id")
        if found is None and self.call is not None:
            root = self.call.context  # the background's, once the call has ended; nobody sets values there
            found = secrets.token_hex(16)
            owner = self if root is _BACKGROUND else root
            owner._values = {**(owner._values or {}), "correlation_id": found}
        return found

    # --- deriving ---

    def with_value(self, key: Any, value: Any) -> Context:
        """A child that also carries `value` under `key`; it ends when this one ends."""
        child = self._derive()
        child._values = {key: value}
        return child

    def with_cancel(self) -> tuple[Context, Callable[[], None]]:
        """A child, and a function that ends it; calling that twice is harmless."""
        child = self._derive()
        return child, lambda: child.cancel(CallCancelled())

    def with_timeout(self, seconds: float) -> Context:
        """A child that ends after `seconds` at the latest (and never after this one's deadline)."""
        return self.with_deadline(asyncio.get_running_loop().time() + seconds)

    def with_deadline(self, when: float) -> Context:
        """A child that ends at loop time `when` at the latest (and never after this one's deadline)."""
        child = self._derive()
        if child.deadline is None or when < child.deadline:
            child.deadline = when
            if child.error is None:
                child._arm(when)
        return child

    def detach(self) -> Context:
        """The same values, but no deadline, never cancelled, no error: for work that outlives the call."""
        _ = self.correlation_id  # the one of the call, if it has to be made
        detached = Context()  # a copy of the values: behind a parent, the finished call would live as long as the work
        context: Context | None = self
        while context is not None:
            if context._values is not None:
                detached._values = context._values | (detached._values or {})
            context = context._parent
        if self.call is not None and self.call.headers is not NO_HEADERS:
            detached._values = {**(detached._values or {}), RequestHeaders: self.call.headers.without_credentials()}
        return detached

    # --- the way to the peer ---

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell the caller how far the work is; nothing happens if it did not ask to be told.

        Waits while a connected reader is more than 256 KiB behind, for as long as the transport's stall
        limit lets it; a slow or absent reader never makes this raise.

        Args:
            done: How much is done; must grow from one to the next (MCP, progress).
            total: Of how much, where it is known.
            message: One line for people.
        """
        if self.call is not None:
            self.call.say(self.call.progress, done, total, message)
            await self.call.room()

    report_progress = progress

    async def log(self, level: str, data: Any, logger: str | None = None) -> None:
        """Send a log record to the caller, if it wants records of this level. Waits as `progress` does.

        Args:
            level: debug, info, notice, warning, error, critical, alert or emergency.
            data: Anything that can be written as JSON.
            logger: The name of the record's source.
        """
        if self.call is not None:
            self.call.say(self.call.log, level, data, logger)
            await self.call.room()

    async def debug(self, data: Any, logger: str | None = None) -> None:
        """`log` at level debug."""
        await self.log("debug", data, logger)

    async def info(self, data: Any, logger: str | None = None) -> None:
        """`log` at level info."""
        await self.log("info", data, logger)

    async def warning(self, data: Any, logger: str | None = None) -> None:
        """`log` at level warning."""
        await self.log("warning", data, logger)

    async def error_log(self, data: Any, logger: str | None = None) -> None:
        """`log` at level error (`error` itself says why the context ended)."""
        await self.log("error", data, logger)

    async def step(self, name: str, fn: Callable[..., Any], *args: Any) -> Any:
        """Run a part of the handler that must not run again where the handler does: because it asked its client
        (2026-07-28), or after a crash (``on_crash="rerun"``). The first run's result is recorded in the store, and
        given to each later one.

        Once it has begun it goes on, also if its call ends: it is detached work, which a shutdown waits for. A second
        run that comes meanwhile waits for it. It begins once at most: cut off by a crash, its outcome is unknown.
        Records are kept for `Settings.dialogue_time` (24 h). Where nothing can run again, it simply runs.

        Args:
            name: Tells it from the call's other steps; at most 128 characters.
            fn: An async function, or a plain one (which then runs in a thread).
            args: Its arguments.

        Returns:
            Its result as JSON has it (a dataclass comes back as a dict), at most 64 KiB.

        Raises:
            StepError: An earlier run of it failed, or its outcome is unknown.
            LimitError: The call has more than 100 steps, the server too many, or the result is too large.
            StoreError: It could not be recorded, and was not begun.
            ValueError: The call has a step of this name already.
            RuntimeError: Outside of a served call.
        """
        return await self._asker("step").step(name, fn, args)

    def progress_nowait(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """`progress` without waiting, from any thread: for plain functions."""
        if self.call is not None:
            self.call.tasks.on_loop(self.call.say, self.call.progress, done, total, message)

    def log_nowait(self, level: str, data: Any, logger: str | None = None) -> None:
        """`log` without waiting, from any thread: for plain functions."""
        if self.call is not None:
            self.call.tasks.on_loop(self.call.say, self.call.log, level, data, logger)

    def spawn(
        self,
        fn: Callable[..., Any],
        *args: Any,
        name: str | None = None,
        timeout: float | None = None,
        on_error: Callable[[Exception], Any] | None = None,
    ) -> None:
        """Start detached work: it has this context's values, not its cancellation, and outlives the answer.
        May be called from any thread.

        It is tracked and listed in `Service.statistics()`; a shutdown waits for it within the drain limit,
        and logs what it had to drop. It does not survive a kill of the process.

        Args:
            fn: An async function, or a plain one (which then runs in a thread).
            args: Its arguments.
            name: Under which it is listed; by default the function's own.
            timeout: Seconds after which it is cancelled; None for never.
            on_error: Called with the exception if it fails; by default that is logged.

        Raises:
            TypeError: `fn` is no function (a coroutine, for example), or `timeout` no number.
            RuntimeError: Outside of a served call.
            LimitError: Too much detached work is running.
        """
        if not callable(fn) or not (timeout is None or timeout >= 0):
            if inspect.iscoroutine(fn):
                fn.close()
            raise TypeError(f"spawn() takes a function and its arguments, as in ctx.spawn(send, item), got {fn!r}")
        if self.call is None:
            raise RuntimeError("spawn() needs a running call; outside of one, start the work yourself")
        self.call.spawn(self, fn, args, name=name, timeout=timeout, on_error=on_error)

    async def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        if_gone: Literal["publish", "skip"] = "publish",
    ) -> None:
        """Put a message into the durable outbox, from which it goes to the broker (`--publish`); never waits for that.

        In a call it is committed with the call's success, and not at all if the call fails. In detached work it is
        committed at once, and this returns when it is safe. It arrives at least once, with the same `message-id`
        each time, and with the request's `correlation-id` and trace in its headers.

        Args:
            topic: Letters, digits and ``. _ -``, at most 249.
            value: bytes as they are, str as UTF-8, anything else as JSON; at most 1 MiB.
            key: Messages of one topic and key keep their order; at most 1 KiB.
            headers: More headers, at most 16 KiB.
            if_gone: ``skip`` drops it if the client has gone away when the call ends.

        Raises:
            RuntimeError: The server publishes to nowhere.
            LimitError: Too many messages wait for the broker, or the call has published 1,000 or 4 MiB.
            ValueError: It cannot be encoded, or is too large.
            StoreError: It is not safe (in detached work; a call whose messages cannot be committed fails).
        """
        message = self._collect(topic, value, key, headers, if_gone)
        if message is not None:
            outbox: Outbox = self.value(OUTBOX)
            await outbox.write([message])

    def publish_nowait(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        if_gone: Literal["publish", "skip"] = "publish",
    ) -> None:
        """`publish` without waiting, for plain functions; of a running call only.

        Raises:
            RuntimeError: The server publishes to nowhere; or there is no call that is still running.
            LimitError: As `publish`.
            ValueError: As `publish`.
        """
        if self._collect(topic, value, key, headers, if_gone) is not None:
            raise RuntimeError("publish_nowait() needs a running call; in detached work await publish()")

    def _collect(
        self,
        topic: str,
        value: Any,
        key: str | bytes | None,
        headers: Mapping[str, str | bytes] | None,
        if_gone: str,
    ) -> Message | None:
        """Leave a message with the running call; gives it back where there is none."""
        outbox: Outbox | None = self.value(OUTBOX)
        if outbox is None:
            raise RuntimeError("publish() has nowhere to go: start the server with --publish kafka://HOST:PORT or log:")
        if if_gone not in ("publish", "skip"):
            raise ValueError(f"if_gone is publish or skip, not {if_gone!r}")
        message = outbox.message(self, topic, value, key, headers or {})
        if self.call is None or self.call.over:
            return message
        self.call.collect(outbox, message, skip_if_gone=if_gone == "skip")
        return None

    # --- the call's owner ---

    @property
    def own_values(self) -> dict[Any, Any]:
        """What was set here, and not in a parent."""
        return self._values or {}

    def set_values(self, values: dict[Any, Any]) -> None:
        """Give a call's own context its values, before its handler runs."""
        self._values = values

    def cancel(self, error: Exception) -> None:
        """End this context and all that derive from it. Only the first call counts; the background never ends."""
        if self.error is not None or self is _BACKGROUND:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        if self._waiters is not None:
            self._waiters.wake()
        if self._children is not None:
            for child in list(self._children):
                child.cancel(error)

    def enter(self) -> contextvars.Context:
        """A copy of the running contextvars in which `current()` is this context."""
        variables = contextvars.copy_context()
        variables.run(_current.set, self)
        return variables

    def make_current(self) -> contextvars.Token[Context]:
        """Make this context `current()` for a while, in contextvars that are somebody else's."""
        return _current.set(self)

    def restore_current(self, token: contextvars.Token[Context]) -> None:
        """End that while."""
        _current.reset(token)

    def enter_here(self) -> None:
        """Make this context `current()` in the running contextvars, which are a task's own."""
        _current.set(self)

    def _derive(self) -> Context:
        child = Context(self, call=self.call)
        child.deadline = self.deadline
        child.error = self.error
        if self is not _BACKGROUND:
            if self._children is None:
                self._children = weakref.WeakSet()
            self._children.add(child)
        return child

    def _arm(self, when: float) -> None:
        # Held weakly, and in no call's contextvars: the timer must not keep a finished call until the deadline.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(when, _expire, weakref.ref[Context](self), context=contextvars.Context())


def _expire(reference: weakref.ref[Context]) -> None:
    context = reference()
    if context is not None:
        context.cancel(DeadlineExceeded("the deadline passed"))


_BACKGROUND = Context()
