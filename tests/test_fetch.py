"""Documents of authorization servers: only from safe addresses, only so large, so long, and never by a redirect."""

from __future__ import annotations

import pytest

from tailrace.errors import LimitError, TransportError
from tailrace.fetch import Fetch, check_address, is_loopback_url
from tests.clients.mcp.fake_http import Exchange, serving


@pytest.mark.parametrize(
    ("url", "loopback", "safe"),
    [
        ("https://a.example/x", False, True),
        ("http://a.example/x", True, False),
        ("http://127.0.0.1:1/x", True, True),
        ("http://localhost/x", True, True),
        ("http://[::1]/x", True, True),
        ("http://127.0.0.1:1/x", False, False),
        ("http://localhost.a.example/x", True, False),
        ("https://user@a.example/x", True, False),
        ("https:///x", True, False),
        ("file:///etc/passwd", True, False),
        ("javascript:alert(1)", True, False),
        ("https://a.example/\n", True, False),
        ("https://[", True, False),
        ("http://[", True, False),
    ],
)
def test_only_safe_addresses_are_used(url: str, loopback: bool, safe: bool) -> None:
    if safe:
        check_address(url, loopback=loopback)
    else:
        with pytest.raises(TransportError, match="https://"):
            check_address(url, loopback=loopback)


def test_what_is_no_address_is_not_on_this_machine() -> None:
    assert not is_loopback_url("http://[")
    assert not is_loopback_url("")


async def test_an_answer_is_read_whole_and_a_redirect_is_an_answer() -> None:
    async def script(x: Exchange) -> None:
        if x.path == "/form":
            assert x.body == b"a=b+c&d=%26"
            assert x.headers["content-type"] == "application/x-www-form-urlencoded"
            await x.reply(400, {"error": "e"})
        elif x.path == "/json":
            await x.reply(201, x.message)
        else:
            await x.reply(302, b"", location="/elsewhere")

    async with serving(script) as server:
        fetch = Fetch(loopback=True)
        form = await fetch.post_form(server.url + "/form", {"a": "b c", "d": "&"})
        assert (form.status, form.decode(dict)) == (400, {"error": "e"})
        json = await fetch.post_json(server.url + "/json", {"x": 1})
        assert (json.status, json.body) == (201, b'{"x": 1}')
        moved = await fetch.get(server.url + "/moved")
        assert moved.status == 302
        with pytest.raises(TransportError, match="HTTP 302"):
            moved.decode(dict)
        await fetch.aclose()


async def test_a_document_has_an_end_in_bytes_and_in_time() -> None:
    async def script(x: Exchange) -> None:
        if x.path == "/large":
            await x.reply(200, b"x" * 2000)
        else:
            await x.wait_left()

    async with serving(script) as server:
        fetch = Fetch(loopback=True, seconds=0.2, max_bytes=1000)
        with pytest.raises(LimitError, match="1000 bytes"):
            await fetch.get(server.url + "/large")
        with pytest.raises(TransportError, match=r"within 0\.2 s"):
            await fetch.get(server.url + "/silent")
        await server.stop()
        with pytest.raises(TransportError, match="cannot be reached"):
            await fetch.get(server.url + "/gone")
        await fetch.aclose()
