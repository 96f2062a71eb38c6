"""A connection is dropped while its call runs: legacy calls go on and keep their answer, modern ones are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.plans import CALLS
from tests.e2e.witness import Witness
from tests.rigs.rawhttp import EventStream
from tests.rigs.rawmcp import (
    STREAMABLE_VERSIONS,
    HttpSse,
    Streamable,
    call,
    modern_call,
    modern_post,
    modern_send,
    text_of,
)
from tests.rigs.server import ServerProcess, running, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("served_by", ["listener", "uvicorn"], indirect=True)]


@pytest.fixture(params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest, witness: Witness, tmp_path: Path) -> Iterator[ServerProcess]:
    """`tailrace run` of the calls that are watched; a test's drops leave no ERROR in its log."""
    store = "memory" if request.param == "memory" else f"sqlite:{tmp_path / 'store.db'}"
    with running(tailrace_command(CALLS, store=store), tmp_path / "log", env=witness.env) as process:
        yield process
        assert process.process.poll() is None, f"the server ended\n{process.stderr_tail()}"
        assert process.records() == [], f"a client's drop is no error of the server\n{process.stderr_tail()}"


# --- HTTP+SSE -------------------------------------------------------------------------------------


async def test_http_sse_call_ends_after_the_drop_and_its_answer_waits(server: ServerProcess, witness: Witness) -> None:
    client = await HttpSse(server.url).open()
    assert await client.post(call("a", "gate", {"key": "a"})) == 202
    await witness.sees("start a")
    client.abort()
    witness.open("a")
    await witness.sees("end a")  # accepted means processed: nobody was connected
    reply = await client.resume(client.last_event_id)  # checks that it is the same session
    assert reply.head.get("tailrace-resume") == "complete", f"{reply.head.headers}"
    assert text_of(await client.answer("a")) == "a"
    assert await client.post(call("b", "add", {"terms": [1, 2]})) == 202
    assert (await client.answer("b"))["result"]["structuredContent"]["total"] == 3
    client.close()
    assert witness.lines().count("start a") == 1


async def test_http_sse_dropped_right_after_the_202_still_runs(server: ServerProcess, witness: Witness) -> None:
    client = await HttpSse(server.url).open()
    assert await client.post(call("a", "gate", {"key": "a"})) == 202
    client.abort()
    await witness.sees("start a")
    witness.open("a")
    await witness.sees("end a")
    await client.resume(client.last_event_id)
    assert text_of(await client.answer("a")) == "a"
    client.close()


async def test_http_sse_takes_posts_while_no_stream_is_open(server: ServerProcess, witness: Witness) -> None:
    client = await HttpSse(server.url).open()
    client.abort()
    assert await client.post(call("a", "add", {"terms": [20, 22]})) == 202
    await client.resume(client.last_event_id)
    assert (await client.answer("a"))["result"]["structuredContent"]["total"] == 42
    client.close()


async def test_http_sse_answer_can_be_had_twice(server: ServerProcess, witness: Witness) -> None:
    """A write to a socket is no proof of delivery: whoever resumes from before it gets the answer again."""
    client = await HttpSse(server.url).open()
    before = client.last_event_id
    assert await client.post(call("a", "add", {"terms": [20, 22]})) == 202
    first = await client.answer("a")
    client.abort()
    await client.resume(before)
    assert await client.answer("a") == first
    client.close()


async def test_http_sse_newest_connection_takes_the_stream(server: ServerProcess, witness: Witness) -> None:
    client = await HttpSse(server.url).open()
    old = client.reply
    assert old is not None
    assert await client.post(call("a", "gate", {"key": "a"})) == 202
    client.reply = None  # keep the old connection open beside the new one
    await client.resume(client.last_event_id)
    witness.open("a")
    assert text_of(await client.answer("a")) == "a"
    assert await old.stream.next() is None, f"the old connection still gets events: {old.stream.events[-1:]}"
    old.close()
    client.close()


async def test_http_sse_unknown_event_id_is_not_found(server: ServerProcess) -> None:
    client = HttpSse(server.url)
    with pytest.raises(AssertionError, match="HTTP 404"):
        await client.resume("nobody-gave-this-id")
    client.close()


# --- Streamable HTTP, legacy ----------------------------------------------------------------------


@pytest.mark.parametrize("version", STREAMABLE_VERSIONS)
async def test_streamable_call_ends_after_the_drop_and_its_answer_waits(
    server: ServerProcess, witness: Witness, version: str
) -> None:
    client = await Streamable(server.url, version).open()
    reply = await client.post(call("a", "gate", {"key": "a", "say": True}, progress="p"))
    first = await reply.stream.next()  # 2025-11-25: the priming event; before: the progress
    assert first is not None
    assert first.id, f"the first event has no id: {first}"
    assert (first.data == "") == (version == "2025-11-25"), f"{version} began with {first}"
    reply.abort()
    witness.open("a")
    await witness.sees("end a")
    reply = await client.get(first.id)
    assert reply.head.status == 200, f"HTTP {reply.head.status} {await reply.text()}"
    assert reply.head.get("tailrace-resume") == "complete", f"{reply.head.headers}"
    assert text_of(await reply.answer("a")) == "a"
    assert await reply.stream.next() is None
    assert not reply.stream.cut, "a resumed stream ends in order after the answer"
    reply.close()
    assert (await client.call("b", "add", {"terms": [1, 2]}))["result"]["structuredContent"]["total"] == 3
    assert witness.lines().count("start a") == 1


