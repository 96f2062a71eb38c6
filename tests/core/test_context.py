"""A context's values, deadline and cancellation, and which of them detached work keeps (G4)."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import pytest

from tailrace.core.asked import ElicitResult, Root, SampleResult
from tailrace.core.context import Context, current
from tailrace.core.rpc import RpcHeaders, RpcInfo
from tailrace.errors import CallCancelled, CapabilityError, DeadlineExceeded
from tests.core.support import Heard, Work, make_session, make_tasks, never, turns, virtual
from tests.core.support import Notes as Home

request_value: contextvars.ContextVar[str] = contextvars.ContextVar("request_value", default="none")


def with_values(**values: object) -> Context:
    context = Context()
    context.set_values(dict(values))
    return context


# --- values


def test_a_value_is_found_here_or_in_a_parent_and_the_nearest_wins() -> None:
    parent = with_values(a=1, b=2)
    child = parent.with_value("b", 3).with_value("c", 4)
    assert [child.value(key) for key in "abc"] == [1, 3, 4]
    assert parent.value("b") == 2
    assert child.value("d") is None
    assert child.value("d", "default") == "default"


def test_a_value_that_is_none_hides_the_parents() -> None:
    assert with_values(a=1).with_value("a", None).value("a", "default") is None


def test_the_correlation_id_is_a_value_and_goes_with_detached_work() -> None:
    context = with_values(correlation_id="c1")
    assert context.correlation_id == "c1"
    assert context.with_value("x", 1).detach().correlation_id == "c1"
    assert Context.background().correlation_id is None


# --- cancellation


def test_a_context_ends_once_and_the_first_reason_counts() -> None:
    context = Context()
    assert not context.cancelled
    assert context.error is None
    first = CallCancelled("first")
    context.cancel(first)
    context.cancel(CallCancelled("second"))
    assert context.cancelled
    assert context.error is first


def test_what_derives_from_a_context_ends_with_it_and_never_the_other_way_round() -> None:
    parent = Context()
    child, cancel = parent.with_cancel()
    grandchild = child.with_value("a", 1)
    sibling = parent.with_value("b", 2)
    cancel()
    cancel()  # twice is harmless
    assert isinstance(child.error, CallCancelled)
    assert grandchild.error is child.error
    assert sibling.error is None
    assert parent.error is None
    parent.cancel(DeadlineExceeded("late"))
    assert isinstance(sibling.error, DeadlineExceeded)
    assert isinstance(child.error, CallCancelled), "what has ended keeps its reason"


async def test_what_derives_from_an_ended_context_has_ended_too() -> None:
    parent = Context()
    parent.cancel(CallCancelled("over"))
    assert parent.with_value("a", 1).error is parent.error
    late = parent.with_timeout(60.0)
    assert late.error is parent.error
    assert late._timer is None, "no timer is set for what is over"


async def test_every_waiter_hears_of_the_end() -> None:
    context = Context()
    waiting = [asyncio.ensure_future(context.wait_cancelled()) for _ in range(3)]
    await turns()
    context.cancel(CallCancelled())
    await asyncio.gather(*waiting)
    await context.wait_cancelled()  # and who comes later does not wait


async def test_a_waiter_that_gives_up_leaves_nothing_in_the_context() -> None:
    context = Context()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(context.wait_cancelled(), 0.000001)
    assert context._waiters is not None
    assert len(context._waiters) == 0


# --- deadlines


@virtual
async def test_a_timeout_ends_the_context_and_all_below_it() -> None:
    loop = asyncio.get_running_loop()
    child = Context().with_timeout(5.0)
    below = child.with_value("a", 1)
    assert child.deadline == loop.time() + 5.0
    assert below.deadline == child.deadline
    await asyncio.sleep(4.9)
    assert child.error is None
    await below.wait_cancelled()
    assert isinstance(child.error, DeadlineExceeded)
    assert isinstance(child.error, TimeoutError), "for those who catch what the standard library raises"


@virtual
async def test_a_child_cannot_outlive_its_parents_deadline_but_may_end_before() -> None:
    parent = Context().with_timeout(5.0)
    longer, shorter = parent.with_timeout(60.0), parent.with_timeout(1.0)
    assert longer.deadline == parent.deadline
    await asyncio.sleep(2.0)
    assert shorter.error is not None
    assert parent.error is None
    assert longer.error is None
    await asyncio.sleep(4.0)
    assert longer.error is not None


@virtual
async def test_a_deadline_that_has_passed_ends_the_context_at_once() -> None:
    context = Context().with_deadline(asyncio.get_running_loop().time() - 1.0)
    await asyncio.wait_for(context.wait_cancelled(), 0.1)
    assert isinstance(context.error, DeadlineExceeded)


@virtual
async def test_an_early_end_stops_the_timer() -> None:
    child = Context().with_timeout(5.0)
    child.cancel(CallCancelled("early"))
    await asyncio.sleep(10.0)
    assert isinstance(child.error, CallCancelled)


@virtual
async def test_a_context_nobody_holds_is_not_kept_until_its_deadline() -> None:
    parent = Context()
    child = weakref.ref(parent.with_timeout(3600.0))
    gc.collect()
    assert child() is None
    await asyncio.sleep(3601.0)  # its timer finds nobody
    assert parent.error is None


# --- detached


async def test_detached_work_keeps_the_values_and_neither_deadline_nor_cancellation() -> None:
    parent = with_values(a=1).with_value("b", 2).with_timeout(60.0)
    parent.cancel(CallCancelled("over"))
    detached = parent.detach()
    assert (detached.value("a"), detached.value("b")) == (1, 2)
    assert detached.error is None
    assert detached.deadline is None
    assert detached.call is None


def test_a_later_end_of_the_parent_does_not_reach_detached_work() -> None:
    parent = with_values(a=1)
    detached = parent.detach()
    below = detached.with_value("b", 2)
    parent.cancel(CallCancelled("over"))
    assert detached.error is None
    assert below.error is None


def test_detached_values_are_the_nearest_ones_and_do_not_leak_back() -> None:
    parent = with_values(a=1, b=1).with_value("a", 2)
    detached = parent.detach()
    assert (detached.value("a"), detached.value("b")) == (2, 1)
    detached.set_values({"a": 3})
    assert parent.value("a") == 2


async def test_detached_work_does_not_keep_its_call_alive() -> None:
    tasks = make_tasks()
    call = Work(tasks).accepted()
    call.context.set_values({"correlation_id": "c"})
    detached = call.context.with_value("a", 1).detach()
    call.start()
    assert call.task is not None
    await call.task
    gone = weakref.ref(call)
    del call
    await turns()
    gc.collect()
    assert gone() is None
    assert detached.correlation_id == "c"


# --- the background


async def test_the_background_is_empty_and_keeps_no_track_of_what_derives_from_it() -> None:
    background = Context.background()
    assert background is Context.background()
    assert (background.deadline, background.error, background.call) == (None, None, None)
    child, cancel = background.with_cancel()
    cancel()
    assert child.cancelled
    assert not background.cancelled
    assert background._children is None, "the one context that lives for ever must not collect its children"


def test_outside_of_calls_the_current_context_is_the_background() -> None:
    assert current() is Context.background()


def test_inside_the_variables_of_a_context_it_is_the_current_one() -> None:
    context = Context()
    request_value.set("seen")
    variables = context.enter()
    assert variables.run(current) is context
    assert variables.run(request_value.get) == "seen", "the rest of the variables is a copy of the caller's"
    assert current() is Context.background()


# --- the way to the peer


async def test_outside_of_a_call_there_is_nobody_to_tell() -> None:
    context = Context()
    await context.progress(1, 2, "m")
    await context.log("info", "x")
    context.progress_nowait(1)
    context.log_nowait("info", "x")
    assert context.session is None
    assert context.request_id is None
    with pytest.raises(RuntimeError, match="needs a running call"):
        context.spawn(print)


async def test_what_cannot_be_spawned_is_refused_where_it_is_written() -> None:
    async def send() -> None: ...

    wrong: list[tuple[Any, float | None]] = [(send(), None), (5, None), (send, -1.0)]
    for fn, limit in wrong:
        with pytest.raises(TypeError, match=r"as in ctx\.spawn\(send, item\)"):
            Context.background().spawn(fn, timeout=limit)


async def test_what_a_handler_says_goes_to_its_calls_reply() -> None:
    tasks = make_tasks()

    async def work(call: Work) -> bytes:
        context = call.context
        assert current() is context
        await context.progress(1, 3, "checking")
        await context.report_progress(2)
        await context.log("notice", "n", "shop")
        await context.debug("d")
        await context.info("i")
        await context.warning("w")
        await context.error_log("e")
        context.with_value("a", 1).progress_nowait(3, 3)
        context.log_nowait("info", "now")
        return b"done"

    call = Work(tasks, work, key="r7").accepted()
    assert call.context.request_id == "r7"
    call.start()
    assert call.task is not None
    await call.task
    assert call.notes == [
        b"progress 1 3 checking",
        b"progress 2 None None",
        b"log notice n shop",
        b"log debug d None",
        b"log info i None",
        b"log warning w None",
        b"log error e None",
        b"progress 3 3 None",
        b"log info now None",
    ]


async def test_a_context_shows_its_calls_session() -> None:
    tasks = make_tasks()
    session = make_session(tasks, Home())
    call = Work(tasks, session=session)
    assert call.context.with_value("a", 1).session is session
    assert call.context.detach().session is None


async def test_progress_waits_for_a_reader_that_is_behind() -> None:
    tasks, reply = make_tasks(), Heard()
    reply.behind = asyncio.Event()
    call = Work(tasks, never, reply=reply).accepted()
    saying = asyncio.ensure_future(call.context.progress(1))
    await turns()
    assert not saying.done()
    assert reply.notes == [b"progress 1 None None"], "it was sent before the wait"
    reply.behind.set()
    await saying


async def test_nothing_that_is_said_after_the_answer_is_sent() -> None:
    tasks = make_tasks()
    call = Work(tasks).accepted()
    call.start()
    assert call.task is not None
    await call.task
    await call.context.progress(1)
    await call.context.log("info", "late")
    call.context.progress_nowait(2)
    call.context.log_nowait("info", "late")
    assert call.notes == []


async def test_what_a_thread_says_is_said_on_the_loop() -> None:
    tasks, loop_thread = make_tasks(), threading.get_ident()
    seen: list[int] = []
    heard: list[bytes] = []

    class Watched(Heard):
        def notify(self, call: object, payload: bytes) -> None:
            seen.append(threading.get_ident())
            heard.append(payload)

    call = Work(tasks, never, reply=Watched()).accepted()
    call.start()
    await turns()

    def plain() -> None:
        call.context.progress_nowait(1, 2, "half")
        call.context.log_nowait("info", "x", "jobs")

    await asyncio.to_thread(plain)
    await turns()
    assert seen == [loop_thread, loop_thread]
    assert heard == [b"progress 1 2 half", b"log info x jobs"]
    call.cancel(CallCancelled())
    await asyncio.to_thread(plain)
    await turns()
    assert len(seen) == 2, "the call had ended by then"


def test_what_a_thread_says_when_the_loop_is_gone_is_dropped() -> None:
    async def main() -> Work:
        return Work(make_tasks()).accepted()

    call = asyncio.run(main())
    thread = threading.Thread(target=call.context.progress_nowait, args=(1,))
    thread.start()
    thread.join()
    assert call.notes == []


@virtual
async def test_a_record_says_its_level_and_its_logger() -> None:
    async def work(call: Work) -> bytes:
        await call.context.debug("a", "one")
        await call.context.info("b", "two")
        await call.context.warning("c", "three")
        await call.context.error_log("d", "four")
        return b"done"

    call = Work(make_tasks(), work).accepted()
    call.start()
    await turns()
    assert call.notes == [b"log debug a one", b"log info b two", b"log warning c three", b"log error d four"]


# --- asking the client


class Asking(Work):
    """Its client answers with what it was asked."""

    async def elicit(self, message: str, schema: Any, timeout: float | None, key: str | None) -> ElicitResult:
        return ElicitResult("accept", (message, schema, timeout, key))

    async def elicit_url(self, message: str, url: str, timeout: float | None, key: str | None) -> ElicitResult:
        return ElicitResult("accept", (message, url, timeout, key))

    async def sample(self, params: Mapping[str, Any], timeout: float | None, key: str | None) -> SampleResult:
        return SampleResult("assistant", (params, timeout, key), "model")

    async def list_roots(self, timeout: float | None, key: str | None) -> list[Root]:
        return [Root(f"file:///{timeout}", key)]


@virtual
async def test_what_a_handler_asks_reaches_its_calls_client_whole() -> None:
    context = Asking(make_tasks()).context
    assert (await context.elicit("How many?", int, timeout=1.0, key="k")).data == ("How many?", int, 1.0, "k")
    assert (await context.elicit("?")).data == ("?", None, None, None)
    assert (await context.elicit_url("Go", "http://a", timeout=1.0, key="k")).data == ("Go", "http://a", 1.0, "k")
    assert await context.list_roots(timeout=2.0, key="k") == [Root("file:///2.0", "k")]
    sampled = await context.sample(
        "Hello",
        max_tokens=7,
        system_prompt="Be brief",
        temperature=0.5,
        stop_sequences=["end"],
        model_preferences={"speedPriority": 1},
        include_context="none",
        tools=[{"name": "t"}],
        tool_choice={"mode": "auto"},
        timeout=3.0,
        key="k",
    )
    asked = {
        "messages": "Hello",
        "maxTokens": 7,
        "systemPrompt": "Be brief",
        "temperature": 0.5,
        "stopSequences": ["end"],
        "modelPreferences": {"speedPriority": 1},
        "includeContext": "none",
        "tools": [{"name": "t"}],
        "toolChoice": {"mode": "auto"},
    }
    assert sampled.content == (asked, 3.0, "k")
    params, timeout, key = (await context.sample("Hello")).content
    assert (params["maxTokens"], timeout, key) == (1024, None, None)


@virtual
async def test_outside_of_a_call_there_is_nobody_to_ask() -> None:
    context = Context()
    for name, asking in [
        ("elicit", context.elicit("?")),
        ("elicit_url", context.elicit_url("?", "http://a")),
        ("sample", context.sample("?")),
        ("list_roots", context.list_roots()),
    ]:
        with pytest.raises(RuntimeError, match=rf"^{name}\(\) needs a running call"):
            await asking


@virtual
async def test_a_call_of_a_kind_that_cannot_ask_says_so() -> None:
    context = Work(make_tasks()).context
    for asking in (context.elicit("?"), context.elicit_url("?", ""), context.sample("?"), context.list_roots()):
        with pytest.raises(CapabilityError, match=r"^this kind of call cannot ask its client$"):
            await asking


@virtual
async def test_what_a_call_starts_has_the_name_the_limit_and_the_listener_it_was_given() -> None:
    tasks = make_tasks()
    heard: list[Exception] = []

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    call = Work(tasks).accepted()
    call.context.spawn(forever, name="mail", timeout=2.0, on_error=heard.append)
    assert [work.name for work in tasks.detached.values()] == ["mail"]
    await asyncio.sleep(3.0)
    assert [type(error) for error in heard] == [DeadlineExceeded]
    call.cancel(CallCancelled())


def test_the_background_cannot_be_ended_by_whoever_holds_it() -> None:
    """A call that has ended holds it in place of its own context."""
    Context.background().cancel(CallCancelled("too late"))
    assert Context.background().error is None


@virtual
async def test_what_a_call_left_behind_makes_its_own_correlation_id_and_none_for_everybody() -> None:
    kept: list[Context] = []

    async def work(call: Work) -> bytes:
        kept.append(call.context.with_value("k", 1))
        return b"done"

    call = Work(make_tasks(), work).accepted()
    call.start()
    assert call.task is not None
    await asyncio.wait([call.task])
    assert call.context is Context.background()
    assert kept[0].correlation_id == kept[0].correlation_id is not None
    assert Context.background().correlation_id is None
    assert Context.background().detach().correlation_id is None


@virtual
async def test_only_a_call_over_rpc_has_headers() -> None:
    assert Context().rpc is None
    assert Work(make_tasks()).context.rpc is None


@virtual
async def test_outside_of_mcp_there_is_no_client() -> None:
    assert Context.background().client is None
    assert Work(make_tasks()).context.client is None


@virtual
async def test_a_calls_own_principal_is_the_contexts() -> None:
    work = Work(make_tasks())
    assert work.context.principal == ""
    work.principal = "me"
    assert work.context.principal == "me"


def test_what_a_handler_sees_of_an_rpc_is_named() -> None:
    assert {"headers", "response_headers", "response_trailers", "path", "timeout"} <= set(dir(RpcInfo))
    assert hasattr(RpcHeaders, "all")
