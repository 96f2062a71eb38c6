"""A server's processes are measured as a tree, and none is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.processes import cores, server, tree, usage
from tests.rigs.ports import free_port

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only where there is /proc")

LISTEN = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('here', flush=True);"
# A child that works, and a parent that waits for nothing.
PARENT = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'sum(range(30_000_000)); "
    'print("worked", flush=True); input()\'], stdin=subprocess.PIPE, stdout=subprocess.PIPE); '
    "print(child.stdout.readline().decode(), child.pid, flush=True); input()"
)


def test_a_child_counts_with_its_parent() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "worked\n"
        child = int(parent.stdout.readline())
        assert set(tree(parent.pid)) == {parent.pid, child}
        both, alone = usage(parent.pid), usage(child)
        parent.communicate("\n")
    assert both.cpu >= alone.cpu > 0
    assert both.rss > alone.rss > 0


def test_what_is_started_meanwhile_has_so_many_cores() -> None:
    asked = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
    before = os.sched_getaffinity(0)
    with cores(1):
        assert subprocess.check_output(asked) == b"1\n"
    assert subprocess.check_output(asked) == b"%d\n" % len(before)
    with pytest.raises(RuntimeError, match="cores, and there are"), cores(len(before) + 1):
        pass
    assert os.sched_getaffinity(0) == before


def test_who_has_ended_used_nothing_more() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert usage(process.pid).rss == 0


def test_a_server_is_there_once_it_listens_and_gone_afterwards(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", LISTEN + "s.accept(); s.accept()", str(port)]
    with server(command, port, tmp_path / "log", cwd=tmp_path) as pid:
        assert tree(pid) == [pid]
        assert (tmp_path / "log").read_text() == "here\n"
    assert usage(pid).rss == 0


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with (
        pytest.raises(RuntimeError, match="ended with 1: no such thing"),
        server(command, free_port(), tmp_path / "log", cwd=tmp_path),
    ):
        pytest.fail("it never listened")


def test_a_server_that_does_not_listen_in_time_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        pytest.raises(RuntimeError, match="did not listen in time"),
        server(command, free_port(), tmp_path / "log", cwd=tmp_path, start_time=0.2),
    ):
        pytest.fail("it never listened")
