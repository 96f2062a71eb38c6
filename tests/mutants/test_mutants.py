"""Each fault of `mutants.py`, planted again, is caught by its named test, which passes without it.

A new mutant is one row there. Only the named tests run, each in a process that imports the copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS
from tests.mutants.planting import LIMIT, PATIENCE, Ahead, Done, Mutant, Run, begun, copy_sources, plant

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * LIMIT)]
SHORT = 15.0  # seconds: many faults are that something never comes. On a busy machine it may not be: then once more


@pytest.fixture(scope="module")
def ahead(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ahead]:
    asking = [item for item in request.session.items if "ahead" in getattr(item, "fixturenames", ())]
    attempts = Ahead([item.callspec.params["mutant"] for item in asking], tmp_path_factory.mktemp("ahead"), SHORT)
    yield attempts
    attempts.close()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_a_mutant_is_caught(mutant: Mutant, ahead: Ahead, tmp_path: Path) -> None:
    done = ahead.of(mutant)
    if not fails_for_it(mutant, done):
        done = begun(mutant, tmp_path, PATIENCE).end()
    assert done.returncode == 1, f"not caught:\n{done.stdout[-3000:]}"
    assert fails_for_it(mutant, done), f"they fail for another reason:\n{done.stdout[-3000:]}"


def fails_for_it(mutant: Mutant, done: Done) -> bool:
    all_failed = re.search(rf"^{len(mutant.caught_by)} failed in ", done.stdout, re.MULTILINE)
    return done.returncode == 1 and all_failed is not None and re.search(mutant.saying, done.stdout) is not None


def test_without_a_mutant_the_named_tests_pass(tmp_path: Path) -> None:
    """From a copy as well, so that it is the fault that fails them and not the copying."""
    named = sorted({test for mutant in MUTANTS for test in mutant.caught_by})
    done = Run(copy_sources(tmp_path), named).end()
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(named)} passed" in done.stdout


def test_a_mutant_whose_text_is_gone_fails_loudly(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path)
    with pytest.raises(AssertionError, match="0 times: 'no such line'"):
        plant(sources, "core/log.py", [("no such line", "")])
    with pytest.raises(AssertionError, match="has to be written anew"):
        plant(sources, "core/log.py", [("import", "")])
