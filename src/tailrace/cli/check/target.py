"""What is checked: an address, a command, or a command that serves an address; and the ways it can be spoken to.

A server that was started here can be started again: trials that end it begin the next one with a fresh process.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tailrace.cli.check.http import RawConnection
from tailrace.cli.check.model import Failed, Way
from tailrace.cli.check.pipes import Stdio
from tailrace.cli.check.process import Process
from tailrace.cli.check.shared_stream import HttpSse
from tailrace.cli.check.streamable import MODERN, Modern, Streamable
from tailrace.cli.check.talk import Conversation, shorten

__all__ = ["Target", "free_port"]

_START_WITHIN = 30.0  # seconds until a started server must listen
_PROBE = 5.0  # seconds a question about the ways may take
_POLL = 0.05


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Target:
    """The server.

    Args:
        url: Where it serves; None for stdio. Without a path, `/mcp`, `/sse` and `/` are tried.
        command: How to start it; None if it runs already.
        folder: For what it prints.
        environment: What a started server is told, beside the environment of this process.

    Attributes:
        ways: The ways that it answers in, each with its address; found by `discover`.
        process: The one that serves now; None if it was not started here, and over stdio.
    """

    def __init__(
        self, url: str | None, command: Sequence[str] | None, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.url = url
        self.command = command
        self.ways: dict[Way, str] = {}
        self.process: Process | None = None
        self._log = folder / "server.log"
        self._environment = environment
        self._talking: list[Stdio] = []

    @property
    def title(self) -> str:
        """For people."""
        return " ".join(filter(None, (self.url, "-- " + " ".join(self.command) if self.command else "")))

    @property
    def started_here(self) -> bool:
        return self.command is not None

    async def start(self) -> None:
        """Start it if it was given as a command, and does not run; over stdio each conversation starts its own.

        Raises:
            Failed: It ended, or does not listen in time.
        """
        if self.url is None or self.command is None or (self.process is not None and self.process.alive):
            return
        await self._await_free_port()
        self.process = Process(self.command, self._log, self._environment, pipes=False)
        await self.process.start()
        until = asyncio.get_running_loop().time() + _START_WITHIN
        while asyncio.get_running_loop().time() < until:
            if not self.process.alive:
                last = (self.process.last_lines(1) or ["it printed nothing"])[0]
                raise Failed(f"the command ended with {self.process.code}: {shorten(last)}")
            if await self.listens():
                return
            await asyncio.sleep(_POLL)
        raise Failed(f"nobody listens at {self.url} after {_START_WITHIN:g} s")

    async def _await_free_port(self) -> None:
        """Another server at the same address would be checked in place of ours."""
        for _ in range(20):
            if not await self.listens():
                return
            await asyncio.sleep(0.1)
        raise Failed(f"something else listens at {self.url}; stop it, or leave out the command")

    async def listens(self) -> bool:
        """Whether connections are accepted."""
        assert self.url is not None
        with suppress(Failed):
            async with RawConnection(self.url):
                return True
        return False

    async def restart(self) -> None:
        """End it, whatever it does, and start it anew."""
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """End what was started."""
        for stdio in self._talking:
            await stdio.close()
        self._talking.clear()
        if self.process is not None:
            await self.process.stop()
            self.process = None

    def last_lines(self) -> list[str]:
        """What the server printed last."""
        return Process([], self._log, {}, pipes=False).last_lines()

    def conversation(self, way: Way) -> Conversation:
        """A new client, not open yet."""
        if way is Way.STDIO:
            assert self.command is not None
            stdio = Stdio(Process(self.command, self._log, self._environment, pipes=True))
            self._talking.append(stdio)
            return stdio
        classes = {Way.STREAMABLE: Streamable, Way.SSE: HttpSse, Way.MODERN: Modern}
        return classes[way](self.ways[way])

    # --- ways -------------------------------------------------------------------------------------

    async def discover(self, wanted: Sequence[Way]) -> None:
        """Find the ways it answers in.

        Args:
            wanted: Look for these only; empty: all.

        Raises:
            Failed: There is none; says what each attempt got.
        """
        if self.url is None:
            self.ways = {Way.STDIO: ""}
            return
        await self._begin()
        complaints: dict[str, str] = {}
        for url in self._candidates():
            for way in (Way.STREAMABLE, Way.MODERN, Way.SSE):
                if way in self.ways or (wanted and way not in wanted):
                    continue
                try:
                    async with asyncio.timeout(_PROBE):
                        await self._probe(way, url)
                except (Failed, TimeoutError) as error:
                    complaints[f"{way.value} at {url}"] = str(error) or f"no answer within {_PROBE:g} s"
                else:
                    self.ways[way] = url
        if not self.ways:
            said = "".join(f"\n  {where}: {why}" for where, why in complaints.items())
            raise Failed(f"no MCP server answers at {self.url}:{said}")
        self.ways = {way: self.ways[way] for way in Way if way in self.ways}

    async def _begin(self) -> None:
        """Wait until a server that was started here says anything: some listen long before they serve."""
        if self.process is None:
            return
        assert self.url is not None
        with suppress(Failed):
            async with RawConnection(self.url) as connection:
                await connection.send("GET", "/healthz")  # whatever the answer is
                await connection.read_head(_START_WITHIN)

    def _candidates(self) -> list[str]:
        assert self.url is not None
        parts = urlsplit(self.url)
        if parts.path.strip("/"):
            return [self.url]
        return [urlunsplit(parts._replace(path=path)) for path in ("/mcp", "/sse", "/")]

    async def _probe(self, way: Way, url: str) -> None:
        if way is Way.MODERN:
            answer = await Modern(url).ask("server/discover", limit=_PROBE)
            if MODERN not in answer.get("result", {}).get("supportedVersions", ()):
                raise Failed(f"server/discover was answered with {shorten(answer)}")
            return
        client = Streamable(url) if way is Way.STREAMABLE else HttpSse(url)
        await client.open()
        await client.close()
