"""`make conformance`: both requirement sets against the fixture, with the scores; exit code 1 if not as expected."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.suite import EXPECTED, FIXTURE, FOLDER, SETS, compare, read_expected, run_suite
from tests.rigs.npm import npm_problem
from tests.rigs.server import running, tailrace_command


def main() -> int:
    problem = npm_problem(FOLDER)
    if problem:
        print(f"error: the suite cannot be had: {problem}", file=sys.stderr)
        return 1
    expected = read_expected(EXPECTED.read_text())
    bad = False
    for requirements in SETS:
        with (
            tempfile.TemporaryDirectory() as folder,
            running(tailrace_command(FIXTURE), Path(folder) / "log") as server,
        ):
            results = run_suite(server.url, requirements, Path(folder) / "results")
        unexpected, stale = compare(results, expected)
        bad = bad or bool(unexpected or stale)
        print(f"\n{requirements}\n{results.table()}")
        print("\n".join([f"UNEXPECTED {one}" for one in unexpected] + [f"PASSES NOW {one}" for one in stale]))
    print(
        "not as expected"
        if bad
        else "all failures are expected: tests/conformance/expected-failures.yml has the reasons"
    )
    return bad


if __name__ == "__main__":
    sys.exit(main())
