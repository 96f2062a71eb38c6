"""A step runs once over all runs of its call: recorded before it begins, given again, unknown if it was cut off."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import pytest

from tailrace.core.context import Context, current
from tailrace.core.steps import BEGUN_STEPS, MAX_STEPS, Steps, check_name, run_here
from tailrace.core.tasks import Tasks
from tailrace.errors import LimitError, StepError, StoreError, ToolError
from tailrace.stores.memory import MemoryStore
from tailrace.stores.memory_membership import MemoryCluster, MemoryMembership
from tests.core.support import Work, make_tasks, turns, virtual
from tests.core.test_call import ended
from tests.core.test_ledger import Clock, writer

FULL = StoreError("the disk is full")


class Workshop:
    """Steps over a store that outlives them, and what their functions did."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.store = MemoryStore(durable=True, clock=self.clock)
        self.limits = limits
        self.gate = asyncio.Event()
        self.gate.set()
        self.did: list[Any] = []
        self.tasks: Tasks
        self.steps: Steps

    async def open(self) -> Workshop:
        """A process life begins."""
        await self.store.open()
        self.tasks = make_tasks(max_detached=self.limits.pop("max_detached", 10))
        self.steps = Steps(self.store, writer(self.store), self.tasks, clock=self.clock, **self.limits)
        return self

    async def crash(self) -> Workshop:
        self.store.crash()
        await self.tasks.close(0.0)
        return await self.open()

    async def work(self, value: Any = "done") -> Any:
        self.did.append(value)
        await self.gate.wait()
        if isinstance(value, Exception):
            raise value
        return value

    async def run(self, value: Any = "done", *, name: str = "s", call: str = "c") -> Any:
        return await self.steps.run(Context(), call, name, self.work, (value,))

    async def run_unrecorded(self) -> None:
        """One whose end the store, which is full from now on, does not take."""
        self.gate.clear()
        run = asyncio.ensure_future(self.run())
        await turns()
        self.store.fail_commits(FULL)
        self.gate.set()
        assert await run == "done"


@virtual
async def test_a_step_runs_once_and_each_later_run_gets_its_result() -> None:
    shop = await Workshop().open()
    assert await shop.run({"a": 1}) == {"a": 1}
    assert await shop.run("another") == {"a": 1}
    assert await shop.run("other name", name="t") == "other name"
    assert await shop.run("other call", call="d") == "other call"
    await shop.crash()
    assert await shop.run("in another life") == {"a": 1}
    assert shop.did == [{"a": 1}, "other name", "other call"]


@virtual
async def test_two_runs_at_once_share_one_and_its_caller_may_leave() -> None:
    shop = await Workshop().open()
    shop.gate.clear()
    first = asyncio.ensure_future(shop.run())
    await turns()
    second = asyncio.ensure_future(shop.run())
    await turns()
    first.cancel()
    await turns()
    shop.gate.set()
    assert await second == "done"
    assert first.cancelled()
    assert shop.did == ["done"]
    assert await shop.run("late") == "done"


@virtual
async def test_who_looked_before_a_step_began_and_comes_when_it_has_ended_gets_its_result() -> None:
    shop = await Workshop().open()
    read, looked = shop.store.entry, asyncio.Event()

    async def slow(kind: str, key: str) -> Any:
        found = await read(kind, key)
        await looked.wait()
        return found

    shop.store.entry = slow  # type: ignore[method-assign]
    late = asyncio.ensure_future(shop.run("late"))
    await turns()
    shop.store.entry = read  # type: ignore[method-assign]
    assert await shop.run("first") == "first"
    looked.set()
    assert await late == "first"
    assert shop.did == ["first"]


@virtual
async def test_who_waits_for_a_step_of_another_process_holds_up_no_drain() -> None:
    one, other = await members()
    one.gate.clear()
    first, second = asyncio.ensure_future(one.run("first")), asyncio.ensure_future(other.run("second"))
    await asyncio.sleep(3)
    assert (len(one.tasks.detached), len(other.tasks.detached)) == (1, 0)
    one.gate.set()
    assert [await first, await second] == ["first", "first"]


