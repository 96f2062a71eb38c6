"""What a client cannot work with is refused before anything is sent, in words that say what is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace import Service
from tailrace.connect import Client as RpcClient
from tailrace.errors import DefinitionError
from tailrace.mcp import Client

URL = "http://127.0.0.1:9"
NO_HOSTS = ["http://[::1", "http://a:99999", "http://a:no", "http://a:-1", "http://a:0"]


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (5, {}, "a target is a URL, a command as a list, a StdioCommand or a Service, got 5"),
        (None, {}, "a target is a URL"),
        (Path("server.py"), {}, "a target is a URL"),
        (["python", 5], {}, "a command is a list of strings"),
        ([], {}, "a command is a list of strings"),
        ("server.py", {}, "a command is given as a list of strings"),
        ("http://[::1/mcp", {}, "is no http:// or https:// URL"),
        ("http://127.0.0.1:99999/mcp", {}, "is no http:// or https:// URL"),
        ("http://127.0.0.1:no/mcp", {}, "is no http:// or https:// URL"),
        (URL, {"era": "old"}, "era='old' is none of auto, modern, legacy"),
        (URL, {"transport": "http"}, "transport='http' is none of auto, streamable, sse"),
    ],
)
def test_a_target_or_an_option_that_cannot_work_is_refused(target: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        Client(target, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("url", [5, None, b"http://127.0.0.1:9", "127.0.0.1:9", "ftp://127.0.0.1", *NO_HOSTS])
@pytest.mark.parametrize("protocol", ["connect", "grpc"])
def test_an_address_of_an_rpc_server_is_a_url(url: Any, protocol: Any) -> None:
    with pytest.raises(DefinitionError, match="is no address of a server"):
        RpcClient(url, protocol=protocol)


@pytest.mark.parametrize("arguments", [[1], "x", 5])
async def test_arguments_are_names_and_values(arguments: Any) -> None:
    async with Client(Service("shop")) as client:
        with pytest.raises(DefinitionError, match="arguments are a dict of names and values"):
            await client.call_tool("place", arguments)


async def test_a_port_without_tls_is_told_from_a_server_that_is_not_there() -> None:
    from tests.rigs.hosted import hosted

    with hosted("listener", Service("shop")) as server:
        url = "https://{}:{}".format(*server.address)
        with pytest.raises(Exception, match="does not speak TLS"):
            async with Client(url):
                pass
        for protocol in ("connect", "grpc"):
            async with RpcClient(url, protocol=protocol) as client:
                with pytest.raises(Exception, match="does not speak TLS"):
                    await client.unary("Shop/Place", b"", response=bytes, timeout=20.0)
