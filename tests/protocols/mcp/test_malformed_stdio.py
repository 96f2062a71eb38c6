"""Lines that are no good messages, over the pipes of a real process: each is answered, and the next good one is served.

The rows are those of the table that say nothing about HTTP; what is particular to lines stands below.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.protocols.mcp.malformed import ROWS
from tests.protocols.mcp.malformed.row import SSE, Row, legacy_request
from tests.rigs.server import ServerProcess, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

SERVICE = Path(__file__).parents[2] / "e2e/fixtures/sealed.py"
GREETING = legacy_request("initialize", b'"protocolVersion":"2025-11-25"')
TOOL = b'"name":"echo","arguments":{"text":"good"}'
MAX_LINE = 4 * 1024 * 1024


def is_a_line(row: Row) -> bool:
    """It is a body, of one line that is not blank, and an initialized session answers it with an error."""
    plain = row.body is not None and row.path is None and row.method == "POST" and not row.fresh
    status, code = row.answers.get(SSE, (0, None))
    elsewhere = (b'"count"', b'"server/discover"')  # a tool of that other service, and what HTTP+SSE does not have
    if not plain or code is None or status not in (202, 400) or any(name in (row.body or b"") for name in elsewhere):
        return False
    return {name.lower() for name in row.headers} <= {"mcp-method", "mcp-name"} and is_one_line(row.body or b"")


def is_one_line(body: bytes) -> bool:
    return b"\n" not in body and body.strip(b" \t\r") != b""


LINES = [row for row in ROWS if is_a_line(row)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("stdio") / "stderr"
    with running(command(), log, stdio=True) as process:
        write(process, GREETING + b"\n")
        assert process.receive()["id"] == 7  # type: ignore[index]
        yield process
        process.close_stdin()
        assert process.wait(10.0) == 0
        assert [line for level in ("WARNING", "ERROR") for line in process.records(level)] == []


def command() -> list[str]:
    return [sys.executable, "-m", "tailrace", "run", str(SERVICE), "--stdio"]


def write(process: ServerProcess, data: bytes) -> None:
    assert process.process.stdin is not None
    process.process.stdin.write(data)
    process.process.stdin.flush()


def check_good(process: ServerProcess, id: int = 70) -> None:
    """A good call is answered, and nothing came before it."""
    write(process, legacy_request("tools/call", TOOL).replace(b'"id":7', b'"id":%d' % id) + b"\n")
    answer = process.receive()
    assert answer is not None
    assert answer["id"] == id, answer
    assert answer["result"]["content"] == [{"type": "text", "text": "good"}]


def test_there_are_many_such_lines() -> None:
    assert len(LINES) >= 250


@pytest.mark.parametrize("row", LINES, ids=[f"{row.kind}-{number}" for number, row in enumerate(LINES)])
def test_a_malformed_line_is_answered_and_the_next_good_one_served(server: ServerProcess, row: Row) -> None:
    _, code = row.answers[SSE]
    write(server, (row.body or b"") + b"\n")
    answer = server.receive()
    assert answer is not None
    assert answer["id"] in (7, None)
    if code == "isError":
        assert answer["result"]["isError"] is True
    else:
        assert answer["error"]["code"] == code, answer
    assert len(json.dumps(answer)) < 2500
    check_good(server)


ERROR, BAD = -32700, -32600
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
NOTE = b'{"jsonrpc":"2.0","method":"notifications/nothing"}'

SAID: list[tuple[str, list[bytes], list[Any]]] = [
    ("blank lines are nothing", [b"\n\n \n\t\n\r\n"], []),
    ("a line may end with CRLF", [PING + b"\r\n"], [1]),
    ("one line in many pieces", [PING[:5], PING[5:20], PING[20:], b"\n"], [1]),
    ("many lines in one piece", [(PING + b"\n") * 50], [1] * 50),
    ("a bad line between good ones", [PING + b"\n}\n" + PING + b"\n"], [1, ERROR, 1]),
    ("two messages on one line", [PING + PING + b"\n"], [ERROR]),
    ("one message on two lines", [PING[:20] + b"\n" + PING[20:] + b"\n"], [ERROR, ERROR]),
    ("a message over several lines", [b'{"jsonrpc":"2.0",\n"id":1,\n"method":"ping"}\n'], [ERROR] * 3),
    ("HTTP on the pipe", [b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n" + PING + b"\n"], [ERROR, ERROR, 1]),
    ("LSP on the pipe", [b"Content-Length: %d\r\n\r\n" % len(PING) + PING + b"\n"], [ERROR, 1]),
    ("NUL bytes", [b"\0" * 1000 + b"\n"], [ERROR]),
    ("bytes at random", [bytes(range(11, 256)) * 10 + b"\n"], [ERROR]),
    ("UTF-16", [PING.decode().encode("utf-16-be") + b"\n"], [ERROR]),
    ("a line of the longest size", [b'{"a":"' + b"x" * (MAX_LINE - 8) + b'"}\n'], [BAD]),
    ("a line that is too long", [b"x" * (MAX_LINE + 1) + b"\n"], [BAD]),
    ("a line that is far too long", [b"x" * MAX_LINE] * 5 + [b"\n"], [BAD]),
    ("a long one in front of a good one", [b"[" * (MAX_LINE + 1) + b"\n" + PING + b"\n"], [BAD, 1]),
    ("a long batch", [b"[" + PING + (b"," + PING) * 50_000 + b"]\n"], [BAD]),
    ("brackets only", [b"[" * 1_000_000 + b"\n"], [ERROR]),
    ("thousands of notifications", [(NOTE + b"\n") * 20_000], []),
    ("thousands of answers to nothing", [b'{"jsonrpc":"2.0","id":1,"result":{}}\n' * 20_000], []),
    (
        "thousands of cancellations of nothing",
        [b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99}}\n' * 20_000],
        [],
    ),
    (
        "cancellations of what cannot be cancelled",
        [
            b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":%b}\n' % params
            for params in (b"{}", b'{"requestId":null}', b'{"requestId":[]}', b'{"requestId":"' + b"x" * 1000 + b'"}')
        ],
        [],
    ),
    ("initialize twice", [GREETING + b"\n"], [BAD]),
    (
        "a modern method without its envelope",
        [b'{"jsonrpc":"2.0","id":1,"method":"server/discover"}\n'],
        [-32602],
    ),
]


@pytest.mark.parametrize(("pieces", "answers"), [row[1:] for row in SAID], ids=[row[0] for row in SAID])
def test_what_lines_can_be(server: ServerProcess, pieces: list[bytes], answers: list[Any]) -> None:
    """An answer is an id (a result) or the code of an error."""
    for piece in pieces:
        write(server, piece)
    for expected in answers:
        answer = server.receive()
        assert answer is not None
        assert expected == (answer["error"]["code"] if "error" in answer else answer["id"]), answer
    check_good(server)


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (b"", []),
        (b"\n", []),
        (PING, [1]),
        (PING[:-1], [ERROR]),
        (PING + b"\n" + PING[:10], [1, ERROR]),
        (b"\xff", [ERROR]),
        (b"x" * (MAX_LINE + 1), [BAD]),
        (b"[]", [BAD]),
        (legacy_request("tools/call", TOOL), [BAD]),
    ],
)
def test_the_end_of_input_ends_the_last_line_and_the_process(said: bytes, answered: list[int]) -> None:
    done = subprocess.run(command(), input=said, capture_output=True, timeout=60, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["error"]["code"] if "error" in one else one["id"] for one in found] == answered
    assert b"Traceback" not in done.stderr
    assert b" ERROR " not in done.stderr
