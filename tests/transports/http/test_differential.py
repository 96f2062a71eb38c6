"""Our reading of requests against h11's: what is valid reads the same, however it is cut; what we accept, h11 accepts.

The second half is what request smuggling needs to fail: there must be no bytes that we serve and that a
proxy in front of us cuts apart differently. Last, bytes at random: nothing crashes, nothing hangs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import unquote

import h11
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tailrace.core.exchange import Exchange
from tailrace.core.settings import Settings
from tailrace.transports.http.body import ChunkedBody
from tests.transports.http.malformed import ROWS
from tests.transports.http.rig import PLAIN, Rig, converse

bounded = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
OURS = {  # fields that mean something to a server
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "expect",
    "upgrade",
    "te",
}


@dataclass
class Seen:
    """A request as a parser reads it."""

    method: str
    path: str
    query: bytes
    headers: dict[str, list[str]]
    body: bytes


class Echo(Rig):
    """Serves every path."""

    def handle(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        exchange.respond(200, PLAIN, b"")


async def read_ours(pieces: list[bytes]) -> tuple[list[Seen], bytes]:
    rig, sent = await converse(pieces, Echo(Settings()))
    return [as_seen(exchange) for exchange in rig.exchanges], sent


def as_seen(exchange: Exchange) -> Seen:
    names = sorted(exchange.head.headers)  # type: ignore[attr-defined]
    headers = {name.decode("ascii"): exchange.header_values(name) for name in names}
    if "transfer-encoding" in headers:  # h11 gives it in lower case
        headers["transfer-encoding"] = [value.lower() for value in headers["transfer-encoding"]]
    return Seen(exchange.method, exchange.path, exchange.query, headers, exchange.body)


def read_h11(data: bytes) -> tuple[list[Seen], str]:
    """What h11 reads, and why it stopped if it did."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=70_000)
    connection.receive_data(data)
    seen: list[Seen] = []
    try:
        while True:
            event = connection.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return seen, ""
            assert isinstance(event, h11.Request)
            head, body = event, b""
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    return seen, ""
                assert isinstance(event, h11.Data)
                body += bytes(event.data)
            seen.append(seen_by_h11(head, body))
            connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                return seen, ""
            connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        return seen, str(error)


def seen_by_h11(head: h11.Request, body: bytes) -> Seen:
    target = bytes(head.target)
    absolute = re.fullmatch(rb"https?://[^/?]*(.*)", target, re.IGNORECASE)
    if absolute is not None:
        target = b"/" + absolute[1].removeprefix(b"/")
    path, _, query = target.partition(b"?")
    headers: dict[str, list[str]] = {}
    for name, value in head.headers:
        headers.setdefault(bytes(name).decode("ascii"), []).append(bytes(value).decode("latin-1"))
    return Seen(bytes(head.method).decode("ascii"), unquote(path.decode("ascii")), query, headers, body)


# --- valid requests --------------------------------------------------------------------------------------

names = st.text(TOKEN, min_size=1, max_size=12).filter(lambda name: name.lower() not in OURS)
values = st.text([chr(code) for code in (9, *range(32, 127), *range(128, 256))], max_size=20)
fields = st.lists(st.tuples(names, values), max_size=6)
unreserved = "abcXYZ019-._~!$&'()*+,;=:@"
segments = st.lists(
    st.one_of(st.text(unreserved, max_size=6), st.sampled_from(["%20", "%C3%A9", "%2F", "%25"])), max_size=4
)
bodies = st.lists(st.binary(min_size=1, max_size=30), max_size=5)
framings = st.sampled_from(["none", "length", "chunked"])
blanks = st.sampled_from(["", " ", "\t", "  "])
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    path = "/" + "/".join(draw(segments))
    query = draw(st.sampled_from(["", "?", "?a=b", "?a=%20&&b?c/d"]))
    lines = [f"{draw(st.sampled_from(METHODS))} {path}{query} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}:{draw(blanks)}{value}{draw(blanks)}" for name, value in draw(fields)]
    framing, parts = draw(framings), draw(bodies)
    body = b""
    if framing == "length":
        body = b"".join(parts)
        lines.append(f"Content-Length: {'0' * draw(st.integers(0, 3))}{len(body)}")
    elif framing == "chunked":
        lines.append(draw(st.sampled_from(["Transfer-Encoding: chunked", "transfer-encoding:CHUNKED "])))
        extension = draw(st.sampled_from([b"", b";a", b";a=b;c", b';a="b c"']))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
        body += b"0\r\n" + draw(st.sampled_from([b"", b"X-Sum: 1\r\n"])) + b"\r\n"
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(at) if begin < end]


@bounded
@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=12))
async def test_valid_requests_read_the_same_in_any_pieces(valid: list[bytes], places: list[int]) -> None:
    data = b"".join(valid)
    theirs, stopped = read_h11(data)
    assert (len(theirs), stopped) == (len(valid), "")
    ours, sent = await read_ours(cut(data, places))
    assert ours == theirs
    assert sent.count(b"HTTP/1.1 200 OK\r\n") == len(valid)


# --- what is almost valid -----------------------------------------------------------------------------------

TRICKY = [bytes([code]) for code in b"\r\n \t:\0\x0b;,0+-%#?\xff"] + [
    b"\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.0",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: evil\r\n",
]
edits = st.tuples(st.integers(0, 3000), st.integers(0, 3), st.sampled_from(TRICKY) | st.binary(max_size=2))


@bounded
@given(st.lists(requests(), min_size=1, max_size=2), st.lists(edits, min_size=1, max_size=3))
async def test_what_is_served_of_broken_requests_is_what_another_parser_reads(
    valid: list[bytes], changes: list[tuple[int, int, bytes]]
) -> None:
    data = b"".join(valid)
    for place, deleted, inserted in changes:
        at = place % (len(data) + 1)
        data = data[:at] + inserted + data[at + deleted :]
    await check_no_other_reading(data)


async def test_nothing_of_the_table_is_read_otherwise() -> None:
    for row in ROWS:
        await check_no_other_reading(row.data)


async def check_no_other_reading(data: bytes) -> None:
    ours, _ = await read_ours([data])
    theirs, stopped = read_h11(data)
    if stopped == "no request line received":  # an empty line before a request: h11 is stricter than RFC 9112, 2.2 asks
        del ours[len(theirs) :]
    assert ours == theirs[: len(ours)]


# --- anything ------------------------------------------------------------------------------------------------

pieces = st.lists(st.binary(max_size=40) | st.sampled_from([row.data[:200] for row in ROWS]) | requests(), max_size=8)


@bounded
@given(pieces)
@example([b"\r\n", b"\r\n"])
@example([b"GET / HTTP/1.1\r\n", b"", b"\r\n\r\n"])
async def test_random_bytes_never_crash(data: list[bytes]) -> None:
    ours, sent = await read_ours([piece for piece in data if piece])
    assert sent == b"" or sent.startswith(b"HTTP/1.1 ")
    assert sent.count(b"HTTP/1.1 200 OK\r\n") == len(ours)


@bounded
@given(bodies, st.lists(st.integers(0, 300), max_size=10), st.binary(max_size=5))
def test_a_chunked_body_takes_exactly_its_own_bytes(parts: list[bytes], places: list[int], behind: bytes) -> None:
    wire = b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    body = ChunkedBody(1000)
    taken = sum(body.feed(piece) for piece in cut(wire + behind, places))
    assert (body.done, body.take(), taken) == (True, b"".join(parts), len(wire))
