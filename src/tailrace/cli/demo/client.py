"""The demo's client process: two sessions, many calls, and a file of what it was promised and what it got.

It reads orders from stdin (``call PREFIX COUNT SECONDS``, ``end``) and says on stdout what happens, one JSON
object a line, for the storyteller to show.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, TextIO

from tailrace.errors import TailraceError
from tailrace.mcp import Client

__all__ = ["main"]


class Caller:
    """One session's calls."""

    def __init__(self, name: str, client: Client, record: TextIO) -> None:
        self.name = name
        self.client = client
        self.record = record

    async def call(self, seat: str, seconds: float) -> None:
        """One call: note when it was accepted (its first progress arrived), and what came of it."""
        accepted = False

        def progress(done: float, total: float | None, message: str | None) -> None:
            nonlocal accepted
            if not accepted:
                accepted = True
                self.note("accepted", seat)
            say(event="progress", session=self.name, seat=seat, done=done)

        try:
            arguments = {"seat": seat, "seconds": seconds}
            result = await self.client.call_tool("reserve", arguments, progress=progress, timeout=60.0)
        except (TailraceError, TimeoutError) as error:
            say(event="failed", session=self.name, seat=seat, why=str(error))
            return
        if not result.is_error:
            self.note("delivered", seat)
        elif (result.meta or {}).get("io.tailrace/outcome") == "unknown":
            self.note("interrupted", seat)
        else:
            say(event="failed", session=self.name, seat=seat, why=str(result.content))

    def note(self, what: str, seat: str) -> None:
        """A line in the client's file, then the news of it."""
        self.record.write(f"{what} {seat}\n")
        self.record.flush()
        say(event=what, session=self.name, seat=seat)


def say(**news: Any) -> None:
    """Tell the storyteller."""
    print(json.dumps(news), flush=True)


async def serve_orders(base: str, record: TextIO) -> None:
    """Open the sessions and do as stdin says."""
    loop = asyncio.get_running_loop()
    streamable = Client(base + "/mcp", era="legacy", on_warning=lambda text: say(event="warning", why=text))
    http_sse = Client(base + "/sse", on_warning=lambda text: say(event="warning", why=text))
    async with streamable, http_sse:
        callers = [Caller("streamable", streamable, record), Caller("sse", http_sse, record)]
        sessions = {caller.name: caller.client.session_id for caller in callers}
        say(event="open", sessions=sessions)
        while (line := await loop.run_in_executor(None, sys.stdin.readline)) and line.strip() != "end":
            _, prefix, count, seconds = line.split()
            calls = [
                callers[number % 2].call(f"{prefix}{number + 1}", float(seconds) * (0.6 + 0.8 * number / int(count)))
                for number in range(int(count))
            ]
            await asyncio.gather(*calls)
            now = {caller.name: caller.client.session_id for caller in callers}
            say(event="done", same=now == sessions)


def main() -> None:
    """``python -m tailrace.cli.demo.client URL FILE``."""
    with open(sys.argv[2], "a", encoding="utf-8") as record:
        asyncio.run(serve_orders(sys.argv[1], record))


if __name__ == "__main__":
    main()
