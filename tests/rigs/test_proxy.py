"""The faulty network does what its plans say: the end-to-end tests rest on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.rigs.proxy import Fault, Plan, running_proxy
from tests.rigs.rawhttp import Cut, EventStream, RawConnection, Stalled

EVENTS = "".join(f"id: {n}\ndata: event {n}\n\n" for n in range(20)).encode()
REPLY = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENTS), EVENTS)


@asynccontextmanager
async def events_server(ends: list[str]) -> AsyncIterator[int]:
    """Answers any request with REPLY; notes in `ends` how each connection ended as it saw it."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return writer.close()
        writer.write(REPLY)
        try:
            ends.append("data" if await reader.read(1) else "fin")
        except ConnectionResetError:
            ends.append("rst")
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def read_events(connection: RawConnection, limit: float = 60.0) -> EventStream:
    await connection.send("GET", "/")
    await connection.read_head(limit)
    stream = EventStream(connection)
    while await stream.next(limit) is not None:
        pass
    return stream


@pytest.mark.parametrize("piece", [1, 7, 65_536])
async def test_without_a_fault_every_byte_passes(piece: int) -> None:
    ends: list[str] = []
    async with events_server(ends) as port, running_proxy(port, lambda _: Plan(piece=piece)) as proxy:
        async with RawConnection(proxy.url) as connection:
            stream = await read_events(connection)
        assert not stream.cut
        assert [event.data for event in stream.events] == [f"event {n}" for n in range(20)]
        assert stream.last_event_id == "19"
        assert proxy.connections[0].down == len(REPLY)
        assert proxy.connections[0].up > 0


async def test_pieces_may_have_any_size() -> None:
    async with events_server([]) as port, running_proxy(port, lambda _: Plan(piece=9, chance=1)) as proxy:
        async with RawConnection(proxy.url) as connection:
            stream = await read_events(connection)
        assert [event.data for event in stream.events] == [f"event {n}" for n in range(20)]
    sizes = Plan(piece=9, chance=1).sizes()
    assert {next(sizes) for _ in range(200)} == set(range(1, 10))


@pytest.mark.parametrize("fault", ["rst", "fin", "half-close", "black-hole"])
async def test_a_request_can_be_cut_as_well(fault: Fault) -> None:
    ends: list[str] = []
    plan = Plan(cut_up_after=10, fault=fault)
    async with events_server(ends) as port, running_proxy(port, lambda _: plan) as proxy:
        async with RawConnection(proxy.url) as connection:
            await connection.send("GET", "/")
            async with asyncio.timeout(60):
                while not (proxy.connections and proxy.connections[0].struck):
                    await asyncio.sleep(0.001)
            with pytest.raises((Cut, Stalled)):
                await connection.read_head(0.5 if fault == "black-hole" else 60.0)
        assert (proxy.connections[0].up, proxy.connections[0].struck) == (10, True)
    assert ends == []


@pytest.mark.parametrize("fault", ["rst", "fin", "half-close"])
async def test_a_cut_lets_exactly_so_many_bytes_through(fault: Fault) -> None:
    for cut_after in (len(REPLY) - 1, 200, 60):
        async with events_server([]) as port, running_proxy(port, lambda _, n=cut_after: Plan(n, fault)) as proxy:
            async with RawConnection(proxy.url) as connection:
                stream = await read_events(connection)
            assert stream.cut
            assert proxy.connections[0].down == cut_after
            assert proxy.connections[0].struck
            assert bytes(connection.seen) == EVENTS[: len(connection.seen)]


async def test_a_cut_in_the_head_is_told_apart_from_an_answer() -> None:
    async with events_server([]) as port, running_proxy(port, lambda _: Plan(10, "fin")) as proxy:
        connection = RawConnection(proxy.url)
        await connection.open()
        with pytest.raises(Cut):
            await read_events(connection)
        connection.close()


@pytest.mark.parametrize(("fault", "end"), [("rst", "rst"), ("fin", "fin")])
async def test_the_server_sees_the_cut_as_well(fault: Fault, end: str) -> None:
    ends: list[str] = []
    async with events_server(ends) as port, running_proxy(port, lambda _: Plan(100, fault)) as proxy:
        async with RawConnection(proxy.url) as connection:
            await read_events(connection)
            await proxy.connections[0].closed.wait()
        async with asyncio.timeout(60):
            while not ends:
                await asyncio.sleep(0.001)
    assert ends == [end]


async def test_a_black_hole_is_silence() -> None:
    async with events_server([]) as port, running_proxy(port, lambda _: Plan(100, "black-hole")) as proxy:
        connection = RawConnection(proxy.url)
        await connection.open()
        with pytest.raises(Stalled):
            await read_events(connection, limit=0.2)
        assert not proxy.connections[0].closed.is_set()
        connection.close()


async def test_plans_are_made_for_each_connection() -> None:
    def first_only(index: int) -> Plan:
        return Plan(50, "fin") if index == 0 else Plan()

    cuts: list[bool] = []
    async with events_server([]) as port, running_proxy(port, first_only) as proxy:
        for _ in range(2):
            async with RawConnection(proxy.url) as connection:
                cuts.append((await read_events(connection)).cut)
    assert cuts == [True, False]


async def test_a_refused_connection_never_reaches_the_server() -> None:
    ends: list[str] = []
    async with events_server(ends) as port, running_proxy(port, lambda _: Plan(refuse=True)) as proxy:
        async with RawConnection(proxy.url) as connection:
            with pytest.raises((Cut, ConnectionError)):
                await read_events(connection)
        assert proxy.connections[0].up == 0
    assert ends == []


async def test_some_connections_can_be_cut_and_the_others_go_on() -> None:
    async with events_server([]) as port, running_proxy(port) as proxy:
        kept, ended = RawConnection(proxy.url), RawConnection(proxy.url)
        for number, connection in enumerate((kept, ended)):
            await connection.open()
            async with asyncio.timeout(60):
                while len(proxy.connections) == number:
                    await asyncio.sleep(0.001)
        assert len({one.port for one in proxy.connections}) == 2
        proxy.cut(lambda passed: passed.index == 1)
        async with asyncio.timeout(60):
            await proxy.connections[1].closed.wait()
        assert not proxy.connections[0].closed.is_set()
        assert not (await read_events(kept)).cut
        for connection in (kept, ended):
            connection.close()