@virtual
async def test_a_step_that_was_cut_off_is_unknown_and_not_run_again() -> None:
    shop = await Workshop().open()
    shop.gate.clear()
    cut = asyncio.ensure_future(shop.run())
    await turns()
    await shop.crash()
    shop.gate.set()
    for run in (cut, shop.run()):
        with pytest.raises(StepError, match="unknown") as found:
            await run
        assert found.value.unknown
    assert shop.did == ["done"]


@virtual
async def test_what_a_step_raised_is_not_tried_again() -> None:
    shop = await Workshop().open()
    with pytest.raises(RuntimeError, match="boom"):
        await shop.run(RuntimeError("boom"))
    with pytest.raises(StepError, match="has failed before") as found:
        await shop.run()
    assert not found.value.unknown
    for _ in range(2):
        with pytest.raises(ToolError, match="sold out") as refused:
            await shop.run(ToolError("sold out", {"left": 0}), name="t")
        assert refused.value.data == {"left": 0}
    with pytest.raises(ToolError, match="odd"):
        await shop.run(ToolError("odd", object()), name="u")
    with pytest.raises(StepError, match="has failed before"):
        await shop.run(name="u")
    assert len(shop.did) == 3


@virtual
async def test_a_step_that_cannot_be_recorded_is_not_begun() -> None:
    shop = await Workshop().open()
    shop.store.fail_commits(FULL)
    with pytest.raises(StoreError, match="was not begun"):
        await shop.run()
    assert shop.did == []
    shop.store.fail_commits(None)
    assert await shop.run() == "done"


@virtual
async def test_a_result_that_cannot_be_recorded_is_given_all_the_same_and_unknown_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = await Workshop().open()
    await shop.run_unrecorded()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    shop.store.fail_commits(None)
    with pytest.raises(StepError, match="unknown"):
        await shop.run()


@virtual
async def test_records_are_kept_for_their_time_and_no_longer() -> None:
    shop = await Workshop(ttl=100.0).open()
    assert await shop.run(1) == 1
    shop.clock.now += 99.0
    assert await shop.run(2) == 1
    shop.clock.now += 1.0
    assert await shop.run(3) == 3


@virtual
async def test_each_limit_has_a_name() -> None:
    shop = await Workshop(max_result=10, max_entries=3).open()
    with pytest.raises(LimitError, match="over 10 bytes"):
        await shop.run("x" * 9)
    with pytest.raises(StepError, match="failed"):
        await shop.run("x")
    assert await shop.run("x" * 8, name="t") == "x" * 8
    shop.gate.clear()
    third = asyncio.ensure_future(shop.run(name="u"))
    await turns()
    shop.gate.set()
    await third
    await turns()
    for _ in range(2):
        with pytest.raises(LimitError, match="3 steps are recorded") as full:
            await shop.run(name="v")
        assert full.value.limit == "steps"
    shop.clock.now += 86_400.0
    await asyncio.sleep(5.0)
    assert await shop.run(name="v") == "done"


@virtual
async def test_where_too_much_detached_work_runs_no_step_begins() -> None:
    shop = await Workshop(max_detached=1).open()
    shop.gate.clear()
    first = asyncio.ensure_future(shop.run())
    await turns()
    with pytest.raises(LimitError, match="detached work"):
        await shop.run(name="t")
    shop.gate.set()
    await first
    await turns()
    assert await shop.run(name="t") == "done"


@virtual
async def test_what_nobody_can_ask_for_again_is_forgotten_also_while_it_runs() -> None:
    shop = await Workshop().open()
    await shop.run(name="s")
    shop.gate.clear()
    run = asyncio.ensure_future(shop.run(name="t"))
    await turns()
    shop.steps.forget("c", ["s", "t"])
    shop.gate.set()
    assert await run == "done"
    await turns()
    assert await shop.store.count("step") == 0
    assert await shop.run("anew") == "anew"


