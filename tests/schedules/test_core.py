"""Whatever meets at the end of a session: it ends once, and nothing is lost, doubled, torn or left waiting (G1, G2, G3).

Every pair and every triple of: its client closes it, the server shuts down, its connection breaks, a
notification is pushed, a keep-alive is due, its call answers, and its client resumes elsewhere. Each is
exhausted within two deviations from asyncio's own order (three with ``TAILRACE_SCHEDULES``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import pytest

from tests.schedules.conversation import ENDS, meet
from tests.schedules.exploring import MORE, exhaust

DELAYS = 3 if MORE else 2
Record = Callable[[str, object], None]


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
@pytest.mark.parametrize("flows", [True, False], ids=["flowing", "stalled"])
@pytest.mark.parametrize("names", combinations(ENDS, 2), ids="-".join)
@pytest.mark.timeout(1200 if MORE else 120)
def test_two_ends_meet(names: tuple[str, ...], flows: bool, durable: bool, record_property: Record) -> None:
    scenario = partial(meet, names, durable=durable, flows=flows)
    record_property("schedules", exhaust(scenario, delays=DELAYS))


@pytest.mark.parametrize("names", [pair for pair in combinations(ENDS, 2) if "answer" not in pair], ids="-".join)
@pytest.mark.timeout(1200 if MORE else 120)
def test_two_ends_meet_when_the_call_is_over(names: tuple[str, ...], record_property: Record) -> None:
    scenario = partial(meet, names, durable=True, answered=True)
    record_property("schedules", exhaust(scenario, delays=DELAYS))


@pytest.mark.parametrize("names", combinations(ENDS, 3), ids="-".join)
@pytest.mark.timeout(1200 if MORE else 120)
def test_three_ends_meet(names: tuple[str, ...], record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, names, durable=True), delays=2))


@pytest.mark.timeout(1200 if MORE else 120)
def test_all_ends_meet(record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, ENDS, durable=True), delays=2 if MORE else 1))
