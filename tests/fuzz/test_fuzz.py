"""Each fuzz target runs for a moment in every test run, and a fault that is planted is found."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Sequence

import pytest

from tests.fuzz.engine import Target, fuzz
from tests.fuzz.targets import TARGETS


@pytest.mark.may_block  # some targets run an event loop of their own
@pytest.mark.parametrize("name", list(TARGETS))
def test_a_moment_of_fuzzing_finds_nothing(name: str) -> None:
    target, seed = TARGETS[name](), 1 if os.environ.get("CI") else time.time_ns()  # there, what changed is to blame
    try:
        result = fuzz(target, 2.0, seed)
    finally:
        target.close()
    assert result.executions >= len(target.seeds)
    assert result.findings == [], seed


def test_a_fault_that_hides_is_found_and_made_short() -> None:
    class Hiding(Target):
        seeds: Sequence[bytes] = [b"some harmless text", b"and some more: begin"]
        tokens: Sequence[bytes] = [b"end"]

        def run(self, data: bytes) -> Hashable:
            assert b"begin" not in data or b"end" not in data
            return b"begin" in data, b"end" in data

    result = fuzz(Hiding(), 5.0, seed=1)
    ((data, error),) = result.findings
    assert b"begin" in data
    assert b"end" in data
    assert len(data) <= 8
    assert error.startswith("AssertionError")
