"""Who waits for a connection gets one, or learns why there is none, and is forgotten when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from tailrace.clients.connect import h2pool
from tailrace.clients.connect.h2 import H2Link
from tailrace.clients.connect.h2_pipe import Broken, H2Pipe
from tailrace.clients.connect.h2pool import H2Pool
from tailrace.connect import Client, Code, RpcError
from tailrace.wire import h2_frames
from tailrace.wire.h2_frames import END_STREAM, goaway
from tests.clients.connect.support import PATH, StringValue, eventually, text
from tests.clients.connect.test_h2_faults import Wire, head
from tests.core.support import turns

pytestmark = pytest.mark.timeout(60)

ONE_STREAM = h2_frames.settings({h2_frames.MAX_CONCURRENT_STREAMS: 1})


class Server:
    """It takes every connection, and says first what it has `said`.

    Attributes:
        links: The client's ends, in the order in which they were made.
        said: To each new connection, before its client goes on.
        refusal: Instead of one more connection.
        refused: How many were.
        lets_go: Its connections are gone as soon as the client closes them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.links: list[H2Link] = []
        self.said = ONE_STREAM
        self.refusal: OSError | None = None
        self.refused = 0
        self.lets_go = True
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", self._connect)

    async def _connect(self, factory: Any, *where: Any, **options: Any) -> tuple[Wire, H2Link]:
        if self.refusal is not None:
            self.refused += 1
            raise self.refusal
        wire, link = Wire(), factory()
        self.links.append(link)
        if self.lets_go:
            wire.on_close = partial(asyncio.get_running_loop().call_soon, link.connection_lost, None)
        link.connection_made(wire)
        link.data_received(self.said)
        return wire, link


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.fixture
async def pool(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[H2Pool]:
    monkeypatch.setattr(h2pool, "_MAX_LINKS", 1)
    pool = H2Pool("http://server", connect_timeout=10.0, ca_cert=None, client_cert=None, client_key=None)
    yield pool
    await pool.aclose()


def ask(pool: H2Pool) -> H2Pipe:
    pipe = pool.request("POST", "http://server/a", [], b"")
    pipe.open()
    return pipe


async def test_who_waits_for_a_stream_gets_a_new_connection_when_the_others_end(pool: H2Pool, server: Server) -> None:
    first = ask(pool)
    await eventually(lambda: first.link is not None, "it is on its way")
    second = ask(pool)
    assert second.link is None
    server.links[0].connection_lost(None)
    with pytest.raises(Broken):
        await first.opened
    await eventually(lambda: second.link is not None, "it is on its way")
    assert second.link is server.links[1]


async def test_a_server_that_drains_lets_those_who_wait_go_elsewhere(pool: H2Pool, server: Server) -> None:
    first = ask(pool)
    await eventually(lambda: first.link is not None, "it is on its way")
    second = ask(pool)
    server.links[0].data_received(goaway(1, 0))
    await eventually(lambda: second.link is not None, "it is on its way")
    server.links[0].data_received(head(1, flags=END_STREAM))
    await first.opened


@pytest.fixture
async def busy(pool: H2Pool, server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[H2Pipe, list[H2Pipe]]:
    """Its one connection has the first request; the others wait for it, as a second connection was refused."""
    monkeypatch.setattr(h2pool, "_MAX_LINKS", 2)
    monkeypatch.setattr(h2pool, "_PAUSE", 3600.0)
    first = ask(pool)
    await eventually(lambda: first.link is not None, "it is on its way")
    server.refusal = ConnectionRefusedError("no more of them")
    waiting = [ask(pool), ask(pool)]
    await eventually(lambda: server.refused > 0 and not pool._connecting, "a second connection is refused")
    return first, waiting


async def test_a_second_connection_that_fails_leaves_those_who_wait_to_the_first(
    pool: H2Pool, server: Server, busy: tuple[H2Pipe, list[H2Pipe]]
) -> None:
    first, (second, third) = busy
    fourth = ask(pool)
    assert [pipe.opened.done() for pipe in (second, third, fourth)] == [False] * 3
    third.drop()  # its time is over
    for number, (pipe, behind) in enumerate([(first, second), (second, fourth)]):
        server.links[0].data_received(head(2 * number + 1, flags=END_STREAM))
        await pipe.opened
        assert behind.link is server.links[0]
    assert server.refused == 1  # each stream that ends, and each request, would ask for one more


async def test_after_a_pause_a_second_connection_is_tried_again(
    pool: H2Pool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2pool, "_MAX_LINKS", 2)
    monkeypatch.setattr(h2pool, "_PAUSE", 0.001)
    first = ask(pool)
    await eventually(lambda: first.link is not None, "it is on its way")
    server.refusal = ConnectionRefusedError("no more of them")
    second = ask(pool)
    await eventually(lambda: server.refused >= 2, "it is tried again")
    server.refusal = None
    await eventually(lambda: second.link is not None, "it is on its way")
    assert second.link is server.links[1]


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "stays away"])
async def test_when_the_last_connection_ends_those_who_wait_learn_at_once_whether_there_is_another(
    server: Server, busy: tuple[H2Pipe, list[H2Pipe]], comes_back: bool
) -> None:
    _, waiting = busy
    if comes_back:
        server.refusal = None
    server.links[0].connection_lost(None)
    if comes_back:
        await eventually(lambda: waiting[0].link is not None, "it is on its way")
        assert waiting[0].link is server.links[1]
    else:
        for pipe in waiting:
            with pytest.raises(ConnectionRefusedError, match="no more"):
                await pipe.opened
        assert server.refused == 2