@virtual
async def test_a_commit_that_comes_after_the_servers_end_is_heard_by_nobody() -> None:
    shop = await Workshop().open()
    late: list[Any] = []
    steps = Steps(shop.store, lambda records, then: late.append(then), shop.tasks, max_entries=1)
    run = asyncio.ensure_future(steps.run(Context(), "c", "s", shop.work, ()))
    await turns()
    await shop.tasks.close(1.0)
    late[0](None)
    with pytest.raises(StepError, match="unknown"):
        await run
    assert shop.did == []


@virtual
async def test_a_step_has_its_calls_values_and_not_its_end() -> None:
    shop = await Workshop().open()
    context = Context()
    context.set_values({"who": "ann"})
    seen: list[Any] = []

    async def look() -> None:
        seen.append((current().value("who"), current().error))

    context.cancel(RuntimeError("over"))
    await shop.steps.run(context, "c", "s", look, ())
    assert seen == [("ann", None)]


# --- where nothing runs again ---------------------------------------------------------------------


@dataclasses.dataclass
class Point:
    x: int


class Model:
    def model_dump(self, mode: str) -> Any:
        return {"mode": mode}


@virtual
async def test_a_result_looks_the_same_whether_it_was_recorded_or_not() -> None:
    shop = await Workshop().open()
    for value, seen in ((Point(1), {"x": 1}), ((1, 2), [1, 2]), (Model(), {"mode": "json"}), (None, None)):
        assert await run_here(shop.tasks, shop.work, (value,)) == seen
        assert await shop.run(value, name=f"{seen}") == seen
    with pytest.raises(TypeError, match="JSON-able, and object is not"):
        await run_here(shop.tasks, shop.work, (object(),))


@virtual
async def test_a_plain_function_runs_in_a_thread_and_may_give_something_to_wait_for() -> None:
    shop = await Workshop().open()
    assert await run_here(shop.tasks, lambda value: value + 1, (1,)) == 2
    assert await run_here(shop.tasks, lambda: shop.work("later"), ()) == "later"


def test_a_call_uses_a_name_once_and_not_too_many() -> None:
    used: set[str] = set()
    check_name("a", used)
    with pytest.raises(ValueError, match="already"):
        check_name("a", used)
    for bad in ("", "x" * 129):
        with pytest.raises(ValueError, match="1 to 128"):
            check_name(bad, used)
    for number in range(MAX_STEPS - 1):
        check_name(f"{number}", used)
    with pytest.raises(LimitError, match="at most 100 steps"):
        check_name("b", used)


@virtual
async def test_a_call_that_runs_but_once_simply_runs_its_steps() -> None:
    async def work(call: Work) -> bytes:
        one = await call.context.step("one", lambda: 1)
        with pytest.raises(ValueError, match="already"):
            await call.context.step("one", lambda: 2)
        return f"{one} {await call.context.step('two', lambda: 2)}".encode()

    call = Work(make_tasks(), work).accepted()
    call.start()
    await ended(call)
    assert call.answers == [b"1 2"]
    with pytest.raises(RuntimeError, match="needs a running call"):
        await Context().step("s", lambda: 1)


# --- steps that several partitions have in common -----------------------------------------------------


class Member(Workshop):
    """Steps of one of several partitions."""

    def __init__(self, member: MemoryMembership) -> None:
        super().__init__()
        self.member = member
        self.clock = member.clock  # type: ignore[assignment] - a Clock

    async def at(self, partition: str = "") -> Member:
        store: Any = await (self.member.adopt(partition) if partition else self.member.take())
        self.store, self.tasks = store, make_tasks()
        self.steps = Steps(store, writer(store), self.tasks, clock=self.clock)
        await self.steps.recover()
        return self


async def members() -> tuple[Member, Member]:
    cluster = MemoryCluster(clock=Clock())
    return await Member(cluster.member()).at(), await Member(cluster.member()).at()


