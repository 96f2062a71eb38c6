"""Our own HTTP/2: windows, limits, servers that drain, refuse or talk nonsense; TLS over both libraries."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from tailrace.clients.connect import h2, h2pool
from tailrace.clients.connect.h2 import H2Link
from tailrace.clients.connect.h2_pipe import Broken, H2Pipe
from tailrace.connect import Call, Client, Code, Retries, RpcError
from tests.clients.connect.support import (
    PATH,
    Spoken,
    StringValue,
    eventually,
    served,
    sockets,
    text,
    told,
    within,
)
from tests.clients.connect.test_calls import answer_unary
from tests.clients.connect.test_h2_faults import HEAD, Wire
from tests.rigs.peers import Request, running_peer

pytestmark = pytest.mark.timeout(60)
GRPC, CONNECT = Spoken("grpc", True), Spoken("connect", True)


def watch(client: Client, **options: Any) -> Any:
    return client.server_stream(PATH, text("go"), response=StringValue, **options)


# --- windows --------------------------------------------------------------------------------------------


async def test_what_is_not_read_is_bounded_and_keeps_no_other_stream() -> None:
    sent = 0

    async def flood(request: Request) -> None:
        nonlocal sent
        if "fast" not in request.headers:
            return await GRPC.two(request)
        await GRPC.begin(request)
        piece = GRPC.packed("x" * 50_000)
        while True:
            await request.data(piece)
            sent += len(piece)

    async with served(GRPC, flood) as (client, _), watch(client, headers={"fast": "yes"}) as stream:
        await stream.receive()
        await eventually(lambda: sent > 900_000, "the window is full")
        async with watch(client) as other:
            assert [one.value async for one in other] == ["one", "two"]
        seen = sent
        await asyncio.sleep(0.1)
        assert sent == seen
        assert sent < 2_000_000
        for _ in range(60):  # reading opens it again
            await stream.receive()
        assert sent > 3_000_000


async def test_a_burst_of_tiny_frames_is_as_good_as_one_frame() -> None:
    async def burst(request: Request) -> None:
        await GRPC.begin(request)
        for _ in range(20_000):
            await request.data(GRPC.packed("x"))
        await GRPC.end(request)

    async with served(GRPC, burst) as (client, _), watch(client) as stream:
        assert len([one async for one in stream]) == 20_000


async def test_a_large_message_is_sent_as_the_server_has_room() -> None:
    large = "x" * 3_000_000
    async with served(GRPC, GRPC.echo) as (client, _), client.bidi(PATH, response=StringValue) as stream:
        await stream.send(text(large))
        await stream.close_send()
        one = await stream.receive()
        assert one is not None
        assert one.value == large


async def test_streams_beyond_what_a_connection_takes_get_another_one_and_then_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(h2pool, "_MAX_LINKS", 2)
    gate = asyncio.Event()

    async def answer(request: Request) -> None:
        if len(peer.requests) == 1:
            return await CONNECT.two(request)
        await gate.wait()
        return await answer_unary(CONNECT, request, "hello")

    async with served(CONNECT, answer, streams=2) as (client, peer):
        async with watch(client) as first:  # from here on the server's settings are known
            assert len([one async for one in first]) == 2
        calls = [
            asyncio.ensure_future(client.unary(PATH, text(str(number)), response=StringValue)) for number in range(6)
        ]
        await peer.request(4)
        await asyncio.sleep(0.05)
        assert (len(peer.requests), peer.connections) == (5, 2)
        calls[5].cancel()  # one that waits
        gate.set()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [one.value for one in done[:5] if not isinstance(one, BaseException)] == [
            f"hello {number}" for number in range(5)
        ]
        assert isinstance(done[5], asyncio.CancelledError)


# --- servers that drain, refuse or break ----------------------------------------------------------------


async def test_a_server_that_drains_answers_what_it_has_begun_and_new_calls_go_elsewhere() -> None:
    gate = asyncio.Event()

    async def answer(request: Request) -> None:
        await GRPC.begin(request)
        await GRPC.message(request, "one")
        if len(peer.requests) == 1:
            await gate.wait()
        await GRPC.end(request)

    async with served(GRPC, answer) as (client, peer):
        async with watch(client) as stream:
            await stream.receive()
            peer.go_away(1)
            await eventually(lambda: not next(iter(links(client)), None), "the connection takes no more streams")
            async with watch(client) as other:
                assert len([one async for one in other]) == 1
            gate.set()
            assert [one async for one in stream] == []
        assert peer.connections == 2
        await eventually(lambda: peer.open == 1, "the old connection is closed")


def links(client: Client) -> dict[H2Link, Any]:
    pool: Any = client._way.http
    return pool._links


async def test_a_request_that_a_draining_server_did_not_look_at_is_sent_again() -> None:
    async def answer(request: Request) -> None:
        if len(peer.requests) == 1:
            peer.go_away(0)
        else:
            await answer_unary(GRPC, request, "hello")

    call = Call()
    async with served(GRPC, answer) as (client, peer):
        assert (await client.unary(PATH, text("x"), response=StringValue, call=call)).value == "hello x"
        assert (peer.connections, len(peer.requests), call.attempts) == (2, 2, 1)
        peer.requests[0].over = True
    async with served(GRPC, answer) as (client, peer), client.bidi(PATH, response=StringValue) as stream:
        await stream.send(text("x"))  # what was streamed is gone
        with pytest.raises(RpcError, match="REFUSED_STREAM") as error:
            await stream.receive()
        assert error.value.code is Code.UNAVAILABLE
        peer.requests[0].over = True


async def test_a_refused_stream_is_sent_again_a_few_times() -> None:
    async def refuse(request: Request) -> None:
        request.abort(7)

    async with served(GRPC, refuse) as (client, peer):
        with pytest.raises(RpcError, match="REFUSED_STREAM") as error:
            await client.unary(PATH, text("x"), response=StringValue)
        assert (error.value.code, len(peer.requests)) == (Code.UNAVAILABLE, 3)


async def test_a_server_that_gives_up_the_connection_ends_all_its_streams() -> None:
    async with served(GRPC, GRPC.one_then_silent) as (client, peer), watch(client) as stream:
        await stream.receive()
        peer.go_away(1, 11)
        with pytest.raises(RpcError, match="ended the connection with code 11") as error:
            await stream.receive()
        assert error.value.code is Code.UNAVAILABLE


HELLO = b"\0\0\0\x04\0\0\0\0\0"


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 no\r\n\r\n", b"\xff" * 100, HELLO + b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0"])
async def test_nonsense_breaks_the_connection_and_nothing_else(said: bytes) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}", protocol="grpc", retries=Retries(attempts=1)) as client:
        with pytest.raises(RpcError, match="the connection broke") as error:
            await client.unary(PATH, text("x"), response=StringValue)
        assert error.value.code is Code.UNAVAILABLE
    server.close()


class Full(Wire):
    """A peer that reads nothing."""

    def get_write_buffer_size(self) -> int:
        return len(self.data)


async def test_a_server_that_asks_and_never_reads_cannot_make_us_keep_its_answers() -> None:
    gone: list[H2Link] = []
    link, transport = H2Link(lambda: None, gone.append, lambda pipe: False), Full()
    link.connection_made(transport)
    link.data_received(b"\0\0\0\x04\0\0\0\0\0")
    pings = (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 1000
    for _ in range(1000):
        if transport.closed:
            break
        link.data_received(pings)
    assert transport.closed
    assert len(transport.data) < h2._MAX_UNWRITTEN + 100_000
    assert gone == [link]


async def test_a_body_waits_while_the_transport_is_full() -> None:
    link, transport = H2Link(lambda: None, lambda link: None, lambda pipe: False), Full()
    link.connection_made(transport)
    link.data_received(b"\0\0\0\x04\0\0\0\0\0")
    link.pause_writing()
    pipe = H2Pipe(link.start, lambda pipe: None, HEAD, bytes(1000))
    pipe.open()
    before = len(transport.data)
    link.resume_writing()
    assert len(transport.data) > before + 1000
    link.connection_lost(ConnectionResetError("by peer"))
    assert isinstance(pipe.opened.exception(), Broken)
    with pytest.raises(Broken, match="by peer"):
        await pipe.read()


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(CONNECT, lambda request: answer_unary(CONNECT, request, "hello")) as (client, peer):
        for idle in (60.0, 60.0, 0.05):
            monkeypatch.setattr(h2pool, "_IDLE", idle)
            await client.unary(PATH, text("x"), response=StringValue)
        assert peer.connections == 1
        await eventually(lambda: peer.open == 0, "the connection is closed")
        await client.unary(PATH, text("x"), response=StringValue)
        assert peer.connections == 2


async def test_closing_the_client_closes_its_connections() -> None:
    before = sockets()
    async with running_peer(GRPC.two, http2=True) as peer:
        client = GRPC.client(peer)
        async with watch(client) as stream:
            assert len([one async for one in stream]) == 2
        await client.aclose()
        await eventually(lambda: peer.open == 0, "the connection is closed")
    await eventually(lambda: sockets() <= before, "no socket is left")


# --- making connections ---------------------------------------------------------------------------------


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """It accepts connections and says nothing."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_making_a_connection_is_bounded() -> None:
    async with (
        silent_port() as port,
        Client(f"https://127.0.0.1:{port}", protocol="grpc", connect_timeout=0.1) as client,
    ):
        async with within(0.1):
            with pytest.raises(RpcError, match=r"no connection within 0\.1 s; nothing was sent") as error:
                await client.unary(PATH, text("x"), response=StringValue)
        assert error.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_a_call_that_waits_for_a_connection_can_be_ended(way: str) -> None:
    async with silent_port() as port:
        client = Client(f"https://127.0.0.1:{port}", protocol="grpc")
        task = asyncio.ensure_future(client.unary(PATH, text("x"), response=StringValue))
        await asyncio.sleep(0.05)
        if way == "cancel":
            task.cancel()
        else:
            async with within(1):
                await client.aclose()
        async with within(0):
            await asyncio.wait([task])
        assert task.cancelled() if way == "cancel" else isinstance(task.exception(), RpcError)
        async with within(1):
            await client.aclose()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *, alpn: list[str], clients: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(alpn)
    if clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("spoken", [CONNECT, GRPC, Spoken("connect", False)], ids=repr)
