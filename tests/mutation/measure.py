"""What becomes of the small faults that mutmut plants in sources: counted by module, survivors with their change.

mutmut plants, chooses the tests that reach a function, and runs them in forks; what it wrote beside its
copies is read here, so its version is locked exactly. What to mutate and to run is in the folder's `[tool.mutmut]`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Module", "MutationFailed", "measure", "score"]

FATES = {  # of the exit codes of mutmut 3.8; what is not listed here is "survived"
    1: "killed",
    3: "killed",
    24: "timed out",
    -24: "timed out",
    36: "timed out",
    152: "timed out",
    255: "timed out",
    -11: "killed",
    5: "no tests",
    33: "no tests",
}
NOTICED = ("killed", "timed out")


class MutationFailed(Exception):
    """mutmut did not come to an end: the tests fail without a fault, or something is missing."""


@dataclass
class Module:
    """One file: how many faults had which fate, and those that no test noticed."""

    path: str
    fates: Counter[str] = field(default_factory=Counter)
    survivors: list[tuple[str, str]] = field(default_factory=list)  # the function, the lines before and after

    @property
    def planted(self) -> int:
        return self.fates.total()

    @property
    def noticed(self) -> int:
        return sum(self.fates[fate] for fate in NOTICED)


def score(modules: Sequence[Module]) -> float:
    """Of all faults those that a test noticed, in percent; a fault that no test reaches counts as one that survived."""
    planted = sum(module.planted for module in modules)
    return 100 * sum(module.noticed for module in modules) / planted if planted else 0.0


def measure(folder: Path, *, jobs: int = 1, names: Sequence[str] = (), timeout: float = 3600) -> list[Module]:
    """Plant each fault in a copy of the sources below `folder` and run the tests that reach it.

    Args:
        folder: Has the sources, their tests and a `pyproject.toml` with `[tool.mutmut]`; `mutants/` is made in it.
        jobs: Processes at the same time.
        names: Patterns of mutmut's names for faults (``tailrace.core.log*``); none: all.
        timeout: Seconds for all of it.

    Raises:
        MutationFailed: With what mutmut printed.
    """
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs), *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    modules = [_read(folder, path) for path in sorted(folder.glob("mutants/**/*.py.meta"))]
    modules = [module for module in modules if module.planted]
    if done.returncode != 0 or not modules:
        raise MutationFailed(f"{done.stdout.rpartition(chr(13))[2][-4000:]}{done.stderr[-4000:]}")
    return modules


def _read(folder: Path, meta: Path) -> Module:
    module = Module(str(meta.relative_to(folder / "mutants")).removesuffix(".meta"))
    for name, code in json.loads(meta.read_text())["exit_code_by_key"].items():
        if code is None:
            continue  # not asked for
        fate = FATES.get(code, "survived")
        module.fates[fate] += 1
        if fate not in NOTICED:
            function = name.rpartition(".")[2].rpartition("__mutmut_")[0]
            module.survivors.append((function.lstrip("xǁ_").replace("ǁ", "."), _change(folder, name, module.path)))
    return module


def _change(folder: Path, name: str, path: str) -> str:
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # warns of what it deprecates, so only where it is used

    with contextlib.chdir(folder):
        lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in lines if line[:1] in ("+", "-"))
