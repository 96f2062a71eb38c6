"""`python -m tests.soak`: the long proofs, side by side in worker processes.

It prints the table, or JSON; exit code 1 for a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.soak.cuts import cuts
from tests.soak.kills import kills
from tests.soak.lanes import Lane
from tests.soak.launcher import ROOT
from tests.soak.recount import Counts, recount
from tests.soak.storms import storms

PROOFS = {"cuts": (cuts, 1000), "kills": (kills, 1000), "storms": (storms, 200)}
COLUMNS = ("rounds", "lives", "accepted", "executed", "delivered", "withdrawn", "lost", "doubled", "interrupted",
           "in_flight", "opened", "closed", "alive", "unpaired", "leaked", "unclean")  # fmt: skip
LIMIT = 1800.0  # seconds for one proof


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("proofs", nargs="*", choices=[*PROOFS, []], help="which ones; all by default")
    parser.add_argument("--tenth", action="store_true", help="a tenth of the rounds, as the tests do it")
    parser.add_argument("--rounds", type=int, help="so many rounds of each")
    parser.add_argument("--lanes", type=int, default=2 * (os.cpu_count() or 1), help="worker processes")
    parser.add_argument("--seed", type=int, help="of all chance; another one by default")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--keep", action="store_true", help="keep the files, and say where they are")
    parser.add_argument("--lane", nargs=2, metavar=("FOLDER", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lane:
        asyncio.run(work(options.proofs[0], options.rounds, Path(options.lane[0]), options.lane[1]))
        return 0
    options.seed = options.seed or new_seed()
    found: dict[str, Counts] = {}
    for name in options.proofs or PROOFS:
        rounds = options.rounds or PROOFS[name][1] // (10 if options.tenth else 1)
        if not options.json:
            print(f"{name}: {rounds:,} rounds in {options.lanes} lanes, seed {options.seed} …", flush=True)
        found[name] = prove(name, rounds, options.lanes, options.seed, keep=options.keep)
    print(json.dumps({"seed": options.seed, **{name: asdict(found[name]) for name in found}}) if options.json
          else table(found))  # fmt: skip
    return 1 if any(counts.faults() for counts in found.values()) else 0


async def work(name: str, rounds: int, folder: Path, seed: str) -> None:
    """One lane."""
    lane = Lane(folder, seed)
    try:
        await PROOFS[name][0](lane, rounds)
    finally:
        await lane.close()


def new_seed() -> int:
    return random.SystemRandom().randrange(1, 1 << 32)


def prove(name: str, rounds: int, lanes: int, seed: int = 0, *, keep: bool = False) -> Counts:
    """Run one proof in so many lanes, and count what they wrote.

    A lane that fails counts as unclean, and its last words are among the notes.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"tailrace-soak-{name}-"))
    seed = seed or new_seed()
    began = time.monotonic()
    lanes = min(lanes, rounds)
    shares = [rounds // lanes + (lane < rounds % lanes) for lane in range(lanes)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.soak", name, "--rounds", str(share), "--lane", str(folder / f"lane{lane}"),
             f"{seed}/{lane}"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for lane, share in enumerate(shares)
    ]  # fmt: skip
    failed: list[str] = []
    for worker in workers:
        try:
            _, said = worker.communicate(timeout=max(1.0, began + LIMIT - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            _, said = worker.communicate()
            said += f"\nnot done within {LIMIT:g} s"
        if worker.returncode:
            failed.append(said[-3000:])
    counts = Counts()
    for lane in range(lanes):
        counts.add(recount(folder / f"lane{lane}"))
    counts.seconds = time.monotonic() - began
    if failed:
        counts.notes.extend(failed)
        counts.unclean += len(failed)
    if keep or counts.faults():
        counts.notes.append(f"the files are in {folder}; seed {seed}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def table(found: dict[str, Counts]) -> str:
    """For people: a row a count, a column a proof."""
    width = max(map(len, COLUMNS)) + 2
    lines = ["", " " * width + "".join(f"{name:>12}" for name in found)]
    for column in COLUMNS:
        cells = "".join(f"{getattr(counts, column):>12,}" for counts in found.values())
        lines.append(f"{column.replace('_', ' '):<{width}}{cells}")
    lines.append(f"{'seconds':<{width}}" + "".join(f"{counts.seconds:>12.1f}" for counts in found.values()))
    for name, counts in found.items():
        lines += ["", f"{name}: {'; '.join(counts.faults()) or 'as promised'}"]
        lines += [f"  {note}" for note in counts.notes]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
