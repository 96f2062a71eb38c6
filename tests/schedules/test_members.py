"""Whatever meets while a partition changes hands: one owner has it, each request ends, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import pytest

from tests.schedules.exploring import MORE, exhaust
from tests.schedules.members import meet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if MORE else 600)]
Record = Callable[[str, object], None]

ENDS = ("near", "far", "answer", "lost", "asleep", "killed", "leave", "others_leave", "join", "tell", "delete")
KEYS = ("answer", "lost", "asleep", "killed", "leave", "others_leave")  # what may happen to a key's run
# What is exhausted within one deviation: each costs a few seconds, all of them ten minutes.
RACES = (
    "lost near",  # a lease that is lost, and a request that comes to its owner
    "asleep far",  # one that is sent on to an owner that does not know yet
    "killed far",
    "killed answer",  # the owner dies while its answer is on the way
    "killed join",  # several want one orphan
    "killed snatched",  # whoever takes it over loses it again
    "lost leave",  # a partition is dropped while all are handed over
    "leave others_leave",
    "leave join",
    "leave tell",
    "leave delete",
    "killed others_leave",  # a member ends while it takes over
    "pay pay_too answer",
    "pay pay_too killed",
    "pay pay_too lost",
)


@pytest.mark.parametrize("race", RACES)
def test_what_meets_in_any_order(race: str, record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, tuple(race.split())), delays=2 if MORE else 1))


@pytest.mark.parametrize(("apart", "adopted"), [(0.0, True), (0.012, False)], ids=["at-once-adopted", "apart-home"])
def test_each_pair_meets(apart: float, adopted: bool, record_property: Record) -> None:
    """In asyncio's own order; one comes a little later than the other, which is still asking, or being answered."""
    pairs = combinations(reversed(ENDS) if apart else ENDS, 2)
    runs = [exhaust(partial(meet, names, adopted=adopted, apart=apart), delays=MORE and 1) for names in pairs]
    record_property("schedules", sum(runs))


@pytest.mark.parametrize("apart", [0.0, 0.025])
def test_a_key_that_is_claimed_at_two_members_runs_once(apart: float, record_property: Record) -> None:
    ends = [*combinations(KEYS, 1), *combinations(KEYS, 2)]
    runs = [exhaust(partial(meet, ("pay", "pay_too", *names), apart=apart), delays=MORE and 1) for names in ends]
    record_property("schedules", sum(runs))
