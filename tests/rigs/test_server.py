"""Processes are waited for, reaped and read out; ERROR records are counted as people would count them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.rigs.server import ServerFailed, records, running

READY = "print('tailrace ready url=http://127.0.0.1:4711 store=sqlite:/a b/c.db drain=25', file=sys.stderr, flush=True)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import signal, sys, time\n{code}"]


def test_ready_line_is_read(tmp_path: Path) -> None:
    with running(python(f"{READY}\ntime.sleep(60)"), tmp_path / "log") as server:
        assert (server.url, server.port) == ("http://127.0.0.1:4711", 4711)
        assert server.stop() == -15
    assert "tailrace ready" in server.stderr()


def test_a_server_that_dies_early_is_shown_with_its_stderr(tmp_path: Path) -> None:
    command = python("print('no such thing', file=sys.stderr); sys.exit(3)")
    with pytest.raises(ServerFailed, match=r"exit code 3 (?s:.*)no such thing"), running(command, tmp_path / "log"):
        pass


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    late = running(python("time.sleep(60)"), tmp_path / "log", start_limit=0.3)
    with pytest.raises(ServerFailed, match="no ready line within"), late:
        pass


def test_a_server_that_does_not_end_is_killed(tmp_path: Path) -> None:
    code = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{READY}\ntime.sleep(60)"
    with running(python(code), tmp_path / "log") as server:
        with pytest.raises(ServerFailed, match="still running"):
            server.stop(0.3)
        assert server.process.poll() == -9


def test_lines_go_both_ways_over_stdio(tmp_path: Path) -> None:
    echo = "for line in sys.stdin: print(line, end='', flush=True)"
    with running(python(echo), tmp_path / "log", stdio=True) as server:
        server.send({"jsonrpc": "2.0", "id": 1})
        assert server.receive() == {"jsonrpc": "2.0", "id": 1}
        server.close_stdin()
        assert server.receive() is None
        assert server.wait(60) == 0


def test_errors_are_counted() -> None:
    text = """\
2026-11-21T12:00:00.123Z INFO tailrace.server ready error=none
2026-11-21T12:00:01.000Z ERROR tailrace.calls tool failed tool=bug error_id=1
Traceback (most recent call last):
  File "x.py", line 1, in bug
RuntimeError: planted
12:00:02 CRITICAL tailrace gone
2026-11-21 12:00:03,123 ERROR uvicorn.error Exception in ASGI application
{"time": "now", "level": "error", "logger": "tailrace", "message": "x"}
ERROR:    Exception in ASGI application
"""
    assert len(records(text, "ERROR")) == 5
    assert len(records(text, "INFO")) == 1


def test_a_traceback_outside_any_record_is_an_error_as_well() -> None:
    assert len(records("Traceback (most recent call last):\n  x\nValueError: y\n", "ERROR")) == 1
    assert len(records("Exception ignored in: <socket>\n", "ERROR")) == 1
