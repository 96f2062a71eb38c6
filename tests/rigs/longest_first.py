"""The files that take longest begin first, so that none of them begins when all others are through.

`tests/seconds.json` says how long they take, roughly: it needs no care, and a file that is not in it counts as short.
A run of everything writes `build/seconds.json`, to be copied over it when the times have changed much.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

__all__ = ["pytest_collection_modifyitems", "pytest_runtest_logreport", "pytest_sessionfinish"]

KNOWN = Path(__file__).parents[1] / "seconds.json"
SEEN = Path(__file__).parents[2] / "build" / "seconds.json"
WORTH_KNOWING = 5.0  # seconds
EVERYTHING = 10_000  # tests

_seen: defaultdict[str, float] = defaultdict(float)
_tests: set[str] = set()


@pytest.hookimpl(trylast=True)  # `randomly` shuffles before
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    items.sort(key=lambda item: -known.get(item.nodeid.partition("::")[0], 0.0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seen[report.nodeid.partition("::")[0]] += report.duration
    _tests.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if len(_tests) < EVERYTHING or hasattr(session.config, "workerinput"):
        return
    longest = sorted(_seen.items(), key=lambda item: -item[1])
    SEEN.parent.mkdir(exist_ok=True)
    SEEN.write_text(json.dumps({file: round(took) for file, took in longest if took >= WORTH_KNOWING}, indent=1) + "\n")
