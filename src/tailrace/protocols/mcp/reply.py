"""Where a call's frames go: into its session's stream, or back through the POST that brought it.

A POST's reply is *held* while the answer may come at once: then it is one JSON body, and nothing was
promised. It becomes a stream at the first notification, or when the hold time is over; a legacy
session's stream is journalled first, so that it can be resumed from its first byte on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from tailrace.core.ports import AppendEvent, EndCall, Kind, PutCall, Record
from tailrace.core.session import Lifecycle
from tailrace.errors import ClientGone
from tailrace.protocols.mcp.framing import SseFraming
from tailrace.wire import sse

if TYPE_CHECKING:
    from tailrace.core.call import Call
    from tailrace.core.exchange import Exchange
    from tailrace.core.log import Log
    from tailrace.core.outgoing import Leaving
    from tailrace.core.session import Session
    from tailrace.core.writer import Writer
    from tailrace.errors import StoreError
    from tailrace.protocols.mcp.call import McpCall
    from tailrace.protocols.mcp.endpoint import Endpoint
    from tailrace.protocols.mcp.journal import SessionJournal
    from tailrace.protocols.mcp.retention import Retention

__all__ = ["JSON", "SSE", "ExchangeReply", "SessionReply"]

JSON = ((b"content-type", b"application/json"),)
SSE = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


class SessionReply:
    """A stream of the session carries everything (HTTP+SSE, stdio, calls that run again after a crash).

    Args:
        retention: Knows how much room there is.
        session: Whose stream it is.
        journal: Where the ends of calls are recorded, or None.
        log: Another stream than the session's own.
        retire: The stream was made for one call, and ends with it.
    """

    __slots__ = ("_log", "_now", "_retention", "_retire", "_session", "journal")

    def __init__(
        self,
        retention: Retention,
        session: Session,
        journal: SessionJournal | None,
        log: Log | None = None,
        *,
        retire: bool = False,
    ) -> None:
        self.journal = journal
        self._retention = retention
        self._session = session
        self._log = log or session.log
        self._retire = retire
        self._now = session.tasks.loop.time

    def notify(self, call: Call, payload: bytes) -> None:
        """Behind everything the session has sent so far."""
        self._log.append(payload, Kind.NOTIFICATION, self._now())

    def request(self, payload: bytes) -> tuple[Log, int] | None:
        """A request to the client: where it is, or None where it cannot go out any more."""
        seq = self._log.append(payload, Kind.REQUEST, self._now())
        return (self._log, seq) if seq else None

    def answer(self, call: Call, payload: bytes | None) -> None:
        """Into the log, together with the record that the call has ended."""
        state = self._retention.endpoint.home.changed_state(self._session) if self.journal is not None else None
        end_call(self.journal, call, self._log, payload, self._now(), state)
        if self._retire:
            self._log.end()
            self._retention.retire(self._session, self._log)

    def release(self, call: Call) -> None:
        """The stream is the session's: it ends no call."""

    async def room(self) -> None:
        """Wait while the session's reader is too far behind."""
        await self._log.room()

    async def room_for(self, size: int) -> bool:
        """As the session has it."""
        return await self._retention.room_for(self._session, size)

    @property
    def gone(self) -> bool:
        """Nobody reads the session's stream."""
        return self._log.reader is None

    def records(self, call: McpCall) -> Sequence[Record]:
        """What the journal is to hold of the call as it is now."""
        return records_of(self.journal, call, self._log)

    def carries(self, call: Call) -> bool:
        """Where the answer is an event that is committed."""
        return call.journalled and self.journal is not None and not self._log.ended and self._log.journal is not None


def end_call(
    journal: SessionJournal | None, call: Call, log: Log, payload: bytes | None, now: float, state: Record | None
) -> None:
    """Append a call's answer and, where its acceptance is journalled, its end, what it publishes, and what it made of
    the session's `state`: all or nothing."""
    if log.ended:  # the session ends: what the journal holds now is for the next process life
        return
    if journal is not None:
        records: list[Record] = [] if state is None else [state]
        if call.journalled:
            records.append(EndCall(journal.session, call.number))
        if records and (payload is None or log.journal is None):
            journal.journals.write(records)
        elif call.leaving is not None:
            then = partial(_published, journal, call, call.leaving, log, log.last + 1)
            journal.along(*records, *call.leaving.records(), then=then)
        else:
            journal.along(*records)
    if payload is not None:
        log.append(payload, Kind.ANSWER, now)


