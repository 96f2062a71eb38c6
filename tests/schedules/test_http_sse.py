"""A call over HTTP+SSE, and all that may happen to it at one moment, through the whole server in memory.

Each pair meets the call as it arrives, while its reply is held, and while it runs. With a store that
outlives the server, whatever a shutdown left is asked for in the next server's life.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import pytest

from tests.schedules.exploring import MORE, exhaust
from tests.schedules.served import BEFORE, ENDS, SsePeer, meet

Record = Callable[[str, object], None]


@pytest.mark.parametrize("mode", BEFORE)
@pytest.mark.parametrize("names", combinations(ENDS, 2), ids="-".join)
@pytest.mark.timeout(1200 if MORE else 120)
def test_two_ends_meet_with_a_durable_store(names: tuple[str, ...], mode: str, record_property: Record) -> None:
    scenario = partial(meet, SsePeer, names, mode=mode, durable=True)
    record_property("schedules", exhaust(scenario, delays=2))


@pytest.mark.parametrize("mode", BEFORE)
@pytest.mark.parametrize("raises", [False, True], ids=["silent", "raising"])
@pytest.mark.parametrize("names", combinations(ENDS, 2), ids="-".join)
@pytest.mark.timeout(1200 if MORE else 120)
def test_two_ends_meet_in_memory(names: tuple[str, ...], mode: str, raises: bool, record_property: Record) -> None:
    scenario = partial(meet, SsePeer, names, mode=mode, raises=raises)
    record_property("schedules", exhaust(scenario, delays=2 if MORE else 1))
