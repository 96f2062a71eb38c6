"""What stands behind a socket under fuzz: the listener, stdio's lines, arguments, the endpoint with all of it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Hashable, Sequence
from typing import Any

import jsonschema_rs
import msgspec

from tailrace.core.settings import Settings
from tailrace.schema import InvalidArguments
from tailrace.schema.arguments import arguments_of
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.transports.lines import Overlong, Splitter
from tailrace.wire import mcp
from tests.fuzz.engine import Target
from tests.fuzz.inputs import BODIES, JSON_TOKENS, corpus, pieces_of, read_json
from tests.protocols.mcp.malformed import ROWS
from tests.rigs.exchange import FakeExchange
from tests.transports.http.malformed import ROWS as HTTP_ROWS
from tests.transports.http.test_differential import Seen, read_h11, read_ours

__all__ = ["Arguments", "Endpoint", "Http", "Lines"]


# --- the listener ---------------------------------------------------------------------------------


class Http(Target):
    """Bytes on a connection: nothing crashes, cuts make no difference, and h11 reads what we serve as we do."""

    seeds: Sequence[bytes] = [
        *(row.data for row in HTTP_ROWS if len(row.data) < 1500),
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}" * 2,
        b"POST /a%20b?c HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
        b"GET http://localhost/x HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        *corpus("http"),
    ]
    tokens: Sequence[bytes] = [
        *(
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
            b"\0",
            b";",
            b",",
            b"%",
            b"\xff",
            b"0\r\n\r\n",
            b"Host: a\r\n",
        ),
        *(
            b"Content-Length: 1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"Expect: 100-continue\r\n",
        ),
        *(
            b"HTTP/1.1",
            b"HTTP/1.0",
            b"GET ",
            b"POST ",
            b"HEAD ",
            b"chunked",
            b"http://localhost",
            b"X: y\r\n",
            b"ffffffff",
        ),
    ]

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        self.loop.close()

    def run(self, data: bytes) -> Hashable:
        return self.loop.run_until_complete(self.read(data))

    async def read(self, data: bytes) -> Hashable:
        ours, sent = await read_ours([data] if data else [])
        cut, also = await read_ours(pieces_of(data) if data else [])
        assert cut == ours
        assert statuses(also) == statuses(sent)
        theirs, stopped = read_h11(data)
        mine: list[Seen] = ours
        if stopped == "no request line received":
            mine = ours[: len(theirs)]
        assert mine == theirs[: len(mine)], stopped
        assert not sent or sent.startswith(b"HTTP/1.1 ")
        return tuple(statuses(sent)), len(ours), stopped[:40]


def statuses(sent: bytes) -> list[str]:
    """Of the replies. Which of several faults is named may depend on the cuts, and interim ones do."""
    found = re.findall(rb"HTTP/1\.1 (\d\d\d) ", sent)
    return ["refused" if status >= b"400" else status.decode() for status in found if status != b"100"]


class Lines(Target):
    """stdio: how the bytes are cut makes no difference to the lines."""

    seeds: Sequence[bytes] = [b'{"a":1}\n\r\n \n{"b":2}', b"x" * 40 + b"\r\ny\n", b"\r\r\n" * 5, *corpus("lines")]
    tokens: Sequence[bytes] = [b"\n", b"\r\n", b"\r", b" ", b"x" * 31, b"x" * 32, b"x" * 33]

    def run(self, data: bytes) -> Hashable:
        whole, cut = Splitter(32), Splitter(32)
        lines = whole.feed(data) + whole.end()
        others = [line for piece in pieces_of(data) for line in cut.feed(piece)] + cut.end()
        assert lines == others
        kept = [line for line in lines if isinstance(line, bytes)]
        assert all(len(line) <= 32 and b"\n" not in line for line in kept)
        return len(kept), sum(isinstance(line, Overlong) for line in lines)


# --- arguments ------------------------------------------------------------------------------------


class Order(msgspec.Struct):
    item: str
    qty: int = 1
    tags: list[str] = []


async def takes(
    text: str,
    n: int,
    x: float = 0.0,
    on: bool = False,
    maybe: str | None = None,
    many: tuple[int, ...] = (),
    order: Order | None = None,
) -> None:
    """Only its hints are read."""


class Arguments(Target):
    """What the shown JSON Schema admits is decoded, and nothing else: checked by another validator of schemas."""

    seeds: Sequence[bytes] = [
        b'{"text":"a","n":1}',
        b'{"text":"a","n":-5,"x":1.5,"on":true,"maybe":null,"many":[1,2],"order":{"item":"tea","qty":2,"tags":["x"]}}',
        b'{"text":"a","n":1.0,"x":1}',
        b'{"text":"a","n":1e2,"order":null}',
        *corpus("arguments"),
    ]
    tokens: Sequence[bytes] = [
        *JSON_TOKENS,
        *(
            b'"text":',
            b'"n":',
            b'"x":',
            b'"on":',
            b'"maybe":',
            b'"many":',
            b'"order":',
            b'"item":',
            b'"qty":',
            b'"tags":',
        ),
    ]

    def __init__(self) -> None:
        self.arguments = arguments_of(takes)
        self.validator = jsonschema_rs.validator_for(self.arguments.schema)

    def run(self, data: bytes) -> Hashable:
        problem = ""
        try:
            kwargs: dict[str, Any] | None = self.arguments.decode(data)
        except InvalidArguments as error:
            kwargs, problem = None, error.message
        assert len(problem) < 1000
        known, value = read_json(data)
        if not known or not isinstance(value, dict) or _UNLIKE.search(data):
            return re.sub(r"[0-9]+|'.*?'", "#", problem)[:60], kwargs is None
        if not says_twice(data):
            assert self.validator.is_valid(value) == (kwargs is not None), problem or kwargs
        if kwargs is not None:
            assert all(kwargs[name] == given for name, given in value.items() if name not in ("order", "many", "x"))
        return re.sub(r"[0-9]+|'.*?'", "#", problem)[:60], kwargs is None


# To JSON Schema 1e2 is an integer, and so is 9071992547409931.0, which a float beyond 2**53 only comes near; not to us.
_UNLIKE = re.compile(rb"[0-9][eE][+-]?[0-9]|[0-9]{16,}\.")


def says_twice(data: bytes) -> bool:
    """Whether some object has a member twice: of those each has to fit, not only the one that counts."""
    twice = False

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        twice = twice or len({name for name, _ in found}) < len(found)
        return dict(found)

    json.loads(data, object_pairs_hook=pairs)
    return twice


# --- the endpoint -----------------------------------------------------------------------------------


class Endpoint(Target):
    """Any body, posted in each way: a clear refusal or an answer, no 500, nothing logged as an ERROR."""

    seeds: Sequence[bytes] = [
        *BODIES,
        *(body for row in ROWS for body in row.bodies.values() if len(body) < 2000),
        *corpus("endpoint"),
    ]
    tokens: Sequence[bytes] = [
        *JSON_TOKENS,
        *(
            b'"io.modelcontextprotocol/protocolVersion":"2026-07-28"',
            b'"io.modelcontextprotocol/clientCapabilities":{}',
        ),
        *(
            b'"notifications/cancelled"',
            b'"requestId":7',
            b'"initialize"',
            b'"protocolVersion":"2025-11-25"',
            b'"echo"',
        ),
    ]

    def __init__(self) -> None:
        from tests.protocols.mcp.test_malformed import make_service

        self.loop = asyncio.new_event_loop()
        self.server = Server(make_service(), Settings(drain=0.0, max_sessions=50), MemoryStore())
        self.loop.run_until_complete(self.server.start())
        self.errors: list[str] = []
        self.handler = logging.Handler(logging.ERROR)
        self.handler.emit = lambda record: self.errors.append(record.getMessage())
        logging.getLogger("tailrace").addHandler(self.handler)

    def close(self) -> None:
        logging.getLogger("tailrace").removeHandler(self.handler)
        self.loop.run_until_complete(self.server.stop())
        self.loop.close()

    def run(self, data: bytes) -> Hashable:
        return self.loop.run_until_complete(self.post(data))

    async def post(self, data: bytes) -> Hashable:
        outcome: list[Hashable] = []
        base = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]
        session = self.server.endpoint.home.new("streamable", "")
        session.record.version = "2025-03-26"
        method = re.search(rb'"method":"([a-zA-Z/]*)"', data)
        name = re.search(rb'"name":"([a-zA-Z]*)"', data)
        routing = [("mcp-protocol-version", mcp.MODERN_VERSIONS[0])]
        routing += [("mcp-method", method[1].decode())] if method else []
        routing += [("mcp-name", name[1].decode())] if name else []
        for headers in (base, [*base, ("mcp-session-id", session.id)], [*base, *routing]):
            exchange = FakeExchange("POST", "/mcp", data, headers)
            self.server.handle(exchange)
            status = await asyncio.wait_for(exchange.status_code(), 60)
            assert status in (200, 202, 400, 404, 415, 503), exchange.reply_body
            if exchange.reply_body:
                body = json.loads(exchange.reply_body)
                first = body[0] if isinstance(body, list) else body
                outcome.append(
                    (
                        status,
                        first.get("error", {}).get("code", "result"),
                        first.get("error", {}).get("message", "")[:50],
                    )
                )
            exchange.disconnect()
        await session.close("fuzzed")
        assert self.errors == []
        return tuple(outcome)
