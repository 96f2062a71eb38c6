"""Plants a fault in a copy of the sources, and runs named tests against the copy in a process of their own.

The text to replace has to be there exactly once: when the code moves on, the mutant fails loudly
rather than plant nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 300.0  # seconds for one run of named tests; they take a few


@dataclass(frozen=True)
class Mutant:
    """One fault, and the tests that catch it.

    Args:
        name: What is wrong.
        file: Below ``src/tailrace``.
        changes: What is replaced by what.
        caught_by: Test ids.
        saying: A pattern of what the failing test says, so that it fails for the fault and not for anything else.
    """

    name: str
    file: str
    changes: Sequence[tuple[str, str]] = field(repr=False)
    caught_by: Sequence[str]
    saying: str


def copy_sources(place: Path) -> Path:
    """A copy of ``src`` in `place`."""
    sources = place / "src"
    shutil.copytree(ROOT / "src", sources, ignore=shutil.ignore_patterns("__pycache__"))
    return sources


def plant(sources: Path, file: str, changes: Sequence[tuple[str, str]]) -> None:
    """Replace text in `file` of a copy.

    Raises:
        AssertionError: A text to replace is not there exactly once, or the result is no Python.
    """
    path = sources / "tailrace" / file
    text = path.read_text()
    for old, new in changes:
        count = text.count(old)
        assert count == 1, f"the text to replace is in {file} {count} times: {old!r}; the mutant has to be written anew"
        text = text.replace(old, new)
    compile(text, str(path), "exec")
    path.write_text(text)


def run_tests(sources: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run these tests with `tailrace` imported from `sources`."""
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "--no-header", "--tb=short"]
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_", "TAILRACE_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *tests],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(sources), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
