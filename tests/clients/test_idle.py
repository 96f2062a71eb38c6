"""A connection that nothing is asked on is let go by its client, before servers do: MCP and RPC alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.protobuf.struct_pb2 import Struct

from tailrace import connect
from tailrace.clients import idle
from tailrace.clients.mcp.links.http import Http

pytestmark = pytest.mark.timeout(120)

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Answers each request with an empty object, and never closes a connection by itself.

    Attributes:
        url: Where it listens.
        opened: How many connections came.
        closed: How many of them the client has closed.
    """

    def __init__(self) -> None:
        self.url = ""
        self.opened = self.closed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed += 1
        finally:
            writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server


async def asked(server: Server, http: Http) -> None:
    async with http.stream("POST", f"{server.url}/mcp", {}, b"{}") as response:
        assert await http.read_all(response) == b"{}"


def test_it_is_let_go_before_uvicorn_and_node_do() -> None:
    assert 0 < idle.IDLE < 5


async def test_an_idle_connection_of_the_mcp_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "IDLE", 0.2)
    http = Http({}, connect_timeout=10, max_message=1000)
    async with serving() as server:
        await asked(server, http)
        await until_closed(server)
        await asked(server, http)
        assert server.opened == 2
        await http.aclose()


async def test_one_that_is_used_again_in_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "IDLE", 60.0)
    http = Http({}, connect_timeout=10, max_message=1000)
    async with serving() as server:
        await asked(server, http)
        await asked(server, http)
        assert (server.opened, server.closed) == (1, 0)
        await http.aclose()


async def test_an_idle_connection_of_the_rpc_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "IDLE", 0.2)
    async with serving() as server, connect.Client(server.url, codec="json") as client:
        await client.unary("a.v1.A/Ask", Struct(), response=Struct)
        await until_closed(server)
        assert server.opened == 1


async def until_closed(server: Server) -> None:
    async with asyncio.timeout(60):
        while server.closed < server.opened:
            await asyncio.sleep(0.01)
