"""A stateless call (2026-07-28): its client's disconnect cancels it, and whoever stays gets exactly one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import combinations

import detangle
import pytest

from tests.schedules.exploring import MORE, exhaust, in_order
from tests.schedules.served import BEFORE, House, ModernPeer, meet

ENDS = ("shutdown", "disconnect", "keepalive", "answer")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
Record = Callable[[str, object], None]


@pytest.mark.parametrize("mode", BEFORE)
@pytest.mark.parametrize("raises", [False, True], ids=["silent", "raising"])
@pytest.mark.parametrize("names", [*combinations(ENDS, 2), *combinations(ENDS, 3)], ids="-".join)
def test_ends_meet(names: tuple[str, ...], mode: str, raises: bool, record_property: Record) -> None:
    scenario = partial(meet, ModernPeer, names, mode=mode, raises=raises, durable=True)
    record_property("schedules", exhaust(scenario, delays=3 if MORE else 2))


@pytest.mark.parametrize("quiet", [True, False], ids=["json", "sse"])
def test_a_call_is_cancelled_within_a_tenth_of_a_second_of_its_clients_disconnect(quiet: bool) -> None:
    """In virtual time, so this is no measurement: no timer of a tenth of a second or more is waited for on the way."""

    async def scenario() -> None:
        in_order()
        house = House(durable=False)
        await house.start()
        peer = ModernPeer(house, quiet=quiet)
        peer.ask()
        await asyncio.sleep(3.7)
        assert peer.post is not None
        assert (peer.post.status, house.executed, house.cancelled_at) == (0 if quiet else 200, 1, None)
        await peer.disconnect()
        await asyncio.sleep(60.0)
        assert house.cancelled_at is not None, "the call was not cancelled"
        assert house.cancelled_at - peer.left_at <= 0.1
        await peer.end()
        await house.check()

    detangle.run(scenario)
