"""`python -m tests.fuzz [TARGET ...] [--seconds N] [--seed N] [--engine own|atheris]`."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import zlib
from pathlib import Path

from tests.fuzz.engine import fuzz
from tests.fuzz.targets import TARGETS

FOUND = Path("build/fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="of the own engine; printed, for a repetition")
    parser.add_argument("--engine", choices=("own", "atheris"), default="own", help="atheris: pip install atheris")
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    logging.basicConfig(level=logging.CRITICAL)
    names = options.targets or list(TARGETS)
    if options.engine == "atheris":
        from tests.fuzz.guided import guide

        if len(names) != 1:
            parser.error("atheris ends its process with its run: name one target")
        return guide(TARGETS[names[0]], options.seconds, FOUND)
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    findings = 0
    print(f"{'target':<12} {'seconds':>8} {'executions':>11} {'outcomes':>9} {'kept':>6} {'findings':>9}", flush=True)
    for name in names:
        target = TARGETS[name]()
        result = fuzz(target, options.seconds, seed)
        target.close()
        findings += len(result.findings)
        print(
            f"{name:<12} {result.seconds:>8.1f} {result.executions:>11,} {result.outcomes:>9,} {result.kept:>6,}"
            f" {len(result.findings):>9}",
            flush=True,
        )
        for data, error in result.findings:
            FOUND.mkdir(parents=True, exist_ok=True)
            path = FOUND / f"{name}-{zlib.crc32(data):08x}"
            path.write_bytes(data)
            print(f"  {path}: {data[:200]!r}\n    {error}", file=sys.stderr)
    print(f"seed {seed}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
