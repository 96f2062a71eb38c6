"""Go's `httputil.ReverseProxy` and nginx in between: streams are not held back, resumes and disconnects get through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.behind import proxied
from tests.e2e.plans import CALLS
from tests.e2e.witness import Witness
from tests.rigs.rawmcp import HttpSse, Streamable, call, eventually, modern_call, modern_post, text_of
from tests.rigs.server import ServerProcess, running, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]  # the first may build the Go program, and fetch nginx


@pytest.fixture
def server(witness: Witness, tmp_path: Path) -> Iterator[ServerProcess]:
    """`tailrace run` of the calls that are watched; nothing that a proxy does is an error of the server."""
    with running(tailrace_command(CALLS), tmp_path / "log", env=witness.env) as process:
        yield process
        assert process.records() == [], process.stderr_tail()


@pytest.fixture(params=["go", "nginx"])
def url(request: pytest.FixtureRequest, server: ServerProcess, tmp_path: Path) -> Iterator[str]:
    """Where the server is reached through the proxy."""
    with proxied(request.param, server.url, tmp_path) as address:
        yield address


async def test_progress_over_streamable_http_is_not_held_back(url: str, witness: Witness) -> None:
    client = await Streamable(url).open()
    reply = await client.post(call("a", "gate", {"key": "a", "say": True}, progress="p"))
    async for message in reply.stream.messages():  # the gate is closed: the answer cannot have pushed it out
        assert message["params"]["progress"] == 1
        break
    witness.open("a")
    assert text_of(await reply.answer("a")) == "a"
    reply.close()


async def test_events_over_http_sse_are_not_held_back(url: str, witness: Witness) -> None:
    client = await HttpSse(url).open()
    assert await client.post(call("a", "gate", {"key": "a", "say": True}, progress="p")) == 202
    message = await client.next()
    assert message is not None
    assert message["params"]["progress"] == 1
    witness.open("a")
    assert text_of(await client.answer("a")) == "a"
    client.close()


async def test_a_modern_stream_is_not_held_back(url: str, witness: Witness) -> None:
    reply = await modern_post(url, modern_call("a", "gate", {"key": "a", "say": True}, progress="p"))
    async for message in reply.stream.messages():
        assert message["params"]["progress"] == 1
        break
    witness.open("a")
    assert text_of(await reply.answer("a")) == "a"
    reply.close()


async def test_the_disconnect_of_a_modern_client_is_seen_and_cancels(url: str, witness: Witness) -> None:
    reply = await modern_post(url, modern_call("a", "gate", {"key": "a", "say": True}, progress="p"))
    await reply.stream.next()
    reply.abort()
    await witness.sees("cancelled a")


async def test_a_streamable_call_outlives_its_cut_connection_and_is_resumed(url: str, witness: Witness) -> None:
    client = await Streamable(url).open()
    reply = await client.post(call("a", "gate", {"key": "a", "say": True}, progress="p"))
    first = await reply.stream.next()
    assert first is not None
    reply.abort()
    witness.open("a")
    await witness.sees("end a")
    reply = await client.get(first.id)
    assert reply.head.get("tailrace-resume") == "complete", f"HTTP {reply.head.status} {reply.head.headers}"
    assert text_of(await reply.answer("a")) == "a"
    reply.close()
    assert witness.count("start a") == 1
    assert await client.delete() == 200


async def test_an_http_sse_session_goes_on_after_a_cut(url: str, server: ServerProcess, witness: Witness) -> None:
    client = await HttpSse(url).open()
    assert await client.post(call("a", "gate", {"key": "a"})) == 202
    await witness.sees("start a")
    client.abort()
    witness.open("a")
    await witness.sees("end a")
    await client.resume(client.last_event_id)  # the same session, by the address that it knows
    assert text_of(await client.answer("a")) == "a"
    client.close()
    await eventually(lambda: server.process.poll() is None, "the server lives")


async def test_a_burst_comes_whole_and_in_order(url: str) -> None:
    client = await Streamable(url).open()
    reply = await client.post(call("a", "burst", {"key": "a", "count": 300, "size": 4096}))
    numbers = [
        message["params"]["data"]["n"]
        async for message in reply.stream.messages()
        if message.get("method") == "notifications/message"
    ]
    assert numbers == list(range(300))
    reply.close()
