"""A TCP proxy that breaks connections on purpose: late, in the middle of a byte stream, silently, or on one side only.

A function gives every connection its plan and the proxy keeps a record of what passed. It knows nothing of HTTP:
cuts fall anywhere, also inside a header, a chunk size or a UTF-8 character.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Fault: TypeAlias = Literal["rst", "fin", "black-hole", "half-close"]
_RST = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one connection. Bytes are counted in the direction server -> client, unless it says otherwise.

    Attributes:
        cut_after: The fault strikes once exactly this many bytes have passed; None: never.
        cut_up_after: The same of bytes client -> server, e.g. in the middle of a request.
        fault: `rst` resets both sides; `fin` closes both in order; `black-hole` passes nothing more in either direction
            and keeps both open; `half-close` ends the direction server -> client and lets the other go on.
        delay: Seconds before each piece is passed on, server -> client.
        piece: At most this many bytes in one write, so that frames arrive in fragments; in both directions.
        chance: A seed: pieces have any size up to `piece`, so that boundaries fall anywhere; 0: they are full.
        refuse: Reset at once, without asking the server.
        parting: Sent to the client before the fault, as if the server had ended in order.
    """

    cut_after: int | None = None
    fault: Fault = "rst"
    delay: float = 0.0
    piece: int = 65_536
    refuse: bool = False
    parting: bytes = b""
    cut_up_after: int | None = None
    chance: int = 0

    def sizes(self) -> Iterator[int]:
        """How many bytes each piece has at most."""
        own = random.Random(self.chance)
        while True:
            yield own.randint(1, self.piece) if self.chance else self.piece


@dataclass(slots=True)
class Passed:
    """The record of one connection.

    `cut_after` begins as the plan's, and may be set at any time while bytes pass, e.g. to `down + 500`. `port` is the
    client's, by which its process can be known.
    """

    index: int
    plan: Plan
    cut_after: int | None
    port: int = 0
    up: int = 0  # bytes client -> server
    down: int = 0  # bytes server -> client
    tail: bytes = b""  # the last of them, at most 4 KiB
    struck: bool = False  # the fault happened
    closed: asyncio.Event = field(default_factory=asyncio.Event)


Planner: TypeAlias = Callable[[int], Plan]


class Proxy:
    """Listens on `port` and connects to `target_port`, both on loopback. Use `running_proxy`.

    `plan` may be replaced at any time; it is asked once a connection, with the connection's number (0, 1, 2…) among
    `connections`.
    `target_port` may be replaced as well (a server that restarts on another port).
    """

    def __init__(self, target_port: int, plan: Planner) -> None:
        self.target_port = target_port
        self.plan = plan
        self.port = 0
        self.connections: list[Passed] = []
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], Passed] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, where: Callable[[Passed], bool] = lambda _: True) -> None:
        """End connections there are, in both directions: all, or those `where` it is true."""
        for task, passed in list(self._tasks.items()):
            if where(passed):
                task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: `start_server` reports the cancellation of its own tasks as an error before Python 3.12.
        _, port = writer.get_extra_info("peername") or ("", 0)
        passed = Passed(len(self.connections), Plan(), None, port)
        self.connections.append(passed)
        passed.plan = self.plan(passed.index)
        passed.cut_after = passed.plan.cut_after
        task = asyncio.create_task(self._connected(passed, reader, writer))
        self._tasks[task] = passed
        task.add_done_callback(lambda _: self._ended(task, writer))

    def _ended(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        passed = self._tasks.pop(task)
        if not passed.closed.is_set():  # it was cut before it began
            _close(writer, hard=passed.plan.refuse)
            passed.closed.set()

    async def _connected(self, passed: Passed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            if passed.plan.refuse:
                passed.struck = True
                return
            from_server, upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
            await self._pass_both(passed, reader, writer, from_server, upstream)
        except OSError:
            pass  # either side broke by itself: that is what this is for
        finally:
            hard = (passed.struck and passed.plan.fault == "rst") or passed.plan.refuse
            for end in (writer, upstream):
                if end is not None:
                    _close(end, hard=hard)
            passed.closed.set()

    async def _pass_both(
        self,
        passed: Passed,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        to_client.transport.set_write_buffer_limits(0)  # drain() then means "handed to the kernel": the count is exact
        up = asyncio.create_task(self._pass_up(passed, from_client, to_server))
        down = asyncio.create_task(self._pass_down(passed, from_server, to_client))
        try:
            # Whoever ends first ends the connection, but for a half-close, after which the client may go on talking.
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            cut_below = passed.struck and passed.plan.cut_up_after is None
            if down.done() and cut_below and passed.plan.fault == "half-close":
                await up
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _pass_up(self, passed: Passed, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        plan, sizes = passed.plan, passed.plan.sizes()
        while data := await source.read(next(sizes)):
            if passed.struck and plan.fault == "black-hole":
                continue
            if plan.cut_up_after is not None:
                data = data[: plan.cut_up_after - passed.up]
            passed.up += len(data)
            sink.write(data)
            await sink.drain()
            if passed.up == plan.cut_up_after:
                passed.struck = True
                if plan.fault == "half-close":
                    sink.write_eof()
                elif plan.fault != "black-hole":
                    return
                await asyncio.Event().wait()  # nothing more goes up

    async def _pass_down(self, passed: Passed, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        plan, sizes = passed.plan, passed.plan.sizes()
        while passed.cut_after is None or passed.down < passed.cut_after:
            data = await source.read(next(sizes))
            if not data:
                return
            if plan.delay:
                await asyncio.sleep(plan.delay)
            if passed.cut_after is not None:  # it may have been set while this was on its way
                data = data[: max(0, passed.cut_after - passed.down)]
            sink.write(data)
            await sink.drain()
            passed.down += len(data)
            passed.tail = (passed.tail + data)[-4096:]
        passed.struck = True
        if plan.parting:
            sink.write(plan.parting)
            await sink.drain()
        if plan.fault == "half-close":
            sink.write_eof()
        elif plan.fault == "black-hole":
            await asyncio.Event().wait()  # both stay open until the proxy closes, or the client does


def _close(writer: asyncio.StreamWriter, *, hard: bool) -> None:
    if hard:
        raw = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        writer.transport.abort()
    else:
        writer.close()


@contextlib.asynccontextmanager
async def running_proxy(target_port: int, plan: Planner = lambda _: Plan()) -> AsyncIterator[Proxy]:
    """A proxy in front of `target_port`; everything it holds open is closed on the way out."""
    proxy = Proxy(target_port, plan)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
