"""What the inboxes of members promise, in memory and in Valkey: in order, each piece once, and no silent loss."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tailrace.core.ports import Inbox
from tailrace.errors import StoreError
from tailrace.stores.memory_inbox import MemoryInbox, MemoryPost
from tailrace.stores.valkey_inbox import ValkeyInbox
from tailrace.stores.valkey_link import Link, Unreachable
from tailrace.stores.valkey_post import Entry, Post, encode_entry
from tests.rigs.valkey import Valkey

PREFIX = "{tailrace:tailrace}:i:"
LIMIT = 60.0  # seconds in which what comes has to come

Make = Callable[..., Inbox]


@pytest.fixture(params=["memory", "valkey"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes inboxes of one service, by member; they are closed at the end."""
    made: list[Inbox] = []
    post = MemoryPost()
    if request.param == "valkey":
        shared: Valkey = request.getfixturevalue("server")

    def inbox(member: str, **options: int) -> Inbox:
        if request.param == "memory":
            made.append(MemoryInbox(post, member, **options))
        else:
            made.append(ValkeyInbox(shared.url, member, lease=30, **options))
        return made[-1]

    yield inbox
    for one in made:
        await one.close()


async def open_(*inboxes: Inbox) -> None:
    for inbox in inboxes:
        await inbox.open()


async def received(inbox: Inbox, count: int) -> list[tuple[str, bytes]]:
    pieces: list[tuple[str, bytes]] = []
    async with asyncio.timeout(LIMIT):
        while len(pieces) < count:
            pieces += await inbox.receive()
    return pieces


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


async def test_pieces_arrive_in_order_and_each_once(make: Make) -> None:
    one, two, reader = make("one"), make("two"), make("reader")
    await open_(one, two, reader)
    for number in range(500):
        one.send("reader", b"%d" % number)
        two.send("reader", b"%d" % number)
        if number % 100 == 0:
            await asyncio.sleep(0)
    pieces = await received(reader, 1000)
    assert len(pieces) == 1000
    for sender in ("one", "two"):
        assert [int(piece) for name, piece in pieces if name == sender] == list(range(500))


async def test_a_member_hears_itself_and_large_pieces_and_empty_ones(make: Make) -> None:
    inbox = make("me")
    await open_(inbox)
    given = [b"", b"x" * 3_000_000, bytes(range(256))]
    for piece in given:
        inbox.send("me", piece)
    assert await received(inbox, 3) == [("me", piece) for piece in given]


async def test_what_is_sent_to_nobody_is_lost_without_a_word(make: Make) -> None:
    inbox = make("me")
    lost: list[bool] = []
    inbox.on_lost = lambda: lost.append(True)
    await open_(inbox)
    inbox.send("nobody", b"hello")
    inbox.send("me", b"end")
    assert await received(inbox, 1) == [("me", b"end")]
    assert lost == []


async def test_what_waits_is_bounded(make: Make) -> None:
    inbox, other = make("me", max_queued=1000), make("other", max_queued=1000)
    await open_(inbox, other)
    inbox.send("other", b"x" * 900)
    with pytest.raises(StoreError, match="1000 bytes are waiting"):
        inbox.send("other", b"x" * 101)
    await received(other, 1)
    await until(lambda: not isinstance(inbox, ValkeyInbox) or inbox.statistics()["queued_bytes"] == 0)
    inbox.send("other", b"x" * 101)
    assert await received(other, 1) == [("me", b"x" * 101)]


async def test_a_closed_inbox_neither_sends_nor_receives_and_what_was_sent_before_arrives(make: Make) -> None:
    inbox, other = make("me"), make("other")
    with pytest.raises(StoreError):
        inbox.send("other", b"too early")
    await open_(inbox, other)
    waiting = asyncio.ensure_future(inbox.receive())
    await asyncio.sleep(0)
    inbox.send("other", b"last words")
    await inbox.close()
    await inbox.close()
    with pytest.raises(StoreError):
        await asyncio.wait_for(waiting, LIMIT)
    with pytest.raises(StoreError):
        await inbox.receive()
    with pytest.raises(StoreError):
        inbox.send("other", b"too late")
    assert await received(other, 1) == [("me", b"last words")]


