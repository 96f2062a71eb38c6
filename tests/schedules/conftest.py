"""Says at the end how many schedules and crash points were explored (where the tests run in one process)."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = [
        (name, value)
        for report in terminalreporter.getreports("passed")
        for name, value in getattr(report, "user_properties", ())
    ]
    counts = [value for name, value in told if name == "schedules"]
    if counts:
        terminalreporter.write_line(f"{sum(counts):,} schedules explored in {len(counts):,} races")
    crashes = sum(value for name, value in told if name == "crash points")
    if crashes:
        terminalreporter.write_line(f"{crashes:,} crash points explored over a store that loses what was not synced")
