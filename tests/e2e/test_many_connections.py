"""Ten thousand connections that say nothing, on one process: little memory each, all still served, one more refused.

As many as the limit on open files allows, a thousand at least: the number is printed and in the report.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import psutil
import pytest

from tests.rigs.server import READY, ServerProcess, running

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

WANTED = 10_000
LEAST = 1_000
OTHERS = 300  # descriptors of other kinds, on either side
EACH = 6_000  # bytes of the server's memory for one idle connection; 1,400 measured

SERVER = """
import sys
from tailrace import Service

svc = Service("crowded")

@svc.tool
async def echo(text: str) -> str:
    return text

svc.run(transport="http", port=0, max_connections=int(sys.argv[1]), idle_time=600.0)
"""
_KEYS = b'"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}'
BODY = b'{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{%b}}}' % _KEYS
REQUEST = (
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: server/discover\r\nContent-Length: %d\r\n\r\n%b"
) % (len(BODY), BODY)


@contextmanager
def as_many_files_as_allowed() -> Iterator[int]:
    """Raise the limit, also for the server that is started now; how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED + OTHERS if hard == resource.RLIM_INFINITY else min(hard, WANTED + OTHERS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    try:
        yield max(soft, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_idle_connections(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    with as_many_files_as_allowed() as files:
        count = min(WANTED, files - OTHERS)
        assert count >= LEAST, f"{files} open files are allowed: too few to say anything"
        command = [sys.executable, "-c", SERVER, str(count)]
        with running(command, tmp_path / "stderr", ready=READY) as server:
            crowd = Crowd(server, count)
            try:
                crowd.gather()
                record_property("connections", count)
                record_property("bytes_each", crowd.bytes_each)
                print(f"{count:,} idle connections, {crowd.bytes_each:,} bytes of memory each")
                assert crowd.bytes_each < EACH
                crowd.check_one_more_is_refused()
                crowd.check_all_are_served()
                crowd.check_their_places_are_free_again()
            finally:
                crowd.leave()
            assert server.stop() == 0
            assert [*server.records("WARNING"), *server.records("ERROR")] == []


class Crowd:
    """Connections to one server."""

    def __init__(self, server: ServerProcess, count: int) -> None:
        self.server = server
        self.count = count
        self.process = psutil.Process(server.pid)
        self.sockets: list[socket.socket] = []
        self.bytes_each = 0

    def gather(self) -> None:
        """Connect, and measure the server once it has accepted all."""
        with self.connect() as first:
            self.ask(first)
        before = self.process.memory_info().rss
        while len(self.sockets) < self.count:
            self.sockets.append(self.connect())
        self.ask(self.sockets[-1])  # it was accepted last
        self.bytes_each = (self.process.memory_info().rss - before) // self.count

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), 60)

    def ask(self, connection: socket.socket) -> HTTPResponse:
        connection.sendall(REQUEST)
        response = HTTPResponse(connection)
        response.begin()
        response.read()
        return response

    def check_one_more_is_refused(self) -> None:
        with self.connect() as late:
            response = self.ask(late)
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            assert late.recv(1) == b""

    def check_all_are_served(self) -> None:
        for connection in self.sockets:
            assert self.ask(connection).status == 200

    def check_their_places_are_free_again(self) -> None:
        self.leave()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with self.connect() as connection:
                if self.ask(connection).status == 200:
                    return
        raise AssertionError("no connection is let in although all others have gone")

    def leave(self) -> None:
        while self.sockets:
            self.sockets.pop().close()
