"""What the demo does and how it tells of it: start, call, cut, kill, restart, end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tailrace.cli.demo.proxy import Proxy

if TYPE_CHECKING:
    from rich.console import Console

    from tailrace.cli.demo.count import Count

__all__ = ["Story", "show_count"]

_CALLS = 20
_LIMIT = 20.0  # seconds for any one step


class Story:
    """One run of the demo.

    Args:
        console: Where it is told.
        folder: Where the two processes write their files.
    """

    def __init__(self, console: Console, folder: Path) -> None:
        self.console = console
        self.folder = folder
        self.news: Counter[str] = Counter()
        self.sessions: dict[str, str] = {}
        self.same_sessions = True
        self._began = time.monotonic()
        self._server: asyncio.subprocess.Process | None = None
        self._port = 0

    async def tell(self) -> None:
        """The whole of it. Raises what keeps it from being run; the count is the caller's."""
        say = self.say
        self.console.print(
            "\n[bold]Tailrace demo: calls that outlive their connections[/]\n"
            "[dim]A server and a client, two processes. The client reserves seats, one a call.[/]\n",
            soft_wrap=True,
        )
        await self._start_server()
        proxy = Proxy(self._port)
        await proxy.start()
        client = await self._start_client(proxy.port)
        try:
            await self._wait(client, lambda: bool(self.sessions))
            say("server", f"process {self._pid()} is up; every promise goes into SQLite before it is given")
            say("client", f"process {client.pid} has two sessions: Streamable HTTP and HTTP+SSE")

            await self._order(client, "A", 2.0)
            await self._wait(client, lambda: self.news["accepted"] >= _CALLS)
            say("client", f"{_CALLS} calls are in flight, all accepted")
            await asyncio.sleep(0.3)
            say("cut", f"all {proxy.cut()} connections are cut, in mid-call", "bold yellow")
            await self._wait(client, lambda: self.news["done"] >= 1)
            say("client", f"reconnected and resumed: {self.news['delivered']} answers, each exactly once")

            await self._order(client, "B", 3.0)
            await self._wait(client, lambda: self.news["accepted"] >= 2 * _CALLS)
            await self._order_late(client)
            proxy.down = True
            say(
                "cut",
                f"all {proxy.cut()} connections are cut, and stay down; {self._heard_b()} of 20 answered so far",
                "bold yellow",
            )
            await asyncio.sleep(1.0)
            say(
                "kill", f"kill -9 of process {self._pid()}: some calls have ended unheard, some are running", "bold red"
            )
            self._kill()
            heard = self._heard_b()
            await self._start_server()
            say("server", f"started again as process {self._pid()}, on the same SQLite file")
            proxy.down = False
            await self._wait(client, lambda: self.news["done"] >= 2)
            same = "the same two sessions" if self.same_sessions else "NEW sessions"
            waiting, told = self._heard_b() - heard, self.news["interrupted"]
            say("client", f"went on in {same}: {waiting} answers were waiting, {told} calls were told of the kill")
            await self._end_client(client)
        finally:
            await self._clean_up(client, proxy)

    def say(self, who: str, what: str, style: str = "cyan") -> None:
        """One line of the story."""
        self.console.print(
            f"[dim]{time.monotonic() - self._began:5.1f} s[/]  [{style}]{who:>6}[/]  {what}", soft_wrap=True
        )

    # --- the two processes ---

    async def _start_server(self) -> None:
        """Start it, and wait for its ready line; the port stays the same over a restart."""
        here = Path(__file__).with_name("service.py")
        self._server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tailrace", "run", str(here), "--port", str(self._port),
            "--store", f"sqlite:{self.folder / 'store.sqlite'}", "--drain", "5",
            env=os.environ | {"TAILRACE_DEMO_EXECUTED": str(self.folder / "executed.log")},
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        stderr = self._server.stderr
        assert stderr is not None
        seen: list[str] = []
        async with asyncio.timeout(_LIMIT):
            while line := (await stderr.readline()).decode():
                seen.append(line)
                if line.startswith("tailrace ready url="):
                    self._port = int(line.split("url=")[1].split()[0].rsplit(":", 1)[1])
                    return
        raise RuntimeError("the server did not start: " + " ".join(seen)[-500:])

    async def _start_client(self, port: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tailrace.cli.demo.client", f"http://127.0.0.1:{port}",
            str(self.folder / "client.log"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def _order(self, client: asyncio.subprocess.Process, prefix: str, seconds: float) -> None:
        assert client.stdin is not None
        client.stdin.write(f"call {prefix} {_CALLS} {seconds}\n".encode())
        await client.stdin.drain()

    async def _order_late(self, client: asyncio.subprocess.Process) -> None:
        """Let some of the effects happen, so that the kill meets calls before and after theirs."""
        before = self.news["reserved"]
        await self._wait(client, lambda: self.news["reserved"] >= before + 2 * _CALLS // 3)

    async def _end_client(self, client: asyncio.subprocess.Process) -> None:
        assert client.stdin is not None
        client.stdin.write(b"end\n")
        async with asyncio.timeout(_LIMIT):
            await client.wait()

    def _kill(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGKILL)

    def _pid(self) -> int:
        return self._server.pid if self._server is not None else 0

    async def _clean_up(self, client: asyncio.subprocess.Process, proxy: Proxy) -> None:
        if client.returncode is None:
            client.kill()
        if self._server is not None and self._server.returncode is None:
            self._server.terminate()
            try:
                async with asyncio.timeout(8.0):
                    code = await self._server.wait()
                self.say("server", f"asked to stop (SIGTERM): exit code {code}")
            except TimeoutError:
                self._server.kill()
        await proxy.close()

    # --- the news ---

    async def _wait(self, client: asyncio.subprocess.Process, until: Callable[[], bool]) -> None:
        """Read the client's news until something has come true."""
        assert client.stdout is not None
        async with asyncio.timeout(_LIMIT):
            while not until():
                line = await client.stdout.readline()
                if not line:
                    raise RuntimeError(f"the client ended early, exit code {await client.wait()}")
                self._hear(json.loads(line))

    def _hear(self, news: dict[str, Any]) -> None:
        event = news["event"]
        self.news[event] += 1
        if event == "open":
            self.sessions = news["sessions"]
        elif event == "done":
            self.same_sessions = self.same_sessions and news["same"]
        elif event == "progress" and news["done"] == 3:
            self.news["reserved"] += 1
        elif event == "failed":
            self.say("client", f"[red]{news['session']} {news['seat']}: {news['why']}[/]")

    def _heard_b(self) -> int:
        """Answers to the calls of the second act."""
        return self.news["delivered"] - _CALLS


def show_count(console: Console, counted: Count) -> int:
    """The table, and the exit code: 0 if nothing was lost or doubled and the files agree, else 1."""
    table = Table(title="\nCounted from the two processes' own files", title_justify="left", show_header=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row(str(counted.accepted), "accepted: the client was promised an answer")
    table.add_row(str(counted.executed), "executed: seats the tool reserved (its own file)")
    table.add_row(str(counted.delivered), "delivered: answers the client received")
    table.add_row(str(counted.interrupted), "interrupted by the kill, and told so (outcome unknown)")
    table.add_row(_number(len(counted.lost)), "lost")
    table.add_row(_number(len(counted.doubled)), "doubled")
    console.print(table)
    for problem in counted.contradictions:
        console.print(f"[bold red]The files contradict each other:[/] {problem}")
    if counted.good:
        console.print("[bold green]Nothing was lost, nothing was doubled.[/]\n")
        return 0
    console.print("[bold red]This is not as it should be.[/]\n")
    return 1


def _number(number: int) -> str:
    return f"[green]{number}[/]" if number == 0 else f"[bold red]{number}[/]"
