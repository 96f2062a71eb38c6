"""That a takeover is timed as it happened, and one that comes too late is a fault of the proof."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.rigs.valkey import Valkey
from tests.soak.workers import takeovers as timing
from tests.soak.workers.takeovers import ALLOWED, Takeover, Takeovers, late, told

KEYS = "{tailrace:soak}:"


def taken(*times: float, fault: str = "kill") -> Takeover:
    """A worker whose partitions had another owner after so many seconds."""
    one = Takeover(fault, "victim", 100.0)
    one.see(100.0, {f"p{number}": "victim" for number in range(len(times))})
    for number, seconds in enumerate(times):
        one.see(
            100.0 + seconds, {f"p{other}": "victim" for other in range(number, len(times))} | {f"p{number}": "heir"}
        )
    return one


def of(*those: Takeover) -> Takeovers:
    found = Takeovers(1)
    found.all = list(those)
    return found


def test_a_partition_is_timed_from_the_fault_until_another_owner_was_seen() -> None:
    one = Takeover("kill", "victim", 100.0)
    assert not one.over, "nobody has looked"
    one.see(100.1, {"a": "victim", "b": "victim", "c": "heir"})
    one.see(105.0, {"a": "", "b": "victim", "c": "heir"})
    assert (one.waiting, one.over) == ({"a", "b"}, False)
    one.see(106.0, {"a": "heir", "b": "", "c": "heir"})
    one.see(107.5, {"a": "heir", "b": "third", "c": "heir"})
    assert one.taken == pytest.approx({"a": 6.0, "b": 7.5})
    assert one.over
    assert one.blind == pytest.approx(4.9)


def test_what_was_the_victims_a_moment_after_the_fault_counts_and_what_it_takes_again_does_not() -> None:
    one = Takeover("sleep", "victim", 100.0)
    one.see(100.0, {"a": "victim", "b": ""})
    one.see(100.1, {"a": "victim", "b": "victim"})  # it had asked for it before it fell asleep
    one.see(106.0, {"a": "heir", "b": "victim"})
    one.see(107.0, {"a": "heir", "b": "heir"})
    assert one.taken == pytest.approx({"a": 6.0, "b": 7.0})


def test_an_empty_partition_is_deleted_and_not_timed() -> None:
    one = Takeover("kill", "victim", 100.0)
    one.see(100.0, {"a": "victim", "b": "victim"})
    one.see(106.0, {"b": "victim"})
    one.see(106.5, {"b": "heir"})
    assert (one.deleted, list(one.taken), one.over) == ({"a"}, ["b"], True)


def test_whoever_owned_nothing_is_over_at_once() -> None:
    one = Takeover("kill", "victim", 100.0)
    one.see(100.0, {"a": "heir"})
    assert one.over
    assert not one.taken


def test_least_median_and_largest_are_told_for_each_fault() -> None:
    unfinished = Takeover("isolate", "victim", 100.0)
    unfinished.see(100.2, {"x": "victim"})
    found = of(taken(4.0, 6.5), taken(5.0), taken(7.0, fault="sleep"), unfinished)
    found.unknown = 1
    head, *rows, starting = told(found, 5.0)
    assert "lease 5, two leases 10, and 0.5 allowed" in head
    assert [row.split(" (partitions")[0].strip() for row in rows] == [
        "kill: 4.0, 5.0, 6.5",
        "sleep: 7.0, 7.0, 7.0",
        "isolate: none",
    ]
    assert "never 1; 0.20 s" in rows[2]
    assert "1 workers" in starting
    assert told(of(), 5.0) == []


@pytest.mark.parametrize(
    ("after", "faults"), [((4.0, 10.0), 0), ((10.0 + ALLOWED - 0.01,), 0), ((10.0 + ALLOWED + 0.01, 4.0), 1)]
)
def test_more_than_two_leases_and_what_is_allowed_is_late(after: tuple[float, ...], faults: int) -> None:
    assert len(late(of(taken(1.0), taken(*after)), 5.0)) == faults


def test_what_nobody_takes_is_late() -> None:
    never = Takeover("kill", "victim", 100.0)
    never.see(100.0, {"a": "victim"})
    never.see(160.0, {"a": ""})
    assert late(of(never), 5.0) == ["late: kill: partition a had no other owner within 60 s"]


def test_a_worker_that_valkey_told_nothing_of_is_late() -> None:
    assert len(late(of(Takeover("kill", "victim", 100.0)), 5.0)) == 1


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    with Valkey() as one:
        yield one


@pytest.mark.e2e
@pytest.mark.timeout(120)
async def test_the_owners_are_read_in_a_real_valkey(valkey: Valkey) -> None:
    for tag in ("a", "b", "c"):
        valkey.ask("SADD", KEYS + "partitions", tag)
        valkey.ask("SET", f"{KEYS}p:{tag}:owner", "7:victim" if tag != "c" else "3:heir")
    found = Takeovers(valkey.port)
    found.struck("kill", "victim", time.monotonic())
    found.struck("kill", None, time.monotonic())
    one = found.all[0]
    async with asyncio.timeout(60):
        while one.waiting != {"a", "b"}:
            await asyncio.sleep(0.01)
        valkey.ask("DEL", f"{KEYS}p:a:owner")
        valkey.ask("SREM", KEYS + "partitions", "b")
        while one.deleted != {"b"}:
            await asyncio.sleep(0.01)
        assert one.waiting == {"a"}
        valkey.ask("SET", f"{KEYS}p:a:owner", "8:heir")
        assert await found.settled() == [one]
    assert list(one.taken) == ["a"]
    assert (one.over, found.unknown) == (True, 1)
    assert await found.settled() == []


@pytest.mark.e2e
@pytest.mark.timeout(120)
async def test_looking_ends_with_the_run_whatever_valkey_says(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LIMIT", 1e9)
    found = Takeovers(valkey.port)
    valkey.kill()
    found.struck("kill", "victim", time.monotonic())
    found.close()
    async with asyncio.timeout(60):
        (one,) = await found.settled()
    assert not one.over
