"""`subscriptions/listen` (2026-07-28): the one stream on which a modern server speaks without having been asked.

The request names the kinds it wants; the acknowledgment, always first, says which of them it gets. Over HTTP
the stream is the reply of its POST, a log like every other; over stdio it shares the conversation's.
It ends when its client goes, or with the result when the server does. Nothing of it is kept for a
resume: what it says is "this has changed", and who comes back asks anew.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.core.ports import Kind
from tailrace.core.watching import make_log
from tailrace.errors import LimitError, ProtocolError
from tailrace.protocols.mcp.failures import DuplicateId
from tailrace.protocols.mcp.framing import SseFraming
from tailrace.protocols.mcp.reading import find_resource
from tailrace.protocols.mcp.subscriptions import check_said, size_of
from tailrace.service.viewing import Viewer
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import INVALID_PARAMS, encode_notification, encode_result
from tailrace.wire.tasks import declares_tasks, tasks_missing
from tailrace.wire.uri_templates import MAX_URI

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace.core.exchange import Exchange, Sink
    from tailrace.core.log import Log
    from tailrace.core.session import Session
    from tailrace.core.writer import Writer
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.protocols.mcp.listen_parts import Part
    from tailrace.wire.jsonrpc import Request

__all__ = ["Listen", "Listens"]

_KEY = "io.modelcontextprotocol/subscriptionId"
_LISTS = {
    "notifications/tools/list_changed": "tools_list_changed",
    "notifications/prompts/list_changed": "prompts_list_changed",
    "notifications/resources/list_changed": "resources_list_changed",
}


class Listen:
    """One stream of notifications that its client asked for.

    Attributes:
        id: Of its request; every message of the stream carries it.
        granted: What it gets.
        log: Where its messages go: its own stream, or (stdio) the conversation's.
        session: The conversation it belongs to; None over HTTP.
        parts: The streams of other partitions that are part of it.
    """

    __slots__ = ("_tag", "granted", "id", "log", "parts", "session")

    def __init__(self, id: int | str, granted: mcp.SubscriptionFilter, log: Log, session: Session | None) -> None:
        self.id = id
        self.granted = granted
        self.log = log
        self.session = session
        self.parts: Sequence[Part] = ()
        self._tag = b'{"_meta":' + mcp.encode({_KEY: id})

    def wants(self, method: str, params: Any) -> bool:
        """Whether a notification is of a kind that was asked for and granted."""
        if method == "notifications/resources/updated":
            return isinstance(params, dict) and params.get("uri") in self.granted.resource_subscriptions  # pyright: ignore[reportUnknownMemberType]
        kind = _LISTS.get(method)
        return kind is not None and getattr(self.granted, kind)

    def send(self, method: str, params: bytes, now: float, kind: Kind = Kind.NOTIFICATION) -> None:
        """Send a notification; `params` is an encoded object without `_meta`."""
        tagged = self._tag + (b"," + params[1:] if len(params) > 2 else b"}")
        self.log.append(encode_notification(method, tagged), kind, now)

    def acknowledge(self, now: float, more: Sequence[str] = ()) -> None:
        """The first message of every stream; kept like an answer, so that no ring can turn it out. `more` are tasks of
        other partitions."""
        told = msgspec.structs.replace(self.granted, task_ids=(*self.granted.task_ids, *more))
        granted = mcp.encode({"notifications": told})
        self.send("notifications/subscriptions/acknowledged", granted, now, Kind.ANSWER)

    def finish(self, server_info: dict[str, Any], reason: str, now: float) -> None:
        """The server ends it: with the result, which tells its client that nothing broke.

        Over stdio, where no stream closes, `notifications/cancelled` follows, as the specification wants it
        (cancellation, server-sent). It comes behind the result: the other way round, clients take the end for a loss.
        """
        result = mcp.encode({"resultType": "complete", "_meta": {_KEY: self.id, **server_info}})
        self.log.append(encode_result(self.id, result), Kind.ANSWER, now)
        if self.session is None:
            self.log.end()
        else:
            params = mcp.encode({"requestId": self.id, "reason": reason})
            self.log.append(encode_notification("notifications/cancelled", params), Kind.ANSWER, now)


class Listens:
    """The streams of one endpoint that listen.

    Args:
        endpoint: For the limits, the clocks and what is offered.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._open: dict[Listen, None] = {}
        self._of_session: dict[tuple[Session, int | str], Listen] = {}
        self._watching: dict[str, dict[Listen, None]] = {}  # by the id of a task

    def __len__(self) -> int:
        return len(self._open)

    # --- their beginning ---

    def open_exchange(
        self,
        exchange: Exchange,
        request: Request,
        params: mcp.ListenParams,
        parts: Sequence[Part] = (),
        granted: Sequence[str] = (),
    ) -> None:
        """Make a stream of the reply to a POST.

        Args:
            exchange, request, params: What asks for it.
            parts: Streams of other partitions that become part of it.
            granted: The tasks that these have granted.

        Raises:
            ProtocolError: Too many listen, or it names too much.
        """
        endpoint = self.endpoint
        watcher, ring = endpoint.tasks.watcher, endpoint.settings.ring
        log = make_log(watcher, "", ring=ring, kept=0, budget=endpoint.retention.budget)
        listen = self._enter(request, params, log, None, exchange.principal, exchange.covers, granted)
        writer = endpoint.streams.writer(log.attach(0), SseFraming())

        def gone() -> None:
            writer.cursor.stop()
            self._leave(listen)

        exchange.on_gone = gone
        listen.parts = parts
        for part in parts:
            part.join(partial(self._heard, listen), partial(self._part_ended, listen))
        exchange.stream(200, endpoint.streams.headers(None), partial(self._write, listen, writer))

    def open_session(self, session: Session, request: Request, params: mcp.ListenParams) -> None:
        """Listen over stdio, where the conversation's own stream carries it.

        Raises:
            DuplicateId: The id is in flight.
            ProtocolError: As `open_exchange`.
        """
        if request.id in session.calls or self.has(session, request.id):
            raise DuplicateId(request.id)
        limit = self.endpoint.settings.max_connection_listens
        if sum(1 for of, _ in self._of_session if of is session) >= limit:
            raise _refusal(LimitError("listens", f"{limit} streams listen on this connection; end one first"))
        listen = self._enter(request, params, session.log, session, session.principal)
        self._of_session[session, request.id] = listen

    def has(self, session: Session, id: int | str) -> bool:
        """Whether a stream of this conversation has the id."""
        return (session, id) in self._of_session

    def _enter(
        self,
        request: Request,
        params: mcp.ListenParams,
        log: Log,
        session: Session | None,
        principal: str,
        covers: Callable[[Sequence[str]], bool] = lambda scopes: True,
        more: Sequence[str] = (),
    ) -> Listen:
        settings = self.endpoint.settings
        if self.endpoint.draining:
            raise _refusal(LimitError("draining", "the server is shutting down; try again in a moment"))
        if len(self._open) >= settings.max_listens:
            raise _refusal(LimitError("listens", f"{settings.max_listens} streams listen on this server; try later"))
        wanted = params.notifications
        if len(wanted.task_ids) + len(wanted.resource_subscriptions) > settings.max_watched:
            text = f"one stream can name {settings.max_watched} tasks and resources at most; open another one"
            raise ProtocolError(INVALID_PARAMS, text)
        if wanted.task_ids and not declares_tasks(params.meta):
            raise tasks_missing()
        if any(len(uri) > MAX_URI for uri in wanted.resource_subscriptions):
            raise ProtocolError(INVALID_PARAMS, f"a URI has at most {MAX_URI} characters")
        said = self.endpoint.retention.said
        check_said(said, wanted.resource_subscriptions)
        listen = Listen(request.id, self._granted(wanted, principal, covers), log, session)
        self._open[listen] = None
        said.add(size_of(listen.granted.resource_subscriptions))
        for id in listen.granted.task_ids:
            self._watching.setdefault(id, {})[listen] = None
        listen.acknowledge(self.endpoint.now(), more)
        if listen.granted.task_ids:
            self.endpoint.tasks.start(self._tell_states(listen, principal), name="tailrace-task-states")
        return listen

    def _heard(self, listen: Listen, message: bytes) -> None:
        """A part of it says something, as its client is to read it."""
        listen.log.append(message, Kind.NOTIFICATION, self.endpoint.now())

    def _part_ended(self, listen: Listen) -> None:
        """A part of it has ended, so all of it breaks off: its client listens anew."""
        self._leave(listen)

    def _granted(
        self, wanted: mcp.SubscriptionFilter, principal: str, covers: Callable[[Sequence[str]], bool]
    ) -> mcp.SubscriptionFilter:
        """What of it this server has, and this principal may know by its token."""
        find, sees = self.endpoint.task_table.find, self._sees
        return mcp.SubscriptionFilter(
            tools_list_changed=wanted.tools_list_changed,
            prompts_list_changed=wanted.prompts_list_changed,
            resources_list_changed=wanted.resources_list_changed,
            resource_subscriptions=tuple(uri for uri in wanted.resource_subscriptions if sees(uri, principal, covers)),
            task_ids=tuple(id for id in dict.fromkeys(wanted.task_ids) if find(id, principal) is not None),
        )

    def _sees(self, uri: str, principal: str, covers: Callable[[Sequence[str]], bool]) -> bool:
        """Of what a filter hides, or a token is not good for, not even that it has changed is told."""
        service = self.endpoint.service
        try:
            found = find_resource(service.offered(Viewer(principal, None)), uri, modern=True)
        except ProtocolError:
            return not service.filters
        return covers(found.resource.scopes)

    async def _tell_states(self, listen: Listen, principal: str) -> None:
        """At the beginning: what has happened before somebody listened is not missed."""
        for id in listen.granted.task_ids:
            params = await self.endpoint.task_table.notified(id, principal)
            if params is not None and listen in self._open:
                listen.send("notifications/tasks", params, self.endpoint.now())
            await listen.log.room()

    # --- what they are told ---

    def broadcast(self, method: str, params: Any) -> None:
        """Tell all who asked for this kind. Never waits: a slow reader loses its oldest."""
        told = [listen for listen in self._open if listen.wants(method, params)]
        if told:
            encoded = mcp.encode({name: value for name, value in dict(params or {}).items() if name != "_meta"})
            for listen in told:
                listen.send(method, encoded, self.endpoint.now())

    def tell_task(self, id: str, state: Callable[[], bytes]) -> None:
        """Tell those who named this task how it stands; `state` gives it, and is asked only if there is somebody."""
        if told := self._watching.get(id):
            params = state()
            for listen in told:
                listen.send("notifications/tasks", params, self.endpoint.now())

    # --- their end ---

    def cancelled(self, session: Session, id: int | str) -> None:
        """stdio: its client wants no more of it, and no answer."""
        if (listen := self._of_session.get((session, id))) is not None:
            self._leave(listen)

    def left(self, session: Session) -> None:
        """stdio: the conversation is over."""
        for listen in [listen for listen in self._open if listen.session is session]:
            self._leave(listen)

    def close(self, reason: str) -> None:
        """The server ends all of them, in order."""
        info = self.endpoint.modern.server_info
        for listen in list(self._open):
            listen.finish(info, reason, self.endpoint.now())
            self._leave(listen)

    async def _write(self, listen: Listen, writer: Writer, sink: Sink) -> None:
        try:
            await writer.run(sink)
        finally:
            self._leave(listen)

    def _leave(self, listen: Listen) -> None:
        if listen in self._open:
            del self._open[listen]
            self.endpoint.retention.said.add(-size_of(listen.granted.resource_subscriptions))
            for part in listen.parts:
                part.leave()
            for id in listen.granted.task_ids:
                told = self._watching[id]
                del told[listen]
                if not told:
                    del self._watching[id]
            if listen.session is None:
                listen.log.discard()
            else:
                del self._of_session[listen.session, listen.id]


def _refusal(error: LimitError) -> ProtocolError:
    return ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit})
