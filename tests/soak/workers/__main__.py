"""The command: prints what was counted; exit code 1 for a fault."""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path

from tests.soak.workers.clients import DIED, SAFE
from tests.soak.workers.counting import CrowdCounts
from tests.soak.workers.crowd import LEASE, Crowd
from tests.soak.workers.faults import FAULTS
from tests.soak.workers.rounds import STORM, prove
from tests.soak.workers.takeovers import late, told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.workers", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", choices=FAULTS, default=list(FAULTS), help="the faults, in turn")
    parser.add_argument("--storm", type=int, default=STORM, help="sessions of a storm")
    parser.add_argument("--seed", type=int, default=0, help="of all chance; another one by default")
    options = parser.parse_args()
    seed = options.seed or random.SystemRandom().randrange(1, 1 << 32)
    kinds = [options.kinds[number % len(options.kinds)] for number in range(options.rounds)]
    folder = Path(tempfile.mkdtemp(prefix="tailrace-soak-workers-"))
    print(f"{options.workers} workers, {options.rounds} rounds, seed {seed}, files in {folder}", flush=True)
    counts, crowd = asyncio.run(prove(folder, options.workers, kinds, seed, size=options.storm))
    print("\n".join(table(counts, crowd)))
    faults = [*counts.faults(), *failures(crowd), *late(crowd.takeovers, LEASE)]
    for note in [*counts.notes, *faults]:
        print(f"  {note}")
    return 1 if faults else 0


def table(counts: CrowdCounts, crowd: Crowd) -> list[str]:
    """For people."""
    seen = crowd.seen
    lines = [
        f"calls: accepted {counts.accepted:,}, executed {counts.executed:,}, delivered {counts.delivered:,}, withdrawn "
        f"{counts.withdrawn:,}, lost {counts.lost}, doubled {counts.doubled}, refused {counts.refused}, interrupted "
        f"{counts.interrupted} of {counts.in_flight:,} in flight",
        f"streams: cut {seen['cuts']:,}, resumed {seen['resumes']:,}, gaps {seen['gaps']}; turned away and asked again "
        f"{seen['turned away']:,}; tasks polled {seen['polls']:,} times",
        f"sessions of storms: opened {seen['sessions opened']:,}, ended {seen['sessions ended']:,}, openings cut off "
        f"{seen['openings cut off']}; left behind at the end: 0; official clients that died {seen[DIED]}",
        f"hooks: greeted {counts.opened:,}, farewell {counts.closed:,}, alive at kills {counts.alive}, unpaired "
        f"{counts.unpaired}; process lives {counts.lives}; stored and never told of {counts.unheard}",
        f"published {counts.published:,} ({counts.again} of them again); spawned {counts.spawned:,}, dropped by kills "
        f"{counts.dropped}",
    ]
    for name, said in crowd.clients.items():
        why = Counter(_shape(one) for one in said if one)
        lines.append(f"{name}: calls {len(said):,}, failed {why.total()}")
        lines += [f"    {times} x {what}" for what, times in why.most_common(5)]
    for kind, times in crowd.failovers.items():
        each = ", ".join(f"{seconds:.1f}" for seconds in times)
        lines.append(f"{kind}: all sessions usable again after {each} s (lease {LEASE:g} s)")
    lines += told(crowd.takeovers, LEASE)
    lines += [f"log: {times} x {what}" for what, times in counts.said.most_common()]
    return [*lines, f"{counts.seconds:.0f} s"]


def failures(crowd: Crowd) -> list[str]:
    """Calls that may not fail, and did."""
    return [f"{name}: {one}" for name in SAFE for one in crowd.clients.get(name, ()) if one]


def _shape(said: str) -> str:
    return said.partition(" ")[2][:160]


if __name__ == "__main__":
    raise SystemExit(main())