async def test_a_reader_that_is_cancelled_loses_nothing(make: Make) -> None:
    inbox, other = make("me"), make("other")
    await open_(inbox, other)
    pieces: list[tuple[str, bytes]] = []
    for number in range(20):
        waiting = asyncio.ensure_future(inbox.receive())
        await asyncio.sleep(0)
        other.send("me", b"%d" % number)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            pieces += await waiting
    pieces += await received(inbox, 20 - len(pieces))
    assert pieces == [("other", b"%d" % number) for number in range(20)]


# --- in Valkey only ---------------------------------------------------------------------------------


def noting(inbox: ValkeyInbox) -> list[bool]:
    lost: list[bool] = []
    inbox.on_lost = lambda: lost.append(True)
    return lost


async def test_what_was_read_is_deleted_and_a_closed_inbox_leaves_nothing(server: Valkey) -> None:
    inbox, other = ValkeyInbox(server.url, "me", lease=30), ValkeyInbox(server.url, "other", lease=30)
    await open_(inbox, other)
    for number in range(300):
        other.send("me", b"%d" % number)
        await received(inbox, 1)
    assert server.ask("XLEN", PREFIX + "me") <= 65
    assert 0 < server.ask("PTTL", PREFIX + "me") <= 30_000
    await inbox.close()
    await other.close()
    assert server.ask("KEYS", "*") == []


async def test_an_inbox_is_renewed_while_it_is_read(server: Valkey) -> None:
    inbox = ValkeyInbox(server.url, "me", lease=60)
    lost = noting(inbox)
    await inbox.open()
    server.ask("PEXPIRE", PREFIX + "me", 30_000)
    inbox._renewed -= 20  # so long ago
    reading = asyncio.ensure_future(inbox.receive())
    await until(lambda: server.ask("PTTL", PREFIX + "me") > 30_000)
    inbox.send("me", b"here")
    assert await asyncio.wait_for(reading, LIMIT) == [("me", b"here")]
    assert lost == []
    await inbox.close()


async def test_a_member_that_was_away_for_longer_than_its_lease_learns_that_pieces_are_lost(server: Valkey) -> None:
    inbox, other = ValkeyInbox(server.url, "me", lease=3), ValkeyInbox(server.url, "other", lease=30)
    lost = noting(inbox)
    await open_(inbox, other)
    other.send("me", b"before")
    await until(lambda: other.statistics()["queued_bytes"] == 0)
    server.ask("DEL", PREFIX + "me")  # as its end does
    other.send("me", b"meanwhile")
    await until(lambda: other.statistics()["queued_bytes"] == 0)
    reading = asyncio.ensure_future(received(inbox, 1))
    await until(lambda: server.ask("EXISTS", PREFIX + "me"))
    await until(lambda: lost)
    other.send("me", b"after")
    assert await reading == [("other", b"after")]
    assert inbox.statistics()["lost"] >= 1
    await inbox.close()
    await other.close()


async def test_what_a_process_finds_that_was_held_up_is_of_a_time_that_is_over(server: Valkey) -> None:
    inbox = ValkeyInbox(server.url, "me", lease=1)
    lost = noting(inbox)
    await inbox.open()
    reading = asyncio.ensure_future(received(inbox, 1))
    await until(lambda: server.ask("INFO", "clients")["blocked_clients"])

    def held_up() -> None:  # with the answer in its socket
        server.ask("XADD", PREFIX + "me", "NOMKSTREAM", "*", "e", encode_entry(Entry("other", 1, [b"old"])))
        time.sleep(1.5)

    held_up()
    with pytest.raises(StoreError, match="did not confirm"):
        inbox.send("me", b"too soon")  # an answer would not come
    await until(lambda: lost)

    def sent() -> bool:
        with contextlib.suppress(StoreError):
            inbox.send("me", b"new")
        return reading.done()

    await until(sent)
    assert {piece for _, piece in await reading} == {b"new"}
    await inbox.close()