@pytest.mark.parametrize("form", ["bytes", "text", "file"])
async def test_tls_with_a_certificate_of_the_clients(
    spoken: Spoken, form: str, authority: trustme.CA, tmp_path: Path
) -> None:
    own = authority.issue_cert("client@example.org")
    pems = {
        "ca_cert": authority.cert_pem.bytes(),
        "client_cert": own.cert_chain_pems[0].bytes(),
        "client_key": own.private_key_pem.bytes(),
    }
    given: dict[str, Any] = dict(pems)
    if form == "text":
        given = {name: pem.decode() for name, pem in pems.items()}
    elif form == "file":
        for name, pem in pems.items():
            (tmp_path / name).write_bytes(pem)
            given[name] = tmp_path / name
    tls = server_context(authority, alpn=["h2" if spoken.http2 else "http/1.1"], clients=True)
    async with running_peer(
        lambda request: answer_unary(spoken, request, "hello"), http2=spoken.http2, tls=tls
    ) as peer:
        client = await asyncio.to_thread(lambda: spoken.client(peer, **given))  # files are read, and written for ssl
        assert (await client.unary(PATH, text("x"), response=StringValue)).value == "hello x"
        await client.aclose()


@pytest.mark.parametrize("spoken", [CONNECT, Spoken("connect", False)], ids=repr)
async def test_a_certificate_that_nobody_vouches_for_is_refused(spoken: Spoken, authority: trustme.CA) -> None:
    tls = server_context(authority, alpn=["h2", "http/1.1"])
    async with served(spoken, spoken.echo, tls=tls) as (client, peer):
        with pytest.raises(RpcError, match="cannot connect") as error:
            await client.unary(PATH, text("x"), response=StringValue)
        assert error.value.code is Code.UNAVAILABLE
        assert peer.requests == []


