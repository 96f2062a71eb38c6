"""HTTP/2 beside the library `jh2`: whatever its client says is understood, however it is cut into pieces; what its
server would refuse is not served by ours; and no bytes at all make ours fail."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jh2.config import H2Configuration
from jh2.connection import H2Connection as Library
from jh2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded, TrailersReceived
from jh2.exceptions import ProtocolError

from tailrace.core.exchange import Exchange
from tailrace.core.settings import Settings
from tailrace.transports.http import Listener
from tests.transports.http.rig import PLAIN, Rig, Wire

EXAMPLES = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
FIELDS = st.lists(
    st.tuples(TOKENS.map(lambda name: f"x-{name}"), st.text("abcdefghij /=;,", max_size=12).map(str.strip)), max_size=5
)
REQUESTS = st.lists(
    st.tuples(TOKENS, FIELDS, st.lists(st.binary(max_size=300), max_size=4), st.booleans()), min_size=1, max_size=6
)
CUTS = st.lists(st.integers(1, 400), max_size=40)


class Reflecting(Rig):
    """Gives back what it got, with trailers; whole, whatever its path is."""

    def streams(self, exchange: Exchange) -> bool:
        return False

    def handle(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        exchange.respond(200, [*PLAIN, (b"x-path", exchange.path.encode())], exchange.body, [(b"x-done", b"yes")])


async def served(pieces: list[bytes]) -> tuple[Reflecting, bytes]:
    """What a connection of ours makes of these pieces."""
    rig = Reflecting(Settings())
    listener = Listener(rig, [])
    connection: Any = listener.protocol("h2")
    wire = Wire()
    connection.connection_made(wire)
    for piece in pieces:
        if wire.closing:
            break
        connection.data_received(piece)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection.connection_lost(None)
    return rig, bytes(wire.sent)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in [*pieces, data] if piece]


def said(client: Any, requests: Any) -> bytes:
    """These requests, as the library says them; their frames stand between one another's."""
    client.initiate_connection()
    open_streams: list[tuple[int, list[bytes]]] = []
    for path, fields, parts, trailers in requests:
        number = client.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", f"/{path}"), *fields]
        client.send_headers(number, head, end_stream=not parts and not trailers)
        if parts or trailers:
            open_streams.append((number, [*parts, b"trailers"] if trailers else [*parts]))
    while open_streams:
        number, parts = open_streams.pop(0)
        part, *parts = parts
        if part == b"trailers" and not parts:
            client.send_headers(number, [("x-sum", "1")], end_stream=True)
        else:
            client.send_data(number, part, end_stream=not parts)
        if parts:
            open_streams.append((number, parts))
    return client.data_to_send()


@EXAMPLES
@given(REQUESTS, CUTS)
def test_what_the_librarys_client_says_is_served_and_understood_by_it(requests: Any, sizes: list[int]) -> None:
    client: Any = Library(H2Configuration(client_side=True, header_encoding="utf-8"))
    rig, sent = asyncio.run(served(cut(said(client, requests), sizes)))
    expected = {f"/{path}": b"".join(parts) for path, _, parts, _ in requests}
    assert len(rig.exchanges) == len(requests)
    assert {exchange.path for exchange in rig.exchanges} == set(expected)
    for (_, fields, _, _), exchange in zip(requests, sorted(rig.exchanges, key=lambda one: one.number), strict=True):  # type: ignore[attr-defined]
        for name, value in dict(reversed(fields)).items():
            assert exchange.header(name.encode()) == value
    paths: dict[int, str] = {}
    bodies: dict[int, bytes] = {}
    ended: set[int] = set()
    trailers: set[int] = set()
    for event in client.receive_data(sent):
        if isinstance(event, ResponseReceived):
            headers = dict(event.headers or [])
            assert headers[":status"] == "200"
            paths[event.stream_id], bodies[event.stream_id] = headers["x-path"], b""
        elif isinstance(event, DataReceived):
            bodies[event.stream_id] += event.data
        elif isinstance(event, TrailersReceived):
            trailers.add(event.stream_id)
        elif isinstance(event, StreamEnded):
            ended.add(event.stream_id)
    assert ended == trailers == set(paths)
    requested = sorted((f"/{path}", b"".join(parts)) for path, _, parts, _ in requests)
    assert sorted((paths[number], bodies[number]) for number in paths) == requested


@EXAMPLES
@given(REQUESTS, CUTS, st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=4), st.integers(0, 6)), max_size=4))
def test_what_the_librarys_server_refuses_is_not_served_either(requests: Any, sizes: list[int], damage: Any) -> None:
    """A conversation with damage: each request that ours hands over is one that the library has seen, too."""
    client: Any = Library(H2Configuration(client_side=True, header_encoding="utf-8"))
    data = bytearray(said(client, requests))
    for at, put, taken in damage:
        place = 24 + at % max(1, len(data) - 24)  # behind the preface
        data[place : place + taken] = put
    rig, _ = asyncio.run(served(cut(bytes(data), sizes)))
    theirs: Any = Library(H2Configuration(client_side=False, header_encoding="latin-1"))
    seen: dict[int, tuple[str, str]] = {}
    stopped = True
    with suppress(ProtocolError, UnicodeDecodeError):
        for piece in cut(bytes(data), [24, *[1] * len(data)]):
            for event in receive(theirs, piece):
                if isinstance(event, RequestReceived):
                    headers = dict(event.headers or [])
                    seen[event.stream_id] = (headers[":method"], headers[":path"])
        stopped = False
    for exchange in rig.exchanges:
        number = exchange.number  # type: ignore[attr-defined]
        if stopped and number > max(seen, default=0):
            continue  # a malformed head ends the whole connection there, and only its stream with us (RFC 9113, 8.1.1)
        target = exchange.path + (f"?{exchange.query.decode()}" if exchange.query else "")
        assert (exchange.method, target) == seen.get(number)


def receive(library: Any, data: bytes) -> list[Any]:
    """Its decoder panics where a block is cut off; to us that is a fault of the client's as any other."""
    try:
        return library.receive_data(data)
    except Exception:
        raise
    except BaseException as panic:
        if "index out of bounds" not in str(panic):
            raise
        raise ProtocolError(str(panic)) from None


@EXAMPLES
@given(st.lists(st.binary(max_size=200), max_size=6), st.booleans())
@pytest.mark.usefixtures("no_error_is_logged")
def test_no_bytes_make_it_fail(pieces: list[bytes], greeted: bool) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5)
    asyncio.run(served([*([preface] if greeted else []), *(piece for piece in pieces if piece)]))
