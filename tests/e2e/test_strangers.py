"""What a stranger gets out of a server that is up: refusals on every path, and a log that says nothing it should not.

One real process a server, with tokens; the log is read from its stderr, at its most talkative.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import FIXTURES
from tests.rigs.rawmcp import Streamable, call, exchange, initialize, modern_call, modern_headers, notification
from tests.rigs.server import ServerProcess, running, stop_async, tailrace_command

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.parametrize("server", ["listener", "uvicorn"], indirect=True),
]

PATHS = ("/mcp", "/mcp/", "/sse", "/messages/", "/healthz", "/readyz", "/", "/nothing", "/.well-known/x")
METHODS = ("GET", "POST", "DELETE", "OPTIONS")
MINE, YOURS, OTHER = (secrets.token_urlsafe(24) for _ in range(3))
BOTH = ("Accept", "application/json, text/event-stream")
JSON = ("Content-Type", "application/json")


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


class Mine(Streamable):
    """A client of one session that shows its token."""

    token = MINE

    def headers(self) -> list[tuple[str, str]]:
        return [*super().headers(), bearer(self.token)]


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    flags = ["--server", request.param, "--log-level", "debug", "--auth-token", MINE, "--auth-token", YOURS]
    command = tailrace_command(FIXTURES / "sealed.py", *flags)
    with running(command, tmp_path / "stderr") as process:
        yield process


async def test_a_page_of_another_site_gets_nowhere(server: ServerProcess) -> None:
    """Whatever the path, the method and the token."""
    for path in PATHS:
        for method in METHODS:
            for token in (MINE, OTHER):
                url = server.url + path
                rebound = await exchange(url, method, [("Host", "evil.example"), bearer(token)])
                crossed = await exchange(url, method, [("Origin", "http://evil.example"), bearer(token)])
                assert (rebound.head.status, crossed.head.status) == (421, 403), (method, path)
                for reply in (rebound, crossed):
                    assert reply.head.get("access-control-allow-origin") is None
                    assert reply.head.get("mcp-session-id") is None
                    reply.close()
    assert await stop_async(server) == 0
    assert [*server.records("WARNING"), *server.records("ERROR")] == []


async def test_nobody_gets_at_what_is_anothers(server: ServerProcess) -> None:
    mine = await Mine(server.url).open()
    listening = await mine.get()
    priming = await listening.stream.next()
    assert priming is not None
    assert priming.id is not None
    yours = Mine(server.url)
    yours.token, yours.session_id = YOURS, mine.session_id
    assert (await yours.post(call(1, "echo", {"text": "a"}))).head.status == 404
    assert (await yours.get()).head.status == 404
    assert await yours.delete() == 404
    own = Mine(server.url)
    own.token = YOURS
    await own.open()
    assert (await own.get(priming.id)).head.status == 404, "an event id is whose it was given to"
    cancelling = await own.post(notification("notifications/cancelled", {"requestId": 1}))
    assert cancelling.head.status == 202
    assert "result" in await mine.call(1, "echo", {"text": "still mine"})
    listening.close()


async def test_what_is_in_the_log_after_all_that(server: ServerProcess) -> None:
    """No session id, no event id, no token, no traceback for a client's fault, and little of any client's text."""
    mine = await Mine(server.url).open()
    listening = await mine.get()
    priming = await listening.stream.next()
    assert priming is not None
    long = "x" * 100_000
    bad = [
        b"{" + long.encode(),
        b"[" * 100_000,
        b"\xff",
        json.dumps(call(1, long, {})).encode(),
        json.dumps(call(long, "echo", {})).encode(),
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": long}).encode(),
        json.dumps(call(1, "echo", {long: 1})).encode(),
        json.dumps(call(1, "echo", {"text": 5})).encode(),
    ]
    for body in bad:
        reply = await exchange(mine.url, "POST", mine.headers(), body)
        assert reply.head.status in (200, 400)
        assert len(await reply.text()) < 3000
    for path in ("/" + "y" * 5000, "/messages/?session_id=" + long[:5000]):
        assert (await exchange(server.url + path, "POST", [BOTH, JSON, bearer(MINE)], b"{}")).head.status == 404
    for token in (OTHER, MINE + "x", "", long[:5000]):
        assert (await exchange(server.url + "/mcp", "POST", [BOTH, JSON, bearer(token)], b"{}")).head.status == 401
    resumed = await exchange(mine.url, "GET", [*mine.headers(), ("Last-Event-ID", str(priming.id) + "1" * 20)])
    assert resumed.head.status == 404
    message = modern_call(1, "echo", {"text": "a"})
    headers = [*modern_headers("tools/call", long[:5000]), bearer(MINE)]
    assert (await exchange(mine.url, "POST", headers, json.dumps(message).encode())).head.status == 400
    listening.close()
    assert await mine.delete() == 200
    assert await stop_async(server) == 0
    quiet = server.stderr()
    assert "Traceback" not in quiet
    assert [*server.records("WARNING"), *server.records("ERROR")] == []
    check_says_nothing(quiet, str(mine.session_id), str(priming.id))


async def test_a_tool_that_fails_over_a_clients_text_has_one_record_and_not_all_of_it(server: ServerProcess) -> None:
    """The fault is the program's (it raised), so there is a traceback; the text in it is the client's."""
    mine = await Mine(server.url).open()
    answer = await mine.call(1, "fail", {"text": "z" * 1_000_000})
    assert answer["result"]["isError"] is True
    assert "zzz" not in json.dumps(answer)
    assert await stop_async(server) == 0
    log = server.stderr()
    assert len(server.records("ERROR")) == 1
    assert log.count("Traceback") == 1
    assert log.count("z" * 1000) == 0
    check_says_nothing(log, str(mine.session_id), "no event")


async def test_sessions_of_http_sse_are_not_in_the_log_either(server: ServerProcess) -> None:
    """Their id is in a URL, which access logs would repeat."""
    reply = await exchange(server.url + "/sse", "GET", [("Accept", "text/event-stream"), bearer(MINE)])
    event = await reply.stream.next()
    assert event is not None
    id = event.data.partition("session_id=")[2]
    posted = await exchange(
        server.url + event.data, "POST", [JSON, bearer(MINE)], json.dumps(initialize("2024-11-05")).encode()
    )
    assert posted.head.status == 202
    foreign = await exchange(server.url + event.data, "POST", [JSON, bearer(YOURS)], b"{}")
    assert foreign.head.status == 404
    reply.abort()
    assert await stop_async(server) == 0
    check_says_nothing(server.stderr(), id, str(event.id))


def check_says_nothing(log: str, *ids: str) -> None:
    for secret in (MINE, YOURS, OTHER, *ids):
        assert secret not in log
        assert secret[:16] not in log
    assert max((len(line) for line in log.splitlines()), default=0) < 1500
