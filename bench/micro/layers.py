"""The layers of one call, each as something that can be repeated, with the time it may take.

A layer prepares itself on the running loop and returns a function that does its work `n` times, as coroutine where
the work needs the loop. The budgets are those the design began with; together they are a call of 22 µs over HTTP.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from jh2.hpack.hpack import Encoder
from msgspec import Raw

from bench.peers.tailrace_server import echo, structured, svc
from tailrace.core.call import Call
from tailrace.core.exchange import Exchange, Headers, StreamWriter
from tailrace.core.log import Log
from tailrace.core.ports import Kind
from tailrace.core.settings import Settings
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.protocols.mcp.framing import SseFraming
from tailrace.schema.arguments import arguments_of
from tailrace.schema.results import result_of
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.transports.http.h1 import H1Connection
from tailrace.transports.http.h2 import H2Connection
from tailrace.transports.http.listener import Listener
from tailrace.wire import jsonrpc, mcp
from tailrace.wire.content import Text
from tailrace.wire.h2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
    window_update,
)

__all__ = ["LAYERS", "Layer", "Repeated"]

Repeated = Callable[[int], Awaitable[None] | None]

_FLIGHT = 8  # calls at a time, as of eight clients
_ECHO = b'{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"echo","arguments":{"text":"said by 3, 17"}}}'
_LINES = [
    {
        "sku": f"SKU-{n:05}",
        "name": f"tea of the sort number {n}",
        "qty": n,
        "price": n + 0.25,
        "tags": ["green", "loose"],
    }
    for n in range(48)
]
_ORDER = {"order": {"id": "order-1", "customer": "a customer of ours", "lines": _LINES}}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Args:
        name: What is repeated.
        budget: Microseconds it may take; None where none was set.
        prepare: Gives the work.
    """

    name: str
    budget: float | None
    prepare: Callable[[], Awaitable[Repeated]]


# --- wire and schema ------------------------------------------------------------------------------


async def _parse() -> Repeated:
    def work(n: int) -> None:
        for _ in range(n):
            message = jsonrpc.parse(_ECHO)
            mcp.decode_params("tools/call", bytes(cast("jsonrpc.Request", message).params))

    return work


async def _decode_small() -> Repeated:
    return _decoding(echo, b'{"text":"said by 3, 17"}')


async def _decode_large() -> Repeated:
    return _decoding(structured, json.dumps(_ORDER, separators=(",", ":")).encode())


def _decoding(tool: Callable[..., Any], text: bytes) -> Repeated:
    arguments, raw = arguments_of(tool), Raw(text)

    def work(n: int) -> None:
        for _ in range(n):
            arguments.decode(raw)

    return work


async def _encode() -> Repeated:
    result = result_of(echo)

    def work(n: int) -> None:
        for _ in range(n):
            encoded = Raw(result.encode("said by 3, 17"))
            answer = mcp.ToolResult([Text("said by 3, 17")], encoded, False)
            jsonrpc.encode_result(17, mcp.encode(answer))

    return work


# --- core -----------------------------------------------------------------------------------------


class _Counting:
    """A reply that only counts."""

    def __init__(self) -> None:
        self.answers = 0
        self.all = asyncio.Event()
        self.expected = 0

    def notify(self, call: Call, payload: bytes) -> None: ...

    def answer(self, call: Call, payload: bytes | None) -> None:
        self.answers += 1
        if self.answers >= self.expected:
            self.all.set()

    async def room(self) -> None: ...


class _Nothing(Call):
    """A call that does nothing, so that only its life is measured."""

    __slots__ = ()

    async def run(self) -> bytes | None:
        return b"{}"

    def aborted(self, error: Exception) -> bytes | None:
        return None

    def progress(self, done: float, total: float | None, message: str | None) -> None: ...

    def log(self, level: str, data: Any, logger: str | None) -> None: ...


