"""`python -m tests.soak.restarts`: rolling restarts under load, one after the other, and how many calls failed.

The clients are ours and the official SDK's, each in the era asked for; every call counts, and none may fail.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
from mcp import Client as OfficialClient

from tailrace.mcp import Client
from tests.rigs.server import ServerProcess, running_async
from tests.rigs.valkey import Valkey
from tests.soak.launcher import SERVICE

CLIENTS = 4
MS = 20.0
REPLACED = 120.0  # seconds for one restart of all workers


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.restarts", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--store", choices=["valkey", "sqlite"], default="valkey", help="over SQLite there is one worker"
    )
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    workers = options.workers if options.store == "valkey" else 1
    folder = Path(tempfile.mkdtemp(prefix="tailrace-soak-restarts-"))
    with contextlib.ExitStack() as kept:
        store = f"sqlite:{folder}/store.sqlite"
        if options.store == "valkey":
            store = kept.enter_context(Valkey(appendonly="yes", appendfsync="always")).url
        flags = ["--workers", str(workers), "--store", store, "--drain", "10", "--port", "0"]
        command = [sys.executable, "-m", "tailrace", "run", str(SERVICE), *flags]
        env = {"TAILRACE_SOAK_LIFE": str(folder / "life-{pid}.jsonl")}
        async with running_async(command, folder / "log", env=env) as server:
            print(
                f"{options.store}, {workers} workers, {options.times} restarts, {CLIENTS} clients of each kind",
                flush=True,
            )
            counts: dict[str, list[str]] = {}
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for era in ("legacy", "modern"):
                    for kind in ("ours", "official"):
                        said = counts.setdefault(f"{kind} {era}", [])
                        for number in range(CLIENTS):
                            group.create_task(
                                _client(server.url + "/mcp", kind, era, f"{kind}-{era}-{number}", said, stop)
                            )
                for number in range(options.times):
                    began = time.monotonic()
                    await _restart(server)
                    done = sum(map(len, counts.values()))
                    print(f"  {number + 1:>3} after {time.monotonic() - began:4.1f} s, calls {done:,}", flush=True)
                stop.set()
            failed = 0
            for name, said in counts.items():
                bad = [one for one in said if one]
                failed += len(bad)
                print(f"{name}: calls {len(said):,}, failed {len(bad)} {bad[:3] or ''}")
            code = await asyncio.to_thread(server.stop, 60)
            print(f"exit code {code}, records of errors {len(server.records())}")
    return 1 if failed or code else 0


async def _restart(server: ServerProcess) -> None:
    before = {child.pid for child in psutil.Process(server.pid).children()}
    said = server.stderr().count("tailrace workers: restarted")
    server.signal(signal.SIGHUP)
    async with asyncio.timeout(REPLACED):
        while server.stderr().count("tailrace workers: restarted") == said:
            await asyncio.sleep(0.05)
    assert not before & {child.pid for child in psutil.Process(server.pid).children()}
    await asyncio.sleep(0.5)


async def _client(url: str, kind: str, era: str, name: str, said: list[str], stop: asyncio.Event) -> None:
    number = 0
    async with contextlib.AsyncExitStack() as stack:
        call: Callable[[str], Awaitable[Any]]
        if kind == "ours":
            ours = await stack.enter_async_context(Client(url, era="legacy" if era == "legacy" else "modern"))

            async def call_ours(key: str) -> None:
                result = await ours.call_tool("work", {"key": key, "ms": MS}, timeout=60.0)
                assert result.data == f"done {key}", result

            call = call_ours
        else:
            theirs = await stack.enter_async_context(OfficialClient(url, mode="legacy" if era == "legacy" else "auto"))

            async def call_theirs(key: str) -> None:
                result = await theirs.call_tool("work", {"key": key, "ms": MS})
                assert result.structured_content == {"result": f"done {key}"}, result

            call = call_theirs
        while not stop.is_set():
            number += 1
            try:
                await call(f"{name}-{number}")
                said.append("")
            except Exception as error:
                said.append(f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}"[:600])
                await asyncio.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