async def test_an_entry_that_is_written_twice_is_read_once_and_a_missing_one_is_noticed(server: Valkey) -> None:
    inbox = ValkeyInbox(server.url, "me", lease=30)
    lost = noting(inbox)
    await inbox.open()

    def write(number: int, piece: bytes) -> None:
        server.ask("XADD", PREFIX + "me", "*", "e", encode_entry(Entry("other", number, [piece])))

    for number, piece in ((1, b"a"), (1, b"a"), (2, b"b"), (2, b"b"), (3, b"c")):
        write(number, piece)
    assert await received(inbox, 3) == [("other", b"a"), ("other", b"b"), ("other", b"c")]
    assert lost == []
    write(5, b"e")
    assert await received(inbox, 1) == [("other", b"e")]
    assert lost == [True]
    write(1, b"anew")  # the sender has forgotten how far it was
    assert await received(inbox, 1) == [("other", b"anew")]
    assert lost == [True]
    server.ask("XADD", PREFIX + "me", "*", "e", b"\xc1")
    server.ask("XADD", PREFIX + "me", "*", "from", "the future")
    write(2, b"fine")
    assert await received(inbox, 1) == [("other", b"fine")]
    assert lost == [True, True]
    await inbox.close()


async def test_a_cut_loses_nothing(server: Valkey) -> None:
    inbox, other = ValkeyInbox(server.url, "me", lease=30), ValkeyInbox(server.url, "other", lease=30)
    lost_here, lost_there = noting(inbox), noting(other)
    await open_(inbox, other)
    reading = asyncio.ensure_future(received(inbox, 400))
    for number in range(400):
        other.send("me", b"%d" % number)
        if number % 40 == 0:
            await asyncio.sleep(0.01)
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert [int(piece) for _, piece in await reading] == list(range(400))
    assert lost_here == lost_there == []
    await inbox.close()
    await other.close()


async def test_what_cannot_be_sent_for_too_long_is_lost_and_said_to_be() -> None:
    with Valkey() as server:
        inbox = ValkeyInbox(server.url, "me", lease=30, timeout=1, retry_for=0.2, probe_interval=0.05, close_timeout=1)
        lost = noting(inbox)
        await inbox.open()
        server.kill()
        inbox.send("me", b"lost")
        await until(lambda: lost)
        with pytest.raises(StoreError, match="cannot be reached"):
            inbox.send("me", b"refused")
        server.start()
        reading = asyncio.ensure_future(received(inbox, 1))

        def taken() -> bool:
            try:
                inbox.send("me", b"again")
            except StoreError:
                return False
            return True

        await until(lambda: server.ask("EXISTS", PREFIX + "me"))  # before that it would be lost
        await until(taken)
        assert (await reading)[0] == ("me", b"again")
        await inbox.close()


async def test_closing_while_valkey_hangs_ends_within_its_limit(server: Valkey) -> None:
    inbox = ValkeyInbox(server.url, "me", lease=60, timeout=60, close_timeout=0.2)
    await inbox.open()
    reading = asyncio.ensure_future(inbox.receive())
    inbox.send("me", b"sent")
    assert await reading == [("me", b"sent")]
    server.signal(signal.SIGSTOP)
    try:
        reading = asyncio.ensure_future(inbox.receive())
        inbox.send("me", b"waits")
        await asyncio.wait_for(inbox.close(), 60)
        with pytest.raises(StoreError, match="closed"):
            await asyncio.wait_for(reading, 60)
    finally:
        server.signal(signal.SIGCONT)
    await until(lambda: inbox._task is not None and inbox._task.done())


