"""Every test of the listener runs on asyncio's own loop and on uvloop: they differ in what a transport does when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest

try:
    from uvloop import new_event_loop as new_uvloop
except ImportError:
    new_uvloop = None


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if new_uvloop is not None:
        loops["uvloop"] = new_uvloop
    return loops


@pytest.fixture(autouse=True)
def no_error_is_logged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A client's fault is never logged as ours: no test here leaves an ERROR behind, unless it says so."""
    yield
    if "errors_logged" not in request.fixturenames:
        records = [*caplog.get_records("setup"), *caplog.get_records("call")]
        assert [record.getMessage() for record in records if record.levelname in ("ERROR", "CRITICAL")] == []


@pytest.fixture
def errors_logged(caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """For a test in which something of ours is at fault: how many ERROR records there are."""
    return lambda: sum(record.levelname == "ERROR" for record in caplog.records)
