"""What publishing costs a caller: `python -m bench.publishing [--seconds 4] [--rounds 5]`, with a real Kafka.

Durable calls over HTTP+SSE on SQLite, eight callers: without a publish, with one, and with one while the broker is
stopped; the relay delivers meanwhile. First each caller calls again as soon as it has its answer (saturated), then all
kinds come at the same pace: half the rate that publishing calls reached. The cases take turns, round after round; each
ratio is of two medians over all rounds of one run. The Go program of `make bench` makes the load; the CPU time is that
of the server's process, read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import drive
from bench.servers import Missing as NoGo
from bench.servers import build_load
from tailrace.mcp import Client
from tests.rigs.kafka import Broker, Missing, running_broker
from tests.rigs.server import ServerProcess, running, tailrace_command

__all__ = ["main"]

SERVICE = """
from tailrace import Context, Service

svc = Service("shop")

@svc.tool
async def echo(text: str) -> str:
    return text

@svc.tool
async def publish(ctx: Context, text: str) -> str:
    await ctx.publish("orders", {"text": text}, key=text)
    return text

@svc.tool
async def waiting() -> int:
    return svc.statistics()["outbox"]["waiting"]
"""
PLAIN, PUBLISHING, STOPPED = "plain", "publishing", "publishing, broker stopped"
CASES = {PLAIN: "echo", PUBLISHING: "publish", STOPPED: "publish"}
_AFTERMATH = 2.0  # seconds in which the kernel writes what the killed broker left, to the disk that commits need
_PATIENCE = 120.0  # seconds for the relay to catch up
_FIGURES = ("rps", "cpu_us", "p50_us", "p90_us", "p99_us")


@dataclass
class Bench:
    """One server, one broker, and what was measured: by pace and case, a figure for each round."""

    server: ServerProcess
    broker: Broker
    load: Path
    seconds: float
    found: defaultdict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def round(self, pace: str, rate: float) -> None:
        """Each case once; the broker is stopped for its own, and catches up before the next."""
        for case, tool in CASES.items():
            if case == STOPPED:
                self.broker.kill()
                time.sleep(_AFTERMATH)
            flags = [f"-era=sse -url={self.server.url}/sse -tool={tool} -clients=8 -warmup=500ms"]
            flags += [f"-seconds={self.seconds}s -rate={rate}"]
            sample = drive(
                [str(self.load), "-paced", *" ".join(flags).split()], self.server.pid, self.seconds + _PATIENCE
            )
            if case == STOPPED:
                self.broker.start()
            asyncio.run(self._caught_up())
            if sample["failed"] or sample["wrong"]:
                raise RuntimeError(f"{case}: {sample}")
            self.found[pace, case].append(sample)
            print(f"{pace:10} {case:27}", *(f"{name} {sample[name]:8.0f}" for name in _FIGURES), flush=True)

    async def _caught_up(self) -> None:
        until = time.monotonic() + _PATIENCE
        async with Client(self.server.url + "/mcp") as client:
            while (await client.call_tool("waiting")).data:
                if time.monotonic() > until:
                    raise RuntimeError("the relay does not catch up")
                await asyncio.sleep(0.1)

    def median(self, pace: str, case: str, figure: str) -> float:
        return statistics.median(sample[figure] for sample in self.found[pace, case])


def summary(bench: Bench, load_average: float) -> Mapping[str, Any]:
    """Medians of the rounds, and the ratios that there are bars for."""
    paces = list(dict.fromkeys(pace for pace, _ in bench.found))
    medians = {
        pace: {case: {name: round(bench.median(pace, case, name)) for name in _FIGURES} for case in CASES}
        for pace in paces
    }
    ratios = {
        pace: {
            f"{figure}: {above} / {below}": round(
                bench.median(pace, above, figure) / bench.median(pace, below, figure), 2
            )
            for above, below in ((PUBLISHING, PLAIN), (STOPPED, PUBLISHING))
            for figure in ("p50_us", "p90_us", "cpu_us")
        }
        for pace in paces
    }
    return {"cores": os.cpu_count(), "load average before": load_average, "medians": medians, "ratios": ratios}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.publishing", description="What publishing costs a caller.")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    load_average = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        service = Path(folder) / "shop.py"
        service.write_text(SERVICE)
        try:
            load = build_load()
            with running_broker(Path(folder)) as broker:
                where = f"sqlite:{folder}/s.db"
                command = tailrace_command(service, "--publish", f"kafka://{broker.address}", store=where)
                with running(command, Path(folder) / "stderr") as server:
                    bench = Bench(server, broker, load, given.seconds)
                    for _ in range(given.rounds):
                        bench.round("saturated", 0)
                    rate = round(bench.median("saturated", PUBLISHING, "rps") / 2)
                    for _ in range(given.rounds):
                        bench.round("paced", rate)
        except Missing as missing:
            print(f"missing: {missing.args[0]}: {missing.args[1]}", file=sys.stderr)
            return 1
        except NoGo as missing:
            print(f"missing: {missing}", file=sys.stderr)
            return 1
    print(json.dumps(summary(bench, load_average), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
