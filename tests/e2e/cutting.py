"""One call with numbered notifications whose streams are cut again and again, and what its client put together of them.

Cuts fall at random bytes and come in every kind the proxy knows. The client resumes by `Last-Event-ID` until it has the
answer, and never asks twice for anything: whatever is missing or doubled afterwards is the server's doing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tailrace.wire.sse import Event
from tests.rigs.proxy import Fault, Plan, Proxy
from tests.rigs.rawhttp import LIMIT, Cut, EventStream, Stalled
from tests.rigs.rawmcp import HttpSse, Reply, Streamable, call, is_answer

COUNT = 90  # notifications in a call
MAX_CUTS = 4  # in one call; after them the line is clean
SILENCE = 0.2  # seconds without a byte before this client takes a line for dead (black holes only)
_FAULTS: tuple[Fault, ...] = ("rst", "fin", "rst", "fin", "half-close", "rst", "fin", "rst", "fin", "black-hole")


@dataclass
class Collected:
    """What the client of one call has, from all its streams together."""

    key: str
    numbers: list[int] = field(default_factory=list[int])
    ids: list[str | None] = field(default_factory=list["str | None"])
    answers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    story: list[str] = field(default_factory=list[str])  # for the message of a failure
    cuts: int = 0

    def take(self, event: Event) -> None:
        """Note one event; the answer must be the last of all."""
        if event.event == "endpoint" or not event.data:
            return
        assert event.id, self.tell("an event without an id cannot be resumed after")
        self.ids.append(event.id)
        message = json.loads(event.data)
        if is_answer(message, self.key):
            self.answers.append(message)
        elif message.get("method") == "notifications/message":
            assert not self.answers, self.tell("a notification came after the answer")
            self.numbers.append(message["params"]["data"]["n"])

    def check_complete(self) -> None:
        """Every notification once and in order, then one answer; no id twice."""
        missing = sorted(set(range(COUNT)) - set(self.numbers))
        doubled = sorted(n for n in set(self.numbers) if self.numbers.count(n) > 1)
        assert self.numbers == list(range(COUNT)), self.tell(f"missing {missing}, doubled {doubled}: {self.numbers}")
        assert len(self.answers) == 1, self.tell(f"{len(self.answers)} answers: {self.answers}")
        assert not self.answers[0]["result"].get("isError"), self.tell(f"the answer: {self.answers}")
        assert len(self.ids) == len(set(self.ids)), self.tell("two events with one id")

    def tell(self, what: str) -> str:
        return f"call {self.key}: {what}\n  " + "\n  ".join(self.story)


class Cutter:
    """Where the cuts of one round fall, from a seed, so that a failing round can be had again.

    Args:
        seed: Named in every failure.
        number: The round's number; it chooses the faults.
        usual: About how many bytes an uncut stream has.
    """

    def __init__(self, seed: int, number: int, usual: int) -> None:
        self.random = random.Random(f"{seed}/{number}")
        self.number = number
        self.usual = usual
        self.made = 0

    def plan(self, *, certain: bool = False) -> Plan:
        """The next connection's plan: cut somewhere, or clean once there were enough (or by chance)."""
        if self.made >= MAX_CUTS or not (certain or self.random.random() < 0.5):
            return Plan()
        fault = _FAULTS[(self.number + 3 * self.made) % len(_FAULTS)]
        self.made += 1
        piece = self.random.choice((7, 100, 65_536))
        return Plan(cut_after=self.random.randrange(1, self.usual), fault=fault, piece=piece)


def burst(key: str, number: int, size: int = 64) -> dict[str, Any]:
    """The call of one round: every other one takes its time, so that cuts fall while it is sending."""
    every = 0.001 if number % 2 else 0.0
    return call(key, "burst", {"key": key, "count": COUNT, "size": size, "every": every})


async def cut_streamable(client: Streamable, proxy: Proxy, cutter: Cutter, key: str) -> Collected | None:
    """One call over Streamable HTTP; None where the cut came before any event id, so that nothing could be resumed."""
    collected = Collected(key)
    plan = cutter.plan(certain=True)
    with _planned(proxy, plan):
        try:
            reply = await client.post(burst(key, cutter.number), through=proxy.url, limit=_patience(plan))
        except (Cut, Stalled):
            return None
        collected.story.append(f"POST, {plan}")
        last = await _read(collected, reply, plan, None)
    if last is None:
        return None
    while not collected.answers:
        plan = cutter.plan()
        with _planned(proxy, plan):
            collected.story.append(f"GET after {last}, {plan}")
            try:
                reply = await client.get(last, through=proxy.url, limit=_patience(plan))
            except (Cut, Stalled):
                continue
            _check_resumed(collected, reply)
            last = await _read(collected, reply, plan, last)
    reply.close()
    return collected


async def cut_http_sse(client: HttpSse, proxy: Proxy, cutter: Cutter, key: str) -> Collected:
    """One call over HTTP+SSE, on a stream that is open through the proxy; afterwards one is open again."""
    collected = Collected(key)
    plan = cutter.plan(certain=True)
    line = proxy.connections[-1]
    line.plan = plan
    line.cut_after = line.down + (plan.cut_after or 0)
    collected.story.append(f"open stream, {plan}")
    assert await client.post(burst(key, cutter.number)) == 202, collected.tell("the POST was refused")
    assert client.reply is not None
    client.last_event_id = await _read(collected, client.reply, plan, client.last_event_id)
    while not collected.answers:
        plan = cutter.plan()
        with _planned(proxy, plan):
            collected.story.append(f"GET after {client.last_event_id}, {plan}")
            try:
                reply = await client.resume(client.last_event_id, through=proxy.url, limit=_patience(plan))
            except (Cut, Stalled):
                continue
            _check_resumed(collected, reply)
            client.last_event_id = await _read(collected, reply, plan, client.last_event_id)
    return collected


async def _read(collected: Collected, reply: Reply, plan: Plan, last: str | None) -> str | None:
    """Read on until the answer is there or the stream broke; the id to resume after."""
    stream: EventStream = reply.stream
    try:
        while not collected.answers and (event := await stream.next(_patience(plan))) is not None:
            last = event.id or last
            collected.take(event)
    except Stalled:
        stream.cut = True
    if not collected.answers:
        assert stream.cut, collected.tell("the stream ended in order without the answer")
        collected.cuts += 1
        collected.story.append(f"  cut with {len(collected.numbers)} notifications, last id {last}")
        reply.abort()
    return last


def _check_resumed(collected: Collected, reply: Reply) -> None:
    assert reply.head.status == 200, collected.tell(f"the resume was answered with HTTP {reply.head.status}")
    said = reply.head.get("tailrace-resume")
    assert said == "complete", collected.tell(f"Tailrace-Resume: {said}")


def _patience(plan: Plan) -> float:
    return SILENCE if plan.fault in ("black-hole", "half-close") and plan.cut_after is not None else LIMIT


@contextmanager
def _planned(proxy: Proxy, plan: Plan) -> Iterator[None]:
    proxy.plan = lambda _: plan
    try:
        yield
    finally:
        proxy.plan = lambda _: Plan()
