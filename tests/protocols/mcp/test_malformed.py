"""The table of malformed requests over every HTTP transport: status and code are right, the next call is served.

Each row is sent by every way in that it names, to our listener, to uvicorn, and to the application mounted in FastAPI.
Nothing of it may be logged as an ERROR, show a traceback, or give much of the client's text back to it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest

from tailrace import Service
from tests.protocols.mcp.malformed import ROWS
from tests.protocols.mcp.malformed.row import BOTH, LEGACY, MODERN, NOBODY, SSE, Answer, Row, legacy_request
from tests.protocols.mcp.malformed.row import modern_request as modern
from tests.rigs.hosted import SERVERS, Hosted, Reply, Wire, hosted

ECHO = b'"name":"echo","arguments":{"text":"good"}'
ROUTED = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}


def header(name: str) -> Any:
    return msgspec.Meta(extra_json_schema={"x-mcp-header": name})


def make_service() -> Service:
    service = Service("malformed")

    @service.tool
    async def echo(text: str) -> str:
        return text

    @service.tool
    async def count(n: int) -> int:
        return n

    @service.tool
    async def routed(
        region: Annotated[str, header("Region")] = "eu",
        size: Annotated[int, header("Size")] = 1,
        dry: Annotated[bool, header("Dry")] = False,
    ) -> str:
        return "routed"

    return service


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    with hosted(request.param, make_service()) as served:
        yield served


def test_the_table_is_as_long_as_promised_and_says_nothing_twice() -> None:
    assert len(ROWS) >= 290
    assert len({row.said for row in ROWS}) == len(ROWS)
    assert len({row.kind for row in ROWS}) >= 25
    everywhere = {way for row in ROWS for way in row.answers}
    assert everywhere == {*LEGACY, MODERN, SSE, NOBODY}


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.kind}-{number}" for number, row in enumerate(ROWS)])
def test_a_malformed_request_is_answered_and_the_next_good_one_served(
    server: Hosted, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    for way, answer in row.answers.items():
        with Client(server, way, fresh=row.fresh) as client:
            reply = client.send(row)
            client.check(reply, answer)
            client.check_good()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


class Client:
    """Speaks one way, in a session of its own where there is one."""

    def __init__(self, server: Hosted, way: str, *, fresh: bool) -> None:
        self.server = server
        self.way = way
        self.wire = Wire(server)
        self.stream = Wire(server)
        self.session = ""
        self.path = "/mcp"
        self.headers = {"Accept": BOTH, "Content-Type": "application/json"}
        if way in LEGACY:
            self.initialize()
        elif way == SSE:
            self.open_stream(fresh=fresh)
        elif way == MODERN:
            self.headers |= ROUTED

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.wire.close()
        self.stream.close()

    # --- what it sends ---

    def send(self, row: Row) -> Reply:
        """The row's request."""
        body = row.body_of(self.way)
        if body is None and row.method == "POST":
            body = self.good()
        headers: list[tuple[str, str]] = []
        for name, value in {**self.headers, **row.headers}.items():
            lines = (value,) if isinstance(value, str) else value or ()
            headers += [(name, self.filled(line)) for line in lines]
        path = self.filled(self.path if row.path is None else row.path)
        return self.wire.ask(row.method, path, headers, body)

    def good(self) -> bytes:
        """What this way takes."""
        return modern("tools/call", ECHO) if self.way in (MODERN, NOBODY) else legacy_request("tools/call", ECHO)

    def filled(self, text: str) -> str:
        """The text with what is known only now."""
        for name in ("session", "ended", "other", "event"):
            if f"{{{name}}}" in text:
                text = text.replace(f"{{{name}}}", getattr(self, f"find_{name}")())
        return text

    def find_session(self) -> str:
        return self.session

    def find_ended(self) -> str:
        """A session of the same kind that was ended."""
        with Client(self.server, self.way, fresh=False) as client:
            self.server.ask(lambda server: server.endpoint.sessions.by_id[client.session].close("ended"))
            return client.session

    def find_other(self) -> str:
        """A session that lives, on another transport."""
        with Client(self.server, SSE if self.way != SSE else LEGACY[-1], fresh=False) as client:
            return client.session

    def find_event(self) -> str:
        """An event id of its own stream."""

        def sealed(server: Any) -> str:
            session = server.endpoint.sessions.by_id[self.session]
            return server.endpoint.streams.framing(session, 0).event_id(0).decode()

        return self.server.ask(sealed)

    # --- what it expects ---

    def check(self, reply: Reply, answer: Answer) -> None:
        """The status, the code, and that the text is short, no traceback, and under the request's id or none."""
        status, code = answer
        assert reply.status == status, (self.way, reply.body[:500])
        assert len(reply.body) < 2500
        assert b"Traceback" not in reply.body
        assert b".py" not in reply.body
        if status == 503:
            assert "retry-after" in reply.headers
        if status == 405:
            assert reply.headers["allow"]
        if status == 202 and code is not None:
            body: Any = json.loads(self.stream.next().data)
        elif status == 202:
            return
        else:
            assert reply.headers["content-type"] == "application/json"
            body = reply.json()
        for message in body if isinstance(body, list) else [body]:
            assert message["jsonrpc"] == "2.0"
            assert message["id"] in (7, None)
            if code == "isError":
                assert message["result"]["isError"] is True
            elif code is None:
                assert "result" in message
            else:
                assert message["error"]["code"] == code, message
                assert message["error"]["message"]

    def check_good(self) -> None:
        """The next good call, on the same connection where that still stands, is answered, and nothing came before."""
        if self.way == NOBODY:
            self.headers |= ROUTED
        elif self.way == SSE and not self.initialized:
            self.greet_on_stream()
        reply = self.wire.ask("POST", self.path, self.headers.items(), self.good())
        if self.way == SSE:
            assert reply.status == 202, reply.body
            answer = json.loads(self.stream.next().data)
        else:
            assert reply.status == 200, reply.body
            answer = reply.json()
        assert answer["id"] == 7
        assert answer["result"]["content"] == [{"type": "text", "text": "good"}]

    # --- sessions ---

    def initialize(self) -> None:
        greeting = legacy_request("initialize", b'"protocolVersion":"%b"' % self.way.encode())
        reply = self.wire.ask("POST", "/mcp", self.headers.items(), greeting)
        assert reply.json()["result"]["protocolVersion"] == self.way
        self.session = self.headers["Mcp-Session-Id"] = reply.headers["mcp-session-id"]
        if self.way >= "2025-06-18":
            self.headers["MCP-Protocol-Version"] = self.way

    def open_stream(self, *, fresh: bool) -> None:
        self.stream.open("/sse", [("Accept", "text/event-stream")])
        self.path = self.stream.next().data.removeprefix(self.server.prefix)
        self.session = self.path.partition("session_id=")[2]
        self.initialized = False
        if not fresh:
            self.greet_on_stream()

    def greet_on_stream(self) -> None:
        greeting = legacy_request("initialize", b'"protocolVersion":"2024-11-05"')
        assert self.wire.ask("POST", self.path, self.headers.items(), greeting).status == 202
        assert "result" in json.loads(self.stream.next().data)
        self.initialized = True
