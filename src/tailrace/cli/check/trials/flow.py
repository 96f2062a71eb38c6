"""Much to say, and clients that do not listen, or all leave at once: what it costs those who are not to blame."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from tailrace.cli.check.lab import Lab, together
from tailrace.cli.check.model import Failed, NotApplicable, Way, trial
from tailrace.cli.check.pipes import Stdio
from tailrace.cli.check.shared_stream import HttpSse, SharedStream, drop
from tailrace.cli.check.streamable import Streamable
from tailrace.cli.check.trials.disconnects import arrived

if TYPE_CHECKING:
    from tailrace.cli.check.talk import Call, Conversation, Running

__all__ = ["TRIALS", "unread"]

_MB = 1024 * 1024
_BURST = 2000  # notifications in a row, for a client that reads
_COUNT = 20_000  # notifications for one that does not
_SIZE = 10_000  # bytes of each
_LATE = 0.5  # seconds of silence after which no more is expected
_LOOK = 3.0  # seconds for which the others are served beside it
_SESSIONS = 60  # of the storm
_SPARE = 8  # descriptors that may be open beyond those before


@trial(
    "burst", "Many notifications in a row all reach a client that reads, in order, and before the answer.",
    "basic utilities, Progress: the value MUST increase, and notifications MUST stop after completion. Loss: "
    "judged as loss",
    *Way, needs=("burst",),
)  # fmt: skip
async def burst(lab: Lab) -> str:
    client = await lab.client()
    running = await lab.sent(client, lab.call("burst", count=_BURST, size=0))
    await client.finish(running, lab.options.timeout / 2)
    lost, doubled = arrived(running, _BURST)
    seen = running.progress()
    said = f"{_BURST - lost} of {_BURST} notifications before the answer"
    if lost and isinstance(client, SharedStream) and (late := await _late(client, running)):
        said += f", {late} after it"
    if running.answer is None:
        raise Failed(f"{said}, and no answer: {running.how}")
    if lost or doubled or seen != sorted(seen):
        raise Failed(f"{said}; {doubled} doubled{'' if seen == sorted(seen) else '; out of order'}")
    return f"{said}, in order"


@trial(
    "slow-reader", "A client that does not read costs no other client its answers, and the server little memory.",
    "The specification is silent: judged by what the others get",
    Way.STREAMABLE, Way.SSE, Way.MODERN, needs=("burst",),
)  # fmt: skip
async def slow_reader(lab: Lab) -> str:
    other = await lab.client()
    await lab.greet(other)
    before = _rss(lab)
    lazy = await unread(lab)
    calls, slowest, most = await _served(lab, other, before)
    await lab.answers("beside a client that does not read")
    offered = f"{_COUNT * _SIZE // 1_000_000} MB offered to one that does not read"
    said = f"{offered}; {calls} calls of another client answered, the slowest in {slowest * 1000:.0f} ms"
    if before is not None:
        said += f"; memory grew by {most / _MB:.0f} MiB"
        if most > lab.options.max_growth:
            raise Failed(f"{said} (limit {lab.options.max_growth / _MB:.0f})")
    drop(*lazy)
    return said


@trial(
    "head-of-line", "One unread stream does not hold up the other calls of its session.",
    "2025-11-25 transports, Multiple Connections: a client may have several streams at once. Judged by whether "
    "the other calls are answered",
    Way.STREAMABLE, needs=("burst",),
)  # fmt: skip
async def head_of_line(lab: Lab) -> str:
    client = await lab.streamable()
    if not client.session:
        raise NotApplicable("it has no sessions: no two calls belong together")
    await lab.greet(client)
    lazy = await lab.sent(client, _torrent(lab), small=True)
    await asyncio.sleep(0.7)  # until its buffers are full
    try:
        calls, slowest, _ = await _served(lab, client, None)
    except Failed as error:
        raise Failed(f"with one stream unread, another call of the session: {error}") from None
    drop(client, lazy)
    return f"{calls} calls of the session beside an unread stream, the slowest in {slowest * 1000:.0f} ms"


@trial(
    "storm", "Sixty clients that leave at once, each in its own way and with a call in flight, leave nothing behind.",
    "Sessions end in any way a connection can: judged by whether the next client is served, and by open "
    "descriptors",
    Way.STREAMABLE, Way.SSE, Way.MODERN, needs=("slow",),
)  # fmt: skip
async def storm(lab: Lab) -> str:
    await lab.answers("before the storm")
    before = lab.target.process.descriptors() if lab.target.process is not None else None
    clients = await together(lab.client() for _ in range(_SESSIONS))
    runs = await together(lab.sent(client, lab.call("slow", seconds=2.0)) for client in clients)
    await asyncio.sleep(0.2)
    await together(_leave(number, client, run) for number, (client, run) in enumerate(zip(clients, runs, strict=True)))
    await lab.answers("after the storm")
    said = f"{_SESSIONS} clients left at once (RST, FIN, DELETE)"
    process = lab.target.process
    if before is None or process is None:
        return f"{said}; the next one was served"
    if not process.alive:
        raise Failed(f"{said}: the server ended with {process.code}")
    await lab.until(lambda: (process.descriptors() or 0) <= before + _SPARE, lab.options.answer_within)
    after = process.descriptors() or 0
    said += f"; descriptors before {before}, after {after}"
    if after > before + _SPARE:
        raise Failed(f"{said}: {after - before} are not given back within {lab.options.answer_within:g} s")
    return f"{said}; the next one was served"


TRIALS = (burst, slow_reader, head_of_line, storm)


# --- pieces -----------------------------------------------------------------------------------------


def _torrent(lab: Lab) -> Call:
    return lab.call("burst", count=_COUNT, size=_SIZE)


async def _late(client: SharedStream, running: Running) -> int:
    """How many more come for a call that was answered, until none comes for a while."""
    before = len(running.messages)
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(_LATE):
                if not await client.read_one():
                    break
    return len(running.messages) - before


async def unread(lab: Lab) -> tuple[Conversation, Running]:
    """A client that asked for far more than buffers hold, and reads none of it; returns when those are full."""
    client: Conversation
    if lab.way is Way.SSE:
        client = await lab.sse(small=True)
        running = await lab.sent(client, _torrent(lab))
    else:
        client = await lab.client()
        if isinstance(client, Stdio):
            client.stop_reading()
        running = await lab.sent(client, _torrent(lab), small=True)
    await asyncio.sleep(1.0)
    return client, running


async def _served(lab: Lab, client: Conversation, before: int | None) -> tuple[int, float, int]:
    """Quick calls for a while: how many, the slowest in seconds, and how far memory grew meanwhile."""
    loop = asyncio.get_running_loop()
    calls, slowest, most = 0, 0.0, 0
    until = loop.time() + _LOOK
    while loop.time() < until:
        began = loop.time()
        await lab.greet(client)
        slowest = max(slowest, loop.time() - began)
        calls += 1
        if before is not None:
            most = max(most, (_rss(lab) or before) - before)
        await asyncio.sleep(0.05)
    return calls, slowest, most


def _rss(lab: Lab) -> int | None:
    return lab.target.process.rss() if lab.target.process is not None else None


async def _leave(number: int, client: Conversation, run: Running) -> None:
    """A third with RST, a third with FIN, a third with DELETE where there is one, and with RST where there is none."""
    connection = client.connection if isinstance(client, HttpSse) else run.connection
    if isinstance(client, Streamable) and number % 3 == 2:
        with suppress(Failed):
            await client.delete()
    if connection is not None:
        connection.close() if number % 3 == 1 else connection.abort()
