"""A server as a child process: its end is bounded and leaves nobody behind, whatever the child does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tailrace.clients.mcp import Client, StdioCommand
from tailrace.clients.mcp.links.stdio import Lines
from tailrace.errors import LimitError, TransportError

from .fake_http import timed_out

CHILD = str(Path(__file__).with_name("stdio_child.py"))


def child(how: str, folder: Path, **options: Any) -> StdioCommand:
    return StdioCommand(command=sys.executable, args=[CHILD, how, str(folder)], **options)


async def arrives(path: Path) -> str:
    """Wait for a note of the child."""
    async with asyncio.timeout(60):
        while not path.exists():
            await asyncio.sleep(0.01)
    return path.read_text()


def is_running(pid: str) -> bool:
    try:
        return psutil.Process(int(pid)).status() != "zombie"
    except psutil.NoSuchProcess:
        return False


def children_of(folder: Path) -> list[psutil.Process]:
    """The children that were started with this folder, of all that this process has."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # another test's, which ends meanwhile
            if str(folder) in process.cmdline():
                found.append(process)
    return found


async def are_gone(pids: Iterable[str]) -> None:
    async with asyncio.timeout(60):
        while any(is_running(pid) for pid in pids):
            await asyncio.sleep(0.01)


async def test_a_child_is_told_by_the_end_of_its_stdin_and_ends_in_its_own_time(tmp_path: Path) -> None:
    async with Client(child("plain", tmp_path, env={"WHO": "me"})) as c:
        assert (c.era, c.server_info.version, c.session_id) == ("legacy", "me", None)
        assert (await c.call_tool("any")).data == 1
    assert (tmp_path / "eof").exists()


async def test_a_child_that_never_answers_the_probe_is_greeted_by_initialize(tmp_path: Path) -> None:
    async with Client(child("deaf", tmp_path), connect_timeout=10) as c:
        assert c.era == "legacy"


async def test_a_child_that_hears_nothing_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    async with Client(child("stubborn", tmp_path), close_timeout=0.5) as c:
        pids = (await arrives(tmp_path / "pids")).split()
        assert (await c.call_tool("any")).data == 1
        assert all(is_running(pid) for pid in pids)
    await are_gone(pids)


async def test_what_a_child_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    async with Client(child("parent", tmp_path)):
        pids = (await arrives(tmp_path / "pids")).split()
    await are_gone(pids)


async def test_a_daemon_that_holds_the_pipes_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        async with Client(child("daemon", tmp_path), close_timeout=1):
            pids = (await arrives(tmp_path / "pids")).split()
    await are_gone(pids[:1])
    os.kill(int(pids[1]), signal.SIGKILL)


async def test_closing_that_is_cancelled_still_leaves_nobody_behind(tmp_path: Path) -> None:
    c = await Client(child("stubborn", tmp_path), close_timeout=60).__aenter__()
    pids = (await arrives(tmp_path / "pids")).split()
    closing = asyncio.create_task(c.aclose())
    await arrives(tmp_path / "eof")
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await are_gone(pids)


async def test_a_failed_connection_leaves_nobody_behind(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="server/discover"):
        async with Client(child("deaf", tmp_path), era="modern", connect_timeout=0.5, close_timeout=0.5):
            pass
    assert children_of(tmp_path) == []


@pytest.mark.parametrize(("how", "says"), [("exits", "exit code 3"), ("killed", "signal 9")])
async def test_a_child_that_ends_fails_the_calls_and_tells_how(how: str, says: str, tmp_path: Path) -> None:
    said: list[str] = []
    async with Client(child(how, tmp_path, stderr=said.append)) as c:
        with pytest.raises(TransportError, match=f"the server process ended \\({says}\\)"):
            await c.call_tool("any")
        with pytest.raises(TransportError, match="the server process ended"):
            await c.call_tool("any")
    assert said == (["I am leaving"] if how == "exits" else [])


