"""The admin door: who gets in, where it may stand, and that it is nobody's who did not ask for it."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tailrace import DefinitionError, Service
from tailrace.core.exchange import Exchange
from tailrace.core.pages import Page, Readers
from tailrace.server import Server, admin, make_server, run
from tailrace.server.admin import Address, Admin, read_address
from tests.rigs.exchange import FakeExchange
from tests.rigs.server import ServerProcess, tailrace_command

HOST = "127.0.0.1:9090"
TARGET = """
from tailrace import Service

svc = Service("seen")
"""


def say(text: bytes) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.respond(200, ((b"content-type", b"text/plain"),), text)


def fail(exchange: Exchange) -> None:
    raise RuntimeError("a page's fault")


PAGES = [
    Page("/console", say(b"page"), Readers.ANYBODY),
    Page("/console/", say(b"below"), Readers.OPERATOR),
    Page("/console/static/", say(b"script"), Readers.ANYBODY),
    Page("/numbers", say(b"numbers"), Readers.LOCAL),
    Page("/broken", fail, Readers.LOCAL),
]


@asynccontextmanager
async def opened(monkeypatch: pytest.MonkeyPatch, token: str | None = None, **options: str) -> AsyncGenerator[Admin]:
    """A door with the pages above, on a socket of its own."""

    def pages_of(running: Server) -> list[Page]:
        return PAGES

    monkeypatch.setattr(admin, "pages_of", pages_of)
    running = make_server(Service("seen"), dict(options))
    await running.start()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        door = Admin(running, listening, f"http://{HOST}", token)
        await door.open()
        try:
            yield door
        finally:
            await door.close()
            await running.stop()


def ask(door: Admin, path: str, headers: Iterable[tuple[str, str]] = ()) -> FakeExchange:
    given = list(headers)
    if not any(name == "host" for name, _ in given):
        given.append(("host", HOST))
    exchange = FakeExchange("GET", path, headers=given)
    door.handle(exchange)
    return exchange


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


# --- who gets in ----------------------------------------------------------------------------------


async def test_without_a_token_of_ones_own_only_the_operators_pages_ask_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(monkeypatch) as door:
        made_up = door.front.partition("#token=")[2]
        assert len(made_up) >= 32
        assert ask(door, "/console").reply_body == b"page"
        assert ask(door, "/console/static/app.js").reply_body == b"script"
        assert ask(door, "/numbers").reply_body == b"numbers"
        refused = ask(door, "/console/calls")
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert ask(door, "/console/calls", [bearer("guessed")]).status == 401
        assert ask(door, "/console/calls", [bearer(made_up)]).reply_body == b"below"
        assert ask(door, f"/console/calls?token={made_up}").status == 401
        assert ask(door, "/elsewhere").status == 404


async def test_a_token_that_was_given_is_asked_for_everywhere_and_never_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(monkeypatch, "my-own") as door:
        assert door.front == f"http://{HOST}/console"
        assert ask(door, "/numbers").status == 401
        assert ask(door, "/elsewhere").status == 401
        assert ask(door, "/console").status == 200, "a page without a secret, which asks for the token itself"
        assert ask(door, "/numbers", [bearer("my-own")]).status == 200
        assert ask(door, "/numbers", [("authorization", "Basic my-own")]).status == 401


@pytest.mark.parametrize(
    ("header", "value", "path", "status"),
    [
        ("host", "evil.example", "/numbers", 421),  # a name that was bound to 127.0.0.1
        ("origin", "http://127.0.0.1:3000", "/numbers", 403),  # another program's page on this machine
        ("origin", "http://127.0.0.1:3000", "/console", 403),
        ("origin", "https://evil.example", "/numbers", 403),
        ("origin", "null", "/numbers", 403),
        ("origin", f"http://{HOST}", "/numbers", 200),
        ("sec-fetch-site", "cross-site", "/numbers", 403),  # an <img> has no Origin
        ("sec-fetch-site", "same-site", "/numbers", 403),
        ("sec-fetch-site", "cross-site", "/console", 200),  # a link somewhere: the page has nothing to tell
        ("sec-fetch-site", "same-origin", "/numbers", 200),
        ("sec-fetch-site", "none", "/numbers", 200),
    ],
)
async def test_other_sites_pages_stay_outside(
    monkeypatch: pytest.MonkeyPatch, header: str, value: str, path: str, status: int
) -> None:
    async with opened(monkeypatch) as door:
        assert ask(door, path, [(header, value)]).status == status


async def test_where_others_reach_it_any_name_will_do_for_who_has_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch, "my-own", allow_host="shop.example") as door:
        for loopback, status in ((False, 200), (True, 421)):
            given = [("host", "10.0.0.5:9090"), bearer("my-own")]
            exchange = FakeExchange("GET", "/numbers", headers=given, loopback=loopback)
            door.handle(exchange)
            assert exchange.status == status


async def test_a_page_that_fails_is_our_fault_and_says_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(monkeypatch) as door:
        reply = ask(door, "/broken")
        assert (reply.status, reply.reply_body) == (500, b"internal error\n")
    assert "an admin page failed path=/broken" in caplog.text


# --- where it may stand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9090", Address("127.0.0.1", 9090, None)),
        ("localhost:0", Address("localhost", 0, None)),
        ("[::1]:9090", Address("::1", 9090, None)),
        (":9090", Address("127.0.0.1", 9090, None)),
        ("9090", Address("127.0.0.1", 9090, None)),
        ("/run/admin.sock", Address("", 0, "/run/admin.sock")),
        ("unix:/run/admin.sock", Address("", 0, "/run/admin.sock")),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert read_address(text, token=None) == address


@pytest.mark.parametrize("text", ["", "localhost", "localhost:http", "localhost:65536", "1:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="no address"):
        read_address(text, token=None)


def test_others_reach_it_only_with_a_token() -> None:
    with pytest.raises(DefinitionError, match="can be reached by others"):
        read_address("0.0.0.0:9090", token=None)
    assert read_address("0.0.0.0:9090", token="secret") == Address("0.0.0.0", 9090, None)


@pytest.mark.parametrize("token", ["", "two words", "höflich"])
def test_a_token_that_cannot_be_sent_is_refused(token: str) -> None:
    with socket.socket() as listening, pytest.raises(DefinitionError, match="visible ASCII"):
        Admin(make_server(Service("seen"), {}), listening, f"http://{HOST}", token)


def test_a_token_without_a_door_is_a_mistake() -> None:
    with pytest.raises(DefinitionError, match="give --admin"):
        run(Service("seen"), transport="http", port=0, admin_token="secret")


# --- a process ------------------------------------------------------------------------------------


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30.0) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.parametrize("stdio", [False, True], ids=["http", "stdio"])
async def test_the_door_is_beside_the_public_port_until_the_end(tmp_path: Path, stdio: bool) -> None:
    target = tmp_path / "target.py"
    target.write_text(TARGET)
    command = tailrace_command(target, "--admin", "127.0.0.1:0")
    if stdio:
        command = [*command[:5], "--stdio", "--admin", ":0"]
    server = ServerProcess(command, tmp_path / "stderr", stdio=stdio)
    try:
        await asyncio.to_thread(server.wait_ready, 60.0)
        found = re.search(r" admin=(http://127\.0\.0\.1:\d+)", server.stderr_tail())
        assert found, server.stderr_tail()
        assert await asyncio.to_thread(get, f"{found[1]}/healthz") == (200, "ok\n")
        if not stdio:
            assert (await asyncio.to_thread(get, f"{server.url}/metrics"))[0] == 404
        assert await asyncio.to_thread(server.stop) == 0, server.stderr_tail()
    finally:
        server.close()


@pytest.mark.e2e
@pytest.mark.timeout(120)
async def test_the_doors_socket_is_its_owners_and_is_removed(tmp_path: Path) -> None:
    target, path = tmp_path / "target.py", tmp_path / "admin.sock"
    target.write_text(TARGET)
    server = ServerProcess(tailrace_command(target, "--admin", str(path)), tmp_path / "stderr")
    try:
        await asyncio.to_thread(server.wait_ready, 60.0)
        assert f"admin=unix:{path}" in server.stderr_tail()
        assert path.stat().st_mode & 0o777 == 0o600
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 30.0)).startswith(b"HTTP/1.1 200")
        writer.close()
        assert await asyncio.to_thread(server.stop) == 0, server.stderr_tail()
        assert not path.exists()
    finally:
        server.close()
