"""`python -m tests.mutation [PATTERN ...] [--jobs N] [--floor PERCENT]`: what small faults in `core` its tests miss.

A comparison that is turned, an argument that is dropped, a 1 that is a 2, a name that is None: each is planted alone,
and `tests/core` is run on it. PATTERN names some of them, as mutmut does: `tailrace.core.log*`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from tests.mutation.measure import Module, MutationFailed, measure, score

ROOT = Path(__file__).parents[2]
WHERE = Path("build/mutation")


def lay_out(folder: Path) -> None:
    """A copy of what is needed, so that nothing is written into the tree that people work in."""
    shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for part in ("src/tailrace", "tests/core"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    for part in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / part, folder / part)


def report(modules: list[Module]) -> str:
    lines = [f"{'module':<34} {'faults':>7} {'killed':>7} {'timed out':>10} {'survived':>9} {'score':>7}"]
    whole = Module("all of them")
    for module in modules:
        whole.fates.update(module.fates)
    for module in [*modules, whole]:
        missed = module.planted - module.noticed
        lines.append(
            f"{module.path:<34} {module.planted:>7,} {module.fates['killed']:>7,} {module.fates['timed out']:>10,}"
            f" {missed:>9,} {score([module]):>5.1f} %"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PATTERN", help="default: every fault in src/tailrace/core")
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time (default 1)")
    parser.add_argument("--floor", type=float, default=80.0, help="percent; a lower score is a failure (default 80)")
    options = parser.parse_args()
    folder = ROOT / WHERE
    lay_out(folder)
    begun = time.monotonic()
    try:
        modules = measure(folder, jobs=options.jobs, names=options.names)
    except MutationFailed as error:
        print(f"error: mutmut came to no end\n{error}", file=sys.stderr)
        return 2
    print(report(modules))
    survivors = [
        f"{module.path}: {function}\n{change}\n" for module in modules for function, change in module.survivors
    ]
    (folder / "survivors.txt").write_text("\n".join(survivors))
    print(f"{time.monotonic() - begun:.0f} s; each survivor with its change: {WHERE}/survivors.txt")
    return 0 if score(modules) >= options.floor else 1


if __name__ == "__main__":
    sys.exit(main())
