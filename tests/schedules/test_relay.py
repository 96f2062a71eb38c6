"""Whatever meets at the end of a request that another member handles: it has one outcome, which both sides know, and
nothing of it is left on either.

Every pair of: the owner replies, breaks off, declines; the client goes, takes what it held up, sends more of its body,
breaks that; a member counts as lost here or there; pieces are lost here or there; a member closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import combinations

import pytest

from tailrace.core.exchange import Exchange, Sink
from tailrace.errors import TransportError
from tailrace.transports.relay_served import RelayedExchange
from tests.rigs.exchange import FakeExchange
from tests.schedules.exploring import MORE, exhaust, fault, in_order, racing
from tests.transports.relaying import Member, two_members

DELAYS = 3 if MORE else 1
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 if MORE else 600)]
Record = Callable[[str, object], None]

FRAME = b"x" * 3000
WHOLE = FRAME * 4
EVENTS = [(b"content-type", b"text/event-stream")]


class Meeting:
    """One relayed request, and those who end it. The window is small, so that acknowledgements are part of the race."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.here: Member
        self.there: Member
        self.asked = FakeExchange("GET" if kind == "stream" else "POST", "/mcp", b"", streams=kind == "upload")
        self.go_on = asyncio.Event()
        self.breaks = False
        self.again: list[Exchange] = []

    async def begin(self) -> None:
        options = {"window": 4096, "again": lambda exchange, to: self.again.append(exchange)}
        self.here, self.there = await two_members(**options)
        self.there.handle = self.handle
        if self.kind == "stream":
            self.asked.sink.open.clear()
        self.here.relay.forward(self.asked, "there")
        await asyncio.sleep(2.0)  # the owner has shown that it lives: from here on the client's side waits for ever
        assert self.there.seen, "the request has not arrived"

    def handle(self, exchange: Exchange) -> None:
        if self.kind == "stream":
            exchange.stream(200, EVENTS, self.write)
        elif self.kind == "upload":
            self.there.tasks.start(self.read(exchange), name="read")

    async def write(self, sink: Sink) -> None:
        await sink.write(FRAME)
        await sink.write(FRAME)  # over the window: waits for the client
        await self.go_on.wait()
        if self.breaks:
            raise TransportError("no more")
        await sink.write(FRAME)
        await sink.write(FRAME)
        await sink.end()

    async def read(self, exchange: Exchange) -> None:
        assert exchange.source is not None
        try:
            while await exchange.source.read():
                pass
            exchange.respond(200, [], WHOLE)
        except TransportError:
            exchange.respond(400, [], b"")

    # --- ends ---

    def reply(self) -> None:
        if self.kind == "call" and not self.there.seen[0].replied:
            self.there.seen[0].respond(200, [], WHOLE)
        self.go_on.set()

    def broken(self) -> None:
        if self.kind == "call":
            self.there.seen[0].break_off()  # type: ignore[attr-defined]
            self.there.seen[0].leave()
        self.breaks = True
        self.go_on.set()

    def declined(self) -> None:
        exchange = self.there.seen[0]
        if not exchange.replied:
            exchange.decline()  # type: ignore[attr-defined]

    def client(self) -> None:
        self.asked.disconnect()

    def taken(self) -> None:
        self.asked.sink.open.set()

    def body(self) -> None:
        if self.kind == "upload" and not self.asked.gone:
            self.asked.feed(FRAME * 3)
            self.asked.feed_end()

    def body_fails(self) -> None:
        if self.asked._incoming is not None:
            self.asked._incoming.fail(TransportError("bad chunk"))

    def lost_here(self) -> None:
        self.here.relay.lost("there")

    def lost_there(self) -> None:
        self.there.relay.lost("here")

    def pieces_here(self) -> None:
        self.here.inbox.lose()

    def pieces_there(self) -> None:
        self.there.inbox.lose()

    def close_here(self) -> None:
        self.here.relay.close()

    def close_there(self) -> None:
        self.there.relay.close()


SHARED = ("reply", "broken", "client", "lost_here", "lost_there", "pieces_here", "pieces_there", "close_here",
          "close_there")  # fmt: skip
ENDS = {
    "call": (*SHARED, "declined"),
    "stream": (*SHARED, "taken"),
    "upload": (*SHARED, "body", "body_fails"),
}


async def meet(kind: str, names: tuple[str, ...]) -> None:
    in_order()
    meeting = Meeting(kind)
    await meeting.begin()
    here, there, asked = meeting.here, meeting.there, meeting.asked

    async def end(name: str) -> None:
        await asyncio.sleep(0)
        getattr(meeting, name)()

    async with racing():
        await asyncio.gather(*(end(name) for name in names))
        await asyncio.sleep(0.01)
    meeting.taken()
    await asyncio.sleep(0.01)
    if not (asked.replied or asked.gone or meeting.again):  # nothing ended it: now something does
        meeting.body()
        meeting.reply()
    if not there.seen[0].gone:
        meeting.go_on.set()
    await asyncio.sleep(60)  # whoever was told nothing has found out
    check(meeting, names)
    await here.stop()
    await there.stop()


def check(meeting: Meeting, names: tuple[str, ...]) -> None:
    here, there, asked = meeting.here, meeting.there, meeting.asked
    (seen,) = there.seen
    assert asked.replied or asked.gone or meeting.again == [asked], "nobody told the client"
    assert not (asked.replied and meeting.again), "a request that was answered is asked again"
    assert seen.replied or seen.gone, "the owner still has it"
    for member in (here, there):
        numbers = member.relay.statistics()
        assert (numbers["asked"], numbers["served"]) == (0, 0), f"something is left {member.name}"
    if asked.status == 200 and meeting.kind != "stream":
        assert asked.reply_body == WHOLE
    if asked.streaming is not None:
        assert asked.streaming.done(), "the client's writer still waits"
        assert WHOLE.startswith(asked.sink.written)
    if asked.sink.ended:
        assert asked.sink.written == WHOLE or "close_here" in names, "half a reply looks like a whole one"
        assert len(asked.sink.written) % len(FRAME) == 0, "an event was cut in two"
    at_work = {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert at_work <= {"tailrace-relay"}, f"somebody still waits: {at_work}"


CASES = [(kind, names) for kind, ends in ENDS.items() for names in combinations(ends, 2)]


@pytest.mark.parametrize(
    ("kind", "names"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_two_ends_meet(kind: str, names: tuple[str, ...], record_property: Record) -> None:
    record_property("schedules", exhaust(partial(meet, kind, names), delays=DELAYS))


# --- guards that can fail -----------------------------------------------------------------------------


def test_lost_pieces_of_which_nobody_is_told_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.transports.relay.Relay.lost_pieces", lambda self: None)
    assert "told the client" in fault(partial(meet, "call", ("reply", "pieces_here")), delays=DELAYS)


def test_an_owner_that_does_not_hear_of_the_clients_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.transports.relay_asked.Asked._say_left", lambda self: None)
    assert "left" in fault(partial(meet, "stream", ("client", "taken")), delays=DELAYS)


def test_half_a_reply_that_looks_whole_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.transports.relay_served.RelayedExchange.break_off", RelayedExchange.finish)
    assert "half a reply" in fault(partial(meet, "stream", ("broken", "taken")), delays=DELAYS)
