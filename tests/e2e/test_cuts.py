"""Streams cut at random bytes by a proxy in front of a real server, and resumed: every event exactly once, in order.

A round that fails names its seed: `TAILRACE_E2E_SEED=… pytest tests/e2e/test_cuts.py` cuts at the same places again.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cutting import COUNT, Collected, Cutter, burst, cut_http_sse, cut_streamable
from tests.e2e.plans import CALLS
from tests.e2e.witness import Witness
from tests.rigs.proxy import Plan, running_proxy
from tests.rigs.rawmcp import STREAMABLE_VERSIONS, HttpSse, Reply, Streamable, call, is_answer
from tests.rigs.server import ROOT, ServerProcess, running, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROUNDS = 50  # of each; tests/soak runs more of them
PER_SESSION = 10  # rounds on one session, then a new one


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("TAILRACE_E2E_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


@pytest.fixture(params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest, witness: Witness, tmp_path: Path) -> Iterator[ServerProcess]:
    """`tailrace run` of the calls that are watched."""
    store = "memory" if request.param == "memory" else f"sqlite:{tmp_path / 'store.db'}"
    with running(tailrace_command(CALLS, store=store), tmp_path / "log", env=witness.env) as process:
        yield process


async def streamable_rounds(server: ServerProcess, seed: int, rounds: int) -> int:
    """As many valid rounds as asked for; how many cuts there were."""
    cuts = void = 0
    async with running_proxy(server.port) as proxy:
        client = await Streamable(server.url).open()
        reply = await client.post(burst("uncut", 0), through=proxy.url)
        await reply.answer("uncut")
        reply.close()
        usual = proxy.connections[-1].down
        number = done = 0
        while done < rounds:
            if number % PER_SESSION == 0:
                client = await Streamable(server.url, STREAMABLE_VERSIONS[number // PER_SESSION % 3]).open()
            collected = await cut_streamable(client, proxy, Cutter(seed, number, usual), f"cut-{number}")
            number += 1
            if collected is None or not collected.cuts:
                void += 1  # cut before the first id, or not before the end: it shows nothing
                assert void < rounds, f"seed {seed}: {void} rounds without a resume; the first uncut had {usual} bytes"
                continue
            check(collected, server, seed)
            done += 1
            cuts += collected.cuts
    return cuts


async def http_sse_rounds(server: ServerProcess, seed: int, rounds: int) -> int:
    cuts = void = 0
    async with running_proxy(server.port) as proxy:
        client = await HttpSse(server.url).open(through=proxy.url)
        before = proxy.connections[-1].down
        assert await client.post(burst("uncut", 0)) == 202
        await client.answer("uncut")
        usual = proxy.connections[-1].down - before
        number = done = 0
        while done < rounds:
            if number and number % PER_SESSION == 0:
                client.close()
                client = await HttpSse(server.url).open(through=proxy.url)
            collected = await cut_http_sse(client, proxy, Cutter(seed, number, usual), f"cut-{number}")
            # What struck after the answer was read (or is still to strike) must not touch the next round.
            await client.resume(client.last_event_id, through=proxy.url)
            number += 1
            check(collected, server, seed)
            if not collected.cuts:
                void += 1
                assert void < rounds, f"seed {seed}: {void} rounds without a cut; the uncut one had {usual} bytes"
                continue
            done += 1
            cuts += collected.cuts
        client.close()
    return cuts


def check(collected: Collected, server: ServerProcess, seed: int) -> None:
    try:
        collected.check_complete()
    except AssertionError as error:
        raise AssertionError(f"TAILRACE_E2E_SEED={seed}\n{error}\n{server.stderr_tail()}") from None


async def test_cut_streamable_http_is_resumed_exactly(server: ServerProcess, seed: int, witness: Witness) -> None:
    cuts = await streamable_rounds(server, seed, ROUNDS)
    assert cuts >= ROUNDS, f"only {cuts} cuts in {ROUNDS} rounds"
    assert witness.count("start cut-0") == 1, "a resumed call ran again"
    assert server.records() == [], f"a client's cut is no error of the server\n{server.stderr_tail()}"


async def test_cut_http_sse_is_resumed_exactly(server: ServerProcess, seed: int, witness: Witness) -> None:
    cuts = await http_sse_rounds(server, seed, ROUNDS)
    assert cuts >= ROUNDS, f"only {cuts} cuts in {ROUNDS} rounds"
    assert witness.count("start cut-0") == 1, "a resumed call ran again"
    assert server.records() == [], f"a client's cut is no error of the server\n{server.stderr_tail()}"


# --- a log that has turned ------------------------------------------------------------------------

BIG = {"key": "big", "count": 60, "size": 65_536, "after": 1}  # 3.8 MB; a ring holds 1 MiB


async def test_streamable_http_says_gap_when_the_ring_has_turned(server: ServerProcess, witness: Witness) -> None:
    client = await Streamable(server.url).open()
    reply = await client.post(call("big", "burst", BIG))
    collected = Collected("big")
    while not collected.numbers:
        event = await reply.stream.next()
        assert event is not None, "the stream ended before the first notification"
        collected.take(event)
    last = event.id
    reply.abort()
    witness.open("big")
    await witness.sees("end big")
    reply = await client.get(last)
    await check_gap(reply, collected)


async def test_http_sse_says_gap_when_the_ring_has_turned(server: ServerProcess, witness: Witness) -> None:
    client = await HttpSse(server.url).open()
    assert await client.post(call("big", "burst", BIG)) == 202
    collected = Collected("big")
    while not collected.numbers:
        event = await client.stream.next()
        assert event is not None, "the stream ended before the first notification"
        collected.take(event)
    client.abort()
    witness.open("big")
    await witness.sees("end big")
    await check_gap(await client.resume(event.id), collected)


async def check_gap(reply: Reply, collected: Collected) -> None:
    """What is left comes in order, the answer is there, and the gap is named with its size."""
    assert reply.head.get("tailrace-resume") == "gap", f"HTTP {reply.head.status} {reply.head.headers}"
    assert not reply.stream.events or reply.stream.events[0].event == "endpoint"
    while not collected.answers:
        event = await reply.stream.next()
        assert event is not None, collected.tell(f"no answer; notifications {collected.numbers}")
        collected.take(event)
    reply.close()
    numbers = collected.numbers
    assert numbers == sorted(set(numbers)), f"out of order or doubled: {numbers}"
    assert numbers[-1] == BIG["count"] - 1, f"the newest is gone: {numbers}"
    lost = int(str(BIG["count"])) - len(numbers)
    assert lost > 0, "all is there: this test must make the ring turn"
    said = [comment for comment in reply.stream.comments() if comment.startswith("gap ")]
    assert said, f"no comment names the gap: {reply.stream.comments()}"
    assert sum(int(comment.split()[1]) for comment in said) == lost, f"{said}, but {lost} are missing: {numbers}"


# --- the rig itself -------------------------------------------------------------------------------


async def test_cutting_is_right_on_the_reference_server(seed: int, witness: Witness, tmp_path: Path) -> None:
    """The same client and proxy on the official SDK's server, which keeps every event of a stream."""
    command = [sys.executable, str(ROOT / "tests" / "rigs" / "reference.py"), "http"]
    with running(command, tmp_path / "log", env=witness.env) as server:
        async with running_proxy(server.port, lambda _: Plan(piece=11)) as proxy:
            client = await Streamable(server.url).open()
            reply = await client.post(burst("whole", 1), through=proxy.url)
            collected = Collected("whole")
            async for event in reply.stream:
                collected.take(event)
            collected.check_complete()
            assert reply.stream.connection.ended
            reply.close()
            cut_after = proxy.connections[-1].down // 2
            proxy.plan = lambda _: Plan(cut_after=cut_after, fault="fin")
            reply = await client.post(burst("half", 1), through=proxy.url)
            half = Collected("half")
            async for event in reply.stream:
                half.take(event)
            assert reply.stream.cut
            assert 0 < len(half.numbers) < COUNT
            assert not any(is_answer(answer, "half") for answer in half.answers)
            reply.abort()
            await witness.sees("end half")  # it can lose what happens while it replays
            reply = await client.get(event.id)
            while not half.answers:
                after = await reply.stream.next()
                assert after is not None
                half.take(after)
            half.check_complete()
            reply.close()
