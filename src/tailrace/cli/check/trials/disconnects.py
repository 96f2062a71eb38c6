"""A client's connection ends before its call does: what becomes of the work, of the answer, of the messages between."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from tailrace.cli.check.lab import Lab, together
from tailrace.cli.check.model import Cut, Failed, NotApplicable, Stalled, Way, trial
from tailrace.cli.check.shared_stream import HttpSse, drop
from tailrace.cli.check.streamable import Streamable

if TYPE_CHECKING:
    from tailrace.cli.check.talk import Conversation, Running

__all__ = ["TRIALS", "arrived", "first_event_id"]

_WORK = 1.0  # seconds a call takes that its client leaves
_FIRST_EVENT = 0.8  # of them, the part in which a stream may give its first event id
_DISCONNECT = "2025-11-25 transports, Sending Messages 6: a disconnect SHOULD NOT be taken for a cancellation"
_NO_IDS = "its events have no ids, and resuming is optional (2025-11-25 transports, Resumability: MAY)"
_CLIENTS = 4
_ROUNDS = 12  # calls of each client
_EVENTS = 60  # notifications of each call
_CUTS = 6  # of one call, at most


@trial(
    "vanish", "A call goes on when its client's connection breaks.", f"{_DISCONNECT}. 2024-11-05 is silent: judged by "
    "loss, as the 202 said that it was accepted", Way.STREAMABLE, Way.SSE, needs=("effect",),
)  # fmt: skip
async def vanish(lab: Lab) -> str:
    client = await lab.client()
    running, key = await lab.working(client, _WORK)
    drop(client, running)
    if not await lab.until(lambda: lab.witness.count("end", key) > 0, _WORK + lab.options.answer_within):
        raise Failed("the tool was cancelled when its client's connection broke")
    if (ran := lab.witness.count("start", key)) != 1:
        raise Failed(f"it ran {ran} times")
    return "the work was done to its end, once"


@trial(
    "kept", "The answer of an accepted call waits for a client that comes back.",
    "No MUST: judged by loss. A call that was accepted, and whose answer nobody can have any more, is lost; "
    "also where there is no event id to come back with",
    Way.STREAMABLE, Way.SSE, needs=("slow",),
)  # fmt: skip
async def kept(lab: Lab) -> str:
    client = await lab.client()
    running = await lab.sent(client, lab.call("slow", seconds=_WORK))
    if isinstance(client, Streamable):
        if not await first_event_id(client, running):
            raise Failed("no event id came before the answer: a client that is cut off has nothing to come back with")
        assert running.connection is not None
        running.connection.abort()
        await asyncio.sleep(_WORK + 0.2)
        await client.resume(running)
    else:
        assert isinstance(client, HttpSse)
        client.abort()
        await asyncio.sleep(_WORK + 0.2)
        await client.resume()
    await client.finish(running, lab.options.answer_within)
    running.result()
    return "dropped with a RST, resumed after the call had ended: the answer was there"


@trial(
    "resume", "A stream that is cut goes on where it was: nothing lost, nothing twice.",
    "2025-11-25 transports, Resumability and Redelivery: events have ids, and Last-Event-ID replays what came "
    "after it on that stream",
    Way.STREAMABLE, Way.SSE, needs=("burst",),
)  # fmt: skip
async def resume(lab: Lab) -> str:
    client = await lab.client()
    await _needs_ids(lab, client)
    running = await _cut_up(lab, client, 200, [40])
    lost, doubled = arrived(running, 200)
    if running.answer is None or lost or doubled:
        raise Failed(f"200 notifications, cut once: {lost} lost, {doubled} doubled; {running.how or 'answered'}")
    return "200 notifications and the answer, cut after 40: none lost, none twice"


@trial(
    "resume-loop", "Streams that are cut over and over, while their calls speak, lose and double nothing.",
    "2025-11-25 transports, Resumability and Redelivery; between what is replayed and what is new there must be"
    " no gap",
    Way.STREAMABLE, Way.SSE, needs=("burst",),
)  # fmt: skip
async def resume_loop(lab: Lab) -> str:
    probe = await lab.client()
    await _needs_ids(lab, probe)
    clients = [await lab.client() for _ in range(_CLIENTS)]
    random_cuts = random.Random(7)  # the same cuts each time
    plans = [[[random_cuts.randint(1, 12) for _ in range(_CUTS)] for _ in range(_ROUNDS)] for _ in clients]

    async def rounds(number: int) -> list[Running]:
        return [await _cut_up(lab, clients[number], _EVENTS, cuts) for cuts in plans[number]]

    done = [one for some in await together(map(rounds, range(_CLIENTS))) for one in some]
    lost, doubled = map(sum, zip(*(arrived(one, _EVENTS) for one in done), strict=True))
    unanswered = sum(one.answer is None for one in done)
    said = (
        f"{len(done)} calls of {_EVENTS} notifications, each cut up to {_CUTS} times: {lost} lost, {doubled} doubled, "
    )
    said += f"{unanswered} without an answer"
    if lost or doubled or unanswered:
        why = next((one.how for one in done if one.how), "")
        raise Failed(f"{said}{f' ({why})' if why else ''}")
    return said


@trial(
    "disconnect-cancels", "A call is cancelled when its client's connection breaks.",
    "2026-07-28 transports, Cancellation: the server MUST treat the closing of the response stream as "
    "cancellation",
    Way.MODERN, needs=("effect",),
)  # fmt: skip
async def disconnect_cancels(lab: Lab) -> str:
    client = await lab.client()
    running, key = await lab.working(client, 2 * _WORK)
    drop(client, running)
    if await lab.until(lambda: lab.witness.count("end", key) > 0, 3 * _WORK):
        raise Failed("the tool ran to its end, though its client had left")
    return "the tool was cancelled"


@trial(
    "delete", "A session that is deleted while a call runs answers that call before its stream ends.",
    "No MUST: judged by loss. A result or an error tells the caller what became of it; a stream that just ends "
    "does not",
    Way.STREAMABLE, needs=("slow",),
)  # fmt: skip
async def delete(lab: Lab) -> str:
    client = await lab.streamable()
    if not client.session:
        raise NotApplicable("it gives no session id, and has nothing to delete")
    running, _ = await lab.working(client, 2 * _WORK)
    status = await client.delete()
    if status == 405:
        raise NotApplicable("it does not let clients end sessions (405, which it MAY)")
    await client.finish(running, lab.options.answer_within)
    if running.answer is None:
        raise Failed(f"DELETE: HTTP {status}; the call in flight: {running.how}")
    what = "an error" if "error" in running.answer else "a result"
    return f"DELETE: HTTP {status}; the call in flight was answered with {what}"


# --- pieces -----------------------------------------------------------------------------------------


async def first_event_id(client: Streamable, running: Running, limit: float = _FIRST_EVENT) -> str:
    """The id of the first event on a call's stream, if one comes in time."""
    with suppress(Stalled, Cut):
        await client.event(running, limit)
    return running.stream.last_event_id if running.stream is not None else ""


