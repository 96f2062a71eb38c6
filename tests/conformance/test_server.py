"""The official MCP conformance suite against a real server: what fails is what is written down, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conformance.suite import EXPECTED, FIXTURE, FOLDER, SETS, Check, Results, compare, read_expected, run_suite
from tests.rigs.npm import npm_problem
from tests.rigs.server import running, tailrace_command

SCORED = {"2025-11-25": 30, "2026-07-28": 37}  # scenarios that the set demands


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("server", ["listener", "uvicorn"])
@pytest.mark.parametrize("requirements", SETS)
def test_only_what_is_written_down_fails(
    requirements: str, server: str, needs: Callable[[str, str], NoReturn], tmp_path: Path
) -> None:
    problem = npm_problem(FOLDER)
    if problem:
        needs("npm", problem)
    with running(tailrace_command(FIXTURE, "--server", server), tmp_path / "log") as process:
        results = run_suite(process.url, requirements, tmp_path / "results")
        assert process.records() == [], process.stderr_tail()
    assert compare(results, read_expected(EXPECTED.read_text())) == ([], []), results.table()
    assert [name for name in results.scenarios if not results.passed(name)] == []
    assert len(results.scored) == SCORED[requirements]


def test_every_expected_failure_has_a_reason() -> None:
    assert all(len(reason) > 10 for reason in read_expected(EXPECTED.read_text()).values())
    with pytest.raises(ValueError, match="reason"):
        read_expected("server:\n  - ping\n")
    with pytest.raises(ValueError, match="ping"):
        read_expected("server:\n  - ping  # comes later\n  - ping  # comes later\n")


def test_a_failure_that_nobody_expects_is_found_and_so_is_a_pass() -> None:
    checks = [Check("one", "SUCCESS", ""), Check("two", "FAILURE", "no"), Check("three", "WARNING", "hm")]
    results = Results({"ping": checks, "tools-list": [Check("list", "SUCCESS", "")]}, ["ping", "tools-list"])
    assert compare(results, []) == (["ping:two: FAILURE: no", "ping:three: WARNING: hm"], [])
    assert compare(results, ["ping"]) == ([], [])
    assert compare(results, ["ping:two", "elsewhere"]) == (["ping:three: WARNING: hm"], [])
    assert compare(results, ["ping", "ping:one", "tools-list"]) == ([], ["ping:one", "tools-list"])
    assert not results.passed("ping")
    assert not results.passed("absent")