async def test_a_server_without_http2_is_told_apart(authority: trustme.CA) -> None:
    tls = server_context(authority, alpn=["http/1.1"])
    async with served(CONNECT, CONNECT.echo, tls=tls, ca_cert=authority.cert_pem.bytes()) as (client, _):
        with pytest.raises(RpcError, match="does not speak HTTP/2"):
            await client.unary(PATH, text("x"), response=StringValue)


@pytest.mark.parametrize("spoken", [CONNECT, GRPC, Spoken("connect", False)], ids=repr)
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_all_of_it_works_on_uvloop(spoken: Spoken, secured: bool, authority: trustme.CA) -> None:
    alpn = "h2" if spoken.http2 else "http/1.1"
    rig = {"tls": server_context(authority, alpn=[alpn])} if secured else {}
    options: dict[str, Any] = {"ca_cert": authority.cert_pem.bytes()} if secured else {}

    async def run() -> None:
        async with served(spoken, spoken.two, **rig, **options) as (client, _), watch(client) as stream:
            assert [one.value async for one in stream] == ["one", "two"]
        async with served(spoken, spoken.trickle, **rig, **options) as (client, peer):
            async with watch(client) as stream:
                await stream.receive()
            await told(await peer.request(), spoken)

    uvloop.run(run())
