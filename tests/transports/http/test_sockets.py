"""TLS, Unix sockets, IPv6, several sockets at once; and which of them only this machine reaches."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from tailrace.core.exchange import Sink
from tailrace.transports.http.sockets import is_loopback
from tests.transports.http.rig import Served, listen, request, serving

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def tls() -> Contexts:
    """A server's context, and a client's that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    client.set_alpn_protocols(["http/1.1"])
    return server, client


# --- TLS -------------------------------------------------------------------------------------------------


async def test_requests_and_streams_over_tls(tls: Contexts) -> None:
    async def large(sink: Sink) -> None:
        for _ in range(50):
            await sink.write(b"x" * 20_000)
        await sink.end()

    async with serving(tls=tls) as served, served.peer() as peer:
        served.rig.writer = large
        assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        for number in range(5):
            await peer.send(request(body=b"%d" % number) * 3)
            assert [(await peer.reply()).body for _ in range(3)] == [b"%d" % number] * 3
        await peer.send(request("GET", "/stream") + request(body=b"y" * 300_000))
        assert len((await peer.reply()).body) == 1_000_000
        assert len((await peer.reply()).body) == 300_000
        await peer.send(request("POST", "/echo", b"last", "Connection: close"))
        assert (await peer.reply()).body == b"last"
        assert await peer.closed()


async def test_a_request_in_the_same_packet_as_the_end_of_the_handshake_is_served(tls: Contexts) -> None:
    async with serving(tls=tls) as served:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = tls[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
        reader, writer = await asyncio.open_connection(*served.address)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await asyncio.wait_for(reader.read(65_536), 60))
        client.write(request(body=b"early"))
        writer.write(outgoing.read())  # the client's Finished and its request
        answer = b""
        while not answer.endswith(b"early"):
            incoming.write(await asyncio.wait_for(reader.read(65_536), 60))
            try:
                answer += client.read(65_536)
            except ssl.SSLWantReadError:
                continue
        writer.transport.abort()


async def test_a_peer_that_is_gone_is_noticed_over_tls(tls: Contexts) -> None:
    async with serving(tls=tls) as served, served.peer() as peer:
        await peer.send(request(target="/held", body=b""))
        await served.until(lambda: served.rig.exchanges)
        peer.writer.transport.abort()
        await served.until(lambda: served.rig.gone)


async def test_a_refused_request_is_answered_over_tls(tls: Contexts) -> None:
    async with serving(tls=tls) as served, served.peer() as peer:
        await peer.send(b"bad\r\n\r\n" + b"x" * 100_000)
        assert (await peer.reply()).status == 400
        assert await peer.closed()


async def test_a_stalled_reader_is_cut_over_tls(tls: Contexts) -> None:
    async def endless(sink: Sink) -> None:
        while True:
            await sink.write(b"x" * 10_000)

    async with serving(tls=tls, stall=0.3) as served, served.peer() as peer:
        served.rig.writer = endless
        peer.writer.transport.pause_reading()
        await peer.send(request("GET", "/stream"))
        await served.until(lambda: served.rig.gone)
        await served.until(lambda: served.listener.statistics()["connections"] == 0)


@pytest.mark.parametrize(
    "data", [b"", b"\x16", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 500]
)
async def test_a_handshake_that_fails_or_never_comes_costs_a_connection_for_a_while(tls: Contexts, data: bytes) -> None:
    async with serving(tls=tls, tls_time=1.0) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(data)
        await served.until(lambda: served.listener.statistics()["accepted"])
        assert await asyncio.wait_for(rest(reader), 60) is not None
        writer.transport.abort()
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert (await served.ask(request(body=b"a"))).body == b"a"


async def test_handshakes_count_as_connections(tls: Contexts) -> None:
    async with serving(tls=tls, max_connections=2) as served:
        idle = [await asyncio.open_connection(*served.address) for _ in range(2)]
        await served.until(lambda: served.listener.statistics()["connections"] == 2)
        reader, writer = await asyncio.open_connection(*served.address)
        assert await asyncio.wait_for(rest(reader), 60) == b""
        assert served.listener.statistics()["turned_away"] == 1
        for _, other in [*idle, (reader, writer)]:
            other.transport.abort()
        await served.until(lambda: served.listener.statistics()["connections"] == 0)
        assert (await served.ask(request(body=b"a"))).body == b"a"


async def test_a_connection_counts_once_when_its_handshake_is_over(tls: Contexts) -> None:
    async with serving(tls=tls, max_connections=1) as served, served.peer() as peer:
        await peer.send(request(body=b"a"))
        assert (await peer.reply()).body == b"a"
        assert served.listener.statistics()["accepted"] == 1


async def test_closing_cuts_handshakes_and_ends_idle_connections(tls: Contexts) -> None:
    async with serving(tls=tls) as served, served.peer() as peer:
        await peer.send(request(body=b"a"))
        await peer.reply()
        reader, writer = await asyncio.open_connection(*served.address)
        await served.until(lambda: served.listener.statistics()["connections"] == 2)
        await asyncio.wait_for(served.listener.close(3600), 60)
        assert await peer.closed()
        assert await asyncio.wait_for(rest(reader), 60) == b""
        writer.transport.abort()


async def test_a_client_hello_on_a_plain_port_is_refused_at_once() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50)
        assert (await peer.reply()).status == 400
        assert await peer.closed()


# --- addresses ---------------------------------------------------------------------------------------------


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    async with serving(sockets=[listening]) as served, served.peer() as peer:
        await peer.send(request(body=b"a"))
        assert (await peer.reply()).body == b"a"
        assert served.rig.exchanges[0].loopback


async def test_several_sockets_are_one_listener(tmp_path: Path) -> None:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    sockets = [listen(), listen(), unix]
    with suppress(OSError):  # a machine without IPv6
        sockets.append(listen("::1"))
    addresses = [sock.getsockname() for sock in sockets]
    async with serving(sockets=sockets, max_connections=len(sockets) - 1) as served:
        peers = [Served(served.rig, served.listener, address).peer() for address in addresses]
        opened = [await peer.__aenter__() for peer in peers]
        for peer in opened:
            await peer.send(request(body=b"a"))
        statuses = [(await peer.reply()).status for peer in opened]
        assert sorted(statuses) == [200] * (len(sockets) - 1) + [503]
        await served.listener.close(1)
        for peer in peers:
            await peer.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("127.0.0.1", 80), True),
        (("127.8.9.1", 80), True),
        (("::1", 80, 0, 0), True),
        (("::ffff:127.0.0.1", 80, 0, 0), True),
        (("10.0.0.1", 80), False),
        (("::ffff:10.0.0.1", 80, 0, 0), False),
        (("fe80::1%eth0", 80, 0, 2), False),
        (("nonsense", 80), False),
        ("/run/socket", True),
        (b"", True),
        (None, True),
    ],
)
def test_what_only_this_machine_reaches(address: object, expected: bool) -> None:
    assert is_loopback(address) is expected


async def rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""