async def test_streamable_stream_is_primed_with_retry(server: ServerProcess, witness: Witness) -> None:
    client = await Streamable(server.url).open()
    reply = await client.post(call("a", "gate", {"key": "a"}))  # silent: what comes first is the priming event
    first = await reply.stream.next()
    assert first is not None
    assert (first.data, bool(first.id)) == ("", True), f"not a priming event: {first}"
    witness.open("a")
    assert text_of(await reply.answer("a")) == "a"
    assert reply.stream.retry == 2000, f"retry: {reply.stream.retry}"
    reply.close()


async def test_streamable_drop_before_the_first_byte_cancels_nothing(server: ServerProcess, witness: Witness) -> None:
    client = await Streamable(server.url).open()
    connection = await client.post_unanswered(call("a", "gate", {"key": "a"}))
    await witness.sees("start a")
    connection.abort()
    assert (await client.call("b", "add", {"terms": [1]}))["result"]["structuredContent"]["total"] == 1
    witness.open("a")
    await witness.sees("end a")
    assert witness.count("cancelled a") == 0


async def test_streamable_calls_with_one_id_get_their_own_answers(server: ServerProcess, witness: Witness) -> None:
    """A well-known hosted client sends every request as `id: 1` on one pooled session."""
    client = await Streamable(server.url).open()
    keys = [f"key-{number}" for number in range(12)]
    slow = await asyncio.gather(*(client.post(call(1, "gate", {"key": key})) for key in keys))
    quick = await client.post(call(1, "add", {"terms": [40, 2]}))
    assert (await quick.answer(1))["result"]["structuredContent"]["total"] == 42
    for key in reversed(keys):
        witness.open(key)
    assert [text_of(await reply.answer(1)) for reply in slow] == keys
    for reply in (quick, *slow):
        reply.close()


async def test_streamable_cancel_is_a_notification(server: ServerProcess, witness: Witness) -> None:
    client = await Streamable(server.url).open()
    reply = await client.post(call("a", "gate", {"key": "a"}))
    await witness.sees("start a")
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}}
    accepted = await client.post(cancelled)
    assert accepted.head.status == 202
    accepted.close()
    await witness.sees("cancelled a")
    reply.close()


async def test_streamable_resume_needs_its_own_session(server: ServerProcess, witness: Witness) -> None:
    mine, other = await Streamable(server.url).open(), await Streamable(server.url).open()
    reply = await mine.post(call("a", "gate", {"key": "a"}))
    first = await reply.stream.next()
    assert first is not None
    reply.abort()
    stolen = await other.get(first.id)
    assert stolen.head.status == 404, f"another session's event id was answered with HTTP {stolen.head.status}"
    stolen.close()
    witness.open("a")


async def test_streamable_deleted_session_is_gone(server: ServerProcess, witness: Witness) -> None:
    clients = [await Streamable(server.url).open() for _ in range(20)]  # it must not come back from the store either
    for client in clients:
        assert (await client.delete(), await client.delete()) == (200, 404), "DELETE twice: ended, then unknown"
        reply = await client.post(call("a", "add", {"terms": [1]}))
        assert reply.head.status == 404, f"HTTP {reply.head.status} {await reply.text()}"
        reply.close()
    await witness.sees(*(f"unregister {client.session_id}" for client in clients))
    witness.check_hooks_paired()


# --- 2026-07-28 -----------------------------------------------------------------------------------


async def test_modern_call_in_json_mode_is_cancelled_by_the_drop(server: ServerProcess, witness: Witness) -> None:
    connection = await modern_send(server.url, modern_call("a", "gate", {"key": "a"}))
    await witness.sees("start a")
    connection.abort()
    await witness.sees("cancelled a")


async def test_modern_call_in_json_mode_is_cancelled_by_an_orderly_close(
    server: ServerProcess, witness: Witness
) -> None:
    connection = await modern_send(server.url, modern_call("a", "gate", {"key": "a"}))
    await witness.sees("start a")
    connection.close()
    await witness.sees("cancelled a")


async def test_modern_call_in_sse_mode_is_cancelled_by_the_drop(server: ServerProcess, witness: Witness) -> None:
    reply = await modern_post(server.url, modern_call("a", "gate", {"key": "a", "say": True}, progress="p"))
    assert reply.is_stream, f"{reply.head.headers}"
    assert await EventStream(reply.connection).next() is not None
    reply.abort()
    await witness.sees("cancelled a")


async def test_modern_drop_cancels_its_own_call_only(server: ServerProcess, witness: Witness) -> None:
    first = await modern_send(server.url, modern_call(1, "gate", {"key": "a"}))
    second = await modern_send(server.url, modern_call(1, "gate", {"key": "b"}))
    await witness.sees("start a", "start b")
    first.abort()
    await witness.sees("cancelled a")
    witness.open("b")
    head = await second.read_head()
    assert head.status == 200
    assert b'"b"' in await second.read_all()
    second.close()
    assert witness.count("cancelled b") == 0
