"""Where metadata is looked for, and whose it has to be."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.clients.mcp.oauth.metadata import (
    canonical,
    find_resource,
    find_server,
    find_server_of_old,
)
from tailrace.errors import AuthorizationError, TransportError
from tailrace.fetch import Fetch
from tests.clients.mcp.fake_http import Exchange, serving

A = "https://a.example"


@pytest.mark.parametrize(
    ("url", "identifier"),
    [
        ("https://A.example:443/mcp/?x=1#f", f"{A}/mcp"),
        ("http://[::1]:8000/mcp", "http://[::1]:8000/mcp"),
        ("https://a.example/", A),
    ],
)
def test_the_identifier_of_a_server_that_says_none(url: str, identifier: str) -> None:
    assert canonical(url) == identifier


def test_a_port_that_is_none_is_no_address() -> None:
    with pytest.raises(AuthorizationError, match="no address"):
        canonical("https://a.example:port/mcp")


async def answering(documents: dict[str, Any], path: str, named: str | None = None) -> tuple[Any, list[str]]:
    """What is found for the server at `path`, where there are these documents, and where it was looked for."""
    asked: list[str] = []

    async def script(x: Exchange) -> None:
        asked.append(x.path)
        document = documents.get(x.path)
        if document is None:
            await x.reply(404, b"")
        elif isinstance(document, int):
            await x.reply(document, b"")
        else:
            await x.reply(200, document(server.url) if callable(document) else document)

    async with serving(script) as server:
        fetch = Fetch(loopback=True)
        try:
            found = await find_resource(fetch, server.url + path, named and server.url + named)
        finally:
            await fetch.aclose()
    return found, asked


def about(path: str) -> Any:
    return lambda url: {"resource": url + path, "authorization_servers": [A]}


WELL_KNOWN = "/.well-known/oauth-protected-resource"


async def test_a_servers_metadata_is_looked_for_below_its_path_and_at_the_root() -> None:
    found, asked = await answering({WELL_KNOWN + "/mcp": about("/mcp")}, "/mcp")
    assert (found.authorization_servers, asked) == ([A], [WELL_KNOWN + "/mcp"])
    found, asked = await answering({WELL_KNOWN: about("")}, "/mcp")
    assert (found.authorization_servers, asked) == ([A], [WELL_KNOWN + "/mcp", WELL_KNOWN])
    found, asked = await answering({}, "/")
    assert (found, asked) == (None, [WELL_KNOWN])


async def test_where_the_challenge_says_is_the_only_place() -> None:
    found, asked = await answering({"/custom": about("/mcp"), WELL_KNOWN: about("")}, "/mcp", "/custom")
    assert (found.authorization_servers, asked) == ([A], ["/custom"])
    with pytest.raises(AuthorizationError, match="404"):
        await answering({WELL_KNOWN: about("")}, "/mcp", "/custom")


@pytest.mark.parametrize("resource", ["/mc", "/mcp/deeper", "/other", "/mcp#part"])
async def test_metadata_of_another_resource_is_not_trusted(resource: str) -> None:
    with pytest.raises(AuthorizationError, match="not trusted"):
        await answering({WELL_KNOWN + "/mcp": about(resource)}, "/mcp")


@pytest.mark.parametrize("document", [500, {"resource": 5}, []])
async def test_a_server_that_fails_is_not_passed_over(document: Any) -> None:
    with pytest.raises(AuthorizationError):
        await answering({WELL_KNOWN + "/mcp": document, WELL_KNOWN: about("")}, "/mcp")


async def test_an_authorization_server_without_metadata_is_none() -> None:
    async def script(x: Exchange) -> None:
        await x.reply(404, b"")

    async with serving(script) as server:
        fetch = Fetch(loopback=True)
        with pytest.raises(AuthorizationError, match="has no metadata"):
            await find_server(fetch, server.url)
        old = await find_server_of_old(fetch, server.url + "/mcp")
        assert (old.issuer, old.token_endpoint) == (server.url, server.url + "/token")
        with pytest.raises(TransportError, match="https://"):
            await find_server(Fetch(loopback=False), server.url)


async def test_a_server_of_old_has_its_metadata_at_its_root() -> None:
    async def script(x: Exchange) -> None:
        await x.reply(200, {"issuer": issuer or server.url, "token_endpoint": "t"})

    issuer = ""
    async with serving(script) as server:
        assert (await find_server_of_old(Fetch(loopback=True), server.url + "/mcp")).token_endpoint == "t"
        issuer = A
        with pytest.raises(AuthorizationError, match="not trusted"):
            await find_server_of_old(Fetch(loopback=True), server.url + "/mcp")
