"""What a function raises is its own, unless Python or whoever dropped it means more by it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.core.interrupts import as_failure, is_foreign
from tailrace.core.threads import Threads


@pytest.mark.parametrize(("handler", "foreign"), [(signal.default_int_handler, True), (signal.SIG_IGN, False)])
def test_an_interrupt_is_the_keyboards_where_nobody_else_hears_the_signal(
    handler: Any, foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: handler)
    assert is_foreign(KeyboardInterrupt(), None) is foreign


async def test_no_interrupt_of_a_keyboard_reaches_another_thread() -> None:
    assert not await asyncio.to_thread(is_foreign, KeyboardInterrupt(), None)


@pytest.mark.parametrize("make", [SystemExit, asyncio.CancelledError, ValueError, BaseException])
def test_anything_else_is_the_functions_own(make: Callable[[], BaseException]) -> None:
    assert not is_foreign(make(), None)


async def test_the_end_of_a_coroutine_is_its_own_where_its_task_runs() -> None:
    assert not is_foreign(GeneratorExit(), asyncio.current_task())


def test_the_end_of_a_coroutine_is_the_end_of_all_where_its_task_does_not_run() -> None:
    seen: list[bool] = []

    async def work(task: asyncio.Task[None] | None) -> None:
        try:
            await asyncio.sleep(3600)
        except GeneratorExit as error:
            seen.append(is_foreign(error, task))
            raise

    async def start() -> Any:
        coroutine = work(asyncio.current_task())
        coroutine.send(None)  # as far as its wait
        return coroutine

    asyncio.run(start()).close()
    assert seen == [True], "no loop runs any more"
    assert is_foreign(GeneratorExit(), None)


def test_a_failure_that_ends_no_program_stays_what_it_is() -> None:
    error = ValueError("no")
    assert as_failure(error) is error
    assert str(as_failure(SystemExit("no database"))) == "it called sys.exit('no database')"


async def test_a_plain_function_that_raises_an_interrupt_ends_nothing_but_its_call() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    threads = Threads(size=1)
    try:
        with pytest.raises(RuntimeError, match="raised KeyboardInterrupt") as failed:
            await threads.run(interrupt)
        assert isinstance(failed.value.__cause__, KeyboardInterrupt)
    finally:
        threads.close()
