"""What happened in each session, kept for the console within named limits.

The recorder hears of it from the core (`core.watching`), on the loop, and does next to nothing then: a line is
appended to a ring, or counted into the line before it where the two say the same. Payloads are not kept, only sizes.

A session's id is a credential. Outside of this file the session is known by `public_id`, a digest of it.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tailrace.core.context import current

if TYPE_CHECKING:
    from tailrace.core.call import Call
    from tailrace.core.ports import Kind
    from tailrace.core.session import Session
    from tailrace.core.tasks import Detached
    from tailrace.core.watching import WatchedLog

__all__ = ["ALONE", "MAX_EVENTS", "MAX_TEXT", "MAX_TIMELINES", "Event", "Recorder", "Running", "Timeline", "public_id"]

MAX_TIMELINES = 1024  # of sessions, living and ended; the one to which nothing happened for longest goes first
MAX_EVENTS = 100  # lines of one timeline; the oldest go first
MAX_TEXT = 200  # characters of what a line says
ALONE = "-"  # the timeline of calls and work without a session: 2026-07-28, RPC

_DIGITS = 12  # of a public id
_REPEATED = frozenset({"log", "write"})  # lines that are counted together: there are many of them


def public_id(id: str) -> str:
    """What a session is called where its id must not be seen: the first digits of the SHA-256 of its id, so that who
    has the id finds the session."""
    return hashlib.sha256(id.encode()).hexdigest()[:_DIGITS]


class Event:
    """One line of a timeline.

    Attributes:
        at: When (seconds since 1970).
        what: ``open restore accept run log write attach resume leave end detach done close``.
        call: Which call or detached work, by the number it is shown with; None: none.
        stream: Which stream of the session; None: none.
        text: More about it, for people.
        count: How many of its kind it stands for.
        size: Bytes of them all.
        until: When the last of them was.
    """

    __slots__ = ("at", "call", "count", "size", "stream", "text", "until", "what")

    def __init__(self, at: float, what: str, call: int | None, stream: int | None, text: str, count: int, size: int):
        self.at = self.until = at
        self.what = what
        self.call = call
        self.stream = stream
        self.text = text
        self.count = count
        self.size = size


class Timeline:
    """What happened in one session.

    Attributes:
        session: Which, while it lives.
        events: The newest lines, oldest first.
        dropped: How many older ones are gone.
        closed: When it ended; None while it lives.
        about: What is left to say of it after its end.
    """

    __slots__ = ("about", "closed", "dropped", "events", "session")

    def __init__(self, session: Session | None) -> None:
        self.session = session
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.dropped = 0
        self.closed: float | None = None
        self.about: dict[str, str] = {}

    def add(self, event: Event) -> None:
        """Append a line, or count it into one of the last two: events and writes of one stream alternate."""
        events = self.events
        if event.what in _REPEATED:
            for back in range(1, min(len(events), 2) + 1):
                earlier = events[-back]
                if earlier.what not in _REPEATED:
                    break
                if (earlier.what, earlier.stream, earlier.text) == (event.what, event.stream, event.text):
                    earlier.count += event.count
                    earlier.size += event.size
                    earlier.until = event.at
                    return
        if len(events) == MAX_EVENTS:
            self.dropped += 1
        events.append(event)


class Running:
    """A call or detached work that has not ended.

    Attributes:
        number: What it is shown with, and asked for by.
        label: Its name.
        session: The public id of its session; `ALONE` where it has none.
        began: When it was accepted (seconds since 1970).
        started: When it began to run; None: not yet.
    """

    __slots__ = ("began", "label", "number", "session", "started")

    def __init__(self, number: int, label: str, session: str, began: float) -> None:
        self.number = number
        self.label = label
        self.session = session
        self.began = began
        self.started: float | None = None


class Recorder:
    """Keeps timelines (fulfils `core.watching.Watcher`). All of it belongs to the event loop.

    Args:
        clock: Seconds since 1970.
        numbers: What calls and detached work are shown with; of several workers no two give the same at a time.

    Attributes:
        living: The sessions of now, by their public ids.
        calls: The calls of now, in the order of their acceptance.
        work: The detached work of now.
        timelines: By public id; the one to which something happened last stands last.
        began: When it began to record.
    """

    def __init__(self, clock: Callable[[], float] = time.time, numbers: Iterator[int] | None = None) -> None:
        self._clock = clock
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._names: dict[str, str] = {}  # the public ids of the living
        self.living: dict[str, Session] = {}
        self._texts: dict[str, str] = {}  # what the living are found by, as far as somebody has looked for it
        self.calls: dict[Call, Running] = {}
        self.work: dict[Detached, Running] = {}
        self.timelines: OrderedDict[str, Timeline] = OrderedDict()
        self.began = clock()

    # --- sessions ---

    def session_opened(self, session: Session) -> None:
        """It is there from now on."""
        name = self._names[session.id] = public_id(session.id)
        self.living[name] = session
        timeline = self.timelines.get(name)
        if timeline is not None:  # it has ended in this process, and comes back
            timeline.session, timeline.closed = session, None
        self._note(name, "restore" if session.restored else "open")

    def session_closed(self, session: Session) -> None:
        """Its timeline stays for a while."""
        name = self._names.pop(session.id, None)
        if name is None:
            return
        self.living.pop(name, None)
        self._texts.pop(name, None)
        self._note(name, "close", text=session.reason)
        timeline = self.timelines[name]
        timeline.closed = self._clock()
        timeline.about = about(session)
        timeline.session = None

    def search(self, words: Sequence[str]) -> list[tuple[str, Session]]:
        """The living sessions whose public id, client, principal, transport and version hold all of these words."""
        texts = self._texts
        found: list[tuple[str, Session]] = []
        for name, session in self.living.items():
            text = texts.get(name)
            if text is None:
                text = f"{name} {' '.join(about(session).values())}".lower()
                if getattr(session.record, "version", ""):  # it has said who it is, and says so once
                    texts[name] = text
            if all(word in text for word in words):
                found.append((name, session))
        return found

    # --- calls and detached work ---

    def call_accepted(self, call: Call) -> None:
        """It gets a number."""
        running = Running(next(self._numbers), call.label[:MAX_TEXT], self._place(call.session), self._clock())
        self.calls[call] = running
        self._note(running.session, "accept", call=running.number, text=running.label)

    def call_started(self, call: Call) -> None:
        """Its code is about to run."""
        running = self.calls.get(call)
        if running is not None:
            running.started = self._clock()
            self._note(running.session, "run", call=running.number, text=_short(running.label))

    def call_ended(self, call: Call) -> None:
        """With an answer, or without."""
        running = self.calls.pop(call, None)
        if running is not None:
            self._note(running.session, "end", call=running.number, text=f"{_short(running.label)}: {_outcome(call)}")

    def detached_began(self, work: Detached) -> None:
        """By a call of the session to which this will belong."""
        caller = current().call
        place = self._place(caller.public_session if caller is not None else None)
        running = self.work[work] = Running(next(self._numbers), work.name[:MAX_TEXT], place, self._clock())
        running.started = running.began
        self._note(place, "detach", call=running.number, text=running.label)

    def detached_failed(self, work: Detached, error: BaseException) -> None:
        """Its end will say so."""
        running = self.work.get(work)
        if running is not None:
            running.label = f"{running.label}: failed: {type(error).__name__}: {error}"[:MAX_TEXT]

    def detached_ended(self, work: Detached) -> None:
        """It is over."""
        running = self.work.pop(work, None)
        if running is not None:
            self._note(running.session, "done", call=running.number, text=running.label)

    # --- streams ---

    def appended(self, log: WatchedLog, kind: Kind, size: int) -> None:
        """Something is there to be read."""
        self._note(self._owner(log), "log", stream=log.stream, text=kind.name.lower(), size=size)

    def attached(self, log: WatchedLog, after: int, missing: int, *, again: bool) -> None:
        """Somebody reads."""
        if not again:
            return self._note(self._owner(log), "attach", stream=log.stream)
        lost = f"; {missing} are gone" if missing else ""
        return self._note(self._owner(log), "resume", stream=log.stream, text=f"behind event {after}{lost}")

    def written(self, log: WatchedLog, count: int) -> None:
        """The connection took it."""
        self._note(self._owner(log), "write", stream=log.stream, count=count)

    def left(self, log: WatchedLog) -> None:
        """Nobody reads any more."""
        text = "the stream has ended" if log.finished else ""
        self._note(self._owner(log), "leave", stream=log.stream, text=text)

    # --- inside ---

    def _place(self, session: Session | None) -> str:
        return ALONE if session is None else self._names.get(session.id, ALONE)

    def _owner(self, log: WatchedLog) -> str:
        return self._names.get(log.owner, "") if log.owner else ALONE

    def _note(
        self,
        name: str,
        what: str,
        *,
        call: int | None = None,
        stream: int | None = None,
        text: str = "",
        count: int = 1,
        size: int = 0,
    ) -> None:
        if not name:  # a stream of a session that has left the table, or is about to come back
            return
        timeline = self.timelines.get(name)
        if timeline is None:
            timeline = self.timelines[name] = Timeline(self.living.get(name))
            if len(self.timelines) > MAX_TIMELINES:
                self.timelines.popitem(last=False)
        else:
            self.timelines.move_to_end(name)
        timeline.add(Event(self._clock(), what, call, stream, text[:MAX_TEXT], count, size))


def about(session: Session) -> dict[str, str]:
    """What people want to know of a session; what its client says of itself is cut."""
    record = session.record
    client = getattr(record, "client", {})
    said = [str(client.get(key) or "") for key in ("title", "name", "version")]
    return {
        "transport": str(getattr(record, "transport", "")),
        "version": str(getattr(record, "version", "")),
        "client": " ".join(dict.fromkeys(part for part in said if part))[:MAX_TEXT],
        "principal": session.principal[:MAX_TEXT],
        "reason": session.reason[:MAX_TEXT],
    }


def _short(label: str) -> str:
    """Without the id that its client gave it: where a call begins, that stands with it."""
    return label.partition(" (request ")[0]


def _outcome(call: Call) -> str:
    if call.cancelled_by is not None:
        return f"cancelled: {call.cancelled_by}"
    if call.paused:
        return "waits for its client's answer"
    return "ok" if call.failure is None else f"failed: {call.failure}"
