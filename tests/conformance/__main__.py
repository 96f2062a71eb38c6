"""`make conformance`: MCP's requirement sets and Connect's runner, server and client each, with the scores.

The exit code is 1 if anything is not as expected. `python -m tests.conformance rpc` (or `mcp`) runs one of the two.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.rpc.runner import CLIENT, SERVER, Missing
from tests.conformance.rpc.runner import run_suite as run_rpc_suite
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
    asked = sys.argv[1:] or ["mcp", "rpc"]
    bad = "mcp" in asked and bool(mcp())
    bad |= "rpc" in asked and bool(rpc())
    return int(bad)


def rpc() -> int:
    """Connect's runner: every case of Connect, gRPC and gRPC-Web over HTTP/1.1 and HTTP/2."""
    bad = False
    for side, command in (("server", SERVER), ("client", CLIENT)):
        try:
            score = run_rpc_suite(side, command)
        except Missing as missing:
            print("error: Connect's runner cannot be had:", *missing.args, file=sys.stderr)
            return 1
        print(score.line(side) if score.ok else f"{score.failures}\n{score.line(side)}, NOT AS EXPECTED")
        bad |= not score.ok
    return bad


def mcp() -> int:
    """MCP's requirement sets."""
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
