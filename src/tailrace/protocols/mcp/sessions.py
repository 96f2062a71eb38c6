"""The sessions of an endpoint: how one begins and is greeted, what of it is stored, who finds it, how it ends.

How a stored one comes back is `recovery`'s, what is kept of its streams `retention`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from tailrace.core.ports import DropSession, PutSession
from tailrace.core.session import Lifecycle, Session
from tailrace.core.watching import make_log, make_sessions
from tailrace.errors import LimitError, ProtocolError, StoreError
from tailrace.protocols.mcp.journal import SessionJournal
from tailrace.protocols.mcp.notifications import notification
from tailrace.protocols.mcp.records import Record, put_session, state_changed
from tailrace.wire import mcp
from tailrace.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, Request, encode_result

if TYPE_CHECKING:
    from tailrace.protocols.mcp.endpoint import Endpoint

__all__ = ["SessionHome"]

logger = logging.getLogger("tailrace.mcp")

_BRIEF = 1024  # bytes of capabilities that count for nothing: real clients have a few hundred
_NAME = 1000  # characters of a client's name, version and title
_SAVE_EVERY = 300.0  # seconds: how old the store's "last used" of a session may get


class SessionHome:
    """Where the sessions of one endpoint live (fulfils `core.session.Home`).

    Args:
        endpoint: Its limits, its store and its hooks.

    Attributes:
        sessions: Those that are open.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.settings = endpoint.settings
        self.sessions = make_sessions(
            endpoint.tasks.watcher,
            limit=self.settings.max_sessions,
            idle=self.settings.session_idle,
            infancy=self.settings.session_infancy,
            unborn=lambda session: not session.record.initialized and session.record.transport != "stdio",
        )

    # --- their beginning ---

    def new(self, transport: str, principal: str) -> Session:
        """Enter a new session; nothing of it is stored, and no hook has run.

        Raises:
            ProtocolError: Too many are open.
        """
        id = self.endpoint.seals.name(secrets.token_urlsafe(24))
        session = self.make(id, os.urandom(9), principal, Record(transport))
        try:
            if self.endpoint.draining:
                raise LimitError("draining", "the server is shutting down; try again in a moment")
            self.sessions.add(session)
        except LimitError as error:
            self.endpoint.tasks.refuse(error.limit)
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None
        return session

    async def initialize(self, session: Session, request: Request, params: mcp.InitializeParams) -> bytes:
        """Answer `initialize`: negotiate, commit the session, greet it. The answer is encoded; errors raise.

        Raises:
            ProtocolError: It was initialized before; it says too much; the store does not commit.
        """
        record: Record = session.record
        if record.version:
            raise ProtocolError(INVALID_REQUEST, "this session is initialized already")
        if len(request.params) > self.settings.max_greeting:
            text = f"the params of initialize are over {self.settings.max_greeting} bytes"
            raise ProtocolError(INVALID_PARAMS, text)
        capabilities = Raw(mcp.encode(params.capabilities))
        said = self.endpoint.retention.said
        if (size := _size_of(capabilities)) and not said.fits(size):
            text = f"clients have said too much of themselves; say it in {_BRIEF} bytes, or try again later"
            raise ProtocolError(mcp.LIMIT_REACHED, text, {"limit": "said"})
        record.version = mcp.negotiate(params.protocol_version)
        info = params.client_info
        record.client = {name: text[:_NAME] for name, text in msgspec.to_builtins(info).items() if text is not None}
        record.capabilities = capabilities
        said.add(size)
        await self._begin(session)
        return encode_result(request.id, self.endpoint.methods.initialize_result(record.version))

    async def assume(self, session: Session, version: str) -> None:
        """Begin a session whose client will not initialize it, because it takes it for the one that it had before (see
        `sse`): in the version that they had agreed on. What the client can be asked is not known, so it is asked
        nothing.

        Raises:
            ProtocolError: The store does not commit.
        """
        record: Record = session.record
        if record.version:
            return await session.open()  # another request of the same moment did; it may not be through
        logger.info("a client goes on without initialize, in a new session version=%s", version)
        record.version = version
        record.initialized = True  # nor will it say so
        return await self._begin(session)

    async def _begin(self, session: Session) -> None:
        """Commit a session, and greet it."""
        if session.log.journal is not None:
            try:
                await self.endpoint.journals.commit([put_session(session)])
            except StoreError:
                session.close("the session could not be stored")
                raise ProtocolError(INTERNAL_ERROR, "the session could not be stored; try again later") from None
        await session.open()
        if (put := self.changed_state(session)) is not None:  # by its hooks
            with contextlib.suppress(StoreError):  # which is logged; the next call tries again
                await self.endpoint.journals.commit([put])

    def make(
        self, id: str, handle: bytes, principal: str, record: Record, *, last: int = 0, restored: bool = False
    ) -> Session:
        """A session with its own stream; it is in no table, and nothing of it is stored."""
        endpoint = self.endpoint
        stored = endpoint.journals.durable and record.transport != "stdio"
        journal = SessionJournal(id, endpoint.journals) if stored else None
        budget = endpoint.retention.session_budget()
        ring, kept, watcher = self.settings.ring, self.settings.kept, endpoint.tasks.watcher
        log = make_log(watcher, id, ring=ring, kept=kept, journal=journal, last=last, budget=budget)
        session = Session(
            id,
            handle,
            principal,
            tasks=endpoint.tasks,
            home=self,
            log=log,
            record=record,
            budget=budget,
            max_calls=self.settings.max_session_calls,
            restored=restored,
        )
        return session

    def revived(self, session: Session) -> None:
        """A stored one is in the table again: what its client has said is kept, however much that is by now."""
        self.endpoint.retention.said.add(_size_of(session.record.capabilities))
        self.endpoint.subscriptions.restored(session)

    def find(self, id: str, principal: str) -> Session | None:
        """The living session with this id, if it belongs to `principal`; `Recovery.restore` waits for one that is
        being restored."""
        session = self.sessions.by_id.get(id)
        if session is None or session.principal != principal or session.lifecycle is not Lifecycle.OPEN:
            return None
        if session.restored and (session.opening or not session.greeted):
            return None
        session.touched = self.endpoint.now()
        return session

    # --- what the store knows of them ---

    def journal_of(self, session: Session | None) -> SessionJournal | None:
        """Where the session is journalled; None for those that are not."""
        return session.log.journal if session is not None else None  # type: ignore[return-value] - none other is put there

    def save(self, session: Session) -> None:
        """Store the session's record as it is now."""
        journal = self.journal_of(session)
        if journal is not None and session.record.version:
            session.saved = self.endpoint.now()
            state_changed(session, journal, self.settings.state)
            self.endpoint.journals.write([put_session(session)])

    def changed_state(self, session: Session | None) -> PutSession | None:
        """The record to be stored, if a session's own values were changed since they were stored."""
        journal = self.journal_of(session)
        if journal is None or session is None or not session.record.version:
            return None
        return put_session(session) if state_changed(session, journal, self.settings.state) else None

    def sweep(self, now: float) -> None:
        """Every few seconds: end those that have expired; the store is to know which are in use."""
        self.sessions.expire(now)
        for session in self.sessions.by_id.values():
            if session.touched > session.saved and now - session.saved > _SAVE_EVERY:
                self.save(session)

    # --- core.session.Home ---

    async def opened(self, session: Session) -> None:
        """Run the hooks that greet a session."""
        await self.endpoint.hooks.opened(session)

    async def ended(self, session: Session, reason: str) -> None:
        """Run the hooks that bid it farewell."""
        await self.endpoint.hooks.ended(session)

    def forget(self, session: Session, *, keep: bool) -> None:
        """Out of the table and, unless `keep`, out of the store."""
        endpoint = self.endpoint
        self.sessions.remove(session)
        if (meter := endpoint.tasks.meter) is not None and session.record.version:
            meter.session_ended(session.record.transport, endpoint.now() - session.created)
        endpoint.retention.forget(session)
        endpoint.retention.said.add(-_size_of(session.record.capabilities))
        endpoint.subscriptions.left(session)
        endpoint.service.forget_session(session.id)
        endpoint.recovery.ended(session.id)
        journal = self.journal_of(session)
        if journal is not None and not keep:
            endpoint.journals.write([DropSession(session.id)])

    def suspend(self, session: Session) -> None:
        """The store keeps what it has; nothing more goes in."""
        self.save(session)
        for log in (session.log, *session.streams.values()):
            log.journal = None

    def notification(self, method: str, params: Any) -> bytes:
        """Encode a server's notification."""
        return notification(method, params)


def _size_of(capabilities: Raw) -> int:
    """What they count for, in bytes."""
    return len(capabilities) if len(capabilities) > _BRIEF else 0
