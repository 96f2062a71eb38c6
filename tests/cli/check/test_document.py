"""The page about the check names every trial as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.cli.check.model import Trial
from tailrace.cli.check.trials import TRIALS

PAGE = (Path(__file__).parents[3] / "docs/check.md").read_text()


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_the_page_says_what_a_trial_asks_and_why(trial: Trial) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{trial.name}`<br>"))
    assert trial.asks in row
    assert trial.basis in row
    assert all(word in row for word in (*(way.value for way in trial.ways), *trial.needs))


def test_the_page_names_no_other_trial() -> None:
    table = PAGE.partition("## The trials")[2].partition("\n## ")[0]
    assert table.count("\n| `") == len(TRIALS)
