"""What the console shows, as JSON-able values: all of the server, or one session. Every list has a limit.

Times are seconds since 1970 and do not change by themselves, so that an unchanged server gives unchanged bytes.
Sessions are named by their public ids; what a client says of itself is text, and nobody's markup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from tailrace.console.recorder import ALONE, MAX_EVENTS, about
from tailrace.errors import StoreError

if TYPE_CHECKING:
    from tailrace.console.recorder import Event, Recorder, Running, Timeline
    from tailrace.core.log import Log
    from tailrace.core.ports import Store
    from tailrace.core.session import Session

__all__ = ["MAX_ENDED", "MAX_ROWS", "Lag", "Views"]

MAX_ROWS = 100  # rows of one page of a list
_MAX_STREAMS = 50  # streams of one session that are listed
_MAX_FILTER = 200  # characters of a filter
MAX_ENDED = 25  # ended sessions that are listed


class Lag:
    """How long the store takes from a write to its commit, measured by an empty write each time somebody looks.

    Args:
        store: Gives the one that counts now.
        now: Monotonic seconds.

    Attributes:
        seconds: As it was the last time; None: not measured yet.
        error: Why the last measurement failed; ``""`` where it did not.
    """

    def __init__(self, store: Callable[[], Store], now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._since: float | None = None
        self.seconds: float | None = None
        self.error = ""

    def measure(self) -> None:
        """Begin a measurement, unless one is going on."""
        if self._since is not None:
            return
        try:
            store = self._store()
            ticket = store.write([])
        except StoreError as error:
            self.error = str(error)[:_MAX_FILTER]
            return
        self._since = self._now()
        store.when(ticket, self._committed)

    def view(self) -> dict[str, Any]:
        """Milliseconds, in steps that differ; how long a measurement is overdue counts."""
        waiting = 0.0 if self._since is None else self._now() - self._since
        seconds = self.seconds if waiting < 1.0 else waiting
        return {"ms": None if seconds is None else _steps(seconds * 1000), "error": self.error}

    def _committed(self, error: StoreError | None) -> None:
        if self._since is not None:
            self.seconds, self._since = self._now() - self._since, None
        self.error = "" if error is None else str(error)[:_MAX_FILTER]


class Views:
    """Makes the views of one server.

    Args:
        recorder: What it heard.
        service: The service's name and version.
        statistics: As `svc.statistics()`, of this server.
        store: Gives the one that counts now, for its lag and its failure.
        limits: Named limits of the server, shown beside what they limit.
        wall: Seconds since 1970.
        now: The loop's time, in which sessions count.
    """

    def __init__(
        self,
        recorder: Recorder,
        service: tuple[str, str],
        statistics: Callable[[], Mapping[str, Mapping[str, Any]]],
        store: Callable[[], Store],
        limits: Mapping[str, int],
        *,
        wall: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self.recorder = recorder
        self.lag = Lag(store, now)
        self._service = service
        self._statistics = statistics
        self._store = store
        self._limits = dict(limits)
        self.wall = wall
        self._now = now

    def state(self, *, search: str = "", offset: int = 0, limit: int = 50) -> dict[str, Any]:
        """All of the server, and one page of its sessions: those to which something happened last come first.

        Args:
            search: Words that a session's id, client, principal, transport and version together have to hold.
            offset: Sessions before the page.
            limit: Sessions of it; `MAX_ROWS` at most.
        """
        name, version = self._service
        failure = self._store().failure
        totals = {section: dict(numbers) for section, numbers in self._statistics().items()}
        totals["detached"].pop("names", None)  # they have a list of their own
        lag = {**self.lag.view(), "failure": "" if failure is None else str(failure)[:_MAX_FILTER]}
        self.lag.measure()  # for the next look: behind the numbers, which it would be part of
        return {
            "service": {"name": name, "version": version, "began": round(self.recorder.began, 3)},
            "limits": self._limits,
            "totals": totals,
            "lag": lag,
            "sessions": self._sessions(search[:_MAX_FILTER], max(0, offset), max(1, min(limit, MAX_ROWS))),
            "calls": self._running(self.recorder.calls.values()),
            "detached": self._running(self.recorder.work.values()),
            "ended": self._ended(),
        }

    def session(self, name: str) -> dict[str, Any] | None:
        """One session, living or ended, with its timeline; `ALONE` for what has no session; None: unknown."""
        recorder = self.recorder
        living = recorder.living.get(name)
        timeline = recorder.timelines.get(name)
        if living is None and timeline is None and name != ALONE:
            return None
        if living is not None:
            found: dict[str, Any] = self._row(name, living)
        elif timeline is not None and timeline.closed is not None:
            found = _ended_row(name, timeline)
        else:
            found = {"id": ALONE, "state": "open"}
        found["streams"] = [] if living is None else _streams(living)
        found["running"] = self._running(one for one in recorder.calls.values() if one.session == name)
        found["detached"] = self._running(one for one in recorder.work.values() if one.session == name)
        found["timeline"] = [] if timeline is None else [_line(event) for event in timeline.events]
        found["dropped"] = 0 if timeline is None else timeline.dropped
        found["kept"] = MAX_EVENTS
        return found

    def touched(self, search: str) -> list[float]:
        """When each of the sessions that are found was last used, the newest first."""
        return [self._at(session.touched) for _, session in self._found(search[:_MAX_FILTER])]

    # --- parts ---

    def _sessions(self, search: str, offset: int, limit: int) -> dict[str, Any]:
        found = self._found(search)
        rows = [self._row(*entry) for entry in found[offset : offset + limit]]
        open = len(self.recorder.living)
        return {"open": open, "found": len(found), "offset": offset, "limit": limit, "rows": rows}

    def _found(self, search: str) -> list[tuple[str, Session]]:
        words = search.lower().split()
        found = self.recorder.search(words) if words else list(self.recorder.living.items())
        found.sort(key=lambda entry: entry[1].touched, reverse=True)
        return found

    def _row(self, name: str, session: Session) -> dict[str, Any]:
        logs = (session.log, *session.streams.values())
        readers = [log.reader for log in logs if log.reader is not None]
        return {
            "id": name,
            **about(session),
            "state": session.lifecycle.name.lower(),
            "created": self._at(session.created),
            "touched": self._at(session.touched),
            "calls": len(session.calls),
            "readers": len(readers),
            "unread": sum(reader.unread for reader in readers),
            "held": session.budget.held,
            "restored": session.restored,
        }

    def _running(self, running: Any) -> dict[str, Any]:
        every = list(running)
        return {"count": len(every), "rows": [_running_row(one) for one in every[:MAX_ROWS]]}

    def _ended(self) -> list[dict[str, Any]]:
        ended = ((name, one) for name, one in reversed(self.recorder.timelines.items()) if one.closed is not None)
        return [_ended_row(name, timeline) for name, timeline in islice(ended, MAX_ENDED)]

    def _at(self, loop_time: float) -> float:
        """Since 1970, in tenths: the two clocks differ by a little less each time."""
        return round(self.wall() - (self._now() - loop_time), 1)


def _running_row(running: Running) -> dict[str, Any]:
    started = None if running.started is None else round(running.started, 3)
    return {
        "number": running.number,
        "label": running.label,
        "session": running.session,
        "accepted": round(running.began, 3),
        "started": started,
    }


def _ended_row(name: str, timeline: Timeline) -> dict[str, Any]:
    closed = timeline.closed
    return {"id": name, **timeline.about, "state": "closed", "closed": None if closed is None else round(closed, 3)}


def _streams(session: Session) -> list[dict[str, Any]]:
    newest = islice(reversed(session.streams.values()), _MAX_STREAMS - 1)
    return [_stream(session.log), *(_stream(log) for log in newest)]


def _stream(log: Log) -> dict[str, Any]:
    return {
        "number": log.stream,
        "events": log.events,
        "bytes": log.bytes,
        "last": log.last,
        "delivered": min(log.delivered, log.last),
        "uncommitted": log.uncommitted,
        "read": log.reader is not None,
        "unread": 0 if log.reader is None else log.reader.unread,
        "ended": log.ended,
    }


def _line(event: Event) -> dict[str, Any]:
    return {
        "at": round(event.at, 4),
        "until": round(event.until, 4),
        "what": event.what,
        "call": event.call,
        "stream": event.stream,
        "text": event.text,
        "count": event.count,
        "bytes": event.size,
    }


def _steps(milliseconds: float) -> float:
    """Two digits: what differs by less is noise."""
    return float(f"{milliseconds:.2g}")
