"""`make conformance`: both requirement sets, server and client, with the scores; exit code 1 if not as expected."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.suite import (
    EXPECTED,
    FIXTURE,
    FOLDER,
    SETS,
    Results,
    compare,
    read_expected,
    run_client_suite,
    run_suite,
)
from tests.rigs.npm import npm_problem
from tests.rigs.server import running, tailrace_command


def main() -> int:
    problem = npm_problem(FOLDER)
    if problem:
        print(f"error: the suite cannot be had: {problem}", file=sys.stderr)
        return 1
    bad = False
    for requirements in SETS:
        with (
            tempfile.TemporaryDirectory() as folder,
            running(tailrace_command(FIXTURE), Path(folder) / "log") as server,
        ):
            results = run_suite(server.url, requirements, Path(folder) / "results")
        bad |= report("server", requirements, results)
    for requirements in SETS:
        with tempfile.TemporaryDirectory() as folder:
            results = run_client_suite(requirements, Path(folder))
        bad |= report("client", requirements, results)
    print(
        "not as expected"
        if bad
        else "all failures are expected: tests/conformance/expected-failures.yml has the reasons"
    )
    return bad


def report(subject: str, requirements: str, results: Results) -> bool:
    """Print what one run found; whether it is not as expected."""
    unexpected, stale = compare(results, read_expected(EXPECTED.read_text(), subject))
    print(f"\n{subject}, {requirements}\n{results.table()}")
    print("\n".join([f"UNEXPECTED {one}" for one in unexpected] + [f"PASSES NOW {one}" for one in stale]))
    return bool(unexpected or stale)


if __name__ == "__main__":
    sys.exit(main())
