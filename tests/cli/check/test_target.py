"""What the check does before its first trial: it starts the server, and finds out how it is spoken to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tailrace.cli.check.model import Way
from tailrace.cli.check.target import Target, free_port

pytestmark = [pytest.mark.timeout(90), pytest.mark.may_block]  # reads /proc, as the command does in a loop of its own

# It listens at once, and answers no question before it has answered anything else: it is still starting.
SLOW_TO_START = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

started = threading.Event()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        started.set()
        self.send_error(404)

    def do_POST(self):
        if not started.is_set():
            threading.Event().wait(60)
        id = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"]
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
        body = json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


async def test_a_server_that_listens_before_it_serves_is_waited_for(tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(SLOW_TO_START)
    for attempt in (1, 2, 3):  # somebody else may take the port before the server does
        port = free_port()
        target = Target(f"http://127.0.0.1:{port}/mcp", [sys.executable, str(program), str(port)], tmp_path, {})
        try:
            await target.start()
            await target.discover([Way.MODERN])
            break
        except Exception:
            if attempt == 3:
                raise
        finally:
            ways = target.ways
            await target.stop()
    assert list(ways) == [Way.MODERN]
