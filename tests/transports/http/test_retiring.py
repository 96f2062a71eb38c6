"""`Listener.retire`: another process listens on the same socket; clients go over to it with their next reply."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tailrace.core.exchange import Sink
from tests.transports.http.rig import PLAIN, listen, request, serving


async def test_a_connection_that_is_idle_is_served_once_more_and_told_that_it_closes() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(body=b"a"))
        assert (await peer.reply())["connection"] is None
        served.listener.retire()
        await asyncio.sleep(0.05)  # it is left alone
        await peer.send(request(body=b"b"))
        reply = await peer.reply()
        assert (reply.body, reply["connection"]) == (b"b", "close")
        assert await peer.closed()


async def test_a_reply_whose_head_is_out_closes_nothing() -> None:
    """The client was told that the connection stays: its next request may be on its way already."""
    stop = asyncio.Event()

    async def until_told(sink: Sink) -> None:
        await sink.write(b"a")
        await stop.wait()
        await sink.end()

    async with serving() as served, served.peer() as peer:
        served.rig.writer = until_told
        await peer.send(request("GET", "/stream"))
        assert (await peer.head())["connection"] is None
        assert await peer.chunk() == b"a"
        served.listener.retire()
        stop.set()
        assert [chunk async for chunk in peer.chunks()] == []
        await peer.send(request(body=b"next"))
        reply = await peer.reply()
        assert (reply.body, reply["connection"]) == (b"next", "close")
        assert await peer.closed()


async def test_a_reply_that_was_waited_for_says_that_its_connection_closes() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        served.listener.retire()
        served.rig.exchanges[0].respond(200, PLAIN, b"finished")
        reply = await peer.reply()
        assert (reply.body, reply["connection"]) == (b"finished", "close")
        assert await peer.closed()


async def test_what_connects_then_is_accepted_by_who_shares_the_socket() -> None:
    bound = listen()
    address = bound.getsockname()
    shared = socket.socket(fileno=socket.dup(bound.fileno()))
    async with serving(sockets=[bound]) as served:
        served.listener.retire()
        connecting = asyncio.open_connection(*address)
        reader, writer = await asyncio.wait_for(connecting, 60)  # by the system: it waits to be accepted
        async with serving(sockets=[shared]) as other:
            writer.write(request(body=b"here"))
            assert b"here" in await asyncio.wait_for(reader.read(4096), 60)
            assert served.listener.statistics()["accepted"] == 0
            assert other.listener.statistics()["accepted"] == 1
            writer.close()


async def test_it_is_vacated_when_nobody_is_connected_or_the_time_is_over() -> None:
    async with serving() as served:
        assert await served.listener.vacated(60)
        async with served.peer() as peer:
            await peer.send(request(body=b"a"))
            await peer.reply()
            assert not await served.listener.vacated(0.01)
            waiting = asyncio.ensure_future(served.listener.vacated(60))
        assert await asyncio.wait_for(waiting, 60)


@pytest.mark.parametrize("twice", [False, True])
async def test_after_it_the_listener_is_closed_as_ever(twice: bool) -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(body=b"a"))
        await peer.reply()
        served.listener.retire()
        if twice:
            served.listener.retire()
        await asyncio.wait_for(served.listener.close(60), 60)
        assert await peer.closed()
