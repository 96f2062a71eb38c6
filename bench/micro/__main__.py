"""Run the microbenchmarks: `python -m bench.micro [--seconds 0.3]`. Prints microseconds of CPU beside the budgets."""

from __future__ import annotations

import argparse
import inspect
import platform
import time

import uvloop

from bench.micro.layers import LAYERS, Layer, Repeated

_ROUNDS = 5


async def _measure(layer: Layer, seconds: float) -> float:
    """Microseconds of one repetition: the best of a few rounds, for noise only ever adds."""
    work = await layer.prepare()
    n = 64
    while (took := await _time(work, n)) < seconds / 10:
        n *= 4
    n = max(64, int(n * seconds / took) // 8 * 8)
    return min([await _time(work, n) for _ in range(_ROUNDS)]) / n * 1e6


async def _time(work: Repeated, n: int) -> float:
    began = time.process_time()
    pending = work(n)
    if inspect.isawaitable(pending):
        await pending
    return time.process_time() - began


async def _main(seconds: float) -> None:
    print(f"Python {platform.python_version()}; best of {_ROUNDS} rounds of {seconds:g} s; µs of CPU\n")
    print("| layer | µs | budget |\n|---|---:|---:|")
    for layer in LAYERS:
        spent = await _measure(layer, seconds)
        print(f"| {layer.name} | {spent:.2f} | {'-' if layer.budget is None else f'{layer.budget:g}'} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description="What one layer costs.")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each round")
    uvloop.run(_main(parser.parse_args().seconds))
