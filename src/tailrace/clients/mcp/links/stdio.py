"""A server as a child process: one JSON message a line on its stdin and stdout.

The child is the first of its own process group, and the whole group ends with the link: no orphans.
Its stderr passes through, or goes line by line to a callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from tailrace.errors import LimitError, TransportError

if TYPE_CHECKING:
    from tailrace.clients.mcp.links.link import Outgoing, Receiver
    from tailrace.core.tasks import Tasks
    from tailrace.wire.jsonrpc import RequestId

__all__ = ["StdioCommand", "StdioLink"]

_CHUNK = 65_536  # bytes of one read
_STDERR_LINE = 65_536  # bytes of stderr that are passed on at once, though no line has ended
_EXIT_LIMIT = 1.0  # seconds for a child to exit that has closed its stdout


class StdioCommand(Struct, frozen=True, kw_only=True):
    """How to start a server.

    Attributes:
        command: The program.
        args: Its arguments.
        env: Variables added to this process's own.
        cwd: The folder it starts in; None: this process's own.
        stderr: Called on the loop with each line of the child's stderr; None: it passes through.
    """

    command: str
    args: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    stderr: Callable[[str], object] | None = None


class StdioLink:
    """One child process. Only its own client uses it, on one loop.

    Args:
        command: What to start.
        max_message: Bytes of one message, at most.
    """

    legacy_only = False
    session_id: str | None = None

    def __init__(self, command: StdioCommand, *, max_message: int) -> None:
        self._command = command
        self._max_message = max_message
        self._process: Process | None = None
        self._transport: asyncio.SubprocessTransport
        self._closed = False
        self._receiver: Receiver

    async def open(self, receiver: Receiver, tasks: Tasks) -> None:
        """Start the process."""
        self._receiver = receiver
        command = self._command
        loop = asyncio.get_running_loop()
        try:
            # As create_subprocess_exec does it, which keeps to itself the transport that has to be closed.
            self._transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(limit=_CHUNK, loop=loop),
                command.command,
                *command.args,
                stdin=PIPE,
                stdout=PIPE,
                stderr=_stderr(command),
                env={**os.environ, **(command.env or {})},
                cwd=command.cwd,
                start_new_session=True,  # its own process group; Windows has none and ignores it
            )
        except OSError as error:
            raise TransportError(f"cannot start {command.command!r}: {error.strerror or error}") from error
        self._process = Process(self._transport, protocol, loop)
        tasks.start(self._read(self._process), name="tailrace-client-stdout")
        if self._process.stderr is not None:
            tasks.start(self._read_stderr(self._process.stderr), name="tailrace-client-stderr")

    def establish(self, version: str) -> None:
        """Nothing depends on it here."""

    async def send(self, message: Outgoing) -> None:
        """Write one line, and wait until the pipe takes more; cancelled or not, the line is written whole."""
        stdin = self._process.stdin if self._process is not None else None
        if stdin is None or self._closed or stdin.is_closing():
            raise TransportError("the server process has ended")
        stdin.write(message.data + b"\n")
        try:
            await stdin.drain()
        except OSError as error:
            raise TransportError(f"the server process does not read any more: {error}") from error

    async def cancel(self, id: RequestId, notice: Outgoing) -> None:
        """By the notice."""
        await self.send(notice)

    async def close(self, limit: float) -> None:
        """Close its stdin; after 2/5 of the limit send SIGTERM, after as much again SIGKILL; reap it."""
        process, self._process = self._process, None
        self._closed = True
        if process is None:
            return
        try:
            if process.stdin is not None:
                process.stdin.close()
            if not await _exits(process, limit * 2 / 5):
                _signal_group(process, _TERMINATE)
                await _exits(process, limit * 2 / 5)
        finally:  # also when cancelled: nothing of the group stays behind
            _signal_group(process, _KILL)
            self._transport.close()  # also where a process that left the group keeps the pipes open
        await _exits(process, limit / 5)

    # --- reading ---

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        lines = Lines(self._max_message)
        try:
            while chunk := await process.stdout.read(_CHUNK):
                for line in lines.feed(chunk):
                    self._receiver.receive(line)
            await _exits(process, _EXIT_LIMIT)
            self._lose(TransportError(f"the server process ended ({_describe_exit(process)}); its stderr may say why"))
        except (LimitError, OSError) as error:
            self._lose(error)
            while await process.stdout.read(_CHUNK):
                pass  # a child that cannot write would not end when asked to

    async def _read_stderr(self, stderr: asyncio.StreamReader) -> None:
        tell = self._command.stderr
        assert tell is not None
        rest = b""
        while chunk := await stderr.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _STDERR_LINE:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._tell(tell, line)
        if rest:
            self._tell(tell, rest)

    def _tell(self, tell: Callable[[str], object], line: bytes) -> None:
        try:
            tell(line.decode("utf-8", "replace").rstrip("\r"))
        except Exception as error:
            self._receiver.warn(f"the stderr callback failed: {error!r}")

    def _lose(self, error: Exception) -> None:
        if not self._closed:
            self._receiver.lose(error)


class Lines:
    """Cuts a byte stream into its lines, in linear time whatever the chunks.

    Args:
        max_line: Bytes of one line, at most.
    """

    __slots__ = ("_max_line", "_parts", "_size")

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes; blank ones are left out.

        Raises:
            LimitError: A line is too long; the stream cannot be read on.
        """
        first, *others = chunk.split(b"\n")
        self._parts.append(first)
        self._size += len(first)
        lines: list[bytes] = []
        if self._size <= self._max_line and others:
            lines = [b"".join(self._parts), *others[:-1]]
            self._parts = [others[-1]]
            self._size = len(others[-1])
        if self._size > self._max_line:
            raise LimitError(
                "max_message",
                f"the server sent a message of more than {self._max_line} bytes; allow more by max_message=",
            )
        return [line for line in lines if line.strip()]


# --- processes ----------------------------------------------------------------------------------

_TERMINATE = signal.SIGTERM
_KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL


def _stderr(command: StdioCommand) -> int | None:
    if command.stderr is not None:
        return PIPE
    try:
        sys.__stderr__.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return DEVNULL  # a process without a stderr of its own
    return None


async def _exits(process: Process, limit: float) -> bool:
    """Wait for the exit, at most `limit` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await process.wait()
    return process.returncode is not None


def _signal_group(process: Process, number: signal.Signals) -> None:
    """Signal the child and all that it started; once it is reaped, only what it left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform != "win32":
            os.killpg(process.pid, number)
        elif process.returncode is None:
            process.send_signal(number)


def _describe_exit(process: Process) -> str:
    code = process.returncode
    if code is None:
        return "its stdout is closed"
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
