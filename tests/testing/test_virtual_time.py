"""Time that jumps: limits of hours are over at once, in their order; threads are waited for."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tailrace import Service
from tailrace.testing import VirtualTimeLoop, connected, virtual_time


@virtual_time
async def test_an_hour_is_over_at_once() -> None:
    loop = asyncio.get_running_loop()
    begun, really = loop.time(), time.monotonic()
    await asyncio.sleep(3600)
    assert loop.time() - begun == pytest.approx(3600)
    assert time.monotonic() - really < 600


@virtual_time
async def test_what_waits_less_comes_first() -> None:
    order: list[int] = []

    async def wait(seconds: int) -> None:
        await asyncio.sleep(seconds)
        order.append(seconds)

    await asyncio.gather(*(wait(seconds) for seconds in (30, 1, 600, 2)))
    assert order == [1, 2, 30, 600]


def test_the_decorated_gets_its_arguments_and_gives_its_result() -> None:
    @virtual_time
    async def double(number: int, *, more: int = 0) -> int:
        await asyncio.sleep(100)
        return 2 * number + more

    assert double(4, more=1) == 9


@pytest.mark.parametrize("plain", [True, False])
def test_the_deadline_of_a_tool_is_tested_without_waiting_for_it(plain: bool) -> None:
    svc = Service("slow")
    done = threading.Event()

    @virtual_time
    async def test() -> None:
        @svc.tool(timeout=1800)
        async def think() -> str:
            """Think for an hour."""
            await asyncio.sleep(3600)
            return "thought"

        @svc.tool(timeout=1800)
        def work() -> str:
            """Work in a thread, for a moment of real time."""
            done.wait(0.2)
            return "worked"

        async with connected(svc, timeout=86_400) as client:
            result = await client.call_tool("work" if plain else "think")
            assert result.is_error is not plain
            assert (
                asyncio.get_running_loop().time() < 1800 if plain else 1800 <= asyncio.get_running_loop().time() < 3600
            )

    test()


@virtual_time
async def test_the_clock_stands_still_while_an_executor_works() -> None:
    done = threading.Event()
    async with asyncio.timeout(60):
        await asyncio.get_running_loop().run_in_executor(None, done.wait, 0.2)
    assert asyncio.get_running_loop().time() < 60


def test_a_thread_that_does_not_return_holds_the_clock_for_a_limited_time() -> None:
    never = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.get_running_loop().run_in_executor(None, never.wait)
        never.set()

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(patience=0.1)) as runner:
        runner.run(main())


def test_a_loop_on_which_nothing_can_happen_any_more_says_so() -> None:
    loop = VirtualTimeLoop(patience=0.05)
    try:
        with pytest.raises(TimeoutError, match="nothing is left that could happen"):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()


def test_what_another_thread_says_is_heard_while_nothing_else_is_left() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        said: asyncio.Future[str] = loop.create_future()
        threading.Timer(0.05, loop.call_soon_threadsafe, (said.set_result, "hello")).start()
        return await said

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == "hello"