async def _life_of_a_call() -> Repeated:
    tasks, reply = Tasks(Threads(size=1)), _Counting()

    async def work(n: int) -> None:
        for first in range(0, n, _FLIGHT):
            reply.all.clear()
            reply.expected = reply.answers + _FLIGHT
            for number in range(first, first + _FLIGHT):
                call = _Nothing(number, number, number, None, tasks, reply)
                tasks.admit(call)
                call.start()
            await reply.all.wait()

    return work


async def _log() -> Repeated:
    async def work(n: int) -> None:
        log = Log()
        cursor = log.attach(0)
        for first in range(0, n, 64):
            for _ in range(first, min(first + 64, n)):
                log.append(_ECHO, Kind.NOTIFICATION)
            cursor.take()

    return work


async def _frame() -> Repeated:
    framing = SseFraming(b"A" * 44)

    def work(n: int) -> None:
        for first in range(0, n, 64):
            framing.frames([(seq, _ECHO) for seq in range(first, min(first + 64, n))])

    return work


# --- transport, and all but the transport ---------------------------------------------------------


class _Request(Exchange):
    """A request made by hand that tells a counter of its reply."""

    def __init__(
        self,
        method: str,
        body: bytes,
        headers: dict[bytes, str],
        verdicts: dict[str, Any],
        replied: Callable[[Headers], None],
    ) -> None:
        super().__init__(method, "/mcp", b"", verdicts=verdicts)
        self.body = body
        self._headers = headers
        self._replied = replied

    def header(self, name: bytes) -> str | None:
        return self._headers.get(name)

    def header_values(self, name: bytes) -> list[str]:
        return [self._headers[name]] if name in self._headers else []

    def fields(self) -> list[tuple[bytes, str]]:
        return list(self._headers.items())

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        if status != 200 or body[-1:] != b"}" or body.startswith(b'{"jsonrpc":"2.0","id":17,"error"'):
            raise AssertionError(f"refused: {status} {body!r}")
        self.replied = True
        self._replied(headers)

    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        raise AssertionError("nothing here is slow enough to become a stream")


async def _all_but_the_transport() -> Repeated:
    server = Server(svc, Settings(hold=60.0), MemoryStore())  # on a busy machine 50 ms can pass between two calls
    await server.start()
    common = {b"host": "127.0.0.1:8000", b"accept": "application/json, text/event-stream",
              b"content-type": "application/json", b"mcp-protocol-version": "2025-11-25"}  # fmt: skip
    common[b"mcp-session-id"] = await _open_session(server, common)
    expected, arrived = 0, asyncio.Event()
    verdicts: dict[str, Any] = {}  # the transport knows the head

    def replied(_: Headers) -> None:
        nonlocal expected
        expected -= 1
        if not expected:
            arrived.set()

    async def work(n: int) -> None:
        nonlocal expected
        for _ in range(0, n, _FLIGHT):
            expected = _FLIGHT
            arrived.clear()
            for _ in range(_FLIGHT):
                server.handle(_Request("POST", _ECHO, common, verdicts, replied))
            await arrived.wait()

    return work


async def _open_session(server: Server, headers: dict[bytes, str]) -> str:
    greeted: asyncio.Future[Headers] = asyncio.get_running_loop().create_future()
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": client}
    server.handle(_Request("POST", json.dumps(message).encode(), headers, {}, greeted.set_result))
    return dict(await greeted)[b"mcp-session-id"].decode()


class _Transport(asyncio.Transport):
    """Takes everything, keeps nothing."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 8000)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class _Replying:
    """What a listener serves: a fixed reply to everything."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.replies = 0

    def streams(self, exchange: Exchange) -> bool:
        return False

    def handle(self, exchange: Exchange) -> None:
        self.replies += 1
        exchange.respond(200, ((b"content-type", b"application/json"),), _ECHO)

    def refuse(self, exchange: Exchange, status: int, message: str) -> None:
        raise AssertionError(f"refused: {status} {message}")


async def _one_post_known() -> Repeated:
    return _posting(1)


async def _one_post_new() -> Repeated:
    return _posting(100_000)


