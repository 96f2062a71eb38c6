"""A request that arrives at one member of a service and is handled by another, both over inboxes in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace.core.access import Access
from tailrace.core.exchange import Exchange, Sink
from tailrace.errors import ClientGone, StoreError, StreamReset, TransportError
from tailrace.transports.relay_pieces import PART, Data, decode, encode, pack_access, unpack_access
from tailrace.transports.relay_served import RelayedExchange
from tests.core.support import turns, virtual
from tests.rigs.exchange import FakeExchange
from tests.transports.relaying import Member, two_members

WINDOW = 256 * 1024
OK = [(b"content-type", b"text/plain")]


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[Member, Member]]:
    here, there = await two_members(**options)
    try:
        yield here, there
    finally:
        await here.stop()
        await there.stop()


def echo(exchange: Exchange) -> None:
    exchange.respond(200, OK, exchange.body)


def streaming(writer: Callable[[Sink], Awaitable[None]], kind: bytes = b"text/plain") -> Callable[[Exchange], None]:
    return lambda exchange: exchange.stream(200, [(b"content-type", kind)], writer)


async def never(sink: Sink) -> None:
    await asyncio.get_running_loop().create_future()


def open_relays(*members: Member) -> list[int]:
    found = [member.relay.statistics() for member in members]
    return [one["asked"] + one["served"] for one in found]


# --- there and back ---------------------------------------------------------------------------------


@virtual
async def test_a_request_arrives_as_it_was_and_its_reply_comes_back() -> None:
    async with pair() as (here, there):
        there.handle = lambda exchange: exchange.respond(201, [*OK, (b"x-one", b"1"), (b"x-one", b"2")], b"made")
        asked = FakeExchange(
            "POST",
            "/messages/?session_id=a%20b",
            b"body",
            [("x-two", "é"), ("x-two", "b")],
            principal="alice",
            loopback=False,
            prefix="/app",
            version="2",
        )
        here.relay.forward(asked, "there")
        assert await asked.status_code() == 201
        assert (asked.reply_body, asked.headers["x-one"]) == (b"made", "2")
        (seen,) = there.seen
        assert isinstance(seen, RelayedExchange)
        assert seen.sender == "here"
        for name in ("method", "path", "query", "prefix", "version", "body", "principal", "loopback", "trailers"):
            assert getattr(seen, name) == getattr(asked, name), name
        assert list(seen.fields()) == [(b"x-two", "é"), (b"x-two", "b"), (b"host", "localhost")]
        assert seen.header(b"x-two") == "é"
        assert seen.header_values(b"x-two") == ["é", "b"]
        assert seen.header(b"x-three") is None
        assert seen.doubled(frozenset({b"x-two"})) == b"x-two"
        await turns()
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_credentials_stay_behind_and_what_they_allow_travels() -> None:
    async with pair(challenge=lambda exchange, scopes: b"Bearer " + " ".join(scopes).encode()) as (here, there):
        secrets = [("authorization", "Bearer secret"), ("cookie", "secret"), ("proxy-authorization", "secret")]
        asked = FakeExchange("POST", "/mcp", b"{}", [*secrets, ("accept", "*/*")], principal="alice")
        asked.access = Access("alice", frozenset({"read", "write"}), {"iss": "x", "odd": object()}, "app", 12.5)
        asked.challenge = lambda exchange, scopes: b""
        open_to_all = FakeExchange("POST", "/mcp", b"{}")
        here.relay.forward(asked, "there")
        here.relay.forward(open_to_all, "there")
        await turns()
        first, second = there.seen
        assert "secret" not in str(first.fields())
        assert first.access == Access("alice", frozenset({"read", "write"}), {"iss": "x"}, "app", 12.5)
        assert first.challenge is not None
        assert first.challenge(first, ["admin"]) == b"Bearer admin"
        assert (second.access, second.challenge, second.covers(["any"])) == (None, None, True)


def test_a_token_that_is_good_for_everything_stays_that() -> None:
    access = Access("operator")
    assert unpack_access(pack_access(access)) == access


@virtual
@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, WINDOW, WINDOW + 1, 4 * 1024 * 1024])
async def test_bodies_of_any_size_travel_in_both_directions(size: int) -> None:
    async with pair() as (here, there):
        there.handle = echo
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        asked = FakeExchange("POST", "/mcp", body)
        here.relay.forward(asked, "there")
        assert await asked.status_code() == 200
        assert asked.reply_body == body
        await turns()
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_whole_reply_keeps_its_trailers_where_they_reach_the_client() -> None:
    async with pair() as (here, there):
        there.handle = lambda exchange: exchange.respond(200, OK, exchange.body, [(b"grpc-status", b"0")])
        two, one = FakeExchange("POST", "/p.S/M", b"a", version="2"), FakeExchange("POST", "/p.S/M", b"a")
        long = FakeExchange("POST", "/p.S/M", b"a" * (PART + 1), version="2")
        for exchange in (two, one, long):
            here.relay.forward(exchange, "there")
            await exchange.status_code()
        assert two.reply_trailers == long.reply_trailers == [(b"grpc-status", b"0")]
        assert one.reply_trailers == []


@virtual
async def test_a_streamed_reply_comes_as_it_is_written_and_ends_with_its_trailers() -> None:
    async with pair() as (here, there):
        go_on = asyncio.Event()

        async def writer(sink: Sink) -> None:
            await sink.write(b"one")
            await go_on.wait()
            await sink.write(b"two")
            await sink.end([(b"grpc-status", b"0")])

        there.handle = streaming(writer)
        asked = FakeExchange("POST", "/p.S/M", version="2")
        here.relay.forward(asked, "there")
        await turns()
        assert (asked.sink.written, asked.sink.ended) == (b"one", False)
        go_on.set()
        await asked.end()
        assert (asked.sink.written, asked.sink.trailers) == (b"onetwo", [(b"grpc-status", b"0")])
        await turns()
        assert open_relays(here, there) == [0, 0]
        assert there.seen[0].gone  # the reply carries nothing any more


@virtual
@pytest.mark.parametrize("size", [1, PART, 2 * PART + 1])
async def test_a_stream_begins_at_the_client_once_the_first_of_its_body_is_there(size: int) -> None:
    async with pair() as (here, there):
        there.handle = lambda exchange: exchange.stream(200, OK, never, b"f" * size)
        asked = FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        begun: list[tuple[bool, int]] = []
        hear = here.relay._hear

        def heard(sender: str, piece: Any) -> None:
            hear(sender, piece)
            begun.append((asked.replied, len(asked.sink.written)))

        here.relay._hear = heard
        await turns()
        assert begun[-1] == (True, size)
        assert all(one == (False, 0) for one in begun[:-1])
        asked.disconnect()
        await turns()
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_body_is_read_as_it_comes() -> None:
    async with pair() as (here, there):
        read: list[bytes] = []

        async def answer(exchange: Exchange) -> None:
            assert exchange.source is not None
            while data := await exchange.source.read():
                read.append(data)
            exchange.respond(200, OK, b"".join(read))

        there.handle = lambda exchange: there.tasks.start(answer(exchange), name="answer") and None
        asked = FakeExchange("POST", "/p.S/M", b"one", streams=True)
        here.relay.forward(asked, "there")
        await turns()
        assert read == [b"one"]
        asked.feed(b"x" * (PART + 1))
        await turns()
        asked.feed_end()
        assert await asked.status_code() == 200
        assert asked.reply_body == b"one" + b"x" * (PART + 1)
        await turns()
        assert open_relays(here, there) == [0, 0]


# --- how much is on its way -------------------------------------------------------------------------


@virtual
async def test_a_client_that_takes_nothing_holds_the_writer_up() -> None:
    async with pair() as (here, there):
        written = 0

        async def writer(sink: Sink) -> None:
            nonlocal written
            while True:
                await sink.write(b"x" * 50_000)
                written += 50_000

        there.handle = streaming(writer)
        asked = FakeExchange("GET", "/sse")
        asked.sink.open.clear()
        here.relay.forward(asked, "there")
        await turns(200)
        assert WINDOW - 50_000 <= written <= WINDOW + PART
        asked.sink.open.set()
        while len(asked.sink.written) < 10 * WINDOW:
            await turns()
        asked.disconnect()


@virtual
async def test_a_handler_that_reads_nothing_holds_the_client_up() -> None:
    async with pair() as (here, there):
        asked = FakeExchange("POST", "/p.S/M", b"", streams=True)
        here.relay.forward(asked, "there")
        for _ in range(100):
            asked.feed(b"x" * 50_000)
            await turns()
        held = 100 * 50_000 - asked.unread
        assert WINDOW <= held <= WINDOW + 2 * PART
        source = there.seen[0].source
        assert source is not None
        taken = 0
        while taken < 100 * 50_000:
            taken += len(await source.read())
        asked.disconnect()


@virtual
async def test_a_body_of_which_no_more_is_wanted_is_not_read() -> None:
    async with pair() as (here, there):
        asked = FakeExchange("POST", "/p.S/M", b"one", streams=True)
        here.relay.forward(asked, "there")
        await turns()
        source = there.seen[0].source
        assert source is not None
        source.stop()
        source.stop()
        await turns()
        asked.feed(b"two")
        assert asked.unread == 0  # dropped at once
        with pytest.raises(TransportError):
            await source.read()
        there.seen[0].respond(200, OK, b"enough")
        assert await asked.status_code() == 200


@virtual
async def test_over_the_limit_requests_are_refused_on_either_side() -> None:
    here, there = await two_members(limit=2)
    waiting = [FakeExchange("POST", "/mcp") for _ in range(3)]
    for exchange in waiting:
        here.relay.forward(exchange, "there")
    assert [exchange.status for exchange in waiting] == [0, 0, 503]
    other = FakeExchange("POST", "/mcp")
    here.relay._limit = 10
    here.relay.forward(other, "there")
    assert await other.status_code() == 503
    assert [here.relay.statistics()["refused"], there.relay.statistics()["refused"]] == [1, 1]
    for one in waiting[:2]:
        one.disconnect()
    await turns()
    assert open_relays(here, there) == [0, 0]
    await here.stop()
    await there.stop()


# --- ends -------------------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("by", [None, StreamReset()], ids=["connection", "stream"])
async def test_a_client_that_goes_is_gone_for_the_owner_too(by: ClientGone | None) -> None:
    async with pair() as (here, there):
        told: list[bool] = []

        def handle(exchange: Exchange) -> None:
            exchange.on_gone = lambda: told.append(exchange.gone)

        there.handle = handle
        asked = FakeExchange("POST", "/mcp", version="2")
        here.relay.forward(asked, "there")
        await turns()
        asked.disconnect(by)
        asked.disconnect(by)
        await turns()
        assert told == [True]
        assert type(there.seen[0].gone_by) is type(by)
        there.seen[0].respond(200, OK, b"too late")  # quietly
        there.seen[0].stream(200, OK, never)
        await turns()
        assert (asked.status, open_relays(here, there)) == (0, [0, 0])


@virtual
async def test_a_client_that_goes_in_the_middle_of_its_stream_ends_the_writer() -> None:
    async with pair() as (here, there):
        ended = asyncio.Event()

        async def writer(sink: Sink) -> None:
            try:
                while True:
                    await sink.write(b"x" * 10_000)
            finally:
                ended.set()

        there.handle = streaming(writer)
        asked = FakeExchange("GET", "/sse")
        here.relay.forward(asked, "there")
        await asked.status_code()
        asked.disconnect()
        await ended.wait()
        await turns()
        assert open_relays(here, there) == [0, 0]
        with pytest.raises(TransportError):
            await there.seen[0].put(b"more")  # type: ignore[attr-defined]
        with pytest.raises(TransportError):
            there.seen[0].finish()  # type: ignore[attr-defined]


@virtual
@pytest.mark.parametrize("end", ["client", "member"])
async def test_a_writer_that_has_nothing_to_write_learns_at_once_that_nobody_reads(end: str) -> None:
    async with pair() as (here, there):
        ended: list[str] = []

        async def writer(sink: Sink) -> None:
            try:
                await never(sink)
            finally:
                ended.append(end)

        there.handle = streaming(writer)
        asked = FakeExchange("GET", "/sse")
        here.relay.forward(asked, "there")
        await turns()
        if end == "client":
            asked.disconnect()
        else:
            there.relay.lost("here")
        await turns()
        assert ended == [end]
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_stream_that_its_writer_leaves_unfinished_is_cut() -> None:
    async with pair() as (here, there):

        async def writer(sink: Sink) -> None:
            await sink.write(b"half")
            raise TransportError("no more")

        there.handle = streaming(writer)
        asked = FakeExchange("GET", "/sse")
        here.relay.forward(asked, "there")
        await asked.status_code()
        await turns()
        assert (asked.sink.written, asked.sink.ended, asked.gone) == (b"half", False, True)
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_body_that_breaks_fails_for_the_reader_too() -> None:
    async with pair() as (here, there):
        asked = FakeExchange("POST", "/p.S/M", b"one", streams=True)
        here.relay.forward(asked, "there")
        await turns()
        source = there.seen[0].source
        assert source is not None
        assert await source.read() == b"one"
        assert asked._incoming is not None
        asked._incoming.fail(TransportError("bad chunk"))
        with pytest.raises(TransportError, match="bad chunk"):
            await source.read()
        there.seen[0].respond(400, OK, b"")
        assert await asked.status_code() == 400


@virtual
async def test_a_member_that_is_gone_ends_what_it_handled_and_what_it_asked() -> None:
    here, there = await two_members()
    there.handle = lambda exchange: exchange.stream(200, OK, never) if exchange.path == "/stream" else None
    waiting, streamed = FakeExchange("POST", "/mcp"), FakeExchange("GET", "/stream")
    theirs = FakeExchange("POST", "/mcp")
    here.relay.forward(waiting, "there")
    here.relay.forward(streamed, "there")
    there.relay.forward(theirs, "here")
    await turns()
    await there.crash()
    here.relay.lost("there")
    here.relay.lost("nobody")
    assert waiting.status == 502
    assert here.seen[0].gone
    await turns()
    assert (streamed.gone, streamed.sink.ended) == (True, False)
    assert (open_relays(here), here.relay.statistics()["lost"]) == ([0], 3)
    await here.stop()


@virtual
async def test_a_member_of_which_nothing_is_heard_counts_as_lost() -> None:
    here, there = await two_members()
    there.handle = streaming(never)
    asked = FakeExchange("GET", "/sse")
    here.relay.forward(asked, "there")
    await turns()
    await asyncio.sleep(300)
    assert not asked.gone  # it is silent, and there
    await there.crash()
    await asyncio.sleep(25)
    assert not asked.gone
    await asyncio.sleep(10)
    assert asked.gone
    await here.stop()


@virtual
async def test_a_member_that_was_lost_hears_of_it_when_it_is_back() -> None:
    async with pair() as (here, there):
        asked, again = FakeExchange("POST", "/mcp"), FakeExchange("POST", "/mcp")
        theirs = FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        there.relay.forward(theirs, "here")
        await turns()
        here.relay.lost("there")
        there.handle = echo
        here.relay.forward(again, "there")
        await turns()
        assert (asked.status, theirs.status, again.status) == (502, 502, 200)
        assert [exchange.gone for exchange in (*here.seen, *there.seen)] == [True, True, False]
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_lost_pieces_end_everything_on_both_sides() -> None:
    async with pair() as (here, there):
        asked, theirs = FakeExchange("POST", "/mcp"), FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        there.relay.forward(theirs, "here")
        await turns()
        here.inbox.lose()
        await turns()
        assert (asked.status, theirs.status) == (502, 502)
        assert all(exchange.gone for exchange in (*here.seen, *there.seen))
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_bug_at_the_end_of_one_relay_is_logged_and_the_others_end(caplog: pytest.LogCaptureFixture) -> None:
    def bug() -> None:
        raise ValueError("a bug")

    async with pair() as (here, there):
        for _ in range(3):
            there.relay.forward(FakeExchange("POST", "/mcp"), "here")
        await turns()
        here.seen[0].on_gone = bug
        here.inbox.lose()
        await turns()
        assert [exchange.gone for exchange in here.seen] == [True] * 3
        assert open_relays(here, there) == [0, 0]
    assert [record.message for record in caplog.records] == ["a relay did not end as it should member=there"]


@virtual
async def test_a_gap_in_what_one_side_says_ends_the_relay() -> None:
    async with pair() as (here, there):
        for cut, method in ((here, "POST"), (there, "POST")):
            asked = FakeExchange(method, "/p.S/M", b"", streams=True)
            here.relay.forward(asked, "there")
            await turns()
            cut.inbox._pieces = []
            send = cut.inbox.send
            if cut is here:
                cut.inbox.send = lambda to, piece: None
                asked.feed(b"lost")
                await turns()
                cut.inbox.send = send
                asked.feed(b"seen")
            else:
                exchange = there.seen[-1]
                cut.inbox.send = lambda to, piece: None
                exchange.stream(200, OK, never)
                cut.inbox.send = send
                exchange.finish()  # type: ignore[attr-defined]
            await turns()
            assert asked.status == 502
            assert there.seen[-1].gone or cut is there
            assert open_relays(here, there) == [0, 0]


@virtual
async def test_whoever_handles_a_request_has_to_show_that_it_lives() -> None:
    here, there = await two_members()
    there.relay._hear = lambda sender, piece: None
    post, get = FakeExchange("POST", "/mcp"), FakeExchange("GET", "/sse")
    here.relay.forward(post, "there")
    here.relay.forward(get, "there")
    await asyncio.sleep(9.9)
    assert post.status == 0
    await asyncio.sleep(0.2)
    assert (post.status, get.status) == (504, 504)
    await here.stop()
    await there.stop()


@virtual
async def test_a_slow_handler_is_waited_for() -> None:
    async with pair() as (here, there):
        asked = FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        await asyncio.sleep(3600)
        there.seen[0].respond(200, OK, b"at last")
        await turns()
        assert asked.reply_body == b"at last"


@virtual
async def test_what_nobody_waits_for_any_more_is_not_begun_by_a_member_that_was_held_up() -> None:
    async with pair() as (here, there):
        one, two = FakeExchange("POST", "/mcp"), FakeExchange("POST", "/mcp")
        here.relay.forward(one, "there")
        here.relay.forward(two, "there")
        one.disconnect()  # all of it is in the inbox when the owner looks
        await turns()
        assert len(there.seen) == 1
        three = FakeExchange("POST", "/mcp")
        here.relay.forward(three, "there")
        here.relay.lost("there")
        await turns()
        assert (len(there.seen), three.status) == (1, 502)
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_member_that_is_the_wrong_one_declines_and_the_request_is_sent_on() -> None:
    sent: list[tuple[Exchange, str]] = []
    async with pair(again=lambda exchange, to: sent.append((exchange, to))) as (here, there):
        there.handle = lambda exchange: exchange.decline()  # type: ignore[attr-defined]
        whole, long = FakeExchange("POST", "/mcp", b"body"), FakeExchange("POST", "/mcp", b"b" * (WINDOW + 9))
        streamed = FakeExchange("POST", "/p.S/M", b"body", streams=True)
        for exchange in (whole, long, streamed):
            here.relay.forward(exchange, "there")
        await turns()
        assert sent == [(whole, "there"), (long, "there")]
        assert [whole.replied, whole.gone, whole.body] == [False, False, b"body"]
        assert streamed.status == 503  # some of its body has been read
        there.handle = echo
        here.relay.forward(long, "there")
        assert await long.status_code() == 200
        there.seen[0].decline()  # type: ignore[attr-defined]  # too late: quietly
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_request_that_only_reads_is_asked_again_when_its_owner_was_lost() -> None:
    sent: list[tuple[Exchange, str]] = []
    async with pair(again=lambda exchange, to: sent.append((exchange, to))) as (here, _):
        get, post = FakeExchange("GET", "/sse"), FakeExchange("POST", "/mcp")
        here.relay.forward(get, "there")
        here.relay.forward(post, "there")
        here.relay.lost("there")
        assert (sent, get.replied, post.status) == ([(get, "there")], False, 502)
    alone, _ = await two_members()
    get = FakeExchange("GET", "/sse")
    alone.relay.forward(get, "there")
    alone.relay.lost("there")
    assert get.status == 503
    await alone.stop()
    await _.stop()


@virtual
async def test_a_request_that_may_be_repeated_is_asked_again_when_its_owner_was_lost_or_broke_off() -> None:
    sent: list[Exchange] = []
    options: dict[str, Any] = {
        "again": lambda exchange, to: sent.append(exchange),
        "repeatable": lambda exchange: exchange.body == b"a key",
    }
    async with pair(**options) as (here, there):
        keyed, plain = FakeExchange("POST", "/mcp", b"a key"), FakeExchange("POST", "/mcp", b"no key")
        here.relay.forward(keyed, "there")
        here.relay.forward(plain, "there")
        here.relay.lost("there")
        assert (sent, keyed.replied, plain.status) == ([keyed], False, 502)
        assert keyed.body == b"a key"
        begun = FakeExchange("POST", "/mcp", b"a key")
        here.relay.forward(begun, "there")
        await turns()
        there.relay.close()
        await turns()
        assert (sent, begun.replied) == ([keyed, begun], False)


@virtual
@pytest.mark.parametrize("end", ["lost", "closed", "ended"])
async def test_a_stream_whose_first_bytes_are_lost_has_not_begun(end: str) -> None:
    """Its client would have a stream without an id: the call could not be resumed, and nobody would say so."""
    sent: list[Exchange] = []
    options: dict[str, Any] = {
        "again": lambda exchange, to: sent.append(exchange),
        "repeatable": lambda exchange: exchange.body == b"a key",
    }
    async with pair(**options) as (here, there):
        there.handle = lambda exchange: exchange.stream(200, [(b"content-type", b"text/event-stream")], never, b"id: 1")
        send = there.inbox.send
        there.inbox.send = lambda to, piece: None if isinstance(decode(piece), Data) else send(to, piece)
        keyed, plain = FakeExchange("POST", "/mcp", b"a key"), FakeExchange("POST", "/mcp", b"no key")
        here.relay.forward(keyed, "there")
        here.relay.forward(plain, "there")
        await turns()
        assert len(there.seen) == 2
        assert [keyed.replied, plain.replied] == [False, False]
        assert here.relay.is_awaited
        if end == "closed":
            here.relay.close()
            assert (keyed.status, plain.status, sent) == (503, 503, [])
        else:
            if end == "lost":
                here.relay.lost("there")
            else:
                there.relay.close()
            await turns()
            assert (keyed.replied, plain.status, sent) == (False, 502, [keyed])
        await turns()
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_reply_that_has_begun_is_not_asked_for_again() -> None:
    sent: list[Exchange] = []

    async def writer(sink: Sink) -> None:
        await sink.write(b"some")
        await asyncio.Event().wait()

    options: dict[str, Any] = {"again": lambda exchange, to: sent.append(exchange), "repeatable": lambda exchange: True}
    async with pair(**options) as (here, there):
        there.handle = streaming(writer, b"text/event-stream")
        begun = FakeExchange("POST", "/mcp", b"a key")
        here.relay.forward(begun, "there")
        await begun.status_code()
        here.relay.lost("there")
        await turns()
        assert sent == []


@virtual
@pytest.mark.parametrize("end", ["lost", "pieces", "closed there"])
async def test_a_stream_that_can_be_resumed_ends_between_two_events_when_its_owner_is_lost(end: str) -> None:
    """Some clients resume only what ended in order, or give up after a few streams that did not."""

    async def writer(sink: Sink) -> None:
        await sink.write(b"data: 1\n\n")
        await asyncio.Event().wait()

    async with pair() as (here, there):
        kinds = {"/events": (b"text/event-stream", b"id: 1\n\n"), "/none": (b"text/event-stream", b""),
                 "/rows": (b"text/csv", b"a,b\n")}  # fmt: skip
        there.handle = lambda exchange: exchange.stream(
            200, [(b"content-type", kinds[exchange.path][0])], writer, kinds[exchange.path][1]
        )
        events, none, rows = (FakeExchange("POST", path) for path in kinds)
        for exchange in (events, none, rows):
            here.relay.forward(exchange, "there")
        await turns()
        if end == "lost":
            here.relay.lost("there")
        elif end == "pieces":
            here.inbox.lose()
        else:
            there.relay.close()
        await turns()
        assert (events.sink.written, events.sink.ended) == (b"id: 1\n\ndata: 1\n\n", True)
        assert [one.sink.ended for one in (none, rows)] == [False, False]
        assert [one.gone for one in (none, rows)] == [True, True]
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_what_was_lost_within_an_event_ends_no_stream_in_order() -> None:
    async with pair() as (here, there):
        there.handle = lambda exchange: exchange.stream(200, [(b"content-type", b"text/event-stream")], never, b"id: 1")
        asked = FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        await asked.status_code()
        send = there.inbox.send
        there.inbox.send = lambda to, piece: send(to, piece) if len(piece) > PART else None  # not the rest
        there.seen[0]._put_part(b"x" * (PART + 1), 0)  # type: ignore[attr-defined]
        await turns()
        here.relay.lost("there")
        await turns()
        assert (asked.sink.ended, asked.gone) == (False, True)


@virtual
async def test_closing_ends_streams_of_events_in_order_and_cuts_others() -> None:
    here, there = await two_members()
    go_on = asyncio.Event()

    async def writer(sink: Sink) -> None:
        await sink.write(b": hello\n\n")
        await go_on.wait()

    there.handle = lambda exchange: (
        None if exchange.path == "/mcp" else streaming(writer, exchange.path[1:].encode())(exchange)
    )
    events, rows = FakeExchange("GET", "/text/event-stream"), FakeExchange("GET", "/text/csv")
    waiting, theirs = FakeExchange("POST", "/mcp"), FakeExchange("POST", "/mcp")
    for exchange in (events, rows, waiting):
        here.relay.forward(exchange, "there")
    there.relay.forward(theirs, "here")
    await turns()
    here.relay.close()
    here.relay.close()
    await turns()
    assert (events.sink.written, events.sink.ended) == (b": hello\n\n", True)
    assert (rows.sink.ended, rows.gone) == (False, True)
    assert (waiting.status, theirs.status) == (503, 502)
    assert all(exchange.gone for exchange in (*here.seen, *there.seen))
    late = FakeExchange("POST", "/mcp")
    here.relay.forward(late, "there")
    assert late.status == 503
    assert open_relays(here, there) == [0, 0]
    await here.stop()
    await there.stop()


@virtual
async def test_an_inbox_that_ends_ends_everything() -> None:
    here, there = await two_members()
    asked = FakeExchange("POST", "/mcp")
    here.relay.forward(asked, "there")
    await turns()
    await here.inbox.close()
    await turns()
    late = FakeExchange("POST", "/mcp")
    here.relay.forward(late, "there")
    assert (asked.status, late.status) == (502, 503)
    await here.stop()
    await there.stop()


@virtual
async def test_a_member_hears_that_all_has_ended_before_it_hears_of_anything_new() -> None:
    async with pair() as (here, there):
        begun = FakeExchange("POST", "/mcp")
        here.relay.forward(begun, "there")
        await turns()
        there.handle = echo
        send = here.inbox.send

        def full(to: str, piece: bytes) -> None:
            raise StoreError("too much is waiting")

        here.inbox.send = full
        here.relay.lost("there")
        here.inbox.send = send
        after = FakeExchange("POST", "/mcp", b"after")
        here.relay.forward(after, "there")
        await turns()
        assert there.seen[0].gone
        assert (begun.status, after.status, after.reply_body) == (502, 200, b"after")
        assert open_relays(here, there) == [0, 0]


# --- faults -----------------------------------------------------------------------------------------


@virtual
async def test_what_cannot_be_sent_is_refused_at_once_and_ends_what_was_begun() -> None:
    async with pair() as (here, there):
        begun, theirs = FakeExchange("POST", "/p.S/M", b"", streams=True), FakeExchange("POST", "/mcp")
        here.relay.forward(begun, "there")
        there.relay.forward(theirs, "here")
        await turns()
        send = here.inbox.send

        def full(to: str, piece: bytes) -> None:
            raise StoreError("too much is waiting")

        here.inbox.send = full
        late = FakeExchange("POST", "/mcp")
        here.relay.forward(late, "there")
        assert late.status == 503
        assert begun.status == 0
        begun.feed(b"does not fit")
        await turns()
        assert begun.status == 502
        assert here.seen[0].gone
        assert not there.seen[0].gone
        with pytest.raises(StoreError):
            here.relay.tell("there", "hello")
        here.inbox.send = send
        await asyncio.sleep(1.0)  # the next look
        assert (theirs.status, there.seen[0].gone) == (502, True)
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_handler_that_fails_is_answered_for(caplog: pytest.LogCaptureFixture) -> None:
    def fails(exchange: Exchange) -> None:
        raise ValueError("a bug")

    def answers_and_fails(exchange: Exchange) -> None:
        echo(exchange)
        fails(exchange)

    async with pair() as (here, there):
        there.handle = fails
        asked = FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        assert await asked.status_code() == 500
        there.handle = answers_and_fails
        answered = FakeExchange("POST", "/mcp")
        here.relay.forward(answered, "there")
        assert await answered.status_code() == 200
        await turns()
    assert [record.message for record in caplog.records] == ["a relayed request could not be handled path=/mcp"] * 2


@virtual
async def test_a_second_reply_and_a_line_break_in_a_header_are_bugs_where_they_are_made() -> None:
    async with pair() as (here, there):
        asked = FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        await turns()
        exchange = there.seen[0]
        with pytest.raises(ValueError, match="line break"):
            exchange.respond(200, [(b"x", b"a\r\nb")], b"")
        exchange.respond(200, OK, b"fine")
        with pytest.raises(RuntimeError):
            exchange.respond(200, OK, b"again")
        with pytest.raises(RuntimeError):
            exchange.stream(200, OK, never)
        await turns()
        assert asked.reply_body == b"fine"


@virtual
async def test_a_reply_that_the_clients_transport_cannot_say_is_an_error() -> None:
    async with pair() as (here, there):

        def picky(exchange: FakeExchange) -> FakeExchange:
            respond = exchange.respond

            def checked(status: int, *reply: Any) -> None:
                if status == 200:
                    raise ValueError("not like this")
                respond(status, *reply)

            exchange.respond = exchange.stream = checked
            return exchange

        there.handle = lambda exchange: streaming(never)(exchange) if exchange.method == "GET" else echo(exchange)
        whole, streamed = picky(FakeExchange("POST", "/mcp")), picky(FakeExchange("GET", "/sse"))
        here.relay.forward(whole, "there")
        here.relay.forward(streamed, "there")
        await turns()
        assert (whole.status, streamed.status) == (500, 500)
        await turns()
        assert open_relays(here, there) == [0, 0]


@virtual
async def test_a_piece_that_cannot_be_read_ends_what_is_between_the_two(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (here, there):
        asked = FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        await turns()
        there.inbox.send("here", b"\xc1")
        there.inbox.send("here", encode([999, 1]))
        await turns()
        assert asked.status == 502
        assert there.seen[0].gone
        assert open_relays(here, there) == [0, 0]
    assert len(caplog.records) == 2


@virtual
async def test_a_piece_whose_handling_fails_costs_its_own_relays_only(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (here, there):
        there.handle = echo
        asked = FakeExchange("POST", "/mcp")

        def broken(*reply: Any) -> None:
            raise RuntimeError("a bug")

        asked.respond = broken
        here.relay.forward(asked, "there")
        await turns()
        fine = FakeExchange("POST", "/mcp", b"fine")
        here.relay.forward(fine, "there")
        await turns()
        assert fine.reply_body == b"fine"
    assert caplog.records[0].levelno == logging.ERROR


@virtual
async def test_a_client_that_was_gone_before_is_not_sent_on() -> None:
    async with pair() as (here, there):
        asked = FakeExchange("POST", "/mcp")
        asked.disconnect()
        here.relay.forward(asked, "there")
        await turns()
        assert there.seen == []


@virtual
async def test_peers_with_which_there_is_nothing_are_forgotten() -> None:
    async with pair() as (here, there):
        there.handle = echo
        asked = FakeExchange("POST", "/mcp")
        here.relay.forward(asked, "there")
        await asyncio.sleep(120)
        assert here.relay._peers == there.relay._peers == {}


# --- what members tell each other ---------------------------------------------------------------------


@virtual
async def test_what_is_told_arrives_in_order_at_the_handler_of_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, bytes]] = []

    def fails(sender: str, payload: bytes) -> None:
        raise ValueError("a bug")

    async with pair() as (here, there):
        there.relay.on("changed", lambda sender, payload: told.append((sender, payload)))
        there.relay.on("fails", fails)
        here.relay.tell("there", "changed", b"tools")
        here.relay.tell("there", "fails")
        here.relay.tell("there", "unknown", b"")
        here.relay.tell("nobody", "changed", b"")
        here.relay.tell("there", "changed", b"prompts")
        await turns()
        assert told == [("here", b"tools"), ("here", b"prompts")]
    assert [record.message for record in caplog.records] == ["what a member told could not be handled kind=fails"]