async def test_a_client_that_is_closed_in_the_pause_tries_no_more(
    pool: H2Pool, busy: tuple[H2Pipe, list[H2Pipe]]
) -> None:
    _, waiting = busy
    assert pool._pausing is not None
    await pool.aclose()
    assert pool._pausing is None
    for pipe in waiting:
        with pytest.raises(Broken, match="client was closed"):
            await pipe.opened


async def test_a_server_that_takes_no_stream_at_all_is_not_waited_for(pool: H2Pool, server: Server) -> None:
    server.said = ONE_STREAM + goaway(0, 0)
    with pytest.raises(ConnectionError, match="ended the connection at once"):
        await ask(pool).opened


async def test_who_does_not_wait_any_more_is_not_kept(pool: H2Pool, server: Server) -> None:
    first = ask(pool)
    await eventually(lambda: first.link is not None, "it is on its way")
    waiting, left = ask(pool), ask(pool)
    left.drop()
    assert list(pool._waiting) == [waiting]


async def test_a_request_that_is_to_be_sent_again_is_not_once_nobody_wants_it(pool: H2Pool, server: Server) -> None:
    pipe = ask(pool)
    await eventually(lambda: pipe.link is not None, "it is on its way")
    server.links[0].data_received(goaway(0, 0))
    pipe.drop()
    await asyncio.sleep(0)
    assert (pipe.link, list(pool._waiting), len(server.links)) == (None, [], 1)


@pytest.mark.parametrize("host", ["a..b", "x" * 64], ids=["empty", "long"])
async def test_a_host_that_cannot_be_is_not_waited_for(host: str) -> None:
    async with Client(f"http://{host}:1", protocol="grpc", timeout=60.0) as client:
        with pytest.raises(RpcError, match=r"cannot connect: .*; nothing was sent") as error:
            await client.unary(PATH, text("x"), response=StringValue)
        assert error.value.code is Code.UNAVAILABLE


async def test_a_closed_clients_sockets_are_closed_or_it_waited_for_that(
    pool: H2Pool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2pool, "_LAST", 60.0)
    server.lets_go = False  # as a peer over TLS that does not take its leave
    ask(pool)
    await turns()
    closing = asyncio.ensure_future(pool.aclose())
    await turns()
    assert not closing.done()
    server.links[0].connection_lost(None)
    await closing
    assert pool._ending == {}


async def test_a_socket_that_does_not_close_keeps_no_client_open(
    pool: H2Pool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2pool, "_LAST", 0.01)
    server.lets_go = False
    ask(pool)
    await turns()
    await pool.aclose()
    assert list(pool._ending) == server.links
