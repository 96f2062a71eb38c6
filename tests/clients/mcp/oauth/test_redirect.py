"""The listener on loopback to which a browser returns: it takes the answer that is waited for, and no other request."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tailrace.clients.mcp.oauth import Loopback
from tailrace.errors import AuthorizationError

LIMIT = 45.0


async def ask(port: int, head: bytes) -> bytes:
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        try:
            return await reader.read()
        except ConnectionError:  # closed before it had read everything
            return b""
        finally:
            writer.close()


def port_of(uri: str) -> int:
    return int(uri.split(":")[2].split("/")[0])


async def test_the_browsers_return_is_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[str] = []
    redirect = Loopback(browser=opened.append)
    uri = await redirect.open(None)
    waiting = asyncio.ensure_future(redirect.ask("https://a.example/authorize?x=1", "the-state"))
    port = port_of(uri)
    while not opened:
        await asyncio.sleep(0)
    for head in (
        b"GET /favicon.ico HTTP/1.1\r\n\r\n",
        b"GET /callback?code=1&state=another HTTP/1.1\r\n\r\n",
        b"GET /callback?code=1 HTTP/1.1\r\n\r\n",
        b"POST /callback?code=1&state=the-state HTTP/1.1\r\n\r\n",
        b"GET http://elsewhere/callback?code=1&state=the-state HTTP/1.1\r\n\r\n",
    ):
        assert (await ask(port, head)).startswith(b"HTTP/1.1 404")
    assert not waiting.done()
    said = await ask(port, b"GET /callback?code=1&state=the-state HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200")
    assert b"no-store" in said
    assert b"the-state" not in said
    assert await waiting == f"http://127.0.0.1:{port}/callback?code=1&state=the-state"
    await redirect.close()
    await redirect.close()
    assert opened == ["https://a.example/authorize?x=1"]
    assert opened[0] in capsys.readouterr().err


async def test_a_head_that_never_ends_harms_nobody() -> None:
    redirect = Loopback(browser=lambda url: None)
    port = port_of(await redirect.open(None))
    assert await ask(port, b"GET /" + b"a" * 100_000) == b""
    await redirect.close()


async def test_the_port_of_the_last_time_is_used_again_while_it_is_free() -> None:
    redirect = Loopback(browser=lambda url: None)
    uri = await redirect.open(None)
    await redirect.close()
    assert await redirect.open(uri) == uri
    other = Loopback(browser=lambda url: None)
    assert await other.open(uri) != uri  # taken
    assert await other.open("https://a.example/callback") != uri
    await redirect.close()
    await other.close()


async def test_a_port_that_was_asked_for_and_is_taken_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AuthorizationError, match="cannot be had"):
            await Loopback(taken.getsockname()[1]).open(None)


async def test_without_a_browser_the_printed_address_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    def fails(url: str) -> None:
        raise OSError("no display")

    redirect = Loopback(browser=fails)
    port = port_of(await redirect.open(None))
    waiting = asyncio.ensure_future(redirect.ask("https://a.example", "s"))
    while not caplog.records:
        await asyncio.sleep(0)
    await ask(port, b"GET /callback?state=s HTTP/1.1\r\n\r\n")
    assert (await waiting).endswith("state=s")
    await redirect.close()
