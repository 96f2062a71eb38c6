"""The guards of the guarantees, each with a way to take it out, as somebody might who does not see what it is for.

`take_out(monkeypatch, name)` does it. The product is patched at run time: `tests/mutants` does the same
to its text.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.core.call import Call, CallState
from tailrace.core.cursor import Cursor
from tailrace.core.exchange import Sink
from tailrace.core.log import Log
from tailrace.core.ports import PutCall
from tailrace.core.session import Lifecycle, Session
from tailrace.core.tasks import Tasks
from tailrace.core.waiters import Waiters
from tailrace.core.writer import Writer
from tailrace.errors import CallCancelled
from tailrace.protocols.mcp import reply, sse, streamable
from tailrace.protocols.mcp.endpoint import Endpoint
from tailrace.protocols.mcp.journal import Journals, SessionJournal
from tailrace.protocols.mcp.recovery import Recovery
from tailrace.protocols.mcp.reply import ExchangeReply
from tailrace.protocols.mcp.sessions import SessionHome
from tailrace.protocols.mcp.sse import HttpSse
from tailrace.protocols.mcp.streams import Streams

Patch = pytest.MonkeyPatch
GUARDS: dict[str, Callable[[Patch], None]] = {}


def take_out(patch: Patch, name: str) -> None:
    """Take the guard `name` out until the end of the test."""
    GUARDS[name](patch)


def guard(remove: Callable[[Patch], None]) -> Callable[[Patch], None]:
    GUARDS[remove.__name__] = remove
    return remove


# --- of a session's end (G2) ---


@guard
def closing_is_one_step(patch: Patch) -> None:
    """The state is tested now and set later."""

    def begin(self: Session, reason: str, keep: bool, grace: float) -> None:
        async def later() -> None:
            self.lifecycle = Lifecycle.CLOSING
            await self._finish(reason, keep, grace)

        if self.lifecycle is Lifecycle.OPEN:
            self.tasks.start(later(), name="close")

    patch.setattr(Session, "_begin_close", begin)


@guard
def each_waiter_has_its_own_future(patch: Patch) -> None:
    """All wait on one future, and one who is cancelled cancels it."""

    async def wait(self: Waiters) -> None:
        future = next(iter(self._futures), None) or asyncio.get_running_loop().create_future()
        self._futures[future] = None
        await future

    patch.setattr(Waiters, "wait", wait)


@guard
def the_greeting_is_over_before_the_farewell(patch: Patch) -> None:
    """A session that is closed while it is greeted does not wait for that."""
    finish = Session._finish

    async def without(self: Session, reason: str, keep: bool, grace: float) -> None:
        self._opening = None
        await finish(self, reason, keep, grace)

    patch.setattr(Session, "_finish", without)


@guard
def an_ended_stream_takes_nothing(patch: Patch) -> None:
    """What is appended behind the end gets a number."""
    append = Log.append

    def anyway(self: Log, *arguments: Any) -> int:
        ended, self.ended = self.ended, False
        try:
            return append(self, *arguments)
        finally:
            self.ended = ended

    patch.setattr(Log, "append", anyway)


@guard
def the_end_wakes_the_reader(patch: Patch) -> None:
    """Who waits for the next event is not told that there is none."""

    def end(self: Log) -> None:
        self.ended = True
        self.free_rooms()

    patch.setattr(Log, "end", end)


# --- of a call (G1) ---


@guard
def a_call_that_has_not_begun_is_not_cancelled_as_a_task(patch: Patch) -> None:
    """A task that is cancelled before its first step never runs, so the call never ends."""

    def cancel(self: Call, error: Exception) -> None:
        if self.state is not CallState.ENDED and self.context.error is None:
            self.context.cancel(error)
            assert self.task is not None
            self.task.cancel()

    patch.setattr(Call, "cancel", cancel)


@guard
def a_call_is_not_its_connections(patch: Patch) -> None:
    """The end of the connection that a call came in on cancels it."""

    def left(self: Streams, session: Session, cursor: Cursor) -> None:
        cursor.stop()
        for call in list(session.calls.values()):
            call.cancel(CallCancelled("its connection ended"))

    patch.setattr(Streams, "left", left)


@guard
def the_drain_is_told(patch: Patch) -> None:
    """Nobody says that the last call has ended."""
    patch.setattr(Tasks, "_check_idle", lambda self: None)


@guard
def a_reader_that_left_frees_the_room(patch: Patch) -> None:
    """A call goes on to wait for a reader that is gone."""

    def stop(self: Cursor) -> None:
        if not self.stopped:
            self.stopped = True
            self.log.reader = None
            self.wake()

    patch.setattr(Cursor, "stop", stop)


# --- of a stream (G1, G3) ---


@guard
def the_newest_reader_takes_the_stream(patch: Patch) -> None:
    """Two cursors read one log."""

    def attach(self: Log, after: int) -> Cursor:
        self.reader = Cursor(self, min(after, self.last))
        return self.reader

    patch.setattr(Log, "attach", attach)


@guard
def a_resume_begins_where_the_client_is(patch: Patch) -> None:
    """It begins where the last connection was: what that one took and did not deliver is lost."""
    attach = Log.attach
    patch.setattr(Log, "attach", lambda self, after: attach(self, max(after, self.delivered)))


@guard
def a_new_reader_counts_from_the_log(patch: Patch) -> None:
    """It believes that nothing lies behind it."""
    made = Cursor.__init__

    def count_nothing(self: Cursor, log: Log, after: int) -> None:
        made(self, log, after)
        self.unread = 0

    patch.setattr(Cursor, "__init__", count_nothing)


@guard
def waking_twice_is_harmless(patch: Patch) -> None:
    """A future that has its result gets it again."""

    def wake(self: Cursor) -> None:
        if self._waiter is not None:
            self._waiter.set_result(None)

    patch.setattr(Cursor, "wake", wake)


@guard
def the_writer_sends_the_keep_alive(patch: Patch) -> None:
    """Somebody else does, when it is due."""
    sinks: dict[Writer, Sink] = {}
    run = Writer.run

    async def remember(self: Writer, sink: Sink) -> None:
        sinks[self] = sink
        await run(self, sink)

    def sweep(self: Writer, now: float) -> None:
        asyncio.get_running_loop().create_task(sinks[self].write(self.ping))

    patch.setattr(Writer, "run", remember)
    patch.setattr(Writer, "sweep", sweep)


@guard
def the_peers_end_is_no_error(patch: Patch) -> None:
    """The writer fails when its peer is gone."""

    async def run(self: Writer, sink: Sink) -> None:
        self.sweeps.add(self)
        try:
            await self._send(sink)
        finally:
            self.sweeps.discard(self)
            self.cursor.stop()

    patch.setattr(Writer, "run", run)


@guard
def an_event_is_sent_when_it_is_durable(patch: Patch) -> None:
    """It may be read as soon as it was handed over."""
    append = SessionJournal.append

    def at_once(self: SessionJournal, log: Log, seq: int, *rest: Any) -> None:
        append(self, log, seq, *rest)
        log.commit(seq)

    patch.setattr(SessionJournal, "append", at_once)


# --- of the protocols ---


@guard
def the_202_waits_for_the_commit(patch: Patch) -> None:
    """It is sent as soon as the call is owned."""

    def at_once(self: HttpSse, exchange: Any, session: Session, call: Any) -> None:
        exchange.respond(202, (), b"Accepted")
        call.journalled = True
        record = PutCall(session.id, call.number, 0, call.stored())
        self.endpoint.journals.write([record], lambda error: call.start())

    patch.setattr(HttpSse, "_accepted", at_once)


@guard
def the_handler_waits_for_the_commit(patch: Patch) -> None:
    """It starts as soon as the call is owned."""
    accepted = HttpSse._accepted

    def at_once(self: HttpSse, exchange: Any, session: Session, call: Any) -> None:
        call.start()
        accepted(self, exchange, session, call)

    patch.setattr(HttpSse, "_accepted", at_once)


@guard
def a_stream_begins_when_its_call_is_durable(patch: Patch) -> None:
    """Its head is sent while the journal is being written."""
    opened = ExchangeReply._open

    def at_once(self: ExchangeReply) -> None:
        opened(self)
        if self._opening:
            self._opening = False
            self._begin()

    patch.setattr(ExchangeReply, "_open", at_once)
    patch.setattr(ExchangeReply, "_journalled", lambda self, error: None)


@guard
def an_answer_ends_its_call_in_the_journal(patch: Patch) -> None:
    """The store goes on to believe that the call is owed."""
    end_call = reply.end_call
    patch.setattr(reply, "end_call", lambda journal, *rest: end_call(None, *rest))


@guard
def no_session_comes_back_while_all_end(patch: Patch) -> None:
    """A request brings a session back that the shutdown has just put away, or is told that it is gone."""
    patch.setattr(Recovery, "_check_ending", lambda self: None)


@guard
def work_that_ends_without_a_reply_is_noticed(patch: Patch) -> None:
    """A request whose work was cancelled by the shutdown waits for ever."""

    def only_start(tasks: Tasks, exchange: Any, work: Any, name: str) -> None:
        tasks.start(work, name=name)

    for module in (sse, streamable):
        patch.setattr(module, "answer_later", only_start)


@guard
def a_stateless_call_ends_with_its_client(patch: Patch) -> None:
    """Nobody tells it."""
    patch.setattr(ExchangeReply, "_gone", lambda self: None)


# --- of the journal ---


@guard
def a_session_is_stored_before_it_is_answered(patch: Patch) -> None:
    """Its id is given out while it is being written."""

    async def commit(self: Journals, records: Any) -> None:
        self.write(records)

    patch.setattr(Journals, "commit", commit)


@guard
def numbers_go_on_where_they_were(patch: Patch) -> None:
    """Each process life counts its calls and their streams from one."""
    made = Endpoint.__init__

    def count_anew(self: Endpoint, *arguments: Any) -> None:
        made(self, *arguments)
        self.numbers = itertools.count(1)

    patch.setattr(Endpoint, "__init__", count_anew)


@guard
def a_sessions_own_stream_goes_on_where_it_was(patch: Patch) -> None:
    """Its events are numbered from one again."""
    make = SessionHome.make

    def from_one(self: SessionHome, *arguments: Any, last: int = 0, **more: Any) -> Session:
        return make(self, *arguments, **more)

    patch.setattr(SessionHome, "make", from_one)


@guard
def an_answer_and_the_end_of_its_call_are_one_write(patch: Patch) -> None:
    """The call's end is written first, and its answer follows."""

    def along(self: SessionJournal, *records: Any) -> None:
        self.journals.write(records)

    patch.setattr(SessionJournal, "along", along)