def _published(
    journal: SessionJournal, call: Call, leaving: Leaving, log: Log, seq: int, error: StoreError | None
) -> None:
    """What a call publishes is committed together with its answer, event `seq`; or it is not, and then the call has
    failed, which its answer says before anybody reads it."""
    instead = leaving.settled(error)
    if instead is not None:
        log.replace(seq, instead)
        answer = AppendEvent(journal.session, log.stream, seq, Kind.ANSWER, instead)
        journal.journals.write([answer, EndCall(journal.session, call.number)])


def records_of(journal: SessionJournal | None, call: McpCall, log: Log | None) -> Sequence[Record]:
    """A journalled call's record as it is now; nothing for one that is not journalled."""
    if journal is None or log is None or log.ended or not call.journalled:
        return ()
    return (PutCall(journal.session, call.number, log.stream, call.stored()),)


class ExchangeReply:
    """One POST's reply, for the one call (or the batch, 2025-03-26) that it brought.

    Args:
        endpoint: For the journal, the seals and the clocks.
        exchange: The POST.
        session: The legacy session, or None (modern, stateless).
        calls: How many answers are to come.
        batch: The body was an array, so the JSON reply is one, too.
        primed: Send a priming event, so that a cut before the first event can be resumed (2025-11-25).
        cancels: The client's disconnect is a cancellation (2026-07-28).
    """

    __slots__ = (
        "_answers",
        "_calls",
        "_opening",
        "_writer",
        "batch",
        "cancels",
        "endpoint",
        "exchange",
        "expected",
        "log",
        "primed",
        "session",
        "settled",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        exchange: Exchange,
        session: Session | None,
        calls: int,
        *,
        batch: bool = False,
        primed: bool = False,
        cancels: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.exchange = exchange
        self.session = session
        self.expected = calls
        self.batch = batch
        self.primed = primed
        self.cancels = cancels
        self.settled = False  # for the delay line: there is nothing left to hold
        self.log: Log | None = None
        self._answers: list[bytes] = []  # held, for a JSON reply
        self._calls: list[McpCall] = []
        self._opening = False  # the journal is being written; the reply can still become JSON
        self._writer: Writer | None = None
        exchange.on_gone = self._gone

    def add(self, call: McpCall) -> None:
        """One more call answers here."""
        self._calls.append(call)

    def release(self, call: McpCall) -> None:
        """The client's disconnect is the call's end no more: it has become a task."""
        self._calls.remove(call)

    # --- from the calls ---

    def notify(self, call: Call, payload: bytes) -> None:
        """A notification makes a stream of the reply."""
        if self.log is None:
            if self.exchange.gone and self.cancels:
                return
            self._open()
        if self.log is not None:
            self.log.append(payload, Kind.NOTIFICATION, self.endpoint.now())

    def request(self, payload: bytes) -> tuple[Log, int] | None:
        """A request to the client makes a stream of the reply: where it is, or None where it cannot go out."""
        if self.log is None:
            self._open()
        seq = self.log.append(payload, Kind.REQUEST, self.endpoint.now()) if self.log is not None else 0
        return (self.log, seq) if seq and self.log is not None else None

    def answer(self, call: Call, payload: bytes | None) -> None:
        """The last answer completes the reply."""
        self.expected -= 1
        if not self.expected:
            self._settle()
            if self.log is None and payload is not None and not self.batch and not self.exchange.gone:
                status = self._calls[0].status if self._calls else 200
                self._calls.clear()  # they hold it as well, as the exchange does: see `Call._finish`
                state = self.endpoint.home.changed_state(self.session) if self.session is not None else None
                if state is not None:
                    self._answers.append(payload)
                    self.endpoint.journals.write([state], self._state_stored)
                    return None
                self.exchange.on_gone = None
                return self.exchange.respond(status, JSON, payload)
        if self.log is None and self.exchange.gone and not self.cancels:
            self._open()  # its client went away: what it may ask for again is kept
        if (self.log is None or self._opening) and payload is not None:
            self._answers.append(payload)
        if self.log is not None:
            state = self.endpoint.home.changed_state(self.session)
            end_call(self.endpoint.home.journal_of(self.session), call, self.log, payload, self.endpoint.now(), state)
            if not self.expected:
                self.log.end()
                if not self._opening:  # else it may still be given up
                    self.endpoint.retention.retire(self.session, self.log)
        elif not self.expected:
            self._reply_json()
        return None

    def _state_stored(self, error: StoreError | None) -> None:
        """What the call made of its session's state is safe (or cannot be made so): now it may be heard of."""
        if not self.exchange.gone:
            return self._reply_json()
        if self.session is not None and self.session.lifecycle is Lifecycle.OPEN:
            self._open()
            if self.log is not None:
                self.log.end()
                self.endpoint.retention.retire(self.session, self.log)
        return None

    def answer_now(self, payload: bytes) -> None:
        """An answer that needed no call (a malformed member of a batch, a ping)."""
        self.expected -= 1
        self._answers.append(payload)
        if not self.expected:
            self._settle()
            self._reply_json()

    async def room(self) -> None:
        """Wait while the POST's reader is too far behind."""
        if self.log is not None:
            await self.log.room()

    async def room_for(self, size: int) -> bool:
        """An answer that goes out as JSON is kept by nobody."""
        if self.log is None and not self.exchange.gone:
            return True
        return await self.endpoint.retention.room_for(self.session, size)

    @property
    def gone(self) -> bool:
        """The POST's client went away."""
        return self.exchange.gone

    def records(self, call: McpCall) -> Sequence[Record]:
        """What the journal is to hold of the call as it is now."""
        return records_of(self.endpoint.home.journal_of(self.session), call, self.log)

    def carries(self, call: Call) -> bool:
        """Where the reply is a stream whose events are committed, and stays one."""
        log = self.log
        return call.journalled and not self._opening and log is not None and not log.ended and log.journal is not None

    # --- from the clock and the transport ---

    def due(self) -> None:
        """The hold time is over."""
        if self.log is None and not self.exchange.gone:
            self._open()

    def _gone(self) -> None:
        if self._writer is not None:
            self._writer.cursor.stop()
        if self.cancels:
            self._settle()
            for call in list(self._calls):
                call.cancel(self.exchange.gone_by or ClientGone())

    def _settle(self) -> None:
        self.settled = True
        if self.cancels:
            self.endpoint.waiting.pop(self, None)

    # --- becoming a stream ---

    def _open(self) -> None:
        self._settle()
        promised = all(call.target.journal for call in self._calls)
        self.log = log = self.endpoint.retention.call_log(self.session, journalled=promised)
        for payload in self._answers:
            log.append(payload, Kind.ANSWER, self.endpoint.now())
        journal = self.endpoint.home.journal_of(self.session)
        if journal is None or not promised:
            return self._begin()
        records: list[Record] = [
            PutCall(journal.session, call.number, log.stream, call.stored())
            for call in self._calls
            if call in self.endpoint.tasks.calls
        ]
        for call in self._calls:
            call.journalled = True
        if records:
            self._opening = True
            journal.journals.write(records, self._journalled)
        else:  # they have ended: their answers follow, and are journalled themselves
            self._begin()
        return None

    def _journalled(self, error: StoreError | None) -> None:
        self._opening = False
        if error is None or self.exchange.gone:
            self._answers.clear()
            if self.log is not None and not self.expected:
                self.endpoint.retention.retire(self.session, self.log)
            self._begin()
            return
        # Nothing was promised yet, and nothing can be now: the answer will be JSON, progress is not sent.
        for call in self._calls:
            call.journalled = False
            self.endpoint.asking.undeliverable(call)
        if self.log is not None:
            self.endpoint.retention.drop_log(self.session, self.log)
        self.log = None
        if not self.expected:
            self._reply_json()

    def _begin(self) -> None:
        log, exchange = self.log, self.exchange
        if exchange.gone or log is None:
            return
        framing, first = SseFraming(), b""
        if self.session is not None:
            framing = self.endpoint.streams.framing(self.session, log.stream)
            if self.primed:
                first = sse.event(b"", id=framing.event_id(0), retry=self.endpoint.settings.retry)
        self._writer = writer = self.endpoint.streams.writer(log.attach(0), framing)
        exchange.stream(200, self.endpoint.streams.headers(self.session), writer.run, first)

    def _reply_json(self) -> None:
        if self.exchange.gone:
            return
        if not self._answers:  # cancelled without an answer
            self.exchange.respond(202, ())
        elif self.batch:
            self.exchange.respond(200, JSON, b"[" + b",".join(self._answers) + b"]")
        else:
            self.exchange.respond(200, JSON, self._answers[0])
