"""A server process ends: calls in flight are answered or kept, hooks come in pairs, the exit is clean and in time."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.plans import CALLS
from tests.e2e.witness import Witness
from tests.rigs.ports import free_port
from tests.rigs.rawhttp import LIMIT, Cut, RawConnection
from tests.rigs.rawmcp import (
    HttpSse,
    Reply,
    Streamable,
    call,
    exchange,
    initialize,
    is_answer,
    modern_call,
    modern_send,
    notification,
    text_of,
)
from tests.rigs.server import ServerProcess, running, running_async, tailrace_command

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.parametrize("served_by", ["listener", "uvicorn"], indirect=True),
]
CALLS_EACH = 100  # all that one session may have in flight
GRACE = 25.0  # seconds beyond --drain within which the process must be gone: 2, and what a busy machine needs


def start(tmp_path: Path, witness: Witness, *flags: str, store: str = "memory", port: int = 0) -> Any:
    command = tailrace_command(CALLS, *flags, store=store, port=port)
    return running_async(command, tmp_path / "log", env=witness.env)


async def end_of(server: ServerProcess, drain: float) -> None:
    """The process ends by itself, with code 0, within the drain limit and its grace."""
    code = await asyncio.to_thread(server.wait, drain + GRACE)
    assert code == 0, f"exit code {code}\n{server.stderr_tail()}"


def check_quiet(server: ServerProcess) -> None:
    assert server.records() == [], f"ERROR records:\n{server.stderr_tail(80)}"


async def is_draining(server: ServerProcess) -> bool:
    """The signal was seen: `/readyz` says 503, or nobody listens any more."""
    try:
        reply = await exchange(server.url + "/readyz", "GET", [])
    except (OSError, Cut):
        return True
    reply.close()
    return reply.head.status == 503


async def drains(server: ServerProcess, number: int = signal.SIGTERM) -> None:
    """Send the signal, and wait until it was seen."""
    server.signal(number)
    async with asyncio.timeout(LIMIT):
        while not await is_draining(server):
            await asyncio.sleep(0.01)


class InFlight:
    """A hundred calls over HTTP+SSE in one session, as many over Streamable HTTP in another, and as many of the
    modern era, which has none; all wait at one gate."""

    def __init__(self, server: ServerProcess) -> None:
        self.sse = HttpSse(server.url)
        self.streamable = Streamable(server.url)
        self.sse_keys = [f"sse-{number}" for number in range(CALLS_EACH)]
        self.http_keys = [f"http-{number}" for number in range(CALLS_EACH)]
        self.modern_keys = [f"modern-{number}" for number in range(CALLS_EACH)]
        self.url = server.url
        self.replies: dict[str, Reply] = {}
        self.connections: dict[str, RawConnection] = {}
        self.first_ids: dict[str, str] = {}
        self.sse_start: str | None = None
        self.answers: dict[str, list[dict[str, Any]]] = {
            key: [] for key in self.sse_keys + self.http_keys + self.modern_keys
        }

    async def begin(self, witness: Witness) -> None:
        await self.sse.open()
        self.sse_start = self.sse.last_event_id
        await self.streamable.open()
        for key in self.sse_keys:
            assert await self.sse.post(call(key, "gate", {"key": key})) == 202

        async def post(key: str) -> None:
            self.replies[key] = reply = await self.streamable.post(call(key, "gate", {"key": key}))
            event = await reply.stream.next()
            assert event is not None, f"{key}: no priming event"
            assert event.id, f"{key}: the first event has no id"
            self.first_ids[key] = event.id

        await asyncio.gather(*(post(key) for key in self.http_keys))
        for key in self.modern_keys:
            self.connections[key] = await modern_send(self.url, modern_call(key, "gate", {"key": key}))
        await witness.sees(*(f"start {key}" for key in self.answers))

    async def read_to_the_end(self) -> None:
        """Take whatever still comes until every stream has ended, in order or not."""
        await asyncio.gather(
            self._read_sse(), *map(self._read_http, self.http_keys), *map(self._read_modern, self.modern_keys)
        )

    async def resume_missing(self) -> None:
        """Ask a new process, on the same port, for the answers that did not come."""
        missing = [key for key in self.sse_keys if not self.answers[key]]
        if missing:
            await self.sse.resume(self.sse.last_event_id)
            while missing := [key for key in missing if not self.answers[key]]:
                message = await self.sse.next()
                assert message is not None, f"the resumed stream ended; still missing {missing}"
                self._take(message)
        for key in self.http_keys:
            if not self.answers[key]:
                reply = await self.streamable.get(self.first_ids[key])
                assert reply.head.status == 200, f"{key}: HTTP {reply.head.status} {await reply.text()}"
                self._take(await reply.answer(key))
                reply.close()

    def check_each_answered_once(self) -> None:
        wrong = {key: found for key, found in self.answers.items() if len(found) != 1}
        assert not wrong, f"answers other than one: {wrong}"

    def close(self) -> None:
        self.sse.close()
        for reply in self.replies.values():
            reply.close()
        for connection in self.connections.values():
            connection.close()

    async def _read_sse(self) -> None:
        while (message := await self.sse.next()) is not None:
            self._take(message)

    async def _read_http(self, key: str) -> None:
        async for message in self.replies[key].stream.messages():
            self._take(message)

    async def _read_modern(self, key: str) -> None:
        reply = Reply(self.connections[key], await self.connections[key].read_head(LIMIT))
        self._take(await reply.answer(key))

    def _take(self, message: dict[str, Any]) -> None:
        if is_answer(message, message.get("id", "")):
            self.answers[message["id"]].append(message)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("durable", [False, True])
async def test_calls_in_flight_are_answered_before_the_exit(
    number: int, durable: bool, witness: Witness, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'store.db'}" if durable else "memory"
    async with start(tmp_path, witness, "--drain", "40", store=store) as server:
        flight = InFlight(server)
        await flight.begin(witness)
        await drains(server, number)
        witness.open("all")
        await flight.read_to_the_end()
        await end_of(server, 40)
        flight.check_each_answered_once()
        assert {key: text_of(found[0]) for key, found in flight.answers.items()} == {key: key for key in flight.answers}
        broken = [key for key, reply in flight.replies.items() if reply.stream.cut]
        assert not broken, f"streams that broke instead of ending: {broken}"
        assert not flight.sse.stream.cut, "the HTTP+SSE stream broke instead of ending"
        flight.close()
        witness.check_hooks_paired()
        check_quiet(server)


async def test_calls_that_outlive_the_drain_are_answered_or_kept(witness: Witness, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'store.db'}"
    port = free_port()
    async with start(tmp_path, witness, "--drain", "2", store=store, port=port) as server:
        flight = InFlight(server)
        await flight.begin(witness)
        await drains(server)
        await flight.read_to_the_end()
        await end_of(server, 2)
        check_quiet(server)
        flight.close()
    async with start(tmp_path, witness, "--drain", "2", store=store, port=port) as server:
        await flight.resume_missing()
        flight.check_each_answered_once()
        flight.close()
        await drains(server)
        await end_of(server, 2)
        check_quiet(server)
    assert all(witness.count(f"end {key}") == 0 for key in flight.answers), "a call ended though its gate is shut"
    assert all(witness.count(f"start {key}") == 1 for key in flight.answers), "a call was run again"
    witness.check_hooks_paired()


async def test_idle_streams_end_in_order(witness: Witness, tmp_path: Path) -> None:
    async with start(tmp_path, witness, "--drain", "5") as server:
        sse = await HttpSse(server.url).open()
        streamable = await Streamable(server.url).open()
        standalone = await streamable.get()
        assert standalone.head.status == 200, f"HTTP {standalone.head.status}"
        await drains(server)
        while await sse.next() is not None:
            pass
        while await standalone.stream.next() is not None:
            pass
        assert (sse.stream.cut, standalone.stream.cut) == (False, False), "a stream broke instead of ending"
        await end_of(server, 5)
        sse.close()
        standalone.close()
        witness.check_hooks_paired()
        check_quiet(server)


async def test_an_idle_server_ends_at_once(witness: Witness, tmp_path: Path) -> None:
    async with start(tmp_path, witness, "--drain", "60") as server:
        client = await Streamable(server.url).open()
        assert (await client.call("a", "add", {"terms": [1]}))["result"]["structuredContent"]["total"] == 1
        server.signal(signal.SIGTERM)
        await end_of(server, 0)  # far from its drain limit: nothing runs
        witness.check_hooks_paired()
        check_quiet(server)


async def test_a_client_that_never_reads_does_not_hold_the_exit_up(witness: Witness, tmp_path: Path) -> None:
    async with start(tmp_path, witness, "--drain", "2") as server:
        client = await Streamable(server.url).open()
        big = {"key": "big", "count": 2000, "size": 65_536}
        reply = await client.post(call("big", "burst", big))
        reply.connection.stop_reading()
        sse = await HttpSse(server.url).open()
        assert await sse.post(call("huge", "burst", {**big, "key": "huge"})) == 202
        sse.stream.connection.stop_reading()
        await witness.sees("start big", "start huge")
        server.signal(signal.SIGTERM)
        await end_of(server, 2)
        reply.abort()
        sse.abort()
        witness.check_hooks_paired()
        check_quiet(server)


async def test_threads_that_never_return_do_not_hold_the_exit_up(witness: Witness, tmp_path: Path) -> None:
    async with start(tmp_path, witness, "--drain", "2") as server:
        client = await Streamable(server.url).open()
        replies = [await client.post(call(key, "stuck", {"key": key})) for key in ("a", "b", "c")]
        await witness.sees("start a", "start b", "start c")
        server.signal(signal.SIGTERM)
        await end_of(server, 2)
        for reply in replies:
            reply.close()
        witness.check_hooks_paired()
        check_quiet(server)


async def test_neither_holds_up_the_answers_of_the_others(witness: Witness, tmp_path: Path) -> None:
    """A client that never reads, a thread that never returns, and three hundred calls that end in the drain."""
    async with start(tmp_path, witness, "--drain", "8") as server:
        flight = InFlight(server)
        await flight.begin(witness)
        other = await Streamable(server.url).open()
        unread = await other.post(call("big", "burst", {"key": "big", "count": 2000, "size": 65_536}))
        unread.connection.stop_reading()
        stuck = await other.post(call("stuck", "stuck", {"key": "stuck"}))
        listening = await other.get()
        await witness.sees("start big", "start stuck")
        server.signal(signal.SIGTERM)
        witness.open("all")
        await flight.read_to_the_end()
        flight.check_each_answered_once()
        assert {key: text_of(found[0]) for key, found in flight.answers.items()} == {key: key for key in flight.answers}
        await end_of(server, 8)
        flight.close()
        unread.abort()
        stuck.abort()
        listening.close()
        witness.check_hooks_paired()
        check_quiet(server)


async def test_a_second_signal_forces(witness: Witness, tmp_path: Path) -> None:
    async with start(tmp_path, witness, "--drain", "100") as server:
        client = await Streamable(server.url).open()
        reply = await client.post(call("a", "gate", {"key": "a"}))
        await witness.sees("start a")
        await drains(server)
        assert server.process.poll() is None, f"it ended although a call runs\n{server.stderr_tail()}"
        server.signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait, 60)
        reply.abort()


async def test_a_planted_bug_makes_exactly_one_error_record(witness: Witness, tmp_path: Path) -> None:
    async with start(tmp_path, witness) as server:
        client = await Streamable(server.url).open()
        refused = await client.call("a", "refuse", {"reason": "out of tea"})
        assert refused["result"]["isError"] is True
        assert text_of(refused) == "out of tea"
        wrong = await client.call("b", "add", {"terms": "no list"})
        assert wrong.get("error") or wrong["result"]["isError"], f"bad arguments were taken: {wrong}"
        check_quiet(server)  # a client's fault is none of ours
        broken = await client.call("c", "bug")
        assert broken["result"]["isError"] is True
        assert "planted bug" not in json.dumps(broken), f"the exception's text went to the client: {broken}"
        server.signal(signal.SIGTERM)
        await end_of(server, 25)
        errors = server.records()
        assert len(errors) == 1, f"{len(errors)} ERROR records\n{server.stderr_tail()}"
        assert "planted bug" in server.stderr(), "the traceback is not in the log"


# --- stdio ----------------------------------------------------------------------------------------


def talk(server: ServerProcess) -> None:
    """The handshake over stdio."""
    server.send(initialize("2025-11-25"))
    answer = server.receive()
    assert answer is not None, f"no answer to initialize\n{server.stderr_tail()}"
    assert is_answer(answer, "init"), answer
    server.send(notification("notifications/initialized"))


def rest(server: ServerProcess) -> list[dict[str, Any]]:
    """All that still comes on stdout, to its end."""
    found: list[dict[str, Any]] = []
    while (message := server.receive()) is not None:
        found.append(message)
    return found


STDIO = [sys.executable, "-m", "tailrace", "run", str(CALLS), "--stdio"]


async def test_stdio_end_of_input_answers_what_ends_in_time_and_cancels_the_rest(
    witness: Witness, tmp_path: Path
) -> None:
    with running(STDIO, tmp_path / "log", env=witness.env, stdio=True) as server:
        await asyncio.to_thread(talk, server)
        server.send(call("soon", "gate", {"key": "soon"}))
        server.send(call("never", "gate", {"key": "never"}))
        await witness.sees("start soon", "start never")
        server.close_stdin()
        witness.open("soon")
        found = await asyncio.to_thread(rest, server)
        await end_of(server, 1.5)
        soon = [message for message in found if is_answer(message, "soon")]
        assert len(soon) == 1, f"the call that ended in time: {found}"
        assert text_of(soon[0]) == "soon"
        assert witness.count("cancelled never") == 1, f"journal: {witness.lines()}"
        assert not [message for message in found if is_answer(message, "never") and "result" in message]
        reports = [line for line in server.records("WARNING") if "cancelled" in line]
        assert len(reports) == 1, f"the cancelled call is not reported\n{server.stderr_tail()}"
        witness.check_hooks_paired()
        check_quiet(server)


async def test_stdio_end_of_input_without_calls_ends_at_once(witness: Witness, tmp_path: Path) -> None:
    with running(STDIO, tmp_path / "log", env=witness.env, stdio=True) as server:
        await asyncio.to_thread(talk, server)
        server.close_stdin()
        assert await asyncio.to_thread(rest, server) == []
        await end_of(server, 0)
        witness.check_hooks_paired()
        check_quiet(server)


async def test_stdio_sigterm_answers_calls_in_flight(witness: Witness, tmp_path: Path) -> None:
    with running([*STDIO, "--drain", "40"], tmp_path / "log", env=witness.env, stdio=True) as server:
        await asyncio.to_thread(talk, server)
        keys = [f"call-{number}" for number in range(CALLS_EACH)]
        for key in keys:
            server.send(call(key, "gate", {"key": key}))
        await witness.sees(*(f"start {key}" for key in keys))
        server.signal(signal.SIGTERM)
        witness.open("all")
        found = await asyncio.to_thread(rest, server)
        await end_of(server, 40)
        assert sorted(message["id"] for message in found if "id" in message) == sorted(keys), f"{found}"
        witness.check_hooks_paired()
        check_quiet(server)
