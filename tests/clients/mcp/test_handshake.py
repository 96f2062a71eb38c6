"""Which era and transport a client ends up with, whatever the server knows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.clients.mcp import Client
from tailrace.errors import DefinitionError, ProtocolError, TransportError
from tests.core.support import virtual

from .fake_http import DISCOVERED, INITIALIZED, Exchange, legacy, modern, serving
from .test_calls import Peer


async def nothing(x: Exchange) -> None:
    await x.result({"tools": []})


@pytest.mark.parametrize(
    "refusal",
    [
        (400, -32600, None),
        (200, -32601, None),
        (404, -32601, None),
        (400, -32602, None),
        (400, -32000, None),
        (400, -32022, {"supported": ["2025-11-25"], "requested": "2026-07-28"}),
        (400, None, None),
        (404, None, None),
        (405, None, None),
        (500, None, None),
    ],
    ids=str,
)
async def test_a_server_that_does_not_know_the_modern_era_is_greeted_by_initialize(refusal: Any) -> None:
    status, code, data = refusal

    async def script(x: Exchange) -> None:
        if x.rpc != "server/discover":
            await legacy(nothing)(x)
        elif code is None:
            await x.reply(status, b"no")
        else:
            await x.error(status, code, data)

    async with serving(script) as server, Client(server.url) as c:
        assert (c.era, c.protocol_version, c.session_id) == ("legacy", "2025-11-25", "s-1")
        assert c.instructions == "be kind"
        assert c.server_info.name == "fake"
        await c.ping()
    assert "mcp-protocol-version" not in server.asked("initialize")[0].headers
    assert server.asked("notifications/initialized")[0].headers["mcp-protocol-version"] == "2025-11-25"


class LatePeer(Peer):
    """Starts so slowly that it reads both questions at once; the first settles the era, and the second is refused."""

    def take(self, data: bytes) -> None:
        message = json.loads(data)
        self.taken.append(message)
        if message["method"] == "initialize":
            self.say({"id": self.taken[0]["id"], "result": DISCOVERED})
            self.say({"id": message["id"], "error": {"code": -32600, "message": "the era is settled"}})
        elif len(self.taken) > 1:
            self.say({"id": message["id"], "result": DISCOVERED})


@virtual
async def test_a_server_of_both_eras_that_was_slow_to_start_is_spoken_to_in_the_one_it_settled_on() -> None:
    peer = LatePeer()
    async with Client(peer.link, connect_timeout=1.0) as c:  # half of it passes without an answer
        assert c.era == "modern"
    asked = [message["method"] for message in peer.taken if "id" in message]
    assert asked == ["server/discover", "initialize", "server/discover"]


async def test_a_server_that_never_answers_the_probe_is_greeted_by_initialize() -> None:
    async def script(x: Exchange) -> None:
        if x.rpc == "server/discover":
            await x.wait_left()
        else:
            await legacy(nothing)(x)

    async with serving(script) as server, Client(server.url, connect_timeout=5) as c:
        assert c.era == "legacy"


async def test_a_server_that_offers_only_legacy_versions_is_greeted_by_initialize() -> None:
    async def script(x: Exchange) -> None:
        if x.rpc == "server/discover":
            await x.result({**DISCOVERED, "supportedVersions": ["2025-11-25"]})
        else:
            await legacy(nothing)(x)

    async with serving(script) as server, Client(server.url) as c:
        assert c.era == "legacy"


@pytest.mark.parametrize(
    ("code", "data"), [(-32020, None), (-32021, {}), (-32022, {"supported": ["2027-01-01"]}), (-32022, None)]
)
async def test_a_modern_servers_refusal_is_not_answered_by_initialize(code: int, data: Any) -> None:
    async def script(x: Exchange) -> None:
        await x.error(400, code, data)

    async with serving(script) as server:
        with pytest.raises(ProtocolError) as caught:
            async with Client(server.url):
                pass
        assert caught.value.code == code
        assert server.asked("initialize") == []


async def test_a_version_that_the_server_asks_for_by_name_is_tried_once_more() -> None:
    async def script(x: Exchange) -> None:
        if len(server.asked("server/discover")) < wanted:
            await x.error(400, -32022, {"supported": ["2026-07-28"], "requested": "2026-07-28"})
        else:
            await x.result(DISCOVERED)

    wanted = 2
    async with serving(script) as server, Client(server.url) as c:
        assert c.era == "modern"
    wanted = 9
    async with serving(script) as server:
        with pytest.raises(ProtocolError, match="error -32022"):
            async with Client(server.url):
                pass
        assert len(server.asked("server/discover")) == 2


async def test_no_common_version_is_told() -> None:
    async def script(x: Exchange) -> None:
        await x.result({**DISCOVERED, "supportedVersions": ["2030-01-01"]})

    async with serving(script) as server:
        with pytest.raises(ProtocolError, match="no common version of MCP: the server speaks 2030-01-01"):
            async with Client(server.url):
                pass


async def test_an_unknown_version_in_the_answer_to_initialize_is_told() -> None:
    async def script(x: Exchange) -> None:
        await x.result({**INITIALIZED, "protocolVersion": "1999-01-01"})

    async with serving(script) as server:
        with pytest.raises(ProtocolError, match="no common version"):
            async with Client(server.url, era="legacy"):
                pass


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18"])
async def test_an_older_version_is_taken_as_the_server_says(version: str) -> None:
    async def script(x: Exchange) -> None:
        if x.rpc == "initialize":
            await x.result({**INITIALIZED, "protocolVersion": version})
        else:
            await legacy(nothing)(x)

    async with serving(script) as server, Client(server.url, era="legacy") as c:
        assert c.protocol_version == version
        assert await c.list_tools() == []
    assert server.asked("tools/list")[0].headers["mcp-protocol-version"] == version


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_an_era_that_was_asked_for_is_the_only_one_tried(era: Any) -> None:
    async def script(x: Exchange) -> None:
        await x.error(400, -32601)

    async with serving(script) as server:
        with pytest.raises(ProtocolError):
            async with Client(server.url, era=era):
                pass
        assert {x.rpc for x in server.exchanges} == {"server/discover" if era == "modern" else "initialize"}


@pytest.mark.parametrize("status", [401, 403])
async def test_missing_credentials_are_told_at_once(status: int) -> None:
    async def script(x: Exchange) -> None:
        await x.reply(status)

    async with serving(script) as server:
        with pytest.raises(TransportError, match=f"HTTP {status}"):
            async with Client(server.url):
                pass
        assert len(server.exchanges) == 1


@pytest.mark.parametrize("status", [404, 405])
async def test_a_server_without_streamable_http_is_reached_by_http_sse(status: int) -> None:
    async def script(x: Exchange) -> None:
        if x.path == "/messages":
            stream = server.asked("GET")[0]
            if x.rpc == "initialize":
                await stream.event({"jsonrpc": "2.0", "id": x.message["id"], "result": INITIALIZED})
            await x.reply(202)
        elif x.method == "GET" and x.path == "/sse":
            await x.stream()
            await x.event(b"/messages", event="endpoint")
            await x.wait_left()
        else:
            await x.reply(status)

    async with serving(script) as server, Client(server.url) as c:
        assert (c.era, c.server_info.name) == ("legacy", "fake")
    assert [x.path for x in server.exchanges[:3]] == ["/mcp", "/mcp", "/sse"]


async def test_an_address_where_no_mcp_server_is_is_told_with_both_reasons() -> None:
    async def script(x: Exchange) -> None:
        await x.reply(404)

    async with serving(script) as server:
        with pytest.raises(TransportError, match=r"no MCP server found\. Streamable HTTP: .* HTTP\+SSE: .*"):
            async with Client(server.url):
                pass


async def test_a_port_where_nothing_listens_is_told_at_once() -> None:
    async with serving(nothing) as server:
        pass
    with pytest.raises(
        TransportError, match=r"cannot connect to http://127.0.0.1:\d+/mcp: Connection refused.*running"
    ):
        async with Client(server.url):
            pass


@pytest.mark.parametrize(
    ("given", "path"), [("", "/mcp"), ("/", "/mcp"), ("/mcp", "/mcp"), ("/a/b?c=d", "/a/b?c=d"), ("?c=d", "/mcp?c=d")]
)
async def test_a_url_without_a_path_means_mcp(given: str, path: str) -> None:
    async with serving(modern(nothing)) as server, Client(f"{server.url}{given}"):
        pass
    assert {x.path for x in server.exchanges} == {path}


@pytest.mark.parametrize("target", ["server.py", "localhost:8000", "ftp://host/", "", "http://", [], [""]])
def test_a_target_that_is_none_is_told_at_definition_time(target: Any) -> None:
    with pytest.raises(DefinitionError):
        Client(target)


def test_options_that_cannot_work_are_told_at_definition_time() -> None:
    async def told(*_: Any) -> None: ...

    for options in ({"on_log": told}, {"on_notification": told}, {"on_warning": told}, {"log_level": "loud"}):
        with pytest.raises(DefinitionError):
            Client("http://127.0.0.1", **options)  # type: ignore[arg-type]


async def test_a_header_that_cannot_be_sent_is_told() -> None:
    with pytest.raises(DefinitionError, match="headers"):
        async with Client("http://127.0.0.1:1", headers={"a": "b\nc"}):
            pass