@virtual
async def test_a_step_of_another_process_is_waited_for() -> None:
    one, other = await members()
    one.gate.clear()
    first, second = asyncio.ensure_future(one.run("first")), asyncio.ensure_future(other.run("second"))
    await asyncio.sleep(3)
    assert (one.did, other.did, second.done()) == (["first"], [], False)
    one.gate.set()
    assert [await first, await second] == ["first", "first"]
    assert other.did == []


@virtual
async def test_a_step_that_two_processes_begin_at_once_runs_in_one_of_them() -> None:
    one, other = await members()
    assert len(set(await asyncio.gather(one.run("first"), other.run("second")))) == 1
    assert len(one.did + other.did) == 1


@pytest.mark.parametrize("failure", [ToolError("no"), ValueError("broken")], ids=["refused", "failed"])
@virtual
async def test_a_step_that_failed_in_another_process_is_not_run_again(failure: Exception) -> None:
    one, other = await members()
    with pytest.raises(type(failure)):
        await one.run(failure)
    with pytest.raises((ToolError, StepError)):
        await other.run("again")
    assert other.did == []


@virtual
async def test_a_step_of_a_dead_process_is_unknown_once_its_partition_has_a_new_owner() -> None:
    one, other = await members()
    one.gate.clear()
    cut = asyncio.ensure_future(one.run("cut"))
    await turns()
    waiting = asyncio.ensure_future(other.run("again"))
    await one.member.crash()
    await asyncio.sleep(3)
    assert not waiting.done()
    await Member(other.member).at(one.store.partition)
    with pytest.raises(StepError, match="unknown"):
        await waiting
    assert other.did == []
    cut.cancel()
    await one.tasks.close(0.0)


@virtual
async def test_steps_that_cannot_be_settled_keep_a_partition_from_being_opened() -> None:
    one, other = await members()
    one.gate.clear()
    cut = asyncio.ensure_future(one.run("cut"))
    await turns()
    await one.member.crash()
    store: Any = await other.member.adopt(one.store.partition)
    store.fail_commits(FULL)
    with pytest.raises(StoreError, match="full"):
        await Steps(store, writer(store), other.tasks, clock=other.clock).recover()
    cut.cancel()
    await one.tasks.close(0.0)


class Bare(BaseException):
    """What no handler expects."""


@pytest.mark.parametrize("kind", [asyncio.CancelledError, Bare])
@virtual
async def test_a_step_that_ends_with_no_exception_is_unknown_and_nobody_waits(kind: type[BaseException]) -> None:
    one, other = await members()

    async def work() -> None:
        one.did.append("begun")
        raise kind

    for member in (one, one, other):
        with pytest.raises(StepError, match="unknown"):
            async with asyncio.timeout(3):
                await member.steps.run(Context(), "c", "s", work, ())
        one.steps.settle()
    assert one.did == ["begun"]
    assert await other.store.count(BEGUN_STEPS) == 0


@pytest.mark.parametrize("outcome", ["done", ToolError("no")], ids=["result", "refusal"])
@virtual
async def test_an_end_that_could_not_be_recorded_is_recorded_when_it_can_be(outcome: Any) -> None:
    one, other = await members()
    one.gate.clear()
    run = asyncio.ensure_future(one.run(outcome))
    await turns()
    one.store.fail_commits(FULL)
    one.gate.set()
    waiting = asyncio.ensure_future(other.run("again"))
    await asyncio.wait([run, waiting], timeout=3)
    assert (run.done(), waiting.done()) == (True, False)
    one.steps.settle()
    await asyncio.sleep(3)
    assert not waiting.done()
    one.store.fail_commits(None)
    one.steps.settle()
    ends = await asyncio.gather(run, waiting, return_exceptions=True)
    assert [str(end) for end in ends] == [str(outcome)] * 2
    assert other.did == []
    assert await one.store.count(BEGUN_STEPS) == 0


@virtual
async def test_an_end_that_could_not_be_recorded_is_forgotten_with_its_call() -> None:
    shop = await Workshop().open()
    await shop.run_unrecorded()
    shop.store.fail_commits(None)
    shop.steps.forget("c", ["s"])
    shop.steps.settle()
    await turns()
    assert await shop.store.count("step") == 0
