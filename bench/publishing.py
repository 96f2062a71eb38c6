"""What publishing costs a caller: `python -m bench.publishing [--seconds 5] [--rounds 5]`, with a real Kafka.

Durable calls over HTTP+SSE on SQLite, eight in flight: medians with and without a publish, and of publishing calls
while the broker is up and while it is stopped. The cases take turns, round after round; ratios are of the medians of
all rounds. The load is made by our own client in pure Python, so the calls are slower than they would be alone and the
ratios, if anything, too low: the CPU of the server's process is printed as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tailrace.mcp import Client
from tests.rigs.kafka import Broker, Missing, running_broker
from tests.rigs.server import ServerProcess, running, tailrace_command

SERVICE = """
from tailrace import Context, Service

svc = Service("shop")

@svc.tool
async def plain(item: str) -> str:
    return item

@svc.tool
async def publishing(ctx: Context, item: str) -> str:
    await ctx.publish("orders", {"item": item}, key=item)
    return item
"""
CALLERS = 8


async def measure(server: ServerProcess, tool: str, seconds: float) -> tuple[list[float], float]:
    """Latencies of calls in seconds, and the server's CPU seconds for each."""
    latencies: list[float] = []
    process = psutil.Process(server.pid)

    async def calls(caller: int) -> None:
        async with Client(server.url + "/sse", transport="sse") as client:
            number = 0
            while time.perf_counter() < until:
                began = time.perf_counter()
                result = await client.call_tool(tool, {"item": f"{caller}-{number}"})
                latencies.append(time.perf_counter() - began)
                assert result.data == f"{caller}-{number}"
                number += 1

    until = time.perf_counter() + seconds
    used = sum(process.cpu_times()[:2])
    await asyncio.gather(*(calls(caller) for caller in range(CALLERS)))
    return latencies, (sum(process.cpu_times()[:2]) - used) / len(latencies)


async def rounds(server: ServerProcess, broker: Broker, seconds: float, count: int) -> dict[str, list[list[float]]]:
    """All cases in turn."""
    found: dict[str, list[list[float]]] = {"plain": [], "publishing": [], "publishing, broker stopped": []}
    cpu: dict[str, list[float]] = {case: [] for case in found}
    await measure(server, "publishing", 1.0)
    for number in range(count):
        for case in found:
            stopped = case.endswith("stopped")
            if stopped:
                await asyncio.to_thread(broker.kill)
            latencies, each = await measure(server, case.split(",")[0], seconds)
            found[case].append(latencies)
            cpu[case].append(each)
            if stopped:
                await asyncio.to_thread(broker.start)
                await asyncio.sleep(3.0)  # what waited is delivered before the next case
            print(f"{number + 1}/{count} {case:28} median {statistics.median(latencies) * 1e3:.2f} ms, "
                  f"{each * 1e6:.0f} us CPU, {len(latencies)} calls", flush=True)  # fmt: skip
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.publishing", description="What publishing costs a caller.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        service = Path(folder) / "shop.py"
        service.write_text(SERVICE)
        try:
            with running_broker(Path(folder)) as broker:
                command = tailrace_command(
                    service, "--publish", f"kafka://{broker.address}", store=f"sqlite:{folder}/s.db"
                )
                with running(command, Path(folder) / "stderr") as server:
                    found = asyncio.run(rounds(server, broker, given.seconds, given.rounds))
        except Missing as missing:
            print(f"missing: {missing.args[0]}: {missing.args[1]}", file=sys.stderr)
            return 1
    medians = {case: statistics.median(value for part in parts for value in part) for case, parts in found.items()}
    ratios = {
        "with / without publish": medians["publishing"] / medians["plain"],
        "broker stopped / up": medians["publishing, broker stopped"] / medians["publishing"],
    }
    print(
        json.dumps({"medians_ms": {case: value * 1e3 for case, value in medians.items()}, "ratios": ratios}, indent=1)
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
