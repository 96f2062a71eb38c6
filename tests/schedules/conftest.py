"""Says at the end how many schedules were explored (where the tests run in one process)."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in getattr(report, "user_properties", ())
        if name == "schedules"
    ]
    if counts:
        terminalreporter.write_line(f"{sum(counts):,} schedules explored in {len(counts):,} races")
