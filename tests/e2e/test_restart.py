"""`kill -9` in the middle of calls, then a start on the same store and port: the session goes on under its old id."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.plans import CALLS
from tests.e2e.witness import Witness
from tests.rigs.ports import free_port
from tests.rigs.rawmcp import STREAMABLE_VERSIONS, HttpSse, Streamable, call, eventually, text_of
from tests.rigs.server import ServerProcess, running_async, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def start(tmp_path: Path, witness: Witness, port: int = 0, *flags: str) -> Any:
    command = tailrace_command(CALLS, *flags, port=port, store=f"sqlite:{tmp_path / 'store.db'}")
    return running_async(command, tmp_path / "log", env=witness.env)


async def kill(server: ServerProcess) -> None:
    await asyncio.to_thread(server.kill)


def check_unknown(answer: dict[str, Any]) -> None:
    """An unfinished call's answer: an error result that says that nobody knows what became of it."""
    assert "result" in answer, f"not a result: {answer}"
    assert answer["result"].get("isError") is True, f"not an error result: {answer}"
    outcome = answer["result"].get("_meta", {}).get("io.tailrace/outcome")
    assert outcome == "unknown", f"outcome {outcome!r}: {answer}"


async def test_http_sse_session_survives_kill_9(witness: Witness, tmp_path: Path) -> None:
    port = free_port()
    async with start(tmp_path, witness, port) as server:
        client = await HttpSse(server.url).open()
        last = client.last_event_id
        for key in ("done", "running"):
            assert await client.post(call(key, "gate", {"key": key})) == 202
        await witness.sees("start done", "start running")
        witness.open("done")
        assert text_of(await client.answer("done")) == "done"  # seen once, so that it is known to be finished
        await kill(server)
    client.close()
    async with start(tmp_path, witness, port) as server:
        reply = await client.resume(last)  # from before the answer: it must come again
        assert reply.head.get("tailrace-resume") == "complete", f"{reply.head.headers}"
        assert text_of(await client.answer("done")) == "done"
        check_unknown(await client.answer("running"))
        assert await client.post(call("new", "add", {"terms": [1, 2]})) == 202  # no new handshake
        assert (await client.answer("new"))["result"]["structuredContent"]["total"] == 3
        client.close()
        assert server.records() == [], server.stderr_tail()
    assert witness.count("start running") == 1, "an interrupted call was run again"
    hooks = [line.split(" ")[0] for line in witness.lines() if "register" in line or "restore" in line]
    assert hooks[:2] == ["register", "restore"], f"hooks: {hooks}"


async def test_http_sse_finished_unseen_answer_survives_kill_9(witness: Witness, tmp_path: Path) -> None:
    port = free_port()
    async with start(tmp_path, witness, port) as server:
        client = await HttpSse(server.url).open()
        assert await client.post(call("a", "gate", {"key": "a"})) == 202
        await witness.sees("start a")
        client.abort()
        witness.open("a")
        await witness.sees("end a")
        # The answer is in the store once a later call on the same session was accepted: commits come in order.
        assert await client.post(call("b", "add", {"terms": [1]})) == 202
        await kill(server)
    async with start(tmp_path, witness, port):
        await client.resume(client.last_event_id)
        assert text_of(await client.answer("a")) == "a"
        client.close()


@pytest.mark.parametrize("version", STREAMABLE_VERSIONS)
async def test_streamable_session_survives_kill_9(witness: Witness, tmp_path: Path, version: str) -> None:
    port = free_port()
    async with start(tmp_path, witness, port) as server:
        client = await Streamable(server.url, version).open()
        done = await client.post(call("done", "gate", {"key": "done", "say": True}, progress="p"))
        running = await client.post(call("running", "gate", {"key": "running", "say": True}, progress="q"))
        first_done, first_running = await done.stream.next(), await running.stream.next()
        assert first_done is not None
        assert first_running is not None
        witness.open("done")
        assert text_of(await done.answer("done")) == "done"
        await kill(server)
    done.close()
    running.close()
    async with start(tmp_path, witness, port) as server:
        reply = await client.get(first_done.id)
        assert reply.head.status == 200, f"HTTP {reply.head.status} {await reply.text()}"
        assert text_of(await reply.answer("done")) == "done"
        reply.close()
        reply = await client.get(first_running.id)
        assert reply.head.status == 200, f"HTTP {reply.head.status} {await reply.text()}"
        check_unknown(await reply.answer("running"))
        reply.close()
        answer = await client.call("new", "add", {"terms": [1, 2]})
        assert answer["result"]["structuredContent"]["total"] == 3
        assert server.records() == [], server.stderr_tail()
    assert witness.count("start running") == 1, "an interrupted call was run again"


