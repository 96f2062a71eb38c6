"""Standard input and output: whole lines in, whole writes out, and nobody else's bytes in between."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pty
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tailrace
from tailrace.errors import TransportError
from tailrace.transports.lines import Overlong, Splitter
from tailrace.transports.pipes import Pipes
from tailrace.transports.stdio import Stdio

ROOM = 4 * 1024 * 1024  # more than any pipe or socket buffer takes

# --- real processes -----------------------------------------------------------------------------

ECHO = """
    import asyncio, os, subprocess, sys
    from tailrace.transports.lines import Overlong
    from tailrace.transports.pipes import guard
    from tailrace.transports.stdio import Stdio

    pipes = guard()

    async def echo():
        async with Stdio(pipes, max_line=1000, stall=20.0) as stdio:
            async for line in stdio.lines():
                await stdio.sink.write(b"overlong %d\\n" % line.size if isinstance(line, Overlong) else line + b"\\n")
"""
RUN = "\n    asyncio.run(echo())\n"


def command(*parts: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(textwrap.dedent(part) for part in parts)]


@pytest.fixture
def environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**inherited, "PYTHONPATH": str(Path(tailrace.__file__).parents[1])}


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(*parts: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.run(command(*parts), env=environment, timeout=60, check=False, **options)

    return run


def test_what_others_print_goes_to_standard_error_and_never_into_the_protocol(run: Run) -> None:
    stray = """
    import ctypes
    libc = ctypes.CDLL(None)
    print("from print")
    sys.stdout.buffer.write(b"from the buffer\\n")
    os.write(1, b"from a descriptor\\n")
    libc.puts(b"from C")
    libc.fflush(None)
    subprocess.run(["echo", "from a program"])
    sys.__stdout__.write("from the old object\\n")
    """
    done = run(ECHO, stray, RUN, input=b"one\ntwo\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"one\ntwo\n"
    assert sorted(done.stderr.decode().splitlines()) == [
        "from C",
        "from a descriptor",
        "from a program",
        "from print",
        "from the buffer",
        "from the old object",
    ]


def test_text_that_was_printed_before_the_guard_and_is_still_buffered_goes_to_standard_error(run: Run) -> None:
    done = run("print('early')", ECHO, "os._exit(0)", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"early\n")


def test_a_stray_print_is_seen_at_once_even_where_the_process_is_killed_afterwards(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        run(ECHO, "print('last words'); os._exit(0)", stdin=subprocess.DEVNULL, stderr=log)
    assert (tmp_path / "log").read_bytes() == b"last words\n"


def test_who_reads_standard_input_finds_it_empty_and_takes_nothing_from_the_protocol(run: Run) -> None:
    readers = """
    assert sys.stdin.read() == "" and sys.__stdin__.read() == "" and os.read(0, 10) == b""
    assert subprocess.run(["cat"], stdout=subprocess.PIPE).stdout == b""
    """
    done = run(ECHO, readers, RUN, input=b"one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\ntwo\n", b"")


def test_a_second_guard_returns_the_same_descriptors(run: Run) -> None:
    done = run(ECHO, "assert guard() is pipes and guard() == pipes", RUN, input=b"one\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\n", b"")


def test_no_program_that_is_started_inherits_the_protocol(run: Run) -> None:
    start = """
    look = "import os, sys; [print(fd) for fd in map(int, sys.argv[1:]) if os.path.exists(f'/dev/fd/{fd}')]"
    arguments = [sys.executable, "-c", look, "2", str(pipes.read_fd), str(pipes.write_fd)]
    found = subprocess.run(arguments, close_fds=False, stdout=subprocess.PIPE)
    assert found.stdout == b"2\\n", found.stdout
    """
    done = run(ECHO, start, stdin=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_standard_input_or_output_is_refused_clearly(closed: str, environment: dict[str, str]) -> None:
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command(ECHO, RUN)]
    done = subprocess.run(shell, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"TransportError: standard input or output is closed" in done.stderr


def test_a_closed_standard_error_harms_nobody(environment: dict[str, str]) -> None:
    others = """
    assert pipes.read_fd > 2 and pipes.write_fd > 2
    print("lost")
    os.write(2, b"lost")
    subprocess.run(["sh", "-c", "echo lost >&2"], check=True)
    """
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command(ECHO, others, RUN)]
    done = subprocess.run(shell, env=environment, input=b"one\n", stdout=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"one\n")


def test_standard_input_may_be_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"one\r\n\n  \ntwo\n" + b"x" * 2000 + b"\nlast")
    with (tmp_path / "in").open("rb") as source:
        done = run(ECHO, RUN, stdin=source)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\ntwo\noverlong 2000\nlast\n", b"")


def test_standard_input_may_be_the_null_device(run: Run) -> None:
    done = run(ECHO, RUN, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("append", [False, True])
def test_standard_output_may_be_a_file_which_is_continued_where_it_is(run: Run, tmp_path: Path, append: bool) -> None:
    with (tmp_path / "out").open("ab" if append else "wb") as target:
        target.write(b"before\n")
        target.flush()
        done = run(ECHO, RUN, input=b"one\n", stdout=target)
    assert (done.returncode, (tmp_path / "out").read_bytes()) == (0, b"before\none\n")


def test_a_full_disk_is_an_error(run: Run) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(ECHO, RUN, input=b"one\n", stdout=full)
    assert done.returncode == 1
    assert b"TransportError: standard output cannot be written" in done.stderr


def test_one_socket_may_be_both_input_and_output(run: Run) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"one\ntwo")
        ours.shutdown(socket.SHUT_WR)
        done = run(ECHO, RUN, stdin=theirs, stdout=theirs)
        assert (done.returncode, ours.recv(100)) == (0, b"one\ntwo\n")


@pytest.mark.parametrize("loop", ["asyncio.run(echo())", "import uvloop; uvloop.run(echo())"])
def test_the_description_shared_with_the_parent_stays_blocking(run: Run, loop: str) -> None:
    one, other = socket.socketpair()
    for ours, theirs in (os.pipe(), pty.openpty(), (one.detach(), other.detach())):
        done = run(ECHO, loop, input=b"one\n", stdout=theirs)
        assert done.returncode == 0, done.stderr
        assert os.read(ours, 100).rstrip() == b"one"
        assert os.get_blocking(theirs)
        os.close(ours)
        os.close(theirs)


def test_a_terminal_may_be_both_input_and_output(environment: dict[str, str]) -> None:
    master, terminal = pty.openpty()
    with subprocess.Popen(command(ECHO, RUN), env=environment, stdin=terminal, stdout=terminal) as process:
        os.write(master, b"one\n\x04")  # and the end-of-file key
        assert process.wait(60) == 0
    assert os.get_blocking(terminal)
    said = b""
    while said.count(b"one") < 2:
        said += os.read(master, 100)
    assert said in (b"one\r\none\r\n", b"one\r\n^D\x08\x08one\r\n")  # the terminal's own echo is first
    os.close(terminal)
    os.close(master)


def test_a_terminal_that_nobody_reads_costs_the_stall_limit_and_not_the_loop(environment: dict[str, str]) -> None:
    flood = """
    async def flood():
        async with Stdio(pipes, stall=0.1) as stdio:
            await stdio.sink.write(b"x\\n" * 2_000_000)
    asyncio.run(flood())
    """
    master, terminal = pty.openpty()
    arguments = command(ECHO, flood)
    with subprocess.Popen(
        arguments, env=environment, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE
    ) as process:
        _, text = process.communicate(timeout=60)
    os.close(terminal)
    os.close(master)
    assert b"TransportError: the peer read nothing for 0.1 s" in text


def test_the_process_ends_although_its_read_never_returns(environment: dict[str, str]) -> None:
    leave = """
    async def leave():
        async with Stdio(pipes) as stdio:
            async for line in stdio.lines():
                await stdio.sink.write(line)
                break
    asyncio.run(leave())
    """
    with subprocess.Popen(
        command(ECHO, leave), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.wait(60) == 0  # its standard input is still open
        assert process.stdout.read() == b"one"


@pytest.mark.parametrize("loop", ["asyncio.run(echo())", "import uvloop; uvloop.run(echo())"])
def test_a_hundred_thousand_lines_come_through_both_ways_under_a_tiny_switch_interval(
    environment: dict[str, str], loop: str
) -> None:
    with subprocess.Popen(
        command(ECHO, "sys.setswitchinterval(1e-6)", loop),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent, got, count = hashlib.sha256(), hashlib.sha256(), 0
        stdin = process.stdin

        def feed() -> None:
            with stdin:
                for number in range(100_000):
                    line = b"%d %s\n" % (number, b"x" * (number % 97))
                    sent.update(line)
                    stdin.write(line)

        feeder = threading.Thread(target=feed)
        feeder.start()
        for line in process.stdout:
            got.update(line)
            count += 1
        feeder.join()
        assert process.wait(60) == 0
    assert (count, got.hexdigest()) == (100_000, sent.hexdigest())


# --- both ends in this process ------------------------------------------------------------------


class Peer:
    """The other end: what it writes is read as standard input, what it reads is standard output."""

    def __init__(self, use_sockets: bool) -> None:
        self.sockets = [*socket.socketpair(), *socket.socketpair()] if use_sockets else []
        numbers = [end.fileno() for end in self.sockets] or [*os.pipe(), *os.pipe()]
        read_fd, self.into, self.out, write_fd = numbers
        self.pipes = Pipes(read_fd, write_fd)
        self.open = set(numbers)

    def close(self, *numbers: int) -> None:
        for number in numbers or tuple(self.open):
            if number in self.open:
                self.open.remove(number)
                if self.sockets:
                    next(end for end in self.sockets if end.fileno() == number).close()
                else:
                    os.close(number)

    def fill(self) -> int:
        """Leave no room in standard output, as an earlier write did."""
        filled = 0
        os.set_blocking(self.pipes.write_fd, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(self.pipes.write_fd, b"." * 4096)
        os.set_blocking(self.pipes.write_fd, True)
        return filled

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := os.read(self.out, size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def waiting(self) -> bytes:
        """Everything that was written and not read."""
        os.set_blocking(self.out, False)
        parts: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.out, 65536):
                parts.append(part)
        os.set_blocking(self.out, True)
        return b"".join(parts)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("tailrace-stdin", "tailrace-stdout")]


@pytest.fixture(params=["pipes", "sockets"])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    peer = Peer(request.param == "sockets")
    yield peer
    peer.close(peer.into)  # so that the read returns
    for thread in threads():
        thread.join(30)
        assert not thread.is_alive(), f"{thread.name} outlives its connection"
    peer.close()


async def take(stdio: Stdio, count: int = sys.maxsize) -> list[bytes | Overlong]:
    taken: list[bytes | Overlong] = []
    if count:
        async for line in stdio.lines():
            taken.append(line)
            if len(taken) == count:
                break
    return taken


@contextlib.asynccontextmanager
async def unfinished_write(stdio: Stdio, data: bytes) -> AsyncIterator[asyncio.Task[None]]:
    """A write that stands and waits for room."""
    task = asyncio.create_task(stdio.sink.write(data))
    while stdio._writer._failure is None:
        assert not task.done()
        await asyncio.sleep(0)
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_lines_end_with_either_newline_and_blank_ones_are_skipped(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        os.write(peer.into, b"\none\r\n\r\n \t\ntwo\n\n\xff\rthree\n")
        peer.close(peer.into)
        assert await take(stdio) == [b"one", b"two", b"\xff\rthree"]


async def test_lines_arrive_while_standard_input_stays_open(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        os.write(peer.into, b"one\nha")
        assert await take(stdio, 1) == [b"one"]
        os.write(peer.into, b"lf\n")
        assert await take(stdio, 1) == [b"half"]


async def test_a_last_line_needs_no_newline(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        os.write(peer.into, b"one\ntwo")
        peer.close(peer.into)
        assert await take(stdio) == [b"one", b"two"]
        assert await take(stdio) == []


async def test_leaving_the_lines_loses_none(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        os.write(peer.into, b"1\n2\n3\n4\n")
        peer.close(peer.into)
        assert await take(stdio, 1) == [b"1"]
        assert await take(stdio, 2) == [b"2", b"3"]
        assert await take(stdio) == [b"4"]


async def test_an_overlong_line_is_dropped_and_the_next_one_is_intact(peer: Peer) -> None:
    async with Stdio(peer.pipes, max_line=100_000, max_ahead=1000) as stdio:
        lines = b"x" * 3_000_000, b"y" * 100_000, b"z" * 100_001
        feeder = threading.Thread(target=feed_lines, args=(peer, *lines))
        feeder.start()
        assert await take(stdio) == [Overlong(3_000_000), b"y" * 100_000, Overlong(100_001)]
        feeder.join()


def feed_lines(peer: Peer, *lines: bytes) -> None:
    for line in lines:
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[os.write(peer.into, rest) :]
    peer.close(peer.into)


async def test_a_peer_that_goes_and_leaves_answers_unread_is_the_end_of_the_lines() -> None:
    ours, theirs = socket.socketpair()
    async with Stdio(Pipes(ours.fileno(), ours.fileno())) as stdio:
        await stdio.sink.write(b"an answer\n")
        theirs.close()  # the system says "connection reset" to the reader
        assert await take(stdio) == []
    ours.close()


async def test_input_that_cannot_be_read_is_an_error_and_not_an_end(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    async with Stdio(Pipes(directory, 2)) as stdio:
        with pytest.raises(TransportError, match=r"standard input cannot be read: .*directory"):
            await take(stdio)
    os.close(directory)


async def test_the_reader_stops_when_nobody_takes_its_lines(peer: Peer) -> None:
    line = b"x" * 1000 + b"\n"
    async with Stdio(peer.pipes, max_ahead=100_000) as stdio:
        os.set_blocking(peer.into, False)
        written = 0

        def push() -> bool:
            nonlocal written
            try:
                written += os.write(peer.into, line[written % len(line) :])
            except BlockingIOError:
                return False
            return True

        while stdio._ahead < 100_000 and written < ROOM:
            push()
        while written < ROOM and push():
            pass
        assert written < 1_000_000  # 100,000, a chunk, and what the pipe or socket holds
        os.set_blocking(peer.into, True)
        peer.close(peer.into)
        count, partial = divmod(written, len(line))
        assert await take(stdio) == [line[:-1]] * count + [line[:partial]] * bool(partial)


async def test_many_tiny_lines_count_for_more_than_their_bytes(peer: Peer) -> None:
    async with Stdio(peer.pipes, max_ahead=100_000) as stdio:
        feeder = threading.Thread(target=feed_lines, args=(peer, *[b"1"] * 10_000))
        feeder.start()
        await take(stdio, 1)
        while stdio._ahead < 100_000:
            await asyncio.sleep(0)
        assert len(stdio._lines) * 2 < 100_000 / 2
        assert len(await take(stdio)) == 9_999
        feeder.join()


async def test_close_ends_the_lines_and_lets_both_threads_go(peer: Peer) -> None:
    stdio = Stdio(peer.pipes)
    stdio.start()
    taking = asyncio.create_task(take(stdio))
    await asyncio.sleep(0)
    await stdio.close()
    await stdio.close()
    assert await taking == []
    os.write(peer.into, b"late\n")
    assert await take(stdio) == []  # the fixture asserts that the threads end


async def test_close_lets_a_reader_go_that_waits_for_its_lines_to_be_taken(peer: Peer) -> None:
    async with Stdio(peer.pipes, max_ahead=1) as stdio:
        os.write(peer.into, b"one\ntwo\n")
        while not stdio._ahead:
            await asyncio.sleep(0)
    for thread in threads():
        thread.join(30)
    assert not threads()  # although standard input is still open


async def test_close_drops_lines_that_were_not_taken(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        os.write(peer.into, b"one\ntwo\n")
        assert await take(stdio, 1) == [b"one"]
    assert await take(stdio) == []


async def test_it_starts_once(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        with pytest.raises(RuntimeError):
            stdio.start()


def test_a_loop_that_is_gone_ends_both_threads_quietly(peer: Peer) -> None:
    async def begin() -> Stdio:
        stdio = Stdio(peer.pipes)
        stdio.start()
        peer.fill()
        async with unfinished_write(stdio, b"x"):
            return stdio

    stdio = asyncio.run(begin())
    peer.waiting()  # there is room, and nobody to be told
    os.write(peer.into, b"one\n")
    for thread in threads():
        thread.join(30)
    assert not threads()
    assert stdio._ahead


async def test_a_write_that_fits_never_waits(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        write = stdio.sink.write(b"one\n")
        with pytest.raises(StopIteration):
            write.send(None)
        assert peer.read(4) == b"one\n"


async def test_nothing_is_written_for_nothing(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        await stdio.sink.write(b"")
        assert peer.waiting() == b""


async def test_a_large_write_returns_when_the_peer_took_all_of_it_and_lines_come_in_meanwhile(peer: Peer) -> None:
    data = os.urandom(ROOM)
    async with Stdio(peer.pipes) as stdio:
        async with unfinished_write(stdio, data) as writing:
            os.write(peer.into, b"one\n")
            assert await take(stdio, 1) == [b"one"]
            assert not writing.done()
            assert await asyncio.to_thread(peer.read, len(data)) == data
            await writing
        await stdio.sink.write(b"next")
        assert peer.read(4) == b"next"


async def test_a_large_write_to_a_fast_reader_lets_the_loop_turn(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.transports.stdio._TURN", 1000)
    async with Stdio(peer.pipes) as stdio:
        writing = asyncio.create_task(stdio.sink.write(b"x" * 2500))
        await asyncio.sleep(0)
        assert not writing.done()
        assert peer.waiting() == b"x" * 1000
        await writing
        assert peer.waiting() == b"x" * 1500


async def test_a_peer_that_reads_nothing_costs_the_stall_limit(peer: Peer) -> None:
    async with Stdio(peer.pipes, stall=0.01) as stdio:
        with pytest.raises(TransportError, match=r"read nothing for 0\.01 s"):
            await stdio.sink.write(b"x" * ROOM)
        assert set(peer.waiting()) == set(b"x")
        with pytest.raises(TransportError, match=r"read nothing for 0\.01 s"):  # although there is room now
            await stdio.sink.write(b"y")
        assert peer.waiting() == b""


async def test_a_peer_that_is_gone_is_an_error_at_once(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        peer.close(peer.out)
        for _ in range(2):
            with pytest.raises(TransportError, match="cannot be written"):
                await stdio.sink.write(b"one\n")


async def test_a_peer_that_goes_ends_a_write_that_waits(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio, unfinished_write(stdio, b"x" * ROOM) as writing:
        peer.close(peer.out)
        with pytest.raises(TransportError, match="cannot be written"):
            await writing


async def test_nothing_follows_half_a_frame(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        async with unfinished_write(stdio, b"x" * ROOM) as writing:
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        half = peer.waiting()
        with pytest.raises(TransportError, match="did not finish"):
            await stdio.sink.write(b"y")
        assert set(half) == set(b"x")
        assert peer.waiting() == b""


async def test_a_turn_that_is_cancelled_between_two_parts_of_a_frame_leaves_half_of_it(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.transports.stdio._TURN", 1000)
    async with Stdio(peer.pipes) as stdio:
        writing = asyncio.create_task(stdio.sink.write(b"x" * 2500))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        with pytest.raises(TransportError, match="did not finish"):
            await stdio.sink.write(b"y")
        assert peer.waiting() == b"x" * 1000


async def test_a_write_that_is_cancelled_before_its_first_byte_leaves_the_sink_alive(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        filled = peer.fill()
        for _ in range(3):
            async with unfinished_write(stdio, b"cancelled\n") as writing:
                writing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await writing
            assert stdio._writer._asked.qsize() <= 1  # the thread was asked once
        assert peer.waiting() == b"." * filled
        await stdio.sink.write(b"whole\n")
        assert peer.waiting() == b"whole\n"
        peer.fill()
        async with unfinished_write(stdio, b"and again\n") as writing:
            peer.waiting()
            await writing
        assert peer.waiting() == b"and again\n"


async def test_a_second_write_beside_one_that_waits_is_refused(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        filled = peer.fill()
        async with unfinished_write(stdio, b"first") as writing:
            with pytest.raises(TransportError, match="did not finish"):
                await stdio.sink.write(b"second")
            assert peer.waiting() == b"." * filled
            await writing
        assert peer.waiting() == b"first"


async def test_close_ends_a_write_that_waits(peer: Peer) -> None:
    stdio = Stdio(peer.pipes)
    stdio.start()
    async with unfinished_write(stdio, b"x" * ROOM) as writing:
        await stdio.close()
        with pytest.raises(TransportError, match="closed"):
            await writing
    with pytest.raises(TransportError, match="closed"):
        await stdio.sink.write(b"y")


async def test_a_write_cancelled_in_a_close_leaves_the_sink_closed(peer: Peer) -> None:
    stdio = Stdio(peer.pipes)
    stdio.start()
    peer.fill()
    async with unfinished_write(stdio, b"x") as writing:
        writing.cancel()
        await stdio.close()
        with pytest.raises(asyncio.CancelledError):
            await writing
    peer.waiting()
    with pytest.raises(TransportError, match="closed"):
        await stdio.sink.write(b"y")
    assert peer.waiting() == b""


async def test_an_ended_sink_takes_no_more(peer: Peer) -> None:
    async with Stdio(peer.pipes) as stdio:
        await stdio.sink.write(b"one\n")
        await stdio.sink.end()
        await stdio.sink.end()
        with pytest.raises(TransportError, match="ended"):
            await stdio.sink.write(b"two\n")
        assert peer.waiting() == b"one\n"


async def test_descriptors_that_somebody_else_made_non_blocking_work_as_well(peer: Peer) -> None:
    os.set_blocking(peer.pipes.read_fd, False)
    os.set_blocking(peer.pipes.write_fd, False)
    data = os.urandom(ROOM)
    async with Stdio(peer.pipes) as stdio:
        async with unfinished_write(stdio, data) as writing:
            assert await asyncio.to_thread(peer.read, len(data)) == data
            await writing
        os.write(peer.into, b"one\ntwo\n")
        peer.close(peer.into)
        assert await take(stdio) == [b"one", b"two"]


async def test_a_non_blocking_pipe_without_room_for_the_frame_is_waited_for() -> None:
    """A socket with a little room passes for full; `os.write` says so, not `poll`."""
    peer = Peer(use_sockets=False)
    os.set_blocking(peer.pipes.write_fd, False)
    async with Stdio(peer.pipes) as stdio:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", _refuse)
            async with unfinished_write(stdio, b"one\n") as writing:
                patch.undo()
                await writing
        assert peer.waiting() == b"one\n"
        peer.close(peer.into)
        assert await take(stdio) == []
    peer.close()


def _refuse(fd: int, data: bytes) -> int:
    raise BlockingIOError


# --- lines, pure --------------------------------------------------------------------------------


def split_whole(data: bytes, max_line: int) -> list[bytes | Overlong]:
    """What a splitter shall do, told in the simplest way."""
    lines: list[bytes | Overlong] = []
    for raw in data.split(b"\n"):
        line = raw.removesuffix(b"\r")
        if len(line) > max_line:
            lines.append(Overlong(len(raw)))
        elif line.strip():
            lines.append(line)
    return lines


@given(st.lists(st.lists(st.sampled_from([b"\n", b"\r", b" ", b"a", b"bcd"]), max_size=8).map(b"".join)))
def test_any_chunking_gives_the_same_lines(chunks: list[bytes]) -> None:
    splitter = Splitter(4)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    assert lines + splitter.end() == split_whole(b"".join(chunks), 4)


def test_an_endless_line_takes_no_memory() -> None:
    splitter = Splitter(1000)
    for _ in range(1000):
        assert splitter.feed(b"x" * 999) == []
        assert len(splitter._kept) <= 1001
    assert splitter.feed(b"\nnext\n") == [Overlong(999_000), b"next"]
