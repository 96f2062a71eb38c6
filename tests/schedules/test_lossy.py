"""A crash at every point at which the store or a client can tell one moment from the next, and a start on the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import detangle
import pytest

from tests.schedules import lossy
from tests.schedules.exploring import LIMITS, MORE, SEED, untraced
from tests.schedules.guards import take_out
from tests.schedules.lossy import Crash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
RUNS = 4  # schedules of the life that is cut short
SIMULATED = {name: limit for name, limit in LIMITS.items() if name != "database"}
NESTED = 25  # every so many crashes, the start after it is cut short as well
Record = Callable[[str, object], None]


def crashes_of(runs: int, batch: int) -> list[Crash]:
    """All points of so many schedules, those that nobody can tell apart only once."""
    found: list[Crash] = []
    lead = partial(lossy.lead, found, batch)
    detangle.explore(lead, strategy="auto", seed=SEED, runs=runs, shrink=False, **LIMITS)
    return distinct(found)


def distinct(crashes: list[Crash]) -> list[Crash]:
    return list({(repr(crash.left()), crash.known.place()): crash for crash in crashes}.values())


def start_after(crash: Crash) -> list[Crash]:
    lossy.check(crash)
    found: list[Crash] = []
    detangle.run(partial(lossy.aftermath, crash, found), strategy="fifo", **SIMULATED)
    return found


def start_after_all(crashes: list[Crash]) -> None:
    for crash in crashes:
        start_after(crash)


@pytest.mark.parametrize("batch", [pytest.param(1, id="small"), pytest.param(1000, id="large")])
def test_whatever_was_promised_survives_a_crash_at_every_point(batch: int, record_property: Record) -> None:
    """Syncs are as small as can be, or as large."""
    points = nested = 0
    with untraced():
        for number, crash in enumerate(crashes_of(RUNS * (20 if MORE else 1), batch)):
            points += 1
            again = start_after(crash)
            if number % NESTED == 0:
                for second in distinct(again):
                    nested += 1
                    start_after(second)
    assert points > 200
    record_property("crash points", points + nested)
    print(f"{points:,} crash points, and {nested:,} of the start after a crash")


# --- a promise that is broken is found: the guard that is taken out, and what is said then

BROKEN = {
    "the_202_waits_for_the_commit": "was accepted; on the disk|it is no longer",
    "an_event_is_sent_when_it_is_durable": "was sent, and is not on the disk|was accepted; on the disk",
    "a_stream_begins_when_its_call_is_durable": "was accepted; on the disk",
    "an_answer_ends_its_call_in_the_journal": "was accepted; on the disk",
    "a_session_is_stored_before_it_is_answered": "a streamable session was promised",
    "numbers_go_on_where_they_were": "is used again|come after|and now is|was answered|no answer to a new call",
    "a_sessions_own_stream_goes_on_where_it_was": "a resume is not complete|ended without the answers",
    "an_answer_and_the_end_of_its_call_are_one_write": "was accepted; on the disk",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_crash_shows_that_a_guard_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out(monkeypatch, name)
    with untraced(), pytest.raises((AssertionError, detangle.BugFound), match=BROKEN[name]):
        start_after_all(crashes_of(1, batch=1))
