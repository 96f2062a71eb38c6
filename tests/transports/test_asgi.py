"""ASGI: lifespan, mounting, bodies within their limits, and every way in which a peer may leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace import Service
from tailrace.core.exchange import Exchange, Sink
from tailrace.core.settings import Settings
from tailrace.errors import StoreError, TransportError
from tailrace.server import Server, asgi
from tailrace.stores.memory import MemoryStore
from tailrace.transports.asgi import AsgiApp, AsgiExchange
from tests.core.support import turns, virtual
from tests.rigs.asgi import Message, Request
from tests.rigs.exchange import call, initialize, modern_headers, modern_request, request
from tests.rigs.workshop import Workshop

JSON = ("content-type", "application/json")


@asynccontextmanager
async def running(service: Service | None = None, **settings: Any) -> AsyncIterator[AsgiApp]:
    app = AsgiApp(Server(service or Workshop().service, Settings(drain=0.0, **settings), MemoryStore()))
    try:
        yield app
    finally:
        await app.server.stop()


def post(app: AsgiApp, message: Any, *headers: tuple[str, str], **options: Any) -> Request:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return Request(app, "POST", "/mcp", [JSON, *headers], body, **options)


def post_modern(app: AsgiApp, tool: str, arguments: dict[str, Any], **meta: Any) -> Request:
    message = modern_request(1, "tools/call", {"name": tool, "arguments": arguments}, **meta)
    return Request(app, "POST", "/mcp", modern_headers(message).items(), json.dumps(message).encode())


async def session_of(app: AsgiApp) -> tuple[str, str]:
    """The header of a new session."""
    begun = post(app, initialize("2025-11-25"))
    await begun.whole()
    return ("mcp-session-id", begun.headers["mcp-session-id"])


# --- lifespan -------------------------------------------------------------------------------------


class Lifespan:
    """The ASGI server's side of the lifespan protocol."""

    def __init__(self, app: Any) -> None:
        self.sent: list[Message] = []
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._answered = asyncio.Event()
        self.task = asyncio.ensure_future(app({"type": "lifespan"}, self._asked.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        self._answered.set()

    async def ask(self, type: str) -> Message:
        self._answered.clear()
        self._asked.put_nowait({"type": type})
        await self._answered.wait()
        return self.sent[-1]


@virtual
async def test_lifespan_starts_and_stops_the_server() -> None:
    entered: list[str] = []
    service = Service("x")

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    app = asgi(service)
    lifespan = Lifespan(app)
    assert await lifespan.ask("lifespan.startup") == {"type": "lifespan.startup.complete"}
    assert (app.server.ready, entered) == (True, ["in"])
    assert await Request(app, "GET", "/readyz").whole() == b"ready\n"
    assert await lifespan.ask("lifespan.shutdown") == {"type": "lifespan.shutdown.complete"}
    assert (app.server.ready, entered) == (False, ["in", "out"])
    await lifespan.task


@pytest.mark.parametrize(
    "error", [StoreError("the store is damaged"), ValueError("no configuration"), OSError("no disk")]
)
def test_a_start_that_fails_is_told_to_the_asgi_server(error: Exception) -> None:
    """Raised, it would be taken for an application without lifespan, and the server would go on."""

    @virtual
    async def run() -> None:
        service = Service("x")

        @service.lifespan
        async def life(service: Service) -> AsyncIterator[None]:
            raise error
            yield

        lifespan = Lifespan(asgi(service))
        assert await lifespan.ask("lifespan.startup") == {"type": "lifespan.startup.failed", "message": str(error)}
        await lifespan.task

    run()


@virtual
async def test_a_stop_that_fails_is_told_to_the_asgi_server() -> None:
    service = Service("x")

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        yield
        raise KeyError

    lifespan = Lifespan(asgi(service))
    await lifespan.ask("lifespan.startup")
    assert await lifespan.ask("lifespan.shutdown") == {"type": "lifespan.shutdown.failed", "message": "KeyError"}
    await lifespan.task


@virtual
async def test_a_parent_application_may_enter_the_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    app = asgi(Service("x"))
    async with app.lifespan(None):
        assert app.server.ready
        assert await Request(app, "GET", "/readyz").whole() == b"ready\n"
    assert [record for record in caplog.records if record.name == "tailrace.asgi"] == []
    assert not app.server.ready


@virtual
async def test_without_a_lifespan_the_first_requests_start_the_server_once(caplog: pytest.LogCaptureFixture) -> None:
    starts: list[str] = []
    service = Service("x")

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        starts.append("start")
        await asyncio.sleep(1)
        yield

    async with running(service) as app:
        requests = [Request(app, "GET", "/readyz") for _ in range(5)]
        assert [await one.whole() for one in requests] == [b"ready\n"] * 5
        assert starts == ["start"]
        assert await Request(app, "GET", "/readyz").whole() == b"ready\n"
    (said,) = (record for record in caplog.records if record.name == "tailrace.asgi")
    assert said.levelname == "WARNING"
    assert "FastAPI(lifespan=app.lifespan)" in said.getMessage()


@virtual
async def test_a_start_whose_request_was_given_up_is_begun_again_by_the_next() -> None:
    starts: list[str] = []
    service = Service("x")

    @service.lifespan
    async def life(service: Service) -> AsyncIterator[None]:
        starts.append("start")
        await asyncio.sleep(1)
        yield

    async with running(service) as app:
        first, second = Request(app, "GET", "/readyz"), Request(app, "GET", "/readyz")
        await turns()
        first.gone = True
        first.task.cancel()
        assert await second.whole() == b"ready\n"
        assert starts == ["start", "start"]


# --- scopes ---------------------------------------------------------------------------------------


async def test_websockets_are_refused() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with running() as app:
        await app({"type": "websocket", "path": "/mcp"}, asyncio.Queue[Message]().get, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_other_scopes_are_an_error() -> None:
    async with running() as app:
        with pytest.raises(TransportError, match=r"'carrier-pigeon' is not served"):
            await app({"type": "carrier-pigeon"}, None, None)  # type: ignore[arg-type]


def scope(**changed: Any) -> Message:
    return {
        "type": "http",
        "method": "GET",
        "path": "/sse",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "server": ("127.0.0.1", 80),
    } | changed


@pytest.mark.parametrize(
    ("root_path", "path", "seen"),
    [
        ("", "/sse", "/sse"),
        ("/api", "/api/sse", "/sse"),
        ("/api", "/sse", "/sse"),
        ("/api", "/api", "/"),
        ("/a/b", "/a/b/mcp", "/mcp"),
    ],
)
def test_a_mount_is_taken_off_the_path_and_kept_as_prefix(root_path: str, path: str, seen: str) -> None:
    exchange = AsgiExchange(scope(root_path=root_path, path=path))
    assert (exchange.path, exchange.prefix) == (seen, root_path)


@pytest.mark.parametrize(
    ("server", "loopback"),
    [
        (("127.0.0.1", 80), True),
        (("::1", 80), True),
        (("::ffff:127.0.0.1", 80), True),
        (("localhost", 80), True),
        (("/run/tailrace.sock", None), True),
        (None, True),
        (("0.0.0.0", 80), False),
        (("10.0.0.7", 80), False),
        (("127.example", 80), False),
    ],
)
def test_where_a_request_arrived(server: Any, loopback: bool) -> None:
    assert AsgiExchange(scope(server=server)).loopback is loopback


def test_headers_are_had_one_by_one_and_all_together() -> None:
    exchange = AsgiExchange(scope(headers=[(b"accept", b"a"), (b"x", b"\xe9"), (b"accept", b"b")]))
    assert exchange.header(b"accept") == "a"
    assert exchange.header_values(b"accept") == ["a", "b"]
    assert exchange.header(b"x") == "é"
    assert exchange.header(b"y") is None


def test_blanks_around_a_header_are_no_part_of_it() -> None:
    exchange = AsgiExchange(scope(headers=[(b"x", b" \ta b\t ")]))
    assert exchange.header(b"x") == "a b"
    assert exchange.header_values(b"x") == ["a b"]
    assert (b"x", "a b") in exchange.fields()


@virtual
async def test_the_endpoint_event_names_the_mount() -> None:
    async with running() as app:
        stream = Request(app, "GET", "/tools/sse", [("accept", "text/event-stream")])
        stream.scope["root_path"] = "/tools"
        await stream.contains(b"\n\n")
        assert b"data: /tools/messages/?session_id=" in stream.received
        stream.disconnect()


async def test_who_asks_at_the_wrong_place_of_a_mount_is_told_the_right_one() -> None:
    async with running() as app:
        lost = Request(app, "GET", "/tools/")
        lost.scope["root_path"] = "/tools"
        assert "MCP is at /tools/mcp" in (await lost.json())["error"]["message"]


async def test_a_mount_in_starlette_serves_its_test_client_unconfigured() -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    async with running() as app:
        parent = Starlette(routes=[Mount("/tools", app)])
        begun = Request(parent, "POST", "/tools/mcp", [JSON], json.dumps(initialize("2025-11-25")).encode())
        begun.scope["server"] = ("testserver", 80)
        begun.scope["headers"][0] = (b"host", b"testserver")
        assert (await begun.json())["result"]["protocolVersion"] == "2025-11-25"


# --- bodies ---------------------------------------------------------------------------------------


class Upload(Request):
    """A request whose body comes in parts, as they are put; after the last one nothing comes."""

    def __init__(self, app: AsgiApp, *parts: bytes, complete: bool) -> None:
        super().__init__(app, "POST", "/mcp", [JSON], parts[0] if parts else b"", parts=True)
        for part in [*parts[1:], None][: None if complete else -1]:
            self.feed(part)


@virtual
async def test_a_body_may_come_in_parts() -> None:
    body = json.dumps(initialize("2025-11-25")).encode()
    async with running() as app:
        upload = Upload(app, body[:10], b"", body[10:], b"", complete=True)
        assert (await upload.json())["result"]["protocolVersion"] == "2025-11-25"


@virtual
async def test_a_body_over_the_limit_is_413_as_soon_as_it_is() -> None:
    async with running(max_body=1000) as app:
        upload = Upload(app, b"x" * 600, b"x" * 600, complete=False)
        assert await upload.head() == 413
        assert "1000 bytes" in (await upload.json())["error"]["message"]
        assert await Upload(app, b"{" + b" " * 999, complete=True).head() == 400, "exactly at the limit it is read"


@virtual
async def test_a_body_that_does_not_come_in_time_is_408() -> None:
    async with running(body_time=30) as app:
        upload = Upload(app, b"{", complete=False)
        await asyncio.sleep(29)
        assert not upload.task.done()
        await asyncio.sleep(2)
        assert await upload.head() == 408
        assert "30 s" in (await upload.json())["error"]["message"]


@virtual
async def test_a_peer_that_leaves_while_it_sends_its_body_is_not_served() -> None:
    shop = Workshop()
    async with running(shop.service) as app:
        await app.server.start()
        upload = Upload(app, b'{"jsonrpc"', complete=False)
        await turns()
        upload.disconnect()
        await upload.task
        assert upload.status == 0
        assert not app.server.endpoint.sessions


# --- leaving --------------------------------------------------------------------------------------


@virtual
async def test_a_disconnect_while_a_call_is_held_reaches_the_call() -> None:
    shop = Workshop()
    async with running(shop.service) as app:
        request = post_modern(app, "work", {"key": "a"})
        await turns()
        assert shop.seen == ["begin a"]
        request.disconnect()
        await request.task
        await turns()
        assert shop.seen == ["begin a", "cancelled a"]


@virtual
async def test_a_request_that_the_asgi_server_gives_up_counts_as_left() -> None:
    """Some servers and middleware cancel the application instead of telling it of the disconnect."""
    shop = Workshop()
    async with running(shop.service) as app:
        modern = post_modern(app, "work", {"key": "a"})
        legacy = post(app, call(1, "work", {"key": "b"}), await session_of(app))
        await turns()
        for request in (modern, legacy):
            request.gone = True
            request.task.cancel()
        await asyncio.wait([modern.task, legacy.task])
        await turns()
        assert "cancelled a" in shop.seen
        shop.open("b")
        await turns()
        assert shop.seen[-1] == "end b", "no disconnect cancels a call of these versions"
        (session,) = app.server.endpoint.sessions.by_id.values()
        assert len(session.finished) == 1, "and its answer is kept"


@virtual
async def test_a_client_that_takes_nothing_for_the_stall_limit_is_cut_off() -> None:
    shop = Workshop()
    async with running(shop.service, stall=30) as app:
        header = await session_of(app)
        stalled = Request(app, "GET", "/mcp", [("accept", "text/event-stream"), header], flows=False)
        await asyncio.sleep(29)
        assert not stalled.task.done()
        stalled.gone = True
        await asyncio.sleep(2)
        assert stalled.task.done()
        assert stalled.task.exception() is None
        (session,) = app.server.endpoint.sessions.by_id.values()
        assert session.log.reader is None, "nobody waits for it"
        assert session.lifecycle.name == "OPEN"


@virtual
async def test_the_transport_of_a_stalled_client_is_aborted_where_it_can_be_reached() -> None:
    """Its buffer would keep the connection open for ever."""
    aborted: list[bool] = []

    class Transport(asyncio.Transport):
        def abort(self) -> None:
            aborted.append(True)

    class Cycle:
        """uvicorn's: `send` is a method of what holds the transport."""

        transport = Transport()

        async def send(self, message: Message) -> None:
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.sleep(0 if not received else 1000)
        received.append(1)
        return {"type": "http.request", "body": b""}

    received: list[int] = []
    async with running(stall=30) as app:
        headers = [(b"host", b"localhost")]
        await app(scope(path="/healthz", headers=headers), receive, Cycle().send)
        assert aborted == [True]


@virtual
async def test_a_reply_to_a_broken_connection_is_given_up_quietly() -> None:
    async with running() as app:
        whole = Request(app, "GET", "/healthz", raises=True)
        whole.gone = True
        await whole.task
        stream = Request(app, "GET", "/sse", [("accept", "text/event-stream")], raises=True)
        await stream.contains(b"\n\n")
        stream.gone = True  # the server does not say so: the next write finds out
        (session,) = app.server.endpoint.sessions.by_id.values()
        session.notify("notifications/tools/list_changed")
        await stream.task
        assert session.log.reader is None


def test_one_exchange_has_one_reply() -> None:
    exchange = AsgiExchange(scope())
    exchange.respond(200, (), b"one")
    with pytest.raises(RuntimeError, match="has its reply already"):
        exchange.respond(200, (), b"two")
    gone = AsgiExchange(scope())
    gone.leave()
    gone.respond(200, (), b"one")
    gone.respond(200, (), b"two")
    assert not gone.replied


def test_leaving_is_told_once() -> None:
    exchange, told = AsgiExchange(scope()), []
    exchange.on_gone = lambda: told.append(1)
    exchange.leave()
    exchange.leave()
    assert told == [1]


async def test_whole_replies_say_how_long_they_are() -> None:
    async with running() as app:
        health = Request(app, "GET", "/healthz")
        assert await health.whole() == b"ok\n"
        assert health.headers["content-length"] == "3"
        header = await session_of(app)
        pong = post(app, request(1, "ping"), header)
        assert len(await pong.whole()) == int(pong.headers["content-length"])


# --- bodies that are read as they come ------------------------------------------------------------


class Streaming(Server):
    """Reads every body as it comes."""

    async def start(self) -> None:
        await super().start()
        self.streams, self.handle = lambda exchange: True, self.echo

    def echo(self, exchange: Exchange) -> None:
        self.seen = exchange
        source = exchange.source
        assert source is not None

        async def echo(sink: Sink) -> None:
            while data := await source.read():
                await sink.write(data)
            await sink.end([(b"grpc-status", b"0")])

        if exchange.path == "/echo":
            exchange.stream(200, (), echo)
        elif exchange.path == "/first":
            exchange.stream(200, (), echo, b"first ")
        elif exchange.path == "/whole":
            exchange.respond(200, (), b"all", [(b"grpc-status", b"0")])


@asynccontextmanager
async def streaming(**settings: Any) -> AsyncIterator[tuple[AsgiApp, Streaming]]:
    server = Streaming(Service("streams"), Settings(drain=0.0, **settings), MemoryStore())
    try:
        yield AsgiApp(server), server
    finally:
        await server.stop()


@virtual
async def test_a_body_is_read_while_the_reply_is_written() -> None:
    async with streaming() as (app, server):
        echo = Request(app, "POST", "/echo", parts=True, version="2", trailers=True)
        assert await echo.head() == 200
        echo.feed(b"one")
        assert await echo.contains(b"one")
        echo.feed(b"two")
        assert await echo.contains(b"two")
        echo.feed(None)
        assert await echo.whole() == b"onetwo"
        assert echo.trailers == {"grpc-status": "0"}
        assert (server.seen.version, server.seen.trailers) == ("2", True)


@virtual
async def test_the_first_of_a_stream_follows_its_head() -> None:
    async with streaming() as (app, _):
        asked = Request(app, "POST", "/first", body=b"and more")
        assert await asked.whole() == b"first and more"


@virtual
async def test_trailers_need_the_server_the_version_and_the_clients_word() -> None:
    async with streaming() as (app, server):
        for version, extension, takes, expected in [
            ("2", True, False, True),
            ("2", False, True, False),
            ("1.1", True, True, True),
            ("1.1", True, False, False),
        ]:
            headers = [("te", "trailers")] if takes else []
            for path in ("/whole", "/echo"):
                asked = Request(app, "POST", path, headers, version=version, trailers=extension)
                assert await asked.whole() == (b"all" if path == "/whole" else b"")
                assert (asked.trailers == {"grpc-status": "0"}, server.seen.trailers) == (expected, expected)
                assert ("content-length" in asked.headers) is (path == "/whole" and not expected)


@virtual
async def test_a_body_that_nobody_reads_is_not_asked_for() -> None:
    async with streaming(look_ahead=1000) as (app, server):
        held = Request(app, "POST", "/held", parts=True)
        for _ in range(100):
            held.feed(b"x" * 100)
        held.feed(None)
        await turns(300)
        assert held.asked == 12  # the first was empty
        source = server.seen.source
        assert source is not None
        taken = 0
        while data := await source.read():
            taken += len(data)
        assert taken == 10_000
        server.seen.respond(200, (), b"done")
        assert await held.whole() == b"done"


@virtual
async def test_a_client_that_leaves_breaks_its_body_off() -> None:
    async with streaming() as (app, server):
        held = Request(app, "POST", "/held", parts=True)
        await turns(5)
        source = server.seen.source
        assert source is not None
        reading = asyncio.ensure_future(source.read())
        await turns(2)
        held.disconnect()
        with pytest.raises(TransportError):
            await reading
        await held.task
        assert server.seen.gone
