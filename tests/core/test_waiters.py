"""Whoever waits is woken; whoever stops waiting leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.core.waiters import Waiters
from tests.core.support import turns


async def test_all_who_wait_are_woken_in_the_order_in_which_they_came() -> None:
    waiters, woken = Waiters(), []

    async def wait(name: int) -> None:
        await waiters.wait()
        woken.append(name)

    waiting = [asyncio.ensure_future(wait(name)) for name in range(5)]
    await turns()
    assert woken == []
    waiters.wake()
    await asyncio.gather(*waiting)
    assert woken == [0, 1, 2, 3, 4]
    assert len(waiters) == 0


async def test_waking_nobody_is_harmless_and_not_remembered() -> None:
    waiters = Waiters()
    waiters.wake()
    waiting = asyncio.ensure_future(waiters.wait())
    await turns()
    assert not waiting.done()
    waiters.wake()
    waiters.wake()  # before the woken one has run
    await waiting


async def test_a_waiter_that_is_cancelled_leaves_nothing_behind() -> None:
    waiters = Waiters()
    other = asyncio.ensure_future(waiters.wait())
    for _ in range(100):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiters.wait(), 0.000001)
    assert len(waiters) == 1
    waiters.wake()
    await other
