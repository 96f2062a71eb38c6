"""A call over Streamable HTTP with a session, and what may happen to it at one moment, in the whole server in memory.

Each pair meets the call as it arrives, while its reply is held, and while it runs. With a store that
outlives the server, whatever a shutdown left is asked for in the next server's life.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import pytest

from tests.schedules.exploring import MORE, exhaust
from tests.schedules.served import BEFORE, ENDS, StreamablePeer, meet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
Record = Callable[[str, object], None]


@pytest.mark.parametrize("mode", BEFORE)
@pytest.mark.parametrize("names", list(combinations(ENDS, 2)), ids="-".join)
def test_two_ends_meet_with_a_durable_store(names: tuple[str, ...], mode: str, record_property: Record) -> None:
    scenario = partial(meet, StreamablePeer, names, mode=mode, durable=True)
    record_property("schedules", exhaust(scenario, delays=1 if mode == "holding" and not MORE else 2))


@pytest.mark.parametrize("names", list(combinations(("close", "shutdown", "resume"), 2)), ids="-".join)
def test_two_ends_meet_when_the_session_is_only_stored(names: tuple[str, ...], record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, StreamablePeer, names, mode="stored", durable=True), delays=2))


@pytest.mark.parametrize("third", [end for end in ENDS if end not in ("shutdown", "answer")])
def test_something_meets_the_end_of_a_drain(third: str, record_property: Record) -> None:
    """The answer lets the drain end at once, so that all sessions end while the third is at it."""
    scenario = partial(meet, StreamablePeer, ("shutdown", "answer", third), mode="running", durable=True)
    record_property("schedules", exhaust(scenario, delays=2))


@pytest.mark.parametrize(("mode", "raises"), [*((mode, False) for mode in BEFORE), ("running", True)])
@pytest.mark.parametrize("names", list(combinations(ENDS, 2)), ids="-".join)
def test_two_ends_meet_in_memory(names: tuple[str, ...], mode: str, raises: bool, record_property: Record) -> None:
    scenario = partial(meet, StreamablePeer, names, mode=mode, raises=raises)
    record_property("schedules", exhaust(scenario, delays=2 if MORE else 1))