async def test_streamable_session_id_is_valid_after_kill_9_with_no_call(witness: Witness, tmp_path: Path) -> None:
    """A session is committed before its InitializeResult is sent."""
    port = free_port()
    async with start(tmp_path, witness, port) as server:
        client = await Streamable(server.url).open()
        await kill(server)
    async with start(tmp_path, witness, port):
        assert (await client.call("a", "add", {"terms": [1]}))["result"]["structuredContent"]["total"] == 1
        assert await client.delete() == 200
    assert [line.split(" ")[0] for line in witness.lines()][:2] == ["register", "restore"], witness.lines()


async def test_event_ids_are_never_used_twice_across_a_restart(witness: Witness, tmp_path: Path) -> None:
    ids: list[str | None] = []
    port = free_port()
    client: HttpSse | None = None
    for life in range(3):
        async with start(tmp_path, witness, port) as server:
            if client is None:
                client = await HttpSse(server.url).open()
            else:
                await client.resume(client.last_event_id)
            for number in range(3):
                assert await client.post(call(f"{life}-{number}", "add", {"terms": [number]})) == 202
                await client.answer(f"{life}-{number}")
                ids.append(client.last_event_id)
            client.abort()
            await kill(server)
    assert len(ids) == len(set(ids)) == 9, f"an id came twice: {ids}"


async def test_many_calls_killed_in_flight_are_each_answered_once(witness: Witness, tmp_path: Path) -> None:
    """None lost, none doubled: after the restart every accepted call has exactly one answer, finished or unknown."""
    keys = [f"call-{number}" for number in range(20)]
    port = free_port()
    async with start(tmp_path, witness, port) as server:
        client = await HttpSse(server.url).open()
        before = client.last_event_id
        for key in keys:
            assert await client.post(call(key, "gate", {"key": key})) == 202
        await witness.sees(*(f"start {key}" for key in keys))
        for key in keys[:10]:
            witness.open(key)
        for _ in range(10):
            assert await client.next() is not None
        client.abort()
        await kill(server)
    async with start(tmp_path, witness, port):
        await client.resume(before)
        client.messages.clear()
        while len(client.messages) < len(keys):
            assert await client.next() is not None, f"the stream ended after {len(client.messages)} answers"
        answers = {message["id"]: message for message in client.messages}
        client.close()
    assert sorted(answers) == sorted(keys), f"answered {sorted(answers)}"
    for key in keys[:10]:
        assert text_of(answers[key]) == key
    for key in keys[10:]:
        check_unknown(answers[key])
    assert all(witness.count(f"start {key}") == 1 for key in keys), "a call was run again"


async def test_a_read_only_call_runs_again_after_kill_9_without_its_client(witness: Witness, tmp_path: Path) -> None:
    port = free_port()
    async with start(tmp_path, witness, port) as server:
        client = await HttpSse(server.url).open()
        assert await client.post(call("a", "look", {"key": "a"})) == 202
        await witness.sees("start a")
        await kill(server)
    client.close()
    async with start(tmp_path, witness, port) as server:
        await eventually(lambda: witness.count("start a") == 2, f"it runs again; journal: {witness.lines()}")
        witness.open("a")
        await witness.sees("end a")
        await client.resume(client.last_event_id)
        assert text_of(await client.answer("a")) == "a"
        client.close()
        assert server.records() == [], server.stderr_tail()
    assert witness.count("start a") == 2


async def test_a_read_only_call_runs_again_once_at_most(witness: Witness, tmp_path: Path) -> None:
    port = free_port()
    client: HttpSse | None = None
    for life in (1, 2):
        async with start(tmp_path, witness, port) as server:
            if client is None:
                client = await HttpSse(server.url).open()
                assert await client.post(call("a", "look", {"key": "a"})) == 202
            await eventually(lambda life=life: witness.count("start a") == life, f"start {life}: {witness.lines()}")
            await kill(server)
    assert client is not None
    client.close()
    async with start(tmp_path, witness, port):
        await client.resume(client.last_event_id)
        witness.open("a")  # if it does run a third time, let it end
        check_unknown(await client.answer("a"))
        client.close()
    assert witness.count("start a") == 2, f"journal: {witness.lines()}"