async def test_a_closing_that_is_cancelled_leaves_nothing_at_work(server: Valkey) -> None:
    inbox = ValkeyInbox(server.url, "me", lease=60, timeout=60, close_timeout=60)
    await inbox.open()
    server.signal(signal.SIGSTOP)
    try:
        inbox.send("me", b"waits")
        closing = asyncio.ensure_future(inbox.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await until(lambda: inbox._task is not None and inbox._task.done())
    finally:
        server.signal(signal.SIGCONT)


async def test_who_is_refused_again_and_again_is_not_remembered() -> None:
    def depth(error: BaseException) -> int:
        frames = 0
        step = error.__traceback__
        while step is not None:
            frames, step = frames + 1, step.tb_next
        return frames

    link = Link("valkey://127.0.0.1:1", "tailrace", timeout=5)
    post = Post(link, "me", PREFIX, lambda: None, max_queued=10, retry_for=0.0, probe_interval=60.0)
    post.failure = StoreError("away")
    depths: set[int] = set()
    for _ in range(3):
        with pytest.raises(StoreError, match="away") as refused:
            post.put("you", b"piece")
        depths.add(depth(refused.value))
    assert len(depths) == 1


async def test_an_inbox_that_a_restart_has_forgotten_is_made_anew_and_its_member_told() -> None:
    with Valkey() as server:
        inbox = ValkeyInbox(server.url, "me", lease=30, timeout=1)
        lost = noting(inbox)
        await inbox.open()
        reading = asyncio.ensure_future(received(inbox, 1))
        await asyncio.sleep(0)
        server.kill()
        server.start()
        await until(lambda: lost)
        inbox.send("me", b"after")
        assert await reading == [("me", b"after")]
        await inbox.close()


async def test_an_inbox_cannot_be_opened_twice_nor_where_nothing_is() -> None:
    with Valkey() as server:
        inbox = ValkeyInbox(server.url, "me")
        await inbox.open()
        with pytest.raises(StoreError, match="open already"):
            await inbox.open()
        server.kill()
        await inbox.close()
        with pytest.raises(Unreachable):
            await ValkeyInbox(server.url, "you", timeout=1).open()


@pytest.mark.parametrize(
    "word", ["text", "é\r\n", b"\x00\r\n$1\r\n", b"", 0, -12, 2**60, 1.5, bytearray(b"some"), b"x" * 100_000],
    ids=["text", "unicode", "bytes", "empty", "zero", "negative", "large", "float", "bytearray", "long"],
)  # fmt: skip
async def test_a_word_of_a_command_comes_back_as_the_library_would_have_sent_it(server: Valkey, word: object) -> None:
    link = Link(server.url, "tailrace", timeout=5)
    sent = bytes(word) if isinstance(word, bytes | bytearray) else str(word).encode()
    try:
        assert await link.ask("ECHO", word) == sent
        assert await link.ask_all([("ECHO", word), ("ECHO", "next")]) == [sent, b"next"]
    finally:
        await link.drop()


@pytest.mark.parametrize("word", [None, True, ["a list"]], ids=str)
async def test_a_word_that_means_nothing_to_valkey_is_refused_and_nothing_is_sent(server: Valkey, word: object) -> None:
    link = Link(server.url, "tailrace", timeout=5)
    try:
        with pytest.raises(StoreError):
            await link.ask("SET", "key", word)
        assert await link.ask("EXISTS", "key") == 0
    finally:
        await link.drop()


async def test_a_refused_command_among_several_leaves_no_answer_for_the_next(server: Valkey) -> None:
    link = Link(server.url, "tailrace", timeout=5)
    with pytest.raises(StoreError):
        await link.ask_all([("PING",), ("NONSENSE",), ("ECHO", "left over")])
    assert await link.ask_all([("ECHO", "a"), ("ECHO", "b")]) == [b"a", b"b"]
    await link.drop()