def _posting(heads: int) -> Repeated:
    """Requests with this many different heads."""
    served = _Replying()
    connection = H1Connection(Listener(served, []))
    connection.connection_made(_Transport())
    requests = [
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
        b"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\n"
        b"Mcp-Session-Id: %032d\r\nContent-Length: %d\r\n\r\n%b" % (number, len(_ECHO), _ECHO)
        for number in range(min(heads, 20_000))
    ]
    done = 0

    def work(n: int) -> None:
        nonlocal done
        before = served.replies
        for at in range(done, done + n):
            connection.data_received(requests[at % len(requests)])
        done += n
        if served.replies != before + n:
            raise AssertionError(f"{served.replies - before} replies to {n} requests")

    return work


async def _one_unary() -> Repeated:
    return _unary(1, timeout=False)


async def _one_unary_with_a_timeout() -> Repeated:
    return _unary(1, timeout=True)


async def _many_unary() -> Repeated:
    return _unary(32, timeout=False)


class _ReplyingWithTrailers(_Replying):
    """The same with trailers, as gRPC has them."""

    def handle(self, exchange: Exchange) -> None:
        self.replies += 1
        exchange.respond(200, ((b"content-type", b"application/grpc"),), _MESSAGE, ((b"grpc-status", b"0"),))


_MESSAGE = b"\0\0\0\0\x20" + b"m" * 32


def _unary(together: int, *, timeout: bool) -> Repeated:
    """gRPC's requests, so many in one read; with `timeout`, each has a field that no other has."""
    served = _ReplyingWithTrailers()
    most = 16_384  # on one connection; then there is another
    reads: list[bytes] = []
    encoder = Encoder()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/orders.v1.Orders/Place"),
              (b":authority", b"127.0.0.1:8000"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
              (b"user-agent", b"grpc-python-asyncio/1.85.1")]  # fmt: skip
    for first in range(0, most, together):
        parts: list[bytes] = []
        for number in range(first, first + together):
            own = [(b"grpc-timeout", b"%dm" % (5000 + number % 997))] if timeout else []
            block = encoder.encode([*fields, *own])
            parts.append(frame(HEADERS, END_HEADERS, 2 * number + 1, block))
            parts.append(frame(DATA, END_STREAM, 2 * number + 1, _MESSAGE))
        reads.append(b"".join(parts))
    connection = H2Connection(Listener(served, []))
    done = len(reads)

    async def work(n: int) -> None:
        nonlocal connection, done
        before, rounds = served.replies, -(-n // together)
        for _ in range(rounds):
            if done == len(reads):
                connection = H2Connection(Listener(served, []))
                connection.connection_made(_Transport())
                connection.data_received(PREFACE + frame(SETTINGS, 0, 0) + window_update(0, 2**30))
                done = 0
            connection.data_received(reads[done])
            await asyncio.sleep(0)
            done += 1
        if served.replies != before + rounds * together:
            raise AssertionError(f"{served.replies - before} replies to {n} requests")

    return work


LAYERS = (
    Layer("HTTP/2: a gRPC request in, its reply and trailers out", 11.5, _one_unary),
    Layer("HTTP/2: the same with a timeout of its own", None, _one_unary_with_a_timeout),
    Layer("HTTP/2: the same as the first, 32 in one read", None, _many_unary),
    Layer("HTTP/1.1: one POST in, its reply out, a head that came before", 2.7, _one_post_known),
    Layer("HTTP/1.1: the same, a head that is new", None, _one_post_new),
    Layer("wire: parse the envelope and the params of a call", None, _parse),
    Layer("schema: decode small arguments", None, _decode_small),
    Layer("schema: decode 5 kB of typed arguments", None, _decode_large),
    Layer("core: accept, context, task, finish", 6.5, _life_of_a_call),
    Layer("wire: encode the answer", 0.7, _encode),
    Layer("core: log, append and take one event", None, _log),
    Layer("wire: frame one event for SSE", None, _frame),
    Layer("all of an echo call but the transport", 12.9, _all_but_the_transport),
)