async def _needs_ids(lab: Lab, client: Conversation) -> None:
    """Raise `NotApplicable` where events carry no ids."""
    if isinstance(client, HttpSse):
        if not client.last_event_id:
            await lab.greet(client)
        if not client.last_event_id:
            raise NotApplicable(_NO_IDS)
        return
    assert isinstance(client, Streamable)
    running = await lab.sent(client, lab.call("burst", count=3, size=0, pause=0.01))
    await client.finish(running, lab.options.answer_within)
    if running.stream is None or not running.stream.last_event_id:
        raise NotApplicable(_NO_IDS)


async def _cut_up(lab: Lab, client: Conversation, count: int, cuts: list[int]) -> Running:
    """One call whose stream is cut after so many more notifications each time; `how` says what went wrong."""
    assert isinstance(client, Streamable | HttpSse)
    limit = lab.options.answer_within
    running = await lab.sent(client, lab.call("burst", count=count, size=0, pause=0.004))
    try:
        for cut in cuts:
            await _read_some(client, running, cut, limit)
            if running.answer is not None:
                break
            if isinstance(client, HttpSse):
                await client.resume()
            else:
                await client.resume(running, limit)
        return await client.finish(running, limit)
    except Failed as error:
        running.how = str(error)
        return running


async def _read_some(client: Streamable | HttpSse, running: Running, count: int, limit: float) -> None:
    """Read so many more messages of a call, or until its stream is over."""
    wanted = len(running.messages) + count
    while len(running.messages) < wanted and running.answer is None:
        if isinstance(client, HttpSse):
            async with asyncio.timeout(limit):
                going_on = await client.read_one()
        else:
            going_on = await client.event(running, limit) is not None
        if not going_on:
            return


def arrived(running: Running, count: int) -> tuple[int, int]:
    """How many of a call's notifications were lost, and how many came twice."""
    seen = running.progress()
    return count - len(set(seen)), len(seen) - len(set(seen))


TRIALS = (vanish, kept, resume, resume_loop, disconnect_cancels, delete)
