"""Whatever meets at the end of a session: it ends once; nothing is lost, doubled, torn or left waiting (G1, G2, G3).

Every pair and every triple of: its client closes it, the server shuts down, its connection breaks, a
notification is pushed, a keep-alive is due, its call answers, and its client resumes elsewhere. Each is
exhausted within two deviations from asyncio's own order (three with ``TAILRACE_SCHEDULES``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import pytest

from tests.schedules.conversation import ENDS, meet
from tests.schedules.exploring import MORE, exhaust

DELAYS = 3 if MORE else 2
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
Record = Callable[[str, object], None]


SETTINGS: dict[str, dict[str, Any]] = {
    "starting-memory": {"mode": "starting"},
    "starting-durable": {"mode": "starting", "durable": True},
    "running-memory": {"mode": "running"},
    "running-durable": {"mode": "running", "durable": True},
    "running-stalled": {"mode": "running", "durable": True, "flows": False},
    "over-durable": {"mode": "over", "durable": True},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("names", list(combinations(ENDS, 2)), ids="-".join)
def test_two_ends_meet(names: tuple[str, ...], setting: str, record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, names, **SETTINGS[setting]), delays=DELAYS))


@pytest.mark.parametrize("names", list(combinations(ENDS, 3)), ids="-".join)
def test_three_ends_meet(names: tuple[str, ...], record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, names, durable=True), delays=2))


def test_all_ends_meet(record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, ENDS, durable=True), delays=2 if MORE else 1))
