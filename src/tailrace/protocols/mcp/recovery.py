"""A stored session comes back: its streams as they were, and an outcome for every call a crash interrupted.

At the start every call that was accepted and not answered is answered, or runs again (`on_crash`);
sessions without one come back when somebody asks for them. Those that nobody asks for end in time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, UnsetType

from tailrace.core.ports import DropSession, EndCall, Kind, PutCall
from tailrace.core.session import Lifecycle
from tailrace.errors import LimitError, ProtocolError, StoreError
from tailrace.protocols.mcp.asking import cancelled_note
from tailrace.protocols.mcp.failures import encode_failure
from tailrace.protocols.mcp.keys import fingerprint_of
from tailrace.protocols.mcp.once import Claim, OnceCall
from tailrace.protocols.mcp.reading import find_target, stored_params
from tailrace.protocols.mcp.records import StoredCallData, decode_record, decode_state
from tailrace.protocols.mcp.reply import SessionReply
from tailrace.protocols.mcp.tool_call import ToolCall
from tailrace.service.viewing import Viewer
from tailrace.wire import mcp
from tailrace.wire.content import Text
from tailrace.wire.jsonrpc import INTERNAL_ERROR, encode_result

if TYPE_CHECKING:
    from tailrace.core.log import Log
    from tailrace.core.ports import StoredEvent, StoredSession
    from tailrace.core.session import Session
    from tailrace.protocols.mcp.call import McpCall
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.service import Tool

__all__ = ["Recovery"]

logger = logging.getLogger("tailrace.mcp")

_CLEAN_EVERY = 600.0  # seconds between two looks for stored sessions that nobody came back for
_GREETINGS = 64  # restored sessions whose hooks run at the same time
_LATENESS = 600.0  # seconds by which the store's "last used" may lag behind


class _Asked(Struct):
    id: str


_decode_call = msgspec.json.Decoder(StoredCallData).decode


class Recovery:
    """Brings back the stored sessions of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.journals = endpoint.journals
        self.sessions = endpoint.sessions
        self._ends = itertools.count()
        self._loads: dict[object, int] = {}  # sessions being read from the store, the oldest first, and since which end
        self._ended: dict[str, int] = {}  # those that ended meanwhile: what was read of them is the past
        self._next_cleaning = 0.0

    async def restore(self, principal: str, id: str | None = None, *, handle: bytes | None = None) -> Session | None:
        """Bring a stored session back to life; None where there is none, or it is somebody else's.

        Raises:
            ProtocolError: Too many are open; the store cannot be read; the server ends, and has stored its sessions
                for the next one (none of them is gone: nobody may be told that it is not found).
        """
        if not self.journals.durable:
            return None
        self._check_ending()
        known = self.sessions.by_id.get(id) if id is not None else self.sessions.by_handle.get(handle or b"")
        if known is not None:  # it is ending: what the store still has of it is the past
            return await self._opened(known) if known.principal == principal else None
        load = object()
        self._loads[load] = next(self._ends)
        try:
            stored = await self.journals.store.load(id, handle=handle)
            ended = stored is not None and (stored.session in self._ended or stored.session in self.sessions.evicted)
        except StoreError as error:
            logger.error("a stored session cannot be read: %s", error)  # its text names the file: not for clients
            raise ProtocolError(INTERNAL_ERROR, "the session cannot be read; try again later") from None
        finally:
            del self._loads[load]
            self._forget_ended()
        self._check_ending()
        if stored is None or ended or stored.principal != principal:
            return None
        living = self.sessions.by_id.get(stored.session)
        if living is not None:  # another request was faster
            return await self._opened(living)
        try:
            session = self._revive(stored)
        except LimitError as error:
            self.endpoint.tasks.refuse(error.limit)
            raise ProtocolError(mcp.LIMIT_REACHED, error.message, {"limit": error.limit}) from None
        except msgspec.MsgspecError:
            raise ProtocolError(INTERNAL_ERROR, "the stored session cannot be read") from None
        return await self._opened(session)

    async def _opened(self, session: Session) -> Session | None:
        """The session once the hooks that greet it are through: nobody is served in it before. None if it ended."""
        await session.open()
        self._check_ending()
        return session if session.lifecycle is Lifecycle.OPEN else None

    def _check_ending(self) -> None:
        if self.endpoint.ending:
            text = "the server is shutting down; try again in a moment"
            raise ProtocolError(mcp.LIMIT_REACHED, text, {"limit": "draining"})

    async def recover(self) -> None:
        """At the start: every call that was accepted and not answered is answered now, or runs again.

        The hooks of several sessions run at the same time, and are waited for as long as one of them may take: who
        asks for a session whose hooks are slower waits for it, the others do not.
        """
        if not self.journals.durable:
            return
        greeting: list[asyncio.Task[None]] = []
        places = asyncio.Semaphore(_GREETINGS)
        for id in await self.journals.store.unfinished():
            stored = await self.journals.store.load(id)
            if stored is not None and id not in self.sessions.by_id:
                try:
                    session = self._revive(stored)
                except LimitError as error:  # its calls are answered when somebody asks for it
                    logger.warning("a stored session has to wait: %s", error)
                except msgspec.MsgspecError as error:  # one bad record must not keep the others waiting
                    logger.error("a stored session cannot be read: %s", error)
                else:
                    greeting.append(self.endpoint.tasks.start(_greet(session, places), name="tailrace-greet"))
        if greeting:
            _, late = await asyncio.wait(greeting, timeout=self.endpoint.settings.hook_time)
            if late:
                logger.warning("ready, although restored sessions are still being greeted count=%d", len(late))

    def ended(self, id: str) -> None:
        """A session has ended: what is being read of it from the store must not bring it back."""
        if self._loads:
            self._ended.pop(id, None)  # it goes to the end: they are in the order in which they ended
            self._ended[id] = next(self._ends)

    def _forget_ended(self) -> None:
        """Those go that ended before the oldest read that is under way began."""
        oldest = next(iter(self._loads.values()), None)
        while self._ended:
            id, ended = next(iter(self._ended.items()))
            if oldest is not None and ended > oldest:
                break
            del self._ended[id]

    def sweep(self, now: float) -> None:
        """Every few minutes: end stored sessions that nobody came back for."""
        if self.journals.durable and now >= self._next_cleaning:
            self._next_cleaning = now + _CLEAN_EVERY
            self.endpoint.tasks.start(self._clean_store(), name="tailrace-clean-store")

    async def _clean_store(self) -> None:
        """Stored sessions that nobody came back for end like idle ones; no hook has greeted them in this life."""
        oldest = time.time() - self.endpoint.settings.session_idle - _LATENESS
        try:
            stored = await self.journals.store.sessions()
        except StoreError as error:
            logger.info("old sessions are looked for later: the store cannot be read error=%s", error)
            self._next_cleaning = 0.0
            return
        for id, touched in stored:
            if touched >= oldest:
                break  # oldest first
            if id not in self.sessions.by_id:
                self.journals.write([DropSession(id)])

    def _revive(self, stored: StoredSession) -> Session:
        """Raises `LimitError`, and `MsgspecError` for a record that cannot be read; then nothing has begun."""
        record = decode_record(stored.data)
        state = decode_state(record.state)
        calls = [(call, _decode_call(call.data)) for call in stored.calls]
        session = self.endpoint.home.make(
            stored.session, stored.handle, stored.principal, record, last=stored.last.get(0, 0), restored=True
        )
        session.state = state
        self.sessions.add(session)
        self.endpoint.home.revived(session)
        now = self.endpoint.now()
        for stream, last in stored.last.items():
            if stream:
                self.endpoint.retention.restored_log(session, stream, last)
        asked: list[tuple[Log, StoredEvent]] = []
        for event in stored.events:
            log = session.streams[event.stream] if event.stream else session.log
            log.restore(event.seq, event.payload, Kind(event.kind), now)
            if event.kind == Kind.REQUEST:
                asked.append((log, event))
        unfinished = {call.stream for call in stored.calls}
        for stream, log in session.streams.items():
            if stream not in unfinished:
                log.end()
                session.retire(log)
        for log, event in asked:  # nobody waits for the answers any more; a call that runs again asks again
            log.resolve(event.seq)
            id = msgspec.json.decode(event.payload, type=_Asked).id
            log.append(cancelled_note(id, "the server was restarted"), Kind.NOTIFICATION, now)
        for call, data in calls:
            self._settle(session, call.call, call.stream, data)
        return session

    def _settle(self, session: Session, number: int, stream: int, data: StoredCallData) -> None:
        """A call that a crash interrupted: answer that its outcome is unknown, or run it again."""
        log = session.streams.get(stream) if stream else session.log
        if log is None:  # nothing of its stream was written before the crash
            log = self.endpoint.retention.restored_log(session, stream, 0)
        if not isinstance(data.outcome, UnsetType):  # it had succeeded
            return self._answer(session, number, log, encode_result(data.request_id, bytes(data.outcome)))
        if data.method != "tools/call":
            return self._settle_reading(session, number, log, data)
        tool = self.endpoint.service.tools.get(data.tool)
        if tool is not None and tool.once and data.once is not None:
            key, since = data.once
            # Later than that the ledger may have forgotten that it ran.
            if since + self.endpoint.settings.once_ttl > time.time() and self._ask_again(
                session, number, log, tool, data, key
            ):
                return None
        elif (
            tool is not None
            and tool.on_crash == "rerun"
            and not data.reran
            and self._rerun(session, number, log, ToolCall, tool, data)
        ):
            return None
        result = mcp.ToolResult(
            [Text("The server was stopped while this call was running; whether it took effect is unknown.")],
            is_error=True,
            meta={"io.tailrace/outcome": "unknown"},
        )
        return self._answer(session, number, log, encode_result(data.request_id, mcp.encode(result)))

    def _settle_reading(self, session: Session, number: int, log: Log, data: StoredCallData) -> None:
        """What only reads runs again, once at most; if it cannot, its client reads an error."""
        offered = self.endpoint.service.offered(Viewer(session.principal, session))
        error = ProtocolError(INTERNAL_ERROR, "the server was stopped while this request was running: ask again")
        try:
            found = find_target(offered, data.method, stored_params(data), modern=False)
        except ProtocolError as missing:
            found, error = None, missing
        if data.reran or found is None or not self._rerun(session, number, log, found.kind, found.target, data):
            self._answer(session, number, log, encode_failure(data.request_id, error))

    def _answer(self, session: Session, number: int, log: Log, payload: bytes) -> None:
        journal = self.endpoint.home.journal_of(session)
        if journal is not None:
            journal.along(EndCall(session.id, number))
        log.append(payload, Kind.ANSWER, self.endpoint.now())
        if log.stream:
            log.end()
            self.endpoint.retention.retire(session, log)

    def _rerun(
        self, session: Session, number: int, log: Log, kind: type[McpCall], target: Any, data: StoredCallData
    ) -> bool:
        """Run an interrupted call again, for the only time: that is committed before it starts."""
        stream = log.stream
        call = self._again(kind, session, number, log, target, data)
        if call is None:
            return False
        call.reran = True

        def committed(error: StoreError | None) -> None:
            if error is None:
                self.endpoint.tasks.start(self._start_greeted(session, call), name="tailrace-rerun")
            else:
                call.cancel(error)

        self.journals.write([PutCall(session.id, number, stream, call.stored())], committed)
        return True

    def _ask_again(self, session: Session, number: int, log: Log, tool: Tool, data: StoredCallData, key: str) -> bool:
        """A call that runs once is asked for again, under its key: what came of it, the ledger knows.

        If it knows nothing, the crash came before the run, which begins now.
        """
        claim = Claim(session.principal, key, fingerprint_of(tool.name, msgspec.json.decode(data.arguments)))
        make = partial(OnceCall, once=self.endpoint.once, claim=claim, restored=True)
        call = self._again(make, session, number, log, tool, data)
        if call is not None:
            self.endpoint.tasks.start(self._start_greeted(session, call), name="tailrace-rerun")
        return call is not None

    def _again(
        self, make: Callable[..., McpCall], session: Session, number: int, log: Log, target: Any, data: StoredCallData
    ) -> McpCall | None:
        """A journalled call in its session once more; None if there is no room for it."""
        stream = log.stream
        journal = self.endpoint.home.journal_of(session)
        meta = mcp.Meta(progress_token=data.progress_token) if data.progress_token is not None else mcp.NO_META
        call = make(
            number if stream else data.request_id,
            number,
            data.request_id,
            session,
            self.endpoint.tasks,
            SessionReply(self.endpoint.retention, session, journal, log, retire=bool(stream)),
            target=target,
            arguments=data.arguments,
            meta=meta,
            dialect=self.endpoint.legacy,
            level=session.record.level,
            max_result=self.endpoint.settings.max_result,
            asking=self.endpoint.asking,
            principal=session.principal,
        )
        call.journalled = True
        try:
            session.accept(call)
        except (LimitError, KeyError) as error:
            logger.warning("a call of the last process life is not run again: %s", error)
            return None
        return call

    async def _start_greeted(self, session: Session, call: McpCall) -> None:
        """No code of the user's runs in a session before the hooks that greet it are through."""
        await session.open()
        call.start()


async def _greet(session: Session, places: asyncio.Semaphore) -> None:
    async with places:
        await session.open()
