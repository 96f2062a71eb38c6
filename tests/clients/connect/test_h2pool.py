"""Who waits for a connection gets one, or learns why there is none, and is forgotten when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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

pytestmark = pytest.mark.timeout(60)

ONE_STREAM = h2_frames.settings({h2_frames.MAX_CONCURRENT_STREAMS: 1})


class Server:
    """It takes every connection, and says first what it has `said`.

    Attributes:
        links: The client's ends, in the order in which they were made.
        said: To each new connection, before its client goes on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.links: list[H2Link] = []
        self.said = ONE_STREAM
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", self._connect)

    async def _connect(self, factory: Any, *where: Any, **options: Any) -> tuple[Wire, H2Link]:
        wire, link = Wire(), factory()
        self.links.append(link)
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