async def test_a_program_that_does_not_exist_is_told() -> None:
    with pytest.raises(TransportError, match="cannot start 'no-such-program': No such file"):
        async with Client(["no-such-program"]):
            pass


async def test_stray_output_is_told_and_does_no_harm(tmp_path: Path) -> None:
    warnings: list[str] = []
    async with Client(child("noisy", tmp_path), on_warning=warnings.append) as c:
        assert (await c.call_tool("any")).data == 1
    assert len(warnings) == 2  # the blank line is none
    assert all("no message" in text for text in warnings)


async def test_a_child_that_floods_both_outputs_is_kept_up_with_and_ended(tmp_path: Path) -> None:
    count = 0
    lines: list[str] = []

    def tell(*_: Any) -> None:
        nonlocal count
        count += 1

    command = child("floods", tmp_path, stderr=lines.append)
    async with Client(command, on_notification=tell, close_timeout=0.5) as c:
        assert (await c.call_tool("any")).data == 1
        assert count >= 3000
        async with asyncio.timeout(60):
            while len(lines) < 3000:
                await asyncio.sleep(0.01)
    assert lines[:2] == ["line 0", "line 1"]


async def test_a_message_over_the_limit_breaks_the_connection_and_the_child_still_ends(tmp_path: Path) -> None:
    async with Client(child("large", tmp_path), max_message=100_000) as c:
        with pytest.raises(TransportError, match="max_message="):
            await c.call_tool("any")
    assert (tmp_path / "eof").exists()
    async with Client(child("large", tmp_path)) as c:
        assert len((await c.call_tool("any")).data) == 1_000_000


@pytest.mark.parametrize("end", ["cancelled", "timed out"])
async def test_a_call_that_nobody_waits_for_is_cancelled(end: str, tmp_path: Path) -> None:
    async with Client(child("hangs", tmp_path)) as c:
        if end == "cancelled":
            call = asyncio.create_task(c.call_tool("any"))
            await arrives(tmp_path / "called")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            await timed_out(lambda seconds: c.call_tool("any", timeout=seconds), (tmp_path / "called").exists)
        assert (await arrives(tmp_path / "cancelled")).isdigit()


async def test_a_stderr_callback_that_fails_does_not_end_the_reading(tmp_path: Path) -> None:
    warnings: list[str] = []

    def fail(line: str) -> None:
        raise ValueError(line)

    async with Client(child("exits", tmp_path, stderr=fail), on_warning=warnings.append) as c:
        with pytest.raises(TransportError):
            await c.call_tool("any")
    assert any("I am leaving" in text for text in warnings)


def test_a_child_belongs_to_its_own_process_group(tmp_path: Path) -> None:
    async def main() -> None:
        async with Client(child("parent", tmp_path)):
            pid = int((await arrives(tmp_path / "pids")).split()[0])
            assert os.getpgid(pid) == pid != os.getpgid(0)

    asyncio.run(main())


# --- lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_are_the_same_whatever_the_chunks(size: int) -> None:
    data = b"one\n\n two \nthree\r\nunfinished"
    lines = Lines(100)
    found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
    assert found == [b"one", b" two ", b"three\r"]


def test_a_line_over_the_limit_is_refused() -> None:
    lines = Lines(10)
    assert lines.feed(b"0123456789\n01234") == [b"0123456789"]
    assert lines.feed(b"56789") == []
    with pytest.raises(LimitError):
        lines.feed(b"x")
    with pytest.raises(LimitError):
        Lines(10).feed(b"0123456789x\n")


def test_a_long_line_in_small_chunks_takes_linear_time() -> None:
    lines = Lines(1 << 24)
    begun = time.process_time()
    for _ in range(100_000):
        lines.feed(b"x" * 100)
    assert len(lines.feed(b"\n")[0]) == 10_000_000
    assert time.process_time() - begun < 5  # quadratic would take minutes
